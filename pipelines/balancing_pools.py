"""Pools in the switch: the services that lead to one, its slots, and its members.

A new connection is hashed to a slot, the slot has a member, and conntrack keeps the connection with it. A member is known in a
connection by its key, which is the connection's mark: so is what belongs to connections that were begun long before.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

from topology import balancing as model
from topology.balancing import Backend, BackendPool, Balancer
from topology.graph import Topology

from . import balancing_affinity, balancing_ends, balancing_outside, slots
from . import fields as f
from . import tables as t
from .balancing import (
    ANSWER,
    ERRORS,
    EXPIRED,
    FROM_MEMBER,
    HASH,
    LOOK_BACK,
    LOOK_WHETHER_OWN,
    MEMBER,
    ROUTED,
    SAME_NETWORK,
    SERVICE,
    SLOT,
    TO_ITSELF,
    of_port,
    tracked,
)
from .flow import (
    Action,
    Flow,
    Nat,
    Rule,
    check_pkt_larger,
    conntrack,
    copy,
    ct_clear,
    dec_ttl,
    group,
    match,
    multipath,
    resubmit,
    set_bits,
    set_field,
)
from .minimise.ranges import cover
from .placement import live_vni
from .policy import BALANCING_ZONE
from .punting import Reason, punt
from .routers import Interface, Routed, of_address, routed
from .routing import ETHERNET, FORGET_ORIGIN
from .services import SERVICE_MAC

SLOTS = f.Bits(f.SLOT, 0, 16)
NO_SLOT = SLOT - 1
_OF_PORT = BALANCING_ZONE >> 14
"""ZONE_KIND of clients that are VMs here."""
FRAGMENT, WHOLE = MEMBER + 1, SERVICE + 2
"""Priorities in tables ``lb_state`` and ``lb_dnat``, above that of SERVICE and MEMBER."""
FIRST, LATER = f.IP_FRAG(1, 3), f.IP_FRAG(2, 2)
"""Matches on fragments of a packet: the first, and those after it."""
HASHED = "symmetric_l3l4+udp"
"""What makes a connection: addresses, protocol, and ports. No MAC address, so every hypervisor hashes alike."""
HASHED_BY_CLIENT = "symmetric_l3"
"""Where a client is to stay with its member: client and load balancer, so every hypervisor agrees without having learned."""
_PORTS = {f.TCP: (f.TCP_SRC, f.TCP_DST), f.UDP: (f.UDP_SRC, f.UDP_DST)}


_CHOSEN = ct_clear(), set_bits(f.BALANCED, 1)
"""From here on the packet is its client's for the member: what conntrack says of it is of the load balancer's zone, and a policy
without state would take it for its own."""


class _Pool(NamedTuple):
    """A pool on a hypervisor."""

    of: BackendPool
    balancer: Balancer
    number: int
    """What TABLE has in it."""


def table_number(pool_key: int, algorithm: str) -> int:
    """What TABLE has in it: the pool, and how its slots were dealt.

    With the size, which is in the upper half of SLOT, it tells tables of a pool apart of which nearly all slots differ, so that both can
    be there while one gives way.
    """
    return pool_key << 8 | list(slots.ALGORITHMS).index(algorithm)


def slot_match(size: int, value: int, mask: int) -> bytes:
    """The match on slots of a table: ``value`` under ``mask``, 16 bits each."""
    return f.SLOT(size << 16 | value, 0xFFFF0000 | mask)


def pool(topology: Topology, hypervisor: str, id: str) -> Iterator[Rule]:
    """A pool on a hypervisor that has its load balancer.

    Last come the flows that lead to it: a switch may get them in several bundles, and whoever is led there has to find everything.
    """
    found = model.pool(topology, id)
    balancer = model.balancer(topology, found.balancer_id) if found is not None else None
    if found is None or balancer is None:
        return
    here = _Pool(found, balancer, table_number(found.key, found.algorithm))
    ways = _Ways(topology, hypervisor, balancer)
    for backend in found.kept:
        yield from _member(topology, hypervisor, here, ways, backend)
    yield from balancing_ends.dropped(found, balancer)
    if found.dealt:
        for backend in found.dealt:
            yield from _commit(here, backend)
        yield from _slots(here)
        yield from _services(here)


def _services(here: _Pool) -> Iterator[Flow]:
    """New connections of the listeners that lead to a pool.

    A fragment does not tell its port, and all those of a packet have to meet the same action, or else conntrack goes by the last one.
    So a connection can only begin with fragments where its protocol leads to one pool, whatever the port, and its slot follows from
    its addresses: of IPv6 a later fragment does not even tell its protocol.

    For ``multipath`` the switch asks ovs-vswitchd about each connection; of what the datapath hashes it keeps the answers. But that
    leaves out the ports of UDP, and is another hash in the kernel's datapath: not for clients that come by another hypervisor next.
    """
    of, every = here.of, here.balancer.services
    known = () if of.affinity is None else (balancing_affinity.ASK,)
    table = set_field(f.TABLE, here.number), set_field(f.SLOT, of.size << 16)
    by_client, deal = (
        (*table, multipath(SLOTS, of.size, fields=hashed, basis=of.key & 0xFFFF), *known)
        for hashed in (HASHED_BY_CLIENT, HASHED if of.affinity is None else HASHED_BY_CLIENT)
    )
    in_fragments = _begins_in_fragments(here)
    for family in {of_address(entry.address): None for entry in here.balancer.entries}:
        new = f.BALANCER(here.balancer.key), f.ETH_TYPE(family.ethertype), tracked(f.CT_NEW), f.CT_NW_PROTO(of.protocol)
        for service in every:
            for value, mask in cover(*service.ports) if service.pool_id == of.id else ():
                began = match(*new, f.CT_TP_DST(value, mask))
                yield Flow(t.LB_STATE.number, SERVICE, began, deal, goto=t.LB_SELECT.number)
                if in_fragments:
                    first = match(*new, f.CT_TP_DST(value, mask), FIRST)
                    yield Flow(t.LB_STATE.number, FRAGMENT, first, by_client, goto=t.LB_SELECT.number)
                if of.protocol == f.TCP and of.affinity is None:
                    whole = match(*new, f.CT_TP_DST(value, mask), f.IP_FRAG(0, 1), f.ZONE_KIND(_OF_PORT))
                    yield Flow(t.LB_STATE.number, WHOLE, whole, (*table, group(HASH.id)))
        if in_fragments:
            yield Flow(t.LB_STATE.number, FRAGMENT, match(*new, LATER), by_client, goto=t.LB_SELECT.number)


def _begins_in_fragments(here: _Pool) -> bool:
    """Whether the pool is all that its load balancer leads its protocol to."""
    every = here.balancer.services
    return {service.pool_id for service in every if service.protocol == here.of.protocol} == {here.of.id}


# --- slots -------------------------------------------------------------------------------------------------------


class Dealt(NamedTuple):
    """A pool's table of slots, and who the numbers in it stand for."""

    slots: slots.Slots
    names: tuple[str, ...]
    """Of members, as ``Backend.name`` has them."""


