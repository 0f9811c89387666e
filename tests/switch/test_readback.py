"""Everything that NovaNet writes is accepted by a real switch, and reads back as the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from time import monotonic, sleep

import pytest
from msgspec.structs import replace

from pipelines import fields as f
from pipelines import wire
from pipelines.compiler import Compiler
from pipelines.cookies import cookie
from pipelines.flow import (
    ALIVE,
    CONTROLLER,
    Bucket,
    Flow,
    Group,
    Meter,
    Rule,
    group,
    match,
    output,
    set_field,
)
from pipelines.ledger import Ledger
from tests.switch.conftest import Switch
from tests.switch.shapes import FLOWS, GROUPS, IP, METERS, OPTION, WORDS
from tests.switch.speaker import Speaker
from tests.unit.world import AddressPair, Routed, World
from topology import scope
from topology.changes import Edit
from topology.model import FloatingIp, Link, Neighbour, PortForwarding, RouterGateway, StaticRoute

OWNER = ("network", "n1")


@pytest.fixture(params=wire.VERSIONS, ids=("OpenFlow13", "OpenFlow14", "OpenFlow15"))
def speaker(switch: Switch, request: pytest.FixtureRequest) -> Iterator[Speaker]:
    """A connection to the switch, whose Geneve option is mapped; its flows, groups and meters go afterwards."""
    speaker = Speaker(switch, request.param)
    speaker.map_option(OPTION)
    yield speaker
    speaker.close()
    cleaner = Speaker(switch, request.param)
    cleaner.apply(
        Ledger(request.param).difference([flow[:2] for flow in cleaner.flows()], cleaner.groups(), cleaner.meters())
    )
    assert not cleaner.flows() and not cleaner.groups() and not cleaner.meters()
    cleaner.close()


def test_every_shape_reads_back_as_it_was_written(speaker: Speaker) -> None:
    ledger = Ledger(speaker.version)
    rules: list[Rule] = [*GROUPS, *METERS, *FLOWS.values()]
    speaker.apply(ledger.put(OWNER, rules, cookie(OWNER)))

    actual = {flow.key: flow.body for flow in speaker.flows()}
    for name, flow in FLOWS.items():
        key, body = wire.encode_flow(flow, speaker.version, cookie(OWNER))
        assert key in actual, f"{name}: {wire.describe(key, body)} is not there"
        assert actual[key] == body, f"{name}: {wire.describe(key, body)} became {wire.describe(key, actual[key])}"
    assert len(actual) == len(FLOWS)
    assert speaker.groups() == {g.id: wire.encode_group(g, speaker.version) for g in GROUPS}
    assert speaker.meters() == {m.id: wire.encode_meter(m) for m in METERS}
    assert len(ledger.difference(actual.items(), speaker.groups(), speaker.meters())) == 0


def test_open_vswitch_understands_what_we_mean(speaker: Speaker, switch: Switch) -> None:
    """What it calls the actions, in the words of its own manual."""
    flows = [Flow(1, n, match(*IP), (action,)) for n, action in enumerate(WORDS.values())]
    speaker.apply(Ledger(speaker.version).put(OWNER, flows, 1))
    lines = switch.ofctl("--no-names", "dump-flows", switch.bridge).splitlines()
    assert {line.split(" actions=")[1] for line in lines if " actions=" in line} == set(WORDS)


@pytest.mark.parametrize("tunnel_type", ["geneve", "vxlan"])
def test_what_is_compiled_reads_back(speaker: Speaker, tunnel_type: str) -> None:
    """A small world's rules, as all features compile them, on one of its hypervisors."""
    world = World(tunnel_type=tunnel_type, ipv6=tunnel_type == "vxlan")
    world.network("n1", 7)
    world.port("p1", "n1", on="h1", ips=("10.0.0.1", "fd00::1"), allowed_address_pairs=(AddressPair("10.9.0.0/16"),))
    world.port("p2", "n1", on="h1")
    world.port("p3", "n1", on="h2", ips=("10.0.0.3", "fd00::3"))
    ledger, compiler = Ledger(speaker.version), Compiler()
    owners = scope.owners_on(world.topology, "h1")
    for owner in owners:
        speaker.apply(ledger.put(owner, compiler.compile(world.topology, "h1", owner), cookie(owner)))
    assert ledger.owners >= 5 and ledger.flows > 40 and ledger.groups == 6
    actual = [flow[:2] for flow in speaker.flows()]
    assert len(actual) == ledger.flows
    left = ledger.difference(actual, speaker.groups(), speaker.meters())
    assert not left, [wire.describe(key, body) for key, body in left.flows.items()]


