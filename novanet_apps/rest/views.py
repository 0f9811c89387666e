"""How objects are shown, and to whom."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from eventlet import sleep

from novanet_apps.tokens import Token
from topology import balancing
from topology.balancing_status import Operating, operating
from topology.model import (
    KINDS,
    FloatingIp,
    HealthMonitor,
    Identity,
    Listener,
    LoadBalancer,
    Member,
    Network,
    Object,
    Pool,
    Port,
    QosPolicy,
    Router,
    SecurityGroup,
    Status,
    Subnet,
    encode,
)
from topology.sharing import is_common

if TYPE_CHECKING:
    from novanet_apps.core import Core

T = TypeVar("T")
KEEP = 0.25
"""Seconds for which a count that took longer than a slice is used again, at least."""
SLICE = 0.008
"""Seconds of work between two looks at the event loop."""
Provisioning = Literal["ACTIVE", "PENDING_UPDATE", "ERROR"]


def sliced(items: Iterable[T]) -> Iterator[T]:
    """The items, letting other greenlets run in between. ``items`` must not change meanwhile: give a copy."""
    end = time.monotonic() + SLICE
    for item in items:
        if time.monotonic() > end:
            sleep(0)
            end = time.monotonic() + SLICE
        yield item


def scope(token: Token) -> str | None:
    """The project that a token is confined to; None when it sees everything."""
    return token.project_id if token.role != "admin" else None


def provisioning(status: Status) -> Provisioning:
    """A status in Octavia's words for load balancers: whether the switches have what is wanted, leaving aside whether it works."""
    return "PENDING_UPDATE" if status == "BUILD" else "ERROR" if status == "ERROR" else "ACTIVE"


_ID_OR_NULL: dict[str, Any] = {"type": ["string", "null"]}
_IDS: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
_OCTAVIAS: dict[str, dict[str, Any]] = {
    "provisioning_status": {"enum": list(get_args(Provisioning)), "description": "`status` in Octavia's words"},
    "operating_status": {"enum": list(get_args(Operating)), "description": "how it is doing, in Octavia's words"},
}
FOLLOWS: dict[str, dict[str, dict[str, Any]]] = {
    "router": {
        "external_addresses": {"type": "array", "items": {"type": "string"}, "description": "its addresses outside"},
        "gateway_order": {
            "type": "array", "items": {"type": "string"},
            "description": "ids of the hypervisors that may be its gateway, best first",
        },
        "active_gateway": _ID_OR_NULL | {"description": "id of the hypervisor that is its gateway now"},
        "gateway_watched": {"type": "boolean", "description": "whether every probe (BFD) to its gateways is answered"},
    },
    "port": {
        "applied_security_groups": {
            "type": "array", "items": {"type": "string"},
            "description": "ids of the groups that it is a member of: those that it names, and those that select it",
        },
        "qos_network_policy_id": _ID_OR_NULL | {"description": "its network's, which holds where it names none"},
    },
    "qos-policy": {"rules": _IDS | {"description": "ids of its rules"}},
    "security-group": {
        "rule_count": {"type": "integer", "description": "how many rules it has"},
        "port_count": {"type": "integer", "description": "how many ports are members, named or selected"},
    },
    "identity": {
        "port_count": {"type": "integer", "description": "how many ports have it"},
        "applied_security_groups": {
            "type": "array", "items": {"type": "string"}, "description": "ids of the groups that it is a member of",
        },
    },
    "load-balancer": {
        **_OCTAVIAS,
        "listeners": _IDS | {"description": "ids of its listeners"},
        "pools": _IDS | {"description": "ids of its pools"},
        "floating_ips": _IDS | {"description": "ids of the floating IPs that lead to it"},
    },
    "listener": _OCTAVIAS,
    "pool": {
        **_OCTAVIAS,
        "listeners": _IDS | {"description": "ids of the listeners whose connections it gets"},
        "members": _IDS | {"description": "ids of its members"},
        "healthmonitor_id": _ID_OR_NULL | {"description": "id of its health monitor"},
    },
    "member": {
        **_OCTAVIAS,
        "port_id": _ID_OR_NULL | {"description": "id of the VM's port that has its address"},
    },
    "health-monitor": _OCTAVIAS,
    "floating-ip": {
        "router_id": _ID_OR_NULL | {"description": "id of the router by which it leads inside"},
        "hypervisor": _ID_OR_NULL | {"description": "id of the hypervisor on which it is translated"},
    },
}  # fmt: skip
"""What is shown of a kind beside its fields, as JSON Schema."""


