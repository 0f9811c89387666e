"""Clients that stay with their member: what switches are told to learn, where, and for how long."""

from __future__ import annotations

import pytest

from pipelines import fields as f
from pipelines import tables as t
from pipelines.balancing import SERVICE
from pipelines.balancing_affinity import ASK, MOST, remember
from pipelines.cookies import APP, EPOCH, LEARNED, learned_cookie
from pipelines.flow import Flow, Learned, learn, multipath
from pipelines.routers import V4, V6
from topology.model import SessionPersistence

from .test_balancing import Balanced
from .test_load_balancing import flows, of, pool

STAYS = SessionPersistence(type="SOURCE_IP", persistence_timeout=60)
LEARN2 = bytes.fromhex("00002320002d")


@pytest.fixture
def world() -> Balanced:
    """Members m1 and m2 on h1, m3 on h2; clients stay."""
    world = Balanced()
    world.listener("l", 80, default_pool_id="p")
    world.member("m2", "10.0.1.11", "b-4")
    world.member("m3", "10.0.1.12", "b-4")
    world.edit("pool", "p", session_persistence=STAYS)
    assert len(pool(world).dealt) == 3
    return world


def learners(world: Balanced, hypervisor: str = "h1") -> dict[bytes, Flow]:
    """By match: the flows that have the switch learn."""
    found = flows(world, hypervisor)
    return {flow.match: flow for flow in found if any(action[4:10] == LEARN2 for action in flow.actions)}


def asking(world: Balanced) -> list[Flow]:
    return [flow for flow in flows(world, "h1") if ASK in flow.actions]


def test_only_where_clients_are_to_stay_is_anything_learned_or_looked_for(world: Balanced) -> None:
    assert len(learners(world)) == 3 and {flow.table for flow in learners(world).values()} == {t.LB_DNAT.number}
    assert {flow.table for flow in asking(world)} == {t.LB_STATE.number}
    world.edit("pool", "p", session_persistence=None)
    assert not learners(world) and not asking(world)


def test_the_first_connection_is_hashed_by_addresses_alone(world: Balanced) -> None:
    def hashes(fields: str) -> bool:
        by = multipath(f.Bits(f.SLOT, 0, 16), pool(world).size, fields=fields, basis=pool(world).key & 0xFFFF)
        dealing = [flow for flow in of(t.LB_STATE, flows(world, "h1")) if flow.priority == SERVICE]
        return bool(dealing) and all(by in flow.actions for flow in dealing)

    assert hashes("symmetric_l3") and not hashes("symmetric_l3l4+udp")
    world.edit("pool", "p", session_persistence=None)
    assert hashes("symmetric_l3l4+udp")


def test_all_hypervisors_learn_alike(world: Balanced) -> None:
    assert learners(world, "h1") == learners(world, "h2") != {}


def test_a_change_of_one_member_leaves_what_was_learned_of_the_others(world: Balanced) -> None:
    """Open vSwitch deletes what was learned when no flow learns with its cookie any more."""
    before = learners(world)
    key = pool(world).dealt[0].key
    [gone] = [match for match in before if f.MEMBER(key) in match]
    world.edit("member", pool(world).dealt[0].member_id, weight=0)
    assert learners(world) == {match: flow for match, flow in before.items() if match != gone}
    world.edit("pool", "p", table_size=509, lb_algorithm="round_robin")
    assert learners(world).items() <= before.items(), "not even another table of slots changes them"


@pytest.mark.parametrize("family", [V4, V6], ids=["IPv4", "IPv6"])
def test_what_is_learned(world: Balanced, family) -> None:
    member = pool(world).dealt[0]
    source = f.IPV4_SRC if family is V4 else f.IPV6_SRC
    matches = Learned(f.ETH_TYPE, family.ethertype), Learned(f.POOL, f.POOL), Learned(source, source)
    sets = Learned(f.MEMBER, member.key, loads=True), Learned(f.PINNED, 1, loads=True)
    assert remember(member, family, 60) == learn(
        t.LB_AFFINITY.number, (*matches, *sets), priority=100, cookie=learned_cookie(member.key), idle_timeout=60,
        limit=MOST, ends_with_flow=True,
    )  # fmt: skip
    assert 0 < MOST <= 4096, "Open vSwitch goes through all of them whenever it learns"


def test_a_pools_timeout_is_that_of_what_it_learns(world: Balanced) -> None:
    world.edit("pool", "p", session_persistence=SessionPersistence(type="SOURCE_IP", persistence_timeout=7))
    for member in pool(world).dealt:
        assert any(remember(member, V4, 7) in flow.actions for flow in learners(world).values())


def test_cookies_of_learned_flows_are_never_an_owners() -> None:
    assert LEARNED != APP
    assert learned_cookie(0xFFFFFFFF) == LEARNED << 56 | EPOCH << 48 | 0xFFFFFFFF


def test_source_and_target_are_of_one_width() -> None:
    with pytest.raises(ValueError, match="differ in width"):
        learn(1, (Learned(f.IPV4_SRC, f.IPV6_SRC),), priority=1, cookie=1)
