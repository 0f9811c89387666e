"""Flows, groups and meters in words, and errors in words."""

from __future__ import annotations

import pytest

from pipelines import fields as f
from pipelines import wire
from pipelines.flow import (
    CONTROLLER,
    IN_PORT_RESERVED,
    Action,
    Bucket,
    Flow,
    Group,
    Learned,
    Meter,
    Nat,
    check_pkt_larger,
    clone,
    conjunction,
    conntrack,
    copy,
    dec_ttl,
    group,
    learn,
    match,
    multipath,
    output,
    pop_vlan,
    push_vlan,
    resubmit,
    set_bits,
    set_field,
    set_queue,
)  # fmt: skip
from pipelines.tables import PIPELINE
from pipelines.wire.decode import ToMeter, instructions, match_values

NAMES = [table.name for table in PIPELINE]
versions = pytest.mark.parametrize("version", wire.VERSIONS)


@versions
def test_a_flow_in_a_line(version: int) -> None:
    flow = Flow(
        2,
        100,
        match(f.IN_PORT_KEY(5), f.ETH_SRC(f.mac("02:00:00:00:00:01")), f.ETH_TYPE(f.IPV4), f.IPV4_DST(f.ip("10.1.0.0"), 0xFFFF0000)),
        (
            set_field(f.OUT_PORT_KEY, 9), set_bits(f.FROM_TUNNEL, 1), copy(f.SRC_IDENTITY, f.TUN_OPTION_IDENTITY),
            copy(f.ETH_SRC, f.ETH_DST), set_field(f.TUN_DST, f.ip("192.168.1.2")), set_field(f.TUN_OPTION, 0x1234),
            set_bits(f.TUN_OPTION_PORT_KEY, 7), group(0x10), resubmit(4), output(IN_PORT_RESERVED), output(CONTROLLER), output(3),
        ),
        goto=6,
        metadata=7,
        idle_timeout=60,
    )  # fmt: skip
    assert wire.describe(*wire.encode_flow(flow, version, 0x4E01)) == (
        f"cookie=0x0000000000004e01, idle_timeout=60, table=2({NAMES[2]}), priority=100, eth_src=02:00:00:00:00:01, "
        "eth_type=0x800, ipv4_dst=10.1.0.0/255.255.0.0, in_port_key(reg1)=0x5 actions=set:out_port_key(reg2)=0x9,"
        "set:flags(reg6)=0x1/0x1,copy:src_identity(reg3)->tun_metadata0[32..63],copy:eth_src->eth_dst,"
        "set:tun_ipv4_dst=192.168.1.2,set:tun_metadata0=0x1234,set:tun_metadata0=0x7/0xffffffff,group:0x10,"
        f"resubmit(,4({NAMES[4]})),output:in_port,output:controller,output:3,network(metadata):0x7,goto:6({NAMES[6]})"
    )


IPV6 = f.ip("2001:db8::1")
NAT6 = Nat("dst", IPV6, IPV6 + 1, 6, (80, 80), random=True)
LINES: dict[str, Action] = {
    "dec_ttl": dec_ttl(),
    "push_vlan:0x88a8": push_vlan(0x88A8),
    "pop_vlan": pop_vlan(),
    "set_queue:17": set_queue(17),
    "check_pkt_larger(1514)->flags(reg6)[2]": check_pkt_larger(1514, f.TOO_LARGE),
    "multipath(symmetric_l3l4+udp,7,hrw,128,0,slot(reg13))": multipath(
        f.SLOT, 128, fields="symmetric_l3l4+udp", basis=7, algorithm="hrw"
    ),
    "multipath(symmetric_l4,0,iter_hash,9,3,peer(reg5)[8..23])": multipath(
        f.Bits(f.PEER, 8, 16), 9, fields="symmetric_l4", algorithm="iter_hash", arg=3
    ),
    "clone(set:peer(reg5)=0x1,set:flags(reg6)=0x1/0x1,output:3)": clone(
        (set_field(f.PEER, 1), set_bits(f.FROM_TUNNEL, 1), output(3))
    ),
    "conjunction(0xdeadbeef,2/3)": conjunction(0xDEADBEEF, 2, 3),
    f"learn(4({NAMES[4]}),cookie=0x7,idle_timeout=60,limit=9)": learn(
        4, (Learned(f.IPV4_SRC, f.IPV4_SRC), Learned(f.MEMBER, 5, loads=True)), priority=1, cookie=7, idle_timeout=60, limit=9
    ),
    "clone(output:1,clone(output:2))": clone((output(1), clone((output(2),)))),
    "ct()": conntrack(),
    f"ct(table=4({NAMES[4]}),zone=5,nat)": conntrack(zone=5, table=4, nat=Nat()),
    "ct(commit,force,zone=router(reg7)[0..15])": conntrack(zone=f.Bits(f.ROUTER, 0, 16), commit=True, force=True),
    "ct(commit,nat(src=10.0.0.1-10.0.0.9:1024-65535,persistent,hash),exec(set:ct_mark=0x7,copy:peer(reg5)->ct_mark))": conntrack(
        commit=True, nat=Nat("src", f.ip("10.0.0.1"), f.ip("10.0.0.9"), 4, (1024, 65535), True, True),
        exec=(set_field(f.CT_MARK, 7), copy(f.PEER, f.CT_MARK)),
    ),
    "ct(commit,nat(dst=[2001:db8::1-2001:db8::2]:80,random))": conntrack(commit=True, nat=NAT6),
    "set:next_hop6(xxreg2)=2001:db8::1": set_field(f.NEXT_HOP6, IPV6),
    "copy:ipv6_dst->next_hop6(xxreg2)": copy(f.IPV6_DST, f.NEXT_HOP6),
}  # fmt: skip


