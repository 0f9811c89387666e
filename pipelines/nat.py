"""The way outside: gateways, source NAT, floating IPs and port forwardings (RFC 3022, RFC 4787).

A router's gateway is one of a few hypervisors. Every other hypervisor sends what leaves to it, unrouted, by a fast-failover
group whose buckets watch the probes (BFD) to the gateways, best first; so the switch itself turns to the next one when
one dies. Floating IPs are translated on the VM's own hypervisor, where it is wired to the outside.

A router has a conntrack zone of its own, its key. One ``ct(commit, nat)`` serves both directions: where a connection is
known, conntrack undoes or repeats what was done to its first packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from topology.graph import Topology
from topology.model import FloatingIp, Neighbour, Network, Port, PortForwarding, Router

from . import fields as f
from . import tables as t
from .flow import (
    ALIVE,
    Action,
    Bucket,
    Flow,
    Group,
    Nat,
    Rule,
    conntrack,
    dec_ttl,
    group,
    match,
    resubmit,
    set_bits,
    set_field,
)
from .placement import has_router, live_vni
from .punting import Reason, punt
from .routing import FORGET_ORIGIN
from .services import ARP_REQUEST, ICMPV6, NA, REPLY, SOLICITATION, answer_arp, answer_nd

# priorities, a band for each table
FLOATING, ARRIVED, REDIRECT = 300, 200, 100
FORWARDED, RETURNING = 200, 100
OWN, TRANSLATE = 150, 100
LEARN, KNOWN = 160, 150
INVALID, STATIC, LEARNED, UNKNOWN = 400, 200, 150, 50
ADMIT, ASK_WHETHER_ACTIVE = 100, 90
TO_ROUTER = 100

REDIRECT_GROUPS, ACTIVE_GROUPS = 0xFE000000, 0xFF000000
"""Groups of routers: + key."""

VERSIONS = ((4, f.IPV4, f.IPV4_SRC, f.IPV4_DST, f.NEXT_HOP), (6, f.IPV6, f.IPV6_SRC, f.IPV6_DST, f.NEXT_HOP6))
"""IP version, ethertype, source, destination and next hop."""
_PROTOCOLS = {"tcp": (f.TCP, f.TCP_DST, f.TCP_SRC), "udp": (f.UDP, f.UDP_DST, f.UDP_SRC)}
_TRACKED_INVALID = 0x20 | 0x10
"""+trk+inv (ovs-fields(7))."""
_ACTIVE = (set_bits(f.ACTIVE, 1), resubmit(t.PROVIDER_ADMIT.number))


class WayOut(NamedTuple):
    """A router's gateway, seen from one hypervisor."""

    router: Router
    key: int
    port: Port
    network: Network
    vni: int
    mac: int
    gateways: tuple[str, ...]
    """Hypervisors, best first."""

    @property
    def addresses(self) -> list[str]:
        """The router's addresses outside."""
        return [fixed.ip_address for fixed in self.port.fixed_ips or () if fixed.ip_address]

    def address(self, version: int) -> int | None:
        """The address outside of an IP version."""
        return next((f.ip(text) for text in self.addresses if (":" in text) == (version == 6)), None)


def way_out(topology: Topology, router_id: str | None) -> WayOut | None:
    """A router's way to the outside; None while it has none."""
    router: Router | None = topology.get("router", router_id or "")
    port = topology.gateway_of(router_id or "")
    if router is None or router.router_key is None or not router.admin_state_up or port is None:
        return None
    vni = live_vni(topology, port.network_id)
    if vni is None or port.mac_address is None or not port.admin_state_up:
        return None
    network = topology.get("network", port.network_id)
    gateways = topology.gateways_of(router.id)
    return WayOut(router, router.router_key, port, network, vni, f.mac(port.mac_address), gateways)


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """What conntrack cannot make sense of has not been translated, so it must not leave; and what failover watches."""
    yield ALIVE
    yield Flow(
        t.NEIGHBOUR.number,
        INVALID,
        match(f.CT_STATE(_TRACKED_INVALID, _TRACKED_INVALID)),
        reason="connection tracking finds the packet invalid",
    )


