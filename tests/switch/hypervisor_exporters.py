"""Scenarios of the hypervisors part about flow exporters: sFlow, NetFlow and IPFIX of the integration bridge."""

from __future__ import annotations

from tests.switch.hypervisor_world import World, ident  # first: it makes threads green

import eventlet  # isort: skip

from typing import Any

from tests.switch.daemons import Ovs, wait_for
from topology.changes import Edit
from topology.exporters import COLUMNS, missing
from topology.model import FlowExporter

SFLOW, NETFLOW, IPFIX = ident(801), ident(802), ident(803)
TARGET = "192.0.2.9:6343"


def export(world: World, id: str, type: Any, **fields: Any) -> FlowExporter:
    exporter = FlowExporter(id=id, type=type, revision_number=1, **{"targets": (TARGET,)} | fields)
    world.core.apply([Edit("flow-exporter", id, exporter)])
    return exporter


def settled(world: World, id: str) -> bool:
    return missing(world.topology, world.topology.get("flow-exporter", id)) == ({}, set())


def exported(ovs: Ovs) -> list[str]:
    """The tables that br-int refers to."""
    return [table for column, table in COLUMNS.items() if ovs.get("bridge", "br-int", column) != "[]"]


def column(ovs: Ovs, table: str, name: str) -> str:
    """Of the only row of a table."""
    return str(ovs.vsctl("--bare", f"--columns={name}", "list", table)).strip()


def exports_and_undoes_it(world: World) -> None:
    ovs, other = world.ovs("h1"), world.ovs("h2")
    h1, h2 = world.add(1, ovs), world.add(2, other)
    world.ready(h1, h2)
    export(world, SFLOW, "sflow", sampling=64, polling=5, header=200, targets=(TARGET, "[2001:db8::9]:6343"))
    export(world, NETFLOW, "netflow", active_timeout=60, hypervisor_ids=(h1,))
    export(world, IPFIX, "ipfix", sampling=10, hypervisor_ids=(h2,))
    assert not settled(world, SFLOW), "not before the hypervisors have it"
    wait_for(lambda: all(settled(world, each) for each in (SFLOW, NETFLOW, IPFIX)))
    assert exported(ovs) == ["sFlow", "NetFlow"] and exported(other) == ["sFlow", "IPFIX"]
    names = ("sampling", "polling", "header", "agent", "targets")
    assert [column(ovs, "sFlow", name) for name in names] == [
        "64",
        "5",
        "200",
        "192.0.2.1",
        f"{TARGET} [2001:db8::9]:6343",
    ]
    assert [column(ovs, "NetFlow", name) for name in ("active_timeout", "targets")] == ["60", TARGET]
    names = ("sampling", "obs_domain_id", "cache_active_timeout", "other_config")
    assert [column(other, "IPFIX", name) for name in names] == ["10", "2", "", "enable-tunnel-sampling=true"]

    world.change("flow-exporter", SFLOW, sampling=None, hypervisor_ids=(h2,), revision_number=2)
    wait_for(lambda: settled(world, SFLOW) and exported(ovs) == ["NetFlow"])
    assert column(other, "sFlow", "sampling") == "", "Open vSwitch's default"
    assert column(ovs, "sFlow", "_uuid") == "", "no row is left behind"
    world.change("flow-exporter", IPFIX, enabled=False, revision_number=2)
    wait_for(lambda: exported(other) == ["sFlow"])
    for id in (SFLOW, NETFLOW, IPFIX):
        world.core.apply([Edit("flow-exporter", id, None)])
    wait_for(lambda: exported(ovs) == exported(other) == [])
    assert not world.log.having("repaired"), "nobody broke anything"

    export(world, SFLOW, "sflow")
    wait_for(lambda: exported(ovs) == ["sFlow"])
    ovs.vsctl("clear", "bridge", "br-int", "sflow")
    wait_for(lambda: exported(ovs) == ["sFlow"], "what somebody takes away comes back")
    ovs.vsctl("set", "sFlow", column(ovs, "sFlow", "_uuid"), "sampling=1")
    wait_for(lambda: column(ovs, "sFlow", "sampling") == "")


def leaves_what_others_export(world: World) -> None:
    ovs = world.ovs("h1")
    ovs.vsctl("add-br", "br-int")
    ovs.vsctl("--id=@s", "create", "sFlow", 'targets="192.0.2.7:6343"', "--", "set", "bridge", "br-int", "sflow=@s")
    h1 = world.add(1, ovs)
    world.ready(h1)
    eventlet.sleep(0.3)
    assert column(ovs, "sFlow", "targets") == "192.0.2.7:6343", "nobody asked for anything"
    exporter = export(world, SFLOW, "sflow")
    wait_for(lambda: world.bridge(h1).problems)
    [why] = missing(world.topology, exporter)[0].values()
    assert "somebody else exports from br-int to 192.0.2.7:6343" in why and "ovs-vsctl clear bridge br-int sflow" in why
    assert column(ovs, "sFlow", "targets") == "192.0.2.7:6343"
    ovs.vsctl("clear", "bridge", "br-int", "sflow")
    wait_for(lambda: settled(world, SFLOW) and column(ovs, "sFlow", "targets") == TARGET)
    assert world.bridge(h1).problems == ()

    ovs.vsctl("--id=@n", "create", "NetFlow", 'targets="192.0.2.7:2055"', "--", "set", "bridge", "br-int", "netflow=@n")
    world.core.apply([Edit("flow-exporter", SFLOW, None), Edit("hypervisor", h1, None)])
    wait_for(lambda: exported(ovs) == ["NetFlow"], "a hypervisor that goes keeps what is not NovaNet's")


def keeps_exports_until_the_intent_is_known(world: World) -> None:
    ovs = world.ovs("h1")
    h1 = world.add(1, ovs)
    world.ready(h1)
    exporter = export(world, SFLOW, "sflow", sampling=7)
    wait_for(lambda: settled(world, SFLOW))
    row = column(ovs, "sFlow", "_uuid")
    world.hypervisors.stop()

    after = world.another()
    for kind in ("tunnel-mesh", "hypervisor"):
        after.core.apply([Edit(kind, id, obj) for id, obj in world.topology.all(kind).items()])
    after.hypervisors.start()
    after.ready(h1)
    after.settle(lambda: len(after.core.edits))
    assert exported(ovs) == ["sFlow"], "what a restarted controller does not know yet it does not end"
    after.core.apply([Edit("flow-exporter", SFLOW, exporter)])
    after.hypervisors.complete()
    wait_for(lambda: settled(after, SFLOW))
    assert column(ovs, "sFlow", "_uuid") == row and after.state(h1)["repairs"] == 0, "nothing was touched"
    after.hypervisors.stop()


SCENARIOS = (exports_and_undoes_it, leaves_what_others_export, keeps_exports_until_the_intent_is_known)
