"""Requests and answers on one OpenFlow connection, matched by transaction id."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NoReturn

from eventlet.queue import Empty, LightQueue

from novanet_apps.compat import Datapath
from pipelines.wire import Error, Message, Part, Reply, Type, barrier, read

Build = Callable[[int, int], bytes]
"""(version, transaction id) -> a request's bytes."""
Answer = Callable[[Reply], object]
"""Takes what answers a request, in the receiving greenlet."""

FIRST_XID = 0x80000000
"""Ours begin here; those of Ryu's messages are below."""
REQUEST_TIMEOUT = 300.0
"""Seconds without any part of an answer after which a switch that still answers probes has lost a request."""
PARTS = 8
"""Parts of an answer, 64 KB each, that wait to be taken."""


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
        self.on_batch_reply: Callable[[int, Reply], bool] = _nobody
        """Is shown (xid, message) of what answers no single request; returns whether it was for it."""
        self._answers: dict[int, Answer] = {}
        for kind in (
            Type.ERROR, Type.EXPERIMENTER, Type.MULTIPART_REPLY, Type.BARRIER_REPLY, Type.ROLE_REPLY, Type.BUNDLE_CONTROL,
        ):  # fmt: skip
            datapath.tap(int(kind), self._receive)

    def _receive(self, xid: int, message: bytes) -> bool:
        if xid < FIRST_XID:
            return False
        reply = read(Message(message[0], message[1], xid, message[8:]))
        answer = self._answers.get(xid)
        if answer is None:
            return self.on_batch_reply(xid, reply)
        answer(reply)
        return True

    def end(self) -> None:
        """The connection is gone, and with it what waits for answers: its owner kills the greenlets that do."""
        self.ended = True
        self._answers.clear()
        self.on_batch_reply = _nobody

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
        if self.ended:
            raise SessionEnded
        answer = LightQueue()
        xid = self.expect(answer.put)
        try:
            self.send(build(self.version, xid))
            reply: Reply = answer.get(timeout=REQUEST_TIMEOUT)
        except Empty:
            self._lost()
        finally:
            self.forget(xid)
        if isinstance(reply, Error):
            raise SwitchError(reply)
        return reply

    def stream(self, build: Build) -> Generator[Part, None, None]:
        """Send a multipart request and give the parts of the answer as they come.

        The switch is kept from sending more than the caller takes, so whoever takes parts must not wait for another answer
        in between. Raises SwitchError, SessionEnded.
        """
        if self.ended:
            raise SessionEnded
        parts: LightQueue = LightQueue(PARTS)
        xid = self.expect(parts.put)
        try:
            self.send(build(self.version, xid))
            more = True
            while more:
                try:
                    part = parts.get(timeout=REQUEST_TIMEOUT)
                except Empty:
                    self._lost()
                if isinstance(part, Error):
                    raise SwitchError(part)
                if not isinstance(part, Part):
                    raise ValueError(f"a multipart request was answered with {type(part).__name__}")
                more = part.more
                yield part
        finally:
            self.forget(xid)
            while not parts.empty():
                parts.get_nowait()  # lets the receiving greenlet go on

    def barrier(self) -> None:
        """Wait until everything sent before is done. Raises SessionEnded."""
        self.ask(barrier)

    def _lost(self) -> NoReturn:
        self.datapath.abort(f"no answer to a request for {REQUEST_TIMEOUT:g} s")
        raise SessionEnded


def _nobody(xid: int, reply: Reply) -> bool:
    return False
