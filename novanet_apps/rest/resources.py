"""The objects of the intent store as REST resources; one code for every kind in ``topology.model.KINDS``."""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from webob import Response

from novanet_apps.tokens import Token
from topology.admission import Refused, Write
from topology.graph import Topology
from topology.model import KINDS, Object

from . import queries
from .bodies import read_json
from .ordering import Ordering
from .problems import Problem
from .views import Views, scope, sliced

if TYPE_CHECKING:
    from novanet_apps.core import Core

    from .api import Call

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
MAX_BULK = 1000
COLLECTIONS: dict[str, type[Object]] = {cls.COLLECTION: cls for cls in KINDS.values()}
_ETAG = re.compile(r'"(\d{1,18})"\Z')


def answer(value: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(body=msgspec.json.encode(value), status=status, content_type=JSON, charset=None)


class Resources:
    """List, show, create, replace, patch and delete."""

    def __init__(self, core: Core, views: Views, max_body: int) -> None:
        self.core = core
        self.views = views
        self.max_body = max_body
        self._ordering = Ordering(core)

    # --- reading -------------------------------------------------------------------------------------------------

    def page(self, call: Call) -> Response:
        """GET /v1/{collection}."""
        cls = self._kind(call)
        query = queries.listing(call.request, cls)
        project = scope(call.token)
        matching = self._matching(cls, query, project)
        if query.sort == "id":
            found = list(islice(matching, query.limit + 1))
        else:
            found = heapq.nsmallest(query.limit + 1, matching, key=queries.by_name)
        shown = found[: query.limit]
        following = queries.next_page(call.request, query, shown[-1]) if len(found) > len(shown) else None
        return answer({"items": [self.views.show(cls.KIND, obj) for obj in sliced(shown)], "next": following})

    def _matching(self, cls: type[Object], query: queries.Query, project: str | None) -> Iterator[Any]:
        """The objects that a list call is about, behind its marker; in the order of their ids."""
        derived = query.filters.keys() & _DERIVED
        for id in sliced(self._candidates(cls, query)):
            obj = self.core.topology.get(cls.KIND, id)
            if obj is None or not self.views.visible(project, cls.KIND, obj):
                continue
            if query.sort == "name" and query.after and queries.by_name(obj) <= query.after:
                continue
            if not all(
                queries.has(getattr(obj, name), values) for name, values in query.filters.items() if name not in derived
            ):
                continue
            if derived or query.status:
                shown = self.views.show(cls.KIND, obj)
                if any(shown[name] not in query.filters[name] for name in derived):
                    continue
                if query.status and shown["status"] not in query.status:
                    continue
            yield obj

    def _candidates(self, cls: type[Object], query: queries.Query) -> list[str]:
        """Ids of a superset of what matches, from the narrowest index, in order."""
        topology = self.core.topology
        marker = query.after[0] if query.after and query.sort == "id" else ""
        if "id" in query.filters:
            ids = query.filters["id"]
        elif found := next((name for name in _INDEXED.get(cls.KIND, {}) if name in query.filters), None):
            members = _INDEXED[cls.KIND][found]
            ids = {id for value in query.filters[found] for id in members(topology, value)}
        else:
            return self._ordering.after(cls.KIND, marker)
        return sorted(id for id in ids if id > marker)

    def show(self, call: Call) -> Response:
        """GET /v1/{collection}/{id}."""
        queries.parameters(call.request, ())
        cls = self._kind(call)
        return self._one(cls.KIND, self._existing(call, cls))

    # --- writing -------------------------------------------------------------------------------------------------

    def create(self, call: Call) -> Response:
        """POST /v1/{collection}: one object, or an array of which all or none are made."""
        cls, wait = self._writable(call), queries.waiting(call.request)
        body = read_json(call.request, self.max_body, JSON)
        if isinstance(body, list):
            if not 1 <= len(body) <= MAX_BULK:
                raise Problem(400, f"an array must have from 1 to {MAX_BULK} objects; this one has {len(body)}")
            writes = [self._creation(call, cls, fields, f"[{n}]") for n, fields in enumerate(body)]
            made = self._submit(cls, writes, wait, many=True)
            return answer([self.views.show(cls.KIND, obj) for obj in sliced(made)], 201)
        (obj,) = self._submit(cls, [self._creation(call, cls, body, "")], wait)
        return self._made(cls, obj)

    def _creation(self, call: Call, cls: type[Object], body: Any, where: str) -> Write:
        fields = _fields(body, where)
        id = fields.pop("id", None)
        if id is not None and not isinstance(id, str):
            raise Problem(400, "must be a UUID as a string", field=f"{where}.id".lstrip("."))
        return Write("create", cls.KIND, id, fields, project=_writer(call.token))

    def replace(self, call: Call) -> Response:
        """PUT /v1/{collection}/{id}: creates or replaces."""
        cls, wait = self._writable(call), queries.waiting(call.request)
        id = call.path["id"]
        fields = _fields(read_json(call.request, self.max_body, JSON), "")
        if fields.pop("id", id) != id:
            raise Problem(400, f"must be {id}, as in the path, or be left out", field="id")
        before = self.core.topology.get(cls.KIND, id)
        if before is not None and not self.views.visible(scope(call.token), cls.KIND, before):
            raise _unknown(cls, id)
        if before is not None and "*" in call.request.headers.get("If-None-Match", ""):
            raise Problem(412, f"{cls.KIND} {id} exists already")
        revision = self._if_match(call, cls, before)
        (obj,) = self._submit(cls, [Write("replace", cls.KIND, id, fields, revision, _writer(call.token))], wait)
        return self._made(cls, obj) if before is None else self._one(cls.KIND, obj)

    def patch(self, call: Call) -> Response:
        """PATCH /v1/{collection}/{id}: a JSON merge patch (RFC 7386)."""
        cls, wait = self._writable(call), queries.waiting(call.request)
        fields = _fields(read_json(call.request, self.max_body, MERGE_PATCH, JSON), "")
        before = self._existing(call, cls)
        if fields.pop("id", before.id) != before.id:
            raise Problem(400, "cannot be changed", field="id")
        revision = self._if_match(call, cls, before)
        (obj,) = self._submit(cls, [Write("patch", cls.KIND, before.id, fields, revision, _writer(call.token))], wait)
        return self._one(cls.KIND, obj)

    def delete(self, call: Call) -> Response:
        """DELETE /v1/{collection}/{id}. It takes no ``wait``: there is no object left whose status could tell."""
        cls = self._writable(call)
        queries.parameters(call.request, ())
        before = self._existing(call, cls)
        revision = self._if_match(call, cls, before)
        write = Write("delete", cls.KIND, before.id, if_match=revision, project=_writer(call.token))
        self._submit(cls, [write], 0)
        response = Response(status=204)
        del response.content_type
        return response

    def _submit(self, cls: type[Object], writes: list[Write], wait: float, many: bool = False) -> list[Any]:
        """What became of the writes, waiting until they are realised, ``wait`` seconds at most.

        With ``many`` they came in an array, and a refusal names the position.
        """
        try:
            made = self.core.store.submit(writes)
        except Refused as refused:
            headers = {"Retry-After": "1"} if refused.status == 503 else {}
            field = f"[{refused.index}].{refused.field}".rstrip(".") if many else refused.field
            raise Problem(refused.status, refused.detail, field=field, headers=headers) from None
        deadline = time.monotonic() + wait
        for obj in made if wait else ():
            self.core.reconciler.settled(cls.KIND, obj.id, max(0.0, deadline - time.monotonic()))
        return [obj and (self.core.topology.get(cls.KIND, obj.id) or obj) for obj in made]

    # --- what a call is about ------------------------------------------------------------------------------------

    def _kind(self, call: Call) -> type[Object]:
        cls = COLLECTIONS.get(call.path["collection"])
        if cls is None:
            raise Problem(
                404, f"there is no collection {call.path['collection']!r}; there are {', '.join(COLLECTIONS)}"
            )
        if not cls.TENANT and scope(call.token) is not None:
            raise Problem(403, f"{cls.COLLECTION} are the administrator's; this token is confined to a project")
        return cls

    def _writable(self, call: Call) -> type[Object]:
        cls = self._kind(call)
        if cls.DERIVED:
            what = f"{cls.COLLECTION} are made and deleted by NovaNet alone, as ports need them"
            raise Problem(405, what, headers={"Allow": "GET, HEAD, OPTIONS"})
        return cls

    def _existing(self, call: Call, cls: type[Object]) -> Any:
        obj = self.core.topology.get(cls.KIND, call.path["id"])
        if obj is None or not self.views.visible(scope(call.token), cls.KIND, obj):
            raise _unknown(cls, call.path["id"])
        return obj

    def _if_match(self, call: Call, cls: type[Object], before: Any) -> int | None:
        """The revision that If-Match asks for (RFC 9110, section 13.1.1); the store compares it when it commits."""
        header = call.request.headers.get("If-Match", "").strip()
        if not header:
            return None
        if before is None:
            raise Problem(412, f"there is no {cls.KIND} {call.path['id']}, so it does not match {header}")
        if header == "*":
            return None
        revisions = {int(found[1]) for tag in header.split(",") if (found := _ETAG.match(tag.strip()))}
        if before.revision_number not in revisions:
            raise Problem(
                412, f'the object has changed: it is "{before.revision_number}" now, not {header}; read it again'
            )
        return int(before.revision_number)

    def _one(self, kind: str, obj: Any, status: int = 200) -> Response:
        response = answer(self.views.show(kind, obj), status)
        response.headers["ETag"] = f'"{obj.revision_number}"'
        return response

    def _made(self, cls: type[Object], obj: Any) -> Response:
        response = self._one(cls.KIND, obj, 201)
        response.headers["Location"] = f"/v1/{cls.COLLECTION}/{obj.id}"
        return response


def _interfaces(topology: Topology, router_id: str) -> list[str]:
    return [port.id for port in topology.interfaces_of(router_id)]


def _in_group(topology: Topology, group_id: str) -> Iterator[str]:
    for number in topology.identities_of_group(group_id):
        yield from topology.ports_with(number)


_INDEXED: dict[str, dict[str, Callable[[Topology, Any], Iterable[str]]]] = {
    "qos-rule": {"qos_policy_id": Topology.qos_rules_of},
    "port": {
        "router_id": _interfaces, "identity": Topology.ports_with, "security_groups": _in_group,
        "network_id": Topology.ports_of,
    },
    "subnet": {"network_id": Topology.subnets_of},
    "floating-ip": {"port_id": Topology.floating_of, "loadbalancer_id": Topology.floating_to},
    "load-balancer": {"vip_network_id": Topology.balancers_in, "router_id": Topology.balancers_on},
    "pool": {"loadbalancer_id": Topology.pools_of},
    "listener": {"default_pool_id": Topology.listeners_to, "loadbalancer_id": Topology.listeners_of},
    "member": {"pool_id": Topology.members_of},
    "health-monitor": {"pool_id": Topology.monitors_of},
    "port-forwarding": {"floating_ip_id": Topology.forwardings_of},
    "neighbour": {"network_id": Topology.neighbours_in},
    "security-group-rule": {
        "security_group_id": Topology.rules_of, "remote_group_id": Topology.rules_naming,
        "remote_address_group_id": Topology.rules_naming,
    },
}  # fmt: skip
"""Kind -> field -> the ids of the objects that have a value there, the narrowest first."""
_DERIVED = {"mtu", "ip_version"}
"""Fields whose stored value may be None where a derived one is shown."""


def _writer(token: Token) -> str | None:
    return scope(token)


def _fields(body: Any, where: str) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise Problem(400, "must be a JSON object", field=where)
    return body


def _unknown(cls: type[Object], id: str) -> Problem:
    return Problem(404, f"there is no {cls.KIND} with id {id!r}")
