"""Frames of a connection's packets, plain and in disguise: in fragments, with IPv4 options, behind IPv6 extension headers.

Every frame ends with a mark, by which a test knows it again wherever it comes out.
"""

from __future__ import annotations

from struct import pack
from typing import NamedTuple

from pipelines import fields as f
from pipelines.packets.frames import checksum
from tests.unit.policy_oracle import Packet

MAGIC = b"NovaNet"
MARK = len(MAGIC) + 4
"""Bytes of a mark."""
SYN, ACK = 0x02, 0x10
PIECE = 1304
"""Bytes of data in a first fragment, a multiple of 8: conntrack refuses small ones (ovs-appctl(8), ``ipf-set-min-frag``)."""
FRAGMENT = 44
GENEVE_PORT = 6081
REPLIES = {(1, 8): 0, (1, 13): 14, (1, 15): 16, (58, 128): 129}
"""ICMP types that begin a connection, by protocol -> type of the answer."""
HOP_BY_HOP, ROUTING, DESTINATION = 0, 43, 60
PADDED = b"\x01\x04\0\0\0\0"
"""What follows next header and length in a header of options: PadN (RFC 8200, section 4.2)."""
ROUTE = b"\x04\0\0\0\0\0"
"""The same of a routing header of which no segment is left."""
DISGUISES = {
    4: ("plain", "plain", "fragments", "fragments backwards", "options"),
    6: (
        "plain",
        "plain",
        "fragments",
        "fragments backwards",
        "atomic",
        "hop-by-hop",
        "destination",
        "routing",
        "chain",
    ),
}


class Sight(NamedTuple):
    """A frame that came out: its mark, MAC addresses, and the whole of it."""

    mark: int
    eth_src: int
    eth_dst: int
    data: bytes


def mark(number: int) -> bytes:
    return MAGIC + number.to_bytes(4, "big")


def seen(frame: bytes) -> Sight | None:
    """A frame that has a mark; None of others."""
    if frame[-MARK:-4] != MAGIC:
        return None
    source, destination = int.from_bytes(frame[6:12], "big"), int.from_bytes(frame[:6], "big")
    return Sight(int.from_bytes(frame[-4:], "big"), source, destination, frame)


