"""Which flow exporters a hypervisor has. Pure, from the graph."""

from __future__ import annotations

from collections.abc import Iterator

from .graph import Topology
from .model import Bridge, FlowExporter, Hypervisor

COLUMNS = {"sflow": "sFlow", "netflow": "NetFlow", "ipfix": "IPFIX"}
"""Tables of ovs-vswitchd.conf.db(5); the bridge's columns are the types."""


def of_hypervisor(topology: Topology, hypervisor_id: str) -> tuple[FlowExporter, ...]:
    """The exporters that are switched on there, one of a type at most, in the order of types."""
    found: dict[str, FlowExporter] = {}
    every = topology.all("flow-exporter")
    for id in sorted(every):
        each: FlowExporter = every[id]
        if each.enabled and (hypervisor_id in each.hypervisor_ids or not each.hypervisor_ids):
            if each.type not in found or each.hypervisor_ids:  # admission lets no two be
                found[each.type] = each
    return tuple(found[type] for type in COLUMNS if type in found)


def where(topology: Topology, exporter: FlowExporter) -> Iterator[Hypervisor]:
    """The hypervisors that are to export."""
    for id in exporter.hypervisor_ids or sorted(topology.all("hypervisor")):
        hypervisor: Hypervisor | None = topology.get("hypervisor", id)
        if hypervisor is not None and exporter.enabled:
            yield hypervisor


def missing(topology: Topology, exporter: FlowExporter) -> tuple[dict[str, str], set[str]]:
    """Names of hypervisors that cannot export, each with why, and of those that are yet to be set up as it says."""
    kept_from: dict[str, str] = {}
    awaited: set[str] = set()
    for hypervisor in where(topology, exporter):
        bridge: Bridge | None = topology.get("bridge", hypervisor.id)
        problems = bridge.problems if bridge is not None else ("no OVSDB connection",)
        if bridge is not None and f"{exporter.id}/{exporter.revision_number}" in bridge.exporting:
            continue
        text = next((each for each in problems if each.startswith(f"{exporter.type}:")), "")
        if text or bridge is None:
            kept_from[hypervisor.name or hypervisor.id] = text or problems[0]
        else:
            awaited.add(hypervisor.name or hypervisor.id)
    return kept_from, awaited


def touched(topology: Topology, kind: str) -> Iterator[str]:
    """Ids of the exporters whose status may be another after a change of an object of this kind."""
    if kind in ("bridge", "hypervisor"):
        yield from topology.all("flow-exporter")
