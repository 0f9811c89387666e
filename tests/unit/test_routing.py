"""Routers: which packet comes out where, and with which headers."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import pytest

from pipelines import fields as f
from pipelines import tables as t
from pipelines.addresses import link_local
from pipelines.compiler import Compiler
from pipelines.flow import Flow, set_field
from pipelines.interpreter import SIZE, Interpreter, Outcome
from pipelines.ledger import Ledger
from pipelines.punting import Reason
from pipelines.spreading import SLOTS, deal, number_of
from pipelines.wire import OF13
from topology import scope
from topology.changes import Edit
from topology.model import AddressPair, PolicyRoute, StaticRoute

from .world import Routed

CONTROLLER = 0xFFFFFFFD


class Switches(Routed):
    """Such a world with its switches."""

    def rules(self, hypervisor: str) -> list:
        """What the bridge has, as the ledger merges what several owners want of it."""
        compiler, ledger = Compiler(), Ledger(OF13)
        found = []
        for owner in dict.fromkeys(scope.owners_on(self.topology, hypervisor)):
            rules = compiler.compile(self.topology, hypervisor, owner)
            for rule in rules:
                if isinstance(rule, Flow):
                    t.check(rule)
            ledger.put(owner, rules, 1)  # raises where two owners contradict each other
            found += rules
        return list(dict.fromkeys(found))

    def switch(self, hypervisor: str) -> Interpreter:
        return Interpreter.of(self.rules(hypervisor))

    def send(
        self, sender: str, destination: str, *, to: str = "r-a", source: str = "", ttl: int = 64, **more: int
    ) -> Outcome:
        """A packet of a VM on h1, to the MAC address of the interface ``to``."""
        port = self.topology.get("port", sender)
        six = ":" in destination
        own = next(fixed.ip_address for fixed in port.fixed_ips if (":" in fixed.ip_address) == six)
        packet = {
            f.ETH_SRC: f.mac(port.mac_address), f.ETH_DST: self.mac(to), f.ETH_TYPE: f.IPV6 if six else f.IPV4,
            (f.IPV6_SRC if six else f.IPV4_SRC): f.ip(source or own),
            (f.IPV6_DST if six else f.IPV4_DST): f.ip(destination), f.IP_TTL: ttl,
        } | {SIZE if name == "SIZE" else getattr(f, name): value for name, value in more.items()}  # fmt: skip
        return self.switch("h1").run(packet, port.port_key)


def punted(outcome: Outcome) -> Reason | None:
    """Why the packet went to the controller, if it did, and nowhere else."""
    return Reason(outcome.sent[0].packet[f.PUNT]) if outcome.ports == [CONTROLLER] else None


BOTH = pytest.mark.parametrize("destination", ["10.0.1.11", "fd00:b::11"], ids=["IPv4", "IPv6"])


@BOTH
def test_a_packet_for_another_subnet_is_routed_on_its_senders_hypervisor(destination: str) -> None:
    world = Switches()
    [sent] = world.send("a1", destination).sent
    assert sent.port == world.key("b1")
    assert (sent.packet[f.ETH_SRC], sent.packet[f.ETH_DST]) == (world.mac("r-b"), world.mac("b1"))
    assert sent.packet[f.IP_TTL] == 63
    assert sent.packet[f.NETWORK] == 2


@pytest.mark.parametrize("destination", ["10.0.1.12", "fd00:b::12"])
@pytest.mark.parametrize("tunnel", ["geneve", "vxlan"])
def test_a_vm_on_another_hypervisor_gets_it_routed_through_the_tunnel(destination: str, tunnel: str) -> None:
    world = Switches(tunnel_type=tunnel)
    [sent] = world.send("a1", destination).sent
    assert sent.port == 1000
    assert (sent.packet[f.ETH_SRC], sent.packet[f.ETH_DST]) == (world.mac("r-b"), world.mac("b2"))
    assert sent.packet[f.IP_TTL] == 63
    assert sent.packet[f.TUNNEL_ID] == 2
    arriving = sent.packet | {f.TUN_SRC: f.ip("192.168.50.1")}
    plain = {field: value for field, value in arriving.items() if not field.name.startswith(("reg", "meta", "in_port"))}
    [there] = world.switch("h2").run(plain, 1000).sent
    assert there.port == world.key("b2")
    assert there.packet[f.IP_TTL] == 63


def test_what_is_not_for_the_router_is_only_switched() -> None:
    world = Switches()
    world.port("a2", "a", on="h1", ips=("10.0.0.12", "fd00:a::12"))
    [sent] = world.send("a1", "10.0.1.11", to="a2").sent
    assert (sent.port, sent.packet[f.IP_TTL]) == (world.key("a2"), 64)


def test_routers_routes_back_to_the_port_that_sent() -> None:
    """A route that leads back into the network, to the sender itself: OpenFlow would not send it out of its in_port."""
    world = Switches()
    [sent] = world.send("a1", "10.0.0.11").sent
    assert (sent.port, sent.packet[f.IP_TTL]) == (world.key("a1"), 63)


@BOTH
@pytest.mark.parametrize(
    ("kind", "id", "fields"),
    [
        ("router", "r", {"admin_state_up": False}),
        ("port", "r-a", {"admin_state_up": False}),
        ("network", "a", {"admin_state_up": False}),
    ],
    ids=["router", "interface", "network"],
)
def test_nothing_is_routed_by_what_is_down(destination: str, kind: str, id: str, fields: dict) -> None:
    world = Switches()
    world.edit(kind, id, **fields)
    assert world.send("a1", destination).ports == []


def test_an_interface_that_is_down_takes_its_subnet_from_the_routes() -> None:
    world = Switches()
    world.edit("port", "r-b", admin_state_up=False)
    assert punted(world.send("a1", "10.0.1.11")) == Reason.NO_ROUTE
    assert punted(world.send("a1", "fd00:b::11")) == Reason.NO_ROUTE


def test_removing_an_interface_stops_traffic() -> None:
    world = Switches()
    world.apply(Edit("port", "r-b", None))
    assert punted(world.send("a1", "10.0.1.11")) == Reason.NO_ROUTE
    world.apply(Edit("port", "r-a", None))
    assert not [rule for rule in world.rules("h1") if isinstance(rule, Flow) and rule.match.find(f.ROUTER(1)) >= 0]


# --- the router's own addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("destination", "kind"),
    [("10.0.0.1", {"IP_PROTO": f.ICMP, "ICMPV4_TYPE": 8}), ("fd00:a::1", {"IP_PROTO": f.ICMPV6, "ICMPV6_TYPE": 128}),
     ("10.0.1.1", {"IP_PROTO": f.ICMP, "ICMPV4_TYPE": 8}), ("fd00:b::1", {"IP_PROTO": f.ICMPV6, "ICMPV6_TYPE": 128})],
)  # fmt: skip
@pytest.mark.parametrize("ttl", [64, 1])
def test_any_address_of_the_router_answers_ping(destination: str, kind: dict, ttl: int) -> None:
    world = Switches()
    [sent] = world.send("a1", destination, ttl=ttl, **kind).sent
    packet, six = sent.packet, ":" in destination
    assert sent.port == world.key("a1")
    assert (packet[f.ETH_SRC], packet[f.ETH_DST]) == (world.mac("r-a"), world.mac("a1"))
    assert packet[f.IPV6_SRC if six else f.IPV4_SRC] == f.ip(destination)
    assert packet[f.IPV6_DST if six else f.IPV4_DST] == f.ip("fd00:a::11" if six else "10.0.0.11")
    assert packet[f.ICMPV6_TYPE if six else f.ICMPV4_TYPE] == (129 if six else 0)
    assert packet[f.IP_TTL] == 64


def test_a_fragment_for_the_router_itself_is_neither_answered_nor_punted() -> None:
    world = Switches()
    for fragment in (1, 3):
        assert world.send("a1", "10.0.1.1", IP_PROTO=f.ICMP, IP_FRAG=fragment).ports == []
        assert world.send("a1", "10.0.1.11", IP_PROTO=f.ICMP, IP_FRAG=fragment).ports == [world.key("b1")]


@pytest.mark.parametrize("source", ["fd00:a::11", None], ids=["from a global address", "from a link-local one"])
def test_the_link_local_address_answers_ping_on_its_own_link(source: str | None) -> None:
    world = Switches()
    near = str(ip_address(link_local(world.mac("r-a"))))
    source = source or str(ip_address(link_local(world.mac("a1"))))
    echo = {"IP_PROTO": f.ICMPV6, "ICMPV6_TYPE": 128}
    [sent] = world.send("a1", near, source=source, **echo).sent
    assert sent.port == world.key("a1")
    assert (sent.packet[f.ETH_SRC], sent.packet[f.ETH_DST]) == (world.mac("r-a"), world.mac("a1"))
    assert (sent.packet[f.IPV6_SRC], sent.packet[f.IPV6_DST]) == (f.ip(near), f.ip(source))
    assert (sent.packet[f.ICMPV6_TYPE], sent.packet[f.IP_TTL]) == (129, 64)
    elsewhere = str(ip_address(link_local(world.mac("r-b"))))
    assert world.send("a1", elsewhere, source=source, **echo).ports == []


def test_what_else_is_for_the_router_itself_is_refused() -> None:
    world = Switches()
    for destination in ("10.0.0.1", "10.0.1.1", "fd00:a::1", "fd00:b::1"):
        outcome = world.send("a1", destination, IP_PROTO=f.UDP, UDP_DST=33434, ttl=1)
        assert punted(outcome) == Reason.PORT_UNREACHABLE, destination
        assert outcome.sent[0].packet[f.ROUTER] == 1


@BOTH
def test_a_ttl_that_ends_here_is_told(destination: str) -> None:
    world = Switches()
    for ttl in (0, 1):
        assert punted(world.send("a1", destination, ttl=ttl)) == Reason.TTL_EXCEEDED
    assert world.send("a1", destination, ttl=2).sent[0].packet[f.IP_TTL] == 1


def arp_request(world: Switches, target: str) -> dict:
    mac = world.mac("a1")
    return {
        f.ETH_SRC: mac, f.ETH_DST: 0xFFFFFFFFFFFF, f.ETH_TYPE: f.ARP, f.ARP_OP: 1,
        f.ARP_SPA: f.ip("10.0.0.11"), f.ARP_SHA: mac, f.ARP_TPA: f.ip(target),
    }  # fmt: skip


def test_arp_for_the_interface_is_answered() -> None:
    world = Switches()
    [sent] = world.switch("h1").run(arp_request(world, "10.0.0.1"), world.key("a1")).sent
    assert sent.port == world.key("a1")
    assert (sent.packet[f.ARP_OP], sent.packet[f.ARP_SHA]) == (2, world.mac("r-a"))
    outcome = world.switch("h1").run(arp_request(world, "10.0.1.1"), world.key("a1"))
    assert outcome.ports == []


@pytest.mark.parametrize(("asked", "flags"), [("r-a", 0xE0000000), ("a2", 0x60000000)], ids=["router", "VM"])
@pytest.mark.parametrize("near", [False, True], ids=["global", "link-local"])
def test_advertisements_tell_routers_from_vms(asked: str, flags: int, near: bool) -> None:
    world = Switches()
    world.port("a2", "a", on="h1", ips=("10.0.0.12", "fd00:a::12"))
    mac, port = world.mac(asked), world.topology.get("port", asked)
    target = link_local(mac) if near else f.ip(port.fixed_ips[1].ip_address)
    packet = {
        f.ETH_SRC: world.mac("a1"), f.ETH_DST: 0x3333FF000001, f.ETH_TYPE: f.IPV6, f.IP_PROTO: f.ICMPV6,
        f.ICMPV6_TYPE: 135, f.IPV6_SRC: f.ip("fd00:a::11"), f.IPV6_DST: f.ip("ff02::1:ff00:1"),
        f.ND_TARGET: target, f.ND_SLL: world.mac("a1"), f.IP_TTL: 255,
    }  # fmt: skip
    [sent] = world.switch("h1").run(packet, world.key("a1")).sent
    assert (sent.port, sent.packet[f.ICMPV6_TYPE]) == (world.key("a1"), 136)
    assert (sent.packet[f.ND_TLL], sent.packet[f.ND_RESERVED]) == (mac, flags)


def test_who_looks_for_a_duplicate_of_the_routers_address_is_told() -> None:
    """RFC 4861 section 7.2.4: to all nodes, since who asks has no address yet."""
    world = Switches()
    world.edit("port", "a1", port_security_enabled=False)
    packet = {
        f.ETH_SRC: world.mac("a1"), f.ETH_DST: 0x3333FF000001, f.ETH_TYPE: f.IPV6, f.IP_PROTO: f.ICMPV6,
        f.ICMPV6_TYPE: 135, f.IPV6_SRC: 0, f.IPV6_DST: f.ip("ff02::1:ff00:1"), f.ND_TARGET: f.ip("fd00:a::1"),
    }  # fmt: skip
    [sent] = world.switch("h1").run(packet, world.key("a1")).sent
    assert (sent.packet[f.IPV6_DST], sent.packet[f.ETH_DST]) == (f.ip("ff02::1"), 0x333300000001)
    assert sent.packet[f.ND_RESERVED] == 0xA0000000


# --- what is never routed, and what has no way -------------------------------------------------------------------


@pytest.mark.parametrize(
    "destination", ["169.254.1.1", "224.0.0.9", "255.255.255.255", "127.0.0.1", "0.0.0.0", "fe80::1", "ff05::1", "::1"]
)
def test_link_local_and_multicast_destinations_are_never_routed(destination: str) -> None:
    world = Switches()
    world.edit("router", "r", routes=(StaticRoute("0.0.0.0/0", "10.0.1.11"), StaticRoute("::/0", "fd00:b::11")))
    policy = (PolicyRoute(priority=9, nexthops=("10.0.1.11", "fd00:b::11")),)
    world.edit("router", "r", policy_routes=policy)
    assert world.send("a1", destination).ports == []


def test_a_link_local_source_is_never_routed() -> None:
    world = Switches()
    source = str(ip_address(link_local(world.mac("a1"))))
    assert world.send("a1", "fd00:b::11", source=source).ports == []


@pytest.mark.parametrize(("destination", "reason"), [
    ("192.0.2.1", Reason.NO_ROUTE), ("2001:db8::1", Reason.NO_ROUTE),
    ("10.0.1.99", Reason.HOST_UNREACHABLE), ("fd00:b::99", Reason.HOST_UNREACHABLE),
])  # fmt: skip
def test_what_has_no_way_is_told(destination: str, reason: Reason) -> None:
    assert punted(Switches().send("a1", destination)) == reason


def test_a_vm_that_is_unplugged_is_no_neighbour() -> None:
    world = Switches()
    world.unplug("b2")
    assert punted(world.send("a1", "10.0.1.12")) == Reason.HOST_UNREACHABLE


# --- several routers ---------------------------------------------------------------------------------------------


def test_tenants_with_the_same_addresses_never_meet() -> None:
    world = Switches()
    world.network("c", 3, "10.0.0.0/24", "fd00:a::/64")
    world.network("d", 4, "10.0.1.0/24", "fd00:b::/64")
    world.router("s", "c", "d")
    world.port("c1", "c", on="h1", ips=("10.0.0.11", "fd00:a::11"))
    world.port("d1", "d", on="h1", ips=("10.0.1.11", "fd00:b::11"))
    for destination in ("10.0.1.11", "fd00:b::11"):
        assert world.send("a1", destination).ports == [world.key("b1")]
        assert world.send("c1", destination, to="s-c").ports == [world.key("d1")]
        assert world.send("a1", destination, to="s-c").ports == []


def chain() -> Switches:
    """r joins a, b and the transit network x; s joins x and y."""
    world = Switches()
    world.network("x", 8, "10.0.8.0/24", "fd00:8::/64")
    world.network("y", 9, "10.0.9.0/24", "fd00:9::/64")
    world.interface("r", "x", "10.0.8.1", "fd00:8::1")
    world.router("s", "y")
    world.interface("s", "x", "10.0.8.2", "fd00:8::2")
    world.port("y1", "y", on="h1", ips=("10.0.9.11", "fd00:9::11"))
    world.edit("router", "r", routes=(StaticRoute("10.0.9.0/24", "10.0.8.2"), StaticRoute("fd00:9::/64", "fd00:8::2")))
    world.edit("router", "s", routes=(StaticRoute("0.0.0.0/0", "10.0.8.1"), StaticRoute("::/0", "fd00:8::1")))
    return world


@pytest.mark.parametrize("destination", ["10.0.9.11", "fd00:9::11"])
def test_a_chain_of_two_routers(destination: str) -> None:
    world = chain()
    [sent] = world.send("a1", destination).sent
    assert (sent.port, sent.packet[f.IP_TTL], sent.packet[f.ROUTER]) == (world.key("y1"), 62, 2)
    assert (sent.packet[f.ETH_SRC], sent.packet[f.ETH_DST]) == (world.mac("s-y"), world.mac("y1"))
    expired = world.send("a1", destination, ttl=2)
    assert punted(expired) == Reason.TTL_EXCEEDED
    assert expired.sent[0].packet[f.ROUTER] == 2
    back = "10.0.0.11" if ":" not in destination else "fd00:a::11"
    assert world.send("y1", back, to="s-y").ports == [world.key("a1")]


def test_a_chain_breaks_where_its_second_router_is_down() -> None:
    world = chain()
    world.edit("router", "s", admin_state_up=False)
    assert punted(world.send("a1", "10.0.9.11")) == Reason.HOST_UNREACHABLE


def test_a_loop_of_routers_ends() -> None:
    world = chain()
    world.edit("router", "r", routes=(StaticRoute("0.0.0.0/0", "10.0.8.2"),))
    outcome = world.send("a1", "192.0.2.1", ttl=20)
    assert punted(outcome) == Reason.TTL_EXCEEDED


def test_several_routers_in_one_network_each_route_what_is_sent_to_them() -> None:
    world = Switches()
    world.network("c", 3, "10.0.2.0/24", "fd00:c::/64")
    world.router("s", "c")
    world.interface("s", "a", "10.0.0.2", "fd00:a::2")
    world.port("c1", "c", on="h1", ips=("10.0.2.11", "fd00:c::11"))
    assert world.send("a1", "10.0.2.11", to="s-a").ports == [world.key("c1")]
    assert punted(world.send("a1", "10.0.2.11", to="r-a")) == Reason.NO_ROUTE
    assert world.send("a1", "10.0.1.11", to="r-a").ports == [world.key("b1")]


# --- static and policy routes ------------------------------------------------------------------------------------


def test_a_static_route_leads_to_a_vm_that_forwards() -> None:
    world = Switches()
    world.edit(
        "router", "r", routes=(StaticRoute("192.0.2.0/24", "10.0.1.11"), StaticRoute("2001:db8::/32", "fd00:b::11"))
    )
    for destination in ("192.0.2.7", "2001:db8::7"):
        [sent] = world.send("a1", destination).sent
        assert (sent.port, sent.packet[f.ETH_DST]) == (world.key("b1"), world.mac("b1"))
        assert sent.packet[f.IP_TTL] == 63


def test_the_longest_prefix_wins_and_an_interfaces_own_before_a_route() -> None:
    world = Switches()
    world.edit("router", "r", routes=(
        StaticRoute("0.0.0.0/0", "10.0.1.11"), StaticRoute("192.0.2.0/24", "10.0.1.12"),
        StaticRoute("192.0.2.128/25", "10.0.1.11"), StaticRoute("10.0.1.0/24", "10.0.0.11"),
        StaticRoute("10.0.1.12/32", "10.0.1.11"),
    ))  # fmt: skip
    assert world.send("a1", "198.51.100.1").ports == [world.key("b1")]
    assert world.send("a1", "192.0.2.1").sent[0].packet[f.ETH_DST] == world.mac("b2")
    assert world.send("a1", "192.0.2.129").ports == [world.key("b1")]
    assert world.send("a1", "10.0.1.11").ports == [world.key("b1")]
    assert world.send("a1", "10.0.1.12").ports == [world.key("b1")]


@pytest.mark.parametrize("nexthop", ["192.0.2.1", "fd00:b::11"], ids=["in no subnet", "of the other version"])
def test_a_route_without_a_way_to_its_next_hop_does_not_count(nexthop: str) -> None:
    world = Switches()
    world.edit("router", "r", routes=(StaticRoute("198.51.100.0/24", nexthop),))
    assert punted(world.send("a1", "198.51.100.1")) == Reason.NO_ROUTE


def test_further_addresses_of_a_vm_are_reached() -> None:
    world = Switches()
    pairs = (AddressPair("10.0.1.100"), AddressPair("fd00:b::100", "00:00:5e:00:02:07"), AddressPair("10.0.1.128/25"))
    world.edit("port", "b1", allowed_address_pairs=pairs)
    [sent] = world.send("a1", "10.0.1.100").sent
    assert (sent.port, sent.packet[f.ETH_DST]) == (world.key("b1"), world.mac("b1"))
    assert f.mac("00:00:5e:00:02:07") in {s.packet[f.ETH_DST] for s in world.send("a1", "fd00:b::100").sent}
    assert punted(world.send("a1", "10.0.1.130")) == Reason.HOST_UNREACHABLE


def test_of_ports_that_share_an_address_the_first_that_is_plugged_has_it() -> None:
    world = Switches()
    for port in ("b1", "b2"):
        world.edit("port", port, allowed_address_pairs=(AddressPair("10.0.1.100"),))
    assert world.send("a1", "10.0.1.100").sent[0].packet[f.ETH_DST] == world.mac("b1")
    world.unplug("b1")
    assert world.send("a1", "10.0.1.100").sent[0].packet[f.ETH_DST] == world.mac("b2")


def test_policy_routes_by_priority() -> None:
    world = Switches()
    world.edit("router", "r", policy_routes=(
        PolicyRoute(priority=10, source="10.0.0.0/24", nexthops=("10.0.1.12",)),
        PolicyRoute(priority=20, destination="10.0.1.0/24", action="allow"),
        PolicyRoute(priority=30, destination="10.0.1.0/24", protocol="tcp", destination_port=25, action="drop"),
        PolicyRoute(priority=30, source="fd00:a::/64", protocol="udp", destination_port=53, nexthops=("fd00:b::12",)),
    ))  # fmt: skip
    assert world.send("a1", "192.0.2.1").sent[0].packet[f.ETH_DST] == world.mac("b2")
    assert world.send("a1", "10.0.1.11").ports == [world.key("b1")]
    assert world.send("a1", "10.0.1.11", IP_PROTO=f.TCP, TCP_DST=25).ports == []
    assert world.send("a1", "10.0.1.11", IP_PROTO=f.TCP, TCP_DST=80).ports == [world.key("b1")]
    assert world.send("a1", "fd00:b::11", IP_PROTO=f.UDP, UDP_DST=53).sent[0].packet[f.ETH_DST] == world.mac("b2")
    assert world.send("a1", "fd00:b::11", IP_PROTO=f.UDP, UDP_DST=54).ports == [world.key("b1")]
    assert punted(world.send("b1", "192.0.2.1", to="r-b")) == Reason.NO_ROUTE


def test_a_policy_without_prefixes_is_for_both_versions() -> None:
    world = Switches()
    world.edit("router", "r", policy_routes=(PolicyRoute(priority=1, protocol="icmp", action="drop"),))
    assert world.send("a1", "10.0.1.11", IP_PROTO=f.ICMP, ICMPV4_TYPE=8).ports == []
    assert world.send("a1", "fd00:b::11", IP_PROTO=f.ICMPV6, ICMPV6_TYPE=128).ports == []
    assert world.send("a1", "10.0.1.11", IP_PROTO=f.TCP).ports == [world.key("b1")]


def test_of_equal_policies_the_first_counts() -> None:
    world = Switches()
    same = {"priority": 5, "destination": "10.0.1.0/24"}
    world.edit("router", "r", policy_routes=(PolicyRoute(**same, action="drop"), PolicyRoute(**same, action="allow")))
    assert world.send("a1", "10.0.1.11").ports == []


# --- several next hops -------------------------------------------------------------------------------------------


def hops_of(world: Switches, destination: str = "192.0.2.7", flows: int = 600) -> list[int]:
    """The next hop's MAC address for each of many flows."""
    switch, found = world.switch("h1"), []
    a1 = world.topology.get("port", "a1")
    for port in range(flows):
        packet = {
            f.ETH_SRC: f.mac(a1.mac_address), f.ETH_DST: world.mac("r-a"), f.ETH_TYPE: f.IPV4, f.IP_PROTO: f.TCP,
            f.IPV4_SRC: f.ip("10.0.0.11"), f.IPV4_DST: f.ip(destination), f.IP_TTL: 64,
            f.TCP_SRC: 1024 + port, f.TCP_DST: 80,
        }  # fmt: skip
        [sent] = switch.run(packet, a1.port_key).sent
        found.append(sent.packet[f.ETH_DST])
    return found


