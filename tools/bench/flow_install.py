"""How many flows a second reach a switch: the flow engine against ``ovs-ofctl --bundle add-flows``, and Ryu's own loop.

Both put the same flows (metadata and ipv4_dst -> set a register, goto) into the same bridge in turns, and the time
runs until the switch has confirmed the last one. Ours comes twice: from ready flow values, as compilers hand them
over, and with the making of those values. ovs-ofctl reads text; its time has its start and its parsing in it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from tools.bench.engine_app import FIRST_ADDRESS, GOTO, NETWORKS, PRIORITY, TABLE
from tools.bench.report import line
from tools.bench.samples import median
from tools.bench.switch import BRIDGE, Bench

SIZES = (100_000, 500_000)
REPETITIONS = 5
OWNER_SIZE = 1000
"""Flows of one owner."""
OFCTL, RYU = "ovs-ofctl --bundle", "Ryu OFPFlowMod loop"
RYU_COUNT = 20_000
"""Flows of Ryu's loop; its rate does not depend on how many there are."""
_LAG: list[float] = []
"""The longest hold of the controller's event loop in each of our runs, in ms."""


def main() -> int:
    """Print flows per second, medians of ``REPETITIONS`` runs in turns (environment NOVANET_BENCH_REPETITIONS)."""
    repetitions = int(os.environ.get("NOVANET_BENCH_REPETITIONS", REPETITIONS))
    with Bench() as bench:
        for size in SIZES:
            _compare(bench, size, repetitions)
    return 0


def _compare(bench: Bench, size: int, repetitions: int) -> None:
    text = _write_flows(bench.directory / f"flows.{size}", size)
    ways: dict[str, Callable[[], float]] = {
        "ready": lambda: _ours(bench, size, True),
        OFCTL: lambda: _ofctl(bench, size, text),
        "made": lambda: _ours(bench, size, False),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    _LAG.clear()
    for repetition in range(repetitions + 1):
        for name in list(ways) if repetition % 2 else reversed(ways):
            rate = size / ways[name]()
            if repetition:  # the first time, the switch grows its tables
                rates[name].append(rate)
    case = f"{size:,} flows"
    ready, made, theirs = median(rates["ready"]), median(rates["made"]), median(rates[OFCTL])
    ryu = median([RYU_COUNT / _ryu(bench) for _ in range(3)])
    line("flow_install", case, ready, OFCTL, theirs, "flows/s", higher_is_better=True)
    line("flow_install", f"{case}, making their values too", made, OFCTL, theirs, "flows/s", higher_is_better=True)
    line("flow_install", case, ready, RYU, ryu, "flows/s", higher_is_better=True)
    line("flow_install", f"{case}, longest hold of the loop", max(_LAG), None, None, "ms", higher_is_better=False)


def _ours(bench: Bench, size: int, prepared: bool) -> float:
    bench.quiet()
    done = bench.tell(do="install", first=0, count=size, owners=size // OWNER_SIZE, prepared=prepared)
    _LAG.append(done["loop_lag_ms"])
    _check(bench, size)
    bench.tell(do="remove")
    return float(done["seconds"])


def _ofctl(bench: Bench, size: int, text: Path) -> float:
    bench.quiet()
    began = time.perf_counter()
    bench.ovs("ovs-ofctl", "-O", "OpenFlow14", "--bundle", "add-flows", BRIDGE, str(text))
    seconds = time.perf_counter() - began
    _check(bench, size)
    bench.ovs("ovs-ofctl", "-O", "OpenFlow14", "del-flows", BRIDGE)
    return seconds


def _ryu(bench: Bench) -> float:
    bench.quiet()
    seconds: float = bench.tell(do="ryu_loop", count=RYU_COUNT)["seconds"]
    _check(bench, RYU_COUNT)
    bench.ovs("ovs-ofctl", "-O", "OpenFlow14", "del-flows", BRIDGE)
    return seconds


def _check(bench: Bench, size: int) -> None:
    found = bench.flows()
    if found != size:
        raise RuntimeError(f"the bridge has {found} flows instead of {size}")


def _write_flows(path: Path, size: int) -> Path:
    """The flows of ``engine_app.flow`` in the words of ovs-ofctl(8)."""
    with path.open("w") as text:
        for number in range(size):
            address = FIRST_ADDRESS + number
            dotted = ".".join(str(address >> shift & 0xFF) for shift in (24, 16, 8, 0))
            text.write(
                f"table={TABLE},priority={PRIORITY},metadata={number % NETWORKS + 1},ip,nw_dst={dotted},"
                f"actions=set_field:{number}->reg1,goto_table:{GOTO}\n"
            )
    return path