def dealt(of: BackendPool) -> Dealt | None:
    """A pool's slots; None where nobody has any."""
    members = tuple((backend.name, backend.weight) for backend in of.dealt)
    if not members:
        return None
    return Dealt(_table(of.algorithm, of.size, members), tuple(name for name, _ in members))


@lru_cache(64)
def _table(algorithm: str, size: int, members: tuple[tuple[str, int], ...]) -> slots.Slots:
    return slots.table(algorithm, size, members)


def _slots(here: _Pool) -> tuple[Flow, ...]:
    of = here.of
    members = tuple((backend.name, backend.weight) for backend in of.dealt)
    return _slot_flows(here.number, of.algorithm, of.size, members, tuple(backend.key for backend in of.dealt))


@lru_cache(64)
def _slot_flows(
    number: int, algorithm: str, size: int, members: tuple[tuple[str, int], ...], keys: tuple[int, ...]
) -> tuple[Flow, ...]:
    """The same on all hypervisors."""
    table, choose = f.TABLE(number), [(set_field(f.MEMBER, key),) for key in keys]
    select, dnat = t.LB_SELECT.number, t.LB_DNAT.number
    bits, any_slot = (size - 1).bit_length(), table + slot_match(size, 0, 0)
    # of the numbers with so many bits, those that are no slots: once more, by a hash that is
    again = multipath(SLOTS, size, fields=HASHED, basis=number >> 8 & 0xFFFF), resubmit(select)
    return (
        Flow(t.LB_HASH.number, SLOT, any_slot, (copy(f.Bits(f.DP_HASH, 0, bits), f.Bits(f.SLOT, 0, bits)),), select),
        Flow(select, NO_SLOT, any_slot, again),
        *[
            Flow(select, SLOT, table + slot_match(size, value, mask), choose[member], dnat)
            for value, mask, member in slots.matches(_table(algorithm, size, members))
        ],
    )


