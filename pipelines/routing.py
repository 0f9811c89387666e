"""Distributed routing: what goes from subnet to subnet is routed on its sender's hypervisor (RFC 1812, RFC 8200).

A router is on every hypervisor that reaches one of its networks. A packet for the MAC address of an interface enters at
``router_admit``; its own addresses are answered, policy routes and routes (the longest prefix has the highest priority)
choose the next hop, ``neighbour`` finds that one's MAC address, and from there on the packet is switched. Next hops
outside are left to ``nat``: such a packet goes to ``gateway_redirect`` as it came, with nothing but its next hop set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_network
from typing import NamedTuple

from topology.graph import Topology
from topology.model import PolicyRoute

from . import fields as f
from . import tables as t
from .addresses import PortAddresses, addresses_of, link_local
from .flow import Action, Flow, Rule, check_pkt_larger, copy, dec_ttl, match, multipath, resubmit, set_bits, set_field
from .placement import Placed, placed
from .punting import Reason, punt
from .routers import FAMILIES, V4, V6, Family, Hop, Interface, Prefix, Routed, of_address, of_prefix, routed, within
from .services import answer_arp, answer_nd
from .spreading import SLOTS, deal, number_of

# priorities, a band for each table
ADMIT = 100
ECHO_NEAR, ECHO, FRAGMENT, OWN, NEVER_TO, NEVER_FROM, EXPIRED = 400, 300, 250, 200, 160, 150, 100
POLICY = 100
"""Policy routes: + their priority."""
ROUTE, NO_ROUTE = 100, 10
"""Routes: + 2 for each bit of the prefix, + 1 for the prefix of an interface."""
HOP = 100
TOO_LARGE, ADDRESS, PAIR, NOBODY = 300, 200, 140, 10

ECHO_TTL = 65
"""Replies leave with a TTL of 64: they are routed like all else, which takes one."""
HASHED = "symmetric_l3l4+udp"
"""What makes a flow where several next hops share a route: addresses, protocol, and ports of TCP, UDP and SCTP."""
ETHERNET = 14
"""Bytes of the Ethernet header, which ``check_pkt_larger`` counts."""
_ANY_FRAGMENT = f.IP_FRAG(1, 1)

FORGET_ORIGIN: tuple[Action, ...] = (
    set_field(f.INGRESS, f.NO_PORT),
    set_bits(f.ORIGIN, 0),
    set_bits(f.ACTIVE, 0),
    set_field(f.PEER, 0),
)
"""What is routed may go anywhere, back to where it came from as well."""


# --- what every bridge has ---------------------------------------------------------------------------------------


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """What no router forwards, and what is answered with an ICMP error (RFC 792, RFC 4443)."""
    for family in FAMILIES:
        ip = f.ETH_TYPE(family.ethertype)
        for prefix in map(ip_network, family.never):
            yield Flow(
                t.ROUTER_LOCAL.number,
                NEVER_TO,
                match(ip, within(family.destination, prefix)),
                reason="destination is never routed: link-local, multicast or a host's own",
            )
            yield Flow(
                t.ROUTER_LOCAL.number,
                NEVER_FROM,
                match(ip, within(family.source, prefix)),
                reason="source is never routed: link-local, multicast or a host's own",
            )
        for ttl in (0, 1):
            yield _punt(t.ROUTER_LOCAL, EXPIRED, Reason.TTL_EXCEEDED, ip, f.IP_TTL(ttl))
        yield _punt(t.ROUTE, NO_ROUTE, Reason.NO_ROUTE, ip)
        yield _punt(t.NEIGHBOUR, TOO_LARGE, Reason.TOO_BIG, ip, f.TOO_LARGE(1))
        yield _punt(t.NEIGHBOUR, NOBODY, Reason.HOST_UNREACHABLE, ip)


def _punt(table: t.Table, priority: int, reason: Reason, *tlvs: bytes) -> Flow:
    return Flow(table.number, priority, match(*tlvs), punt(reason), goto=t.PUNT.number)


# --- routers -----------------------------------------------------------------------------------------------------


def router(topology: Topology, hypervisor: str, router_id: str) -> Iterator[Rule]:
    """A router on a hypervisor that reaches one of its networks."""
    found = routed(topology, hypervisor, router_id)
    if found is None:
        return
    for interface in found.interfaces:
        if not interface.outside:
            yield from _enter(found, interface)
            if hypervisor in topology.hypervisors_of(interface.port.network_id):
                yield from _resolve(interface)
        yield from _own_addresses(found, interface)
    yield from _policies(found)
    yield from _routes(found)


def _enter(found: Routed, interface: Interface) -> Iterator[Flow]:
    """What is for the interface's MAC address enters the router; so does what another router sends to its addresses."""
    addresses = interface.addresses
    yield Flow(
        t.ROUTER_ADMIT.number,
        ADMIT,
        match(f.NETWORK(interface.vni), f.ETH_DST(addresses.mac)),
        (set_field(f.ROUTER, found.key),),
        goto=t.ROUTER_NAT.number,
    )
    for family, address in _addressed(addresses):
        yield Flow(
            t.NEIGHBOUR.number,
            ADDRESS,
            match(f.NETWORK(interface.vni), f.ETH_TYPE(family.ethertype), family.next_hop(address)),
            (set_field(f.ETH_DST, addresses.mac), resubmit(t.ROUTER_ADMIT.number)),
        )