class Views:
    """Objects as JSON, with what is derived when they are shown."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._census: dict[str | None, tuple[float, dict[str, dict[str, int]]]] = {}

    def visible(self, project: str | None, kind: str, obj: Object) -> bool:
        """Whether an object may be seen from within ``project`` (None: from everywhere).

        Networks outside, their subnets and shared groups are there for everyone.
        """
        if project is None or (KINDS[kind].TENANT and obj.project_id == project):
            return True
        return is_common(self.core.topology, obj)

    def show(self, kind: str, obj: Any) -> dict[str, Any]:
        """What is stored, what follows from it, and how far it is realised."""
        shown = encode(obj)
        match obj:
            case Network():
                shown["mtu"] = self.core.reconciler.network_mtu(obj)
            case Subnet():
                shown["ip_version"] = 6 if ":" in obj.cidr else 4
            case Router():
                shown |= self._router(obj)
            case FloatingIp():
                shown |= self._floating_ip(obj)
            case LoadBalancer():
                shown["listeners"] = sorted(self.core.topology.listeners_of(obj.id))
                shown["pools"] = sorted(self.core.topology.pools_of(obj.id))
                shown["floating_ips"] = sorted(self.core.topology.floating_to(obj.id))
            case Pool():
                shown["listeners"] = sorted(self.core.topology.listeners_to(obj.id))
                shown["members"] = sorted(self.core.topology.members_of(obj.id))
                shown["healthmonitor_id"] = next(iter(self.core.topology.monitors_of(obj.id)), None)
            case Member():
                port = balancing.port_of(self.core.topology, obj)
                shown["port_id"] = port.id if port is not None else None
            case Port():
                shown["applied_security_groups"] = self._groups(obj.identity)
                network: Network | None = self.core.topology.get("network", obj.network_id)
                shown["qos_network_policy_id"] = None if network is None else network.qos_policy_id
            case QosPolicy():
                shown["rules"] = sorted(self.core.topology.qos_rules_of(obj.id))
            case SecurityGroup():
                members = self.core.topology.identities_of_group(obj.id)
                shown["rule_count"] = len(self.core.topology.rules_of(obj.id))
                shown["port_count"] = sum(len(self.core.topology.ports_with(number)) for number in members)
            case Identity():
                shown["port_count"] = len(self.core.topology.ports_with(obj.number))
                shown["applied_security_groups"] = self._groups(obj.number)
        shown["status"], shown["status_reason"] = self.core.reconciler.judge(kind, obj.id)
        if isinstance(obj, LoadBalancer | Listener | Pool | Member | HealthMonitor):
            shown["provisioning_status"] = provisioning(shown["status"])
            shown["operating_status"] = operating(self.core.topology, obj)
        return shown

    def _groups(self, number: int | None) -> list[str]:
        return [] if number is None else sorted(self.core.topology.groups_of_identity(number))

    def _router(self, router: Router) -> dict[str, Any]:
        """Where a router's way outside is."""
        topology = self.core.topology
        way_out, order = topology.gateway_of(router.id), topology.gateways_of(router.id)
        links = [
            topology.get("link", f"{other}/{gateway}") for gateway in order for other in topology.linked_to(gateway)
        ]
        return {
            "external_addresses": [fixed.ip_address for fixed in (way_out.fixed_ips or () if way_out else ())],
            "gateway_order": list(order),
            "active_gateway": self.core.active_gateway(router.id),
            "gateway_watched": bool(links) and all(link is not None and link.up for link in links),
        }

    def _floating_ip(self, floating: FloatingIp) -> dict[str, Any]:
        """By which router a floating IP leads inside, and on which hypervisor."""
        topology = self.core.topology
        router = topology.router_of_floating(floating.id)
        here = topology.location(floating.port_id) if floating.port_id is not None else None
        if here not in topology.wired_to(floating.floating_network_id):
            here = self.core.active_gateway(router) if router is not None else None
        return {"router_id": router, "hypervisor": here if router is not None else None}

    # --- the whole -----------------------------------------------------------------------------------------------

    def status(self, project: str | None) -> dict[str, Any]:
        """What is connected, realised and degraded, as far as ``project`` may know."""
        everything = project is None
        census = self.census(project)
        hypervisors = [self._hypervisor(obj) for obj in sliced(self._all("hypervisor"))] if everything else []
        warnings = [*self.core.reconciler.warnings(), *self._of_telemetry()] if everything else []
        bad = any(count.get(state) for count in census.values() for state in ("DEGRADED", "ERROR"))
        store = self.core.store.state()
        return {
            "healthy": bool(store["ready"] and store["connected"] and not bad and not warnings),
            "store": store if everything else {name: store[name] for name in ("ready", "connected")},
            "unknown": self._unknown() if everything else {},
            "hypervisors": sorted(hypervisors, key=lambda shown: (shown["name"], shown["id"])),
            "objects": census,
            "warnings": warnings,
        }

    def _of_telemetry(self) -> list[str]:
        telemetry = getattr(self.core, "telemetry", None)
        return telemetry.problems() if telemetry is not None else []

    def _unknown(self) -> dict[str, Any]:
        """Who connects although no hypervisor says so: by OVSDB (system-id -> why it is refused), by OpenFlow."""
        return {"ovsdb": dict(self.core.hypervisors.unknown), "openflow": self.core.engine.unknown()}

    def census(self, project: str | None) -> dict[str, dict[str, int]]:
        """How many objects of each kind have which status; counting them takes at most half of the time, however often
        it is asked for."""
        now = time.monotonic()
        until, counts = self._census.get(project, (0.0, {}))
        if now < until:
            return counts
        counts = {}
        for kind, cls in KINDS.items():
            if project is None or cls.TENANT:
                found = (obj for obj in sliced(self._all(kind)) if self.visible(project, kind, obj))
                counts[kind] = dict(Counter(self.core.reconciler.status(kind, obj.id) for obj in found))
        took = time.monotonic() - now
        if len(self._census) > 1000:
            self._census.clear()
        self._census[project] = (time.monotonic() + max(KEEP, took) if took > SLICE else 0.0, counts)
        return counts

    def _hypervisor(self, obj: Any) -> dict[str, Any]:
        status, reasons = self.core.reconciler.judge("hypervisor", obj.id)
        return {
            "id": obj.id,
            "name": obj.name,
            "status": status,
            "status_reason": reasons,
            "tunnel_ip": obj.tunnel_ip,
            "ports": len(self.core.topology.ports_on(obj.id)),
            "ovsdb": dict(self.core.hypervisors.state(obj.id)),
            "openflow": dict(self.core.engine.state(obj.id)),
        }

    def graph(self, project: str | None, kinds: Iterable[str]) -> dict[str, Any]:
        """The topology in node-link form: ``networkx.node_link_graph(graph, name="key", edges="links")`` reads it.

        Links lead from an object to the one it refers to; ``relation`` is the field, or ``located_on`` for a port
        and its hypervisor.
        """
        topology = self.core.topology
        objects = [(kind, obj) for kind in kinds for obj in self._all(kind) if self.visible(project, kind, obj)]
        keys = {(kind, obj.id) for kind, obj in objects}
        nodes, links = [], []
        for kind, obj in sliced(objects):
            node = (kind, obj.id)
            status = self.core.reconciler.status(kind, obj.id)
            nodes.append({"key": "/".join(node), "kind": kind, "id": obj.id, "name": obj.name, "status": status})
            found = list(topology.graph.out_edges(node, keys=True)) if node in topology.graph else []
            found += [(node, target, relation) for target, relation in self._further(kind, obj)]
            links += [
                {"source": "/".join(source), "target": "/".join(target), "relation": relation}
                for source, target, relation in found
                if target in keys
            ]
        return {"directed": True, "multigraph": True, "graph": {}, "nodes": nodes, "links": links}

    def _further(self, kind: str, obj: Any) -> Iterator[tuple[tuple[str, str], str]]:
        """What an object leads to beside those that it cannot be without."""
        if kind == "port" and (here := self.core.topology.location(obj.id)):
            yield ("hypervisor", here), "located_on"
        elif kind == "floating-ip" and obj.port_id:
            yield ("port", obj.port_id), "port_id"
        elif kind == "floating-ip" and obj.loadbalancer_id:
            yield ("load-balancer", obj.loadbalancer_id), "loadbalancer_id"

    def _all(self, kind: str) -> list[Any]:
        return list(self.core.topology.all(kind).values())
