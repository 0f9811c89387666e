"""What security groups mean for an identity: rules in the order in which they are asked; the first that matches decides.

Pure values that know nothing of how they are enforced: OpenFlow flows are made from them, and so can be nftables rules and
eBPF programs. The groups of tier admin are asked first, by priority; then the port's tenants' groups, which only allow.
Whatever no rule decides is denied. Of ports without port security groups of tier admin alone are asked, and the rest is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Literal, NamedTuple

from msgspec import Struct

from . import ip_protocols
from .graph import Topology
from .model import ADMIN, TENANT, AddressGroup, Identity, SecurityGroup, SecurityGroupRule

Direction = Literal["ingress", "egress"]
"""Towards the ports that have the policy, or from them."""

DIRECTIONS: tuple[Direction, ...] = ("ingress", "egress")
LAST_PORT = 65535
_ICMP = {4: ip_protocols.ICMP, 6: ip_protocols.ICMPV6}


class Anyone(Struct, frozen=True):
    """Every peer."""


class Group(Struct, frozen=True):
    """Peers that are members of a security group (see ``members``)."""

    id: str


class Prefixes(Struct, frozen=True):
    """Peers by address: in one of these prefixes, which are of the rule's family, disjoint and in order."""

    cidrs: tuple[str, ...]


ANYONE = Anyone()
Peer = Anyone | Group | Prefixes


class PolicyRule(Struct, frozen=True, cache_hash=True):
    """A rule of a security group, the way it is asked. The same value for all identities that it applies to."""

    direction: Direction
    action: Literal["allow", "deny"]
    tier: Literal["tenant", "admin"]
    priority: int
    """Of tier admin: the highest is asked first. 0 for tenants' rules."""
    family: Literal[4, 6]
    protocol: int | None
    """None: every protocol."""
    ports: tuple[int, int] | None
    """First and last destination port. None: all, or the protocol has none."""
    icmp: tuple[int, int | None] | None
    """Type and code; no code: every code of the type. None: every type, or it is not the family's ICMP."""
    peer: Peer
    key: int
    """32-bit number of the rule in the switches (``rule_key``)."""
    rule_id: str
    group_id: str
    log: bool
    revoke: bool
    """Whether connections that it has allowed end with it."""


class Policy(Struct, frozen=True):
    """What applies to the ports of an identity."""

    number: int
    stateful: bool
    """Whether replies to what is allowed, and related ICMP errors, pass without being asked about."""
    ingress: tuple[PolicyRule, ...]
    """In the order in which they are asked."""
    egress: tuple[PolicyRule, ...]
    open: tuple[Direction, ...]
    """The directions in which what no rule decides is allowed; in the others it is denied."""

    @property
    def filters(self) -> bool:
        """Whether there is anything to ask: rules, which count and log even what they only allow, or a denial."""
        return bool(self.ingress or self.egress) or self.open != DIRECTIONS

    def rules(self, direction: Direction) -> tuple[PolicyRule, ...]:
        """The rules of a direction, in the order in which they are asked."""
        return self.ingress if direction == "ingress" else self.egress


# --- compiling ---------------------------------------------------------------------------------------------------


def policy_of(topology: Topology, number: int) -> Policy:
    """The policy of the ports with an identity. Nothing is allowed to ports whose identity is unknown or retired."""
    return next(policies(topology, (number,)))


def policies(topology: Topology, numbers: Iterable[int]) -> Iterator[Policy]:
    """The policies of several identities, which share their rules."""
    known: dict[tuple[AbstractSet[str], bool], Policy] = {}
    asked: dict[str, list[PolicyRule]] = {}
    for number in numbers:
        identity = topology.identity(number)
        if identity is None or identity.retired:
            yield Policy(number, True, (), (), ())
            continue
        groups, secure = frozenset(topology.groups_of_identity(number)), identity.port_security_enabled
        found = known.get((groups, secure))
        if found is None:
            found = known[groups, secure] = _policy(topology, identity, groups, asked)
        yield Policy(number, found.stateful, found.ingress, found.egress, found.open)


def _policy(
    topology: Topology, identity: Identity, group_ids: AbstractSet[str], known: dict[str, list[PolicyRule]]
) -> Policy:
    """The policy of an identity that is a member of these groups; ``known`` keeps the rules of each."""
    groups: list[SecurityGroup] = [topology.get("security-group", id) for id in group_ids]
    tenant = [group for group in groups if group.tier == TENANT]
    for group in groups:
        if group.id not in known:
            known[group.id] = list(_rules(topology, group))
    rules = sorted((rule for id in group_ids for rule in known[id]), key=_order)
    return Policy(
        identity.number,
        stateful=not tenant or any(group.stateful for group in tenant),  # admission has them agree
        ingress=tuple(rule for rule in rules if rule.direction == "ingress"),
        egress=tuple(rule for rule in rules if rule.direction == "egress"),
        open=() if identity.port_security_enabled else DIRECTIONS,
    )


def _order(rule: PolicyRule) -> tuple[bool, int, bool, bool, bool, int]:
    """The admin tier by priority, there denial first.

    Of rules that say the same, one whose connections are kept decides, and of these one that logs them.
    """
    return rule.tier != ADMIN, -rule.priority, rule.action != "deny", rule.revoke, not rule.log, rule.key


