"""Security groups in the switch: identities, conntrack, and the way that packets take through a port's policy.

A port's policy is looked at where it is: that of the sender once the destination is known, before any translation; that of the
receiver before delivery. Every packet is judged, by the addresses and ports with which its connection began, so that a rule
that is removed cuts its connections in both directions, and a restart forgets nothing (docs/decisions/0014).
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from topology.graph import Topology
from topology.model import Port

from . import fields as f
from . import tables as t
from .addresses import addresses_of, link_local
from .flow import Action, Flow, Rule, clone, conntrack, copy, ct_clear, match, resubmit, set_bits, set_field
from .placement import Placed, wired_both
from .routers import routed
from .services import ICMPV6

# priorities, a band for each table
FROM_WIRE, SKIP, NEIGHBOURS, TO_WIRE, LOOK, PORT = 400, 300, 200, 150, 100, 100
ROUTED, OF_ROUTER = 200, 50
INVALID, PASSES, LATER, REPLY, FORWARD = 500, 400, 300, 200, 100
COPY, WHOLE, COMMIT, WAIT = 200, 150, 100, 50
NOBODY = 100
GIVEN_UP, TO_PORT, TO_OUTSIDE, STAYS = 400, 300, 200, 100

POLICY_ZONE, BALANCING_ZONE, HAIRPIN_ZONE, ZONES = 0x4000, 0x8000, 0xC000, 0x4000
"""A port's conntrack zones begin there: for its policy, for load balancers that it sends to, and for those by which it reaches
itself. The lower ones are routers' (``nat``)."""
KEEP = 1
"""In CT_MARK: the connection stays even when the rule that allowed it is gone."""
_GIVEN_UP = f.CT_STATE(f.CT_INVALID, f.CT_INVALID)
"""What conntrack can make nothing of. It may not even count as tracked: in user space, fragments that it has held for too
long come out together with any other packet, and would go where that one goes."""
_NEIGHBOUR_DISCOVERY = range(133, 138)
_FAMILIES = (f.IPV4, f.IPV6)


def identity_of(port: Port) -> int:
    """The identity that policies know a port by; 0 for none."""
    return port.identity or 0


def zone(ofport: int) -> int:
    """The conntrack zone of a port: its own, unless one that was plugged 16,384 ports before is still there."""
    return POLICY_ZONE | ofport % ZONES


def balancing_zones(ofport: int) -> tuple[int, int]:
    """The zones of a port's connections with load balancers, and of those among them that come back to it."""
    return BALANCING_ZONE | ofport % ZONES, HAIRPIN_ZONE | ofport % ZONES


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """The way of packets through policies; whose they are, ``port`` and ``policy`` say."""
    yield from _entrances(topology)
    yield from _states()
    yield from _exits()


