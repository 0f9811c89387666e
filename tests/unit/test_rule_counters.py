"""Packets and bytes by rule: flows say whose they are, and counts go on when flows and switches do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from novanet_apps import flow_counters
from novanet_apps.flow_counters import Count
from novanet_apps.rule_counters import RuleCounters
from pipelines import fields as f
from pipelines import tables as t
from pipelines.compiler import Compiler
from pipelines.flow import Flow, Meter, conjunction, match, set_field
from pipelines.punting import LOG_BURST, LOG_METERS, LOG_RATE
from pipelines.rulesets import decided_by
from pipelines.wire import VERSIONS, FlowEntry
from pipelines.wire.flows import encode_flow

from .world import World

TABLES = (t.INGRESS_POLICY.number, t.EGRESS_POLICY.number)


class Guarded(World):
    """a and b on h1, c on h2; a and c are members of g, which has a rule of one flow a member, and a conjunctive one."""

    def __init__(self) -> None:
        super().__init__()
        self.network("n", 1)
        for port, where in (("a", "h1"), ("b", "h1"), ("c", "h2")):
            self.port(port, "n", on=where)
        self.group("g", "a", "c")
        self.rule("g", id="plain")
        self.rule("g", "egress", id="conjunctive", remote_group_id="g")

    def flows(self, hypervisor: str = "h1") -> list[Flow]:
        rules = Compiler().rules(self.topology, hypervisor, ("policy", hypervisor))
        return [rule for rule in rules if isinstance(rule, Flow)]

    def key(self, rule: str) -> int:
        return self.topology.get("security-group-rule", rule).rule_key


# --- flows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_flows_say_which_rule_they_decide_for(version: int) -> None:
    world = Guarded()
    world.rule("g", id="logged", log=True, revoke=False, protocol="udp")
    world.group("admins", "b", tier="admin", selector=None)
    world.rule("admins", id="denied", action="deny", log=True)
    found: dict[int | None, set[bool]] = {}
    for flow in world.flows():
        if flow.table in TABLES:
            clause = any(isinstance(action, bytes) and action[:10] == CLAUSE for action in flow.actions)
            found.setdefault(decided_by(encode_flow(flow, version, 0)[1]), set()).add(clause)
    rules = {world.key(rule) for rule in ("plain", "conjunctive", "logged", "denied")}
    assert found.keys() == {None, *rules}
    assert not any(any(found[key]) for key in rules), "clauses of conjunctive matches decide nothing"


CLAUSE = conjunction(1, 1, 2)[:10]


def test_rules_of_one_flow_share_it_with_the_first() -> None:
    world = Guarded()
    world.group("other", "a")
    for number in range(3):
        world.rule("other", id=f"again{number}")
    bodies = {flow.key: encode_flow(flow, 4, 0)[1] for flow in world.flows() if flow.table == t.INGRESS_POLICY.number}
    assert {decided_by(body) for body in bodies.values()} == {world.key("plain")}
    world.rule("other", id="tells", log=True)
    before = [flow.priority for flow in world.flows() if decided_by(encode_flow(flow, 4, 0)[1]) == world.key("plain")]
    tells = [flow.priority for flow in world.flows() if decided_by(encode_flow(flow, 4, 0)[1]) == world.key("tells")]
    assert min(tells) > max(before), "what a rule logs, it decides before others that say the same"


@pytest.mark.parametrize("action", ["allow", "deny"])
def test_what_a_logging_rule_sends_to_the_log(action: str) -> None:
    world = Guarded()
    world.group("admins", "a", tier="admin", priority=5)
    world.rule("admins", id="r", action=action, log=True)
    key, rules = world.key("r"), Compiler().rules(world.topology, "h1", ("policy", "h1"))
    meter = LOG_METERS | key
    assert Meter(meter, LOG_RATE, LOG_BURST, packets=True) in rules
    [to_log] = [rule for rule in rules if isinstance(rule, Flow) and rule.table == t.POLICY_LOG.number]
    assert (to_log.match, to_log.meter) == (match(f.RULE(key | f.LOGS.mask)), meter)
    [decides] = [flow for flow in world.flows() if set_field(f.RULE, key | f.LOGS.mask) in flow.actions]
    assert decides.goto == (t.POLICY_DONE if action == "allow" else t.POLICY_LOG).number
    world.edit("security-group-rule", "r", log=False)
    rules = Compiler().rules(world.topology, "h1", ("policy", "h1"))
    assert not any(isinstance(rule, Meter) or rule.table == t.POLICY_LOG.number for rule in rules)  # type: ignore[union-attr]


# --- counting --------------------------------------------------------------------------------------------------------


class Switches(Guarded):
    """Guarded, with switches that count."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, dict[bytes, Count]] = {"h1": {}, "h2": {}}
        self.asked = 0
        self.away: set[str] = set()
        self.engine = SimpleNamespace(connected=lambda id: id in self.counts, counted=self.counted)
        self.counters = RuleCounters(self)  # type: ignore[arg-type]

    def counted(self, hypervisor: str, owner: tuple[str, str], timeout: float) -> list[FlowEntry] | None:
        assert owner == ("policy", hypervisor)
        self.asked += 1
        if hypervisor in self.away:
            return None
        found = []
        for flow in self.flows(hypervisor):
            key, body = encode_flow(flow, 4, 0)
            found.append(FlowEntry(key, body, *self.counts[hypervisor].get(key, Count()), 1.0))
        return found

    def count(self, hypervisor: str, rule: str, packets: int) -> None:
        """From now on the first flow of a rule has counted this."""
        for flow in self.flows(hypervisor):
            key, body = encode_flow(flow, 4, 0)
            if decided_by(body) == self.key(rule):
                self.counts[hypervisor][key] = Count(packets, 100 * packets)
                return
        raise AssertionError(f"{rule} has no flow on {hypervisor}")

    def packets(self, rule: str) -> int:
        self.counters.flows._again = 0.0
        self.counters.refresh()
        count = self.counters.of_rule(self.topology.get("security-group-rule", rule))
        assert count.bytes == 100 * count.packets
        return count.packets


