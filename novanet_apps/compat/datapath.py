"""One OpenFlow connection: Ryu's ``Datapath`` for ordinary Ryu apps, with a fast path of raw messages beside it.

Messages are framed here. What somebody has tapped (``tap``) goes to them as bytes; the rest goes through Ryu's parser to
Ryu's events, and only when an app observes the event, since Ryu parses some hundred messages a millisecond at best.

OpenFlow 1.3.5 section 6.3 (connections) and 7.5 (symmetric messages).
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import eventlet
from eventlet.event import Event
from ryu.base import app_manager
from ryu.controller import controller, ofp_event
from ryu.controller.handler import CONFIG_DISPATCHER, DEAD_DISPATCHER, HANDSHAKE_DISPATCHER, MAIN_DISPATCHER
from ryu.ofproto import ofproto_parser, ofproto_protocol

from .logs import Throttle

LOG = logging.getLogger(__name__)
NOISE = Throttle(LOG)

HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, FEATURES_REQUEST, FEATURES_REPLY, MULTIPART_REPLY = 0, 1, 2, 3, 5, 6, 19
NAMES = {1: "1.0", 2: "1.1", 3: "1.2", 4: "1.3", 5: "1.4", 6: "1.5"}
SPOKEN = frozenset({4, 5, 6})
"""OpenFlow versions 1.3, 1.4 and 1.5 by their number on the wire."""

READ_SIZE = 1 << 18
WRITE_SIZE = 1 << 18
TLS_WRITE_SIZE = 1 << 16
SEND_LIMIT = 1 << 23
"""Bytes that may wait to be sent before ``send`` makes its caller wait."""
SLICE = 0.01
"""Seconds of reading between two looks at the event loop."""
HELLO_LIMIT = 1024
"""Bytes of a HELLO; nobody who says more in it speaks OpenFlow."""

RawReader = Callable[[int, bytes], bool]
"""(xid, whole message) -> whether it answers the reader's own request, so that nobody else is shown it."""


class ConnectionFailed(Exception):
    """The connection has to end; the text says why."""


