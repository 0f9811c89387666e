"""Matches, actions and instructions as values, from their bytes; what is unknown stays bytes.

For lines in logs, traces and tests: comparing flows needs none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct, error
from typing import NamedTuple

from pipelines import fields as f
from pipelines.flow import ALGORITHMS, HASHED, Copy, Nat

from . import actions as numbers
from . import openflow
from .groups import WATCH_GROUP, WATCH_PORT, WEIGHT

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


class Plain(NamedTuple):
    """An action that needs no more than its name: ``dec_ttl``, ``pop_vlan`` or ``ct_clear``."""

    name: str


class PushVlan(NamedTuple):
    """Put a tag before the others."""

    tpid: int


class SetQueue(NamedTuple):
    """Leave by this queue of the port."""

    number: int


class CheckLarger(NamedTuple):
    """Set a bit of a field to whether the packet is longer than ``size`` bytes."""

    size: int
    field: f.Field
    offset: int


class Multipath(NamedTuple):
    """Put the hash of some fields, a number below ``links``, into part of a field."""

    fields: str
    basis: int
    algorithm: str
    links: int
    arg: int
    target: f.Bits


class Conjunction(NamedTuple):
    """The packet meets ``clause``, 1 to ``clauses``, of a conjunctive match."""

    id: int
    clause: int
    clauses: int


class Learn(NamedTuple):
    """Have the switch add a flow; of what, ``parts`` says as it stands in the action."""

    table: int
    cookie: int
    idle_timeout: int
    limit: int
    parts: bytes


class Clone(NamedTuple):
    """Do these with a copy of the packet."""

    actions: tuple[Step, ...]


class Track(NamedTuple):
    """Show the packet to conntrack; ``actions`` are those within."""

    commit: bool
    force: bool
    zone: int | f.Bits
    table: int | None
    actions: tuple[Step, ...]


class Unknown(NamedTuple):
    """An action or instruction that this module does not know, as it stands in the flow."""

    raw: bytes


Step = (
    Output
    | ToGroup
    | ToMeter
    | Set
    | Copy
    | Resubmit
    | Plain
    | SetQueue
    | PushVlan
    | CheckLarger
    | Multipath
    | Conjunction
    | Learn
    | Clone
    | Track
    | Nat
    | Unknown
)


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
_MULTIPATH = Struct(">HH2xHHI2xH4s")
_CONJUNCTION = Struct(">BBI")
_LEARN = Struct(">HxxxxQxxBxxxxxI4x")
_CHECK = Struct(">HH4s")
_CONNTRACK = Struct(">H4sHB5x")
_NAT = Struct(">2xHH")


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
        case 17:
            return PushVlan(int.from_bytes(raw[4:6], "big"))
        case 18:
            return Plain("pop_vlan")
        case 21:
            return SetQueue(int.from_bytes(raw[4:8], "big"))
        case 22:
            return ToGroup(int.from_bytes(raw[4:8], "big"))
        case 24:
            return Plain("dec_ttl")
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
        case (openflow.NICIRA, numbers.MULTIPATH):
            fields, basis, algorithm, last, arg, bits, head = _MULTIPATH.unpack_from(rest)
            target = _part(head, bits)
            return Multipath(_named(HASHED, fields), basis, _named(ALGORITHMS, algorithm), last + 1, arg, target)
        case (openflow.NICIRA, numbers.CONJUNCTION):
            clause, clauses, id = _CONJUNCTION.unpack_from(rest)
            return Conjunction(id, clause + 1, clauses)
        case (openflow.NICIRA, numbers.LEARN2):
            idle_timeout, cookie, table, limit = _LEARN.unpack_from(rest)
            return Learn(table, cookie, idle_timeout, limit, rest[_LEARN.size :])
        case (openflow.NICIRA, numbers.CHECK_PKT_LARGER):
            size, offset, head = _CHECK.unpack_from(rest)
            return CheckLarger(size, field_of(head), offset)
        case (openflow.NICIRA, numbers.CLONE):
            return Clone(tuple(actions(rest[6:])))
        case (openflow.NICIRA, numbers.CONNTRACK):
            flags, source, bits, table = _CONNTRACK.unpack_from(rest)
            zone = _part(source, bits) if any(source) else bits
            within = tuple(actions(rest[14:]))
            return Track(bool(flags & 1), bool(flags & 2), zone, None if table == 0xFF else table, within)
        case (openflow.NICIRA, numbers.NAT):
            return _nat(rest)
        case (openflow.NICIRA, numbers.CT_CLEAR):
            return Plain("ct_clear")
    return Unknown(raw)


def _named(numbers: dict[str, int], number: int) -> str:
    """The name of a number, or the number."""
    return next((name for name, known in numbers.items() if known == number), str(number))


def _part(head: bytes, bits: int) -> f.Bits:
    """Part of a field as Nicira's actions name one: header, and offset and width packed."""
    return f.Bits(field_of(head), bits >> 6, (bits & 63) + 1)


