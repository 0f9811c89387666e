"""ICMP errors, TCP resets and echo replies, made from the frame that deserves them.

Sources: RFC 792, 1122 section 3.2.2, 1812 section 4.3.2 and 1191 (ICMP); RFC 4443 (ICMPv6); RFC 9293 section 3.10.7
(resets). Every function gives the frame that goes back to the sender, or None where none may: in answer to an ICMP
error, to a fragment other than the first, to multicast and broadcast, or to who is no single host. A frame may end
before its packet does, as a packet-in may; then there is only less to quote. Checksums of what is quoted are not
looked at beyond the IPv4 header's: a VM leaves them to its network card.
"""

from __future__ import annotations

from enum import Enum
from struct import Struct as Layout

from msgspec import Struct

from pipelines.fields import ICMP, ICMPV6, IPV4, IPV6, MULTICAST_BIT, TCP

from . import frames
from .frames import Ethernet, Malformed

ECHO_REPLY, UNREACHABLE, ECHO_REQUEST, TIME_EXCEEDED = 0, 3, 8, 11
FRAGMENTATION_NEEDED = 4
"""Code of an ICMP "unreachable"."""
UNREACHABLE6, TOO_BIG6, TIME_EXCEEDED6, ECHO_REQUEST6, ECHO_REPLY6, REDIRECT6 = 1, 2, 3, 128, 129, 137

QUOTED4 = 576 - 20 - 8
"""Bytes that an ICMP error quotes at most, so that all of it is no longer than 576 (RFC 1812 section 4.3.2.3)."""
QUOTED6 = 1280 - 40 - 8
"""Bytes that an ICMPv6 error quotes at most, so that all of it fits the smallest MTU (RFC 4443 section 2.4 c)."""


class Unreachable(Enum):
    """Why a destination is unreachable: the codes of ICMP and of ICMPv6."""

    NO_ROUTE = (0, 0)
    HOST = (1, 3)
    PORT = (3, 4)
    PROHIBITED = (13, 1)


# Everything but these is an error, or may be one.
_QUERIES4 = frozenset((ECHO_REPLY, ECHO_REQUEST, 9, 10, 13, 14, 15, 16, 17, 18))
_EXTENSIONS = (frames.HOP_BY_HOP, frames.ROUTING, frames.DESTINATION_OPTIONS)
_AUTHENTICATION = 51
_MOST_EXTENSIONS = 16
"""Extension headers that are walked at most; nobody sends as many."""

_IPV4 = Layout("!BBHHHBBHII")
_MORE_FRAGMENTS, _OFFSET = 0x2000, 0x1FFF
_TCP = Layout("!HHIIBBHHH")
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10


class _Offender(Struct, frozen=True, gc=False):
    """A packet that an error may be about."""

    ethernet: Ethernet
    version: int
    src: int
    dst: int
    fragment: bool
    protocol: int
    packet: bytes
    """From the IP header on, without padding."""
    start: int
    """Of the upper layer in ``packet``."""
    length: int
    """Bytes of the upper layer, as the IP header states it."""

    @property
    def multicast(self) -> bool:
        """Whether it was sent to more than one host, on either layer."""
        if self.ethernet.dst & MULTICAST_BIT:
            return True
        return not (_unicast4(self.dst) if self.version == 4 else _unicast6(self.dst))

    @property
    def error(self) -> bool:
        """Whether it is an ICMP error, or an ICMP message cut so short that it could be one."""
        if self.protocol != (ICMP if self.version == 4 else ICMPV6):
            return False
        if self.start >= len(self.packet):
            return True
        kind = self.packet[self.start]
        return kind not in _QUERIES4 if self.version == 4 else kind < 128 or kind == REDIRECT6


def _unicast4(address: int) -> bool:
    """Whether an IPv4 address is one host's: no "this network", loopback, multicast, reserved or broadcast."""
    return 0 < address >> 24 < 0xE0 and address >> 24 != 127


