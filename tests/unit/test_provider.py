"""Provider networks: what goes over the wire, and what goes through tunnels."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pipelines import fields as f
from pipelines import overlay
from pipelines import tables as t
from pipelines.compiler import OVERLAY, PROVIDER, SERVICES, SWITCHING, Compiler
from pipelines.flow import Flow, Group, match, output, pop_vlan, push_vlan, set_bits, set_field
from topology import scope, wires
from topology.changes import Edit

from .world import AddressPair, World

FEATURES = (SWITCHING, SERVICES, OVERLAY, PROVIDER)
VNI, WIRE = 7, 900
FROM_HERE = match(f.NETWORK(VNI), f.ORIGIN(0))


def world(*wired: str, **network: object) -> World:
    """A provider network with a VM p1, p2, p3 on each of three hypervisors; those in ``wired`` have a mapping."""
    made = World()
    made.network("net", VNI, physical_network="phys", **network)
    for hypervisor in wired:
        made.wire(hypervisor, "phys")
    for n in (1, 2, 3):
        made.port(f"p{n}", "net", on=f"h{n}")
    return made


def rules(world: World, hypervisor: str) -> list:
    compiler = Compiler(FEATURES)
    owners = dict.fromkeys(scope.owners_on(world.topology, hypervisor))
    return [rule for owner in owners for rule in compiler.compile(world.topology, hypervisor, owner)]


def flows(world: World, hypervisor: str, table: t.Table) -> list[Flow]:
    return [r for r in rules(world, hypervisor) if isinstance(r, Flow) and r.table == table.number and r.priority]


def ways(world: World, hypervisor: str) -> dict[str, str]:
    """VM -> whether a frame for it, of a VM here, stays or goes through a tunnel."""
    found = {}
    for port in world.topology.all("port").values():
        for flow in flows(world, hypervisor, t.L2_LOOKUP):
            if f.ETH_DST(f.mac(port.mac_address)) in flow.match:
                away = any(action[:8] == set_field(f.PEER, 1)[:8] for action in flow.actions)
                found[port.id] = "tunnel" if away else "here"
    return found


@pytest.mark.parametrize("segment", [None, 100])
def test_every_flow_is_as_its_table_declares(segment: int | None) -> None:
    for wired in ((), ("h1",), ("h1", "h2"), ("h1", "h2", "h3")):
        made = world(*wired, segmentation_id=segment)
        for hypervisor in ("h1", "h2", "h3"):
            found = [rule for rule in rules(made, hypervisor) if isinstance(rule, Flow)]
            for flow in found:
                t.check(flow)
            assert len({flow.key for flow in found}) == len(found), "no two flows contradict each other"


def test_a_vlan_loses_its_tag_on_the_way_in_and_gets_it_on_the_way_out() -> None:
    made = world("h1", segmentation_id=100)
    [into] = [
        flow for flow in flows(made, "h1", t.CLASSIFY) if flow.match == match(f.IN_PORT(WIRE), f.VLAN_VID(0x1064))
    ]
    assert into.actions[0] == pop_vlan() and into.metadata == VNI and into.goto == t.PROVIDER_ADMIT.number
    [out] = [flow for flow in flows(made, "h1", t.PROVIDER_OUTPUT) if f.NETWORK(VNI) in flow.match]
    assert out.actions == (push_vlan(), set_field(f.VLAN_VID, 0x1064), output(WIRE))


def test_a_flat_network_takes_untagged_frames_only() -> None:
    made = world("h1")
    into = {flow.match for flow in flows(made, "h1", t.CLASSIFY) if flow.goto == t.PROVIDER_ADMIT.number}
    assert into == {match(f.IN_PORT(WIRE), f.VLAN_VID(0)), match(f.IN_PORT(WIRE), f.VLAN_VID(0x1000))}
    [out] = [flow for flow in flows(made, "h1", t.PROVIDER_OUTPUT) if f.NETWORK(VNI) in flow.match]
    assert out.actions == (output(WIRE),)


def test_no_vm_chooses_a_vlan() -> None:
    for segment in (None, 100):
        outputs = flows(world("h1", segmentation_id=segment), "h1", t.PROVIDER_OUTPUT)
        assert all(f.VLAN_VID(0) in flow.match for flow in outputs if flow.actions)
        assert [flow.reason for flow in outputs if not flow.actions] == ["a VM may not choose the VLAN of a wire"]


def test_wired_hypervisors_use_the_wire_and_the_others_tunnels() -> None:
    made = world("h1", "h2")
    assert ways(made, "h1") == {"p1": "here", "p3": "tunnel"}
    assert ways(made, "h2") == {"p2": "here", "p3": "tunnel"}
    assert ways(made, "h3") == {"p1": "tunnel", "p2": "tunnel", "p3": "here"}


def test_unknown_unicast_goes_to_the_wire_once() -> None:
    made = world("h1", "h2")
    [flow] = [flow for flow in flows(made, "h1", t.L2_LOOKUP) if flow.match == FROM_HERE]
    assert flow.goto == t.EGRESS_ADMIT.number
    [flow] = [flow for flow in flows(made, "h1", t.OUTPUT_SELECT) if flow.goto == t.PATH_MTU.number]
    assert flow.match == match(f.NETWORK(VNI), f.OUT_PORT_KEY(0), f.PEER(0))
    assert not [flow for flow in flows(made, "h3", t.L2_LOOKUP) if flow.match == FROM_HERE], "it has no wire"


@pytest.mark.parametrize("mesh", [{}, {"tunnel_type": "vxlan", "multicast_group": "239.1.1.1"}])
def test_broadcast_goes_to_the_wire_and_to_those_without_one(mesh: dict) -> None:
    made = world("h1", "h2")
    made.apply(Edit("tunnel-mesh", "mesh", replace(made.topology.mesh, **mesh)))
    best = max((flow for flow in flows(made, "h1", t.TUNNEL_FLOOD) if flow.match == FROM_HERE), key=priority)
    assert best.goto == t.PROVIDER_OUTPUT.number
    [group] = [rule for rule in rules(made, "h1") if isinstance(rule, Group) and rule.id >> 24]
    assert [bucket.actions[0] for bucket in group.buckets] == [set_field(f.PEER, 3)]
    assert len(best.actions) == 2, "OUT_PORT_KEY, and the group"


def test_without_anybody_else_broadcast_goes_to_the_wire_only() -> None:
    made = world("h1", "h2", "h3")
    [flow] = [flow for flow in flows(made, "h1", t.TUNNEL_FLOOD) if flow.match == FROM_HERE]
    assert (flow.actions, flow.goto) == ((), t.PROVIDER_OUTPUT.number)
    assert not [rule for rule in rules(made, "h1") if isinstance(rule, Group) and rule.id >> 24]


def test_what_comes_from_the_wire_or_a_tunnel_never_leaves_again() -> None:
    made = world("h1", "h2")
    for hypervisor in ("h1", "h2", "h3"):
        for flow in flows(made, hypervisor, t.L2_LOOKUP):
            away = any(action[:8] == set_field(f.PEER, 1)[:8] for action in flow.actions)
            if away or flow.priority == overlay.UNKNOWN_UNICAST:
                assert f.ORIGIN(0) in flow.match
        for flow in flows(made, hypervisor, t.TUNNEL_FLOOD):
            assert f.ORIGIN(0) in flow.match


def test_a_vms_own_frames_are_not_taken_from_the_wire() -> None:
    made = world("h1", "h2")
    own = match(f.NETWORK(VNI), f.ETH_SRC(f.mac(made.topology.get("port", "p1").mac_address)))
    [flow] = flows(made, "h1", t.PROVIDER_ADMIT)
    assert flow.match == own and flow.goto is None and flow.reason
    made.plug("p1", "h2")
    assert own not in {flow.match for flow in flows(made, "h1", t.PROVIDER_ADMIT)}, "it has moved to the other side"


def test_a_wire_brings_only_networks_that_somebody_here_needs() -> None:
    made = world("h1", "h2")
    made.network("other", 8, physical_network="phys", segmentation_id=200)
    made.network("outside", 9, physical_network="phys", segmentation_id=300, external=True)
    made.port("elsewhere", "other", on="h2")
    admitted = {flow.metadata for flow in flows(made, "h1", t.CLASSIFY) if flow.goto == t.PROVIDER_ADMIT.number}
    assert admitted == {VNI, 9}
    [rest] = [flow for flow in flows(made, "h1", t.CLASSIFY) if flow.match == match(f.IN_PORT(WIRE))]
    assert rest.goto is None and rest.reason == "VLAN of no network here"


def test_without_a_wire_in_place_nothing_comes_or_goes() -> None:
    made = world("h1", "h2")
    bridge = made.topology.get("bridge", "h1")
    made.apply(Edit("bridge", "h1", replace(bridge, provider_ofports=())))
    assert not [flow for flow in flows(made, "h1", t.PROVIDER_OUTPUT) if flow.actions]
    assert not [flow for flow in flows(made, "h1", t.CLASSIFY) if flow.goto == t.PROVIDER_ADMIT.number]


def test_shared_addresses_are_copied_to_the_wire_by_vms_only() -> None:
    made = world("h1", "h2")
    mac = "00:00:5e:00:01:01"
    made.port("vrrp", "net", on="h1", allowed_address_pairs=(AddressPair("10.0.9.9", mac),))
    [flow] = [flow for flow in flows(made, "h1", t.L2_LOOKUP) if f.ETH_DST(f.mac(mac)) in flow.match]
    assert flow.actions == (set_bits(f.TO_SEVERAL, 1),)


def priority(flow: Flow) -> int:
    return flow.priority


def test_what_does_not_reach_the_wire_is_told_and_why() -> None:
    made = world("h1", "h2")
    assert list(wires.unwired(made.topology, "port", "p1")) == []
    [(hypervisor, text)] = wires.unwired(made.topology, "network", "net")
    assert hypervisor == "h3" and "no bridge mapping for physical network phys" in text
    assert [found for found, _ in wires.unwired(made.topology, "port", "p3")] == ["h3"]
    bridge = made.topology.get("bridge", "h1")
    problem = "bridge br-phys of physical network phys is missing: create it"
    other = "bridge br-x of physical network phys2 is missing: create it"
    made.apply(Edit("bridge", "h1", replace(bridge, provider_ofports=(), problems=(other, problem))))
    for kind, id in (("port", "p1"), ("hypervisor", "h1")):
        assert list(wires.unwired(made.topology, kind, id)) == [("h1", problem)]
    assert list(wires.unwired(made.topology, "hypervisor", "h3")) == []
