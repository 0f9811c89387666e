"""Short requests through load balancers: NovaNet's, OVN's and HAProxy in a VM, against members that are asked themselves.

The client asks two members in turn, or a VIP that leads to two members, on its own hypervisor and on the other one; a request is 64 bytes,
its answer too (``requests.c``). Everything is there twice: with ports that nothing filters, and with stateful security groups (ACLs).
All stands side by side (``lb_systems.py``), and takes turns; only one way is loaded at a time, and each turn begins without connections in conntrack.

- connections/s: each for one request, 16 under way at a time, closed by FIN.
- latency of requests one after another: on a connection for each (from ``connect`` to the answer), and on a kept one.
- processor time of a connection: what both ``ovs-vswitchd`` took, and HAProxy, where it is in between.
- upcalls of a connection: packets that found no flow in the datapath, of both switches.

``--cases`` and ``--groups`` choose some of it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from tools.bench.compiling import compiled
from tools.bench.lb_systems import (
    BOX_MEMBER_PORT,
    CASES,
    CLIENT,
    DIRECT_PORT,
    GROUPS,
    KINDS,
    MEMBERS,
    VIP_MEMBER_PORT,
    Side,
    Way,
    bring_up,
)
from tools.bench.report import line
from tools.bench.samples import median, percentile
from tools.bench.workload import processor_seconds
from tools.lab import processes
from tools.lab.errors import LabError

ROUNDS = int(os.environ.get("NOVANET_BENCH_ROUNDS", "12"))
PARALLEL = 16
FIRST_PORT, PORTS = 2000, 63_000
"""Source ports, and how many there are for all rounds together: none is used twice on a way."""
LONE, KEPT = 300, 500
"""Requests of a turn whose latency is taken: each on a connection of its own, and on one that is kept."""
CONNECTIONS = min(4000, PORTS // ROUNDS - LONE - 1)
"""In a turn."""
OURS = "NovaNet"
PEERS = ("direct", "OVN", "HAProxy", "OVN, direct")
RATE, CPU, UPCALLS = "connections", "processor time of a connection", "upcalls of a connection"
FRESH, KEPT_LATENCY = "latency on a new connection", "latency on a kept connection"
Figures = dict[str, list[list[float]]]
"""Figure -> by round, what was measured in it."""


def main(arguments: Sequence[str] = ()) -> int:
    """Measure and print; 0 when done. Raises LabError when a system does not work."""
    parser = argparse.ArgumentParser(prog="lb_connections", description="short requests through load balancers")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    chosen = parser.parse_args(arguments)
    for groups in chosen.groups:
        with ExitStack() as stack:
            sides = {name: bring_up(stack, make, GROUPS[groups]) for name, make in KINDS.items()}
            program = compiled("requests.c", sides["novanet"].system.lab.directory)
            for side in sides.values():
                _serve(stack, side, program)
            for case in chosen.cases:
                _report(f"{case}, {groups}", _interleaved(sides, case, program))
    return 0


def _serve(stack: ExitStack, side: Side, program: str) -> None:
    ports = [str(port) for port in (DIRECT_PORT, VIP_MEMBER_PORT, BOX_MEMBER_PORT)]
    for spec in (spec for pair in MEMBERS.values() for spec in pair):
        stack.enter_context(_running(side.vms[spec].popen([program, "serve", *ports], stdout=subprocess.PIPE, text=True)))  # fmt: skip


@contextmanager
def _running(server: subprocess.Popen[str]) -> Iterator[None]:
    try:
        if server.stdout is None or server.stdout.readline() != "ready\n":
            raise LabError(f"a member's server ended ({server.wait()})")
        yield
    finally:
        processes.end(server, signal.SIGKILL)


# --- measuring ---------------------------------------------------------------------------------------------------


def _interleaved(sides: dict[str, Side], case: str, program: str) -> dict[str, Figures]:
    """What was measured in all rounds, by way and figure; each way is first in turn."""
    ways: dict[str, tuple[Side, Callable[[str], Way]]] = {
        OURS: (sides["novanet"], sides["novanet"].vip),
        "direct": (sides["novanet"], sides["novanet"].direct),
        "OVN": (sides["ovn"], sides["ovn"].vip),
        "HAProxy": (sides["novanet"], sides["novanet"].box),
        "OVN, direct": (sides["ovn"], sides["ovn"].direct),
    }
    found: dict[str, Figures] = {name: defaultdict(list) for name in ways}
    for number in range(ROUNDS):
        first = number % len(ways)
        for name in [*ways][first:] + [*ways][:first]:
            side, way = ways[name]
            try:
                turn = _turn(side, way(case), program, FIRST_PORT + number * (CONNECTIONS + LONE + 1))
            except LabError as error:
                raise LabError(f"{name}, {case}: {error}") from None
            for figure, values in turn.items():
                found[name][figure].append(values)
    return found


def _turn(side: Side, way: Way, program: str, first: int) -> dict[str, list[float]]:
    """By figure; latencies in ms. Single requests come first, so that what is common to all connections is in the datapath."""
    for hypervisor in side.system.lab.hypervisors:
        hypervisor.appctl("dpctl/flush-conntrack")

    def ask(kind: str, first: int, count: int, *parallel: int, addresses: Sequence[str] = way.addresses) -> Any:
        words = (kind, way.port, first, count, *parallel, *addresses)
        told = json.loads(side.vms[CLIENT].exec([program, *map(str, words)]).stdout)
        if told["failed"] > count / 100:
            raise LabError(f"{told['failed']} of {count} requests failed")
        return told

    kept = ask("kept", first, KEPT, addresses=way.addresses[:1])
    lone = ask("fresh", first + 1, LONE, 1)
    before = _spent(side, way), _upcalls(side)
    many = ask("fresh", first + 1 + LONE, CONNECTIONS, PARALLEL)
    seconds, upcalls = _spent(side, way) - before[0], _upcalls(side) - before[1]
    return {
        RATE: [CONNECTIONS / many["seconds"]],
        FRESH: [each / 1000 for each in lone["microseconds"]],
        KEPT_LATENCY: [each / 1000 for each in kept["microseconds"]],
        CPU: [seconds / CONNECTIONS * 1e6],
        UPCALLS: [upcalls / CONNECTIONS],
    }


def _spent(side: Side, way: Way) -> float:
    """Processor seconds of both switches, and of what relays in between, until now."""
    switches = (hypervisor.vswitchd_pid for hypervisor in side.system.lab.hypervisors)
    return sum(map(processor_seconds, (*switches, *way.relays)))


def _upcalls(side: Side) -> int:
    """Packets that missed both datapaths' flows until now (ovs-dpctl(8), ``show``)."""
    shown = (hypervisor.appctl("dpctl/show") for hypervisor in side.system.lab.hypervisors)
    return sum(int(count) for text in shown for count in re.findall(r"missed:(\d+)", text))


