"""IGMP and MLD: reports made by Ryu or by hand are understood, queries are read back by Ryu's packet library."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ryu.lib.packet import ethernet, icmpv6, igmp, ipv4, ipv6, packet

from pipelines.fields import ICMPV6
from pipelines.packets import frames
from pipelines.packets.multicast import (
    Event,
    Joined,
    Left,
    Queried,
    always_flooded,
    igmp_query,
    is_multicast,
    mld_query,
    parse,
)

from .damage import corruptions, prefixes

MAC = 0x020000000001
HOST4, HOST6 = 0x0A000005, 0xFE80 << 112 | 5
G1, G2, G3 = 0xEF010101, 0xEF010102, 0xEF010103
S1, S2, S3 = 0xFF0E << 112 | 1, 0xFF0E << 112 | 2, 0xFF3E << 112 | 0x80000003
ALERT4 = b"\x94\x04\0\0"
ALERT6 = bytes((ICMPV6, 0, 5, 2, 0, 0, 1, 0))


def a4(address: int) -> str:
    return str(IPv4Address(address))


def a6(address: int) -> str:
    return str(IPv6Address(address))


def igmp_frame(
    message: bytes, *, dst: int = G1, ttl: int = 1, options: bytes = ALERT4, tci: int | None = None
) -> bytes:
    """``message`` with its checksum in an IPv4 packet."""
    message = message[:2] + frames.checksum(message).to_bytes(2, "big") + message[4:]
    ip = frames.ipv4(HOST4, dst, 2, message, ttl=ttl, options=options)
    return frames.ethernet(frames.multicast_mac(dst), MAC, 0x0800, ip, tci)


def igmp_message(kind: int, group: int, code: int = 0) -> bytes:
    return bytes((kind, code, 0, 0)) + group.to_bytes(4, "big")


def mld_frame(
    kind: int, body: bytes, *, src: int = HOST6, hop_limit: int = 1, extensions: bytes = ALERT6, code: int = 0
) -> bytes:
    dst = 0xFF02 << 112 | 0x16
    ip = frames.icmp6(src, dst, kind, code, body, hop_limit=hop_limit, extensions=extensions)
    return frames.ethernet(frames.multicast_mac(dst), MAC, 0x86DD, ip)


def mld1(group: int) -> bytes:
    return bytes(4) + group.to_bytes(16, "big")


Record = tuple[int, int, int, int]
"""Kind, group, number of sources, words of auxiliary data."""


def igmp3(records: list[Record]) -> bytes:
    """An IGMPv3 report by Ryu."""
    groups = [
        igmp.igmpv3_report_group(
            kind, aux, sources, a4(group), ["192.0.2.1"] * sources, b"\xaa" * 4 * aux if aux else None
        )
        for kind, group, sources, aux in records
    ]
    result = packet.Packet()
    result.add_protocol(ethernet.ethernet("01:00:5e:00:00:16", "02:00:00:00:00:01", 0x0800))
    result.add_protocol(ipv4.ipv4(4, 6, src=a4(HOST4), dst="224.0.0.22", ttl=1, proto=2, option=ALERT4))
    result.add_protocol(igmp.igmpv3_report(record_num=len(groups), records=groups))
    result.serialize()
    return bytes(result.data)


def mld2(records: list[Record]) -> bytes:
    """An MLDv2 report by Ryu, which gets the checksum behind a hop-by-hop header wrong and so leaves that to us."""
    groups = [
        icmpv6.mldv2_report_group(
            kind, aux, sources, a6(group), ["2001:db8::1"] * sources, b"\xaa" * 4 * aux if aux else None
        )
        for kind, group, sources, aux in records
    ]
    return mld_frame(143, bytes(icmpv6.mldv2_report(record_num=len(groups), records=groups).serialize()))


# --- reports -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "events"),
    [
        (igmp_frame(igmp_message(0x12, G1), options=b""), [Joined(G1)]),  # version 1 has no router alert
        (igmp_frame(igmp_message(0x16, G1)), [Joined(G1)]),
        (igmp_frame(igmp_message(0x16, G1), tci=0x6007), [Joined(G1)]),
        (igmp_frame(igmp_message(0x17, G1), dst=0xE0000002), [Left(G1)]),
        (igmp_frame(igmp_message(0x16, 0xE00000FB), dst=0xE00000FB), [Joined(0xE00000FB)]),
        (igmp_frame(igmp_message(0x11, 0, 0)), [Queried(0, HOST4, 4)]),
        (igmp_frame(igmp_message(0x11, 0, 100)), [Queried(0, HOST4, 4)]),
        (igmp_frame(igmp_message(0x11, G2, 10) + bytes(4)), [Queried(G2, HOST4, 4)]),
        (mld_frame(131, mld1(S1)), [Joined(S1)]),
        (mld_frame(131, mld1(S1), src=0), [Joined(S1)]),
        (mld_frame(132, mld1(S1)), [Left(S1)]),
        (mld_frame(130, mld1(0)), [Queried(0, HOST6, 6)]),
        (mld_frame(130, mld1(S2) + bytes(4)), [Queried(S2, HOST6, 6)]),
        # Padding before the router alert, and a header of 16 bytes.
        (mld_frame(131, mld1(S1), extensions=bytes.fromhex("3a01 0100 00 0502 0000 0105 0000000000")), [Joined(S1)]),
    ],
)
def test_what_a_message_tells(frame: bytes, events: list[Event]) -> None:
    assert parse(frame) == events
    assert parse(frame + bytes(14)) == events  # Ethernet padding


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("kind", "sources", "event"),
    [
        (1, 0, Left),
        (1, 2, Joined),
        (2, 0, Joined),
        (2, 3, Joined),
        (3, 0, Left),
        (3, 1, Joined),
        (4, 0, Joined),
        (4, 1, Joined),
        (5, 0, None),
        (5, 2, Joined),
        (6, 0, None),
        (6, 2, None),  # other sources may be wanted still
        (7, 1, None),
        (0, 0, None),
    ],
)
def test_a_record_with_sources(version: int, kind: int, sources: int, event: type[Joined] | type[Left] | None) -> None:
    group = G1 if version == 4 else S1
    frame = (igmp3 if version == 4 else mld2)([(kind, group, sources, 0)])
    assert parse(frame) == ([event(group)] if event else [])


RECORDS = st.tuples(st.integers(1, 6), st.integers(0, 999), st.integers(0, 4), st.integers(0, 2))


@given(st.lists(RECORDS, max_size=10), st.sampled_from([4, 6]))
def test_reports_of_many_groups(records: list[Record], version: int) -> None:
    first = G1 if version == 4 else S1
    records = [(kind, first + number, sources, aux) for kind, number, sources, aux in records]
    expected: list[Event] = []
    for kind, group, sources, _ in records:
        if kind in (2, 4) or (kind in (1, 3, 5) and sources):
            expected.append(Joined(group))
        elif kind in (1, 3):
            expected.append(Left(group))
    assert parse((igmp3 if version == 4 else mld2)(records)) == expected


def test_groups_that_are_none_are_left_out() -> None:
    assert parse(igmp3([(4, 0x0A000001, 0, 0), (4, G1, 0, 0), (4, 0, 0, 0)])) == [Joined(G1)]
    assert parse(mld2([(4, 0xFD << 120, 0, 0), (4, S1, 0, 0), (4, 0, 0, 0)])) == [Joined(S1)]


def test_a_report_by_linux() -> None:
    # IP_ADD_MEMBERSHIP of 239.1.1.1: "CHANGE_TO_EXCLUDE, no sources", RFC 3376 section 4.2 field by field.
    head = bytes.fromhex("01005e000016 020000000001 0800 46c0 0028 0000 4000 0102 0000 0a000005 e0000016 94040000")
    head = head[:24] + frames.checksum(head[14:]).to_bytes(2, "big") + head[26:]
    report = bytes.fromhex("2200 e9fb 0000 0001 0400 0000 ef010101")
    assert parse(head + report) == [Joined(0xEF010101)]
    assert parse(head + report[:-1] + b"\x02") == []


@pytest.mark.parametrize(
    "frame",
    [
        igmp_frame(igmp_message(0x16, G1), ttl=2),
        igmp_frame(igmp_message(0x16, 0x0A000001)),
        igmp_frame(igmp_message(0x17, 0)),
        igmp_frame(igmp_message(0x11, 0x0A000001)),
        igmp_frame(igmp_message(0x13, G1)),
        igmp_frame(igmp_message(0x16, G1)[:7]),
        igmp_frame(bytes.fromhex("2200 0000 0000 0002 0400 0000 ef010101")),  # one record of two
        igmp_frame(bytes.fromhex("2200 0000 0000 0001 0300 0001 ef010101")),  # no sources there
        igmp_frame(bytes.fromhex("2200 0000 0000 0001 0401 0000 ef010101")),  # no auxiliary data there
        frames.ethernet(MAC, MAC, 0x0800, frames.udp4(HOST4, G1, 1, 2, igmp_message(0x16, G1), ttl=1)),
        mld_frame(131, mld1(S1), hop_limit=2),
        mld_frame(131, mld1(S1), code=1),
        mld_frame(131, mld1(S1), src=0xFD << 120 | 5),
        mld_frame(130, mld1(0), src=0),
        mld_frame(131, mld1(S1), extensions=b""),
        mld_frame(131, mld1(S1), extensions=bytes.fromhex("3a00 0104 00000000")),  # padding only
        mld_frame(131, mld1(S1), extensions=bytes.fromhex("3a00 0001 03000000")),
        mld_frame(131, mld1(S1), extensions=bytes.fromhex("3a00 0504 00000000")),
        mld_frame(131, mld1(S1), extensions=bytes.fromhex("3a00 01ff 05020000")),
        mld_frame(131, mld1(S1), extensions=bytes.fromhex("3a00 0102 00000502")),  # the alert's value is cut off
        mld_frame(131, mld1(S1)[:-1]),
        mld_frame(131, mld1(0xFD << 120)),
        mld_frame(130, mld1(0xFD << 120)),
        mld_frame(132, mld1(0)),
        mld_frame(133, mld1(S1)),
        mld_frame(143, bytes.fromhex("0000 0001 0400 0000")),
        mld_frame(143, b""),
    ],
)
def test_messages_that_tell_nothing(frame: bytes) -> None:
    assert parse(frame) == []


def test_another_extension_header_is_no_hop_by_hop_header() -> None:
    good = mld_frame(131, mld1(S1))
    assert parse(good) and parse(good[:20] + b"\x3c" + good[21:]) == []


# --- groups --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "flooded"),
    [
        ("224.0.0.0", True),
        ("224.0.0.251", True),
        ("224.0.1.0", False),
        ("223.255.255.255", False),
        ("239.0.0.1", False),
        ("ff01::1", True),
        ("ff02::1", True),
        ("ff02::1:ff00:1", True),
        ("ff02:ffff::", True),
        ("ff05::2", False),
        ("ff03::1", False),
        ("ff12::1234", False),
        ("ff0e::1", False),
    ],
)
def test_groups_that_everyone_gets(group: str, flooded: bool) -> None:
    number = int(IPv6Address(group) if ":" in group else IPv4Address(group))
    assert always_flooded(number) == flooded


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**128 - 1))
def test_what_is_multicast(four: int, six: int) -> None:
    assert is_multicast(four, 4) == IPv4Address(four).is_multicast
    assert is_multicast(six, 6) == IPv6Address(six).is_multicast


# --- queries -------------------------------------------------------------------------------------------------------


def seconds(code: int, exponent_at: int) -> int:
    """The value of a code as RFC 3376 section 4.1.1 and RFC 3810 section 5.1.3 define it."""
    if code < 8 << exponent_at:
        return code
    return ((code & (1 << exponent_at) - 1) | 1 << exponent_at) << ((code >> exponent_at & 7) + 3)


@given(st.sampled_from([0, G1]), st.sampled_from([0, HOST4]), st.integers(100, 4_000_000), st.integers(1, 40_000))
def test_igmp_queries(group: int, source: int, response: int, interval: int) -> None:
    frame = igmp_query(MAC, source, group=group, response_ms=response, interval=interval)
    read = packet.Packet(frame)
    link, ip, query = (read.get_protocol(kind) for kind in (ethernet.ethernet, ipv4.ipv4, igmp.igmpv3_query))
    to = group or 0xE0000001
    assert (link.src, int(link.dst.replace(":", ""), 16)) == ("02:00:00:00:00:01", 0x01005E000000 | to & 0x7FFFFF)
    assert (ip.src, ip.dst, ip.ttl, ip.proto, ip.option) == (a4(source), a4(to), 1, 2, ALERT4)
    assert (query.msgtype, query.address, query.s_flg, query.qrv, query.num) == (0x11, a4(group), 0, 2, 0)
    tenths = min(response // 100, 31744)
    assert 0 <= tenths - seconds(query.maxresp, 4) <= tenths // 16
    assert 0 <= min(interval, 31744) - seconds(query.qqic, 4) <= interval // 16
    assert frames.intact(frame[14:38]) and frames.intact(frame[38:]) and len(frame) == 50
    assert parse(frame) == [Queried(group, source, 4)]


def test_igmp_version_2() -> None:
    frame = igmp_query(MAC, HOST4, version=2)
    query = packet.Packet(frame).get_protocol(igmp.igmp)
    assert (query.msgtype, query.maxresp, query.address, len(frame)) == (0x11, 100, "0.0.0.0", 46)
    assert frame[38:] == bytes.fromhex("1164 ee9b 00000000")
    assert parse(frame) == [Queried(0, HOST4, 4)]
    frame = igmp_query(MAC, HOST4, version=2, group=G1, response_ms=100_000)
    assert parse(frame) == [Queried(G1, HOST4, 4)] and frame[39] == 255


@given(st.sampled_from([0, S1]), st.integers(1, 9_000_000), st.integers(1, 40_000))
def test_mld_queries(group: int, response: int, interval: int) -> None:
    frame = mld_query(MAC, HOST6, group=group, response_ms=response, interval=interval)
    read = packet.Packet(frame)
    link, ip, message = (read.get_protocol(kind) for kind in (ethernet.ethernet, ipv6.ipv6, icmpv6.icmpv6))
    to = group or 0xFF02 << 112 | 1
    assert (link.src, int(link.dst.replace(":", ""), 16)) == ("02:00:00:00:00:01", 0x333300000000 | to & 0xFFFFFFFF)
    assert (ip.src, ip.dst, ip.hop_limit, ip.nxt) == (a6(HOST6), a6(to), 1, 0)
    (alert,) = ip.ext_hdrs
    assert alert.nxt == ICMPV6 and (alert.data[0].type_, alert.data[0].data) == (5, b"\0\0")
    query = message.data
    assert (message.type_, query.address, query.s_flg, query.qrv, query.num) == (130, a6(group), 0, 2, 0)
    limit = 8191 << 10
    assert 0 <= min(response, limit) - seconds(query.maxresp, 12) <= response // 4096
    assert 0 <= min(interval, 31744) - seconds(query.qqic, 4) <= interval // 16
    assert parse(frame) == [Queried(group, HOST6, 6)]  # which checks the checksum


def test_mld_queries_come_from_link_local_addresses() -> None:
    for source in (0, 0xFD << 120 | 1, 0xFEC0 << 112):
        with pytest.raises(ValueError, match="link-local"):
            mld_query(MAC, source)


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        igmp_frame(igmp_message(0x16, G1)),
        igmp3([(4, G1, 0, 0), (3, G2, 0, 0), (1, G3, 2, 0)]),
        igmp_query(MAC),
        mld_frame(131, mld1(S1)),
        mld2([(4, S1, 0, 0), (3, S2, 0, 0), (1, S3, 2, 0)]),
        mld_query(MAC, HOST6),
    ],
)
def test_damaged_messages_tell_nothing(frame: bytes) -> None:
    assert parse(frame)
    assert all(parse(prefix) == [] for prefix in prefixes(frame))
    for place, damaged in corruptions(frame):
        if place < 14 or (frame[12] == 0x86 and (place < 18 or place in range(54, 62))):
            parse(damaged)  # neither checksum covers this
        else:
            assert parse(damaged) == []


@given(st.binary(max_size=200), st.sampled_from([0x22, 0x8F]))
def test_reports_of_any_content_are_bounded(tail: bytes, kind: int) -> None:
    frame = igmp_frame(bytes((kind, 0, 0, 0)) + tail) if kind == 0x22 else mld_frame(kind, tail)
    assert len(parse(frame)) <= len(tail) // 8


@given(st.binary(max_size=120), st.sampled_from([bytes.fromhex("0800 46"), bytes.fromhex("86dd 60"), b""]))
def test_any_bytes_raise_nothing(tail: bytes, start: bytes) -> None:
    parse(bytes.fromhex("01005e000016 020000000001") + start + tail)
