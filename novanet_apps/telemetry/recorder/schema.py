"""The tables. What a flow was, to the second; sums of it by minute, five minutes and hour; who its ends were; what was odd.

Sizes follow from the order of rows and the codecs: sorted by the two ends, most columns repeat what stands above them. A name
is stored once, in ``endpoints``; a flow has its number, which follows from the content (``Endpoint.number``), so that recorders
that share a server need not agree on anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from .engines import DATABASE, Engine, EngineError


class Keep(NamedTuple):
    """Days for which rows are kept."""

    raw: int = 3
    minutes: int = 14
    five_minutes: int = 90
    hours: int = 400


RAW = "flows"
"""``ago`` is milliseconds from the last packet to ``time``, ``lasted`` from the first packet to the last. ``samples`` are the packets
that were seen themselves. What follows from others mostly is stored as what it differs by: ``extra`` packets beside samples times
rate, and bytes as their ``mean`` of a packet and a ``rest``."""
PACKETS = "toUInt64(toInt64(f.samples) * f.rate + f.extra)"
BYTES = f"toUInt64(f.mean * {PACKETS} + f.rest)"
"""Both of ``flows AS f``."""
ROLLUPS: tuple[tuple[str, int], ...] = (("flows_1m", 60), ("flows_5m", 300), ("flows_1h", 3600))
"""Table and seconds of its rows, from fine to coarse."""

_SAFE = "fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, min_bytes_for_wide_part = 1048576, allow_suspicious_low_cardinality_types = 1"
"""What an INSERT has confirmed survives a crash of the machine; old rows go by whole files; only batches are stored with all columns in
one file, which takes twice the room."""

_ENDS = """
    src IPv6 CODEC(ZSTD(3)),
    dst IPv6 CODEC(ZSTD(3)),
    protocol UInt8 CODEC(ZSTD(3)),
    service UInt16 CODEC(ZSTD(3)),
    src_endpoint LowCardinality(UInt64) CODEC(ZSTD(3)),
    dst_endpoint LowCardinality(UInt64) CODEC(ZSTD(3)),"""

_FLOWS = """CREATE TABLE IF NOT EXISTS {database}.flows (
    time DateTime CODEC(T64, ZSTD(3)),{ends}
    sport UInt16 CODEC(Delta(2), T64, ZSTD(3)),
    dport UInt16 CODEC(Delta(2), T64, ZSTD(3)),
    version UInt8 CODEC(ZSTD(3)),
    direction UInt8 CODEC(ZSTD(3)),
    vni UInt32 CODEC(ZSTD(3)),
    in_if UInt32 CODEC(ZSTD(3)),
    out_if UInt32 CODEC(ZSTD(3)),
    src_mac UInt64 CODEC(ZSTD(3)),
    dst_mac UInt64 CODEC(ZSTD(3)),
    exporter LowCardinality(String) CODEC(ZSTD(3)),
    seen_on LowCardinality(String) CODEC(ZSTD(3)),
    counted UInt8 CODEC(ZSTD(3)),
    tcp_flags UInt8 CODEC(ZSTD(3)),
    tos UInt8 CODEC(ZSTD(3)),
    rate UInt32 CODEC(ZSTD(3)),
    samples UInt32 CODEC(T64, ZSTD(3)),
    extra Int64 CODEC(T64, ZSTD(3)),
    mean UInt32 CODEC(T64, ZSTD(3)),
    rest UInt64 CODEC(T64, ZSTD(3)),
    ago Int32 CODEC(T64, ZSTD(3)),
    lasted UInt32 CODEC(T64, ZSTD(3))
) ENGINE = MergeTree PARTITION BY toYYYYMMDD(time)
ORDER BY (toStartOfHour(time), src, dst, protocol, dport, sport, time)
TTL time + INTERVAL {days} DAY SETTINGS {safe}"""

_ROLLUP = """CREATE TABLE IF NOT EXISTS {database}.{table} (
    time DateTime CODEC(T64, ZSTD(3)),{ends}
    bytes UInt64 CODEC(T64, ZSTD(3)),
    packets UInt64 CODEC(T64, ZSTD(3)),
    samples UInt64 CODEC(T64, ZSTD(3)),
    flows UInt64 CODEC(T64, ZSTD(3))
) ENGINE = SummingMergeTree((bytes, packets, samples, flows)) PARTITION BY {partition}(time)
ORDER BY (toStartOfDay(time), src, dst, protocol, service, src_endpoint, dst_endpoint, time)
TTL time + INTERVAL {days} DAY SETTINGS {safe}"""

_VIEW = """CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.{table}_view TO {database}.{table} AS
SELECT toDateTime(intDiv(toUnixTimestamp(time), {seconds}) * {seconds}) AS time,
    src, dst, protocol, service, src_endpoint, dst_endpoint,
    sum({bytes}) AS bytes, sum({packets}) AS packets, sum(f.samples) AS samples, {flows} AS flows
