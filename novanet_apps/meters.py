"""What meters each switch can have, and how many it has: told to the graph, so that admission can refuse what would not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import eventlet
from msgspec.structs import replace

from pipelines.wire.groups import BURST, KBPS, PACKETS
from topology.changes import Edit
from topology.model import Meters

if TYPE_CHECKING:
    from .core import Core

TIMEOUT = 5.0
"""Seconds that a switch has to say what it can do; it is asked again with the next news of it."""
PAUSE = 1.0
"""Seconds between two looks at how many meters a bridge has."""
DSCP_REMARK = 1 << 2
"""The bit of OFPMBT_DSCP_REMARK."""


class MeterWatch:
    """Asks a switch when it has connected, and counts what is wanted of it when it has confirmed something."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._known: dict[str, Meters] = {}
        self._asked: dict[str, Any] = {}
        core.engine.on_confirmed(self._news)

    def _news(self, hypervisor: str) -> None:
        if not self.core.engine.connected(hypervisor):
            self._known.pop(hypervisor, None)  # it may come back as another one
        elif hypervisor not in self._asked:
            self._asked[hypervisor] = eventlet.spawn(self._look, hypervisor)

    def _look(self, hypervisor: str) -> None:
        try:
            if hypervisor not in self._known:
                features = self.core.engine.meter_features(hypervisor, TIMEOUT)
                if features is None:
                    return
                self._known[hypervisor] = Meters(
                    hypervisor_id=hypervisor,
                    max_meters=features.most,
                    kbps=bool(features.flags & KBPS),
                    pktps=bool(features.flags & PACKETS),
                    burst=bool(features.flags & BURST),
                    dscp_remark=bool(features.bands & DSCP_REMARK),
                )
            else:
                eventlet.sleep(PAUSE)
            self._tell(hypervisor)
        finally:
            del self._asked[hypervisor]

    def _tell(self, hypervisor: str) -> None:
        known = self._known.get(hypervisor)
        if known is None or self.core.topology.get("hypervisor", hypervisor) is None:
            return
        now = replace(known, in_use=self.core.engine.meters(hypervisor))
        if now != self.core.topology.get("meters", hypervisor):
            self.core.observe([Edit("meters", hypervisor, now)])
