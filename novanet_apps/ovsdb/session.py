"""An OVSDB session: one greenlet that keeps a connection alive and a replica of the server's rows up to date."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import eventlet
import ovs.db.error
import ovs.json
from eventlet.event import Event
from eventlet.semaphore import Semaphore
from ovs.db.idl import Idl, Row, SchemaHelper, Transaction

from novanet_apps.ovsdb.fast_json import Connection
from novanet_apps.ovsdb.link import Link, OvsdbError, call, connect, use_tls
from novanet_apps.ovsdb.poller import Poller
from novanet_apps.ovsdb.replica import BadValue, Old, Replica, RowEvent, has, members, read

LOG = logging.getLogger(__name__)
T = TypeVar("T")

CONNECT_TIMEOUT = 5.0
CONNECT_AGAIN = 0.5
READING = "reading the database"
"""The error of a session between connected and in agreement."""


class Session:
    """One OVSDB connection kept alive by one greenlet; rows mirrored by ovs.db.idl.Idl.

    `remotes` are comma separated addresses as python-ovs takes them; without any, the session waits for
    connections handed to :meth:`adopt`. `schema` is the schema as JSON or a SchemaHelper; None has it fetched from
    the server, for which `database` and the `tables` (table -> columns) to replicate are then needed.

    `on_rows` is called in the session's greenlet with everything one turn of the IDL brought: the first content as
    inserts, after a reconnection only what differs. It may sleep; meanwhile nothing more is read. A row that an
    event carries is good until the next call: keep UUIDs, not rows. `on_state(connected, error)` follows: connected
    means that the replica agrees with the server; `error` is why it does not.
    """

    def __init__(
        self,
        name: str,
        remotes: str = "",
        schema: dict[str, Any] | SchemaHelper | None = None,
        *,
        on_rows: Callable[[list[RowEvent]], None],
        on_state: Callable[[bool, str], None],
        database: str = "",
        tables: Mapping[str, Iterable[str]] | None = None,
        probe_interval_ms: int = 5000,
        leader_only: bool = True,
    ) -> None:
        self.name = name
        self._remotes = [remote for remote in remotes.split(",") if remote]
        self._schema = schema
        self._database = database
        self._tables = None if tables is None else {table: list(columns) for table, columns in tables.items()}
        self._conditions: dict[str, list[Any]] = {}
        self._on_rows = on_rows
        self._on_state = on_state
        self._probe_interval_ms = probe_interval_ms
        self._leader_only = leader_only
        self.connected = False
        """Whether the connection stands and the replica agrees with the server."""
        self.synced = False
        """Whether the first full content was delivered."""
        self.error = ""
        self._idl: Replica | None = None
        self._greenlet: Any = None
        self._poller = Poller()
        self._adopted: Connection | None = None
        self._turn = Semaphore(1)
        self._idl_lock = Semaphore(1)
        self._waiters: list[Event] = []
        self._last_unusable = ""

    @property
    def rows_received(self) -> int:
        """Rows that the server sent so far, changed or not."""
        return 0 if self._idl is None else self._idl.rows_received

    def start(self) -> None:
        """Begin to connect. Does not wait."""
        if self._greenlet is None:
            self._greenlet = eventlet.spawn(self._main)

    def stop(self) -> None:
        """Close the connection; the last content stays readable."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            if greenlet is eventlet.getcurrent():
                raise RuntimeError("a session cannot be stopped from its own callbacks")
            greenlet.kill()
        if self._adopted is not None:
            self._adopted.close()
            self._adopted = None
        self.connected = False
        self._wake_waiters()

    def adopt(self, rpc: Connection) -> None:
        """Use this established connection, in place of the present one if there is one."""
        if self._adopted is not None:
            self._adopted.close()
        self._adopted = rpc
        self._poller.wake()

    def restrict(self, table: str, where: list[Any]) -> None:
        """Replicate only those rows of `table` that meet one of these <condition>s (RFC 7047 §5.1); none where it is empty.

        It may be called at any time: rows that no longer meet any are events like those that the server has deleted.
        """
        self._conditions[table] = where
        if self._idl is not None:
            self._idl.cond_change(table, where)
            self._poller.wake()

    @property
    def settled(self) -> bool:
        """Whether the server has answered every :meth:`restrict`: the rows that were asked for are here."""
        if self._idl is None or not self.connected:
            return False
        states = (table.condition_state for table in self._idl.tables.values())
        return not any(state.requested is not None or state.new is not None for state in states)

    def rows(self, table: str) -> Mapping[uuid.UUID, Row]:
        """The replica's rows of `table`. While a content is being loaded they are incomplete."""
        return {} if self._idl is None else self._idl.tables[table].rows

    def transact(self, build: Callable[[Transaction, Idl], T], timeout: float = 10.0) -> T:
        """Change the database atomically and return what `build` returned, once the replica shows the change.

        `build` edits rows through the IDL and must not yield to other greenlets. It runs again whenever a
        verified value was changed by somebody else, or the connection was lost before the answer (the change may
        then have been made), so it must derive what it does from what it reads. Transactions of concurrent callers
        follow each other: each sees what the earlier did. An exception from `build` abandons the transaction.

        Raises :class:`OvsdbError` with the server's reason, or "timed out" or "not connected" after `timeout` s.
        """
        if eventlet.getcurrent() is self._greenlet:
            raise RuntimeError("transact() would wait for its own greenlet; spawn one")
        limit = eventlet.Timeout(timeout)
        try:
            with self._turn:
                while True:
                    done, result = self._attempt(build)
                    if done:
                        return result
        except eventlet.Timeout as exc:
            if exc is not limit:
                raise
            if not self.connected:
                raise OvsdbError(f"not connected: {self.error or self.name}") from None
            raise OvsdbError("timed out") from None
        finally:
            limit.cancel()

    def _attempt(self, build: Callable[[Transaction, Idl], T]) -> tuple[bool, Any]:
        while self._idl is None or not self.connected:
            self._next_turn()
        with self._idl_lock:
            seqno = self._idl.change_seqno
            txn = Transaction(self._idl)
            try:
                result = build(txn, self._idl)
                status = txn.commit()
            except BadValue as exc:
                raise OvsdbError(str(exc)) from None
            finally:
                if self._idl.txn is txn:
                    txn.abort()
        self._poller.wake()
        try:
            while status == Transaction.INCOMPLETE:
                self._next_turn()
                status = txn.commit()
        finally:
            self._idl._outstanding_txns.pop(txn._request_id, None)
        if status in (Transaction.SUCCESS, Transaction.UNCHANGED):
            return True, result
        if status == Transaction.TRY_AGAIN:
            if self._idl.change_seqno == seqno:
                eventlet.sleep(0.005)
            return False, None
        raise OvsdbError(_explain(txn))

    def _next_turn(self) -> None:
        event = Event()
        self._waiters.append(event)
        event.wait()

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.send()

    def _main(self) -> None:
        link = Link(self._remotes, self._probe_interval_ms)
        try:
            if self._idl is None:
                self._idl = self._open(link)
                for table, where in self._conditions.items():
                    self._idl.cond_change(table, where)
            else:
                self._idl.resume(link)
            while True:
                self._run(self._idl, link)
        finally:
            link.close()

    def _run(self, idl: Replica, link: Link) -> None:
        if self._adopted is not None:
            rpc, self._adopted = self._adopted, None
            link.adopt(rpc)
        with self._idl_lock:
            try:
                idl.run()
            except Exception as exc:
                # python-ovs trusts the shape of what a server sends, so anything may be raised.
                self._unusable(exc)
                link.force_reconnect()
        monitoring = idl.state == Idl.IDL_S_MONITORING and link.is_connected()
        if monitoring and idl.events:
            self._deliver(idl.take_events())
        if monitoring:
            self.synced = True
            self._state(True, "")
        elif not link.is_connected():
            self._state(False, link.reconnect.failure)
        else:
            self._state(False, READING)
        self._wake_waiters()
        link.wait(self._poller)
        link.recv_wait(self._poller)
        self._poller.block()

    def _unusable(self, exc: Exception) -> None:
        text = repr(exc)
        if text != self._last_unusable:
            self._last_unusable = text
            LOG.error("OVSDB session %s: unusable message; connecting anew: %s", self.name, text, exc_info=exc)

    def _deliver(self, events: list[RowEvent]) -> None:
        try:
            self._on_rows(events)
        except Exception:
            LOG.exception("OVSDB session %s: changed rows were not handled", self.name)

    def _state(self, connected: bool, error: str) -> None:
        if (connected, error) == (self.connected, self.error):
            return
        self.connected, self.error = connected, error
        try:
            self._on_state(connected, error)
        except Exception:
            LOG.exception("OVSDB session %s: state change was not handled", self.name)

    def _open(self, link: Link) -> Replica:
        """The replica, made as soon as there is a usable schema."""
        if isinstance(self._schema, SchemaHelper):
            return Replica(self._schema, link, self._leader_only)
        if self._schema is not None:
            return Replica(self._select(self._schema), link, self._leader_only)
        while True:
            rpc = None
            try:
                rpc = connect(self._remotes, CONNECT_TIMEOUT) if self._remotes else self._wait_adopted()
                schema = call(rpc, "get_schema", [self._database], CONNECT_TIMEOUT)
                replica = Replica(self._select(schema), link, self._leader_only)
                link.adopt(rpc)
                return replica
            except (OvsdbError, ovs.db.error.Error) as exc:
                if rpc is not None:
                    rpc.close()
                self._state(False, str(exc))
                if self._remotes:
                    eventlet.sleep(CONNECT_AGAIN)

    def _select(self, schema: Any) -> SchemaHelper:
        """The part of the schema that is to be replicated. Columns that an older server does not have are left out."""
        tables = schema.get("tables") if isinstance(schema, dict) else None
        if not isinstance(tables, dict):
            raise OvsdbError(f"no usable schema of {self._database}")
        helper = SchemaHelper(schema_json=schema)
        if self._tables is None:
            helper.register_all()
        for table, columns in (self._tables or {}).items():
            known = (tables.get(table) or {}).get("columns", {})
            if not known:
                raise OvsdbError(f"the schema of {self._database} has no table {table}")
            helper.register_columns(table, [column for column in columns if column in known])
        return helper

    def _wait_adopted(self) -> Connection:
        while self._adopted is None:
            self._poller.block()
        rpc, self._adopted = self._adopted, None
        return rpc


def _explain(txn: Transaction) -> str:
    """The server's reason, ``constraint violation: …``, of a transaction that failed (RFC 7047 §3.1)."""
    text = txn.get_error()
    detail = ovs.json.from_string(text) if text.startswith("{") else None
    if not isinstance(detail, dict):
        return str(text)
    return ": ".join(str(detail[key]) for key in ("error", "details") if detail.get(key))


__all__ = ["Old", "OvsdbError", "RowEvent", "Session", "has", "members", "read", "use_tls"]
