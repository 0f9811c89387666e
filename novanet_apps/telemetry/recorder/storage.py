"""Writes batches to the tables, in a thread of its own, and keeps going when that fails.

What comes within an interval is one batch: a crash loses that one at most, since an INSERT that has returned is on disk. When
the disk is full, or the server away, the batch is tried again, what comes meanwhile is kept up to a bound, and then the oldest
is dropped and counted. Nothing here ever blocks whoever brings rows.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .engines import Engine, EngineError
from .native import Column

LOG = logging.getLogger(__name__)
RETRY = 2.0
"""Seconds between two tries."""


class Piece(NamedTuple):
    """Rows for one table."""

    table: str
    columns: Mapping[str, Column]
    rows: int


class Counts:
    """What became of rows since the start."""

    def __init__(self) -> None:
        self.stored = 0
        self.lost = 0
        self.batches = 0
        self.failures = 0
        self.alarm = ""
        """Why rows cannot be stored now; empty when they can."""
        self.since = 0.0
        """When the alarm began, in Unix seconds."""


class Storage:
    """Takes pieces from any thread; ``on_alarm(text)`` is called, by the writing thread, when an alarm begins or (empty) ends."""

    def __init__(
        self, engine: Engine, directory: Path | None, *,
        interval: float = 1.0, held: int = 500_000, spare: int = 512 << 20, on_alarm: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """``directory``: on the disk to be watched; ``held``: rows kept while nothing can be stored; ``spare``: bytes left free."""
        self.counts = Counts()
        self._engine, self._directory = engine, directory
        self._interval, self._held, self._spare = interval, held, spare
        self._on_alarm = on_alarm
        self._waiting: deque[Piece] = deque()
        self._rows = 0
        self._guard = threading.Lock()
        self._wake = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="storage", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that are not stored yet."""
        return self._rows

    def put(self, table: str, columns: Mapping[str, Column]) -> None:
        """Have rows stored soon."""
        rows = len(next(iter(columns.values())).values)
        if not rows:
            return
        with self._guard:
            self._waiting.append(Piece(table, columns, rows))
            self._rows += rows
            while self._rows > self._held and len(self._waiting) > 1:
                dropped = self._waiting.popleft()
                self._rows -= dropped.rows
                self.counts.lost += dropped.rows

    def close(self, patience: float = 5.0) -> None:
        """Store what waits, and end."""
        self._ending = True
        self._wake.set()
        self._thread.join(patience)

    # --- in the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait(RETRY if self.counts.alarm else self._interval)
            last = self._ending
            self._store()
            if last:
                return

    def _store(self) -> None:
        """Everything that waits, one INSERT a table."""
        with self._guard:
            taken = list(self._waiting)
            self._waiting.clear()
        by_table: dict[str, list[Piece]] = {}
        for piece in taken:
            by_table.setdefault(piece.table, []).append(piece)
        # endpoints before the flows that name them
        for table in sorted(by_table, key=lambda name: name != "endpoints"):
            pieces = by_table[table]
            rows = sum(piece.rows for piece in pieces)
            try:
                self._check_room()
                self._engine.insert(table, _joined([piece.columns for piece in pieces]))
            except EngineError as problem:
                self._failed(str(problem), [piece for name in by_table for piece in by_table[name]])
                return
            except Exception:
                LOG.exception("%d rows of %s are lost: they cannot be written", rows, table)
                self._forget(rows)
                self.counts.lost += rows
            else:
                self._forget(rows)
                self.counts.stored += rows
                self.counts.batches += 1
            by_table[table] = []
        if taken and self.counts.alarm:
            LOG.warning("telemetry is stored again, after %.0f s", time.time() - self.counts.since)
            self.counts.alarm = ""
            self._on_alarm("")

    def _forget(self, rows: int) -> None:
        with self._guard:
            self._rows -= rows

    def _check_room(self) -> None:
        """Raises EngineError when the disk, which may be the intent store's too, would be filled up."""
        if self._directory is None:
            return
        try:
            found = os.statvfs(self._directory)
        except OSError as problem:
            raise EngineError(f"{self._directory}: {problem.strerror}") from None
        free = found.f_bavail * found.f_frsize
        if free < self._spare:
            raise EngineError(
                f"the disk of {self._directory} is full: {free >> 20} MiB are free, {self._spare >> 20} MiB are kept free"
            )

    def _failed(self, why: str, pieces: list[Piece]) -> None:
        self.counts.failures += 1
        with self._guard:
            self._waiting.extendleft(reversed(pieces))
        if not self.counts.alarm:
            self.counts.since = time.time()
            LOG.error("telemetry is not stored: %s; %d rows wait", why, self._rows)
            self._on_alarm(why)
        self.counts.alarm = why


def _joined(blocks: list[Mapping[str, Column]]) -> dict[str, Column]:
    """Blocks of the same table, one below the other."""
    if len(blocks) == 1:
        return dict(blocks[0])
    found = {}
    for name, (type_, _) in blocks[0].items():
        values = [each[name].values for each in blocks]
        plain: Any = isinstance(values[0], list)
        found[name] = Column(type_, [v for each in values for v in each] if plain else np.concatenate(values))
    return found