@pytest.mark.parametrize("hypervisor", ["h1", "h2", "h3"])
def test_a_router_to_the_outside_reads_back(speaker: Speaker, hypervisor: str) -> None:
    """Routes, NAT, floating IPs and failover: as the gateway, as its stand-by and as one that is not wired."""
    world = Routed()
    world.port("b3", "b", on="h3", ips=("10.0.1.13", "fd00:b::13"))
    world.network("out", 30, "192.0.2.0/24", "2001:db8::/64", external=True, physical_network="wan", segmentation_id=12)
    for here, there in permutations(("h1", "h2", "h3"), 2):
        link = Link(hypervisor_id=here, peer_id=there, ofport=700 + int(there[1:]), up=True)
        world.apply(Edit("link", f"{here}/{there}", link))
    for name in ("h1", "h2"):
        world.wire(name, "wan")
    world.interface("r", "out", "192.0.2.10", "2001:db8::10")
    world.edit(
        "router", "r",
        gateway_hypervisors=(RouterGateway("h1", 2), RouterGateway("h2", 1)),
        routes=tuple(StaticRoute("203.0.113.0/24", f"10.0.1.{n}") for n in (12, 13)),
    )  # fmt: skip
    fixed = FloatingIp(
        id="f1", floating_network_id="out", subnet_id="out-4", floating_ip_address="192.0.2.77", mac_address="02:00:00:00:fe:01",
        port_id="b2", fixed_ip_address="10.0.1.12",
    )  # fmt: skip
    shared = replace(fixed, id="f2", floating_ip_address="192.0.2.78", mac_address="02:00:00:00:fe:02", port_id=None)
    forwarding = PortForwarding(
        id="w1", floating_ip_id="f2", protocol="tcp", external_port=8080, internal_port_id="b1",
        internal_ip_address="10.0.1.11", internal_port=80,
    )  # fmt: skip
    neighbour = Neighbour(id="g1", network_id="out", ip_address="192.0.2.1", mac_address="02:00:00:00:fe:03")
    objects = {"floating-ip": fixed, "port-forwarding": forwarding, "neighbour": neighbour}
    world.apply(Edit("floating-ip", "f2", shared), *(Edit(kind, obj.id, obj) for kind, obj in objects.items()))

    ledger, compiler = Ledger(speaker.version), Compiler()
    for owner in scope.owners_on(world.topology, hypervisor):
        speaker.apply(ledger.put(owner, compiler.compile(world.topology, hypervisor, owner), cookie(owner)))
    actual = [flow[:2] for flow in speaker.flows()]
    assert len(actual) == ledger.flows > 200 and ledger.meters > 1 and len(speaker.groups()) == ledger.groups > 2
    left = ledger.difference(actual, speaker.groups(), speaker.meters())
    assert not left, [wire.describe(key, body) for key, body in left.flows.items()]


