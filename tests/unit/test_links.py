"""Who watches whom: gateways and those that they serve; and nobody's choice changes unnoticed."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from topology import links
from topology.changes import Change, Edit
from topology.model import Link, RouterGateway

from .world import World

HYPERVISORS = ("h1", "h2", "h3", "h4")


def realm() -> World:
    """A router from network ``in`` to ``ext``, with the gateways h1 and h2."""
    world = World(4)
    world.network("in", 1, "10.0.1.0/24")
    world.network("ext", 2, "203.0.113.0/24", external=True, physical_network="phys")
    world.wire("h1", "phys")
    world.wire("h2", "phys")
    world.router("r", "in", "ext")
    return world


def watched(world: World) -> dict[str, set[str]]:
    return {id: {peer.id for peer in links.watched(world.topology, id).values()} for id in HYPERVISORS}


def test_gateways_watch_those_that_they_serve_and_each_other() -> None:
    world = realm()
    assert watched(world) == {"h1": {"h2"}, "h2": {"h1"}, "h3": set(), "h4": set()}
    world.port("p", "in", on="h3")
    assert watched(world) == {"h1": {"h2", "h3"}, "h2": {"h1", "h3"}, "h3": {"h1", "h2"}, "h4": set()}


def test_a_hypervisor_without_a_tunnel_endpoint_is_not_watched() -> None:
    world = realm()
    world.port("p", "in", on="h3")
    world.apply(Edit("hypervisor", "h3", replace(world.topology.get("hypervisor", "h3"), tunnel_ip=None)))
    assert watched(world)["h1"] == {"h2"}


def test_who_is_alive_is_asked_of_probes_that_tell_something() -> None:
    world = realm()

    def alive() -> bool:
        return links.is_alive(world.topology, "h1", lambda id: id != "h4")

    def link(here: str, up: bool, settled: bool = True) -> None:
        world.apply(Edit("link", f"{here}/h1", Link(hypervisor_id=here, peer_id="h1", up=up, settled=settled)))

    assert alive(), "nobody looks"
    link("h2", up=False, settled=False)
    assert alive(), "it was not up yet"
    link("h4", up=False)
    assert alive(), "that was seen long ago"
    link("h2", up=False)
    assert not alive()
    link("h3", up=True)
    assert alive(), "somebody sees it"


def step(world: World, rng: random.Random, number: int) -> list[Change]:
    """One random edit."""
    topology = world.topology
    networks, routers = ["a", "b", "c", "ext"], list(topology.all("router"))
    vms = [id for id, port in topology.all("port").items() if port.router_id is None]
    interfaces = [id for id, port in topology.all("port").items() if port.router_id is not None]
    match rng.randrange(10):
        case 0 | 1:
            return world.port(f"p{number}", rng.choice(networks), on=rng.choice(HYPERVISORS))
        case 2 if vms:
            return world.plug(rng.choice(vms), rng.choice(HYPERVISORS))
        case 3 if vms:
            gone = rng.choice(vms)
            return world.apply(Edit("vif", gone, None), Edit("port", gone, None))
        case 4:
            return world.wire(rng.choice(HYPERVISORS), *(["phys"] if rng.random() < 0.6 else []))
        case 5 if len(routers) < 4:
            return world.router(f"r{number}")
        case 6 if routers:
            router, network = rng.choice(routers), rng.choice(networks)
            taken = topology.get("port", f"{router}-{network}") is not None
            return [] if taken else world.interface(router, network)
        case 7 if interfaces:
            return world.apply(Edit("port", rng.choice(interfaces), None))
        case 8 if routers:
            router = topology.get("router", rng.choice(routers))
            named = tuple(RouterGateway(id, rng.randrange(3)) for id in HYPERVISORS if rng.random() < 0.4)
            return world.apply(Edit("router", router.id, replace(router, gateway_hypervisors=named)))
        case 9:
            hypervisor = topology.get("hypervisor", rng.choice(HYPERVISORS))
            ip = rng.choice([None, f"fd60::{number}", f"fd60::{number}"])
            return world.apply(Edit("hypervisor", hypervisor.id, replace(hypervisor, tunnel_ip=ip)))
    return []


@pytest.mark.parametrize("seed", range(40))
def test_following_changes_leads_where_asking_everybody_leads(seed: int) -> None:
    world, rng = World(4), random.Random(seed)
    for number, name in enumerate("abc", 1):
        world.network(name, number, f"10.0.{number}.0/24")
    world.network("ext", 9, "203.0.113.0/24", external=True, physical_network="phys")
    known = {id: links.watched(world.topology, id) for id in HYPERVISORS}
    for number in range(150):
        changes = [change for n in range(rng.choice([1, 1, 3])) for change in step(world, rng, 10 * number + n)]
        for id in links.concerned(world.topology, changes):
            known[id] = links.watched(world.topology, id)
        assert known == {id: links.watched(world.topology, id) for id in HYPERVISORS}, f"after step {number}: {changes}"


def test_one_more_vm_on_a_hypervisor_concerns_nobody() -> None:
    world = realm()
    world.port("p", "in", on="h3")
    assert links.concerned(world.topology, world.port("q", "in", on="h3")) == set()
    assert links.concerned(world.topology, world.port("s", "in", on="h4")) == {"h1", "h2", "h4"}
