"""VMs on physical networks, flat and in VLANs: with hosts outside, and with each other over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tools.lab import VM, Host, Sniffer
from tools.lab.provider import NIC

from .cloud import Cloud, until
from .frames import BROADCAST, MARK, ethernet, seen, udp

SEGMENTS = {"flat": None, "red": 100, "blue": 200}
TAG = b"\x81\x00"


class Segment:
    """A provider network with a host outside, VMs on the two wired hypervisors and one on the third."""

    def __init__(self, cloud: Cloud, name: str, vlan: int | None) -> None:
        self.vlan = vlan
        self.host: Host = cloud.lab.outside(name, "203.0.113.200/24", "2001:db8::200/64", vlan=vlan)
        fields = {"physical_network": "physnet1", "segmentation_id": vlan}
        given = {name: value for name, value in fields.items() if value is not None}
        self.network = cloud.network("203.0.113.0/24", "2001:db8::/64", **given)
        self.vms: list[VM] = [self._vm(cloud, n, hypervisor) for n, hypervisor in enumerate((0, 1, 0))]

    def _vm(self, cloud: Cloud, n: int, hypervisor: int) -> VM:
        return cloud.vm(self.network, hypervisor, f"203.0.113.{10 + n}", f"2001:db8::{10 + n}")


@pytest.fixture(scope="module", params=[{}, {"tunnel_type": "vxlan"}], ids=["geneve", "vxlan"])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """Two hypervisors on the provider LAN, and one that is not."""
    with Cloud(3, provider=True, wired=(0, 1), mesh=request.param) as running:
        running.groups = [running.open_group()]
        yield running


@pytest.fixture(scope="module")
def segments(cloud: Cloud) -> dict[str, Segment]:
    return {name: Segment(cloud, name, vlan) for name, vlan in SEGMENTS.items()}


@pytest.fixture(params=SEGMENTS)
def segment(segments: dict[str, Segment], request: pytest.FixtureRequest) -> Segment:
    return segments[request.param]


def wire(cloud: Cloud, hypervisor: int) -> Sniffer:
    """What a hypervisor sends to the provider LAN, and gets from it."""
    return Sniffer(cloud.lab.hypervisors[hypervisor].namespace, NIC, outgoing=True)


def underlay(cloud: Cloud, hypervisor: int) -> Sniffer:
    """What passes through its tunnels."""
    return Sniffer(cloud.lab.hypervisors[hypervisor].namespace, "eth0", outgoing=True)


@pytest.mark.parametrize("address, source", [("203.0.113.200", "ip"), ("2001:db8::200", "ip6")])
def test_vms_and_hosts_outside_reach_each_other(segment: Segment, address: str, source: str) -> None:
    for vm in segment.vms:
        assert vm.ping(address, count=3, interval=0.1).received == 3
        answered = segment.host.ping(getattr(vm, source), count=3, interval=0.1)
        assert (answered.received, answered.duplicates) == (3, 0)


def test_vms_of_two_hypervisors_use_the_wire(cloud: Cloud, segment: Segment) -> None:
    one, two, _ = segment.vms
    with wire(cloud, 0) as outside, underlay(cloud, 0) as tunnels:
        for address in (two.ip, two.ip6):
            answered = one.ping(address, count=3, interval=0.1)
            assert (answered.received, answered.duplicates) == (3, 0)
    both = [bytes.fromhex(vm.mac.replace(":", "")) for vm in (two, one)]
    assert len([data for data in outside.frames if data.startswith(b"".join(both))]) == 6
    assert not [data for data in tunnels.frames if b"".join(both) in data]


def test_vms_of_one_hypervisor_do_not_need_the_wire(cloud: Cloud, segment: Segment) -> None:
    one, _, third = segment.vms
    assert one.ping(third.ip, count=1).received == 1
    with wire(cloud, 0) as outside:
        assert one.ping(third.ip, count=3, interval=0.1).received == 3
    assert not [frame for frame in seen(outside) if {frame.eth_src, frame.eth_dst} == {one.mac, third.mac}]


def test_large_packets_fit_as_on_any_lan(cloud: Cloud, segment: Segment) -> None:
    assert cloud.api.get(f"/v1/networks/{segment.network['id']}")["mtu"] == 1500
    assert segment.vms[0].ping("203.0.113.200", count=2, size=1472, df=True).received == 2
    assert segment.vms[0].ping(segment.vms[1].ip, count=2, size=1472, df=True).received == 2


def test_vlans_are_apart(segments: dict[str, Segment]) -> None:
    """All three have the same addresses: who answers is told by the MAC address."""
    for name, segment in segments.items():
        vm = segment.vms[0]
        vm.exec("ip neigh flush dev eth0")
        others = [other for known, other in segments.items() if known != name]
        with ExitStack() as stack:
            sniffers = [stack.enter_context(other.host.sniff()) for other in others]
            sniffers += [stack.enter_context(other.vms[1].sniff()) for other in others]
            assert vm.ping("203.0.113.200", count=2, interval=0.1).received == 2
        assert segment.host.mac in vm.exec("ip neigh show 203.0.113.200").stdout
        met = [frame for sniffer in sniffers for frame in seen(sniffer) if frame.eth_src == vm.mac]
        assert all(frame.data[12:14] == TAG for frame in met), "a host without a VLAN may see tags, and ignores them"


def test_broadcast_reaches_everybody_once(cloud: Cloud, segment: Segment) -> None:
    one, two, third = segment.vms
    for sender, receivers in ((one, (two, third, segment.host)), (segment.host, (one, two, third))):
        frame = udp(one.ip if sender is one else "203.0.113.200", "255.255.255.255", sender.mac, BROADCAST)
        with ExitStack() as stack:
            sniffers = [stack.enter_context(receiver.sniff()) for receiver in receivers]
            wires = [stack.enter_context(wire(cloud, n)) for n in (0, 1)]
            sender.send_frame(frame)
            for sniffer in sniffers:
                sniffer.wait(lambda data: MARK in data)
            assert two.ping(third.ip, count=1).received == 1, "time for copies too many"
        assert [len([f for f in seen(sniffer) if f.marked]) for sniffer in sniffers] == [1, 1, 1]
        passed = [len([f for f in seen(nic) if f.marked]) for nic in wires]
        assert passed == [1, 1], "it leaves once, and what came from the wire does not go back"


def test_unknown_unicast_goes_to_the_wire(cloud: Cloud, segment: Segment) -> None:
    one, two, _ = segment.vms
    frame = udp(one.ip, "203.0.113.99", one.mac, "02:ff:ff:ff:ff:01")
    with wire(cloud, 0) as outside, two.sniff() as other:
        one.send_frame(frame)
        outside.wait(lambda data: MARK in data)
        assert one.ping(two.ip, count=1).received == 1
    (left,) = [f.data for f in seen(outside) if f.marked]
    assert (left[12:14] == TAG) == (segment.vlan is not None)
    assert not [f for f in seen(other) if f.marked], "it is not for this VM"


def test_a_vm_cannot_choose_a_vlan(cloud: Cloud, segments: dict[str, Segment]) -> None:
    vm, victim = segments["flat"].vms[0], segments["red"]
    plain = udp(vm.ip, "203.0.113.200", vm.mac, BROADCAST)
    tagged = ethernet(vm.mac, BROADCAST, 0x8100, (100).to_bytes(2, "big") + plain[12:])
    with wire(cloud, 0) as outside, victim.host.sniff() as host, victim.vms[1].sniff() as other:
        vm.send_frame(tagged)
        assert vm.ping("203.0.113.200", count=2, interval=0.1).received == 2
    for sniffer in (outside, host, other):
        assert not [f for f in seen(sniffer) if f.marked]


def test_a_vms_own_frames_do_not_come_back(segment: Segment) -> None:
    """A loop outside, or somebody who pretends to be the VM."""
    one, _, third = segment.vms
    with third.sniff() as here:
        segment.host.send_frame(udp(one.ip, "255.255.255.255", one.mac, BROADCAST))
        segment.host.send_frame(udp("203.0.113.200", "255.255.255.255", segment.host.mac, BROADCAST))
        here.wait(lambda data: MARK in data)
    assert [f.eth_src for f in seen(here) if f.marked] == [segment.host.mac]


def test_a_vm_without_a_wire_reaches_the_other_vms_and_its_status_says_what_is_missing(
    cloud: Cloud, segment: Segment
) -> None:
    port = cloud.port(segment.network, "203.0.113.50", "2001:db8::50")
    lone = cloud.lab.boot(cloud.controller, cloud.lab.hypervisors[2], port["id"])
    try:
        shown = until("DEGRADED", lambda: state(cloud, "ports", port["id"], "DEGRADED"))
        assert any("hv3" in text and "no bridge mapping" in text for text in shown["status_reason"]), shown
        for vm in segment.vms:
            assert until("reached", lambda vm=vm: lone.ping(vm.ip, count=1).received, timeout=5)
            answered = vm.ping("203.0.113.50", count=3, interval=0.1)
            assert (answered.received, answered.duplicates) == (3, 0)
        frame = udp(segment.vms[0].ip, "255.255.255.255", segment.vms[0].mac, BROADCAST)
        with lone.sniff() as far, segment.vms[1].sniff() as near, segment.host.sniff() as outside:
            segment.vms[0].send_frame(frame)
            for sniffer in (far, near, outside):
                sniffer.wait(lambda data: MARK in data)
            assert segment.vms[0].ping("203.0.113.50", count=1).received == 1, "time for copies too many"
        assert [len([f for f in seen(sniffer) if f.marked]) for sniffer in (far, near, outside)] == [1, 1, 1]
        assert segment.host.ping("203.0.113.50", count=2, interval=0.1).received == 0
    finally:
        cloud.lab.hypervisors[2].unplug(port["id"])
        cloud.api.delete(f"/v1/ports/{port['id']}")


def test_a_mapping_that_goes_and_comes_back(cloud: Cloud, segments: dict[str, Segment]) -> None:
    segment = segments["red"]
    one, two, _ = segment.vms
    hypervisor = next(h for h in cloud.hypervisors() if h["name"] == "hv2")
    path = f"/v1/hypervisors/{hypervisor['id']}"
    cloud.api.patch(path, {"bridge_mappings": []})
    shown = until("DEGRADED", lambda: state(cloud, "ports", two.port["id"], "DEGRADED"))
    assert any("hv2" in text and "no bridge mapping" in text for text in shown["status_reason"]), shown
    assert until("no outside", lambda: not two.ping("203.0.113.200", count=1, timeout=0.3).received)
    assert until("tunnel instead", lambda: two.ping(one.ip, count=1).received)
    assert "nn-" not in cloud.lab.hypervisors[1].vsctl("list-ports", "br-ex")

    cloud.api.patch(path, {"bridge_mappings": [{"physical_network": "physnet1", "bridge": "br-none"}]})
    shown = until("told", lambda: state(cloud, "hypervisors", hypervisor["id"], "DEGRADED"))
    assert any("bridge br-none" in text and "missing" in text for text in shown["status_reason"]), shown

    cloud.api.patch(path, {"bridge_mappings": hypervisor["bridge_mappings"]})
    for collection, id in (("ports", two.port["id"]), ("hypervisors", hypervisor["id"])):
        cloud.wait_active(collection, id)
    assert until("outside again", lambda: two.ping("203.0.113.200", count=1).received)
    answered = two.ping(one.ip, count=5, interval=0.1)
    assert (answered.received, answered.duplicates) == (5, 0)


def state(cloud: Cloud, collection: str, id: str, status: str) -> dict[str, Any] | None:
    """The object once it has this status."""
    shown: dict[str, Any] = cloud.api.get(f"/v1/{collection}/{id}")
    return shown if shown["status"] == status else None
