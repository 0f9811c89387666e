"""Members without weight: their connections have an end, whoever sees to it."""

from __future__ import annotations

from typing import Any

import eventlet
import pytest

from novanet_apps.draining import Draining
from topology.changes import Edit

from .test_balancing import Balanced


class Store:
    """Records at once what it is told, as the store's feed would."""

    def __init__(self, core: Core) -> None:
        self.core, self.ready = core, False
        self.recorded: list[Any] = []
        self._waiting: list[Any] = []

    def on_ready(self, callback: Any) -> None:
        self._waiting.append(callback)

    def record(self, kind: str, id: str, **fields: Any) -> None:
        self.recorded.append(fields["drain_until"])
        eventlet.spawn(self.core.edit, kind, id, fields)

    def become_ready(self) -> None:
        self.ready = True
        for callback in self._waiting:
            callback()


class Core:
    def __init__(self) -> None:
        self.world = Balanced()
        self.topology = self.world.topology
        self.world.edit("pool", "p", drain_timeout=100)
        self.store = Store(self)
        self._tell: list[Any] = []
        self.now = 1000.0

    def subscribe(self, tell: Any) -> None:
        self._tell.append(tell)

    def edit(self, kind: str, id: str, fields: dict[str, Any]) -> None:
        changes = self.world.edit(kind, id, **fields)
        for tell in self._tell:
            tell(changes)

    def set(self, **fields: Any) -> None:
        self.edit("member", "m1", fields)
        eventlet.sleep(0.01)

    @property
    def drain_until(self) -> int | None:
        return self.topology.get("member", "m1").drain_until


@pytest.fixture
def core() -> Core:
    return Core()


def start(core: Core) -> Draining:
    made = Draining(core, lambda: core.now)  # type: ignore[arg-type]
    core.store.become_ready()
    eventlet.sleep(0.01)
    return made


def test_a_member_without_weight_has_a_deadline(core: Core) -> None:
    draining = start(core)
    core.set(weight=0)
    assert core.drain_until == 1100 and draining.under_way == 1


def test_a_weight_ends_it(core: Core) -> None:
    draining = start(core)
    core.set(weight=0)
    core.set(weight=3)
    assert core.drain_until is None and draining.under_way == 0


def test_the_deadline_comes(core: Core) -> None:
    draining = start(core)
    core.world.edit("pool", "p", drain_timeout=1)
    core.now = 999.98
    core.set(weight=0)
    assert core.drain_until == 1000
    eventlet.sleep(0.05)
    core.now = 1000.0
    core.set(name="x")
    assert core.drain_until == 0 and draining.under_way == 0


def test_without_a_timeout_it_is_over_at_once(core: Core) -> None:
    start(core)
    core.world.edit("pool", "p", drain_timeout=0)
    core.set(weight=0)
    assert core.drain_until == 0


@pytest.mark.parametrize(("until", "then"), [(None, 1100), (1050, 1050), (900, 0), (0, 0)])
def test_another_controller_goes_on(core: Core, until: int | None, then: int) -> None:
    """It keeps deadlines, and what has passed while nobody looked is over."""
    core.world.edit("member", "m1", weight=0, drain_until=until)
    draining = start(core)
    assert core.drain_until == then and draining.under_way == (then > 0)


def test_health_is_no_news(core: Core) -> None:
    start(core)
    core.set(weight=0)
    count = len(core.store.recorded)
    core.set(health="down", health_detail="x")
    assert len(core.store.recorded) == count


def test_a_member_that_goes_takes_its_timer_along(core: Core) -> None:
    draining = start(core)
    core.set(weight=0)
    changes = core.world.apply(Edit("member", "m1", None))
    for tell in core._tell:
        tell(changes)
    assert draining.under_way == 0
