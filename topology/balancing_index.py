"""What belongs to which load balancer, pool and address: indexes of the graph beside those in ``indexes``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator
from typing import Any

from .membership import discard
from .model import FloatingIp, HealthMonitor, Listener, LoadBalancer, Member, Pool

Place = tuple[str, Hashable]
"""The name of an index, and a key in it."""
_NOTHING: frozenset[str] = frozenset()


def places(obj: Any) -> Iterator[Place]:
    """Where an object is listed: indexes are named as the methods that read them."""
    match obj:
        case LoadBalancer():
            if obj.vip_network_id is not None:
                yield "balancers_in", obj.vip_network_id
            if obj.router_id is not None:
                yield "balancers_on", obj.router_id
        case Pool():
            yield "pools_of", obj.loadbalancer_id
        case Listener():
            yield "listeners_of", obj.loadbalancer_id
            if obj.default_pool_id is not None:
                yield "listeners_to", obj.default_pool_id
        case Member():
            yield "members_of", obj.pool_id
            yield "members_at", (obj.subnet_id, obj.address)
        case HealthMonitor():
            yield "monitors_of", obj.pool_id
        case FloatingIp(loadbalancer_id=str()):
            yield "floating_to", obj.loadbalancer_id


def numbers(obj: Any) -> Iterator[tuple[str, int]]:
    """The numbers that an object has in the switches, each with the name of the index that knows whose it is."""
    match obj:
        case LoadBalancer(balancer_key=int()):
            yield "balancer_keys", obj.balancer_key or 0
        case Pool(pool_key=int()):
            yield "pool_keys", obj.pool_key or 0
        case Member(member_key=int()):
            yield "member_keys", obj.member_key or 0
        case FloatingIp(mac_address=str()):
            yield "floating_numbers", obj.number


class BalancingIndex:
    """Objects of load balancing by what they belong to."""

    def __init__(self) -> None:
        self.balancer_keys: dict[int, str] = {}
        self.pool_keys: dict[int, str] = {}
        self.member_keys: dict[int, str] = {}
        self.floating_numbers: dict[int, str] = {}
        self._listed: defaultdict[Place, set[str]] = defaultdict(set)

    def _list(self, id: str, obj: Any) -> None:
        for place in places(obj):
            self._listed[place].add(id)
        for index, number in numbers(obj):
            getattr(self, index)[number] = id

    def _unlist(self, id: str, obj: Any) -> None:
        for place in places(obj):
            discard(self._listed, place, id)
        for index, number in numbers(obj):
            if getattr(self, index).get(number) == id:
                del getattr(self, index)[number]

    def balancers_in(self, network_id: str) -> frozenset[str] | set[str]:
        """Ids of the load balancers that are hosts of a network."""
        return self._listed.get(("balancers_in", network_id), _NOTHING)

    def balancers_on(self, router_id: str) -> frozenset[str] | set[str]:
        """Ids of the load balancers whose addresses are a router's."""
        return self._listed.get(("balancers_on", router_id), _NOTHING)

    def pools_of(self, balancer_id: str) -> frozenset[str] | set[str]:
        """Ids of the pools of a load balancer."""
        return self._listed.get(("pools_of", balancer_id), _NOTHING)

    def listeners_of(self, balancer_id: str) -> frozenset[str] | set[str]:
        """Ids of the listeners of a load balancer."""
        return self._listed.get(("listeners_of", balancer_id), _NOTHING)

    def listeners_to(self, pool_id: str) -> frozenset[str] | set[str]:
        """Ids of the listeners whose connections go to a pool."""
        return self._listed.get(("listeners_to", pool_id), _NOTHING)

    def members_of(self, pool_id: str) -> frozenset[str] | set[str]:
        """Ids of the members of a pool."""
        return self._listed.get(("members_of", pool_id), _NOTHING)

    def members_at(self, place: tuple[str, str]) -> frozenset[str] | set[str]:
        """Ids of the members that have an address: (subnet id, address)."""
        return self._listed.get(("members_at", place), _NOTHING)

    def monitors_of(self, pool_id: str) -> frozenset[str] | set[str]:
        """Id of the health monitor of a pool, which has one at most."""
        return self._listed.get(("monitors_of", pool_id), _NOTHING)

    def floating_to(self, balancer_id: str) -> frozenset[str] | set[str]:
        """Ids of the floating IPs that lead to a load balancer."""
        return self._listed.get(("floating_to", balancer_id), _NOTHING)