def _commit(here: _Pool, backend: Backend) -> Iterator[Flow]:
    """A new connection of a member, counted once however many fragments it begins with; one of TCP begins without data."""
    family, port = of_address(backend.address), backend.port
    to = Nat("dst", f.ip(backend.address), version=family.version, ports=None if port is None else (port, port))
    mark = (set_field(f.CT_MARK, backend.key),)
    commit = conntrack(zone=f.ZONE, commit=True, nat=to, table=t.LB_FORWARD.number, exec=mark)
    affinity = here.of.affinity
    pin = () if affinity is None else (balancing_affinity.remember(backend, family, affinity),)
    # what a packet has in registers is kept for its way after conntrack: with its slot, each would have a way of its own
    forget = tuple(set_field(each, 0) for each in (f.TABLE, f.SLOT, f.MEMBER))
    its, actions = (f.MEMBER(backend.key), f.ETH_TYPE(family.ethertype)), (*forget, commit)
    yield Flow(t.LB_DNAT.number, MEMBER, match(*its), (*pin, *actions))
    if here.of.protocol == f.UDP and _begins_in_fragments(here):
        yield Flow(t.LB_DNAT.number, FRAGMENT, match(*its, LATER), actions)


# --- members -----------------------------------------------------------------------------------------------------


class _Ways:
    """By which routers packets get from a load balancer's clients into the networks of members."""

    def __init__(self, topology: Topology, hypervisor: str, balancer: Balancer) -> None:
        self.topology, self.hypervisor, self.balancer = topology, hypervisor, balancer
        self._found: dict[str, tuple[Routed, Interface] | None] = {}

    def into(self, network: str) -> tuple[Routed, Interface] | None:
        """The router by which a network is entered, and its interface there; None where it is in none."""
        if network not in self._found:
            self._found[network] = self._into(network)
        return self._found[network]

    def _into(self, network: str) -> tuple[Routed, Interface] | None:
        own = {entry.router_id for entry in self.balancer.entries}
        for entry in self.balancer.entries:
            if entry.kind == "network":
                own |= {port.router_id for port in self.topology.routed_by(entry.network_id or "")}
        ids = {port.router_id or "" for port in self.topology.routed_by(network)}
        for id in sorted(ids, key=lambda id: (id not in own, id)):
            router = routed(self.topology, self.hypervisor, id)
            for interface in router.interfaces if router is not None else ():
                if router is not None and interface.port.network_id == network and not interface.outside:
                    return router, interface
        return None


def _member(topology: Topology, hypervisor: str, here: _Pool, ways: _Ways, backend: Backend) -> Iterator[Flow]:
    """The way of its connections' packets to a member, and back."""
    vni = live_vni(topology, backend.network_id or "")
    if vni is None or backend.mac is None:
        return
    family, mac = of_address(backend.address), f.mac(backend.mac)
    its = f.CT_MARK(backend.key)
    table = t.LB_FORWARD.number
    yield Flow(
        table,
        SAME_NETWORK,
        match(its, f.NETWORK(vni)),
        (*_CHOSEN, set_field(f.ETH_DST, mac)),
        goto=t.L2_LOOKUP.number,
    )
    way = ways.into(backend.network_id or "")
    if way is not None:
        router, interface = way
        actions: tuple[Action, ...] = (
            *_CHOSEN,
            set_field(f.ROUTER, router.key),
            copy(family.destination, family.next_hop),
            dec_ttl(),
            set_field(f.ETH_SRC, interface.addresses.mac),
            *FORGET_ORIGIN,
        )
        if interface.mtu < router.largest:
            actions = (*actions, check_pkt_larger(interface.mtu + ETHERNET, f.TOO_LARGE))
        ip = f.ETH_TYPE(family.ethertype)
        yield Flow(table, ROUTED, match(its, ip), actions, goto=t.NEIGHBOUR.number, metadata=vni)
        expired = ct_clear(), set_field(f.ROUTER, router.key), *punt(Reason.TTL_EXCEEDED)
        yield Flow(table, EXPIRED, match(its, ip, f.IP_TTL(1)), expired, goto=t.PUNT.number)
    yield from _answers(here, backend)
    yield from balancing_outside.answers(topology, hypervisor, here.of, here.balancer, backend)
    if topology.location(backend.port_id or "") == hypervisor:
        yield from _to_itself(topology, here, backend, vni, mac)


