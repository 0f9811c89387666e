"""The interpreter does what a switch does, in every version's encoding."""

from __future__ import annotations

import pytest

from pipelines import fields as f
from pipelines.flow import (
    IN_PORT_RESERVED,
    Bucket,
    Flow,
    Group,
    Rule,
    copy,
    group,
    match,
    output,
    resubmit,
    set_bits,
    set_field,
)
from pipelines.wire import VERSIONS
from tests.interpreter import Interpreter

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
        "table=2(port_security), priority=0",
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
