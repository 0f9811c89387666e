"""Which guarantees are not kept, and why: what the platform plugged somewhere is not refused, but told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from .changes import Change
from .graph import Topology
from .model import Bridge, Hypervisor, Network, Port, Uplink, Vif
from .qos import carrier, guarantees, of_port
from .qos_scope import RULES
from .queues import LAST, OTHERS
from .queues import of_port as queue_of

_NO_EFFECT = ("name", "description", "revision_number", "question", "answer")
"""Fields of hypervisors that no guarantee depends on."""


def unkept(topology: Topology, kind: str, id: str) -> Iterator[str]:
    """Why a port does not have what its policy guarantees it, or what is the matter with a hypervisor's uplinks."""
    obj = topology.get(kind, id)
    match obj:
        case Port(router_id=None):
            yield from _of_port(topology, obj)
            yield from _of_interface(topology, obj)
        case Hypervisor():
            for shaping in obj.shaping:
                if shaping.error and any(uplink.interface == shaping.interface for uplink in obj.uplinks):
                    yield f"uplink {shaping.interface} is not shaped: {shaping.error}"


def _of_interface(topology: Topology, port: Port) -> Iterator[str]:
    hypervisor: Hypervisor | None = topology.get("hypervisor", topology.location(port.id) or "")
    if hypervisor is None or not of_port(topology, port.id).ingress.shaped:
        return
    name = hypervisor.name or hypervisor.id
    vif: Vif | None = topology.get("vif", port.id)
    plugged = [each for each in hypervisor.shaping if each.port_id == port.id]
    found = next((each for each in plugged if vif is None or each.interface == vif.interface), None)
    less = "what it gets too much is dropped at twice its max_kbps"
    if found is None:
        yield f"shape of its policy has no effect yet, {less}: does novanet-host-agent run on hypervisor {name}?"
    elif found.error:
        yield f"shape of its policy has no effect, {less}: interface {found.interface} of hypervisor {name}: {found.error}"


def touched(topology: Topology, change: Change) -> Iterator[str]:
    """Ids of the ports whose guarantees may be kept otherwise after a change, and maybe of some others."""
    match change.kind:
        case "hypervisor" if change.new is not None and not change.only_in(*_NO_EFFECT):
            yield from topology.ports_on(change.id)
        case "location" if of_port(topology, change.id).min_kbps is not None:
            for hypervisor in {change.old, change.new} - {None}:
                yield from topology.ports_on(hypervisor)
        case "bridge" if _queues(change.old) != _queues(change.new):
            yield from topology.ports_on(change.id)
        case "network" | "qos-rule":
            yield from (id for _, (kind, id) in RULES[change.kind](topology, change) if kind == "qos")


class Shaper(NamedTuple):
    """Who shapes an uplink, and how that is going."""

    name: Literal["agent", "ovsdb"]
    done: bool
    error: str


def shaper(topology: Topology, hypervisor: Hypervisor, interface: str) -> Shaper:
    """By the controller's rows in the hypervisor's OVSDB where Open vSwitch honours queues on that uplink, else by the agent."""
    bridge: Bridge | None = topology.get("bridge", hypervisor.id)
    if bridge is not None and interface in bridge.queueing:
        error = problem(bridge, interface)
        return Shaper("ovsdb", not error and (interface, OTHERS) in bridge.queues, error)
    found = next((each for each in hypervisor.shaping if each.interface == interface), None)
    return Shaper("agent", found is not None and not found.error, "" if found is None else found.error)


def awaited(topology: Topology, port_id: str) -> bool:
    """Whether Open vSwitch, which shapes the uplink of a port, has yet to be told of its queue."""
    port: Port | None = topology.get("port", port_id)
    here = topology.location(port_id)
    bridge: Bridge | None = topology.get("bridge", here or "")
    if port is None or here is None or bridge is None or port.router_id is not None:
        return False
    uplink = _uplink(topology, here, port)
    if uplink is None or uplink.interface not in bridge.queueing or problem(bridge, uplink.interface):
        return False
    queue = queue_of(topology, here, port_id)
    return queue is not None and queue != OTHERS and (uplink.interface, queue) not in bridge.queues


def problem(bridge: Bridge, interface: str) -> str:
    """What keeps Open vSwitch from shaping an uplink; empty when nothing does."""
    return next((text for text in bridge.problems if text.startswith(f"uplink {interface} ")), "")


def _without_queue(topology: Topology, port_id: str) -> str:
    """Why Open vSwitch can make no queue for a port that is plugged; empty when it can."""
    vif: Vif | None = topology.get("vif", port_id)
    if vif is None or vif.ofport is None or vif.ofport <= LAST:
        return ""
    return (
        f"its OpenFlow port is {vif.ofport}, and queues have numbers up to {LAST}: request a lower one (ofport_request)"
    )


def _queues(bridge: Bridge | None) -> object:
    return None if bridge is None else (bridge.queueing, bridge.queues, bridge.problems)


def _uplink(topology: Topology, hypervisor_id: str, port: Port) -> Uplink | None:
    """The uplink that carries a port's network."""
    hypervisor: Hypervisor | None = topology.get("hypervisor", hypervisor_id)
    network: Network | None = topology.get("network", port.network_id)
    if hypervisor is None or network is None:
        return None
    return next((each for each in hypervisor.uplinks if each.physical_network == carrier(network)), None)


def _of_port(topology: Topology, port: Port) -> Iterator[str]:
    quality, here = of_port(topology, port.id), topology.location(port.id)
    shaped = [name for name in ("min_kbps", "priority", "max_latency_ms") if getattr(quality, name) is not None]
    hypervisor: Hypervisor | None = topology.get("hypervisor", here or "")
    network: Network | None = topology.get("network", port.network_id)
    if not shaped or hypervisor is None or network is None:
        return
    name, wire = hypervisor.name or hypervisor.id, carrier(network)
    uplink = _uplink(topology, hypervisor.id, port)
    if uplink is None:
        what = f"physical network {wire}" if wire else "tunnels"
        yield f"{', '.join(shaped)} of its policy has no effect: hypervisor {name} has no uplink for {what}; set its uplinks"
        return
    where = f"uplink {uplink.interface} of hypervisor {name}"
    shaping = next((each for each in hypervisor.shaping if each.interface == uplink.interface), None)
    bridge: Bridge | None = topology.get("bridge", hypervisor.id)
    trouble = "" if shaping is None else shaping.error
    agents = shaped
    if bridge is not None and uplink.interface in bridge.queueing:
        kept_from = problem(bridge, uplink.interface) or _without_queue(topology, port.id)
        if kept_from:
            yield f"{', '.join(shaped)} of its policy has no effect: hypervisor {name}: {kept_from}"
        agents = [each for each in shaped if each == "max_latency_ms" and not kept_from]
    if agents and shaping is None:
        yield f"{', '.join(agents)} of its policy has no effect yet: {where} is not shaped; does novanet-host-agent run there?"
    elif agents and trouble:
        yield f"{', '.join(agents)} of its policy has no effect: {where} is not shaped: {trouble}"
    account = guarantees(topology, hypervisor.id).of(wire) if quality.min_kbps is not None else None
    if account is not None and quality.min_kbps is not None and account.left_kbps < 0:
        yield (
            f"of {quality.min_kbps} kbit/s that its policy guarantees it gets {account.granted(quality.min_kbps)}: {where} can"
            f" promise {account.available_kbps}, and the VMs there have been promised {account.promised_kbps}"
        )
