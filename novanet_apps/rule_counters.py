"""How many packets each rule of a security group decided, and of how many bytes, on all hypervisors together.

A rule's flow says whose it is (``pipelines.rulesets``); ``flow_counters`` tells how such counts go on.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from pipelines.rulesets import decided_by
from pipelines.wire import FlowEntry
from topology.model import SecurityGroup, SecurityGroupRule

from .flow_counters import NOTHING, TIMEOUT, Count, FlowCounters, Names

if TYPE_CHECKING:
    from .core import Core


class Kind(NamedTuple):
    """What rules are counted together in metrics: those of a group that do the same in one direction."""

    group: str
    """Its id; empty for all those without metrics of their own."""
    direction: str
    action: str


class RuleCounters:
    """Counts by rule, and by group, as last read."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.flows = FlowCounters(core, self._read, lambda flow: decided_by(flow.body), self._add)
        self.by_kind: defaultdict[Kind, Count] = defaultdict(Count)
        self._by_key: defaultdict[int, Count] = defaultdict(Count)
        self._names = Names()

    def of_rule(self, rule: SecurityGroupRule) -> Count:
        """What a rule has decided."""
        return self._by_key.get(rule.rule_key or 0, NOTHING)

    def refresh(self) -> None:
        """Read the counters anew, of all bridges at once, unless they were read just now; waits for the switches."""
        if self.flows.refresh():
            self._forget()

    def _read(self, hypervisor: str) -> list[FlowEntry] | None:
        if not self.core.topology.residents(hypervisor):
            return []  # it has no rules now
        return self.core.engine.counted(hypervisor, ("policy", hypervisor), TIMEOUT)

    def _add(self, key: int, more: Count) -> None:
        rule: SecurityGroupRule | None = self.core.topology.get(
            "security-group-rule", self.core.topology.rule_keys.get(key, "")
        )
        if rule is None:
            return
        self._by_key[key] = self._by_key[key].plus(more)
        kind = Kind(self._names.label(rule.security_group_id), rule.direction, rule.action)
        self.by_kind[kind] = self.by_kind[kind].plus(more)

    def _forget(self) -> None:
        """What is gone from the intent is counted no longer."""
        topology = self.core.topology
        for key in self._by_key.keys() - topology.rule_keys.keys():
            del self._by_key[key]
        gone = self._names.forget(topology.all("security-group"))
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
