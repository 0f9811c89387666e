"""Traffic of pools' members, and slots that moved: counts go on when flows, members and switches do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from novanet_apps import balancing_counters, flow_counters
from novanet_apps.balancing_counters import BalancingCounters, Traffic
from novanet_apps.slot_counters import PoolSlots, SlotChange
from pipelines import slots
from pipelines import tables as t
from pipelines.balancing_pools import Dealt, counted_for, dealt
from pipelines.compiler import FEATURES, Compiler
from pipelines.flow import Flow
from pipelines.wire import FlowEntry
from topology import balancing, scope
from topology.changes import Change, Edit
from topology.model import Load

from .test_balancing import Balanced


class Switches(Balanced):
    """Balanced with three members m1, m2 (on h1) and m3 (on h2), a listener, and switches that count."""

    def __init__(self) -> None:
        self.tell: list[Any] = []
        self.dirtied: list[Any] = []
        super().__init__()
        self.listener("l", 80, default_pool_id="p")
        self.member("m2", "10.0.1.11", "b-4")
        self.member("m3", "10.0.1.12", "b-4")
        self.counts: dict[tuple[str, str, str], tuple[int, int]] = {}
        self.asked: list[tuple[str, int]] = []
        self.away: set[str] = set()
        self.now = 1000.0
        self.engine = SimpleNamespace(connected=lambda id: id != "h3", counted_in=self.counted_in)
        self.reconciler = SimpleNamespace(on_dirty=lambda kind, tell: self.dirtied.append(tell))
        self.store = SimpleNamespace(ready=True, on_ready=lambda call: None)
        self.counters = BalancingCounters(self, clock=lambda: self.now)  # type: ignore[arg-type]
        self.counters.slots._clock = lambda: self.now
        for pool in self.topology.all("pool"):
            self.counters.slots.look(pool)

    def subscribe(self, tell: Any) -> None:
        self.tell.append(tell)

    def apply(self, *edits: Edit) -> list[Change]:
        changes = super().apply(*edits)
        for _, (kind, id) in scope.dirty(self.topology, changes):
            for tell in self.dirtied if kind == "pool" else ():
                tell(id)
        for tell in self.tell:
            tell(changes)
        return changes

    def flows(self, hypervisor: str) -> list[Flow]:
        compiler, owners = Compiler(FEATURES), dict.fromkeys(scope.owners_on(self.topology, hypervisor))
        rules = [rule for owner in owners for rule in compiler.rules(self.topology, hypervisor, owner)]
        return [rule for rule in rules if isinstance(rule, Flow)]

    def counted_in(self, hypervisor: str, table: int, timeout: float) -> list[FlowEntry] | None:
        """As the switch has them: of a member's flows that count the same the first has all."""
        self.asked.append((hypervisor, table))
        if hypervisor in self.away:
            return None
        found, seen = [], set()
        for flow in self.flows(hypervisor):
            if flow.table == table:
                whose = counted_for(flow.key)
                count = (
                    (0, 0)
                    if whose is None or whose in seen
                    else self.counts.get((hypervisor, *self.name(whose)), (0, 0))
                )
                seen.add(whose)
                found.append(FlowEntry(flow.key, b"", *count, 1.0))
        return found

    def name(self, whose: tuple[int, str]) -> tuple[str, str]:
        return self.topology.member_keys[whose[0]], whose[1]

    def count(self, hypervisor: str, member: str, connections: int, packets: int) -> None:
        """From now on a member's flows have counted this; 100 bytes in and 300 out a packet."""
        self.counts[hypervisor, member, "connections"] = connections, 74 * connections
        self.counts[hypervisor, member, "in"] = packets, 100 * packets
        self.counts[hypervisor, member, "out"] = packets, 300 * packets

    def refresh(self) -> None:
        self.counters.flows._again = 0.0
        self.counters.refresh()

    def of(self, member: str) -> Traffic:
        self.refresh()
        return self.counters.of_member(self.topology.get("member", member))

    def of_pool(self) -> Traffic:
        self.refresh()
        return self.counters.of_pool(self.topology.get("pool", "p"))

    def slots(self, pool: str = "p") -> PoolSlots:
        for due in list(self.counters.slots._due):
            self.counters.slots._look(due)
        return self.counters.slots.of_pool(pool)


@pytest.fixture
def world() -> Switches:
    return Switches()


def traffic(connections: int, packets: int) -> Traffic:
    return Traffic(connections, packets, 100 * packets, packets, 300 * packets)


