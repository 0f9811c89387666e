"""Datagrams of members that end: what switches know of the flows that had them is forgotten, so that they go to others.

Once a switch has confirmed a pool without a member, all of the member's are forgotten at once there. TCP connections are not: those are
ended one by one, each as its pool says, by the next packet of its client (``responders.lost_members``). So are flows of UDP that
this leaves out: of members that ended while there was no controller, and of load balancers with the addresses of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pipelines import fields as f
from pipelines.wire import Tracked, Tuple
from topology import balancing
from topology.graph import Topology
from topology.model import LoadBalancer, Member, Pool

if TYPE_CHECKING:
    from .core import Core


class Place(NamedTuple):
    """What packets of a member's flows have in common."""

    balancer_id: str
    vip: str
    address: str
    port: int | None


class MemberEnds:
    """Compares, for each hypervisor, who keeps flows with who did when a pool was compiled there last."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.forgotten = 0
        """How often all flows of a member by one address of its load balancer were forgotten on a hypervisor."""
        self._kept: dict[tuple[str, str], frozenset[Place]] = {}
        """By (hypervisor, pool)."""
        self._ended: dict[tuple[str, str], set[Place]] = {}
        core.reconciler.on_compiled("pool", self._compiled)
        core.engine.on_confirmed(self._confirmed)

    def _compiled(self, hypervisor: str, pool_id: str) -> None:
        here, now = (hypervisor, pool_id), self._places(pool_id)
        ended = (self._kept.pop(here, frozenset()) | self._ended.pop(here, set())) - now
        if now:
            self._kept[here] = now
        if ended:
            self._ended[here] = set(ended)

    def _places(self, pool_id: str) -> frozenset[Place]:
        """Those of a pool's members that keep flows; empty unless it is UDP's."""
        topology = self.core.topology
        pool: Pool | None = topology.get("pool", pool_id)
        if pool is None or pool.protocol != "UDP":
            return frozenset()
        balancer = balancing.balancer(topology, pool.loadbalancer_id)
        vips = [entry.address for entry in balancer.entries] if balancer is not None else []
        members: list[Member] = [topology.get("member", id) for id in topology.members_of(pool_id)] if vips else []
        return frozenset(
            Place(pool.loadbalancer_id, vip, member.address, member.protocol_port)
            for member in members
            if balancing.keeps(topology, member)
            for vip in vips
        )

    def _confirmed(self, hypervisor: str) -> None:
        for here in [each for each in self._ended if each[0] == hypervisor]:
            if not self.core.reconciler.awaits(hypervisor, ("pool", here[1])):
                for place in self._ended.pop(here):
                    self._forget(hypervisor, place)

    def _forget(self, hypervisor: str, place: Place) -> None:
        """In all zones at once: a switch may go through all that it has for each zone (docs/decisions/0017)."""
        if self._is_ambiguous(place):
            return
        self.forgotten += 1
        its = Tracked(
            6 if ":" in place.vip else 4,
            f.UDP,
            Tuple(destination=f.ip(place.vip)),
            Tuple(source=f.ip(place.address), source_port=place.port),
        )
        self.core.engine.forget_connections(hypervisor, None, its)

    def _is_ambiguous(self, place: Place) -> bool:
        """Whether flows that go on might look so: of another pool with the same VM, or another tenant's with the same addresses."""
        topology = self.core.topology
        found: list[LoadBalancer] = list(topology.all("load-balancer").values())
        alike = [each.id for each in found if each.id == place.balancer_id or each.vip_address == place.vip]
        members: list[Member] = [
            topology.get("member", id) for each in alike for pool in topology.pools_of(each) for id in topology.members_of(pool)
        ]  # fmt: skip
        return any(
            member.address == place.address
            and (None in (member.protocol_port, place.port) or member.protocol_port == place.port)
            and _keeps(topology, member)
            for member in members
        )


def _keeps(topology: Topology, member: Member) -> bool:
    pool: Pool = topology.get("pool", member.pool_id)
    return pool.protocol == "UDP" and balancing.keeps(topology, member)