def network(topology: Topology, hypervisor: str, network_id: str) -> Iterator[Rule]:
    """Next hops outside whose MAC address nobody knows yet."""
    found: Network | None = topology.get("network", network_id)
    vni = live_vni(topology, network_id)
    if vni is None or found is None or found.physical_network is None:
        return
    if hypervisor in topology.wired_to(network_id):
        for _, ethertype, *_ in VERSIONS:
            unknown = match(f.NETWORK(vni), f.ETH_TYPE(ethertype))
            yield Flow(t.NEIGHBOUR.number, UNKNOWN, unknown, punt(Reason.RESOLVE), goto=t.PUNT.number)


def router(topology: Topology, hypervisor: str, router_id: str) -> Iterator[Rule]:
    """What leaves by a router's gateway, and what comes back."""
    out = way_out(topology, router_id)
    if out is None or not has_router(topology, hypervisor, router_id):
        return
    yield from _redirect(topology, hypervisor, out)
    if hypervisor in out.gateways:
        yield from _gateway(topology, hypervisor, out)


# --- leaving -----------------------------------------------------------------------------------------------------


def _redirect(topology: Topology, hypervisor: str, out: WayOut) -> Iterator[Rule]:
    """To the best gateway that is alive, as this hypervisor's probes see it."""
    buckets: list[Bucket] = []
    for gateway in out.gateways:
        if gateway == hypervisor:
            buckets.append(Bucket((set_bits(f.FROM_TUNNEL, 1), resubmit(t.GATEWAY_REDIRECT.number))))
            break
        key = topology.get("hypervisor", gateway).hypervisor_key or 0
        buckets.append(Bucket(_tunnel(key), watch_port=_probe(topology, hypervisor, gateway)))
    if not buckets:
        return
    if hypervisor not in out.gateways:
        buckets.append(Bucket(buckets[0].actions))  # should every probe fail, try the best all the same
    yield Group(REDIRECT_GROUPS | out.key, "fast_failover", tuple(buckets))
    enter: tuple[Action, ...] = (
        set_field(f.NETWORK, out.vni),
        set_field(f.ETH_DST, out.mac),
        set_field(f.OUT_PORT_KEY, out.port.port_key or 0),
    )
    yield Flow(
        t.GATEWAY_REDIRECT.number,
        REDIRECT,
        match(f.ROUTER(out.key), f.FROM_TUNNEL(0)),
        (*enter, group(REDIRECT_GROUPS | out.key)),
    )


def _tunnel(peer: int) -> tuple[Action, ...]:
    return set_field(f.PEER, peer), resubmit(t.TUNNEL_OUTPUT.number)


def _probe(topology: Topology, hypervisor: str, peer: str) -> int | None:
    """The OpenFlow port of the probe to another hypervisor; None until it is there."""
    link = topology.get("link", f"{hypervisor}/{peer}")
    return link.ofport if link is not None else None


def route_out(vni: int, source_mac: int) -> tuple[Action, ...]:
    """The actions by which a packet is routed to the outside here."""
    return (dec_ttl(), set_field(f.ETH_SRC, source_mac), set_field(f.NETWORK, vni), *FORGET_ORIGIN)