def _addressed(addresses: PortAddresses) -> Iterator[tuple[Family, int]]:
    """The addresses that packets can be routed to."""
    near = link_local(addresses.mac)
    for address in addresses.v4:
        yield V4, address
    for address in addresses.v6:
        if address != near:
            yield V6, address


def _resolve(interface: Interface) -> Iterator[Flow]:
    """Answers to VMs that ask for the interface's MAC address."""
    addresses = interface.addresses
    for address in addresses.v4:
        yield answer_arp(interface.vni, address, addresses.mac)
    for address in addresses.v6:
        yield answer_nd(interface.vni, address, addresses.mac, router=True)


def _own_addresses(found: Routed, interface: Interface) -> Iterator[Flow]:
    """Echo requests are answered, from whatever network they come; all else for the router itself is refused.

    An address outside is the router's for what comes from there: packets from inside are on their way out.
    """
    addresses, router = interface.addresses, f.ROUTER(found.key)
    here = (f.NETWORK(interface.vni), f.FROM_PROVIDER(1)) if interface.outside else ()
    for family, address in _addressed(addresses):
        own = (router, *here, f.ETH_TYPE(family.ethertype), family.destination(address))
        yield from _answer(own, family, address)
    if not addresses.v6:
        return
    link = (router, f.NETWORK(interface.vni), f.ETH_TYPE(f.IPV6))
    near = link_local(addresses.mac)
    yield from _answer((*link, f.IPV6_DST(near)), V6, near)
    for address in addresses.v6:
        yield from _answer_neighbour(link, addresses.mac, address)


def _answer(own: tuple[bytes, ...], family: Family, address: int) -> Iterator[Flow]:
    """An echo request becomes its reply, which is routed back; else the port is unreachable.

    A switch shows ICMP types of whole packets only, so a fragment cannot be answered.
    """
    yield Flow(
        t.ROUTER_LOCAL.number,
        ECHO,
        match(*own, f.IP_PROTO(family.icmp), family.icmp_type(family.echo)),
        (
            copy(family.source, family.destination),
            set_field(family.source, address),
            set_field(f.IP_TTL, ECHO_TTL),
            set_field(family.icmp_type, family.echo_reply),
            set_bits(f.EXEMPT, 1),
        ),
        goto=t.POLICY_ROUTE.number,
    )
    yield Flow(t.ROUTER_LOCAL.number, FRAGMENT, match(*own, _ANY_FRAGMENT), reason="fragment for the router itself")
    yield _punt(t.ROUTER_LOCAL, OWN, Reason.PORT_UNREACHABLE, *own)


def _answer_neighbour(link: tuple[bytes, ...], mac: int, address: int) -> Iterator[Flow]:
    """An echo request from a link-local address is answered on its link, since nothing is routed there."""
    yield Flow(
        t.ROUTER_LOCAL.number,
        ECHO_NEAR,
        match(
            *link,
            within(f.IPV6_SRC, ip_network("fe80::/10")),
            f.IPV6_DST(address),
            f.IP_PROTO(f.ICMPV6),
            f.ICMPV6_TYPE(V6.echo),
        ),
        (
            copy(f.ETH_SRC, f.ETH_DST),
            set_field(f.ETH_SRC, mac),
            copy(f.IPV6_SRC, f.IPV6_DST),
            set_field(f.IPV6_SRC, address),
            set_field(f.IP_TTL, ECHO_TTL - 1),
            set_field(f.ICMPV6_TYPE, V6.echo_reply),
            set_bits(f.EXEMPT, 1),
            *FORGET_ORIGIN,
        ),
        goto=t.L2_LOOKUP.number,
    )


