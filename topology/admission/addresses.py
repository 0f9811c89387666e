"""IP and MAC addresses as text: checked, and brought to their one canonical form.

Canonical text is what ``ipaddress`` prints: RFC 5952 for IPv6, no leading zeros for IPv4.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from .write import Refused

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

_NOT_FOR_VMS: tuple[Prefix, ...] = tuple(
    ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/127", "ff00::/8", "fe80::/10")
)


def parse_address(text: str, field: str) -> Address:
    """An address. Raises Refused(400)."""
    try:
        address = ip_address(text)
    except ValueError:
        raise Refused(400, field, f"{text!r} is not an IPv4 or IPv6 address") from None
    if "%" in text:
        raise Refused(400, field, f"{text!r} names a scope; give the address alone")
    return address


def parse_prefix(text: str, field: str) -> Prefix:
    """A prefix without host bits; a bare address is the prefix of that one. Raises Refused(400)."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise Refused(400, field, f"{text!r} is not an IPv4 or IPv6 prefix such as 10.0.0.0/24") from None
    address, _, length = text.partition("/")
    if "%" in text or (length and not length.isdecimal()):
        raise Refused(400, field, f"{text!r} is not a prefix; do you mean {network}?")
    if ip_address(address) != network.network_address:
        raise Refused(400, field, f"{text!r} has bits set beyond the prefix; do you mean {network}?")
    return network


def subnet_prefix(text: str, field: str) -> Prefix:
    """The cidr of a subnet: addresses that VMs can have. Raises Refused(400)."""
    network = parse_prefix(text, field)
    for reserved in _NOT_FOR_VMS:
        if network.version == reserved.version and network.overlaps(reserved):
            raise Refused(400, field, f"{network} overlaps {reserved}, which hosts cannot have")
    return network


@lru_cache(maxsize=65536)
def stored_prefix(cidr: str) -> Prefix:
    """The prefix of a cidr that was admitted before."""
    return ip_network(cidr)


def reserved_in(network: Prefix) -> frozenset[int]:
    """Addresses of a subnet that no host may have: network and broadcast of IPv4 up to /30 (RFC 3021 has /31), and the
    subnet-router anycast address of IPv6 up to /126 (RFC 4291, section 2.6.1; RFC 6164 has /127)."""
    if network.max_prefixlen - network.prefixlen < 2:
        return frozenset()
    first, last = int(network.network_address), int(network.broadcast_address)
    return frozenset((first, last)) if network.version == 4 else frozenset((first,))


def unicast(text: str, field: str) -> str:
    """Canonical text of an address that one host can have. Raises Refused(400)."""
    address = parse_address(text, field)
    if address.is_multicast or address.is_unspecified or int(address) == 0xFFFFFFFF:
        raise Refused(400, field, f"{address} is not a unicast address")
    return str(address)


def mac_address(text: str, field: str) -> str:
    """A unicast MAC address in lower case; its form was checked by the model. Raises Refused(400)."""
    mac = text.lower()
    if int(mac[:2], 16) & 1:
        raise Refused(400, field, f"{mac} is a multicast address (its first byte is odd)")
    if mac == "00:00:00:00:00:00":
        raise Refused(400, field, f"{mac} is no host's address")
    return mac
