"""What has to change in a switch, and the messages that do it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from .flows import flow_add, flow_delete
from .groups import group_delete, group_put, meter_delete, meter_put
from .openflow import Command
from .requests import Bundle, barrier, bundle_adds, bundle_control

BUNDLE_SIZE = 2000
"""Changes in a bundle: some 20 ms of the switch's time, so that it serves others in between and the next can be made
meanwhile. Open vSwitch takes 100,000 flows in bundles of 1,000 or 2,000 faster than in bundles of 5,000 and more."""


class Delta:
    """Changes of one switch, not yet sent. ``a.then(b)`` makes them one.

    ``flows``: key -> body to add, or None to delete. ``groups``: number -> body to add or modify, or None to delete.
    ``meters``: number -> (ADD, MODIFY or DELETE, body), since a switch refuses to add a meter that it has.
    """

    __slots__ = ("flows", "groups", "meters")

    def __init__(
        self,
        flows: dict[bytes, bytes | None] | None = None,
        groups: dict[int, bytes | None] | None = None,
        meters: dict[int, tuple[Command, bytes]] | None = None,
    ) -> None:
        self.flows = {} if flows is None else flows
        self.groups = {} if groups is None else groups
        self.meters = {} if meters is None else meters

    def __len__(self) -> int:
        """How many flows, groups and meters change."""
        return len(self.flows) + len(self.groups) + len(self.meters)

    def then(self, later: Delta) -> None:
        """Take over changes that come after these: what both change, changes only once."""
        self.flows.update(later.flows)
        self.groups.update(later.groups)
        for id, (command, body) in later.meters.items():
            earlier = self.meters.get(id)
            if earlier is None:
                self.meters[id] = command, body
            elif earlier[0] is Command.ADD:
                if command is Command.DELETE:
                    del self.meters[id]
                else:
                    self.meters[id] = Command.ADD, body
            else:
                self.meters[id] = (command if command is Command.DELETE else Command.MODIFY), body


class Subject(NamedTuple):
    """What a message changes: ``kind`` is ``flow`` (``id`` its key), ``group`` or ``meter`` (``id`` its number)."""

    kind: str
    id: bytes | int


class Batch(NamedTuple):
    """Messages to send in one go. What answers transaction ``last`` tells how it ended.

    A batch with a ``bundle`` ends with its commit, one without (meters) with a barrier. An error whose xid is in
    ``subjects`` is about that change. When the commit then fails too, the bundle changed nothing; when the commit
    is confirmed, the change was malformed, and Open vSwitch made the bundle without it.
    """

    data: bytes
    bundle: int | None
    last: int
    subjects: dict[int, Subject]


Part = tuple[int, Subject, bytes]
"""xid, what changes, and the message."""


def batches(delta: Delta, version: int, xids: Iterator[int], size: int = BUNDLE_SIZE) -> Iterator[Batch]:
    """The changes in an order in which each finds what it needs, ``size`` to a bundle, made as they are asked for.

    Meters come first and their deletion last, outside bundles because Open vSwitch does not take them in. Inside:
    groups, flows that are added or replaced, flows that are deleted, groups that are deleted. ``xids`` are unused
    transaction ids, 32 bits, without end. The delta must not be changed in between.
    """
    yield from _plain(_meter_puts(delta, version, xids), version, xids)
    changes = _changes(delta, version, xids)
    while part := list(islice(changes, size)):
        yield _bundle(part, version, xids)
    yield from _plain(_meter_deletes(delta, version, xids), version, xids)


def _plain(parts: Iterator[Part], version: int, xids: Iterator[int]) -> Iterator[Batch]:
    """One batch outside bundles, or none when there is nothing to do."""
    todo = list(parts)
    if todo:
        last = next(xids)
        data = b"".join([*(data for _, _, data in todo), barrier(version, last)])
        yield Batch(data, None, last, {xid: subject for xid, subject, _ in todo})


def _bundle(parts: list[Part], version: int, xids: Iterator[int]) -> Batch:
    bundle, last = next(xids), next(xids)
    pieces = [bundle_control(version, bundle, bundle, Bundle.OPEN)]
    pieces += bundle_adds(version, bundle, [data for _, _, data in parts])
    pieces.append(bundle_control(version, last, bundle, Bundle.COMMIT))
    return Batch(b"".join(pieces), bundle, last, {xid: subject for xid, subject, _ in parts})


def _changes(delta: Delta, version: int, xids: Iterator[int]) -> Iterator[Part]:
    """Changes of groups and flows, in order."""
    for id, body in delta.groups.items():
        if body is not None:
            xid = next(xids)
            yield xid, Subject("group", id), group_put(Command.ADD_OR_MODIFY, id, body, version, xid)
    for key, body in delta.flows.items():
        if body is not None:
            xid = next(xids)
            yield xid, Subject("flow", key), flow_add(key, body, version, xid)
    for key, body in delta.flows.items():
        if body is None:
            xid = next(xids)
            yield xid, Subject("flow", key), flow_delete(key, version, xid)
    for id, body in delta.groups.items():
        if body is None:
            xid = next(xids)
            yield xid, Subject("group", id), group_delete(id, version, xid)


def _meter_puts(delta: Delta, version: int, xids: Iterator[int]) -> Iterator[Part]:
    for id, (command, body) in delta.meters.items():
        if command is not Command.DELETE:
            xid = next(xids)
            yield xid, Subject("meter", id), meter_put(command, id, body, version, xid)


def _meter_deletes(delta: Delta, version: int, xids: Iterator[int]) -> Iterator[Part]:
    for id, (command, _) in delta.meters.items():
        if command is Command.DELETE:
            xid = next(xids)
            yield xid, Subject("meter", id), meter_delete(id, version, xid)
