"""What load balancers come to: how they are reached, who serves, and with which share."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from topology import balancing
from topology.changes import Edit
from topology.model import FloatingIp, HealthMonitor, Listener, LoadBalancer, Member, Pool, SessionPersistence

from .world import Routed


class Balanced(Routed):
    """A load balancer in network a, with a pool that has the VM a1 (10.0.0.11, on h1); b1 and b2 are behind the router."""

    def __init__(self) -> None:
        super().__init__()
        self.balancer(
            "lb", vip_network_id="a", vip_subnet_id="a-4", vip_address="10.0.0.100", vip_mac_address="02:00:00:00:99:01"
        )
        self.pool("p")
        self.member("m1", "10.0.0.11", "a-4")

    def balancer(self, id: str, **fields: object) -> None:
        self.apply(Edit("load-balancer", id, LoadBalancer(id=id, balancer_key=7, **fields)))

    def pool(self, id: str, of: str = "lb", **fields: object) -> None:
        self.apply(Edit("pool", id, Pool(id=id, loadbalancer_id=of, pool_key=9, **{"protocol": "TCP", **fields})))

    def listener(self, id: str, port: int, **fields: object) -> None:
        fields = {"loadbalancer_id": "lb", "protocol": "TCP", **fields}
        self.apply(Edit("listener", id, Listener(id=id, protocol_port=port, **fields)))

    def member(self, id: str, address: str, subnet: str, **fields: object) -> None:
        fields = {"pool_id": "p", "protocol_port": 80, "member_key": len(self.topology.all("member")) + 1, **fields}
        self.apply(Edit("member", id, Member(id=id, address=address, subnet_id=subnet, **fields)))

    def states(self) -> dict[str, str]:
        return {each.member_id: each.state for each in balancing.pool(self.topology, "p").backends}

    def weights(self) -> dict[str, int]:
        return {each.member_id: each.weight for each in balancing.pool(self.topology, "p").dealt}


@pytest.fixture
def world() -> Balanced:
    return Balanced()


# --- load balancers ----------------------------------------------------------------------------------------------


def test_ways_to_a_load_balancer(world: Balanced) -> None:
    topology = world.topology
    (entry,) = balancing.balancer(topology, "lb").entries
    assert entry == balancing.Entry("network", "10.0.0.100", network_id="a", mac="02:00:00:00:99:01")
    world.balancer("on-router", router_id="r", vip_address="10.96.0.1", vip_mac_address="02:00:00:00:99:02")
    (entry,) = balancing.balancer(topology, "on-router").entries
    assert entry == balancing.Entry("router", "10.96.0.1", router_id="r")
    world.network("out", 9, "192.0.2.0/24", external=True, physical_network="wire")
    for id, balancer in (("f1", "lb"), ("f2", "on-router")):
        floating = FloatingIp(
            id=id, floating_network_id="out", subnet_id="out-4", floating_ip_address=f"192.0.2.{id[1]}",
            mac_address="02:00:00:00:99:03", loadbalancer_id=balancer,
        )  # fmt: skip
        world.apply(Edit("floating-ip", id, floating))
        assert len(balancing.balancer(topology, balancer).entries) == 1, "no router leads there"
    world.interface("r", "out", "192.0.2.9")
    for id, balancer in (("f1", "lb"), ("f2", "on-router")):
        outside = balancing.Entry(
            "outside", f"192.0.2.{id[1]}", network_id="out", router_id="r", mac="02:00:00:00:99:03"
        )
        assert balancing.balancer(topology, balancer).entries[1:] == (outside,)


def test_services_of_a_load_balancer(world: Balanced) -> None:
    world.listener("l1", 8000, protocol_port_max=8100, default_pool_id="p")
    world.listener("l2", 80)
    world.listener("l3", 80, protocol="UDP", default_pool_id="gone")
    world.listener("l4", 443, admin_state_up=False)
    services = balancing.balancer(world.topology, "lb").services
    assert [(s.listener_id, s.protocol, s.ports, s.pool_id) for s in services] == [
        ("l2", 6, (80, 80), None), ("l1", 6, (8000, 8100), "p"), ("l3", 17, (80, 80), None),
    ]  # fmt: skip
    world.edit("pool", "p", admin_state_up=False)
    assert balancing.balancer(world.topology, "lb").services[1].pool_id is None
    assert balancing.pool(world.topology, "p") is None
    world.edit("load-balancer", "lb", admin_state_up=False)
    assert balancing.balancer(world.topology, "lb") is None


def test_what_a_load_balancer_reaches(world: Balanced) -> None:
    world.network("lonely", 5, "10.0.5.0/24")
    world.network("out", 9, "192.0.2.0/24", external=True, physical_network="wire")
    world.interface("r", "out", "192.0.2.9")
    world.balancer("on-router", router_id="r", vip_address="10.96.0.1")
    for id in ("lb", "on-router"):
        assert balancing.reachable(world.topology, world.topology.get("load-balancer", id)) == {"a", "b"}


# --- pools -------------------------------------------------------------------------------------------------------


def test_a_pool_is_the_same_in_whatever_order_members_came(world: Balanced) -> None:
    members = [("m2", "10.0.1.11", "b-4", 80), ("m3", "10.0.1.12", "b-4", 80), ("m4", "10.0.0.11", "a-4", 9)]
    found = set()
    for seed in range(6):
        other = Balanced()
        random.Random(seed).shuffle(members)
        for id, address, subnet, port in members:
            other.member(id, address, subnet, protocol_port=port, member_key=ord(id[1]))
        found.add(balancing.pool(other.topology, "p"))
    (one,) = found
    assert [each.name for each in one.backends] == ["10.0.0.11:9", "10.0.0.11:80", "10.0.1.11:80", "10.0.1.12:80"]
    assert (one.protocol, one.algorithm, one.size, one.affinity, one.resets) == (6, "maglev", 1021, None, True)


def test_names_of_backends() -> None:
    backend = balancing.Backend("m", 1, "2001:db8::1", 80, 1, "serving")
    assert backend.name == "[2001:db8::1]:80"
    assert replace(backend, port=None, address="10.0.0.1").name == "10.0.0.1"


def test_a_member_is_what_its_vm_is(world: Balanced) -> None:
    (backend,) = balancing.pool(world.topology, "p").backends
    a1 = world.topology.get("port", "a1")
    assert (backend.port_id, backend.network_id, backend.mac) == ("a1", "a", a1.mac_address)
    member = world.topology.get("member", "m1")

    def states(*changes: tuple[str, str, dict[str, object]]) -> tuple[str, bool, bool]:
        """The member's state, whether it is kept, and whether it is told to be idle, after further changes."""
        for kind, id, fields in changes:
            world.edit(kind, id, **fields)
        found = balancing.pool(world.topology, "p")
        assert bool(found.dealt) == (found.backends[0].state == "serving")
        return found.backends[0].state, bool(found.kept), bool(balancing.idle(world.topology, member))

    assert states() == ("serving", True, False)
    world.unplug("a1")
    assert states() == ("unplugged", True, True)
    world.plug("a1", "h2")
    assert states(("port", "a1", {"admin_state_up": False})) == ("absent", False, True)
    assert states(("port", "a1", {"admin_state_up": True}), ("network", "a", {"admin_state_up": False}))[0] == "absent"
    assert states(("network", "a", {"admin_state_up": True}), ("member", "m1", {"health": "down"}))[0] == "serving"
    world.apply(Edit("health-monitor", "h", HealthMonitor(id="h", pool_id="p", type="TCP")))
    assert states() == ("down", False, False)
    assert states(("health-monitor", "h", {"admin_state_up": False}))[0] == "serving"
    assert states(("member", "m1", {"weight": 0})) == ("draining", True, False)
    assert states(("member", "m1", {"drain_until": 1234})) == ("draining", True, False)
    assert states(("member", "m1", {"drain_until": 0})) == ("drained", False, False)
    assert states(("member", "m1", {"weight": 1, "admin_state_up": False})) == ("disabled", False, False)
    world.edit("member", "m1", admin_state_up=True)
    world.apply(Edit("port", "a1", None))
    assert states() == ("absent", False, True)


