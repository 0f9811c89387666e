"""Flows, groups and meters in words, and errors in words."""

from __future__ import annotations

import pytest

from pipelines import fields as f
from pipelines import wire
from pipelines.flow import (
    CONTROLLER,
    IN_PORT_RESERVED,
    Bucket,
    Flow,
    Group,
    Meter,
    copy,
    group,
    match,
    output,
    resubmit,
    set_bits,
    set_field,
)  # fmt: skip
from pipelines.wire.decode import ToMeter, instructions, match_values

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
        "cookie=0x0000000000004e01, idle_timeout=60, table=2(port_security), priority=100, eth_src=02:00:00:00:00:01, "
        "eth_type=0x800, ipv4_dst=10.1.0.0/255.255.0.0, in_port_key(reg1)=0x5 actions=set:out_port_key(reg2)=0x9,"
        "set:flags(reg6)=0x1/0x1,copy:src_identity(reg3)->tun_metadata0[32..63],copy:eth_src->eth_dst,"
        "set:tun_ipv4_dst=192.168.1.2,set:tun_metadata0=0x1234,set:tun_metadata0=0x7/0xffffffff,group:0x10,"
        "resubmit(,4(services)),output:in_port,output:controller,output:3,network(metadata):0x7,goto:6(l2_lookup)"
    )


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
