"""Which rule of which security group it was."""

from __future__ import annotations

from pipelines import fields as f
from pipelines import tables as t
from pipelines.interpreter import Visit
from pipelines.rulesets import decided_by
from topology import ip_protocols
from topology.graph import Topology
from topology.model.security_groups import ADMIN
from topology.policy import Direction, Group, PolicyRule, Prefixes, policy_of

from .names import Names
from .report import Named

DIRECTIONS: dict[int, Direction] = {t.INGRESS_POLICY.number: "ingress", t.EGRESS_POLICY.number: "egress"}


def rule_of(topology: Topology, visit: Visit) -> PolicyRule | None:
    """The rule by which a packet in one of the two policy tables passed, or did not; None where no rule decided."""
    direction = DIRECTIONS.get(visit.table)
    if direction is None or visit.hit is None:
        return None
    key = decided_by(visit.hit.body)
    policy = policy_of(topology, visit.before.get(f.LOCAL, 0))
    return next((rule for rule in policy.rules(direction) if rule.key == key), None)


def denies(visit: Visit) -> bool:
    """Whether a packet ended in one of the two policy tables; a copy of it may still be logged."""
    if visit.table not in DIRECTIONS:
        return False
    return bool(visit.stops) or (visit.hit is not None and visit.hit.done.goto == t.POLICY_LOG.number)


def describe(names: Names, rule: PolicyRule) -> tuple[str, tuple[Named, ...]]:
    """``rule web (ingress tcp 80) of group servers``, and both; a rule of a group that the asker may not see is not named."""
    objects = names.of("security-group-rule", rule.rule_id), names.of("security-group", rule.group_id)
    if not names.sees("security-group", rule.group_id):
        whose = "an administrator's group" if rule.tier == ADMIN else "a group of another project"
        return f"a rule of {whose}", tuple(Named(each.kind, "", "") for each in objects)
    return f"rule {objects[0].name} ({_asks(names, rule)}) of group {objects[1].name}", objects


def _asks(names: Names, rule: PolicyRule) -> str:
    """What a rule matches: ``ingress tcp 80-81 from group web``."""
    words = [rule.direction, f"IPv{rule.family}"]
    if rule.protocol is not None:
        words.append(ip_protocols.NAMES.get(rule.protocol, str(rule.protocol)))
    if rule.ports is not None:
        low, high = rule.ports
        words.append(str(low) if low == high else f"{low}-{high}")
    if rule.icmp is not None:
        words.append("/".join(str(part) for part in rule.icmp if part is not None))
    way = "from" if rule.direction == "ingress" else "to"
    match rule.peer:
        case Group(id=id):
            words.append(f"{way} group {names.of('security-group', id).name}")
        case Prefixes(cidrs=cidrs):
            words.append(f"{way} {', '.join(cidrs[:3])}{' …' if len(cidrs) > 3 else ''}")
    return " ".join(words)


def default(names: Names, topology: Topology, visit: Visit) -> tuple[str, tuple[Named, ...]]:
    """What to say where no rule decided: the groups whose rules were asked, or that there are none."""
    groups = [topology.get("security-group", id) for id in topology.groups_of_identity(visit.before.get(f.LOCAL, 0))]
    tenants = sorted(group.id for group in groups if group.tier != ADMIN)
    shown = tuple(names.of("security-group", id) for id in tenants)
    whose = "receiver" if visit.before.get(f.FLAGS, 0) & f.INWARD.mask else "sender"
    if not shown:
        return f"the {whose} is in no security group of its project, so nothing allows it", ()
    return f"no rule of the {whose}'s security groups allows it ({', '.join(each.name for each in shown)})", shown
