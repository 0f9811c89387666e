"""Processes of a lab: they start inside a namespace, carry the lab's mark, and end when the lab's owner ends.

Every process gets the parent-death signal (prctl(2), PR_SET_PDEATHSIG), which the kernel sends when the *thread* that
started it ends. So one thread, which lives as long as this process, starts them all; entering a namespace is a matter
of that thread too, and nobody else's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

from tools.lab import namespaces
from tools.lab.errors import LabError

MARK = "NOVANET_LAB"
"""Environment variable that names the lab which a process belongs to; children of children inherit it."""

T = TypeVar("T")
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lab-starter")


def environment(lab: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, with the lab's mark and the directories where system programs live."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return {**os.environ, "PATH": path, MARK: lab, **(extra or {})}


def spawn(
    argv: Sequence[str],
    *,
    lab: str,
    namespace: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    text: bool = False,
) -> subprocess.Popen[Any]:
    """Start a process in a network namespace (this process's when None); it is killed when this process ends.

    It has a session of its own, so that Ctrl-C reaches the owner alone, who ends things in order.

    Raises LabError when the program does not exist.
    """

    def start() -> subprocess.Popen[Any]:
        with namespaces.entered(namespace):
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *argv],
                env=environment(lab, env), stdin=stdin, stdout=stdout, stderr=stderr, text=text, start_new_session=True,
            )  # fmt: skip

    try:
        return _STARTER.submit(start).result()
    except FileNotFoundError as error:
        raise LabError(f"cannot start {argv[0]}: {error}") from error


def run(
    argv: Sequence[str],
    *,
    lab: str = "",
    namespace: str | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    input: str | None = None,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it printed.

    Raises LabError with the program's own words when ``check`` is set and it fails, and when it takes longer than
    ``timeout`` seconds (it is killed then).
    """
    stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
    process = spawn(
        argv, lab=lab, namespace=namespace, env=env,
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(input, timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        where = f" in {namespace}" if namespace else ""
        raise LabError(f"`{' '.join(argv)}`{where} did not end within {timeout:g} s: {out}{err}") from None
    except BaseException:
        process.kill()
        process.wait()
        raise
    if check and process.returncode:
        where = f" in {namespace}" if namespace else ""
        raise LabError(f"`{' '.join(argv)}`{where} failed ({process.returncode}): {(err or out).strip()}")
    return subprocess.CompletedProcess(list(argv), process.returncode, out, err)


def until(condition: Callable[[], T | None], what: str, timeout: float = 20.0, interval: float = 0.005) -> T:
    """Wait until ``condition`` returns something true, and return that.

    Raises LabError("... did not happen") after ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise LabError(f"{what}: did not happen within {timeout:g} s")
        time.sleep(interval)


def end(process: subprocess.Popen[Any] | None, how: signal.Signals = signal.SIGTERM, timeout: float = 10.0) -> None:
    """Signal a process and wait until it is gone; killed when that takes longer than ``timeout`` seconds."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(how)
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_all(processes: Iterable[subprocess.Popen[Any]]) -> None:
    """Kill processes, and wait until all are gone."""
    ending = list(processes)
    for process in ending:
        process.kill()
    for process in ending:
        process.wait()


def marked(lab: str) -> list[int]:
    """Ids of the live processes that belong to a lab, by their mark. This process itself is never among them."""
    mark = f"{MARK}={lab}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0") and alive(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def kill_marked(lab: str, timeout: float = 10.0) -> None:
    """Kill every process of a lab, those that detached themselves included, and wait until they are gone."""

    def gone() -> bool:
        left = marked(lab)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not left

    until(gone, f"end of the processes of lab {lab}", timeout)


def start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None when there is none. Tells a process id used again."""
    fields = _stat(pid)
    return fields[19] if fields else None


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not reaped yet does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in ("Z", "X")


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the third field on (proc(5)); the second may hold anything but ends with the last ``)``."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
