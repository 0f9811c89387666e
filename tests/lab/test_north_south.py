"""The way outside: SNAT, floating IPs, port forwardings, and gateways that die, with real packets on a provider network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.lab.cloud import Cloud, until
from tools.lab import VM

PHYSICAL = "physnet1"


class World(NamedTuple):
    """Three hypervisors on a provider network with an outside host, and a tenant's network behind a router."""

    cloud: Cloud
    external: dict[str, Any]
    network: dict[str, Any]
    router: dict[str, Any]
    outside: Any

    @property
    def gateway(self) -> dict[str, Any]:
        """The router's port outside."""
        return self.cloud.api.get(f"/v1/ports?network_id={self.external['id']}&router_id={self.router['id']}")["items"][
            0
        ]

    def order(self) -> list[int]:
        """Numbers of the hypervisors that may be the gateway, best first."""
        names = self.cloud.api.get(f"/v1/routers/{self.router['id']}")["gateway_order"]
        ids = [hypervisor["id"] for hypervisor in sorted(self.cloud.hypervisors(), key=lambda each: each["name"])]
        return [ids.index(name) for name in names]


def address(port: dict[str, Any], six: bool = False) -> str:
    return next(fixed["ip_address"] for fixed in port["fixed_ips"] if (":" in fixed["ip_address"]) == six)


