"""The HTTP server: eventlet's WSGI protocol behind an accept loop of our own.

eventlet's loop ends when files run out, waits for idle clients when it is full, and lets a client take its time.
Ours keeps going, closes the longest idle connection when others wait, gives every request head a deadline, and makes
the TLS handshake in the connection's own greenlet.
"""

from __future__ import annotations

import errno
import logging
import resource
import time
from collections.abc import Callable
from email.errors import MissingHeaderBodySeparatorDefect
from itertools import islice
from typing import Any

import eventlet
import eventlet.wsgi
import msgspec
from eventlet import greenio, sleep
from eventlet.event import Event
from eventlet.green import socket, ssl
from eventlet.hubs import trampoline
from eventlet.patcher import original
from eventlet.timeout import Timeout

from novanet_apps.compat.errors import ConfigurationError
from novanet_apps.compat.logs import Throttle

from . import problems
from .api import CLOSE
from .counters import Counters

LOG = logging.getLogger(__name__)
select = original("select")

BACKLOG = 4096
HEAD_TIME = 20.0
"""Seconds in which a connection has to be made (TLS) and its first request head sent."""
IDLE_TIME = 75.0
"""Seconds that a connection may be silent between two requests."""
SOCKET_TIME = 30.0
"""Seconds that one read of a body, or one write of an answer, may take."""
BODY_TIME = 60.0
"""Seconds in which a whole body has to arrive."""
EVICTABLE = 2.5
"""Seconds of silence after which a connection may be closed for others."""
LINGER = 2.0
"""Seconds in which the rest of a refused body is read and thrown away, so that the client gets the answer."""
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_GREETING = 16
"""Connections accepted before others get their turn."""


class Server(eventlet.wsgi.Server):
    """One listening socket and its connections."""

    def __init__(
        self,
        application: Callable[..., Any],
        address: tuple[str, int],
        context: Any,
        counters: Counters,
        max_connections: int,
    ) -> None:
        """Listens. Raises ConfigurationError when the address cannot be had. ``context``: TLS, or None."""
        scheme = "https" if context is not None else "http"
        super().__init__(
            _listen(address), address, application, environ={"wsgi.url_scheme": scheme, "wsgi.errors": _Errors()},
            max_http_version="HTTP/1.1", protocol=Protocol, keepalive=IDLE_TIME, log_output=False, debug=False,
            socket_timeout=SOCKET_TIME,
        )  # fmt: skip
        self.log = _Log()
        self.address = self.socket.getsockname()[:2]
        self.context = context
        self.counters = counters
        self.complaints = Throttle(LOG)
        self._max = min(max_connections, max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4))
        self._connections: set[Connection] = set()
        self._idle: dict[Connection, float] = {}
        """Those that wait for a request, longest first, with the time since when."""
        self._room = Event()
        self._loop: Any = None
        host, port = self.address
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"

    def start(self) -> None:
        """Serve, in greenlets of its own."""
        self._loop = eventlet.spawn(self._accept_all)

    def stop(self) -> None:
        """Close the listening socket and every connection."""
        if self._loop is not None:
            self._loop.kill()
        self.socket.close()
        for connection in list(self._connections):
            greenio.shutdown_safe(connection.socket)

    # --- connections ---------------------------------------------------------------------------------------------

    def _accept_all(self) -> None:
        accepted = 0
        while True:
            self._make_room()
            try:
                client, address = self.socket.accept()
            except OSError as problem:
                if problem.errno in _OUT_OF_FILES:
                    self.complaints.warning(
                        "REST: no connection can be accepted: %s; raise the limit of open files", problem
                    )
                    self._evict(1)
                sleep(0.05)
                continue
            connection = Connection(client, address)
            self.counters.accepted += 1
            self._connections.add(connection)
            self.counters.connections = len(self._connections)
            eventlet.spawn_n(self._serve, connection)
            accepted += 1
            if accepted % _GREETING == 0:
                sleep(0)

    def _make_room(self) -> None:
        while len(self._connections) >= self._max:
            self._evict(len(self._connections) - self._max + 1)
            self._room = Event()
            with Timeout(EVICTABLE / 4, False):
                self._room.wait()

    def _evict(self, count: int) -> None:
        """Close up to ``count`` connections, those that have been silent for longest."""
        silent_since = time.monotonic() - EVICTABLE
        oldest = list(islice(self._idle.items(), count))
        chosen = [connection for connection, since in oldest if since <= silent_since and not connection.has_input()]
        for connection in chosen:
            del self._idle[connection]
            self.counters.evicted += 1
            greenio.shutdown_safe(connection.socket)
        if chosen:
            self.complaints.warning("REST: %d idle connections were closed for others that wait", len(chosen))

    def _serve(self, connection: Connection) -> None:
        host = connection.address[0]
        try:
            self.idle(connection)
            if self.context is not None:
                self._handshake(connection)
            connection.socket.settimeout(SOCKET_TIME)
            self.protocol([connection.address, connection.socket, eventlet.wsgi.STATE_IDLE, connection], self)
        except (ssl.SSLError, EOFError) as problem:
            self.complaints.warning("REST: no TLS with %s: %s", host, problem)
        except (Timeout, TimeoutError):
            self.counters.timeouts += 1
            LOG.debug("REST: %s was too slow", host)
        except OSError as problem:
            LOG.debug("REST: connection of %s ended: %s", host, problem)
        except Exception:
            LOG.exception("REST: connection of %s failed", host)
        finally:
            self._idle.pop(connection, None)
            self._connections.discard(connection)
            self.counters.connections = len(self._connections)
            greenio.shutdown_safe(connection.socket)
            connection.socket.close()
            if not self._room.ready():
                self._room.send()

    def _handshake(self, connection: Connection) -> None:
        connection.await_input(HEAD_TIME)
        with Timeout(HEAD_TIME):
            connection.socket = self.context.wrap_socket(
                connection.socket, server_side=True, do_handshake_on_connect=False
            )
            connection.socket.do_handshake()

    def idle(self, connection: Connection) -> None:
        """It waits for a request."""
        self._idle[connection] = time.monotonic()

    def busy(self, connection: Connection) -> None:
        """It has sent a request."""
        self._idle.pop(connection, None)


