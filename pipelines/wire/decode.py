"""Matches, actions and instructions as values, from their bytes; what is unknown stays bytes.

For lines in logs, traces and tests: comparing flows needs none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct, error
from typing import NamedTuple

from pipelines import fields as f
from pipelines.flow import Copy

from . import actions as numbers
from . import openflow

_BY_NUMBER = f.FIELDS | {nxm: field for field, nxm in numbers.NXM.items()}


class Output(NamedTuple):
    """To a port; ``max_len`` bytes of the packet where it is the controller."""

    port: int
    max_len: int


class ToGroup(NamedTuple):
    """To a group."""

    id: int


class ToMeter(NamedTuple):
    """Through a meter."""

    id: int


class Set(NamedTuple):
    """Set the bits ``mask`` of a field to those of ``value``."""

    field: f.Field
    value: int
    mask: int


class Resubmit(NamedTuple):
    """Look up ``table``, then go on."""

    table: int
    in_port: int


class Unknown(NamedTuple):
    """An action or instruction that this module does not know, as it stands in the flow."""

    raw: bytes


Step = Output | ToGroup | ToMeter | Set | Copy | Resubmit | Unknown


class Instructions(NamedTuple):
    """What a flow does. ``metadata`` is (value, mask); ``meter`` is the instruction of OpenFlow before 1.5."""

    meter: int | None
    actions: tuple[Step, ...]
    metadata: tuple[int, int] | None
    goto: int | None
    other: tuple[Unknown, ...]


def tlvs(match: bytes) -> list[bytes]:
    """The TLVs of a match. Raises ValueError when the last one is cut off."""
    found = []
    at, end = 0, len(match)
    while at < end:
        after = at + 4 + match[at + 3] if at + 4 <= end else end + 1
        if after > end:
            raise ValueError(f"match {match.hex()}: the field at byte {at} is cut off")
        found.append(match[at:after])
        at = after
    return found


def field_of(head: bytes) -> f.Field:
    """The field that an OXM header names; one without a name of ours is called ``oxm(class,number)``."""
    oxm_class, number = int.from_bytes(head[:2], "big"), head[2] >> 1
    known = _BY_NUMBER.get((oxm_class, number))
    if known is None:
        size = head[3] // 2 if head[2] & 1 else head[3]
        known = f.Field(f"oxm({oxm_class:#x},{number})", oxm_class, number, size)
    return known


def match_values(match: bytes) -> dict[f.Field, tuple[int, int]]:
    """field -> (value, mask) of a match. Raises ValueError when it is cut off."""
    return {field: (value, mask) for field, value, mask in map(_assigned, tlvs(match))}


def _assigned(tlv: bytes) -> tuple[f.Field, int, int]:
    """(field, value, mask) of a TLV."""
    field, payload = field_of(tlv), tlv[4:]
    size = len(payload) // 2 if tlv[2] & 1 else len(payload)
    if len(payload) < tlv[3] or size > field.size:
        raise ValueError(f"{field}: {payload.hex()} does not fit in {field.size} bytes, or is cut off")
    mask = int.from_bytes(payload[size:], "big") if tlv[2] & 1 else field.ones
    return field, int.from_bytes(payload[:size], "big"), mask


_MOVE = Struct(">HHH")
_LOAD = Struct(">H4sQ")
_RESUBMIT = Struct(">HB")


def actions(encoded: bytes) -> Iterator[Step]:
    """The actions in a list of them. Raises ValueError when one is cut off."""
    for kind, raw in _items(encoded, "action"):
        try:
            yield _action(kind, raw)
        except (error, IndexError) as wrong:
            raise ValueError(f"action {raw.hex()} is cut off") from wrong


def _action(kind: int, raw: bytes) -> Step:
    match kind:
        case 0:
            return Output(int.from_bytes(raw[4:8], "big"), int.from_bytes(raw[8:10], "big"))
        case 22:
            return ToGroup(int.from_bytes(raw[4:8], "big"))
        case 25:
            return Set(*_assigned(raw[4 : 8 + raw[7]]))
        case 28:
            return _copy(raw[4:], 8)
        case 29:
            return ToMeter(int.from_bytes(raw[4:8], "big"))
        case 0xFFFF:
            return _experimenter(raw)
    return Unknown(raw)


def _experimenter(raw: bytes) -> Step:
    vendor, subtype, rest = int.from_bytes(raw[4:8], "big"), int.from_bytes(raw[8:10], "big"), raw[10:]
    match vendor, subtype:
        case (openflow.ONF, numbers.ONF_COPY_FIELD):
            return _copy(rest[2:], 8)
        case (openflow.NICIRA, numbers.REG_MOVE):
            return _copy(rest, 6)
        case (openflow.NICIRA, numbers.REG_LOAD):
            bits, head, value = _LOAD.unpack_from(rest)
            offset, width = bits >> 6, (bits & 63) + 1
            return Set(field_of(head), value << offset, (1 << width) - 1 << offset)
        case (openflow.NICIRA, numbers.REG_LOAD2):
            return Set(*_assigned(rest[: 4 + rest[3]]))
        case (openflow.NICIRA, numbers.RESUBMIT_TABLE):
            in_port, table = _RESUBMIT.unpack_from(rest)
            return Resubmit(table, in_port)
    return Unknown(raw)


def _copy(raw: bytes, heads: int) -> Copy:
    """A copy of bits: width and offsets, and from ``heads`` on the headers of both fields."""
    width, source_offset, target_offset = _MOVE.unpack_from(raw)
    source, target = field_of(raw[heads : heads + 4]), field_of(raw[heads + 4 : heads + 8])
    return Copy(source, source_offset, target, target_offset, width)


def instructions(encoded: bytes) -> Instructions:
    """The instructions of a flow. Raises ValueError when one is cut off."""
    meter: int | None = None
    goto: int | None = None
    metadata: tuple[int, int] | None = None
    applied: tuple[Step, ...] = ()
    other: list[Unknown] = []
    for kind, raw in _items(encoded, "instruction"):
        match kind:
            case 1:
                goto = raw[4]
            case 2:
                metadata = int.from_bytes(raw[8:16], "big"), int.from_bytes(raw[16:24], "big")
            case 4:
                applied = tuple(actions(raw[8:]))
            case 6:
                meter = int.from_bytes(raw[4:8], "big")
            case _:
                other.append(Unknown(raw))
    return Instructions(meter, applied, metadata, goto, tuple(other))


def buckets(body: bytes, before_15: bool) -> Iterator[tuple[int, tuple[Step, ...]]]:
    """(weight, actions) of every bucket in a group's body (see ``groups``). Raises ValueError when one is cut off."""
    encoded = body[3 : 3 + int.from_bytes(body[1:3], "big")]
    at = 0
    while at < len(encoded):
        length = int.from_bytes(encoded[at : at + 2], "big")
        raw = encoded[at : at + length]
        if length < 8 or len(raw) < length:
            raise ValueError(f"bucket {encoded[at:].hex()} is cut off")
        if before_15:
            yield int.from_bytes(raw[2:4], "big"), tuple(actions(raw[16:]))
        else:
            end = 8 + int.from_bytes(raw[2:4], "big")
            yield _weight(raw[end:]), tuple(actions(raw[8:end]))
        at += length


def _weight(properties: bytes) -> int:
    """The weight among a bucket's properties, 0 without one."""
    return next((int.from_bytes(raw[4:6], "big") for kind, raw in _items(properties, "property") if kind == 0), 0)


def _items(encoded: bytes, what: str) -> Iterator[tuple[int, bytes]]:
    """(type, bytes) of structures that begin with a type and a length of 16 bits each."""
    at, end = 0, len(encoded)
    while at < end:
        kind, length = int.from_bytes(encoded[at : at + 2], "big"), int.from_bytes(encoded[at + 2 : at + 4], "big")
        if length < 8 or at + length > end:
            raise ValueError(f"{what} {encoded[at:].hex()} is cut off")
        yield kind, encoded[at : at + length]
        at += length
