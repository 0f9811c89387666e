"""Packets that are too large for their way are answered with how large they may be: switched, routed, and outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.cloud import Cloud, until
from tests.lab.test_vxlan_interop import FOREIGN as KERNEL
from tests.lab.test_vxlan_interop import foreign_host
from tools.lab import VM, Host

SMALLER = 1300
"""Bytes: the MTU of a network that is smaller than the tunnels'."""
HEADERS = {4: 20 + 8, 6: 40 + 8}
"""Bytes of IP and ICMP in front of what ``ping -s`` counts."""


@pytest.fixture(
    scope="module",
    params=[("geneve", False), ("vxlan", False), ("geneve", True)],
    ids=["geneve", "vxlan", "geneve over IPv6"],
)
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    kind, six = request.param
    with Cloud(2, mesh={"tunnel_type": kind}, ipv6_underlay=six) as running:
        yield running


@pytest.fixture(scope="module")
def networks(cloud: Cloud) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two networks that a router joins; the second has a smaller MTU."""
    left, right = cloud.network("10.0.0.0/24", "fd00:a::/64"), cloud.network("10.0.1.0/24", "fd00:b::/64", mtu=SMALLER)
    cloud.router(left, right)
    return left, right


def oversized(cloud: Cloud, network: dict[str, Any], hypervisor: int) -> VM:
    """A VM with an MTU of 1500 bytes, as one has that never asked for the network's."""
    vm = cloud.vm(network, hypervisor, configure=False)
    vm.configure([(vm.ip, 24), (vm.ip6, 64)], [subnet["gateway_ip"] for subnet in network["subnets"]])
    assert vm.mtu() == 1500
    return vm


def carried(cloud: Cloud, network: dict[str, Any]) -> int:
    """The network's MTU, which is what the tunnels carry when it names none."""
    return int(cloud.api.get(f"/v1/networks/{network['id']}")["mtu"])


def largest(sender: Host, destination: str, mtu: int) -> None:
    """A packet of just this size gets through; one byte more is answered, and from then on the sender knows.

    The first reply may be the one from which the other end learns how large its packets may be.
    """
    headers = HEADERS[6 if ":" in destination else 4]
    assert sender.path_mtu(destination) is None
    assert sender.ping(destination, count=2, size=mtu - headers, df=True).lost_sequences in ((), (1,))
    assert sender.path_mtu(destination) is None
    assert sender.ping(destination, count=1, size=mtu + 1 - headers, df=True).received == 0
    assert sender.path_mtu(destination) == mtu
    assert sender.ping(destination, count=2, size=mtu + 1 - headers).lost_sequences in ((), (1,)), "now in fragments"


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_on_the_same_subnet_the_tunnels_mtu_is_told(cloud: Cloud, networks: Any, six: bool) -> None:
    network = networks[0]
    near, far = oversized(cloud, network, 0), oversized(cloud, network, 1)
    largest(near, far.ip6 if six else far.ip, carried(cloud, network))


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_what_stays_on_the_hypervisor_is_only_as_large_as_it_likes(cloud: Cloud, networks: Any, six: bool) -> None:
    one, other = oversized(cloud, networks[0], 0), oversized(cloud, networks[0], 0)
    to = other.ip6 if six else other.ip
    assert one.ping(to, count=2, size=1500 - HEADERS[6 if six else 4], df=True).received == 2
    assert one.path_mtu(to) is None


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_a_router_tells_the_mtu_of_the_network_behind_it(cloud: Cloud, networks: Any, six: bool) -> None:
    near = oversized(cloud, networks[0], 0)
    for hypervisor in (0, 1):
        vm = oversized(cloud, networks[1], hypervisor)
        largest(near, vm.ip6 if six else vm.ip, SMALLER)


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_a_router_tells_the_tunnels_mtu(cloud: Cloud, networks: Any, six: bool) -> None:
    near, far = oversized(cloud, networks[1], 0), oversized(cloud, networks[0], 1)
    largest(near, far.ip6 if six else far.ip, carried(cloud, networks[0]))


def test_tcp_gets_through_to_a_vm_that_was_never_told(cloud: Cloud, networks: Any) -> None:
    """Both ends announce segments for 1500 bytes, so nothing but the ICMP errors makes them smaller."""
    near, far = oversized(cloud, networks[0], 0), oversized(cloud, networks[0], 1)
    size = 200_000
    for address in (far.ip, far.ip6):
        program = (
            "import socket, sys\n"
            "server = socket.create_server((sys.argv[1], 9), family=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)\n"
            "print('ready', flush=True)\n"
            "connection, _ = server.accept()\n"
            "count = 0\n"
            "while data := connection.recv(65536): count += len(data)\n"
            "print(count, flush=True)\n"
        )
        receiver = far.popen(["python3", "-c", program, address], stdout=-1, text=True)
        assert receiver.stdout is not None and receiver.stdout.readline() == "ready\n"
        send = f"import socket; s = socket.create_connection(('{address}', 9)); s.sendall(bytes({size})); s.close()"
        near.exec(["python3", "-c", send], timeout=20)
        assert receiver.stdout.readline() == f"{size}\n"
        receiver.wait()
        assert near.path_mtu(address) == carried(cloud, networks[0])


