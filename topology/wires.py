"""Whether hypervisors are connected to the physical networks that they should be, and routers to the outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .graph import Topology
from .model import Bridge, FloatingIp, Hypervisor, Network, Port, PortForwarding


def unwired(topology: Topology, kind: str, id: str) -> Iterator[tuple[str, str]]:
    """(hypervisor id, what is wrong) for VMs of provider networks that do not reach the wire, and for mappings.

    ``kind`` is ``network``, ``port`` or ``hypervisor``; nothing is wrong with the others.
    """
    match kind:
        case "hypervisor":
            hypervisor: Hypervisor | None = topology.get("hypervisor", id)
            for mapping in hypervisor.bridge_mappings if hypervisor is not None else ():
                text = _missing(topology, id, mapping.physical_network)
                if text:
                    yield id, text
        case "network":
            yield from _in_network(topology, id, topology.hypervisors_of(id))
        case "port":
            port, here = topology.get("port", id), topology.location(id)
            if port is not None and here is not None:
                yield from _in_network(topology, port.network_id, [here])


def cut_off(topology: Topology, kind: str, id: str) -> Iterator[str]:
    """Why a router, one of its interfaces, a floating IP or a port forwarding does not reach the outside."""
    obj = topology.get(kind, id)
    match obj:
        case Port(router_id=str(router)):
            if topology.gateway_of(router) == obj:
                yield from cut_off(topology, "router", router)
        case PortForwarding():
            yield from cut_off(topology, "floating-ip", obj.floating_ip_id)
        case FloatingIp():
            served = obj.port_id is not None or topology.forwardings_of(id)
            leads = topology.router_of_floating(id)
            here = topology.location(obj.port_id) if obj.port_id is not None else None
            if served and leads is None:
                yield f"no router leads from network {obj.floating_network_id} to it any more"
            elif leads is not None and here not in topology.wired_to(obj.floating_network_id):
                yield from cut_off(topology, "router", leads)
    if kind == "router":
        way_out = topology.gateway_of(id)
        if way_out is not None and not topology.gateways_of(id):
            outside: Network | None = topology.get("network", way_out.network_id)
            wire = outside.physical_network if outside is not None else None
            yield f"no hypervisor that may be its gateway has a bridge mapping for physical network {wire}"


def _in_network(topology: Topology, network_id: str, hypervisors: Iterable[str]) -> Iterator[tuple[str, str]]:
    network = topology.get("network", network_id)
    physical = network.physical_network if network is not None else None
    if physical is None:
        return
    wired = topology.wired_to(network_id)
    for hypervisor in sorted(hypervisors):
        text = (
            _missing(topology, hypervisor, physical)
            if hypervisor in wired
            else f"it has no bridge mapping for physical network {physical}, so its VMs reach nobody outside"
        )
        if text:
            yield hypervisor, text


def _missing(topology: Topology, hypervisor: str, physical: str) -> str:
    """Why a mapping is not in place; empty when it is, and while the bridge's state is unknown."""
    bridge: Bridge | None = topology.get("bridge", hypervisor)
    if bridge is None or physical in dict(bridge.provider_ofports):
        return ""
    known = (text for text in bridge.problems if f"physical network {physical} " in f"{text.partition(':')[0]} ")
    return next(known, f"not yet connected to physical network {physical}")
