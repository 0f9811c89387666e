"""Looks at what comes, second by second, and makes events of what is odd."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from novanet_apps.telemetry.decode.records import AGGREGATE
from novanet_apps.telemetry.detection import features as f
from novanet_apps.telemetry.detection.detector import Detector
from novanet_apps.telemetry.detection.findings import Finding, sentence
from novanet_apps.telemetry.detection.forest import Outliers
from novanet_apps.telemetry.detection.hashing import mixed
from novanet_apps.telemetry.detection.scans import Scan, Scans
from novanet_apps.telemetry.detection.sketches import HeavyHitters
from novanet_apps.telemetry.detection.window import Answers, Window
from topology.ip_protocols import NAMES

from .enrichment import Index
from .live import text
from .native import Column

if TYPE_CHECKING:
    from .intake import Batch

MOST = 200_000
"""Rows of a second that are looked at."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something odd, as it is stored and told."""

    time: float
    id: str
    kind: str
    subject_kind: str
    """``port``, ``network``, ``service`` or ``address``."""
    subject: str
    """Id of the port or network; of a service its port's, protocol and number; or an address."""
    project: str
    score: float
    text: str
    detail: dict[str, Any]

    def told(self) -> dict[str, Any]:
        """As a map."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def columns(self) -> dict[str, Column]:
        """As a row of the table ``anomalies``."""
        found = {name: Column("String", [str(getattr(self, name))]) for name in ("id", "kind", "subject_kind", "subject", "project", "text")}  # fmt: skip
        return {
            **found, "time": Column("DateTime", np.array([int(self.time)])), "score": Column("Float64", np.array([self.score])),
            "detail": Column("String", [msgspec.json.encode(self.detail).decode()]),
        }  # fmt: skip


class _Names:
    """Numbers for ids, which stay the same when the index is made anew."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, id: str) -> int:
        if id not in self._numbers:
            self._numbers[id] = len(self.ids)
            self.ids.append(id)
        return self._numbers[id]