def test_a_member_behind_a_router_that_is_gone_is_absent(world: Balanced) -> None:
    world.member("m2", "10.0.1.11", "b-4")
    assert world.states() == {"m1": "serving", "m2": "serving"}
    world.apply(Edit("port", "r-b", None))
    assert world.states() == {"m1": "serving", "m2": "absent"}


def test_backups_serve_when_nobody_else_does(world: Balanced) -> None:
    world.member("m2", "10.0.1.11", "b-4", backup=True, weight=3)
    assert world.states() == {"m1": "serving", "m2": "standby"} and world.weights() == {"m1": 1}
    world.edit("member", "m1", weight=0)
    assert world.states() == {"m1": "draining", "m2": "serving"} and world.weights() == {"m2": 1}
    world.edit("member", "m2", admin_state_up=False)
    assert world.weights() == {}


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("maglev", {"m1": 2, "m2": 3}), ("consistent_hashing", {"m1": 2, "m2": 3}),
        ("weighted_round_robin", {"m1": 2, "m2": 3}), ("round_robin", {"m1": 1, "m2": 1}),
        ("least_connections", {"m1": 2 * 64, "m2": 37}),
    ],
)  # fmt: skip
def test_weights_of_slots(world: Balanced, algorithm: str, expected: dict[str, int]) -> None:
    world.edit("member", "m1", weight=20)
    world.member("m2", "10.0.1.11", "b-4", weight=30, slot_weight=370)
    world.member("m3", "10.0.1.12", "b-4", weight=0, slot_weight=64)
    world.edit("pool", "p", lb_algorithm=algorithm, session_persistence=SessionPersistence(type="SOURCE_IP"))
    found = balancing.pool(world.topology, "p")
    assert world.weights() == expected and (found.algorithm, found.affinity) == (algorithm, 300)