def _nat(raw: bytes) -> Nat:
    flags, present = _NAT.unpack_from(raw)
    at, values = _NAT.size, []
    for bit, size in enumerate((4, 4, 16, 16, 2, 2)):
        values.append(int.from_bytes(raw[at : at + size], "big") if present >> bit & 1 else None)
        at += size if present >> bit & 1 else 0
    if at > len(raw):
        raise IndexError("address or port")
    version = 6 if present & 12 else 4
    first, last = values[2:4] if version == 6 else values[:2]
    low, high = values[4:]
    ports = None if low is None else (low, low if high is None else high)
    kind = "src" if flags & 1 else "dst" if flags & 2 else None
    return Nat(kind, first or 0, last, version, ports, bool(flags & 4), bool(flags & 8), bool(flags & 16))


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


class Steps(NamedTuple):
    """A bucket; None for what it does not watch."""

    actions: tuple[Step, ...]
    weight: int
    watch_port: int | None
    watch_group: int | None


def buckets(body: bytes, before_15: bool) -> Iterator[Steps]:
    """The buckets in a group's body (see ``groups``). Raises ValueError when one is cut off."""
    encoded = body[3 : 3 + int.from_bytes(body[1:3], "big")]
    at = 0
    while at < len(encoded):
        length = int.from_bytes(encoded[at : at + 2], "big")
        raw = encoded[at : at + length]
        if length < 8 or len(raw) < length:
            raise ValueError(f"bucket {encoded[at:].hex()} is cut off")
        try:
            yield _bucket(raw) if before_15 else _bucket_15(raw)
        except error as wrong:
            raise ValueError(f"bucket {raw.hex()} is cut off") from wrong
        at += length


_BUCKET = Struct(">2xHII")
_BUCKET_15 = Struct(">2xH")


def _bucket(raw: bytes) -> Steps:
    weight, port, group = _BUCKET.unpack_from(raw)
    return Steps(tuple(actions(raw[16:])), weight, _watched(port), _watched(group))


def _bucket_15(raw: bytes) -> Steps:
    (length,) = _BUCKET_15.unpack_from(raw)
    weight, watched = 0, [openflow.ANY, openflow.ANY]
    for kind, each in _items(raw[8 + length :], "property"):
        if kind == WEIGHT:
            weight = int.from_bytes(each[4:6], "big")
        elif kind in (WATCH_PORT, WATCH_GROUP):
            watched[kind - WATCH_PORT] = int.from_bytes(each[4:8], "big")
    return Steps(tuple(actions(raw[8 : 8 + length])), weight, *map(_watched, watched))


def _watched(number: int) -> int | None:
    return None if number == openflow.ANY else number


def _items(encoded: bytes, what: str) -> Iterator[tuple[int, bytes]]:
    """(type, bytes) of structures that begin with a type and a length of 16 bits each."""
    at, end = 0, len(encoded)
    while at < end:
        kind, length = int.from_bytes(encoded[at : at + 2], "big"), int.from_bytes(encoded[at + 2 : at + 4], "big")
        if length < 8 or at + length > end:
            raise ValueError(f"{what} {encoded[at:].hex()} is cut off")
        yield kind, encoded[at : at + length]
        at += length
