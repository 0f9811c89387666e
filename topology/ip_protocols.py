"""IP protocols as security group rules name them: Neutron's names, or numbers (IANA, "Assigned Internet Protocol Numbers")."""

from __future__ import annotations

NUMBERS: dict[str, int] = {
    "hopopt": 0, "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "egp": 8, "udp": 17, "dccp": 33, "ipv6-encap": 41,
    "ipv6-route": 43, "ipv6-frag": 44, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "ipv6-icmp": 58, "ipv6-nonxt": 59,
    "ipv6-opts": 60, "ospf": 89, "vrrp": 112, "pgm": 113, "sctp": 132, "udplite": 136,
}  # fmt: skip
NAMES: dict[int, str] = {number: name for name, number in NUMBERS.items()}
ALIASES = {"icmpv6": "ipv6-icmp", "icmp6": "ipv6-icmp"}
ANY = ("any", "ip")
"""What Neutron takes for every protocol."""

ICMP, ICMPV6 = 1, 58
WITH_PORTS = frozenset((6, 17, 132))
"""Protocols whose ports a switch can tell: TCP, UDP and SCTP (ovs-fields(7)). DCCP and UDP-Lite have ports that it cannot."""
ONLY_IPV6 = frozenset((43, 44, 58, 59, 60))
EXTENSION_HEADERS = frozenset((0, 43, 44, 51, 60))
"""What in IPv6 stands between the header and the protocol (RFC 8200, section 4), so that no packet is of it."""


def number(protocol: str | None) -> int | None:
    """The number of a protocol that was admitted; None stands for every protocol."""
    if protocol is None:
        return None
    return NUMBERS[protocol] if protocol in NUMBERS else int(protocol)


def canonical(text: str, ethertype: str) -> str | None:
    """The one way in which a protocol is written: its name, or its number where it has none; None for every protocol.

    ``icmp`` is that of the IP version. Raises ValueError.
    """
    name = text.lower()
    name = ALIASES.get(name, name)
    if name in ANY:
        return None
    if name.isascii() and name.isdecimal():
        value = int(name)
        if value > 255:
            raise ValueError(f"{value} is no IP protocol; there are 0 to 255")
        name = NAMES.get(value, str(value))
    elif name not in NUMBERS:
        raise ValueError(f"{text!r} is no protocol; there are {', '.join(sorted(NUMBERS))}, and numbers from 0 to 255")
    if name == "icmp" and ethertype == "IPv6":
        return "ipv6-icmp"
    return name
