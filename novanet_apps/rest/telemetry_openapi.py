"""What /v1/telemetry answers, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from novanet_apps.telemetry.recorder.questions import By, Order

from . import queries
from .telemetry import LAST, OBJECTS

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_TIME: Schema = {"type": "string", "format": "date-time"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_ERROR: Schema = {
    "type": "number",
    "description": "by how many percent the sums may be off with 95 % confidence, because packets were sampled; 0: all were counted",
}
_SUMS = {"bytes": _COUNT, "packets": _COUNT, "flows": _COUNT, "error_percent": _ERROR}
_BOTH_WAYS = dict.fromkeys(("bytes_out", "bytes_in", "packets_out", "packets_in"), _COUNT)
_ENDS = {f"{end}_{name}": _TEXT for end in ("src", "dst") for name in ("port_id", "name", "network_id", "project_id")}
_ITEMS: dict[str, tuple[Schema, tuple[str, ...]]] = {
    "Top": ({"key": _TEXT, "name": _TEXT, **_SUMS, **_BOTH_WAYS}, tuple(_BOTH_WAYS)),
    "Conversation": (
        {
            "src": _TEXT, "dst": _TEXT, "protocol": _TEXT, "service": _COUNT, **_ENDS,
            "bytes_there": _COUNT, "bytes_back": _COUNT, **_SUMS,
        },
        (),
    ),
    "SeriesPoint": ({"at": _TIME, "step": _COUNT, **_SUMS, **_BOTH_WAYS}, ()),
    "MatrixCell": (
        {
            "src_hypervisor_id": _TEXT, "src_hypervisor": _TEXT, "dst_hypervisor_id": _TEXT, "dst_hypervisor": _TEXT, **_SUMS,
        },
        (),
    ),
    "FlowRecord": (
        {
            "time": _TIME, "src": _TEXT, "dst": _TEXT, "sport": _COUNT, "dport": _COUNT, "protocol": _TEXT, "tcp_flags": _COUNT,
            "bytes": _COUNT, "packets": _COUNT, "samples": _COUNT, "rate": _COUNT, "exporter": _TEXT, **_ENDS,
        },
        (),
    ),
    "Anomaly": (
        {
            "time": _TIME, "id": _TEXT, "kind": _TEXT, "subject_kind": _TEXT, "subject": _TEXT, "project_id": _TEXT,
            "score": {"type": "number"}, "text": {"type": "string", "description": "what happened, in words and numbers"},
            "detail": {"type": "object"},
        },
        (),
    ),
    "CacheLookups": (
        {
            "hypervisor_id": _TEXT, "hypervisor": _TEXT, "exporter": _TEXT, "time": _TIME,
            "seconds": {"type": "number", "description": "between the last two reports: what is counted is of these"},
            "packets": _COUNT, "hits": _COUNT, "misses": _COUNT,
            "lost": {**_COUNT, "description": "packets that had no flow, and for which no room was left either"},
            "hit_percent": {"type": ["number", "null"], "description": "null when there were no packets"},
            "flows": {**_COUNT, "description": "in the caches now; so are masks"},
            "masks": {"type": ["integer", "null"], "description": "null where the datapath does not count them"},
        },
        (),
    ),
    "RuleTraffic": (
        {
            "security_group_rule_id": _TEXT, "security_group_id": _TEXT, "security_group": _TEXT, "direction": _TEXT,
            "action": _TEXT, "protocol": _TEXT, "packets": _COUNT, "bytes": _COUNT,
        },
        (),
    ),
}  # fmt: skip


def schemas() -> Schema:
    """The components."""
    found: Schema = {}
    for name, (properties, optional) in _ITEMS.items():
        required = [each for each in properties if each not in optional]
        found[name] = {"type": "object", "properties": properties, "required": required}
        items = {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}
        found[f"{name}List"] = {"type": "object", "properties": {"items": items}, "required": ["items"]}
    found["TelemetryStatus"] = _status()
    return found


def _status() -> Schema:
    process = {"name": _TEXT, "running": {"type": "boolean"}, "starts": _COUNT, "error": _TEXT}
    lost = {"sequence": _COUNT, "kernel": _COUNT, "queue": _COUNT}
    exporter = {
        "address": _TEXT, "hypervisor_id": _TEXT, "rows": _COUNT, "samples": _COUNT, "packets": _COUNT, "bytes": _COUNT,
        "last": _TIME, "lost": _all(lost),
    }  # fmt: skip
    storage = dict.fromkeys(("rows", "stored", "lost", "waiting", "failures", "size"), _COUNT)
    return _all(
        {
            "healthy": {"type": "boolean"}, "problems": {"type": "array", "items": _TEXT},
            "processes": {"type": "array", "items": _all(process)}, "exporters": {"type": "array", "items": _all(exporter)},
            "storage": _all(storage),
        }
    )  # fmt: skip


def _all(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def paths(get: Callable[..., Schema], parameter: Callable[..., Schema], good: Callable[..., Schema]) -> Schema:
    """The paths."""
    which = [parameter("query", name, _TEXT, f"flows of this {kind}") for name, (_, kind) in OBJECTS.items()]
    which += [
        parameter("query", "project_id", _TEXT, "flows of this project's ports"),
        parameter("query", "address", _TEXT, "flows from or to this IP address"),
        parameter("query", "protocol", _TEXT, "by name or number"),
        parameter("query", "service", {"type": "integer", "minimum": 0, "maximum": 65535}, "port of TCP, UDP or SCTP"),
    ]
    times = [
        parameter("query", "start", _TEXT, "a time (RFC 3339), or Unix seconds"),
        parameter("query", "end", _TEXT, "the same; not part of what is asked for; now when left out"),
        parameter(
            "query", "seconds", {"type": "integer", "minimum": 1, "default": LAST}, "before the end, instead of start"
        ),
    ]
    order = parameter("query", "order", {"enum": list(get_args(Order)), "default": "bytes"}, "what comes first")
    limit = parameter("query", "limit", {"type": "integer", "minimum": 1, "maximum": queries.MAX_LIMIT})
    by = parameter("query", "by", {"enum": list(get_args(By)), "default": "port"}, "what is summed up")
    step = parameter("query", "step", {"type": "integer", "minimum": 0, "maximum": 86400}, "seconds; 0: as fits")
    told = {
        "top": ("Who sent and received most", "Top", [by, order, limit, *times, *which]),
        "conversations": ("Pairs with most traffic", "Conversation", [order, limit, *times, *which]),
        "series": ("Sums over time", "SeriesPoint", [step, *times, *which]),
        "matrix": ("Traffic from hypervisor to hypervisor", "MatrixCell", [order, limit, *times, *which]),
        "flows": ("Flows as they came", "FlowRecord", [limit, *times, *which]),
        "anomalies": ("What was odd", "Anomaly", [limit, *times, which[-4]]),
        "caches": ("How often the flow caches of datapaths had a packet's flow", "CacheLookups", []),
        "rules": ("Rules of security groups by what they decided", "RuleTraffic", [
            parameter("query", "security_group_id", _TEXT), parameter("query", "order", {"enum": ["bytes", "packets"]}), limit,
        ]),
    }  # fmt: skip
    found = {}
    for name, (summary, item, parameters) in told.items():
        schema = {"$ref": f"#/components/schemas/{item}List"}
        found[f"/v1/telemetry/{name}"] = get(
            f"telemetry{name.title()}", summary, good("All of it.", schema), *parameters
        )
    found["/v1/telemetry/status"] = get(
        "telemetryStatus", "Processes, exporters, and what was lost",
        good("How it is doing.", {"$ref": "#/components/schemas/TelemetryStatus"}),
    )  # fmt: skip
    found["/v1/telemetry/stream"] = get(
        "telemetryStream", "Flows as they come, as server-sent events", good("The stream.", _TEXT, "text/event-stream"), *which
    )  # fmt: skip
    for path in found.values():
        for status in ("404", "503"):
            path["get"]["responses"][status] = {"$ref": f"#/components/responses/{status}"}
    return found
