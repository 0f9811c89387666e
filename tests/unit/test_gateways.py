"""Which gateway packets take, which one speaks outside, and how hosts there are known."""

from __future__ import annotations

from collections import Counter

import pytest

from pipelines import fields as f
from pipelines import tables as t
from pipelines.flow import Group
from pipelines.punting import Reason
from topology.changes import Edit
from topology.model import Neighbour

from .outside import EXT, OUTER, OUTER6, TUNNEL, WIRE, WORLD, WORLD_MAC, Outside, ends, reasons

BOTH = pytest.mark.parametrize("outer", [OUTER, OUTER6], ids=["IPv4", "IPv6"])
MESHES = pytest.mark.parametrize("tunnel", ["geneve", "vxlan"])


def way(world: Outside, vm: str = "a1") -> list[tuple[str, int]]:
    """Where a VM's packet leaves, and through how many tunnels it went."""
    left = world.from_vm(vm, WORLD, via=f"r-{vm[0]}")
    assert all(each.port == WIRE for each in left)
    return [(each.hypervisor, each.hops) for each in left]


# --- who is the gateway ------------------------------------------------------------------------------------------


@MESHES
def test_the_best_gateway_that_is_alive_is_taken(tunnel: str) -> None:
    world = Outside(tunnel_type=tunnel)
    assert way(world) == [("h2", 1)]
    world.prefer("h3", "h2")
    assert way(world) == [("h3", 1)]
    world.lose("h1", "h3")
    world.lose("h2", "h3")
    assert way(world) == [("h2", 1)]


def test_the_gateways_own_vms_leave_there() -> None:
    world = Outside()
    assert way(world, "b2") == [("h2", 0)]


@MESHES
def test_one_that_is_ready_hands_on_what_is_for_a_better_one(tunnel: str) -> None:
    """h1 alone cannot reach the gateway: it is reached by way of the other, which costs a hop."""
    world = Outside(tunnel_type=tunnel)
    world.lose("h1", "h2")
    [left] = world.from_vm("a1", WORLD)
    assert (left.hypervisor, left.hops, left.packet[f.IP_TTL]) == ("h2", 2, 62)


def test_gateways_that_disagree_do_not_send_packets_to_and_fro_for_ever() -> None:
    """While one of them has not been told of another order, each may take the other for the better one."""
    world = Outside()
    world.prefer("h3", "h2")
    handed_on = {f.ROUTER: 1, f.ETH_TYPE: f.IPV4, f.FLAGS: 1, f.IP_TTL: 5}
    [sent] = world.tracking("h2").run(handed_on, TUNNEL, t.GATEWAY_REDIRECT.number).sent
    assert (sent.port, sent.packet[f.IP_TTL]) == (TUNNEL, 4)
    assert world.tracking("h2").run(handed_on | {f.IP_TTL: 1}, TUNNEL, t.GATEWAY_REDIRECT.number).sent == []


def test_who_sees_no_gateway_tries_the_best_all_the_same() -> None:
    world = Outside()
    world.lose("h1", "h2", "h3")
    assert way(world) == [("h2", 1)]


def test_without_probes_the_best_gateway_is_taken() -> None:
    world = Outside()
    for here in ("h1", "h2", "h3"):
        for there in ("h1", "h2", "h3"):
            world.apply(Edit("link", f"{here}/{there}", None))
    assert way(world) == [("h2", 1)]
    assert world.asks("h2", OUTER)


def test_a_gateway_that_has_lost_the_underlay_keeps_silent_outside() -> None:
    world = Outside()
    world.lose("h2", "h1", "h3")
    assert way(world, "b2") == []
    assert world.asks("h2", OUTER) == []
    world.lose("h3", "h2")
    assert world.asks("h3", OUTER)


def test_of_two_hypervisors_the_gateway_stays_one_when_the_other_dies() -> None:
    """Who sees nobody else may be the one that is left."""
    world = Outside()
    for link in ("h2/h1", "h3/h1", "h1/h2", "h1/h3"):
        world.apply(Edit("link", link, None))
    world.lose("h2", "h3")
    world.lose("h3", "h2")
    assert way(world, "b2") == [("h2", 0)]
    assert world.asks("h2", OUTER)


def test_a_gateway_gives_way_to_a_better_one_until_its_probe_can_be_believed() -> None:
    """BFD needs a second or two to come up: who takes over before disturbs a gateway that is well."""
    world = Outside()
    world.lose("h3", "h2")
    assert world.asks("h3", OUTER)
    world.link("h3", "h2", 2002, settled=False)
    assert world.asks("h3", OUTER) == []
    world.link("h3", "h2", 2002)
    assert world.asks("h3", OUTER)