@versions
@pytest.mark.parametrize("line", LINES)
def test_an_action_in_words(version: int, line: str) -> None:
    key, body = wire.encode_flow(Flow(200, 0, b"", (LINES[line],)), version, 1)
    assert wire.describe(key, body).split(" actions=")[1] == line


@pytest.mark.parametrize(
    ("words", "matched"),
    [
        ("ct_state=+new+trk", f.CT_STATE(f.CT_TRACKED | f.CT_NEW, f.CT_TRACKED | f.CT_NEW)),
        ("ct_state=-inv+trk", f.CT_STATE(f.CT_TRACKED, f.CT_TRACKED | f.CT_INVALID)),
        ("ct_state=-new+est-rel-rpl-inv+trk-snat-dnat", f.CT_STATE(f.CT_TRACKED | f.CT_ESTABLISHED)),
        ("tcp_flags=+syn-ack", f.TCP_FLAGS(0x002, 0x012)),
        ("ip_frag=no", f.IP_FRAG(0)),
        ("ip_frag=yes", f.IP_FRAG(1, 1)),
        ("ip_frag=later", f.IP_FRAG(2, 2)),
        ("ip_frag=first", f.IP_FRAG(1)),
        ("vlan_vid=0x1005", f.VLAN_VID(0x1005)),
        ("vlan_vid=0x1000/0x1000", f.VLAN_VID(0x1000, 0x1000)),
        ("conj_id=0x80000007", f.CONJ_ID(0x80000007)),
        ("ct_zone=7, ct_mark=0x10/0xf0", match(f.CT_ZONE(7), f.CT_MARK(0x10, 0xF0))),
        ("ct_nw_dst=10.0.0.0/255.0.0.0, ct_tp_dst=80", match(f.CT_TP_DST(80), f.CT_NW_DST(0x0A000000, 0xFF000000))),
        ("next_hop(reg8)=0x20010db8, member(reg9)=0x0, reg10=0x0, reg11=0x1", f.NEXT_HOP6(IPV6)),
        ("next_hop(reg8)=0x20010db8, member(reg9)=0x0/0xffff0000", f.NEXT_HOP6(IPV6, ((1 << 48) - 1) << 80)),
    ],
)  # fmt: skip
def test_a_match_in_words(words: str, matched: bytes) -> None:
    assert wire.describe(b"\xc8\0\0" + match(matched)) == f"table=200, priority=0, {words}"


@versions
def test_actions_that_are_cut_off_are_refused(version: int) -> None:
    for action in LINES.values():
        key, body = wire.encode_flow(Flow(200, 0, b"", (action,)), version, 1)
        for end in range(25, len(body)):
            with pytest.raises(ValueError, match="cut off"):
                wire.describe(key, body[:end])


def test_what_cannot_be_is_refused() -> None:
    for wrong in (
        lambda: conjunction(1, 0, 2),
        lambda: conjunction(1, 3, 2),
        lambda: conjunction(1, 1, 1),
        lambda: conjunction(1, 1, 65),
        lambda: conntrack(force=True),
        lambda: conntrack(exec=(set_field(f.CT_MARK, 1),)),
        lambda: conntrack(nat=Nat("src", 1)),
        lambda: conntrack(commit=True, nat=Nat("both", 1)),
        lambda: conntrack(commit=True, nat=Nat("src", 2, 1)),
        lambda: conntrack(commit=True, nat=Nat("src", 1, ports=(0, 5))),
        lambda: conntrack(zone=f.PEER),
        lambda: conntrack(zone=f.Bits(f.IPV4_SRC, 0, 16)),
        lambda: multipath(f.SLOT, 0),
        lambda: multipath(f.SLOT, 65537),
        lambda: multipath(f.Bits(f.SLOT, 0, 4), 17),
        lambda: multipath(f.SLOT, 1, fields="luck"),
        lambda: check_pkt_larger(1, f.Bits(f.SLOT, 0, 2)),
        lambda: f.VLAN_VID(0x2000),
        lambda: f.IP_DSCP(64),
        lambda: f.NEXT_HOP6(1 << 128),
    ):
        with pytest.raises(ValueError):
            wrong()