def _entrances(topology: Topology) -> Iterator[Flow]:
    yield Flow(t.OUTWARD.number, SKIP, match(f.IN_PORT_KEY(0)), goto=t.GATEWAY_REDIRECT.number)
    leaves = match(f.FLAGS(0, f.LEFT.mask | f.EXEMPT.mask))
    yield Flow(t.OUTWARD.number, LOOK, leaves, (set_bits(f.OUTWARD, 1),), goto=t.EGRESS_ADMIT.number)
    # here a broadcast is still one packet; what a router has sent on has its MAC address, which is no VM's
    sent = match(f.FROM_PROVIDER(1))
    yield Flow(t.EGRESS_ADMIT.number, FROM_WIRE, sent, (resubmit(t.SOURCE.number),), goto=t.OUTPUT_SELECT.number)
    for nobodys in (f.IN_PORT_KEY(0), f.LEFT(1), f.EXEMPT(1)):
        yield Flow(t.EGRESS_ADMIT.number, SKIP, match(nobodys), goto=t.OUTPUT_SELECT.number)
    yield Flow(t.INGRESS_ADMIT.number, SKIP, match(f.EXEMPT(1)), goto=t.LB_RETURN.number)
    yield Flow(t.INGRESS_ADMIT.number, NEIGHBOURS, match(f.ETH_TYPE(f.ARP)), goto=t.LOCAL_OUTPUT.number)
    for kind in _NEIGHBOUR_DISCOVERY:
        message = match(*ICMPV6, f.ICMPV6_TYPE(kind))
        yield Flow(t.EGRESS_ADMIT.number, NEIGHBOURS, message, goto=t.OUTPUT_SELECT.number)
        yield Flow(t.INGRESS_ADMIT.number, NEIGHBOURS, message, goto=t.LOCAL_OUTPUT.number)
    for family in _FAMILIES:
        sender = (
            *_identify(f.IN_PORT_KEY, f.SRC_IDENTITY),
            copy(f.SRC_IDENTITY, f.LOCAL),
            copy(f.DST_IDENTITY, f.OTHER),
        )
        look = (*_identify(f.OUT_PORT_KEY, f.DST_IDENTITY), *sender)
        yield Flow(t.EGRESS_ADMIT.number, LOOK, match(f.ETH_TYPE(family)), look, goto=t.POLICY_ADMIT.number)
        nowhere = match(f.ETH_TYPE(family), f.OUT_PORT_KEY(0), f.TO_SEVERAL(0))
        look = (set_field(f.DST_IDENTITY, 0), resubmit(t.DESTINATION.number), *sender)
        yield Flow(t.EGRESS_ADMIT.number, TO_WIRE, nowhere, look, goto=t.POLICY_ADMIT.number)
    judge = (
        set_bits(f.INWARD, 1),
        set_bits(f.KEPT, 0),
        *((resubmit(t.SOURCE.number),) if _tells_no_identity(topology) else ()),
        *_identify(f.OUT_PORT_KEY, f.DST_IDENTITY),
        copy(f.DST_IDENTITY, f.LOCAL),
        copy(f.SRC_IDENTITY, f.OTHER),
    )
    # a copy of a broadcast for each port passes here: Open vSwitch allows 4,096 resubmits for a packet
    yield Flow(t.INGRESS_ADMIT.number, LOOK, b"", judge, goto=t.POLICY_ADMIT.number)
    yield Flow(t.POLICY_ADMIT.number, NOBODY, match(f.LOCAL(0)), goto=t.POLICY_EXIT.number)


def _identify(key: f.Field, identity: f.Field) -> tuple[Action, ...]:
    """Look the identity of a port up; 0 where it has none. Of a port here, ZONE is set too: that of the last one looked up stays."""
    return copy(key, f.WHO), set_field(f.FOUND, 0), resubmit(t.IDENTITY.number), copy(f.FOUND, identity)


def _states() -> Iterator[Flow]:
    def state(priority: int, *tlvs: bytes, goto: t.Table) -> Flow:
        return Flow(t.POLICY_STATE.number, priority, match(*tlvs), goto=goto.number)

    yield Flow(t.POLICY_STATE.number, INVALID, match(_GIVEN_UP), reason="connection is invalid")
    yield state(PASSES, _tracked(f.CT_RELATED), goto=t.POLICY_EXIT)
    yield state(PASSES, _tracked(0), f.CT_MARK(KEEP, KEEP), goto=t.POLICY_EXIT)  # one without an answer counts as new
    # of a fragment without ports nothing is known, save that it goes nowhere without the first one (see _exits)
    for family in _FAMILIES:
        later, nobodys = match(_tracked(0), f.ETH_TYPE(family), f.IP_FRAG(2, 2)), (set_field(f.RULE, 0),)
        yield Flow(t.POLICY_STATE.number, LATER, later, nobodys, goto=t.POLICY_DONE.number)
    for inward, began, answered in ((1, t.INGRESS_POLICY, t.EGRESS_POLICY), (0, t.EGRESS_POLICY, t.INGRESS_POLICY)):
        yield state(REPLY, f.INWARD(inward), _tracked(f.CT_REPLY), goto=answered)
        yield state(FORWARD, f.INWARD(inward), goto=began)


def _tracked(state: int) -> bytes:
    """The match on a packet that conntrack has seen, in this state."""
    return f.CT_STATE(f.CT_TRACKED | state, f.CT_TRACKED | state)