# --- where packets go --------------------------------------------------------------------------------------------


class _Way(NamedTuple):
    """How a packet leaves for a next hop."""

    actions: tuple[Action, ...]
    network: int | None
    goto: t.Table


def _way(found: Routed, family: Family, hop: Hop) -> _Way:
    towards: Action
    if hop.address is None:
        towards = copy(family.destination, family.next_hop)
    else:
        towards = set_field(family.next_hop, hop.address)
    out = hop.interface
    if out.outside:
        return _Way((towards,), None, t.OUTWARD)
    actions = (towards, dec_ttl(), set_field(f.ETH_SRC, out.addresses.mac), *FORGET_ORIGIN)
    if out.mtu < found.largest:
        actions = (*actions, check_pkt_larger(out.mtu + ETHERNET, f.TOO_LARGE))
    return _Way(actions, out.vni, t.SNAT)


def _send(
    found: Routed, table: t.Table, priority: int, tlvs: Iterable[bytes], family: Family, hops: Sequence[Hop], route: int
) -> Iterator[Flow]:
    """What matches goes to the next hop, or each flow of it to one of several, as ``spreading`` deals them."""
    if len(hops) == 1:
        way = _way(found, family, hops[0])
        yield Flow(table.number, priority, match(*tlvs), way.actions, goto=way.goto.number, metadata=way.network)
        return
    spread = (set_field(f.ROUTE, route), multipath(f.SLOT, SLOTS, fields=HASHED, basis=route & 0xFFFF))
    yield Flow(table.number, priority, match(*tlvs), spread, goto=t.ECMP.number)
    ways = {hop.address or 0: _way(found, family, hop) for hop in hops}
    for slot, address in enumerate(deal(tuple(sorted(ways)))):
        way = ways[address]
        share = match(f.ROUTER(found.key), f.ROUTE(route), f.SLOT(slot), f.ETH_TYPE(family.ethertype))
        yield Flow(t.ECMP.number, HOP, share, way.actions, goto=way.goto.number, metadata=way.network)


def _hops(found: Routed, family: Family, texts: Iterable[str]) -> list[Hop]:
    """The next hops of a version that an interface leads to, each once, in order."""
    hops = (found.hop(text) for text in dict.fromkeys(texts) if of_address(text) is family)
    return sorted({hop.address or 0: hop for hop in hops if hop is not None}.values(), key=lambda hop: hop.address or 0)


def _routes(found: Routed) -> Iterator[Flow]:
    """The prefixes of the interfaces, static routes, and the default route outside."""
    connected: dict[Prefix, Hop] = {}
    for interface in found.interfaces:
        for subnet in interface.subnets:
            connected.setdefault(ip_network(subnet.cidr), Hop(interface))
    static = {prefix: hops for prefix, hops in _static(found).items() if prefix not in connected}
    numbers: set[int] = set()
    for prefix, hops in (*((prefix, [hop]) for prefix, hop in connected.items()), *static.items()):
        family = of_prefix(prefix)
        priority = ROUTE + 2 * prefix.prefixlen + (prefix in connected)
        tlvs = (f.ROUTER(found.key), f.ETH_TYPE(family.ethertype), within(family.destination, prefix))
        route = number_of(f"route {prefix}", numbers)
        yield from _send(found, t.ROUTE, priority, tlvs, family, hops, route)


def _static(found: Routed) -> dict[Prefix, list[Hop]]:
    """Next hops by prefix. A route whose next hops no interface leads to does not count."""
    texts: dict[Prefix, list[str]] = {}
    for route in found.router.routes:
        texts.setdefault(ip_network(route.destination, strict=False), []).append(route.nexthop)
    every = {prefix: _hops(found, of_prefix(prefix), nexthops) for prefix, nexthops in texts.items()}
    static = {prefix: hops for prefix, hops in every.items() if hops}
    for interface in found.interfaces:
        for subnet in interface.subnets if interface.outside else ():
            if subnet.gateway_ip is not None:
                default = ip_network("::/0" if ":" in subnet.gateway_ip else "0.0.0.0/0")
                static.setdefault(default, [Hop(interface, f.ip(subnet.gateway_ip))])
    return static


