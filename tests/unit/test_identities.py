"""Identities are collected when nobody has them, and only after every hypervisor has confirmed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from novanet_apps.intent import identities
from novanet_apps.intent.identities import Confirmations, IdentityCollector
from topology.admission import Refused, Write
from topology.changes import Change

from .test_admission_security_groups import Grouped

Owner = tuple[str, str]
POLICY: dict[str, Owner] = {name: ("policy", name) for name in ("h1", "h2")}
PORT: Owner = ("port", "p")


# --- who has confirmed -------------------------------------------------------------------------------------------


def test_what_is_known_at_first_is_waited_for_and_nothing_later() -> None:
    confirmations = Confirmations()
    assert not confirmations.look({"h1": {PORT, POLICY["h1"]}, "h2": set()})
    assert not confirmations.look({"h1": {POLICY["h1"], ("port", "later")}, "h2": {PORT}})
    assert confirmations.look({"h1": {("port", "later")}, "h2": {PORT}})


def test_a_hypervisor_that_is_away_has_not_confirmed() -> None:
    confirmations = Confirmations()
    assert not confirmations.look({"h1": None, "h2": set()})
    assert not confirmations.look({"h1": {PORT}, "h2": None}), "one that has confirmed may go"
    assert not confirmations.look({"h1": None, "h2": None})
    assert not confirmations.look({"h1": {POLICY["h1"]}, "h2": None}), "back with other work: it is all waited for"
    assert confirmations.look({"h1": set(), "h2": None})


def test_hypervisors_come_and_go() -> None:
    confirmations = Confirmations()
    assert not confirmations.look({"h1": None})
    assert not confirmations.look({"h1": None, "h2": {PORT}})
    assert confirmations.look({"h2": set()}), "one that was taken away is not waited for"
    assert Confirmations().look({})


# --- the collector -----------------------------------------------------------------------------------------------


class Controller:
    """A graph with admission, and hypervisors that confirm when a test says so."""

    def __init__(self, linger: float = 0.0) -> None:
        self.world = Grouped()
        self.topology = self.world.topology
        self.hypervisors = [self.world.create("hypervisor", name=name).id for name in ("h1", "h2")]
        self.unconfirmed: dict[str, set[Owner] | None] = {id: set() for id in self.hypervisors}
        self.refusing = False
        self.tell: Any = None
        self.collector = IdentityCollector(self._core(), linger=linger, period=0.0)

    def _core(self) -> Any:
        def subscribe(tell: Any) -> None:
            self.tell = tell

        return SimpleNamespace(
            topology=self.topology,
            subscribe=subscribe,
            store=SimpleNamespace(submit=self._submit),
            reconciler=SimpleNamespace(unconfirmed=self.unconfirmed.get),
        )

    def _submit(self, writes: list[Write]) -> None:
        if self.refusing:
            raise Refused(503, "", "the store is away")
        for write in writes:
            self.world.write(write)

    def leave(self, port: Any) -> None:
        old = self.topology.get("port", port.id)
        self.world.delete(port)
        self.tell([Change("port", port.id, old, None)])

    def states(self) -> list[bool]:
        return sorted(identity.retired for identity in self.topology.all("identity").values())


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What happens at each pause of the collector."""
    todo: list[Any] = []

    def sleep(seconds: float) -> None:
        if not todo:
            raise TimeoutError("it waits for ever")
        todo.pop(0)()

    def spawn(run: Any, *arguments: Any) -> Any:
        made = run(*arguments) if run.__name__ == "_submit" else None
        return SimpleNamespace(wait=lambda: made)

    monkeypatch.setattr(identities, "eventlet", SimpleNamespace(sleep=sleep, spawn=spawn))
    return todo


def test_an_identity_goes_when_every_hypervisor_has_confirmed(turns: list[Any]) -> None:
    controller = Controller()
    kept, port = controller.world.port(labels={"n": "1"}), controller.world.port(controller.world.web)
    controller.collector.start()
    controller.leave(port)
    one, two = controller.hypervisors
    controller.unconfirmed[one], controller.unconfirmed[two] = {POLICY["h1"]}, None
    seen = []

    def then(hypervisor: str, state: set[Owner] | None) -> Any:
        def happen() -> None:
            seen.append((controller.states(), len(controller.topology.identities_of_group(controller.world.web.id))))
            controller.unconfirmed[hypervisor] = state

        return happen

    turns += [then(one, set()), then(two, {POLICY["h2"]}), then(two, set())]
    controller.collector.collect(1e12)
    assert seen == [([False, True], 0)] * 3, "retired and no member of its group, but still there"
    assert controller.states() == [False] and list(controller.topology.identities) == [kept.identity]
    assert controller.collector.counters == {"retired": 1, "deleted": 1} and not turns


def test_one_that_lingers_is_not_touched(turns: list[Any]) -> None:
    controller = Controller(linger=60.0)
    port = controller.world.port(controller.world.web)
    controller.collector.start()
    controller.leave(port)
    controller.collector.collect(0.0)
    assert controller.states() == [False] and controller.collector.counters["retired"] == 0
    again = controller.world.port(controller.world.web)
    controller.collector.collect(1e12)
    assert controller.states() == [False] and again.identity == port.identity


def test_a_port_that_comes_meanwhile_keeps_it(turns: list[Any]) -> None:
    controller = Controller()
    port = controller.world.port(controller.world.web)
    controller.collector.start()
    controller.leave(port)
    controller.unconfirmed[controller.hypervisors[0]] = None

    def join() -> None:
        controller.world.port(controller.world.web)
        controller.unconfirmed[controller.hypervisors[0]] = set()

    turns.append(join)
    controller.collector.collect(1e12)
    assert controller.states() == [False] and controller.collector.counters == {"retired": 1, "deleted": 0}


def test_what_was_left_by_a_controller_that_ended_is_collected(turns: list[Any]) -> None:
    controller = Controller()
    ports = [controller.world.port(labels={"n": str(n)}) for n in range(3)]
    for port in ports:
        controller.world.delete(port)
    first = controller.world.topology.identities[ports[0].identity]
    controller.world.write(Write("patch", "identity", first, {"retired": True}, system=True))
    controller.collector.start()
    controller.collector.collect(1e12)
    assert controller.states() == [] and controller.collector.counters == {"retired": 2, "deleted": 3}


def test_what_could_not_be_written_is_tried_again(turns: list[Any]) -> None:
    controller = Controller()
    port = controller.world.port(controller.world.web)
    controller.collector.start()
    controller.leave(port)
    controller.refusing = True
    controller.collector.collect(1e12)
    assert controller.states() == [False]
    controller.refusing = False
    controller.collector.collect(2e12)
    assert controller.states() == []


def test_a_port_that_changes_its_labels_leaves_its_identity(turns: list[Any]) -> None:
    controller = Controller()
    port = controller.world.port(labels={"n": "1"})
    controller.collector.start()
    changed = controller.world.patch(port, labels={"n": "2"})
    controller.tell([Change("port", port.id, port, changed)])
    controller.collector.collect(1e12)
    assert list(controller.topology.identities) == [changed.identity]
