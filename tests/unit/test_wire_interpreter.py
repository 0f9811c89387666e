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
    Nat,
    Rule,
    check_pkt_larger,
    clone,
    conjunction,
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
from pipelines.interpreter import SIZE, Ambiguous, Interpreter, Stop
from pipelines.tables import PIPELINE
from pipelines.wire import OF13, VERSIONS, encode_flow

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
    outcome = Interpreter.of(rules, version).run({}, 2)
    assert outcome.ports in ([1, 3, 8, 20], [1, 3, 9, 20])
    assert [used for visit in outcome.visits for id, used in visit.groups if id == 7] == [(0, 1, 2)]


@versions
def test_only_the_reserved_port_sends_back(version: int) -> None:
    rules = [Flow(0, 1, FROM_1, (output(1), output(IN_PORT_RESERVED), output(2)))]
    assert Interpreter.of(rules, version).run({}, 1).ports == [1, 2]
    assert Interpreter.of(rules, version).run({}, 3).ports == []


def test_two_flows_of_one_priority_that_both_match_are_an_error() -> None:
    flows = dict(encode_flow(flow, OF13, 0) for flow in (Flow(0, 1, FROM_1), Flow(0, 1, match(f.NETWORK(0)), goto=2)))
    with pytest.raises(Ambiguous, match="in_port=1"):
        Interpreter(flows).run({}, 1)
    assert len(Interpreter(flows, strict=False).run({}, 1).flows) == 1
    same = [Flow(0, 1, FROM_1), Flow(0, 1, match(f.NETWORK(0)))]
    assert len(Interpreter.of(same).run({}, 1).flows) == 1, "whichever it is"
    with pytest.raises(ValueError, match="does two things"):
        Interpreter.of([Flow(0, 1, FROM_1), Flow(0, 1, FROM_1, goto=2)])


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


@versions
def test_why_a_packet_went_no_further(version: int) -> None:
    nobody = Group(5, "fast_failover", (Bucket((output(2),), watch_port=2),))
    rules = [
        nobody,
        Flow(0, 1, match(f.IN_PORT(1)), (group(5),), meter=7),
        Flow(0, 1, match(f.IN_PORT(2)), goto=1),
        Flow(0, 1, match(f.IN_PORT(3))),
        Flow(0, 1, match(f.IN_PORT(4), f.ETH_TYPE(f.IPV4)), (dec_ttl(), output(9))),
        Flow(0, 1, match(f.IN_PORT(5)), (output(5),)),
        Flow(0, 1, match(f.IN_PORT(6)), (resubmit(0),)),
        Flow(0, 1, match(f.IN_PORT(7)), (set_field(f.PEER, 1),)),
    ]
    switch = Interpreter.of(rules, version)
    switch.down = {2}
    last = {port: switch.run(FROM_IP, port).visits[-1] for port in range(1, 8)}
    stops = {port: visit.stops for port, visit in last.items()}
    assert stops == {
        1: [Stop.NOBODY], 2: [Stop.MISS], 3: [Stop.DROP], 4: [Stop.TTL], 5: [Stop.BACK], 6: [Stop.DEPTH], 7: [Stop.DROP],
    }  # fmt: skip
    assert (last[1].meters, last[1].groups, last[2].table) == ([7], [(5, ())], 1)
    switch.down = set()
    assert switch.run(FROM_IP, 1).visits[-1].stops == []


# --- conjunctive matches -----------------------------------------------------------------------------------------


