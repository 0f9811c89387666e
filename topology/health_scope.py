"""Which flows of health checks depend on what: each member's are at its VM's hypervisor, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .changes import Change, Dirty
from .graph import Topology
from .model import Member, Port, Subnet

_OF_MEMBERS = ("address", "subnet_id", "protocol_port", "monitor_port", "admin_state_up", "member_key")
"""Fields of members that checks depend on."""
_OF_PORTS = ("fixed_ips", "mac_address", "admin_state_up", "port_key")


def owners_on(topology: Topology, hypervisor: str) -> Iterator[tuple[str, str]]:
    """The members whose VMs are on a hypervisor."""
    for port_id in topology.ports_on(hypervisor):
        yield from (("member", id) for id in _members_of(topology, topology.get("port", port_id)))


def _members_of(topology: Topology, port: Port | None) -> Iterator[str]:
    for fixed in (port.fixed_ips or ()) if port is not None else ():
        yield from topology.members_at((fixed.subnet_id or "", fixed.ip_address or ""))


def _hypervisor_of(topology: Topology, member: Member) -> str | None:
    port = topology.addresses.get((member.subnet_id or "", member.address))
    return None if port is None else topology.location(port)


def _member(topology: Topology, change: Change) -> Iterator[Dirty]:
    """With a member that comes or goes, those change that have its address: they are told apart by their order."""
    old, new = change.old, change.new
    if old is not None and new is not None and all(getattr(old, name) == getattr(new, name) for name in _OF_MEMBERS):
        return
    member: Member = new or old
    here = _hypervisor_of(topology, member)
    if new is None:
        for hypervisor in _may_have_been(topology, member):
            yield hypervisor, ("member", change.id)
    if here is None:
        return
    for id in topology.members_at((member.subnet_id or "", member.address)):
        if topology.monitors_of(topology.get("member", id).pool_id):
            yield here, ("member", id)


def _may_have_been(topology: Topology, member: Member) -> Iterable[str]:
    """The hypervisors that the VM of a member that is gone may have been on: in the same batch it may have moved, or gone too."""
    subnet: Subnet | None = topology.get("subnet", member.subnet_id or "")
    return topology.all("hypervisor") if subnet is None else topology.reachers_of(subnet.network_id)


def _of_pool(topology: Topology, pool_id: str) -> Iterator[Dirty]:
    for id in topology.members_of(pool_id):
        here = _hypervisor_of(topology, topology.get("member", id))
        if here is not None:
            yield here, ("member", id)


def _monitor(topology: Topology, change: Change) -> Iterator[Dirty]:
    old, new = change.old, change.new
    if old is None or new is None or old.admin_state_up != new.admin_state_up:
        yield from _of_pool(topology, (new or old).pool_id)


def _pool(topology: Topology, change: Change) -> Iterator[Dirty]:
    old, new = change.old, change.new
    if old is None or new is None or old.admin_state_up != new.admin_state_up:
        yield from _of_pool(topology, change.id)


def _balancer(topology: Topology, change: Change) -> Iterator[Dirty]:
    if change.old is None or change.new is None:
        for pool in topology.pools_of(change.id):
            yield from _of_pool(topology, pool)


def _port(topology: Topology, change: Change) -> Iterator[Dirty]:
    old, new = change.old, change.new
    port: Port = new or old
    if old is not None and new is not None and all(getattr(old, name) == getattr(new, name) for name in _OF_PORTS):
        return
    here = topology.location(change.id)
    where = topology.reachers_of(port.network_id) if new is None else () if here is None else (here,)
    for id in dict.fromkeys((*_members_of(topology, old), *_members_of(topology, new))):
        yield from ((hypervisor, ("member", id)) for hypervisor in where)


def _location(topology: Topology, change: Change) -> Iterator[Dirty]:
    for id in _members_of(topology, topology.get("port", change.id)):
        for hypervisor in {change.old, change.new} - {None}:
            yield hypervisor, ("member", id)


def _network(topology: Topology, change: Change) -> Iterator[Dirty]:
    old, new = change.old, change.new
    if old is not None and new is not None and (old.vni, old.admin_state_up) != (new.vni, new.admin_state_up):
        yield from _of_network(topology, change.id)


def _of_network(topology: Topology, network_id: str) -> Iterator[Dirty]:
    for port_id in topology.ports_of(network_id):
        here = topology.location(port_id)
        if here is not None:
            yield from ((here, ("member", id)) for id in _members_of(topology, topology.get("port", port_id)))


def _bridge(topology: Topology, change: Change) -> Iterator[Dirty]:
    """The agent's port has come, gone, or another number."""
    if getattr(change.old, "agent_ofport", None) != getattr(change.new, "agent_ofport", None):
        yield change.id, ("base", change.id)


RULES: dict[str, Callable[[Topology, Change], Iterator[Dirty]]] = {
    "member": _member,
    "health-monitor": _monitor,
    "pool": _pool,
    "load-balancer": _balancer,
    "port": _port,
    "location": _location,
    "network": _network,
    "bridge": _bridge,
}
"""What each kind of change makes dirty. The graph has the changes in it already."""