@pytest.fixture(scope="module", params=["geneve", "vxlan"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with Cloud(3, mesh={"tunnel_type": request.param}, provider=PHYSICAL) as cloud:
        yield built(cloud)


def built(cloud: Cloud) -> World:
    external = cloud.network("203.0.113.0/24", "2001:db8:ffff::/64", external=True, physical_network=PHYSICAL)
    network = cloud.network("10.10.0.0/24", "fd10::/64")
    router = cloud.router(network, external)
    outside = cloud.lab.outside("world", "203.0.113.1/24", "2001:db8:ffff::1/64")
    return World(cloud, external, network, router, outside)


def reaches(vm: VM, destination: str) -> bool:
    return vm.ping(destination, count=2).lost == 0


@pytest.mark.parametrize("hypervisor", [0, 1, 2])
def test_vms_reach_the_outside_by_the_gateways_address(world: World, hypervisor: int) -> None:
    vm = world.cloud.vm(world.network, hypervisor)
    for six in (False, True):
        target = "2001:db8:ffff::1" if six else "203.0.113.1"
        assert until(f"{vm} reaches {target}", lambda target=target: reaches(vm, target))
        sniffer = world.outside.sniff()
        assert vm.ping(target).lost == 0
        source = source_of(sniffer.stop(), six)
        assert source == {address(world.gateway, six)}


def source_of(frames: list[bytes], six: bool) -> set[str]:
    """The source addresses of echo requests."""
    from ipaddress import ip_address

    found = set()
    for frame in frames:
        if not six and frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 8:
            found.add(str(ip_address(frame[26:30])))
        if six and frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 128:
            found.add(str(ip_address(frame[22:38])))
    return found


def test_the_outside_pings_the_router_and_gets_no_further(world: World) -> None:
    vm = world.cloud.vm(world.network, 0)
    assert until("router answers", lambda: reaches(world.outside, address(world.gateway)))
    assert until("router answers", lambda: reaches(world.outside, address(world.gateway, six=True)))
    world.outside.exec(["ip", "route", "replace", "10.10.0.0/24", "via", address(world.gateway)])
    sniffer = vm.sniff(lambda frame: frame[12:14] == b"\x08\x00")
    replies = world.outside.ping(vm.ip, count=3)
    assert replies.received in (0, 3)  # routed in, or not at all: never half
    sniffer.stop()


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_a_floating_ip_is_the_vm_outside(world: World, six: bool) -> None:
    vm = world.cloud.vm(world.network, world.order()[-1])
    subnet = next(subnet for subnet in world.external["subnets"] if (subnet["ip_version"] == 6) == six)
    floating = world.cloud.api.post(
        "/v1/floating-ips",
        {"floating_network_id": world.external["id"], "subnet_id": subnet["id"], "port_id": vm.port["id"]},
    )
    text = floating["floating_ip_address"]
    assert until("outside reaches the VM", lambda: reaches(world.outside, text))
    sniffer = world.outside.sniff()
    assert vm.ping("2001:db8:ffff::1" if six else "203.0.113.1").lost == 0
    assert source_of(sniffer.stop(), six) == {text}
    other = world.cloud.vm(world.network, world.order()[0])
    assert until("another VM reaches it", lambda: reaches(other, text))
    assert until("itself reaches it", lambda: reaches(vm, text))
    world.cloud.api.patch(f"/v1/floating-ips/{floating['id']}", {"port_id": None})
    assert until("detached", lambda: world.outside.ping(text, count=1).received == 0)
    world.cloud.api.delete(f"/v1/floating-ips/{floating['id']}")


def test_two_floating_ips_on_one_hypervisor_reach_each_other(world: World) -> None:
    vms = [world.cloud.vm(world.network, 1) for _ in range(2)]
    floating = [
        world.cloud.api.post(
            "/v1/floating-ips", {"floating_network_id": world.external["id"], "port_id": vm.port["id"]}
        )["floating_ip_address"]
        for vm in vms
    ]
    assert until("one reaches the other", lambda: reaches(vms[0], floating[1]))
    assert until("and back", lambda: reaches(vms[1], floating[0]))


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_forwarded_port_leads_to_the_vm(world: World, protocol: str) -> None:
    vm = world.cloud.vm(world.network, 2)
    floating = world.cloud.api.post("/v1/floating-ips", {"floating_network_id": world.external["id"]})
    world.cloud.api.post(
        "/v1/port-forwardings",
        {
            "floating_ip_id": floating["id"], "protocol": protocol, "external_port": 2222,
            "internal_port_id": vm.port["id"], "internal_port": 22,
        },
    )  # fmt: skip
    listen = f"{protocol.upper()}4-LISTEN:22,reuseaddr,fork" if protocol == "tcp" else "UDP4-RECVFROM:22,fork"
    server = vm.popen(["socat", listen, "EXEC:/bin/cat"])
    try:
        ask = f"{protocol.upper()}4:{floating['floating_ip_address']}:2222"
        said = until(
            "the forwarded port answers",
            lambda: (
                world.outside.exec(["timeout", "3", "socat", "-T", "1", "-", ask], input="hello", check=False).stdout
            ),
        )
        assert said == "hello"
    finally:
        server.terminate()
        server.wait()


def test_overlapping_tenants_have_their_own_ways_out(world: World) -> None:
    other_network = world.cloud.network("10.10.0.0/24")
    other = world.cloud.router(other_network, world.external)
    mine, theirs = world.cloud.vm(world.network, 0), world.cloud.vm(other_network, 0)
    for vm in (mine, theirs):
        assert until("outside", lambda vm=vm: reaches(vm, "203.0.113.1"))
    sniffer = world.outside.sniff()
    assert (mine.ping("203.0.113.1").lost, theirs.ping("203.0.113.1").lost) == (0, 0)
    outer = address(next(port for port in other["interfaces"] if port["network_id"] == world.external["id"]))
    assert source_of(sniffer.stop(), six=False) == {address(world.gateway), outer}


@pytest.mark.parametrize("tunnel", ["geneve", "vxlan"])
def test_gateway_killed_under_traffic(tunnel: str) -> None:
    """SNAT resumes within a second; a floating IP elsewhere does not lose a packet."""
    with Cloud(3, mesh={"tunnel_type": tunnel}, provider=PHYSICAL) as cloud:
        world = built(cloud)
        first, second, last = world.order()
        vm, with_floating = cloud.vm(world.network, last), cloud.vm(world.network, last)
        floating = cloud.api.post(
            "/v1/floating-ips", {"floating_network_id": world.external["id"], "port_id": with_floating.port["id"]}
        )["floating_ip_address"]
        assert until("SNAT", lambda: reaches(vm, "203.0.113.1"))
        assert until("floating IP", lambda: reaches(world.outside, floating))
        until("BFD is up", lambda: cloud.api.get(f"/v1/routers/{world.router['id']}")["gateway_watched"])
        snat, inward = vm.background_ping("203.0.113.1"), world.outside.background_ping(floating)
        time.sleep(1)
        cloud.lab.hypervisors[first].kill()
        time.sleep(4)
        lost, kept = snat.stop(), inward.stop()
        assert kept.lost == 0, kept
        assert 0 < lost.sent - lost.received <= 100, lost
        assert lost.sent - max(lost.lost_sequences) > 200  # it goes on to the end
        shown = cloud.api.get(f"/v1/routers/{world.router['id']}")
        names = {hypervisor["id"]: hypervisor["name"] for hypervisor in cloud.hypervisors()}
        ids = sorted(names, key=names.__getitem__)
        assert shown["active_gateway"] == ids[second]
