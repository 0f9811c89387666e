"""How uplinks are to be shaped: classes, what they have, who is in which, and what a change changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from topology.changes import Edit
from topology.model import AddressPair, QosPolicy, QosRule, Uplink
from topology.shaping import (
    CONTROL,
    FIRST_OF_PORTS,
    LAST_OF_PORTS,
    OTHERS,
    OWN,
    Leaf,
    Shape,
    Tunnel,
    numbers,
    of_interfaces,
    shapes,
)

from .world import World

MEGABIT = 1000


class Shaped(World):
    """Hypervisor h1 with uplinks ``eth0`` for tunnels (100 Mbit/s) and ``eth1`` for ``phys`` (50 Mbit/s); networks ``a`` and ``wire``."""

    def __init__(self, **mesh: Any) -> None:
        super().__init__(2, **mesh)
        self.network("a", 7, "10.0.0.0/24")
        self.network("wire", 8, "10.1.0.0/24", physical_network="phys", segmentation_id=42)
        self.wire("h1", "phys")
        self.uplinks(("eth0", 100 * MEGABIT, ""), ("eth1", 50 * MEGABIT, "phys"))

    def uplinks(self, *uplinks: tuple[str, int, str]) -> None:
        found = tuple(
            Uplink(interface=name, bandwidth_kbps=kbps, physical_network=wire) for name, kbps, wire in uplinks
        )
        self.put("hypervisor", "h1", uplinks=found)

    def put(self, kind: str, id: str, **fields: Any) -> None:
        self.apply(Edit(kind, id, replace(self.topology.get(kind, id), **fields)))

    def vm(self, id: str, network: str = "a", on: str = "h1", **rules: int) -> int:
        """A VM with a policy of its own; ``min_kbps``, ``priority``, ``max_latency_ms`` as given. Its key."""
        ip = f"10.{0 if network == 'a' else 1}.0.{10 + len(self.topology.all('port'))}"
        self.port(id, network, on=on, ips=(ip,))
        types = {"min_kbps": "minimum_bandwidth", "priority": "priority", "max_latency_ms": "max_latency"}
        self.apply(Edit("qos-policy", f"p-{id}", QosPolicy(id=f"p-{id}")))
        for name, value in rules.items():
            rule = QosRule(id=f"{id}-{name}", qos_policy_id=f"p-{id}", type=types[name], **{name: value})  # type: ignore[arg-type]
            self.apply(Edit("qos-rule", rule.id, rule))
        self.put("port", id, qos_policy_id=f"p-{id}")
        return int(self.topology.get("port", id).port_key)

    def shape(self, interface: str = "eth0") -> Shape:
        return next(shape for shape in shapes(self.topology, "h1") if shape.interface == interface)

    def leaf(self, name: str, interface: str = "eth0") -> Leaf:
        return next(leaf for leaf in self.shape(interface).leaves if leaf.name == name)


def test_without_uplinks_nothing_is_shaped() -> None:
    world = Shaped()
    world.uplinks()
    world.vm("vm1", min_kbps=1000)
    assert shapes(world.topology, "h1") == () == shapes(world.topology, "nobody")


def test_interfaces_are_shaped_that_a_policy_says_of_whatever_the_uplinks() -> None:
    world = Shaped()
    world.uplinks()
    for id in ("one", "other"):
        world.vm(id)
    world.vm("elsewhere", on="h2")
    for id in ("one", "elsewhere"):
        rule = QosRule(
            id=f"{id}-r", qos_policy_id=f"p-{id}", type="bandwidth_limit", direction="ingress", max_kbps=900, shape=True
        )
        world.apply(Edit("qos-rule", rule.id, rule))
    assert list(of_interfaces(world.topology, "h1")) == [("one", 900)]
    world.put("qos-rule", "one-r", shape=False)
    assert list(of_interfaces(world.topology, "h1")) == []


def test_an_uplink_without_ports_has_what_every_uplink_has() -> None:
    shape = Shaped().shape()
    assert [leaf.number for leaf in shape.leaves] == [CONTROL, OWN, OTHERS]
    assert shape.tunnel == Tunnel("geneve", 6081, "192.168.50.1")
    assert (shape.senders, shape.sources, shape.wires) == ((), (), ())


def test_a_guarantee_is_a_rate_and_the_uplink_is_there_to_borrow() -> None:
    world = Shaped()
    key = world.vm("vm1", min_kbps=30 * MEGABIT)
    leaf = world.leaf("vm1")
    assert (leaf.rate_kbps, leaf.ceil_kbps, leaf.order) == (30 * MEGABIT, 100 * MEGABIT, 7)
    assert world.shape().senders == ((key, leaf.number),)


def test_all_that_is_assured_fits_the_uplink_however_many_ports_there_are() -> None:
    world = Shaped()
    for n in range(19):
        world.vm(f"gold{n}", min_kbps=5 * MEGABIT)
    for n in range(30):
        world.vm(f"first{n}", priority=n % 8)
    leaves = world.shape().leaves
    assert len(leaves) == 3 + 49 and sum(leaf.rate_kbps for leaf in leaves) <= 100 * MEGABIT
    assert all(leaf.rate_kbps >= 1 for leaf in leaves)
    assert world.leaf("others").rate_kbps >= 1 * MEGABIT, "who has no policy does not starve"


def test_what_was_promised_twice_is_shared() -> None:
    world = Shaped()
    world.vm("vm1", min_kbps=100 * MEGABIT)
    world.vm("vm2", min_kbps=90 * MEGABIT)
    assert (world.leaf("vm1").rate_kbps, world.leaf("vm2").rate_kbps) == (50 * MEGABIT, 45 * MEGABIT)


def test_priority_orders_and_latency_bounds_the_queue() -> None:
    world = Shaped()
    world.vm("first", priority=7)
    world.vm("last", priority=0)
    world.vm("voice", max_latency_ms=10, min_kbps=8 * MEGABIT)
    world.vm("signal", max_latency_ms=10, priority=6)
    assert [world.leaf(name).order for name in ("first", "last", "voice", "signal", "others", "control")] == [
        0,
        7,
        2,
        1,
        7,
        0,
    ]
    assert world.leaf("voice").queue_bytes == 8 * MEGABIT * 10 // 8
    assert world.leaf("first").queue_bytes == world.leaf("others").queue_bytes > world.leaf("voice").queue_bytes


def test_another_guarantee_changes_one_class_and_no_classifier() -> None:
    world = Shaped()
    for n in range(5):
        world.vm(f"vm{n}", min_kbps=MEGABIT)
    before = world.shape()
    world.put("qos-rule", "vm3-min_kbps", min_kbps=2 * MEGABIT)
    after = world.shape()
    assert [old.name for old, new in zip(before.leaves, after.leaves, strict=True) if old != new] == ["vm3"]
    assert before.senders == after.senders


def test_a_port_that_comes_leaves_the_others_their_numbers() -> None:
    world = Shaped()
    world.vm("vm1", min_kbps=MEGABIT)
    world.vm("vm2", priority=3)
    before = {leaf.name: leaf for leaf in world.shape().leaves}
    world.vm("vm3", priority=5)
    after = {leaf.name: leaf for leaf in world.shape().leaves}
    assert after.pop("vm3").order == 2 and after == before


def test_ports_elsewhere_routers_and_ports_without_such_a_rule_have_no_class() -> None:
    world = Shaped()
    world.vm("there", on="h2", min_kbps=MEGABIT)
    world.vm("limited")
    world.router("r")
    world.interface("r", "a", "10.0.0.1")
    assert len(world.shape().leaves) == 3


def test_a_networks_policy_gives_each_of_its_ports_a_class() -> None:
    world = Shaped()
    world.vm("vm1", min_kbps=MEGABIT)
    world.vm("vm2")
    world.put("network", "a", qos_policy_id="p-vm1")
    world.put("port", "vm2", qos_policy_id=None)
    assert world.leaf("vm2").rate_kbps == MEGABIT


def test_a_provider_networks_ports_are_on_its_wire_and_told_by_their_addresses() -> None:
    world = Shaped()
    world.vm("vm1", "wire", min_kbps=MEGABIT)
    other = "02:00:00:00:99:01"
    world.put("port", "vm1", allowed_address_pairs=(AddressPair("10.1.0.99", other), AddressPair("10.1.0.98")))
    shape, number = world.shape("eth1"), world.leaf("vm1", "eth1").number
    own = world.topology.get("port", "vm1").mac_address
    assert dict(shape.wires) == {(42, int(mac.replace(":", ""), 16)): number for mac in (own, other)}
    assert shape.tunnel is None and shape.senders == ()
    assert len(world.shape("eth0").leaves) == 3


def test_one_interface_may_carry_everything() -> None:
    world = Shaped()
    world.uplinks(("eth0", 100 * MEGABIT, ""), ("eth0", 100 * MEGABIT, "phys"))
    inside, outside = world.vm("vm1", min_kbps=MEGABIT), world.vm("vm2", "wire", min_kbps=MEGABIT)
    [shape] = shapes(world.topology, "h1")
    assert {key for key, _ in shape.senders} == {inside, outside}, "what goes by a tunnel after all is known, too"
    assert len(shape.wires) == 1


def test_vxlan_has_no_room_for_a_key() -> None:
    world = Shaped(tunnel_type="vxlan")
    world.vm("vm1", min_kbps=MEGABIT)
    shape = world.shape()
    mac = int(world.topology.get("port", "vm1").mac_address.replace(":", ""), 16)
    assert shape.senders == () and shape.sources == (((7, mac), world.leaf("vm1").number),)
    assert shape.tunnel == Tunnel("vxlan", 4789, "192.168.50.1")


@given(st.sets(st.integers(1, 2**32 - 1), max_size=50), st.integers(1, 2**32 - 1))
def test_numbers_are_distinct_and_in_bounds(keys: set[int], one: int) -> None:
    size = LAST_OF_PORTS - FIRST_OF_PORTS + 1
    keys |= {one % size + n * size for n in range(3)}  # these meet
    found = numbers(keys)
    assert found.keys() == keys and len(set(found.values())) == len(keys)
    assert all(FIRST_OF_PORTS <= number <= LAST_OF_PORTS for number in found.values())
    assert numbers(sorted(keys, reverse=True)) == found


def test_more_ports_than_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 65519 classes"):
        numbers(range(1, 65521))
