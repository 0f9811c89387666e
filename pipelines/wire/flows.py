"""A flow as two byte strings: what identifies it in a switch, and what it does.

    key   table (1), priority (2), the match's TLVs in canonical order
    body  cookie (8), idle and hard timeout (2 + 2), flags and importance (2 + 2), instructions

The bytes are those of OFPT_FLOW_MOD (OpenFlow 1.3.5 section 7.3.4.1), cut so that a flow-mod is made from key and
body by joining, and so that equal flows have equal bytes. Instructions stand in the order in which Open vSwitch
writes them: meter, apply actions, write metadata, goto.
"""

from __future__ import annotations

import struct

from pipelines.flow import Flow

from .actions import encode_actions, meter_action
from .openflow import ANY, LONGEST, OF15, Command

TLVS = 3
"""Where the match begins in a key."""
COOKIE, INSTRUCTIONS = 8, 16
"""Where the cookie ends and the instructions begin in a body."""

_KEY = struct.Struct(">BH").pack
_BODY = struct.Struct(">QHHI").pack
_METADATA = struct.Struct(">HHIQQ").pack
_ALL_BITS = 0xFFFFFFFFFFFFFFFF

_APPLY = [b"\0\4" + (length + 8).to_bytes(2, "big") + bytes(4) for length in range(0, LONGEST - 4096, 8)]
"""Head of the apply-actions instruction, by the actions' length in units of 8; leaves room for all else in a message."""
_APPLY[0] = b""  # no actions, no instruction
_GOTO = {None: b""} | {table: b"\0\1\0\x08" + bytes([table, 0, 0, 0]) for table in range(255)}


def encode_flow(flow: Flow, version: int, cookie: int) -> tuple[bytes, bytes]:
    """(key, body) of a flow. Raises ValueError when a number is out of its range or the flow is too long."""
    actions = flow.actions
    try:
        applied = b"".join(actions)  # type: ignore[arg-type]
    except TypeError:
        applied = encode_actions(actions, version)
    try:
        head = _BODY(cookie, flow.idle_timeout, flow.hard_timeout, 0)
        if flow.meter is not None:
            if version >= OF15:
                applied = meter_action(flow.meter) + applied
            else:
                head += b"\0\6\0\x08" + flow.meter.to_bytes(4, "big")
        body = head + _APPLY[len(applied) >> 3] + applied
        if flow.metadata is not None:
            body += _METADATA(2, 24, 0, flow.metadata, _ALL_BITS)
        return _KEY(flow.table, flow.priority) + flow.match, body + _GOTO[flow.goto]
    except (struct.error, OverflowError, LookupError) as error:
        raise ValueError(f"{flow}: cannot be written in OpenFlow: {error}") from error


_FLOW_MOD = struct.Struct(">BBHI8sQcB4s2sIII4sHH").pack
_HEAD = 52
"""Bytes of a flow-mod before the match's TLVs."""
_PADS = [bytes(-n % 8) for n in range(8)]
_NOTHING = bytes(INSTRUCTIONS)


def flow_add(key: bytes, body: bytes, version: int, xid: int) -> bytes:
    """A flow-mod that adds the flow; it replaces one of the same key."""
    return _flow_mod(Command.ADD, key, body, version, xid)


def flow_delete(key: bytes, version: int, xid: int) -> bytes:
    """A flow-mod that deletes the flow of exactly this key, whatever it does."""
    return _flow_mod(Command.DELETE_STRICT, key, _NOTHING, version, xid)


def _flow_mod(command: int, key: bytes, body: bytes, version: int, xid: int) -> bytes:
    match_length = 4 + len(key) - TLVS
    pad = _PADS[match_length & 7]
    length = _HEAD - 4 + match_length + len(pad) + len(body) - INSTRUCTIONS
    head = _FLOW_MOD(
        version, 14, length, xid, body[:8], 0, key[:1], command, body[8:12], key[1:3],
        ANY, ANY, ANY, body[12:16], 1, match_length,
    )  # fmt: skip
    return b"".join((head, key[3:], pad, body[16:]))
