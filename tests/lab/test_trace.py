"""``novanet trace`` says of a packet what becomes of a real one: pings and TCP connections, traced before they are sent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab.cloud import Cloud, until
from tests.lab.outside import PHYSICAL, WORLD, WORLD6, World, built, reaches
from tools.lab import VM

ARRIVES = ("delivered", "answered", "left")
VERSIONS = pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module", params=["geneve", "vxlan"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with Cloud(3, mesh={"tunnel_type": request.param}, provider=PHYSICAL) as cloud:
        yield built(cloud)


def trace(world: World, vm: VM, destination: str, **more: Any) -> dict[str, Any]:
    """A trace over REST."""
    asked = {"source": vm.port["id"], "destination": destination, **more}
    return world.cloud.api.post("/v1/traces", asked)


def names(found: dict[str, Any], leg: str = "request") -> list[str]:
    """The hypervisors that the packet came to."""
    return [hop["hypervisor"]["name"] for each in found["legs"] if each["name"] == leg for hop in each["hops"]]


def agree(world: World, vm: VM, destination: str) -> dict[str, Any]:
    """A ping that gets through when the trace says so, and only then."""
    found = trace(world, vm, destination, reply=True)
    real = reaches(vm, destination)
    assert (found["verdict"] in ARRIVES) == real, (found["text"], destination)
    return found


@contextmanager
def listening(vm: VM, port: int) -> Iterator[None]:
    server = vm.popen(["socat", f"TCP4-LISTEN:{port},reuseaddr,fork", "EXEC:/bin/cat"])
    try:
        until("it listens", lambda: f":{port} " in vm.exec(["ss", "-ltn"]).stdout)
        yield
    finally:
        server.terminate()
        server.wait()


def connects(vm: VM, destination: str, port: int) -> bool:
    ask = ["timeout", "3", "socat", "-T", "1", "-", f"TCP4:{destination}:{port},connect-timeout=1"]
    done: subprocess.CompletedProcess[str] = vm.exec(ask, input="hello", check=False)
    return done.stdout == "hello"


@VERSIONS
def test_one_network_and_several(world: World, six: bool) -> None:
    other = world.cloud.network(f"10.2{int(six)}.0.0/24", f"fd2{int(six)}::/64")
    interface = world.cloud.api.post("/v1/ports", {"network_id": other["id"], "router_id": world.router["id"]})
    isolated = world.cloud.network("10.30.0.0/24", "fd30::/64")
    world.cloud.wait_active("ports", interface["id"])
    one, two = world.cloud.vm(world.network, 0), world.cloud.vm(world.network, 1)
    routed, apart = world.cloud.vm(other, 2), world.cloud.vm(isolated, 1)
    for vm in (two, routed):
        destination = vm.ip6 if six else vm.ip
        assert until("it is reached", lambda to=destination: reaches(one, to))
        found = agree(world, one, destination)
        assert found["verdict"] == "delivered"
        assert f"delivered to port {vm.port['id']} on hypervisor" in found["text"]
    assert names(agree(world, one, routed.ip6 if six else routed.ip)) == [
        world.cloud.lab.hypervisors[n].name for n in (0, 2)
    ]
    assert agree(world, one, world.network["subnets"][six]["gateway_ip"])["verdict"] == "answered"
    nowhere = agree(world, apart, one.ip6 if six else one.ip)
    assert nowhere["verdict"] not in ARRIVES, "another network without a router"
    nobody = agree(world, one, "fd21::99" if six else "10.20.0.99")
    assert nobody["verdict"] == "refused"
    assert agree(world, one, "fd10::99" if six else "10.10.0.99")["verdict"] == "dropped"


@VERSIONS
def test_the_outside(world: World, six: bool) -> None:
    vm = world.cloud.vm(world.network, world.order()[-1])
    target = WORLD6 if six else WORLD
    assert until("outside", lambda: reaches(vm, target))
    until("the next hop's address is known", lambda: trace(world, vm, target)["verdict"] != "held")
    found = agree(world, vm, target)
    assert [leg["verdict"] for leg in found["legs"]] == ["answered", "left", "delivered"]
    assert names(found)[-1] == sorted(each["name"] for each in world.cloud.hypervisors())[world.active()]
    floating = world.floating_ip(vm, six)["floating_ip_address"]
    assert until("outside reaches the VM", lambda: reaches(world.outside, floating))
    until("the next hop's address is known", lambda: trace(world, vm, target)["verdict"] != "held")
    found = agree(world, vm, target)
    assert names(found) == [world.cloud.lab.hypervisors[world.order()[-1]].name], "it leaves on its own hypervisor now"
    assert floating in str(found["legs"])
    other = world.cloud.vm(world.network, world.order()[0])
    assert until("VMs reach it", lambda: reaches(other, floating))
    assert f"delivered to port {vm.port['id']}" in agree(world, other, floating)["legs"][1]["text"]


def test_what_is_too_large(world: World) -> None:
    one, two = world.cloud.vm(world.network, 0), world.cloud.vm(world.network, 1)
    mtu = world.cloud.api.get(f"/v1/networks/{world.network['id']}")["mtu"]
    assert until("it is reached", lambda: reaches(one, two.ip))
    for size, fits in ((mtu, True), (mtu + 1, False)):
        found = trace(world, one, two.ip, size=size)
        assert (found["verdict"] == "delivered") == fits, found["text"]
    one.exec(["ip", "link", "set", "eth0", "mtu", "1600"])
    assert one.ping(two.ip, size=mtu - 28, df=True, count=2).received == 2
    assert one.ping(two.ip, size=mtu - 27, df=True, count=2).received == 0


def test_a_forged_address(world: World) -> None:
    one, two = world.cloud.vm(world.network, 0), world.cloud.vm(world.network, 1)
    assert until("it is reached", lambda: reaches(one, two.ip))
    found = trace(world, one, two.ip, source_ip="10.10.0.250")
    assert found["verdict"] == "dropped" and "source address is not the port's" in found["text"]
    one.exec(["ip", "address", "add", "10.10.0.250/24", "dev", "eth0"])
    assert one.exec(["ping", "-c", "2", "-W", "1", "-I", "10.10.0.250", two.ip], check=False).returncode != 0


def test_security_groups(world: World) -> None:
    """Allowed and denied by port, as real connections are; the rule is named."""
    post = world.cloud.api.post
    servers = post("/v1/security-groups", {"name": "servers"})
    clients = post("/v1/security-groups", {"name": "clients"})
    rule = {"security_group_id": servers["id"], "direction": "ingress", "protocol": "tcp"}
    peers = {"remote_group_id": clients["id"]}
    post("/v1/security-group-rules", {**rule, **peers, "name": "web", "port_range_min": 8080, "port_range_max": 8080})
    out = {"security_group_id": clients["id"], "direction": "egress", "name": "anywhere"}
    post("/v1/security-group-rules", out)
    server = world.cloud.vm(world.network, 1, security_groups=[servers["id"]])
    client = world.cloud.vm(world.network, 0, security_groups=[clients["id"]])
    stranger = world.cloud.vm(world.network, 0)
    with listening(server, 8080), listening(server, 9090):
        until("allowed", lambda: connects(client, server.ip, 8080))
        for vm in (client, stranger):
            for port in (8080, 9090):
                found = trace(world, vm, server.ip, protocol="tcp", destination_port=port, reply=True)
                assert (found["verdict"] == "delivered") == connects(vm, server.ip, port), found["text"]
    text = str(trace(world, client, server.ip, protocol="tcp", destination_port=8080)["legs"])
    assert "allowed by rule web (ingress IPv4 tcp 8080 from group clients) of group servers" in text
    denied = trace(world, client, server.ip, protocol="tcp", destination_port=9090)
    assert "no rule of the receiver's security groups allows it (servers)" in denied["text"]


def test_the_command(world: World) -> None:
    one, two = world.cloud.vm(world.network, 0), world.cloud.vm(world.network, 1)
    controller = world.cloud.controller
    environment = {"NOVANET_ENDPOINT": controller.url, "NOVANET_TOKEN": controller.token}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tools.cli.main", "trace", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)

    done = run(one.port["id"], two.ip, "tcp/80")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"delivered to port {two.port['id']} on hypervisor ")
    assert run(one.port["id"], "10.10.0.99").returncode == 8