# --- traffic -----------------------------------------------------------------------------------------------------


def test_traffic_is_summed_over_hypervisors_and_members(world: Switches) -> None:
    assert world.of("m1") == Traffic()
    world.count("h1", "m1", 2, 20)
    world.count("h2", "m1", 1, 7)
    world.count("h2", "m3", 4, 4)
    assert (world.of("m1"), world.of("m2"), world.of("m3")) == (traffic(3, 27), Traffic(), traffic(4, 4))
    assert world.of_pool() == world.of_pool() == traffic(7, 31), "read twice is not counted twice"


def test_only_tables_that_count_are_read_where_load_balancers_are(world: Switches) -> None:
    world.refresh()
    tables = {t.LB_DNAT.number, t.LB_FORWARD.number, t.LB_REPLY.number, t.LB_LEAVE.number}
    assert set(world.asked) == {(hypervisor, table) for hypervisor in ("h1", "h2") for table in tables}
    world.asked.clear()
    world.counters.refresh()
    assert world.asked == [], "just now"
    for kind, id in (
        ("listener", "l"),
        *(("member", f"m{n}") for n in (1, 2, 3)),
        ("pool", "p"),
        ("load-balancer", "lb"),
    ):
        world.apply(Edit(kind, id, None))
    world.refresh()
    assert world.asked == []


def test_a_member_that_drains_and_comes_back_goes_on(world: Switches) -> None:
    world.count("h1", "m1", 5, 50)
    assert world.of("m1") == traffic(5, 50)
    world.edit("member", "m1", weight=0)
    world.counts["h1", "m1", "connections"] = 0, 0  # which is another flow when it comes back
    world.counts["h1", "m1", "in"] = 60, 6000
    assert world.of("m1") == Traffic(5, 60, 6000, 50, 15000), "draining"
    world.edit("member", "m1", weight=1)
    world.counts["h1", "m1", "connections"] = 2, 148
    assert world.of("m1") == Traffic(7, 60, 6000, 50, 15000)


def test_what_a_member_had_that_is_gone_stays_its_pools(world: Switches) -> None:
    world.count("h1", "m1", 5, 50)
    world.count("h1", "m2", 1, 10)
    assert world.of_pool() == traffic(6, 60)
    world.apply(Edit("member", "m1", None))
    assert world.of_pool() == traffic(6, 60)
    assert [labels["member_id"] for labels, _ in world.counters.connections()] == ["m2", "m3"]
    assert len(world.counters._by_key) == 1
    for member in ("m2", "m3"):
        world.apply(Edit("member", member, None))
    world.apply(Edit("pool", "p", None))
    world.refresh()
    assert not world.counters._by_pool and not world.counters._labelled


def test_switches_may_begin_anew_or_not_answer(world: Switches) -> None:
    world.count("h1", "m1", 5, 50)
    world.count("h2", "m1", 5, 50)
    assert world.of("m1") == traffic(10, 100)
    world.away = {"h1"}
    assert world.of("m1") == traffic(10, 100)
    world.away = set()
    world.count("h1", "m1", 1, 2)
    assert world.of("m1") == traffic(11, 102)


def test_metrics_of_members(world: Switches, monkeypatch: pytest.MonkeyPatch) -> None:
    world.edit("pool", "p", name="apps")
    world.edit("member", "m1", name="first")
    world.refresh()
    labels = {"pool_id": "p", "pool": "apps", "member_id": "m1", "member": "first"}
    assert world.counters.connections()[0] == (labels, 0), "a series begins at 0"
    assert world.counters.connections()[1][0]["member"] == "10.0.1.11:80"
    world.count("h1", "m1", 5, 50)
    world.refresh()
    assert world.counters.connections()[0] == (labels, 5)
    assert world.counters.bytes()[:2] == [
        ({**labels, "direction": "in"}, 5000),
        ({**labels, "direction": "out"}, 15000),
    ]
    assert {each["operating_status"]: n for each, n in world.counters.by_operating_status()} == {
        "ONLINE": 0, "NO_MONITOR": 3, "DRAINING": 0, "ERROR": 0, "OFFLINE": 0,
    }  # fmt: skip
    world.edit("member", "m1", weight=0)
    monkeypatch.setattr(balancing_counters, "STEP", 1)
    world.refresh()
    assert {each["operating_status"]: n for each, n in world.counters.by_operating_status()}["DRAINING"] == 1


