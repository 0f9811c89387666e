"""Load balancers in the switch: how clients come to one, and what they are answered.

A load balancer works on its client's own hypervisor. There the connection is translated to a member's address, in a conntrack
zone of the client's port, so that from there on the packet is the client's for that member: policies, routes and tunnels take it as
such. What the member answers comes to the client's port by itself, and is translated back at its door (docs/decisions/0016).
"""

from __future__ import annotations

from collections.abc import Iterator

from topology import balancing as model
from topology.balancing import Balancer, Entry
from topology.graph import Topology
from topology.model import LoadBalancer

from . import balancing_ends, balancing_outside
from . import fields as f
from . import tables as t
from .flow import (
    Action,
    Bucket,
    Flow,
    Group,
    Nat,
    Rule,
    conntrack,
    copy,
    ct_clear,
    match,
    resubmit,
    set_bits,
    set_field,
)
from .placement import live_vni
from .policy import BALANCING_ZONE, HAIRPIN_ZONE
from .punting import Reason, punt
from .routers import FAMILIES, V6, Family, of_address, routed
from .routing import ECHO_TTL, FORGET_ORIGIN
from .services import answer_arp, answer_nd

# priorities, a band for each table
TO_VIP, NEXT_HOP, SERVED = 100, 220, 250
ECHO_NEAR, ECHO, FROM_MEMBER, ASKED = 400, 300, 200, 100
INVALID, KNOWN, SERVICE, REFUSED = 500, 400, 100, 50
PINNED, SLOT, MEMBER = 200, 100, 100
TO_ITSELF, SAME_NETWORK, EXPIRED, ROUTED = 300, 200, 150, 100
RETURN, ANSWER, GIVEN_UP = 100, 100, 200

ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
"""Types of ICMP errors that quote a packet (RFC 792, RFC 4443)."""
_INVALID = f.CT_STATE(f.CT_INVALID, f.CT_INVALID)


HASH = Group(0xFFFF0002, "select", (Bucket((resubmit(t.LB_HASH.number),), weight=1),))
"""Has the datapath hash a packet. With one bucket there is nothing to select, so the hash is what it is for."""


def tracked(state: int) -> bytes:
    """The match on a packet that conntrack has seen, in this state."""
    return f.CT_STATE(f.CT_TRACKED | state, f.CT_TRACKED | state)


def _kind(first: int) -> Action:
    """Turn ZONE into another of the same port, of those that begin with ``first``."""
    return set_bits(f.ZONE_KIND, first >> f.ZONE_KIND.offset - f.ZONE.offset)


def of_port(key: f.Field, first: int = BALANCING_ZONE) -> tuple[Action, ...]:
    """Set ZONE to that of the load balancers of a port here."""
    return copy(key, f.WHO), set_bits(f.ZONE, 0), resubmit(t.IDENTITY.number), _kind(first)


LOOK = conntrack(zone=f.ZONE, nat=Nat(), table=t.LB_STATE.number)
"""Translate packets of known connections, and see what is known of the others."""
LOOK_BACK = conntrack(zone=f.ZONE, nat=Nat(), table=t.LB_REPLY.number)
LOOK_WHETHER_OWN = (
    _kind(HAIRPIN_ZONE),
    conntrack(zone=f.ZONE, nat=Nat(), table=t.LB_HAIRPIN.number),
)
"""Whether a packet is an answer of a member to itself, which it gave to the load balancer."""


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """The way of packets for load balancers, and back; which ones there are, ``load_balancer`` and ``pool`` say."""
    yield HASH
    yield Flow(t.LB_STATE.number, INVALID, match(_INVALID), reason="connection is invalid")
    for state in (f.CT_RELATED, f.CT_REPLY, f.CT_DNAT):  # one without an answer counts as new, yet is translated
        yield Flow(t.LB_STATE.number, KNOWN, match(tracked(state)), goto=t.LB_FORWARD.number)
    yield Flow(t.LB_RETURN.number, RETURN + 1, match(f.BALANCED(1)), goto=t.LOCAL_OUTPUT.number)
    yield Flow(t.LB_SELECT.number, PINNED, match(f.PINNED(1)), goto=t.LB_DNAT.number)
    yield from balancing_ends.base()
    elsewhere = set_bits(f.PINNED, 0), resubmit(t.LB_SELECT.number)
    yield Flow(t.LB_DNAT.number, REFUSED, match(f.PINNED(1)), elsewhere)
    for family in FAMILIES:
        ip = f.ETH_TYPE(family.ethertype)
        yield Flow(t.LB_STATE.number, REFUSED, match(ip), punt(Reason.PORT_UNREACHABLE), goto=t.PUNT.number)
        again = ct_clear(), _kind(BALANCING_ZONE), LOOK
        yield Flow(t.LB_HAIRPIN.number, REFUSED, match(ip), again)
        for kind in ERRORS[family.version]:
            error = match(ip, f.IP_PROTO(family.icmp), family.icmp_type(kind))
            yield Flow(t.LB_ANSWER.number, ANSWER, error, (*of_port(f.OUT_PORT_KEY), LOOK_BACK))
        # conntrack in user space hands them on with any other packet, and where that one goes
        reason = "fragment of a packet that is not complete"
        yield Flow(t.LB_REPLY.number, GIVEN_UP, match(ip, _INVALID, f.IP_FRAG(1, 1)), reason=reason)


