"""ICMP errors, resets and echo replies: built from Ryu's frames, read back by Ryu's packet library."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ryu.lib.packet import ethernet, icmp, icmpv6, ipv4, ipv6, packet, tcp, udp, vlan

from pipelines.packets import frames
from pipelines.packets.icmp import Unreachable, echo_reply, tcp_reset, time_exceeded, too_big, unreachable

from .damage import corruptions, prefixes

VM, ROUTER = "02:00:00:00:00:01", "02:00:00:00:00:fe"
VM_MAC, ROUTER_MAC = 0x020000000001, 0x0200000000FE
V4, FAR4, ROUTER4 = "10.0.0.5", "192.0.2.9", 0x0A000001
V6, FAR6, ROUTER6 = "fd00::5", "2001:db8::9", 0xFD << 120 | 1


def eth(ethertype: int, dst: str = ROUTER, src: str = VM) -> ethernet.ethernet:
    return ethernet.ethernet(dst, src, ethertype)


def built(*parts: object) -> bytes:
    """A frame of Ryu's, with checksums and lengths filled in, without its padding."""
    result = packet.Packet()
    for part in parts:
        result.add_protocol(part)
    result.serialize()
    data = bytes(result.data)
    if data[12:14] == b"\x81\0":
        return data[: 18 + int.from_bytes(data[20:22], "big")]
    return data[
        : 14 + (int.from_bytes(data[16:18], "big") if data[12] == 8 else 40 + int.from_bytes(data[18:20], "big"))
    ]


def frame4(*upper: object, dst: str = FAR4, src: str = V4, proto: int = 17, to: str = ROUTER, **fields: int) -> bytes:
    return built(
        eth(0x0800, to), ipv4.ipv4(src=src, dst=dst, proto=proto, **fields), *(upper or (udp.udp(1000, 53), b"query"))
    )


def frame6(*upper: object, dst: str = FAR6, src: str = V6, nxt: int = 17, to: str = ROUTER, **fields: object) -> bytes:
    return built(
        eth(0x86DD, to), ipv6.ipv6(src=src, dst=dst, nxt=nxt, **fields), *(upper or (udp.udp(1000, 53), b"query"))
    )


def raw6(next_header: int, payload: bytes) -> bytes:
    """IPv6 with extension headers as bytes."""
    return frames.ethernet(ROUTER_MAC, VM_MAC, 0x86DD, frames.ipv6(0xFD << 120 | 5, 1 << 125 | 9, next_header, payload))


ERRORS = (
    lambda frame: time_exceeded(frame, ROUTER_MAC, ROUTER6 if frame[12:14] == b"\x86\xdd" else ROUTER4),
    lambda frame: unreachable(frame, Unreachable.PORT, ROUTER_MAC, ROUTER6 if frame[12:14] == b"\x86\xdd" else ROUTER4),
    lambda frame: too_big(frame, 1400, ROUTER_MAC, ROUTER6 if frame[12:14] == b"\x86\xdd" else ROUTER4),
    lambda frame: tcp_reset(frame, ROUTER_MAC),
)


def error4(frame: bytes | None) -> tuple[icmp.icmp, bytes]:
    """The ICMP error in a frame, and its whole message; checked for headers and checksums."""
    assert frame is not None
    read = packet.Packet(frame)
    link, ip, error = read.get_protocol(ethernet.ethernet), read.get_protocol(ipv4.ipv4), read.get_protocol(icmp.icmp)
    assert (link.dst, link.src) == (VM, ROUTER)
    assert (ip.src, ip.dst, ip.ttl, ip.total_length) == ("10.0.0.1", V4, 64, len(frame) - 14)
    assert frames.intact(frame[14:34]) and frames.intact(frame[34:])
    return error, frame[34:]


