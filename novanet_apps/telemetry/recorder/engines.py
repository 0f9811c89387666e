"""Where tables are: chDB, ClickHouse within this process, or a ClickHouse server over HTTP. Both speak the same SQL."""

from __future__ import annotations

import base64
import fcntl
import http.client
import os
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import msgspec

from .native import Column, block

TIMEOUT = 30.0
"""Seconds that a server may take to answer."""
DATABASE = "novanet_telemetry"


class EngineError(Exception):
    """What ClickHouse has to say about a statement, or why it cannot be asked."""


class Engine(Protocol):
    """Runs statements. Every method raises EngineError, and may be called from several threads."""

    def execute(self, sql: str) -> None:
        """A statement without result."""

    def insert(self, table: str, columns: Mapping[str, Column]) -> None:
        """Rows into a table: all of them are kept when it returns."""

    def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Rows by column name; ``{name:Type}`` in the SQL stands for a parameter."""

    def close(self) -> None:
        """No more statements come."""


def _decoded(lines: bytes) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in lines.splitlines() if line]


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})


def _escaped(value: Any) -> str:
    """A parameter as ClickHouse reads it (its format TabSeparated)."""
    return str(value).translate(_ESCAPES)


class ChDb:
    """chDB on a directory, which only one process may use at a time.

    Every thread has a session of its own: two threads in one session block each other for good (chDB 26.5 waits for the session
    with Python's lock held).
    """

    def __init__(self, directory: Path) -> None:
        """Opens the tables. Raises EngineError when another process has them, or chDB is not installed."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(directory / "recorder.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineError(f"{directory} is in use by another recorder") from None
        try:
            from chdb.session import Session
        except ImportError as problem:
            raise EngineError(
                f"chDB cannot be loaded ({problem}): install NovaNet with its extra `telemetry`, or set telemetry_clickhouse"
            ) from None
        self._open = lambda: Session(str(directory / "chdb"))
        self._local = threading.local()
        self._sessions: list[Any] = []
        self._opening = threading.Lock()
        self.execute(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")

    def execute(self, sql: str) -> None:
        """As of Engine."""
        self._run(sql, "Null", {})

    def insert(self, table: str, columns: Mapping[str, Column]) -> None:
        """As of Engine. The rows go through a file in memory, so that nothing is quoted or copied more than once."""
        names = ", ".join(columns)
        types = ", ".join(f"{name} {column.type}" for name, column in columns.items())
        memory = os.memfd_create("rows", os.MFD_CLOEXEC)
        try:
            with os.fdopen(memory, "wb", closefd=False) as file:
                file.write(block(columns))
            source = f"file('/proc/self/fd/{memory}', 'Native', '{types}')"
            self._run(f"INSERT INTO {DATABASE}.{table} ({names}) SELECT {names} FROM {source}", "Null", {})
        finally:
            os.close(memory)

    def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """As of Engine."""
        return _decoded(self._run(sql, "JSONEachRow", parameters))

    def _run(self, sql: str, form: str, parameters: Mapping[str, Any]) -> bytes:
        try:
            answer = self._session().query(
                sql, form, params={name: _escaped(value) for name, value in parameters.items()} or None
            )
        except RuntimeError as problem:
            raise EngineError(_first(str(problem))) from None
        return bytes(answer.bytes()) if answer is not None else b""

    def _session(self) -> Any:
        """This thread's."""
        session = getattr(self._local, "session", None)
        if session is None:
            with self._opening:
                session = self._local.session = self._open()
                self._sessions.append(session)
        return session

    def close(self) -> None:
        """As of Engine."""
        for session in self._sessions:
            session.close()
        os.close(self._lock)


class ClickHouse:
    """A server's HTTP interface; each thread has a connection of its own."""

    def __init__(self, url: str, user: str = "", password: str = "", ca: str | None = None) -> None:
        """``url``: http://HOST:8123 or https://HOST:8443. Raises EngineError when the server does not answer."""
        self._parts = urlsplit(url)
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise EngineError(f"{url!r} is no address of ClickHouse; it is written http://HOST:8123")
        self._context = ssl.create_default_context(cafile=ca) if self._parts.scheme == "https" else None
        self._headers = {}
        if user:
            self._headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._local = threading.local()
        self.execute(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")

    def execute(self, sql: str) -> None:
        """As of Engine."""
        self._post({}, sql.encode())

    def insert(self, table: str, columns: Mapping[str, Column]) -> None:
        """As of Engine."""
        sql = f"INSERT INTO {DATABASE}.{table} ({', '.join(columns)}) FORMAT Native"
        self._post({"query": sql}, block(columns))

    def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """As of Engine."""
        asked = {f"param_{name}": _escaped(value) for name, value in parameters.items()}
        asked |= {"default_format": "JSONEachRow", "output_format_json_quote_64bit_integers": "0"}
        return _decoded(self._post(asked, sql.encode()))

    def _post(self, query: Mapping[str, str], body: bytes) -> bytes:
        for fresh in (False, True):
            kept: http.client.HTTPConnection | None = None if fresh else getattr(self._local, "connection", None)
            connection = kept or self._connect()
            try:
                connection.request("POST", f"{self._parts.path or '/'}?{urlencode(query)}", body, self._headers)
                response = connection.getresponse()
                data = response.read()
            except (OSError, http.client.HTTPException) as problem:
                self._local.connection = None
                connection.close()
                if kept is not None:
                    continue  # the server has closed a connection that was silent
                raise EngineError(f"ClickHouse at {self._parts.hostname} does not answer: {problem}") from None
            self._local.connection = connection
            if response.status != 200:
                raise EngineError(_first(data.decode("utf-8", "replace")) or f"HTTP status {response.status}")
            return data
        raise AssertionError("the second connection is fresh")

    def _connect(self) -> http.client.HTTPConnection:
        host, port = str(self._parts.hostname), self._parts.port
        if self._context is None:
            return http.client.HTTPConnection(host, port or 8123, timeout=TIMEOUT)
        return http.client.HTTPSConnection(host, port or 8443, timeout=TIMEOUT, context=self._context)

    def close(self) -> None:
        """As of Engine."""


def _first(text: str) -> str:
    """The message without ClickHouse's stack trace."""
    return text.strip().split("Stack trace")[0].splitlines()[0][:500] if text.strip() else ""
