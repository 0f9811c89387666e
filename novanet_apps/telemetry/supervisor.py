"""Runs the processes of telemetry: starts them, starts them anew when they end, and ends them with the controller."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import eventlet
from eventlet.green import subprocess

LOG = logging.getLogger(__name__)

BACKOFF = 0.2, 30.0
"""Seconds before a process is started again: at first, and at most."""
STEADY = 10.0
"""Seconds after which a process counts as having started well."""
STOP_TIMEOUT = 6.0
SAID = 2000
"""Bytes of what a process said last that are shown when it has ended."""


class Child:
    """One process, kept running."""

    def __init__(self, name: str, module: str, arguments: Callable[[], Sequence[str]], log: Path) -> None:
        """``arguments`` is asked for at every start; ``log`` gets what the process says."""
        self.name, self._module, self._arguments, self._log = name, module, arguments, log
        self.error = ""
        """Why it does not run; empty while it does."""
        self.starts = 0
        self._process: Any = None
        self._greenlet: Any = None

    @property
    def pid(self) -> int | None:
        """Process id; None while it does not run."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Begin to run it."""
        self._greenlet = eventlet.spawn(self._supervise)

    def hang_up(self) -> None:
        """Have it read again what it was told in files."""
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it and wait until it is gone."""
        if self._greenlet is not None:
            self._greenlet.kill()
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _supervise(self) -> None:
        shortest, longest = BACKOFF
        pause = shortest
        while True:
            began = time.monotonic()
            try:
                self._process = self._spawn()
                self.starts += 1
                self.error = ""
                status = self._process.wait()
                self.error = f"it ended with status {status}: {self._said()}"
            except OSError as problem:
                self.error = f"it cannot be started: {problem}"
            self._process = None
            pause = shortest if time.monotonic() - began > STEADY else pause
            LOG.error("telemetry: %s: %s; next start in %.1f s", self.name, self.error, pause)
            eventlet.sleep(pause)
            pause = min(2 * pause, longest)

    def _spawn(self) -> Any:
        command = [sys.executable, "-m", self._module, *self._arguments(), "--parent", str(os.getpid())]
        self._log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._log.exists() and self._log.stat().st_size > 10 << 20:
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(), start_new_session=True
            )

    def _said(self) -> str:
        try:
            lines = self._log.read_bytes()[-SAID:].decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else "it said nothing"


def _environment() -> dict[str, str]:
    """Ours, with this code to be found where it was found for us."""
    root = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root}
