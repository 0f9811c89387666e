"""Where a port is, seen from one hypervisor: asked once for all features."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from topology.graph import Topology
from topology.model import Network, Port, Vif


class Placed(NamedTuple):
    """A port that concerns a hypervisor: ``key`` and ``vni`` are allocated, ``location`` is the hypervisor it is on."""

    port: Port
    """With the identity that flows tell of it."""
    key: int
    vni: int
    location: str
    here: bool
    """Whether it is on the hypervisor that asks."""
    met: bool
    """Whether the hypervisor that asks has ports in the same network."""
    ofport: int | None
    """Its OpenFlow port, when it is here and vswitchd has given it one."""


def live_vni(topology: Topology, network_id: str) -> int | None:
    """The VNI of a network that is up."""
    network: Network | None = topology.get("network", network_id)
    return network.vni if network is not None and network.admin_state_up else None


def wired_both(topology: Topology, network_id: str, one: str, other: str) -> bool:
    """Whether two hypervisors are on the wire of a provider network, so that they need no tunnel for it."""
    wired = topology.wired_to(network_id)
    return one in wired and other in wired


def has_router(topology: Topology, hypervisor: str, router_id: str) -> bool:
    """Whether a router is on a hypervisor: this one reaches one of its networks, or may be its gateway."""
    return hypervisor in topology.gateways_of(router_id) or any(
        hypervisor in topology.reachers_of(port.network_id) for port in topology.interfaces_of(router_id)
    )


def placed(topology: Topology, hypervisor: str, port_id: str) -> Placed | None:
    """The port, when it is up, plugged somewhere, and this hypervisor reaches its network."""
    port: Port | None = topology.get("port", port_id)
    location = topology.location(port_id)
    if port is None or port.port_key is None or location is None or not port.admin_state_up:
        return None
    vni = live_vni(topology, port.network_id)
    if vni is None or hypervisor not in topology.reachers_of(port.network_id):
        return None
    met = hypervisor in topology.hypervisors_of(port.network_id)
    here = location == hypervisor
    vif: Vif | None = topology.get("vif", port_id) if here else None
    told = topology.identity_told(port)
    shown = port if told == (port.identity or 0) else replace(port, identity=told or None)
    return Placed(shown, port.port_key, vni, location, here, met, vif.ofport if vif is not None else None)
