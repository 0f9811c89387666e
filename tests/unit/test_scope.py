"""What a change makes dirty: no less than what differs when everything is compiled anew, and little more."""

from __future__ import annotations

import random
from ipaddress import ip_network

import pytest

from pipelines.compiler import FEATURES, Compiler, Feature
from topology import scope
from topology.changes import Edit
from topology.model import (
    AddressPair,
    FixedIp,
    FloatingIp,
    Link,
    MulticastGroup,
    Neighbour,
    PolicyRoute,
    PortForwarding,
    RouterGateway,
    StaticRoute,
    TunnelMesh,
)

from .policies import PolicyEditor, PolicyWorld
from .world import World

HYPERVISORS = ("h1", "h2", "h3")


def everything(world: World, features: tuple[Feature, ...] = FEATURES) -> dict[tuple[str, tuple[str, str]], list]:
    """What every owner wants of every hypervisor, compiled from nothing; owners that want nothing left out."""
    compiler = Compiler(features)
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

    def __init__(self, world: World, features: tuple[Feature, ...] = FEATURES) -> None:
        self.world, self.compiler = world, Compiler(features)
        self.state = everything(world, features)

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


# --- routers, their interfaces and routes, and the outside -------------------------------------------------------

INNER, OUTER, WIRED = ("a", "b", "c"), ("ext", "out"), "lan"
WIRES = ("phys", "other")


def routed_world() -> World:
    world = World()
    for number, name in enumerate(INNER, 1):
        world.network(name, number, f"10.0.{number}.0/24", f"fd00:{number}::/64")
    for number, name in enumerate(OUTER, 1):
        cidrs = f"203.0.{number}.0/24", f"2001:db8:{number}::/64"
        world.network(name, 100 + number, *cidrs, external=True, physical_network="phys")
    world.network(WIRED, 200, "10.0.200.0/24", physical_network="other", segmentation_id=7)
    return world


