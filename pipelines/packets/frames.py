"""Ethernet, IPv4, IPv6, UDP, TCP and ICMP headers, read from frames and written into them.

Readers check what a receiver has to check (lengths, checksums, no fragments) and raise ``Malformed``; bytes after the
end that the IP header states are Ethernet padding and left out. Addresses are numbers in host order. Sources:
IEEE 802.3 and 802.1Q, RFC 791, 792, 768, 9293, 8200, 4443, 1071 (checksum).
"""

from __future__ import annotations

from struct import Struct as Layout

from msgspec import Struct

from ..fields import ICMP, ICMPV6, IPV4, IPV6, TCP, UDP

VLAN, SERVICE_VLAN = 0x8100, 0x88A8
BROADCAST_MAC = 0xFFFFFFFFFFFF
BROADCAST_IPV4 = 0xFFFFFFFF
ALL_NODES = 0xFF02 << 112 | 1
"""ff02::1"""
ALL_ROUTERS = 0xFF02 << 112 | 2
"""ff02::2"""

HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60
_EXTENSIONS = (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS)

_MACS = Layout("!HIHIH")
"""Destination and source MAC, 16 and 32 bits each, and the type."""
_TAG = Layout("!HH")
_IPV4 = Layout("!BBHHHBBHII")
_IPV6 = Layout("!IHBB16s16s")
_UDP = Layout("!HHHH")
_TCP = Layout("!HHIIBBHHH")
_ICMP = Layout("!BBH")
_DONT_FRAGMENT = 0x4000
_FRAGMENTED = 0x3FFF
"""More-fragments flag and offset of an IPv4 header."""


class Malformed(ValueError):
    """A frame that is cut short, damaged, or of another protocol than the reader's."""


class Ethernet(Struct, frozen=True, gc=False):
    """An Ethernet frame. ``tci`` is the 802.1Q tag (priority and VLAN), None without."""

    dst: int
    src: int
    tci: int | None
    ethertype: int
    payload: bytes


class Ip(Struct, frozen=True, gc=False):
    """An IP packet of either version. ``options`` are IPv4 options, or IPv6 extension headers as they stood."""

    version: int
    src: int
    dst: int
    protocol: int
    ttl: int
    """Or hop limit."""
    options: bytes
    payload: bytes


class Tcp(Struct, frozen=True, gc=False):
    """The header of a TCP segment with what it came in."""

    ethernet: Ethernet
    ip: Ip
    src_port: int
    dst_port: int
    seq: int
    ack: int
    flags: int


class Udp(Struct, frozen=True, gc=False):
    """A UDP datagram with what it came in."""

    ethernet: Ethernet
    ip: Ip
    src_port: int
    dst_port: int
    payload: bytes


class Icmp(Struct, frozen=True, gc=False):
    """An ICMP or ICMPv6 message with what it came in; ``body`` starts after the checksum."""

    ethernet: Ethernet
    ip: Ip
    type: int
    code: int
    body: bytes


# --- checksums -----------------------------------------------------------------------------------------------------


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of ``data``, whose own checksum field is zero.

    2**16 is 1 modulo 0xffff, so the sum of all words with end-around carry is the whole number modulo 0xffff.
    """
    number = int.from_bytes(data, "big")
    if len(data) & 1:
        number <<= 8
    rest = number % 0xFFFF
    return 0xFFFF - rest if rest or not number else 0


def intact(data: bytes) -> bool:
    """Whether the checksum in ``data`` is right."""
    return not checksum(data)


def _pseudo(version: int, src: int, dst: int, protocol: int, length: int) -> bytes:
    """The pseudo-header that UDP and ICMPv6 checksums cover (RFC 768; RFC 8200 section 8.1)."""
    size = 4 if version == 4 else 16
    return src.to_bytes(size, "big") + dst.to_bytes(size, "big") + (length << 16 | protocol).to_bytes(6, "big")


# --- reading -------------------------------------------------------------------------------------------------------


def read_ethernet(frame: bytes) -> Ethernet:
    """The frame's header; one VLAN tag is taken off. Raises Malformed."""
    if len(frame) < 14:
        raise Malformed(f"Ethernet: {len(frame)} bytes where the header takes 14")
    dst_high, dst_low, src_high, src_low, ethertype = _MACS.unpack_from(frame)
    tci, start = None, 14
    if ethertype in (VLAN, SERVICE_VLAN):
        if len(frame) < 18:
            raise Malformed(f"Ethernet: {len(frame)} bytes where the header with a VLAN tag takes 18")
        tci, ethertype = _TAG.unpack_from(frame, 14)
        start = 18
    return Ethernet(dst_high << 32 | dst_low, src_high << 32 | src_low, tci, ethertype, frame[start:])