def _sent(here: _Pool, backend: Backend) -> Iterator[tuple[bytes, ...]]:
    """Matches on what a member sends from the port that it serves; a fragment tells neither port nor, of IPv6, protocol."""
    family, protocol = of_address(backend.address), here.of.protocol
    sent = f.ETH_TYPE(family.ethertype), family.source(f.ip(backend.address))
    yield *sent, f.IP_FRAG(1, 1)
    port = () if backend.port is None else (_PORTS[protocol][0](backend.port),)
    yield *sent, f.IP_PROTO(protocol), *port


def _answers(here: _Pool, backend: Backend) -> Iterator[Flow]:
    for sent in _sent(here, backend):
        yield Flow(t.LB_ANSWER.number, ANSWER, match(*sent), (*of_port(f.OUT_PORT_KEY), LOOK_BACK))
    reply = match(f.CT_MARK(backend.key), tracked(f.CT_REPLY))
    yield Flow(t.LB_REPLY.number, MEMBER, reply, goto=t.LOCAL_OUTPUT.number)


def _to_itself(topology: Topology, here: _Pool, backend: Backend, vni: int, mac: int) -> Iterator[Flow]:
    """A member that reaches itself: as from the load balancer, which it answers.

    No policy is asked: it would be the VM's own, and Open vSwitch sees a packet no more than six times after its first conntrack.
    """
    key, family = topology.get("port", backend.port_id or "").port_key or 0, of_address(backend.address)
    own, ip = f.IN_PORT_KEY(key), f.ETH_TYPE(family.ethertype)
    back = set_field(f.ETH_SRC, SERVICE_MAC), set_field(f.ETH_DST, mac), set_bits(f.EXEMPT, 1), *FORGET_ORIGIN
    began = f.CT_IPV6_DST if family.version == 6 else f.CT_NW_DST
    there = copy(began, family.next_hop), set_bits(f.HAIRPIN, 1), *back
    valid = f.CT_STATE(f.CT_TRACKED, f.CT_TRACKED | f.CT_INVALID)
    chosen = match(f.CT_MARK(backend.key), valid, own, ip)
    yield Flow(t.LB_FORWARD.number, TO_ITSELF, chosen, there, goto=t.L2_LOOKUP.number, metadata=vni)
    sent = own, f.BALANCER(here.balancer.key)
    for served in _sent(here, backend):
        yield Flow(t.LB_VIP.number, FROM_MEMBER, match(*sent, *served), LOOK_WHETHER_OWN)
    for kind in ERRORS[family.version]:
        error = match(*sent, ip, f.IP_PROTO(family.icmp), family.icmp_type(kind))
        yield Flow(t.LB_VIP.number, FROM_MEMBER, error, LOOK_WHETHER_OWN)
    answers = match(own, tracked(f.CT_REPLY), ip)
    yield Flow(t.LB_HAIRPIN.number, MEMBER, answers, (ct_clear(), *back), goto=t.L2_LOOKUP.number, metadata=vni)


# --- what is counted ---------------------------------------------------------------------------------------------

Counted = Literal["connections", "in", "out"]
"""What a flow's packets are: first packets of connections, all that goes to a member, and what it answers."""
_COUNTS: dict[int, tuple[f.Field, Counted]] = {
    t.LB_DNAT.number: (f.MEMBER, "connections"),
    t.LB_FORWARD.number: (f.CT_MARK, "in"),
    t.LB_REPLY.number: (f.CT_MARK, "out"),
    t.LB_LEAVE.number: (f.CT_MARK, "out"),
}
COUNTING = tuple(_COUNTS)
"""Numbers of the tables in which there are such flows."""


def counted_for(key: bytes) -> tuple[int, Counted] | None:
    """Key of the member that a flow counts for, and what, from the flow's own key (``Flow.key``); None where it counts for nobody.

    A first packet that is sent again, as nobody has answered, counts once, and so do all its fragments.
    """
    found = None if key.endswith(LATER) else _COUNTS.get(key[0])
    at = 3
    while found is not None and at < len(key):
        if key[at : at + 4] == found[0].head:
            return int.from_bytes(key[at + 4 : at + 8], "big"), found[1]
        at += 4 + key[at + 3]
    return None