def _gateway(topology: Topology, hypervisor: str, out: WayOut) -> Iterator[Rule]:
    """What a gateway does; the others of the router are ready to."""
    for _, ethertype, *_ in VERSIONS:
        arrived = match(f.ROUTER(out.key), f.FROM_TUNNEL(1), f.ETH_TYPE(ethertype))
        yield Flow(t.GATEWAY_REDIRECT.number, ARRIVED, arrived, route_out(out.vni, out.mac), goto=t.SNAT.number)
    to_gateway = match(f.OUT_PORT_KEY(out.port.port_key or 0), f.NETWORK(out.vni))
    yield Flow(t.LOCAL_OUTPUT.number, TO_ROUTER, to_gateway, (resubmit(t.ROUTER_ADMIT.number),))
    yield _admit(out.vni, out.mac, out.key)
    yield from _whether_active(topology, hypervisor, out)
    ask = _ask_whether_active(hypervisor, out)
    for_router = (f.NETWORK(out.vni), f.ETH_DST(out.mac))
    yield Flow(t.PROVIDER_ADMIT.number, ADMIT, match(*for_router, f.ACTIVE(1)), goto=t.ROUTER_ADMIT.number)
    yield Flow(t.PROVIDER_ADMIT.number, ASK_WHETHER_ACTIVE, match(*for_router), ask)
    yield from _learn(out.vni, out.mac)
    for text in out.addresses:
        yield from _answer_when_active(out, text, ask)
    if hypervisor == out.gateways[0]:
        yield from _hairpin(out.vni, out.addresses, out.mac)
    for version, ethertype, source, destination, _ in VERSIONS:
        address = out.address(version)
        if address is None or not out.router.enable_snat:
            continue
        own = match(f.ROUTER(out.key), f.NETWORK(out.vni), f.ETH_TYPE(ethertype), source(address))
        yield Flow(t.SNAT.number, OWN, own, goto=t.NEIGHBOUR.number)
        leaving = match(f.ROUTER(out.key), f.NETWORK(out.vni), f.ETH_TYPE(ethertype))
        translate = conntrack(
            zone=out.key, commit=True, nat=Nat("src", address, version=version), table=t.NEIGHBOUR.number
        )
        yield Flow(t.SNAT.number, TRANSLATE, leaving, (translate,))
        returning = match(f.ROUTER(out.key), f.NETWORK(out.vni), f.ETH_TYPE(ethertype), destination(address))
        undo = conntrack(zone=out.key, nat=Nat(), table=t.ROUTER_LOCAL.number)
        yield Flow(t.ROUTER_NAT.number, RETURNING, returning, (undo,))


def _admit(vni: int, mac: int, router_key: int) -> Flow:
    """A MAC address of a router's outside."""
    return Flow(
        t.ROUTER_ADMIT.number,
        ADMIT,
        match(f.NETWORK(vni), f.ETH_DST(mac)),
        (set_field(f.ROUTER, router_key),),
        goto=t.ROUTER_NAT.number,
    )


def _whether_active(topology: Topology, hypervisor: str, out: WayOut) -> Iterator[Group]:
    """For a gateway that is not the first: packets go on, marked ACTIVE, when every better one is dead."""
    rank = out.gateways.index(hypervisor)
    if rank:
        probes = (_probe(topology, hypervisor, gateway) for gateway in out.gateways[:rank])
        better = [Bucket((), watch_port=probe) for probe in probes if probe is not None]
        yield Group(ACTIVE_GROUPS | out.key, "fast_failover", (*better, Bucket(_ACTIVE)))


def _ask_whether_active(hypervisor: str, out: WayOut) -> tuple[Action, ...]:
    return _ACTIVE if hypervisor == out.gateways[0] else (group(ACTIVE_GROUPS | out.key),)


def _answer_when_active(out: WayOut, text: str, ask: tuple[Action, ...]) -> Iterator[Flow]:
    """ARP or ND for an address that the gateway has: the one that is active answers, with the router's MAC address."""
    answer, address = (answer_nd if ":" in text else answer_arp), f.ip(text)
    yield answer(out.vni, address, out.mac, f.ACTIVE(1), table=t.PROVIDER_ADMIT)
    asked = (*SOLICITATION, f.ND_TARGET(address)) if ":" in text else (*ARP_REQUEST, f.ARP_TPA(address))
    yield Flow(t.PROVIDER_ADMIT.number, ASK_WHETHER_ACTIVE, match(f.NETWORK(out.vni), *asked), ask)