def error6(frame: bytes | None) -> tuple[icmpv6.icmpv6, bytes]:
    assert frame is not None
    read = packet.Packet(frame)
    link, ip, error = (
        read.get_protocol(ethernet.ethernet),
        read.get_protocol(ipv6.ipv6),
        read.get_protocol(icmpv6.icmpv6),
    )
    assert (link.dst, link.src) == (VM, ROUTER)
    assert (ip.src, ip.dst, ip.payload_length) == ("fd00::1", V6, len(frame) - 54)
    pseudo = frame[22:54] + (len(frame) - 54).to_bytes(4, "big") + bytes((0, 0, 0, 58))
    assert frames.intact(pseudo + frame[54:])
    return error, frame[54:]


# --- errors --------------------------------------------------------------------------------------------------------


def test_time_exceeded() -> None:
    offender = frame4(ttl=1)
    error, message = error4(time_exceeded(offender, ROUTER_MAC, ROUTER4))
    assert (error.type, error.code) == (11, 0)
    assert message[4:8] == bytes(4) and message[8:] == offender[14:]
    offender = frame6(hop_limit=1)
    error, message = error6(time_exceeded(offender, ROUTER_MAC, ROUTER6))
    assert (error.type_, error.code) == (3, 0)
    assert message[4:8] == bytes(4) and message[8:] == offender[14:]


@pytest.mark.parametrize(
    ("reason", "code4", "code6"),
    [
        (Unreachable.NO_ROUTE, icmp.ICMP_PORT_UNREACH_CODE - 3, 0),
        (Unreachable.HOST, icmp.ICMP_HOST_UNREACH_CODE, 3),
        (Unreachable.PORT, icmp.ICMP_PORT_UNREACH_CODE, 4),
        (Unreachable.PROHIBITED, 13, 1),
    ],
)
def test_unreachable(reason: Unreachable, code4: int, code6: int) -> None:
    error, message = error4(unreachable(frame4(), reason, ROUTER_MAC, ROUTER4))
    assert (error.type, error.code, message[8:]) == (icmp.ICMP_DEST_UNREACH, code4, frame4()[14:])
    error, message = error6(unreachable(frame6(), reason, ROUTER_MAC, ROUTER6))
    assert (error.type_, error.code, message[8:]) == (icmpv6.ICMPV6_DST_UNREACH, code6, frame6()[14:])


def test_too_big_tells_the_mtu() -> None:
    error, message = error4(too_big(frame4(), 1442, ROUTER_MAC, ROUTER4))
    assert (error.type, error.code, error.data.mtu) == (3, 4, 1442) and message[4:8] == bytes.fromhex("0000 05a2")
    error, message = error6(too_big(frame6(), 1422, ROUTER_MAC, ROUTER6))
    assert (error.type_, error.code) == (2, 0) and message[4:8] == bytes.fromhex("0000 058e")


@pytest.mark.parametrize("length", [0, 1, 500, 519, 520, 521, 1180, 1184, 1185, 8000])
def test_as_much_is_quoted_as_may_be(length: int) -> None:
    payload = bytes(number & 0xFF for number in range(length))
    offender = frame4(udp.udp(1, 2), payload)
    _, message = error4(too_big(offender, 1400, ROUTER_MAC, ROUTER4))
    assert message[8:] == offender[14 : 14 + 576 - 28] and len(message) == min(28 + 8 + length, 556)
    offender = frame6(udp.udp(1, 2), payload)
    _, message = error6(too_big(offender, 1400, ROUTER_MAC, ROUTER6))
    assert message[8:] == offender[14 : 14 + 1280 - 48] and len(message) == min(48 + 8 + length, 1240)


def test_ethernet_padding_is_not_quoted() -> None:
    assert time_exceeded(frame4() + bytes(20), ROUTER_MAC, ROUTER4) == time_exceeded(frame4(), ROUTER_MAC, ROUTER4)
    assert time_exceeded(frame6() + bytes(20), ROUTER_MAC, ROUTER6) == time_exceeded(frame6(), ROUTER_MAC, ROUTER6)


