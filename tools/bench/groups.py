"""Security groups that both sides are asked for, so that a port is as open, and as stateful, on one as on the other.

NovaNet makes a security group of each, OVN a port group with ACLs, as OpenStack's driver for OVN makes them of a security
group.
"""

from __future__ import annotations

from typing import NamedTuple

INGRESS, EGRESS = "ingress", "egress"
IPV4, IPV6 = "IPv4", "IPv6"


class Rule(NamedTuple):
    """What members may receive or send: an IP version and a protocol, at ranges of destination ports, from or to peers."""

    direction: str
    ethertype: str = IPV4
    protocol: str | None = None
    ports: tuple[tuple[int, int], ...] = ()
    """First and last of each range; every port when empty."""
    prefix: str | None = None
    """The peers' addresses."""
    members: bool = False
    """The peers are the members of the group itself."""


class Group(NamedTuple):
    """A group by its number, which no other has, and its name."""

    number: int
    name: str
    rules: tuple[Rule, ...]
    stateful: bool = True

    @property
    def id(self) -> str:
        """As NovaNet knows it."""
        return f"00000000-0000-4000-8000-0004{self.number:08x}"


def at(*ports: int) -> tuple[tuple[int, int], ...]:
    """Ranges of one port each."""
    return tuple((port, port) for port in ports)


def both(direction: str, members: bool = False) -> tuple[Rule, ...]:
    """Everything of both IP versions."""
    return tuple(Rule(direction, version, members=members) for version in (IPV4, IPV6))


OPEN = Group(10, "open", both(INGRESS) + both(EGRESS), stateful=False)
"""Lets everything pass and tracks no connection. In OVN that is no group at all: nothing but port security."""
MEMBERS = Group(11, "members", (Rule(INGRESS, IPV4, "tcp", at(80, 443, 22, 8080), members=True), Rule(EGRESS)))
"""Members receive of each other at four TCP ports, and may send all IPv4."""
SERVERS = Group(
    12,
    "servers",
    (
        Rule(INGRESS, IPV4, "icmp"),
        Rule(INGRESS, IPV4, "tcp", at(22)),
        Rule(INGRESS, IPV4, "tcp", at(80, 443)),
        Rule(INGRESS, IPV4, "tcp", ((5000, 6000),), prefix="10.0.0.0/8"),
        Rule(EGRESS),
    ),
)
"""Some services are open to everybody, one to a prefix, and all IPv4 may be sent."""
DEFAULT = Group(13, "neighbours", both(INGRESS, members=True) + both(EGRESS))
"""As Neutron's ``default``: members receive everything of each other, and may send everything."""
