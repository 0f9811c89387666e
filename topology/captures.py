"""How captures are doing, and whose agent they are for. Pure, from the graph."""

from __future__ import annotations

from collections.abc import Iterator

from .graph import Topology
from .model import Capture, Hypervisor, Status

ENDED = ("DONE", "ERROR")
"""States of a capture that nobody does anything about any more."""


def hypervisor_of(topology: Topology, capture: Capture) -> str | None:
    """The hypervisor whose agent has to capture; None while the port is not plugged."""
    return topology.location(capture.port_id) if capture.port_id is not None else capture.hypervisor_id


def judge(topology: Topology, capture: Capture) -> tuple[Status, list[str]]:
    """The status, with what keeps it from being ACTIVE: that it runs, or has ended as it should."""
    if capture.state == "ERROR":
        return "ERROR", [capture.state_detail]
    if capture.state != "PENDING":
        return "ACTIVE", [capture.state_detail] if capture.state_detail else []
    if not capture.enabled:
        return "DOWN", ["it is not enabled"]
    here = hypervisor_of(topology, capture)
    if here is None:
        return "DOWN", ["what is to be captured is not plugged, or was deleted"]
    hypervisor: Hypervisor | None = topology.get("hypervisor", here)
    name = here if hypervisor is None else hypervisor.name or here
    return "BUILD", [f"waiting for novanet-host-agent on hypervisor {name}"]


def touched(topology: Topology, kind: str, id: str) -> Iterator[str]:
    """Ids of the captures whose status may be another after a change of this object."""
    if kind in ("vif", "port", "location"):
        for each in topology.all("capture").values():
            if each.port_id == id and each.state == "PENDING":
                yield each.id
