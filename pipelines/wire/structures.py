"""Reads the structures that several messages have: matches and statistics fields.

Numbers and sections are those of the OpenFlow Switch Specification 1.5.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct, error

from pipelines import fields as f
from pipelines.flow import canonical

from .openflow import OF15


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns what goes wrong on bytes that end too early into ValueError."""
    try:
        yield
    except (error, IndexError) as wrong:
        raise ValueError(f"{what} is cut off: {wrong}") from wrong


PACKET_REGISTERS = b"\x80\x01"
"""OXM class in which OVS describes registers in OpenFlow 1.5: pairs of them, reg0 being the upper half of xreg0."""
_TCP_FLAGS = b"\x80\0\x54", b"\x80\0\x55"
_ONF_TCP_FLAGS = bytes.fromhex("ffff54064f4e4600"), bytes.fromhex("ffff55084f4e4600")
"""TCP flags as OVS describes them in OpenFlow 1.5 and before it."""
_OTHERS_15 = (PACKET_REGISTERS, *_TCP_FLAGS)
_ONF = b"ONF\0"
REGISTERS = [f.register(n) for n in range(16)]
_LOW = 0xFFFFFFFF


def read_match(data: bytes, at: int, version: int) -> tuple[bytes, int]:
    """(canonical match, where it ends) of the match that begins at ``at``."""
    if data[at : at + 2] != b"\0\1":
        raise ValueError(f"match of type {data[at : at + 2].hex() or 'nothing'} instead of OXM")
    end = at + (data[at + 2] << 8 | data[at + 3])
    after = end + (at - end) % 8
    if end < at + 4 or after > len(data):
        raise ValueError("match is cut off")
    begin = at = at + 4
    tlvs = []
    while at < end:
        next = at + 4 + data[at + 3]
        tlvs.append(data[at:next])
        at = next
    if at > end:
        raise ValueError("field of a match is cut off")
    others = any(tlv.startswith(_OTHERS_15) for tlv in tlvs) if version == OF15 else data.find(_ONF, begin, end) >= 0
    if others:
        tlvs = [part for tlv in tlvs for part in _as_written(tlv)]
    return canonical(tlvs), after


def _as_written(tlv: bytes) -> tuple[bytes, ...]:
    """A TLV that OVS writes in another way than we do, in our way; any other as it is."""
    if tlv.startswith(PACKET_REGISTERS):
        return _registers(tlv)
    if tlv.startswith(_TCP_FLAGS):
        return (f.TCP_FLAGS(tlv[4:6], tlv[6:] or None),)
    if tlv.startswith(_ONF_TCP_FLAGS):
        return (f.TCP_FLAGS(tlv[8:10], tlv[10:] or None),)
    return (tlv,)


def _registers(tlv: bytes) -> tuple[bytes, ...]:
    """A TLV of a pair of registers as TLVs of each."""
    number = tlv[2] >> 1
    if number > 7 or len(tlv) != (20 if tlv[2] & 1 else 12):
        raise ValueError(f"pair of registers {tlv.hex()} is malformed")
    value = int.from_bytes(tlv[4:12], "big")
    mask = int.from_bytes(tlv[12:20], "big") if tlv[2] & 1 else _LOW << 32 | _LOW
    upper, lower = REGISTERS[2 * number], REGISTERS[2 * number + 1]
    return upper(value >> 32, mask >> 32), lower(value & _LOW, mask & _LOW)


_COUNT32 = Struct(">I")
_COUNT = Struct(">Q")
DURATION, FLOWS, PACKETS, BYTES = 0, 3, 4, 5
"""Numbers of the statistics fields (OXS, 7.2.4)."""


def read_statistics(data: bytes, at: int) -> tuple[dict[int, int], int]:
    """(number -> value, where they end) of the statistics fields that begin at ``at``."""
    end = at + int.from_bytes(data[at + 2 : at + 4], "big")
    after = end + (at - end) % 8
    if end < at + 4 or after > len(data):
        raise ValueError("statistics are cut off")
    at += 4
    values = {}
    while at < end:
        size = data[at + 3]
        values[data[at + 2] >> 1] = (_COUNT if size == 8 else _COUNT32).unpack_from(data, at + 4)[0]
        at += 4 + size
    return values, after


def in_seconds(duration: int) -> float:
    """A duration of seconds and nanoseconds, 32 bits each, in seconds."""
    return (duration >> 32) + (duration & _LOW) / 1e9
