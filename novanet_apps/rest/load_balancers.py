"""How a load balancer is doing, with all its parts: GET /v1/load-balancers/{id}/status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct
from webob import Response

from topology.balancing_status import Operating, operating, shares
from topology.model import HealthMonitor, Listener, LoadBalancer, Member, Object, Pool, Status

from . import queries
from .problems import Problem
from .resources import answer
from .views import Views, provisioning, scope

if TYPE_CHECKING:
    from novanet_apps.core import Core

    from .api import Call


class Part(Struct, frozen=True, kw_only=True):
    """A load balancer, or a part of one."""

    id: str
    name: str
    status: Status
    """How far the switches have it."""
    status_reason: list[str]
    provisioning_status: Literal["ACTIVE", "PENDING_UPDATE", "ERROR"]
    operating_status: Operating


class ListenerStatus(Part, frozen=True, kw_only=True):
    """A listener."""

    protocol: str
    protocol_port: int
    protocol_port_max: int | None
    pool_id: str | None


class MemberStatus(Part, frozen=True, kw_only=True):
    """A member."""

    address: str
    protocol_port: int | None
    weight: int
    backup: bool
    share: float
    """The part of the pool's new connections that it is to get."""
    health: Literal["unknown", "up", "down"]
    health_detail: str


class MonitorStatus(Part, frozen=True, kw_only=True):
    """A health monitor."""

    type: str


class PoolStatus(Part, frozen=True, kw_only=True):
    """A pool."""

    protocol: str
    lb_algorithm: str
    health_monitor: MonitorStatus | None
    members: list[MemberStatus]


class BalancerStatus(Part, frozen=True, kw_only=True):
    """A load balancer with its parts."""

    vip_address: str
    floating_ip_addresses: list[str]
    listeners: list[ListenerStatus]
    pools: list[PoolStatus]


class LoadBalancers:
    """The tree of what load balancers consist of."""

    def __init__(self, core: Core, views: Views) -> None:
        self.core, self.views = core, views

    def status(self, call: Call) -> Response:
        """GET /v1/load-balancers/{id}/status."""
        queries.parameters(call.request, ())
        topology, id = self.core.topology, call.path["id"]
        obj: LoadBalancer | None = topology.get("load-balancer", id)
        if obj is None or not self.views.visible(scope(call.token), "load-balancer", obj):
            raise Problem(404, f"there is no load-balancer {id}")
        listeners: list[Listener] = [topology.get("listener", each) for each in topology.listeners_of(id)]
        listeners.sort(key=lambda each: (each.protocol, each.protocol_port))
        pools: list[Pool] = sorted((topology.get("pool", each) for each in topology.pools_of(id)), key=_by_name)
        floating = [topology.get("floating-ip", each).floating_ip_address for each in sorted(topology.floating_to(id))]
        found = BalancerStatus(
            **self._part(obj),
            vip_address=obj.vip_address or "",
            floating_ip_addresses=floating,
            listeners=[self._listener(each) for each in listeners],
            pools=[self._pool(each) for each in pools],
        )
        return answer(found)

    def _part(self, obj: Object) -> dict[str, Any]:
        status, reasons = self.core.reconciler.judge(obj.KIND, obj.id)
        return {
            "id": obj.id,
            "name": obj.name,
            "status": status,
            "status_reason": reasons,
            "provisioning_status": provisioning(status),
            "operating_status": operating(self.core.topology, obj),
        }

    def _listener(self, obj: Listener) -> ListenerStatus:
        return ListenerStatus(
            **self._part(obj),
            protocol=obj.protocol,
            protocol_port=obj.protocol_port,
            protocol_port_max=obj.protocol_port_max,
            pool_id=obj.default_pool_id,
        )

    def _pool(self, obj: Pool) -> PoolStatus:
        topology = self.core.topology
        monitors: list[HealthMonitor] = [topology.get("health-monitor", id) for id in topology.monitors_of(obj.id)]
        members: list[Member] = [topology.get("member", id) for id in topology.members_of(obj.id)]
        parts = shares(topology, obj.id)
        return PoolStatus(
            **self._part(obj),
            protocol=obj.protocol,
            lb_algorithm=obj.lb_algorithm,
            health_monitor=next((MonitorStatus(**self._part(each), type=each.type) for each in monitors), None),
            members=[self._member(each, parts[each.id]) for each in sorted(members, key=_by_name)],
        )

    def _member(self, obj: Member, share: float) -> MemberStatus:
        return MemberStatus(
            **self._part(obj),
            address=obj.address,
            protocol_port=obj.protocol_port,
            weight=obj.weight,
            backup=obj.backup,
            share=round(share, 6),
            health=obj.health,
            health_detail=obj.health_detail,
        )


def _by_name(obj: Object) -> tuple[str, str]:
    return obj.name, obj.id