def test_differences_are_repaired_and_foreign_things_go(speaker: Speaker, switch: Switch) -> None:
    ledger = Ledger(speaker.version)
    rules: list[Rule] = [*GROUPS, *METERS, *FLOWS.values()]
    speaker.apply(ledger.put(OWNER, rules, cookie(OWNER)))
    switch.ofctl("del-flows", switch.bridge, "table=2")
    switch.ofctl("mod-flows", switch.bridge, "table=7,actions=drop")
    switch.ofctl("add-group", switch.bridge, "group_id=77,type=all,bucket=output:1")
    switch.ofctl("add-flow", switch.bridge, "table=20,priority=3,in_port=1,actions=group:77")
    switch.ofctl("mod-group", switch.bridge, "group_id=1,type=indirect,bucket=output:2")
    switch.ofctl("del-groups", switch.bridge, "group_id=4")
    switch.ofctl("mod-meter", switch.bridge, "meter=1,kbps,band=type=drop,rate=7")
    switch.ofctl("add-meter", switch.bridge, "meter=9,kbps,band=type=drop,rate=7")

    repair = ledger.difference([flow[:2] for flow in speaker.flows()], speaker.groups(), speaker.meters())
    assert set(repair.groups) == {1, 4, 77} and set(repair.meters) == {1, 9}
    assert {key for key, body in repair.flows.items() if body is None} == {bytes([20]) + b"\0\3" + f.IN_PORT(1)}
    speaker.apply(repair)
    assert len(ledger.difference([flow[:2] for flow in speaker.flows()], speaker.groups(), speaker.meters())) == 0


def test_a_group_fails_over(speaker: Speaker, switch: Switch) -> None:
    """To the first bucket whose port is up, and to one that watches nothing when there is none."""
    buckets = (Bucket((output(2),), watch_port=1), Bucket((output(4),), watch_port=3), Bucket((output(100),)))
    rules = [ALIVE, Group(9, "fast_failover", buckets), Flow(0, 1, b"", (group(9),))]
    speaker.apply(Ledger(speaker.version).put(OWNER, rules, 1))
    try:
        until_used(switch, 0)
        switch.appctl("netdev-dummy/set-admin-state", "p1", "down")
        until_used(switch, 1)
        switch.appctl("netdev-dummy/set-admin-state", "p3", "down")
        until_used(switch, 2)
        switch.appctl("netdev-dummy/set-admin-state", "p1", "up")
        until_used(switch, 0)
    finally:
        for port in ("p1", "p3"):
            switch.appctl("netdev-dummy/set-admin-state", port, "up")


def until_used(switch: Switch, bucket: int) -> None:
    """Wait until packets take this bucket."""
    end = monotonic() + 20
    while f"using bucket {bucket}" not in (trace := switch.appctl("ofproto/trace", switch.bridge, "in_port=2")):
        assert monotonic() < end, trace
        sleep(0.02)


def test_taking_away_leaves_nothing_and_changing_keeps_the_rest(speaker: Speaker) -> None:
    ledger = Ledger(speaker.version)
    speaker.apply(ledger.put(OWNER, [*GROUPS, *METERS, *FLOWS.values()], cookie(OWNER)), size=7)
    changed = [flow for name, flow in FLOWS.items() if name != "goto"]
    speaker.apply(ledger.put(OWNER, [Group(1, "all", ()), *GROUPS[1:], Meter(1, 9, 9), *METERS[1:], *changed], 5))
    found = {flow.key: flow.body for flow in speaker.flows()}
    assert found == dict(wire.encode_flow(flow, speaker.version, 5) for flow in changed)
    assert speaker.groups()[1] == b"\0\0\0"
    assert speaker.meters()[1] == wire.encode_meter(Meter(1, 9, 9))
    speaker.apply(ledger.put(OWNER, (), cookie(OWNER)))
    assert not speaker.flows() and not speaker.groups() and not speaker.meters()


RIGHT = Flow(3, 2, b"", goto=4)


def blame(speaker: Speaker, wrong: Flow) -> tuple[wire.Reply, list[tuple[wire.Subject, str]]]:
    """Send a bundle of RIGHT and a wrong flow; returns the answer to the commit, and (what, error's name) before."""
    delta = Ledger(speaker.version).put(OWNER, [RIGHT, wrong], 1)
    (batch,) = wire.batches(delta, speaker.version, speaker.xids)
    speaker.send(batch.data)
    blamed = []
    while (message := speaker.receive()).xid != batch.last:
        if isinstance(error := wire.read(message), wire.Error):
            blamed.append((batch.subjects[message.xid], error.name))
    return wire.read(message), blamed


