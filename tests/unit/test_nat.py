"""Source NAT, floating IPs and port forwardings: addresses on both sides, there and back."""

from __future__ import annotations

import pytest

from pipelines import fields as f
from pipelines import tables as t
from pipelines.flow import Flow
from pipelines.nat import base
from pipelines.punting import Reason

from .outside import OUTER, OUTER6, WIRE, WORLD, WORLD6, WORLD_MAC, Outside, ends, reasons

BOTH = pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
MESHES = pytest.mark.parametrize("tunnel", ["geneve", "vxlan"])
A1, B2 = ("10.0.0.11", "fd00:a::11"), ("10.0.1.12", "fd00:b::12")
INNER = {"a1": A1, "b2": B2, "b1": ("10.0.1.11", "fd00:b::11")}
FLOATING, OTHER = ("203.0.113.50", "2001:db8:1::50"), ("203.0.113.51", "2001:db8:1::51")


def pair(*texts: str) -> tuple[int, ...]:
    return tuple(map(f.ip, texts))


def world(*wired: str, **options: object) -> Outside:
    return Outside(*wired, **options)


# --- source NAT --------------------------------------------------------------------------------------------------


@BOTH
@MESHES
def test_what_leaves_has_the_routers_address_and_answers_find_back(six: bool, tunnel: str) -> None:
    made = world(tunnel_type=tunnel)
    target, outer = (WORLD6, OUTER6) if six else (WORLD, OUTER)
    [left] = made.from_vm("a1", target)
    assert (left.hypervisor, left.port, ends(left.packet)) == ("h2", WIRE, pair(outer, target))
    assert (left.packet[f.ETH_SRC], left.packet[f.ETH_DST]) == (made.outer_mac, WORLD_MAC)
    assert left.packet[f.IP_TTL] == 63, "one hop, wherever the gateway is"
    [back] = made.answer(left)
    assert (back.hypervisor, back.port, ends(back.packet)) == ("h1", made.key("a1"), pair(target, A1[six]))
    assert back.packet[f.ETH_DST] == made.mac("a1")


@BOTH
def test_without_source_nat_addresses_stay_and_the_outside_gets_in(six: bool) -> None:
    made = world()
    made.edit("router", "r", enable_snat=False)
    target = WORLD6 if six else WORLD
    [left] = made.from_vm("a1", target)
    assert (left.port, ends(left.packet)) == (WIRE, pair(A1[six], target))
    [inward] = made.from_outside("h2", made.outer_mac, target, A1[six])
    assert (inward.hypervisor, inward.port) == ("h1", made.key("a1"))


@BOTH
def test_the_outside_does_not_get_behind_source_nat(six: bool) -> None:
    made = world()
    floating_mac = made.floating(FLOATING[six], "b2")
    target, outer = (WORLD6, OUTER6) if six else (WORLD, OUTER)
    assert made.from_outside("h2", made.outer_mac, target, A1[six]) == []
    assert made.from_outside("h2", made.outer_mac, target, outer) == [], "nor is it refused"
    assert made.from_outside("h2", floating_mac, target, A1[six]) == []


@BOTH
def test_the_routers_address_outside_answers_ping_wherever_it_comes_from(six: bool) -> None:
    made = world()
    target, outer = (WORLD6, OUTER6) if six else (WORLD, OUTER)
    echo = {"IP_PROTO": f.ICMPV6, "ICMPV6_TYPE": 128} if six else {"IP_PROTO": f.ICMP, "ICMPV4_TYPE": 8}
    kind, reply = (f.ICMPV6_TYPE, 129) if six else (f.ICMPV4_TYPE, 0)
    [left] = made.from_outside("h2", made.outer_mac, target, outer, **echo)
    assert (left.hypervisor, left.port, ends(left.packet), left.packet[kind]) == (
        "h2",
        WIRE,
        pair(outer, target),
        reply,
    )
    [inside] = made.from_vm("a1", outer, **echo)
    assert (inside.hypervisor, inside.port, ends(inside.packet)) == ("h1", made.key("a1"), pair(outer, A1[six]))


def test_what_is_too_large_for_the_outside_is_told_before_it_is_translated() -> None:
    made = world()
    made.edit("network", "ext", mtu=1300)
    [told] = made.from_vm("a1", WORLD, SIZE=1400)
    assert reasons([told]) == [Reason.TOO_BIG]
    assert ends(told.packet) == pair(A1[0], WORLD)
    assert made.from_vm("a1", WORLD, SIZE=1300)[0].port == WIRE


