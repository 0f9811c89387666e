"""Who may talk to whom, read naively off ports, groups and rules: an oracle for everything that enforces policies.

It knows neither identities nor the policy compiler, nor any order but the one that the documentation gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from topology.graph import Topology
from topology.model import LabelRequirement, Port, SecurityGroup, SecurityGroupRule

NUMBERS = {
    "tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "ipv6-icmp": 58, "icmpv6": 58, "gre": 47, "esp": 50, "udplite": 136,
}  # fmt: skip
WITH_PORTS = (6, 17, 132)


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection. Who sends and who receives it are ids of ports; None: somebody outside."""

    source: str | None
    destination: str | None
    family: int
    source_address: str
    destination_address: str
    protocol: int
    source_port: int | None = None
    destination_port: int | None = None
    icmp: tuple[int, int] | None = None


@dataclass(frozen=True)
class Decision:
    """Whether a port's groups let a packet pass; ``rules`` has the ids of all rules of which any may have decided."""

    allowed: bool
    rules: frozenset[str] = frozenset()


def passes(topology: Topology, packet: Packet) -> bool:
    """Whether the sender's groups and the receiver's let the packet pass."""
    return decide(topology, packet, "egress").allowed and decide(topology, packet, "ingress").allowed


def decide(topology: Topology, packet: Packet, direction: str) -> Decision:
    """What the sender's groups (egress) or the receiver's (ingress) say."""
    here, there = packet.source, packet.destination
    address = packet.destination_address
    if direction == "ingress":
        here, there, address = packet.destination, packet.source, packet.source_address
    port = topology.get("port", here) if here else None
    if port is None or port.security_groups is None:
        return Decision(True)
    mine = list(groups_of(topology, port))
    peer = topology.get("port", there) if there else None
    theirs = (
        {group.id for group in groups_of(topology, peer)} if peer is not None and peer.port_security_enabled else set()
    )

    def matching(group: SecurityGroup) -> Iterator[SecurityGroupRule]:
        for rule in topology.all("security-group-rule").values():
            if rule.security_group_id == group.id and rule.direction == direction and serves(rule, packet):
                if names(topology, rule, theirs, address):
                    yield rule

    admin = [group for group in mine if group.tier == "admin"]
    for priority in sorted({group.priority for group in admin}, reverse=True):
        asked = [rule for group in admin if group.priority == priority for rule in matching(group)]
        for action in ("deny", "allow"):
            found = frozenset(rule.id for rule in asked if rule.action == action)
            if found:
                return Decision(action == "allow", found)
    if not port.port_security_enabled:
        return Decision(True)
    tenant = [group for group in mine if group.tier == "tenant"]
    found = frozenset(rule.id for group in tenant for rule in matching(group))
    return Decision(bool(found), found)


def groups_of(topology: Topology, port: Port) -> Iterator[SecurityGroup]:
    """The groups that a port names, and those that select it."""
    for group in topology.all("security-group").values():
        ours = group.tier == "admin" or group.project_id == port.project_id
        selected = group.selector is not None and ours and all(holds(each, port.labels) for each in group.selector)
        if group.id in (port.security_groups or ()) or selected:
            yield group


def holds(requirement: LabelRequirement, labels: dict[str, str]) -> bool:
    """Whether labels are as required."""
    there = requirement.key in labels
    among = there and labels[requirement.key] in requirement.values
    return {"Exists": there, "DoesNotExist": not there, "In": among, "NotIn": not among}[requirement.operator]


def serves(rule: SecurityGroupRule, packet: Packet) -> bool:
    """Whether the packet is of the rule's IP version, protocol, ports or ICMP type and code."""
    if rule.ethertype != f"IPv{packet.family}":
        return False
    if rule.protocol is None:
        return True
    number = NUMBERS[rule.protocol] if rule.protocol in NUMBERS else int(rule.protocol)
    if number == 1 and packet.family == 6:
        number = 58
    if packet.protocol != number:
        return False
    low, high = rule.port_range_min, rule.port_range_max
    if number in WITH_PORTS and (low, high) != (None, None):
        return packet.destination_port in range(low, high + 1)
    if packet.icmp is not None and low is not None:
        return packet.icmp[0] == low and (high is None or packet.icmp[1] == high)
    return True


def names(topology: Topology, rule: SecurityGroupRule, groups: set[str], address: str) -> bool:
    """Whether the rule is about this peer: one who is in these groups, and has this address."""
    if rule.remote_group_id is not None:
        return rule.remote_group_id in groups
    if rule.remote_ip_prefix is not None:
        return ip_address(address) in ip_network(rule.remote_ip_prefix)
    if rule.remote_address_group_id is not None:
        addresses = topology.get("address-group", rule.remote_address_group_id).addresses
        return any(ip_address(address) in ip_network(each) for each in addresses)
    return True
