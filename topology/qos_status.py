"""Which guarantees are not kept, and why: what the platform plugged somewhere is not refused, but told."""

from __future__ import annotations

from collections.abc import Iterator

from .changes import Change
from .graph import Topology
from .model import Hypervisor, Network, Port
from .qos import carrier, guarantees, of_port
from .qos_scope import RULES

_NO_EFFECT = ("name", "description", "revision_number", "question", "answer")
"""Fields of hypervisors that no guarantee depends on."""


def unkept(topology: Topology, kind: str, id: str) -> Iterator[str]:
    """Why a port does not have what its policy guarantees it, or what is the matter with a hypervisor's uplinks."""
    obj = topology.get(kind, id)
    match obj:
        case Port(router_id=None):
            yield from _of_port(topology, obj)
        case Hypervisor():
            for shaping in obj.shaping:
                if shaping.error and any(uplink.interface == shaping.interface for uplink in obj.uplinks):
                    yield f"uplink {shaping.interface} is not shaped: {shaping.error}"


def touched(topology: Topology, change: Change) -> Iterator[str]:
    """Ids of the ports whose guarantees may be kept otherwise after a change, and maybe of some others."""
    match change.kind:
        case "hypervisor" if change.new is not None and not change.only_in(*_NO_EFFECT):
            yield from topology.ports_on(change.id)
        case "location" if of_port(topology, change.id).min_kbps is not None:
            for hypervisor in {change.old, change.new} - {None}:
                yield from topology.ports_on(hypervisor)
        case "network" | "qos-rule":
            yield from (id for _, (kind, id) in RULES[change.kind](topology, change) if kind == "qos")


def _of_port(topology: Topology, port: Port) -> Iterator[str]:
    quality, here = of_port(topology, port.id), topology.location(port.id)
    shaped = [name for name in ("min_kbps", "priority", "max_latency_ms") if getattr(quality, name) is not None]
    hypervisor: Hypervisor | None = topology.get("hypervisor", here or "")
    network: Network | None = topology.get("network", port.network_id)
    if not shaped or hypervisor is None or network is None:
        return
    name, wire = hypervisor.name or hypervisor.id, carrier(network)
    uplink = next((each for each in hypervisor.uplinks if each.physical_network == wire), None)
    if uplink is None:
        what = f"physical network {wire}" if wire else "tunnels"
        yield f"{', '.join(shaped)} of its policy has no effect: hypervisor {name} has no uplink for {what}; set its uplinks"
        return
    shaping = next((each for each in hypervisor.shaping if each.interface == uplink.interface), None)
    where = f"uplink {uplink.interface} of hypervisor {name}"
    if shaping is None:
        yield f"{', '.join(shaped)} of its policy has no effect yet: {where} is not shaped; does novanet-host-agent run there?"
    elif shaping.error:
        yield f"{', '.join(shaped)} of its policy has no effect: {where} is not shaped: {shaping.error}"
    account = guarantees(topology, hypervisor.id).of(wire) if quality.min_kbps is not None else None
    if account is not None and quality.min_kbps is not None and account.left_kbps < 0:
        yield (
            f"of {quality.min_kbps} kbit/s that its policy guarantees it gets {account.granted(quality.min_kbps)}: {where} can"
            f" promise {account.available_kbps}, and the VMs there have been promised {account.promised_kbps}"
        )
