"""Admission of flow exporters."""

from __future__ import annotations

from typing import Any

import pytest

from .test_admission import refusal
from .test_admission_routers import Routed

ANY = "192.0.2.1:6343"


@pytest.fixture
def world() -> Routed:
    world = Routed()
    world.one = world.create("hypervisor", name="hv1")
    world.two = world.create("hypervisor", name="hv2")
    return world


def test_targets_have_one_form(world: Routed) -> None:
    targets = ["udp:192.0.2.1:06343", "[2001:DB8:0::1]:6343", "192.0.2.1:6343"]
    made = world.create("flow-exporter", type="sflow", targets=targets, sampling=100)
    assert made.targets == ("192.0.2.1:6343", "[2001:db8::1]:6343")
    assert made.hypervisor_ids == () and made.enabled


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"targets": []}, "targets", "length"),
        ({"targets": ["collector:6343"]}, "targets[0]", "is not IP:PORT"),
        ({"targets": [ANY, "192.0.2.1"]}, "targets[1]", "is not IP:PORT"),
        ({"targets": ["192.0.2.1:0"]}, "targets[0]", "is not IP:PORT"),
        ({"targets": ["192.0.2.1:65536"]}, "targets[0]", "is not IP:PORT"),
        ({"targets": ["192.0.2.300:1"]}, "targets[0]", "192.0.2.300"),
        ({"targets": ["2001:db8::1:6343"]}, "targets[0]", "is not IP:PORT"),
        ({"targets": ["[192.0.2.1]:6343"]}, "targets[0]", "not a collector's address"),
        ({"targets": ["0.0.0.0:6343"]}, "targets[0]", "not a collector's address"),
        ({"targets": ["[ff02::1]:6343"]}, "targets[0]", "not a collector's address"),
        ({"type": "netflow", "targets": ["[2001:db8::1]:2055"]}, "targets", "IPv4 only"),
        ({"type": "netflow", "sampling": 5}, "sampling", "does not go with netflow"),
        ({"type": "ipfix", "polling": 5}, "polling", "does not go with ipfix"),
        ({"active_timeout": 5}, "active_timeout", "does not go with sflow"),
        ({"sampling": 0}, "sampling", "not within 1 to"),
        ({"header": 1000}, "header", "not within 64 to 256"),
        ({"hypervisor_ids": ["00000000-0000-4000-8000-000000000404"]}, "hypervisor_ids[0]", "there is no hypervisor"),
        ({"type": "jflow"}, "type", "Invalid enum"),
        ({"project_id": "us"}, "project_id", "belongs to no project"),
    ],
)  # fmt: skip
def test_refused(world: Routed, fields: dict[str, Any], field: str, words: str) -> None:
    with refusal(404 if words == "there is no hypervisor" else 400, field, words):
        world.create("flow-exporter", **{"type": "sflow", "targets": [ANY]} | fields)


def test_a_bridge_has_one_of_a_type(world: Routed) -> None:
    one = world.create("flow-exporter", name="first", type="sflow", targets=[ANY], hypervisor_ids=[world.one.id])
    world.create("flow-exporter", type="sflow", targets=[ANY], hypervisor_ids=[world.two.id], enabled=False)
    world.create("flow-exporter", type="netflow", targets=[ANY])
    for ids in ([], [world.two.id, world.one.id], [world.two.id]):
        with refusal(409, "hypervisor_ids", "a bridge has one of a type"):
            world.create("flow-exporter", type="sflow", targets=[ANY], hypervisor_ids=ids)
    with refusal(409, "hypervisor_ids", "exports sflow everywhere"):
        world.patch(one, hypervisor_ids=[])
    with refusal(400, "type", "cannot be changed"):
        world.patch(one, type="ipfix")
    assert world.patch(one, sampling=400).sampling == 400


def test_a_hypervisor_that_is_named_stays(world: Routed) -> None:
    world.create("flow-exporter", type="sflow", targets=[ANY], hypervisor_ids=[world.one.id])
    with refusal(409, "", "is in use by flow-exporter"):
        world.delete(world.one)
    world.delete(world.two)


def test_tenants_have_none(world: Routed) -> None:
    with refusal(403, "", "only administrators"):
        world.create("flow-exporter", "us", type="sflow", targets=[ANY])
