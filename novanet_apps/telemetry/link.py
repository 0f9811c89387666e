"""The controller's end of the recorder's socket: questions and their answers, what is live, and how things are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import eventlet
import msgspec
from eventlet.event import Event
from eventlet.green import socket
from eventlet.queue import Empty, Full, LightQueue
from eventlet.timeout import Timeout

from novanet_apps.telemetry import frames
from novanet_apps.telemetry.recorder.questions import Filter, Question

LOG = logging.getLogger(__name__)
PATIENCE = 15.0
"""Seconds that an answer may take."""
RETRY = 0.5
BACKLOG = 64
"""Batches of live flows that a follower may be behind; the oldest go first."""


class Unanswered(Exception):
    """The recorder has no answer; the text says why."""


class Following:
    """Live flows, one batch after another. ``close`` ends it."""

    def __init__(self, link: Link, id: int) -> None:
        self._link, self._id = link, id
        self._queue: Any = LightQueue(BACKLOG)
        self.missed = 0

    def put(self, news: Mapping[str, Any]) -> None:
        """A batch has come; never waits."""
        try:
            self._queue.put_nowait(news)
        except Full:
            self._queue.get_nowait()
            self._queue.put_nowait(news)
            self.missed += 1

    def next(self, seconds: float) -> Mapping[str, Any] | None:
        """The next batch, or None when there is none for so long."""
        try:
            found: Mapping[str, Any] = self._queue.get(timeout=seconds)
        except Empty:
            return None
        return found

    def close(self) -> None:
        """No more is wanted."""
        self._link.unfollow(self._id)


class Link:
    """One connection, made anew when it is lost; ``on_connect`` is called after each, ``on_event`` with every anomaly."""

    def __init__(
        self, path: Path, on_connect: Callable[[], None], on_event: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self.status: Mapping[str, Any] = {}
        """As the recorder last told, once a second; empty while it is away."""
        self._path, self._on_connect, self._on_event = path, on_connect, on_event
        self._socket: Any = None
        self._numbers = count(1)
        self._asked: dict[int, Event] = {}
        self._following: dict[int, tuple[Following, Filter]] = {}
        self._greenlet: Any = None
        self._sending = eventlet.semaphore.Semaphore()

    @property
    def connected(self) -> bool:
        """Whether the recorder is there."""
        return self._socket is not None

    def start(self) -> None:
        """Connect, again and again."""
        self._greenlet = eventlet.spawn(self._run)

    def stop(self) -> None:
        """End the connection."""
        if self._greenlet is not None:
            self._greenlet.kill()
        self._lost("the controller ends")

    def send(self, news: Mapping[str, Any]) -> None:
        """Send a frame; nothing happens while the recorder is away. Waits while it does not read."""
        connection = self._socket
        if connection is None:
            return
        try:
            with self._sending:
                connection.sendall(frames.pack(dict(news)))
        except OSError as problem:
            LOG.debug("recorder: %s", problem)

    def ask(self, question: Question) -> list[dict[str, Any]]:
        """The rows that answer a question. Raises Unanswered."""
        if self._socket is None:
            raise Unanswered("the recorder of telemetry is not running; the controller's log says why")
        id, answered = next(self._numbers), Event()
        self._asked[id] = answered
        try:
            self.send({"kind": "ask", "id": id, "question": msgspec.to_builtins(question)})
            with Timeout(PATIENCE, False):
                news = answered.wait()
                if "rows" in news:
                    found: list[dict[str, Any]] = news["rows"]
                    return found
                raise Unanswered(news["error"])
            raise Unanswered("the recorder of telemetry takes too long to answer")
        finally:
            self._asked.pop(id, None)

    def follow(self, wanted: Filter) -> Following:
        """Flows from now on; goes on when the recorder was away."""
        id = next(self._numbers)
        following = Following(self, id)
        self._following[id] = following, wanted
        self._follow(id, wanted)
        return following

    def unfollow(self, id: int) -> None:
        """No more of what was followed."""
        if self._following.pop(id, None) is not None:
            self.send({"kind": "unfollow", "id": id})

    def _follow(self, id: int, wanted: Filter) -> None:
        self.send({"kind": "follow", "id": id, "filter": msgspec.to_builtins(wanted)})

    # --- in the greenlet -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(self._path))
                self._socket = connection
                self.send({"kind": "hello", "role": "controller"})
                self._on_connect()
                for id, (_, wanted) in list(self._following.items()):
                    self._follow(id, wanted)
                self._read(connection.makefile("rb"))
            except (OSError, frames.FrameError) as problem:
                LOG.debug("recorder: %s", problem)
            except Exception:
                LOG.exception("the connection with the recorder failed")
            connection.close()
            self._lost("the recorder of telemetry has ended")
            eventlet.sleep(RETRY)

    def _read(self, stream: Any) -> None:
        while prefix := stream.read(frames.LENGTHS.size):
            if len(prefix) < frames.LENGTHS.size:
                return
            header, body = frames.lengths(prefix)
            packed = stream.read(header + body)
            if len(packed) < header + body:
                return
            self._take(frames.unpack(packed[:header]))

    def _take(self, news: Mapping[str, Any]) -> None:
        match news.get("kind"):
            case "answer":
                waiting = self._asked.pop(news["id"], None)
                if waiting is not None:
                    waiting.send(news)
            case "live":
                if news["id"] in self._following:
                    self._following[news["id"]][0].put(news)
            case "event":
                self._on_event(news["event"])
            case "status":
                self.status = news

    def _lost(self, why: str) -> None:
        self._socket = None
        self.status = {}
        asked, self._asked = self._asked, {}
        for waiting in asked.values():
            waiting.send({"error": why})
