"""``python -m tools.bench [NAME … [OPTIONS]]``: run benchmarks by name, or all that take minutes rather than hours.

Options are those of the benchmark, such as ``aggregation --sets FILE``.
"""

from __future__ import annotations

import importlib
import inspect
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

ALL = (
    "flow_install",
    "port_up",
    "scale",
    "east_west",
    "punts",
    "aggregation",
    "group_join",
    "maglev",
    "least_connections",
    "health_checks",
    "lb_connections",
    "lb_update",
    "qos_accuracy",
    "sflow_decode",
    "ipfix_decode",
    "flow_storage",
    "detection",
)
"""What runs when no name is given. ``four_million`` needs 8 GB of memory and is asked for by name."""
BY_NAME = (*ALL, "four_million")


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 done, 1 a benchmark failed, 2 there is no such benchmark or option."""
    signal.signal(signal.SIGTERM, _interrupted)
    first = next((at for at, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    names, options = arguments[:first], arguments[first:]
    for name in names or ALL:
        if not name.isidentifier() or not (Path(__file__).parent / f"{name}.py").exists():
            print(f"there is no benchmark {name!r}; there are {', '.join(BY_NAME)}", file=sys.stderr)
            return 2
        run = importlib.import_module(f"tools.bench.{name}").main
        if options and not inspect.signature(run).parameters:
            print(f"the benchmark {name} has no options: {' '.join(options)}", file=sys.stderr)
            return 2
        done = run(options) if options else run()
        if done:
            return int(done)
    return 0


def _interrupted(*_: object) -> NoReturn:
    """SIGTERM ends a benchmark as Ctrl-C does, so that it removes what it made."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
