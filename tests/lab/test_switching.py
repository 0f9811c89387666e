"""VMs reach each other across hypervisors, and nobody else: real packets, every kind of tunnel."""

from __future__ import annotations

import pytest

from tools.lab import Sniffer

from .cloud import Cloud
from .frames import BROADCAST, MARK, seen, udp

TUNNELS = {
    "geneve": {"mesh": {}, "overhead": 66},
    "geneve over IPv6": {"mesh": {}, "ipv6_underlay": True, "overhead": 86},
    "geneve with jumbo frames": {"mesh": {"underlay_mtu": 9000}, "mtu": 9000, "overhead": 66},
    "vxlan": {"mesh": {"tunnel_type": "vxlan"}, "overhead": 50},
    "vxlan over IPv6": {"mesh": {"tunnel_type": "vxlan"}, "ipv6_underlay": True, "overhead": 70},
    "vxlan, another port": {
        "mesh": {"tunnel_type": "vxlan", "udp_port": 8472, "underlay_mtu": 9000},
        "mtu": 9000,
        "overhead": 50,
    },
}


@pytest.fixture(scope="module", params=TUNNELS, ids=[name.replace(" ", "-") for name in TUNNELS])
def cloud(request):
    options = dict(TUNNELS[request.param])
    overhead = options.pop("overhead")
    with Cloud(3, **options) as cloud:
        cloud.vm_mtu = options.get("mtu", 1500) - overhead
        yield cloud


@pytest.fixture(scope="module")
def trio(cloud):
    """One network with a VM on every hypervisor."""
    network = cloud.network("10.0.0.0/24", "fd00:1::/64")
    return network, [cloud.vm(network, n) for n in range(3)]


def test_every_vm_reaches_every_other_over_ipv4_and_ipv6(trio) -> None:
    _, vms = trio
    for vm in vms:
        for other in vms:
            if vm is not other:
                assert vm.ping(other.ip, count=2).received == 2, f"{vm.ip} -> {other.ip}"
                assert vm.ping(other.ip6, count=2).received == 2, f"{vm.ip6} -> {other.ip6}"


def test_vms_of_one_hypervisor_reach_each_other(cloud, trio) -> None:
    network, vms = trio
    neighbour = cloud.vm(network, 0)
    assert neighbour.ping(vms[0].ip, count=2).received == 2
    assert neighbour.ping(vms[0].ip6, count=2).received == 2


def test_the_networks_mtu_is_what_the_underlay_leaves_and_fits(cloud, trio) -> None:
    network, vms = trio
    shown = cloud.api.get(f"/v1/networks/{network['id']}")
    assert shown["mtu"] == cloud.vm_mtu
    assert vms[0].ping(vms[1].ip, count=2, size=cloud.vm_mtu - 28, df=True).received == 2


def test_the_same_addresses_in_another_network_never_meet(cloud, trio) -> None:
    _, vms = trio
    other = cloud.network("10.0.0.0/24", "fd00:1::/64")
    alone = cloud.vm(other, 0, vms[0].ip, vms[0].ip6)
    twin = cloud.vm(other, 1, "10.0.0.77", "fd00:1::77")
    assert alone.port["mac_address"] != vms[0].port["mac_address"]
    assert alone.ping(twin.ip, count=2).received == 2
    with vms[1].sniff() as sniffer:
        assert alone.ping(vms[1].ip, count=2, interval=0.1).received == 0
        assert vms[1].ping("10.0.0.77", count=2, interval=0.1).received == 0
    assert not [frame for frame in seen(sniffer) if alone.port["mac_address"] == frame.eth_src]


def test_arp_and_neighbour_discovery_are_answered_at_the_sender(trio) -> None:
    _, vms = trio
    vms[0].exec("ip neigh flush dev eth0")
    with vms[1].sniff() as second, vms[2].sniff() as third:
        assert vms[0].ping(vms[1].ip, count=1).received == 1
        assert vms[0].ping(vms[1].ip6, count=1).received == 1
    asks = [frame for frame in seen(second) if frame.is_arp_request or frame.is_neighbour_solicitation]
    asks += [frame for frame in seen(third) if frame.is_arp_request or frame.is_neighbour_solicitation]
    assert not [frame for frame in asks if frame.eth_src == vms[0].port["mac_address"]]


def test_unicast_reaches_its_receiver_only(trio) -> None:
    _, vms = trio
    with vms[2].sniff() as third:
        assert vms[0].ping(vms[1].ip, count=3, interval=0.05).received == 3
    mine = {vms[0].port["mac_address"], vms[1].port["mac_address"]}
    assert not [frame for frame in seen(third) if frame.eth_src in mine and frame.eth_dst in mine]


def test_an_unknown_destination_goes_nowhere(cloud, trio) -> None:
    _, vms = trio
    frame = udp(vms[0].ip, "10.0.0.250", vms[0].port["mac_address"], "02:ff:ff:ff:ff:01")
    with vms[1].sniff() as one, vms[2].sniff() as two:
        for _ in range(5):
            vms[0].send_frame(frame)
        assert vms[0].ping(vms[1].ip, count=1).received == 1
    assert not [f for f in (*seen(one), *seen(two)) if f.eth_dst == "02:ff:ff:ff:ff:01"]


def test_broadcast_leaves_once_for_each_other_hypervisor(cloud, trio) -> None:
    network, vms = trio
    more = [cloud.vm(network, 1), cloud.vm(network, 1)]
    frame = udp(vms[0].ip, "255.255.255.255", vms[0].port["mac_address"], BROADCAST)
    hypervisor = cloud.lab.hypervisors[0]
    receivers = [vms[1], vms[2], *more]
    with Sniffer(hypervisor.namespace, "eth0", outgoing=True) as wire, vms[0].sniff() as own:
        sniffers = [vm.sniff() for vm in receivers]
        vms[0].send_frame(frame)
        for sniffer in sniffers:
            sniffer.wait(lambda data: MARK in data)
        assert vms[0].ping(vms[1].ip, count=1).received == 1
        for sniffer in sniffers:
            sniffer.stop()
    for sniffer in sniffers:
        assert len([f for f in seen(sniffer) if f.marked]) == 1
    assert len([f for f in seen(wire) if f.marked]) == 2
    assert not [f for f in seen(own) if f.marked]
