"""How a load balancer is doing, with all its parts (GET …/status), and what its members have had (GET …/statistics)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct
from webob import Response

from novanet_apps.balancing_counters import Traffic
from novanet_apps.slot_counters import SlotChange
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


class Statistics(Struct, frozen=True, kw_only=True):
    """What went through, on all hypervisors; bytes from the Ethernet header on. Names are Octavia's where it has them."""

    total_connections: int
    """Those that have begun."""
    active_connections: int | None
    """Those that are open now; null where nobody counts them."""
    packets_in: int
    bytes_in: int
    """To members."""
    packets_out: int
    bytes_out: int
    """Their answers."""


class MemberStatistics(Statistics, frozen=True, kw_only=True):
    """A member's."""

    member_id: str
    name: str
    share: float
    """The part of the pool's new connections that it is to get."""
    slots: int
    """How many of the pool's slots it has."""
    share_of_slots: float
    share_of_connections: float | None
    """The part that it got of all connections of the members that there are; null while there were none."""


class SlotMoves(Struct, frozen=True, kw_only=True):
    """The last change of a pool's slots."""

    at: float
    """Seconds since 1970."""
    moved: int
    """Slots that went from one member to another."""
    needed: int
    """How many had to at least."""
    slots: int
    """How many there are."""


class PoolStatistics(Statistics, frozen=True, kw_only=True):
    """A pool's, with what members had that are gone."""

    pool_id: str
    name: str
    slots: int
    slots_moved: int
    """Slots that went from one member to another since the controller began."""
    last_change: SlotMoves | None
    members: list[MemberStatistics]


class BalancerStatistics(Statistics, frozen=True, kw_only=True):
    """A load balancer's: the sum of its pools'."""

    loadbalancer_id: str
    pools: list[PoolStatistics]


class LoadBalancers:
    """The tree of what load balancers consist of."""

    def __init__(self, core: Core, views: Views) -> None:
        self.core, self.views = core, views

    def status(self, call: Call) -> Response:
        """GET /v1/load-balancers/{id}/status."""
        topology = self.core.topology
        obj: LoadBalancer = self._visible(call, "load-balancer")
        listeners: list[Listener] = [topology.get("listener", each) for each in topology.listeners_of(obj.id)]
        listeners.sort(key=lambda each: (each.protocol, each.protocol_port))
        floating = [
            topology.get("floating-ip", each).floating_ip_address for each in sorted(topology.floating_to(obj.id))
        ]
        found = BalancerStatus(
            **self._part(obj),
            vip_address=obj.vip_address or "",
            floating_ip_addresses=floating,
            listeners=[self._listener(each) for each in listeners],
            pools=[self._pool(each) for each in self._pools(obj)],
        )
        return answer(found)

    def _visible(self, call: Call, kind: str) -> Any:
        """The object that the path names. Raises Problem(404)."""
        queries.parameters(call.request, ())
        id = call.path["id"]
        obj = self.core.topology.get(kind, id)
        if obj is None or not self.views.visible(scope(call.token), kind, obj):
            raise Problem(404, f"there is no {kind} {id}")
        return obj

    def _pools(self, obj: LoadBalancer) -> list[Pool]:
        topology = self.core.topology
        return sorted((topology.get("pool", each) for each in topology.pools_of(obj.id)), key=_by_name)

    def _members(self, obj: Pool) -> list[Member]:
        topology = self.core.topology
        return sorted((topology.get("member", each) for each in topology.members_of(obj.id)), key=_by_name)

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
        parts = shares(topology, obj.id)
        return PoolStatus(
            **self._part(obj),
            protocol=obj.protocol,
            lb_algorithm=obj.lb_algorithm,
            health_monitor=next((MonitorStatus(**self._part(each), type=each.type) for each in monitors), None),
            members=[self._member(each, parts[each.id]) for each in self._members(obj)],
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

    # --- what members have had -----------------------------------------------------------------------------------

    def statistics(self, call: Call) -> Response:
        """GET /v1/load-balancers/{id}/statistics. Asks the switches."""
        obj: LoadBalancer = self._visible(call, "load-balancer")
        self.core.balancing_counters.refresh()
        pools = [self._had(each) for each in self._pools(obj)]
        sums = {name: sum(getattr(each, name) for each in pools) for name in _SUMMED}
        known = [each.active_connections for each in pools if each.active_connections is not None]
        active = sum(known) if known and len(known) == len(pools) else None
        return answer(BalancerStatistics(loadbalancer_id=obj.id, pools=pools, active_connections=active, **sums))

    def pool_statistics(self, call: Call) -> Response:
        """GET /v1/pools/{id}/statistics. Asks the switches."""
        obj: Pool = self._visible(call, "pool")
        self.core.balancing_counters.refresh()
        return answer(self._had(obj))

    def _had(self, obj: Pool) -> PoolStatistics:
        counters = self.core.balancing_counters
        active, slots = counters.active(obj), counters.slots.look(obj.id)
        return PoolStatistics(
            **_shown(counters.of_pool(obj), None if active is None else sum(active.values())),
            pool_id=obj.id,
            name=obj.name,
            slots=obj.table_size,
            slots_moved=slots.moved,
            last_change=_moves(slots.last),
            members=self._had_by_member(obj, slots.by_member, active),
        )

    def _had_by_member(
        self, obj: Pool, slots: Mapping[str, int], active: dict[int, int] | None
    ) -> list[MemberStatistics]:
        counters, members = self.core.balancing_counters, self._members(obj)
        parts = shares(self.core.topology, obj.id)
        size = sum(slots.values()) or 1
        total = sum(counters.of_member(each).connections for each in members)
        found = []
        for member in members:
            had, has = counters.of_member(member), slots.get(member.id, 0)
            now = None if active is None else active.get(member.member_key or 0, 0)
            found.append(
                MemberStatistics(
                    **_shown(had, now),
                    member_id=member.id,
                    name=member.name,
                    share=round(parts[member.id], 6),
                    slots=has,
                    share_of_slots=round(has / size, 6),
                    share_of_connections=round(had.connections / total, 6) if total else None,
                )
            )
        return found


_SUMMED = "total_connections", "packets_in", "bytes_in", "packets_out", "bytes_out"


def _shown(had: Traffic, active: int | None) -> dict[str, Any]:
    return {**dict(zip(_SUMMED, had, strict=True)), "active_connections": active}


def _moves(change: SlotChange | None) -> SlotMoves | None:
    if change is None:
        return None
    return SlotMoves(at=round(change.at, 3), moved=change.moved, needed=change.needed, slots=change.size)


def _by_name(obj: Object) -> tuple[str, str]:
    return obj.name, obj.id
