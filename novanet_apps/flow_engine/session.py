"""Requests and answers on one OpenFlow connection, matched by transaction id."""

from __future__ import annotations

from collections.abc import Callable

from eventlet.event import Event
from eventlet.timeout import Timeout

from novanet_apps.compat import Datapath
from pipelines.wire import requests
from pipelines.wire.errors import Error
from pipelines.wire.openflow import Message, Type
from pipelines.wire.replies import Part, Reply, read

Build = Callable[[int, int], bytes]
"""(version, transaction id) -> a request's bytes."""
Answer = Callable[[Reply], None]
"""Takes what answers a request; runs in the receiving greenlet and must not block. Raises ValueError where it is malformed."""

REQUEST_TIMEOUT = 300.0
"""Seconds without any part of an answer after which a switch that still answers probes has lost a request."""


class SwitchError(Exception):
    """A switch refused a request."""

    def __init__(self, error: Error) -> None:
        super().__init__(str(error))
        self.error = error


class SessionEnded(Exception):
    """The connection ended before the answer came."""


class Session:
    """One established connection. ``version`` is OpenFlow's number of it on the wire."""

    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath
        self.version: int = datapath.ofproto.OFP_VERSION
        self.ended = False
        self._answers: dict[int, Answer] = {}
        self._waiting: set[Event] = set()
        for kind in (
            Type.ERROR, Type.EXPERIMENTER, Type.MULTIPART_REPLY, Type.BARRIER_REPLY, Type.ROLE_REPLY, Type.BUNDLE_CONTROL,
        ):  # fmt: skip
            datapath.tap(int(kind), self._receive)

    def _receive(self, xid: int, message: bytes) -> bool:
        answer = self._answers.get(xid)
        if answer is None:
            return False
        answer(read(Message(message[0], message[1], xid, message[8:])))
        return True

    def end(self) -> None:
        """The connection is gone: whoever waits gets SessionEnded."""
        self.ended = True
        self._answers.clear()
        for event in self._waiting:
            if not event.ready():
                event.send_exception(SessionEnded())
        self._waiting.clear()

    def expect(self, answer: Answer) -> int:
        """A fresh transaction id whose answers go to ``answer`` until ``forget``."""
        xid = self.datapath.next_xid()
        self._answers[xid] = answer
        return xid

    def forget(self, xid: int) -> None:
        """Nobody waits for this transaction any more."""
        self._answers.pop(xid, None)

    def send(self, data: bytes) -> None:
        """Queue whole messages; never waits."""
        self.datapath.enqueue(data)

    def ask(self, build: Build) -> Reply:
        """Send a request and wait for its one answer. Raises SwitchError, SessionEnded."""
        found: list[Reply] = []
        self._wait(build, found.append)
        return found[0]

    def collect(self, build: Build, take: Callable[[Part], None]) -> None:
        """Send a multipart request and give every part of the answer to ``take``; returns after the last.

        Raises SwitchError, SessionEnded, and what ``take`` raises.
        """

        def part(reply: Reply) -> None:
            if not isinstance(reply, Part):
                raise ValueError(f"a multipart request was answered with {type(reply).__name__}")
            take(reply)

        self._wait(build, part)

    def barrier(self) -> None:
        """Wait until everything sent before is done. Raises SessionEnded."""
        self.ask(requests.barrier)

    def _wait(self, build: Build, take: Answer) -> None:
        if self.ended:
            raise SessionEnded
        done = Event()
        heard = True

        def answer(reply: Reply) -> None:
            nonlocal heard
            heard = True
            if done.ready():
                return
            try:
                if isinstance(reply, Error):
                    raise SwitchError(reply)
                take(reply)
            except Exception as error:
                done.send_exception(error)
            else:
                if not (isinstance(reply, Part) and reply.more):
                    done.send()

        xid = self.expect(answer)
        self._waiting.add(done)
        try:
            self.send(build(self.version, xid))
            while heard:
                heard = False
                with Timeout(REQUEST_TIMEOUT, False):
                    done.wait()
                    return
            self.datapath.abort(f"no answer to a request for {REQUEST_TIMEOUT:g} s")
            raise SessionEnded
        finally:
            self._waiting.discard(done)
            self.forget(xid)
