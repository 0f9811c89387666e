"""Flows, groups and meters as frozen values, and the actions in them.

A match is canonical bytes (see ``canonical``), an action is its OpenFlow bytes wherever every version agrees on them;
those that differ by version are values of their own, encoded last (``wire.actions``). All are explained in
ovs-actions(7).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from struct import Struct as Layout
from typing import NamedTuple

from msgspec import Struct

from .fields import NXM_1, Bits, Field

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


class Nested(NamedTuple):
    """An action whose ``head`` is followed by others, at least one of which differs by version."""

    head: bytes
    actions: tuple[bytes | Copy | SetBits | Nested, ...]


Action = bytes | Copy | SetBits | Nested


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
    reason: str = ""
    """Why the flow drops, in the words that a user reads; not sent to the switch."""

    @property
    def key(self) -> bytes:
        """What tells it from a bridge's other flows: table, priority (2 bytes), match."""
        return bytes((self.table,)) + self.priority.to_bytes(2, "big") + self.match


class Bucket(Struct, frozen=True, cache_hash=True):
    """Some of a group's actions. ``weight`` counts in a ``select`` group.

    In a ``fast_failover`` group the first bucket is used whose ``watch_port``, an OpenFlow port, is up, or in whose
    ``watch_group`` a bucket is. One that names neither always is, provided that the switch has the group ``ALIVE``.
    """

    actions: tuple[Action, ...]
    weight: int = 0
    watch_port: int | None = None
    watch_group: int | None = None


class Group(Struct, frozen=True):
    """One group; ``kind`` is ``all``, ``select``, ``indirect`` or ``fast_failover``."""

    id: int
    kind: str
    buckets: tuple[Bucket, ...]


ALIVE = Group(0xFFFF0000, "all", (Bucket(()),))
"""What buckets watch that watch no port: Open vSwitch refuses them in ``fast_failover`` groups without anything to
watch, and counts a group as alive of which a bucket is."""


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
    oxm = target.assigned(value)
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


def to_controller(max_len: int = 0xFFFF) -> bytes:
    """OFPAT_OUTPUT to the controller, with the first ``max_len`` bytes of the packet; by default with all."""
    return output(CONTROLLER, max_len)


def dec_ttl() -> bytes:
    """OFPAT_DEC_NW_TTL, TTL or hop limit. A packet whose TTL is 0 or 1 goes to the controller and no further."""
    return b"\0\x18\0\x08\0\0\0\0"


def set_queue(number: int) -> bytes:
    """OFPAT_SET_QUEUE: the queue of the port by which the packet will leave (0: the one for everything else). The kernel's datapath
    honours it; Open vSwitch's own does not.
    """
    return b"\0\x15\0\x08" + number.to_bytes(4, "big")


def push_vlan(tpid: int = 0x8100) -> bytes:
    """OFPAT_PUSH_VLAN: a new outermost tag; its VLAN_VID is to be set next."""
    return b"\0\x11\0\x08" + tpid.to_bytes(2, "big") + b"\0\0"


def pop_vlan() -> bytes:
    """OFPAT_POP_VLAN: the outermost tag goes. The match must say that there is one."""
    return b"\0\x12\0\x08\0\0\0\0"


# --- Nicira's extensions -----------------------------------------------------------------------------------------


def clone(actions: Iterable[Action]) -> Action:
    """NXAST_CLONE: do these with a copy of the packet; what they change is gone afterwards."""
    return _nested(bytes.fromhex("ffff0010 00002320 002a") + bytes(6), actions)


def check_pkt_larger(size: int, target: Bits) -> bytes:
    """NXAST_CHECK_PKT_LARGER: set one bit of a register when the packet is longer than ``size``, else clear it.

    ``size`` is in bytes, the Ethernet header among them, 0 to 65535.
    """
    head = bytes.fromhex("ffff0018 00002320 0031")
    return head + _CHECK.pack(size, target.offset, _register(target, 1))


_CHECK = Layout(">HH4s6x")
_CONJUNCTION = Layout(">BBI")
_MULTIPATH = Layout(">HH2xHHI2xH4s")
_CONNTRACK = Layout(">HIHB3xH")

HASHED = {
    "eth_src": 0,
    "symmetric_l4": 1,
    "symmetric_l3l4": 2,
    "symmetric_l3l4+udp": 3,
    "nw_src": 4,
    "nw_dst": 5,
    "symmetric_l3": 6,
}
"""What ``multipath`` may hash (NX_HASH_FIELDS_*)."""
ALGORITHMS = {"modulo_n": 0, "hash_threshold": 1, "hrw": 2, "iter_hash": 3}
"""How a hash becomes a link (NX_MP_ALG_*)."""


