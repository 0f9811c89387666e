"""How well attacks are found: precision and recall on labelled attacks in recorded traffic, and the time to the event.

*Precision and recall.* Seconds of background (``recorded``) for twenty VMs, into which attacks of known kind, victim and rate are
mixed, one a run; an event counts as right when it is about the attack's victim or attacker, while it goes on or within five
seconds after. Runs without an attack, and a download of 20 hours, count what is told without cause.

*Time.* The recorder runs as it does in production. The benchmark plays the collectors, that drain every second: a flood begins
at some moment of a second, and what there was of it is sent with the others at its end. The time is that from the first packet to
the event at the controller's end of the socket.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from novanet_apps.telemetry.decode.records import AGGREGATE
from novanet_apps.telemetry.recorder.endpoints import Directory
from novanet_apps.telemetry.recorder.enrichment import Index
from novanet_apps.telemetry.recorder.intake import Batch
from novanet_apps.telemetry.recorder.watch import Event, Watch
from tools.bench import recorded
from tools.bench.recorder import Recorder
from tools.bench.report import line
from tools.lab.errors import LabError

VMS = 20
"""Each is flooded once at most, as who has fired is told again only after a while."""
WARM = 60
"""Seconds of background before an attack."""
LASTS = 15
EXPORTER = "10.9.0.1"


class Attack(NamedTuple):
    """What is mixed in: ``rows(second, chance)`` of each second, and whom an event has to be about."""

    name: str
    kinds: tuple[str, ...]
    subjects: tuple[str, ...]
    rows: Callable[[Any], Any]


def main(arguments: Sequence[str] = ()) -> int:
    """Options: --runs N of each attack, --floods N for the time, --hours of the download, --recorded DIRECTORY."""
    parser = argparse.ArgumentParser(prog="detection")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--floods", type=int, default=15, choices=range(1, VMS + 1), metavar="N")
    parser.add_argument("--hours", type=float, default=20.0)
    parser.add_argument("--recorded", type=Path, default=recorded.FLOWS)
    options = parser.parse_args(arguments)
    flows = recorded.flows(options.recorded)
    _quality(flows, options.runs)
    told = download(options.hours)
    line(
        "detection", f"a steady download of {options.hours:g} hours", told, None, None, "events", higher_is_better=False
    )
    seconds = _times(flows, options.floods)
    line(
        "detection",
        "first packet to event, median",
        statistics.median(seconds),
        None,
        None,
        "s",
        higher_is_better=False,
    )
    line("detection", "first packet to event, longest", max(seconds), None, None, "s", higher_is_better=False)
    return 0


# --- precision and recall ------------------------------------------------------------------------------------------


def attacks(rate: int) -> list[Attack]:
    """One of each kind, of so many packets a second; scans try a hundredth of it."""
    victim, probes = 3, max(8, rate // 100)
    everybody = tuple(f"vm{n}" for n in range(1, VMS + 1))
    return [
        Attack("SYN flood, forged sources", ("flood",), ("vm3",), lambda c: _flood(c, rate, victim, protocol=6, tcp_flags=2, dport=80)),
        Attack("UDP flood, 50 sources", ("flood",), ("vm3",), lambda c: _flood(c, rate, victim, sources=50, protocol=17, dport=9)),
        Attack("UDP flood, one source", ("flood",), ("vm3",), lambda c: _flood(c, rate, victim, sources=1, protocol=17, dport=9)),
        Attack("NTP amplification", ("flood",), ("vm3",), lambda c: _flood(c, rate, victim, sources=200, protocol=17, sport=123, dport=7)),
        Attack("ICMP flood", ("flood",), ("vm3",), lambda c: _flood(c, rate, victim, sources=5, protocol=1, sport=0, dport=0)),
        Attack("flood by a VM", ("outgoing-flood",), ("vm5",), lambda c: _outgoing(c, rate)),
        Attack("flood of a network", ("flood",), ("blue", *everybody), lambda c: _flood(c, 2 * rate, None, protocol=17, dport=9)),
        Attack("scan of ports", ("scan",), ("203.0.0.1",), lambda c: _scan(c, probes, hosts=1)),
        Attack("scan of hosts", ("scan",), ("203.0.0.1",), lambda c: _scan(c, probes, hosts=250)),
    ]  # fmt: skip


def _quality(flows: list[recorded.Flow], runs: int) -> None:
    right: dict[str, int] = {}
    of: dict[str, int] = {}
    events = false = 0
    for run in range(runs):
        rate = (1500, 3000, 10000, 50000)[run % 4]
        for attack in attacks(rate):
            told = _run(flows, attack, 1000 * run + len(of))
            good = [event for event in told if event.kind in attack.kinds and event.subject in attack.subjects]
            events, false = events + len(told), false + len(told) - len(good)
            of[attack.name] = of.get(attack.name, 0) + 1
            right[attack.name] = right.get(attack.name, 0) + bool(good)
        calm = _run(flows, None, 7000 + run)
        events, false = events + len(calm), false + len(calm)
    for name, count in of.items():
        line("detection", f"recall, {name}", right[name] / count, None, None, "share", higher_is_better=True)
    line("detection", "recall, all", sum(right.values()) / sum(of.values()), None, None, "share", higher_is_better=True)
    line("detection", "precision, all", (events - false) / max(events, 1), None, None, "share", higher_is_better=True)


def _run(flows: list[recorded.Flow], attack: Attack | None, seed: int) -> list[Event]:
    chance, watch, index = np.random.default_rng(seed), Watch(), _index()
    told: list[Event] = []
    for at in range(WARM + LASTS + 5):
        rows = recorded.second(flows, 60, chance, VMS)
        if attack is not None and WARM <= at < WARM + LASTS:
            rows = np.concatenate((rows, attack.rows(chance)))
        told += _look(watch, index, rows)
    return told


def _look(watch: Watch, index: Index, rows: Any) -> list[Event]:
    watch.take(Batch(rows, index.enrich(rows, [EXPORTER], {0}), index, [EXPORTER]))
    return watch.look(index)


def download(hours: float) -> int:
    """Events of a gigabit from outside to a VM, sampled 1 in 1,000, second by second from its first packet on."""
    chance, watch, index = np.random.default_rng(1), Watch(), _index()
    pair = recorded.second([recorded.Flow(6, 443, 1, 1, 0x18)], 1, chance, VMS)
    pair["rate"] = 1000
    seconds = int(hours * 3600)
    told = 0
    for down, up in zip(chance.poisson(40, seconds).tolist(), chance.poisson(83, seconds).tolist(), strict=True):
        pair["samples"] = down, up
        pair["packets"], pair["bytes"] = pair["samples"] * 1000, (52_000 * down, 1_500_000 * up)
        told += len(_look(watch, index, pair))
    return told


def _index() -> Index:
    directory = Directory()
    directory.take(topology())
    return Index(directory)


def topology() -> dict[str, Any]:
    """Twenty VMs, vm1 with 10.0.0.1 and so on, in a network on one hypervisor."""
    endpoints = [
        {
            "port": f"vm{n}", "name": f"vm{n}", "network": "blue", "network_name": "blue", "project": "acme", "hypervisor": "hv1",
            "hypervisor_name": "hv1", "vni": 5, "realm": "blue", "addresses": [f"10.0.0.{n}"],
        }
        for n in range(1, VMS + 1)
    ]  # fmt: skip
    return {"kind": "topology", "full": True, "hypervisors": [["hv1", "hv1", [EXPORTER]]], "endpoints": endpoints}


def _flood(chance: Any, rate: int, victim: int | None, sources: int = 0, **fields: Any) -> Any:
    """Packets from ``sources`` addresses, or each from another one, to a VM, or to all in turn."""
    count = min(rate, sources) if sources else rate
    rows = np.zeros(count, AGGREGATE)
    rows["src"] = recorded.address(
        203, 0, chance.integers(0, sources, count) if sources else chance.integers(0, 60000, count)
    )
    target = np.full(count, victim) if victim is not None else chance.integers(1, VMS + 1, count)
    rows["dst"] = recorded.address(10, 0, target - 1)
    rows["sport"] = chance.integers(1024, 65535, count)
    rows["version"], rows["vni"], rows["rate"] = 4, 5, 1
    rows["packets"] = rows["samples"] = -(-rate // count)
    rows["bytes"] = rows["packets"] * 400
    for name, value in fields.items():
        rows[name] = value
    return rows


def _outgoing(chance: Any, rate: int) -> Any:
    rows = _flood(chance, rate, 1, sources=3, protocol=17, dport=53)
    rows["dst"], rows["src"] = (
        recorded.address(203, 0, np.full(len(rows), 9)),
        recorded.address(10, 0, np.full(len(rows), 4)),
    )
    return rows


def _scan(chance: Any, probes: int, hosts: int) -> Any:
    rows = _flood(chance, probes, 1, protocol=6, tcp_flags=2)
    rows["src"] = recorded.address(203, 0, np.zeros(probes, np.int64))
    rows["dst"] = recorded.address(10, 0, chance.integers(0, hosts, probes))
    rows["dport"] = chance.integers(1, 20000, probes) if hosts == 1 else 22
    return rows


# --- time ------------------------------------------------------------------------------------------------------------


def _times(flows: list[recorded.Flow], floods: int) -> list[float]:
    with Recorder(topology()) as recorder:
        chance, phase = np.random.default_rng(5), random.Random(5)
        for _ in range(10):
            _drain(recorder, recorded.second(flows, 60, chance, VMS))
        return [_flood_time(recorder, flows, chance, phase.random(), 1 + n) for n in range(floods)]


def _drain(recorder: Recorder, rows: Any) -> None:
    """What a collector does every second."""
    _send(recorder, rows)
    _event(recorder, 1.0)


def _send(recorder: Recorder, rows: Any) -> None:
    header = {"kind": "aggregates", "worker": 0, "exporters": {0: [EXPORTER, 0]}, "lost": {}}
    recorder.send(header, rows.tobytes())


def _flood_time(recorder: Recorder, flows: list[recorded.Flow], chance: Any, phase: float, victim: int) -> float:
    """Seconds from the first packet, which comes at ``phase`` of a second, to the event."""
    _drain(recorder, recorded.second(flows, 60, chance, VMS))
    _event(recorder, phase)
    began = time.monotonic()
    left = 1.0 - phase
    for _ in range(10):
        if _event(recorder, left, f"vm{victim}"):
            return time.monotonic() - began
        flood = _flood(chance, max(1, int(10000 * left)), victim, protocol=6, tcp_flags=2, dport=80)
        _send(recorder, np.concatenate((recorded.second(flows, 60, chance, VMS), flood)))
        left = 1.0
    raise LabError("a flood of 10,000 packets a second was not found within 10 s")


def _event(recorder: Recorder, seconds: float, subject: str = "") -> bool:
    """Read what comes in so many seconds, or until an event about a subject; whether it came."""
    wanted = recorder.next(
        time.monotonic() + seconds, lambda news: news["kind"] == "event" and news["event"]["subject"] == subject
    )
    return wanted is not None
