"""Which hypervisors have to do with a network, and with a router."""

from __future__ import annotations

from .graph import Topology


def where(topology: Topology, network_id: str) -> set[str]:
    """The hypervisors that a network concerns."""
    return {*topology.reachers_of(network_id), *topology.wired_to(network_id)}


def routers_at(topology: Topology, router_id: str) -> set[str]:
    """The hypervisors that a router concerns: they reach one of its networks, or may be its gateway."""
    found = set(topology.gateways_of(router_id))
    for interface in topology.interfaces_of(router_id):
        found.update(topology.reachers_of(interface.network_id))
    return found