def several(*hops: str, others: tuple[StaticRoute, ...] = ()) -> Switches:
    world = Switches()
    world.port("b3", "b", on="h1", ips=("10.0.1.13", "fd00:b::13"))
    world.edit("router", "r", routes=(*others, *(StaticRoute("192.0.2.0/24", hop) for hop in hops)))
    return world


def test_flows_are_spread_over_several_next_hops_and_stay_with_theirs() -> None:
    world = several("10.0.1.11", "10.0.1.12", "10.0.1.13")
    before = hops_of(world)
    shares = Counter(before)
    assert set(shares) == {world.mac("b1"), world.mac("b2"), world.mac("b3")}
    assert min(shares.values()) > 100
    assert hops_of(world) == before
    assert hops_of(several("10.0.1.13", "10.0.1.11", "10.0.1.12")) == before
    other = StaticRoute("198.51.100.0/24", "10.0.1.11"), StaticRoute("198.51.100.0/24", "10.0.1.12")
    assert hops_of(several("10.0.1.11", "10.0.1.12", "10.0.1.13", others=other)) == before


def test_taking_a_next_hop_away_moves_its_own_flows_only() -> None:
    world = several("10.0.1.11", "10.0.1.12", "10.0.1.13")
    before = hops_of(world)
    world.edit("router", "r", routes=tuple(StaticRoute("192.0.2.0/24", hop) for hop in ("10.0.1.11", "10.0.1.13")))
    after = hops_of(world)
    gone = world.mac("b2")
    assert gone not in after
    assert all(one == other for one, other in zip(before, after, strict=True) if one != gone)
    moved = Counter(other for one, other in zip(before, after, strict=True) if one == gone)
    assert set(moved) == {world.mac("b1"), world.mac("b3")}


