"""A VM can only speak as itself; what it forges is dropped in its own hypervisor, and counted."""

from __future__ import annotations

import re
import socket

import pytest

from pipelines import tables
from tools.lab import namespaces

from .cloud import Cloud, until
from .frames import BROADCAST, arp, geneve, nd, router_advertisement, seen, udp

STRANGER = "02:ab:cd:00:00:01"


@pytest.fixture(scope="module")
def cloud():
    with Cloud(2) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def pair(cloud):
    network = cloud.network("10.0.0.0/24", "fd00:1::/64")
    return network, cloud.vm(network, 0), cloud.vm(network, 1)


def received(sender, receiver, frame: bytes) -> bool:
    """Whether a frame arrives: sent thrice, followed by a ping that shows that the path works."""
    with receiver.sniff() as sniffer:
        for _ in range(3):
            sender.send_frame(frame)
        assert sender.ping(receiver.ip, count=2, interval=0.1).received == 2
    return frame in sniffer.frames


def test_what_the_port_owns_passes(pair) -> None:
    _, vm, other = pair
    own = vm.port["mac_address"]
    assert received(vm, other, udp(vm.ip, other.ip, own, other.port["mac_address"]))
    assert received(vm, other, udp(vm.ip6, other.ip6, own, other.port["mac_address"]))


FORGED = {
    "MAC address": lambda vm, to: udp(vm.ip, to.ip, STRANGER, to.port["mac_address"]),
    "IPv4 address": lambda vm, to: udp("10.0.0.200", to.ip, vm.port["mac_address"], to.port["mac_address"]),
    "IPv6 address": lambda vm, to: udp("fd00:1::bad", to.ip6, vm.port["mac_address"], to.port["mac_address"]),
    "link-local address": lambda vm, to: udp("fe80::bad", to.ip6, vm.port["mac_address"], to.port["mac_address"]),
    "ARP sender address": lambda vm, to: arp(
        2, vm.port["mac_address"], "10.0.0.200", to.port["mac_address"], to.ip,
        eth_src=vm.port["mac_address"], eth_dst=to.port["mac_address"],
    ),
    "ARP sender MAC": lambda vm, to: arp(
        2, STRANGER, vm.ip, to.port["mac_address"], to.ip, eth_src=vm.port["mac_address"], eth_dst=to.port["mac_address"]
    ),
    "ND target": lambda vm, to: nd(
        136, vm.ip6, to.ip6, "fd00:1::bad", vm.port["mac_address"],
        eth_src=vm.port["mac_address"], eth_dst=to.port["mac_address"],
    ),
    "ND link-layer address": lambda vm, to: nd(
        136, vm.ip6, to.ip6, vm.ip6, STRANGER, eth_src=vm.port["mac_address"], eth_dst=to.port["mac_address"]
    ),
    "ND solicitation source": lambda vm, to: nd(
        135, vm.ip6, "ff02::1:ff00:99", "fd00:1::99", STRANGER,
        eth_src=vm.port["mac_address"], eth_dst="33:33:ff:00:00:99",
    ),
    "router advertisement": lambda vm, to: router_advertisement(
        link_local(vm.port["mac_address"]), eth_src=vm.port["mac_address"]
    ),
}  # fmt: skip


def link_local(mac: str) -> str:
    a = [int(part, 16) for part in mac.split(":")]
    return f"fe80::{a[0] ^ 2:02x}{a[1]:02x}:{a[2]:02x}ff:fe{a[3]:02x}:{a[4]:02x}{a[5]:02x}"


@pytest.mark.parametrize("what", FORGED, ids=[name.replace(" ", "-") for name in FORGED])
def test_what_is_forged_is_dropped(pair, what: str) -> None:
    _, vm, other = pair
    assert not received(vm, other, FORGED[what](vm, other))


def test_forged_broadcast_is_dropped(pair) -> None:
    _, vm, other = pair
    assert not received(vm, other, udp("10.0.0.200", "255.255.255.255", vm.port["mac_address"], BROADCAST))


