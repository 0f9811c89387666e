"""Questions as SQL, for chDB and ClickHouse alike. Values go in as parameters, never as text.

Sums come from the coarsest table that is fine enough and still has rows of the time asked for. Numbers of endpoints are summed
first and named after, so that what is joined is small.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from .engines import DATABASE, Engine
from .questions import Anomalies, Conversations, Filter, Matrix, Question, Records, Series, Top
from .schema import BYTES, PACKETS, RAW, ROLLUPS, Keep

SETTINGS = (
    "SETTINGS prefer_column_name_to_alias = 1, max_execution_time = 10, max_threads = 2, max_memory_usage = 1500000000, "
    " max_rows_to_group_by = 5000000, group_by_overflow_mode = 'any'"
)
DEFAULT = Keep()
POINTS = 400
"""Points of a series at most, when its step is chosen."""
_FINE_ENOUGH = ((900, 1), (12 * 3600, 60), (4 * 86400, 300))
"""Seconds that a sum is over, and how fine the rows have to be of which it is made."""
_SUMS = "sum(bytes) AS bytes, sum(packets) AS packets, sum(flows) AS flows, sum(samples) AS samples"
_OF_ENDPOINT = {
    "port": "e.port", "vm": "if(e.vm != '', e.vm, e.port)", "network": "e.network", "project": "e.project",
    "hypervisor": "e.hypervisor", "group": "arrayJoin(e.groups)",
}  # fmt: skip
_NAMES = {"port": "name", "vm": "name", "network": "network_name", "hypervisor": "hypervisor_name"}


class Statement(NamedTuple):
    """SQL and what its parameters are."""

    sql: str
    parameters: dict[str, Any]


class _Where:
    """Conditions on the rows of flows, and the parameters in them."""

    def __init__(self, asked: Filter, table: str) -> None:
        seconds = dict(ROLLUPS).get(table, 1)
        self.parameters: dict[str, Any] = {"start": asked.start // seconds * seconds, "end": asked.end}
        self._conditions = ["time >= toDateTime({start:UInt32})", "time < toDateTime({end:UInt32})"]
        if table == RAW:
            self._conditions.append("counted")
        ends = [(name, getattr(asked, name)) for name in ("port", "network", "project", "hypervisor")]
        for name, value in [*ends, ("scope", asked.scope or ""), ("group", asked.group)]:
            if value:
                self._either(name, value)
        if asked.peer_port:
            self._pair(asked.port, asked.peer_port)
        if asked.address:
            self.parameters["address"] = asked.address
            self._conditions.append("(src = toIPv6({address:String}) OR dst = toIPv6({address:String}))")
        for name in ("protocol", "service"):
            if (number := getattr(asked, name)) is not None:
                self.parameters[name] = number
                self._conditions.append(f"{name} = {{{name}:UInt16}}")

    def _either(self, name: str, value: str) -> None:
        found = self.endpoints(name, value)
        self._conditions.append(f"(src_endpoint IN {found} OR dst_endpoint IN {found})")

    def _pair(self, port: str, peer: str) -> None:
        one, other = self.endpoints("port", port), self.endpoints("peer_port", peer)
        self._conditions.append(
            f"((src_endpoint IN {one} AND dst_endpoint IN {other}) OR (src_endpoint IN {other} AND dst_endpoint IN {one}))"
        )

    def endpoints(self, name: str, value: str) -> str:
        """The numbers of the endpoints that have this port, network …, as SQL."""
        self.parameters[name] = value
        column = {"scope": "project", "peer_port": "port"}.get(name, name)
        condition = f"has(groups, {{{name}:String}})" if name == "group" else f"{column} = {{{name}:String}}"
        return f"(SELECT number FROM {DATABASE}.endpoints WHERE {condition})"

    def __str__(self) -> str:
        return " AND ".join(self._conditions)


def table_for(asked: Filter, keep: Keep, now: float, step: int = 0) -> str:
    """The coarsest table that is fine enough for steps of so many seconds (0: for a sum), of those that still have the first row."""
    span = asked.end - asked.start
    wanted = step or next((seconds for longest, seconds in _FINE_ENOUGH if span <= longest), 3600)
    tables = [(RAW, 1), *ROLLUPS]
    fitting = max(number for number, (_, seconds) in enumerate(tables) if seconds <= wanted)
    for (table, _), days in list(zip(tables, keep, strict=True))[fitting:]:
        if now - asked.start <= 86400 * days:
            return table
    return tables[-1][0]


def statement(question: Question, keep: Keep = DEFAULT, now: float | None = None) -> Statement:
    """The SQL of a question."""
    now = time.time() if now is None else now
    match question:
        case Top():
            return _top(question, keep, now)
        case Conversations():
            return _conversations(question, keep, now)
        case Series():
            return _series(question, keep, now)
        case Matrix():
            return _matrix(question, keep, now)
        case Records():
            return _records(question)
        case Anomalies():
            return _anomalies(question)


def answer(engine: Engine, question: Question, keep: Keep = DEFAULT) -> list[dict[str, Any]]:
    """The rows that answer a question. Raises EngineError."""
    sql, parameters = statement(question, keep)
    return engine.query(f"{sql} {SETTINGS}", parameters)


def _source(table: str) -> str:
    """The table, with the columns that sums are made of."""
    if table == RAW:
        return f"(SELECT *, {PACKETS} AS packets, {BYTES} AS bytes, toUInt64(1) AS flows FROM {DATABASE}.{RAW} AS f)"
    return f"{DATABASE}.{table}"


_BOTH_WAYS = (
    "sumIf(bytes, sent) AS bytes_out, sumIf(bytes, not sent) AS bytes_in, sumIf(packets, sent) AS packets_out,"
    " sumIf(packets, not sent) AS packets_in"
)
_RESUMMED = ", ".join(
    f"sum(s.{name}) AS {name}"
    for name in ("bytes_out", "bytes_in", "packets_out", "packets_in", "bytes", "packets", "flows", "samples")
)


def _by_end(where: _Where, table: str, key: str, more: str = "") -> str:
    """Sums by each end of flows, of what it sent and what it received; ``key`` of ``endpoint`` and ``ip``."""
    columns = "bytes, packets, flows, samples, time"
    ends = " UNION ALL ".join(
        f"SELECT {end}_endpoint AS endpoint, {end} AS ip, {sent} AS sent, {columns} FROM {_source(table)} WHERE {where}"
        for end, sent in (("src", 1), ("dst", 0))
    )
    return f"SELECT {key}, {_BOTH_WAYS}, {_SUMS} FROM ({ends}) {more}"


def _top(question: Top, keep: Keep, now: float) -> Statement:
    asked, by = question.filter, question.by
    table = RAW if by == "exporter" else table_for(asked, keep, now)
    where = _Where(asked, table)
    tail = f"ORDER BY sum({question.order}) DESC, key LIMIT {question.limit}"
    if by in ("service", "protocol", "exporter"):
        key = "concat(toString(protocol), '/', toString(service))" if by == "service" else f"toString({by})"
        sql = f"SELECT {key} AS key, {_SUMS} FROM {_source(table)} WHERE {where} GROUP BY key {tail}"
    elif by == "address":
        sql = _by_end(where, table, f"{_text('ip')} AS key", f"GROUP BY key {tail}")
    else:
        sums = _by_end(where, table, "endpoint", "GROUP BY endpoint")
        name = f"any(e.{_NAMES[by]}) AS name, " if by in _NAMES else ""
        mine = f"WHERE {_mine('e', asked)}"
        sql = (
            f"SELECT {_OF_ENDPOINT[by]} AS key, {name}{_RESUMMED} FROM ({sums}) AS s"
            f" INNER JOIN {_ENDPOINTS} AS e ON e.number = s.endpoint {mine} GROUP BY key {tail.replace('sum(', 'sum(s.')}"
        )
    return Statement(sql, where.parameters)


_ENDPOINTS = f"(SELECT * FROM {DATABASE}.endpoints FINAL)"


def _mine(end: str, asked: Filter) -> str:
    """Whether an end's names may be told."""
    return f"{end}.project = {{scope:String}}" if asked.scope else "1"