FROM {database}.{source} AS f {where}
GROUP BY time, src, dst, protocol, service, src_endpoint, dst_endpoint"""

_ENDPOINTS = """CREATE TABLE IF NOT EXISTS {database}.endpoints (
    number UInt64, since DateTime,
    port String, name String, vm String, kind LowCardinality(String),
    network LowCardinality(String), network_name LowCardinality(String), project LowCardinality(String),
    hypervisor LowCardinality(String), hypervisor_name LowCardinality(String), groups Array(String)
) ENGINE = ReplacingMergeTree ORDER BY number SETTINGS {safe}"""

_ANOMALIES = """CREATE TABLE IF NOT EXISTS {database}.anomalies (
    time DateTime, id String, kind LowCardinality(String), subject_kind LowCardinality(String), subject String,
    project LowCardinality(String), score Float64, text String, detail String
) ENGINE = MergeTree ORDER BY time TTL time + INTERVAL {days} DAY SETTINGS {safe}"""

_COUNTERS = """CREATE TABLE IF NOT EXISTS {database}.counters (
    time DateTime CODEC(Delta(4), ZSTD(3)), exporter LowCardinality(String), interface UInt32, name LowCardinality(String),
    value UInt64 CODEC(Delta(8), ZSTD(3))
) ENGINE = MergeTree PARTITION BY toYYYYMM(time) ORDER BY (exporter, interface, name, time)
TTL time + INTERVAL {days} DAY SETTINGS {safe}"""


def prepare(engine: Engine, keep: Keep) -> None:
    """Make the tables where they are missing. Raises EngineError."""
    for sql in statements(keep):
        engine.execute(sql)
    for table in (RAW, *(table for table, _ in ROLLUPS)):
        # statistics of every column take as much room as the columns; servers before 25.10 make none and do not know the setting
        with contextlib.suppress(EngineError):
            engine.execute(f"ALTER TABLE {DATABASE}.{table} MODIFY SETTING auto_statistics_types = ''")


def statements(keep: Keep) -> Iterator[str]:
    """What makes the tables where they are missing, and gives them their TTLs."""
    common = {"database": DATABASE, "safe": _SAFE, "ends": _ENDS}
    yield _FLOWS.format(days=keep.raw, **common)
    source = RAW
    for (table, seconds), days in zip(ROLLUPS, keep[1:], strict=True):
        partition = "toYYYYMMDD" if seconds == 60 else "toYYYYMM"
        yield _ROLLUP.format(table=table, days=days, partition=partition, **common)
        yield _VIEW.format(
            database=DATABASE, table=table, seconds=seconds, source=source,
            bytes=BYTES if source == RAW else "f.bytes", packets=PACKETS if source == RAW else "f.packets",
            flows="count()" if source == RAW else "sum(f.flows)", where="WHERE counted" if source == RAW else "",
        )  # fmt: skip
        source = table
    yield _ENDPOINTS.format(**common)
    yield _ANOMALIES.format(days=keep.hours, **common)
    yield _COUNTERS.format(days=keep.minutes, **common)
    for table, days in zip((RAW, *(table for table, _ in ROLLUPS)), keep, strict=True):
        yield f"ALTER TABLE {DATABASE}.{table} MODIFY TTL time + INTERVAL {days} DAY"
