"""How often the flow caches of datapaths had a packet's flow, from what Open vSwitch adds to its sFlow counters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

NAMES = ("hits", "misses", "lost", "mask_hits", "flows", "masks")
"""Of ``ovs_dp_stats``: sflow.org/sflow_openvswitch.txt, each 32 bits. The first four only grow, and wrap."""
_GROWING = NAMES[:4]
UNKNOWN = 0xFFFFFFFF
"""What sFlow has for a counter that is not there (sFlow version 5, section 5); so Open vSwitch's own datapath has for masks."""
FORGOTTEN = 3600.0
"""Seconds without counters after which an exporter is left out."""


class _Seen(NamedTuple):
    at: float
    values: dict[str, int]


class Caches:
    """The last two reports of every exporter."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[_Seen | None, _Seen]] = {}

    def take(self, items: Iterable[Any], now: float) -> None:
        """Reports, each a map of ``NAMES`` and ``exporter``. Raises KeyError, ValueError or TypeError on what is none."""
        for item in items:
            exporter, values = str(item["exporter"]), {name: int(item[name]) & 0xFFFFFFFF for name in NAMES}
            before = self._seen.get(exporter)
            self._seen[exporter] = (before[1] if before else None), _Seen(now, values)
        self._seen = {name: seen for name, seen in self._seen.items() if now - seen[1].at < FORGOTTEN}

    def told(self, hypervisors: Mapping[str, str]) -> list[dict[str, Any]]:
        """Of each exporter that has reported twice what was counted in between; ``hypervisors`` are ids by exporter."""
        found = []
        for exporter, (before, last) in sorted(self._seen.items()):
            if before is None or last.at <= before.at:
                continue
            counted = {name: (last.values[name] - before.values[name]) & 0xFFFFFFFF for name in _GROWING}
            found.append({
                "exporter": exporter, "hypervisor_id": hypervisors.get(exporter, ""), "at": last.at, "seconds": last.at - before.at,
                **counted, "flows": last.values["flows"], "masks": None if last.values["masks"] == UNKNOWN else last.values["masks"],
            })  # fmt: skip
        return found