def test_a_vlan_tag_is_kept() -> None:
    tagged = built(
        eth(0x8100), vlan.vlan(vid=7, pcp=3, ethertype=0x0800), ipv4.ipv4(src=V4, dst=FAR4, proto=17), udp.udp(1, 2)
    )
    answered = time_exceeded(tagged, ROUTER_MAC, ROUTER4)
    assert answered is not None
    tag = packet.Packet(answered).get_protocol(vlan.vlan)
    assert (tag.vid, tag.pcp, tag.ethertype) == (7, 3, 0x0800)
    assert answered[18:] == (time_exceeded(tagged[:12] + tagged[16:], ROUTER_MAC, ROUTER4) or b"")[14:]


# --- what is never answered ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        *(frame4(bytes((kind,)) + bytes(35), proto=1) for kind in (3, 4, 5, 11, 12, 42)),
        *(frame6(bytes((kind,)) + bytes(55), nxt=58) for kind in (1, 2, 3, 4, 100, 127, 137)),
        frame4(proto=1)[:34],  # ICMP of unknown type: it is cut off
        frame6(nxt=58)[:54],
        frame4(offset=10),
        frame4(offset=10, flags=1),
        raw6(44, bytes.fromhex("11000009 00000001") + bytes(20)),
        frame4(src="0.0.0.0"),
        frame4(src="127.0.0.1"),
        frame4(src="224.0.0.5"),
        frame4(src="255.255.255.255"),
        frame4(src="240.0.0.1"),
        frame6(src="::"),
        frame6(src="::1"),
        frame6(src="ff02::5"),
        built(eth(0x0800, src="03:00:00:00:00:01"), ipv4.ipv4(src=V4, dst=FAR4, proto=17), udp.udp(1, 2)),
        frames.ethernet(ROUTER_MAC, VM_MAC, 0x0806, bytes(28)),
        frame4()[:14] + b"\x55" + frame4()[15:],
        frame4()[:24] + b"\0\0" + frame4()[26:],  # header checksum
        raw6(0, bytes.fromhex("3c00") + bytes(6) + bytes.fromhex("1105") + bytes(6)),  # a header longer than the packet
        raw6(60, bytes.fromhex("3c00000000000000") * 40 + bytes.fromhex("1100000000000000") + bytes(8)),  # too many
        raw6(51, bytes.fromhex("3a01") + bytes(10) + b"\x01" + bytes(3) + b"\xff" + bytes(30)),  # an error behind AH
    ],
)
def test_nobody_gets_an_error_for_this(frame: bytes) -> None:
    assert [error(frame) for error in ERRORS] == [None] * 4


@pytest.mark.parametrize(
    ("frame", "told_if_too_big"),
    [
        (frame4(dst="224.1.1.1"), False),
        (frame4(dst="255.255.255.255"), False),
        (frame4(to="ff:ff:ff:ff:ff:ff"), False),
        (frame4(to="01:00:5e:01:01:01"), False),
        (frame6(dst="ff0e::1"), True),
        (frame6(to="33:33:00:00:00:01"), True),
    ],
)
def test_multicast_gets_no_error_but_one(frame: bytes, told_if_too_big: bool) -> None:
    expired, unreached, big, reset = (error(frame) for error in ERRORS)
    assert expired is unreached is reset is None and (big is not None) == told_if_too_big


@pytest.mark.parametrize(
    "frame",
    [
        frame4(flags=1),  # the first fragment
        frame4(flags=2),  # not to be fragmented
        frame4(icmp.icmp(8, 0, 0, icmp.echo(1, 1, b"x")), proto=1),
        frame4(option=b"\x94\x04\0\0", header_length=6),
        frame6(icmpv6.icmpv6(128, 0, 0, icmpv6.echo(1, 1, b"x")), nxt=58),
        raw6(44, bytes.fromhex("11000001 00000001") + bytes(20)),
        raw6(
            0,
            bytes.fromhex("3c00010400000000")
            + bytes.fromhex("2b00010400000000")
            + bytes.fromhex("3300000000000000")
            + bytes.fromhex("1101")
            + bytes(10)
            + bytes(8),
        ),
        raw6(44, bytes.fromhex("11ff0001 00000001") + bytes(20)),  # whose second byte is no length
        raw6(59, b""),
        raw6(50, bytes(40)),
    ],
)
def test_these_get_their_errors(frame: bytes) -> None:
    expired, unreached, big, reset = (error(frame) for error in ERRORS)
    assert reset is None
    for error in (expired, unreached, big):
        assert error is not None and error.endswith(frame[14:])