def test_a_policy_route_spreads_as_well() -> None:
    world = several()
    policy = PolicyRoute(priority=1, source="10.0.0.0/24", nexthops=("10.0.1.11", "10.0.1.12"))
    world.edit("router", "r", policy_routes=(policy,))
    assert set(hops_of(world, flows=100)) == {world.mac("b1"), world.mac("b2")}


def test_flows_of_ipv6_are_spread_as_well() -> None:
    world = Switches()
    routes = tuple(StaticRoute("2001:db8::/32", hop) for hop in ("fd00:b::11", "fd00:b::12"))
    world.edit("router", "r", routes=routes)
    hops = [world.send("a1", f"2001:db8::{n:x}").sent[0].packet[f.ETH_DST] for n in range(30)]
    assert set(hops) == {world.mac("b1"), world.mac("b2")}


def test_a_next_hop_named_twice_is_one() -> None:
    world = several("10.0.1.11", "10.0.1.11")
    assert set(hops_of(world, flows=50)) == {world.mac("b1")}
    assert not [
        rule for rule in world.rules("h1") if isinstance(rule, Flow) and rule.table == t.ECMP.number and rule.priority
    ]


def test_slots_are_dealt_by_rendezvous() -> None:
    hops = tuple(range(10, 26))
    dealt = deal(hops)
    assert len(dealt) == SLOTS and set(dealt) == set(hops)
    assert deal(tuple(reversed(hops))) == dealt
    for gone in hops:
        left = deal(tuple(hop for hop in hops if hop != gone))
        assert all(new == old for old, new in zip(dealt, left, strict=True) if old != gone)


