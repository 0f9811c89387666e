"""Which hypervisors' flows of load balancers depend on what.

A load balancer is wherever somebody reaches its network, or its router. Two owners share what it is: ("load-balancer", id)
has its addresses and the ways to it, ("pool", id) the services that lead to a pool, its slots and its members. A member's
health, weight or end is its pool's alone; where its VM is matters to nobody here but whether it is anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .changes import Change, Dirty, Owner
from .graph import Topology
from .model import FloatingIp, Listener, LoadBalancer, Member, Pool, Port
from .reach import routers_at, where


def owners_in(topology: Topology, network_id: str) -> Iterator[Owner]:
    """What load balancers have to be wherever somebody reaches a network: its own, and those of its routers."""
    for id in _of_networks(topology, (network_id,)):
        yield from owners(topology, id)


def owners(topology: Topology, balancer_id: str) -> Iterator[Owner]:
    """What makes a load balancer up."""
    yield "load-balancer", balancer_id
    for pool in topology.pools_of(balancer_id):
        yield "pool", pool


def hypervisors_of(topology: Topology, balancer_id: str) -> set[str]:
    """The hypervisors that a load balancer concerns."""
    balancer: LoadBalancer | None = topology.get("load-balancer", balancer_id)
    if balancer is None:
        return set()
    if balancer.router_id is not None:
        return routers_at(topology, balancer.router_id)
    return where(topology, balancer.vip_network_id or "")


def concerned(topology: Topology, kind: str, id: str) -> Iterator[Dirty]:
    """Where load balancers and their parts take effect."""
    obj = topology.get(kind, id)
    match obj:
        case LoadBalancer():
            yield from _at(topology, id, [("load-balancer", id)])
        case Listener():
            pools = () if obj.default_pool_id is None else (("pool", obj.default_pool_id),)
            yield from _at(topology, obj.loadbalancer_id, [("load-balancer", obj.loadbalancer_id), *pools])
        case Pool():
            yield from _at(topology, obj.loadbalancer_id, [("pool", id)])
    if kind in ("member", "health-monitor") and obj is not None:
        yield from concerned(topology, "pool", obj.pool_id)


def _at(topology: Topology, balancer_id: str, dirty: Iterable[Owner]) -> Iterator[Dirty]:
    found = list(dirty)
    for hypervisor in hypervisors_of(topology, balancer_id):
        for owner in found:
            yield hypervisor, owner


def _whole(topology: Topology, balancers: Iterable[str]) -> Iterator[Dirty]:
    for id in balancers:
        yield from _at(topology, id, owners(topology, id))


def _of_networks(topology: Topology, networks: Iterable[str]) -> dict[str, None]:
    """Ids of the load balancers that are hosts of these networks, or whose addresses are their routers'."""
    found: dict[str, None] = {}
    for network in networks:
        found.update(dict.fromkeys(topology.balancers_in(network)))
        for interface in topology.routed_by(network):
            found.update(dict.fromkeys(topology.balancers_on(interface.router_id or "")))
    return found


# --- what changes make dirty -------------------------------------------------------------------------------------

_NO_FLOWS = ("name", "description", "revision_number")
"""Fields that nothing here depends on."""
_OF_POOLS = (*_NO_FLOWS, "drain_timeout")
_OF_MEMBERS = (*_NO_FLOWS, "health_detail", "monitor_port")
_OF_PORTS = ("fixed_ips", "mac_address", "admin_state_up")
"""Fields of ports that members depend on."""


def _balancer(topology: Topology, change: Change) -> Iterator[Dirty]:
    if not change.only_in(*_NO_FLOWS):
        yield from _whole(topology, (change.id,))


def _listener(topology: Topology, change: Change) -> Iterator[Dirty]:
    if not change.only_in(*_NO_FLOWS):
        found: list[Listener] = [obj for obj in (change.old, change.new) if obj is not None]
        pools = {("pool", obj.default_pool_id) for obj in found if obj.default_pool_id is not None}
        balancer = found[0].loadbalancer_id
        yield from _at(topology, balancer, [("load-balancer", balancer), *pools])


def _pool(topology: Topology, change: Change) -> Iterator[Dirty]:
    if not change.only_in(*_OF_POOLS):
        balancer = (change.new or change.old).loadbalancer_id
        yield from _at(topology, balancer, [("load-balancer", balancer), ("pool", change.id)])