def test_a_flow_that_cannot_be_fails_its_bundle(speaker: Speaker) -> None:
    wrong = Flow(3, 1, match(f.IN_PORT(1)), (group(55),))
    end, blamed = blame(speaker, wrong)
    key, _ = wire.encode_flow(wrong, speaker.version, 1)
    assert blamed == [(wire.Subject("flow", key), "OFPBAC_BAD_OUT_GROUP")]
    assert isinstance(end, wire.Error) and end.name == "OFPBFC_MSG_FAILED"
    assert not speaker.flows()


def test_a_malformed_flow_is_left_out_of_its_bundle(speaker: Speaker) -> None:
    wrong = Flow(3, 1, match(f.IPV4_DST(5)))  # eth_type is missing
    end, blamed = blame(speaker, wrong)
    key, _ = wire.encode_flow(wrong, speaker.version, 1)
    assert blamed == [(wire.Subject("flow", key), "OFPBMC_BAD_PREREQ")]
    assert isinstance(end, wire.BundleReply) and end.what == wire.Bundle.COMMIT + 1
    assert [flow[:2] for flow in speaker.flows()] == [wire.encode_flow(RIGHT, speaker.version, 1)]


def test_counters_and_sums(speaker: Speaker, switch: Switch) -> None:
    ledger = Ledger(speaker.version)
    speaker.apply(ledger.put(OWNER, [Flow(0, 1, match(f.IN_PORT(1)), (output(2),)), Flow(0, 0, b"")], 1))
    frame = bytes.fromhex("020000000002020000000001") + b"\x08\x00" + bytes(50)
    speaker.send(wire.encode_packet_out(speaker.version, frame, (output(0xFFFFFFF9),), 1))  # OFPP_TABLE
    speaker.ask(wire.barrier(speaker.version, next(speaker.xids)))
    switch.appctl("revalidator/purge")
    end = monotonic() + 20
    while True:
        counted = {flow.key[3:]: (flow.packets, flow.bytes) for flow in speaker.flows()}
        if any(packets for packets, _ in counted.values()) or monotonic() > end:
            break
        sleep(0.05)
    assert counted == {f.IN_PORT(1): (1, 64), b"": (0, 0)}
    (part,) = speaker.parts(wire.aggregate_request(speaker.version, next(speaker.xids)))
    assert wire.aggregate(part) == (1, 64, 2)


def test_packets_for_the_controller(speaker: Speaker) -> None:
    speaker.send(wire.message(speaker.version, wire.Type.SET_CONFIG, next(speaker.xids), b"\0\0\xff\xff"))
    reasons = (
        0b111 if speaker.version == wire.OF13 else 0b111111
    )  # later versions tell action, group and packet-out apart
    speaker.send(wire.set_async(speaker.version, next(speaker.xids), packet_in=reasons))
    ledger = Ledger(speaker.version)
    punt = Flow(
        4, 5, match(f.IN_PORT(1)), (set_field(f.IN_PORT_KEY, 77), set_field(f.FLAGS, 1), output(CONTROLLER, 0xFFFF))
    )
    first = Flow(0, 5, match(f.IN_PORT(1)), (), metadata=9, goto=4)
    speaker.apply(ledger.put(OWNER, [punt, first], 0x1234))
    frame = bytes.fromhex("020000000002020000000001") + b"\x88\xb5" + bytes(range(50))
    speaker.send(wire.encode_packet_out(speaker.version, frame, (output(0xFFFFFFF9),), 1))
    while not isinstance(packet := wire.read(speaker.receive()), wire.PacketIn):
        pass
    assert (packet.table, packet.cookie, packet.data) == (4, 0x1234, frame)
    assert packet.fields == {f.IN_PORT: 1, f.METADATA: 9, f.IN_PORT_KEY: 77, f.FLAGS: 1}


