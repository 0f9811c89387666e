"""TCP throughput, packet rate of small packets and round trip between VMs on two hypervisors, against a floor and OVN.

The floor is what the switch can do at all: two flows a VM, written by hand (``east_west_systems.Floor``). NovaNet and OVN are
there twice: with ports that nothing filters, and with stateful security groups (ACLs). All five stand on labs of their own,
up all the time, and take turns; only one is loaded at a time. ``--systems`` chooses some of them.

- TCP: ``iperf3``, one connection, what the receiver got.
- packet rate: UDP in the smallest Ethernet frames (64 bytes), as many as get through without loss (``stream.py``).
- round trip: pings 10 ms apart, 100 a round; median and 99th percentile.
- new TCP connections a second, 16 under way at a time (``connections.py``).
- processor time that both switches take for a small packet and for a connection, from /proc: what else goes on on the machine
  matters least here.

Each measurement is cut into slices, so that the systems take turns every second or two: what disturbs one disturbs all.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tools.bench import connections, stream
from tools.bench.east_west_systems import CASES, PEERS, SYSTEMS, Side, bring_up
from tools.bench.report import line
from tools.bench.samples import median, percentile
from tools.lab import processes
from tools.lab.errors import LabError
from tools.lab.vm import VM

ROUNDS = int(os.environ.get("NOVANET_BENCH_ROUNDS", "12"))
TCP_SECONDS, UDP_SECONDS = 2, 1
"""Of each measurement."""
PINGS, INTERVAL = 100, 0.01
PORT = 7000
FIRST_PORT, PORTS = 4000, 60_000
"""Source ports of the connections, and how many there are for all rounds together: none is used twice."""
CONNECTIONS = min(4000, PORTS // ROUNDS)
"""In a measurement."""
CPU = "switches' CPU per 64-byte packet"
CPU_CONNECTION = "switches' CPU per connection"
THROUGHPUT = {"TCP": "Mbit/s", "64-byte packets": "k packets/s", "new TCP connections": "connections/s"}
ROUND_TRIP = {"ping p50": 50, "ping p99": 99}
Figures = dict[str, list[float]]
"""Figure -> what was measured, one value or many a round."""


def main(arguments: Sequence[str] = ()) -> int:
    """Measure and print; 0 when done. Raises LabError when a system does not work."""
    parser = argparse.ArgumentParser(prog="east_west", description="traffic between VMs on two hypervisors")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    chosen = parser.parse_args(arguments).systems
    with ExitStack() as stack:
        sides = {name: bring_up(stack, SYSTEMS[name]) for name in dict.fromkeys(chosen)}
        for case in CASES:
            _report(case, _interleaved(sides, case))
    return 0


def _interleaved(sides: dict[str, Side], case: str) -> dict[str, Figures]:
    """What was measured in all rounds, by system and figure; each system is first in turn."""
    found: dict[str, Figures] = {name: defaultdict(list) for name in sides}
    for measure in (_tcp, _packets, _connections, _round_trips):
        for number in range(ROUNDS):
            first = number % len(sides)
            for name in [*sides][first:] + [*sides][:first]:
                for figure, values in measure(sides[name], case, number).items():
                    found[name][figure] += values
    return found


def _report(case: str, found: dict[str, Figures]) -> None:
    for name in (name for name in PEERS if name in found):
        for peer in (peer for peer in PEERS[name] if peer in found):
            _compare(
                case if name == "novanet" else f"{case}, with groups", found[name], SYSTEMS[peer].name, found[peer]
            )


def _compare(case: str, ours: Figures, peer: str, theirs: Figures) -> None:
    for figure, unit in THROUGHPUT.items():
        line("east_west", f"{case}, {figure}", median(ours[figure]), peer, median(theirs[figure]), unit, higher_is_better=True)  # fmt: skip
    for figure, percent in ROUND_TRIP.items():
        values = [percentile(side["ping"], percent) for side in (ours, theirs)]
        line("east_west", f"{case}, {figure}", values[0], peer, values[1], "ms", higher_is_better=False)
    for figure in (CPU, CPU_CONNECTION):
        line("east_west", f"{case}, {figure}", median(ours[figure]), peer, median(theirs[figure]), "us", higher_is_better=False)  # fmt: skip


def _tcp(side: Side, case: str, number: int) -> Figures:
    """One connection."""
    source, destination, ip = side.pair(case)
    with _running(destination, ["iperf3", "--server", "--port", str(PORT), "--forceflush"], "Server listening"):
        done = source.exec(["iperf3", "--client", ip, "--port", str(PORT), "--time", str(TCP_SECONDS), "--json"])
    return {"TCP": [json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 1e6]}


def _packets(side: Side, case: str, number: int) -> Figures:
    """Small packets, and the processor time that the switches took for them."""
    source, destination, ip = side.pair(case)
    script = [sys.executable, "-IS", stream.__file__]
    with _running(destination, [*script, "receive", str(PORT)], "ready"):
        before = _processor_seconds(side)
        done = json.loads(source.exec([*script, "send", ip, str(PORT), str(UDP_SECONDS)]).stdout)
        spent = _processor_seconds(side) - before
    if done["lost"] > done["packets"] / 100:
        raise LabError(f"{side.name}, {case}: {done['lost']} packets were lost, and {done['packets']} got through")
    return {"64-byte packets": [done["packets"] / done["seconds"] / 1e3], CPU: [spent / done["packets"] * 1e6]}


def _connections(side: Side, case: str, number: int) -> Figures:
    """Short connections, and the processor time that the switches took for them, with nothing in conntrack before."""
    source, destination, ip = side.pair(case)
    for hypervisor in side.system.lab.hypervisors:
        hypervisor.appctl("dpctl/flush-conntrack")
    script = [sys.executable, "-IS", connections.__file__]
    with _running(destination, [*script, "serve", str(PORT + 1)], "ready"):
        before = _processor_seconds(side)
        first = str(FIRST_PORT + number * CONNECTIONS)
        done = json.loads(source.exec([*script, "connect", ip, str(PORT + 1), str(CONNECTIONS), first]).stdout)
        spent = _processor_seconds(side) - before
    if done["failed"] > CONNECTIONS / 100:
        raise LabError(f"{side.name}, {case}: {done['failed']} of {CONNECTIONS} connections failed")
    return {"new TCP connections": [CONNECTIONS / done["seconds"]], CPU_CONNECTION: [spent / CONNECTIONS * 1e6]}


def _round_trips(side: Side, case: str, number: int) -> Figures:
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
