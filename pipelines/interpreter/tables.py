"""Which flow of a table a packet meets: tuple space search (Srinivasan, Suri and Varghese, 1999), as in Open vSwitch.

The flows stand in one dict by key, and a key is table, priority and match. So the flow that a packet meets is found by
making the key that it would have: once for each shape (which fields, under which masks) that the table has, whatever the
number of flows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from pipelines import fields as f
from pipelines.wire import describe
from pipelines.wire.decode import Conjunction, Instructions, field_of, instructions
from pipelines.wire.flows import COOKIE, INSTRUCTIONS, TLVS

from .packets import Packet

Pace = Callable[[Iterable[bytes]], Iterable[bytes]]
"""Gives the same items, and may do something else in between."""


class Ambiguous(ValueError):
    """Two flows of one priority match a packet and do different things, so it is undefined what becomes of it."""


class Hit(NamedTuple):
    """The flow that a packet meets; of a conjunctive match its id, and the flows that met its clauses."""

    key: bytes
    body: bytes
    done: Instructions
    conjunction: int | None = None
    clauses: tuple[bytes, ...] = ()


class _Part(NamedTuple):
    """One field of a shape: its header as in a key, the bytes of its value, and its mask, if it has one."""

    head: bytes
    field: f.Field
    size: int
    mask: bytes


_Shape = tuple[_Part, ...]


class Tables:
    """The tables of a switch with these flows, key -> body, which must not change."""

    def __init__(self, flows: Mapping[bytes, bytes], pace: Pace = iter, strict: bool = True) -> None:
        self._flows, self._strict = flows, strict
        self._signatures: defaultdict[bytes, set[bytes]] = defaultdict(set)
        for key in pace(flows):
            self._signatures[key[:TLVS]].add(_signature(key))
        self._bands: dict[int, list[tuple[bytes, list[_Shape]]]] = {}
        self._decoded: dict[bytes, Instructions] = {}

    def lookup(self, table: int, packet: Packet) -> Hit | None:
        """The flow of highest priority that matches; raises Ambiguous where there are two and the tables are strict."""
        for band, shapes in self._shapes(table):
            hard: list[Hit] = []
            soft: list[Hit] = []
            for hit in self._matching(band, shapes, packet):
                (soft if _is_clause(hit.done) else hard).append(hit)
            if hard:
                return self._only(hard)
            for id, clauses in _met(soft):
                conclusion = self._conclusion(table, packet | {f.CONJ_ID: id})
                if conclusion is not None:
                    return conclusion._replace(conjunction=id, clauses=clauses)
        return None

    def _conclusion(self, table: int, packet: Packet) -> Hit | None:
        """What follows when a conjunctive match is met: the best flow for the packet, clauses aside."""
        for band, shapes in self._shapes(table):
            hard = [hit for hit in self._matching(band, shapes, packet) if not _is_clause(hit.done)]
            if hard:
                return self._only(hard)
        return None

    def _only(self, found: list[Hit]) -> Hit:
        if self._strict and len({hit.body[COOKIE:] for hit in found}) > 1:
            raise Ambiguous(f"ambiguous: {'; '.join(describe(hit.key, hit.body) for hit in found)}")
        return found[0]

    def _matching(self, band: bytes, shapes: Iterable[_Shape], packet: Packet) -> Iterator[Hit]:
        for shape in shapes:
            parts = [band]
            for head, field, size, mask in shape:
                value = packet.get(field, 0)
                if mask:
                    parts += head, (value & int.from_bytes(mask, "big")).to_bytes(size, "big"), mask
                else:
                    parts += head, value.to_bytes(size, "big")
            key = b"".join(parts)
            body = self._flows.get(key)
            if body is not None:
                yield Hit(key, body, self._decode(body))

    def _decode(self, body: bytes) -> Instructions:
        done = self._decoded.get(body)
        if done is None:
            done = self._decoded[body] = instructions(body[INSTRUCTIONS:])
        return done

    def _shapes(self, table: int) -> list[tuple[bytes, list[_Shape]]]:
        """(table and priority as in a key, shapes) of a table, highest priority first."""
        found = self._bands.get(table)
        if found is None:
            bands = sorted((band for band in self._signatures if band[0] == table), reverse=True)
            found = self._bands[table] = [(band, list(map(_shape, sorted(self._signatures[band])))) for band in bands]
        return found


def _signature(key: bytes) -> bytes:
    """What a match is without its values: the header of each field, and its mask."""
    parts: list[bytes] = []
    at, end = TLVS, len(key)
    while at < end:
        value, after = at + 4, at + 4 + key[at + 3]
        parts.append(key[at:value])
        if key[at + 2] & 1:
            parts.append(key[value + key[at + 3] // 2 : after])
        at = after
    return b"".join(parts)


def _shape(signature: bytes) -> _Shape:
    parts: list[_Part] = []
    at = 0
    while at < len(signature):
        head = signature[at : at + 4]
        at += 4
        masked = head[2] & 1
        size = head[3] // 2 if masked else head[3]
        parts.append(_Part(head, field_of(head), size, signature[at : at + size] if masked else b""))
        at += size if masked else 0
    return tuple(parts)


def _is_clause(done: Instructions) -> bool:
    return bool(done.actions) and isinstance(done.actions[0], Conjunction)


def _met(soft: list[Hit]) -> Iterator[tuple[int, tuple[bytes, ...]]]:
    """The conjunctive matches all of whose clauses are met, with the flows that meet them."""
    clauses: defaultdict[int, dict[int, bytes]] = defaultdict(dict)
    wanted: dict[int, int] = {}
    for hit in soft:
        for step in hit.done.actions:
            if isinstance(step, Conjunction):
                clauses[step.id].setdefault(step.clause, hit.key)
                wanted[step.id] = step.clauses
    for id, flows in clauses.items():
        if len(flows) == wanted[id]:
            yield id, tuple(flows[clause] for clause in sorted(flows))
