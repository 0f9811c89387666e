"""How Open vSwitch hashes a packet's flow for ``multipath``: lib/flow.c and lib/hash.h, on machines without CRC instructions.

What a switch was built with decides (Debian's use this hash on x86-64); a trace says that a next hop was chosen by hash.
"""

from __future__ import annotations

from pipelines import fields as f

from .packets import PORTS, NotInterpreted, Packet

_ONES = 0xFFFFFFFF


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & _ONES


def _add(hash: int, data: int) -> int:
    """MurmurHash3's step for 32 bits."""
    data = _rotated(data * 0xCC9E2D51 & _ONES, 15) * 0x1B873593 & _ONES
    return _rotated(hash ^ data, 13) * 5 + 0xE6546B64 & _ONES


def _finish(hash: int, final: int) -> int:
    hash ^= final
    hash = (hash ^ hash >> 16) * 0x85EBCA6B & _ONES
    hash = (hash ^ hash >> 13) * 0xC2B2AE35 & _ONES
    return hash ^ hash >> 16


def _words(value: int, size: int) -> list[int]:
    """The 32-bit words of a field in network order, as a little-endian machine reads them."""
    raw = value.to_bytes(size, "big")
    return [int.from_bytes(raw[at : at + 4], "little") for at in range(0, size, 4)]


def _addresses(packet: Packet, hash: int) -> int:
    if packet.get(f.ETH_TYPE) == f.IPV4:
        words = _words(packet.get(f.IPV4_SRC, 0) ^ packet.get(f.IPV4_DST, 0), 4)
    else:
        words = _words(packet.get(f.IPV6_SRC, 0) ^ packet.get(f.IPV6_DST, 0), 16)
    for word in words:
        hash = _add(hash, word)
    return hash


def symmetric_l3(packet: Packet, basis: int) -> int:
    """``flow_hash_symmetric_l3``: alike for all packets between two hosts."""
    return _finish(_addresses(packet, basis), basis)


def symmetric_l3l4(packet: Packet, basis: int, udp: bool) -> int:
    """``flow_hash_symmetric_l3l4``: alike for both directions of a connection; ports of TCP, SCTP and, if wished, UDP."""
    hash = _addresses(packet, basis)
    protocol = packet.get(f.IP_PROTO, 0)
    hash = _add(hash, protocol)
    if not packet.get(f.IP_FRAG, 0) and protocol in PORTS and (udp or protocol != f.UDP):
        source, destination = PORTS[protocol]
        ports = (packet.get(source, 0) ^ packet.get(destination, 0)).to_bytes(2, "big")
        hash = _add(hash, int.from_bytes(ports, "little"))
    return _finish(hash, basis)


def multipath(packet: Packet, fields: str, basis: int, algorithm: str, links: int) -> int:
    """The link of a packet's flow. Raises NotInterpreted for hashes and algorithms that NovaNet does not use."""
    if fields == "symmetric_l3" and algorithm == "modulo_n":
        return symmetric_l3(packet, basis) % links
    if fields not in ("symmetric_l3l4", "symmetric_l3l4+udp") or algorithm != "modulo_n":
        raise NotInterpreted(f"multipath({fields}, {algorithm}) is not interpreted")
    return symmetric_l3l4(packet, basis, fields.endswith("+udp")) % links
