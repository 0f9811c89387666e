"""Reads what a switch sends. Numbers and sections are those of the OpenFlow Switch Specification 1.5.1.

``read`` makes a value of any message; what is in a multipart reply is read on by ``multipart``. It raises ValueError
when the bytes end too early or contradict themselves, and keeps what it does not know as bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from . import openflow
from .errors import Error, read_error
from .multipart import Part, read_part
from .openflow import NICIRA, OF15, ONF, Message, Type
from .packets import PacketIn, read_packet_in
from .requests import BUNDLE_CONTROL_13, TLV_REPLY
from .structures import BYTES, DURATION, PACKETS, in_seconds, read_match, read_statistics, reading


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


class FlowRemoved(NamedTuple):
    """A flow that ended (7.4.2); ``duration`` in seconds."""

    key: bytes
    cookie: int
    reason: int
    packets: int
    bytes: int
    duration: float


class PortStatus(NamedTuple):
    """A port came, went or changed (7.4.3); ``name`` is cut to 15 bytes."""

    gone: bool
    number: int
    name: str


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
    | PortStatus
    | RoleReply
    | Features
    | Hello
    | Experimenter
    | Message
)


def read(message: Message) -> Reply:
    """The message as a value; one that needs no reading (a barrier reply, an echo), or is unknown, stays as it is."""
    reader = _READERS.get(message.type)
    if reader is None:
        return message
    with reading(f"OpenFlow message of type {message.type}"):
        return reader(message)


_REMOVED = Struct(">Q2sBcIIxxxxQQ")
_REMOVED_15 = Struct(">cB2sxxxxQ")


def _read_removed(message: Message) -> FlowRemoved:
    body = message.body
    if message.version < OF15:
        cookie, priority, reason, table, seconds, nanoseconds, packets, size = _REMOVED.unpack_from(body)
        match, _ = read_match(body, 40, message.version)
        return FlowRemoved(table + priority + match, cookie, reason, packets, size, seconds + nanoseconds / 1e9)
    table, reason, priority, cookie = _REMOVED_15.unpack_from(body)
    match, after = read_match(body, 16, OF15)
    counted, _ = read_statistics(body, after)
    return FlowRemoved(
        table + priority + match,
        cookie,
        reason,
        counted.get(PACKETS, 0),
        counted.get(BYTES, 0),
        in_seconds(counted.get(DURATION, 0)),
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


_PORT_STATUS = Struct(">BxxxxxxxIxxxx6sxx16s")
_DELETED = 1


def _read_port_status(message: Message) -> PortStatus:
    reason, number, _, name = _PORT_STATUS.unpack_from(message.body)
    return PortStatus(reason == _DELETED, number, name.rstrip(b"\0").decode(errors="replace"))


_READERS: dict[int, Callable[[Message], Reply]] = {
    Type.HELLO: _read_hello,
    Type.ERROR: lambda message: read_error(message.body),
    Type.EXPERIMENTER: _read_experimenter,
    Type.FEATURES_REPLY: _read_features,
    Type.PACKET_IN: lambda message: read_packet_in(openflow.message(*message)),
    Type.FLOW_REMOVED: _read_removed,
    Type.PORT_STATUS: _read_port_status,
    Type.MULTIPART_REPLY: read_part,
    Type.ROLE_REPLY: _read_role,
    Type.BUNDLE_CONTROL: _read_bundle,
}
