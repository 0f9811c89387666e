"""What a change makes dirty: no less than what differs when everything is compiled anew, and little more."""

from __future__ import annotations

import random

import pytest

from pipelines.compiler import Compiler
from topology import scope
from topology.changes import Edit
from topology.model import TunnelMesh

from .world import World

HYPERVISORS = ("h1", "h2", "h3")


def everything(world: World) -> dict[tuple[str, tuple[str, str]], list]:
    """What every owner wants of every hypervisor, compiled from nothing; owners that want nothing left out."""
    compiler = Compiler()
    found = {}
    for hypervisor in HYPERVISORS:
        if world.topology.get("hypervisor", hypervisor) is None:
            continue
        for owner in scope.owners_on(world.topology, hypervisor):
            rules = compiler.compile(world.topology, hypervisor, owner)
            if rules:
                found[hypervisor, owner] = rules
    return found


class Follower:
    """Compiles only what scope calls dirty."""

    def __init__(self, world: World) -> None:
        self.world, self.compiler = world, Compiler()
        self.state = everything(world)

    def follow(self, changes) -> set:
        dirty = set(scope.dirty(self.world.topology, changes))
        for hypervisor, owner in dirty:
            rules = self.compiler.compile(self.world.topology, hypervisor, owner)
            if rules:
                self.state[hypervisor, owner] = rules
            else:
                self.state.pop((hypervisor, owner), None)
        return dirty


def step(world: World, rng: random.Random, number: int) -> list:
    """One random edit."""
    topology = world.topology
    ports, plugged = list(topology.all("port")), list(topology.all("vif"))
    choice = rng.randrange(11)
    if choice <= 2 or not ports:
        return world.port(f"p{number}", rng.choice(["a", "b"]), on=rng.choice([*HYPERVISORS, None]))
    port = topology.get("port", rng.choice(ports))
    if choice <= 4:
        return world.plug(port.id, rng.choice(HYPERVISORS), rng.choice([None, number + 1]))
    if choice == 5 and plugged:
        return world.unplug(rng.choice(plugged))
    if choice == 6:
        gone = world.unplug(port.id) if rng.random() < 0.5 else []
        return gone + world.apply(Edit("port", port.id, None))
    if choice == 7:
        changed = (
            {"admin_state_up": not port.admin_state_up} if rng.random() < 0.5 else {"port_security_enabled": False}
        )
        return world.apply(Edit("port", port.id, replace(port, **changed)))
    if choice == 8:
        network = topology.get("network", rng.choice(["a", "b"]))
        return world.apply(Edit("network", network.id, replace(network, admin_state_up=not network.admin_state_up)))
    if choice == 9:
        hypervisor = topology.get("hypervisor", rng.choice(HYPERVISORS))
        return world.apply(
            Edit("hypervisor", hypervisor.id, replace(hypervisor, tunnel_ip=f"192.168.60.{number % 250}"))
        )
    if rng.random() < 0.3:
        kind = rng.choice(["geneve", "vxlan"])
        return world.apply(Edit("tunnel-mesh", "mesh", TunnelMesh(id="mesh", tunnel_type=kind)))
    bridge = topology.get("bridge", rng.choice(HYPERVISORS))
    return world.apply(
        Edit("bridge", bridge.hypervisor_id, replace(bridge, tunnel_ofport=rng.choice([1000, 1001, None])))
    )


def replace(obj, **fields):
    return type(obj)(**{name: getattr(obj, name) for name in obj.__struct_fields__} | fields)


@pytest.mark.parametrize("seed", range(25))
def test_following_changes_leads_where_compiling_everything_leads(seed: int) -> None:
    world, rng = World(), random.Random(seed)
    world.network("a", 1)
    world.network("b", 2)
    follower = Follower(world)
    for number in range(120):
        follower.follow(step(world, rng, number))
        assert follower.state == everything(world), f"after step {number}"


def large_world(ports: int) -> World:
    world = World()
    world.network("a", 1)
    world.network("b", 2)
    for n in range(ports):
        world.port(f"p{n}", "a" if n % 2 else "b", on=HYPERVISORS[n % 3])
    return world


def test_one_more_port_compiles_only_itself_and_its_hypervisors_broadcast() -> None:
    world = large_world(1000)
    changes = world.port("new", "a", on="h1")
    assert set(scope.dirty(world.topology, changes)) == {
        ("h1", ("port", "new")), ("h2", ("port", "new")), ("h3", ("port", "new")), ("h1", ("network", "a")),
    }  # fmt: skip


def test_a_port_that_is_not_plugged_compiles_nothing() -> None:
    world = large_world(30)
    assert not set(scope.dirty(world.topology, world.port("new", "a")))


def test_an_ofport_compiles_the_port_on_its_own_hypervisor_only() -> None:
    world = large_world(30)
    world.port("new", "a")
    world.plug("new", "h1", None)
    assert set(scope.dirty(world.topology, world.plug("new", "h1", 7))) == {("h1", ("port", "new"))}


def test_a_name_compiles_nothing() -> None:
    world = large_world(30)
    port = world.topology.get("port", "p1")
    assert not set(
        scope.dirty(world.topology, world.apply(Edit("port", "p1", replace(port, name="web", host_id="h1"))))
    )


def test_a_hypervisor_gets_only_networks_it_has() -> None:
    world = World()
    world.network("a", 1)
    world.network("b", 2)
    world.port("a1", "a", on="h1")
    world.port("a2", "a", on="h2")
    world.port("b3", "b", on="h3")
    assert set(scope.owners_on(world.topology, "h3")) == {("base", "h3"), ("network", "b"), ("port", "b3")}
    assert set(scope.owners_on(world.topology, "h1")) == {
        ("base", "h1"), ("peer", "h2"), ("network", "a"), ("port", "a1"), ("port", "a2"),
    }  # fmt: skip