@versions
def test_a_flow_that_drops_and_a_key_alone(version: int) -> None:
    key, body = wire.encode_flow(Flow(200, 0, match(f.TUN_IPV6_SRC(f.ip("fd00::1")))), version, 1)
    assert wire.describe(key) == "table=200, priority=0, tun_ipv6_src=fd00::1"
    assert (
        wire.describe(key, body)
        == "cookie=0x0000000000000001, table=200, priority=0, tun_ipv6_src=fd00::1 actions=drop"
    )


@versions
def test_a_meter_stands_where_the_version_has_it(version: int) -> None:
    key, body = wire.encode_flow(Flow(0, 1, b"", (output(1),), meter=5), version, 1)
    assert wire.describe(key, body).endswith("actions=meter:5,output:1")
    done = instructions(body[16:])
    assert (done.meter, ToMeter(5) in done.actions) == ((5, False), (None, True))[version == wire.OF15]


@versions
def test_groups_and_meters(version: int) -> None:
    select = Group(9, "select", (Bucket((set_field(f.PEER, 1), output(1)), 3), Bucket((), 4)))
    assert wire.describe_group(9, wire.encode_group(select, version), version) == (
        "group=0x9, type=select, bucket=weight:3,set:peer(reg5)=0x1,output:1, bucket=weight:4,drop"
    )
    failover = Group(11, "fast_failover", (Bucket((output(1),), watch_port=7), Bucket((output(2),))))
    assert wire.describe_group(11, wire.encode_group(failover, version), version) == (
        "group=0xb, type=fast_failover, bucket=watch_port:7,output:1, bucket=watch_group:0xffff0000,output:2"
    )
    every = Group(10, "all", (Bucket((output(1),), 3),))
    assert wire.describe_group(10, wire.encode_group(every, version), version) == "group=0xa, type=all, bucket=output:1"
    line = wire.describe_meter(3, wire.encode_meter(Meter(3, 100, 10, packets=True)))
    assert line == "meter=3, band type=1, rate=100 packets/s, burst=10"


def test_bytes_that_are_cut_off_are_refused() -> None:
    key, body = wire.encode_flow(Flow(0, 1, match(f.IN_PORT(1)), (output(1),)), 4, 1)
    for cut_key, cut_body in (
        (b"\0", body),
        (key[:-1], body),
        (key[:5], body),
        (key, body[:10]),
        (key, body[:-1]),
        (key, body[:30]),
    ):
        with pytest.raises(ValueError, match="cut off"):
            wire.describe(cut_key, cut_body)
    with pytest.raises(ValueError, match="cut off"):
        wire.describe_meter(1, b"\0\1" + bytes(7))
    with pytest.raises(ValueError, match="cut off"):
        wire.describe_group(1, bytes.fromhex("00001000100000"), 4)


def test_equal_matches_are_equal_bytes() -> None:
    assert f.IPV4_DST(0x0A0000FF, 0xFFFFFF00) == f.IPV4_DST(0x0A000000, 0xFFFFFF00)
    assert f.IN_PORT_KEY(5, 0xFFFFFFFF) == f.IN_PORT_KEY(5)
    assert match(f.IN_PORT_KEY(5, 0), f.IN_PORT(1)) == f.IN_PORT(1)
    assert f.IPV6_SRC(bytes(15) + b"\1", bytes(16)) == b""
    assert f.ETH_SRC(bytes(6), b"\1" + bytes(5)) == f.ETH_SRC(0, f.MULTICAST_BIT)
    one = match(f.IP_TTL(1), f.ETH_TYPE(f.IPV4), f.IN_PORT_KEY(3), f.IN_PORT(2))
    assert one == match(f.IN_PORT(2), f.IN_PORT_KEY(3), f.IP_TTL(1), f.ETH_TYPE(f.IPV4))
    assert [field.name for field in match_values(one)] == ["in_port", "eth_type", "reg1", "nw_ttl"]


def test_values_that_do_not_fit_are_refused_by_name() -> None:
    for wrong in (
        lambda: f.IN_PORT(1 << 32),
        lambda: f.IN_PORT(-1),
        lambda: f.IN_PORT(b"\0\1"),
        lambda: f.IN_PORT(1, b"\1"),
        lambda: set_field(f.IN_PORT, 1 << 32),
    ):
        with pytest.raises(ValueError, match="in_port"):
            wrong()
    with pytest.raises(ValueError, match=r"reg6\[0..0\]"):
        set_bits(f.FROM_TUNNEL, 2)
    with pytest.raises(ValueError, match="widths differ"):
        copy(f.ETH_SRC, f.IN_PORT_KEY)
    with pytest.raises(ValueError, match="64 bits"):
        wire.encode_flow(Flow(0, 1, b"", (set_bits(f.Bits(f.IPV6_SRC, 0, 100), 1),)), 4, 1)
