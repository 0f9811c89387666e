"""The OpenAPI 3.1 document of the REST interface, made from the types that validate."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any, get_args

import msgspec

from novanet_apps.policy_log import LogEntry
from pipelines.trace import Trace
from topology.model import KINDS, Object, Status, traits

from . import queries, telemetry_openapi
from .captures import CONTENT_TYPE as PCAPNG
from .load_balancers import BalancerStatistics, BalancerStatus
from .problems import CONTENT_TYPE as PROBLEM
from .qos import EffectiveQos, HypervisorBandwidth, QosVerification
from .security_groups import FILTERS, VERDICTS, GroupStatistics, RuleStatistics
from .traces import TraceRequest
from .views import FOLLOWS

JSON = "application/json"
Schema = dict[str, Any]
_REF = "#/components/schemas/{name}"
_DERIVED = {"Network": ("mtu",), "Subnet": ("ip_version",), "SecurityGroupRule": ("ethertype",)}
"""Fields that may be null in a request and are worked out in answers."""
_REASONS = {
    400: "The request is malformed, or a field has a value that it cannot have.",
    401: "There is no valid token.",
    403: "The token's role does not allow it.",
    404: "There is no such object, or it belongs to another project.",
    405: "The path does not answer to this method; Allow says to which it does.",
    406: "The header Accept excludes what there is.",
    409: "It contradicts another object: a name or address that is taken, or an object that is in use.",
    412: "The object is no longer what If-Match or If-None-Match says.",
    413: "The body is too large.",
    414: "The request line is longer than 8 KiB.",
    415: "The body has another content type than expected.",
    431: "A header is longer than 8 KiB, or all together are longer than 64 KiB.",
    503: "The intent store is not connected, or there are too many clients; Retry-After says when to come back.",
}


@cache
def document() -> Schema:
    """The document. It is the same for everybody, and must not be changed."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "NovaNet",
            "version": "1",
            "description": "Virtual networks for VM platforms. Objects and names follow OpenStack Neutron's API.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [{"name": cls.COLLECTION, "description": _first_line(cls)} for cls in KINDS.values()]
        + [{"name": "system", "description": "The whole of it."}],
        "paths": {**_system_paths(), **{path: item for cls in KINDS.values() for path, item in _paths(cls).items()}},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "responses": {str(status): _problem(text) for status, text in _REASONS.items()},
        },
    }


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


# --- schemas ---------------------------------------------------------------------------------------------------------