def _exits() -> Iterator[Flow]:
    log, leave = t.POLICY_LOG.number, t.POLICY_EXIT.number
    for family in _FAMILIES:
        new, known = (
            (f.CT_STATE(f.CT_TRACKED | state, f.CT_TRACKED | f.CT_NEW), f.ETH_TYPE(family)) for state in (f.CT_NEW, 0)
        )
        for kept in (0, 1):
            mark = (set_field(f.CT_MARK, KEEP),) if kept else ()
            # With any packet conntrack may hand out fragments that it has held for too long, and they go where that one goes:
            # with a copy, nowhere. Fragments, which it has to put together, go by way of a table. So does what is logged: what
            # conntrack hands on is a copy, and a meter may drop the other one.
            copied = clone([conntrack(zone=f.ZONE, commit=True, exec=mark)])
            yield Flow(t.POLICY_DONE.number, WHOLE, match(*new, f.KEPT(kept), f.IP_FRAG(0, 1)), (copied,), goto=leave)
            commit = (conntrack(zone=f.ZONE, commit=True, table=leave, exec=mark),)
            yield Flow(t.POLICY_DONE.number, COMMIT, match(*new, f.KEPT(kept)), commit)
            yield Flow(t.POLICY_DONE.number, COPY, match(*new, f.KEPT(kept), f.LOGS(1)), commit, goto=log)
        yield Flow(t.POLICY_DONE.number, COMMIT, match(*known, f.KEPT(1)), commit)
        # in user space conntrack holds fragments until all are there: those of a packet whose first was denied, for ever
        wait = (conntrack(zone=f.ZONE, table=leave),)
        yield Flow(t.POLICY_DONE.number, WAIT, match(*known, f.IP_FRAG(1, 1)), wait)
    untracked = match(f.CT_STATE(0, f.CT_TRACKED), f.LOGS(1))
    yield Flow(t.POLICY_DONE.number, COPY, untracked, (clone([resubmit(leave)]),), goto=log)
    yield Flow(leave, GIVEN_UP, match(_GIVEN_UP), reason="fragment of a packet that is not complete")
    # NAT and whatever comes next sees packets as they were before
    yield Flow(t.POLICY_EXIT.number, TO_PORT, match(f.INWARD(1)), (ct_clear(),), goto=t.LB_RETURN.number)
    left = ct_clear(), set_bits(f.LEFT, 1)
    outside = *left, set_bits(f.OUTWARD, 0), set_field(f.SRC_IDENTITY, 0), resubmit(t.GATEWAY_REDIRECT.number)
    yield Flow(t.POLICY_EXIT.number, TO_OUTSIDE, match(f.OUTWARD(1)), outside)
    yield Flow(t.POLICY_EXIT.number, STAYS, b"", left, goto=t.OUTPUT_SELECT.number)


def port(topology: Topology, hypervisor: str, found: Placed) -> Iterator[Rule]:
    """The identity of a port, wherever it is reached; and where it is, its zone. All else that depends on who is a member of
    what are rules, so a port that joins a group is one flow for each switch."""
    yield from who(topology, hypervisor, found)
    if found.here or not identity_of(found.port):
        return
    if _tells_no_identity(topology):
        yield from _sources(topology, found)
    if found.port.port_security_enabled and found.met:
        if wired_both(topology, found.port.network_id, hypervisor, found.location):
            yield from _on_wire(topology, found)


def who(topology: Topology, hypervisor: str, found: Placed) -> Iterator[Flow]:
    """What is known of a port by its key: its identity and, where it is here, its zone."""
    identity = identity_of(found.port)
    told = (set_field(f.FOUND, identity),) if identity else ()
    zoned = () if found.ofport is None else (set_bits(f.ZONE, zone(found.ofport)),)
    if told or zoned:
        yield Flow(t.IDENTITY.number, PORT, match(f.WHO(found.key)), (*told, *zoned))


def _known(key: int, identity: f.Field) -> tuple[Action, ...]:
    """Look up the identity of the port with this key."""
    return set_field(f.WHO, key), set_field(f.FOUND, 0), resubmit(t.IDENTITY.number), copy(f.FOUND, identity)


def _key_of(topology: Topology, found: Placed, sharers: set[str]) -> int | None:
    """The key of a port, by which its identity is found from a MAC or IP address that it shares with these ports.

    What several ports may send from (VRRP's addresses, for one) tells an identity only where they all have the same; then it
    is the lowest key that stands for them all. None: it does not tell.
    """
    key = found.key
    for id in sharers - {found.port.id}:
        other: Port = topology.get("port", id)
        if other.router_id is not None:
            return None
        if other.port_key is None or topology.location(id) is None or not other.admin_state_up:
            continue
        if topology.identity_told(other) != identity_of(found.port):
            return None
        key = min(key, other.port_key)
    return key