def _text(ip: str) -> str:
    """An address as people write it, IPv4 without its prefix."""
    return f"replaceOne(IPv6NumToString({ip}), '::ffff:', '')"


def _named(asked: Filter) -> str:
    """Names of both ends, where they may be told."""
    names = [
        f"if({_mine(end, asked)}, {end}.{column}, '') AS {long}_{shown}"
        for end, long in (("a", "src"), ("b", "dst"))
        for column, shown in (
            ("port", "port_id"),
            ("name", "name"),
            ("network", "network_id"),
            ("project", "project_id"),
        )
    ]
    return ", ".join(names)


_JOINS = (
    f"LEFT JOIN {_ENDPOINTS} AS a ON a.number = s.src_endpoint LEFT JOIN {_ENDPOINTS} AS b ON b.number = s.dst_endpoint"
)


def _conversations(question: Conversations, keep: Keep, now: float) -> Statement:
    asked = question.filter
    table = table_for(asked, keep, now)
    where = _Where(asked, table)
    pair = (
        "f.src <= f.dst AS forward, if(forward, f.src, f.dst) AS one, if(forward, f.dst, f.src) AS two,"
        " if(forward, f.src_endpoint, f.dst_endpoint) AS one_endpoint, if(forward, f.dst_endpoint, f.src_endpoint) AS two_endpoint"
    )
    sums = (
        "SELECT one, two, one_endpoint AS src_endpoint, two_endpoint AS dst_endpoint, protocol, service,"
        f" sumIf(bytes, forward) AS bytes_there, sumIf(bytes, not forward) AS bytes_back, {_SUMS}"
        f" FROM (SELECT {pair}, protocol, service, bytes, packets, flows, samples FROM {_source(table)} AS f WHERE {where})"
        " GROUP BY one, two, one_endpoint, two_endpoint, protocol, service"
        f" ORDER BY sum({question.order}) DESC, one, two, protocol, service LIMIT {question.limit}"
    )
    sql = (
        f"SELECT {_text('s.one')} AS src, {_text('s.two')} AS dst, s.protocol AS protocol, s.service AS service, {_named(asked)},"
        " s.bytes_there AS bytes_there, s.bytes_back AS bytes_back, s.bytes AS bytes, s.packets AS packets, s.flows AS flows,"
        f" s.samples AS samples FROM ({sums}) AS s {_JOINS} ORDER BY s.{question.order} DESC, s.one, s.two, s.protocol, s.service"
    )
    return Statement(sql, where.parameters)


