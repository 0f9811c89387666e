"""A replica of a database: python-ovs' IDL, which here collects what changed, and stays quick with large sets.

Four things differ from ovs.db.idl.Idl:

- after a reconnection the server sends every row again; only what differs from before is an event;
- python-ovs copies and compares a whole set when one member is added, so that with 10,000 ports on a bridge one more
  costs 10,000 steps; here it costs one;
- a column that has its default value takes neither time nor memory: all rows share it;
- a value that does not suit its column is an error, where python-ovs logs a line and commits without it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import eventlet
import ovs.db.data
import ovs.db.error
import ovs.db.idl
import ovs.db.types
from ovs.db.idl import Idl, Row, SchemaHelper

from novanet_apps.ovsdb.link import Link

LOG = logging.getLogger(__name__)

YIELD_AFTER = 0.010
"""Seconds of parsing after which other greenlets get their turn."""

LARGE_SET = 500
"""Members of a set that are parsed in one go, some milliseconds."""


class BadValue(Exception):
    """A value was assigned that the column's type does not allow."""


class RowEvent(NamedTuple):
    """What happened to a row. `row` shows it as it is now, or, deleted, as it was.

    `old` maps the changed columns of an update to their former values (references as uuid.UUID); None otherwise.
    """

    op: str
    """``insert``, ``update`` or ``delete``."""
    table: str
    uuid: str
    row: Row
    old: Old | None


class Old(Mapping[str, Any]):
    """Former values of the columns that an update changed, good until the next batch of events."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._columns: dict[str, Any] = {}

    def __getitem__(self, column: str) -> Any:
        former = self._columns[column]
        if isinstance(former, ovs.db.data.Datum):
            return former.to_python(_raw)
        added, removed = former
        return sorted((set(self._row._data[column].as_list()) - set(added)) | set(removed))

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def difference(self, column: str) -> tuple[list[Any], list[Any]]:
        """What was added to and removed from a column that is a set, at a cost that depends on these alone."""
        former = self._columns.get(column)
        if former is None:
            return [], []
        if isinstance(former, tuple):
            return former
        now, then = set(self._row._data[column].as_list()), set(former.as_list())
        return list(now - then), list(then - now)

    def keep(self, column: str, datum: ovs.db.data.Datum) -> None:
        """Note the former value."""
        self._columns.setdefault(column, datum)

    def keep_difference(self, column: str, added: list[Any], removed: list[Any]) -> None:
        """Note what was added and removed."""
        self._columns[column] = (added, removed)

    def settle(self) -> None:
        """Turn differences into values, because the row is about to change once more."""
        for column, former in self._columns.items():
            if isinstance(former, tuple):
                added, removed = former
                values = dict(self._row._data[column].values)
                for member in added:
                    values.pop(_atom(self._row, column, member), None)
                for member in removed:
                    values[_atom(self._row, column, member)] = None
                self._columns[column] = ovs.db.data.Datum(self._row._data[column].type, values)


class _Columns(ovs.db.idl.ColumnDefaultDict):
    """The columns of a row; default values are those of all rows, and must be copied before they are changed."""

    __slots__ = ("_defaults",)

    def __init__(self, table: Any, defaults: Mapping[str, ovs.db.data.Datum]) -> None:
        super().__init__(table)
        self._defaults = defaults

    def __missing__(self, column: str) -> ovs.db.data.Datum:
        return self._defaults[column]

    def own(self, column: str) -> ovs.db.data.Datum:
        """The value of a column, to be changed."""
        datum = self.get(column)
        if datum is None:
            datum = self[column] = self._defaults[column].copy()
        return datum


def _default(type_: ovs.db.types.Type) -> ovs.db.data.Datum:
    """The value of a column that a new row leaves out (RFC 7047, section 5.2.1)."""
    if type_.n_min == 0 or type_.is_map():
        return ovs.db.data.Datum(type_, {})
    return ovs.db.data.Datum(type_, {ovs.db.data.Atom(type_.key.type, type_.key.type.default): None})


def _raw(atom: Any, _base: Any) -> Any:
    return atom


def _atom(row: Row, column: str, value: Any) -> ovs.db.data.Atom:
    return ovs.db.data.Atom(row._data[column].type.key.type, value)


def read(row: Row, column: str) -> Any:
    """The column's committed value; ten times faster than attribute access, which also looks at transactions."""
    return row._data[column].to_python(row._uuid_to_row)


def members(row: Row, column: str) -> Iterator[Any]:
    """The committed members of a set, references as uuid.UUID, in no order and without a copy."""
    return (atom.value for atom in row._data[column].values)


def has(row: Row, column: str, value: Any) -> bool:
    """Whether a set of references has this member, a uuid.UUID, without a copy."""
    return _atom(row, column, value) in row._data[column].values