def test_a_flow_that_ends_is_reported(speaker: Speaker) -> None:
    speaker.send(wire.message(speaker.version, wire.Type.SET_CONFIG, next(speaker.xids), b"\0\0\xff\xff"))
    speaker.send(wire.set_async(speaker.version, next(speaker.xids), flow_removed=0xF))
    key, body = wire.encode_flow(Flow(4, 5, match(f.OUT_PORT_KEY(7), f.IN_PORT(1))), speaker.version, 0x99)
    send_flow_removed = body[:12] + b"\0\1" + body[14:]
    speaker.send(wire.flow_add(key, send_flow_removed, speaker.version, next(speaker.xids)))
    assert [flow[:2] for flow in speaker.flows()] == [(key, send_flow_removed)]
    speaker.send(wire.flow_delete(key, speaker.version, next(speaker.xids)))
    while not isinstance(removed := wire.read(speaker.receive()), wire.FlowRemoved):
        pass
    assert (removed.key, removed.cookie, removed.reason, removed.packets) == (key, 0x99, 2, 0)
    assert 0 <= removed.duration < 60


def test_the_map_of_geneve_options(speaker: Speaker) -> None:
    version, xids = speaker.version, speaker.xids
    table = wire.read(speaker.ask(wire.tlv_request(version, next(xids))))
    assert isinstance(table, wire.TlvTable) and table.options == (OPTION,)
    speaker.send(again := wire.tlv_mod(version, next(xids), wire.TlvCommand.ADD, OPTION))
    message = speaker.receive()
    refused = wire.read(message)
    assert isinstance(refused, wire.Error) and refused.name == "NXTTMFC_ALREADY_MAPPED"
    assert message.xid == int.from_bytes(again[4:8], "big")


def test_roles_and_ports(speaker: Speaker) -> None:
    version, xids = speaker.version, speaker.xids
    reply = wire.read(speaker.ask(wire.role_request(version, next(xids), wire.Role.MASTER, 5)))
    assert reply == (wire.Role.MASTER, 5)
    (part,) = speaker.parts(wire.ports_request(version, next(xids)))
    assert {(port.number, port.name) for port in wire.ports(part)} == {
        (1, "p1"), (2, "p2"), (3, "p3"), (4, "p4"), (100, "tun0"), (0xFFFFFFFE, "br0"),
    }  # fmt: skip


def test_a_discarded_bundle_changes_nothing(speaker: Speaker) -> None:
    version, xids = speaker.version, speaker.xids
    key, body = wire.encode_flow(Flow(1, 1, b""), version, 1)
    bundle, xid = next(xids), next(xids)
    opened = wire.read(speaker.ask(wire.bundle_control(version, bundle, bundle, wire.Bundle.OPEN)))
    assert isinstance(opened, wire.BundleReply) and opened[:2] == (bundle, wire.Bundle.OPEN + 1)
    speaker.send(b"".join(wire.bundle_adds(version, bundle, [wire.flow_add(key, body, version, xid)])))
    done = wire.read(speaker.ask(wire.bundle_control(version, next(xids), bundle, wire.Bundle.DISCARD)))
    assert isinstance(done, wire.BundleReply) and done[:2] == (bundle, wire.Bundle.DISCARD + 1)
    assert not speaker.flows()


def test_thousands_of_flows_read_back_in_many_parts(speaker: Speaker) -> None:
    ledger = Ledger(speaker.version)
    rules = [
        Flow(3, 9, match(f.NETWORK(7), f.ETH_TYPE(f.IPV4), f.IPV4_DST(n)), (set_field(f.OUT_PORT_KEY, n),), goto=5)
        for n in range(12_000)
    ]
    bundles = [batch for step in ledger.put_steps(OWNER, rules, 1) for batch in speaker.apply(step)]
    assert len(bundles) == 6 and all(batch.bundle is not None for batch in bundles)
    parts = speaker.parts(wire.flows_request(speaker.version, next(speaker.xids)))
    assert len(parts) > 1
    actual = [flow[:2] for part in parts for flow in wire.flows(part)]
    assert dict(actual) == dict(wire.encode_flow(rule, speaker.version, 1) for rule in rules)
