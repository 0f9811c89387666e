"""Where a port is, seen from one hypervisor: the question every feature begins with."""

from __future__ import annotations

from typing import NamedTuple

from topology.graph import Topology
from topology.model import Network, Port


class Placed(NamedTuple):
    """A port that concerns a hypervisor: ``key`` and ``vni`` are allocated, ``location`` is the hypervisor it is on."""

    port: Port
    key: int
    vni: int
    location: str
    here: bool
    """Whether it is on the hypervisor that asks."""


def live_vni(topology: Topology, network_id: str) -> int | None:
    """The VNI of a network that is up."""
    network: Network | None = topology.get("network", network_id)
    return network.vni if network is not None and network.admin_state_up else None


def placed(topology: Topology, hypervisor: str, port_id: str) -> Placed | None:
    """The port, when it is up, plugged somewhere, and its network has ports on this hypervisor."""
    port: Port | None = topology.get("port", port_id)
    location = topology.location(port_id)
    if port is None or port.port_key is None or location is None or not port.admin_state_up:
        return None
    vni = live_vni(topology, port.network_id)
    if vni is None or hypervisor not in topology.hypervisors_of(port.network_id):
        return None
    return Placed(port, port.port_key, vni, location, location == hypervisor)