def test_of_two_hypervisors_none_is_the_gateway_before_it_could_see_the_other() -> None:
    world = Outside()
    for link in ("h2/h1", "h3/h1", "h1/h2", "h1/h3"):
        world.apply(Edit("link", link, None))
    world.lose("h2", "h3")
    world.link("h2", "h3", 2003, settled=False)
    assert world.asks("h2", OUTER) == []
    world.link("h2", "h3", 2003)
    assert world.asks("h2", OUTER)


# --- what comes from outside -------------------------------------------------------------------------------------


@BOTH
def test_only_the_active_gateway_answers_for_the_routers_address(outer: str) -> None:
    world = Outside()
    [answer] = world.asks("h2", outer)
    assert (answer.port, answer.packet[f.ETH_SRC]) == (WIRE, world.outer_mac)
    assert world.asks("h3", outer) == []
    world.lose("h3", "h2")
    [answer] = world.asks("h3", outer)
    assert (answer.port, answer.packet[f.ETH_SRC]) == (WIRE, world.outer_mac)


def test_the_answer_to_who_has_an_address_goes_into_the_vlan() -> None:
    world = Outside()
    world.edit("network", "ext", segmentation_id=77)
    for text in (OUTER, OUTER6):
        left = []
        address = f.ip(text)
        packet = {f.ETH_SRC: 2, f.ETH_DST: 0xFFFFFFFFFFFF, f.VLAN_VID: 0x1000 | 77, f.ETH_TYPE: f.ARP, f.ARP_OP: 1}
        packet |= {f.ARP_TPA: address, f.ARP_SPA: 7}
        if ":" in text:
            packet |= {
                f.ETH_TYPE: f.IPV6,
                f.IP_PROTO: f.ICMPV6,
                f.ICMPV6_TYPE: 135,
                f.ND_TARGET: address,
                f.IPV6_SRC: 7,
            }
        left = world.run("h2", packet, WIRE)
        assert [(each.port, each.packet[f.VLAN_VID]) for each in left] == [(WIRE, 0x1000 | 77)]


def test_a_gateway_takes_from_outside_only_what_is_for_it_or_for_connections_that_it_knows() -> None:
    """When gateways change, answers may still come to the old one, or already to the new one."""
    world = Outside()
    world.edit("router", "r", enable_snat=False)
    assert world.from_outside("h2", world.outer_mac, WORLD, "10.0.0.11")
    assert world.from_outside("h3", world.outer_mac, WORLD, "10.0.0.11") == []
    world.edit("router", "r", enable_snat=True)
    [left] = world.from_vm("a1", WORLD)
    world.prefer("h3", "h2")
    [back] = world.answer(left)
    assert (back.hypervisor, back.port) == ("h1", world.key("a1"))


def test_a_vm_outside_on_a_gateway_that_is_not_active_reaches_the_router_by_the_wire() -> None:
    world = Outside()
    for number, hypervisor in ((2, "h2"), (3, "h3")):
        world.port(f"x{number}", "ext", on=hypervisor, ips=(f"203.0.113.3{number}",))
    echo = {"IP_PROTO": f.ICMP, "ICMPV4_TYPE": 8}
    [there] = world.from_vm("x3", OUTER, via="r-ext", **echo)
    assert (there.hypervisor, there.port, there.packet[f.ETH_DST]) == ("h3", WIRE, world.outer_mac)
    [answered] = world.from_vm("x2", OUTER, via="r-ext", **echo)
    assert (answered.hypervisor, answered.port, ends(answered.packet)) == (
        "h2", world.key("x2"), (f.ip(OUTER), f.ip("203.0.113.32")),
    )  # fmt: skip


# --- groups ------------------------------------------------------------------------------------------------------


def test_groups_of_routers_have_numbers_of_their_own() -> None:
    world = Outside()
    world.network("c", 3, "10.0.5.0/24")
    world.router("s", "c")
    world.interface("s", "ext", "203.0.113.20")
    world.port("c1", "c", on="h1", ips=("10.0.5.5",))
    for hypervisor in ("h1", "h2", "h3"):
        ids = Counter(rule.id for rule in world.rules(hypervisor) if isinstance(rule, Group))
        assert max(ids.values()) == 1


def test_a_router_without_gateways_has_no_group() -> None:
    world = Outside()
    for hypervisor in ("h2", "h3"):
        world.wire(hypervisor)
    assert not [rule for rule in world.rules("h1") if isinstance(rule, Group) and 0xFE000000 <= rule.id < 0xFFFF0000]
    assert reasons(world.from_vm("a1", WORLD)) == [Reason.HOST_UNREACHABLE]


# --- hosts outside -----------------------------------------------------------------------------------------------


