"""Multicast reaches those who joined and nobody else: VMs that join and leave with their kernel's IGMP and MLD."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any

import pytest

from tools.lab import VM, Host, Hypervisor, Sniffer
from tools.lab.provider import NIC

from .cloud import Cloud, until
from .frames import MARK, seen, udp

GROUPS = {4: "239.1.2.3", 6: "ff05::1:7"}
SENT = 20
JOIN = """
import ipaddress, socket, struct, sys
group, interface = sys.argv[1], socket.if_nametoindex("eth0")
six = ":" in group
joined = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
number = struct.pack("@I" if six else "4xI", interface)
request = ipaddress.ip_address(group).packed + number
level, join, leave = (
    (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.IPV6_LEAVE_GROUP) if six
    else (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.IP_DROP_MEMBERSHIP)
)
joined.setsockopt(level, join, request)
print("joined", flush=True)
sys.stdin.readline()
joined.setsockopt(level, leave, request)
print("left", flush=True)
"""


class Receiver:
    """A program in a host that joins a group, until it leaves."""

    def __init__(self, host: Host, group: str) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process: subprocess.Popen[str] = host.popen([sys.executable, "-c", JOIN, group], **pipes)
        assert self.process.stdout and self.process.stdout.readline() == "joined\n"

    def leave(self) -> None:
        if self.process.poll() is None:
            answer, _ = self.process.communicate("\n", timeout=10)
            assert answer == "left\n"


class Site:
    """A network with a sender, VMs that may join, and others, on three hypervisors."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.network = cloud.network("10.0.0.0/24", "fd00:1::/64")
        self.sender, self.near, self.bystander = (cloud.vm(self.network, 0) for _ in range(3))
        self.far, self.beside = (cloud.vm(self.network, 1) for _ in range(2))
        self.away = cloud.vm(self.network, 2)
        self.vms: list[VM] = [self.sender, self.near, self.bystander, self.far, self.beside, self.away]
        self.receivers: list[Receiver] = []

    def join(self, vm: VM, group: str) -> Receiver:
        self.receivers.append(Receiver(vm, group))
        return self.receivers[-1]

    def flow(self, hypervisor: int, group: str) -> str | None:
        """The flow for what VMs of a hypervisor send to a group; None where it is flooded."""
        field = "ipv6_dst" if ":" in group else "nw_dst"
        vni = self.cloud.api.get(f"/v1/networks/{self.network['id']}")["vni"]
        found = [
            flow
            for flow in self.cloud.lab.hypervisors[hypervisor].dump_flows()
            if f"{field}={group}" in flow and f"metadata={vni:#x}" in flow and "reg6=" in flow
        ]
        return found[0] if found else None

    def wait_copies(self, group: str, *copies: int) -> None:
        """Wait until each of the first hypervisors sends so many copies of what its VMs send."""
        for hypervisor, wanted in enumerate(copies):

            def reached(hypervisor: int = hypervisor, wanted: int = wanted) -> bool:
                flow = self.flow(hypervisor, group)
                return flow is not None and flow.count("resubmit") == wanted

            until(f"{wanted} copies for {group} on hypervisor {hypervisor}", reached)

    def send(self, group: str, receivers: list[VM], sender: VM | None = None) -> dict[VM, int]:
        """Send packets to a group; returns how many of them each VM got. Waits for the last one at the receivers."""
        return send(sender or self.sender, group, [vm for vm in self.vms if vm is not sender], receivers)

    def end(self) -> None:
        for receiver in self.receivers:
            receiver.leave()


def _about(group: str, data: bytes) -> bool:
    return MARK in data and ip_address(group).packed in data


def multicast_mac(group: str) -> str:
    raw = ip_address(group).packed
    return (b"\x33\x33" + raw[-4:] if ":" in group else bytes((1, 0, 0x5E, raw[1] & 0x7F, raw[2], raw[3]))).hex(":")


def frame(sender: Any, group: str, port: int) -> bytes:
    return udp(sender.ip6 if ":" in group else sender.ip, group, sender.mac, multicast_mac(group), dport=port)


