"""TCP throughput, packet rate of small packets and round trip between VMs on two hypervisors, against a floor and OVN.

The floor is what the switch can do at all: two flows a VM, written by hand (``east_west_systems.Floor``). All three stand on
labs of their own, up all the time, and take turns; only one is loaded at a time.

- TCP: ``iperf3``, one connection, what the receiver got.
- packet rate: UDP in the smallest Ethernet frames (64 bytes), as many as get through without loss (``stream.py``).
- round trip: pings 10 ms apart, 100 a round; median and 99th percentile.
- processor time that both switches take for a small packet, from /proc: what else goes on on the machine matters least here.

Each measurement is cut into slices, so that the systems take turns every second or two: what disturbs one disturbs all.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tools.bench import stream
from tools.bench.east_west_systems import CASES, SYSTEMS, Floor, OurSystem, OvnSystem, Side, bring_up
from tools.bench.report import line
from tools.bench.samples import median, percentile
from tools.lab import processes
from tools.lab.errors import LabError
from tools.lab.vm import VM

ROUNDS = int(os.environ.get("NOVANET_BENCH_ROUNDS", "15"))
SECONDS = 2
"""Of each throughput measurement."""
PINGS, INTERVAL = 100, 0.01
PORT = 7000
CPU = "switches' CPU per 64-byte packet"
THROUGHPUT = {"TCP": "Mbit/s", "64-byte packets": "k packets/s"}
ROUND_TRIP = {"ping p50": 50, "ping p99": 99}
Figures = dict[str, list[float]]
"""Figure -> what was measured, one value or many a round."""


def main() -> int:
    """Measure and print; 0 when done. Raises LabError when a system does not work."""
    with ExitStack() as stack:
        sides = [bring_up(stack, make) for make in SYSTEMS]
        for case in CASES:
            _report(case, _interleaved(sides, case))
    return 0


def _interleaved(sides: list[Side], case: str) -> dict[str, Figures]:
    """What was measured in all rounds, by system and figure; each system is first in turn."""
    found: dict[str, Figures] = {side.name: defaultdict(list) for side in sides}
    for measure in (_tcp, _packets, _round_trips):
        for number in range(ROUNDS):
            first = number % len(sides)
            for side in sides[first:] + sides[:first]:
                for figure, values in measure(side, case).items():
                    found[side.name][figure] += values
    return found


def _report(case: str, found: dict[str, Figures]) -> None:
    for peer in (Floor.name, OvnSystem.name):
        ours, theirs = found[OurSystem.name], found[peer]
        for figure, unit in THROUGHPUT.items():
            line("east_west", f"{case}, {figure}", median(ours[figure]), peer, median(theirs[figure]), unit, higher_is_better=True)  # fmt: skip
        for figure, percent in ROUND_TRIP.items():
            values = (percentile(side["ping"], percent) for side in (ours, theirs))
            line("east_west", f"{case}, {figure}", next(values), peer, next(values), "ms", higher_is_better=False)
        line("east_west", f"{case}, {CPU}", median(ours[CPU]), peer, median(theirs[CPU]), "us", higher_is_better=False)


def _tcp(side: Side, case: str) -> Figures:
    """One connection."""
    source, destination, ip = side.pair(case)
    with _running(destination, ["iperf3", "--server", "--port", str(PORT), "--forceflush"], "Server listening"):
        done = source.exec(["iperf3", "--client", ip, "--port", str(PORT), "--time", str(SECONDS), "--json"])
    return {"TCP": [json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 1e6]}


def _packets(side: Side, case: str) -> Figures:
    """Small packets, and the processor time that the switches took for them."""
    source, destination, ip = side.pair(case)
    script = [sys.executable, "-IS", stream.__file__]
    with _running(destination, [*script, "receive", str(PORT)], "ready"):
        before = _processor_seconds(side)
        done = json.loads(source.exec([*script, "send", ip, str(PORT), str(SECONDS)]).stdout)
        spent = _processor_seconds(side) - before
    if done["lost"] > done["packets"] / 100:
        raise LabError(f"{side.name}, {case}: {done['lost']} packets were lost, and {done['packets']} got through")
    return {"64-byte packets": [done["packets"] / done["seconds"] / 1e3], CPU: [spent / done["packets"] * 1e6]}


def _round_trips(side: Side, case: str) -> Figures:
    """In ms."""
    source, _, ip = side.pair(case)
    result = source.ping(ip, PINGS, INTERVAL)
    if result.lost > PINGS / 50:
        raise LabError(f"{side.name}, {case}: {result.lost} of {PINGS} pings were lost")
    return {"ping": [rtt * 1e3 for rtt in result.rtts]}


@contextmanager
def _running(vm: VM, command: Sequence[str], sign: str) -> Iterator[None]:
    """A server in a VM, which has said that it is ready."""
    server = vm.popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        if not any(sign in said for said in server.stdout):
            raise LabError(f"{command[0]} in {vm.name} ended ({server.wait()})")
        yield
    finally:
        processes.end(server, signal.SIGKILL)


def _processor_seconds(side: Side) -> float:
    """What both ovs-vswitchd have taken until now, in user and in system mode (proc(5), utime and stime)."""
    ticks = 0
    for hypervisor in side.system.lab.hypervisors:
        stat = Path(f"/proc/{hypervisor.vswitchd_pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(stat[11]) + int(stat[12])
    return ticks / os.sysconf("SC_CLK_TCK")
