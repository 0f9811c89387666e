"""Reads what a switch sends. Numbers and sections are those of the OpenFlow Switch Specification 1.5.1.

``read`` makes a value of any message; the entries of a multipart reply are read one at a time by ``flows``,
``groups``, ``meters`` and ``ports``, so that a caller may do other things between two of them. Every reader raises
ValueError when the bytes end too early or contradict themselves, and keeps what it does not know as bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from struct import Struct, error
from typing import NamedTuple

from pipelines import fields as f
from pipelines.flow import canonical

from .decode import match_values
from .errors import Error, read_error
from .openflow import NICIRA, OF13, OF15, ONF, Message, Multipart, Type
from .requests import BUNDLE_CONTROL_13, TLV_REPLY


class Part(NamedTuple):
    """One message of a multipart reply (7.3.5); ``more`` says that another follows."""

    version: int
    kind: int
    more: bool
    body: bytes


class FlowEntry(NamedTuple):
    """A flow that a switch has, as ``encode_flow`` would write it, and its counters; ``duration`` in seconds."""

    key: bytes
    body: bytes
    packets: int
    bytes: int
    duration: float


class Sums(NamedTuple):
    """Sums over flows."""

    packets: int
    bytes: int
    flows: int


class Port(NamedTuple):
    """An OpenFlow port."""

    number: int
    mac: bytes
    name: str


class BundleReply(NamedTuple):
    """Answer to a bundle control message; ``what`` is one more than the ``Bundle`` asked for."""

    bundle: int
    what: int
    flags: int


class TlvTable(NamedTuple):
    """The map of Geneve options: room for them, and (class, type, length, index) of each."""

    space: int
    fields: int
    options: tuple[tuple[int, int, int, int], ...]


class PacketIn(NamedTuple):
    """A packet for the controller (7.4.1); ``match`` is canonical: in_port, metadata and registers that are not 0."""

    reason: int
    table: int
    cookie: int
    match: bytes
    data: bytes

    @property
    def values(self) -> dict[f.Field, int]:
        """What the packet came with, by field."""
        return {field: value for field, (value, _) in match_values(self.match).items()}


class FlowRemoved(NamedTuple):
    """A flow that ended (7.4.2); ``duration`` in seconds."""

    key: bytes
    cookie: int
    reason: int
    packets: int
    bytes: int
    duration: float


class RoleReply(NamedTuple):
    """The connection's role, and the highest generation of a master."""

    role: int
    generation: int


class Features(NamedTuple):
    """What the switch is (7.3.1)."""

    datapath_id: int
    buffers: int
    tables: int
    capabilities: int


class Hello(NamedTuple):
    """Versions that the other end speaks."""

    versions: frozenset[int]


class Experimenter(NamedTuple):
    """A message of an extension that is not known here."""

    experimenter: int
    type: int
    data: bytes


Reply = (
    Part
    | Error
    | BundleReply
    | TlvTable
    | PacketIn
    | FlowRemoved
    | RoleReply
    | Features
    | Hello
    | Experimenter
    | Message
)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except (error, IndexError) as wrong:
        raise ValueError(f"{what} is cut off: {wrong}") from wrong


def read(message: Message) -> Reply:
    """The message as a value; one that needs no reading (a barrier reply, an echo), or is unknown, stays as it is."""
    reader = _READERS.get(message.type)
    if reader is None:
        return message
    with _reading(f"OpenFlow message of type {message.type}"):
        return reader(message)


# --- matches and counters ----------------------------------------------------------------------------------------

_PACKET_REGISTERS = b"\x80\x01"
"""OXM class in which OVS describes registers in OpenFlow 1.5: pairs of them, reg0 being the upper half of xreg0."""
_REGISTERS = [f.register(n) for n in range(16)]
_LOW = 0xFFFFFFFF


def _match(data: bytes, at: int, version: int) -> tuple[bytes, int]:
    """(canonical match, where it ends) of the match that begins at ``at``."""
    if data[at : at + 2] != b"\0\1":
        raise ValueError(f"match of type {data[at : at + 2].hex() or 'nothing'} instead of OXM")
    end = at + (data[at + 2] << 8 | data[at + 3])
    after = end + (at - end) % 8
    if end < at + 4 or after > len(data):
        raise ValueError("match is cut off")
    at += 4
    tlvs = []
    while at < end:
        next = at + 4 + data[at + 3]
        tlvs.append(data[at:next])
        at = next
    if at > end:
        raise ValueError("field of a match is cut off")
    if version == OF15 and any(tlv.startswith(_PACKET_REGISTERS) for tlv in tlvs):
        tlvs = [part for tlv in tlvs for part in _registers(tlv)]
    return canonical(tlvs), after


