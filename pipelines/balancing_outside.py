"""Clients outside: they come to a load balancer by a floating IP, at the active gateway of its router.

There is no client's port here whose zone could know the connection, so the router's zone does. What members answer leaves by the
same gateway, and is translated back there. Of a router without source NAT the outside reaches what is behind it as it is, so
load balancers, too, by the addresses that they have inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from topology.balancing import Backend, BackendPool, Balancer
from topology.graph import Topology
from topology.model import Member

from . import fields as f
from . import gateways
from . import tables as t
from .flow import Action, Flow, Nat, conntrack, ct_clear, match, resubmit, set_bits, set_field
from .gateways import WayOut, at_gateway, way_out
from .minimise.ranges import cover
from .nat import QUOTING, leaving
from .neighbours import next_hop
from .routers import Family, of_address

# priorities, a band for each table
SERVED, KNOWN, NEW = 250, 90, 150
OWN_ADDRESS, FROM_PORT, FROM_MEMBER, ERROR = 350, 295, 290, 290
CONTINUED, BAND = 1000, 1 << 14
REPLY, UNKNOWN = 100, 100

_PORTS = {f.TCP: f.TCP_SRC, f.UDP: f.UDP_SRC}
_SYN, _ACK = 0x02, 0x10
_BEGUN = f.CT_TRACKED | f.CT_NEW


class Way(NamedTuple):
    """How clients outside come to a load balancer: by a router, for an address."""

    out: WayOut
    address: str
    floating: bool
    """Whether the address is one outside, which the gateway has to answer for."""


def ways(topology: Topology, found: Balancer) -> Iterator[Way]:
    """All ways from outside to a load balancer that is up."""
    for entry in found.entries:
        routers = [entry.router_id]
        if entry.kind == "network":
            routers = [port.router_id for port in topology.routed_by(entry.network_id or "")]
        for router in routers:
            out = way_out(topology, router)
            if out is not None and (entry.kind == "outside" or not out.router.enable_snat):
                yield Way(out, entry.address, entry.kind == "outside")


def served(topology: Topology, hypervisor: str, found: Balancer) -> Iterator[Flow]:
    """What gateways do for the addresses of a load balancer."""
    for way in ways(topology, found):
        if hypervisor in way.out.gateways:
            yield from _served(found, way)


def _served(found: Balancer, way: Way) -> Iterator[Flow]:
    out, address, family = way.out, f.ip(way.address), of_address(way.address)
    from_outside = f.ROUTER(out.key), f.NETWORK(out.vni), f.FROM_PROVIDER(1), f.ETH_TYPE(family.ethertype)
    enter = set_field(f.BALANCER, found.key), set_bits(f.ZONE, out.key)
    yield Flow(
        t.ROUTER_NAT.number,
        SERVED,
        match(*from_outside, family.destination(address)),
        enter,
        goto=t.LB_VIP.number,
    )
    if not way.floating:
        return
    yield from at_gateway(out, way.address)
    # looked for on the way in, and translated then: packets of known connections, and errors about them
    looked_for = f.BALANCER(found.key), f.ROUTER(out.key), f.ZONE_KIND(0), f.CT_STATE(f.CT_TRACKED, f.CT_TRACKED)
    new = match(*looked_for, f.ETH_TYPE(family.ethertype), family.destination(address))
    yield Flow(t.LB_VIP.number, NEW, new, goto=t.LB_STATE.number)
    yield from _begun_here(way)
    asked = f.CT_IPV6_DST if family.version == 6 else f.CT_NW_DST
    valid = f.CT_STATE(f.CT_TRACKED, f.CT_TRACKED | f.CT_INVALID)
    yield Flow(
        t.ROUTER_LOCAL.number, KNOWN, match(*from_outside, valid, asked(address)), enter, goto=t.LB_FORWARD.number
    )
    own = match(*leaving(out, family), family.source(address))
    yield Flow(t.SNAT.number, OWN_ADDRESS, own, (ct_clear(),), goto=t.NEIGHBOUR.number)


def _begun_here(way: Way) -> Iterator[Flow]:
    """The first packet of a connection that another router here has just translated is new for this one, too.

    It is not looked for again: with client, both gateways and member on one hypervisor, that would be the seventh time that a fragment
    passes the switch, and six is the most (docs/decisions/0017).
    """
    out, family = way.out, of_address(way.address)
    begun = f.NETWORK(out.vni), *next_hop(way.address), f.CT_STATE(_BEGUN, _BEGUN | f.CT_INVALID)
    enter = set_field(f.ETH_DST, out.mac), resubmit(t.ROUTER_ADMIT.number)
    for first in ((f.CT_NW_PROTO(f.UDP),), (f.IP_PROTO(f.TCP), f.TCP_FLAGS(_SYN, _SYN | _ACK))):
        own = match(*begun, *first, family.destination(f.ip(way.address)))
        yield Flow(t.NEIGHBOUR.number, gateways.OWN_ADDRESS + 1, own, enter)


# --- what members answer -----------------------------------------------------------------------------------------


def answers(topology: Topology, hypervisor: str, of: BackendPool, found: Balancer, backend: Backend) -> Iterator[Flow]:
    """What a member sends to clients outside, on its way out at a gateway."""
    seen: set[int] = set()
    for way in ways(topology, found):
        if hypervisor in way.out.gateways and way.out.key not in seen:
            seen.add(way.out.key)
            yield from _answers(topology, of, found, backend, way)
    if seen:
        reply = f.CT_STATE(f.CT_TRACKED | f.CT_REPLY, f.CT_TRACKED | f.CT_REPLY)
        yield Flow(t.LB_LEAVE.number, REPLY, match(f.CT_MARK(backend.key), reply), goto=t.NEIGHBOUR.number)


def _answers(topology: Topology, of: BackendPool, found: Balancer, backend: Backend, way: Way) -> Iterator[Flow]:
    out, family = way.out, of_address(backend.address)
    sent = *leaving(out, family), family.source(f.ip(backend.address))
    known = conntrack(zone=out.key, nat=Nat(), table=t.LB_LEAVE.number)
    if not out.router.enable_snat:
        yield Flow(t.SNAT.number, FROM_MEMBER, match(*sent), (known,))
        for kind in QUOTING[family.version]:  # routers' about packets on their way to a member
            error = match(*leaving(out, family), f.IP_PROTO(family.icmp), family.icmp_type(kind))
            yield Flow(t.SNAT.number, ERROR, error, (known,))
        # what has nothing to do with the load balancer leaves as it is; but conntrack hands on fragments with any other packet
        unknown = match(*leaving(out, family), f.CT_STATE(f.CT_INVALID, f.CT_INVALID), f.IP_FRAG(0, 1))
        yield Flow(t.LB_LEAVE.number, UNKNOWN, unknown, (ct_clear(),), goto=t.NEIGHBOUR.number)
        return
    hidden = out.address(family.version)
    if hidden is None:
        return
    port = () if backend.port is None else (_PORTS[of.protocol](backend.port),)
    translate = _translated(out, family, hidden)
    yield Flow(t.SNAT.number, FROM_PORT, match(*sent, f.IP_PROTO(of.protocol), *port), (translate,))
    if of.protocol == f.TCP and way.floating:
        yield from _continued(topology, of, found, backend, way)


def _translated(out: WayOut, family: Family, address: int, port: int | None = None) -> Action:
    """Translate back what is an answer; let all else leave from an address."""
    nat = Nat("src", address, version=family.version, ports=None if port is None else (port, port))
    return conntrack(zone=out.key, commit=True, nat=nat, table=t.LB_LEAVE.number)


def _continued(topology: Topology, of: BackendPool, found: Balancer, backend: Backend, way: Way) -> Iterator[Flow]:
    """What has not begun here: a gateway that has just taken over knows no connections, and a member may be the first to send.

    TCP only. A segment that a server sends from its port, with an acknowledgement, is of a connection that its client has begun.
    A port that serves several pools speaks for one of them, so each has a priority of its own.
    """
    priority = CONTINUED + backend.key % BAND
    if any(other < backend.key and other % BAND == backend.key % BAND for other in _sharers(topology, backend)):
        return
    family, address = of_address(way.address), f.ip(way.address)
    segment = *leaving(way.out, family), f.TOO_LARGE(0), f.IP_PROTO(f.TCP), f.TCP_FLAGS(_ACK, _ACK)
    sent = *segment, family.source(f.ip(backend.address))
    services = [service for service in found.services if service.pool_id == of.id]
    if backend.port is not None:
        for service in services[:1]:
            leave = _translated(way.out, family, address, service.ports[0])
            yield Flow(t.SNAT.number, priority, match(*sent, f.TCP_SRC(backend.port)), (leave,))
        return
    leave = _translated(way.out, family, address)
    for service in services:
        for value, mask in cover(*service.ports):
            yield Flow(t.SNAT.number, priority, match(*sent, f.TCP_SRC(value, mask)), (leave,))


def _sharers(topology: Topology, backend: Backend) -> Iterator[int]:
    """Keys of the members that are the same VM."""
    own: Member = topology.get("member", backend.member_id)
    for id in topology.members_at((own.subnet_id or "", own.address)):
        yield topology.get("member", id).member_key or 0
