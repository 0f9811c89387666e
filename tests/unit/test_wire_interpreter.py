"""The interpreter does what a switch does, in every version's encoding."""

from __future__ import annotations

import pytest

from pipelines import fields as f
from pipelines.flow import (
    ALIVE,
    CONTROLLER,
    IN_PORT_RESERVED,
    Bucket,
    Flow,
    Group,
    Rule,
    check_pkt_larger,
    clone,
    conntrack,
    copy,
    dec_ttl,
    group,
    match,
    multipath,
    output,
    pop_vlan,
    push_vlan,
    resubmit,
    set_bits,
    set_field,
    to_controller,
)
from pipelines.tables import PIPELINE
from pipelines.wire import VERSIONS
from tests.interpreter import SIZE, Interpreter

versions = pytest.mark.parametrize("version", VERSIONS)
FROM_1 = match(f.IN_PORT(1))


@versions
def test_priorities_masks_and_goto(version: int) -> None:
    rules: list[Rule] = [
        Flow(0, 1, b"", goto=2),
        Flow(2, 10, match(f.ETH_TYPE(f.IPV4), f.IPV4_DST(0x0A000000, 0xFF000000)), (output(2),)),
        Flow(2, 20, match(f.ETH_TYPE(f.IPV4), f.IPV4_DST(0x0A010000, 0xFFFF0000)), (output(3),)),
        Flow(2, 0, b"", (output(9),)),
    ]
    switch = Interpreter.of(rules, version)
    ip = {f.ETH_TYPE: f.IPV4}
    assert switch.run({**ip, f.IPV4_DST: 0x0A010203}, 1).ports == [3]
    assert switch.run({**ip, f.IPV4_DST: 0x0A020203}, 1).ports == [2]
    outcome = switch.run({**ip, f.IPV4_DST: 0x0B020203}, 1)
    assert outcome.ports == [9]
    assert [line.split(" actions")[0].split(", ", 1)[1] for line in outcome.flows] == [
        "table=0(classify), priority=1",
        f"table=2({PIPELINE[2].name}), priority=0",
    ]


@versions
def test_fields_registers_and_metadata(version: int) -> None:
    swap = (
        copy(f.ETH_SRC, f.ETH_DST),
        set_field(f.ETH_SRC, 0xAA),
        set_bits(f.FROM_TUNNEL, 1),
        copy(f.Bits(f.NETWORK, 0, 16), f.Bits(f.FLAGS, 16, 16)),
        set_field(f.TUN_OPTION, 0x1234),
    )
    rules = [
        Flow(0, 1, b"", metadata=0x10007, goto=1),
        Flow(1, 1, match(f.NETWORK(0x10007)), swap, goto=2),
        Flow(2, 1, match(f.FROM_TUNNEL(1), f.ETH_SRC(0xAA)), (output(5),)),
    ]
    (sent,) = Interpreter.of(rules, version).run({f.ETH_SRC: 0xBB, f.ETH_DST: 0xCC, f.FLAGS: 0x2}, 1).sent
    assert sent.port == 5
    assert {field: sent.packet[field] for field in (f.ETH_SRC, f.ETH_DST, f.FLAGS, f.TUN_OPTION)} == {
        f.ETH_SRC: 0xAA, f.ETH_DST: 0xBB, f.FLAGS: 0x00070003, f.TUN_OPTION: 0x1234,
    }  # fmt: skip


@versions
def test_groups_copy_and_resubmits_do_not(version: int) -> None:
    rules: list[Rule] = [
        Group(7, "all", tuple(Bucket((set_field(f.OUT_PORT_KEY, key), resubmit(5))) for key in (1, 2, 3))),
        Group(8, "select", (Bucket((output(8),), 1), Bucket((output(9),), 1))),
        Flow(0, 1, b"", (group(7), set_field(f.PEER, 4), resubmit(6), group(8)), goto=7),
        *(Flow(5, 1, match(f.OUT_PORT_KEY(key)), (output(key),)) for key in (1, 2, 3)),
        Flow(6, 1, match(f.OUT_PORT_KEY(0)), (set_field(f.SRC_IDENTITY, 6),)),
        Flow(7, 1, match(f.SRC_IDENTITY(6)), (output(20),)),
    ]
    assert Interpreter.of(rules, version).run({}, 2).ports == [1, 3, 8, 20]


@versions
def test_only_the_reserved_port_sends_back(version: int) -> None:
    rules = [Flow(0, 1, FROM_1, (output(1), output(IN_PORT_RESERVED), output(2)))]
    assert Interpreter.of(rules, version).run({}, 1).ports == [1, 2]
    assert Interpreter.of(rules, version).run({}, 3).ports == []


def test_two_flows_of_one_priority_that_both_match_are_an_error() -> None:
    switch = Interpreter.of([Flow(0, 1, FROM_1), Flow(0, 1, match(f.NETWORK(0)))])
    with pytest.raises(AssertionError, match="ambiguous"):
        switch.run({}, 1)


def test_a_loop_of_resubmits_ends() -> None:
    switch = Interpreter.of([Flow(0, 1, b"", (output(3), resubmit(0)))])
    assert len(switch.run({}, 1).ports) == 64


IP = match(f.ETH_TYPE(f.IPV4))
FROM_IP = {f.ETH_TYPE: f.IPV4}
ADDRESS = 0xFD00_0000_0001_0000_0000_0002_0000_0003


