"""/v1/telemetry: who talks to whom, how much, since when; for tenants, what concerns their own ports."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, get_args

import msgspec
from webob import Response

from novanet_apps.telemetry.recorder.questions import (
    INFRASTRUCTURE,
    Anomalies,
    By,
    Conversations,
    Filter,
    Matrix,
    Order,
    Question,
    Records,
    Series,
    Top,
)
from topology import ip_protocols
from topology.model import SecurityGroup, SecurityGroupRule

from . import queries
from .problems import Problem
from .resources import answer
from .views import Views, scope

if TYPE_CHECKING:
    from novanet_apps.core import Core
    from novanet_apps.telemetry.app import Processes
    from novanet_apps.telemetry.link import Following

    from .api import Call

TIMES = ("start", "end", "seconds")
OBJECTS = {
    "port_id": ("port", "port"), "peer_port_id": ("peer_port", "port"), "network_id": ("network", "network"),
    "hypervisor_id": ("hypervisor", "hypervisor"), "security_group_id": ("group", "security-group"),
}  # fmt: skip
"""Parameter -> field of Filter, and the kind of object that it names."""
WHICH = (*OBJECTS, "project_id", "address", "protocol", "service")
LAST = 300
"""Seconds that are asked for where no time is given."""
HEARTBEAT = 15.0
MAX_CLIENTS = 32


class TelemetryApi:
    """Asks the recorder, on behalf of those whom its answers concern."""

    def __init__(self, core: Core, views: Views, still_valid: Any) -> None:
        self.core, self.views, self._still_valid = core, views, still_valid
        self._clients = 0

    # --- sums ----------------------------------------------------------------------------------------------------

    def top(self, call: Call) -> Response:
        """GET /v1/telemetry/top."""
        asked = self._asked(call, "by", "order", "limit")
        by = _choice(asked, "by", get_args(By), "port")
        if by in INFRASTRUCTURE:
            self._for_all(call, f"sums by {by}")
        found = self._sums(Top(filter=self._filter(call, asked), by=by, order=_order(asked), limit=_limit(asked, 10)))
        for row in found:
            row.setdefault("name", "")
            if by in ("service", "protocol"):
                number, _, port = row["key"].partition("/")
                name = protocol_name(int(number))
                row["key"] = f"{name}/{port}" if port not in ("", "0") else name
        return answer({"items": found})

    def conversations(self, call: Call) -> Response:
        """GET /v1/telemetry/conversations."""
        asked = self._asked(call, "order", "limit")
        question = Conversations(filter=self._filter(call, asked), order=_order(asked), limit=_limit(asked, 10))
        return answer({"items": self._sums(question)})

    def series(self, call: Call) -> Response:
        """GET /v1/telemetry/series."""
        asked = self._asked(call, "step")
        step = _whole(asked, "step", 0, 0, 86400)
        found = self._sums(Series(filter=self._filter(call, asked), step=step))
        for row in found:
            row["at"] = _moment(row["at"])
        return answer({"items": found})

    def matrix(self, call: Call) -> Response:
        """GET /v1/telemetry/matrix: from hypervisor to hypervisor."""
        self._for_all(call, "the traffic matrix")
        asked = self._asked(call, "order", "limit")
        question = Matrix(filter=self._filter(call, asked), order=_order(asked), limit=_limit(asked, 1000))
        return answer({"items": self._sums(question)})

    def flows(self, call: Call) -> Response:
        """GET /v1/telemetry/flows: as they came."""
        asked = self._asked(call, "limit")
        found = self._ask(Records(filter=self._filter(call, asked), limit=_limit(asked, 100)))
        for row in found:
            row["time"] = _moment(row["time"])
            row["protocol"] = protocol_name(row["protocol"])
        return answer({"items": found})

    def anomalies(self, call: Call) -> Response:
        """GET /v1/telemetry/anomalies."""
        asked = queries.parameters(call.request, (*TIMES, "project_id", "limit"))
        found = self._ask(Anomalies(filter=self._filter(call, asked, 86400), limit=_limit(asked, 100)))
        for row in found:
            row["time"] = _moment(row["time"])
            row["detail"] = msgspec.json.decode(row["detail"])
        return answer({"items": found})

    def rules(self, call: Call) -> Response:
        """GET /v1/telemetry/rules: rules of security groups, by what they have decided. Asks the switches."""
        asked = queries.parameters(call.request, ("security_group_id", "order", "limit"))
        order = _choice(asked, "order", ("bytes", "packets"), "bytes")
        groups, limit = asked.get("security_group_id", ()), _limit(asked, 10)
        self.core.rule_counters.refresh()
        found = list(self._rules(scope(call.token), groups))
        found.sort(key=lambda row: (-row[order], row["security_group_rule_id"]))
        return answer({"items": found[:limit]})

    def _rules(self, project: str | None, groups: Iterable[str]) -> Iterator[dict[str, Any]]:
        topology = self.core.topology
        for id, rule in list(topology.all("security-group-rule").items()):
            group: SecurityGroup | None = topology.get("security-group", rule.security_group_id)
            if group is None or project not in (None, group.project_id) or (groups and group.id not in groups):
                continue
            yield self._rule(id, rule, group)

    def _rule(self, id: str, rule: SecurityGroupRule, group: SecurityGroup) -> dict[str, Any]:
        count = self.core.rule_counters.of_rule(rule)
        return {
            "security_group_rule_id": id, "security_group_id": group.id, "security_group": group.name,
            "direction": rule.direction, "action": rule.action, "protocol": rule.protocol or "",
            "packets": count.packets, "bytes": count.bytes,
        }  # fmt: skip

    # --- how it is doing -----------------------------------------------------------------------------------------

    def status(self, call: Call) -> Response:
        """GET /v1/telemetry/status: processes, exporters and what was lost."""
        queries.parameters(call.request, ())
        self._for_all(call, "the state of telemetry")
        telemetry = self._telemetry()
        told = telemetry.link.status
        processes = [
            {"name": child.name, "running": child.pid is not None, "starts": child.starts, "error": child.error}
            for child in telemetry.children
        ]
        exporters = [
            {"address": address, **each, "last": _moment(int(each["last"]))}
            for address, each in sorted(told.get("exporters", {}).items())
        ]
        return answer(
            {
                "healthy": bool(telemetry.link.connected and not telemetry.problems()),
                "problems": telemetry.problems(),
                "processes": processes,
                "exporters": exporters,
                "storage": {
                    name: told.get(name, 0) for name in ("rows", "stored", "lost", "waiting", "failures", "size")
                },
            }
        )

    def caches(self, call: Call) -> Response:
        """GET /v1/telemetry/caches: how often datapaths' flow caches had a packet's flow, by hypervisor."""
        queries.parameters(call.request, ())
        self._for_all(call, "flow caches")
        told = self._telemetry().link.status.get("caches", ())
        return answer({"items": [self._cache(each) for each in told]})

    def _cache(self, told: Mapping[str, Any]) -> dict[str, Any]:
        hypervisor = self.core.topology.get("hypervisor", told["hypervisor_id"])
        packets = told["hits"] + told["misses"]
        return {
            "hypervisor_id": told["hypervisor_id"], "hypervisor": hypervisor.name if hypervisor is not None else "",
            "exporter": told["exporter"], "time": _moment(int(told["at"])), "seconds": round(told["seconds"], 1),
            "packets": packets, "hits": told["hits"], "misses": told["misses"], "lost": told["lost"],
            "hit_percent": round(100 * told["hits"] / packets, 3) if packets else None,
            "flows": told["flows"], "masks": told["masks"],
        }  # fmt: skip

    # --- live ----------------------------------------------------------------------------------------------------

    def stream(self, call: Call) -> Response:
        """GET /v1/telemetry/stream: flows as they come, as server-sent events."""
        asked = queries.parameters(call.request, WHICH)
        wanted = self._filter(call, asked)
        telemetry = self._telemetry()
        if self._clients >= MAX_CLIENTS:
            detail = f"there are {MAX_CLIENTS} clients of /v1/telemetry/stream already; try again later"
            raise Problem(503, detail, headers={"Retry-After": "5"})
        response = Response(content_type="text/event-stream", charset="utf-8")
        if call.request.method != "HEAD":
            self._clients += 1
            response.app_iter = Stream(self, telemetry.link.follow(wanted), lambda: self._still_valid(call.token))
            call.request.environ["eventlet.minimum_write_chunk_size"] = 1
        return response

    def left(self) -> None:
        """A client of the stream has gone."""
        self._clients -= 1

    # --- what is asked -------------------------------------------------------------------------------------------

    def _telemetry(self) -> Processes:
        telemetry: Processes | None = getattr(self.core, "telemetry", None)
        if telemetry is None or not telemetry.on:
            detail = "telemetry is off: load novanet_apps.telemetry and set telemetry_listen"
            raise Problem(503, detail, headers={"Retry-After": "60"})
        return telemetry

    def _ask(self, question: Question) -> list[dict[str, Any]]:
        from novanet_apps.telemetry.link import Unanswered

        try:
            return self._telemetry().link.ask(question)
        except Unanswered as problem:
            raise Problem(503, str(problem), headers={"Retry-After": "5"}) from None

    def _sums(self, question: Question) -> list[dict[str, Any]]:
        found = self._ask(question)
        for row in found:
            row["error_percent"] = error_percent(int(row["packets"]), int(row.pop("samples")))
            if "protocol" in row:
                row["protocol"] = protocol_name(row["protocol"])
        return found

    def _for_all(self, call: Call, what: str) -> None:
        if scope(call.token) is not None:
            raise Problem(403, f"{what} tells about every project; this token is confined to one")

    def _asked(self, call: Call, *more: str) -> dict[str, list[str]]:
        return queries.parameters(call.request, (*TIMES, *WHICH, *more))

    def _filter(self, call: Call, asked: Mapping[str, list[str]], last: int = LAST) -> Filter:
        project = scope(call.token)
        start, end = _time(asked, last)
        found: dict[str, Any] = {"start": start, "end": end, "scope": project}
        for name, (field, kind) in OBJECTS.items():
            if name in asked:
                found[field] = self._visible(project, kind, name, asked[name][-1])
        if "hypervisor" in found:
            self._for_all(call, "what passes a hypervisor")
        if "peer_port" in found and "port" not in found:
            raise Problem(400, "is the other end of port_id, which is missing", field="peer_port_id")
        if "project_id" in asked:
            found["project"] = asked["project_id"][-1]
            if project not in (None, found["project"]):
                raise Problem(403, f"this token is confined to the project {project}")
        found |= _numbers(asked)
        return Filter(**found)

    def _visible(self, project: str | None, kind: str, name: str, id: str) -> str:
        """The id of an object that may be named. What is gone may be asked for by those who see everything."""
        obj = self.core.topology.get(kind, id)
        if project is not None and (obj is None or not self.views.visible(project, kind, obj)):
            raise Problem(404, f"there is no {kind} {id}", field=name)
        return id


class Stream:
    """One who follows. Iterating gives pieces of the stream; ``close`` ends it."""

    def __init__(self, api: TelemetryApi, following: Following, valid: Any) -> None:
        self._api, self._following, self._valid = api, following, valid
        self._open = True

    def __iter__(self) -> Iterator[bytes]:
        yield b"retry: 2000\n\n"
        looked = time.monotonic()
        while self._open:
            news = self._following.next(HEARTBEAT)
            if time.monotonic() - looked >= HEARTBEAT:
                looked = time.monotonic()
                if not self._valid():
                    return
            if news is None:
                yield b": heartbeat\n\n"
            else:
                for row in news["records"]:
                    row["protocol"] = protocol_name(row["protocol"])
                told = {"time": _moment(int(news["at"])), "skipped": news["skipped"], "items": news["records"]}
                yield b"event: flows\ndata: %s\n\n" % msgspec.json.encode(told)

    def close(self) -> None:
        """The connection ended; called by the WSGI server."""
        if self._open:
            self._open = False
            self._following.close()
            self._api.left()


def protocol_name(number: int) -> str:
    """As security group rules write it."""
    return ip_protocols.NAMES.get(number, str(number))


def error_percent(packets: int, samples: int) -> float:
    """How far a sum is off at most, with 95 % confidence, when so many of so many packets were sampled
    (P. Phaal, S. Panchen: Packet Sampling Basics, 2002: 196 * sqrt(1 / n)); 0 when all were."""
    return 0.0 if samples >= packets or not samples else round(min(100.0, 196.0 / samples**0.5), 2)


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")


def _time(asked: Mapping[str, list[str]], last: int) -> tuple[int, int]:
    """Start and end in Unix seconds."""
    if "seconds" in asked and "start" in asked:
        raise Problem(400, "stands instead of start, and both are given", field="seconds")
    end = _parsed("end", asked["end"][-1]) if "end" in asked else int(time.time()) + 1
    start = (
        _parsed("start", asked["start"][-1])
        if "start" in asked
        else end - _whole(asked, "seconds", last, 1, 500 * 86400)
    )
    if not 0 <= start < end < 1 << 32:
        raise Problem(400, "must be before the end, and neither before 1970", field="start")
    return start, end


def _parsed(name: str, text: str) -> int:
    """A time as RFC 3339 writes it, or in Unix seconds."""
    if text.isascii() and text.isdecimal() and len(text) < 11:
        return int(text)
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00").replace(" ", "+"))
        return int((found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp())
    except (ValueError, OverflowError):
        detail = f"must be a time like 2026-01-31T12:00:00Z, or in Unix seconds, not {text[:40]!r}"
        raise Problem(400, detail, field=name) from None


def _numbers(asked: Mapping[str, list[str]]) -> dict[str, Any]:
    """Address, protocol and service."""
    found: dict[str, Any] = {}
    if "address" in asked:
        try:
            found["address"] = str(ip_address(asked["address"][-1]))
        except ValueError:
            raise Problem(400, f"must be an IP address, not {asked['address'][-1][:60]!r}", field="address") from None
    if "protocol" in asked:
        try:
            name = ip_protocols.canonical(asked["protocol"][-1], "IPv4")
        except ValueError as problem:
            raise Problem(400, str(problem)[:300], field="protocol") from None
        if name is not None:
            found["protocol"] = ip_protocols.number(name)
    if "service" in asked:
        found["service"] = _whole(asked, "service", 0, 0, 65535)
    return found


def _whole(asked: Mapping[str, list[str]], name: str, default: int, low: int, high: int) -> int:
    text = asked[name][-1] if name in asked else str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and low <= int(text) <= high):
        raise Problem(400, f"must be a number from {low} to {high}, not {text[:40]!r}", field=name)
    return int(text)


def _limit(asked: Mapping[str, list[str]], default: int) -> int:
    return _whole(asked, "limit", default, 1, queries.MAX_LIMIT)


def _choice(asked: Mapping[str, list[str]], name: str, known: tuple[str, ...], default: str) -> Any:
    value = asked[name][-1] if name in asked else default
    if value not in known:
        raise Problem(400, f"must be one of {', '.join(known)}, not {value[:40]!r}", field=name)
    return value


def _order(asked: Mapping[str, list[str]]) -> Any:
    return _choice(asked, "order", get_args(Order), "bytes")