def test_what_conntrack_finds_invalid_goes_nowhere() -> None:
    """It has not been translated, neither inwards nor outwards."""
    made = world()
    drops = {flow.table for flow in base(made.topology, "h2", "h2") if isinstance(flow, Flow) and flow.reason}
    assert drops == {t.ROUTER_LOCAL.number, t.NEIGHBOUR.number}
    switch = made.tracking("h2")
    packet = {
        f.ETH_TYPE: f.IPV4, f.ROUTER: 1, f.NETWORK: 100, f.IPV4_SRC: f.ip(A1[0]), f.IPV4_DST: f.ip(WORLD), f.IP_TTL: 9,
        f.NEXT_HOP: f.ip(WORLD),
    }  # fmt: skip
    assert switch.run(packet, 1, t.NEIGHBOUR.number).ports == [WIRE]
    packet[f.CT_STATE] = f.CT_TRACKED | f.CT_INVALID
    for table in drops:
        assert switch.run(packet, 1, table).ports == []


@BOTH
def test_what_conntrack_could_not_translate_does_not_leave(six: bool) -> None:
    """It finds no free address and port, and passes a connection on as it is."""
    made = world()
    leaving = {
        f.ETH_TYPE: f.IPV6 if six else f.IPV4, f.ROUTER: 1, f.NETWORK: 100,
        f.CT_STATE: f.CT_TRACKED | f.CT_NEW,
    }  # fmt: skip
    leaving |= {part: f.ip(WORLD6) >> shift & part.ones for part, shift in f.NEXT_HOP6.parts} if six else {}
    leaving |= {} if six else {f.NEXT_HOP: f.ip(WORLD)}
    switch = made.tracking("h2")
    assert switch.run(leaving, 1, t.NEIGHBOUR.number).ports == []
    translated = leaving | {f.CT_STATE: f.CT_TRACKED | f.CT_NEW | f.CT_SNAT}
    assert switch.run(translated, 1, t.NEIGHBOUR.number).ports == [WIRE]


# --- floating IPs ------------------------------------------------------------------------------------------------


@BOTH
@MESHES
@pytest.mark.parametrize("vm", ["b2", "a1"], ids=["with its VM", "at the gateway"])
def test_a_floating_ip_is_the_vm_outside(six: bool, tunnel: str, vm: str) -> None:
    """b2's hypervisor is wired; that of a1 is not, so that the gateway does it with its own MAC address."""
    made = world(tunnel_type=tunnel)
    target, outer, via = WORLD6 if six else WORLD, FLOATING[six], f"r-{vm[0]}"
    mac = made.floating(outer, vm)
    mac = made.outer_mac if vm == "a1" else mac
    [inward] = made.from_outside("h2", mac, target, outer)
    assert (inward.port, ends(inward.packet)) == (made.key(vm), pair(target, INNER[vm][six]))
    [back] = made.answer(inward)
    assert (back.hypervisor, back.port, ends(back.packet)) == ("h2", WIRE, pair(outer, target))
    [left] = made.from_vm(vm, target, via=via, TCP_SRC=7)
    assert (left.hypervisor, left.port, ends(left.packet)) == ("h2", WIRE, pair(outer, target))
    assert (left.packet[f.ETH_SRC], left.packet[f.IP_TTL]) == (mac, 63)
    [asked] = made.asks("h2", outer)
    assert (asked.port, asked.packet[f.ETH_SRC]) == (WIRE, mac)
    assert made.asks("h3", outer) == []


def test_a_floating_ip_needs_no_gateway_where_its_vm_is_wired() -> None:
    made = world("h1", "h2", "h3")
    made.floating(FLOATING[0], "a1")
    made.lose("h1", "h2", "h3")
    [left] = made.from_vm("a1", WORLD)
    assert (left.hypervisor, left.hops, ends(left.packet)) == ("h1", 0, pair(FLOATING[0], WORLD))


@BOTH
def test_floating_ips_on_one_hypervisor_reach_each_other(six: bool) -> None:
    """Both sides see floating IPs, and a VM reaches itself by its own."""
    made = world("h1", "h2", "h3")
    for number, vm in enumerate(("a1", "b1")):
        made.floating((FLOATING, OTHER)[number][six], vm, id=vm)
    [there] = made.from_vm("a1", OTHER[six])
    assert (there.hypervisor, there.port) == ("h1", made.key("b1"))
    assert ends(there.packet) == pair(FLOATING[six], INNER["b1"][six])
    [back] = made.answer(there)
    assert (back.port, ends(back.packet)) == (made.key("a1"), pair(OTHER[six], A1[six]))
    [itself] = made.from_vm("a1", FLOATING[six], TCP_SRC=81)
    assert (itself.port, ends(itself.packet)) == (made.key("a1"), pair(FLOATING[six], A1[six]))
    [back] = made.answer(itself)
    assert (back.port, ends(back.packet)) == (made.key("a1"), pair(FLOATING[six], A1[six]))


