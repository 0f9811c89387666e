"""What security groups' rules did: GET …/statistics counts, GET /v1/security-group-logs tells of connections."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from msgspec import Struct, structs
from webob import Response

from novanet_apps.policy_log import LogEntry
from topology.model import SecurityGroup, SecurityGroupRule

from . import queries
from .problems import Problem
from .resources import answer
from .views import Views, scope

if TYPE_CHECKING:
    from novanet_apps.core import Core

    from .api import Call

FILTERS = ("security_group_id", "security_group_rule_id", "port_id")
VERDICTS = ("allowed", "denied")


class RuleStatistics(Struct, frozen=True, kw_only=True):
    """What a rule has decided on all hypervisors."""

    security_group_rule_id: str
    packets: int
    bytes: int


class GroupStatistics(Struct, frozen=True, kw_only=True):
    """What a group's rules have decided on all hypervisors."""

    security_group_id: str
    packets: int
    bytes: int
    rules: list[RuleStatistics]


class SecurityGroups:
    """Counts and log entries, for those whose groups and ports they are about."""

    def __init__(self, core: Core, views: Views) -> None:
        self.core, self.views = core, views

    def rule_statistics(self, call: Call) -> Response:
        """GET /v1/security-group-rules/{id}/statistics. Asks the switches."""
        rule: SecurityGroupRule = self._own(call, "security-group-rule")
        self.core.rule_counters.refresh()
        return answer(self._counted(rule))

    def group_statistics(self, call: Call) -> Response:
        """GET /v1/security-groups/{id}/statistics. Asks the switches."""
        group: SecurityGroup = self._own(call, "security-group")
        self.core.rule_counters.refresh()
        topology = self.core.topology
        rules = [topology.get("security-group-rule", id) for id in sorted(topology.rules_of(group.id))]
        counted = [self._counted(rule) for rule in rules]
        return answer(
            GroupStatistics(
                security_group_id=group.id,
                packets=sum(each.packets for each in counted),
                bytes=sum(each.bytes for each in counted),
                rules=counted,
            )
        )

    def _own(self, call: Call, kind: str) -> Any:
        """The object that the path names. What is shared counts for other projects as well, so only its own may ask."""
        queries.parameters(call.request, ())
        project, id = scope(call.token), call.path["id"]
        obj = self.core.topology.get(kind, id)
        if obj is None or project not in (None, obj.project_id):
            raise Problem(404, f"there is no {kind} {id}")
        return obj

    def _counted(self, rule: SecurityGroupRule) -> RuleStatistics:
        count = self.core.rule_counters.of_rule(rule)
        return RuleStatistics(security_group_rule_id=rule.id, packets=count.packets, bytes=count.bytes)

    # --- the log -------------------------------------------------------------------------------------------------

    def log(self, call: Call) -> Response:
        """GET /v1/security-group-logs: the latest entries, the newest first."""
        asked = queries.parameters(call.request, (*FILTERS, "verdict", "limit", "marker"))
        if unknown := set(asked.get("verdict", ())) - set(VERDICTS):
            raise Problem(400, f"{min(unknown)!r} is no verdict; there are {', '.join(VERDICTS)}", field="verdict")
        limit = _number(asked, "limit", queries.DEFAULT_LIMIT)
        if not 1 <= limit <= queries.MAX_LIMIT:
            raise Problem(400, f"must be from 1 to {queries.MAX_LIMIT}", field="limit")
        project = scope(call.token)
        found = list(islice(self._entries(asked, project), limit + 1))
        shown = found[:limit]
        following = None
        if len(found) > limit:
            kept = [(name, value) for name, value in call.request.GET.items() if name != "marker"]
            following = f"{call.request.path}?{urlencode([*kept, ('marker', shown[-1].id)])}"
        return answer({"items": shown, "next": following})

    def _entries(self, asked: dict[str, list[str]], project: str | None) -> Iterator[LogEntry]:
        before = _number(asked, "marker", 0)
        wanted = [name for name in (*FILTERS, "verdict") if name in asked]
        for each in self.core.policy_log.latest(project):
            if before and each.id >= before:
                continue
            entry = self._shown(each, project)
            if all(getattr(entry, name) in asked[name] for name in wanted):
                yield entry

    def _shown(self, entry: LogEntry, project: str | None) -> LogEntry:
        """As much of it as a project may know: not where its VMs are, nor what is others'."""
        if project is None:
            return entry
        hidden: dict[str, Any] = {"hypervisor": ""}
        if not self._sees(project, "security-group", entry.security_group_id):
            hidden |= {"security_group_rule_id": None, "security_group_rule": ""}
            hidden |= {"security_group_id": None, "security_group": ""}
        if not self._sees(project, "port", entry.peer_port_id):
            hidden |= {"peer_port_id": None, "peer_port": ""}
        return structs.replace(entry, **hidden)

    def _sees(self, project: str, kind: str, id: str | None) -> bool:
        obj = self.core.topology.get(kind, id) if id is not None else None
        return obj is not None and self.views.visible(project, kind, obj)


def _number(asked: dict[str, list[str]], name: str, default: int) -> int:
    text = asked[name][-1] if name in asked else str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise Problem(400, f"must be a number, not {text[:40]!r}", field=name)
    return int(text)