class Watch:
    """Takes batches, and once a second says what is odd."""

    def __init__(self, forest: bool = False) -> None:
        self.fired: Counter[str] = Counter()
        self._answers = Answers()
        self._scans = Scans()
        self._ports, self._networks = _Names(), _Names()
        self._detectors = {
            "port": Detector("flood"), "network": Detector("flood", 2.0), "out": Detector("outgoing-flood"),
            "service": Detector("surge"),
        }  # fmt: skip
        self._outliers = Outliers() if forest else None
        self._heavy = HeavyHitters()
        self._waiting: list[tuple[Any, Any, Any, Any, Any]] = []
        self._rows = 0
        self._version = -1
        self._port_of = self._network_of = np.full(1, -1)

    def take(self, batch: Batch) -> None:
        """A batch has come."""
        if self._rows > MOST:
            return
        self._renumber(batch.index)
        counted = batch.enriched.counted
        src, dst = batch.enriched.src[counted], batch.enriched.dst[counted]
        ends = self._port_of[src], self._port_of[dst], self._network_of[src], self._network_of[dst]
        self._waiting.append((batch.rows[counted], *ends))
        self._rows += int(counted.sum())

    def look(self, index: Index) -> list[Event]:
        """What is odd about what has come since the last look; called once a second."""
        waiting, self._waiting, self._rows = self._waiting, [], 0
        rows = np.concatenate([each[0] for each in waiting]) if waiting else np.zeros(0, AGGREGATE)
        src, dst, src_net, dst_net = (
            np.concatenate([each[n] for each in waiting]) if waiting else np.zeros(0, np.int64) for n in range(1, 5)
        )
        window = self._answers.window(rows, src, dst)
        self._weigh(window)
        now = time.time()
        names = {endpoint.port: endpoint for endpoint in index.endpoints} if waiting else {}
        return [
            *self._floods(window, names, now),
            *self._of_networks(window, src_net, dst_net, names, now),
            *self._surges(window, names, now),
            *(self._scan(scan, window, names, now) for scan in self._scans.look(window)),
        ]

    def _renumber(self, index: Index) -> None:
        if self._version != index.version:
            self._version = index.version
            self._port_of = np.array([*(self._ports.number(e.port) for e in index.endpoints), -1])
            self._network_of = np.array([*(self._networks.number(e.network) for e in index.endpoints), -1])

    def _weigh(self, window: Window) -> None:
        self._heavy.fade(0.5)
        odd = np.flatnonzero((window.unanswered > 0) & (window.dst_end >= 0))
        keys = mixed(np.column_stack((window.src[odd], window.dst_end[odd].astype(np.uint64))))
        self._heavy.add(
            keys, window.unanswered[odd], [(int(window.dst_end[n]), window.src[n].tobytes()) for n in odd.tolist()]
        )

    # --- by kind of subject --------------------------------------------------------------------------------------

    def _floods(self, window: Window, names: dict[str, Any], now: float) -> list[Event]:
        found = []
        for kind, ends in (("port", window.dst_end), ("out", window.src_end)):
            seen = f.features(window, (ends + 1).astype(np.uint64))
            findings = self._detectors[kind].look(seen)
            if kind == "port" and self._outliers is not None:
                findings += self._outliers.look(seen)
            for finding in findings:
                id = self._ports.ids[finding.subject - 1]
                heavy = self._heaviest(finding.subject - 1) if kind == "port" else ""
                found.append(self._event(finding, "port", id, _label(names, id), _project(names, id), now, heavy))
        return found

    def _of_networks(self, window: Window, src: Any, dst: Any, names: dict[str, Any], now: float) -> list[Event]:
        """Floods that no port alone shows: of many a little."""
        findings = self._detectors["network"].look(
            f.features(window, np.where(src == dst, 0, dst + 1).astype(np.uint64))
        )
        found = []
        for finding in findings:
            id = self._networks.ids[finding.subject - 1]
            inside = [endpoint for endpoint in names.values() if endpoint.network == id]
            ports = [self._ports.number(endpoint.port) + 1 for endpoint in inside]
            if all(self._detectors["port"].quiet(port) for port in ports):
                name = inside[0].network_name if inside else id
                found.append(self._event(finding, "network", id, f"network {name or id}", _owner(inside), now))
        return found

    def _surges(self, window: Window, names: dict[str, Any], now: float) -> list[Event]:
        service = f.service(window).astype(np.uint64)
        ours = (window.dst_end >= 0) & (service > 0)
        codes = ((window.dst_end + 1).astype(np.uint64) << np.uint64(24)) | (window.protocol.astype(np.uint64) << np.uint64(16)) | service  # fmt: skip
        found = []
        for finding in self._detectors["service"].look(f.features(window, np.where(ours, codes, np.uint64(0)))):
            id = self._ports.ids[(finding.subject >> 24) - 1]
            protocol = finding.subject >> 16 & 0xFF
            name = f"{NAMES.get(protocol, protocol)}/{finding.subject & 0xFFFF}"
            if self._detectors["port"].quiet(finding.subject >> 24):
                label = f"{name} of {_label(names, id)}"
                found.append(self._event(finding, "service", f"{id}/{name}", label, _project(names, id), now))
        return found

    def _scan(self, scan: Scan, window: Window, names: dict[str, Any], now: float) -> Event:
        end = int(window.src_end[scan.row])
        address = text(scan.source.tobytes())
        id = self._ports.ids[end] if end >= 0 else address
        victim = int(window.dst_end[scan.row])
        project = _project(names, id) or (_project(names, self._ports.ids[victim]) if victim >= 0 else "")
        numbers = {
            "targets": round(scan.targets),
            "hosts": round(scan.hosts),
            "ports": round(scan.ports),
            "source": address,
        }
        finding = Finding("scan", end, scan.targets / 100, numbers)
        kind, label = ("port", f"{_label(names, id)} ({address})") if end >= 0 else ("address", address)
        return self._event(finding, kind, id, label, project, now)

    def _heaviest(self, subject: int) -> str:
        return next((text(address) for (end, address), _ in self._heavy.top(64) if end == subject), "")

    def _event(
        self, finding: Finding, kind: str, subject: str, label: str, project: str, now: float, heavy: str = ""
    ) -> Event:
        self.fired[finding.kind] += 1
        detail = {**finding.numbers, "heaviest_source": heavy} if heavy else finding.numbers
        return Event(
            time=now, id=secrets.token_hex(8), kind=finding.kind, subject_kind=kind, subject=subject, project=project,
            score=round(finding.score, 2), text=sentence(finding, label, heavy), detail=detail,
        )  # fmt: skip


def _label(names: dict[str, Any], id: str) -> str:
    endpoint = names.get(id)
    return f"port {endpoint.name}" if endpoint is not None and endpoint.name else f"port {id}"


def _project(names: dict[str, Any], id: str) -> str:
    endpoint = names.get(id)
    return endpoint.project if endpoint is not None else ""


def _owner(inside: list[Any]) -> str:
    """The project of a network, where all ports are of one."""
    projects = {endpoint.project for endpoint in inside}
    return projects.pop() if len(projects) == 1 else ""