def _rules(topology: Topology, group: SecurityGroup) -> Iterator[PolicyRule]:
    """The rules of a group. One whose peers are none, as those of an address group may be, is left out."""
    for id in topology.rules_of(group.id):
        rule: SecurityGroupRule = topology.get("security-group-rule", id)
        family: Literal[4, 6] = 6 if rule.ethertype == "IPv6" else 4
        peer = _peer(topology, rule, family)
        if peer == Prefixes(()):
            continue
        protocol = _protocol(rule)
        yield PolicyRule(
            direction=rule.direction,
            action=rule.action,
            tier=group.tier,
            priority=group.priority if group.tier == ADMIN else 0,
            family=family,
            protocol=protocol,
            ports=_ports(rule) if protocol != _ICMP[family] else None,
            icmp=_icmp(rule) if protocol == _ICMP[family] else None,
            peer=peer,
            key=rule.rule_key or 0,
            rule_id=rule.id,
            group_id=group.id,
            log=rule.log,
            revoke=rule.revoke,
        )


def _peer(topology: Topology, rule: SecurityGroupRule, family: int) -> Peer:
    if rule.remote_group_id is not None:
        return Group(rule.remote_group_id)
    if rule.remote_ip_prefix is not None:
        return _within((rule.remote_ip_prefix,), family)
    if rule.remote_address_group_id is not None:
        group: AddressGroup | None = topology.get("address-group", rule.remote_address_group_id)
        return _within(() if group is None else group.addresses, family)
    return ANYONE


def _within(cidrs: Sequence[str], family: int) -> Peer:
    """The peers with an address in these prefixes, of which only those of the family count."""
    found = [ip_network(cidr, strict=False) for cidr in cidrs if (":" in cidr) == (family == 6)]
    prefixes: list[IPv4Network | IPv6Network] = list(collapse_addresses(found))  # type: ignore[type-var]
    if any(prefix.prefixlen == 0 for prefix in prefixes):
        return ANYONE
    return Prefixes(tuple(map(str, prefixes)))


def _protocol(rule: SecurityGroupRule) -> int | None:
    if rule.protocol is None:
        return None
    return ip_protocols.number(ip_protocols.canonical(rule.protocol, rule.ethertype or "IPv4"))


def _ports(rule: SecurityGroupRule) -> tuple[int, int] | None:
    """A range that lacks an end has none there."""
    low = rule.port_range_min or 0
    high = LAST_PORT if rule.port_range_max is None else rule.port_range_max
    return None if (low, high) == (0, LAST_PORT) else (low, high)


def _icmp(rule: SecurityGroupRule) -> tuple[int, int | None] | None:
    """Neutron has the type in place of the first port, and the code in place of the last."""
    return None if rule.port_range_min is None else (rule.port_range_min, rule.port_range_max)


# --- asking ------------------------------------------------------------------------------------------------------


def members(topology: Topology, group_id: str) -> AbstractSet[int]:
    """Numbers of the identities that rules mean which name a group as peers: those that name it, and those that it selects.

    What ports without port security send could be anybody's, so they are nobody's peers; tenants' groups take none.
    """
    found, group = topology.identities_of_group(group_id), topology.get("security-group", group_id)
    if group is None or group.tier == TENANT:
        return found
    return {number for number in found if _is_peer(topology, number)}


def _is_peer(topology: Topology, number: int) -> bool:
    identity = topology.identity(number)
    return identity is not None and identity.port_security_enabled


def relevant_peers(topology: Topology, hypervisor: str) -> set[int]:
    """Numbers of the identities that the policies of a hypervisor's ports can name."""
    groups = {group for number in topology.residents(hypervisor) for group in topology.groups_of_identity(number)}
    rules = (topology.get("security-group-rule", id) for group in groups for id in topology.rules_of(group))
    peers = {rule.remote_group_id for rule in rules} - {None}
    return {number for peer in peers for number in members(topology, peer)}


class Connection(Struct, frozen=True, kw_only=True):
    """The first packet of a connection, as the port sees it that has the policy."""

    direction: Direction
    """Whether the port receives it, or sends it."""
    family: Literal[4, 6]
    protocol: int
    address: str
    """The peer's."""
    identity: int = 0
    """The peer's; 0 when it is no VM, or has none."""
    port: int | None = None
    """Destination port; None where the protocol has none."""
    icmp: tuple[int, int] | None = None
    """Type and code; None where it is not the family's ICMP."""


class Verdict(NamedTuple):
    """Whether a connection is allowed, and the rule that decided; None: no rule matched."""

    allowed: bool
    rule: PolicyRule | None


def verdict(topology: Topology, policy: Policy, connection: Connection) -> Verdict:
    """What a policy says of a connection: the first rule that matches decides."""
    number = connection.identity
    groups = topology.groups_of_identity(number) if _is_peer(topology, number) else frozenset()
    for rule in policy.rules(connection.direction):
        if _serves(rule, connection) and _names(rule.peer, groups, connection.address):
            return Verdict(rule.action == "allow", rule)
    return Verdict(connection.direction in policy.open, None)


def _serves(rule: PolicyRule, connection: Connection) -> bool:
    """Whether family, protocol, ports and ICMP type are those of the rule."""
    if rule.family != connection.family or rule.protocol not in (None, connection.protocol):
        return False
    if rule.ports is not None:
        return connection.port is not None and rule.ports[0] <= connection.port <= rule.ports[1]
    if rule.icmp is not None:
        kind, code = rule.icmp
        return connection.icmp is not None and kind == connection.icmp[0] and code in (None, connection.icmp[1])
    return True


def _names(peer: Peer, groups: AbstractSet[str], address: str) -> bool:
    match peer:
        case Group(id=id):
            return id in groups
        case Prefixes(cidrs=cidrs):
            return any(ip_address(address) in ip_network(cidr) for cidr in cidrs)
    return True
