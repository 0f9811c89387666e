"""Router advertisements, read by Ryu's packet library and byte by byte."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ryu.lib.packet import ethernet, icmpv6, ipv6, packet

from pipelines.addresses import link_local
from pipelines.packets import frames, router_advertisement
from pipelines.packets.router_advertisement import Malformed, Plan

ROUTER_MAC, HOST_MAC = 0x024E56FFFFFE, 0x020000000011
ROUTER, HOST = link_local(ROUTER_MAC), link_local(HOST_MAC)
PREFIX = 0xFD00 << 112 | 1 << 64


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "router_mac": ROUTER_MAC,
        "link_local": ROUTER,
        "mtu": 1442,
        "prefixes": ((PREFIX | 5, 64, True, True, 86400, 14400),),
    }
    return Plan(**fields | changes)


def solicitation(
    options: bytes = b"\1\1" + HOST_MAC.to_bytes(6, "big"),
    *,
    src: int = HOST,
    dst: int = frames.ALL_ROUTERS,
    hop_limit: int = 255,
    code: int = 0,
    type_: int = 133,
    tci: int | None = None,
) -> bytes:
    message = frames.icmp6(src, dst, type_, code, bytes(4) + options, hop_limit=hop_limit)
    return frames.ethernet(frames.multicast_mac(dst), HOST_MAC, 0x86DD, message, tci)


def body(frame: bytes) -> bytes:
    """The advertisement from its hop limit on."""
    return frames.read_icmp(frame).body


def test_all_nodes_are_told() -> None:
    frame = router_advertisement.prepare(
        plan(managed=True, other=True, dns=(PREFIX | 0x53,), search=("lab.example",), preference="high")
    ).advertisement
    read = frames.read_icmp(frame)
    assert (read.ethernet.dst, read.ethernet.src) == (0x333300000001, ROUTER_MAC)
    assert (read.ip.src, read.ip.dst, read.ip.ttl) == (ROUTER, frames.ALL_NODES, 255)
    assert (read.type, read.code) == (134, 0)
    expected = (
        "40" "c8" "0708" "00000000" "00000000"
        "0101" "024e56fffffe"
        "0501" "0000" "000005a2"
        "0304" "40" "c0" "00015180" "00003840" "00000000" "fd000000000000010000000000000000"
        "1903" "0000" "00000708" "fd000000000000010000000000000053"
        "1f03" "0000" "00000708" "036c6162076578616d706c6500000000"
    )  # fmt: skip
    assert read.body.hex() == expected


def test_ryu_reads_the_same() -> None:
    flags = ((PREFIX, 64, True, True, 7200, 3600), (PREFIX, 48, False, False, 0, 0))
    read = packet.Packet(router_advertisement.prepare(plan(prefixes=flags, other=True, lifetime=0)).advertisement)
    assert read.get_protocol(ethernet.ethernet).dst == "33:33:00:00:00:01"
    assert read.get_protocol(ipv6.ipv6).hop_limit == 255
    advert = read.get_protocol(icmpv6.icmpv6).data
    assert (advert.ch_l, advert.res, advert.rou_l, advert.rea_t, advert.ret_t) == (64, 1, 0, 0, 0)
    # Ryu's reader takes all that follows a link-layer address for part of it, so each option is read by itself.
    read_body = body(router_advertisement.prepare(plan(prefixes=flags)).advertisement)
    assert icmpv6.nd_option_sla.parser(read_body[:20], 12).hw_src == "02:4e:56:ff:ff:fe"
    first, second = (icmpv6.nd_option_pi.parser(read_body, start) for start in (28, 60))
    assert (first.prefix, first.pl, first.res1, first.val_l, first.pre_l) == ("fd00:0:0:1::", 64, 6, 7200, 3600)
    assert (second.prefix, second.pl, second.res1, second.val_l) == ("fd00::", 48, 0, 0)


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, 0), ({"managed": True}, 0x80), ({"other": True}, 0x40), ({"preference": "low"}, 0x18),
        ({"preference": "high"}, 0x08), ({"preference": "high", "lifetime": 0, "managed": True}, 0x80),
    ],
    ids=str,
)  # fmt: skip
def test_flags(changes: dict[str, Any], flags: int) -> None:
    assert body(router_advertisement.prepare(plan(**changes)).advertisement)[1] == flags


def test_who_asks_is_told_and_who_has_no_address_by_way_of_all() -> None:
    prepared = router_advertisement.prepare(plan())
    answer = prepared.answer(solicitation())
    assert answer is not None
    read = frames.read_icmp(answer)
    assert (read.ethernet.dst, read.ip.dst, read.ip.src, read.ip.ttl) == (HOST_MAC, HOST, ROUTER, 255)
    assert read.body == body(prepared.advertisement)
    assert prepared.answer(solicitation(b"", dst=ROUTER)) == answer
    assert prepared.answer(solicitation(b"", src=0)) == prepared.advertisement
    tagged = prepared.answer(solicitation(b"", src=0, tci=9))
    assert tagged is not None
    assert frames.read_ethernet(tagged).tci == 9


@pytest.mark.parametrize(
    "frame",
    [
        solicitation(hop_limit=254),
        solicitation(code=1),
        solicitation(type_=134),
        solicitation(src=0),  # a link-layer address without a source address
        solicitation(src=frames.ALL_NODES),
        solicitation(b"\1\0" + bytes(6)),
        solicitation(b"\1\2" + bytes(6)),
        solicitation(b"\1\1" + bytes(5)),
        solicitation(b"\1"),
        frames.ethernet(1, HOST_MAC, 0x86DD, frames.icmp6(HOST, frames.ALL_ROUTERS, 133, 0, bytes(3))),
        frames.ethernet(1, HOST_MAC, 0x0800, frames.icmp4(1, 2, 133, 0, bytes(4), ttl=255)),
    ],
)
def test_an_invalid_solicitation_is_not_answered(frame: bytes) -> None:
    with pytest.raises(Malformed):
        router_advertisement.read(frame)
    assert router_advertisement.prepare(plan()).answer(frame) is None


def test_another_router_is_not_answered_for() -> None:
    assert router_advertisement.prepare(plan()).answer(solicitation(dst=ROUTER + 1)) is None


@pytest.mark.parametrize("frame", [solicitation(), solicitation(b"", src=0, tci=7)])
def test_damage_is_not_answered(frame: bytes) -> None:
    prepared = router_advertisement.prepare(plan())
    assert prepared.answer(frame)
    assert not any(prepared.answer(frame[:length]) for length in range(len(frame)))
    start = len(frame) - len(frames.read_ethernet(frame).payload)
    for position in range(start + 4, len(frame)):
        for value in {frame[position] ^ 1, frame[position] ^ 0x80, frame[position] ^ 0xFF}:
            assert prepared.answer(frame[:position] + bytes([value]) + frame[position + 1 :]) is None


@given(st.binary(max_size=60))
def test_any_options_never_raise(options: bytes) -> None:
    router_advertisement.prepare(plan()).answer(solicitation(options))


@given(
    st.lists(
        st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128), st.booleans(), st.booleans(), st.integers(0, 2**31)),
        max_size=5,
    ),
    st.lists(st.integers(0, 2**128 - 1), max_size=3),
    st.integers(0, 65535),
)
def test_what_the_plan_says_is_what_a_host_reads(
    prefixes: list[tuple[int, int, bool, bool, int]], dns: list[int], lifetime: int
) -> None:
    told = tuple((prefix, length, auto, link, time, time // 2) for prefix, length, auto, link, time in prefixes)
    read = body(router_advertisement.prepare(plan(prefixes=told, dns=tuple(dns), lifetime=lifetime)).advertisement)
    assert int.from_bytes(read[2:4], "big") == lifetime
    found, servers, position = [], [], 12
    while position < len(read):
        kind, length = read[position], 8 * read[position + 1]
        option = read[position : position + length]
        if kind == 3:
            numbers = (int.from_bytes(option[start : start + 4], "big") for start in (4, 8))
            network = int.from_bytes(option[16:], "big")
            found.append((network, option[2], bool(option[3] & 0x40), bool(option[3] & 0x80), *numbers))
        elif kind == 25:
            servers = [int.from_bytes(option[start : start + 16], "big") for start in range(8, length, 16)]
        position += length
    assert position == len(read)
    masked = [(p >> (128 - n) << (128 - n), n, auto, link, valid, pref) for p, n, auto, link, valid, pref in told]
    assert (found, servers) == (masked, dns)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mtu": 1279}, "1280"),
        ({"mtu": 1 << 32}, "router advertisement"),
        ({"lifetime": 65536}, "router advertisement"),
        ({"prefixes": ((PREFIX, 129, True, True, 1, 1),)}, "prefix length 129"),
        ({"prefixes": ((PREFIX, 64, True, True, 1, 2),)}, "preferred for 2 s is valid for 1 s"),
        ({"prefixes": ((PREFIX, 64, True, True, 1 << 32, 2),)}, "router advertisement"),
        ({"prefixes": ((PREFIX, 64, True, True, 2, 1),) * 40}, "name fewer prefixes"),
        ({"search": ("a b",)}, "no domain name"),
        ({"hop_limit": 256}, "256"),
        ({"router_mac": 1 << 48}, "router advertisement"),
        ({"link_local": 1 << 128}, "router advertisement"),
    ],
    ids=str,
)
def test_a_plan_that_fits_no_packet_is_a_value_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        router_advertisement.prepare(plan(**changes))
