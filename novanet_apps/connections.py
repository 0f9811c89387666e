"""What conntrack knows of a port's connections ends with the port.

Conntrack zones follow OpenFlow port numbers, and vswitchd gives those away again. Whoever gets one next shall not be taken
for an end of the connections of the port that had it before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from topology.changes import Change

if TYPE_CHECKING:
    from .core import Core


class Connections:
    """Has zones of a port forgotten when it is plugged, not when it is only seen again."""

    def __init__(self, core: Core, zones: Callable[[int], Iterable[int]]) -> None:
        """``zones`` gives them for an OpenFlow port number."""
        self.core = core
        self.zones = zones
        self.forgotten = 0
        """Zones."""
        core.subscribe(self._changed)

    def _changed(self, changes: list[Change]) -> None:
        for change in changes:
            if change.kind != "vif" or change.new is None or change.new.ofport is None:
                continue
            before = change.old.ofport if change.old is not None else None
            port = self.core.topology.get("port", change.id)
            if before == change.new.ofport or port is None:
                continue
            if before is None and port.host_id == change.new.hypervisor_id:
                continue  # it was there before this controller was
            for zone in self.zones(change.new.ofport):
                self.forgotten += 1
                self.core.engine.forget_connections(change.new.hypervisor_id, zone)
