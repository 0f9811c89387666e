"""Admission of captures, and what their status is."""

from __future__ import annotations

from typing import Any

import pytest

from topology.admission.captures import BYTES_OF_PROJECT, OF_PROJECT
from topology.captures import judge, touched
from topology.changes import Edit
from topology.model import Vif

from .test_admission import refusal
from .test_admission_routers import Routed

NOBODYS = "00000000-0000-4000-8000-000000000404"


@pytest.fixture
def world() -> Routed:
    world = Routed()
    world.hypervisor = world.create("hypervisor", name="hv1")
    world.network = world.create("network", "us")
    world.vm = world.create("port", "us", network_id=world.network.id)
    world.theirs = world.create("port", "them", network_id=world.create("network", "them").id)
    return world


def test_of_a_port(world: Routed) -> None:
    made = world.create("capture", "us", port_id=world.vm.id)
    assert (made.project_id, made.state, made.direction, made.enabled) == ("us", "PENDING", "both", True)
    assert (made.max_bytes, made.max_seconds, made.snaplen) == (10 << 20, 60, 65535)
    for fields in ({"max_bytes": 5000}, {"port_id": world.theirs.id}, {"direction": "egress"}, {"protocol": "tcp"}):
        with refusal(400, next(iter(fields)), "cannot be changed"):
            world.patch(made, **fields)
    assert not world.patch(made, "us", enabled=False, name="x").enabled
    with refusal(400, "state", "is set by NovaNet"):
        world.patch(made, state="DONE")


@pytest.mark.parametrize(
    ("fields", "status", "field", "words"),
    [
        ({"port_id": None}, 400, "port_id", "is needed"),
        ({"port_id": NOBODYS}, 404, "port_id", "there is no port"),
        ({"hypervisor_id": NOBODYS}, 400, "hypervisor_id", "goes without port_id"),
        ({"network_id": NOBODYS}, 400, "network_id", "goes without port_id"),
        ({"port_id": None, "hypervisor_id": NOBODYS}, 404, "hypervisor_id", "there is no hypervisor"),
        ({"max_bytes": 4095}, 400, "max_bytes", ">= 4096"),
        ({"max_bytes": (1 << 30) + 1}, 400, "max_bytes", "<= 1073741824"),
        ({"max_seconds": 0}, 400, "max_seconds", ">= 1"),
        ({"max_seconds": 86401}, 400, "max_seconds", "<= 86400"),
        ({"snaplen": 63}, 400, "snaplen", ">= 64"),
        ({"direction": "in"}, 400, "direction", "Invalid enum"),
        ({"protocol": "tpc"}, 400, "protocol", "is no protocol"),
        ({"protocol": "icmp", "transport_port": 80}, 400, "transport_port", "has no ports"),
        ({"ethertype": "ARP", "protocol": "tcp"}, 400, "protocol", "ARP has none"),
        ({"ethertype": "ARP", "transport_port": 1}, 400, "transport_port", "ARP has none"),
        ({"ethertype": "ARP", "remote_ip_prefix": "fe80::/10"}, 400, "remote_ip_prefix", "IPv4 addresses"),
        ({"ethertype": "IPv4", "remote_ip_prefix": "fe80::/10"}, 400, "remote_ip_prefix", "is not IPv4"),
        ({"remote_ip_prefix": "10.0.0.1/24"}, 400, "remote_ip_prefix", "do you mean"),
        ({"project_id": "them"}, 403, "port_id", "is not of project"),
    ],
)  # fmt: skip
def test_refused(world: Routed, fields: dict[str, Any], status: int, field: str, words: str) -> None:
    with refusal(status, field, words):
        world.create("capture", **{"port_id": world.vm.id} | fields)


def test_filters_have_one_form(world: Routed) -> None:
    made = world.create("capture", port_id=world.vm.id, protocol="ICMP", remote_ip_prefix="2001:DB8::/32")
    assert (made.protocol, made.remote_ip_prefix) == ("ipv6-icmp", "2001:db8::/32")
    made = world.create("capture", port_id=world.vm.id, protocol="6", remote_ip_prefix="10.0.0.7")
    assert (made.protocol, made.remote_ip_prefix) == ("tcp", "10.0.0.7/32")


def test_tenants_capture_what_is_theirs(world: Routed) -> None:
    with refusal(404, "port_id", "there is no port"):
        world.create("capture", "us", port_id=world.theirs.id)
    with refusal(403, "hypervisor_id", "only administrators"):
        world.create("capture", "us", hypervisor_id=world.hypervisor.id)
    with refusal(403, "hypervisor_id", "only administrators"):
        world.create("capture", hypervisor_id=world.hypervisor.id, project_id="us")
    made = world.create("capture", hypervisor_id=world.hypervisor.id, network_id=world.network.id)
    with refusal(404, "id", "there is no capture"):
        world.patch(made, "us", enabled=False)


def test_routers_ports_are_everywhere(world: Routed) -> None:
    with refusal(400, "port_id", "is a router's"):
        world.create("capture", port_id=world.join(world.blue).id)


def test_a_project_has_so_many(world: Routed) -> None:
    with refusal(409, "max_bytes", "are left"):
        world.create("capture", "us", port_id=world.vm.id, max_bytes=BYTES_OF_PROJECT // 2)
        world.create("capture", "us", port_id=world.vm.id, max_bytes=BYTES_OF_PROJECT // 2 + 1)
    made = [world.create("capture", "us", port_id=world.vm.id, max_bytes=4096) for _ in range(OF_PROJECT - 1)]
    with refusal(409, "", f"has {OF_PROJECT} captures"):
        world.create("capture", "us", port_id=world.vm.id, max_bytes=4096)
    world.create("capture", port_id=world.vm.id)
    world.create("capture", "them", port_id=world.theirs.id)
    world.delete(made[0], "us")
    world.create("capture", "us", port_id=world.vm.id, max_bytes=4096)


def test_the_port_may_go(world: Routed) -> None:
    """What was captured from is not kept; the capture is still its project's to rename and delete."""
    made = world.create("capture", "us", port_id=world.vm.id)
    world.delete(world.vm)
    gone = world.topology.get("capture", made.id)
    assert gone is not None
    assert world.patch(gone, "us", name="last words").name == "last words"


def test_status(world: Routed) -> None:
    made = world.create("capture", "us", port_id=world.vm.id)

    def now() -> tuple[str, list[str]]:
        return judge(world.topology, world.topology.get("capture", made.id))

    def record(**fields: Any) -> None:
        from msgspec.structs import replace

        world.topology.apply([Edit("capture", made.id, replace(world.topology.get("capture", made.id), **fields))])

    assert now() == ("DOWN", ["what is to be captured is not plugged, or was deleted"])
    assert list(touched(world.topology, "vif", world.vm.id)) == [made.id]
    vif = Vif(port_id=world.vm.id, hypervisor_id=world.hypervisor.id, interface="v", ofport=1)
    world.topology.apply([Edit("vif", world.vm.id, vif)])
    assert now() == ("BUILD", ["waiting for novanet-host-agent on hypervisor hv1"])
    record(enabled=False)
    assert now() == ("DOWN", ["it is not enabled"])
    record(state="RUNNING", enabled=True)
    assert now() == ("ACTIVE", []) and not list(touched(world.topology, "vif", world.vm.id))
    record(state="DONE", state_detail="max_seconds have passed")
    assert now() == ("ACTIVE", ["max_seconds have passed"])
    record(state="ERROR", state_detail="the disk is full")
    assert now() == ("ERROR", ["the disk is full"])
