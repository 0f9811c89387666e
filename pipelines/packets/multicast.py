"""Who wants which multicast group: IGMP and MLD messages read from frames, and the queries that make hosts tell.

Sources: RFC 1112, 2236 and 3376 (IGMPv1 to v3), RFC 2710 and 3810 (MLDv1 and v2), RFC 4541 (snooping). Snooping here
knows groups, not their sources: who wants some source of a group is a receiver of the group.
"""

from __future__ import annotations

from struct import Struct as Layout

from msgspec import Struct

from pipelines.fields import ICMPV6, IPV4, IPV6

from . import frames
from .frames import ALL_NODES, Malformed, multicast_mac

IGMP = 2
IGMP_QUERY, IGMP_REPORT1, IGMP_REPORT2, IGMP_LEAVE, IGMP_REPORT3 = 0x11, 0x12, 0x16, 0x17, 0x22
MLD_QUERY, MLD_REPORT1, MLD_DONE, MLD_REPORT2 = 130, 131, 132, 143

ALL_HOSTS = 0xE0000001
"""224.0.0.1"""

ALWAYS_FLOODED4 = ((0xE0000000, 0xFFFFFF00),)
"""224.0.0.0/24: receivers need not report these (RFC 4541 section 2.1.2)."""
ALWAYS_FLOODED6 = ((0xFF01 << 112, 0xFFFF << 112), (0xFF02 << 112, 0xFFFF << 112))
"""The well-known groups of one host and one link, neighbour discovery's among them."""

_TO_INCLUDE = (1, 3)
"""Records that name all sources that are wanted, in IGMPv3 and MLDv2."""
_TO_EXCLUDE = (2, 4)
"""Records that name the sources that are not wanted."""
_ALLOW = 5

_IGMP = Layout("!BBHI")
_RECORD = Layout("!BBH")
_ROUTER_ALERT4 = b"\x94\x04\0\0"
_ROUTER_ALERT6 = 5
"""Option of a hop-by-hop header (RFC 2711)."""
_HOP_BY_HOP_ALERT = bytes((ICMPV6, 0, _ROUTER_ALERT6, 2, 0, 0, 1, 0))
_LINK_LOCAL = 0xFE80 >> 6


class Joined(Struct, frozen=True, gc=False):
    """The sender wants a group. Which one: an IPv4 or IPv6 address, as in all these events."""

    group: int


class Left(Struct, frozen=True, gc=False):
    """The sender does not want a group any more. Another host behind the same port may."""

    group: int


class Queried(Struct, frozen=True, gc=False):
    """The sender asks who wants a group, or any at all (0). A ``querier`` of 0 is no router but a snooping switch."""

    group: int
    querier: int
    version: int
    """Of IP."""


Event = Joined | Left | Queried


def always_flooded(group: int) -> bool:
    """Whether a group goes to every port, whatever was reported of it."""
    ranges = ALWAYS_FLOODED6 if group >> 32 else ALWAYS_FLOODED4
    return any(group & mask == value for value, mask in ranges)


def is_multicast(address: int, version: int) -> bool:
    """Whether an address of this IP version is a group's."""
    return address >> 120 == 0xFF if version == 6 else address >> 28 == 0xE


# --- reading -------------------------------------------------------------------------------------------------------


def parse(frame: bytes) -> list[Event]:
    """What an IGMP or MLD message tells, in its order; empty when it is none or damaged, or tells nothing new.

    A message of N bytes has no more than N / 8 events. Groups that are always flooded are among them.
    """
    try:
        ethernet = frames.read_ethernet(frame)
        if ethernet.ethertype == IPV4:
            return _igmp(frames.read_ipv4(ethernet.payload))
        if ethernet.ethertype == IPV6 and ethernet.payload[6:7] == b"\0":  # a hop-by-hop header first
            return _mld(frames.read_icmp(frame))
    except Malformed:
        pass
    return []


def _igmp(ip: frames.Ip) -> list[Event]:
    message = ip.payload
    if ip.protocol != IGMP or ip.ttl != 1 or len(message) < _IGMP.size or not frames.intact(message):
        return []
    kind, _, _, group = _IGMP.unpack_from(message)
    if kind == IGMP_REPORT3:
        return _records(message, 4)
    if kind == IGMP_QUERY:
        return [Queried(group, ip.src, 4)] if not group or is_multicast(group, 4) else []
    if not is_multicast(group, 4):
        return []
    if kind in (IGMP_REPORT1, IGMP_REPORT2):
        return [Joined(group)]
    return [Left(group)] if kind == IGMP_LEAVE else []