# --- policy routes -----------------------------------------------------------------------------------------------

_PROTOCOLS = {"tcp": (f.TCP, f.TCP_DST), "udp": (f.UDP, f.UDP_DST)}


def _policies(found: Routed) -> Iterator[Flow]:
    """Policy routes. Of two that match the same with the same priority, the first counts."""
    taken: set[tuple[int, bytes]] = set()
    numbers: set[int] = set()
    for policy in found.router.policy_routes:
        for family, tlvs in _matches(found, policy):
            key = policy.priority, match(*tlvs)
            if key not in taken:
                taken.add(key)
                yield from _policy(found, policy, family, tlvs, numbers)


def _policy(
    found: Routed, policy: PolicyRoute, family: Family, tlvs: tuple[bytes, ...], numbers: set[int]
) -> Iterator[Flow]:
    priority = POLICY + policy.priority
    match policy.action:
        case "drop":
            yield Flow(t.POLICY_ROUTE.number, priority, match(*tlvs), reason="a policy route drops it")
        case "allow":
            yield Flow(t.POLICY_ROUTE.number, priority, match(*tlvs), goto=t.ROUTE.number)
        case "reroute":
            hops = _hops(found, family, policy.nexthops)
            if hops:
                route = number_of(f"policy {priority} {match(*tlvs).hex()}", numbers)
                yield from _send(found, t.POLICY_ROUTE, priority, tlvs, family, hops, route)


def _matches(found: Routed, policy: PolicyRoute) -> Iterator[tuple[Family, tuple[bytes, ...]]]:
    """What a policy route matches: for either version of IP, unless its prefixes say which."""
    prefixes = [text for text in (policy.source, policy.destination) if text is not None]
    for family in FAMILIES:
        if any(of_address(text) is not family for text in prefixes):
            continue
        tlvs = [f.ROUTER(found.key), f.ETH_TYPE(family.ethertype)]
        if policy.source is not None:
            tlvs.append(within(family.source, ip_network(policy.source, strict=False)))
        if policy.destination is not None:
            tlvs.append(within(family.destination, ip_network(policy.destination, strict=False)))
        yield family, (*tlvs, *_protocol(family, policy))


def _protocol(family: Family, policy: PolicyRoute) -> Iterator[bytes]:
    """The protocol of a policy route, and the port, which goes with TCP and UDP only."""
    if policy.protocol == "icmp":
        yield f.IP_PROTO(family.icmp)
    elif policy.protocol is not None:
        number, port = _PROTOCOLS[policy.protocol]
        yield f.IP_PROTO(number)
        if policy.destination_port is not None:
            yield port(policy.destination_port)


# --- neighbours --------------------------------------------------------------------------------------------------


def port(topology: Topology, hypervisor: str, found: Placed) -> Iterator[Rule]:
    """A VM as the next hop of routers in its network."""
    if not topology.routed_by(found.port.network_id):
        return
    addresses = addresses_of(found.port)
    for family, address in _addressed(addresses):
        yield _neighbour(ADDRESS, found.vni, family, address, addresses.mac)
    for text, mac in _paired(topology, hypervisor, found):
        yield _neighbour(PAIR, found.vni, of_address(text), f.ip(text), mac)


def _neighbour(priority: int, vni: int, family: Family, address: int, mac: int) -> Flow:
    next_hop = match(f.NETWORK(vni), f.ETH_TYPE(family.ethertype), family.next_hop(address))
    return Flow(t.NEIGHBOUR.number, priority, next_hop, (set_field(f.ETH_DST, mac),), goto=t.L2_LOOKUP.number)


def _paired(topology: Topology, hypervisor: str, found: Placed) -> Iterator[tuple[str, int]]:
    """Further addresses of a port and their MAC addresses. Of several ports that share one, that of the lowest key has it."""
    own = {fixed.ip_address for fixed in found.port.fixed_ips or ()}
    taken: set[str] = set()
    for pair in found.port.allowed_address_pairs:
        address = pair.ip_address
        if "/" in address or address in own or address in taken:
            continue
        taken.add(address)
        others = (placed(topology, hypervisor, id) for id in topology.paired(found.port.network_id, address))
        if not any(other is not None and other.key < found.key for other in others):
            yield address, f.mac(pair.mac_address or found.port.mac_address or "")
