"""Security groups of VMs that reach each other by the wire of a provider network, and who cannot pass for a member there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tools.lab import VM, Host

from .cloud import Cloud, until
from .frames import MARK, seen, udp
from .test_provider import underlay, wire
from .test_security_groups import Groups, connects, reaches

SIX = pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
VIRTUAL, VIRTUAL_IP = "00:00:5e:00:01:07", "203.0.113.77"
PORTS = (8000, 8001)


@pytest.fixture(scope="module", params=["geneve", "vxlan"])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """Two hypervisors on the provider LAN, and one that is not."""
    with Cloud(3, provider=True, wired=(0, 1), mesh={"tunnel_type": request.param}) as running:
        yield running


class Lan(NamedTuple):
    """A client and a stranger on the first hypervisor, a server on the second, and a client behind a tunnel.

    Servers take some ports of clients only, and clients send to servers only.
    """

    cloud: Cloud
    network: dict[str, Any]
    clients: str
    servers: str
    client: VM
    stranger: VM
    server: VM
    tunnelled: VM
    host: Host


@pytest.fixture(scope="module", params=[None, 100], ids=["flat", "vlan"])
def lan(cloud: Cloud, request: pytest.FixtureRequest) -> Lan:
    groups = Groups(cloud)
    segment = {} if request.param is None else {"segmentation_id": request.param}
    network = cloud.network("203.0.113.0/24", "2001:db8::/64", physical_network="physnet1", **segment)
    host = cloud.lab.outside(f"host{request.param or 0}", "203.0.113.200/24", "2001:db8::200/64", vlan=request.param)
    clients, servers, strangers = groups.group(), groups.group(), groups.open("egress")
    for ethertype in ("IPv4", "IPv6"):
        groups.rule(clients, "egress", ethertype=ethertype, remote_group_id=servers)
        for protocol in ("tcp", "udp"):
            groups.rule(
                servers, ethertype=ethertype, protocol=protocol, port_range_min=PORTS[0], port_range_max=PORTS[-1],
                remote_group_id=clients,
            )  # fmt: skip

    def vm(n: int, hypervisor: int, group: str, **fields: Any) -> VM:
        return cloud.vm(network, hypervisor, f"203.0.113.{n}", f"2001:db8::{n}", security_groups=[group], **fields)

    pairs = [{"ip_address": VIRTUAL_IP, "mac_address": VIRTUAL}]
    client, stranger = vm(10, 0, clients, allowed_address_pairs=pairs), vm(11, 0, strangers)
    server, tunnelled = vm(12, 1, servers), unwired(cloud, network, "203.0.113.13", "2001:db8::13", clients)
    return Lan(cloud, network, clients, servers, client, stranger, server, tunnelled, host)


def unwired(cloud: Cloud, network: dict[str, Any], ip: str, ip6: str, group: str) -> VM:
    """A VM of the network on the hypervisor without a wire: it has the tunnel only, and its port says so."""
    port = cloud.port(network, ip, ip6, security_groups=[group])
    vm = cloud.lab.hypervisors[2].plug(port["id"], port["mac_address"], [(ip, 24), (ip6, 64)], mtu=1400)
    vm.port, vm.ip, vm.ip6 = port, ip, ip6
    until("it is there", lambda: cloud.api.get(f"/v1/ports/{port['id']}")["status"] == "DEGRADED")
    return vm


@SIX
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_members_reach_each_other_by_the_wire_and_nobody_else_does(lan: Lan, six: bool, protocol: str) -> None:
    with wire(lan.cloud, 0) as outside, underlay(lan.cloud, 0) as tunnels:
        assert connects(lan.client, lan.server, PORTS[0], six, protocol)
    assert [frame for frame in outside.frames if b"hello" in frame]
    assert not [frame for frame in tunnels.frames if b"hello" in frame]
    assert connects(lan.tunnelled, lan.server, PORTS[0], six, protocol), "through the tunnel as ever"
    assert not connects(lan.client, lan.server, 8002, six, protocol)
    assert not connects(lan.stranger, lan.server, PORTS[0], six, protocol)
    assert not connects(lan.server, lan.client, PORTS[0], six, protocol)


@SIX
def test_a_sender_reaches_members_by_the_wire_and_nobody_else(lan: Lan, six: bool) -> None:
    """Everything is allowed at the other ends."""
    groups = Groups(lan.cloud)
    group = groups.open("ingress")
    other = lan.cloud.vm(lan.network, 1, security_groups=[group])
    assert not reaches(lan.client, other, six)
    assert reaches(lan.stranger, other, six)
    lan.cloud.api.patch(f"/v1/ports/{other.port['id']}", {"security_groups": [group, lan.servers]})
    until("it is a server", lambda: reaches(lan.client, other, six))


def test_members_that_come_and_go_are_known_by_the_wire(lan: Lan) -> None:
    port = lan.stranger.port
    lan.cloud.api.patch(f"/v1/ports/{port['id']}", {"security_groups": [lan.clients]})
    until("it is one of them", lambda: connects(lan.stranger, lan.server, PORTS[1]))
    lan.cloud.api.patch(f"/v1/ports/{port['id']}", {"security_groups": port["security_groups"]})
    until("it is none of them", lambda: not connects(lan.stranger, lan.server, PORTS[1]))


@SIX
def test_what_is_not_a_members_is_not_taken_for_one(lan: Lan, six: bool) -> None:
    """Frames of a host outside and of VMs: only what has both addresses of a member passes."""
    ours, theirs, target, fake = (address(vm, six) for vm in (lan.client, lan.stranger, lan.server, None))
    macs = {vm: vm.port["mac_address"] for vm in (lan.client, lan.stranger, lan.server, lan.tunnelled)}
    server = macs[lan.server]

    def frame(mac: str, source: str, number: int) -> bytes:
        return udp(source, target, mac, server, sport=number, dport=PORTS[0])

    forged = [
        (lan.host, lan.host.mac, ours), (lan.host, macs[lan.client], fake), (lan.host, macs[lan.client], theirs),
        (lan.host, macs[lan.stranger], ours), (lan.host, macs[lan.client], target), (lan.host, VIRTUAL, ours),
        (lan.host, macs[lan.tunnelled], address(lan.tunnelled, six)),
        (lan.stranger, macs[lan.client], ours), (lan.stranger, macs[lan.stranger], ours),
        (lan.stranger, macs[lan.client], theirs), (lan.stranger, macs[lan.stranger], theirs),
    ]  # fmt: skip
    with lan.server.sniff() as sniffer:
        for number, (sender, mac, source) in enumerate(forged, 5000):
            sender.send_frame(frame(mac, source, number))
        lan.client.send_frame(frame(macs[lan.client], ours, 6000))
        sniffer.wait(lambda data: MARK in data)
    assert {int.from_bytes(each.data[at(six) : at(six) + 2], "big") for each in seen(sniffer) if each.marked} == {6000}


def test_a_further_address_is_a_members_with_the_mac_address_that_it_is_allowed_with(lan: Lan) -> None:
    server, own = lan.server.port["mac_address"], lan.client.port["mac_address"]
    with lan.server.sniff() as sniffer:
        for number, mac in ((5000, own), (6000, VIRTUAL)):
            lan.host.send_frame(udp(VIRTUAL_IP, lan.server.ip or "", mac, server, sport=number, dport=PORTS[0]))
        lan.client.send_frame(udp(VIRTUAL_IP, lan.server.ip or "", VIRTUAL, server, sport=6001, dport=PORTS[0]))
        sniffer.wait(lambda data: MARK in data and data[34:36] == (6001).to_bytes(2, "big"))
    assert {int.from_bytes(each.data[34:36], "big") for each in seen(sniffer) if each.marked} == {6000, 6001}, (
        "a host on the wire that sends with both addresses of a member passes for it, as docs/security-groups.md says"
    )


@SIX
def test_a_trace_tells_the_same(lan: Lan, six: bool) -> None:
    def verdict(sender: VM) -> str:
        asked = {
            "source": sender.port["id"], "destination": address(lan.server, six), "protocol": "tcp",
            "destination_port": PORTS[0], "reply": True,
        }  # fmt: skip
        return lan.cloud.api.post("/v1/traces", asked)["verdict"]

    assert verdict(lan.client) == verdict(lan.tunnelled) == "delivered"
    assert verdict(lan.stranger) == "dropped"


def address(vm: VM | None, six: bool) -> str:
    """A VM's address; without one, an address that nobody has."""
    if vm is None:
        return "2001:db8::99" if six else "203.0.113.99"
    return (vm.ip6 if six else vm.ip) or ""


def at(six: bool) -> int:
    """Where the UDP header of a frame begins."""
    return 54 if six else 34