def test_route_numbers_follow_from_names_and_never_meet() -> None:
    taken: set[int] = set()
    first = number_of("route 192.0.2.0/24", taken)
    assert number_of("route 192.0.2.0/24", set()) == first
    assert number_of("route 192.0.2.0/24", taken) == first + 1


# --- path MTU ----------------------------------------------------------------------------------------------------


def test_what_is_too_large_for_the_next_network_is_told() -> None:
    world = Switches()
    world.edit("network", "b", mtu=1000)
    assert world.send("a1", "10.0.1.11", SIZE=1014).ports == [world.key("b1")]
    outcome = world.send("a1", "10.0.1.11", SIZE=1015)
    assert punted(outcome) == Reason.TOO_BIG
    assert outcome.sent[0].packet[f.NETWORK] == 2
    assert punted(world.send("a1", "fd00:b::11", SIZE=1015)) == Reason.TOO_BIG
    assert world.send("b1", "10.0.0.11", to="r-b", SIZE=1400).ports == [world.key("a1")]


# --- the way outside ---------------------------------------------------------------------------------------------


def with_outside(**router: object) -> Switches:
    world = Switches()
    world.network("ext", 100, "203.0.113.0/24", "2001:db8:1::/64", external=True, physical_network="phys")
    world.wire("h3", "phys")
    world.interface("r", "ext", "203.0.113.10", "2001:db8:1::10")
    world.edit("router", "r", **router)
    return world


