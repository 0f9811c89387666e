"""An OpenFlow switch in plain Python, for tests: does this packet come out of that port, and why?

It runs flows and groups as they are encoded, so that what is tested is what a real switch would be sent. A packet is
a dict of field -> value; fields that it lacks are 0. Not a model of time: no timeouts, no meters, no conntrack.
The 128-bit registers stand in a packet as the 32-bit registers that they consist of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple
from zlib import crc32

from pipelines import fields as f
from pipelines.flow import IN_PORT_RESERVED, Copy, Group, Rule
from pipelines.wire import OF13, OF15, describe, encode_flow, encode_group
from pipelines.wire.decode import (
    CheckLarger,
    Clone,
    Instructions,
    Multipath,
    Output,
    Plain,
    PushVlan,
    Resubmit,
    Set,
    Step,
    Steps,
    ToGroup,
    ToMeter,
    Track,
    buckets,
    instructions,
    match_values,
)
from pipelines.wire.flows import INSTRUCTIONS, TLVS
from pipelines.wire.groups import KINDS

Packet = dict[f.Field, int]
SIZE = f.Field("size", f.EXPERIMENTER, 0, 4)
"""Bytes of a packet, Ethernet header included, for ``check_pkt_larger``; no flow can match it."""
DEEPEST = 64
"""Resubmits and groups within each other before a packet is dropped, as in Open vSwitch."""


class Sent(NamedTuple):
    """A packet that left by a port."""

    port: int
    packet: Packet


class Outcome(NamedTuple):
    """What left the switch, in order, and descriptions of the flows that the packet met."""

    sent: list[Sent]
    flows: list[str]

    @property
    def ports(self) -> list[int]:
        """The ports that a packet left by."""
        return [port for port, _ in self.sent]


class _Entry(NamedTuple):
    priority: int
    match: list[tuple[f.Field, int, int]]
    done: Instructions
    line: str


class Interpreter:
    """A switch with these flows, (key, body) each, and groups, by number."""

    def __init__(
        self, flows: Iterable[tuple[bytes, bytes]], groups: Mapping[int, bytes] | None = None, version: int = OF13
    ) -> None:
        self.down: set[int] = set()
        """Ports that are down, for groups that watch them."""
        self._groups = {id: (body[0], list(buckets(body, version < OF15))) for id, body in (groups or {}).items()}
        self._tables: dict[int, list[_Entry]] = {}
        for key, body in flows:
            match = [(field, value, mask) for field, (value, mask) in match_values(key[TLVS:]).items()]
            entry = _Entry(
                int.from_bytes(key[1:3], "big"), match, instructions(body[INSTRUCTIONS:]), describe(key, body)
            )
            self._tables.setdefault(key[0], []).append(entry)
        for table in self._tables.values():
            table.sort(key=lambda entry: -entry.priority)

    @classmethod
    def of(cls, rules: Iterable[Rule], version: int = OF13) -> Interpreter:
        """A switch with these rules."""
        rules = list(rules)
        flows = [encode_flow(rule, version, 0) for rule in rules if hasattr(rule, "match")]
        groups = {rule.id: encode_group(rule, version) for rule in rules if isinstance(rule, Group)}
        return cls(flows, groups, version)

    def run(self, packet: Mapping[f.Field, int], in_port: int, table: int = 0) -> Outcome:
        """Let a packet in by a port."""
        outcome = Outcome([], [])
        running: Packet = {}
        for field, value in (*packet.items(), (f.IN_PORT, in_port)):
            _write(running, field, 0, 8 * field.size, value)
        self._lookup(table, running, outcome, 0)
        return outcome

    def _lookup(self, number: int, packet: Packet, outcome: Outcome, depth: int) -> None:
        """Tables from ``number`` on; changes ``packet`` as the flows do."""
        next: int | None = number
        while next is not None and depth < DEEPEST:
            entry = self._best(next, packet)
            if entry is None:
                return
            outcome.flows.append(entry.line)
            assert not entry.done.other, entry.line
            if not self._apply(entry.done.actions, packet, outcome, depth):
                return
            if entry.done.metadata is not None:
                value, mask = entry.done.metadata
                packet[f.METADATA] = packet.get(f.METADATA, 0) & ~mask | value & mask
            next = entry.done.goto

    def _best(self, table: int, packet: Packet) -> _Entry | None:
        """The flow of highest priority that matches; two of the same priority that both match are an error."""
        best: _Entry | None = None
        for entry in self._tables.get(table, ()):
            if best is not None and entry.priority < best.priority:
                break
            if all(packet.get(field, 0) & mask == value & mask for field, value, mask in entry.match):
                assert best is None, f"ambiguous: {best.line} and {entry.line}"
                best = entry
        return best

    def _apply(self, steps: Iterable[Step], packet: Packet, outcome: Outcome, depth: int) -> bool:
        """Do the actions; False when the packet goes no further."""
        for step in steps:
            match step:
                case Output(port):
                    self._output(port, packet, outcome)
                case Set(field, value, mask):
                    _write(packet, field, 0, 8 * field.size, _read(packet, field) & ~mask | value & mask)
                case Copy(source, source_offset, target, target_offset, width):
                    _write(packet, target, target_offset, width, _read(packet, source) >> source_offset)
                case Resubmit(table):
                    self._lookup(table, packet, outcome, depth + 1)
                case ToGroup(id):
                    self._group(id, packet, outcome, depth + 1)
                case ToMeter():
                    pass
                case Plain("dec_ttl"):
                    if packet.get(f.IP_TTL, 0) <= 1:
                        return False
                    packet[f.IP_TTL] -= 1
                case PushVlan():
                    self._push_vlan(packet)
                case Plain("pop_vlan"):
                    self._pop_vlan(packet)
                case CheckLarger(size, field, offset):
                    _write(packet, field, offset, 1, packet.get(SIZE, 0) > size)
                case Multipath(_, basis, _, links, _, target):
                    _write(packet, target.field, target.offset, target.width, crc32(_flow_of(packet), basis) % links)
                case Clone(actions):
                    self._apply(actions, dict(packet), outcome, depth)
                case Plain("ct_clear"):
                    packet[f.CT_STATE] = 0
                case Track():
                    self._track(step, packet, outcome, depth)
                case _:
                    raise AssertionError(f"unknown action {step}")
        return True

    def _group(self, id: int, packet: Packet, outcome: Outcome, depth: int) -> None:
        """All buckets of an ``all`` group, the first that is alive of another; each works on a copy of the packet."""
        kind, steps = self._groups[id]
        alive = steps if kind == KINDS["all"] else [bucket for bucket in steps if self._alive(bucket)][:1]
        for bucket in alive:
            if depth < DEEPEST:
                self._apply(bucket.actions, dict(packet), outcome, depth)

    def _alive(self, bucket: Steps) -> bool:
        """Whether what the bucket watches is up; a group is when one of its buckets is."""
        if bucket.watch_group is not None:
            return any(map(self._alive, self._groups.get(bucket.watch_group, (0, []))[1]))
        return bucket.watch_port is None or bucket.watch_port not in self.down

    def _track(self, step: Track, packet: Packet, outcome: Outcome, depth: int) -> None:
        raise NotImplementedError("the interpreter tracks no connections: see tests.conntrack")

    @staticmethod
    def _push_vlan(packet: Packet) -> None:
        """One tag is enough for this model."""
        assert not packet.get(f.VLAN_VID), "a second VLAN tag"
        packet[f.VLAN_VID] = _TAG

    @staticmethod
    def _pop_vlan(packet: Packet) -> None:
        assert packet.get(f.VLAN_VID, 0) & _TAG, "no VLAN tag to take off"
        packet[f.VLAN_VID] = 0

    @staticmethod
    def _output(port: int, packet: Packet, outcome: Outcome) -> None:
        """A packet never goes back to its in_port, save by the reserved port IN_PORT."""
        in_port = packet[f.IN_PORT]
        if port == IN_PORT_RESERVED:
            outcome.sent.append(Sent(in_port, dict(packet)))
        elif port != in_port:
            outcome.sent.append(Sent(port, dict(packet)))


_TAG = 0x1000
_HASHED = (
    f.ETH_TYPE, f.IP_PROTO, f.IPV4_SRC, f.IPV4_DST, f.IPV6_SRC, f.IPV6_DST, f.TCP_SRC, f.TCP_DST, f.UDP_SRC, f.UDP_DST,
)  # fmt: skip


def _flow_of(packet: Packet) -> bytes:
    """What makes packets of one flow alike, in whatever direction."""
    values = [packet.get(field, 0) for field in _HASHED]
    pairs = (sorted(values[at : at + 2]) for at in range(2, len(values), 2))
    return repr((values[:2], *pairs)).encode()


def _read(packet: Packet, field: f.Field) -> int:
    """A field's value."""
    if isinstance(field, f.WideRegister):
        return sum(packet.get(part, 0) << shift for part, shift in field.parts)
    return packet.get(f.IN_PORT if field is f.INGRESS else field, 0)


def _write(packet: Packet, field: f.Field, offset: int, width: int, value: int) -> None:
    """Set bits of a field."""
    mask = (1 << width) - 1 << offset
    new = _read(packet, field) & ~mask | value << offset & mask
    if isinstance(field, f.WideRegister):
        packet.update({part: new >> shift & part.ones for part, shift in field.parts})
    else:
        packet[f.IN_PORT if field is f.INGRESS else field] = new
