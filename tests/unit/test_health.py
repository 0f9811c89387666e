"""Health checks: who is checked where, how the switch leads checks to members and back, and what changes make dirty."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import fields as f
from pipelines import tables as t
from pipelines.compiler import HEALTH, Compiler
from pipelines.flow import Flow
from topology import balancing, health, scope
from topology.changes import Edit
from topology.model import HealthMonitor, Member

from .test_balancing import Balanced
from .test_balancing_scope import BalancingEditor
from .test_scope import Follower, everything, replace, routed_world


class Checked(Balanced):
    """The pool is checked by TCP."""

    def __init__(self, type: str = "TCP", **fields: object) -> None:
        super().__init__()
        self.apply(Edit("health-monitor", "hm", HealthMonitor(id="hm", pool_id="p", type=type, **fields)))
        self.agent("h1", 7)

    def agent(self, hypervisor: str, ofport: int | None) -> list:
        bridge = self.topology.get("bridge", hypervisor)
        return self.apply(Edit("bridge", hypervisor, replace(bridge, agent_ofport=ofport)))

    def rules(self, member: str = "m1", hypervisor: str = "h1") -> list[Flow]:
        rules = Compiler((HEALTH,)).compile(self.topology, hypervisor, ("member", member))
        for rule in rules:
            t.check(rule)
        return rules


@given(st.integers(0, 2**32 - 1), st.sampled_from([4, 6]))
def test_addresses_stand_for_numbers(key: int, version: int) -> None:
    ends = health.endpoints(version, key)
    assert health.number(version, ends.source, ends.target) == key
    if version == 4:
        assert health.SOURCES4 <= ends.source < health.SOURCES4 + 256 and ends.source != health.CANARY
        assert health.TARGETS4 >> 24 == ends.target >> 24


def test_a_member_is_checked_where_its_vm_is() -> None:
    world = Checked()
    assert [flow.table for flow in world.rules()] == [t.HEALTH.number, t.SERVICES.number, t.SERVICES.number]
    assert world.rules(hypervisor="h2") == []
    world.plug("a1", "h2")
    assert world.rules() == [] and len(world.rules(hypervisor="h2")) == 3
    world.unplug("a1")
    assert world.rules(hypervisor="h2") == []


@pytest.mark.parametrize(
    ("kind", "id", "fields"),
    [
        ("member", "m1", {"admin_state_up": False}), ("pool", "p", {"admin_state_up": False}),
        ("health-monitor", "hm", {"admin_state_up": False}), ("network", "a", {"admin_state_up": False}),
        ("port", "a1", {"admin_state_up": False}), ("member", "m1", {"protocol_port": None}),
    ],
)  # fmt: skip
def test_who_is_not_checked(kind: str, id: str, fields: dict) -> None:
    world = Checked()
    world.edit(kind, id, **fields)
    assert world.rules() == []


def test_checks_come_from_the_load_balancer_and_go_to_the_port_to_be_checked() -> None:
    world = Checked()
    world.edit("member", "m1", monitor_port=8080)
    check = health.check_at(world.topology, "h1", "m1")
    assert (check.seen_from, check.address, check.port, check.source_port) == ("10.0.0.100", "10.0.0.11", 8080, 384)
    assert (check.mode, check.port_id, check.vni) == ("tcp", "a1", 1)


def test_a_member_finds_the_load_balancer_on_its_link() -> None:
    """Itself, without the load balancer's own flows; one behind a router has no use for that."""
    world = Checked()
    (answer,) = [flow for flow in world.rules() if f.ARP_TPA(f.ip("10.0.0.100")) in flow.match]
    assert f.IN_PORT_KEY(world.key("a1")) in answer.match
    assert any(bytes.fromhex("020000009901") in action for action in answer.actions if isinstance(action, bytes))
    world.member("m2", "10.0.1.11", "b-4")
    assert len(world.rules("m2")) == 2


def test_members_with_one_address_are_told_apart() -> None:
    """Also those of several pools of a load balancer with the same port."""
    world = Checked()
    world.pool("q")
    world.apply(Edit("health-monitor", "hq", HealthMonitor(id="hq", pool_id="q", type="TCP")))
    world.member("m0", "10.0.0.11", "a-4", pool_id="q", member_key=99)
    world.member("m2", "10.0.0.11", "a-4", protocol_port=81, member_key=5)
    ports = [health.check_at(world.topology, "h1", id).source_port for id in ("m1", "m2", "m0")]
    assert ports == [384, 385, 386]
    matches = [flow.key for id in ("m1", "m2", "m0") for flow in world.rules(id) if f.ETH_TYPE(f.IPV4) in flow.match]
    assert len(set(matches)) == len(matches) == 6