def _series(question: Series, keep: Keep, now: float) -> Statement:
    asked = question.filter
    step = question.step or _step(asked.end - asked.start)
    table = table_for(asked, keep, now, step)
    step = max(step, dict(ROLLUPS).get(table, 1))
    where = _Where(asked, table)
    subject = next((name for name in ("port", "network", "project", "hypervisor", "group", "scope") if name in where.parameters), "")  # fmt: skip
    there, back = "0", "0"
    if subject:
        inside = where.endpoints(subject, where.parameters[subject])
        there, back = f"src_endpoint IN {inside}", f"dst_endpoint IN {inside}"
    sql = (
        f"SELECT intDiv(toUnixTimestamp(time), {step}) * {step} AS at, sumIf(bytes, {there}) AS bytes_out,"
        f" sumIf(bytes, {back}) AS bytes_in, sumIf(packets, {there}) AS packets_out, sumIf(packets, {back}) AS packets_in,"
        f" {_SUMS}, toUInt32({step}) AS step FROM {_source(table)} WHERE {where} GROUP BY at ORDER BY at"
    )
    return Statement(sql, where.parameters)


def _step(span: int) -> int:
    """The smallest usual step with which a span has at most POINTS points."""
    return next((step for step in (1, 5, 10, 60, 300, 900, 3600, 21600) if span <= step * POINTS), 86400)


def _matrix(question: Matrix, keep: Keep, now: float) -> Statement:
    asked = question.filter
    table = table_for(asked, keep, now)
    where = _Where(asked, table)
    sums = f"SELECT src_endpoint, dst_endpoint, {_SUMS} FROM {_source(table)} WHERE {where} GROUP BY src_endpoint, dst_endpoint"
    resummed = ", ".join(f"sum(s.{name}) AS {name}" for name in ("bytes", "packets", "flows", "samples"))
    sql = (
        "SELECT a.hypervisor AS src_hypervisor_id, any(a.hypervisor_name) AS src_hypervisor, b.hypervisor AS dst_hypervisor_id,"
        f" any(b.hypervisor_name) AS dst_hypervisor, {resummed} FROM ({sums}) AS s {_JOINS}"
        " GROUP BY src_hypervisor_id, dst_hypervisor_id"
        f" ORDER BY sum(s.{question.order}) DESC, src_hypervisor_id, dst_hypervisor_id LIMIT {question.limit}"
    )
    return Statement(sql, where.parameters)


def _records(question: Records) -> Statement:
    asked = question.filter
    where = _Where(asked, RAW)
    infrastructure = "'' AS exporter" if asked.scope else "s.exporter AS exporter"
    sql = (
        f"SELECT toUnixTimestamp(s.time) AS time, {_text('s.src')} AS src, {_text('s.dst')} AS dst, s.sport AS sport,"
        f" s.dport AS dport, s.protocol AS protocol, s.tcp_flags AS tcp_flags, s.bytes AS bytes, s.packets AS packets,"
        f" s.samples AS samples, s.rate AS rate, {infrastructure}, {_named(asked)} FROM (SELECT * FROM {_source(RAW)}"
        f" WHERE {where} ORDER BY time DESC LIMIT {question.limit}) AS s {_JOINS} ORDER BY time DESC, src, dst, sport, dport"
    )
    return Statement(sql, where.parameters)


def _anomalies(question: Anomalies) -> Statement:
    asked = question.filter
    parameters: dict[str, Any] = {"start": asked.start, "end": asked.end}
    conditions = "time >= toDateTime({start:UInt32}) AND time < toDateTime({end:UInt32})"
    for column in ("scope", "project"):
        if value := getattr(asked, column):
            parameters[column] = value
            conditions += f" AND project = {{{column}:String}}"
    sql = (
        "SELECT toUnixTimestamp(a.time) AS time, id, kind, subject_kind, subject, project AS project_id, score, text, detail"
        f" FROM {DATABASE}.anomalies AS a WHERE {conditions} ORDER BY a.time DESC, id LIMIT {question.limit}"
    )
    return Statement(sql, parameters)
