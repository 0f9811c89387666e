"""The intent store as the controller sees it: write, be told, know how it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import eventlet
from eventlet.event import Event
from eventlet.timeout import Timeout

from novanet_apps.intent.feed import Feed
from novanet_apps.intent.lessons import Lessons
from novanet_apps.intent.server import EmbeddedServer
from novanet_apps.intent.settings import EMBEDDED, StoreError, StoreSettings
from novanet_apps.intent.upgrade import keep_copy, upgrade
from novanet_apps.intent.writer import Writer
from novanet_apps.ovsdb.link import OvsdbError
from novanet_apps.ovsdb.session import Session
from topology.admission import Refused, Write
from topology.schema import ADDRESS, NOT_READ, held, schema

if TYPE_CHECKING:
    from novanet_apps.core import Core

LOG = logging.getLogger(__name__)

MESH_NAME = "default"
OPEN_RETRY = 0.1, 2.0
"""Seconds between attempts to reach the server at first: the shortest and the longest."""
PATIENCE = 2.0
"""Seconds that the server may take to listen, before that is worth a word."""


class IntentStore:
    """Validated, durable writes, and a feed that applies what was committed, here or elsewhere, to the graph."""

    def __init__(self, core: Core, settings: StoreSettings | None = None, random: Random | None = None) -> None:
        self.core = core
        self.settings = settings or StoreSettings.from_options()
        self.server = EmbeddedServer(self.settings) if self.settings.store == EMBEDDED else None
        self.ready = False
        """Whether the content was loaded; it stays true when the server is lost later on."""
        self._loaded: Event = Event()
        self._on_ready: list[Callable[[], None]] = []
        self._session: Session | None = None
        self._feed = Feed(core.apply, lambda: self._session.rows(ADDRESS) if self._session else {})
        self._writer = Writer(
            core.topology, self._connected_session, self._feed, self.settings.timeout, random or Random()
        )
        self._lessons = Lessons(core.topology, self._writer.submit)
        self._greenlets: list[Any] = []
        self._error = "not started"
        self._since = time.time()

    def start(self) -> None:
        """Begin to connect and load. Raises StoreError when that cannot be tried: no ovsdb-server, no directory."""
        if self.server is not None:
            self.server.start()
        self._error = "connecting"
        self._greenlets.append(eventlet.spawn(self._open))

    def stop(self) -> None:
        """Close the session and end the embedded server; what was acknowledged is on the disk."""
        for greenlet in self._greenlets:
            greenlet.kill()
        self._writer.stop()
        if self._session is not None:
            self._session.stop()
        if self.server is not None:
            self.server.stop()
        self._set_state("stopped")

    def on_ready(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when the content is loaded; at once when it is."""
        if self.ready:
            callback()
        else:
            self._on_ready.append(callback)

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until the content is loaded, ``timeout`` seconds at most; whether it is."""
        with Timeout(timeout, False):
            self._loaded.wait()
        return self.ready

    def submit(self, writes: Sequence[Write], wait: bool = True) -> list[Any]:
        """Make all the writes or none, durably, and return the objects as they are then; None for what was deleted.

        By its return the graph shows them. Raises ``Refused``: what is asked for cannot be, or (503) the server did not
        answer in time. With ``wait`` false it only queues the writes, returns [] and leaves a refusal to the log.
        """
        if not writes:
            return []
        if not self.ready and not self.wait_ready(self.settings.timeout if wait else 0):
            raise Refused(503, "", f"the intent store is not ready: {self.error or 'loading'}")
        return self._submit(writes, wait)

    def bind(self, port_id: str, hypervisor_id: str | None) -> None:
        """Record on which hypervisor a port is, some time soon; the object's revision stays."""
        self.record("port", port_id, host_id=hypervisor_id)

    def record(self, kind: str, id: str, **fields: Any) -> None:
        """Record how an object is (``topology.model.RECORDED``), some time soon; its revision stays."""
        self._writer.record(kind, id, fields)

    def learn(self, network_id: str, ip_address: str, mac_address: str) -> None:
        """Record the MAC address of a host outside, some time soon; what an administrator has set stays."""
        self._lessons.note(network_id, ip_address, mac_address)

    def forget(self, network_id: str, ip_address: str) -> None:
        """Take a host outside away that was learned, some time soon."""
        self._lessons.note(network_id, ip_address, None)

    @property
    def error(self) -> str:
        """Why the server cannot be reached now; "" when it can."""
        server_error = self.server.error if self.server is not None and self._error else ""
        return server_error or self._error

    @property
    def problems(self) -> list[str]:
        """What is wrong in the database itself, for the operator."""
        return list(self._feed.problems.values())

    @property
    def counters(self) -> Mapping[str, int]:
        """``transactions``, ``writes``, ``records``, ``retries``, ``refused`` and ``failed`` since the start."""
        return self._writer.counters

    def state(self) -> dict[str, Any]:
        """How the store is, as plain JSON types."""
        return {
            "store": self.server.remote if self.server is not None else self.settings.store,
            "embedded": self.server is not None,
            "ready": self.ready,
            "connected": not self._error,
            "error": self.error,
            "since": self._since,
            "server_starts": self.server.starts if self.server is not None else None,
            "problems": self.problems,
            **self.counters,
        }

    # --- the session ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Bring the schema up to ours, then keep a session."""
        remotes = [self.server.remote] if self.server is not None else self.settings.store.split(",")
        pause, longest = OPEN_RETRY
        patience = time.monotonic() + PATIENCE
        while True:
            try:
                upgrade(remotes, self._before_upgrade)
                break
            except (OvsdbError, StoreError, OSError) as problem:
                if isinstance(problem, StoreError) or time.monotonic() > patience:
                    self._set_state(str(problem), logging.ERROR)
            eventlet.sleep(pause)
            pause = min(1.5 * pause, longest)
        description = schema()
        read = {
            name: [c for c in table["columns"] if c not in NOT_READ or c in held(name)]
            for name, table in description["tables"].items()
        }
        self._session = Session(
            "intent store", ",".join(remotes), description, tables=read,
            on_rows=self._feed.take, on_state=self._state_changed,
        )  # fmt: skip
        self._writer.start()
        self._session.start()

    def _before_upgrade(self, version: str) -> None:
        if self.server is not None:
            keep_copy(self.server.database, version)

    def _connected_session(self) -> Session:
        if self._session is None:
            raise OvsdbError(f"not connected: {self.error}")
        return self._session

    def _state_changed(self, connected: bool, error: str) -> None:
        self._set_state("" if connected else error or "not connected")
        if connected and not self.ready:
            self._greenlets.append(eventlet.spawn(self._complete))

    def _set_state(self, error: str, level: int = logging.INFO) -> None:
        if error != self._error:
            LOG.log(level, "intent store: %s", error or "connected")
            self._error, self._since = error, time.time()

    def _complete(self) -> None:
        """What is left to do when the content is loaded for the first time."""
        while self.core.topology.mesh is None:
            try:
                self._submit([Write("create", "tunnel-mesh", fields={"name": MESH_NAME})], wait=True)
            except Refused as refused:
                LOG.info("intent store: the tunnel mesh was not made: %s", refused)
                eventlet.sleep(OPEN_RETRY[0])
        if self.ready:
            return
        self.ready = True
        self._loaded.send()
        for callback in self._on_ready:
            callback()

    def _submit(self, writes: Sequence[Write], wait: bool) -> list[Any]:
        submission = self._writer.submit(writes)
        if wait:
            found: list[Any] = submission.outcome.wait()
            return found
        eventlet.spawn(_log_refusal, submission.outcome)
        return []


def _log_refusal(outcome: Event) -> None:
    try:
        outcome.wait()
    except Refused as refused:
        LOG.warning("intent store: refused: %s", refused)