def _member(topology: Topology, change: Change) -> Iterator[Dirty]:
    if not change.only_in(*_OF_MEMBERS):
        yield from concerned(topology, "pool", (change.new or change.old).pool_id)


def _monitor(topology: Topology, change: Change) -> Iterator[Dirty]:
    """Without one, or with one that is down, nobody is down."""
    if change.old is None or change.new is None or change.old.admin_state_up != change.new.admin_state_up:
        yield from concerned(topology, "pool", (change.new or change.old).pool_id)


def _port(topology: Topology, change: Change) -> Iterator[Dirty]:
    port: Port = change.new or change.old
    if port.router_id is not None:
        if change.old is None or change.new is None:  # routers join other networks now
            yield from _joined(topology, port)
        return
    old, new = change.old, change.new
    if old is None or new is None or any(getattr(old, name) != getattr(new, name) for name in _OF_PORTS):
        for obj in (old, new):
            yield from _members_of(topology, obj)


def _joined(topology: Topology, interface: Port) -> Iterator[Dirty]:
    networks = {interface.network_id, *(port.network_id for port in topology.interfaces_of(interface.router_id or ""))}
    joined = {each for network in networks for each in topology.realm_of(network)}
    routers = dict.fromkeys(topology.balancers_on(interface.router_id or ""))
    yield from _whole(topology, _of_networks(topology, joined) | routers)
    for hypervisor in where(topology, interface.network_id):  # which reach the router no more, or now
        yield from ((hypervisor, owner) for id in routers for owner in owners(topology, id))


def _members_of(topology: Topology, port: Port | None) -> Iterator[Dirty]:
    """The pools that a port's addresses are members of."""
    for fixed in (port.fixed_ips or ()) if port is not None else ():
        for id in topology.members_at((fixed.subnet_id or "", fixed.ip_address or "")):
            member: Member = topology.get("member", id)
            yield from concerned(topology, "pool", member.pool_id)


def _location(topology: Topology, change: Change) -> Iterator[Dirty]:
    """A VM came or went. One that moved from a hypervisor to another is what it was."""
    if change.old is None or change.new is None:
        yield from _members_of(topology, topology.get("port", change.id))


def _network(topology: Topology, change: Change) -> Iterator[Dirty]:
    if not change.only_in(*_NO_FLOWS, "dns_domain", "qos_policy_id"):
        yield from _whole(topology, _of_networks(topology, topology.realm_of(change.id)))


def _router(topology: Topology, change: Change) -> Iterator[Dirty]:
    if not change.only_in(*_NO_FLOWS, "gateway_hypervisors", "routes", "policy_routes"):
        networks = {each for port in topology.interfaces_of(change.id) for each in topology.realm_of(port.network_id)}
        yield from _whole(topology, _of_networks(topology, networks) | dict.fromkeys(topology.balancers_on(change.id)))


def _gateways(topology: Topology, change: Change) -> Iterator[Dirty]:
    """Another hypervisor is the way outside, also of load balancers whose floating IPs come by the router."""
    networks = [port.network_id for port in topology.interfaces_of(change.id)]
    for id in _of_networks(topology, networks) | dict.fromkeys(topology.balancers_on(change.id)):
        yield from _whole(topology, (id,))
        for hypervisor in (*change.old, *change.new):
            for owner in owners(topology, id):
                yield hypervisor, owner


def _floating(topology: Topology, change: Change) -> Iterator[Dirty]:
    found: list[FloatingIp] = [obj for obj in (change.old, change.new) if obj is not None]
    if not change.only_in(*_NO_FLOWS):
        yield from _whole(topology, {obj.loadbalancer_id for obj in found if obj.loadbalancer_id is not None})


def _everywhere(topology: Topology, change: Change) -> Iterator[Dirty]:
    """How large packets may be in tunnels has changed."""
    yield from _whole(topology, topology.all("load-balancer"))


RULES: dict[str, Callable[[Topology, Change], Iterator[Dirty]]] = {
    "load-balancer": _balancer,
    "listener": _listener,
    "pool": _pool,
    "member": _member,
    "health-monitor": _monitor,
    "port": _port,
    "location": _location,
    "network": _network,
    "router": _router,
    "gateways": _gateways,
    "floating-ip": _floating,
    "tunnel-mesh": _everywhere,
    "underlay": _everywhere,
}
"""What each kind of change makes dirty, beside what ``scope`` says. The graph has the changes in it already."""