CLAUSES = (
    Flow(1, 50, match(f.ETH_TYPE(f.IPV4), f.IPV4_SRC(1)), (conjunction(7, 1, 2), conjunction(8, 1, 2))),
    Flow(1, 50, match(f.ETH_TYPE(f.IPV4), f.IPV4_SRC(2)), (conjunction(7, 1, 2),)),
    Flow(1, 50, match(f.ETH_TYPE(f.IPV4), f.IPV4_DST(3)), (conjunction(7, 2, 2),)),
    Flow(1, 50, match(f.ETH_TYPE(f.IPV4), f.IPV4_DST(0x40, 0xF0)), (conjunction(8, 2, 2),)),
    Flow(1, 40, match(f.ETH_TYPE(f.IPV4), f.IPV4_DST(3)), (conjunction(9, 1, 2),)),
    Flow(1, 40, match(f.ETH_TYPE(f.IPV4), f.IPV4_SRC(5)), (conjunction(9, 2, 2),)),
    *(Flow(1, 50, match(f.ETH_TYPE(f.IPV4), f.CONJ_ID(id)), (output(10 + id),)) for id in (7, 8)),
    Flow(1, 40, match(f.ETH_TYPE(f.IPV4), f.CONJ_ID(9)), (output(19),)),
    Flow(1, 60, match(f.ETH_TYPE(f.IPV4), f.IPV4_SRC(1), f.IPV4_DST(0x41)), (output(2),)),
    Flow(1, 45, match(f.ETH_TYPE(f.IPV4), f.IPV4_SRC(2), f.IPV4_DST(4)), (output(3),)),
    Flow(0, 1, b"", (resubmit(1),)),
)


@versions
@pytest.mark.parametrize(
    ("source", "destination", "port", "id"),
    [
        (1, 3, 17, 7), (2, 3, 17, 7), (1, 0x42, 18, 8), (5, 3, 19, 9),
        (1, 0x41, 2, None),  # a better flow
        (2, 4, 3, None),  # half of a better match
        (2, 0x42, None, None), (9, 3, None, None), (0, 0, None, None),
    ],
)  # fmt: skip
def test_conjunctive_matches(version: int, source: int, destination: int, port: int | None, id: int | None) -> None:
    switch = Interpreter.of(CLAUSES, version)
    outcome = switch.run({**FROM_IP, f.IPV4_SRC: source, f.IPV4_DST: destination}, 1)
    assert outcome.ports == ([port] if port else [])
    hit = outcome.visits[1].hit
    assert (hit.conjunction if hit else None) == id
    if hit and id:
        assert len(hit.clauses) == 2 and set(hit.clauses) <= {flow.key for flow in CLAUSES}


# --- connections -------------------------------------------------------------------------------------------------

THERE = 0x0A000002
NEW, ESTABLISHED, REPLY = (
    f.CT_TRACKED | f.CT_NEW,
    f.CT_TRACKED | f.CT_ESTABLISHED,
    f.CT_TRACKED | f.CT_ESTABLISHED | f.CT_REPLY,
)
SYN, SYN_ACK, ACK = 0x02, 0x12, 0x10
TRACKING = (
    Flow(0, 1, IP, (conntrack(zone=f.ZONE, table=1), set_field(f.PEER, 1)), goto=2),
    Flow(1, 1, match(f.CT_STATE(NEW, 0xFF), f.ETH_TYPE(f.IPV4)), (conntrack(zone=f.ZONE, commit=True, exec=(set_field(f.CT_MARK, 3),)), output(8))),
    Flow(1, 0, b"", (output(9),)),
    Flow(2, 1, match(f.CT_STATE(0)), (output(7),)),
)  # fmt: skip


def tcp(source: int, destination: int, flags: int, sport: int = 1000, dport: int = 80) -> dict[f.Field, int]:
    return {
        **FROM_IP, f.IP_PROTO: f.TCP, f.IPV4_SRC: source, f.IPV4_DST: destination, f.TCP_SRC: sport, f.TCP_DST: dport,
        f.TCP_FLAGS: flags, f.FLAGS: 5 << 16,
    }  # fmt: skip


