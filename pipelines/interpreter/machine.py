"""Runs packets through the tables and groups of a switch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from pipelines import fields as f
from pipelines.flow import IN_PORT_RESERVED, Copy, Flow, Group, Rule
from pipelines.wire import OF13, OF15, describe, encode_flow, encode_group
from pipelines.wire.decode import (
    CheckLarger,
    Clone,
    Learn,
    Multipath,
    Output,
    Plain,
    PushVlan,
    Resubmit,
    Set,
    SetQueue,
    Step,
    Steps,
    ToGroup,
    ToMeter,
    Track,
    buckets,
)
from pipelines.wire.groups import KINDS

from .connections import Connections
from .hashing import multipath, symmetric_l3l4
from .packets import QUEUE, SIZE, TAG, NotInterpreted, Packet, read, shown, untracked, write
from .tables import Hit, Pace, Tables

DEEPEST = 64
"""Resubmits and groups within each other before a packet is dropped, as in Open vSwitch."""


class Stop(Enum):
    """Why a packet went no further than a flow."""

    MISS = "no flow of the table wants it"
    DROP = "the flow drops it"
    TTL = "its TTL has ended"
    NOBODY = "nothing that the group watches is alive"
    BACK = "a switch sends nothing back to where it came from"
    DEPTH = "it goes round in circles"


class Sent(NamedTuple):
    """A packet that left by a port."""

    port: int
    packet: Packet


@dataclass
class Visit:
    """A packet in a table: what it was, the flow that it met, and what its actions made of it."""

    table: int
    depth: int
    before: Packet
    hit: Hit | None = None
    after: Packet = field(default_factory=dict)
    stops: list[Stop] = field(default_factory=list)
    groups: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    """Groups that it went to, and the numbers of the buckets that were used."""
    meters: list[int] = field(default_factory=list)


@dataclass
class Outcome:
    """What left the switch, in order, and the tables that the packet was in."""

    sent: list[Sent] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)

    @property
    def ports(self) -> list[int]:
        """The ports that a packet left by."""
        return [port for port, _ in self.sent]

    @property
    def flows(self) -> list[str]:
        """Descriptions of the flows that the packet met."""
        return [describe(visit.hit.key, visit.hit.body) for visit in self.visits if visit.hit is not None]


class Interpreter:
    """A switch with these flows, key -> body, and groups, by number.

    Where it is ``strict``, two flows of one priority that match the same packet and differ raise Ambiguous.
    """

    def __init__(
        self,
        flows: Mapping[bytes, bytes],
        groups: Mapping[int, bytes] | None = None,
        version: int = OF13,
        *,
        strict: bool = True,
        pace: Pace = iter,
    ) -> None:
        self.down: set[int] = set()
        """Ports that are down, for groups that watch them."""
        self.connections = Connections()
        """May be another switch's, so that it outlasts a change of flows."""
        self._tables = Tables(flows, pace, strict)
        self._groups, self._version = groups or {}, version
        self._opened: dict[int, tuple[int, list[Steps]]] = {}

    @classmethod
    def of(cls, rules: Iterable[Rule], version: int = OF13) -> Interpreter:
        """A switch with these rules. Raises ValueError where two are one flow that does two things."""
        flows: dict[bytes, bytes] = {}
        groups: dict[int, bytes] = {}
        for rule in rules:
            if isinstance(rule, Flow):
                key, body = encode_flow(rule, version, 0)
                if flows.setdefault(key, body) != body:
                    raise ValueError(f"one flow does two things: {describe(key, body)}; {describe(key, flows[key])}")
            elif isinstance(rule, Group):
                groups[rule.id] = encode_group(rule, version)
        return cls(flows, groups, version)

    def run(self, packet: Mapping[f.Field, int], in_port: int, table: int = 0) -> Outcome:
        """Let a packet in by a port."""
        outcome = Outcome()
        running: Packet = {}
        for each, value in (*packet.items(), (f.IN_PORT, in_port)):
            write(running, each, 0, 8 * each.size, value)
        self._lookup(table, running, outcome, 0)
        return outcome

    def _lookup(self, number: int, packet: Packet, outcome: Outcome, depth: int) -> None:
        """Tables from ``number`` on; changes ``packet`` as the flows do."""
        next: int | None = number
        while next is not None:
            visit = Visit(next, depth, dict(packet))
            outcome.visits.append(visit)
            if depth >= DEEPEST:
                visit.stops.append(Stop.DEPTH)
                return
            visit.hit = hit = self._tables.lookup(next, shown(packet))
            if hit is None:
                visit.stops.append(Stop.MISS)
                return
            done = hit.done
            if done.other:
                raise NotInterpreted(f"unknown instruction: {describe(hit.key, hit.body)}")
            if done.meter is not None:
                visit.meters.append(done.meter)
            goes_on = self._apply(done.actions, packet, outcome, visit)
            if done.metadata is not None:
                value, mask = done.metadata
                packet[f.METADATA] = packet.get(f.METADATA, 0) & ~mask | value & mask
            visit.after = dict(packet)
            if not goes_on:
                return
            if done.goto is None and not any(map(_does_something, done.actions)):
                visit.stops.append(Stop.DROP)
            next = done.goto

    def _apply(self, steps: Iterable[Step], packet: Packet, outcome: Outcome, visit: Visit) -> bool:
        """Do the actions; False when the packet goes no further."""
        for step in steps:
            match step:
                case Output(port):
                    self._output(port, packet, outcome, visit)
                case Set(field, value, mask):
                    write(packet, field, 0, 8 * field.size, read(packet, field) & ~mask | value & mask)
                case Copy(source, source_offset, target, target_offset, width):
                    write(packet, target, target_offset, width, read(packet, source) >> source_offset)
                case Resubmit(table):
                    self._lookup(table, packet, outcome, visit.depth + 1)
                case ToGroup(id):
                    self._group(id, packet, outcome, visit)
                case ToMeter(id):
                    visit.meters.append(id)
                case Plain("dec_ttl"):
                    if packet.get(f.IP_TTL, 0) <= 1:
                        visit.stops.append(Stop.TTL)
                        return False
                    packet[f.IP_TTL] -= 1
                case SetQueue(number):
                    packet[QUEUE] = number
                case PushVlan():
                    _push_vlan(packet)
                case Plain("pop_vlan"):
                    _pop_vlan(packet)
                case CheckLarger(size, field, offset):
                    write(packet, field, offset, 1, packet.get(SIZE, 0) > size)
                case Multipath(fields, basis, algorithm, links, _, target):
                    link = multipath(packet, fields, basis, algorithm, links)
                    write(packet, target.field, target.offset, target.width, link)
                case Learn():
                    pass  # for packets that come later
                case Clone(actions):
                    self._apply(actions, dict(packet), outcome, visit)
                case Plain("ct_clear"):
                    untracked(packet)
                case Track():
                    self._track(step, packet, outcome, visit.depth)
                case _:
                    raise NotInterpreted(f"unknown action {step}")
        return True

    def _group(self, id: int, packet: Packet, outcome: Outcome, visit: Visit) -> None:
        """All buckets of an ``all`` group, the first alive of ``fast_failover``, one of ``select``; each has a copy."""
        kind, all_buckets = self._open(id)
        numbered = list(enumerate(all_buckets))
        if kind == KINDS["fast_failover"]:
            chosen = [(number, bucket) for number, bucket in numbered if self._alive(bucket)][:1]
        elif kind == KINDS["select"]:
            packet[f.DP_HASH] = symmetric_l3l4(packet, 0, udp=False)
            chosen = _selected(numbered, packet)
        else:
            chosen = numbered
        visit.groups.append((id, tuple(number for number, _ in chosen)))
        if not chosen:
            visit.stops.append(Stop.NOBODY)
        inner = Visit(visit.table, visit.depth + 1, visit.before, visit.hit)
        for _, bucket in chosen:
            if inner.depth < DEEPEST:
                self._apply(bucket.actions, dict(packet), outcome, inner)
        visit.stops += inner.stops

    def _open(self, id: int) -> tuple[int, list[Steps]]:
        """Kind and buckets of a group; of one that is not there, no buckets."""
        found = self._opened.get(id)
        if found is None:
            body = self._groups.get(id)
            opened = (0, []) if body is None else (body[0], list(buckets(body, self._version < OF15)))
            found = self._opened[id] = opened
        return found

    def _alive(self, bucket: Steps) -> bool:
        """Whether what the bucket watches is up; a group is when one of its buckets is."""
        if bucket.watch_group is not None:
            return any(map(self._alive, self._open(bucket.watch_group)[1]))
        return bucket.watch_port is None or bucket.watch_port not in self.down

    def _track(self, step: Track, packet: Packet, outcome: Outcome, depth: int) -> None:
        """A copy goes on tracked; the packet itself is untracked from here on, as in Open vSwitch."""
        zone = step.zone
        if not isinstance(zone, int):
            zone = read(packet, zone.field) >> zone.offset & (1 << zone.width) - 1
        there = self.connections.track(packet, zone, step)
        if step.table is not None:
            self._lookup(step.table, there, outcome, depth + 1)
        untracked(packet)

    @staticmethod
    def _output(port: int, packet: Packet, outcome: Outcome, visit: Visit) -> None:
        """A packet never goes back to its in_port, save by the reserved port IN_PORT."""
        in_port = packet[f.IN_PORT]
        if port == in_port:
            visit.stops.append(Stop.BACK)
            return
        outcome.sent.append(Sent(in_port if port == IN_PORT_RESERVED else port, dict(packet)))


def _does_something(step: Step) -> bool:
    """Whether a packet may leave by this action, or by what it leads to."""
    return isinstance(step, Output | Resubmit | ToGroup | Clone | Track)


def _selected(numbered: list[tuple[int, Steps]], packet: Packet) -> list[tuple[int, Steps]]:
    """The bucket on which the packet's hash falls, by weight. A switch hashes in ways of its own, and may choose another of several."""
    total = sum(bucket.weight for _, bucket in numbered)
    at = packet[f.DP_HASH] % total if total else 0
    for number, bucket in numbered:
        at -= bucket.weight
        if at < 0:
            return [(number, bucket)]
    return []


def _push_vlan(packet: Packet) -> None:
    """One tag is enough for this model."""
    if packet.get(f.VLAN_VID):
        raise NotInterpreted("a second VLAN tag is not interpreted")
    packet[f.VLAN_VID] = TAG


def _pop_vlan(packet: Packet) -> None:
    if not packet.get(f.VLAN_VID, 0) & TAG:
        raise NotInterpreted("there is no VLAN tag to take off")
    packet[f.VLAN_VID] = 0