def test_members_beyond_a_number_share_a_metric(world: Switches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_counters, "NAMED", 1)
    world.refresh()
    for number in (1, 2, 3):
        world.count("h1", f"m{number}", number, number)
    world.refresh()
    assert [(labels["member_id"], n) for labels, n in world.counters.connections()] == [("", 5), ("m1", 1)]
    slots_of = {labels["member_id"]: n for labels, n in world.counters.slots_by_member()}
    assert slots_of.keys() == {"", "m1"} and sum(slots_of.values()) == 1021
    world.apply(Edit("member", "m3", None))
    world.refresh()
    assert ("", 5) in [(labels["member_id"], n) for labels, n in world.counters.connections()], "it does not go back"


def test_open_connections_are_what_agents_tell_of_them(world: Switches) -> None:
    pool = world.topology.get("pool", "p")
    assert world.counters.active(pool) is None
    for hypervisor, counts in (("h1", {1: 3}), ("h2", {1: 1, 2: 5})):
        load = Load(hypervisor_id=hypervisor, pool_id="p", connections=counts, began=0, beat=1)
        world.apply(Edit("load", f"load-{hypervisor}", load))
    assert world.counters.active(pool) is None, "of another algorithm nobody counts them"
    world.edit("pool", "p", lb_algorithm="least_connections")
    pool = world.topology.get("pool", "p")
    assert world.counters.active(pool) == {1: 4, 2: 5}
    world.now += 60
    world.apply(Edit("load", "load-h1", Load(hypervisor_id="h1", pool_id="p", connections={1: 2}, began=0, beat=2)))
    world.now += 60
    assert world.counters.active(pool) == {1: 2}, "h2's agent has not told anything for too long"
    world.apply(Edit("load", "load-h1", None))
    assert world.counters.active(pool) == {}


# --- slots -------------------------------------------------------------------------------------------------------


def table(world: Switches) -> Dealt:
    pool = balancing.pool(world.topology, "p")
    found = dealt(pool) if pool is not None else None
    assert found is not None
    return found


def test_what_moves_is_what_tables_say(world: Switches) -> None:
    assert world.slots().last is None and world.slots().moved == 0, "what was there when it began has not moved"
    assert sum(world.slots().by_member.values()) == 1021
    total = 0
    for fields in ({"weight": 3}, {"admin_state_up": False}, {"admin_state_up": True, "weight": 1}):
        before = table(world)
        world.now += 1
        world.edit("member", "m1", **fields)
        after = table(world)
        moves = slots.moves(before.slots, before.names, after.slots, after.names)
        total += moves.moved
        assert (
            world.slots().last == SlotChange(world.now, moves.moved, moves.needed, 1021)
            and 0 < moves.needed <= moves.moved
        )
        assert world.slots().moved == total
    assert world.counters.slots_moved() == [({"pool_id": "p", "pool": ""}, total)]
    last = world.slots().last
    world.edit("member", "m1", name="other", health_detail="?")
    world.edit("pool", "p", drain_timeout=7)
    world.unplug("a1"), world.plug("a1", "h2")
    assert world.slots().last == last, "nothing has moved"
    world.edit("pool", "p", table_size=509)
    assert world.slots().last == SlotChange(world.now, 509, 509, 509), "another size moves all"


def test_while_nobody_serves_nothing_moves(world: Switches) -> None:
    before = table(world)
    for member in ("m1", "m2", "m3"):
        world.edit("member", member, admin_state_up=False)
    moved = world.slots().moved
    assert world.slots().by_member == {}
    for member in ("m1", "m2", "m3"):
        world.edit("member", member, admin_state_up=True)
    assert world.slots().moved - moved == 0, "all at once are one change"
    assert sum(world.slots().by_member.values()) == 1021
    assert slots.moves(before.slots, before.names, table(world).slots, table(world).names).moved == 0


def test_slots_of_pools_that_are_gone_are_forgotten(world: Switches) -> None:
    world.edit("member", "m1", weight=3)
    assert world.slots().moved
    for kind, id in (("listener", "l"), *(("member", f"m{n}") for n in (1, 2, 3)), ("pool", "p")):
        world.apply(Edit(kind, id, None))
    assert world.slots() == PoolSlots() and world.counters.slots_moved() == []
    assert not world.counters.slots._pools and not world.counters.slots._due


def test_before_the_intent_is_known_nothing_moves(world: Switches) -> None:
    world.store.ready = False
    world.edit("member", "m1", weight=3)
    assert not world.counters.slots._due