def send(sender: Any, group: str, watched: list[Any], receivers: list[Any]) -> dict[Any, int]:
    wanted = ip_address(group).packed
    with ExitStack() as stack:
        sniffers = {
            host: stack.enter_context(host.sniff(lambda data: MARK in data and wanted in data)) for host in watched
        }
        sender.send_frame(*(frame(sender, group, 5000 + n) for n in range(SENT)))
        for host in receivers:
            until(f"{host} gets the packets", lambda host=host: len(sniffers[host].frames) >= SENT, timeout=5.0)
        if not receivers or len(receivers) < len(watched):  # nothing that is still under way is missed
            marker = "255.255.255.255"
            with ExitStack() as ends:
                last = [ends.enter_context(host.sniff(is_last)) for host in watched if host is not sender]
                sender.send_frame(udp(sender.ip, marker, sender.mac, "ff:ff:ff:ff:ff:ff", dport=LAST))
                for sniffer in last:
                    sniffer.wait()
    return {host: len(sniffer.frames) for host, sniffer in sniffers.items()}


LAST = 4999


def is_last(data: bytes) -> bool:
    return data[:6] == b"\xff" * 6 and data[36:38] == LAST.to_bytes(2, "big")


def is_report(data: bytes) -> bool:
    """IGMP, or MLD's report, version 2, behind its hop-by-hop header."""
    if data[12:14] == b"\x08\x00":
        return data[23] == 2
    return data[12:14] == b"\x86\xdd" and data[20] == 0 and data[54 + 8] == 143 if len(data) > 62 else False


@pytest.fixture(scope="module", params=["geneve", "vxlan"])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    with Cloud(3, mesh={"tunnel_type": request.param}) as running:
        yield running


@pytest.fixture
def site(cloud: Cloud) -> Iterator[Site]:
    made = Site(cloud)
    yield made
    made.end()


by_version = pytest.mark.parametrize("group", GROUPS.values(), ids=["igmp", "mld"])


@by_version
def test_receivers_get_each_packet_once_and_others_none(cloud: Cloud, site: Site, group: str) -> None:
    site.join(site.near, group)
    site.join(site.far, group)
    site.wait_copies(group, 2, 2, 2)
    third = cloud.lab.hypervisors[2]
    to_third = bytes.fromhex(third.mac.replace(":", ""))
    with Sniffer(third.namespace, "eth0", lambda data: data.startswith(to_third) and _about(group, data)) as underlay:
        got = site.send(group, [site.near, site.far])
    others = dict.fromkeys((site.bystander, site.beside, site.away), 0)
    assert got == {site.sender: 0, site.near: SENT, site.far: SENT, **others}
    assert not underlay.frames, "the third hypervisor has no receiver"
    assert cloud.counter("novanet_multicast_groups") >= 1


@by_version
def test_who_leaves_gets_no_more(cloud: Cloud, site: Site, group: str) -> None:
    near, far = site.join(site.near, group), site.join(site.far, group)
    site.wait_copies(group, 2)
    far.leave()
    site.wait_copies(group, 1)
    assert {vm for vm, count in site.send(group, [site.near]).items() if count} == {site.near}
    near.leave()
    site.wait_copies(group, 0, 0, 0)
    assert not any(site.send(group, []).values()), "what the last receiver left does not flood the network"


@by_version
def test_groups_that_nobody_joined_are_flooded(site: Site, group: str) -> None:
    assert site.flow(0, group) is None
    others = [vm for vm in site.vms if vm is not site.sender]
    assert site.send(group, others) == {site.sender: 0, **dict.fromkeys(others, SENT)}


@pytest.mark.parametrize("group", ["224.0.0.251", "ff02::fb", "ff02::1:ff00:99"])
def test_groups_of_the_link_are_flooded_whoever_joined(cloud: Cloud, site: Site, group: str) -> None:
    site.join(site.near, group)
    site.join(site.far, GROUPS[4])
    site.wait_copies(GROUPS[4], 1)
    others = [vm for vm in site.vms if vm is not site.sender]
    assert site.send(group, others) == {site.sender: 0, **dict.fromkeys(others, SENT)}


@by_version
def test_no_other_vm_hears_reports(site: Site, group: str) -> None:
    with ExitStack() as stack:
        own = stack.enter_context(site.near.sniff(is_report, outgoing=True))
        others = [stack.enter_context(vm.sniff(is_report)) for vm in site.vms if vm is not site.near]
        site.join(site.near, group)
        own.wait(lambda data: data[6:12] == bytes.fromhex(site.near.mac.replace(":", "")))
        site.wait_copies(group, 1)
        site.send(GROUPS[4], [])
    foreign = [f for sniffer in others for f in seen(sniffer) if f.eth_src == site.near.mac]
    assert not foreign


