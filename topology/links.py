"""Which hypervisors watch each other, and whose choice of them a change concerns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from .changes import Change
from .graph import Topology
from .model import Hypervisor


class Peer(NamedTuple):
    """A hypervisor to be watched."""

    id: str
    tunnel_ip: str


def watched(topology: Topology, hypervisor_id: str) -> dict[int, Peer]:
    """The hypervisors that this one watches, by key: gateways of its realms, or those for whom it is one.

    Only those that have a tunnel endpoint can be watched.
    """
    found = (topology.get("hypervisor", peer) for peer in topology.linked_to(hypervisor_id))
    return {
        peer.hypervisor_key: Peer(peer.id, peer.tunnel_ip)
        for peer in found
        if peer is not None and peer.hypervisor_key is not None and peer.tunnel_ip is not None
    }


def is_alive(topology: Topology, hypervisor_id: str, seen: Callable[[str], bool]) -> bool:
    """Whether somebody's probe reaches a hypervisor, or nobody's tells anything.

    ``seen`` says of a hypervisor whether its probes are known as they are now.
    """
    found = [link.up for link in topology.links_to(hypervisor_id) if link.settled and seen(link.hypervisor_id)]
    return not found or any(found)


def concerned(topology: Topology, changes: Iterable[Change]) -> set[str]:
    """The hypervisors for which ``watched`` may differ after the changes, which are in the graph already."""
    found: set[str] = set()
    for change in changes:
        match change.kind:
            case "reach":
                found.add(change.id)
                for network in change.old | change.new:
                    found.update(_around(topology, change.id, network))
            case "gateways":
                found.update((*change.old, *change.new))
                for interface in topology.interfaces_of(change.id):
                    found.update(topology.reachers_of(interface.network_id))
            case "port":
                port = change.new or change.old
                if port.router_id is not None and (change.old is None or change.new is None):
                    found.update(topology.gateways_of(port.router_id))
                    found.update(topology.reachers_of(port.network_id))
            case "hypervisor":
                if _endpoint(change.old) != _endpoint(change.new):
                    found.add(change.id)
                    found.update(topology.linked_to(change.id))
    return found


def _around(topology: Topology, hypervisor: str, network: str) -> Iterator[str]:
    """Who watches a hypervisor because of a network that it reaches: the gateways, or all if it is one itself."""
    for interface in topology.routed_by(network):
        gateways = topology.gateways_of(interface.router_id or "")
        yield from gateways
        if hypervisor in gateways:
            yield from topology.reachers_of(network)


def _endpoint(hypervisor: Hypervisor | None) -> tuple[int | None, str | None] | None:
    return None if hypervisor is None else (hypervisor.hypervisor_key, hypervisor.tunnel_ip)
