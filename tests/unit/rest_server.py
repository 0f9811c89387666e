"""Starts ``rest_child`` and talks to it: what tests of the REST interface and the CLI share."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import requests

from novanet_apps.tokens import TokenFile

ROOT = Path(__file__).resolve().parents[2]


class RestServer:
    """A running server with tokens ``admin``, ``acme`` and ``umbra`` (tenants), ``reader`` and ``acme-reader``."""

    def __init__(self, state_dir: Path, **options: object) -> None:
        self.state_dir = state_dir
        self.log = state_dir / "log"
        state_dir.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.unit.rest_child", str(state_dir)]
        command += [f"{name}={value}" for name, value in options.items()]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"), text=True, cwd=ROOT
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(self.logged())
        self.url = json.loads(line).rstrip("/")
        self._lock = threading.Lock()
        self.tokens = {"none": ""}
        if options.get("auth") != "none":
            book = TokenFile(state_dir)
            self.tokens["admin"] = (state_dir / "admin.token").read_text().strip()
            self.tokens["acme"] = book.create("acme", "tenant", "acme")
            self.tokens["umbra"] = book.create("umbra", "tenant", "umbra")
            self.tokens["reader"] = book.create("reader", "reader")
            self.tokens["acme-reader"] = book.create("acme-reader", "reader", "acme")

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._process.pid

    @property
    def port(self) -> int:
        """It listens on."""
        return int(self.url.rpartition(":")[2])

    def __call__(self, method: str, path: str, body: Any = None, who: str = "admin", **more: Any) -> requests.Response:
        """A request; ``body`` is sent as JSON."""
        headers = {"Authorization": f"Bearer {self.tokens[who]}"} if self.tokens.get(who) else {}
        headers |= more.pop("headers", {})
        if body is not None:
            more["data"] = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        return requests.request(method, self.url + path, headers=headers, timeout=30, **more)

    def make(self, path: str, who: str = "admin", **fields: Any) -> dict[str, Any]:
        """Create an object."""
        answer = self("POST", path, fields, who)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the server's process: ``core``, ``api``, ``server``."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(expression + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def logged(self) -> str:
        """What it has logged."""
        return self.log.read_text()

    def stop(self) -> None:
        """End it, and see that it ended well."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            assert self._process.wait(10) == 0, self.logged()
        finally:
            self._process.kill()
            self._process.wait()


def problem(answer: requests.Response, status: int, field: str | None = None) -> str:
    """Check that the answer is a problem with this status, about this field; returns its detail."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status and body["type"] == "about:blank" and body["title"]
    assert body.get("field") == field, body
    assert isinstance(body["detail"], str) and body["detail"]
    return str(body["detail"])


def connect(rest: RestServer, timeout: float = 20) -> socket.socket:
    return socket.create_connection(("127.0.0.1", rest.port), timeout)


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    found = b""
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            return found
        if not piece:
            return found
        found += piece


def memory(pid: int, field: str = "VmHWM") -> int:
    """Bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


def still_serves(rest: RestServer) -> None:
    answer = rest("POST", "/v1/networks", {})
    assert answer.status_code == 201
    assert rest("GET", f"/v1/networks/{answer.json()['id']}").status_code == 200