def next_hops(world: Switches, six: bool) -> list[tuple]:
    """What flows of default routes to the outside do."""
    ethertype, field = (f.IPV6, f.IPV6_DST) if six else (f.IPV4, f.IPV4_DST)
    return [
        rule.actions
        for rule in world.rules("h1")
        if isinstance(rule, Flow)
        and (rule.table, rule.goto) == (t.ROUTE.number, t.OUTWARD.number)
        and f.ETH_TYPE(ethertype) in rule.match
        and field.head[:2] + field.head_masked[2:3] not in rule.match
    ]


def test_the_gateways_subnet_gives_the_default_route() -> None:
    world = with_outside()
    assert next_hops(world, six=False) == [(set_field(f.NEXT_HOP, f.ip("203.0.113.1")),)]
    assert next_hops(world, six=True) == [(set_field(f.NEXT_HOP6, f.ip("2001:db8:1::1")),)]


def test_a_static_default_route_comes_before_the_gateways() -> None:
    world = with_outside(routes=(StaticRoute("0.0.0.0/0", "10.0.1.11"), StaticRoute("::/0", "2001:db8:1::9")))
    assert next_hops(world, six=False) == []
    assert world.send("a1", "192.0.2.1").ports == [world.key("b1")]
    assert next_hops(world, six=True) == [(set_field(f.NEXT_HOP6, f.ip("2001:db8:1::9")),)]


