"""Slot weights follow what agents tell: no oftener than they should, no longer than somebody tells it, and alike on every controller."""

from __future__ import annotations

from typing import Any

import pytest

from novanet_apps.balancing_weights import INTERVAL, SlotWeights
from topology.changes import Edit
from topology.loads import LIFETIME
from topology.model import Load
from topology.relief import UNIT

from .test_balancing import Balanced


class Store:
    """Records at once what it is told, as the store's feed would."""

    def __init__(self, core: Core) -> None:
        self.core, self.ready = core, False
        self.recorded: list[tuple[str, Any]] = []
        self._waiting: list[Any] = []

    def on_ready(self, callback: Any) -> None:
        self._waiting.append(callback)

    def record(self, kind: str, id: str, **fields: Any) -> None:
        assert kind == "member" and fields.keys() == {"slot_weight"}
        self.recorded.append((id, fields["slot_weight"]))
        self.core.later.append((id, fields))

    def become_ready(self) -> None:
        self.ready = True
        for callback in self._waiting:
            callback()


class Core:
    """A pool by least connections with the members m1 (key 1) and m2 (key 2), and controllers that share a store."""

    def __init__(self) -> None:
        self.world = Balanced()
        self.topology = self.world.topology
        self.world.member("m2", "10.0.1.11", "b-4")
        self.world.edit("pool", "p", lb_algorithm="least_connections")
        self._tell: list[Any] = []
        self.later: list[Any] = []
        self.store = Store(self)
        self.now = 1000.0

    def subscribe(self, tell: Any) -> None:
        self._tell.append(tell)

    def apply(self, changes: Any) -> None:
        for tell in self._tell:
            tell(changes)

    def load(
        self, row: str, connections: dict[int, int] | None, began: int = 0, beat: int = 0, pool: str = "p"
    ) -> None:
        value = None
        if connections is not None:
            value = Load(hypervisor_id="h1", pool_id=pool, connections=connections, began=began, beat=beat)
        self.apply(self.world.apply(Edit("load", row, value)))

    def edit(self, kind: str, id: str, **fields: Any) -> None:
        self.apply(self.world.edit(kind, id, **fields))

    def pass_on(self) -> None:
        later, self.later = self.later, []
        for id, fields in later:
            self.edit("member", id, **fields)

    @property
    def weights(self) -> list[int | None]:
        return [self.topology.get("member", id).slot_weight for id in ("m1", "m2")]


class Controller(SlotWeights):
    """One whose greenlet is the test."""

    def _begin(self) -> None:
        self._due.update(self.core.topology.all("pool"))


@pytest.fixture
def core() -> Core:
    return Core()


def start(core: Core) -> Controller:
    made = Controller(core, lambda: core.now)  # type: ignore[arg-type]
    core.store.become_ready()
    return made


def look(core: Core, *controllers: Controller) -> None:
    core.now += INTERVAL
    for each in controllers:
        each.look()
    core.pass_on()


def test_the_member_with_more_gets_less(core: Core) -> None:
    weights = start(core)
    core.load("a", {1: 60}, began=60)
    core.load("b", {1: 20, 2: 20}, began=40)
    look(core, weights)
    one, two = core.weights
    assert one < UNIT < two and weights.changes == 1
    look(core, weights)
    assert core.weights == [one, two] and weights.changes == 1, "nothing is new"


def test_weights_of_members_count(core: Core) -> None:
    core.world.edit("member", "m1", weight=3)
    weights = start(core)
    core.load("a", {1: 60, 2: 20}, began=80)
    look(core, weights)
    assert core.weights == [None, None] and core.store.recorded == []
    core.load("a", {1: 60, 2: 200}, began=260)
    look(core, weights)
    assert core.weights[0] > 3 * UNIT and core.weights[1] < UNIT


