"""Four million flows in one bridge through the flow engine: time, and memory of switch and controller.

Needs about 8 GB of memory and some minutes, so it is asked for by name. Progress goes to standard error.
"""

from __future__ import annotations

import os
import sys
import time

from tools.bench.report import line
from tools.bench.switch import Bench

FLOWS = 4_000_000
STEP = 250_000
OWNER_SIZE = 1000
"""Flows of one owner."""


def main() -> int:
    """Print the results; exit status 1 when the controller needs more memory than the switch.

    Environment NOVANET_BENCH_FLOWS: another number of flows.
    """
    flows = int(os.environ.get("NOVANET_BENCH_FLOWS", FLOWS))
    case = f"{flows:,} flows"
    with Bench() as bench:
        began = time.perf_counter()
        lag = 0.0
        for first in range(0, flows, STEP):
            count = min(STEP, flows - first)
            done = bench.tell(do="install", first=first, count=count, owners=-(-count // OWNER_SIZE), prepared=False)
            lag = max(lag, done["loop_lag_ms"])
            memory = bench.memory()
            print(
                f"{first + count:>9,} flows after {time.perf_counter() - began:6.1f} s, {count / done['seconds']:8,.0f} flows/s, "
                f"switch {memory['switch']:,.0f} MiB, controller {memory['controller']:,.0f} MiB, loop held {lag:.0f} ms at most",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        seconds = time.perf_counter() - began
        if bench.flows() != flows:
            raise RuntimeError(f"the bridge has {bench.flows()} flows instead of {flows}")
        memory = bench.memory()
    line("four_million", f"{case}, until confirmed", seconds, None, None, "s", higher_is_better=False)
    line("four_million", f"{case}, rate", flows / seconds, None, None, "flows/s", higher_is_better=True)
    line(
        "four_million", f"{case}, memory of the controller", memory["controller"], "ovs-vswitchd", memory["switch"], "MiB",
        higher_is_better=False,
    )  # fmt: skip
    line("four_million", f"{case}, longest hold of the event loop", lag, None, None, "ms", higher_is_better=False)
    return int(memory["controller"] >= memory["switch"])
