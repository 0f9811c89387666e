"""A port that gets another identity is handed over: rules first, then what flows tell, and what is left is taken away last."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from novanet_apps import handovers
from novanet_apps.handovers import LINGER, PATIENCE, Handovers
from novanet_apps.reconciler import Reconciler
from pipelines import fields as f
from pipelines import tables as t
from pipelines.compiler import Compiler
from pipelines.flow import Flow, match, set_field
from topology import scope
from topology.changes import Change, Edit

from .test_status import Switches
from .world import World

PORT = ("port", "p")


class Controller(World):
    """Port ``p`` on h1 and port ``q`` on h2, in the same network; switches confirm what is dirty when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        self.switches = Switches()
        self.handovers: Handovers | None = None
        monkeypatch.setattr(handovers, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(handovers, "eventlet", SimpleNamespace(spawn_after=self._after))
        super().__init__(3)
        self.network("a", 1)
        for group in ("web", "db", "new"):
            self.group(group)
        self.rule("web", remote_group_id="db")
        self.rule("db", remote_group_id="new")
        self.port("p", "a", on="h1", security_groups=("web",))
        self.port("q", "a", on="h2", security_groups=("db",))
        core: Any = SimpleNamespace(topology=self.topology, engine=self.switches, hypervisors=self.switches)
        core.reconciler = self.reconciler = Reconciler(core)
        core.apply = self.apply
        self.handovers = Handovers(core)

    def apply(self, *edits: Any) -> list[Change]:
        """As ``Core`` does it: what is dirty the switches have yet to confirm."""
        if self.handovers is None:
            return super().apply(*edits)
        edits = edits[0] if isinstance(edits[0], list) else edits
        changes = self.topology.apply(self.handovers.staged(edits))
        self.switches.waiting.update(scope.dirty(self.topology, changes))
        self.handovers.advance()
        return changes

    def _after(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        self.timers.append((self.now + seconds, call, args))

    def confirm(self, *hypervisors: str) -> None:
        """These have done all that was asked of them."""
        self.switches.waiting = {each for each in self.switches.waiting if each[0] not in hypervisors}
        assert self.handovers is not None
        self.handovers.advance()

    def settle(self) -> None:
        """All confirm, until nothing is left to do."""
        while self.switches.waiting:
            self.confirm("h1", "h2", "h3")

    def wait(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, call, args in due:
            call(*args)

    def own(self) -> int:
        return self.topology.get("port", "p").identity or 0

    def told(self) -> int:
        """The identity that the flows of ``p`` tell, the same on every hypervisor; 0 for none."""
        key = match(f.WHO(self.topology.get("port", "p").port_key))
        (told,) = {self._told(key, hypervisor) for hypervisor in ("h1", "h2")}
        return told

    def _told(self, key: bytes, hypervisor: str) -> int:
        for rule in Compiler().rules(self.topology, hypervisor, PORT):
            if isinstance(rule, Flow) and (rule.table, rule.match) == (t.IDENTITY.number, key):
                return next((n for n in self.topology.identities if set_field(f.FOUND, n) in rule.actions), 0)
        return 0

    def here(self) -> set[int]:
        """The identities that have rules where ``p`` is."""
        return set(self.topology.residents("h1"))


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Controller:
    return Controller(monkeypatch)


def status(controller: Controller) -> str:
    return controller.reconciler.judge("port", "p")[0]


def test_rules_come_first_and_go_last(controller: Controller) -> None:
    old = controller.own()
    controller.regroup("p", security_groups=("new",))
    new = controller.own()
    assert new != old and controller.told() == old and controller.here() == {old, new}
    assert {("h1", ("policy", "h1")), ("h2", ("policy", "h2"))} <= controller.switches.waiting
    assert new in controller.topology.identities_of_group("new"), "so the rules of h2 have it"

    controller.confirm("h1")
    assert controller.told() == old and status(controller) == "BUILD"
    controller.confirm("h2")
    assert controller.told() == new and controller.here() == {old, new}
    assert {("h1", PORT), ("h2", PORT)} <= controller.switches.waiting and status(controller) == "BUILD"

    controller.confirm("h2")
    controller.wait(LINGER)
    assert controller.here() == {old, new}, "where it is, packets may still be told from it by the old one"
    controller.confirm("h1")
    assert status(controller) == "ACTIVE"
    controller.wait(LINGER / 2)
    assert controller.here() == {old, new}, "so may those that the datapath has cached"
    controller.wait(LINGER / 2)
    assert controller.here() == {new} and controller.switches.waiting == {("h1", ("policy", "h1"))}
    assert not controller.topology.all("handover")


def test_an_identity_that_is_known_is_told_at_once(controller: Controller) -> None:
    """So a port that joins is one flow for each switch, and none waits."""
    controller.port("other", "a", on="h1", security_groups=("new",))
    controller.port("one more", "a", on="h1", security_groups=("web",))
    controller.settle()
    controller.regroup("p", security_groups=("new",))
    assert controller.told() == controller.own()
    assert {owner for _, owner in controller.switches.waiting} == {PORT}
    controller.settle()
    controller.wait(LINGER)
    assert not controller.switches.waiting and not controller.topology.all("handover")


def test_a_port_that_had_none_is_open_until_its_rules_are_there(controller: Controller) -> None:
    controller.regroup("p", security_groups=None)
    controller.settle()
    controller.wait(LINGER)
    controller.settle()
    assert controller.told() == controller.own() == 0 and not controller.here()
    controller.regroup("p", security_groups=("new",))
    assert controller.told() == 0 and controller.here() == {controller.own()}
    controller.settle()
    assert controller.told() == controller.own()


def test_who_is_away_is_not_waited_for(controller: Controller) -> None:
    controller.switches.away = {"h2"}
    controller.regroup("p", security_groups=("new",))
    controller.confirm("h1")
    assert controller.told() == controller.own()
    assert controller.handovers.counters == {"begun": 1, "hurried": 0}


def test_who_goes_away_is_waited_for_no_longer(controller: Controller) -> None:
    controller.regroup("p", security_groups=("new",))
    controller.confirm("h1")
    controller.switches.away = {"h2"}
    controller.confirm()
    assert controller.told() == controller.own()


def test_who_is_slow_is_not_waited_for_without_end(controller: Controller, caplog: pytest.LogCaptureFixture) -> None:
    """What a port may do no longer ends within PATIENCE seconds, however often it changes meanwhile."""
    old = controller.own()
    controller.regroup("p", security_groups=("new",))
    controller.wait(PATIENCE / 2)
    controller.regroup("p", security_groups=("db",))
    controller.confirm("h1")
    assert controller.told() == old
    controller.wait(PATIENCE / 2)
    assert controller.told() == controller.own()
    assert controller.handovers.counters == {"begun": 2, "hurried": 1}
    assert "of ports p" in caplog.text and "h2" in caplog.text and "h1" not in caplog.text


def test_who_changes_again_while_it_is_told_has_rules_for_all_of_them(controller: Controller) -> None:
    first = controller.own()
    controller.regroup("p", security_groups=("new",))
    controller.confirm("h1", "h2")
    second = controller.own()
    assert controller.told() == second
    controller.regroup("p", security_groups=("db",))
    third = controller.own()
    assert controller.told() == second and controller.here() == {first, second, third}
    controller.settle()
    controller.wait(LINGER)
    assert controller.told() == third and controller.here() == {third}


def test_who_changes_back_is_known(controller: Controller) -> None:
    old = controller.own()
    controller.regroup("p", security_groups=("new",))
    controller.regroup("p", security_groups=("web",))
    assert controller.told() == controller.own() == old
    controller.settle()
    controller.wait(PATIENCE + LINGER)
    assert controller.here() == {old} and not controller.topology.all("handover")


@pytest.mark.parametrize("confirmed", [False, True])
def test_nothing_is_left_of_a_port_that_goes(controller: Controller, confirmed: bool) -> None:
    controller.regroup("p", security_groups=("new",))
    if confirmed:
        controller.confirm("h1", "h2")
    controller.apply(Edit("port", "p", None))
    assert not controller.here() and not controller.topology.all("handover")
    controller.settle()
    controller.wait(PATIENCE + LINGER)
    assert not controller.here() and not controller.topology.all("handover")


@pytest.mark.parametrize("seed", range(20))
def test_what_is_told_always_has_rules(controller: Controller, seed: int) -> None:
    """Whatever happens in whatever order: where the port is, the identity that flows tell has rules; and in the end its own."""
    rng = Random(f"handovers {seed}")
    for _ in range(200):
        match rng.randrange(5):
            case 0:
                controller.regroup("p", security_groups=rng.choice([("web",), ("new",), ("db",), ("web", "db"), None]))
            case 1:
                controller.confirm(rng.choice(["h1", "h2", "h3"]))
            case 2:
                controller.wait(rng.choice([0.0, 0.5, 1.5]))
            case 3:
                controller.switches.away = set(rng.sample(["h1", "h2", "h3"], rng.randrange(3)))
            case 4:
                controller.unplug("p") if rng.random() < 0.2 else controller.plug("p", "h1")
        if controller.topology.location("p") == "h1":
            assert controller.told() in controller.here() | {0}
    controller.switches.away = set()
    controller.plug("p", "h1")
    controller.settle()
    controller.wait(PATIENCE + LINGER)
    controller.settle()
    assert controller.told() == controller.own() and controller.here() == {controller.own()} - {0}
    assert not controller.topology.all("handover")