def test_only_least_connections(core: Core) -> None:
    weights = start(core)
    core.load("a", {1: 100}, began=100)
    look(core, weights)
    assert None not in core.weights
    core.edit("pool", "p", lb_algorithm="round_robin")
    look(core, weights)
    assert core.weights == [None, None]
    core.load("a", {1: 200}, began=200)
    look(core, weights)
    assert core.weights == [None, None]


def test_two_controllers_choose_the_same_and_once(core: Core) -> None:
    first, second = start(core), start(core)
    core.load("a", {1: 100, 2: 10}, began=110)
    look(core, first, second)
    recorded = core.store.recorded
    assert recorded[:2] == recorded[2:], "both had the same to say"
    core.load("a", {1: 200, 2: 20}, began=220)
    look(core, first)
    count = len(core.store.recorded)
    look(core, second)
    assert len(core.store.recorded) == count, "the second finds that nothing is left to do"


def test_another_controller_goes_on(core: Core) -> None:
    """What was there when it came is not new: it does not take the same step twice."""
    first = start(core)
    core.load("a", {1: 100}, began=100)
    look(core, first)
    before = core.weights
    second = Controller(core, lambda: core.now)  # type: ignore[arg-type]
    second._begin()
    core.load("a", {1: 100}, began=100, beat=1)
    look(core, second)
    assert core.weights == before


def test_what_is_in_the_store_at_first_is_not_new(core: Core) -> None:
    weights = Controller(core, lambda: core.now)  # type: ignore[arg-type]
    core.load("a", {1: 100}, began=100)
    core.store.become_ready()
    look(core, weights)
    assert core.weights == [None, None]
    core.load("a", {1: 120}, began=200)
    look(core, weights)
    assert core.weights[0] < UNIT


def test_an_agent_that_is_gone_counts_no_more(core: Core) -> None:
    weights = start(core)
    core.load("gone", {1: 50}, began=50)
    core.load("stays", {2: 50}, began=50)
    look(core, weights)
    assert core.weights == [None, None], "both have as many"
    core.now += LIFETIME / 2
    core.load("stays", {2: 50}, began=50, beat=1)
    core.now += LIFETIME / 2
    core.load("stays", {2: 55}, began=70, beat=2)
    look(core, weights)
    assert core.weights[1] < UNIT < core.weights[0], "only those of the second are left"
    core.load("gone", {1: 50}, began=50, beat=1)
    core.load("stays", {2: 50}, began=80, beat=3)
    before = core.weights
    look(core, weights)
    assert core.weights[0] <= before[0], "it is back"


def test_expiry_needs_no_change(core: Core) -> None:
    weights = start(core)
    core.load("a", {1: 50}, began=50)
    look(core, weights)
    core.now += LIFETIME + 1
    weights.look()
    core.load("a", None)
    look(core, weights)
    assert weights._loads == {}


def test_a_hypervisor_that_is_deleted(core: Core) -> None:
    weights = start(core)
    core.load("a", {1: 50}, began=50)
    core.load("a", None)
    look(core, weights)
    assert core.weights == [None, None]


def test_a_member_that_does_not_serve_begins_anew(core: Core) -> None:
    weights = start(core)
    core.load("a", {1: 100}, began=100)
    look(core, weights)
    core.edit("member", "m1", weight=0)
    look(core, weights)
    assert core.weights[0] is None


def test_other_members_other_evidence(core: Core) -> None:
    """What was new before a member came tells nothing of how shares do with it."""
    weights = start(core)
    core.load("a", {1: 100, 2: 100}, began=100_000)
    look(core, weights)
    assert core.weights == [None, None]
    core.world.member("m3", "10.0.0.12", "a-4")
    core.apply(core.world.edit("member", "m3", weight=2))
    look(core, weights)
    assert core.store.recorded == []
    core.load("a", {1: 100, 2: 100}, began=100_010, beat=1)
    look(core, weights)
    assert all(weight is None or abs(weight - UNIT) < UNIT / 3 for weight in core.weights)