@versions
def test_connections_are_known_from_when_they_are_committed(version: int) -> None:
    switch = Interpreter.of(TRACKING, version)
    first, answer = tcp(1, THERE, SYN), tcp(THERE, 1, SYN_ACK, 80, 1000)

    def state(packet: dict[f.Field, int]) -> tuple[int, int]:
        [tracked, after] = switch.run(packet, 1).sent
        assert (after.port, after.packet.get(f.CT_STATE, 0)) == (7, 0), "only the copy is tracked"
        seen = tracked.packet if tracked.port == 9 else switch.run(packet, 1).visits[1].before
        return seen[f.CT_STATE], seen.get(f.CT_MARK, 0)

    assert state(answer) == (f.CT_TRACKED | f.CT_INVALID, 0), "no connection begins with an answer"
    assert [sent.port for sent in switch.run(first, 1).sent] == [8, 7]
    assert state(first)[0] == NEW, "nobody has answered yet"
    assert state(answer) == (REPLY, 3)
    assert state(tcp(1, THERE, ACK)) == (ESTABLISHED, 3)
    [tracked, _] = switch.run(answer, 1).sent
    began = {f.CT_NW_SRC: 1, f.CT_NW_DST: THERE, f.CT_TP_SRC: 1000, f.CT_TP_DST: 80, f.CT_NW_PROTO: 6, f.CT_ZONE: 5}
    assert {field: tracked.packet[field] for field in began} == began
    other = answer | {f.FLAGS: 6 << 16}
    assert state(other)[0] == f.CT_TRACKED | f.CT_INVALID, "another zone"


@pytest.mark.parametrize(
    ("packet", "answer", "kinds"),
    [
        ({f.IP_PROTO: f.ICMP, f.ICMPV4_TYPE: 8}, {f.IP_PROTO: f.ICMP, f.ICMPV4_TYPE: 0}, (8, 0)),
        ({f.IP_PROTO: f.UDP, f.UDP_SRC: 5, f.UDP_DST: 53}, {f.IP_PROTO: f.UDP, f.UDP_SRC: 53, f.UDP_DST: 5}, (5, 53)),
        ({f.IP_PROTO: 47}, {f.IP_PROTO: 47}, (0, 0)),
    ],
)
def test_other_protocols_have_connections(packet: dict, answer: dict, kinds: tuple[int, int]) -> None:
    switch = Interpreter.of(TRACKING)
    ends = {f.IPV4_SRC: 1, f.IPV4_DST: THERE}, {f.IPV4_SRC: THERE, f.IPV4_DST: 1}
    assert switch.run({**FROM_IP, **packet, **ends[0]}, 1).ports == [8, 7]
    [tracked, _] = switch.run({**FROM_IP, **answer, **ends[1]}, 1).sent
    assert tracked.packet[f.CT_STATE] == REPLY
    assert (tracked.packet.get(f.CT_TP_SRC, 0), tracked.packet.get(f.CT_TP_DST, 0)) == kinds


def test_an_error_without_its_packet_is_invalid() -> None:
    [tracked, _] = Interpreter.of(TRACKING).run({**FROM_IP, f.IP_PROTO: f.ICMP, f.ICMPV4_TYPE: 3}, 1).sent
    assert tracked.packet[f.CT_STATE] == f.CT_TRACKED | f.CT_INVALID


def test_translation_and_its_undoing() -> None:
    nat = Nat("dst", THERE, ports=(8080, 8080))
    rules = [
        Flow(0, 1, IP, (conntrack(zone=4, commit=True, nat=nat, table=1),)),
        Flow(0, 2, match(f.ETH_TYPE(f.IPV4), f.IPV4_SRC(THERE)), (conntrack(zone=4, nat=Nat(), table=1),)),
        Flow(1, 1, match(f.CT_STATE(0, f.CT_REPLY), f.ETH_TYPE(f.IPV4)), (conntrack(zone=4, nat=Nat(), table=2),)),
        Flow(1, 0, b"", (output(9),)),
        Flow(2, 1, b"", (output(9),)),
    ]
    switch = Interpreter.of(rules)
    [sent] = switch.run(tcp(1, 0x0B000001, SYN), 1).sent
    assert (sent.packet[f.IPV4_DST], sent.packet[f.TCP_DST]) == (THERE, 8080), "and a zone does not translate it twice"
    [back] = switch.run(tcp(THERE, 1, SYN_ACK, 8080, 1000), 1).sent
    assert (back.packet[f.IPV4_SRC], back.packet[f.TCP_SRC]) == (0x0B000001, 80)
    assert back.packet[f.CT_STATE] == REPLY | f.CT_SNAT