def test_drops_are_counted_where_they_happen(cloud, pair) -> None:
    _, vm, other = pair
    hypervisor = cloud.lab.hypervisors[0]

    def drops() -> int:
        [line] = [
            line
            for line in hypervisor.dump_flows("br-int", f"table={tables.PORT_SECURITY.number}")
            if f"priority={tables.MISS} " in line
        ]
        return int(re.search(r"n_packets=(\d+)", line).group(1))

    before = drops()
    for _ in range(5):
        vm.send_frame(udp("10.0.0.201", other.ip, vm.port["mac_address"], other.port["mac_address"]))
    until("5 drops counted", lambda: drops() >= before + 5)


def test_allowed_address_pairs_let_further_addresses_through_and_no_others(cloud) -> None:
    network = cloud.network("10.0.0.0/24")
    pairs = [{"ip_address": "172.16.5.0/24"}, {"ip_address": "10.0.0.240", "mac_address": "00:00:5e:00:01:07"}]
    vm, other = cloud.vm(network, 0, allowed_address_pairs=pairs), cloud.vm(network, 1)
    own, to = vm.port["mac_address"], other.port["mac_address"]
    assert received(vm, other, udp("172.16.5.9", other.ip, own, to))
    assert received(vm, other, udp("10.0.0.240", other.ip, "00:00:5e:00:01:07", to))
    assert not received(vm, other, udp("172.16.6.9", other.ip, own, to))
    assert not received(vm, other, udp("10.0.0.240", other.ip, own, to))
    assert received(other, vm, udp(other.ip, "10.0.0.240", to, "00:00:5e:00:01:07")), "frames to the shared MAC arrive"


def test_a_port_without_port_security_may_send_anything(cloud) -> None:
    network = cloud.network("10.0.0.0/24")
    vm = cloud.vm(network, 0, port_security_enabled=False)
    other = cloud.vm(network, 1, security_groups=[cloud.open_group()])
    assert received(vm, other, udp("198.51.100.7", other.ip, STRANGER, other.port["mac_address"]))


def test_a_port_that_is_down_neither_sends_nor_receives(cloud) -> None:
    network = cloud.network("10.0.0.0/24")
    vm, other = cloud.vm(network, 0), cloud.vm(network, 1)
    assert vm.ping(other.ip, count=2).received == 2
    cloud.api.patch(f"/v1/ports/{vm.port['id']}?wait=10", {"admin_state_up": False})
    assert vm.ping(other.ip, count=2, interval=0.1).received == 0
    with vm.sniff() as sniffer:
        other.send_frame(udp(other.ip, "255.255.255.255", other.port["mac_address"], BROADCAST))
    assert not [f for f in seen(sniffer) if f.marked]
    cloud.api.patch(f"/v1/ports/{vm.port['id']}?wait=10", {"admin_state_up": True})
    assert vm.ping(other.ip, count=2).received == 2


def udp_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def test_tunnel_packets_of_strangers_are_dropped(cloud, pair) -> None:
    """A host on the underlay that is no hypervisor sends a Geneve packet with a true VNI, identity and destination."""
    network, vm, other = pair
    vni = cloud.api.get(f"/v1/networks/{network['id']}")["vni"]
    inner = udp(vm.ip, other.ip, vm.port["mac_address"], other.port["mac_address"])
    packet = geneve(vni, vm.port["identity"], other.port["port_key"], inner)
    first = cloud.lab.hypervisors[0].tunnel_ip
    stranger = cloud.lab.underlay.host("stranger", first.rsplit(".", 1)[0] + ".99")
    to = (cloud.lab.hypervisors[1].tunnel_ip, 6081)
    with other.sniff() as sniffer, namespaces.inside(stranger.namespace, udp_socket) as sender:
        for _ in range(3):
            sender.sendto(packet, to)
        assert vm.ping(other.ip, count=2, interval=0.1).received == 2
    assert not [f for f in seen(sniffer) if f.marked]
    own = cloud.lab.hypervisors[0].namespace
    with other.sniff() as sniffer, namespaces.inside(own, udp_socket) as sender:
        sender.sendto(packet, to)
        until("a hypervisor's own gets in", lambda: [f for f in seen(sniffer) if f.marked])