def known(world: Outside, text: str, mac: str, *, learned: bool) -> None:
    host = Neighbour(id=f"n-{text}", network_id="ext", ip_address=text, mac_address=mac, learned=learned)
    world.apply(Edit("neighbour", host.id, host))


@pytest.mark.parametrize("text", ["203.0.113.7", "2001:db8:1::7"], ids=["IPv4", "IPv6"])
def test_a_next_hop_outside_is_asked_for_until_it_is_known(text: str) -> None:
    world = Outside()
    [asked] = world.from_vm("a1", text)
    assert (asked.hypervisor, reasons([asked])) == ("h2", [Reason.RESOLVE])
    next_hop = f.NEXT_HOP6 if ":" in text else f.NEXT_HOP
    if isinstance(next_hop, f.WideRegister):
        value = sum(asked.packet.get(part, 0) << shift for part, shift in next_hop.parts)
    else:
        value = asked.packet[next_hop]
    assert value == f.ip(text)
    known(world, text, "02:77:00:00:00:07", learned=True)
    [left] = world.from_vm("a1", text)
    assert (left.port, left.packet[f.ETH_DST]) == (WIRE, f.mac("02:77:00:00:00:07"))


@pytest.mark.parametrize(("learned", "mac", "told"), [
    (True, 0x027700000007, False), (True, 0x027700000008, True), (False, 0x027700000008, False),
], ids=["as known", "changed", "set by an administrator"])  # fmt: skip
def test_what_a_neighbour_says_is_looked_at_and_answered(learned: bool, mac: int, told: bool) -> None:
    world = Outside()
    known(world, "203.0.113.7", "02:77:00:00:00:07", learned=learned)
    left = world.asks("h2", OUTER, mac=mac)
    assert (Reason.NEIGHBOUR in reasons(left)) == told
    assert [each.packet[f.ARP_OP] for each in left if each.port == WIRE] == [2]


@pytest.mark.parametrize("text", [OUTER, "203.0.113.50"], ids=["router", "floating IP"])
def test_answers_to_the_controllers_questions_reach_it(text: str) -> None:
    world = Outside()
    mac = world.floating("203.0.113.50", "b2") if text != OUTER else world.outer_mac
    packet = {
        f.ETH_SRC: 7, f.ETH_DST: mac, f.ETH_TYPE: f.ARP, f.ARP_OP: 2, f.ARP_SPA: f.ip("203.0.113.9"),
        f.ARP_TPA: f.ip(text),
    }  # fmt: skip
    assert reasons(world.run("h2", packet, WIRE)) == [Reason.NEIGHBOUR]


def test_nobody_is_asked_for_the_routers_own_address() -> None:
    """Whoever is the gateway now."""
    world = Outside()
    for hypervisor in ("h2", "h3"):
        switch = world.tracking(hypervisor)
        packet = {f.NETWORK: EXT, f.ETH_TYPE: f.IPV4, f.NEXT_HOP: f.ip(OUTER), f.IPV4_SRC: 1, f.IPV4_DST: f.ip(OUTER)}
        outcome = switch.run(packet, 1, t.NEIGHBOUR.number)
        assert any("(router_admit)" in line for line in outcome.flows)
        assert not any(sent.packet.get(f.PUNT) for sent in outcome.sent)


@BOTH
def test_a_neighbour_that_checks_its_entry_is_answered(outer: str) -> None:
    """Hosts ask again for what they know by unicast (RFC 1122 section 2.3.2.1, RFC 4861 section 7.3.3)."""
    world = Outside()
    asked = {
        f.ETH_SRC: WORLD_MAC, f.ETH_DST: world.outer_mac, f.ETH_TYPE: f.ARP, f.ARP_OP: 1, f.ARP_SHA: WORLD_MAC,
        f.ARP_SPA: f.ip("203.0.113.7"), f.ARP_TPA: f.ip(OUTER),
    }  # fmt: skip
    if outer == OUTER6:
        asked = {
            f.ETH_SRC: WORLD_MAC, f.ETH_DST: world.outer_mac, f.ETH_TYPE: f.IPV6, f.IP_PROTO: f.ICMPV6, f.IP_TTL: 255,
            f.IPV6_SRC: f.ip("2001:db8:1::7"), f.IPV6_DST: f.ip(OUTER6), f.ICMPV6_TYPE: 135, f.ND_TARGET: f.ip(OUTER6),
            f.ND_SLL: WORLD_MAC,
        }  # fmt: skip
    [answer] = world.run("h2", asked, WIRE)
    assert (answer.port, answer.packet[f.ETH_DST]) == (WIRE, WORLD_MAC)
    assert answer.packet.get(f.ARP_OP) == 2 or answer.packet.get(f.ICMPV6_TYPE) == 136