def load_balancer(topology: Topology, hypervisor: str, id: str) -> Iterator[Rule]:
    """A load balancer's addresses on a hypervisor whose VMs, or whose routers, reach them."""
    found = model.balancer(topology, id)
    if found is None:
        return
    for entry in found.entries:
        if entry.kind == "network":
            yield from _in_network(topology, hypervisor, found, entry)
        else:
            yield from _in_router(topology, hypervisor, found, entry)
    yield from balancing_outside.served(topology, hypervisor, found)
    obj: LoadBalancer = topology.get("load-balancer", id)
    for network in model.reachable(topology, obj):
        vni = live_vni(topology, network)
        if vni is not None and hypervisor in topology.hypervisors_of(network):
            yield Flow(t.LB_RETURN.number, RETURN, match(f.NETWORK(vni)), goto=t.LB_ANSWER.number)


def _in_network(topology: Topology, hypervisor: str, found: Balancer, entry: Entry) -> Iterator[Flow]:
    """A host of a network: it has a MAC address there, and routers send to it as to any other."""
    network, family = entry.network_id or "", of_address(entry.address)
    vni = live_vni(topology, network)
    if vni is None or entry.mac is None or hypervisor not in topology.reachers_of(network):
        return
    address, mac = f.ip(entry.address), f.mac(entry.mac)
    if hypervisor in topology.hypervisors_of(network):
        answer = answer_nd if family is V6 else answer_arp
        yield answer(vni, address, mac)
    enter = set_field(f.BALANCER, found.key), *of_port(f.IN_PORT_KEY), resubmit(t.LB_VIP.number)
    yield Flow(t.L2_LOOKUP.number, TO_VIP, match(f.NETWORK(vni), f.ETH_DST(mac), f.ORIGIN(0)), enter)
    if topology.routed_by(network):
        hop = match(f.NETWORK(vni), f.ETH_TYPE(family.ethertype), family.next_hop(address))
        yield Flow(t.NEIGHBOUR.number, NEXT_HOP, hop, enter)
    yield from _asked(found, family, address, mac)


def _in_router(topology: Topology, hypervisor: str, found: Balancer, entry: Entry) -> Iterator[Flow]:
    """An address in none of a router's networks, or outside: what a router here is to send there stays with it."""
    router = routed(topology, hypervisor, entry.router_id or "")
    if router is None:
        return
    family, address = of_address(entry.address), f.ip(entry.address)
    here = match(f.ROUTER(router.key), f.FROM_PROVIDER(0), f.ETH_TYPE(family.ethertype), family.destination(address))
    enter = set_field(f.BALANCER, found.key), *of_port(f.IN_PORT_KEY)
    yield Flow(t.ROUTER_NAT.number, SERVED, here, enter, goto=t.LB_VIP.number)
    yield from _asked(found, family, address, None)


def _asked(found: Balancer, family: Family, address: int, mac: int | None) -> Iterator[Flow]:
    """Echo requests are answered: on the network that they come from, or through the router. All else is for the listeners."""
    own = f.BALANCER(found.key), f.ETH_TYPE(family.ethertype), family.destination(address)
    echo = (*own, f.IP_PROTO(family.icmp), family.icmp_type(family.echo))
    reply = (
        copy(family.source, family.destination),
        set_field(family.source, address),
        set_field(family.icmp_type, family.echo_reply),
        set_bits(f.EXEMPT, 1),
    )
    ttl = set_field(f.IP_TTL, ECHO_TTL)
    yield Flow(t.LB_VIP.number, ECHO, match(*echo), (*reply, ttl, resubmit(t.POLICY_ROUTE.number)))
    if mac is not None:
        near = copy(f.ETH_SRC, f.ETH_DST), set_field(f.ETH_SRC, mac), set_field(f.IP_TTL, ECHO_TTL - 1)
        switched = match(*echo, f.ROUTER(0))
        yield Flow(t.LB_VIP.number, ECHO_NEAR, switched, (*reply, *near, *FORGET_ORIGIN), goto=t.L2_LOOKUP.number)
    yield Flow(t.LB_VIP.number, ASKED, match(*own), (LOOK,))
    # a host takes nothing that has its own address as its source: what a VM gets from itself, it gets from the load balancer
    itself = match(f.HAIRPIN(1), f.ETH_TYPE(family.ethertype), family.next_hop(address))
    hide = Nat("src", address, version=family.version)
    commit = conntrack(zone=f.ZONE, commit=True, nat=hide, table=t.LOCAL_OUTPUT.number)
    yield Flow(t.LB_RETURN.number, TO_ITSELF, itself, (*of_port(f.OUT_PORT_KEY, HAIRPIN_ZONE), commit))