def test_a_larger_mtu_outside_makes_inner_routes_check_what_fits() -> None:
    world = with_outside()  # 1500 bytes there, 1434 inside
    assert punted(world.send("a1", "10.0.1.11", SIZE=1453)) == Reason.TOO_BIG
    world.edit("network", "ext", mtu=1400)
    assert world.send("a1", "10.0.1.11", SIZE=1453).ports == [world.key("b1")]


# --- what it costs -----------------------------------------------------------------------------------------------


def test_one_more_vm_in_a_routed_network_compiles_only_its_own_owners() -> None:
    world = Switches()
    for n in range(300):
        world.port(f"p{n}", "ab"[n % 2], on=f"h{n % 3 + 1}", ips=(f"10.0.{n % 2}.{n // 2 + 20}",))
    changes = world.port("new", "a", on="h1", ips=("10.0.0.250",))
    dirty = set(scope.dirty(world.topology, changes))
    own = (("h1", ("network", "a")), ("h1", ("qos", "new")))
    assert dirty == {*((h, ("port", "new")) for h in ("h1", "h2", "h3")), *own}


def test_a_remote_vm_costs_a_routed_hypervisor_three_flows() -> None:
    world = Switches()
    before = len(world.rules("h1"))
    world.port("more", "b", on="h2", ips=("10.0.1.20",))
    assert len(world.rules("h1")) == before + 3  # forwarding, the answer to ARP, the next hop


def test_a_hypervisor_that_reaches_nothing_of_a_router_has_nothing_of_it() -> None:
    world = Switches()
    assert Compiler().compile(world.topology, "h3", ("router", "r")) == []
