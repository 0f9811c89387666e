"""Packets on their way between a switch and the controller: OFPT_PACKET_IN and OFPT_PACKET_OUT.

Every punted packet passes here, so it is read and written with as few objects as can be. Section numbers are those of
the OpenFlow Switch Specification 1.5.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct, error
from typing import NamedTuple

from pipelines import fields as f
from pipelines.flow import CONTROLLER, Action

from .actions import encode_actions
from .decode import match_values
from .openflow import ANY, LONGEST, OF15, Type, check_version
from .structures import PACKET_REGISTERS, REGISTERS, read_match


class PacketIn(NamedTuple):
    """A packet for the controller (7.4.1).

    ``fields`` has what the switch knows beside the packet itself, where it is not 0: in_port, metadata, registers,
    tunnel fields, conntrack's. A 128-bit register stands there as its four 32-bit ones. ``cookie`` is that of the flow
    which sent it, ``reason`` an OFPR_*.
    """

    version: int
    reason: int
    table: int
    cookie: int
    fields: dict[f.Field, int]
    data: bytes


_IN = Struct(">BBH4xIHBBQHH")
"""Header, buffer, length of the whole packet, reason, table, cookie, head of the match."""
_MATCH = 24
_BY_HEAD = {field.head: field for field in f.FIELDS.values()}
_PAIRS = {
    PACKET_REGISTERS + bytes((pair << 1 | masked, 8 << masked)): (REGISTERS[2 * pair], REGISTERS[2 * pair + 1])
    for pair in range(8)
    for masked in (0, 1)
}
"""Head -> the two registers that OpenFlow 1.5 describes in one field; a mask leaves out one that is 0."""


def read_packet_in(message: bytes) -> PacketIn:
    """A whole OFPT_PACKET_IN message, header included. Raises ValueError when it is something else, or malformed."""
    try:
        version, type, length, _, _, reason, table, cookie, kind, size = _IN.unpack_from(message)
    except error:
        raise ValueError(f"packet-in of {len(message)} bytes is cut off") from None
    check_version(version)
    end = _MATCH + size
    at, data = _MATCH + 4, end + -size % 8 + 2
    if type != Type.PACKET_IN or length != len(message) or kind != 1 or size < 4 or data > length:
        raise ValueError(f"packet-in {message[:32].hex()} is cut off, or none")
    fields: dict[f.Field, int] = {}
    by_head, number = _BY_HEAD.get, int.from_bytes
    while at < end:
        head = message[at : at + 4]
        field = by_head(head)
        if field is not None and at + 4 + field.size <= end:
            at += 4
            fields[field] = number(message[at : at + field.size], "big")
            at += field.size
        elif head in _PAIRS and at + 4 + head[3] <= end:
            for field, start in zip(_PAIRS[head], (at + 4, at + 8), strict=True):
                if value := number(message[start : start + 4], "big"):
                    fields[field] = value
            at += 4 + head[3]
        else:
            fields = _fields(message, version)
            break
    return PacketIn(version, reason, table, cookie, fields, message[data:])


def _fields(message: bytes, version: int) -> dict[f.Field, int]:
    """The fields of a message in which there is one that NovaNet does not use, or one under a mask."""
    match, _ = read_match(message, _MATCH, version)
    return {field: value for field, (value, _) in match_values(match).items()}


_OUT = Struct(">BBHIIIH6x")
_OUT_15 = Struct(">BBHIIHxxHH4sI4x")
_IN_PORT = f.IN_PORT.head


def encode_packet_out(
    version: int, data: bytes, actions: Iterable[Action], in_port: int = CONTROLLER, xid: int = 0
) -> bytes:
    """OFPT_PACKET_OUT (7.3.6): run the actions on ``data``, a frame, as if it had come in by ``in_port``.

    Actions may set registers and metadata and then ``resubmit``, where flows match what was set. Raises ValueError
    when the message would be longer than OpenFlow allows.
    """
    encoded = encode_actions(actions, version)
    length = (_OUT_15.size if version == OF15 else _OUT.size) + len(encoded) + len(data)
    if length > LONGEST:
        raise ValueError(f"packet-out would be {length} bytes long, more than {LONGEST}")
    if version == OF15:
        head = _OUT_15.pack(version, 13, length, xid, ANY, len(encoded), 1, 12, _IN_PORT, in_port)
    else:
        head = _OUT.pack(version, 13, length, xid, ANY, in_port, len(encoded))
    return head + encoded + data