def _schemas() -> Schema:
    _, components = msgspec.json.schema_components(list(KINDS.values()), ref_template=_REF)
    schemas: Schema = {
        name: schema for name, schema in components.items() if name not in {c.__name__ for c in KINDS.values()}
    }
    for cls in KINDS.values():
        plain = components[cls.__name__]
        schemas[cls.__name__] = _shown(cls, plain)
        if not cls.DERIVED:
            schemas[f"{cls.__name__}Create"] = _creation(cls, plain)
            schemas[f"{cls.__name__}Update"] = _update(cls, plain)
        schemas[f"{cls.__name__}List"] = _list(cls)
    schemas["Problem"] = _object(
        {
            "type": {"type": "string", "format": "uri-reference"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string"},
            "instance": {"type": "string"},
            "field": {"type": "string", "description": "path of the field to blame, e.g. fixed_ips[0].subnet_id"},
        },
        optional=("field",),
        description="RFC 9457",
    )
    schemas["SystemStatus"] = _system_status()
    schemas["Topology"] = _topology()
    schemas |= _traces()
    schemas |= _told_of_rules()
    schemas |= telemetry_openapi.schemas()
    schemas |= _shapes(BalancerStatus, BalancerStatistics, HypervisorBandwidth, EffectiveQos, QosVerification)
    return schemas


def _shown(cls: type[Object], plain: Schema) -> Schema:
    """As answered: every field is there, and so is how far the object is realised."""
    schema = deepcopy(plain)
    for name in _DERIVED.get(schema["title"], ()):
        schema["properties"][name] = _not_null(schema["properties"][name])
    for name, described in FOLLOWS.get(cls.KIND, {}).items():
        schema["properties"][name] = described | {"readOnly": True}
    schema["properties"]["status"] = {"enum": list(get_args(Status)), "readOnly": True}
    schema["properties"]["status_reason"] = {
        "type": "array", "items": {"type": "string"}, "readOnly": True,
        "description": "what keeps it from being ACTIVE, and what is odd about it",
    }  # fmt: skip
    schema["required"] = list(schema["properties"])
    return schema


def _not_null(schema: Schema) -> Schema:
    (kept,) = (choice for choice in schema["anyOf"] if choice != {"type": "null"})
    return dict(kept)


def _creation(cls: type[Object], plain: Schema) -> Schema:
    """As sent with POST and PUT: without what NovaNet sets; the id may be left out."""
    schema = _writable(cls, plain)
    schema["required"] = [name for name in schema["required"] if name != "id"]
    schema["description"] = f"{_first_line(cls)} What is left out gets its default."
    return schema


def _update(cls: type[Object], plain: Schema) -> Schema:
    """As sent with PATCH: a merge patch, in which null stands for the default."""
    schema = _writable(cls, plain)
    for name in plain["properties"].keys() - set(plain["required"]):
        if name in schema["properties"] and "immutable" not in traits(cls)[name]:
            schema["properties"][name] = _nullable(schema["properties"][name])
    del schema["required"]
    del schema["properties"]["id"]
    schema["description"] = "JSON merge patch (RFC 7386); null stands for the default."
    return schema


def _writable(cls: type[Object], plain: Schema) -> Schema:
    schema = deepcopy(plain)
    for name, trait in traits(cls).items():
        if "read_only" in trait:
            del schema["properties"][name]
        elif "admin" in trait:
            schema["properties"][name]["description"] = "administrators only"
    schema["additionalProperties"] = False
    return schema


def _nullable(schema: Schema) -> Schema:
    choices = schema.get("anyOf", [schema])
    return schema if {"type": "null"} in choices else {"anyOf": [*choices, {"type": "null"}]}


def _object(properties: Schema, optional: tuple[str, ...] = (), **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [n for n in properties if n not in optional],
        **more,
    }


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": _REF.format(name=name)}


def _list(cls: type[Object]) -> Schema:
    following = {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "description": "path of the next page; null on the last",
    }
    return _object({"items": _array(_ref(cls.__name__)), "next": following})


def _system_status() -> Schema:
    text: Schema = {"type": "string"}
    counts = {"type": "object", "additionalProperties": {"type": "integer"}}
    connection = _object({"connected": {"type": "boolean"}}, optional=("connected",))
    hypervisor = _object(
        {
            "id": text, "name": text, "status": {"enum": list(get_args(Status))}, "status_reason": _array(text),
            "tunnel_ip": {"anyOf": [text, {"type": "null"}]}, "ports": {"type": "integer"},
            "ovsdb": connection, "openflow": connection,
        }
    )  # fmt: skip
    return _object(
        {
            "healthy": {
                "type": "boolean",
                "description": "the store is there, nothing is degraded, and there are no warnings",
            },
            "store": _object({"ready": {"type": "boolean"}, "connected": {"type": "boolean"}}),
            "hypervisors": _array(hypervisor),
            "objects": {"type": "object", "additionalProperties": counts, "description": "kind -> status -> number"},
            "warnings": _array(text),
        }
    )


def _topology() -> Schema:
    text: Schema = {"type": "string"}
    node = _object({"key": text, "kind": text, "id": text, "name": text, "status": {"enum": list(get_args(Status))}})
    link = _object({"source": text, "target": text, "relation": text})
    return _object(
        {
            "directed": {"type": "boolean"}, "multigraph": {"type": "boolean"}, "graph": {"type": "object"},
            "nodes": _array(node), "links": _array(link),
        },
        description='node-link form: networkx.node_link_graph(graph, name="key", edges="links") reads it',
    )  # fmt: skip


def _traces() -> Schema:
    """What is asked of a trace, and what it tells: every field is there."""
    _, components = msgspec.json.schema_components([TraceRequest, Trace], ref_template=_REF)
    for name, schema in components.items():
        if name != TraceRequest.__name__:
            schema["required"] = list(schema["properties"])
    return dict(components)


def _shapes(*types: type) -> Schema:
    """What is answered, and all that is within: every field is there."""
    _, components = msgspec.json.schema_components(types, ref_template=_REF)
    for schema in components.values():
        schema["required"] = list(schema["properties"])
    return dict(components)


def _told_of_rules() -> Schema:
    """Counts of security group rules, and entries of their log."""
    _, components = msgspec.json.schema_components([GroupStatistics, RuleStatistics, LogEntry], ref_template=_REF)
    following = {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "path of the next page: older entries"}
    log = _object({"items": _array(_ref(LogEntry.__name__)), "next": following})
    return {**components, "LogEntryList": log}


# --- paths -----------------------------------------------------------------------------------------------------------


def _problem(text: str) -> Schema:
    return {"description": text, "content": {PROBLEM: {"schema": _ref("Problem")}}}


def _responses(*statuses: int, **good: Schema) -> Schema:
    errors = sorted({400, 401, 403, 406, 414, 431, *statuses})
    found = {code.removeprefix("_"): response for code, response in good.items()}
    return {**found, **{str(status): {"$ref": f"#/components/responses/{status}"} for status in errors}}


def _good(text: str, schema: Schema, media: str = JSON, headers: Schema | None = None) -> Schema:
    response: Schema = {"description": text, "content": {media: {"schema": schema}}}
    return {**response, "headers": headers} if headers else response


def _parameter(where: str, name: str, schema: Schema, text: str = "", required: bool = False) -> Schema:
    parameter = {"in": where, "name": name, "required": required, "schema": schema}
    return {**parameter, "description": text} if text else parameter


_ETAG = {"ETag": {"schema": {"type": "string"}, "description": "the revision_number, for If-Match"}}
_WAIT = _parameter(
    "query", "wait", {"type": "number", "minimum": 0, "maximum": queries.MAX_WAIT, "default": 0},
    "seconds to wait until the object is no longer BUILD",
)  # fmt: skip
_IF_MATCH = _parameter(
    "header", "If-Match", {"type": "string", "examples": ['"3"']}, "ETag that the object must still have"
)
_IF_NONE_MATCH = _parameter("header", "If-None-Match", {"const": "*"}, "create only")


def _paths(cls: type[Object]) -> Schema:
    name, many = cls.__name__, f"/v1/{cls.COLLECTION}"
    id = _parameter("path", "id", {"type": "string", "minLength": 1}, f"id of a {cls.KIND}", required=True)
    one = _good("The object.", _ref(name), headers=_ETAG)
    location = {"Location": {"schema": {"type": "string"}}, **_ETAG}
    created = {"oneOf": [_ref(name), _array(_ref(name))]}
    creation = {"oneOf": [_ref(f"{name}Create"), {**_array(_ref(f"{name}Create")), "minItems": 1, "maxItems": 1000}]}

    def operation(
        verb: str, summary: str, responses: Schema, *parameters: Schema, body: Schema | None = None
    ) -> Schema:
        found: Schema = {
            "operationId": f"{verb}{name}",
            "tags": [cls.COLLECTION],
            "summary": summary,
            "parameters": list(parameters),
            "responses": responses,
        }
        return {**found, "requestBody": {"required": True, "content": body}} if body else found

    found: Schema = {
        many: {
            "get": operation(
                "list", f"Objects of the kind {cls.KIND}, in pages",
                _responses(_200=_good("A page.", _ref(f"{name}List"))), *_list_parameters(cls),
            ),
            "post": operation(
                "create", f"Make a {cls.KIND}; or with an array several, all or none",
                _responses(404, 409, 413, 415, 503, _201=_good("What was made.", created, headers=location)),
                _WAIT, body={JSON: {"schema": creation}},
            ),
        },
        f"{many}/{{id}}": {
            "parameters": [id],
            "get": operation("get", f"A {cls.KIND}", _responses(404, _200=one)),
            "put": operation(
                "put", f"Make a {cls.KIND} or replace it; idempotent",
                _responses(404, 409, 412, 413, 415, 503, _200=one, _201=_good("It was made.", _ref(name), headers=location)),
                _WAIT, _IF_MATCH, _IF_NONE_MATCH, body={JSON: {"schema": _ref(f"{name}Create")}},
            ),
            "patch": operation(
                "patch", f"Change a {cls.KIND}", _responses(404, 409, 412, 413, 415, 503, _200=one), _WAIT, _IF_MATCH,
                body={media: {"schema": _ref(f"{name}Update")} for media in ("application/merge-patch+json", JSON)},
            ),
            "delete": operation(
                "delete", f"Delete a {cls.KIND} that nothing refers to",
                _responses(404, 409, 412, 503, _204={"description": "It is gone."}), _IF_MATCH,
            ),
        },
    }  # fmt: skip
    if cls.DERIVED:
        return {
            path: {verb: item[verb] for verb in ("parameters", "get") if verb in item} for path, item in found.items()
        }
    return found


def _list_parameters(cls: type[Object]) -> list[Schema]:
    _, components = msgspec.json.schema_components([cls], ref_template=_REF)
    fields = components[cls.__name__]["properties"]
    found = []
    for name in queries.filters(cls):
        schema: Schema = next((s for s in fields[name].get("anyOf", [fields[name]]) if s != {"type": "null"}), {})
        schema = schema.get("items", schema)
        kind: Schema = {key: schema[key] for key in ("type", "enum") if key in schema}
        if kind.get("type") == "object":
            kind = {"type": "string", "examples": ["tier=web", "tier"]}
        found.append(_parameter("query", name, {"type": "array", "items": kind}, "objects with any of these values"))
    found.append(_parameter("query", "status", {"type": "array", "items": {"enum": list(get_args(Status))}}))
    limit = {"type": "integer", "minimum": 1, "maximum": queries.MAX_LIMIT, "default": queries.DEFAULT_LIMIT}
    found.append(_parameter("query", "limit", limit, "objects in a page"))
    found.append(_parameter("query", "marker", {"type": "string"}, "where the page begins; take it from `next`"))
    found.append(_parameter("query", "sort", {"enum": list(queries.SORTS), "default": "id"}))
    return found


def _system_paths() -> Schema:
    def get(name: str, summary: str, good: Schema, *parameters: Schema, **more: Any) -> Schema:
        return {
            "get": {
                "operationId": name, "tags": ["system"], "summary": summary, "parameters": list(parameters),
                "responses": _responses(_200=good), **more,
            }
        }  # fmt: skip

    kinds = _parameter("query", "kind", {"type": "array", "items": {"enum": list(KINDS)}}, "these kinds only")
    ready = _object({"ready": {"type": "boolean"}})
    health = get("health", "Whether requests can be served", _good("Yes.", ready), security=[])
    health["get"]["responses"] = {"200": _good("Yes.", ready), "503": _good("Not yet.", ready)}
    events = get(
        "events",
        "What changes, as server-sent events",
        _good("The stream.", {"type": "string"}, "text/event-stream"),
        kinds,
    )
    events["get"]["parameters"].append(_parameter("header", "Last-Event-ID", {"type": "string"}, "where to go on"))
    events["get"]["responses"]["503"] = {"$ref": "#/components/responses/503"}
    return {
        "/healthz": health,
        "/metrics": get(
            "metrics", "Counters for Prometheus", _good("Text format 0.0.4.", {"type": "string"}, "text/plain")
        ),
        "/v1/openapi.json": get("openapi", "This document", _good("OpenAPI 3.1.", {"type": "object"})),
        "/v1/status": get("status", "What is connected, realised, degraded", _good("The state.", _ref("SystemStatus"))),
        "/v1/topology": get("topology", "The graph of objects", _good("Nodes and links.", _ref("Topology")), kinds),
        "/v1/events": events,
        **_rule_paths(get),
        **_balancer_paths(get),
        **_qos_paths(get),
        **_capture_paths(get),
        **telemetry_openapi.paths(get, _parameter, _good),
        "/v1/traces": {
            "post": {
                "operationId": "trace", "tags": ["system"], "summary": "The way of a packet; a read: nothing is made",
                "requestBody": {"required": True, "content": {JSON: {"schema": _ref("TraceRequest")}}},
                "responses": _responses(404, 409, 413, 415, _200=_good("What became of it.", _ref("Trace"))),
            }
        },
    }  # fmt: skip


def _balancer_paths(get: Callable[..., Schema]) -> Schema:
    """How load balancers are doing, and what they did."""
    id = _parameter("path", "id", {"type": "string", "minLength": 1}, required=True)
    found = {
        "/v1/load-balancers/{id}/status": get(
            "loadBalancerStatus", "A load balancer with its parts", _good("The tree.", _ref("BalancerStatus")), id
        ),
        "/v1/load-balancers/{id}/statistics": get(
            "loadBalancerStatistics",
            "What a load balancer's members have had",
            _good("Counts.", _ref("BalancerStatistics")),
            id,
        ),
        "/v1/pools/{id}/statistics": get(
            "poolStatistics", "What a pool's members have had", _good("Counts.", _ref("PoolStatistics")), id
        ),
    }
    for path in found.values():
        path["get"]["responses"]["404"] = {"$ref": "#/components/responses/404"}
    return found


def _qos_paths(get: Callable[..., Schema]) -> Schema:
    """What quality of service comes to."""
    id = _parameter("path", "id", {"type": "string", "minLength": 1}, required=True)
    effective = _good("The policy, what it is attached to, and what it says.", _ref("EffectiveQos"))
    found = {
        "/v1/hypervisors/{id}/bandwidth": get(
            "hypervisorBandwidth",
            "What a hypervisor's uplinks have promised, and have left",
            _good("The sums.", _ref("HypervisorBandwidth")),
            id,
        ),
        "/v1/ports/{id}/qos": get("portQos", "What holds for a port's traffic", effective, id),
        "/v1/ports/{id}/qos/verification": get(
            "verifyPortQos",
            "Whether a port has what its policy says: meters and queues read back, and counted for some seconds",
            _good("What was asked for, what is in force, and what was measured.", _ref("QosVerification")),
            id,
            _parameter("query", "seconds", {"type": "number", "minimum": 1, "maximum": 60, "default": 5}),
        ),
        "/v1/floating-ips/{id}/qos": get(
            "floatingIpQos", "What holds for all that passes a floating IP", effective, id
        ),
    }
    for path in found.values():
        path["get"]["responses"]["404"] = {"$ref": "#/components/responses/404"}
    return found


def _capture_paths(get: Callable[..., Schema]) -> Schema:
    """What was captured."""
    id = _parameter("path", "id", {"type": "string", "minLength": 1}, required=True)
    good = _good("The file.", {"type": "string", "contentMediaType": PCAPNG}, PCAPNG)
    found = get("captureFile", "The packets of a capture that is DONE; not for the role reader", good, id)
    found["get"]["responses"] |= {str(status): {"$ref": f"#/components/responses/{status}"} for status in (404, 409)}
    return {"/v1/captures/{id}/file": found}


def _rule_paths(get: Callable[..., Schema]) -> Schema:
    """What rules of security groups did."""
    id = _parameter("path", "id", {"type": "string", "minLength": 1}, required=True)
    group = get(
        "groupStatistics", "What the rules of a security group decided", _good("Counts.", _ref("GroupStatistics")), id
    )
    rule = get("ruleStatistics", "What a security group rule decided", _good("Counts.", _ref("RuleStatistics")), id)
    for path in (group, rule):
        path["get"]["responses"]["404"] = {"$ref": "#/components/responses/404"}
    limit = {"type": "integer", "minimum": 1, "maximum": queries.MAX_LIMIT, "default": queries.DEFAULT_LIMIT}
    log = get(
        "listSecurityGroupLogs", "Connections that rules with `log` decided, the newest first",
        _good("A page.", _ref("LogEntryList")),
        *(_parameter("query", name, {"type": "array", "items": {"type": "string"}}) for name in FILTERS),
        _parameter("query", "verdict", {"type": "array", "items": {"enum": list(VERDICTS)}}),
        _parameter("query", "limit", limit, "entries in a page"),
        _parameter("query", "marker", {"type": "integer", "minimum": 0}, "where the page begins; take it from `next`"),
    )  # fmt: skip
    return {
        "/v1/security-group-logs": log,
        "/v1/security-groups/{id}/statistics": group,
        "/v1/security-group-rules/{id}/statistics": rule,
    }
