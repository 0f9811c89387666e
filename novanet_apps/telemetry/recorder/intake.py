"""What becomes of a batch: enriched, looked at, told to followers, stored."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from novanet_apps.telemetry.decode.records import AGGREGATE

from .endpoints import Directory
from .enrichment import Enriched, Index
from .native import Column
from .rows import columns, endpoint_columns
from .storage import Storage

LOG = logging.getLogger(__name__)
ACTIVE = 60.0
"""Seconds without a flow after which a hypervisor counts as one that does not export."""
REFRESH = 0.5
"""Seconds between two times that the index is made anew."""
LOSSES = ("sequence", "kernel", "queue")


class Exporter:
    """What one exporter has sent since the start."""

    def __init__(self) -> None:
        self.rows = self.samples = self.packets = self.bytes = 0
        self.last = 0.0
        self.hypervisor = ""
        self.lost: dict[int, Mapping[str, int]] = {}
        """By worker."""


class Batch:
    """Rows with what is known of them."""

    def __init__(self, rows: Any, enriched: Enriched, index: Index, exporters: Sequence[str]) -> None:
        self.rows, self.enriched, self.index, self.exporters = rows, enriched, index, exporters


class Intake:
    """Takes what workers send. Everything runs in the recorder's event loop."""

    def __init__(self, directory: Directory, storage: Storage) -> None:
        self.directory, self.storage = directory, storage
        self.index = Index(directory)
        self.exporters: defaultdict[str, Exporter] = defaultdict(Exporter)
        self.counts: Counter[str] = Counter()
        self._made = 0.0
        self._active: dict[int, float] = {}
        self._stored: set[int] = set()
        self._exporters: defaultdict[int, dict[int, str]] = defaultdict(dict)
        """Address of each number, by worker."""

    def aggregates(self, header: Mapping[str, Any], body: bytes) -> Batch | None:
        """A frame of the kind ``aggregates``; None when it has no rows. Raises ValueError on one that is none."""
        worker = int(header.get("worker", 0))
        names = self._exporters[worker]
        names.update((int(number), str(told[0])) for number, told in dict(header.get("exporters", {})).items())
        for number, lost in dict(header.get("lost", {})).items():
            self.exporters[names.get(int(number), "")].lost[worker] = lost
        rows = np.frombuffer(body, AGGREGATE).copy()
        if not len(rows):
            return None
        # an exporter of flows tells of many packets in one record: what counts is how many of them it has seen itself
        rows["samples"] = np.maximum(rows["samples"], rows["packets"] // np.maximum(rows["rate"], 1))
        highest = max(int(rows["exporter"].max()), *names, 0)
        if highest > 1 << 20:
            raise ValueError(f"there is no exporter number {highest}")
        exporters = [names.get(number, "") for number in range(highest + 1)]
        index = self._index()
        now = time.time()
        active = {host for host, last in self._active.items() if now - last < ACTIVE}
        enriched = index.enrich(rows, exporters, active)
        self._active.update((int(host), now) for host in np.unique(enriched.host) if host >= 0)
        self._account(rows, exporters, enriched, now)
        self._store(rows, enriched, exporters, int(now))
        return Batch(rows, enriched, index, exporters)

    def counters(self, header: Mapping[str, Any]) -> None:
        """A frame of the kind ``counters``: what interfaces of exporters have counted."""
        items = [item for item in header.get("items", ()) if isinstance(item, dict)]
        found = [
            (str(item.get("exporter", "")), int(item.get("interface", 0)), name, int(value))
            for item in items
            for name, value in item.items()
            if name not in ("exporter", "interface") and isinstance(value, int) and value >= 0
        ]
        if found:
            exporters, interfaces, names, values = zip(*found, strict=True)
            self.storage.put("counters", {
                "time": Column("DateTime", np.full(len(found), int(time.time()))),
                "exporter": Column("String", list(exporters)), "interface": Column("UInt32", np.array(interfaces, np.uint64)),
                "name": Column("String", list(names)), "value": Column("UInt64", np.array(values, np.uint64)),
            })  # fmt: skip

    def lost(self) -> dict[str, dict[str, int]]:
        """What exporters' messages were lost, by exporter and where."""
        return {
            address: {name: sum(int(each.get(name, 0)) for each in exporter.lost.values()) for name in LOSSES}
            for address, exporter in self.exporters.items()
        }

    def _index(self) -> Index:
        if self.index.version != self.directory.version and time.monotonic() - self._made > REFRESH:
            hosts = [host.id for host in self.index.hosts]
            self.index = Index(self.directory)
            moved = {host.id: number for number, host in enumerate(self.index.hosts)}
            active = {moved[hosts[n]]: last for n, last in self._active.items() if hosts[n] in moved}
            self._active = active
            self._made = time.monotonic()
        return self.index

    def _account(self, rows: Any, exporters: Sequence[str], enriched: Enriched, now: float) -> None:
        self.counts["rows"] += len(rows)
        self.counts["batches"] += 1
        self.counts["unknown"] += int(((enriched.src < 0) & (enriched.dst < 0)).sum())
        for number in np.unique(rows["exporter"]).tolist():
            mine = rows["exporter"] == number
            exporter = self.exporters[exporters[number]]
            exporter.last = now
            exporter.rows += int(mine.sum())
            for name in ("samples", "packets", "bytes"):
                setattr(exporter, name, getattr(exporter, name) + int(rows[name][mine].sum()))
            host = int(enriched.host[mine][0])
            exporter.hypervisor = self.index.hosts[host].id if host >= 0 else ""

    def _store(self, rows: Any, enriched: Enriched, exporters: Sequence[str], now: int) -> None:
        ends = np.unique(np.concatenate((enriched.src, enriched.dst)))
        new = [n for n in ends.tolist() if n >= 0 and int(self.index.numbers[n]) not in self._stored]
        if new:
            self._stored.update(int(self.index.numbers[n]) for n in new)
            self.storage.put("endpoints", endpoint_columns(self.index, new, now))
        self.storage.put("flows", columns(rows, enriched, self.index, exporters, now))
