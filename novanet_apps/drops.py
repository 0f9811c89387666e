"""Why packets were dropped, and how many: the counters of the flows that drop, by the reason that each declares.

Such flows belong to the owner ``base`` of every bridge, so one short request a bridge reads them all.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import eventlet

from pipelines import tables
from pipelines.flow import Flow

if TYPE_CHECKING:
    from .core import Core

FRESH = 2.0
"""Seconds for which what was read is used again."""
TIMEOUT = 2.0
"""Seconds that a switch has for its answer."""

Key = bytes
Reason = tuple[str, str]
"""(table, reason)."""


class Drops:
    """Dropped packets by hypervisor and (table, reason), as last read."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.packets: dict[str, Counter[Reason]] = {}
        self._read = 0.0

    def refresh(self) -> None:
        """Read the counters anew, of all bridges at once, unless they were read just now."""
        if time.monotonic() - self._read < FRESH:
            return
        self._read = time.monotonic()
        pool = eventlet.GreenPool()
        for hypervisor in self.core.topology.all("hypervisor"):
            if self.core.engine.connected(hypervisor):
                pool.spawn(self._refresh, hypervisor)
        pool.waitall()

    def _refresh(self, hypervisor: str) -> None:
        owner = ("base", hypervisor)
        flows = self.core.engine.counted(hypervisor, owner, TIMEOUT)
        if flows is None:
            return
        reasons = self._reasons(hypervisor)
        found: Counter[Reason] = Counter()
        for flow in flows:
            if flow.key in reasons:
                found[reasons[flow.key]] += flow.packets
        self.packets[hypervisor] = found

    def _reasons(self, hypervisor: str) -> dict[Key, Reason]:
        """What each dropping flow of a bridge drops for, by the flow's key."""
        rules = self.core.reconciler.compiler.rules(self.core.topology, hypervisor, ("base", hypervisor))
        found = {}
        for rule in rules:
            if isinstance(rule, Flow) and not rule.actions and rule.goto is None:
                table = tables.PIPELINE[rule.table]
                if reason := rule.reason or table.reason:  # else it only finds nothing
                    found[rule.key] = (table.name, reason)
        return found
