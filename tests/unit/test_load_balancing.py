"""What the compilers make of load balancers: declared tables only, every slot somebody's, and nothing where there is none."""

from __future__ import annotations

import pytest

from pipelines import fields as f
from pipelines import slots
from pipelines import tables as t
from pipelines.balancing_pools import counted_for, dealt, slot_match, table_number
from pipelines.compiler import BALANCING, FEATURES, Compiler
from pipelines.flow import Flow, match
from topology import balancing, scope
from topology.balancing import BackendPool

from .test_balancing import Balanced


@pytest.fixture
def world() -> Balanced:
    world = Balanced()
    world.listener("l", 80, default_pool_id="p")
    world.member("m2", "10.1.0.11", "b-4")
    return world


def flows(world: Balanced, hypervisor: str, features=FEATURES) -> list[Flow]:
    compiler = Compiler(features)
    rules = [
        rule
        for owner in dict.fromkeys(scope.owners_on(world.topology, hypervisor))
        for rule in compiler.compile(world.topology, hypervisor, owner)
    ]
    return [rule for rule in rules if isinstance(rule, Flow)]


def of(table: t.Table, found: list[Flow]) -> list[Flow]:
    return [flow for flow in found if flow.table == table.number and flow.priority != t.MISS]


def pool(world: Balanced) -> BackendPool:
    found = balancing.pool(world.topology, "p")
    assert found is not None
    return found


def test_every_flow_is_as_its_table_declares_and_none_contradicts_another(world: Balanced) -> None:
    for hypervisor in ("h1", "h2"):
        seen: dict[tuple[int, int, bytes], Flow] = {}
        for flow in flows(world, hypervisor):
            t.check(flow)
            assert seen.setdefault((flow.table, flow.priority, flow.match), flow) == flow


def test_every_slot_is_somebodys_and_only_one_members(world: Balanced) -> None:
    found = {flow.match: flow.actions for flow in of(t.LB_SELECT, flows(world, "h1")) if flow.goto == t.LB_DNAT.number}
    table, members = dealt(pool(world)), pool(world).dealt
    assert table is not None and len(table.slots) == pool(world).size
    number = f.TABLE(table_number(pool(world).key, pool(world).algorithm))
    for slot, member in enumerate(table.slots):
        covering = [
            actions
            for bits in range(17)
            if (
                actions := found.get(
                    match(number, slot_match(pool(world).size, slot & 0xFFFF >> bits << bits, 0xFFFF >> bits << bits))
                )
            )
            is not None
        ]
        assert len(covering) == 1 and f.MEMBER(members[member].key) in covering[0][0]


def test_all_hypervisors_have_the_same_slots(world: Balanced) -> None:
    one, other = (set(of(t.LB_SELECT, flows(world, hypervisor))) for hypervisor in ("h1", "h2"))
    assert one == other != set()


def test_a_draining_member_keeps_its_connections_and_gets_no_more(world: Balanced) -> None:
    before = flows(world, "h1")
    world.edit("member", "m1", weight=0)
    after = flows(world, "h1")
    assert len(of(t.LB_DNAT, after)) == len(of(t.LB_DNAT, before)) - 1
    assert of(t.LB_FORWARD, after) == of(t.LB_FORWARD, before)
    world.edit("member", "m1", drain_until=0)
    assert len(of(t.LB_FORWARD, flows(world, "h1"))) < len(of(t.LB_FORWARD, before))


def test_a_pool_without_anyone_to_serve_refuses(world: Balanced) -> None:
    refusing = len(of(t.LB_STATE, flows(world, "h1"))) - 4  # the listener's two, and those of fragments
    for member in ("m1", "m2"):
        world.edit("member", member, admin_state_up=False)
    assert len(of(t.LB_STATE, flows(world, "h1"))) == refusing


def test_switches_without_load_balancers_track_no_connections_for_them() -> None:
    world = Balanced()
    world.edit("load-balancer", "lb", admin_state_up=False)
    ways_in = [
        flow
        for flow in flows(world, "h1")
        if t.BY_NAME["lb_vip"].number == flow.goto or of(t.LB_VIP, [flow]) or f.BALANCER(7) in flow.match
    ]
    assert ways_in == []
    assert [flow.match for flow in of(t.LB_RETURN, flows(world, "h1"))] == [f.BALANCED(1)]


def test_tables_of_another_size_or_algorithm_are_told_apart() -> None:
    kinds = [
        (table_number(7, algorithm), slot_match(size, 5, 0xFFFF))
        for algorithm in slots.ALGORITHMS
        for size in (1021, 1427, 65521)
    ]
    assert len(set(kinds)) == len(kinds) and all(number >> 8 == 7 for number, _ in kinds)


def test_without_the_feature_there_is_nothing_but_the_ways_past_it(world: Balanced) -> None:
    features = [feature for feature in FEATURES if feature is not BALANCING]
    names = {t.PIPELINE[flow.table].name for flow in flows(world, "h1", features) if flow.priority != t.MISS}
    assert not {name for name in names if name.startswith("lb_")}


def test_flows_tell_what_they_count_for_whom(world: Balanced) -> None:
    counted = {found for flow in flows(world, "h1") if (found := counted_for(flow.key)) is not None}
    keys = {member.key for member in pool(world).kept}
    assert counted == {(key, what) for key in keys for what in ("connections", "in", "out")}
