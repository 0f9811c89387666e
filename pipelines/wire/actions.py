"""Encodes the actions that differ by version, as Open vSwitch writes them itself.

A flow read back then has the bytes that were sent. Copy is the ONF extension in 1.3, Nicira's REG_MOVE in 1.4 and
OFPAT_COPY_FIELD in 1.5; setting part of a field is Nicira's REG_LOAD before 1.5, a masked OFPAT_SET_FIELD since
(ovs-actions(7)). REG_LOAD and REG_MOVE name a field by its NXM header where it has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from pipelines import fields as f
from pipelines.flow import Action, Copy, Nested, SetBits, enclose

from .openflow import NICIRA, OF13, OF14, OF15, ONF, VERSIONS

NXM: dict[f.Field, tuple[int, int]] = {
    f.ETH_DST: (0, 1),
    f.ETH_SRC: (0, 2),
    f.ETH_TYPE: (0, 3),
    f.IP_PROTO: (0, 6),
    f.IPV4_SRC: (0, 7),
    f.IPV4_DST: (0, 8),
    f.TCP_SRC: (0, 9),
    f.TCP_DST: (0, 10),
    f.UDP_SRC: (0, 11),
    f.UDP_DST: (0, 12),
    f.ICMPV4_TYPE: (0, 13),
    f.ICMPV4_CODE: (0, 14),
    f.ARP_OP: (0, 15),
    f.ARP_SPA: (0, 16),
    f.ARP_TPA: (0, 17),
    f.TUNNEL_ID: (1, 16),
    f.ARP_SHA: (1, 17),
    f.ARP_THA: (1, 18),
    f.IPV6_SRC: (1, 19),
    f.IPV6_DST: (1, 20),
    f.ICMPV6_TYPE: (1, 21),
    f.ICMPV6_CODE: (1, 22),
    f.ND_TARGET: (1, 23),
    f.ND_SLL: (1, 24),
    f.ND_TLL: (1, 25),
    f.IPV6_FLABEL: (1, 27),
}
"""(class, number) that standard fields have in Nicira's extensible match (ovs-fields(7))."""

REG_MOVE, REG_LOAD, REG_LOAD2, RESUBMIT_TABLE = 6, 7, 33, 14
MULTIPATH, CONJUNCTION, CONNTRACK, NAT, CLONE, CT_CLEAR, LEARN2, CHECK_PKT_LARGER = 10, 34, 35, 36, 42, 43, 45, 49
"""Subtypes of Nicira's actions."""
ONF_COPY_FIELD = 3200

_MOVE = Struct(">HHIHHHH4s4s")
_LOAD = Struct(">HHIHH4sQ")
_ONF_COPY = Struct(">HHIHxxHHHxx4s4s4x")
_COPY = Struct(">HHHHHxx4s4s4x")
_METER = Struct(">HHI")


_KNOWN: dict[int, dict[Action, bytes]] = {version: {} for version in VERSIONS}
_MOST = 4096
"""How many encoded actions of a version are remembered: the same few copies stand in most flows."""


def encode_actions(actions: Iterable[Action], version: int) -> bytes:
    """The actions' bytes for a version. Raises ValueError for one that the version cannot express."""
    known = _KNOWN[version]
    return b"".join(
        [action if type(action) is bytes else known.get(action) or _encode(action, version) for action in actions]
    )


def meter_action(meter: int) -> bytes:
    """OFPAT_METER, which replaced the instruction in OpenFlow 1.5."""
    return _METER.pack(29, 8, meter)


def _encode(action: Action, version: int) -> bytes:
    """The bytes of an action, remembered."""
    if isinstance(action, bytes):
        return action
    known = _KNOWN[version]
    if len(known) >= _MOST:
        known.clear()
    match action:
        case Copy():
            encoded = _encode_copy(action, version)
        case SetBits():
            encoded = _encode_set_bits(action, version)
        case Nested(head, actions):
            encoded = enclose(head, encode_actions(actions, version))
    known[action] = encoded
    return encoded


def _nxm(field: f.Field) -> bytes:
    """The header by which Nicira's actions name a field."""
    if field not in NXM:
        return field.head
    oxm_class, number = NXM[field]
    return (oxm_class << 16 | number << 9 | field.size).to_bytes(4, "big")


def _encode_copy(copy: Copy, version: int) -> bytes:
    source, source_offset, target, target_offset, width = copy
    offsets = (width, source_offset, target_offset)
    if version == OF13:
        return _ONF_COPY.pack(0xFFFF, 32, ONF, ONF_COPY_FIELD, *offsets, source.head, target.head)
    if version == OF14:
        return _MOVE.pack(0xFFFF, 24, NICIRA, REG_MOVE, *offsets, _nxm(source), _nxm(target))
    return _COPY.pack(28, 24, *offsets, source.head, target.head)


def _encode_set_bits(action: SetBits, version: int) -> bytes:
    field, offset, width = action.target.field, action.target.offset, action.target.width
    if version < OF15 and not field.variable:
        if width > 64:
            raise ValueError(f"set {action.target!r}: OpenFlow before 1.5 sets at most 64 bits at once")
        return _LOAD.pack(0xFFFF, 24, NICIRA, REG_LOAD, offset << 6 | width - 1, _nxm(field), action.value)
    mask, value = action.target.mask, action.value << offset
    size = (mask.bit_length() + 7) // 8 if field.variable else field.size
    oxm = field.head_masked[:3] + bytes([2 * size]) + value.to_bytes(size, "big") + mask.to_bytes(size, "big")
    head = b"\0\x19" if version == OF15 else b"\xff\xff"
    rest = oxm if version == OF15 else NICIRA.to_bytes(4, "big") + REG_LOAD2.to_bytes(2, "big") + oxm
    length = (4 + len(rest) + 7) // 8 * 8
    return (head + length.to_bytes(2, "big") + rest).ljust(length, b"\0")