def multipath(
    target: Field | Bits,
    links: int,
    *,
    fields: str = "symmetric_l3l4",
    basis: int = 0,
    algorithm: str = "modulo_n",
    arg: int = 0,
) -> bytes:
    """NXAST_MULTIPATH: hash the packet's flow to a number from 0 to ``links`` - 1 and put it into a register.

    ``links`` is 1 to 65536; ``basis``, 16 bits, makes another hash; ``fields`` is one of ``HASHED``, ``algorithm`` of
    ``ALGORITHMS`` (``arg`` is for iter_hash). Raises ValueError when the numbers do not fit the register.
    """
    bits = target.bits if isinstance(target, Field) else target
    if fields not in HASHED or algorithm not in ALGORITHMS:
        raise ValueError(f"multipath: {fields}, {algorithm}: choose from {', '.join((*HASHED, *ALGORITHMS))}")
    if not 1 <= links <= min(0x10000, 1 << bits.width):
        raise ValueError(f"multipath: {links} links do not fit in {bits!r}, or in 16 bits")
    return bytes.fromhex("ffff0020 00002320 000a") + _MULTIPATH.pack(
        HASHED[fields], basis, ALGORITHMS[algorithm], links - 1, arg,
        bits.offset << 6 | bits.width - 1, _register(bits, bits.width),
    )  # fmt: skip


class Learned(NamedTuple):
    """One part of a flow that a switch learns: a match on ``target``, or what is loaded into it, with the value that
    ``source`` has in the packet, or that it is.
    """

    target: Field | Bits
    source: Field | Bits | int
    loads: bool = False


def learn(
    table: int, parts: Iterable[Learned], *, priority: int, cookie: int, idle_timeout: int = 0, limit: int = 0,
    ends_with_flow: bool = False,
) -> bytes:  # fmt: skip
    """NXAST_LEARN2: have the switch add a flow to ``table``, made of ``parts`` and this packet; one that is there is put anew.

    It ends after ``idle_timeout`` seconds (0: never) without packets and, ``ends_with_flow``, when the last flow that learns into
    the table with this cookie goes. No more than ``limit`` flows (0: any number) have the cookie there. Raises ValueError
    where source and target differ in width.
    """
    specs = b"".join(map(_learned, parts))
    numbers = _LEARN.pack(idle_timeout, 0, priority, cookie, 2 * ends_with_flow, table, 0, 0, 0, limit)
    return enclose(bytes.fromhex("ffff0000 00002320 002d"), numbers + specs + bytes(-(10 + len(numbers + specs)) % 8))


_LEARN = Layout(">HHHQHBBHHI4x")
"""Idle and hard timeout, priority, cookie, flags, table, timeouts after FIN, limit, where to write the result."""
_NXM_NAMES = {
    (0x8000, 5): bytes.fromhex("00000602"),
    (0x8000, 11): bytes.fromhex("00000e04"),
    (0x8000, 26): bytes.fromhex("00012610"),
}
"""Ethertype and source addresses as Open vSwitch calls them in learn actions, by OXM class and number."""


