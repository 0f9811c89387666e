"""Flows, groups and meters as frozen values, and the actions in them.

A match is canonical bytes (see ``canonical``), an action is its OpenFlow bytes wherever every
version agrees on them; the two that differ by version are values of their own, encoded last (``wire.actions``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

from .fields import Bits, Field

# reserved ports, OpenFlow 1.3 section 7.2.1
IN_PORT_RESERVED = 0xFFFFFFF8
CONTROLLER = 0xFFFFFFFD
LOCAL = 0xFFFFFFFE


class Copy(NamedTuple):
    """Copy ``width`` bits: NXAST_REG_MOVE up to OpenFlow 1.4, OFPAT_COPY_FIELD from 1.5."""

    source: Field
    source_offset: int
    target: Field
    target_offset: int
    width: int


class SetBits(NamedTuple):
    """Set part of a field: NXAST_REG_LOAD up to OpenFlow 1.4, a masked OFPAT_SET_FIELD from 1.5."""

    target: Bits
    value: int


Action = bytes | Copy | SetBits


class Flow(Struct, frozen=True, gc=False):
    """One flow. Table and priority 0 to 65535; an empty ``actions`` with no ``goto`` drops."""

    table: int
    priority: int
    match: bytes
    """Canonical OXM TLVs (see ``match()``), neither header nor padding."""
    actions: tuple[Action, ...] = ()
    goto: int | None = None
    metadata: int | None = None
    """Written to the whole metadata field (instruction WRITE_METADATA)."""
    meter: int | None = None
    idle_timeout: int = 0
    hard_timeout: int = 0


class Bucket(Struct, frozen=True):
    actions: tuple[Action, ...]
    weight: int = 0


class Group(Struct, frozen=True):
    """One group; ``kind`` is ``all``, ``select`` or ``indirect``."""

    id: int
    kind: str
    buckets: tuple[Bucket, ...]


class Meter(Struct, frozen=True):
    """One meter with a drop band: ``rate`` and ``burst`` in kbit/s and kbit, or in packets where ``packets``."""

    id: int
    rate: int
    burst: int
    packets: bool = False


Rule = Flow | Group | Meter


_STANDARD = b"\x80"
"""First byte of the standard OXM classes; those of extensions are lower."""


def canonical(tlvs: Iterable[bytes]) -> bytes:
    """TLVs in the order that makes equal matches equal bytes, and in which a switch finds prerequisites first.

    That is the order of their headers, extensions after the standard fields (an extension such as the TTL needs
    the standard eth_type).
    """
    ordered = sorted(tlvs)
    if ordered and ordered[0] < _STANDARD:
        extensions = bisect_left(ordered, _STANDARD)
        ordered = ordered[extensions:] + ordered[:extensions]
    return b"".join(ordered)


def match(*tlvs: bytes) -> bytes:
    """A match on all of these fields, in canonical order."""
    return canonical(tlvs)


def set_field(target: Field, value: int | bytes) -> bytes:
    """OFPAT_SET_FIELD of the whole field. Raises ValueError when the value does not fit it."""
    oxm = target(value)
    if target.variable:
        oxm = _shortened(target, oxm)
    pad = (-len(oxm) - 4) % 8
    return b"\0\x19" + (4 + len(oxm) + pad).to_bytes(2, "big") + oxm + b"\0" * pad


def _shortened(target: Field, oxm: bytes) -> bytes:
    """The TLV without leading zero bytes of its value, as OVS writes fields of variable length."""
    value = oxm[4:].lstrip(b"\0")
    return target.head[:3] + bytes([len(value)]) + value


def set_bits(target: Bits, value: int) -> Action:
    """Set part of a field. Raises ValueError when the value does not fit."""
    if value >> target.width:
        raise ValueError(f"set {target!r}: {value:#x} does not fit in {target.width} bits")
    return SetBits(target, value) if target.width < 8 * target.field.size else set_field(target.field, value)


def copy(source: Field | Bits, target: Field | Bits) -> Copy:
    """Copy a field or part of one to another of the same width.

    Raises ValueError when the widths differ.
    """
    s = source.bits if isinstance(source, Field) else source
    t = target.bits if isinstance(target, Field) else target
    if s.width != t.width:
        raise ValueError(f"copy {source!r} ({s.width} bits) to {target!r} ({t.width} bits): widths differ")
    return Copy(s.field, s.offset, t.field, t.offset, s.width)


def output(port: int, max_len: int = 0) -> bytes:
    """OFPAT_OUTPUT to an OpenFlow port."""
    return b"\0\0\0\x10" + port.to_bytes(4, "big") + max_len.to_bytes(2, "big") + b"\0" * 6


def group(group_id: int) -> bytes:
    """OFPAT_GROUP."""
    return b"\0\x16\0\x08" + group_id.to_bytes(4, "big")


def resubmit(table: int) -> bytes:
    """NXAST_RESUBMIT_TABLE with the packet's own in_port: look up ``table``, then come back."""
    return bytes.fromhex("ffff001000002320000e") + b"\xff\xf8" + bytes([table]) + b"\0" * 3
