"""Limits and marks as flows and meters: one meter for each use, found by its number, and none shared."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from pipelines import fields as f
from pipelines import tables as t
from pipelines.compiler import Compiler
from pipelines.flow import Flow, Meter, Rule
from pipelines.interpreter import QUEUE, Interpreter
from pipelines.qos import Use, meter_id
from topology.changes import Edit
from topology.graph import Topology
from topology.model import QosPolicy, QosRule

from .world import World

HERE = "h1"
EXPEDITED = 46


def world(*rules: dict[str, Any], **port: object) -> tuple[Topology, str]:
    """A world in which a VM's port on h1 has a policy with these rules; and the port's id."""
    made = World(1)
    made.network("a", 1)
    made.port("vm", "a", on=HERE, **port)
    made.apply(Edit("qos-policy", "p", QosPolicy(id="p")))
    for number, rule in enumerate(rules):
        made.apply(Edit("qos-rule", f"r{number}", QosRule(id=f"r{number}", qos_policy_id="p", **rule)))
    made.apply(Edit("port", "vm", replace(made.topology.get("port", "vm"), qos_policy_id="p")))
    return made.topology, "vm"


def compiled(topology: Topology, *owners: tuple[str, str]) -> list[Rule]:
    compiler = Compiler()
    return [rule for owner in owners for rule in compiler.rules(topology, HERE, owner)]


def limit(kbps: int, direction: str = "egress", **fields: object) -> dict[str, Any]:
    return {"type": "bandwidth_limit", "direction": direction, "max_kbps": kbps, **fields}


def test_a_meter_for_each_direction_and_kind_of_rate() -> None:
    packets = {"type": "packet_rate_limit", "max_pps": 500, "max_burst_packets": 7}
    topology, port = world(limit(1000), limit(2000, "ingress", max_burst_kbps=80), packets)
    ofport = topology.get("vif", port).ofport
    rules = compiled(topology, ("qos", port))
    meters = {rule.id: rule for rule in rules if isinstance(rule, Meter)}
    assert meters == {
        meter_id(Use.EGRESS_RATE, ofport): Meter(meter_id(Use.EGRESS_RATE, ofport), 1000, 400),
        meter_id(Use.EGRESS_PACKETS, ofport): Meter(meter_id(Use.EGRESS_PACKETS, ofport), 500, 7, packets=True),
        meter_id(Use.INGRESS_RATE, ofport): Meter(meter_id(Use.INGRESS_RATE, ofport), 2000, 80),
    }
    lookups = [rule for rule in rules if isinstance(rule, Flow) and rule.table == t.METER.number]
    assert {rule.meter for rule in lookups} == set(meters)


def test_behind_a_shaped_interface_a_meter_lets_pass_twice_as_much() -> None:
    topology, port = world(limit(2000, "ingress", shape=True), limit(1000))
    ofport = topology.get("vif", port).ofport
    meters = {rule.id: (rule.rate, rule.burst) for rule in compiled(topology, ("qos", port)) if isinstance(rule, Meter)}
    assert meters == {
        meter_id(Use.EGRESS_RATE, ofport): (1000, 400),
        meter_id(Use.INGRESS_RATE, ofport): (4000, 1600),
    }


def test_packets_pass_the_meters_of_their_port_and_no_others() -> None:
    topology, port = world(limit(1000), limit(2000, "ingress"))
    key, ofport = topology.get("port", port).port_key, topology.get("vif", port).ofport
    switch = Interpreter.of(
        [rule for rule in compiled(topology, ("base", HERE), ("qos", port)) if not isinstance(rule, Meter)]
    )
    sent = switch.run({f.IN_PORT_KEY: key, f.ETH_TYPE: f.ARP}, 1, table=t.LIMIT.number)
    assert meters_of(sent) == [meter_id(Use.EGRESS_RATE, ofport)]
    other = switch.run({f.IN_PORT_KEY: key + 1, f.ETH_TYPE: f.ARP}, 1, table=t.LIMIT.number)
    assert meters_of(other) == []


@pytest.mark.parametrize("rules", [(), (limit(1000),)], ids=["unlimited", "limited"])
def test_packets_get_the_queue_of_their_port_where_open_vswitch_shapes(rules: tuple[dict[str, Any], ...]) -> None:
    topology, port = world({"type": "minimum_bandwidth", "min_kbps": 1000}, *rules)
    key, ofport = topology.get("port", port).port_key, topology.get("vif", port).ofport
    assert queue_after(topology, key) is None, "Open vSwitch's own datapath knows no queues: nothing is done"
    shaping(topology)
    assert queue_after(topology, key) == ofport
    assert queue_after(topology, key + 1) == 0, "whatever a container asks for"
    topology.apply([Edit("qos-rule", "r0", None)])
    assert queue_after(topology, key) == 0


def test_a_port_whose_number_no_queue_has_goes_with_the_others() -> None:
    topology, port = world({"type": "priority", "priority": 7})
    shaping(topology)
    topology.apply([Edit("vif", port, replace(topology.get("vif", port), ofport=0xF000))])
    assert queue_after(topology, topology.get("port", port).port_key) == 0


def shaping(topology: Topology) -> None:
    """Open vSwitch on h1 shapes an uplink."""
    topology.apply([Edit("bridge", HERE, replace(topology.get("bridge", HERE), queueing=("eth0",)))])


def queue_after(topology: Topology, key: int) -> int | None:
    """The queue with which a packet of a port gets to its anti-spoofing."""
    tables = (t.LIMIT.number, t.METER.number)
    rules = [rule for rule in compiled(topology, ("base", HERE), ("qos", "vm")) if isinstance(rule, Flow)]
    seen = Flow(t.MARK.number, 1, b"", (b"\0\0\0\x10" + (9).to_bytes(4, "big") + bytes(8),))
    switch = Interpreter.of([*(rule for rule in rules if rule.table in tables), seen])
    (sent,) = switch.run({f.IN_PORT_KEY: key, f.ETH_TYPE: f.IPV4}, 1, table=t.LIMIT.number).sent
    return sent.packet.get(QUEUE)


def meters_of(outcome: object) -> list[int]:
    return [meter for visit in outcome.visits for meter in visit.meters]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("trusted", "mark"), [(False, 0), (True, EXPEDITED)])
def test_marks_of_a_port_that_nobody_marks(trusted: bool, mark: int) -> None:
    topology, port = world(trust_dscp=trusted)
    assert dscp_after(topology, port) == mark


def test_a_policy_s_mark_comes_first() -> None:
    topology, port = world({"type": "dscp_marking", "dscp_mark": 26}, trust_dscp=True)
    assert dscp_after(topology, port) == 26


def dscp_after(topology: Topology, port: str) -> int:
    """The DSCP with which a packet of the port gets to its anti-spoofing."""
    marks = [
        rule
        for rule in compiled(topology, ("base", HERE), ("qos", port))
        if isinstance(rule, Flow) and rule.table == t.MARK.number
    ]
    seen = Flow(t.PORT_SECURITY.number, 1, b"", (b"\0\0\0\x10" + (9).to_bytes(4, "big") + bytes(8),))
    key = topology.get("port", port).port_key
    (sent,) = (
        Interpreter.of([*marks, seen])
        .run({f.IN_PORT_KEY: key, f.ETH_TYPE: f.IPV4, f.IP_DSCP: EXPEDITED}, 1, table=t.MARK.number)
        .sent
    )
    return int(sent.packet[f.IP_DSCP])


def test_numbers_of_meters_do_not_meet() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        meter_id(Use.FLOATING, 1 << 24)
    assert len({meter_id(use + n, 7) for use in (Use.GATEWAY, Use.FLOATING) for n in range(4)}) == 8
