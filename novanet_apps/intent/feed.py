"""From changed rows to edits of the graph."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any
from uuid import UUID

import eventlet
import msgspec

from novanet_apps.ovsdb.session import RowEvent, read
from topology.changes import Change, Edit
from topology.model import Load
from topology.schema import KIND_OF, LOAD, Column, apply_order, columns, decode

LOG = logging.getLogger(__name__)

SLICE = 0.010
"""Seconds of work after which other greenlets get their turn."""
CHUNK = 200
"""Edits applied at once, at most: a batch is atomic for those who read the graph, up to this size."""


class Feed:
    """Applies what the server reports. Rows that make no sense are kept as ``problems``, and change nothing."""

    def __init__(
        self, apply: Callable[[Iterable[Edit]], list[Change]], addresses: Callable[[], Mapping[UUID, Any]]
    ) -> None:
        self._apply = apply
        self._addresses = addresses
        self.problems: dict[tuple[str, str], str] = {}
        """(kind, id) of rows that cannot be understood, and why."""
        self.busy = False
        """Whether some of what was reported is still to be applied."""

    def take(self, events: list[RowEvent]) -> None:
        """Apply one report; other greenlets run meanwhile when it is long."""
        self.busy = True
        try:
            edits = []
            began = time.monotonic()
            for event in events:
                edit = self._edit(event)
                if edit is not None:
                    edits.append(edit)
                if time.monotonic() - began > SLICE:
                    eventlet.sleep(0)
                    began = time.monotonic()
            edits = apply_order(edits)
            for start in range(0, len(edits), CHUNK):
                if start:
                    eventlet.sleep(0)
                self._apply(edits[start : start + CHUNK])
        finally:
            self.busy = False

    def _edit(self, event: RowEvent) -> Edit | None:
        if event.table == LOAD:
            return Edit("load", event.uuid, load(event.row) if event.op != "delete" else None)
        kind = KIND_OF.get(event.table)
        if kind is None:
            return None  # an address comes and goes with its port
        key = (kind, event.uuid)
        if event.op == "delete":
            self.problems.pop(key, None)
            return Edit(kind, event.uuid, None)
        try:
            obj = decode(kind, event.uuid, self._cells(kind, event.row))
        except (msgspec.MsgspecError, ValueError, KeyError) as problem:
            self.problems[key] = f"{event.table} row {event.uuid} cannot be understood and is ignored: {problem}"
            LOG.error("intent store: %s", self.problems[key])
            return None
        self.problems.pop(key, None)
        return Edit(kind, event.uuid, obj)

    def _cells(self, kind: str, row: Any) -> dict[str, Any]:
        data = row._data  # attribute access would look at transactions, and build what is left out as default
        cells: dict[str, Any] = {}
        for name, column in columns(kind).items():
            datum = data.get(name)
            if column.form == "map":
                cells[name] = {} if datum is None else {key.value: each.value for key, each in datum.values.items()}
                continue
            values = () if datum is None else [atom.value for atom in datum.values]
            cells[name] = self._fixed(values) if column.form == "addresses" else _cell(column, values)
        return cells

    def _fixed(self, rows: Iterable[UUID]) -> list[tuple[int, str, str]]:
        found = []
        table = self._addresses()
        for id in rows:
            data = table[id]._data
            position = data.get("position")
            (subnet,), (address,) = data["subnet"].values, data["ip_address"].values
            found.append((next(iter(position.values)).value if position else 0, str(subnet.value), address.value))
        return found


def load(row: Any) -> Load:
    """What a row of ``Load`` holds."""
    return Load(
        hypervisor_id=str(read(row, "hypervisor_id")),
        pool_id=str(read(row, "pool_id")),
        connections=dict(read(row, "connections")),
        began=read(row, "began"),
        beat=read(row, "beat"),
    )


_DEFAULTS = {"string": "", "json": "", "integer": 0, "boolean": False}
"""OVSDB leaves columns that have these values out (RFC 7047, section 5.2.1)."""


def _cell(column: Column, values: Collection[Any]) -> Any:
    if column.form == "strings":
        return list(values)
    if column.form == "references":
        return [str(each) for each in values]
    if not values:
        return None if column.optional else _DEFAULTS.get(column.form)
    (value,) = values
    return str(value) if column.form == "reference" else value
