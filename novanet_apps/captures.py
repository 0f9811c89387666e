"""Files of captures: taken from hypervisors' agents, kept below the state directory, given to who downloads them.

An agent that has a file connects, says ``{"capture": ID, "bytes": N}``, gets ``{"go": ""}``, sends the N bytes and gets ``{"saved": ""}``; or
``{"refused": WHY}`` instead of either, and then it need not come again. Each of these is a line of JSON. Disks are left to threads.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import eventlet
import msgspec
from eventlet import tpool
from eventlet.green import socket, ssl

from novanet_apps.compat import CONF
from novanet_apps.compat.errors import ConfigurationError
from novanet_apps.compat.openflow import Endpoint, parse_endpoint
from novanet_apps.compat.tls import make_server_context
from novanet_apps.host_agent.upload import CHUNK, SOCKET
from topology.admission import Refused, Write
from topology.captures import ENDED
from topology.changes import Change
from topology.model import Capture

if TYPE_CHECKING:
    from novanet_apps.core import Core

LOG = logging.getLogger(__name__)

AT_ONCE = 64
"""Connections; one more is closed at once."""
PATIENCE = 30.0
"""Seconds that an agent may take for its request, its handshake or the next piece."""
REQUEST = 4096
"""Bytes of the longest request."""
TIDY = 60.0
"""Seconds between two looks for what has expired."""
_SUFFIX, _PART = ".pcapng", ".part"


class Settings(NamedTuple):
    """The values of the options, see ``options.CAPTURES``."""

    directory: Path
    listen: tuple[Endpoint, ...]
    tls: tuple[str | None, str | None, str | None]
    """Certificate, private key and authorities."""
    disk: int
    """Bytes that all files have at most."""
    keep: float
    """Seconds that a file stays after its capture has ended."""

    def context(self) -> Any:
        """TLS 1.3 with client certificates. Raises ConfigurationError."""
        certificate, private_key, ca = self.tls
        if not (certificate and private_key and ca):
            raise ConfigurationError(
                "capture_listen: pssl needs the options tls_private_key, tls_certificate and tls_ca"
            )
        return make_server_context(certificate, private_key, ca)


def from_options(state_dir: Path) -> Settings:
    """As configured. Raises ConfigurationError."""
    import novanet_apps.options  # noqa: F401 (registers them)

    listen = CONF.capture_listen or [f"punix:{state_dir / SOCKET}"]
    return Settings(
        directory=state_dir / "captures",
        listen=tuple(parse_endpoint(text, "capture_listen") for text in listen),
        tls=(CONF.tls_certificate, CONF.tls_private_key, CONF.tls_ca),
        disk=CONF.capture_disk << 20,
        keep=CONF.capture_keep * 3600.0,
    )


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    capture: str
    bytes: int


class RefusedFile(Exception):
    """A file is not wanted; the text says why."""


class Captures:
    """One of a controller."""

    def __init__(self, core: Core, settings: Settings | None = None) -> None:
        self._core = core
        self._settings = settings
        self._listening: list[Any] = []
        self._connections = 0
        self._coming: dict[str, int] = {}
        """Bytes of files that are on their way, by capture."""
        self.saved = self.refused = 0

    @property
    def settings(self) -> Settings:
        """The options' values, read once."""
        if self._settings is None:
            self._settings = from_options(self._core.store.settings.state_dir)
        return self._settings

    def start(self) -> None:
        """Listen. Raises ConfigurationError."""
        directory = self.settings.directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise ConfigurationError(
                f"{directory}: {problem.strerror}: set state_dir to a directory of yours"
            ) from None
        for endpoint in self.settings.listen:
            context = self.settings.context() if endpoint.kind == "pssl" else None
            listening = _listen(endpoint)
            self._listening.append(listening)
            eventlet.spawn(self._accept, listening, context)
            LOG.info("agents hand captures over at %s", endpoint)
        self._core.subscribe(self.changed)
        self._core.store.on_ready(lambda: eventlet.spawn(self._tidy))

    def stop(self) -> None:
        """Take no more files; those that are there stay."""
        for listening in self._listening:
            listening.close()
        for endpoint in self.settings.listen if self._listening else ():
            if endpoint.kind == "punix":
                Path(endpoint.host).unlink(missing_ok=True)
        self._listening.clear()

    @property
    def ports(self) -> list[int]:
        """Where it listens for TCP, when the system chose."""
        return [each.getsockname()[1] for each in self._listening if each.family != socket.AF_UNIX]

    # --- files -------------------------------------------------------------------------------------------------------

    def path(self, id: str) -> Path:
        """Where the file of a capture is, if it is there."""
        return self.settings.directory / f"{id}{_SUFFIX}"

    def read(self, id: str) -> tuple[int, Iterator[bytes]] | None:
        """The size of a capture's file, and what is in it; None when it is not here. Raises OSError."""
        try:
            descriptor = tpool.execute(os.open, str(self.path(id)), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        return os.fstat(descriptor).st_size, _Pieces(descriptor)

    def changed(self, changes: list[Change]) -> None:
        """Files go with their captures."""
        for change in changes:
            if change.kind == "capture" and change.new is None:
                eventlet.spawn(self._unlink, self.path(change.id))

    def _unlink(self, path: Path) -> None:
        try:
            tpool.execute(path.unlink, True)
        except OSError as problem:
            LOG.warning("the file of a capture cannot be removed: %s", problem)

    def _tidy(self) -> None:
        """Remove files that no capture has, and captures that have expired."""
        while True:
            captures = self._core.topology.all("capture")
            for path in tpool.execute(lambda: list(self.settings.directory.iterdir())):
                wanted = path.stem in captures and path.suffix == _SUFFIX
                if not wanted and path.stem not in self._coming:
                    self._unlink(path)
            before = time.time() - self.settings.keep
            for capture in list(captures.values()):
                if capture.state in ENDED and capture.ended_at is not None and capture.ended_at < before:
                    self._expire(capture)
            eventlet.sleep(TIDY)

    def _expire(self, capture: Capture) -> None:
        LOG.info("capture %s has expired", capture.id)
        try:
            self._core.store.submit([Write("delete", "capture", capture.id)])
        except Refused as refused:
            LOG.info("capture %s stays for now: %s", capture.id, refused)

    def _used(self) -> int:
        """Bytes of all files, and of those that are coming."""
        found = 0
        for path in self.settings.directory.glob(f"*{_SUFFIX}"):
            try:
                found += path.stat().st_size
            except FileNotFoundError:
                continue  # it was just deleted
        return found + sum(self._coming.values())

    # --- agents ------------------------------------------------------------------------------------------------------

    def _accept(self, listening: Any, context: Any) -> None:
        while listening in self._listening:
            try:
                connection, _ = listening.accept()
            except OSError as problem:
                if listening in self._listening:
                    LOG.warning("capture_listen: no connection can be accepted: %s", problem)
                    eventlet.sleep(0.5)
                continue
            if self._connections >= AT_ONCE:
                connection.close()
                continue
            self._connections += 1
            eventlet.spawn(self._serve, connection, context)

    def _serve(self, connection: Any, context: Any) -> None:
        try:
            connection.settimeout(PATIENCE)
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                connection.do_handshake()
            try:
                self._take(connection)
                _answer(connection, saved="")
                self.saved += 1
            except RefusedFile as problem:
                self.refused += 1
                LOG.warning("the file of a capture is refused: %s", problem)
                _answer(connection, refused=str(problem))
        except (OSError, ssl.SSLError, eventlet.Timeout, EOFError) as problem:
            LOG.warning("capture_listen: a connection ended: %s", problem)
        finally:
            self._connections -= 1
            connection.close()

    def _take(self, connection: Any) -> None:
        """One file. Raises RefusedFile, OSError, EOFError."""
        request = _request(connection)
        if not self._core.store.wait_ready(PATIENCE):
            raise EOFError("the intent store is not ready")
        self._admit(request)
        id = request.capture
        self._coming[id] = request.bytes
        part = self.path(id).with_suffix(_PART)
        try:
            _answer(connection, go="")
            self._receive(connection, part, request.bytes)
            if self._core.topology.get("capture", id) is None:
                raise RefusedFile("the capture was deleted")
            tpool.execute(os.replace, part, self.path(id))
        finally:
            del self._coming[id]
            self._unlink(part)

    def _admit(self, request: _Request) -> None:
        capture: Capture | None = self._core.topology.get("capture", request.capture)
        if capture is None:
            raise RefusedFile("there is no such capture")
        if capture.state in ENDED or request.capture in self._coming:
            raise RefusedFile(f"capture {capture.id} has its file, or it is coming")
        if not 0 < request.bytes <= capture.max_bytes:
            raise RefusedFile(f"{request.bytes} bytes are not within the capture's {capture.max_bytes}")
        left = self.settings.disk - tpool.execute(self._used)
        if request.bytes > left:
            raise RefusedFile(
                f"the controller has room for {max(left, 0)} bytes of captures (capture_disk), and the file has"
                f" {request.bytes}: delete captures that are not needed any more"
            )

    def _receive(self, connection: Any, part: Path, size: int) -> None:
        try:
            descriptor = tpool.execute(os.open, str(part), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise RefusedFile(f"the controller's disk: {problem.strerror}") from None
        try:
            while size:
                data = connection.recv(min(CHUNK, size))
                if not data:
                    raise EOFError("the agent closed it before the file was here")
                size -= len(data)
                _write(descriptor, data)
        finally:
            os.close(descriptor)


class _Pieces:
    """What an open file holds, piece by piece; it is closed at the end, and when the answer is not wanted any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __iter__(self) -> _Pieces:
        return self

    def __next__(self) -> bytes:
        data: bytes = tpool.execute(os.read, self._descriptor, CHUNK) if self._descriptor >= 0 else b""
        if not data:
            self.close()
            raise StopIteration
        return data

    def close(self) -> None:
        """As WSGI calls it (PEP 3333)."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def _write(descriptor: int, data: bytes) -> None:
    try:
        while data:
            data = data[tpool.execute(os.write, descriptor, data) :]
    except OSError as problem:
        raise RefusedFile(f"the controller's disk: {problem.strerror}") from None


def _request(connection: Any) -> _Request:
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(REQUEST)
        if not part or len(line) > REQUEST:
            raise EOFError("it asked for nothing that is known")
        line += part
    try:
        return msgspec.json.decode(line, type=_Request)
    except msgspec.MsgspecError as problem:
        raise RefusedFile(f"the request is not known: {problem}") from None


def _answer(connection: Any, **what: str) -> None:
    connection.sendall(msgspec.json.encode(what) + b"\n")


def _listen(endpoint: Endpoint) -> Any:
    """A listening socket. Raises ConfigurationError."""
    try:
        if endpoint.kind != "punix":
            family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
            return eventlet.listen((endpoint.host, endpoint.port), family, reuse_port=False)
        path = Path(endpoint.host)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        before = os.umask(0o077)
        try:
            return eventlet.listen(endpoint.host, socket.AF_UNIX)
        finally:
            os.umask(before)
    except OSError as problem:
        raise ConfigurationError(f"capture_listen: {endpoint} cannot be used: {problem.strerror}") from None
