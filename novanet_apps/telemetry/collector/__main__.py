"""``python -m novanet_apps.telemetry.collector --listen IP:PORT … --recorder PATH``: started and watched by the controller."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path

from novanet_apps.telemetry.parent import end_with

from .allowed import Allowed
from .outgoing import Outgoing
from .sockets import listen, namespace
from .worker import Worker


def main() -> int:
    """Run until SIGTERM, SIGINT, or the end of the process that started it. Exit status 1: it cannot listen."""
    options = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    if options.parent:
        end_with(options.parent)
    try:
        with namespace(options.namespace):
            sockets = [listen(address) for address in options.listen]
    except OSError as problem:
        print(f"collector: {problem.strerror}", file=sys.stderr)
        return 1
    allowed = Allowed(Path(options.allow) if options.allow else None)
    state = Path(options.state) if options.state else None
    worker = Worker(options.worker, sockets, Outgoing(Path(options.recorder)), allowed, state, options.interval)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    signal.signal(signal.SIGHUP, lambda *_: worker.allow())
    worker.run()
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line, which the controller fills in from its options."""
    found = argparse.ArgumentParser(prog="collector", description="Collects sFlow, NetFlow and IPFIX for NovaNet.")
    found.add_argument("--listen", action="append", required=True, metavar="IP:PORT", help="UDP address; several times")
    found.add_argument("--namespace", default="", help="network namespace of those addresses, as ip-netns(8) names it")
    found.add_argument("--worker", type=int, default=0, help="which of the collectors this is")
    found.add_argument("--recorder", required=True, help="Unix socket of the recorder")
    found.add_argument("--state", default="", help="directory in which templates outlive the collector")
    found.add_argument(
        "--allow", default="", help="file with the addresses that may export, beside loopback; read again at SIGHUP"
    )
    found.add_argument("--interval", type=float, default=1.0, help="seconds of one batch")
    found.add_argument("--parent", type=int, default=0, help="process with which this one ends")
    return found


if __name__ == "__main__":
    sys.exit(main())
