"""Whose connections are forgotten when ports are plugged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from novanet_apps.connections import Connections
from pipelines.policy import balancing_zones, zone
from pipelines.wire import OF13, ct_flush_zone
from topology.changes import Edit
from topology.model import Vif

from .world import World


class Core:
    """Remembers what was to be forgotten."""

    def __init__(self, world: World) -> None:
        self.topology = world.topology
        self.flushed: list[tuple[str, int]] = []
        self.engine = SimpleNamespace(forget_connections=lambda *where: self.flushed.append(where))

    def subscribe(self, tell: Any) -> None:
        self.tell = tell

    def plug(self, port: str, hypervisor: str, ofport: int | None) -> list[tuple[str, int]]:
        vif = None if ofport is None else Vif(port_id=port, hypervisor_id=hypervisor, interface="v", ofport=ofport)
        self.flushed = []
        self.tell(self.topology.apply([Edit("vif", port, vif)]))
        return self.flushed


def core_with(**fields: Any) -> Core:
    world = World()
    world.network("n", 1)
    world.group("g")
    world.port("p", "n", security_groups=("g",), **fields)
    core = Core(world)
    Connections(core, lambda ofport: (zone(ofport),))  # type: ignore[arg-type]
    return core


def test_a_port_that_is_plugged_begins_without_connections() -> None:
    core = core_with()
    assert core.plug("p", "h1", 5) == [("h1", zone(5))]
    assert core.plug("p", "h1", 5) == []
    assert core.plug("p", "h1", 6) == [("h1", zone(6))]
    assert core.plug("p", "h1", None) == []
    assert core.plug("p", "h2", 5) == [("h2", zone(5))]


def test_one_that_was_there_before_keeps_them() -> None:
    assert core_with(host_id="h1").plug("p", "h1", 5) == []
    assert core_with(host_id="h2").plug("p", "h1", 5) == [("h1", zone(5))]


def test_each_feature_has_its_own_zone_forgotten() -> None:
    world = World()
    world.network("n", 1)
    world.port("p", "n")
    core = Core(world)
    Connections(core, balancing_zones)  # type: ignore[arg-type]
    assert core.plug("p", "h1", 5) == [("h1", 0x8005), ("h1", 0xC005)]


def test_zones_of_ports_are_not_those_of_routers() -> None:
    found = [(zone(ofport), *balancing_zones(ofport)) for ofport in range(1, 0xFF00)]
    for zones, first in zip(zip(*found, strict=True), (0x4000, 0x8000, 0xC000), strict=True):
        assert min(zones) == first and max(zones) == first + 0x3FFF
        assert len(set(zones[:0x4000])) == 0x4000


def test_the_message_that_flushes_a_zone() -> None:
    message = bytes.fromhex("04040018 00000007 00002320 0000001d 000000000000 4005")
    assert ct_flush_zone(OF13, 7, 0x4005) == message
