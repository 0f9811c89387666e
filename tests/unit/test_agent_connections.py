"""How the host agent counts: what is new, what it tells of it, how long it waits, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from novanet_apps.host_agent import connections
from novanet_apps.host_agent.connections import IDLE, LARGEST_PART, LOOK_AGAIN, Connections, Counted
from novanet_apps.host_agent.conntrack import ConntrackError, Tracked
from topology.loads import BEAT
from topology.model import Load

A, B = 7, 8
"""Members of the pools p and q."""


class Zones:
    """Connection tracking by zone; ``cost`` is the seconds that reading one takes."""

    def __init__(self, clock: SimpleNamespace, cost: float = 0.0) -> None:
        self.clock, self.cost = clock, cost
        self.content: dict[int | None, list[Tracked]] = {None: []}
        self.read_from: list[int | None] = []
        self.broken = ""

    def parts(self, routers: Callable[[], set[int]]) -> list[int | None]:
        if self.broken:
            raise ConntrackError(self.broken)
        return list(self.content)

    def read(self, part: int | None) -> Iterator[list[Tracked]]:
        self.read_from.append(part)
        self.clock.now += self.cost
        yield self.content[part]


class Store:
    """What the agent sees of the intent store; what it writes is there at once."""

    def __init__(self) -> None:
        self.hypervisor_id = "h"
        self.session = self
        self.connected = True
        self.keys = {A: "p", B: "q"}
        self.loads: dict[str, tuple[str, Load]] = {}
        self.transactions = 0

    def counted(self) -> dict[int, str]:
        return self.keys

    def router_zones(self) -> set[int]:
        return set()

    def transact(self, build: Any) -> None:
        operations: list[dict[str, Any]] = []
        build(SimpleNamespace(add_op=operations.append), None)
        self.transactions += 1
        for each in operations:
            if each["op"] == "insert":
                pool = each["row"]["pool_id"][1]
                self._set(pool, f"row-{pool}", each["row"])
            elif each["op"] == "update":
                row = each["where"][0][2][1]
                self._set(next(pool for pool, (id, _) in self.loads.items() if id == row), row, each["row"])
            elif each["mutations"][0][1] == "delete":
                row = each["mutations"][0][2][1][0][1]
                self.loads = {pool: held for pool, held in self.loads.items() if held[0] != row}

    def _set(self, pool: str, row: str, values: dict[str, Any]) -> None:
        counts = dict(values["connections"][1])
        load = Load(hypervisor_id="h", pool_id=pool, connections=counts, began=values["began"], beat=values["beat"])
        self.loads[pool] = row, load

    @property
    def told(self) -> dict[str, tuple[dict[int, int], int]]:
        return {pool: (load.connections, load.began) for pool, (_, load) in self.loads.items()}


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = SimpleNamespace(now=100.0)
        self.slept: list[float] = []
        monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=lambda: self.clock.now))
        monkeypatch.setattr(connections, "eventlet", SimpleNamespace(sleep=self.slept.append, spawn=None))
        self.zones, self.store = Zones(self.clock), Store()
        self.counter = self.agent()

    def agent(self) -> Connections:
        return Connections(lambda: self.store, lambda: self.zones)  # type: ignore[arg-type, return-value]

    def hold(self, *numbers: int, key: int = A, part: int | None = None) -> None:
        self.zones.content[part] = [Tracked(key, number) for number in numbers]

    def count(self) -> None:
        self.clock.now += 5
        self.counter._round()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_live_and_new_connections(world: World) -> None:
    world.hold(*range(10))
    world.count()
    assert world.store.told == {"p": ({A: 10}, 10)} and world.counter.live == 10
    world.hold(*range(5, 20))
    world.count()
    assert world.store.told == {"p": ({A: 15}, 20)}, "ten of them are new"
    world.hold()
    world.count()
    assert world.store.told == {}, "no connections, no row"


def test_marks_of_nobodys_members() -> None:
    counted = Counted({A: "p"}, None, ())
    counted.add([Tracked(A, 1), Tracked(B, 2), Tracked(1, 3)])
    assert counted.pools["p"].connections == {A: 1} and counted.seen == {1}


def test_what_is_no_news_is_not_written(world: World) -> None:
    world.hold(*range(100))
    world.count()
    world.hold(*range(4, 104))
    for _ in range(4):
        world.count()
    assert world.store.transactions == 1
    world.clock.now += BEAT
    world.count()
    assert world.store.transactions == 2 and world.store.told == {"p": ({A: 100}, 104)}
    assert world.store.loads["p"][1].beat == 2


def test_all_pools_in_one_transaction(world: World) -> None:
    world.zones.content = {1: [Tracked(A, 1)], 2: [Tracked(B, 2)]}
    world.count()
    assert world.store.transactions == 1 and set(world.store.told) == {"p", "q"}


def test_another_agent_goes_on(world: World) -> None:
    """What was told of before it came is not new; of a pool that nobody has told of, everything is."""
    world.hold(*range(30))
    world.count()
    world.counter = world.agent()
    world.zones.content = {1: [Tracked(A, n) for n in range(60)], 2: [Tracked(B, n) for n in range(100, 104)]}
    world.count()
    assert world.store.told == {"p": ({A: 60}, 30), "q": ({B: 4}, 4)}


def test_a_pool_that_goes_takes_its_row_along(world: World) -> None:
    world.hold(1, 2)
    world.count()
    world.store.keys = {}
    world.zones.read_from.clear()
    world.count()
    assert world.store.told == {} and world.zones.read_from == [], "nothing is read for nobody"


def test_counting_takes_a_part_of_the_time(world: World) -> None:
    world.zones.cost = 0.2
    world.zones.content = {1: [Tracked(A, 1)], 2: [Tracked(A, 2)]}
    world.count()
    pauses = [each for each in world.slept if each]
    assert pauses == pytest.approx([0.2 / LARGEST_PART - 0.2] * 2) and world.counter.cost == pytest.approx(0.4)


def test_idle_zones_are_read_rarely(world: World) -> None:
    world.zones.content = {1: [Tracked(A, 1)], 2: []}
    for _ in range(IDLE + 2 * LOOK_AGAIN):
        world.count()
    assert world.zones.read_from.count(1) == IDLE + 2 * LOOK_AGAIN
    assert world.zones.read_from.count(2) in (IDLE + 1, IDLE + 2)
    world.hold(5, 6, part=2)
    for _ in range(LOOK_AGAIN):
        world.count()
    assert world.store.told["p"][0] == {A: 3}


def test_what_cannot_be_counted_stays_as_it_was_told(world: World) -> None:
    world.hold(*range(10))
    world.count()
    before = world.store.loads
    world.zones.broken = "no vswitchd"
    with pytest.raises(ConntrackError):
        world.count()
    assert world.store.loads == before


def test_without_the_store_nothing_is_read(world: World) -> None:
    world.store.connected = False
    world.count()
    assert world.zones.read_from == []
