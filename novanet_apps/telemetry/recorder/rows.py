"""From drained aggregates and what is known of their ends to columns of the table ``flows``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .enrichment import Enriched, Index
from .native import Column, repeated

_COPIED = {
    "protocol": "UInt8", "sport": "UInt16", "dport": "UInt16", "version": "UInt8", "direction": "UInt8", "vni": "UInt32",
    "in_if": "UInt32", "out_if": "UInt32", "src_mac": "UInt64", "dst_mac": "UInt64", "tcp_flags": "UInt8", "tos": "UInt8",
    "rate": "UInt32",
}  # fmt: skip


def columns(rows: Any, enriched: Enriched, index: Index, exporters: Sequence[str], at: int) -> dict[str, Column]:
    """Columns for rows (AGGREGATE) that were drained at ``at``, in Unix seconds; ``exporters``: address by number."""
    first, last = rows["first_ms"].astype(np.int64), rows["last_ms"].astype(np.int64)
    ago = np.clip(at * 1000 - last, -(1 << 31), (1 << 31) - 1)
    packets = rows["packets"].astype(np.int64)
    samples = np.minimum(rows["samples"], (1 << 32) - 1).astype(np.int64)
    mean = np.minimum(rows["bytes"] // np.maximum(rows["packets"], 1), (1 << 32) - 1)
    lasted = np.clip(last - first, 0, (1 << 32) - 1)
    hosts = [*(host.id for host in index.hosts), ""]
    found = {
        "time": Column("DateTime", np.full(len(rows), at)),
        "src": Column("IPv6", rows["src"]),
        "dst": Column("IPv6", rows["dst"]),
        "service": Column("UInt16", enriched.service),
        "src_endpoint": Column("UInt64", numbers(enriched.src, index)),
        "dst_endpoint": Column("UInt64", numbers(enriched.dst, index)),
        "exporter": Column("String", repeated(rows["exporter"], exporters)),
        "seen_on": Column("String", repeated(enriched.host, hosts)),
        "counted": Column("UInt8", enriched.counted),
        "samples": Column("UInt32", samples),
        "extra": Column("Int64", packets - samples * rows["rate"].astype(np.int64)),
        "mean": Column("UInt32", mean),
        "rest": Column("UInt64", rows["bytes"] - mean * rows["packets"]),
        "ago": Column("Int32", ago),
        "lasted": Column("UInt32", lasted),
    }
    return found | {name: Column(type_, rows[name]) for name, type_ in _COPIED.items()}


def numbers(ends: Any, index: Index) -> Any:
    """The endpoints' numbers, 0 for none."""
    return np.where(ends >= 0, index.numbers[ends], np.uint64(0))


def endpoint_columns(index: Index, chosen: Sequence[int], at: int) -> dict[str, Column]:
    """Columns of the table ``endpoints`` for some of an index's."""
    endpoints = [index.endpoints[number] for number in chosen]
    stored = [endpoint.stored() for endpoint in endpoints]
    found = {
        "number": Column("UInt64", [endpoint.number for endpoint in endpoints]),
        "since": Column("DateTime", np.full(len(endpoints), at)),
    }
    for name in stored[0] if stored else ():
        type_ = "Array(String)" if name == "groups" else "String"
        found[name] = Column(type_, [row[name] for row in stored])
    return found
