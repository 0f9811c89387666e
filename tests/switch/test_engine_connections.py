"""Connections of real switches that come, go, fall silent or come twice."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .bridges import OWNER, Bridges, EngineController, flows
from .controller import until


@pytest.fixture(scope="module")
def bridges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridges]:
    running = Bridges(tmp_path_factory.mktemp("ovs"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def controller(bridges: Bridges, tmp_path: Path) -> Iterator[EngineController]:
    options = ("--openflow-probe-interval", "0.2", "--openflow-probe-timeout", "1.5")
    running = EngineController(tmp_path, bridges.directory, *options)
    yield running
    running.stop(signal.SIGKILL)


@pytest.fixture
def bridge(bridges: Bridges, controller: EngineController) -> Iterator[str]:
    bridges.add("br", controller)
    controller.call("complete", "br")
    controller.synced("br")
    yield "br"
    bridges.remove("br")


def test_silent_switch_is_given_up_and_taken_back(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    """A switch that hangs says nothing, not even that it is gone."""
    with bridges.stopped():
        until(lambda: not controller.call("state", bridge)["connected"], "the silence is noticed")
        assert "silent" in controller.call("state", bridge)["error"]
        controller.call("put", bridge, {OWNER: flows(3)})
        assert controller.call("pending", bridge, OWNER)
    controller.settled(bridge, OWNER)
    assert bridges.count(bridge) == 3


def test_idle_switch_is_not_given_up(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    """It answers probes: many intervals later it is the same connection."""
    since = controller.call("state", bridge)["since"]
    received = controller.counters()["messages_received"]
    until(lambda: controller.counters()["messages_received"] >= received + 20, "many probes were answered")
    assert controller.call("state", bridge)["since"] == since


def test_many_switches_of_one_controller(bridges: Bridges, controller: EngineController) -> None:
    """Each gets its own; one that is taken away does not disturb the others."""
    names = [f"many{n}" for n in range(6)]
    try:
        for number, name in enumerate(names):
            bridges.add(name, controller)
            controller.call("put", name, {OWNER: flows(10 + number, 100 * number)})
            controller.call("complete", name)
        for number, name in enumerate(names):
            controller.settled(name, OWNER)
            assert bridges.count(name) == 10 + number
        bridges.remove(names[0])
        until(lambda: not controller.call("state", names[0])["connected"], "the loss is seen")
        controller.call("put", names[1], {OWNER: []})
        controller.settled(names[1], OWNER)
        assert bridges.count(names[1]) == 0
        assert bridges.count(names[2]) == 12
    finally:
        bridges.remove(*names)


def test_connection_lost_within_a_large_load(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    """vswitchd dies while it is being loaded; what comes back gets everything, however far the load was."""
    large = ("large", "1")
    controller.call("put", bridge, {large: flows(30000), OWNER: flows(100, 50000)})
    until(lambda: controller.counters()["bundles"] >= 2, "the load is on its way")
    bridges.kill()
    until(lambda: not controller.call("state", bridge)["connected"], "the loss is seen")
    assert controller.call("pending", bridge, large)
    bridges.start_again()
    controller.settled(bridge, large, OWNER)
    assert bridges.count(bridge) == 30100


def test_put_again_while_on_its_way(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    """The same wants, over and over, faster than the switch answers: confirmed, and nothing is sent twice."""
    sent = controller.counters()["flows_sent"]
    for _ in range(50):
        controller.call("put", bridge, {OWNER: flows(500)})
    controller.settled(bridge, OWNER)
    assert controller.counters()["flows_sent"] == sent + 500
    assert bridges.count(bridge) == 500