def frames(
    packet: Packet,
    number: int,
    eth_src: int,
    eth_dst: int,
    disguise: str = "plain",
    flags: int = SYN,
    ident: int = 0,
    quoted: bytes = b"",
) -> list[bytes]:
    """A packet, of which every frame has the same mark: one, or its two fragments.

    ``flags`` are those of TCP, ``ident`` is what tells ICMP's requests apart, ``quoted`` what an ICMP error is about.
    """
    size = PIECE + 64 if disguise.startswith("fragments") else 64
    payload = bytearray(_transport(packet, size, flags, ident))
    payload[8:8] = quoted
    if quoted:
        payload[4:8] = bytes(4)
    ends = [PIECE, len(payload)] if disguise.startswith("fragments") else [len(payload)]
    for end in ends:
        payload[end - MARK : end] = mark(number)
    _finish(packet, payload)
    parts = [bytes(payload[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    head = eth_dst.to_bytes(6, "big") + eth_src.to_bytes(6, "big")
    build = _four if packet.family == 4 else _six
    found = [head + each for each in build(packet, parts, number, disguise)]
    return found[::-1] if disguise == "fragments backwards" else found


def _transport(packet: Packet, size: int, flags: int, ident: int) -> bytes:
    """The transport header, without its checksum, and ``size`` bytes of data."""
    source, destination = packet.source_port or 0, packet.destination_port or 0
    match packet.protocol:
        case f.TCP:
            head = pack("!HHIIBBHHH", source, destination, 1, 1 if flags & ACK else 0, 0x50, flags, 8192, 0, 0)
        case f.UDP:
            head = pack("!HHHH", source, destination, 8 + size, 0)
        case f.SCTP:
            head = pack("!HHII", source, destination, 0, 0) + pack("!BBHIIHHI", 1, 0, 20 + size, 1, 65536, 1, 1, 1)
        case f.ICMP | f.ICMPV6 if packet.icmp is not None:
            head = pack("!BBHHH", *packet.icmp, 0, ident, 1)
        case _:
            head = bytes(8)
    return head + bytes(size)


def _finish(packet: Packet, payload: bytearray) -> None:
    """Put the checksum into a transport header."""
    source, destination = address(packet.source_address), address(packet.destination_address)
    pseudo = source + destination + pack("!II", len(payload), packet.protocol)
    at = {f.TCP: 16, f.UDP: 6, f.ICMP: 2, f.ICMPV6: 2}.get(packet.protocol)
    if packet.protocol == f.SCTP:
        payload[8:12] = crc32c(bytes(payload)).to_bytes(4, "little")
    elif at is not None:
        covered = bytes(payload) if packet.protocol == f.ICMP else pseudo + bytes(payload)
        payload[at : at + 2] = (checksum(covered) or 0xFFFF).to_bytes(2, "big")


def address(text: str) -> bytes:
    return f.ip(text).to_bytes(16 if ":" in text else 4, "big")


def _four(packet: Packet, parts: list[bytes], number: int, disguise: str) -> list[bytes]:
    options = b"\x94\x04\0\0" if disguise == "options" else b""  # router alert, RFC 2113
    found, offset = [], 0
    for at, part in enumerate(parts):
        first = 0x40 | 5 + len(options) // 4
        more = 0x2000 if at < len(parts) - 1 else 0
        head = pack(
            "!BBHHHBB",
            first,
            0,
            20 + len(options) + len(part),
            number & 0xFFFF,
            more | offset // 8,
            64,
            packet.protocol,
        )
        ends = address(packet.source_address) + address(packet.destination_address) + options
        total = checksum(head + b"\0\0" + ends)
        found.append(b"\x08\0" + head + total.to_bytes(2, "big") + ends + part)
        offset += len(part)
    return found


def _six(packet: Packet, parts: list[bytes], number: int, disguise: str) -> list[bytes]:
    chain = {
        "hop-by-hop": [(HOP_BY_HOP, PADDED)],
        "destination": [(DESTINATION, PADDED)],
        "routing": [(ROUTING, ROUTE)],
        "chain": [(HOP_BY_HOP, PADDED), (ROUTING, ROUTE), (DESTINATION, PADDED)],
    }.get(disguise, [])
    found, offset = [], 0
    for at, part in enumerate(parts):
        headers = list(chain)
        if disguise == "atomic" or len(parts) > 1:
            more = at < len(parts) - 1
            headers.append((FRAGMENT, pack("!HI", offset | more, number)))
        body, following = part, packet.protocol
        for kind, rest in reversed(headers):
            body, following = bytes([following, 0]) + rest + body, kind
        head = b"\x60\0\0\0" + pack("!HBB", len(body), following, 64)
        found.append(b"\x86\xdd" + head + address(packet.source_address) + address(packet.destination_address) + body)
        offset += len(part)
    return found


# --- tunnels -------------------------------------------------------------------------------------------------------------


def geneve(frame: bytes, outer: tuple[bytes, bytes], ends: tuple[str, str], vni: int, identity: int, key: int) -> bytes:
    """A frame in a tunnel (RFC 8926): ``outer`` has the MAC addresses of source and destination, ``ends`` their addresses."""
    option = pack("!HBB", f.GENEVE_OPTION_CLASS, f.GENEVE_OPTION_TYPE, 3) + pack("!III", 0, identity, key)
    body = pack("!BBH", len(option) // 4, 0, 0x6558) + (vni << 8).to_bytes(4, "big") + option + frame
    datagram = pack("!HHHH", 50000, GENEVE_PORT, 8 + len(body), 0) + body
    head = pack("!BBHHHBB", 0x45, 0, 20 + len(datagram), 0, 0x4000, 64, f.UDP)
    addresses = address(ends[0]) + address(ends[1])
    total = checksum(head + b"\0\0" + addresses)
    return outer[1] + outer[0] + b"\x08\0" + head + total.to_bytes(2, "big") + addresses + datagram


class Tunnelled(NamedTuple):
    """What a tunnel carries: to which address, VNI, identity and port key of the option, and the frame."""

    to: str
    vni: int
    identity: int
    key: int
    frame: bytes


def opened(frame: bytes) -> Tunnelled | None:
    """A tunnel's packet; None of anything else."""
    if frame[12:14] != b"\x08\0" or frame[23] != f.UDP or frame[36:38] != GENEVE_PORT.to_bytes(2, "big"):
        return None
    body = frame[42:]
    options = 4 * (body[0] & 0x3F)
    identity, key = (int.from_bytes(body[at : at + 4], "big") for at in (16, 20)) if options == 16 else (0, 0)
    to = ".".join(map(str, frame[30:34]))
    return Tunnelled(to, int.from_bytes(body[4:7], "big"), identity, key, body[8 + options :])


def crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _crc(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC = tuple(map(_crc, range(256)))