# --- where the wire tells no identity ----------------------------------------------------------------------------


def _on_wire(topology: Topology, found: Placed) -> Iterator[Flow]:
    """A port at the other end of a wire. Of what comes from there both addresses are the port's, as its own hypervisor sees to
    with what the port sends; what goes there is for its MAC address, as it is in a tunnel."""
    for mac, prefixes in addresses_of(found.port).allowed.items():
        key = _key_of(topology, found, topology.senders(found.port.network_id, f.mac_text(mac)))
        if key is None:
            continue
        to = match(f.NETWORK(found.vni), f.ETH_DST(mac))
        yield Flow(t.DESTINATION.number, PORT, to, _known(key, f.DST_IDENTITY))
        sent = f.NETWORK(found.vni), f.ETH_SRC(mac), f.FROM_PROVIDER(1)
        for ethertype, field, within in ((f.IPV4, f.IPV4_SRC, prefixes.v4), (f.IPV6, f.IPV6_SRC, prefixes.v6)):
            for address, mask in within:
                source = match(*sent, f.ETH_TYPE(ethertype), field(address, mask))
                yield Flow(t.SOURCE.number, PORT, source, _known(key, f.SRC_IDENTITY))


# --- where tunnels tell no identity ------------------------------------------------------------------------------


def _tells_no_identity(topology: Topology) -> bool:
    """VXLAN carries none. Geneve does."""
    return topology.mesh is not None and topology.mesh.tunnel_type == "vxlan"


def _sources(topology: Topology, found: Placed) -> Iterator[Flow]:
    """A port elsewhere, by what its own hypervisor lets it send from."""
    network = found.port.network_id
    routers = [topology.get("router", port.router_id or "") for port in topology.routed_by(network)]
    keys = [router.router_key for router in routers if router is not None and router.router_key is not None]
    for mac, prefixes in addresses_of(found.port).allowed.items():
        key = _key_of(topology, found, topology.senders(network, f.mac_text(mac)))
        if key is not None:
            switched = match(f.NETWORK(found.vni), f.ETH_SRC(mac), f.FROM_TUNNEL(1))
            yield Flow(t.SOURCE.number, PORT, switched, _known(key, f.SRC_IDENTITY))
        for ethertype, field, within in ((f.IPV4, f.IPV4_SRC, prefixes.v4), (f.IPV6, f.IPV6_SRC, prefixes.v6)):
            for address, mask in within if keys else ():
                if ethertype == f.IPV6 and address == link_local(mac):
                    continue  # no router sends it on
                key = _key_of(topology, found, topology.bearers(network, _text(field, address, mask)))
                whose = (set_field(f.SRC_IDENTITY, 0),) if key is None else _known(key, f.SRC_IDENTITY)
                bits = (field.ones if mask is None else mask).bit_count()
                for router_key in keys:
                    sent = match(f.ROUTER(router_key), f.FROM_TUNNEL(1), f.ETH_TYPE(ethertype), field(address, mask))
                    yield Flow(t.SOURCE.number, ROUTED + bits, sent, whose)


def _text(field: f.Field, address: int, mask: int | None) -> str:
    """An address, or a prefix, as the intent has it."""
    text = str(IPv4Address(address) if field is f.IPV4_SRC else IPv6Address(address))
    return text if mask is None else f"{text}/{mask.bit_count()}"


def router(topology: Topology, hypervisor: str, router_id: str) -> Iterator[Rule]:
    """What another hypervisor's router sends: the source MAC address is the router's, and the IP address tells."""
    found = routed(topology, hypervisor, router_id)
    if found is None or not _tells_no_identity(topology):
        return
    for interface in found.interfaces:
        mine = match(f.NETWORK(interface.vni), f.ETH_SRC(interface.addresses.mac), f.FROM_TUNNEL(1), f.ROUTER(0))
        again = set_field(f.ROUTER, found.key), resubmit(t.SOURCE.number)
        yield Flow(t.SOURCE.number, OF_ROUTER, mine, again)