class Replica(Idl):
    """The rows of one database, and in `events` what happened to them since somebody emptied it."""

    def __init__(self, helper: SchemaHelper, link: Link, leader_only: bool) -> None:
        super().__init__("unix:replaced", helper, leader_only=leader_only)
        self._defaults: dict[int, dict[str, ovs.db.data.Datum]] = {}
        """Of each table, by its object: there is the server's own database, too."""
        self._session = link
        self.events: list[RowEvent] = []
        self.rows_received = 0
        self._former: dict[str, dict[uuid.UUID, Row]] | None = None
        self._latest: dict[Row, Old] = {}
        self._turn_began = 0.0

    def resume(self, link: Link) -> None:
        """Go on over a new link, with the content kept for comparison."""
        self._session = link
        self._last_seqno = None
        self.state = self.IDL_S_INITIAL

    def take_events(self) -> list[RowEvent]:
        """What happened since the last call."""
        events, self.events = self.events, []
        self._latest.clear()
        return events

    def run(self) -> bool:
        self._turn_began = time.monotonic()
        changed: bool = super().run()
        if self._former is not None and self.state == self.IDL_S_MONITORING:
            self._compare(self._former)
            self._former = None
        return changed

    def notify(self, event: str, row: Row, updates: Row | None = None) -> None:
        if self._former is not None:
            return  # the whole content is being replaced; _compare finds what differs
        old = None
        if event == ovs.db.idl.ROW_UPDATE and updates is not None:
            old = updates._data
            if not isinstance(old, Old):  # from the first, unconditional version of the protocol
                old = Old(row)
                for column, datum in updates._data.items():
                    old.keep(column, datum)
        op = "insert" if event == ovs.db.idl.ROW_CREATE else event
        self.events.append(RowEvent(op, row._table.name, str(row.uuid), row, old))

    def cooperative_yield(self) -> None:
        self.rows_received += 1
        self._give_turn()

    def _give_turn(self) -> None:
        if time.monotonic() - self._turn_began > YIELD_AFTER:
            eventlet.sleep(0)
            self._turn_began = time.monotonic()

    def _Idl__clear(self) -> None:
        if self._former is None:
            self._former = {
                name: {key: table.rows[key] for key in table.rows} for name, table in self.tables.items() if table.rows
            }
        for table in self.tables.values():
            table.rows.clear()
        self.cond_seqno = 0

    def _Idl__process_update2(self, table: Any, key: uuid.UUID, row_update: dict[str, Any]) -> bool:
        # python-ovs tells of changes after the whole message; should a later row be broken, they would be lost.
        notice = super()._Idl__process_update2(table, key, row_update)
        if notice and table is self.tables.get(table.name):
            self.notify(*notice)
            self.change_seqno += 1
        return False

    def _Idl__create_row(self, table: Any, key: uuid.UUID) -> Row:
        defaults = self._defaults.get(id(table))
        if defaults is None:
            defaults = {column.name: _default(column.type) for column in table.columns.values()}
            self._defaults[id(table)] = defaults
        return Row(self, table, key, _Columns(table, defaults))

    def _Idl__add_default(self, table: Any, row_update: dict[str, Any]) -> None:
        """What a new row leaves out are the defaults, which ``_Columns`` has."""

    def _Idl__row_update(self, table: Any, row: Row, row_json: dict[str, Any]) -> bool:
        for name, json in row_json.items():
            datum = self._parse(table, name, json)
            if datum is not None:
                row._data[name] = datum
        return True  # a new row is news, even with nothing but default values

    def _parse(self, table: Any, name: str, json: Any) -> ovs.db.data.Datum | None:
        column = table.columns.get(name)
        if column is None:
            return None
        try:
            if isinstance(json, list) and json[0] == "set" and len(json[1]) > LARGE_SET:
                return self._parse_set(column.type, json[1])
            return ovs.db.data.Datum.from_json(column.type, json)
        except ovs.db.error.Error as exc:
            LOG.warning("%s: column %s of %s cannot be understood: %s", self.session_name(), name, table.name, exc)
            return None

    def _parse_set(self, type_: Any, json: list[Any]) -> ovs.db.data.Datum:
        values: dict[Any, None] = {}
        for start in range(0, len(json), LARGE_SET):
            self._give_turn()
            values |= ovs.db.data.Datum.from_json(type_, ["set", json[start : start + LARGE_SET]]).values
        return ovs.db.data.Datum(type_, values)

    def _Idl__apply_diff(self, table: Any, row: Row, row_diff: dict[str, Any]) -> Old:
        before = self._latest.get(row)
        if before is not None:
            before.settle()
        old = self._latest[row] = Old(row)
        for name, json in row_diff.items():
            diff = self._parse(table, name, json)
            if diff is None:
                continue
            datum = row._data.own(name)
            if diff.type.is_set() and diff.type.n_max > 1:
                old.keep_difference(name, *_toggle(datum, diff))
            else:
                old.keep(name, datum.copy())
                row._data[name] = datum.diff(diff)
        return old

    def _compare(self, former: dict[str, dict[uuid.UUID, Row]]) -> None:
        for name, table in self.tables.items():
            gone = former.get(name, {})
            for key in table.rows:
                self._give_turn()
                row, was = table.rows[key], gone.pop(key, None)
                if was is None:
                    self.events.append(RowEvent("insert", name, str(key), row, None))
                    continue
                old = Old(row)
                for column in table.columns:
                    if was._data[column] != row._data[column]:
                        old.keep(column, was._data[column])
                if old:
                    self.events.append(RowEvent("update", name, str(key), row, old))
            for key, row in gone.items():
                self.events.append(RowEvent("delete", name, str(key), row, None))


def _toggle(datum: ovs.db.data.Datum, diff: ovs.db.data.Datum) -> tuple[list[Any], list[Any]]:
    """Add the members of `diff` that `datum` lacks and remove the others: the difference of two sets is symmetric."""
    added, removed = [], []
    for atom in diff.values:
        if atom in datum.values:
            del datum.values[atom]
            removed.append(atom.value)
        else:
            datum.values[atom] = None
            added.append(atom.value)
    return added, removed


class _Log:
    """python-ovs' log of the IDL, as a logger of ours."""

    def err(self, message: str) -> None:
        if message.startswith("attempting to write bad value"):
            raise BadValue(message.removeprefix("attempting to "))
        LOG.error("%s", message)

    def warn(self, message: str) -> None:
        LOG.warning("%s", message)

    def info(self, message: str) -> None:
        LOG.info("%s", message)

    def dbg(self, message: str) -> None:
        LOG.debug("%s", message)


ovs.db.idl.vlog = _Log()
