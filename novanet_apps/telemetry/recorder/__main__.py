"""``python -m novanet_apps.telemetry.recorder --socket PATH --database DIR``: started and watched by the controller."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from novanet_apps.telemetry.parent import end_with

from .engines import ChDb, ClickHouse, Engine, EngineError
from .schema import Keep, prepare
from .server import Recorder
from .storage import Storage
from .watch import Watch

LOG = logging.getLogger("novanet_apps.telemetry.recorder")
USER, PASSWORD = "NOVANET_CLICKHOUSE_USER", "NOVANET_CLICKHOUSE_PASSWORD"


def main() -> int:
    """Run until SIGTERM, SIGINT, or the end of the process that started it. Exit status 1: the tables cannot be opened."""
    options = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    if options.parent:
        end_with(options.parent)
    keep = Keep(*options.keep)
    directory = None if options.clickhouse else Path(options.database)
    try:
        engine = _engine(options, directory)
        prepare(engine, keep)
    except (EngineError, OSError) as problem:
        print(f"recorder: {problem}", file=sys.stderr)
        return 1
    storage = Storage(engine, directory, interval=options.interval, spare=options.spare << 20, held=options.held)
    recorder = Recorder(engine, storage, keep, directory, Watch(forest=options.forest))
    asyncio.run(_serve(recorder, Path(options.socket)))
    return 0


async def _serve(recorder: Recorder, path: Path) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await recorder.serve(path, ended)


def parser() -> argparse.ArgumentParser:
    """The command line, which the controller fills in from its options."""
    found = argparse.ArgumentParser(prog="recorder", description="Stores NovaNet's telemetry.")
    found.add_argument("--socket", required=True, help="Unix socket to serve")
    found.add_argument("--database", default="", help="directory of the embedded tables")
    found.add_argument("--clickhouse", default="", help="http(s)://HOST:PORT of a ClickHouse server, instead")
    found.add_argument("--clickhouse-ca", default=None, help="PEM file with the CA certificate of an https server")
    found.add_argument("--keep", type=int, nargs=4, default=list(Keep()), help="days of raw, 1 m, 5 m and 1 h rows")
    found.add_argument("--interval", type=float, default=1.0, help="seconds of rows that are written at once")
    found.add_argument("--spare", type=int, default=512, help="MiB of the disk that are left free")
    found.add_argument("--held", type=int, default=500_000, help="rows kept in memory while nothing can be stored")
    found.add_argument("--forest", action="store_true", help="look for outliers with an isolation forest, too")
    found.add_argument("--parent", type=int, default=0, help="process with which this one ends")
    return found


def _engine(options: argparse.Namespace, directory: Path | None) -> Engine:
    if directory is None:
        user, password = os.environ.get(USER, ""), os.environ.get(PASSWORD, "")
        return ClickHouse(options.clickhouse, user, password, options.clickhouse_ca)
    if not options.database:
        raise EngineError("say where the tables are: --database or --clickhouse")
    return ChDb(directory)


if __name__ == "__main__":
    sys.exit(main())
