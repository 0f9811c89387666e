"""What changes of quality of service, and of all that it depends on, make dirty: enough, and little more."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.compiler import Feature
from topology import qos, queues, scope
from topology.changes import Edit
from topology.graph import Topology
from topology.model import FloatingIp, Port, QosPolicy, QosRule
from topology.reach import floating_at

from .test_scope import INNER, OUTER, WIRED, Editor, Follower, everything, replace, routed_world
from .world import World


def compile_port(topology: Topology, hypervisor: str, id: str) -> Iterator[Any]:
    """All that flows and meters of a VM's port may depend on."""
    port = topology.get("port", id)
    if port is not None and topology.location(id) == hypervisor:
        vif = topology.get("vif", id)
        yield port.port_key, qos.of_port(topology, id), vif and vif.ofport, queues.of_port(topology, hypervisor, id)


def compile_floating_ip(topology: Topology, hypervisor: str, id: str) -> Iterator[Any]:
    """All that they may of a floating IP, where it is translated."""
    found = qos.of_floating_ip(topology, id)
    if found is not None and hypervisor in floating_at(topology, id):
        if hypervisor in topology.wired_to(topology.get("floating-ip", id).floating_network_id):
            yield found


def compile_router(topology: Topology, hypervisor: str, id: str) -> Iterator[Any]:
    """All that they may of a router's gateway."""
    way_out = topology.gateway_of(id)
    found = None if way_out is None else qos.of_gateway(topology, way_out.id)
    if found is not None and hypervisor in topology.gateways_of(id):
        yield found


QOS = (Feature("qos", {"qos": compile_port, "floating-ip": compile_floating_ip, "router": compile_router}),)


class QosEditor(Editor):
    """Random edits of policies, of their rules and of what they are attached to as well."""

    def users(self, policy: str) -> list[Edit]:
        """The edits that detach a policy everywhere."""
        return [
            Edit(kind, id, replace(self.topology.get(kind, id), qos_policy_id=None))
            for kind, id in self.topology.referrers("qos-policy", policy)
            if kind != "qos-rule"
        ]

    def change_queueing(self) -> list:
        return self.put("bridge", self.rng.choice(["h1", "h2"]), queueing=self.rng.choice([(), ("eth0",)]))

    def change_policy(self) -> list:
        made = QosPolicy(id=f"q{self.number}")
        return self.world.apply(Edit("qos-policy", made.id, made)) if len(self.topology.all("qos-policy")) < 4 else []

    def change_policy_edit(self) -> list:
        return self.put("qos-policy", self.pick("qos-policy"), name="x", shared=self.rng.random() < 0.5)

    def change_policy_gone(self) -> list:
        id = self.pick("qos-policy")
        if id is None or self.rng.random() < 0.6:
            return []
        rules = [Edit("qos-rule", rule, None) for rule in sorted(self.topology.qos_rules_of(id))]
        return self.world.apply(*self.users(id), *rules, Edit("qos-policy", id, None))

    def change_qos_rule(self) -> list:
        policy = self.pick("qos-policy")
        type, field = self.rng.choice([
            ("bandwidth_limit", "max_kbps"), ("packet_rate_limit", "max_pps"), ("minimum_bandwidth", "min_kbps"),
            ("dscp_marking", "dscp_mark"), ("priority", "priority"), ("max_latency", "max_latency_ms"),
        ])  # fmt: skip
        direction = self.rng.choice(["egress", "ingress"]) if type.endswith("limit") else "egress"
        id = f"{policy}-{type}-{direction}"
        if policy is None:
            return []
        if self.topology.get("qos-rule", id) is not None:
            return self.put("qos-rule", id, **{field: self.rng.randrange(8)})
        fields = {"qos_policy_id": policy, "type": type, "direction": direction, field: self.rng.randrange(8)}
        return self.world.apply(Edit("qos-rule", id, QosRule(id=id, **fields)))

    change_another_rule = change_qos_rule

    def change_rule_edit(self) -> list:
        id = self.pick("qos-rule")
        if id is not None and self.rng.random() < 0.3:
            return self.world.apply(Edit("qos-rule", id, None))
        return self.put("qos-rule", id, max_burst_kbps=self.rng.choice([None, 4000]), description="x")

    def change_attachment(self) -> list:
        policy = self.rng.choice([None, self.pick("qos-policy"), self.pick("qos-policy")])
        match self.rng.randrange(4):
            case 0:
                return self.put("network", self.rng.choice([*INNER, *OUTER, WIRED]), qos_policy_id=policy)
            case 1:
                return self.put("floating-ip", self.pick("floating-ip"), qos_policy_id=policy)
            case 2:
                gateways = self.pick("port", lambda port: port.router_id is not None and port.network_id in OUTER)
                return self.put("port", gateways, qos_policy_id=policy)
        return self.put("port", self.pick("port", lambda port: port.router_id is None), qos_policy_id=policy)

    change_another_attachment = change_third_attachment = change_attachment

    def change_trust(self) -> list:
        vm = self.pick("port", lambda port: port.router_id is None)
        return self.put("port", vm, trust_dscp=self.rng.random() < 0.5)


