"""A fast JSON-RPC connection for python-ovs.

python-ovs parses JSON one character at a time in Python (pip does not build its C parser), reads 4096 bytes at a
time, and loses a UTF-8 character that is split between two reads. :class:`Framer` finds where each message ends
with one regular expression, in time linear in the bytes, and msgspec decodes it. :func:`install` puts
:class:`Connection` in place of python-ovs' own for the whole process.
"""

from __future__ import annotations

import errno
import re
from collections import deque
from typing import Any

import msgspec
import ovs.jsonrpc
import ovs.util

MAX_MESSAGE = 1 << 29
"""Bytes of the longest message accepted from an OVSDB server that has been identified."""

MAX_DEPTH = 200
"""Objects within objects; OVSDB needs six."""

READ_SIZE = 1 << 17
"""Bytes read from the socket at once."""

READ_TURN = 1 << 20
"""Bytes read before other greenlets get their turn."""

# A run of whole strings with what lies between them; a brace; or the quote of a string that ends in a later read.
_TOKEN = re.compile(rb'(?:"[^"\\]*(?:\\.[^"\\]*)*"[^"{}]*)+|[{}]|"', re.DOTALL)
_STRING_REST = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_NOT_SPACE = re.compile(rb"[^ \t\r\n]")


class Framer:
    """Cuts a stream of bytes into JSON objects (RFC 8259), which follow each other without separator (RFC 7047 §4)."""

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._decode = msgspec.json.Decoder().decode
        self._parts: list[bytes] = []
        self._size = 0
        self._depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def idle(self) -> bool:
        """Whether the stream stands between two messages."""
        return not self._depth

    def feed(self, data: bytes) -> list[Any]:
        """The messages that end in `data`, the stream's next bytes.

        Raises ValueError when the stream is not JSON objects or a message exceeds the limit; the stream is then
        of no further use.
        """
        if not self._depth and data[:1] == b"{" and data[-1:] == b"}":
            # Nearly always a read is one whole message, or several: the decoder itself tells which.
            try:
                return [self._decode(data)]
            except (msgspec.DecodeError, RecursionError):
                pass
        messages = []
        start = 0
        for end in self._ends(data):
            self._keep(data[start:end])
            messages.append(self._message())
            start = end
        rest = data[start:]
        if self._depth:
            self._keep(rest)
        elif _NOT_SPACE.search(rest):
            raise ValueError(f"expected a JSON object, got {rest[:40]!r}")
        return messages

    def _ends(self, data: bytes) -> list[int]:
        """Offsets in `data` just after the brace that closes a message."""
        ends = []
        position = self._leave_string(data)
        depth = self._depth
        outside = position if not depth else -1
        for token in _TOKEN.finditer(data, position):
            kind = data[token.start()]
            if depth == 0:
                if kind != 0x7B or _NOT_SPACE.search(data, outside, token.start()):
                    raise ValueError(f"expected a JSON object, got {data[outside : outside + 40]!r}")
                depth = 1
            elif kind == 0x7B:
                depth += 1
                if depth > MAX_DEPTH:
                    raise ValueError(f"objects are nested more than {MAX_DEPTH} deep")
            elif kind == 0x7D:
                depth -= 1
                if depth == 0:
                    outside = token.end()
                    ends.append(outside)
            elif token.end() - token.start() == 1:
                self._in_string = True
                self._leave_string(data, token.end())
                break
        self._depth = depth
        return ends

    def _leave_string(self, data: bytes, position: int = 0) -> int:
        """Where scanning goes on after the string, if any, that an earlier quote opened."""
        if not self._in_string:
            return position
        if self._escaped and position < len(data):
            position += 1
            self._escaped = False
        match = _STRING_REST.match(data, position)
        assert match is not None
        end = match.end()
        if end == len(data):
            return end
        if data[end] == 0x22:
            self._in_string = False
        else:
            self._escaped = True
        return end + 1

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise ValueError(f"a message is longer than {self._limit} bytes")
        self._parts.append(part)

    def _message(self) -> Any:
        text = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        try:
            return self._decode(text)
        except RecursionError:
            raise ValueError("arrays are nested too deep") from None


class Connection(ovs.jsonrpc.Connection):
    """JSON-RPC over a python-ovs stream; the interface of ovs.jsonrpc.Connection, which it replaces.

    `send` only queues: all socket I/O is done by `run` and `recv`, so by the one greenlet that calls these.
    """

    def __init__(self, stream: Any, limit: int = MAX_MESSAGE) -> None:
        super().__init__(stream)
        self.output = b""
        self.detail = ""
        self.messages_received = 0
        self._framer = Framer(limit)
        self._received: deque[Any] = deque()

    def trust(self) -> None:
        """Accept messages of any reasonable size: the peer is known."""
        self._framer._limit = MAX_MESSAGE

    def run(self) -> None:
        while self.output and not self.status:
            sent = self.stream.send(self.output)
            if sent < 0:
                if sent != -errno.EAGAIN:
                    self.error(-sent)
                return
            self.output = self.output[sent:]

    def send(self, msg: ovs.jsonrpc.Message) -> int:
        if not self.status:
            self.output += msgspec.json.encode(msg.to_json())
        return int(self.status)

    def recv(self) -> tuple[int, ovs.jsonrpc.Message | None]:
        budget = READ_TURN
        while not self.status and not self._received:
            if budget <= 0:
                return errno.EAGAIN, None
            error, data = self.stream.recv(READ_SIZE)
            if error == errno.EAGAIN:
                return error, None
            if error or not data:
                self.error(error or ovs.util.EOF)
                break
            budget -= len(data)
            self.received_bytes += len(data)
            try:
                self._received.extend(self._framer.feed(data))
            except ValueError as exc:
                self._refuse(str(exc))
        if self.status:
            return self.status, None
        msg = ovs.jsonrpc.Message.from_json(self._received.popleft())
        if not isinstance(msg, ovs.jsonrpc.Message):
            self._refuse(msg)
            return self.status, None
        self.messages_received += 1
        return 0, msg

    def recv_wait(self, poller: Any) -> None:
        pending = getattr(self.stream.socket, "pending", None)
        if self.status or self._received or (pending is not None and pending()):
            poller.immediate_wake()
        else:
            self.stream.recv_wait(poller)

    def error(self, error: int) -> None:
        super().error(error)
        self.output = b""

    def _refuse(self, why: str) -> None:
        self.detail = f"not OVSDB's protocol: {why}"
        self._received.clear()
        self.error(errno.EPROTO)


def install() -> None:
    """Make every python-ovs JSON-RPC session of this process use :class:`Connection`."""
    ovs.jsonrpc.Connection = Connection