@by_version
def test_other_networks_know_nothing_of_it(cloud: Cloud, site: Site, group: str) -> None:
    site.join(site.near, group)
    site.wait_copies(group, 1)
    other = Site(cloud)
    assert other.flow(0, group) is None
    everyone = [vm for vm in other.vms if vm is not other.sender]
    assert all(count == SENT for vm, count in other.send(group, everyone).items() if vm is not other.sender)


def test_an_unplugged_vm_wants_nothing_and_one_that_comes_back_is_asked(cloud: Cloud, site: Site) -> None:
    group = GROUPS[4]
    site.join(site.near, group)
    site.join(site.far, group)
    site.wait_copies(group, 2)
    where = cloud.lab.hypervisors[1]
    where.vsctl("del-port", "br-int", site.far.interface)
    site.wait_copies(group, 1)
    where.attach(site.far)
    site.wait_copies(group, 2)
    got = site.send(group, [site.near, site.far])
    assert (got[site.near], got[site.far], got[site.away]) == (SENT, SENT, 0)


def test_a_restarted_controller_learns_within_seconds_who_wants_what(cloud: Cloud, site: Site) -> None:
    for group in GROUPS.values():
        site.join(site.near, group)
        site.join(site.far, group)
        site.wait_copies(group, 2)
    cloud.controller.kill()
    got = site.send(GROUPS[4], [site.near, site.far])
    assert (got[site.far], got[site.away]) == (SENT, 0), "the switches do without it"
    cloud.controller.start()
    cloud.controller.wait_ready()
    until("groups are known again", lambda: cloud.counter("novanet_multicast_groups") >= 2)
    for group in GROUPS.values():
        site.wait_copies(group, 2)
        got = site.send(group, [site.near, site.far])
        assert (got[site.far], got[site.away], got[site.bystander]) == (SENT, 0, 0)


# --- provider networks -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wired() -> Iterator[Cloud]:
    """Two hypervisors on a physical network."""
    with Cloud(2, provider=True) as running:
        running.groups = [running.open_group()]
        yield running


@pytest.mark.parametrize("vlan", [None, 100], ids=["flat", "vlan"])
def test_a_physical_network_hears_reports_and_gets_its_copies(wired: Cloud, vlan: int | None) -> None:
    group = GROUPS[4]
    host = wired.lab.outside(f"host{vlan or 0}", "203.0.113.200/24", vlan=vlan)
    host.ip = "203.0.113.200"
    fields = {"physical_network": "physnet1"} | ({"segmentation_id": vlan} if vlan else {})
    network = wired.network("203.0.113.0/24", **fields)
    vms = [wired.vm(network, hypervisor, f"203.0.113.{10 + n}") for n, hypervisor in enumerate((0, 0, 1, 1))]
    receivers, others = vms[::2], vms[1::2]
    with host.sniff(is_report) as heard, Sniffer(wired.lab.hypervisors[0].namespace, NIC, outgoing=True) as wire:
        joined = [Receiver(vm, group) for vm in receivers]
        for vm in receivers:
            heard.wait(from_host(vm))
        for hypervisor in wired.lab.hypervisors:
            until("one copy here, and one for the wire", lambda h=hypervisor: _copies(h, group) == 1)
        got = send(others[0], group, [*vms, host], [*receivers, host])
        assert got == {others[0]: 0, others[1]: 0, **dict.fromkeys([*receivers, host], SENT)}
        got = send(host, group, vms, receivers)
        assert [got[vm] for vm in vms] == [SENT, 0, SENT, 0]
        for receiver in joined:
            receiver.leave()
    assert not [data for data in wire.frames if is_query(data)], "physical networks hear nothing of our queries"


def from_host(vm: VM) -> Callable[[bytes], bool]:
    return lambda data: data[6:12] == bytes.fromhex(vm.mac.replace(":", ""))


def is_query(data: bytes) -> bool:
    return data[6:12] == bytes.fromhex("024e56fffffe")


def _copies(hypervisor: Hypervisor, group: str) -> int:
    found = [flow for flow in hypervisor.dump_flows() if f"nw_dst={group}" in flow and "reg6=" in flow]
    return max((flow.count("resubmit") for flow in found), default=0)
