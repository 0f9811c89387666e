"""The rules of security groups as flows: those of every identity that has ports on a hypervisor.

A rule asks three things of a connection: whose policy it is (LOCAL), who is at the other end (OTHER, or an address), and what
service it is. Where several of them have several answers, the rule becomes a conjunctive match (ovs-fields(7), "Conjunctive
Match Fields"): the flows are as many as the answers together, not as their combinations, and an identity has one flow for
all the rules that name a group of it.

The flow of a rule sets RULE to its key. So whoever reads flows back knows which rule they count for (``decided_by``), and a
packet that is to be logged says which rule it was.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from ipaddress import ip_network
from itertools import product

from topology.graph import Topology
from topology.policy import DIRECTIONS, Group, PolicyRule, Prefixes, members, policies

from . import fields as f
from . import tables as t
from .flow import Action, Flow, Meter, Rule, conjunction, conntrack, match, set_bits, set_field
from .minimise import cover
from .punting import LOG_BURST, LOG_METERS, LOG_RATE, Reason, punt

# priorities
ADMIN, TENANT, OTHERWISE = 10_000, 1000, 500
ADMIT = LOG = 100
OPEN = 50
BANDS = {"admin": 3, "tenant": 500}
"""Priorities at which rules decide alike: flows that hold the clauses of too many rules are spread over them."""
CLAUSES = 3000
"""Rules whose clauses share flows. A flow has to fit into a message of 64 KiB, and a clause takes 16 bytes of it."""

STATELESS = 1 << 31
"""Added to the key of a rule where it applies without connection tracking."""
_FAMILIES = {4: f.IPV4, 6: f.IPV6}
_TABLES = {"ingress": t.INGRESS_POLICY, "egress": t.EGRESS_POLICY}
_TRACKED = f.CT_STATE(f.CT_TRACKED, f.CT_TRACKED | f.CT_INVALID)
_UNTRACKED = f.CT_STATE(0, f.CT_TRACKED)
_ADDRESSES = {
    (4, "ingress"): (f.CT_NW_SRC, f.IPV4_SRC),
    (4, "egress"): (f.CT_NW_DST, f.IPV4_DST),
    (6, "ingress"): (f.CT_IPV6_SRC, f.IPV6_SRC),
    (6, "egress"): (f.CT_IPV6_DST, f.IPV6_DST),
}
"""Where the other end's address is: in a connection's first packet, and in a packet."""
_PORTS = {f.TCP: f.TCP_DST, f.UDP: f.UDP_DST, f.SCTP: f.SCTP_DST}
FRAGMENT = 44
"""Protocol of IPv6 fragments, save the first, where conntrack has not seen them: Open vSwitch does not know their packet's."""
_ICMP = {f.ICMP: (f.ICMPV4_TYPE, f.ICMPV4_CODE), f.ICMPV6: (f.ICMPV6_TYPE, f.ICMPV6_CODE)}

Tlvs = tuple[bytes, ...]


