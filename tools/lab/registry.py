"""Which labs there are on this machine, who owns them, and the removal of those whose owner is gone."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.lab import namespaces, processes
from tools.lab.errors import LabError

DIRECTORY = Path("/run/novanet-lab")
NAMESPACE_PREFIX = "nn-"
_RUN_ID = re.compile(r"[a-z0-9]{1,12}")


@dataclass(frozen=True)
class Record:
    """One lab. ``owner`` and ``started`` name the process that made it; ``directory`` holds its files."""

    run_id: str
    owner: int
    started: str
    directory: str

    @property
    def namespace_prefix(self) -> str:
        return f"{NAMESPACE_PREFIX}{self.run_id}-"

    @property
    def stale(self) -> bool:
        """Whether the owner is gone (a new process with its number does not count)."""
        return not processes.alive(self.owner) or processes.start_time(self.owner) != self.started


def require_root() -> None:
    """Raises LabError when this process may not make labs."""
    if os.geteuid() != 0:
        raise LabError("a lab makes network namespaces and needs root: run it with sudo")


def claim(run_id: str | None, base: Path) -> Record:
    """Register a lab of this process, before anything of it exists; makes its directory below ``base``.

    Raises LabError when the run id is taken or no run id.
    """
    name = run_id or secrets.token_hex(3)
    if not _RUN_ID.fullmatch(name):
        raise LabError(f"run id {name!r}: must be 1 to 12 of a-z, 0-9")
    directory = base / f"novanet-lab-{name}"
    record = Record(name, os.getpid(), processes.start_time(os.getpid()) or "", str(directory))
    DIRECTORY.mkdir(exist_ok=True)
    partial = DIRECTORY / f".{name}.{os.getpid()}"
    partial.write_text(json.dumps(asdict(record)))
    try:
        os.link(partial, _path(name))  # appears whole, and only once
    except FileExistsError:
        raise LabError(f"run id {name!r} is taken by another lab (`novanet-lab list`)") from None
    finally:
        partial.unlink()
    directory.mkdir(parents=True)
    return record


def records() -> list[Record]:
    """Every lab of this machine."""
    found = []
    for path in sorted(DIRECTORY.glob("*.json")) if DIRECTORY.exists() else []:
        try:
            found.append(Record(**json.loads(path.read_text())))
        except FileNotFoundError:
            continue  # removed meanwhile
    return found


def remove(record: Record) -> None:
    """Remove all that a lab has: processes, namespaces, files, and last its record."""
    processes.kill_marked(record.run_id)
    namespaces.delete(namespaces.names(record.namespace_prefix))
    shutil.rmtree(record.directory, ignore_errors=True)
    _path(record.run_id).unlink(missing_ok=True)


def clean() -> list[Record]:
    """Remove the labs whose owners are gone; returns what was removed."""
    DIRECTORY.mkdir(exist_ok=True)
    with (DIRECTORY / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time
        stale = [record for record in records() if record.stale]
        for record in stale:
            remove(record)
    return stale


def _path(run_id: str) -> Path:
    return DIRECTORY / f"{run_id}.json"