# --- resets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "payload", "expected"),
    [
        (tcp.TCP_SYN, b"", (0, 1001, tcp.TCP_RST | tcp.TCP_ACK)),
        (tcp.TCP_SYN | tcp.TCP_ACK, b"", (77, 0, tcp.TCP_RST)),
        (tcp.TCP_ACK | tcp.TCP_PSH, b"data", (77, 0, tcp.TCP_RST)),
        (tcp.TCP_FIN, b"data!", (0, 1006, tcp.TCP_RST | tcp.TCP_ACK)),
        (0, b"", (0, 1000, tcp.TCP_RST | tcp.TCP_ACK)),
    ],
)
@pytest.mark.parametrize("version", [4, 6])
def test_tcp_reset(version: int, flags: int, payload: bytes, expected: tuple[int, int, int]) -> None:
    segment = tcp.tcp(40000, 22, seq=1000, ack=77, bits=flags, option=[tcp.TCPOptionMaximumSegmentSize(1460)])
    frame = frame4(segment, payload, proto=6) if version == 4 else frame6(segment, payload, nxt=6)
    reset = tcp_reset(frame + b"\0\0", ROUTER_MAC)
    assert reset is not None
    read = packet.Packet(reset)
    link, ip, answered = read.get_protocol(ethernet.ethernet), read.protocols[1], read.get_protocol(tcp.tcp)
    assert (link.dst, link.src, ip.src, ip.dst) == (VM, ROUTER, *((FAR4, V4) if version == 4 else (FAR6, V6)))
    assert (answered.src_port, answered.dst_port) == (22, 40000)
    assert (answered.seq, answered.ack, answered.bits) == expected
    again = built(link, ip, tcp.tcp(22, 40000, answered.seq, answered.ack, 5, answered.bits, 0))
    assert reset[-20:] == again[-20:]  # its checksum


def test_a_segment_that_may_not_be_fragmented_is_none() -> None:
    assert tcp_reset(frame4(tcp.tcp(1, 2, bits=tcp.TCP_SYN), proto=6, flags=2), ROUTER_MAC)


def test_sequence_numbers_wrap() -> None:
    reset = tcp_reset(frame4(tcp.tcp(1, 2, seq=0xFFFFFFFF, bits=tcp.TCP_SYN), b"", proto=6), ROUTER_MAC)
    assert packet.Packet(reset).get_protocol(tcp.tcp).ack == 0


@pytest.mark.parametrize(
    "frame",
    [
        frame4(tcp.tcp(1, 2, bits=tcp.TCP_RST), proto=6),
        frame4(tcp.tcp(1, 2, bits=tcp.TCP_RST | tcp.TCP_ACK), proto=6),
        frame4(tcp.tcp(1, 2, bits=tcp.TCP_SYN), proto=6, flags=1),
        frame4(tcp.tcp(1, 2, bits=tcp.TCP_SYN), proto=6)[:-1],
        frame4(tcp.tcp(1, 2, bits=tcp.TCP_SYN), proto=17),
        frame4(b"\0" * 12 + b"\x40\x02" + b"\0" * 6, proto=6),  # a header of 16 bytes
        frame4(b"\0" * 12 + b"\xf0\x02" + b"\0" * 6, proto=6),  # one that is longer than the segment
    ],
)
def test_these_are_not_reset(frame: bytes) -> None:
    assert tcp_reset(frame, ROUTER_MAC) is None