def test_unreachable_things_are_named(cloud: Cloud, networks: Any) -> None:
    near = cloud.vm(networks[0], 0)
    gateway, gateway6 = (subnet["gateway_ip"] for subnet in networks[0]["subnets"])
    assert near.traceroute("192.0.2.1") == [gateway, f"{gateway} !N"]
    assert near.traceroute("2001:db8::1") == [gateway6, f"{gateway6} !N"]
    assert near.traceroute("10.0.1.250")[-1].endswith("!H")
    assert near.traceroute("fd00:b::250")[-1].endswith("!H")
    for address in (gateway, gateway6):
        assert near.traceroute(address) == [address], "its ports are unreachable"
        connect = f"import socket; socket.create_connection(('{address}', 22), timeout=5)"
        refused = near.exec(["python3", "-c", connect], check=False)
        assert "ConnectionRefusedError" in refused.stderr


# --- endpoints that are not NovaNet's ----------------------------------------------------------------------------


def test_a_vm_is_told_what_fits_to_a_foreign_endpoint() -> None:
    with Cloud(1, mesh={"tunnel_type": "vxlan", "external_vteps": [KERNEL]}) as cloud:
        network = cloud.network("10.0.0.0/24", "fd00:a::/64")
        vm = oversized(cloud, network, 0)
        vni = cloud.api.get(f"/v1/networks/{network['id']}")["vni"]
        host = foreign_host(cloud, vni, "", port=4789)
        host.exec("ip addr add fd00:a::250/64 dev vx0 nodad")
        host.exec(f"bridge fdb append 00:00:00:00:00:00 dev vx0 dst {cloud.lab.hypervisors[0].tunnel_ip}")
        for address in ("10.0.0.250", "fd00:a::250"):
            until("the host is there", lambda address=address: reaches(vm, address))
            largest(vm, address, carried(cloud, network))


# --- outside -----------------------------------------------------------------------------------------------------

PHYSICAL, WORLD, WORLD6 = "physnet1", "203.0.113.1", "2001:db8:ffff::1"
OUTSIDE_MTU = 1350
"""Bytes: the MTU of the network outside in one of the tests."""


class Outdoors:
    """A tenant's network behind a router with a gateway, and a host outside."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.external = cloud.network(
            "203.0.113.0/24", "2001:db8:ffff::/64", external=True, physical_network=PHYSICAL, mtu=OUTSIDE_MTU
        )
        self.network = cloud.network("10.0.0.0/24", "fd00:a::/64")
        self.router = cloud.router(self.network, self.external)
        self.host = cloud.lab.outside("world", f"{WORLD}/24", f"{WORLD6}/64")
        order = cloud.api.get(f"/v1/routers/{self.router['id']}")["gateway_order"]
        ids = [each["id"] for each in sorted(cloud.hypervisors(), key=lambda each: each["name"])]
        self.hypervisors = [ids.index(id) for id in order]
        """Numbers of the hypervisors, the gateway first."""

    def floating(self, vm: VM, version: int) -> str:
        subnet = next(each for each in self.external["subnets"] if each["ip_version"] == version)
        fields = {"floating_network_id": self.external["id"], "subnet_id": subnet["id"], "port_id": vm.port["id"]}
        made = self.cloud.api.post("/v1/floating-ips", fields)
        self.cloud.wait_active("floating-ips", made["id"])
        return str(made["floating_ip_address"])


@pytest.fixture(scope="module", params=["geneve", "vxlan"])
def outdoors(request: pytest.FixtureRequest) -> Iterator[Outdoors]:
    with Cloud(2, mesh={"tunnel_type": request.param}, provider=PHYSICAL) as cloud:
        cloud.groups = [cloud.open_group()]
        yield Outdoors(cloud)


def reaches(vm: Host, destination: str) -> bool:
    return vm.ping(destination, count=1).received == 1


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("away", [0, 1], ids=["on the gateway", "on another hypervisor"])
def test_a_vm_is_told_the_mtu_outside(outdoors: Outdoors, version: int, away: int) -> None:
    vm = oversized(outdoors.cloud, outdoors.network, outdoors.hypervisors[away])
    destination = WORLD if version == 4 else WORLD6
    until("the outside is there", lambda: reaches(vm, destination))
    largest(vm, destination, OUTSIDE_MTU)


@pytest.mark.parametrize("version", [4, 6])
def test_a_vm_with_a_floating_ip_is_told_the_mtu_outside(outdoors: Outdoors, version: int) -> None:
    vm = oversized(outdoors.cloud, outdoors.network, outdoors.hypervisors[1])
    address = outdoors.floating(vm, version)
    until("the outside reaches the VM", lambda: reaches(outdoors.host, address))
    largest(vm, WORLD if version == 4 else WORLD6, OUTSIDE_MTU)


@pytest.mark.parametrize("version", [4, 6])
def test_the_outside_is_told_the_mtu_behind_a_floating_ip(outdoors: Outdoors, version: int) -> None:
    inner = 1290
    small = outdoors.cloud.network(f"10.0.{version}.0/24", f"fd00:{version}::/64", mtu=inner)
    outdoors.cloud.api.post("/v1/ports", {"network_id": small["id"], "router_id": outdoors.router["id"]})
    vm = outdoors.cloud.vm(small, outdoors.hypervisors[1])
    address = outdoors.floating(vm, version)
    until("the outside reaches the VM", lambda: reaches(outdoors.host, address))
    largest(outdoors.host, address, inner)
