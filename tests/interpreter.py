"""An OpenFlow switch in plain Python, for tests: does this packet come out of that port, and why?

It runs flows and groups as they are encoded, so that what is tested is what a real switch would be sent. A packet is
a dict of field -> value; fields that it lacks are 0. Not a model of time: no timeouts, no meters, no conntrack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pipelines import fields as f
from pipelines.flow import IN_PORT_RESERVED, Copy, Group, Rule
from pipelines.wire import OF13, OF15, describe, encode_flow, encode_group
from pipelines.wire.decode import (
    Instructions,
    Output,
    Resubmit,
    Set,
    Step,
    ToGroup,
    ToMeter,
    buckets,
    instructions,
    match_values,
)
from pipelines.wire.flows import INSTRUCTIONS, TLVS

Packet = dict[f.Field, int]
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
        self._groups = {
            id: (body[0], [steps for _, steps in buckets(body, version < OF15)]) for id, body in (groups or {}).items()
        }
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
        self._lookup(table, {**packet, f.IN_PORT: in_port}, in_port, outcome, 0)
        return outcome

    def _lookup(self, number: int, packet: Packet, in_port: int, outcome: Outcome, depth: int) -> None:
        """Tables from ``number`` on; changes ``packet`` as the flows do."""
        next: int | None = number
        while next is not None and depth < DEEPEST:
            entry = self._best(next, packet)
            if entry is None:
                return
            outcome.flows.append(entry.line)
            assert not entry.done.other, entry.line
            self._apply(entry.done.actions, packet, in_port, outcome, depth)
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

    def _apply(self, steps: Iterable[Step], packet: Packet, in_port: int, outcome: Outcome, depth: int) -> None:
        for step in steps:
            match step:
                case Output(port):
                    self._output(port, packet, in_port, outcome)
                case Set(field, value, mask):
                    packet[field] = packet.get(field, 0) & ~mask | value & mask
                case Copy(source, source_offset, target, target_offset, width):
                    ones = (1 << width) - 1
                    bits = packet.get(source, 0) >> source_offset & ones
                    packet[target] = packet.get(target, 0) & ~(ones << target_offset) | bits << target_offset
                case Resubmit(table):
                    self._lookup(table, packet, in_port, outcome, depth + 1)
                case ToGroup(id):
                    self._group(id, packet, in_port, outcome, depth + 1)
                case ToMeter():
                    pass
                case _:
                    raise AssertionError(f"unknown action {step}")

    def _group(self, id: int, packet: Packet, in_port: int, outcome: Outcome, depth: int) -> None:
        """All buckets of an ``all`` group, the first of another; each works on a copy of the packet."""
        kind, steps = self._groups[id]
        for bucket in steps if kind == 0 else steps[:1]:
            if depth < DEEPEST:
                self._apply(bucket, dict(packet), in_port, outcome, depth)

    @staticmethod
    def _output(port: int, packet: Packet, in_port: int, outcome: Outcome) -> None:
        """A packet never goes back to its in_port, save by the reserved port IN_PORT."""
        if port == IN_PORT_RESERVED:
            outcome.sent.append(Sent(in_port, dict(packet)))
        elif port != in_port:
            outcome.sent.append(Sent(port, dict(packet)))
