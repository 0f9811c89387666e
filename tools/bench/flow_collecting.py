"""How many flow samples or records a second of processor takes a collector, of what comes fastest with nothing lost."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tools.bench.compiling import compiled
from tools.bench.exports import Load, Totals
from tools.bench.flow_collectors import PORT, Collector, Nfdump, Ours, Pmacct
from tools.bench.report import line
from tools.lab.errors import LabError

RATES = (200_000, 140_000, 100_000, 70_000, 50_000, 35_000, 25_000, 18_000, 12_000, 8_000)
"""Datagrams a second that are tried, from the first on, until nothing is lost."""


class Found(NamedTuple):
    """Of one run."""

    rate: int
    sent: Totals
    stored: Totals
    drops: int
    cpu: dict[str, float]

    def lossless(self, held: int) -> bool:
        """Whether all but ``held`` records are stored, with their packets."""
        missing = self.sent.records - self.stored.records
        return (
            0 <= missing <= held and self.stored.packets * self.sent.records == self.sent.packets * self.stored.records
        )


def measure(bench: str, load: Load, seconds: float) -> int:
    """Print the results. Raises LabError when a collector's totals are not what was sent, at any rate."""
    with tempfile.TemporaryDirectory(prefix="novanet-bench-") as directory:
        sender = Path(compiled("datagrams.c", Path(directory)))
        ring = load.write(Path(directory) / "ring")
        found: dict[type[Collector], Found] = {
            kind: _fastest(kind, load, seconds, sender, ring) for kind in (Ours, Nfdump, Pmacct)
        }
    unit = "samples" if load.name == "sFlow" else "records"
    names = {kind: kind(load).name for kind in found}
    ours = found[Ours]
    for kind in (k for k in found if k is not Ours):
        theirs = _figure(found[kind], sum(found[kind].cpu.values()))
        told = ("socket to sums", ours.cpu["collector"]), ("socket to stored", sum(ours.cpu.values()))
        for case, cpu in told:
            line(
                bench,
                f"{case}, {unit} a second of processor",
                _figure(ours, cpu),
                names[kind],
                theirs,
                f"{unit}/s",
                higher_is_better=True,
            )
    for kind, each in found.items():
        line(
            bench,
            f"most without loss, {names[kind]}",
            each.rate * load.of_each[0].records,
            None,
            None,
            f"{unit}/s",
            higher_is_better=True,
        )
        same = each.stored.bytes / each.sent.bytes
        line(bench, f"bytes counted of bytes sent, {names[kind]}", same, None, None, "share", higher_is_better=True)
    return 0


def _figure(found: Found, cpu: float) -> float:
    return found.stored.records / cpu


def _fastest(kind: type[Collector], load: Load, seconds: float, sender: Path, ring: Path) -> Found:
    tried = []
    for rate in RATES:
        with kind(load) as collector:
            found = _once(collector, load, rate, int(rate * seconds), sender, ring)
        if found.lossless(collector.held):
            return found
        tried.append(f"{rate}: {found.stored.records} of {found.sent.records} stored, {found.drops} datagrams dropped")
    raise LabError(f"{kind(load).name} loses something at any rate: {'; '.join(tried)}")


def _once(collector: Collector, load: Load, rate: int, count: int, sender: Path, ring: Path) -> Found:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as templates:
        for each in load.first:
            templates.sendto(each, ("127.0.0.1", PORT))
    time.sleep(0.5)
    before = collector.cpu()
    words = [str(ring), str(PORT), str(rate), str(count), str(load.offset), str(load.step)]
    done = subprocess.run(["taskset", "-c", "1", str(sender), *words], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"datagrams cannot be sent: {done.stderr.strip()}")
    told = json.loads(done.stdout)
    time.sleep(1.5)
    after = collector.cpu()
    drops = collector.drops()
    stored = collector.totals()
    cpu = {part: after[part] - before[part] for part in after}
    return Found(round(told["sent"] / told["seconds"]), load.totals(count), stored, drops, cpu)