def test_no_more_members_of_an_address_are_checked_than_there_are_ports() -> None:
    world = Checked()
    for number in range(2, health.PORTS + 2):
        world.member(f"m{number}", "10.0.0.11", "a-4", protocol_port=1000 + number, member_key=number)
    assert world.rules(f"m{health.PORTS}") and world.rules(f"m{health.PORTS + 1}") == []


@pytest.mark.parametrize(("type", "count"), [("TCP", 3), ("HTTP", 3), ("HTTPS", 3), ("UDP-CONNECT", 4), ("PING", 3)])
def test_flows_of_a_member(type: str, count: int) -> None:
    assert len(Checked(type).rules()) == count


def test_without_an_agent_nothing_is_said_of_its_port() -> None:
    world = Checked()
    compiler = Compiler((HEALTH,))
    entrance = [flow for flow in compiler.compile(world.topology, "h1", ("base", "h1")) if flow.priority]
    for flow in entrance:
        t.check(flow)
    assert {flow.table for flow in entrance} == {t.CLASSIFY.number, t.HEALTH.number, t.LOCAL_OUTPUT.number}
    assert ("h1", ("base", "h1")) in set(scope.dirty(world.topology, world.agent("h1", None)))
    assert not [flow for flow in compiler.compile(world.topology, "h1", ("base", "h1")) if flow.priority]


# --- what changes make dirty -------------------------------------------------------------------------------------


class HealthEditor(BalancingEditor):
    """Members share addresses, and are checked at other ports."""

    def address(self, network: str, version: int = 4) -> str | None:
        """One that is nobody's: so the store has it."""
        found = [super(HealthEditor, self).address(network, version) for _ in range(20)]
        return next(
            (text for text in found if text and (f"{network}-{version}", text) not in self.topology.addresses), None
        )

    def change_checked(self) -> list:
        """A port of a pool's realm that is plugged becomes a member, and the pool is checked."""
        pool = self.pick("pool", lambda each: each.admin_state_up)
        if pool is None:
            return []
        found = balancing.reachable(
            self.topology, self.topology.get("load-balancer", self.topology.get("pool", pool).loadbalancer_id)
        )
        port = self.pick(
            "port", lambda each: each.network_id in found and each.router_id is None and bool(each.fixed_ips)
        )
        if port is None:
            return []
        fixed = self.topology.get("port", port).fixed_ips[0]
        made = Member(
            id=f"m{self.number}", pool_id=pool, address=fixed.ip_address, subnet_id=fixed.subnet_id, member_key=self.number,
            protocol_port=self.rng.randrange(1, 5),
        )  # fmt: skip
        edits = [Edit("member", made.id, made)]
        if not self.topology.monitors_of(pool):
            type = self.rng.choice(["PING", "TCP"])
            edits.append(
                Edit("health-monitor", f"h{self.number}", HealthMonitor(id=f"h{self.number}", pool_id=pool, type=type))
            )
        return self.world.apply(*edits)

    change_more_checked = change_one_more_checked = change_checked

    def change_port_of_member(self) -> list:
        return self.put("member", self.pick("member"), monitor_port=self.rng.randrange(1, 5))

    def change_agent(self) -> list:
        return self.put("bridge", self.pick("bridge"), agent_ofport=self.rng.choice([None, 7, 8]))


def follow(seed: int) -> int:
    """In how many of 200 steps somebody was checked."""
    rng = random.Random(f"health {seed}")
    world = routed_world()
    editor, follower = HealthEditor(world, rng), Follower(world, (HEALTH,))
    checked = 0
    for number in range(200):
        changes = [change for _ in range(rng.choice([1, 1, 1, 2, 5])) for change in editor.edit()]
        follower.follow(changes)
        now = everything(world, (HEALTH,))
        checked += any(kind == "member" for _, (kind, _) in now)
        for key in follower.state.keys() | now.keys():
            assert follower.state.get(key) == now.get(key), f"{key} after step {number} of {seed}: {changes}"
    return checked


def test_following_changes_leads_where_compiling_everything_leads() -> None:
    assert sum(follow(seed) for seed in range(30)) > 500, "there was something to follow"


def test_a_state_of_health_compiles_no_check() -> None:
    world = Checked()
    dirty = set(scope.dirty(world.topology, world.edit("member", "m1", health="down", health_detail="timed out")))
    assert dirty and all(kind != "member" for _, (kind, _) in dirty)


def test_a_check_is_nobody_elses() -> None:
    """What the flows for answers match is of one port, from the member's address, to the load balancer's."""
    _, flow = [flow for flow in Checked().rules() if flow.table == t.SERVICES.number]
    for tlv in (f.IN_PORT_KEY(Checked().key("a1")), f.IPV4_SRC(f.ip("10.0.0.11")), f.IPV4_DST(f.ip("10.0.0.100"))):
        assert tlv in flow.match
    assert f.TCP_SRC(80) in flow.match and f.TCP_DST(384) in flow.match