# --- telling -----------------------------------------------------------------------------------------------------


def _report(case: str, found: dict[str, Figures]) -> None:
    for peer in PEERS:
        _compare(f"{case}, {RATE}", found, peer, RATE, 50, "connections/s")
        for figure in (FRESH, KEPT_LATENCY):
            for percent in (50, 99):
                _compare(f"{case}, {figure}, p{percent}", found, peer, figure, percent, "ms")
        _compare(f"{case}, {CPU}", found, peer, CPU, 50, "us")
        _compare(f"{case}, {UPCALLS}", found, peer, UPCALLS, 50, "upcalls")


def _compare(case: str, found: dict[str, Figures], peer: str, figure: str, percent: int, unit: str) -> None:
    """A percentile of all rounds together, and how much the ratio differs from round to round."""
    ours, theirs = found[OURS][figure], found[peer][figure]
    ratios = [_at(a, percent) / _at(b, percent) for a, b in zip(ours, theirs, strict=True) if any(b)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ()
    spread = (quartiles[0], quartiles[2]) if quartiles else None
    a, b = (_at([value for values in side for value in values], percent) for side in (ours, theirs))
    line("lb_connections", case, a, peer, b, unit, higher_is_better=figure == RATE, spread=spread)


def _at(values: Sequence[float], percent: int) -> float:
    return median(values) if percent == 50 else percentile(values, percent)