# --- echo ----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=2000), st.integers(0, 65535), st.integers(0, 65535))
def test_echo(payload: bytes, id_: int, seq: int) -> None:
    answered = echo_reply(frame4(icmp.icmp(8, 0, 0, icmp.echo(id_, seq, payload)), proto=1, dst="10.0.0.1"))
    reply, message = error4(answered)
    assert (reply.type, reply.code, reply.data.id, reply.data.seq, message[8:]) == (0, 0, id_, seq, payload)
    answered = echo_reply(frame6(icmpv6.icmpv6(128, 0, 0, icmpv6.echo(id_, seq, payload)), nxt=58, dst="fd00::1"))
    reply, message = error6(answered)
    assert (reply.type_, reply.code, reply.data.id, reply.data.seq, message[8:]) == (129, 0, id_, seq, payload)


@pytest.mark.parametrize(
    "frame",
    [
        frame4(icmp.icmp(0, 0, 0, icmp.echo(1, 1)), proto=1),
        frame4(icmp.icmp(8, 1, 0, icmp.echo(1, 1)), proto=1),
        frame4(icmp.icmp(8, 0, 0, icmp.echo(1, 1)), proto=1, dst="224.0.0.1"),
        frame4(icmp.icmp(8, 0, 0, icmp.echo(1, 1)), proto=1, dst="255.255.255.255"),
        frame4(icmp.icmp(8, 0, 0, icmp.echo(1, 1)), proto=1, to="ff:ff:ff:ff:ff:ff"),
        frame4(icmp.icmp(8, 0, 0, icmp.echo(1, 1)), proto=1, src="0.0.0.0"),
        frame4(icmp.icmp(8, 0, 0, icmp.echo(1, 1)), proto=1, flags=1),
        frame4(),
        frame6(icmpv6.icmpv6(129, 0, 0, icmpv6.echo(1, 1)), nxt=58),
        frame6(icmpv6.icmpv6(128, 0, 0, icmpv6.echo(1, 1)), nxt=58, dst="ff02::1"),
        frame6(icmpv6.icmpv6(128, 0, 0, icmpv6.echo(1, 1)), nxt=58, src="::"),
        frame6(),
    ],
)
def test_these_are_not_echoed(frame: bytes) -> None:
    assert echo_reply(frame) is None


# --- damage --------------------------------------------------------------------------------------------------------

WHOLE = {
    "udp4": frame4(),
    "udp6": frame6(),
    "tcp4": frame4(tcp.tcp(1, 2, bits=tcp.TCP_SYN), proto=6),
    "tcp6": frame6(tcp.tcp(1, 2, bits=tcp.TCP_SYN), nxt=6),
    "extended": raw6(0, bytes.fromhex("3c00010400000000 2c00010400000000 1100000100000001") + bytes(20)),
    "echo4": frame4(icmp.icmp(8, 0, 0, icmp.echo(1, 1, b"ping")), proto=1),
    "echo6": frame6(icmpv6.icmpv6(128, 0, 0, icmpv6.echo(1, 1, b"ping")), nxt=58),
}


@pytest.mark.parametrize("name", WHOLE)
def test_damaged_frames_raise_nothing(name: str) -> None:
    frame = WHOLE[name]
    for damaged in [*prefixes(frame), *(changed for _, changed in corruptions(frame))]:
        for respond in (*ERRORS, echo_reply):
            answered = respond(damaged)
            assert answered is None or len(answered) <= 18 + 1280
    for place, damaged in corruptions(frame):
        # Corrupt checksums keep an echo unanswered, but for what IPv6 and Ethernet do not cover.
        if place >= (14 if name == "echo4" else 54):
            assert echo_reply(damaged) is None


@given(st.binary(max_size=120), st.sampled_from([bytes.fromhex("0800 45"), bytes.fromhex("86dd 60"), b""]))
def test_any_bytes_raise_nothing(tail: bytes, start: bytes) -> None:
    frame = bytes.fromhex("0200000000fe 020000000001") + start + tail
    for respond in (*ERRORS, echo_reply):
        answered = respond(frame)
        assert answered is None or len(answered) <= 14 + 1280