def _mld(icmp: frames.Icmp) -> list[Event]:
    ip, body = icmp.ip, icmp.body
    # Reports may come from :: while a host has no address yet (RFC 3810 section 5.2.13, RFC 3590).
    if ip.ttl != 1 or icmp.code or not (_is_link_local(ip.src) or (ip.src == 0 and icmp.type != MLD_QUERY)):
        return []
    if not _alerts_routers(ip.options):
        return []
    if icmp.type == MLD_REPORT2:
        return _records(bytes(4) + body, 6)
    if icmp.type not in (MLD_QUERY, MLD_REPORT1, MLD_DONE) or len(body) < 20:
        return []
    group = int.from_bytes(body[4:20], "big")
    if icmp.type == MLD_QUERY and (not group or is_multicast(group, 6)):
        return [Queried(group, ip.src, 6)]
    if not is_multicast(group, 6) or icmp.type == MLD_QUERY:
        return []
    return [Joined(group)] if icmp.type == MLD_REPORT1 else [Left(group)]


def _is_link_local(address: int) -> bool:
    return address >> 118 == _LINK_LOCAL


def _alerts_routers(extensions: bytes) -> bool:
    """Whether the hop-by-hop header at the start has the option without which MLD is not to be taken."""
    position, end = 2, min(8 + 8 * extensions[1], len(extensions))
    while position + 1 < end:
        if extensions[position] == 0:  # one byte of padding
            position += 1
            continue
        if extensions[position] == _ROUTER_ALERT6:
            return extensions[position + 1] == 2 and position + 4 <= end
        position += 2 + extensions[position + 1]
    return False


def _records(message: bytes, version: int) -> list[Event]:
    """The records of an IGMPv3 or MLDv2 report, which differ in the length of addresses only."""
    size = 4 if version == 4 else 16
    events: list[Event] = []
    position = 8
    for _ in range(int.from_bytes(message[6:8], "big")):
        start = position + _RECORD.size + size
        if start > len(message):
            return []
        kind, auxiliary, sources = _RECORD.unpack_from(message, position)
        group = int.from_bytes(message[start - size : start], "big")
        position = start + sources * size + 4 * auxiliary
        if position > len(message):
            return []
        if not is_multicast(group, version):
            continue
        if kind in _TO_EXCLUDE or (sources and (kind in _TO_INCLUDE or kind == _ALLOW)):
            events.append(Joined(group))
        elif kind in _TO_INCLUDE:
            events.append(Left(group))
    return events


# --- queries -------------------------------------------------------------------------------------------------------


def igmp_query(
    source_mac: int,
    source_ip: int = 0,
    *,
    group: int = 0,
    version: int = 3,
    response_ms: int = 10_000,
    interval: int = 125,
    robustness: int = 2,
) -> bytes:
    """A frame that asks who wants ``group``, or any group (0), and gives hosts ``response_ms`` to say so.

    A switch that is no router asks from 0.0.0.0 (RFC 4541 section 2.1.1). ``interval`` is the time in seconds between
    its general queries. ``version`` 2 or 3 (RFC 2236, 3376).
    """
    tenths = response_ms // 100
    code = _floating(tenths, 3, 4) if version == 3 else min(tenths, 0xFF)
    message = _IGMP.pack(IGMP_QUERY, code, 0, group)
    if version == 3:
        message += bytes((robustness & 7, _floating(interval, 3, 4), 0, 0))
    message = message[:2] + frames.checksum(message).to_bytes(2, "big") + message[4:]
    to = group or ALL_HOSTS
    packet = frames.ipv4(source_ip, to, IGMP, message, ttl=1, options=_ROUTER_ALERT4)
    return frames.ethernet(multicast_mac(to), source_mac, IPV4, packet)


def mld_query(
    source_mac: int,
    source_ip: int,
    *,
    group: int = 0,
    response_ms: int = 10_000,
    interval: int = 125,
    robustness: int = 2,
) -> bytes:
    """The same for IPv6, as MLDv2 (RFC 3810), which hosts of version 1 answer too. Raises ValueError.

    Nobody takes a query whose source is not link-local.
    """
    if not _is_link_local(source_ip):
        raise ValueError(f"MLD: the source {source_ip:#x} of a query is not a link-local address")
    body = _floating(response_ms, 3, 12).to_bytes(2, "big") + bytes(2) + group.to_bytes(16, "big")
    body += bytes((robustness & 7, _floating(interval, 3, 4), 0, 0))
    to = group or ALL_NODES
    packet = frames.icmp6(source_ip, to, MLD_QUERY, 0, body, hop_limit=1, extensions=_HOP_BY_HOP_ALERT)
    return frames.ethernet(multicast_mac(to), source_mac, IPV6, packet)


def _floating(number: int, exponent_bits: int, mantissa_bits: int) -> int:
    """A number as IGMPv3's and MLDv2's codes write it, rounded down: as it is when small, otherwise a float.

    (RFC 3376 sections 4.1.1 and 4.1.7, RFC 3810 section 5.1.3.)
    """
    marker = 1 << exponent_bits + mantissa_bits
    if number < marker:
        return number
    exponent = min(number.bit_length() - mantissa_bits - 1 - 3, (1 << exponent_bits) - 1)
    mantissa = min(number >> exponent + 3, (2 << mantissa_bits) - 1)
    return marker | exponent << mantissa_bits | mantissa & (1 << mantissa_bits) - 1
