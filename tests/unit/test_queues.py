"""Queues of Open vSwitch for the classes of uplinks: what they have, whose they are, and which changes make others of them."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from topology import queues
from topology.changes import Edit
from topology.queues import Queue, Queues

from .test_shaping import MEGABIT, Shaped


def of(world: Shaped, interface: str = "eth0") -> Queues:
    return next(each for each in queues.of_hypervisor(world.topology, "h1") if each.interface == interface)


def concerned(world: Shaped, kind: str, id: str, **fields: Any) -> set[str]:
    changes = world.apply(Edit(kind, id, replace(world.topology.get(kind, id), **fields)))
    return queues.concerned(world.topology, changes)


def test_an_uplink_is_for_those_without_a_policy_and_the_hypervisor_together() -> None:
    uplink = of(Shaped())
    assert (uplink.interface, uplink.max_rate) == ("eth0", 100_000_000)
    (others,) = uplink.queues
    assert others == Queue(0, "others", 3_125_000, 100_000_000, 2 * 65554 * 8, 7)


def test_a_port_s_queue_has_the_number_of_its_openflow_port() -> None:
    world = Shaped()
    world.vm("db", min_kbps=30 * MEGABIT)
    world.vm("voice", max_latency_ms=10, priority=6)
    world.vm("wired", "wire", min_kbps=10 * MEGABIT)
    world.plug("db", "h1", 40)
    world.plug("voice", "h1", 7)
    world.plug("wired", "h1", 8)
    found = {queue.number: queue for queue in of(world).queues}
    assert list(found) == [0, 7, 40], "by number, and only those that leave by it"
    assert (found[40].name, found[40].min_rate, found[40].max_rate, found[40].priority) == ("db", 30 * 10**6, 10**8, 7)
    assert (found[7].name, found[7].priority) == ("voice", 1)
    assert sum(queue.min_rate for queue in found.values()) <= of(world).max_rate
    assert [queue.number for queue in of(world, "eth1").queues] == [0, 8]


def test_bursts_grow_with_rates() -> None:
    world = Shaped()
    world.uplinks(("eth0", 10_000 * MEGABIT, ""))
    world.vm("db", min_kbps=4_000 * MEGABIT)
    assert of(world).queues[-1].burst == 8_000_000, "2 ms of the rate"


def test_what_is_not_open_yet_or_elsewhere_has_no_queue() -> None:
    world = Shaped()
    for name in ("closed", "away", "high"):
        world.vm(name, min_kbps=MEGABIT)
    world.plug("closed", "h1", None)
    world.plug("away", "h2")
    world.plug("high", "h1", 0xF000)
    assert [queue.name for queue in of(world).queues] == ["others"]


def test_who_is_concerned() -> None:
    world = Shaped()
    world.vm("db", min_kbps=MEGABIT)
    assert concerned(world, "qos-rule", "db-min_kbps", min_kbps=2 * MEGABIT) == {"h1"}
    assert concerned(world, "port", "db", qos_policy_id=None) == {"h1"}
    assert concerned(world, "port", "db", name="another") == set()
    assert queues.concerned(world.topology, world.plug("db", "h1", 99)) == {"h1"}
    assert concerned(world, "bridge", "h1", queues=(("eth0", 1),)) == set()