def _registers(tlv: bytes) -> tuple[bytes, ...]:
    """A TLV of a pair of registers as TLVs of each; any other as it is."""
    if not tlv.startswith(_PACKET_REGISTERS):
        return (tlv,)
    number = tlv[2] >> 1
    if number > 7 or len(tlv) != (20 if tlv[2] & 1 else 12):
        raise ValueError(f"pair of registers {tlv.hex()} is malformed")
    value = int.from_bytes(tlv[4:12], "big")
    mask = int.from_bytes(tlv[12:20], "big") if tlv[2] & 1 else _LOW << 32 | _LOW
    upper, lower = _REGISTERS[2 * number], _REGISTERS[2 * number + 1]
    return upper(value >> 32, mask >> 32), lower(value & _LOW, mask & _LOW)


_COUNT32 = Struct(">I")
_COUNT = Struct(">Q")
_DURATION, _FLOWS, _PACKETS, _BYTES = 0, 3, 4, 5
"""Numbers of the statistics fields (OXS, 7.2.4)."""


def _statistics(data: bytes, at: int) -> tuple[dict[int, int], int]:
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


def _seconds(duration: int) -> float:
    """A duration of seconds and nanoseconds, 32 bits each, in seconds."""
    return (duration >> 32) + (duration & _LOW) / 1e9


# --- multipart replies -------------------------------------------------------------------------------------------

_PART = Struct(">HHxxxx")


def _read_part(message: Message) -> Part:
    kind, flags = _PART.unpack_from(message.body)
    return Part(message.version, kind, bool(flags & 1), message.body[8:])


def _entries(part: Part, kind: Multipart, shortest: int) -> Iterator[bytes]:
    """The entries of a reply, each of which begins with its length."""
    if part.kind != kind:
        raise ValueError(f"multipart reply of type {part.kind} instead of {kind}")
    body, at, end = part.body, 0, len(part.body)
    while at < end:
        length = int.from_bytes(body[at : at + 2], "big")
        if length < shortest or at + length > end:
            raise ValueError(f"multipart reply of type {kind}: the entry at byte {at} is cut off")
        yield body[at : at + length]
        at += length


_FLOW = Struct(">xxxxII2s8sxx8sQQ")
"""duration, priority, timeouts + flags + importance, cookie, packets, bytes (OpenFlow 1.3.5, 7.3.5.2)."""
_FLOW_15 = Struct(">xxxxxx2s8s8s")
"""priority, timeouts + flags + importance, cookie."""


def flows(part: Part) -> Iterator[FlowEntry]:
    """The flows of a reply to ``flows_request``."""
    with _reading("flow"):
        yield from (_flows_15 if part.version == OF15 else _flows)(part)


def _flows(part: Part) -> Iterator[FlowEntry]:
    unpack, version = _FLOW.unpack_from, part.version
    for entry in _entries(part, Multipart.FLOWS, 56):
        seconds, nanoseconds, priority, numbers, cookie, packets, size = unpack(entry)
        match, after = _match(entry, 48, version)
        yield FlowEntry(
            entry[2:3] + priority + match, cookie + numbers + entry[after:], packets, size, seconds + nanoseconds / 1e9
        )


def _flows_15(part: Part) -> Iterator[FlowEntry]:
    for entry in _entries(part, Multipart.FLOWS, 40):
        priority, numbers, cookie = _FLOW_15.unpack_from(entry)
        match, after = _match(entry, 24, OF15)
        counted, after = _statistics(entry, after)
        yield FlowEntry(
            entry[4:5] + priority + match,
            cookie + numbers + entry[after:],
            counted.get(_PACKETS, 0),
            counted.get(_BYTES, 0),
            _seconds(counted.get(_DURATION, 0)),
        )


def groups(part: Part) -> Iterator[tuple[int, bytes]]:
    """(number, body) of the groups of a reply to ``groups_request``; bodies as ``encode_group`` writes them."""
    for entry in _entries(part, Multipart.GROUPS, 8 if part.version < OF15 else 16):
        if part.version < OF15:
            length, content = (len(entry) - 8).to_bytes(2, "big"), entry[8:]
        else:
            length, content = entry[8:10], entry[16:]
        yield int.from_bytes(entry[4:8], "big"), entry[2:3] + length + content


def meters(part: Part) -> Iterator[tuple[int, bytes]]:
    """(number, body) of the meters of a reply to ``meters_request``; bodies as ``encode_meter`` writes them."""
    for entry in _entries(part, Multipart.METERS, 8):
        yield int.from_bytes(entry[4:8], "big"), entry[2:4] + entry[8:]