def policy(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """All rules that apply to ports of a hypervisor."""
    applied: defaultdict[tuple[PolicyRule, bool], list[int]] = defaultdict(list)
    for found in policies(topology, sorted(topology.residents(hypervisor))):
        number = found.number
        if not found.filters:
            yield Flow(t.POLICY_ADMIT.number, ADMIT, match(f.LOCAL(number)), goto=t.POLICY_EXIT.number)
            continue
        yield from _admit(number, found.stateful)
        for rule in (*found.ingress, *found.egress):
            applied[rule, found.stateful].append(number)
        if found.open == DIRECTIONS:  # what is not IP no rule is about
            yield Flow(t.POLICY_ADMIT.number, OPEN, match(f.LOCAL(number)), goto=t.POLICY_EXIT.number)
        for direction in found.open:
            nobodys = (set_field(f.RULE, 0),)
            yield Flow(_TABLES[direction].number, OTHERWISE, match(f.LOCAL(number)), nobodys, goto=t.POLICY_DONE.number)
    ruleset = _Ruleset()
    # where the flows of several rules are the same one, the first rule has it
    for (rule, stateful), local in sorted(applied.items(), key=lambda item: item[0][0].key, reverse=True):
        yield from ruleset.add(topology, rule, stateful, local)
    yield from ruleset.clauses()
    for rule in {rule.key: rule for rule, _ in applied if rule.log}.values():
        yield from _logging(rule)


def _admit(number: int, stateful: bool) -> Iterator[Flow]:
    """An identity that has a policy: its packets pass by it, with what conntrack knows of their connections."""
    for ethertype in _FAMILIES.values():
        whose = match(f.LOCAL(number), f.ETH_TYPE(ethertype))
        if stateful:
            track = (conntrack(zone=f.ZONE, table=t.POLICY_STATE.number),)
            yield Flow(t.POLICY_ADMIT.number, ADMIT, whose, track)
        else:
            yield Flow(t.POLICY_ADMIT.number, ADMIT, whose, goto=t.POLICY_STATE.number)


class _Ruleset:
    """Rules that share the flows of their clauses."""

    def __init__(self) -> None:
        self._clauses: defaultdict[tuple[int, int, bytes], list[Action]] = defaultdict(list)
        self._alone: dict[bytes, Flow] = {}
        self._together: Counter[tuple[int, int]] = Counter()

    def add(self, topology: Topology, rule: PolicyRule, stateful: bool, local: list[int]) -> Iterator[Flow]:
        """The flows by which a rule takes effect for these identities."""
        table = _TABLES[rule.direction].number
        given = (f.ETH_TYPE(_FAMILIES[rule.family]), _TRACKED if stateful else _UNTRACKED)
        # of several conjunctions of one priority Open vSwitch tries one only, so clauses say all that there is to say
        dimensions: list[list[Tlvs]] = [[(*given, f.LOCAL(number)) for number in local]]
        if isinstance(rule.peer, Group):
            dimensions.append([(f.OTHER(number),) for number in sorted(members(topology, rule.peer.id))])
        elif isinstance(rule.peer, Prefixes):
            address = _ADDRESSES[rule.family, rule.direction][not stateful]
            dimensions.append([(*given, *_within(address, cidr)) for cidr in rule.peer.cidrs])
        service = list(_services(rule, given, stateful))
        if service:
            dimensions.append(service)
        if not all(dimensions):
            return
        combinations = 1
        for dimension in dimensions:
            combinations *= len(dimension)
        together = isinstance(rule.peer, Group) or combinations > sum(map(len, dimensions)) + 1
        priority = _priority(rule, together)
        if together:
            self._together[table, priority] += 1
            priority += min((self._together[table, priority] - 1) // CLAUSES, BANDS[rule.tier] - 1)
            id = rule.key if stateful else rule.key | STATELESS
            for number, dimension in enumerate(dimensions, 1):
                for tlvs in dimension:
                    clause = conjunction(id, number, len(dimensions))
                    self._clauses[table, priority, match(*set(tlvs))].append(clause)
            yield _flow(rule, table, priority, (*given, f.CONJ_ID(id)))
        else:
            for combination in product(*dimensions):
                asked = {*given, *(tlv for part in combination for tlv in part)}
                flow = _flow(rule, table, priority, tuple(asked))
                self._alone[flow.key] = flow

    def clauses(self) -> Iterator[Flow]:
        """The flows that rules share."""
        yield from self._alone.values()
        for (table, priority, matched), actions in self._clauses.items():
            yield Flow(table, priority, matched, tuple(actions))


def _priority(rule: PolicyRule, conjunctive: bool) -> int:
    """An administrator's rule goes before a tenant's, denying before allowing.

    Connections are kept, and logged, where any of the rules that decide alike says so. Clauses have priorities of their own,
    since one of them may match just what a rule that needs none does.
    """
    before = 8 * (rule.action == "deny") + 4 * (not rule.revoke) + 2 * rule.log + conjunctive
    if rule.tier == "admin":
        return ADMIN + (16 * rule.priority + before) * BANDS["admin"]
    return TENANT + before * BANDS["tenant"]


def _flow(rule: PolicyRule, table: int, priority: int, tlvs: Tlvs) -> Flow:
    """What decides: everything that matches is the rule's."""
    decided = (_decided(rule),)
    if rule.action == "deny":
        logged = t.POLICY_LOG.number if rule.log else None
        return Flow(table, priority, match(*tlvs), decided, goto=logged, reason="denied by a rule of a security group")
    kept = () if rule.revoke else (set_bits(f.KEPT, 1),)
    return Flow(table, priority, match(*tlvs), (*decided, *kept), goto=t.POLICY_DONE.number)


def _decided(rule: PolicyRule) -> bytes:
    return set_field(f.RULE, rule.key | f.LOGS.mask if rule.log else rule.key)


def decided_by(body: bytes) -> int | None:
    """Key of the rule that a flow decides for, from its encoded body (``wire.flows``); None where there is none."""
    at = body.find(_DECIDED)
    if at < 0:
        return None
    at += len(_DECIDED)
    return int.from_bytes(body[at : at + 4], "big") & ~f.LOGS.mask or None


_DECIDED = set_field(f.RULE, 0)[:8]


def _logging(rule: PolicyRule) -> Iterator[Rule]:
    """The way of a rule's packets to the log, as far as its meter lets them."""
    meter = LOG_METERS | rule.key & 0xFFFF
    yield Meter(meter, LOG_RATE, LOG_BURST, packets=True)
    whose = match(f.RULE(rule.key | f.LOGS.mask))
    yield Flow(t.POLICY_LOG.number, LOG, whose, punt(Reason.POLICY_LOG), goto=t.TO_CONTROLLER.number, meter=meter)


def _within(address: f.Field, cidr: str) -> Tlvs:
    prefix = ip_network(cidr)
    tlv = address(int(prefix.network_address), int(prefix.netmask))
    return (tlv,) if tlv else ()


def _services(rule: PolicyRule, given: Tlvs, stateful: bool) -> Iterator[Tlvs]:
    """The matches that together are the rule's service; none where it is any.

    What cannot be seen might be what is denied, and is not taken for what is allowed.
    """
    protocol, denies = rule.protocol, rule.action == "deny"
    if protocol is None:
        return
    named = (*given, f.CT_NW_PROTO(protocol) if stateful else f.IP_PROTO(protocol))
    told = list(_ports(rule, protocol, stateful))
    if not told:
        yield named
    elif stateful:
        yield from ((*named, *each) for each in told)
        unseen: Tlvs = (f.CT_TP_SRC(0) if rule.icmp is not None else f.CT_TP_DST(0),)
        if protocol == f.SCTP:  # of what is no fragment the packet tells
            unseen = *unseen, f.IP_FRAG(1, 1)
        if denies and unseen not in told:
            yield *named, *unseen
    else:
        yield from ((*named, f.IP_FRAG(0, 1), *each) for each in told)
        if denies:
            yield *named, f.IP_FRAG(1, 1)
    if denies and not stateful and rule.family == 6 and protocol != FRAGMENT:
        yield *given, f.IP_PROTO(FRAGMENT), f.IP_FRAG(2, 2)


def _ports(rule: PolicyRule, protocol: int, stateful: bool) -> Iterator[Tlvs]:
    """The matches on ports, or on ICMP type and code; none where the rule has none."""
    if rule.icmp is not None:
        kind, code = (f.CT_TP_SRC, f.CT_TP_DST) if stateful else _ICMP[protocol]
        yield kind(rule.icmp[0]), *(() if rule.icmp[1] is None else (code(rule.icmp[1]),))
    elif rule.ports is not None:
        low, high = rule.ports
        for value, mask in cover(max(low, 1), high):
            if not stateful:
                yield (_PORTS[protocol](value, mask),)
                continue
            yield (f.CT_TP_DST(value, mask),)
            if protocol == f.SCTP:  # whose ports conntrack in user space does not know before Open vSwitch 3.2
                yield f.INWARD(rule.direction == "ingress"), f.IP_PROTO(protocol), f.SCTP_DST(value, mask)
                yield f.INWARD(rule.direction == "egress"), f.IP_PROTO(protocol), f.SCTP_SRC(value, mask)
