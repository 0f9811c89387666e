"""Who tries many ports or many hosts: sources by how many different targets did not answer them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .hashing import mixed
from .sketches import HyperLogLog
from .window import Window

TRACKED = 512
"""Sources that are watched at a time: those with most targets in a window."""
WINDOWS = 60
"""Windows over which targets are counted."""
LEAST = 100
"""Targets without an answer that make a scan."""
CANDIDATE = 8
"""Targets in one window from which on a source is watched."""


class Scan(NamedTuple):
    """A source that tried too much."""

    source: Any
    """Its address, as two columns of 64 bits."""
    row: int
    """A row of the window that is its."""
    targets: float
    hosts: float
    ports: float


class _Source:
    def __init__(self, address: Any) -> None:
        self.address = address
        self.targets, self.hosts, self.ports = HyperLogLog(), HyperLogLog(8), HyperLogLog(8)
        self.since = 0
        self.told = False


class Scans:
    """Watches sources over windows."""

    def __init__(self) -> None:
        self._sources: dict[int, _Source] = {}
        self._windows = 0

    def look(self, window: Window) -> list[Scan]:
        """The scans that have become apparent in this window, each once."""
        self._windows += 1
        self._sources = {key: source for key, source in self._sources.items() if self._windows - source.since < WINDOWS}
        # a flow of few packets that were not answered: a probe, not a stream
        rows = np.flatnonzero(
            (window.unanswered > 0) & (window.packets / np.maximum(window.samples, 1) * 4 >= window.packets)
        )
        if not len(rows):
            return []
        keys = mixed(window.src[rows])
        targets = mixed(np.column_stack((window.dst[rows], window.dport[rows], window.protocol[rows])))
        names, group = np.unique(keys, return_inverse=True)
        distinct = np.unique(np.column_stack((group.reshape(-1).astype(np.uint64), targets)), axis=0)
        counts = np.bincount(distinct[:, 0].astype(np.int64), minlength=len(names))
        found = []
        for place in np.argsort(counts)[::-1][:TRACKED].tolist():
            key = int(names[place])
            if key not in self._sources and (counts[place] < CANDIDATE or len(self._sources) >= TRACKED):
                continue
            mine = rows[group.reshape(-1) == place]
            scan = self._account(key, mine, window, targets[group.reshape(-1) == place])
            if scan is not None:
                found.append(scan)
        return found

    def _account(self, key: int, rows: Any, window: Window, targets: Any) -> Scan | None:
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = _Source(window.src[rows[0]])
            source.since = self._windows
        source.targets.add(targets)
        source.hosts.add(mixed(window.dst[rows]))
        source.ports.add(mixed(window.dport[rows].astype(np.uint64).reshape(-1, 1)))
        count = source.targets.count()
        if source.told or count < LEAST:
            return None
        source.told = True
        source.since = self._windows
        return Scan(source.address, int(rows[0]), count, source.hosts.count(), source.ports.count())