class Datapath(controller.Datapath):
    """A switch's connection, over TCP, TLS or a unix socket. Everything but ``serve`` may be called by any greenlet."""

    def __init__(
        self,
        socket: Any,
        address: Any,
        *,
        established: Callable[[Datapath], None] = lambda datapath: None,
        counters: Any = None,
        probe: tuple[float, float] = (5.0, 30.0),
        tls: bool = False,
    ) -> None:
        """``established`` is called once the handshake is done; ``probe`` is the interval and the timeout in seconds."""
        ofproto_protocol.ProtocolDesc.__init__(self)
        self.socket = socket
        self.address = address
        self.id: Any = None
        self.ports: dict[int, Any] = {}
        self.is_active = True
        self.xid = random.randrange(1 << 31)
        self._raw_xid = random.randrange(1 << 30)
        self.counters = counters
        self.ofp_brick = app_manager.lookup_service_brick("ofp_event")
        self.state: str | None = None
        self._taps: dict[int, list[RawReader]] = {}
        self._established = established
        self._probe_interval, self._probe_timeout = probe
        self._write_size = TLS_WRITE_SIZE if tls else WRITE_SIZE
        self._heard = time.monotonic()
        self._outbox: deque[bytes] = deque()
        self._queued = 0
        self._finish = False
        self._wake, self._drained = Event(), Event()
        self._server: Any = None
        self._refusal = ""
        self.set_state(HANDSHAKE_DISPATCHER)

    # --- what apps call ------------------------------------------------------------------------------------------

    @property
    def supported_ofp_version(self) -> frozenset[int]:
        """Versions that both NovaNet and every loaded app speak."""
        return SPOKEN & frozenset(super().supported_ofp_version)

    def tap(self, message_type: int, reader: RawReader) -> None:
        """Show ``reader`` every message of a type, as bytes, before Ryu's parser. It must not block."""
        self._taps.setdefault(message_type, []).append(reader)

    def next_xid(self) -> int:
        """A transaction id for a single raw request: its two top bits are set, and Ryu's messages never have the first."""
        self._raw_xid = (self._raw_xid + 1) & 0x3FFFFFFF
        return self._raw_xid | 0xC0000000

    def set_xid(self, msg: Any) -> int:
        """Give a Ryu message its transaction id."""
        self.xid = (self.xid + 1) & 0x7FFFFFFF
        msg.set_xid(self.xid)
        return self.xid

    def enqueue(self, data: bytes) -> None:
        """Send whole messages after what is queued, without ever waiting; nothing happens on a closed connection."""
        if self._finish or not self.is_active:
            return
        self._outbox.append(data)
        self._queued += len(data)
        if not self._wake.ready():
            self._wake.send()

    def send(self, buf: bytes, close_socket: bool = False) -> bool:
        """Send whole messages; waits while more than SEND_LIMIT bytes are queued. False on a closed connection."""
        while self._queued > SEND_LIMIT and self.is_active:
            self._drained.wait()
        if self._finish or not self.is_active:
            return False
        self.enqueue(bytes(buf))
        self._finish = close_socket
        return True

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""
        return self._queued

    def abort(self, reason: str) -> None:
        """End the connection from another greenlet."""
        if self._server is not None and self.is_active:
            eventlet.kill(self._server, ConnectionFailed(reason))

    def close(self) -> None:
        """Ryu's name for ending a connection."""
        if self._server is not None and eventlet.getcurrent() is not self._server:
            self.abort("closed by an app")
        self.set_state(DEAD_DISPATCHER)

    def set_state(self, state: str) -> None:
        """Move to a phase of Ryu's and tell the apps; MAIN says that the handshake is done."""
        if self.state == state:
            return
        if self.ofp_brick is None:
            self.state = state
        else:
            super().set_state(state)
        if state == MAIN_DISPATCHER:
            self._established(self)

    # --- the connection ------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve the connection until it ends. Raises ConnectionFailed, or OSError of the socket."""
        self._server = eventlet.getcurrent()
        helpers = [eventlet.spawn(self._send_loop), eventlet.spawn(self._probe_loop)]
        self.enqueue(_hello())
        try:
            self._receive_loop()
        finally:
            self.is_active = False
            for helper in helpers:
                helper.kill()
            self._drained.send()
            self.set_state(DEAD_DISPATCHER)

    def _receive_loop(self) -> None:
        buffer = bytearray()
        while self.state != DEAD_DISPATCHER:
            data = self.socket.recv(READ_SIZE)
            if not data:
                return
            self._heard = began = time.monotonic()
            buffer += data
            at, end = 0, len(buffer)
            while end - at >= 8:
                size = buffer[at + 2] << 8 | buffer[at + 3]
                self._check(buffer[at], buffer[at + 1], size)
                if end - at < size:
                    break
                message = bytes(buffer[at : at + size])
                at += size
                self._dispatch(message)
                if time.monotonic() - began > SLICE:
                    eventlet.sleep(0)
                    began = time.monotonic()
            del buffer[:at]

    def _check(self, version: int, kind: int, size: int) -> None:
        """Refuse a header that no OpenFlow switch sends at this point."""
        if size < 8:
            raise ConnectionFailed(f"it sent a message of {size} bytes; the header alone has 8")
        if self.state != HANDSHAKE_DISPATCHER:
            if version != self.ofproto.OFP_VERSION and not self._refusal:
                raise ConnectionFailed(
                    f"it sent a message of version {version:#04x} on a connection of {self.ofproto.OFP_VERSION:#04x}"
                )
        elif kind not in (HELLO, ERROR, ECHO_REQUEST) or size > HELLO_LIMIT or not 1 <= version <= 16:
            raise ConnectionFailed("it does not speak OpenFlow: no HELLO at the start")

    def _dispatch(self, message: bytes) -> None:
        kind, xid = message[1], int.from_bytes(message[4:8], "big")
        if self.counters is not None:
            self.counters.messages_received += 1
        for reader in self._taps.get(kind, ()):
            if reader(xid, message):
                return
        if kind == ECHO_REQUEST:
            self.enqueue(message[:1] + bytes([ECHO_REPLY]) + message[2:])
        elif kind == HELLO and self.state == HANDSHAKE_DISPATCHER:
            self._negotiate(message)
        elif self._refusal or (kind == ERROR and self.state == HANDSHAKE_DISPATCHER):
            self._refuse(kind, message)
        self._to_apps(kind, xid, message)

    # --- handshake -----------------------------------------------------------------------------------------------

    def _negotiate(self, message: bytes) -> None:
        """Choose the highest version that both sides speak, and ask who the switch is."""
        offered = _offered(message)
        spoken = self.supported_ofp_version
        common = offered & spoken
        if common:
            self.set_version(max(common))
            self.set_state(CONFIG_DISPATCHER)
            self.enqueue(bytes([max(common), FEATURES_REQUEST]) + b"\0\x08" + bytes(4))
            return
        theirs = ", ".join(NAMES.get(version, f"number {version}") for version in sorted(offered)) or "nothing"
        ours = ",".join(f"OpenFlow{NAMES[version].replace('.', '')}" for version in sorted(spoken))
        self._refusal = f"it speaks OpenFlow {theirs} only; set the bridge's protocols to one or more of {ours}"
        if 1 not in offered:
            text = self._refusal.encode()
            self.enqueue(bytes([6, ERROR]) + (12 + len(text)).to_bytes(2, "big") + message[4:8] + bytes(4) + text)
            eventlet.sleep(0)
            raise ConnectionFailed(self._refusal)
        # NovaNet speaks 1.0 just so far that it can say whose protocols are wrong
        self.state = CONFIG_DISPATCHER
        self.enqueue(bytes([1, FEATURES_REQUEST]) + b"\0\x08" + bytes(4))

    def _refuse(self, kind: int, message: bytes) -> None:
        if kind == ERROR and not self._refusal:
            raise ConnectionFailed(
                f"it refused the handshake: {message[12:].decode('ascii', 'replace').strip(chr(0))!r}"
            )
        if kind == FEATURES_REPLY and len(message) >= 16:
            self.id = int.from_bytes(message[8:16], "big")
            raise ConnectionFailed(self._refusal)

    # --- Ryu's events --------------------------------------------------------------------------------------------

    def _to_apps(self, kind: int, xid: int, message: bytes) -> None:
        """Parse the message and pass it on, if anybody wants it."""
        event_class = self._event_class(kind, message)
        if event_class is None or self.ofp_brick is None or self._refusal:
            return
        own = [] if kind in (HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY) else self._handlers(event_class)
        if not own and not self.ofp_brick.observers.get(event_class):
            return
        try:
            version = self.ofproto.OFP_VERSION
            parsed = ofproto_parser._MSG_PARSERS[version](self, version, kind, len(message), xid, message)
        except Exception as error:
            if self.state != MAIN_DISPATCHER:
                raise ConnectionFailed(f"it sent a malformed message of type {kind}") from error
            NOISE.warning("message of type %d from %s cannot be parsed: %r", kind, self.address, error)
            return
        ev = ofp_event.ofp_msg_to_ev(parsed)
        self.ofp_brick.send_event_to_observers(ev, self.state)
        for handler in own:
            handler(ev)

    def _event_class(self, kind: int, message: bytes) -> Any:
        """The class of Ryu's event for a message; None where Ryu knows none."""
        parser = self.ofproto_parser
        if kind == MULTIPART_REPLY:
            if len(message) < 16:
                return None
            found = parser.OFPMultipartReply._STATS_MSG_TYPES.get(int.from_bytes(message[8:10], "big"))
        else:
            found = getattr(parser._MSG_PARSERS.get(kind), "__self__", None)
        return None if found is None else ofp_event.ofp_msg_to_ev_cls(found)

    def _handlers(self, event_class: Any) -> list[Any]:
        """What Ryu's own ``ofp_handler`` does in this phase."""
        handlers = self.ofp_brick.event_handlers.get(event_class, ())
        return [handler for handler in handlers if self.state in handler.callers[event_class].dispatchers]

    # --- sending -------------------------------------------------------------------------------------------------

    def _send_loop(self) -> None:
        try:
            while not (self._finish and not self._outbox):
                if not self._outbox:
                    self._wake.wait()
                    self._wake = Event()
                    continue
                self._write(self._next_piece())
        except (OSError, ValueError) as error:
            self.abort(f"cannot send: {error}")
            return
        eventlet.sleep(0)
        self.abort("closed after the last message")

    def _next_piece(self) -> bytes:
        """What to write next: small messages are joined."""
        piece = self._outbox.popleft()
        if len(piece) >= self._write_size or not self._outbox:
            return piece
        pieces, size = [piece], len(piece)
        while self._outbox and size + len(self._outbox[0]) <= self._write_size:
            piece = self._outbox.popleft()
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        at = 0
        while at < len(view):
            sent = self.socket.send(view[at : at + self._write_size])
            at += sent
            self._queued -= sent
            if self.counters is not None:
                self.counters.bytes_sent += sent
            if self._queued <= SEND_LIMIT and not self._drained.ready():
                self._drained.send()
                self._drained = Event()

    def _probe_loop(self) -> None:
        """Send an echo request into silence; end the connection when it stays silent."""
        while True:
            eventlet.sleep(self._probe_interval)
            if time.monotonic() - self._heard >= self._probe_timeout:
                eventlet.sleep(0.1)  # what waits in the socket counts: it may be us who did not listen
            silent = time.monotonic() - self._heard
            if silent >= self._probe_timeout:
                self.abort(f"silent for {silent:.0f} s")
                return
            if silent >= self._probe_interval * 0.9 and self.state == MAIN_DISPATCHER:
                header = bytes([self.ofproto.OFP_VERSION, ECHO_REQUEST]) + b"\0\x08"
                self.enqueue(header + self.next_xid().to_bytes(4, "big"))


def _hello() -> bytes:
    """Our HELLO with its version bitmap (OpenFlow 1.3.5 section 7.5.1); 1.0 is in it for ``_refuse`` only."""
    bitmap = sum(1 << version for version in SPOKEN | {1})
    return b"\6\0\0\x10\0\0\0\1" + b"\0\1\0\x08" + bitmap.to_bytes(4, "big")


def _offered(message: bytes) -> frozenset[int]:
    """Versions that a HELLO offers: those of its bitmap, else all up to that of its header."""
    at = 8
    while at + 4 <= len(message):
        kind, size = int.from_bytes(message[at : at + 2], "big"), int.from_bytes(message[at + 2 : at + 4], "big")
        if kind == 1 and size >= 8:
            bitmap = int.from_bytes(message[at + 4 : at + 8], "big")
            return frozenset(version for version in range(32) if bitmap >> version & 1)
        if size < 4:
            raise ConnectionFailed("its HELLO is malformed")
        at += size + -size % 8
    return frozenset(range(1, message[0] + 1))