@versions
def test_a_ttl_that_ends_ends_the_actions_and_the_way_but_not_the_callers(version: int) -> None:
    rules = [
        Flow(0, 1, IP, (resubmit(1), output(9))),
        Flow(1, 1, IP, (dec_ttl(), output(2)), goto=2),
        Flow(2, 1, IP, (output(3),)),
    ]
    switch = Interpreter.of(rules, version)
    assert switch.run({**FROM_IP, f.IP_TTL: 1}, 1).ports == [9]
    outcome = switch.run({**FROM_IP, f.IP_TTL: 2}, 1)
    assert outcome.ports == [2, 3, 9] and outcome.sent[0].packet[f.IP_TTL] == 1


@versions
def test_tags(version: int) -> None:
    rules = [
        Flow(0, 1, match(f.VLAN_VID(0)), (push_vlan(), set_field(f.VLAN_VID, 0x1005), output(2))),
        Flow(0, 1, match(f.VLAN_VID(0x1000, 0x1000)), (pop_vlan(), to_controller())),
    ]
    switch = Interpreter.of(rules, version)
    assert switch.run({}, 1).sent[0].packet[f.VLAN_VID] == 0x1005
    (sent,) = switch.run({f.VLAN_VID: 0x1007}, 1).sent
    assert (sent.port, sent.packet[f.VLAN_VID]) == (CONTROLLER, 0)


@versions
def test_a_hash_is_one_of_a_flow_both_ways_and_spreads(version: int) -> None:
    rules = [Flow(0, 1, IP, (multipath(f.Bits(f.SLOT, 4, 16), 8), output(2)))]
    switch = Interpreter.of(rules, version)

    def slot(source: int, destination: int) -> int:
        (sent,) = switch.run({**FROM_IP, f.IPV4_SRC: source, f.IPV4_DST: destination, f.SLOT: 0xF}, 1).sent
        assert sent.packet[f.SLOT] & 0xF == 0xF
        return sent.packet[f.SLOT] >> 4

    assert {slot(1, n) for n in range(200)} == set(range(8))
    assert all(slot(1, n) == slot(n, 1) for n in range(20))


@versions
def test_a_packet_is_measured(version: int) -> None:
    too_large = match(f.TOO_LARGE(1))
    rules = [Flow(0, 1, b"", (check_pkt_larger(1514, f.TOO_LARGE),), goto=1), Flow(1, 1, too_large, (output(2),))]
    switch = Interpreter.of(rules, version)
    assert [switch.run({SIZE: size, f.FLAGS: f.TOO_LARGE.mask}, 1).ports for size in (0, 1514, 1515)] == [[], [], [2]]


@versions
def test_a_clone_leaves_the_packet_as_it_was(version: int) -> None:
    within = (set_field(f.PEER, 5), set_bits(f.FROM_TUNNEL, 1), resubmit(1), clone((set_field(f.PEER, 6), resubmit(1))))
    rules = [
        Flow(0, 1, b"", (clone(within), resubmit(1))),
        *(Flow(1, 1, match(f.PEER(n)), (output(10 + n),)) for n in (0, 5, 6)),
    ]
    assert Interpreter.of(rules, version).run({}, 1).ports == [15, 16, 10]


@versions
def test_wide_registers_are_four_others(version: int) -> None:
    to_network = copy(f.Bits(f.xxregister(1), 64, 64), f.METADATA)
    rules = [
        Flow(0, 1, b"", (set_field(f.xxregister(0), ADDRESS), copy(f.xxregister(0), f.xxregister(1)), to_network), goto=1),
        Flow(1, 1, match(f.xxregister(1)(ADDRESS), f.register(3)(3)), (set_field(f.register(6), 7), copy(f.xxregister(1), f.IPV6_DST)), goto=2),
        Flow(2, 1, match(f.xxregister(1)(7 << 32, 0xFFFFFFFF << 32)), (set_bits(f.Bits(f.xxregister(3), 32, 64), 1 << 63 | 2), output(2))),
    ]  # fmt: skip
    (sent,) = Interpreter.of(rules, version).run({f.xxregister(3): 1}, 1).sent
    assert sent.packet[f.IPV6_DST] == 0xFD00_0000_0001_0000_0000_0007_0000_0003
    assert sent.packet[f.METADATA] == 0xFD00_0000_0001_0000
    assert [sent.packet[f.register(n)] for n in range(12, 16)] == [0, 0x80000000, 2, 1]


@versions
def test_failover(version: int) -> None:
    buckets = (Bucket((output(2),), watch_port=2), Bucket((output(3),), watch_port=3), Bucket((output(4),)))
    rules = [Group(5, "fast_failover", buckets), Flow(0, 1, b"", (group(5),))]
    switch, without = Interpreter.of([*rules, ALIVE], version), Interpreter.of(rules, version)
    assert switch.run({}, 1).ports == [2]
    switch.down = {2}
    assert switch.run({}, 1).ports == [3]
    switch.down = without.down = {2, 3}
    assert switch.run({}, 1).ports == [4]
    assert without.run({}, 1).ports == []


@versions
def test_a_packet_whose_in_port_was_set_may_go_back(version: int) -> None:
    rules = [Flow(0, 1, b"", (output(1), set_field(f.INGRESS, f.NO_PORT), output(1)))]
    assert Interpreter.of(rules, version).run({}, 1).ports == [1]


def test_connections_are_not_tracked() -> None:
    with pytest.raises(NotImplementedError, match=r"tests\.conntrack"):
        Interpreter.of([Flow(0, 1, IP, (conntrack(table=1),))]).run(FROM_IP, 1)
