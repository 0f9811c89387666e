"""A controller process for tests: ``ryu-manager`` with ``engine_app``, and calls into it."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 30.0
"""Seconds that anything here may take on a loaded machine."""

COMMAND = [sys.executable, "-c", "import sys; from novanet_apps.compat import ryu_manager; sys.exit(ryu_manager())"]
"""What the installed script ``ryu-manager`` does."""


def until(condition: Callable[[], Any], what: str | Callable[[], str], deadline: float = DEADLINE) -> Any:
    """Wait until ``condition`` is true and return its value; AssertionError after the deadline."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {deadline:g} s: {what() if callable(what) else what}"
        time.sleep(0.02)


class Controller:
    """One run of ryu-manager; what it writes to stderr is in ``log``."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.control = directory / f"control.{time.monotonic_ns()}"
        self._stderr = directory / f"controller.{time.monotonic_ns()}.log"
        with self._stderr.open("wb") as output:
            self.process = subprocess.Popen(
                [*COMMAND, *options, "tests.switch.engine_app"], cwd=ROOT, stdout=output, stderr=output,
                env=os.environ | {"NOVANET_TEST_CONTROL": str(self.control)},
            )  # fmt: skip
        self._stream: Any = None
        until(lambda: "OpenFlow listens" in self.log or self.process.poll() is not None, "the controller listens")
        assert self.process.poll() is None, self.log
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE)
        connection.connect(str(self.control))
        self._stream = connection.makefile("rwb")
        connection.close()

    @property
    def log(self) -> str:
        return self._stderr.read_text(errors="replace")

    @property
    def port(self) -> int:
        """Port of the first TCP or TLS listener."""
        found = re.search(r"OpenFlow listens on p(?:tcp|ssl):(\d+)", self.log)
        assert found, self.log
        return int(found[1])

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the app or of its engine."""
        pickle.dump((name, arguments), self._stream)
        self._stream.flush()
        good, value = pickle.load(self._stream)
        assert good, value
        return value

    def counters(self) -> dict[str, Any]:
        """The engine's counters."""
        found: dict[str, Any] = self.call("get", "engine.counters")
        return found

    def settled(self, hypervisor: str, *owners: tuple[str, str]) -> None:
        """Wait until the bridge has confirmed what these owners want."""
        until(
            lambda: not any(self.call("pending", hypervisor, owner) for owner in owners),
            f"{owners} on {hypervisor} confirmed",
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the process; returns its exit status."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE)
