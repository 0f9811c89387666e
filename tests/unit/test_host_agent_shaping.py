"""An agent's shaping of many interfaces: one that is in trouble is no trouble of others, and what is as it was costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from novanet_apps.host_agent.shaping import Shaping
from novanet_apps.host_agent.traffic_control import Counts, Found, Qdiscs, ShapingError
from topology.model import Shaping as Told

from .test_qos import Limited
from .test_uplink import Linux as Device

SHAPED = {"type": "bandwidth_limit", "direction": "ingress", "max_kbps": 8000, "shape": True}


class Linux:
    """Devices by name; ``asked`` is how often what all have was asked for, ``read_`` whose classes were read."""

    def __init__(self, *names: str) -> None:
        self.devices = {name: Device() for name in names}
        self.asked, self.read_ = 0, list[str]()
        self.going: set[str] = set()
        """Those that vanish once something is to be done to them."""

    def index(self, name: str) -> int:
        if name not in self.devices or name in self.going:
            raise ShapingError(f"no interface {name}")
        return id(self.devices[name])

    def qdiscs(self) -> Qdiscs:
        self.asked += 1
        return {}

    def shaped(self, qdiscs: Qdiscs) -> list[str]:
        return [name for name, device in self.devices.items() if device.classes is not None]

    def read(self, name: str, qdiscs: Callable[[], Qdiscs] | None = None) -> Found | None:
        self.index(name)
        (qdiscs or self.qdiscs)()
        self.read_.append(name)
        return self.devices[name].read(name)

    def counts(self, name: str) -> dict[int, Counts]:
        self.index(name)
        found = self.devices[name].read(name)
        return found.counts if found is not None else {}

    def end(self, name: str) -> None:
        self.index(name)
        self.devices[name].classes = None

    def __getattr__(self, what: str) -> Callable[..., Any]:
        def call(name: str, *rest: Any) -> Any:
            self.index(name)
            return getattr(self.devices[name], what)(name, *rest)

        return call


class Agent:
    """On h1, with both its VMs' interfaces to be shaped."""

    def __init__(self) -> None:
        self.world = world = Limited()
        self.plugged = {"tap1": "vm1", "tap2": "vm2"}
        self.linux = Linux("tap1", "tap2")
        world.put("network", "a", qos_policy_id=world.policy("shaped", SHAPED))
        local = SimpleNamespace(
            session=SimpleNamespace(settled=True),
            watch=lambda names, vms: None,
            interfaces=lambda vms: {name: id for name, id in self.plugged.items() if id in vms},
            keep_hands_off=lambda names: None,
            not_ours=lambda vms: {},
            datapath_type=lambda bridge: "system",
        )
        told = SimpleNamespace(transact=lambda build: None)
        self.intent: Any = SimpleNamespace(hypervisor_id="h1", shaping=world.topology, session=told)
        self.shaping = Shaping(lambda: self.intent, local, lambda: "")  # type: ignore[arg-type]
        self.shaping._control = self.linux  # type: ignore[assignment]

    def see_to(self, everything: bool = False) -> list[str]:
        """Returns whose classes were read."""
        self.linux.read_, self.linux.asked = [], 0
        assert self.shaping._see_to(self.intent, everything)
        return self.linux.read_

    def told_of(self, name: str) -> set[str]:
        """The metrics that have something of an interface."""
        return {
            metric
            for metric, samples in self.shaping.samples().items()
            if any(labels["interface"] == name for labels, _ in samples)
        }


@pytest.fixture
def agent() -> Agent:
    agent = Agent()
    agent.see_to(everything=True)
    return agent


def test_what_is_as_it_was_is_not_read_again_but_now_and_then(agent: Agent) -> None:
    assert agent.shaping.errors == {"tap1": "", "tap2": ""} and agent.linux.asked == 1
    assert agent.see_to() == [] and agent.linux.asked == 0
    assert agent.see_to(everything=True) == ["tap1", "tap2"] and agent.linux.asked == 1, "all are told of at once"
    agent.world.put("qos-rule", "shaped-0", max_kbps=9000)
    assert agent.see_to() == ["tap1", "tap2"] and agent.linux.asked == 1


def test_a_vm_plugged_in_again_has_another_device_of_that_name(agent: Agent) -> None:
    agent.linux.devices["tap2"] = Device()
    assert agent.see_to() == ["tap2"]
    assert agent.linux.devices["tap2"].classes
    agent.linux.devices["tap3"] = Device()
    agent.plugged = {"tap1": "vm1", "tap3": "vm2"}
    assert agent.see_to() == ["tap3"]
    assert agent.linux.devices["tap2"].classes is None, "given back"
    assert agent.told_of("tap2") == set() and "novanet_agent_vm_bytes_total" in agent.told_of("tap3")


def test_a_device_that_is_gone_is_no_trouble_of_others(agent: Agent) -> None:
    del agent.linux.devices["tap1"]
    assert "novanet_agent_vm_bytes_total" in agent.told_of("tap2"), "also until that is seen"
    agent.see_to(everything=True)
    assert "no interface tap1" in agent.shaping.errors["tap1"] and agent.shaping.errors["tap2"] == ""
    assert agent.shaping.trouble.startswith("interface tap1")
    assert "novanet_agent_vm_bytes_total" in agent.told_of("tap2")
    del agent.plugged["tap1"]
    agent.see_to()
    assert not agent.shaping.trouble and agent.told_of("tap1") == set()


def test_a_device_that_goes_while_it_is_given_back_is_no_trouble_of_others(agent: Agent) -> None:
    agent.linux.going = {"tap1"}
    del agent.plugged["tap1"]
    agent.world.put("qos-rule", "shaped-0", max_kbps=9000)
    assert agent.see_to() == ["tap2"] and agent.shaping.errors == {"tap2": ""}


def test_without_a_hypervisor_nothing_is_the_matter(agent: Agent) -> None:
    del agent.linux.devices["tap1"]
    agent.see_to(everything=True)
    agent.intent.hypervisor_id = None
    agent.see_to()
    assert agent.shaping.samples() == {} and not agent.shaping.trouble
    assert agent.linux.devices["tap2"].classes is None


def test_of_two_interfaces_of_a_port_the_one_that_is_shaped_is_measured(agent: Agent) -> None:
    agent.plugged = {"stale": "vm1", **agent.plugged}
    agent.see_to()
    assert agent.shaping._all_of("vm1")[0] == "tap1"


def test_the_store_is_told_of_each(agent: Agent) -> None:
    told: list[Any] = []
    agent.intent.session.transact = lambda build: build(SimpleNamespace(add_op=told.append), None)
    agent.see_to()
    assert "tap1" in str(told) and "tap2" in str(told)
    both = (Told(interface="tap1", port_id="vm1"), Told(interface="tap2", port_id="vm2"))
    agent.world.put("hypervisor", "h1", shaping=both)
    told.clear()
    agent.see_to(everything=True)
    assert told == []


def test_the_policys_shape_goes_and_the_interfaces_are_given_back(agent: Agent) -> None:
    agent.world.put("qos-rule", "shaped-0", shape=False)
    agent.see_to()
    assert all(device.classes is None for device in agent.linux.devices.values()) and not agent.shaping.errors
