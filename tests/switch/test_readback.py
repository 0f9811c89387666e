"""Everything that NovaNet writes is accepted by a real switch, and reads back as the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic, sleep

import pytest

from pipelines import fields as f
from pipelines import wire
from pipelines.compiler import Compiler
from pipelines.cookies import cookie
from pipelines.flow import (
    CONTROLLER,
    IN_PORT_RESERVED,
    Bucket,
    Flow,
    Group,
    Meter,
    Rule,
    copy,
    group,
    match,
    output,
    resubmit,
    set_bits,
    set_field,
)
from pipelines.ledger import Ledger
from tests.switch.conftest import Switch
from tests.switch.speaker import Speaker
from tests.unit.world import AddressPair, World
from topology import scope

OWNER = ("network", "n1")
OPTION = (f.GENEVE_OPTION_CLASS, f.GENEVE_OPTION_TYPE, 8, 0)
IPV6 = 0xFD00_0000_0000_0000_0000_0000_0000_0001
PREFIX = ((1 << 64) - 1) << 64
NS = (f.ETH_TYPE(f.IPV6), f.IP_PROTO(f.ICMPV6), f.ICMPV6_TYPE(135))
NA = (f.ETH_TYPE(f.IPV6), f.IP_PROTO(f.ICMPV6), f.ICMPV6_TYPE(136))
ARP = (f.ETH_TYPE(f.ARP), f.ARP_OP(1))
UDP = (f.ETH_TYPE(f.IPV4), f.IP_PROTO(f.UDP))
TCP = (f.ETH_TYPE(f.IPV4), f.IP_PROTO(f.TCP))

MATCHES: dict[str, tuple[bytes, ...]] = {
    "everything": (),
    "port": (f.IN_PORT(1),),
    "metadata": (f.METADATA(7),),
    "metadata masked": (f.METADATA(0x10, 0xF0),),
    "registers": tuple(f.register(n)(n + 1) for n in range(16)),
    "odd register": (f.register(5)(0),),
    "register bits": (f.FROM_TUNNEL(0),),
    "register mask of ones": (f.OUT_PORT_KEY(7, 0xFFFFFFFF),),
    "register mask of zeros": (f.OUT_PORT_KEY(0, 0), f.IN_PORT(2)),
    "ethernet": (f.ETH_SRC(0x020000000001), f.ETH_DST(0x020000000002)),
    "multicast": (f.ETH_DST(f.MULTICAST_BIT, f.MULTICAST_BIT),),
    "ipv4": (f.ETH_TYPE(f.IPV4), f.IPV4_SRC(0x0A000001), f.IPV4_DST(0x0A010000, 0xFFFF0000)),
    "bits beside the mask": (f.ETH_TYPE(f.IPV4), f.IPV4_DST(0x0A010203, 0xFFFF0000)),
    "ipv6": (f.ETH_TYPE(f.IPV6), f.IPV6_SRC(IPV6), f.IPV6_DST(IPV6, PREFIX)),
    "ttl": (f.ETH_TYPE(f.IPV4), f.IP_TTL(1)),
    "udp": (*UDP, f.UDP_SRC(68), f.UDP_DST(67)),
    "tcp": (*TCP, f.TCP_SRC(0x1000, 0xF000), f.TCP_DST(443)),
    "arp": (*ARP, f.ARP_SPA(1), f.ARP_TPA(0x0A000000, 0xFF000000), f.ARP_SHA(2), f.ARP_THA(0)),
    "solicitation": (*NS, f.ICMPV6_CODE(0), f.ND_TARGET(IPV6), f.ND_SLL(0)),
    "advertisement": (*NA, f.ND_TARGET(IPV6, PREFIX), f.ND_TLL(0x020000000001)),
    "nd extensions": (*NA, f.ND_RESERVED(0x60000000), f.ND_OPTIONS_TYPE(2)),
    "tunnel": (f.TUNNEL_ID(7), f.TUN_SRC(0xC0A80001), f.TUN_DST(0xC0A80002)),
    "ipv6 tunnel": (f.TUN_IPV6_SRC(IPV6), f.TUN_IPV6_DST(IPV6, PREFIX)),
    "option": (f.TUN_OPTION(5),),
    "large option": (f.TUN_OPTION(0x0102030405060708),),
    "option's lower half": (f.TUN_SRC(1), f.TUN_OPTION_PORT_KEY(0)),
    "option's upper half": (f.TUN_OPTION_IDENTITY(9),),
    "network and address": (f.NETWORK(7), f.ETH_TYPE(f.IPV4), f.IPV4_DST(3), f.IN_PORT_KEY(5), f.FROM_TUNNEL(1)),
}

SETTABLE = {
    f.ETH_SRC: (), f.ETH_DST: (), f.METADATA: (), f.TUNNEL_ID: (), f.TUN_SRC: (), f.TUN_DST: (), f.TUN_IPV6_SRC: (),
    f.TUN_IPV6_DST: (), f.OUT_PORT_KEY: (), f.FLAGS: (), f.register(15): (),
    f.IPV4_SRC: UDP, f.IPV4_DST: UDP, f.UDP_SRC: UDP, f.UDP_DST: UDP, f.IP_TTL: UDP,
    f.TCP_SRC: TCP, f.TCP_DST: TCP,
    f.ARP_OP: ARP, f.ARP_SPA: ARP, f.ARP_TPA: ARP, f.ARP_SHA: ARP, f.ARP_THA: ARP,
    f.IPV6_SRC: NS, f.IPV6_DST: NS, f.ICMPV6_TYPE: NS, f.ICMPV6_CODE: NS, f.ND_TARGET: NS, f.ND_SLL: NS, f.ND_TLL: NA,
    f.ND_RESERVED: NA, f.ND_OPTIONS_TYPE: NA,
}  # fmt: skip
"""Fields that flows set, and what must be matched for it."""
LARGEST = {f.ARP_OP: 0xFF}
"""Where a switch takes less than the field could hold."""

FLOWS: dict[str, Flow] = (
    {f"match {name}": Flow(1, n, match(*tlvs), goto=3) for n, (name, tlvs) in enumerate(MATCHES.items())}
    | {
        f"set {field}": Flow(2, n, match(*needs), (set_field(field, 1), set_field(field, LARGEST.get(field, field.ones))), goto=3)
        for n, (field, needs) in enumerate(SETTABLE.items())
    }
    | {
        f"set bits of {field}": Flow(
            3, n, match(*needs), (set_bits(f.Bits(field, 1, 3), 5), set_bits(f.Bits(field, 0, 8 * field.size - 1), 3))
        )
        for n, (field, needs) in enumerate(SETTABLE.items())
        if field.size <= 8
    }
    | {
        f"set upper bits of {field}": Flow(4, n, match(*NS), (set_bits(f.Bits(field, 64, 64), 1 << 63),))
        for n, field in enumerate((f.IPV6_SRC, f.IPV6_DST, f.TUN_IPV6_DST))
    }
    | {
        f"copy {field}": Flow(5, n, match(*needs), (copy(field, field), copy(f.Bits(field, 0, 8), f.Bits(f.FLAGS, 3, 8))))
        for n, (field, needs) in enumerate(SETTABLE.items())
    }
    | {
        f"option {value:#x}": Flow(6, n, b"", (set_field(f.TUN_OPTION, value),))
        for n, value in enumerate((0, 1, 0xFF, 0x100, 0x1000000, 1 << 32, 1 << 63))
    }
    | {
        "drop": Flow(7, 0, b""),
        "goto": Flow(7, 1, b"", goto=8),
        "far goto": Flow(7, 2, b"", goto=253),
        "write metadata": Flow(7, 3, b"", metadata=0x1234567890),
        "write metadata 0": Flow(7, 4, b"", metadata=0, goto=8),
        "outputs": Flow(7, 5, b"", (output(1), output(IN_PORT_RESERVED), output(CONTROLLER, 0xFFFF))),
        "group": Flow(7, 6, b"", (group(1), group(0x01000002))),
        "resubmit": Flow(7, 7, b"", (resubmit(9), resubmit(253))),
        "meter": Flow(7, 8, b"", (output(2),), meter=1),
        "meter alone": Flow(7, 9, b"", meter=2),
        "everything": Flow(
            7, 10, match(f.IN_PORT(3)), (set_field(f.PEER, 2), copy(f.NETWORK, f.TUNNEL_ID), output(100)),
            metadata=9, meter=1, goto=200,
        ),
        "timeouts": Flow(7, 11, b"", goto=8, idle_timeout=300, hard_timeout=3600),
        "highest priority": Flow(7, 65535, b"", goto=8),
        "option from registers": Flow(
            7, 12, b"",
            (copy(f.OUT_PORT_KEY, f.TUN_OPTION_PORT_KEY), copy(f.SRC_IDENTITY, f.TUN_OPTION_IDENTITY), output(100)),
        ),
        "option to registers": Flow(
            7, 13, b"", (copy(f.TUN_OPTION_IDENTITY, f.SRC_IDENTITY), copy(f.TUN_OPTION_PORT_KEY, f.OUT_PORT_KEY))
        ),
        "halves of the option": Flow(
            7, 14, b"", (set_bits(f.TUN_OPTION_PORT_KEY, 6), set_bits(f.TUN_OPTION_IDENTITY, 0xFFFFFFFF))
        ),
    }
)  # fmt: skip

GROUPS = (
    Group(1, "all", (Bucket((set_field(f.OUT_PORT_KEY, 1), resubmit(9))), Bucket((output(1),)), Bucket(()))),
    Group(0x01000002, "indirect", (Bucket((output(1),)),)),
    Group(3, "select", (Bucket((output(1),), weight=10), Bucket((copy(f.NETWORK, f.TUNNEL_ID), output(2)), weight=20))),
    Group(4, "all", ()),
)
METERS = (Meter(1, 1000, 100), Meter(2, 500, 50, packets=True), Meter(3, 500, 0))


@pytest.fixture(params=wire.VERSIONS, ids=("OpenFlow13", "OpenFlow14", "OpenFlow15"))
def speaker(switch: Switch, request: pytest.FixtureRequest) -> Iterator[Speaker]:
    """A connection to the switch, whose Geneve option is mapped; its flows, groups and meters go afterwards."""
    speaker = Speaker(switch, request.param)
    table = wire.read(speaker.ask(wire.tlv_request(speaker.version, next(speaker.xids))))
    if OPTION not in table.options:  # it stays: flows that are gone may hold it for a while
        speaker.send(wire.tlv_mod(speaker.version, next(speaker.xids), wire.TlvCommand.ADD, OPTION))
        speaker.ask(wire.barrier(speaker.version, next(speaker.xids)))
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
    assert ledger.owners >= 5 and ledger.flows > 40 and ledger.groups == 2
    actual = [flow[:2] for flow in speaker.flows()]
    assert len(actual) == ledger.flows
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
    speaker.send(wire.packet_out(speaker.version, next(speaker.xids), 1, (output(0xFFFFFFF9),), frame))  # OFPP_TABLE
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
    speaker.send(wire.packet_out(speaker.version, next(speaker.xids), 1, (output(0xFFFFFFF9),), frame))
    while not isinstance(packet := wire.read(speaker.receive()), wire.PacketIn):
        pass
    assert (packet.table, packet.cookie, packet.data) == (4, 0x1234, frame)
    assert packet.values == {f.IN_PORT: 1, f.METADATA: 9, f.IN_PORT_KEY: 77, f.FLAGS: 1}


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
