"""Reads multipart replies: what flows, groups, meters and ports a switch has (OpenFlow 1.5.1 section 7.3.5).

The entries are read one at a time, so that a caller may do other things between two of them. Every reader raises
ValueError when the bytes end too early or contradict themselves, and keeps what it does not know as bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from .openflow import OF13, OF15, Message, Multipart
from .structures import BYTES, DURATION, FLOWS, PACKETS, in_seconds, read_match, read_statistics, reading


class Part(NamedTuple):
    """One message of a multipart reply (7.3.5); ``more`` says that another follows."""

    version: int
    kind: int
    more: bool
    body: bytes


class FlowEntry(NamedTuple):
    """A flow that a switch has, as ``encode_flow`` would write it, and its counters; ``duration`` in seconds."""

    key: bytes
    body: bytes
    packets: int
    bytes: int
    duration: float


class Sums(NamedTuple):
    """Sums over flows."""

    packets: int
    bytes: int
    flows: int


class MeterCount(NamedTuple):
    """What a meter with one band has seen, and how much of it was too much; ``duration`` in seconds."""

    id: int
    packets: int
    bytes: int
    dropped_packets: int
    dropped_bytes: int
    duration: float


class MeterFeatures(NamedTuple):
    """What meters a switch can have: their number, 0 for none; which types of bands (OFPMBT_*) and flags (OFPMF_*), a bit each."""

    most: int
    bands: int
    flags: int


class Port(NamedTuple):
    """An OpenFlow port."""

    number: int
    mac: bytes
    name: str


_PART = Struct(">HHxxxx")


def read_part(message: Message) -> Part:
    """The part of a reply that is in one message."""
    kind, flags = _PART.unpack_from(message.body)
    return Part(message.version, kind, bool(flags & 1), message.body[8:])


def _entries(part: Part, kind: Multipart, shortest: int) -> Iterator[bytes]:
    """The entries of a reply, each of which begins with its length."""
    if part.kind != kind:
        raise ValueError(f"multipart reply of type {part.kind} instead of {kind}")
    body, at, end = part.body, 0, len(part.body)
    while at < end:
        length = int.from_bytes(body[at : at + 2], "big")
        if length < shortest or at + length > end:
            raise ValueError(f"multipart reply of type {kind}: the entry at byte {at} is cut off")
        yield body[at : at + length]
        at += length


_FLOW = Struct(">xxxxII2s8sxx8sQQ")
"""duration, priority, timeouts + flags + importance, cookie, packets, bytes (OpenFlow 1.3.5, 7.3.5.2)."""
_FLOW_15 = Struct(">xxxxxx2s8s8s")
"""priority, timeouts + flags + importance, cookie."""


def flows(part: Part) -> Iterator[FlowEntry]:
    """The flows of a reply to ``flows_request``."""
    with reading("flow"):
        yield from (_flows_15 if part.version == OF15 else _flows)(part)


def _flows(part: Part) -> Iterator[FlowEntry]:
    unpack, version = _FLOW.unpack_from, part.version
    for entry in _entries(part, Multipart.FLOWS, 56):
        seconds, nanoseconds, priority, numbers, cookie, packets, size = unpack(entry)
        match, after = read_match(entry, 48, version)
        yield FlowEntry(
            entry[2:3] + priority + match, cookie + numbers + entry[after:], packets, size, seconds + nanoseconds / 1e9
        )


def _flows_15(part: Part) -> Iterator[FlowEntry]:
    for entry in _entries(part, Multipart.FLOWS, 40):
        priority, numbers, cookie = _FLOW_15.unpack_from(entry)
        match, after = read_match(entry, 24, OF15)
        counted, after = read_statistics(entry, after)
        yield FlowEntry(
            entry[4:5] + priority + match,
            cookie + numbers + entry[after:],
            counted.get(PACKETS, 0),
            counted.get(BYTES, 0),
            in_seconds(counted.get(DURATION, 0)),
        )


def groups(part: Part) -> Iterator[tuple[int, bytes]]:
    """(number, body) of the groups of a reply to ``groups_request``; bodies as ``encode_group`` writes them."""
    for entry in _entries(part, Multipart.GROUPS, 8 if part.version < OF15 else 16):
        if part.version < OF15:
            length, content = (len(entry) - 8).to_bytes(2, "big"), entry[8:]
        else:
            length, content = entry[8:10], entry[16:]
        yield int.from_bytes(entry[4:8], "big"), entry[2:3] + length + content


def meters(part: Part) -> Iterator[tuple[int, bytes]]:
    """(number, body) of the meters of a reply to ``meters_request``; bodies as ``encode_meter`` writes them."""
    for entry in _entries(part, Multipart.METERS, 8):
        yield int.from_bytes(entry[4:8], "big"), entry[2:4] + entry[8:]


_METER_COUNTERS = Struct(">IHxxxxxxIQQII")
"""number, length, flows, packets, bytes, duration (7.3.5.14)."""
_BAND_COUNTERS = Struct(">QQ")


def meter_counters(part: Part) -> Iterator[MeterCount]:
    """The meters of a reply to ``meter_counters_request``."""
    if part.kind != Multipart.METER_COUNTERS:
        raise ValueError(f"multipart reply of type {part.kind} instead of {Multipart.METER_COUNTERS}")
    body, at = part.body, 0
    with reading("meter"):
        while at < len(body):
            id, length, _, packets, size, seconds, nanoseconds = _METER_COUNTERS.unpack_from(body, at)
            if length < _METER_COUNTERS.size or at + length > len(body):
                raise ValueError(f"the meter at byte {at} is cut off")
            bands = range(at + _METER_COUNTERS.size, at + length - _BAND_COUNTERS.size + 1, _BAND_COUNTERS.size)
            dropped = [_BAND_COUNTERS.unpack_from(body, band) for band in bands]
            much, bytes_ = sum(band[0] for band in dropped), sum(band[1] for band in dropped)
            yield MeterCount(id, packets, size, much, bytes_, seconds + nanoseconds / 1e9)
            at += length


def meter_features(part: Part) -> MeterFeatures:
    """A reply to ``meter_features_request`` (7.3.5.16); 1.5 says more after it."""
    if part.kind != Multipart.METER_FEATURES:
        raise ValueError(f"multipart reply of type {part.kind} instead of {Multipart.METER_FEATURES}")
    with reading("meter features"):
        return MeterFeatures(*_METER_FEATURES.unpack_from(part.body))


_METER_FEATURES = Struct(">III")


def ports(part: Part) -> Iterator[Port]:
    """The ports of a reply to ``ports_request``."""
    if part.kind != Multipart.PORTS:
        raise ValueError(f"multipart reply of type {part.kind} instead of {Multipart.PORTS}")
    body, at = part.body, 0
    while at < len(body):
        length = 64 if part.version == OF13 else int.from_bytes(body[at + 4 : at + 6], "big")
        if length < 40 or at + length > len(body):
            raise ValueError(f"port at byte {at} is cut off")
        name = body[at + 16 : at + 32].rstrip(b"\0").decode(errors="replace")
        yield Port(int.from_bytes(body[at : at + 4], "big"), body[at + 8 : at + 14], name)
        at += length


_SUMS = Struct(">QQI")


def aggregate(part: Part) -> Sums:
    """The sums of a reply to ``aggregate_request``."""
    if part.kind != Multipart.AGGREGATE:
        raise ValueError(f"multipart reply of type {part.kind} instead of {Multipart.AGGREGATE}")
    with reading("sums over flows"):
        if part.version < OF15:
            return Sums(*_SUMS.unpack_from(part.body))
        counted, _ = read_statistics(part.body, 0)
        return Sums(counted.get(PACKETS, 0), counted.get(BYTES, 0), counted.get(FLOWS, 0))
