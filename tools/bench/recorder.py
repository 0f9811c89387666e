"""A recorder with chDB in a directory of its own, as production has it, and the controller's end of its socket."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from novanet_apps.telemetry import frames
from novanet_apps.telemetry.recorder.questions import Question
from tools.lab.errors import LabError

STARTING = 20.0
"""Seconds."""


class Recorder:
    """Runs within ``with``. ``prefix`` is a command that starts it, as ``taskset -c 0``. Raises LabError."""

    def __init__(self, topology: Mapping[str, Any], prefix: Sequence[str] = ()) -> None:
        self._topology, self._prefix = topology, prefix

    def __enter__(self) -> Recorder:
        self.directory = Path(tempfile.mkdtemp(prefix="novanet-bench-"))
        self.socket = self.directory / "s"
        self.process = subprocess.Popen(
            [*self._prefix, sys.executable, "-m", "novanet_apps.telemetry.recorder", "--socket", str(self.socket),
             "--database", str(self.directory / "db"), "--parent", str(os.getpid())], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self._link = self._connected()
            self.send({"kind": "hello"})
            self.send(self._topology)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.directory, ignore_errors=True)

    def send(self, header: Mapping[str, Any], body: bytes = b"") -> None:
        """A frame."""
        self._link.sendall(frames.pack(dict(header), body))

    def next(self, until: float, wanted: Callable[[Any], Any]) -> Any:
        """The next news that are wanted; None when there are none by then (time.monotonic)."""
        while (left := until - time.monotonic()) > 0:
            self._link.settimeout(left)
            try:
                prefix = self._read(frames.LENGTHS.size)
                self._link.settimeout(5)
                header, body = frames.lengths(prefix)
                news = frames.unpack(self._read(header + body)[:header])
            except TimeoutError:
                return None
            if wanted(news):
                return news
        return None

    def ask(self, question: Question) -> list[dict[str, Any]]:
        """The rows that answer it."""
        self.send({"kind": "ask", "id": 1, "question": msgspec.to_builtins(question)})
        news = self.next(time.monotonic() + 30, lambda each: each["kind"] == "answer")
        if news is None or "rows" not in news:
            raise LabError(f"the recorder does not answer: {news}")
        found: list[dict[str, Any]] = news["rows"]
        return found

    def _read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            more = self._link.recv(size - len(found))
            if not more:
                raise LabError("the recorder has ended")
            found += more
        return found

    def _connected(self) -> socket.socket:
        end = time.monotonic() + STARTING
        while time.monotonic() < end:
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(str(self.socket))
                return link
            except OSError:
                link.close()
                time.sleep(0.05)
        raise LabError("the recorder does not listen")
