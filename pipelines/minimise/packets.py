"""Rules on IP packets, as packet filters have them: addresses, protocol, ports, TCP flags, ICMP type and code."""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import ip_network

from .boxes import Dimension, Rule, Space
from .ranges import Span, Ternary

TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
PORTED = frozenset({TCP, UDP, SCTP})
"""Protocols with ports."""
ANY_PORT, ANY_TYPE = (0, 0xFFFF), (0, 0xFF)
ANY_FLAGS = (0, 0)
_PARTS = SOURCE, DESTINATION, SERVICE = range(3)
_PROTOCOL = 2
"""Its place in a space."""


def _space(width: int) -> Space:
    protocol = (_PROTOCOL,)
    return (
        Dimension("source", "prefix", width, SOURCE),
        Dimension("destination", "prefix", width, DESTINATION),
        Dimension("protocol", "any", 8, SERVICE),
        Dimension("source port", "range", 16, SERVICE, protocol),
        Dimension("destination port", "range", 16, SERVICE, protocol),
        Dimension("TCP flags", "bits", 12, SERVICE, protocol),
        Dimension("ICMP type", "any", 8, SERVICE, protocol),
        Dimension("ICMP code", "any", 8, SERVICE, protocol),
    )


SPACES = {4: _space(32), 6: _space(128)}
"""The dimensions of IPv4 and of IPv6 packets. What a protocol does not have is 0 in its packets."""


def rule(
    family: int,
    source: str,
    destination: str,
    verdict: Hashable,
    *,
    protocol: int | None = None,
    source_ports: Span = ANY_PORT,
    destination_ports: Span = ANY_PORT,
    flags: Ternary = ANY_FLAGS,
    icmp_type: int | None = None,
    icmp_code: int | None = None,
) -> Rule:
    """A rule on packets of a family (4 or 6) between two prefixes.

    Raises ValueError where it asks for ports, flags or types of a protocol that has none, or for addresses of the other family.
    """
    if protocol not in PORTED and (source_ports != ANY_PORT or destination_ports != ANY_PORT):
        raise ValueError(f"protocol {protocol}: it has no ports; ports are those of TCP, UDP or SCTP")
    if protocol != TCP and flags != ANY_FLAGS:
        raise ValueError(f"protocol {protocol}: it has no TCP flags")
    if protocol != (ICMP if family == 4 else ICMPV6) and (icmp_type is not None or icmp_code is not None):
        raise ValueError(f"protocol {protocol}: it has no ICMP type and code in IPv{family}")
    box = (
        _span(family, source), _span(family, destination), (0, 255) if protocol is None else (protocol, protocol),
        source_ports, destination_ports, (flags[0] & flags[1], flags[1]), *map(_type, (icmp_type, icmp_code)),
    )  # fmt: skip
    return Rule(box, verdict)


def _type(number: int | None) -> Span:
    return ANY_TYPE if number is None else (number, number)


def _span(family: int, cidr: str) -> Span:
    prefix = ip_network(cidr, strict=False)
    if prefix.version != family:
        raise ValueError(f"{cidr} is not a prefix of IPv{family}")
    return int(prefix.network_address), int(prefix.broadcast_address)