@pytest.mark.parametrize("vm", ["b2", "a1"], ids=["with its VM", "at the gateway"])
def test_a_vm_behind_source_nat_reaches_a_floating_ip_at_the_gateway(vm: str) -> None:
    """It comes as the router, or the answer would go past the translation."""
    made = world()
    made.port("b9", "b", on="h1", ips=("10.0.1.99", "fd00:b::99"))
    made.floating(FLOATING[0], vm)
    [there] = made.from_vm("b9", FLOATING[0], via="r-b")
    assert (there.port, ends(there.packet)) == (made.key(vm), pair(OUTER, INNER[vm][0]))
    [back] = made.answer(there)
    assert (back.port, ends(back.packet)) == (made.key("b9"), pair(FLOATING[0], "10.0.1.99"))


def test_a_floating_ip_without_a_vm_answers_nobody() -> None:
    made = world()
    made.floating(FLOATING[0], None)
    assert made.asks("h2", FLOATING[0]) == []
    mac = made.floating(FLOATING[0], "b2")
    made.edit("port", "b2", admin_state_up=False)
    assert made.asks("h2", FLOATING[0]) == []
    assert [each for each in made.from_outside("h2", mac, WORLD, FLOATING[0]) if each.port != WIRE] == []


def test_the_routers_errors_about_packets_for_a_floating_ip_leave_where_it_is_translated() -> None:
    made = world("h1", "h2", "h3")
    made.floating(FLOATING[0], "a1")
    rules = made.rules("h1")
    looks = [
        rule
        for rule in rules
        if isinstance(rule, Flow) and rule.table == t.GATEWAY_REDIRECT.number and f.ICMPV4_TYPE(3) in rule.match
    ]
    own = {"10.0.0.1", "10.0.1.1", OUTER}
    assert {text for text in own for rule in looks if f.IPV4_SRC(f.ip(text)) in rule.match} == own


# --- port forwardings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snat", [True, False])
def test_a_forwarded_port_leads_to_its_vm_and_no_other_does(snat: bool) -> None:
    made = world()
    made.edit("router", "r", enable_snat=snat)
    made.floating(FLOATING[0], None)
    made.forwarding("w1", "f", "a1", 2222, 22, A1[0])
    made.forwarding("w2", "f", "b2", 8080, 80, B2[0])
    for port, vm, internal in ((2222, "a1", 22), (8080, "b2", 80)):
        [there] = made.from_outside("h2", made.outer_mac, WORLD, FLOATING[0], TCP_DST=port)
        assert (there.port, ends(there.packet)) == (made.key(vm), pair(WORLD, INNER[vm][0]))
        assert there.packet[f.TCP_DST] == internal
        [back] = made.answer(there)
        assert (back.hypervisor, back.port, ends(back.packet)) == ("h2", WIRE, pair(FLOATING[0], WORLD))
        assert back.packet[f.TCP_SRC] == port
    assert made.from_outside("h2", made.outer_mac, WORLD, FLOATING[0], TCP_DST=23) == []
    assert made.from_outside("h3", made.outer_mac, WORLD, FLOATING[0], TCP_DST=2222) == [], "not the gateway now"
    [left] = made.from_vm("a1", WORLD, TCP_SRC=4711)
    assert ends(left.packet) == pair(OUTER if snat else A1[0], WORLD)


@pytest.mark.parametrize("vm", ["a1", "b2"])
def test_vms_inside_reach_a_forwarded_port(vm: str) -> None:
    """Even the VM itself, and its neighbours, to whom it would answer directly."""
    made = world()
    made.floating(FLOATING[0], None)
    made.forwarding("w1", "f", "a1", 2222, 22, A1[0])
    [there] = made.from_vm(vm, FLOATING[0], via=f"r-{vm[0]}", TCP_DST=2222)
    assert (there.port, ends(there.packet), there.packet[f.TCP_DST]) == (made.key("a1"), pair(OUTER, A1[0]), 22)
    [back] = made.answer(there)
    assert (back.port, ends(back.packet), back.packet[f.TCP_SRC]) == (
        made.key(vm), pair(FLOATING[0], INNER[vm][0]), 2222,
    )  # fmt: skip
