"""Requests and answers on one OpenFlow connection, matched by transaction id."""

from __future__ import annotations

from collections.abc import Callable

from eventlet.event import Event
from eventlet.timeout import Timeout

from novanet_apps.compat import Datapath
from pipelines.wire.openflow import Type


Build = Callable[[int], bytes]
"""Makes a request's bytes from its transaction id."""
Answer = Callable[[bytes], None]
"""Takes a message that answers a request; runs in the receiving greenlet and must not block."""

EXPERIMENTER_ERROR = 0xFFFF
REQUEST_TIMEOUT = 300.0
"""Seconds without any answer after which a switch that still answers probes is taken to have forgotten a request."""


class SwitchError(Exception):
    """A switch answered with OFPT_ERROR; ``message`` is all of it."""

    def __init__(self, message: bytes, text: str) -> None:
        super().__init__(text)
        self.message = message


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
        answer(message)
        return True

    def end(self) -> None:
        """The connection is gone: whoever waits gets SessionEnded."""
        self.ended = True
        self._answers.clear()
        for event in list(self._waiting):
            event.send_exception(SessionEnded())
        self._waiting.clear()

    def describe(self, message: bytes) -> str:
        """An OFPT_ERROR in words: the names of its type and code."""
        kind, code = int.from_bytes(message[8:10], "big"), int.from_bytes(message[10:12], "big")
        if kind == EXPERIMENTER_ERROR:
            return f"experimenter error {code} of {message[12:16].hex()}"
        names = self.datapath.ofproto
        return f"{names.ofp_error_type_to_str(kind)} {names.ofp_error_code_to_str(kind, code)}"

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

    def ask(self, build: Build) -> bytes:
        """Send a request and wait for its one answer. Raises SwitchError, SessionEnded."""
        found: list[bytes] = []
        self._wait(build, found.append, lambda message: True)
        return found[0]

    def collect(self, build: Build, take: Answer) -> None:
        """Send a multipart request and give every part of the answer to ``take``; returns after the last.

        Raises SwitchError, SessionEnded, and what ``take`` raises.
        """
        self._wait(build, take, lambda message: not message[11] & 1)

    def barrier(self) -> None:
        """Wait until everything sent before is done. Raises SessionEnded."""
        self.ask(lambda xid: bytes([self.version, Type.BARRIER_REQUEST]) + b"\0\x08" + xid.to_bytes(4, "big"))

    def _wait(self, build: Build, take: Answer, last: Callable[[bytes], bool]) -> None:
        if self.ended:
            raise SessionEnded
        done: Event = Event()

        def answer(message: bytes) -> None:
            nonlocal heard
            heard = True
            if done.ready():
                return
            try:
                if message[1] == Type.ERROR:
                    raise SwitchError(message, self.describe(message))
                take(message)
            except Exception as error:
                done.send_exception(error)
            else:
                if last(message):
                    done.send()

        heard = True
        xid = self.expect(answer)
        self._waiting.add(done)
        try:
            self.send(build(xid))
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

