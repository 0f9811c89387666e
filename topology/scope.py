"""Which objects concern which hypervisor: what has to be compiled anew after a change, and nothing else.

A hypervisor is concerned by the networks that have ports on it, by all ports of those networks, and by the other
hypervisors that have them too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .changes import Change
from .graph import Topology

Owner = tuple[str, str]
Dirty = tuple[str, Owner]
"""(hypervisor, owner)."""


def owners_on(topology: Topology, hypervisor: str) -> Iterator[Owner]:
    """Everything that concerns a hypervisor."""
    yield "base", hypervisor
    for peer in topology.peers_of(hypervisor):
        yield "peer", peer
    for network in topology.networks_on(hypervisor):
        yield "network", network
        for port in topology.ports_of(network):
            if topology.location(port) is not None:
                yield "port", port


def concerned(topology: Topology, kind: str, id: str) -> Iterator[Dirty]:
    """Where an object of the intent store is realised, and by which owner."""
    match kind:
        case "port":
            port = topology.get("port", id)
            if port is not None and topology.location(id) is not None:
                for hypervisor in topology.hypervisors_of(port.network_id):
                    yield hypervisor, ("port", id)
        case "network":
            for hypervisor in topology.hypervisors_of(id):
                yield hypervisor, ("network", id)
        case "subnet":
            subnet = topology.get("subnet", id)
            if subnet is not None:
                yield from concerned(topology, "network", subnet.network_id)
        case "hypervisor":
            yield id, ("base", id)
            for peer in topology.peers_of(id):
                yield peer, ("peer", id)
                yield id, ("peer", peer)
        case "tunnel-mesh":
            for hypervisor in topology.all("hypervisor"):
                yield from concerned(topology, "hypervisor", hypervisor)


def dirty(topology: Topology, changes: Iterable[Change]) -> Iterator[Dirty]:
    """What has to be compiled anew after the changes, which are in the graph already. May repeat itself."""
    for change in changes:
        rule = _RULES.get(change.kind)
        if rule is not None:
            yield from rule(topology, change)


def _location(topology: Topology, change: Change) -> Iterator[Dirty]:
    """A port came, went or moved: compiled anew wherever its network is."""
    owner = ("port", change.id)
    for hypervisor in {change.old, change.new} - {None}:
        yield hypervisor, owner
    port = topology.get("port", change.id)
    if port is None:
        return  # the change of the port itself tells
    for hypervisor in topology.hypervisors_of(port.network_id):
        yield hypervisor, owner


def _membership(topology: Topology, change: Change) -> Iterator[Dirty]:
    """Broadcast changes where the port was and where it is."""
    for hypervisor in {change.old, change.new} - {None}:
        yield hypervisor, ("network", change.id)


def _presence(topology: Topology, change: Change) -> Iterator[Dirty]:
    """A hypervisor got a network's first port, or lost its last: all of the network there, and tunnels both ways."""
    network, here = change.id, change.new or change.old
    for port in topology.ports_of(network):
        if topology.location(port) is not None:
            yield here, ("port", port)
    yield here, ("network", network)
    for other in topology.hypervisors_of(network):
        if other != here:
            yield other, ("network", network)
            yield other, ("peer", here)
            yield here, ("peer", other)


def _port(topology: Topology, change: Change) -> Iterator[Dirty]:
    if _same(change, "host_id", "name", "description", "device_id", "device_owner", "revision_number"):
        return
    port = change.new or change.old
    here = topology.location(change.id)
    if change.new is not None and here is None:
        return
    for hypervisor in topology.hypervisors_of(port.network_id):
        yield hypervisor, ("port", change.id)
    switched = change.old and change.new and change.old.admin_state_up != change.new.admin_state_up
    if switched and here is not None:
        yield here, ("network", port.network_id)


def _network(topology: Topology, change: Change) -> Iterator[Dirty]:
    old, new = change.old, change.new
    if old is not None and new is not None and (old.vni, old.admin_state_up) == (new.vni, new.admin_state_up):
        return
    for hypervisor in topology.hypervisors_of(change.id):
        yield hypervisor, ("network", change.id)
        for port in topology.ports_of(change.id):
            yield hypervisor, ("port", port)


def _vif(topology: Topology, change: Change) -> Iterator[Dirty]:
    if change.old is not None and change.new is not None and change.old.ofport != change.new.ofport:
        yield change.new.hypervisor_id, ("port", change.id)


def _hypervisor(topology: Topology, change: Change) -> Iterator[Dirty]:
    if change.old is not None and change.new is not None and change.old.tunnel_ip == change.new.tunnel_ip:
        return
    yield from concerned(topology, "hypervisor", change.id)
    if change.old is None or change.new is None:
        for network in topology.networks_on(change.id):
            for hypervisor in topology.hypervisors_of(network):
                yield hypervisor, ("network", network)
                for port in topology.ports_of(network) & topology.ports_on(change.id):
                    yield hypervisor, ("port", port)


def _bridge(topology: Topology, change: Change) -> Iterator[Dirty]:
    old, new = change.old, change.new
    if (old and old.tunnel_ofport) == (new and new.tunnel_ofport):
        return
    yield from _tunnels(topology, change.id)


def _mesh(topology: Topology, change: Change) -> Iterator[Dirty]:
    for hypervisor in topology.all("hypervisor"):
        yield from _tunnels(topology, hypervisor)


def _tunnels(topology: Topology, hypervisor: str) -> Iterator[Dirty]:
    """Everything of one hypervisor that names its tunnel port."""
    yield hypervisor, ("base", hypervisor)
    for peer in topology.peers_of(hypervisor):
        yield hypervisor, ("peer", peer)
    for network in topology.networks_on(hypervisor):
        yield hypervisor, ("network", network)


def _same(change: Change, *ignored: str) -> bool:
    """Whether old and new differ in ignored fields only."""
    old, new = change.old, change.new
    if old is None or new is None:
        return False
    fields: tuple[str, ...] = type(new).__struct_fields__
    return all(getattr(old, name) == getattr(new, name) for name in fields if name not in ignored)


_RULES: dict[str, Any] = {
    "location": _location,
    "membership": _membership,
    "presence": _presence,
    "port": _port,
    "network": _network,
    "vif": _vif,
    "hypervisor": _hypervisor,
    "bridge": _bridge,
    "tunnel-mesh": _mesh,
}