class Connection:
    """A client's socket, which TLS replaces by another one."""

    def __init__(self, client: Any, address: Any) -> None:
        self.socket = client
        self.address = address

    def await_input(self, seconds: float) -> None:
        """Wait for the first byte. Raises Timeout when the client, and not we, took too long."""
        try:
            trampoline(self.socket.fileno(), read=True, timeout=seconds, timeout_exc=Timeout)
        except Timeout:
            if not self.has_input():
                raise

    def has_input(self) -> bool:
        """Whether there is something to read, or the client has gone."""
        if self.socket.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self.socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))


class Protocol(eventlet.wsgi.HttpProtocol):
    """One connection: HTTP/1.1 with deadlines, and problems where it is spoken wrongly."""

    rbufsize = 4096
    wbufsize = 4096
    close_connection: bool
    linger = False
    served = False
    """Whether a request came already."""

    def handle_one_request(self) -> None:
        """Read a request and answer it."""
        self.server.idle(self.conn_state[3])
        super().handle_one_request()

    def _read_request_line(self) -> bytes:
        self._await_request(IDLE_TIME if self.served else HEAD_TIME)
        with Timeout(HEAD_TIME):
            line: bytes = super()._read_request_line()
        self.served = True
        if len(line) < self.server.url_length_limit:
            return line
        self.send_error(414, f"a request line has less than {self.server.url_length_limit} bytes")
        return b""

    def _await_request(self, seconds: float) -> None:
        """Wait for the first byte. Raises Timeout when the client, and not we, took too long."""
        self.connection.settimeout(None)
        try:
            with Timeout(seconds):
                self.rfile.peek(1)
        except Timeout:
            if not self.conn_state[3].has_input():
                raise

    def parse_request(self) -> bool:
        """The head of a request; whether it is one."""
        try:
            with Timeout(HEAD_TIME):
                if not super().parse_request():
                    return False
        except (eventlet.wsgi.HeaderLineTooLong, eventlet.wsgi.HeadersTooLarge):
            self.send_error(431, "a header has at most 8190 bytes, and all together 64 KiB")
            return False
        wrong = _framing(self.headers)
        if wrong:
            self.send_error(400, wrong)
        return not wrong

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is wrong with the HTTP itself, as a problem; ends the connection."""
        detail = message or problems.title(code)
        problem = problems.Problem(code, detail)
        body = msgspec.json.encode(problems.document(problem, ""))
        head = f"HTTP/1.1 {code} {problems.title(code)}\r\nContent-Type: {problems.CONTENT_TYPE}\r\n"
        self.wfile.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        self.close_connection = True
        self.linger = True
        self.server.counters.requests["other", code] += 1
        self.server.complaints.warning("REST: %s sent no proper HTTP: %s", self.client_address[0], detail[:200])

    def get_environ(self) -> dict[str, Any]:
        """The WSGI environment; from here on the connection is at work."""
        self.server.busy(self.conn_state[3])
        environ: dict[str, Any] = super().get_environ()
        environ[CLOSE] = self._end
        environ["eventlet.input"].rfile = _BoundedLines(self.rfile)
        environ["wsgi.input"] = _Deadline(environ["eventlet.input"])
        return environ

    def _end(self) -> None:
        self.close_connection = self.linger = True

    def finish(self) -> None:
        """Close; but not before a client that still sends has had the time to read why that is in vain."""
        try:
            self.wfile.flush()
            if self.linger:
                self._drain()
        except (OSError, ValueError):
            pass  # the client has gone
        super().finish()

    def _drain(self) -> None:
        self.connection.shutdown(socket.SHUT_WR)
        with Timeout(LINGER, False):
            while self.connection.recv(65536):
                pass


def _framing(headers: Any) -> str:
    """What is wrong with the head of a request, or with how long it says that the body is (RFC 9112, section 6)."""
    if any(isinstance(defect, MissingHeaderBodySeparatorDefect) for defect in headers.defects):
        return "a header line has no name, so that those after it cannot be told from the body"
    lengths, codings = headers.get_all("Content-Length", ()), headers.get_all("Transfer-Encoding", ())
    if len(lengths) + len(codings) > 1:
        return "Content-Length or Transfer-Encoding is given once, and not both"
    if codings and codings[0].strip().lower() != "chunked":
        return f"the transfer coding {codings[0]!r} is not known; send Content-Length, or chunked"
    if lengths and not (lengths[0].isascii() and lengths[0].isdigit() and len(lengths[0]) < 19):
        return f"Content-Length must be a number, not {lengths[0][:40]!r}"
    return ""


class _BoundedLines:
    """A file whose lines, those that announce chunks, are not longer than is sensible."""

    def __init__(self, file: Any) -> None:
        self.read = file.read
        self._readline = file.readline

    def readline(self, size: int = -1) -> bytes:
        """As of a file. Raises OSError."""
        line: bytes = self._readline(size if size >= 0 else eventlet.wsgi.MAX_HEADER_LINE)
        if len(line) >= eventlet.wsgi.MAX_HEADER_LINE:
            raise OSError("a chunk's head is too long")
        return line


class _Deadline:
    """A body that has to arrive within BODY_TIME seconds of its first read."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self._end: float | None = None

    def read(self, size: int | None = None) -> bytes:
        """As of a file. Raises OSError when it took too long."""
        now = time.monotonic()
        self._end = self._end or now + BODY_TIME
        with Timeout(max(0.0, self._end - now), OSError(f"it took more than {BODY_TIME:.0f} seconds")):
            data: bytes = self._body.read(size)
        return data


class _Log(eventlet.wsgi.LoggerNull):
    """What eventlet has to say: mostly that clients went away."""

    def info(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log it, for whoever looks for it."""
        LOG.debug("%s", msg)


class _Errors:
    """``wsgi.errors``, as log lines."""

    def write(self, text: str) -> None:
        """Log it."""
        LOG.warning("%s", text.rstrip())

    def writelines(self, lines: list[str]) -> None:
        """Log them."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Nothing is held back."""


def _listen(address: tuple[str, int]) -> Any:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        return eventlet.listen(address, family, backlog=BACKLOG)
    except OSError as problem:
        raise ConfigurationError(
            f"rest_listen={address[0]}:{address[1]} cannot be had: {problem.strerror}; another program has it, or the"
            " address is not of this machine"
        ) from None
