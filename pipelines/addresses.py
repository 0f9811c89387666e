"""The addresses of a port as numbers: what it is reached by, and what it may send from."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from ipaddress import ip_network

from topology.model import AddressPair, FixedIp, Port

from . import fields as f

LINK_LOCAL = 0xFE80 << 112


def link_local(mac: int) -> int:
    """The link-local IPv6 address that follows from a MAC address (modified EUI-64, RFC 4291 appendix A)."""
    high, low = mac >> 24, mac & 0xFFFFFF
    return LINK_LOCAL | (high ^ 0x020000) << 40 | 0xFFFE << 24 | low


class Prefixes:
    """(address, mask) pairs by IP version; the mask is None for a single address."""

    __slots__ = ("v4", "v6")

    def __init__(self) -> None:
        self.v4: list[tuple[int, int | None]] = []
        self.v6: list[tuple[int, int | None]] = []

    def add(self, text: str) -> None:
        """Add an address or a prefix."""
        prefix = ip_network(text)
        mask = None if prefix.prefixlen == prefix.max_prefixlen else int(prefix.netmask)
        pair = (int(prefix.network_address), mask)
        family = self.v4 if prefix.version == 4 else self.v6
        if pair not in family:
            family.append(pair)


def addresses_of(port: Port) -> PortAddresses:
    """The addresses of a port; kept for a while, since several features on several hypervisors ask."""
    return _addresses(port.mac_address or "", port.fixed_ips or (), port.allowed_address_pairs)


@lru_cache(maxsize=4096)
def _addresses(mac: str, fixed_ips: tuple[FixedIp, ...], pairs: tuple[AddressPair, ...]) -> PortAddresses:
    return PortAddresses(mac, fixed_ips, pairs)


class PortAddresses:
    """What follows from a port's MAC address, fixed addresses and allowed address pairs. Not to be changed."""

    __slots__ = ("allowed", "foreign_macs", "mac", "v4", "v6")

    def __init__(self, mac: str, fixed_ips: tuple[FixedIp, ...], pairs: tuple[AddressPair, ...]) -> None:
        self.mac = f.mac(mac)
        self.v4: list[int] = []
        self.v6: list[int] = []
        """Addresses the port answers for, the link-local one included."""
        self.allowed: defaultdict[int, Prefixes] = defaultdict(Prefixes)
        """What the port may send from, by source MAC."""
        for fixed in fixed_ips:
            text = fixed.ip_address or ""
            (self.v6 if ":" in text else self.v4).append(f.ip(text))
            self.allowed[self.mac].add(text)
        for pair in pairs:
            self.allowed[f.mac(pair.mac_address) if pair.mac_address else self.mac].add(pair.ip_address)
        self.foreign_macs = sorted(set(self.allowed) - {self.mac})
        for sender, prefixes in self.allowed.items():
            if prefixes.v6:
                prefixes.v6.append((link_local(sender), None))
        if self.v6:
            self.v6.append(link_local(self.mac))
