"""Network namespaces: made and removed by ip(8), entered by setns(2)."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tools.lab.errors import LabError

DIRECTORY = Path("/run/netns")
"""Where ip(8) keeps names of namespaces."""
CLONE_NEWNET = 0x40000000

T = TypeVar("T")
_LIBC = ctypes.CDLL(None, use_errno=True)


def ip(lines: Iterable[str], namespace: str | None = None) -> None:
    """Run lines of ip(8) commands in one process (``ip -batch``), in a namespace; nothing when there are none.

    Raises LabError with ip's complaint and the line that it is about.
    """
    batch = list(lines)
    if not batch:
        return
    where = ["-n", namespace] if namespace else []
    try:
        # Not through processes.run: it is short, needs no mark, and is wanted while Python itself ends.
        done = subprocess.run(
            ["ip", *where, "-batch", "-"], input="\n".join(batch) + "\n", capture_output=True, text=True
        )
    except FileNotFoundError:
        raise LabError("ip is missing: install iproute2") from None
    if done.returncode:
        number = done.stderr.rpartition("Command failed -:")[2].strip()
        line = batch[int(number) - 1] if number.isdigit() else "; ".join(batch)
        raise LabError(f"`ip {' '.join([*where, line])}` failed: {done.stderr.strip()}")


def names(prefix: str) -> list[str]:
    """Names of the namespaces that start with ``prefix``."""
    return sorted(entry.name for entry in DIRECTORY.glob(f"{prefix}*")) if DIRECTORY.exists() else []


def delete(namespaces: Iterable[str]) -> None:
    """Remove the names; the kernel removes the namespaces, and all interfaces within, once no process is in them."""
    ip(f"netns del {name}" for name in namespaces)


@contextmanager
def entered(name: str | None) -> Iterator[None]:
    """The calling *thread* is in the namespace; nothing happens when ``name`` is None."""
    if name is None:
        yield
        return
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _set(DIRECTORY / name)
        try:
            yield
        finally:
            _set_fd(before, "where it was")
    finally:
        os.close(before)


def inside(name: str, function: Callable[[], T]) -> T:
    """What ``function`` returns when a thread of its own runs it in the namespace. Sockets that it opens stay there."""
    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            _set(DIRECTORY / name)
            result.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, name=f"in-{name}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def sysctl(name: str, settings: dict[str, object]) -> None:
    """Set network parameters in a namespace; keys are paths below /proc/sys/net."""

    def write() -> None:
        for key, value in settings.items():
            Path("/proc/sys/net", key).write_text(str(value))

    inside(name, write)


def _set(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise LabError(f"there is no network namespace {path.name}") from None
    try:
        _set_fd(fd, path.name)
    finally:
        os.close(fd)


def _set_fd(fd: int, what: str) -> None:
    if _LIBC.setns(fd, CLONE_NEWNET):
        code = ctypes.get_errno()
        raise LabError(f"cannot enter network namespace {what}: {os.strerror(code)} (a lab needs root)")
