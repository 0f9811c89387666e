"""The embedded store: a private ovsdb-server on ``state_dir/intent.db``, kept alive while the controller lives.

It listens on a unix socket below a directory that only this user may enter. It dies with the controller, however that
ends (PR_SET_PDEATHSIG, prctl(2)), and is started anew when it dies itself. The database file is locked by the server
that has it open (ovsdb-server(1)), so one that comes after waits for its predecessor to be gone.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import os
import signal
import time
from typing import Any

import eventlet
from eventlet import hubs
from eventlet.green import subprocess

from novanet_apps.intent.settings import StoreError, StoreSettings
from novanet_apps.ovsdb.link import OvsdbError, call, connect
from topology.schema import schema

LOG = logging.getLogger(__name__)

BACKOFF = 0.1, 5.0
"""Seconds before the server is started again: at first, and at most."""
STEADY = 10.0
"""Seconds after which a server counts as having started well."""
STOP_TIMEOUT = 3.0
LOG_LIMIT = 10 << 20
"""Bytes of the server's log, which then becomes ``.1`` in place of the one before."""
LOG_CHECK = 60.0
SAID_LINES = 4
"""Last lines of stderr that are shown when the server has ended by itself."""

_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl


class EmbeddedServer:
    """The child process and the greenlets that look after it."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self.directory = settings.state_dir
        self.database = self.directory / "intent.db"
        self.log = self.directory / "ovsdb-server.log"
        self._run = self.directory / "run"
        self.remote = f"unix:{self._run / 'intent.sock'}"
        self.error = ""
        """Why no server runs; "" while one does."""
        self.starts = 0
        self._process: Any = None
        self._greenlets: list[Any] = []

    @property
    def pid(self) -> int | None:
        """Process id of the server; None while none runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Begin to run the server. Raises StoreError when it cannot be tried: no program, no directory."""
        program = self._settings.program("ovsdb-server")
        self._settings.program("ovsdb-tool")
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._run.mkdir(mode=0o700, exist_ok=True)
            self._run.chmod(0o700)
        except OSError as problem:
            raise StoreError(
                f"{problem.filename or self.directory}: {problem.strerror}: set state_dir to a directory that is yours"
            ) from None
        self._greenlets = [eventlet.spawn(self._supervise, program), eventlet.spawn(self._limit_log)]

    def stop(self) -> None:
        """End the server and wait until it is gone."""
        for greenlet in self._greenlets:
            greenlet.kill()
        self._greenlets = []
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _supervise(self, program: str) -> None:
        shortest, longest = BACKOFF
        pause = shortest
        while True:
            began = time.monotonic()
            try:
                self._create()
                self._process = self._spawn(program)
                self.starts += 1
                said = self._await_end(self._process)
                self.error = self._explain(self._process.returncode, said)
            except StoreError as problem:
                self.error = str(problem)
            except OSError as problem:
                self.error = f"{program}: {problem.strerror or problem}"
            self._process = None
            pause = shortest if time.monotonic() - began > STEADY else pause
            LOG.error("intent store: %s; next start in %.1f s", self.error, pause)
            eventlet.sleep(pause)
            pause = min(2 * pause, longest)

    def _create(self) -> None:
        """Make the database when there is none, whole or not at all."""
        if self.database.exists():
            return
        description = self.directory / "novanet.ovsschema"
        fresh = self.directory / f"intent.db.{os.getpid()}.new"
        fresh.unlink(missing_ok=True)
        description.write_text(json.dumps(schema(), indent=2))
        made = subprocess.run(
            [self._settings.program("ovsdb-tool"), "create", str(fresh), str(description)],
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if made.returncode:
            raise StoreError(f"{self.database} cannot be made: {made.stderr.strip()}")
        try:
            os.link(fresh, self.database)
        except FileExistsError:
            pass  # another controller was faster
        finally:
            fresh.unlink()
            (self.directory / f".{fresh.name}.~lock~").unlink(missing_ok=True)

    def _spawn(self, program: str) -> Any:
        return subprocess.Popen(
            [
                program, "-vconsole:warn", "-vsyslog:off", "-vfile:info", f"--log-file={self.log}",
                f"--unixctl={self._run / 'intent.ctl'}", f"--remote=p{self.remote}", str(self.database),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            preexec_fn=_die_with(os.getpid()), cwd=self.directory,
        )  # fmt: skip

    def _await_end(self, process: Any) -> str:
        """Wait for the process to end; the last warnings and errors that it put on stderr, on one line."""
        self.error = ""
        said = b""
        while chunk := _read(process.stderr.fileno()):
            said = (said + chunk)[-4000:]
        process.wait()
        process.stderr.close()
        lines = said.decode(errors="replace").splitlines()[-SAID_LINES:]
        return "; ".join(line.split("|", 4)[-1] for line in lines)

    def _explain(self, code: int, said: str) -> str:
        if code < 0:
            return f"ovsdb-server was killed by {signal.Signals(-code).name} (see {self.log})"
        if "lock" in said:
            return f"{self.database} is in use by another ovsdb-server (a controller with the same state_dir?): {said}"
        return f"ovsdb-server ended with status {code}: {said} (see {self.log})"

    def _limit_log(self) -> None:
        while True:
            try:
                if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
                    self.log.replace(self.log.with_suffix(".log.1"))
                    self._control("vlog/reopen")
            except (OSError, OvsdbError) as problem:
                LOG.warning("%s cannot be rotated: %s", self.log, problem)
            eventlet.sleep(LOG_CHECK)

    def _control(self, command: str) -> None:
        """Give the server a command (ovs-appctl(8))."""
        connection = connect([f"unix:{self._run / 'intent.ctl'}"], STOP_TIMEOUT)
        try:
            call(connection, command, [], STOP_TIMEOUT)
        finally:
            connection.close()


def _die_with(parent: int) -> Any:
    """To be called in a new child: end it when the process ``parent`` ends."""

    def arrange() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def _read(fd: int) -> bytes:
    """Read from a pipe; other greenlets run meanwhile. Empty at its end."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)
    while True:
        try:
            return os.read(fd, 4096)
        except BlockingIOError:
            hubs.trampoline(fd, read=True)