def read_ipv4(packet: bytes) -> Ip:
    """An unfragmented IPv4 packet. Raises Malformed."""
    if len(packet) < 20:
        raise Malformed(f"IPv4: {len(packet)} bytes where the header takes 20")
    first, _, total, _, fragment, ttl, protocol, _, src, dst = _IPV4.unpack_from(packet)
    header = (first & 0xF) * 4
    if first >> 4 != 4 or header < 20:
        raise Malformed(f"IPv4: version and header length {first:#04x}")
    if not header <= total <= len(packet):
        raise Malformed(f"IPv4: total length {total}, header {header}, {len(packet)} bytes there")
    if not intact(packet[:header]):
        raise Malformed("IPv4: wrong header checksum")
    if fragment & _FRAGMENTED:
        raise Malformed("IPv4: a fragment")
    return Ip(4, src, dst, protocol, ttl, packet[20:header], packet[header:total])


def read_ipv6(packet: bytes) -> Ip:
    """An unfragmented IPv6 packet behind its extension headers. Raises Malformed."""
    if len(packet) < 40:
        raise Malformed(f"IPv6: {len(packet)} bytes where the header takes 40")
    first, length, protocol, hop_limit, src, dst = _IPV6.unpack_from(packet)
    if first >> 28 != 6:
        raise Malformed(f"IPv6: version {first >> 28}")
    end, start = 40 + length, 40
    if end > len(packet):
        raise Malformed(f"IPv6: payload length {length}, {len(packet) - 40} bytes there")
    while protocol in _EXTENSIONS:
        if start + 8 > end or (after := start + 8 + 8 * packet[start + 1]) > end:
            raise Malformed(f"IPv6: extension header {protocol} is cut short")
        protocol, start = packet[start], after
    if protocol == FRAGMENT:
        raise Malformed("IPv6: a fragment")
    source, target = int.from_bytes(src, "big"), int.from_bytes(dst, "big")
    return Ip(6, source, target, protocol, hop_limit, packet[40:start], packet[start:end])


def read_ip(ethernet: Ethernet) -> Ip:
    """The IP packet of either version in a frame. Raises Malformed."""
    if ethernet.ethertype == IPV4:
        return read_ipv4(ethernet.payload)
    if ethernet.ethertype == IPV6:
        return read_ipv6(ethernet.payload)
    raise Malformed(f"Ethernet: type {ethernet.ethertype:#06x} is not IP")


def read_tcp(frame: bytes) -> Tcp:
    """The header of the TCP segment in a frame; its checksum is not looked at. Raises Malformed."""
    ethernet = read_ethernet(frame)
    ip = read_ip(ethernet)
    if ip.protocol != TCP or len(ip.payload) < _TCP.size:
        raise Malformed(f"TCP: protocol {ip.protocol}, {len(ip.payload)} bytes")
    src_port, dst_port, seq, ack, _, flags, *_ = _TCP.unpack_from(ip.payload)
    return Tcp(ethernet, ip, src_port, dst_port, seq, ack, flags)


def read_udp(frame: bytes) -> Udp:
    """The UDP datagram in a frame. Raises Malformed.

    A checksum that covers the pseudo-header only is taken too: that is what a VM leaves to its network card, and
    a userspace switch hands it on as it is.
    """
    ethernet = read_ethernet(frame)
    ip = read_ip(ethernet)
    if ip.protocol != UDP:
        raise Malformed(f"IP: protocol {ip.protocol} is not UDP")
    segment = ip.payload
    if len(segment) < 8:
        raise Malformed(f"UDP: {len(segment)} bytes where the header takes 8")
    src_port, dst_port, length, stated = _UDP.unpack_from(segment)
    if not 8 <= length <= len(segment):
        raise Malformed(f"UDP: length {length}, {len(segment)} bytes there")
    segment = segment[:length]
    if stated:
        pseudo = _pseudo(ip.version, ip.src, ip.dst, UDP, length)
        if not intact(pseudo + segment) and stated != 0xFFFF - checksum(pseudo):
            raise Malformed("UDP: wrong checksum")
    elif ip.version == 6:
        raise Malformed("UDP: IPv6 without checksum")
    return Udp(ethernet, ip, src_port, dst_port, segment[8:])


def read_icmp(frame: bytes) -> Icmp:
    """The ICMP (over IPv4) or ICMPv6 message in a frame. Raises Malformed."""
    ethernet = read_ethernet(frame)
    ip = read_ip(ethernet)
    protocol = ICMP if ip.version == 4 else ICMPV6
    if ip.protocol != protocol:
        raise Malformed(f"IPv{ip.version}: protocol {ip.protocol} is not ICMP")
    message = ip.payload
    if len(message) < 4:
        raise Malformed(f"ICMP: {len(message)} bytes where the header takes 4")
    pseudo = b"" if ip.version == 4 else _pseudo(6, ip.src, ip.dst, ICMPV6, len(message))
    if not intact(pseudo + message):
        raise Malformed("ICMP: wrong checksum")
    return Icmp(ethernet, ip, message[0], message[1], message[4:])


# --- writing -------------------------------------------------------------------------------------------------------