def _hairpin(vni: int, addresses: Iterable[str], mac: int) -> Iterator[Flow]:
    """Addresses outside that are here: a bridge does not send a packet back out of the wire that it would go to."""
    for text in addresses:
        address, six = f.ip(text), ":" in text
        yield (answer_nd if six else answer_arp)(vni, address, mac)
        next_hop = (f.ETH_TYPE(f.IPV6), f.NEXT_HOP6(address)) if six else (f.ETH_TYPE(f.IPV4), f.NEXT_HOP(address))
        yield Flow(
            t.NEIGHBOUR.number,
            STATIC,
            match(f.NETWORK(vni), *next_hop),
            (set_field(f.ETH_DST, mac), set_bits(f.FROM_PROVIDER, 1), resubmit(t.ROUTER_ADMIT.number)),
        )


# --- floating IPs ------------------------------------------------------------------------------------------------


def floating_ip(topology: Topology, hypervisor: str, floating_ip_id: str) -> Iterator[Rule]:
    """A floating IP where it is: with its VM, or for port forwardings and VMs that are not wired, at the gateway."""
    floating: FloatingIp | None = topology.get("floating-ip", floating_ip_id)
    out = way_out(topology, topology.router_of_floating(floating_ip_id))
    if floating is None or out is None or floating.floating_ip_address is None or floating.mac_address is None:
        return
    at_gateway = hypervisor in out.gateways
    if floating.port_id is None:
        if at_gateway:
            yield from _at_gateway(topology, hypervisor, out, floating.floating_ip_address)
            for id in sorted(topology.forwardings_of(floating_ip_id)):
                yield from _forward(out, floating.floating_ip_address, topology.get("port-forwarding", id))
        return
    port: Port | None = topology.get("port", floating.port_id)
    inside = _inside(floating, port)
    here = topology.location(floating.port_id)
    if inside is None or here is None or port is None or not port.admin_state_up:
        return
    if here in topology.wired_to(floating.floating_network_id):
        if here == hypervisor:
            mac = f.mac(floating.mac_address)
            yield from _translate(out, floating.floating_ip_address, inside)
            yield from _with_vm(out, floating.floating_ip_address, inside, mac)
    elif at_gateway:
        yield from _translate(out, floating.floating_ip_address, inside)
        yield from _at_gateway(topology, hypervisor, out, floating.floating_ip_address)


def _inside(floating: FloatingIp, port: Port | None) -> int | None:
    """The VM's address that a floating IP stands for."""
    six = ":" in (floating.floating_ip_address or "")
    texts = [fixed.ip_address or "" for fixed in (port.fixed_ips or () if port is not None else ())]
    if floating.fixed_ip_address is not None:
        texts = [text for text in texts if text == floating.fixed_ip_address]
    return next((f.ip(text) for text in texts if text and (":" in text) == six), None)


def _translate(out: WayOut, text: str, inside: int) -> Iterator[Flow]:
    """Both directions of a floating IP."""
    version, ethertype, source, destination, _ = VERSIONS[":" in text]
    outside, here = f.ip(text), (f.ROUTER(out.key), f.NETWORK(out.vni), f.ETH_TYPE(ethertype))
    inward = conntrack(zone=out.key, commit=True, nat=Nat("dst", inside, version=version), table=t.ROUTER_LOCAL.number)
    yield Flow(t.ROUTER_NAT.number, FORWARDED, match(*here, destination(outside)), (inward,))
    outward = conntrack(zone=out.key, commit=True, nat=Nat("src", outside, version=version), table=t.NEIGHBOUR.number)
    yield Flow(t.SNAT.number, FLOATING, match(*here, source(inside)), (outward,))


def _with_vm(out: WayOut, text: str, inside: int, mac: int) -> Iterator[Flow]:
    """A floating IP on its VM's hypervisor has a MAC address of its own, and its packets leave there."""
    _, ethertype, source, *_ = VERSIONS[":" in text]
    leaving = match(f.ROUTER(out.key), f.ETH_TYPE(ethertype), source(inside))
    yield Flow(t.GATEWAY_REDIRECT.number, FLOATING, leaving, route_out(out.vni, mac), goto=t.SNAT.number)
    yield _admit(out.vni, mac, out.key)
    yield from _learn(out.vni, mac)
    answer = answer_nd if ":" in text else answer_arp
    yield answer(out.vni, f.ip(text), mac, table=t.PROVIDER_ADMIT)
    yield from _hairpin(out.vni, [text], mac)


