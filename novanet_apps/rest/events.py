"""GET /v1/events: what changes, as server-sent events (WHATWG HTML, section 9.2).

A client first gets ``sync``: read what you need now, every later change will be told. When it comes back with
Last-Event-ID and nothing was missed, there is no ``sync``; when it reads too slowly for its bounded queue, or was away
too long, there is one again.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from eventlet.event import Event as Wakeup
from eventlet.timeout import Timeout

from novanet_apps.tokens import Token
from topology.changes import Change
from topology.model import KINDS, Object

from .counters import Counters
from .problems import Problem
from .status_feed import StatusFeed
from .views import Views, scope

if TYPE_CHECKING:
    from novanet_apps.core import Core

LOG = logging.getLogger(__name__)
HISTORY = 4096
"""Events kept for clients that come back."""
QUEUE = 4096
"""Events that a client may be behind."""
MAX_CLIENTS = 256
HEARTBEAT = 15.0
"""Seconds of silence after which a comment shows that the connection lives."""


class Event(NamedTuple):
    """One change, with the object it is about."""

    number: int
    name: str
    kind: str
    obj: Object
    text: bytes


class Client:
    """One who follows. Iterating gives pieces of the stream; ``close`` ends it."""

    def __init__(self, hub: EventHub, token: Token, kinds: frozenset[str], missed: list[Event] | None) -> None:
        self.token = token
        self._hub = hub
        self._project = scope(token)
        self._kinds = kinds
        self._queue: deque[bytes] = deque()
        self._wake = Wakeup()
        self._open = True
        if missed is None:
            self._sync()
        for event in missed or ():
            self.tell(event)

    def tell(self, event: Event) -> None:
        """Queue an event, if it concerns this client."""
        if event.kind not in self._kinds or not self._hub.views.visible(self._project, event.kind, event.obj):
            return
        if len(self._queue) >= QUEUE:
            self._hub.counters.events_lost += len(self._queue) + 1
            self._queue.clear()
            self._sync()
        else:
            self._queue.append(event.text)
        self._notify()

    def _sync(self) -> None:
        self._queue.append(self._hub.frame("sync", b"{}"))

    def _notify(self) -> None:
        if not self._wake.ready():
            self._wake.send()

    def __iter__(self) -> Iterator[bytes]:
        yield b"retry: 2000\n\n"
        last_look = time.monotonic()
        while self._open:
            if self._queue:
                text = b"".join(self._queue)
                self._queue.clear()
                yield text
            self._wake = Wakeup()
            if not self._queue and self._open:
                with Timeout(HEARTBEAT, False):
                    self._wake.wait()
                if not self._queue:
                    yield b": heartbeat\n\n"
            if time.monotonic() - last_look >= HEARTBEAT:
                last_look = time.monotonic()
                if not self._hub.still_valid(self.token):
                    return

    def close(self) -> None:
        """The connection ended; called by the WSGI server."""
        self._open = False
        self._notify()
        self._hub.leave(self)


class EventHub:
    """Turns changes of the topology into events, and hands them to those who follow."""

    def __init__(self, core: Core, views: Views, counters: Counters, still_valid: Callable[[Token], bool]) -> None:
        self.counters = counters
        self.still_valid = still_valid
        self.views = views
        self._boot = secrets.token_hex(4)
        self._number = 0
        self._history: deque[Event] = deque(maxlen=HISTORY)
        self._clients: set[Client] = set()
        self._feed = StatusFeed(core, self._status_changed)
        core.subscribe(self._changed)

    def join(self, token: Token, kinds: frozenset[str], last_id: str) -> Client:
        """A new client. Raises Problem(503) when there are too many."""
        if len(self._clients) >= MAX_CLIENTS:
            detail = f"there are {MAX_CLIENTS} clients of /v1/events already; try again later"
            raise Problem(503, detail, headers={"Retry-After": "5"})
        client = Client(self, token, kinds, self._since(last_id))
        self._clients.add(client)
        self.counters.event_clients = len(self._clients)
        self._feed.start()
        return client

    def leave(self, client: Client) -> None:
        """A client has gone."""
        self._clients.discard(client)
        self.counters.event_clients = len(self._clients)
        if not self._clients:
            self._feed.stop()

    def close(self) -> None:
        """End every client's stream."""
        for client in list(self._clients):
            client.close()

    def _since(self, last_id: str) -> list[Event] | None:
        """The events after ``last_id``; None when some of them are lost."""
        boot, _, number = last_id.partition("-")
        if boot != self._boot or not (number.isascii() and number.isdigit() and len(number) < 19):
            return None
        last = int(number)
        first = self._history[0].number if self._history else self._number + 1
        if not first - 1 <= last <= self._number:
            return None
        return [event for event in self._history if event.number > last]

    # --- what happens --------------------------------------------------------------------------------------------

    def _changed(self, changes: list[Change]) -> None:
        try:
            self._tell(changes)
        except Exception:  # whoever made the change has nothing to do with it
            LOG.exception("clients of /v1/events were not told of %d changes", len(changes))

    def _tell(self, changes: list[Change]) -> None:
        if not self._clients and not self._history:
            self._number += len(changes)
            return  # nobody has ever asked
        for change in changes:
            if change.kind in KINDS:
                name = "deleted" if change.new is None else "created" if change.old is None else "updated"
                self._publish(name, change.kind, change.new or change.old)
        if self._clients:
            self._feed.touch(changes)

    def _status_changed(self, kind: str, obj: Object) -> None:
        self._publish("status", kind, obj)

    def _publish(self, name: str, kind: str, obj: Object) -> None:
        shown = self.views.show(kind, obj) if name != "deleted" else msgspec.to_builtins(obj)
        data = msgspec.json.encode({"kind": kind, "id": obj.id, "object": shown})
        self._number += 1
        event = Event(self._number, name, kind, obj, self.frame(name, data))
        self._history.append(event)
        self.counters.events += 1
        for client in self._clients:
            client.tell(event)

    def frame(self, name: str, data: bytes) -> bytes:
        """An event as it goes over the wire, numbered as the latest."""
        return b"id: %s-%d\nevent: %s\ndata: %s\n\n" % (self._boot.encode(), self._number, name.encode(), data)
