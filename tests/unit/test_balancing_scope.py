"""What changes of load balancers, and of all that they depend on, make dirty: enough, and little more."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.compiler import Feature
from pipelines.placement import has_router
from topology import balancing, scope
from topology.changes import Edit
from topology.graph import Topology
from topology.model import FloatingIp, HealthMonitor, Listener, LoadBalancer, Member, Pool

from .test_balancing import Balanced
from .test_scope import HYPERVISORS, INNER, Editor, Follower, everything, replace, routed_world

Dirty = set[tuple[str, tuple[str, str]]]


def concerns(topology: Topology, hypervisor: str, balancer: LoadBalancer | None) -> bool:
    if balancer is None:
        return False
    if balancer.router_id is not None:
        return has_router(topology, hypervisor, balancer.router_id)
    return hypervisor in topology.reachers_of(balancer.vip_network_id)


def compile_balancer(topology: Topology, hypervisor: str, id: str) -> Iterator[Any]:
    """All that flows of a load balancer may depend on."""
    found = balancing.balancer(topology, id)
    if found is not None and concerns(topology, hypervisor, topology.get("load-balancer", id)):
        for entry in found.entries:
            network = topology.get("network", entry.network_id or "")
            router = topology.get("router", entry.router_id or "")
            gateways = topology.gateways_of(entry.router_id or "")
            yield found, network and (network.vni, network.admin_state_up), router and router.admin_state_up, gateways


def compile_pool(topology: Topology, hypervisor: str, id: str) -> Iterator[Any]:
    """All that flows of a pool may depend on."""
    found = balancing.pool(topology, id)
    if found is not None and concerns(topology, hypervisor, topology.get("load-balancer", found.balancer_id)):
        listeners = [topology.get("listener", each) for each in sorted(topology.listeners_to(id))]
        yield found, [(each.protocol, each.protocol_port, each.admin_state_up) for each in listeners]
        for backend in found.kept:
            network = topology.get("network", backend.network_id)
            legs = [
                (port.id, topology.get("router", port.router_id).admin_state_up)
                for port in topology.routed_by(network.id)
            ]
            yield backend, network.vni, network.mtu, legs


BALANCING = (Feature("balancing", {"load-balancer": compile_balancer, "pool": compile_pool}),)


class BalancingEditor(Editor):
    """Random edits of load balancers too, which are chosen more often."""

    def parts(self, balancer: str) -> list[Edit]:
        """The edits that take a load balancer away, with what is its own."""
        topology = self.topology
        pools = sorted(topology.pools_of(balancer))
        members = [Edit("member", id, None) for pool in pools for id in sorted(topology.members_of(pool))]
        monitors = [Edit("health-monitor", id, None) for pool in pools for id in sorted(topology.monitors_of(pool))]
        listeners = [Edit("listener", id, None) for id in sorted(topology.listeners_of(balancer))]
        floating = [
            Edit("floating-ip", id, replace(topology.get("floating-ip", id), loadbalancer_id=None))
            for id in sorted(topology.floating_to(balancer))
        ]
        gone = [Edit("pool", pool, None) for pool in pools]
        return [*floating, *listeners, *monitors, *members, *gone, Edit("load-balancer", balancer, None)]

    def change_balancer(self) -> list:
        number, router = self.number, self.pick("router")
        if self.rng.random() < 0.5 or router is None:
            network = self.rng.choice(INNER)
            where = {
                "vip_network_id": network,
                "vip_subnet_id": f"{network}-4",
                "vip_address": f"10.7.0.{number % 250}",
            }
        else:
            where = {"router_id": router, "vip_address": f"10.96.0.{number % 250}"}
        made = LoadBalancer(id=f"lb{number}", balancer_key=number, vip_mac_address="02:00:00:00:44:01", **where)
        pool = Pool(id=f"pool{number}", loadbalancer_id=made.id, protocol="TCP", pool_key=number)
        return self.world.apply(Edit("load-balancer", made.id, made), Edit("pool", pool.id, pool))

    def change_balancer_edit(self) -> list:
        return self.put("load-balancer", self.pick("load-balancer"), admin_state_up=self.rng.random() < 0.7)

    def change_balancer_gone(self) -> list:
        id = self.pick("load-balancer")
        return self.world.apply(*self.parts(id)) if id is not None and self.rng.random() < 0.5 else []

    def change_pool_edit(self) -> list:
        fields = self.rng.choice(
            [{"admin_state_up": self.rng.random() < 0.7}, {"table_size": 251}, {"lb_algorithm": "round_robin"}]
        )
        return self.put("pool", self.pick("pool"), **fields)

    def change_balancers_listener(self) -> list:
        id = self.pick("listener")
        if id is not None and self.rng.random() < 0.5:
            fields = self.rng.choice([{"default_pool_id": None}, {"admin_state_up": False}])
            return (
                self.world.apply(Edit("listener", id, None))
                if self.rng.random() < 0.5
                else self.put("listener", id, **fields)
            )
        pool = self.pick("pool")
        if pool is None:
            return []
        of = self.topology.get("pool", pool).loadbalancer_id
        made = Listener(
            id=f"l{self.number}", loadbalancer_id=of, protocol="TCP", protocol_port=self.number, default_pool_id=pool
        )
        return self.world.apply(Edit("listener", made.id, made))

    def change_member(self) -> list:
        pool, network = self.pick("pool"), self.rng.choice(INNER)
        address = self.address(network)
        if pool is None or address is None:
            return []
        made = Member(
            id=f"m{self.number}", pool_id=pool, address=address, subnet_id=f"{network}-4", member_key=self.number
        )
        return self.world.apply(Edit("member", made.id, made))

    change_another_member = change_member

    def change_member_edit(self) -> list:
        fields = self.rng.choice([
            {"weight": self.rng.randrange(3)}, {"health": self.rng.choice(["up", "down"])}, {"drain_until": self.rng.choice([0, 9])},
            {"backup": True}, {"slot_weight": 5}, {"admin_state_up": self.rng.random() < 0.7}, {"name": "x"},
        ])  # fmt: skip
        id = self.pick("member")
        if id is not None and self.rng.random() < 0.2:
            return self.world.apply(Edit("member", id, None))
        return self.put("member", id, **fields)

    def change_monitor(self) -> list:
        id, pool = self.pick("health-monitor"), self.pick("pool")
        if id is not None and self.rng.random() < 0.6:
            up = {"admin_state_up": self.rng.random() < 0.5}
            return (
                self.world.apply(Edit("health-monitor", id, None))
                if self.rng.random() < 0.3
                else self.put("health-monitor", id, **up)
            )
        if pool is None or self.topology.monitors_of(pool):
            return []
        made = HealthMonitor(id=f"h{self.number}", pool_id=pool, type="TCP")
        return self.world.apply(Edit("health-monitor", made.id, made))

    def change_way_in(self) -> list:
        id = self.pick("floating-ip", lambda each: each.port_id is None)
        if id is not None and self.rng.random() < 0.5:
            return self.put("floating-ip", id, loadbalancer_id=self.rng.choice([None, self.pick("load-balancer")]))
        made = FloatingIp(
            id=f"w{self.number}", floating_network_id="ext", subnet_id="ext-4", floating_ip_address="203.0.1.200",
            mac_address="02:00:00:00:55:01", loadbalancer_id=self.pick("load-balancer"),
        )  # fmt: skip
        return self.world.apply(Edit("floating-ip", made.id, made))

    def change_router_gone(self) -> list:
        """With its load balancers, in one batch."""
        id = self.pick("router")
        if id is None or self.rng.random() < 0.5:
            return []
        balancers = [edit for each in sorted(self.topology.balancers_on(id)) for edit in self.parts(each)]
        interfaces = [Edit("port", port.id, None) for port in self.topology.interfaces_of(id)]
        return self.world.apply(*balancers, *interfaces, Edit("router", id, None))


@pytest.mark.parametrize("seed", range(30))
def test_following_changes_of_load_balancers_leads_where_compiling_everything_leads(seed: int) -> None:
    rng = random.Random(f"balancing {seed}")
    world = routed_world()
    editor, follower = BalancingEditor(world, rng), Follower(world, BALANCING)
    compiled = 0
    for number in range(200):
        changes = [change for _ in range(rng.choice([1, 1, 1, 2, 5])) for change in editor.edit()]
        follower.follow(changes)
        now = everything(world, BALANCING)
        compiled += bool(now)
        for key in follower.state.keys() | now.keys():
            assert follower.state.get(key) == now.get(key), f"{key} after step {number}: {changes}"
    assert compiled > 20, "there was something to follow"


# --- and little more ---------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> Balanced:
    made = Balanced()
    made.listener("l", 80, default_pool_id="p")
    for number, hypervisor in enumerate(("h1", "h2"), 2):
        made.port(f"a{number}", "a", on=hypervisor, ips=(f"10.0.0.{10 + number}",))
    return made


def dirty(world: Balanced, changes: list) -> Dirty:
    return set(scope.dirty(world.topology, changes))


def at(*owners: tuple[str, str]) -> Dirty:
    """On the hypervisors that have VMs in the realm."""
    return {(hypervisor, owner) for hypervisor in ("h1", "h2") for owner in owners}


BALANCER, POOL = ("load-balancer", "lb"), ("pool", "p")


@pytest.mark.parametrize(
    ("kind", "id", "fields", "owners"),
    [
        ("member", "m1", {"health": "down"}, [POOL]),
        ("member", "m1", {"weight": 0}, [POOL]),
        ("member", "m1", {"drain_until": 0}, [POOL]),
        ("member", "m1", {"health_detail": "timed out", "name": "x"}, []),
        ("pool", "p", {"drain_timeout": 7}, []),
        ("pool", "p", {"table_size": 251}, [BALANCER, POOL]),
        ("listener", "l", {"default_pool_id": None}, [BALANCER, POOL]),
        ("listener", "l", {"description": "x"}, []),
        ("load-balancer", "lb", {"name": "x"}, []),
        ("load-balancer", "lb", {"admin_state_up": False}, [BALANCER, POOL]),
    ],
)
def test_an_edit_compiles_what_it_concerns(
    world: Balanced, kind: str, id: str, fields: dict[str, Any], owners: list[tuple[str, str]]
) -> None:
    assert dirty(world, world.edit(kind, id, **fields)) == at(*owners)


def test_a_member_more_compiles_its_pool(world: Balanced) -> None:
    member = Member(id="m2", pool_id="p", address="10.0.1.11", subnet_id="b-4", member_key=2)
    assert dirty(world, world.apply(Edit("member", "m2", member))) == at(POOL)


def test_a_vm_that_moves_compiles_no_pool(world: Balanced) -> None:
    moved = dirty(world, world.plug("a1", "h2"))
    assert moved and not {owner for _, owner in moved} & {BALANCER, POOL}
    assert at(POOL) <= dirty(world, world.unplug("a1"))


def test_another_vm_compiles_no_pool(world: Balanced) -> None:
    found = dirty(world, world.port("a4", "a", on="h1", ips=("10.0.0.77",)))
    assert found and not {owner for _, owner in found} & {BALANCER, POOL}


def test_a_hypervisor_without_the_realm_has_none_of_it(world: Balanced) -> None:
    world.network("c", 3, "10.0.2.0/24")
    world.port("c1", "c", on="h3", ips=("10.0.2.11",))
    for hypervisor in HYPERVISORS:
        found = set(scope.owners_on(world.topology, hypervisor)) & {BALANCER, POOL}
        assert found == (set() if hypervisor == "h3" else {BALANCER, POOL})


@pytest.mark.parametrize(
    ("kind", "id", "owners"),
    [
        ("load-balancer", "lb", [BALANCER]), ("pool", "p", [POOL]), ("member", "m1", [POOL]),
        ("listener", "l", [BALANCER, POOL]), ("health-monitor", "h", [POOL]),
    ],
)  # fmt: skip
def test_where_objects_are_realised(world: Balanced, kind: str, id: str, owners: list[tuple[str, str]]) -> None:
    world.apply(Edit("health-monitor", "h", HealthMonitor(id="h", pool_id="p", type="TCP")))
    assert set(scope.concerned(world.topology, kind, id)) == at(*owners)
