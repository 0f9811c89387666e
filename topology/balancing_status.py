"""How load balancers and their parts are doing, in Octavia's words: the operating status, from the graph alone."""

from __future__ import annotations

from typing import Literal

from . import balancing
from .graph import Topology
from .model import HealthMonitor, Listener, LoadBalancer, Member, Object, Pool

Operating = Literal["ONLINE", "DEGRADED", "ERROR", "OFFLINE", "DRAINING", "NO_MONITOR"]

_OF_STATES: dict[balancing.State, Operating] = {
    "serving": "ONLINE", "standby": "ONLINE", "draining": "DRAINING", "drained": "DRAINING", "unplugged": "ERROR", "down": "ERROR",
    "absent": "ERROR", "disabled": "OFFLINE",
}  # fmt: skip
_WORST: tuple[Operating, ...] = ("ERROR", "DEGRADED", "ONLINE")


def operating(topology: Topology, obj: Object) -> Operating:
    """The operating status of a load balancer or one of its parts.

    Of members: whether they get connections, and if so, whether anybody checks them. A pool is in ``ERROR`` when it has members and
    none serves, ``DEGRADED`` when some of them should and cannot; a listener is as its pool, a load balancer as the worst of
    its listeners. What is switched off, or has nothing to do, is ``OFFLINE``.
    """
    match obj:
        case LoadBalancer():
            return _balancer(topology, obj)
        case Listener():
            return _listener(topology, obj)
        case Pool():
            return _pool(topology, obj)
        case Member():
            return _member(topology, obj)
        case HealthMonitor():
            return "ONLINE" if obj.admin_state_up and _is_up(topology, obj.pool_id) else "OFFLINE"
    raise TypeError(f"a {obj.KIND} is no part of a load balancer")


def shares(topology: Topology, pool_id: str) -> dict[str, float]:
    """Of a pool's new connections the part that each member is to get, by the weights of slots; 0 for those that get none."""
    found = balancing.pool(topology, pool_id)
    if found is None:
        return dict.fromkeys(topology.members_of(pool_id), 0.0)
    total = sum(backend.weight for backend in found.backends)
    return {backend.member_id: backend.weight / total if total else 0.0 for backend in found.backends}


def _balancer(topology: Topology, obj: LoadBalancer) -> Operating:
    if not obj.admin_state_up:
        return "OFFLINE"
    found = {_listener(topology, topology.get("listener", id)) for id in topology.listeners_of(obj.id)}
    return next((each for each in _WORST if each in found), "OFFLINE")


def _listener(topology: Topology, obj: Listener) -> Operating:
    pool: Pool | None = topology.get("pool", obj.default_pool_id or "")
    return _pool(topology, pool) if pool is not None and obj.admin_state_up else "OFFLINE"


def _is_up(topology: Topology, pool_id: str) -> bool:
    pool: Pool | None = topology.get("pool", pool_id)
    balancer: LoadBalancer | None = topology.get("load-balancer", pool.loadbalancer_id) if pool is not None else None
    return pool is not None and pool.admin_state_up and balancer is not None and balancer.admin_state_up


def _pool(topology: Topology, obj: Pool) -> Operating:
    found = balancing.pool(topology, obj.id) if _is_up(topology, obj.id) else None
    states = [backend.state for backend in found.backends] if found is not None else []
    if not states:
        return "OFFLINE"
    if "serving" not in states:
        return "ERROR"
    return "DEGRADED" if "ERROR" in (_OF_STATES[state] for state in states) else "ONLINE"


def _member(topology: Topology, obj: Member) -> Operating:
    if not _is_up(topology, obj.pool_id):
        return "OFFLINE"
    state = balancing.state_of(topology, topology.get("pool", obj.pool_id), obj)
    return (
        "NO_MONITOR" if state == "serving" and not balancing.is_monitored(topology, obj.pool_id) else _OF_STATES[state]
    )
