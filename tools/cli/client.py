"""Talks to the REST interface: one kept connection, JSON both ways, problems as CliError."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from .errors import UNAUTHORIZED, UNREACHABLE, USAGE, CliError, code_for

DEFAULT_ENDPOINT = "http://127.0.0.1:8080"
TIMEOUT = 60.0
"""Seconds without an answer, beside what --wait allows."""


def default_state_dir() -> Path:
    """Where the controller keeps its state, as in novanet_apps/intent/settings.py."""
    if os.geteuid() == 0:
        return Path("/var/lib/novanet")
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "novanet"


def find_token(token_file: str | None) -> tuple[str | None, str]:
    """The token, and where it comes from or was looked for. Raises CliError when a file that was named cannot be read."""
    if token_file is None and os.environ.get("NOVANET_TOKEN"):
        return os.environ["NOVANET_TOKEN"].strip(), "NOVANET_TOKEN"
    named = token_file or os.environ.get("NOVANET_TOKEN_FILE")
    path = Path(named) if named else default_state_dir() / "admin.token"
    try:
        return path.read_text().strip(), str(path)
    except OSError as problem:
        if named:
            raise CliError(UNAUTHORIZED, f"cannot read the token file {path}: {problem.strerror}") from None
        return None, str(path)


class Client:
    """A session with one controller."""

    def __init__(self, endpoint: str, token_file: str | None, cacert: str | None) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._parts = urlsplit(self.endpoint)
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise CliError(USAGE, f"the endpoint {endpoint!r} must be like http://127.0.0.1:8080 or https://HOST:PORT")
        self._token, self._token_from = find_token(token_file)
        if self._token and not (self._token.isascii() and self._token.isprintable()):
            raise CliError(
                UNAUTHORIZED, f"what {self._token_from} holds is no token: it has characters that no token has"
            )
        self._cacert = cacert
        self._connection: http.client.HTTPConnection | None = None

    # --- requests ------------------------------------------------------------------------------------------------

    def call(
        self, method: str, path: str, body: Any = None, timeout: float = TIMEOUT, headers: dict[str, str] | None = None
    ) -> Any:
        """The JSON answer, None for an empty one. Raises CliError."""
        response = self.open(method, path, body, timeout, headers)
        try:
            data = response.read()
        except (OSError, http.client.HTTPException) as problem:
            raise self._unreachable(problem) from None
        if response.status >= 400:
            raise self.refused(response.status, data)
        try:
            return msgspec.json.decode(data) if data else None
        except msgspec.DecodeError:
            raise CliError(UNREACHABLE, f"what answers at {self.endpoint} is not NovaNet") from None

    def open(
        self, method: str, path: str, body: Any = None, timeout: float = TIMEOUT, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """The answer, not read yet."""
        sent = {"Accept": "*/*", **(headers or {})}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        data = None
        if body is not None:
            data = msgspec.json.encode(body)
            sent.setdefault("Content-Type", "application/json")
        fresh = self._connection is None
        try:
            return self._send(method, path, data, sent, timeout)
        except (OSError, http.client.HTTPException) as problem:
            self._connection = None
            if fresh or isinstance(problem, TimeoutError) or method not in ("GET", "PUT", "DELETE"):
                raise self._unreachable(problem) from None
        try:  # the kept connection had been closed meanwhile
            return self._send(method, path, data, sent, timeout)
        except (OSError, http.client.HTTPException) as problem:
            self._connection = None
            raise self._unreachable(problem) from None

    def close(self) -> None:
        """End the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str], timeout: float
    ) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = self._connect(timeout)
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout)
        self._connection.timeout = timeout
        self._connection.request(method, self._parts.path + path, data, headers)
        return self._connection.getresponse()

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        host, port = str(self._parts.hostname), self._parts.port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout)
        import ssl

        try:
            context = ssl.create_default_context(cafile=self._cacert)
        except OSError as problem:
            raise CliError(USAGE, f"cannot use the CA certificates {self._cacert}: {problem.strerror}") from None
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)

    def _unreachable(self, problem: Exception) -> CliError:
        if type(problem).__name__ == "SSLCertVerificationError":
            advice = "give the CA's certificate with --cacert"
        elif type(problem).__name__ == "SSLError" or isinstance(problem, http.client.HTTPException):
            advice = "is it http:// or https:// ?"
        else:
            advice = "is the controller running? --endpoint or NOVANET_ENDPOINT say where it is"
        text = str(getattr(problem, "strerror", None) or problem or type(problem).__name__)
        return CliError(UNREACHABLE, f"{self.endpoint} does not answer: {text}; {advice}")

    def refused(self, status: int, data: bytes) -> CliError:
        """What to say about an answer that is a problem."""
        try:
            problem = msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.MsgspecError:
            problem = {}
        detail = str(problem.get("detail") or f"{self.endpoint} answered with HTTP status {status}")
        field = problem.get("field")
        if status == 401:
            found = (
                f"the one in {self._token_from} was refused" if self._token else f"there is none in {self._token_from}"
            )
            detail += f" ({found}; set NOVANET_TOKEN_FILE, or give --token-file)"
        return CliError(code_for(status), f"{field}: {detail}" if field else detail, status)

    # --- objects -------------------------------------------------------------------------------------------------

    def pages(self, collection: str, filters: list[tuple[str, str]]) -> Iterator[list[dict[str, Any]]]:
        """Every object that matches, page by page."""
        path = f"/v1/{collection}?{urlencode([*filters, ('limit', '1000'), ('sort', 'name')])}"
        while path:
            answer = self.call("GET", path)
            yield answer["items"]
            path = answer["next"]

    def named(self, kind: str, collection: str, name: str) -> dict[str, Any]:
        """The object with this id, or this name; of a floating IP also with this address, of an identity
        with this number. Raises CliError."""
        if _is_uuid(name):
            found: dict[str, Any] = self.call("GET", f"/v1/{collection}/{quote(name)}")
            return found
        address = _address(name) if kind == "floating-ip" else None
        query = {"name": name} if address is None else {"floating_ip_address": address}
        if kind == "identity":
            query = {"number": name}
        items = self.call("GET", f"/v1/{collection}?{urlencode({**query, 'limit': 5})}")["items"]
        if not items:
            raise CliError(code_for(404), f"there is no {kind} named {name!r}")
        if len(items) > 1:
            ids = ", ".join(f"{item['id']} (project {item['project_id'] or '-'})" for item in items)
            raise CliError(code_for(409), f"several {collection} are named {name!r}: {ids}; give the id")
        one: dict[str, Any] = items[0]
        return one

    def id_of(self, kind: str, collection: str, name: str) -> str:
        """The id of an object that is given by id or name. An id is believed."""
        return name if _is_uuid(name) else str(self.named(kind, collection, name)["id"])


def _address(text: str) -> str | None:
    """The canonical text of an IP address; None for other text."""
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def _is_uuid(text: str) -> bool:
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and set("".join(parts)) <= set("0123456789abcdef")
