"""Bytes on disk of a flow: ours against nfdump's files of the same flows, and against the packets that they tell of.

One hour of unidirectional flows of three mixes (``flow_mixes``). The peer gets them as NetFlow v5 and writes one file, compressed
with lz4 as it comes, and with bz2 after. Ours get them second by second, as from collectors, with the names of VMs at both ends,
and are merged as they are by the next hour; what the sums by minute, five minutes and hour take beside is a case of its own.
The capture is what a pcap file of every packet would take, reckoned from packets and bytes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from novanet_apps.telemetry.recorder.endpoints import Directory
from novanet_apps.telemetry.recorder.engines import DATABASE, ChDb
from novanet_apps.telemetry.recorder.enrichment import Index
from novanet_apps.telemetry.recorder.live import text
from novanet_apps.telemetry.recorder.rows import columns, endpoint_columns
from novanet_apps.telemetry.recorder.schema import RAW, ROLLUPS, Keep, prepare
from tools.bench import flow_mixes
from tools.bench.nfdump import Nfdump
from tools.bench.report import line

EXPORTER = "10.9.0.1"
FOREVER = Keep(*(7300,) * 4)
"""The traffic is of the past, and is to be there."""


def main(arguments: Sequence[str] = ()) -> int:
    """Options: --pairs N conversations of each mix."""
    parser = argparse.ArgumentParser(prog="flow_storage")
    parser.add_argument("--pairs", type=int, default=100_000)
    options = parser.parse_args(arguments)
    peer = Nfdump()
    for name in flow_mixes.MIXES:
        rows = flow_mixes.mix(name, options.pairs)
        directory = Path(tempfile.mkdtemp(prefix="novanet-bench-"))
        try:
            _measure(name, rows, directory, peer)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    return 0


def _measure(name: str, rows: Any, directory: Path, peer: Nfdump) -> None:
    files = directory / "nfdump"
    files.mkdir()
    lz4 = peer.capture(rows, files)
    bz2 = peer.compressed(lz4, "bz2")
    raw, sums = _ours(rows, directory / "ours")
    flows = len(rows)
    for other, path in (("nfdump lz4", lz4), ("nfdump bz2", bz2)):
        line(
            "flow_storage",
            f"{name}, a flow",
            raw / flows,
            other,
            path.stat().st_size / flows,
            "B",
            higher_is_better=False,
        )
    line(
        "flow_storage", f"{name}, a flow with sums by 1 m, 5 m, 1 h", (raw + sums) / flows, "nfdump lz4", lz4.stat().st_size / flows,
        "B", higher_is_better=False,
    )  # fmt: skip
    line("flow_storage", f"{name}, all", raw, "pcap", flow_mixes.captured(rows), "B", higher_is_better=False)


def _ours(rows: Any, directory: Path) -> tuple[int, int]:
    """Bytes of the raw rows, and of the sums."""
    engine = ChDb(directory)
    try:
        prepare(engine, FOREVER)
        index = _index(rows)
        engine.insert("endpoints", endpoint_columns(index, range(len(index.endpoints)), flow_mixes.BEGIN))
        drained = rows["last_ms"] // 1000 + 1
        for at in np.unique(drained // 10).tolist():  # ten seconds at once: 360 inserts are enough
            chunk = rows[drained // 10 == at]
            _insert(engine, chunk, index, drained[drained // 10 == at])
        tables = [RAW, *(table for table, _ in ROLLUPS)]
        for table in tables:
            engine.execute(f"OPTIMIZE TABLE {DATABASE}.{table} FINAL")
        found = [_size(engine, table, len(rows) if table == RAW else None) for table in tables]
        return found[0], sum(found[1:])
    finally:
        engine.close()


def _insert(engine: ChDb, rows: Any, index: Index, drained: Any) -> None:
    """With the second in which a collector would have sent each."""
    enriched = index.enrich(rows, [EXPORTER], set())
    found = columns(rows, enriched, index, [EXPORTER], 0)
    ago = drained.astype(np.int64) * 1000 - rows["last_ms"].astype(np.int64)
    found["time"] = found["time"]._replace(values=drained)
    found["ago"] = found["ago"]._replace(values=ago)
    engine.insert(RAW, found)


def _size(engine: ChDb, table: str, expected: int | None) -> int:
    sql = "SELECT sum(rows) AS rows, sum(bytes_on_disk) AS size FROM system.parts WHERE active AND database = {d:String} AND table = {t:String}"
    (row,) = engine.query(sql, {"d": DATABASE, "t": table})
    if expected not in (None, int(row["rows"])):
        raise RuntimeError(f"{table} has {row['rows']} of {expected} rows")
    return int(row["size"])


def _index(rows: Any) -> Index:
    """Every address is a VM's, half of them on the hypervisor that exports."""
    directory = Directory()
    known = np.unique(np.concatenate((rows["src"], rows["dst"])), axis=0)
    endpoints = [
        {
            "port": f"00000000-0000-4000-8000-{number:012x}", "name": f"vm{number}", "vm": f"vm-{number}", "network": f"net{number % 20}",
            "network_name": f"net{number % 20}", "project": f"project{number % 7}", "hypervisor": "hv1", "hypervisor_name": "hv1",
            "realm": "all", "addresses": [text(address.tobytes())],
        }
        for number, address in enumerate(known)
    ]  # fmt: skip
    directory.take({"full": True, "hypervisors": [["hv1", "hv1", [EXPORTER]]], "endpoints": endpoints})
    return Index(directory)
