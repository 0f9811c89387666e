"""What the compilers make of a network: declared tables only, and as many flows as it takes."""

from __future__ import annotations

from collections import Counter

import pytest

from pipelines import tables
from pipelines.compiler import OVERLAY, SERVICES, SWITCHING, Compiler
from pipelines.flow import Flow, Group
from topology import scope

from .world import AddressPair, World


def compile_all(world: World, hypervisor: str, features=(SWITCHING, SERVICES, OVERLAY)) -> list:
    compiler = Compiler(features)
    owners = scope.owners_on(world.topology, hypervisor)
    return [rule for owner in owners for rule in compiler.compile(world.topology, hypervisor, owner)]


def two_networks(**mesh: object) -> World:
    world = World(**mesh)
    world.network("a", 1)
    world.network("b", 2)
    for n in range(6):
        ips = (f"10.0.0.{n + 1}", f"fd00::{n + 1}")
        pairs = (AddressPair("10.9.0.0/24"), AddressPair("fd09::9", "00:00:5e:00:02:01")) if n == 2 else ()
        world.port(
            f"p{n}", "ab"[n % 2], on=f"h{n % 3 + 1}", ips=ips, allowed_address_pairs=pairs, port_security_enabled=n != 3
        )
    return world


@pytest.mark.parametrize(
    "mesh",
    [{}, {"ipv6": True}, {"tunnel_type": "vxlan", "external_vteps": ("192.0.2.9",), "multicast_group": "239.1.1.1"}],
    ids=["geneve", "ipv6 underlay", "vxlan with a multicast group"],
)
def test_every_flow_is_as_its_table_declares(mesh: dict) -> None:
    world = two_networks(**mesh)
    for hypervisor in ("h1", "h2", "h3"):
        for rule in compile_all(world, hypervisor):
            if isinstance(rule, Flow):
                tables.check(rule)


def test_check_refuses_what_is_not_declared() -> None:
    with pytest.raises(ValueError, match="does not declare"):
        tables.check(Flow(tables.FLOOD.number, 1, tables.f.ETH_DST(1)))
    with pytest.raises(ValueError, match="goes to table 0"):
        tables.check(Flow(tables.FLOOD.number, 1, b"", goto=0))


def test_every_table_has_a_flow_for_what_no_other_wants() -> None:
    rules = compile_all(two_networks(), "h1", features=(SWITCHING,))
    misses = [rule for rule in rules if isinstance(rule, Flow) and rule.priority == tables.MISS]
    assert [flow.table for flow in misses] == [table.number for table in tables.PIPELINE]
    for flow in misses:
        table = tables.PIPELINE[flow.table]
        assert (flow.goto is None) == bool(table.reason) or table in (
            tables.IDENTITY,
            tables.SOURCE,
            tables.DESTINATION,
            tables.LB_AFFINITY,
            tables.METER,
        )


def test_no_two_flows_contradict_each_other() -> None:
    world = two_networks()
    for hypervisor in ("h1", "h2", "h3"):
        flows = {rule for rule in compile_all(world, hypervisor) if isinstance(rule, Flow)}
        seen = Counter((flow.table, flow.priority, flow.match) for flow in flows)
        assert [key for key, times in seen.items() if times > 1] == []


def test_a_remote_port_costs_two_flows_per_hypervisor() -> None:
    world = World()
    world.network("a", 1)
    world.port("here", "a", on="h1")
    world.port("there", "a", on="h2")
    before = len(compile_all(world, "h1"))
    world.port("more", "a", on="h2")
    assert len(compile_all(world, "h1")) == before + 2  # forwarding, and the answer to ARP


def test_broadcast_leaves_once_for_each_other_hypervisor() -> None:
    world = World()
    world.network("a", 1)
    for n in range(9):
        world.port(f"p{n}", "a", on=f"h{n % 3 + 1}")
    groups = {rule.id: rule for rule in compile_all(world, "h1") if isinstance(rule, Group)}
    assert len(groups[1].buckets) == 3
    assert len(groups[0x01000001].buckets) == 2


def test_without_the_overlay_nothing_goes_through_tunnels() -> None:
    rules = compile_all(two_networks(), "h1", features=(SWITCHING, SERVICES))
    flows = [rule for rule in rules if isinstance(rule, Flow) and rule.priority != tables.MISS]
    assert not [flow for flow in flows if tables.PIPELINE[flow.table].feature == "overlay"]


def test_broadcast_to_very_many_is_spread_over_groups_that_fit_a_message() -> None:
    world = World(1)
    world.network("a", 1)
    for n in range(2100):
        world.port(f"p{n}", "a", on="h1")
    groups = [rule for rule in compile_all(world, "h1") if isinstance(rule, Group)]
    assert [rule.id for rule in groups] == [1 | part << 25 for part in range(64)]
    assert sum(len(rule.buckets) for rule in groups) == 2100
    [flood] = [
        r for r in compile_all(world, "h1") if isinstance(r, Flow) and r.table == tables.FLOOD.number and r.priority
    ]
    assert len(flood.actions) == 64