def _unicast6(address: int) -> bool:
    """Whether an IPv6 address is one host's: not unspecified, loopback or multicast."""
    return address > 1 and address >> 120 != 0xFF


def _read(frame: bytes) -> _Offender | None:
    """What there is to complain about; None for what must not be answered or is no IP packet at all."""
    try:
        ethernet = frames.read_ethernet(frame)
    except Malformed:
        return None
    if ethernet.src & MULTICAST_BIT:
        return None
    found = None
    if ethernet.ethertype == IPV4:
        found = _read4(ethernet)
    elif ethernet.ethertype == IPV6:
        found = _read6(ethernet)
    return None if found is None or found.error else found


def _read4(ethernet: Ethernet) -> _Offender | None:
    packet = ethernet.payload
    if len(packet) < 20:
        return None
    first, _, total, _, fragment, _, protocol, _, src, dst = _IPV4.unpack_from(packet)
    start = (first & 0xF) * 4
    if first >> 4 != 4 or not 20 <= start <= min(total, len(packet)) or not frames.intact(packet[:start]):
        return None
    if fragment & _OFFSET or not _unicast4(src):
        return None
    return _Offender(
        ethernet, 4, src, dst, bool(fragment & _MORE_FRAGMENTS), protocol, packet[:total], start, total - start
    )


def _read6(ethernet: Ethernet) -> _Offender | None:
    packet = ethernet.payload
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return None
    end = 40 + int.from_bytes(packet[4:6], "big")
    src, dst = int.from_bytes(packet[8:24], "big"), int.from_bytes(packet[24:40], "big")
    if not _unicast6(src):
        return None
    packet, protocol, start, fragment = packet[:end], packet[6], 40, False
    for _ in range(_MOST_EXTENSIONS):
        if protocol not in _EXTENSIONS and protocol not in (frames.FRAGMENT, _AUTHENTICATION):
            return _Offender(ethernet, 6, src, dst, fragment, protocol, packet, start, end - start)
        if start + 8 > len(packet):
            return None
        size = 8 + 8 * packet[start + 1]
        if protocol == frames.FRAGMENT:
            size, fragment = 8, True
            if int.from_bytes(packet[start + 2 : start + 4], "big") >> 3:
                return None
        elif protocol == _AUTHENTICATION:  # counts in 4 bytes (RFC 4302 section 2.2)
            size = 8 + 4 * packet[start + 1]
        protocol, start = packet[start], start + size
        if start > end:
            return None
    return None


def _back(offender: _Offender, mac: int, packet: bytes) -> bytes:
    ethernet = offender.ethernet
    ethertype = IPV4 if offender.version == 4 else IPV6
    return frames.ethernet(ethernet.src, mac, ethertype, packet, ethernet.tci)


def _error4(offender: _Offender, mac: int, ip: int, kind: int, code: int, value: int = 0) -> bytes:
    body = value.to_bytes(4, "big") + offender.packet[:QUOTED4]
    return _back(offender, mac, frames.icmp4(ip, offender.src, kind, code, body))


def _error6(offender: _Offender, mac: int, ip: int, kind: int, code: int, value: int = 0) -> bytes:
    body = value.to_bytes(4, "big") + offender.packet[:QUOTED6]
    return _back(offender, mac, frames.icmp6(ip, offender.src, kind, code, body, hop_limit=64))


def time_exceeded(frame: bytes, source_mac: int, source_ip: int) -> bytes | None:
    """TTL or hop limit ran out on the way; from the router with this MAC and IP address."""
    offender = _read(frame)
    if offender is None or offender.multicast:
        return None
    if offender.version == 4:
        return _error4(offender, source_mac, source_ip, TIME_EXCEEDED, 0)
    return _error6(offender, source_mac, source_ip, TIME_EXCEEDED6, 0)