def _learned(part: Learned) -> bytes:
    target = part.target.bits if isinstance(part.target, Field) else part.target
    kind = target.width | part.loads << 11
    end = _nxm(target) + target.offset.to_bytes(2, "big")
    if isinstance(part.source, int):
        size = -(-target.width // 16) * 2
        return (kind | 1 << 13).to_bytes(2, "big") + part.source.to_bytes(size, "big") + end
    source = part.source.bits if isinstance(part.source, Field) else part.source
    if source.width != target.width:
        raise ValueError(f"learn: {source!r} and {target!r} differ in width")
    return kind.to_bytes(2, "big") + _nxm(source) + source.offset.to_bytes(2, "big") + end


def _nxm(bits: Bits) -> bytes:
    return _NXM_NAMES.get((bits.field.oxm_class, bits.field.field), bits.field.head)


def conjunction(id: int, clause: int, clauses: int) -> bytes:
    """NXAST_CONJUNCTION: what this flow matches meets ``clause``, 1 to ``clauses``, of the conjunctive match ``id``.

    A packet that meets all of them, in flows of one table and one priority, is looked up again with CONJ_ID set (32 bits; see
    "Conjunctive Match Fields" in ovs-fields(7)). Such a flow has no other actions than these. Raises ValueError unless there
    are 2 to 64 clauses and this is one of them.
    """
    if not 2 <= clauses <= 64 or not 1 <= clause <= clauses:
        raise ValueError(f"conjunction {id:#x}: there is no clause {clause} of {clauses}; there can be 2 to 64")
    return bytes.fromhex("ffff0010 00002320 0022") + _CONJUNCTION.pack(clause - 1, clauses, id)


def ct_clear() -> bytes:
    """NXAST_CT_CLEAR: the packet is as if conntrack had not seen it. Without, a zone does not translate it twice."""
    return bytes.fromhex("ffff0010 00002320 002b") + bytes(6)


class Nat(NamedTuple):
    """How conntrack translates a connection.

    Without a ``kind``: as was decided when it was committed. Otherwise ``src`` or ``dst``, to an address from
    ``first`` to ``last`` (numbers; None: ``first`` alone) of IP ``version`` 4 or 6, and a port of the range ``ports``
    (None: the packet's own where it is free).
    """

    kind: str | None = None
    first: int = 0
    last: int | None = None
    version: int = 4
    ports: tuple[int, int] | None = None
    persistent: bool = False
    hash: bool = False
    random: bool = False


def conntrack(
    *,
    zone: int | Field | Bits = 0,
    commit: bool = False,
    force: bool = False,
    table: int | None = None,
    nat: Nat | None = None,
    exec: Iterable[Action] = (),
) -> Action:
    """NXAST_CT: have conntrack look at the packet; it sets CT_STATE and its like for ``table``, where it then goes.

    ``zone`` is a number or 16 bits of a register. ``commit`` keeps the connection (``force``: even where one is known
    in the other direction), ``exec`` sets its CT_MARK and CT_LABEL. Without a ``table`` the packet goes on untracked
    as it is. The match must name IPv4 or IPv6. Raises ValueError where one of these needs another.
    """
    within = tuple(exec)
    if not commit and (force or within or (nat is not None and nat.kind is not None)):
        raise ValueError(
            "conntrack: force, exec and a choice of address or port take effect where a connection is committed"
        )
    source = 0
    if not isinstance(zone, int):
        bits = zone.bits if isinstance(zone, Field) else zone
        source, zone = int.from_bytes(_register(bits, 16), "big"), bits.offset << 6 | 15
    head = bytes.fromhex("ffff0018 00002320 0023") + _CONNTRACK.pack(
        commit | force << 1, source, zone, 0xFF if table is None else table, 0
    )
    return _nested(head, within if nat is None else (_nat(nat), *within))


def _nat(nat: Nat) -> bytes:
    """NXAST_NAT, which stands within NXAST_CT."""
    flags, present, values = 0, 0, b""
    if nat.kind is not None:
        if nat.kind not in ("src", "dst") or nat.version not in (4, 6):
            raise ValueError(f"{nat}: kind is src or dst, version 4 or 6")
        flags = (1 if nat.kind == "src" else 2) | nat.persistent << 2 | nat.hash << 3 | nat.random << 4
        size, which = (4, 1) if nat.version == 4 else (16, 4)
        if (nat.last is not None and nat.last < nat.first) or (
            nat.ports is not None and not 1 <= nat.ports[0] <= nat.ports[1]
        ):
            raise ValueError(f"{nat}: a range ends before it begins, or ports begin at 0")
        addresses = (nat.first,) if nat.last is None else (nat.first, nat.last)
        values = b"".join([address.to_bytes(size, "big") for address in addresses])
        present = which * (1 if nat.last is None else 3)
        if nat.ports is not None:
            low, high = nat.ports
            values += low.to_bytes(2, "big") + (b"" if low == high else high.to_bytes(2, "big"))
            present |= 16 if low == high else 48
    body = bytes.fromhex("00002320 0024 0000") + flags.to_bytes(2, "big") + present.to_bytes(2, "big") + values
    body += bytes(-(4 + len(body)) % 8)
    return b"\xff\xff" + (4 + len(body)).to_bytes(2, "big") + body


def _register(target: Bits, width: int) -> bytes:
    """The header of a register, of which as many bits are meant; ValueError if it is something else."""
    if target.field.oxm_class != NXM_1 or target.width != width:
        raise ValueError(f"{target!r} is not {width} bits of a register")
    return target.field.head


def _nested(head: bytes, actions: Iterable[Action]) -> Action:
    """An action with others in it: bytes when all of these are."""
    within = tuple(actions)
    try:
        return enclose(head, b"".join(within))  # type: ignore[arg-type]
    except TypeError:
        return Nested(head, within)


def enclose(head: bytes, encoded: bytes) -> bytes:
    """An action's head with the length that it has together with the actions in it."""
    return head[:2] + (len(head) + len(encoded)).to_bytes(2, "big") + head[4:] + encoded
