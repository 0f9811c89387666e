"""A recorder as a process of its own, and both ends that it talks to: what tests of telemetry share."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from novanet_apps.telemetry import frames
from novanet_apps.telemetry.recorder.questions import Question, Top

from .telemetry_world import EXPORTERS

ROOT = Path(__file__).resolve().parents[2]


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """The first true value of a condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s")


class Peer:
    """A connection to a recorder."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self.stream = self._socket.makefile("rb")
        self._asked = 0

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """A frame."""
        self._socket.sendall(frames.pack(header, body))

    def rows(self, found: Any, **more: Any) -> None:
        """Aggregates, as a collector sends them."""
        exporters = {number: [address, 0] for number, address in enumerate(EXPORTERS)}
        header = {
            "kind": "aggregates",
            "worker": 0,
            "at": time.time(),
            "rows": len(found),
            "exporters": exporters,
            "lost": {},
        }
        self.send(header | more, found.tobytes())

    def next(self, kind: str, wanted: Callable[[dict[str, Any]], Any] = lambda news: True) -> dict[str, Any]:
        """The next frame of a kind that is as wanted."""
        while True:
            header, body = frames.lengths(self.stream.read(frames.LENGTHS.size))
            news = frames.unpack(self.stream.read(header + body)[:header])
            if news["kind"] == kind and wanted(news):
                return news

    def ask(self, question: Question) -> list[dict[str, Any]]:
        """The rows that answer a question."""
        self._asked += 1
        self.send({"kind": "ask", "id": self._asked, "question": msgspec.to_builtins(question)})
        news = self.next("answer", lambda each: each["id"] == self._asked)
        assert "rows" in news, news
        found: list[dict[str, Any]] = news["rows"]
        return found

    def close(self) -> None:
        """End it."""
        self.stream.close()
        self._socket.close()


class RecorderProcess:
    """``python -m novanet_apps.telemetry.recorder`` on a directory."""

    def __init__(self, directory: Path, options: Sequence[str] = (), env: dict[str, str] | None = None) -> None:
        self.directory, self.socket = directory, directory / "r.sock"
        self._options, self._env = options, env or {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Peer:
        """Start it; a connection as the controller's."""
        where = [] if "--clickhouse" in self._options else ["--database", str(self.directory / "db")]
        command = [sys.executable, "-m", "novanet_apps.telemetry.recorder", "--socket", str(self.socket), *where]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self._options], stderr=log, cwd=ROOT, env={**os.environ, **self._env}
            )
        until(self._listens, "the recorder listens")
        peer = Peer(self.socket)
        peer.send({"kind": "hello", "role": "controller"})
        return peer

    def _listens(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log()
        probe = socket.socket(socket.AF_UNIX)
        try:
            probe.connect(str(self.socket))
        except OSError:
            return False
        finally:
            probe.close()
        return True

    def log(self) -> str:
        """What it said."""
        return (self.directory / "log").read_text()

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(20)


def stored(peer: Peer, question: Top, **wanted: Any) -> dict[str, Any]:
    """The first row of the answer, once it has these values."""
    seen: list[Any] = []

    def found() -> Any:
        seen[:] = peer.ask(question)
        return seen and all(seen[0].get(name) == value for name, value in wanted.items()) and seen[0]

    try:
        row: dict[str, Any] = until(found, f"{wanted} is answered")
    except AssertionError as problem:
        raise AssertionError(f"{problem}; it is {seen[:1]}") from None
    return row
