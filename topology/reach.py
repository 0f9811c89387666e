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


def floating_gateways(topology: Topology, floating_ip_id: str) -> tuple[str, ...]:
    """The possible gateways of the router that leads to a floating IP."""
    router = topology.router_of_floating(floating_ip_id)
    return () if router is None else topology.gateways_of(router)


def floating_at(topology: Topology, floating_ip_id: str) -> set[str]:
    """The hypervisors that a floating IP concerns: its VM's when that is wired to the outside, else the gateways."""
    floating = topology.get("floating-ip", floating_ip_id)
    if floating is None or floating.port_id is None:
        return set(floating_gateways(topology, floating_ip_id))
    here = topology.location(floating.port_id)
    if here is None or here in topology.wired_to(floating.floating_network_id):
        return set() if here is None else {here}
    return {here, *floating_gateways(topology, floating_ip_id)}
