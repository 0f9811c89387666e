"""Encodes what a controller has a switch forget of its connections: NXT_CT_FLUSH_ZONE and NXT_CT_FLUSH of Open vSwitch.

The first is in nicira-ext.h of all versions, the second since 3.1; ovs-ofctl(8), ``ct-flush``, says what a match means.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from .openflow import NICIRA, Type, message

CT_FLUSH_ZONE, CT_FLUSH = 29, 32

_FLUSH_ZONE = Struct(">IIxxxxxxH")
_FLUSH = Struct(">IIBxxxxxxx")
_PROPERTY = Struct(">HH")
_ORIGINAL, _REPLY, _ZONE = 0, 1, 2
"""Properties of NXT_CT_FLUSH."""
_SOURCE, _DESTINATION, _SOURCE_PORT, _DESTINATION_PORT = range(4)
"""Properties of a direction."""
_V4_MAPPED = 0xFFFF << 32
"""IPv4 addresses are sent as IPv6 ones (RFC 4291 section 2.5.5.2)."""


class Tuple(NamedTuple):
    """How packets of one direction of a connection look. Addresses are numbers; what is None may be anything."""

    source: int | None = None
    destination: int | None = None
    source_port: int | None = None
    destination_port: int | None = None


class Tracked(NamedTuple):
    """Connections of an IP version, 4 or 6, and a protocol, by how packets of either direction look to conntrack: ``reply`` is
    what answers, before its translation is undone.

    With all of ``original``, nothing of ``reply`` and a zone, a switch finds the one there is at once; else it looks at all that it has.
    """

    version: int
    protocol: int
    original: Tuple = Tuple()
    reply: Tuple = Tuple()


def ct_flush_zone(version: int, xid: int, zone: int) -> bytes:
    """Forget all connections of a conntrack zone."""
    return message(version, Type.EXPERIMENTER, xid, _FLUSH_ZONE.pack(NICIRA, CT_FLUSH_ZONE, zone))


def ct_flush(version: int, xid: int, zone: int | None, match: Tracked) -> bytes:
    """Forget these connections of a conntrack zone, or (None) of all. A switch answers nothing, or with an error."""
    found = _FLUSH.pack(NICIRA, CT_FLUSH, match.protocol)
    for kind, direction in ((_ORIGINAL, match.original), (_REPLY, match.reply)):
        if any(part is not None for part in direction):
            found += _property(kind, bytes(4) + _direction(match.version, direction))
    if zone is not None:
        found += _number(_ZONE, zone)
    return message(version, Type.EXPERIMENTER, xid, found)


def _direction(ip_version: int, direction: Tuple) -> bytes:
    found, mapped = b"", _V4_MAPPED if ip_version == 4 else 0
    for kind, address in ((_SOURCE, direction.source), (_DESTINATION, direction.destination)):
        if address is not None:
            found += _property(kind, (mapped | address).to_bytes(16, "big"))
    for kind, port in ((_SOURCE_PORT, direction.source_port), (_DESTINATION_PORT, direction.destination_port)):
        if port is not None:
            found += _number(kind, port)
    return found


def _property(kind: int, value: bytes) -> bytes:
    length = _PROPERTY.size + len(value)
    return _PROPERTY.pack(kind, length) + value + bytes(-length % 8)


def _number(kind: int, value: int) -> bytes:
    """A 16-bit number; the padding behind it counts."""
    return _property(kind, value.to_bytes(2, "big") + bytes(2))