def _at_gateway(topology: Topology, hypervisor: str, out: WayOut, text: str) -> Iterator[Rule]:
    """A floating IP at the router's gateway answers with the router's MAC address."""
    yield from _whether_active(topology, hypervisor, out)
    yield from _answer_when_active(out, text, _ask_whether_active(hypervisor, out))
    if hypervisor == out.gateways[0]:
        yield from _hairpin(out.vni, [text], out.mac)


def _forward(out: WayOut, text: str, forwarding: PortForwarding) -> Iterator[Flow]:
    """One port of a floating IP."""
    if forwarding.internal_ip_address is None:
        return
    version, ethertype, source, destination, _ = VERSIONS[":" in text]
    protocol, external, internal = _PROTOCOLS[forwarding.protocol]
    inside, here = f.ip(forwarding.internal_ip_address), (f.ROUTER(out.key), f.NETWORK(out.vni), f.ETH_TYPE(ethertype))
    ports = (forwarding.internal_port, forwarding.internal_port)
    inward = conntrack(
        zone=out.key, commit=True, nat=Nat("dst", inside, version=version, ports=ports), table=t.ROUTER_LOCAL.number
    )
    asked = match(*here, destination(f.ip(text)), f.IP_PROTO(protocol), external(forwarding.external_port))
    yield Flow(t.ROUTER_NAT.number, FORWARDED, asked, (inward,))
    answers = match(*here, source(inside), f.IP_PROTO(protocol), internal(forwarding.internal_port))
    undo = conntrack(zone=out.key, nat=Nat(), table=t.NEIGHBOUR.number)
    yield Flow(t.SNAT.number, FLOATING, answers, (undo,))


# --- neighbours outside ------------------------------------------------------------------------------------------


def _learn(vni: int, mac: int) -> Iterator[Flow]:
    """Answers to a router's own questions who has an address."""
    for answer in ((f.ETH_TYPE(f.ARP), f.ARP_OP(REPLY)), (*ICMPV6, f.ICMPV6_TYPE(NA))):
        told = match(f.NETWORK(vni), f.ETH_DST(mac), *answer)
        yield Flow(t.PROVIDER_ADMIT.number, LEARN, told, punt(Reason.NEIGHBOUR), goto=t.PUNT.number)


def neighbour(topology: Topology, hypervisor: str, neighbour_id: str) -> Iterator[Rule]:
    """A host outside whose MAC address is known: how to send to it, and what shows that it has another one now."""
    found: Neighbour | None = topology.get("neighbour", neighbour_id)
    vni = live_vni(topology, found.network_id) if found is not None else None
    if found is None or vni is None or hypervisor not in topology.wired_to(found.network_id):
        return
    address, mac, six = f.ip(found.ip_address), f.mac(found.mac_address), ":" in found.ip_address
    next_hop = (f.ETH_TYPE(f.IPV6), f.NEXT_HOP6(address)) if six else (f.ETH_TYPE(f.IPV4), f.NEXT_HOP(address))
    yield Flow(
        t.NEIGHBOUR.number,
        LEARNED,
        match(f.NETWORK(vni), *next_hop),
        (set_field(f.ETH_DST, mac),),
        goto=t.L2_LOOKUP.number,
    )
    if found.learned:
        tells, says = (
            ((*ICMPV6, f.ICMPV6_TYPE(NA), f.ND_TARGET(address)), f.ND_TLL(mac))
            if six
            else ((f.ETH_TYPE(f.ARP), f.ARP_SPA(address)), f.ARP_SHA(mac))
        )
        yield Flow(t.PROVIDER_ADMIT.number, KNOWN, match(f.NETWORK(vni), *tells, says), goto=t.ROUTER_ADMIT.number)
        yield Flow(
            t.PROVIDER_ADMIT.number,
            KNOWN - 1,
            match(f.NETWORK(vni), *tells),
            (*punt(Reason.NEIGHBOUR), resubmit(t.PUNT.number)),
            goto=t.ROUTER_ADMIT.number,
        )