@pytest.fixture
def world() -> Switches:
    return Switches()


def test_counts_are_summed_over_hypervisors(world: Switches) -> None:
    assert world.packets("plain") == 0
    world.count("h1", "plain", 5)
    world.count("h2", "plain", 7)
    world.count("h1", "conjunctive", 1)
    assert (world.packets("plain"), world.packets("conjunctive")) == (12, 1)
    assert world.packets("plain") == 12, "read twice is not counted twice"
    world.count("h1", "plain", 6)
    assert world.packets("plain") == 13


def test_counts_go_on_when_flows_change(world: Switches) -> None:
    world.count("h1", "plain", 5)
    assert world.packets("plain") == 5
    world.counts["h1"].clear()
    world.regroup("b", security_groups=("g",), labels={"x": "y"})  # another identity: other flows, or more
    assert world.packets("plain") == 5
    world.count("h1", "plain", 2)
    assert world.packets("plain") == 7


def test_counts_go_on_when_a_switch_begins_anew_or_does_not_answer(world: Switches) -> None:
    world.count("h1", "plain", 5)
    world.count("h2", "plain", 5)
    assert world.packets("plain") == 10
    world.away = {"h1"}
    assert world.packets("plain") == 10
    world.away = set()
    assert world.packets("plain") == 10, "what was not heard was not lost"
    world.count("h1", "plain", 2)
    assert world.packets("plain") == 12


def test_what_is_gone_is_not_counted(world: Switches) -> None:
    world.count("h1", "plain", 5)
    assert world.packets("plain") == 5
    key = world.key("plain")
    series = {tuple(labels.values()): n for labels, n in world.counters.series("packets")}
    assert series == {("g", "", "ingress", "allow"): 5}
    world.edit("security-group-rule", "plain", rule_key=None)
    world.counters.flows._again = 0.0
    world.counters.refresh()
    assert key not in world.counters._by_key
    assert {n for _, n in world.counters.series("bytes")} == {500}, "the metric of a group does not go back"


def test_groups_beyond_a_number_share_a_metric(world: Switches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_counters, "NAMED", 1)
    world.count("h1", "plain", 5)
    world.packets("plain")
    for group in ("x", "y"):
        world.group(group, "a")
        world.rule(group, id=f"of {group}", protocol="udp", port_range_min=1, port_range_max=len(group + "x"))
    world.edit("security-group", "g", name="first")
    world.rule("y", id="sctp", protocol="sctp")
    for rule in ("of x", "sctp"):
        world.count("h1", rule, 1)
        world.packets(rule)
    series: dict[Any, int] = {tuple(labels.values()): n for labels, n in world.counters.series("packets")}
    assert series == {("g", "first", "ingress", "allow"): 5, ("", "", "ingress", "allow"): 2}


def test_switches_are_not_asked_more_often_than_needed(world: Switches) -> None:
    world.counters.refresh()
    assert world.asked == 2, "h3 has no members"
    world.counters.refresh()
    assert world.asked == 2
