"""How many packets each rule of a security group decided, and of how many bytes, on all hypervisors together.

Switches count by flow, and a rule's flow says whose it is (``pipelines.rulesets``). What was read before is kept and the
difference added: a rule's count goes on when its flows give way to others, as when members come and go, and when a
switch begins anew. Lost is what a flow counted after it was read last, and all of it when the controller ends but what the
switches still have.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import eventlet
from eventlet.semaphore import Semaphore

from pipelines.rulesets import decided_by
from pipelines.wire import FlowEntry
from topology.model import SecurityGroup, SecurityGroupRule

if TYPE_CHECKING:
    from .core import Core

FRESH = 2.0
"""Seconds for which what was read is used again."""
SHARE = 5
"""Reading takes at most one part in so many of the time."""
TIMEOUT = 2.0
"""Seconds that a switch has for its answer."""
STEP = 2000
"""Flows looked at before others get their turn: a few milliseconds."""
NAMED = 1000
"""Groups that have metrics of their own; later ones share one, whose label is empty."""


class Count(NamedTuple):
    """Packets, and their bytes from the Ethernet header on."""

    packets: int = 0
    bytes: int = 0

    def plus(self, other: Count) -> Count:
        """Both together."""
        return Count(self.packets + other.packets, self.bytes + other.bytes)


class Kind(NamedTuple):
    """What rules are counted together in metrics: those of a group that do the same in one direction."""

    group: str
    """Its id; empty for all those beyond ``NAMED``."""
    direction: str
    action: str


NOTHING = Count()


class RuleCounters:
    """Counts by rule, and by group, as last read."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.by_kind: defaultdict[Kind, Count] = defaultdict(Count)
        self._by_key: defaultdict[int, Count] = defaultdict(Count)
        self._seen: dict[str, dict[bytes, Count]] = {}
        """By hypervisor and flow: what the switch said last."""
        self._named: set[str] = set()
        self._again = 0.0
        self._reading = Semaphore()

    def of_rule(self, rule: SecurityGroupRule) -> Count:
        """What a rule has decided."""
        return self._by_key.get(rule.rule_key or 0, NOTHING)

    def refresh(self) -> None:
        """Read the counters anew, of all bridges at once, unless they were read just now; waits for the switches."""
        with self._reading:
            began = time.monotonic()
            if began < self._again:
                return
            pool = eventlet.GreenPool()
            for hypervisor in list(self.core.topology.all("hypervisor")):
                if not self.core.topology.residents(hypervisor):
                    self._seen.pop(hypervisor, None)  # it has no rules now
                elif self.core.engine.connected(hypervisor):
                    pool.spawn(self._refresh, hypervisor)
            pool.waitall()
            self._forget()
            now = time.monotonic()
            self._again = now + max(FRESH, (SHARE - 1) * (now - began))

    def _refresh(self, hypervisor: str) -> None:
        flows = self.core.engine.counted(hypervisor, ("policy", hypervisor), TIMEOUT)
        if flows is None:
            return
        before, now = self._seen.get(hypervisor, {}), {}
        for key, flow in _deciding(flows):
            count = now[flow.key] = Count(flow.packets, flow.bytes)
            last = before.get(flow.key, NOTHING)
            if count.packets < last.packets:
                last = NOTHING  # the flow, or the switch, began anew
            self._add(key, Count(count.packets - last.packets, max(0, count.bytes - last.bytes)))
        self._seen[hypervisor] = now

    def _add(self, key: int, more: Count) -> None:
        rule: SecurityGroupRule | None = self.core.topology.get(
            "security-group-rule", self.core.topology.rule_keys.get(key, "")
        )
        if rule is None or not more.packets:
            return
        self._by_key[key] = self._by_key[key].plus(more)
        kind = Kind(self._label(rule.security_group_id), rule.direction, rule.action)
        self.by_kind[kind] = self.by_kind[kind].plus(more)

    def _label(self, group: str) -> str:
        if group not in self._named and len(self._named) < NAMED:
            self._named.add(group)
        return group if group in self._named else ""

    def _forget(self) -> None:
        """What is gone from the intent is counted no longer."""
        topology = self.core.topology
        for key in self._by_key.keys() - topology.rule_keys.keys():
            del self._by_key[key]
        for hypervisor in self._seen.keys() - topology.all("hypervisor").keys():
            del self._seen[hypervisor]
        gone = {group for group in self._named if topology.get("security-group", group) is None}
        self._named -= gone
        for kind in [kind for kind in self.by_kind if kind.group in gone]:
            del self.by_kind[kind]

    def series(self, field: str) -> list[tuple[dict[str, str], int]]:
        """``packets`` or ``bytes`` as a metric: by group, direction and action."""
        found = []
        for kind, count in sorted(self.by_kind.items()):
            group: SecurityGroup | None = self.core.topology.get("security-group", kind.group)
            labels = {
                "security_group_id": kind.group,
                "security_group": group.name if group is not None else "",
                "direction": kind.direction,
                "action": kind.action,
            }
            found.append((labels, getattr(count, field)))
        return found


def _deciding(flows: list[FlowEntry]) -> Iterator[tuple[int, FlowEntry]]:
    """The key of a rule, and a flow that decides for it; lets other greenlets run in between."""
    for number, flow in enumerate(flows, 1):
        if number % STEP == 0:
            eventlet.sleep(0)
        key = decided_by(flow.body)
        if key is not None:
            yield key, flow