def ports(part: Part) -> Iterator[Port]:
    """The ports of a reply to ``ports_request``."""
    if part.kind != Multipart.PORTS:
        raise ValueError(f"multipart reply of type {part.kind} instead of {Multipart.PORTS}")
    body, at = part.body, 0
    while at < len(body):
        length = 64 if part.version == OF13 else int.from_bytes(body[at + 4 : at + 6], "big")
        if length < 40 or at + length > len(body):
            raise ValueError(f"port at byte {at} is cut off")
        name = body[at + 16 : at + 32].rstrip(b"\0").decode(errors="replace")
        yield Port(int.from_bytes(body[at : at + 4], "big"), body[at + 8 : at + 14], name)
        at += length


_SUMS = Struct(">QQI")


def aggregate(part: Part) -> Sums:
    """The sums of a reply to ``aggregate_request``."""
    if part.kind != Multipart.AGGREGATE:
        raise ValueError(f"multipart reply of type {part.kind} instead of {Multipart.AGGREGATE}")
    with _reading("sums over flows"):
        if part.version < OF15:
            return Sums(*_SUMS.unpack_from(part.body))
        counted, _ = _statistics(part.body, 0)
        return Sums(counted.get(_PACKETS, 0), counted.get(_BYTES, 0), counted.get(_FLOWS, 0))


# --- other messages ----------------------------------------------------------------------------------------------

_PACKET_IN = Struct(">IHBBQ")


def _read_packet_in(message: Message) -> PacketIn:
    _, _, reason, table, cookie = _PACKET_IN.unpack_from(message.body)
    match, after = _match(message.body, 16, message.version)
    return PacketIn(reason, table, cookie, match, message.body[after + 2 :])


_REMOVED = Struct(">Q2sBcIIxxxxQQ")
_REMOVED_15 = Struct(">cB2sxxxxQ")


def _read_removed(message: Message) -> FlowRemoved:
    body = message.body
    if message.version < OF15:
        cookie, priority, reason, table, seconds, nanoseconds, packets, size = _REMOVED.unpack_from(body)
        match, _ = _match(body, 40, message.version)
        return FlowRemoved(table + priority + match, cookie, reason, packets, size, seconds + nanoseconds / 1e9)
    table, reason, priority, cookie = _REMOVED_15.unpack_from(body)
    match, after = _match(body, 16, OF15)
    counted, _ = _statistics(body, after)
    return FlowRemoved(
        table + priority + match,
        cookie,
        reason,
        counted.get(_PACKETS, 0),
        counted.get(_BYTES, 0),
        _seconds(counted.get(_DURATION, 0)),
    )


_BUNDLE = Struct(">IHH")
_ROLE = Struct(">IxxxxQ")
_FEATURES = Struct(">QIBxxxI")
_EXPERIMENTER = Struct(">II")
_TLV_TABLE = Struct(">IH10x")
_TLV = Struct(">HBBHxx")


def _read_bundle(message: Message) -> BundleReply:
    return BundleReply(*_BUNDLE.unpack_from(message.body))


def _read_experimenter(message: Message) -> BundleReply | TlvTable | Experimenter:
    experimenter, type = _EXPERIMENTER.unpack_from(message.body)
    rest = message.body[8:]
    if (experimenter, type) == (ONF, BUNDLE_CONTROL_13):
        return BundleReply(*_BUNDLE.unpack_from(rest))
    if (experimenter, type) == (NICIRA, TLV_REPLY):
        space, fields = _TLV_TABLE.unpack_from(rest)
        return TlvTable(space, fields, tuple(_TLV.iter_unpack(rest[16:])))
    return Experimenter(experimenter, type, rest)


def _read_role(message: Message) -> RoleReply:
    return RoleReply(*_ROLE.unpack_from(message.body))


def _read_features(message: Message) -> Features:
    return Features(*_FEATURES.unpack_from(message.body))


def _read_hello(message: Message) -> Hello:
    """The versions of the bitmap; without one, all up to the header's (7.5.1)."""
    body, at = message.body, 0
    while at + 4 <= len(body):
        kind, length = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
        if length < 4 or at + length > len(body):
            raise ValueError("OpenFlow hello is cut off")
        if kind == 1:
            words = Struct(">I").iter_unpack(body[at + 4 : at + length - length % 4])
            return Hello(
                frozenset(32 * n + bit for n, (word,) in enumerate(words) for bit in range(32) if word >> bit & 1)
            )
        at += length + -length % 8
    return Hello(frozenset(range(1, message.version + 1)))


_READERS: dict[int, Callable[[Message], Reply]] = {
    Type.HELLO: _read_hello,
    Type.ERROR: lambda message: read_error(message.body),
    Type.EXPERIMENTER: _read_experimenter,
    Type.FEATURES_REPLY: _read_features,
    Type.PACKET_IN: _read_packet_in,
    Type.FLOW_REMOVED: _read_removed,
    Type.MULTIPART_REPLY: _read_part,
    Type.ROLE_REPLY: _read_role,
    Type.BUNDLE_CONTROL: _read_bundle,
}