def world_with_policies() -> World:
    """Two VMs in a network with policy ``q``, one of which has a policy of its own; and a way outside."""
    made = routed_world()
    made.wire("h1", "phys")
    made.wire("h2", "phys")
    for policy in ("q", "own"):
        made.apply(Edit("qos-policy", policy, QosPolicy(id=policy)))
        rule = QosRule(id=f"{policy}-max", qos_policy_id=policy, type="bandwidth_limit", max_kbps=1000)
        made.apply(Edit("qos-rule", rule.id, rule))
    made.port("vm1", "a", on="h1", ips=("10.0.1.11",))
    made.port("vm2", "a", on="h2", ips=("10.0.1.12",))
    made.router("r")
    made.interface("r", "a", "10.0.1.1")
    made.interface("r", "ext", "203.0.1.2")
    for number in (1, 2):
        floating = FloatingIp(
            id=f"f{number}", floating_network_id="ext", subnet_id="ext-4", port_id=f"vm{number}",
            floating_ip_address=f"203.0.1.{100 + number}", fixed_ip_address=f"10.0.1.1{number}",
            mac_address=f"02:00:00:00:77:0{number}",
        )  # fmt: skip
        made.apply(Edit("floating-ip", floating.id, floating))
    put(made, "network", "a", qos_policy_id="q")
    put(made, "port", "vm2", qos_policy_id="own")
    return made


@pytest.mark.parametrize("seed", range(30))
def test_following_changes_of_quality_leads_where_compiling_everything_leads(seed: int) -> None:
    rng = random.Random(f"quality {seed}")
    world = world_with_policies()
    editor, follower = QosEditor(world, rng), Follower(world, QOS)
    limited = False
    for number in range(200):
        changes = [change for _ in range(rng.choice([1, 1, 1, 2, 5])) for change in editor.edit()]
        follower.follow(changes)
        now = everything(world, QOS)
        limited |= any(kind == "qos" and found[0][1].policy_id is not None for (_, (kind, _)), found in now.items())
        for key in follower.state.keys() | now.keys():
            assert follower.state.get(key) == now.get(key), f"{key} after step {number}: {changes}"
    assert limited, "there was something to follow"


def test_there_is_something_to_follow_outside() -> None:
    found: set[str] = set()
    for seed in range(12):
        world = world_with_policies()
        editor = QosEditor(world, random.Random(f"quality {seed}"))
        for _ in range(120):
            editor.edit()
            found |= {kind for _, (kind, _) in everything(world, QOS)}
    assert found >= {"qos", "floating-ip", "router"}


# --- and little more ---------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> World:
    return world_with_policies()


def put(world: World, kind: str, id: str, **fields: Any) -> set[tuple[str, tuple[str, str]]]:
    changes = world.apply(Edit(kind, id, replace(world.topology.get(kind, id), **fields)))
    return set(scope.dirty(world.topology, changes))


def test_another_rate_compiles_the_ports_that_have_it_and_nothing_else(world: World) -> None:
    assert put(world, "qos-rule", "q-max", max_kbps=2000) == {("h1", ("qos", "vm1"))}
    assert put(world, "qos-rule", "own-max", max_kbps=2000) == {("h2", ("qos", "vm2"))}
    assert put(world, "qos-rule", "q-max", description="as agreed") == set()


def test_a_policy_attached_compiles_what_it_is_attached_to(world: World) -> None:
    assert put(world, "port", "vm1", qos_policy_id="own") == {("h1", ("qos", "vm1"))}
    assert put(world, "network", "a", qos_policy_id=None) == set(), "both ports have their own now"
    assert put(world, "port", "vm2", qos_policy_id=None) == {("h2", ("qos", "vm2"))}
    assert put(world, "network", "a", qos_policy_id="q") == {("h2", ("qos", "vm2"))}
    assert put(world, "port", "vm1", trust_dscp=True) == {("h1", ("qos", "vm1"))}


def test_the_policy_of_a_gateway_is_that_of_floating_ips_without_one(world: World) -> None:
    put(world, "floating-ip", "f2", qos_policy_id="own")
    found = put(world, "port", "r-ext", qos_policy_id="q")
    assert {("h1", ("router", "r")), ("h2", ("router", "r")), ("h1", ("floating-ip", "f1"))} <= found
    assert not {owner for _, owner in found} & {("floating-ip", "f2"), ("qos", "vm1"), ("port", "vm1")}
    found = {owner for _, owner in put(world, "qos-rule", "q-max", max_kbps=3000)}
    assert found == {("router", "r"), ("floating-ip", "f1"), ("qos", "vm1")}


def test_where_policies_are_realised(world: World) -> None:
    assert set(scope.concerned(world.topology, "qos-policy", "q")) == {("h1", ("qos", "vm1"))}
    assert set(scope.concerned(world.topology, "qos-rule", "own-max")) == {("h2", ("qos", "vm2"))}
    assert ("h1", ("qos", "vm1")) in set(scope.concerned(world.topology, "port", "vm1"))
    assert ("qos", "vm1") in set(scope.owners_on(world.topology, "h1"))
    assert ("qos", "vm1") not in set(scope.owners_on(world.topology, "h2"))


def test_a_router_has_no_owner_of_its_own(world: World) -> None:
    router: Port = world.topology.get("port", "r-ext")
    assert router.router_id == "r"
    assert not [
        owner for h in ("h1", "h2") for owner in scope.owners_on(world.topology, h) if owner == ("qos", "r-ext")
    ]
