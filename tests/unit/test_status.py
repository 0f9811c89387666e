"""How far routers and ways from outside are: the status that follows from the graph and from what switches confirmed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from novanet_apps.reconciler import Reconciler
from topology.changes import Edit
from topology.model import FloatingIp, Neighbour, PortForwarding

from .world import Routed


class Switches:
    """What is connected and confirmed: everything, but for what a test says."""

    def __init__(self) -> None:
        self.away: set[str] = set()
        self.waiting: set[tuple[str, tuple[str, str]]] = set()
        self.errors: dict[tuple[str, tuple[str, str]], str] = {}

    def connected(self, hypervisor: str) -> bool:
        return hypervisor not in self.away

    def pending(self, hypervisor: str, owner: tuple[str, str]) -> bool:
        return (hypervisor, owner) in self.waiting

    def error(self, hypervisor: str, owner: tuple[str, str]) -> str:
        return self.errors.get((hypervisor, owner), "")

    def unconfirmed(self, hypervisor: str) -> set[tuple[str, str]] | None:
        return {owner for here, owner in self.waiting if here == hypervisor}


class Outside(Routed):
    """Router ``r`` leads from networks a and b to ``out``, by h3; floating IP ``f`` stands for a1, ``g`` forwards to b2."""

    def __init__(self) -> None:
        super().__init__()
        self.network("out", 9, "192.0.2.0/24", external=True, physical_network="wire")
        self.interface("r", "out")
        self.wire("h3", "wire")
        floating = FloatingIp(
            id="f", floating_network_id="out", subnet_id="out-4", floating_ip_address="192.0.2.50", port_id="a1",
            fixed_ip_address="10.0.0.11", mac_address="02:00:00:00:aa:01",
        )  # fmt: skip
        shared = FloatingIp(
            id="g", floating_network_id="out", subnet_id="out-4", floating_ip_address="192.0.2.51",
            mac_address="02:00:00:00:aa:02",
        )  # fmt: skip
        forwarding = PortForwarding(
            id="pf", floating_ip_id="g", protocol="tcp", external_port=80, internal_port_id="b2",
            internal_ip_address="10.0.1.12", internal_port=80,
        )  # fmt: skip
        host = Neighbour(id="n", network_id="out", ip_address="192.0.2.9", mac_address="02:00:00:00:bb:01")
        for obj in (floating, shared, forwarding, host):
            self.apply(Edit(obj.KIND, obj.id, obj))
        self.switches = Switches()
        core: Any = SimpleNamespace(topology=self.topology, engine=self.switches, hypervisors=self.switches)
        self.reconciler = Reconciler(core)

    def judge(self, kind: str, id: str) -> tuple[str, str]:
        status, reasons = self.reconciler.judge(kind, id)
        return status, "; ".join(reasons)


@pytest.fixture
def world() -> Outside:
    return Outside()


ROUTER = [("router", "r"), ("port", "r-a"), ("port", "r-out")]
WAYS_IN = [("floating-ip", "f"), ("floating-ip", "g"), ("port-forwarding", "pf")]


def test_what_all_have_confirmed_is_active(world: Outside) -> None:
    for node in (*ROUTER, *WAYS_IN, ("neighbour", "n"), ("network", "out"), ("subnet", "out-4")):
        assert world.judge(*node) == ("ACTIVE", ""), node


@pytest.mark.parametrize("node", ROUTER)
def test_an_interface_is_as_far_as_its_router(world: Outside, node: tuple[str, str]) -> None:
    world.switches.waiting.add(("h2", ("router", "r")))
    assert world.judge(*node) == ("BUILD", "waiting for h2")
    world.switches.away.add("h3")
    assert world.judge(*node) == ("DEGRADED", "hypervisor h3: no OVSDB connection")
    world.switches.errors["h1", ("router", "r")] = "table full"
    assert world.judge(*node) == ("ERROR", "hypervisor h1: table full")


def test_floating_ips_are_realised_at_the_gateway_or_with_the_vm(world: Outside) -> None:
    world.switches.waiting |= {(f"h{n}", ("floating-ip", id)) for n in (1, 2, 3) for id in "fg"}
    assert world.judge("floating-ip", "f") == ("BUILD", "waiting for h1, h3"), "h1 is not wired"
    assert world.judge("floating-ip", "g") == world.judge("port-forwarding", "pf") == ("BUILD", "waiting for h3")
    world.wire("h1", "wire")
    assert world.judge("floating-ip", "f") == ("BUILD", "waiting for h1")


def test_a_floating_ip_without_a_vm_is_down(world: Outside) -> None:
    world.unplug("a1")
    assert world.judge("floating-ip", "f") == ("DOWN", "port a1 is not plugged")
    world.edit("floating-ip", "f", port_id=None, fixed_ip_address=None)
    assert world.judge("floating-ip", "f") == ("DOWN", "it stands for no port, and nothing is forwarded")
    world.unplug("b2")
    assert world.judge("port-forwarding", "pf") == ("DOWN", "port b2 is not plugged")


def test_a_router_that_no_wire_leads_outside_says_so(world: Outside) -> None:
    world.wire("h3", "other")
    for node in (("router", "r"), ("port", "r-out"), *WAYS_IN):
        status, reason = world.judge(*node)
        assert status == "DEGRADED" and "physical network wire" in reason, node
    assert world.judge("port", "r-a")[0] == "ACTIVE", "inside nothing is missing"
    world.wire("h1", "wire")
    world.edit("hypervisor", "h1", gateway=False)
    assert world.judge("floating-ip", "f") == ("ACTIVE", ""), "its VM's hypervisor is wired and needs no gateway"
    assert world.judge("router", "r")[0] == "DEGRADED"


def test_a_floating_ip_that_lost_its_router_says_so(world: Outside) -> None:
    world.apply(Edit("port", "r-a", None))
    status, reason = world.judge("floating-ip", "f")
    assert status == "DEGRADED" and "no router leads" in reason
    assert world.judge("floating-ip", "g")[0] == "ACTIVE"


def test_a_vm_that_is_not_plugged_is_down_and_an_interface_never_is(world: Outside) -> None:
    world.unplug("a1")
    assert world.judge("port", "a1")[0] == "DOWN"
    assert world.judge("port", "r-a")[0] == "ACTIVE"


# --- security groups ---------------------------------------------------------------------------------------------


def test_groups_and_rules_are_as_far_as_the_hypervisors_of_their_members(world: Outside) -> None:
    """a1 is on h1, b2 on h2; the rule names group ``db`` as its peer."""
    world.group("web", "a1")
    world.group("db", "b2")
    world.rule("web", id="rule", remote_group_id="db")
    world.address_group("office", "192.0.2.0/24")
    nodes = [
        ("security-group", "web"),
        ("security-group", "db"),
        ("security-group-rule", "rule"),
        ("address-group", "office"),
    ]
    assert [world.judge(*node)[0] for node in nodes] == ["ACTIVE"] * 4
    here = world.topology.location("a1")
    world.switches.waiting.add((here, ("policy", here)))
    assert [world.judge(*node)[0] for node in nodes] == ["BUILD", "BUILD", "BUILD", "ACTIVE"]
    assert world.judge("port", "a1")[0] == "BUILD", "its group's rules are not there yet"
    world.switches.waiting.clear()
    world.switches.away.add(here)
    status, reason = world.judge("security-group-rule", "rule")
    assert status == "DEGRADED" and here in reason


def test_what_a_hypervisor_has_yet_to_confirm(world: Outside) -> None:
    reconciler = world.reconciler
    assert reconciler.unconfirmed("h1") == set()
    world.switches.waiting |= {("h1", ("port", "a1")), ("h2", ("port", "b2"))}
    reconciler._known.add("h1")
    reconciler.mark("h1", ("policy", "h1"))
    assert reconciler.unconfirmed("h1") == {("port", "a1"), ("policy", "h1")}, "sent, or not even compiled"
    world.switches.away.add("h1")
    assert reconciler.unconfirmed("h1") is None