def unreachable(frame: bytes, reason: Unreachable, source_mac: int, source_ip: int) -> bytes | None:
    """The destination, or the port there, cannot be reached or is prohibited."""
    offender = _read(frame)
    if offender is None or offender.multicast:
        return None
    code4, code6 = reason.value
    if offender.version == 4:
        return _error4(offender, source_mac, source_ip, UNREACHABLE, code4)
    return _error6(offender, source_mac, source_ip, UNREACHABLE6, code6)


def too_big(frame: bytes, mtu: int, source_mac: int, source_ip: int) -> bytes | None:
    """The packet is longer than the next link's ``mtu`` in bytes, Ethernet header not counted.

    IPv6 tells so for multicast too (RFC 4443 section 2.4 e.3).
    """
    offender = _read(frame)
    if offender is None:
        return None
    if offender.version == 6:
        return _error6(offender, source_mac, source_ip, TOO_BIG6, 0, mtu)
    if offender.multicast:
        return None
    return _error4(offender, source_mac, source_ip, UNREACHABLE, FRAGMENTATION_NEEDED, mtu)


def tcp_reset(frame: bytes, source_mac: int) -> bytes | None:
    """The reset that a host gives which has no such connection, in the name of the destination; None if not TCP."""
    offender = _read(frame)
    if offender is None or offender.multicast or offender.fragment or offender.protocol != TCP:
        return None
    if offender.start + _TCP.size > len(offender.packet):
        return None
    src_port, dst_port, seq, ack, offset, flags, *_ = _TCP.unpack_from(offender.packet, offender.start)
    payload = offender.length - (offset >> 4) * 4
    if flags & _RST or offset >> 4 < 5 or payload < 0:
        return None
    if flags & _ACK:
        numbers = ack, 0, _RST
    else:
        numbers = 0, seq + payload + bool(flags & _SYN) + bool(flags & _FIN) & 0xFFFFFFFF, _RST | _ACK
    return _back(offender, source_mac, _segment(offender, dst_port, src_port, *numbers))


def _segment(offender: _Offender, src_port: int, dst_port: int, seq: int, ack: int, flags: int) -> bytes:
    """An IP packet back to the sender with a TCP header and nothing more."""
    src, dst = offender.dst, offender.src
    size = 4 if offender.version == 4 else 16
    pseudo = src.to_bytes(size, "big") + dst.to_bytes(size, "big") + (_TCP.size << 16 | TCP).to_bytes(6, "big")
    header = _TCP.pack(src_port, dst_port, seq, ack, 5 << 4, flags, 0, 0, 0)
    header = header[:16] + frames.checksum(pseudo + header).to_bytes(2, "big") + header[18:]
    return frames.ipv4(src, dst, TCP, header) if offender.version == 4 else frames.ipv6(src, dst, TCP, header)


def echo_reply(frame: bytes) -> bytes | None:
    """The reply to an echo request, in the name of whom it was sent to; None if it is none, or damaged."""
    try:
        request = frames.read_icmp(frame)
    except Malformed:
        return None
    ethernet, ip = request.ethernet, request.ip
    if (ethernet.src | ethernet.dst) & MULTICAST_BIT or request.code or len(request.body) < 4:
        return None
    if ip.version == 4 and request.type == ECHO_REQUEST and _unicast4(ip.src) and _unicast4(ip.dst):
        packet = frames.icmp4(ip.dst, ip.src, ECHO_REPLY, 0, request.body)
        return frames.ethernet(ethernet.src, ethernet.dst, IPV4, packet, ethernet.tci)
    if ip.version == 6 and request.type == ECHO_REQUEST6 and _unicast6(ip.src) and _unicast6(ip.dst):
        packet = frames.icmp6(ip.dst, ip.src, ECHO_REPLY6, 0, request.body, hop_limit=64)
        return frames.ethernet(ethernet.src, ethernet.dst, IPV6, packet, ethernet.tci)
    return None