class Editor:
    """Random edits of a routed world. Each method makes one, as a batch of the kind that the store commits."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng, self.topology, self.number = world, rng, world.topology, 0

    def edit(self) -> list:
        self.number += 1
        name = self.rng.choice([name for name in dir(type(self)) if name.startswith("change_")])
        return getattr(self, name)() or []

    def pick(self, kind: str, *conditions) -> str | None:
        found = [id for id, obj in self.topology.all(kind).items() if all(holds(obj) for holds in conditions)]
        return self.rng.choice(found) if found else None

    def put(self, kind: str, id: str | None, **fields: object) -> list:
        return self.world.apply(Edit(kind, id, replace(self.topology.get(kind, id), **fields))) if id else []

    def address(self, network: str, version: int = 4) -> str | None:
        subnet = self.topology.get("subnet", f"{network}-{version}")
        return str(ip_network(subnet.cidr)[self.rng.randrange(2, 40)]) if subnet is not None else None

    def addresses(self, network: str) -> tuple[str, ...]:
        return tuple(a for version in (4, 6) if (a := self.address(network, version)))

    def change_port(self) -> list:
        network = self.rng.choice([*INNER, *INNER, WIRED, "ext"])
        ips = self.addresses(network)
        on = self.rng.choice([*HYPERVISORS, None])
        return self.world.port(f"p{self.number}", network, on=on, ips=ips) if ips else []

    def change_port_edit(self) -> list:
        id = self.pick("port", lambda port: port.router_id is None)
        if id is None:
            return []
        port = self.topology.get("port", id)
        shared = self.rng.choice(["10.0.1.99", "fd00:2::99", "10.0.2.0/28"])
        fields = self.rng.choice([
            {"admin_state_up": not port.admin_state_up}, {"allowed_address_pairs": (AddressPair(shared),)},
            {"allowed_address_pairs": (AddressPair(shared, "00:00:5e:00:01:01"),)}, {"allowed_address_pairs": ()},
            {"fixed_ips": port.fixed_ips[:1]}, {"mac_address": f"02:00:00:00:99:{self.number % 256:02x}"},
        ])  # fmt: skip
        return self.put("port", id, **fields)

    def change_port_gone(self) -> list:
        id = self.pick("port", lambda port: port.router_id is None)
        if id is None:
            return []
        unused = [
            Edit(kind, other, None)
            for kind, field in (("port-forwarding", "internal_port_id"), ("floating-ip", "port_id"))
            for other, obj in self.topology.all(kind).items()
            if getattr(obj, field) == id and kind == "port-forwarding"
        ]
        cleared = [
            Edit("floating-ip", other, replace(obj, port_id=None))
            for other, obj in self.topology.all("floating-ip").items()
            if obj.port_id == id
        ]
        gone = [Edit("vif", id, None)] if self.rng.random() < 0.5 else []
        return self.world.apply(*unused, *cleared, *gone, Edit("port", id, None))

    def change_plug(self) -> list:
        id = self.pick("port", lambda port: port.router_id is None)
        return (
            self.world.plug(id, self.rng.choice(HYPERVISORS), self.rng.choice([None, 500 + self.number])) if id else []
        )

    def change_unplug(self) -> list:
        id = self.pick("vif")
        return self.world.unplug(id) if id else []

    def change_router(self) -> list:
        return self.world.router(f"r{self.number}") if len(self.topology.all("router")) < 4 else []

    def change_router_gone(self) -> list:
        id = self.pick("router")
        if id is None or self.rng.random() < 0.5:
            return []
        interfaces = [Edit("port", port.id, None) for port in self.topology.interfaces_of(id)]
        return self.world.apply(*interfaces, Edit("router", id, None))

    def change_router_edit(self) -> list:
        id = self.pick("router")
        networks = [self.rng.choice([*INNER, "ext"]) for _ in range(3)]
        hops = tuple(hop for network in networks if (hop := self.address(network, self.rng.choice([4, 6]))))
        destinations = [self.rng.choice(["0.0.0.0/0", "192.0.2.0/24"]), self.rng.choice(["::/0", "2001:db8:9::/48"])]
        routes = tuple(StaticRoute(destinations[":" in hop], hop) for hop in hops)
        fields = self.rng.choice([
            {"admin_state_up": self.rng.random() < 0.8}, {"routes": routes}, {"routes": ()},
            {"policy_routes": (PolicyRoute(priority=self.number % 3, source="10.0.1.0/24", nexthops=hops),)},
            {"policy_routes": (PolicyRoute(priority=1, action="drop", protocol="tcp", destination_port=25),)},
            {"enable_snat": self.rng.random() < 0.5},
            {"gateway_hypervisors": tuple(
                RouterGateway(h, self.rng.randrange(3)) for h in HYPERVISORS if self.rng.random() < 0.5)},
        ])  # fmt: skip
        return self.put("router", id, **fields)

    def change_interface(self) -> list:
        router, network = self.pick("router"), self.rng.choice([*INNER, *INNER, WIRED, *OUTER])
        if router is None or f"{router}-{network}" in self.topology.all("port"):
            return []
        if network in OUTER and self.topology.gateway_of(router) is not None:
            return []
        ips = self.addresses(network)
        return self.world.interface(router, network, *ips) if ips else []

    change_another_interface = change_interface

    def change_interface_edit(self) -> list:
        id = self.pick("port", lambda port: port.router_id is not None)
        if id is None:
            return []
        port = self.topology.get("port", id)
        subnets = {fixed.subnet_id for fixed in port.fixed_ips}
        moved = tuple(FixedIp(s, self.address(port.network_id, 6 if s.endswith("6") else 4)) for s in sorted(subnets))
        fields = self.rng.choice([{"admin_state_up": self.rng.random() < 0.7}, {"fixed_ips": moved}])
        return self.put("port", id, **fields)

    def change_interface_gone(self) -> list:
        id = self.pick("port", lambda port: port.router_id is not None)
        return self.world.apply(Edit("port", id, None)) if id and self.rng.random() < 0.5 else []

    def change_subnet(self) -> list:
        network, version = self.rng.choice(INNER + OUTER), self.rng.choice([4, 6])
        id = f"{network}-{version}"
        if self.topology.get("subnet", id) is None:
            third = (INNER + OUTER).index(network) + 50
            return self.world.subnet(id, network, f"10.9.{third}.0/24" if version == 4 else f"fd09:{third}::/64")
        if not any(kind in ("port", "floating-ip") for kind, _ in self.topology.referrers("subnet", id)):
            return self.world.apply(Edit("subnet", id, None))
        gateway = self.rng.choice([None, self.address(network, version)])
        return self.put("subnet", id, gateway_ip=gateway, enable_dhcp=self.rng.random() < 0.7)

    def change_network(self) -> list:
        id = self.rng.choice([*INNER, *OUTER, WIRED])
        if self.rng.random() < 0.3:
            return self.put("network", id, admin_state_up=not self.topology.get("network", id).admin_state_up)
        return self.put("network", id, mtu=self.rng.choice([None, 1300, 1400, 1500, 1600]))

    def change_wires(self) -> list:
        return self.world.wire(self.rng.choice(HYPERVISORS), *(wire for wire in WIRES if self.rng.random() < 0.6))

    def change_hypervisor(self) -> list:
        fields = self.rng.choice([
            {"gateway": self.rng.random() < 0.7}, {"tunnel_ip": f"192.168.60.{self.number % 250}"},
            {"tunnel_ip": f"fd60::{self.number}"},
        ])  # fmt: skip
        return self.put("hypervisor", self.rng.choice(HYPERVISORS), **fields)

    def change_bridge(self) -> list:
        return self.put("bridge", self.rng.choice(HYPERVISORS), tunnel_ofport=self.rng.choice([1000, 1001, None]))

    def change_mesh(self) -> list:
        if self.rng.random() < 0.7:
            return []
        fields = {"tunnel_type": self.rng.choice(["geneve", "vxlan"]), "underlay_mtu": self.rng.choice([1500, 9000])}
        return self.put("tunnel-mesh", "mesh", **fields)

    def change_link(self) -> list:
        here, there = self.rng.sample(HYPERVISORS, 2)
        id = f"{here}/{there}"
        ofport, settled = self.rng.choice([None, 2000 + self.number]), self.rng.random() < 0.5
        link = Link(hypervisor_id=here, peer_id=there, ofport=ofport, up=True, settled=settled)
        return self.world.apply(Edit("link", id, link if self.rng.random() < 0.8 else None))

    def change_floating_ip(self) -> list:
        port = self.pick("port", lambda port: port.router_id is None and port.network_id in INNER)
        id = self.pick("floating-ip")
        if id is not None and self.rng.random() < 0.6:
            if self.rng.random() < 0.5:
                return self.put("floating-ip", id, port_id=self.rng.choice([None, port]))
            under = [Edit("port-forwarding", each, None) for each in self.topology.forwardings_of(id)]
            return self.world.apply(*under, Edit("floating-ip", id, None))
        network = self.rng.choice(OUTER)
        subnet = self.topology.get("subnet", f"{network}-4")
        if subnet is None:
            return []
        floating = FloatingIp(
            id=f"f{self.number}", floating_network_id=network, subnet_id=subnet.id, port_id=port,
            floating_ip_address=str(ip_network(subnet.cidr)[60 + self.number % 190]),
            mac_address=f"02:00:00:00:77:{self.number % 256:02x}",
        )  # fmt: skip
        return self.world.apply(Edit("floating-ip", floating.id, floating))

    def change_forwarding(self) -> list:
        id = self.pick("port-forwarding")
        if id is not None and self.rng.random() < 0.5:
            return self.world.apply(Edit("port-forwarding", id, None))
        floating = self.pick("floating-ip", lambda floating: floating.port_id is None)
        port = self.pick("port", lambda port: port.router_id is None and port.network_id in INNER and port.fixed_ips)
        if floating is None or port is None:
            return []
        inside = self.topology.get("port", port).fixed_ips[0].ip_address
        forwarding = PortForwarding(
            id=f"w{self.number}", floating_ip_id=floating, protocol="tcp", external_port=1000 + self.number,
            internal_port_id=port, internal_ip_address=inside, internal_port=80,
        )  # fmt: skip
        return self.world.apply(Edit("port-forwarding", forwarding.id, forwarding)) if ":" not in inside else []

    def change_neighbour(self) -> list:
        id = self.pick("neighbour")
        if id is not None and self.rng.random() < 0.5:
            return self.world.apply(Edit("neighbour", id, None))
        network = self.rng.choice([*OUTER, WIRED])
        address = self.address(network)
        if address is None or (network, address) in self.topology.neighbours:
            return []
        neighbour = Neighbour(
            id=f"n{self.number}", network_id=network, ip_address=address, learned=self.rng.random() < 0.5,
            mac_address=f"02:00:00:00:88:{self.number % 256:02x}",
        )  # fmt: skip
        return self.world.apply(Edit("neighbour", neighbour.id, neighbour))

    def change_multicast_group(self) -> list:
        network = self.rng.choice(INNER)
        ports = frozenset(port for port in self.topology.ports_of(network) if self.rng.random() < 0.5)
        group = self.rng.choice(["239.1.1.1", "ff05::7"])
        wanted = MulticastGroup(network_id=network, group=group, ports=ports) if ports else None
        return self.world.apply(Edit("multicast-group", f"{network}/{group}", wanted))


@pytest.mark.parametrize("seed", range(30))
def test_following_changes_of_routers_leads_where_compiling_everything_leads(seed: int) -> None:
    world, rng = routed_world(), random.Random(seed)
    editor, follower = Editor(world, rng), Follower(world)
    for number in range(150):
        changes = [change for _ in range(rng.choice([1, 1, 1, 2, 4])) for change in editor.edit()]
        follower.follow(changes)
        now = everything(world)
        for key in follower.state.keys() | now.keys():
            assert follower.state.get(key) == now.get(key), f"{key} after step {number}: {changes}"


# --- security groups ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_following_changes_of_security_groups_leads_where_compiling_everything_leads(seed: int) -> None:
    """VMs, groups, labels, rules and identities change, in batches."""
    rng = random.Random(f"policies {seed}")
    world = PolicyWorld(rng, hypervisors=3)
    follower = Follower(world)
    for number in range(100):
        changes = [change for _ in range(rng.choice([1, 1, 1, 2, 5])) for change in world.editor.edit()]
        follower.follow(changes)
        now = everything(world)
        for key in follower.state.keys() | now.keys():
            assert follower.state.get(key) == now.get(key), f"{key} after step {number}: {changes}"


@pytest.mark.parametrize("seed", range(5))
def test_following_all_kinds_of_changes_leads_where_compiling_everything_leads(seed: int) -> None:
    rng = random.Random(f"all {seed}")
    world = routed_world()
    editors = Editor(world, rng), PolicyEditor(world, rng, networks=INNER)
    follower = Follower(world)
    for number in range(150):
        changes = [change for _ in range(rng.choice([1, 1, 2, 4])) for change in rng.choice(editors).edit()]
        follower.follow(changes)
        now = everything(world)
        for key in follower.state.keys() | now.keys():
            assert follower.state.get(key) == now.get(key), f"{key} after step {number}: {changes}"


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
        ("h1", ("qos", "new")),
    }  # fmt: skip


def test_a_port_that_is_not_plugged_compiles_nothing() -> None:
    world = large_world(30)
    assert not set(scope.dirty(world.topology, world.port("new", "a")))


def test_an_ofport_compiles_the_port_on_its_own_hypervisor_only() -> None:
    world = large_world(30)
    world.port("new", "a")
    world.plug("new", "h1", None)
    plugged = set(scope.dirty(world.topology, world.plug("new", "h1", 7)))
    assert plugged == {("h1", ("port", "new")), ("h1", ("qos", "new"))}


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
    assert set(scope.owners_on(world.topology, "h3")) == {
        ("base", "h3"), ("policy", "h3"), ("network", "b"), ("port", "b3"), ("qos", "b3"),
    }  # fmt: skip
    assert set(scope.owners_on(world.topology, "h1")) == {
        ("base", "h1"), ("policy", "h1"), ("peer", "h2"), ("network", "a"), ("port", "a1"), ("port", "a2"),
        ("qos", "a1"),
    }  # fmt: skip