def ethernet(dst: int, src: int, ethertype: int, payload: bytes, tci: int | None = None) -> bytes:
    """A frame, tagged where ``tci`` is given; not padded."""
    if tci is not None:
        ethertype, payload = VLAN, _TAG.pack(tci, ethertype) + payload
    return _MACS.pack(dst >> 32, dst & 0xFFFFFFFF, src >> 32, src & 0xFFFFFFFF, ethertype) + payload


def ipv4(src: int, dst: int, protocol: int, payload: bytes, *, ttl: int = 64, options: bytes = b"") -> bytes:
    """An IPv4 packet that is not to be fragmented, so without identification (RFC 6864).

    ``options`` is a multiple of 4 bytes, 40 at most. Raises ValueError when the packet gets too long.
    """
    header, total = 20 + len(options), 20 + len(options) + len(payload)
    if total > 0xFFFF or header > 60 or header & 3:
        raise ValueError(f"IPv4: {total} bytes with {len(options)} bytes of options make no packet")
    first = 0x40 | header >> 2
    head = _IPV4.pack(first, 0, total, 0, _DONT_FRAGMENT, ttl, protocol, 0, src, dst) + options
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def ipv6(src: int, dst: int, next_header: int, payload: bytes, *, hop_limit: int = 64) -> bytes:
    """An IPv6 packet; ``payload`` starts with the extension headers, if any. Raises ValueError when it is too long."""
    if len(payload) > 0xFFFF:
        raise ValueError(f"IPv6: {len(payload)} bytes make no packet")
    addresses = src.to_bytes(16, "big"), dst.to_bytes(16, "big")
    return _IPV6.pack(0x60000000, len(payload), next_header, hop_limit, *addresses) + payload


def _udp(version: int, src: int, dst: int, src_port: int, dst_port: int, payload: bytes) -> bytes:
    length = 8 + len(payload)
    if length > 0xFFFF:
        raise ValueError(f"UDP: {len(payload)} bytes make no datagram")
    segment = _UDP.pack(src_port, dst_port, length, 0) + payload
    # A sum of zero is sent as ones, since zero says that there is none (RFC 768).
    total = checksum(_pseudo(version, src, dst, UDP, length) + segment) or 0xFFFF
    return segment[:6] + total.to_bytes(2, "big") + payload


def udp4(src: int, dst: int, src_port: int, dst_port: int, payload: bytes, *, ttl: int = 64) -> bytes:
    """An IPv4 packet with a UDP datagram. Raises ValueError when it gets too long."""
    return ipv4(src, dst, UDP, _udp(4, src, dst, src_port, dst_port, payload), ttl=ttl)


def udp6(src: int, dst: int, src_port: int, dst_port: int, payload: bytes, *, hop_limit: int = 64) -> bytes:
    """An IPv6 packet with a UDP datagram. Raises ValueError when it gets too long."""
    return ipv6(src, dst, UDP, _udp(6, src, dst, src_port, dst_port, payload), hop_limit=hop_limit)


def tcp(version: int, src: int, dst: int, src_port: int, dst_port: int, seq: int, ack: int, flags: int) -> bytes:
    """An IP packet of either version with a TCP segment (RFC 9293) without options, window or data."""
    fields = src_port, dst_port, seq, ack, 5 << 4, flags, 0
    total = checksum(_pseudo(version, src, dst, TCP, _TCP.size) + _TCP.pack(*fields, 0, 0))
    segment = _TCP.pack(*fields, total, 0)
    return ipv4(src, dst, TCP, segment) if version == 4 else ipv6(src, dst, TCP, segment)


def icmp4(src: int, dst: int, type_: int, code: int, body: bytes, *, ttl: int = 64) -> bytes:
    """An IPv4 packet with an ICMP message; ``body`` starts after the checksum."""
    total = checksum(_ICMP.pack(type_, code, 0) + body)
    return ipv4(src, dst, ICMP, _ICMP.pack(type_, code, total) + body, ttl=ttl)


def icmp6(
    src: int, dst: int, type_: int, code: int, body: bytes, *, hop_limit: int = 255, extensions: bytes = b""
) -> bytes:
    """An IPv6 packet with an ICMPv6 message; ``body`` starts after the checksum.

    ``extensions`` is one hop-by-hop header to go before it, as MLD needs it; its first byte names ICMPv6.
    """
    pseudo = _pseudo(6, src, dst, ICMPV6, 4 + len(body))
    total = checksum(pseudo + _ICMP.pack(type_, code, 0) + body)
    message = extensions + _ICMP.pack(type_, code, total) + body
    return ipv6(src, dst, HOP_BY_HOP if extensions else ICMPV6, message, hop_limit=hop_limit)


def multicast_mac(address: int) -> int:
    """The MAC address of an IPv4 (RFC 1112 section 6.4) or IPv6 (RFC 2464 section 7) multicast address."""
    return 0x333300000000 | address & 0xFFFFFFFF if address >> 32 else 0x01005E000000 | address & 0x7FFFFF
