"""Headers in and out of frames: against known packets, Ryu's own packet library, and damage of every kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ryu.lib.packet import ethernet, icmpv6, in_proto, ipv4, ipv6, packet, tcp, udp, vlan

from pipelines.packets import frames
from pipelines.packets.frames import Malformed

MAC_A, MAC_B = 0x020000000001, 0x020000000002
V4_A, V4_B = 0x0A000001, 0x0A000002
V6_A, V6_B = 0xFE80 << 112 | 1, 0xFE80 << 112 | 2

macs = st.integers(0, 2**48 - 1)
v4 = st.integers(0, 2**32 - 1)
v6 = st.integers(0, 2**128 - 1)
ports = st.integers(0, 65535)
payloads = st.binary(max_size=300)
tcis = st.none() | st.integers(0, 65535)


def udp_frame(version: int = 4, payload: bytes = b"hello", tci: int | None = None) -> bytes:
    if version == 4:
        return frames.ethernet(MAC_A, MAC_B, 0x0800, frames.udp4(V4_B, V4_A, 1000, 53, payload), tci)
    return frames.ethernet(MAC_A, MAC_B, 0x86DD, frames.udp6(V6_B, V6_A, 1000, 53, payload), tci)


def changed(frame: bytes, position: int, value: int) -> bytes:
    return frame[:position] + bytes([value]) + frame[position + 1 :]


def naive_checksum(data: bytes) -> int:
    total = 0
    for start in range(0, len(data), 2):
        total += int.from_bytes(data[start : start + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_the_checksums_of_known_packets() -> None:
    # RFC 1071 section 3 has this sum: 0xddf2.
    assert frames.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
    header = bytes.fromhex("450000730000400040110000c0a80001c0a800c7")
    assert frames.checksum(header) == 0xB861
    assert frames.intact(bytes.fromhex("45000073000040004011b861c0a80001c0a800c7"))
    assert frames.checksum(b"") == frames.checksum(bytes(8)) == 0xFFFF


@given(st.binary(max_size=200) | st.lists(st.sampled_from([0, 0xFF])).map(bytes))
def test_the_checksum_is_the_ones_complement_of_the_sum_of_words(data: bytes) -> None:
    assert frames.checksum(data) == naive_checksum(data)


@given(macs, macs, v4, v4, ports, ports, payloads, tcis, st.binary(max_size=40))
def test_udp_over_ipv4_comes_back(
    dst: int, src: int, a: int, b: int, from_: int, to: int, payload: bytes, tci: int | None, padding: bytes
) -> None:
    frame = frames.ethernet(dst, src, 0x0800, frames.udp4(a, b, from_, to, payload, ttl=9), tci)
    read = frames.read_udp(frame + padding)
    assert (read.ethernet.dst, read.ethernet.src, read.ethernet.tci) == (dst, src, tci)
    assert (read.ip.version, read.ip.src, read.ip.dst, read.ip.ttl) == (4, a, b, 9)
    assert (read.src_port, read.dst_port, read.payload) == (from_, to, payload)


@given(v6, v6, ports, ports, payloads, tcis, st.binary(max_size=40))
def test_udp_over_ipv6_comes_back(
    a: int, b: int, from_: int, to: int, payload: bytes, tci: int | None, padding: bytes
) -> None:
    frame = frames.ethernet(MAC_A, MAC_B, 0x86DD, frames.udp6(a, b, from_, to, payload), tci)
    read = frames.read_udp(frame + padding)
    assert (read.ip.version, read.ip.src, read.ip.dst, read.ip.ttl) == (6, a, b, 64)
    assert (read.ethernet.tci, read.src_port, read.dst_port, read.payload) == (tci, from_, to, payload)


@given(v4, v6, st.integers(0, 255), st.integers(0, 255), payloads)
def test_icmp_comes_back(a: int, b: int, type_: int, code: int, body: bytes) -> None:
    old = frames.read_icmp(frames.ethernet(MAC_A, MAC_B, 0x0800, frames.icmp4(a, a, type_, code, body)))
    new = frames.read_icmp(frames.ethernet(MAC_A, MAC_B, 0x86DD, frames.icmp6(b, b, type_, code, body)))
    assert (old.type, old.code, old.body, old.ip.ttl) == (type_, code, body, 64)
    assert (new.type, new.code, new.body, new.ip.ttl) == (type_, code, body, 255)


@given(payloads, st.sampled_from([4, 6]))
def test_ryu_writes_the_same_udp_bytes(payload: bytes, version: int) -> None:
    theirs = packet.Packet()
    theirs.add_protocol(ethernet.ethernet("02:00:00:00:00:01", "02:00:00:00:00:02", 0x8100))
    theirs.add_protocol(vlan.vlan(pcp=1, vid=5, ethertype=0x0800 if version == 4 else 0x86DD))
    if version == 4:
        theirs.add_protocol(ipv4.ipv4(src="10.0.0.2", dst="10.0.0.1", proto=in_proto.IPPROTO_UDP, ttl=64, flags=2))
    else:
        theirs.add_protocol(ipv6.ipv6(src="fe80::2", dst="fe80::1", nxt=in_proto.IPPROTO_UDP, hop_limit=64))
    theirs.add_protocol(udp.udp(1000, 53))
    theirs.add_protocol(payload)
    theirs.serialize()
    ours = udp_frame(version, payload, 1 << 13 | 5)
    assert ours.ljust(60, b"\0") == bytes(theirs.data)  # Ryu fills up to the shortest frame


@pytest.mark.parametrize("version", [4, 6])
def test_ryu_writes_the_same_tcp_bytes(version: int) -> None:
    theirs = packet.Packet()
    theirs.add_protocol(
        ipv4.ipv4(src="10.0.0.2", dst="10.0.0.1", proto=in_proto.IPPROTO_TCP, ttl=64, flags=2)
        if version == 4
        else ipv6.ipv6(src="fe80::2", dst="fe80::1", nxt=in_proto.IPPROTO_TCP, hop_limit=64)
    )
    theirs.add_protocol(tcp.tcp(1000, 80, 0xFFFFFFFF, 7, bits=tcp.TCP_RST | tcp.TCP_ACK, window_size=0))
    theirs.serialize()
    addresses = (V4_B, V4_A) if version == 4 else (V6_B, V6_A)
    assert frames.tcp(version, *addresses, 1000, 80, 0xFFFFFFFF, 7, 0x14) == bytes(theirs.data)


def test_ryu_reads_icmpv6_with_a_router_alert() -> None:
    # MLD goes behind a hop-by-hop header with the router alert option (RFC 2710 section 3).
    alert = bytes.fromhex("3a00050200000100")
    frame = frames.ethernet(
        MAC_A, MAC_B, 0x86DD, frames.icmp6(V6_A, V6_B, 132, 0, bytes(20), hop_limit=1, extensions=alert)
    )
    theirs = packet.Packet(frame)
    assert theirs.get_protocol(ipv6.ipv6).nxt == frames.HOP_BY_HOP
    assert theirs.get_protocol(icmpv6.icmpv6).type_ == 132
    ours = frames.read_icmp(frame)
    assert (ours.type, ours.body, ours.ip.options, ours.ip.ttl) == (132, bytes(20), alert, 1)


@pytest.mark.parametrize("frame", [udp_frame(4), udp_frame(6), udp_frame(4, tci=5), udp_frame(6, b"odd", 5)])
def test_a_frame_cut_short_is_malformed(frame: bytes) -> None:
    for length in range(len(frame)):
        with pytest.raises(Malformed):
            frames.read_udp(frame[:length])


@pytest.mark.parametrize("version", [4, 6])
def test_a_changed_byte_of_the_packet_is_noticed(version: int) -> None:
    frame = udp_frame(version)
    # IPv6 has no checksum over class, flow label and hop limit.
    unprotected = {14, 15, 16, 17, 21} if version == 6 else set()
    for position in range(14, len(frame)):
        for value in {frame[position] ^ 1, frame[position] ^ 0x80, frame[position] ^ 0xFF}:
            damaged = changed(frame, position, value)
            if position in unprotected and damaged[14] >> 4 == 6:
                assert frames.read_udp(damaged).payload == b"hello"
            else:
                with pytest.raises(Malformed):
                    frames.read_udp(damaged)


@given(
    st.binary(max_size=100), st.sampled_from([b"", b"\x08\x00\x45", b"\x86\xdd\x60", b"\x81\x00\x00\x05\x08\x00\x45"])
)
def test_readers_raise_nothing_but_malformed(data: bytes, start: bytes) -> None:
    for reader in (frames.read_udp, frames.read_icmp):
        try:
            reader(bytes(12) + start + data)
        except Malformed as error:
            assert str(error)


def test_a_checksum_left_to_the_network_card_is_taken() -> None:
    # virtio leaves the folded sum of the pseudo-header in the field: 0a00+0002 + 0a00+0001 + 0011 + 000d
    frame = udp_frame(4)
    partial = frame[:40] + (0x0A00 + 2 + 0x0A00 + 1 + 0x11 + 13).to_bytes(2, "big") + frame[42:]
    assert frames.read_udp(partial).payload == b"hello"
    frame = udp_frame(6)
    partial = frame[:60] + (0xFE80 + 2 + 0xFE80 + 1 + 0x11 + 13 - 0xFFFF).to_bytes(2, "big") + frame[62:]
    assert frames.read_udp(partial).payload == b"hello"


def test_ipv4_may_do_without_a_udp_checksum_and_ipv6_may_not() -> None:
    frame = udp_frame(4)
    assert frames.read_udp(frame[:40] + b"\0\0" + frame[42:]).payload == b"hello"
    frame = udp_frame(6)
    with pytest.raises(Malformed, match="without checksum"):
        frames.read_udp(frame[:60] + b"\0\0" + frame[62:])


def test_bytes_behind_the_udp_length_are_left_out() -> None:
    segment = frames.udp4(V4_A, V4_B, 1, 2, b"hello")[20:]
    frame = frames.ethernet(MAC_A, MAC_B, 0x0800, frames.ipv4(V4_A, V4_B, 17, segment + b"junk"))
    assert frames.read_udp(frame).payload == b"hello"


def test_a_udp_checksum_of_zero_goes_out_as_ones() -> None:
    for word in range(0x10000):
        packet_ = frames.udp4(V4_A, V4_B, 1, 2, word.to_bytes(2, "big"))
        if packet_[26:28] == b"\xff\xff":
            break
    else:
        pytest.fail("no payload sums to zero")
    assert frames.read_udp(frames.ethernet(MAC_A, MAC_B, 0x0800, packet_)).payload == word.to_bytes(2, "big")


@pytest.mark.parametrize("fragment", [0x2000, 0x0001, 0x3FFF])
def test_fragments_are_not_read(fragment: int) -> None:
    header = bytearray(frames.udp4(V4_A, V4_B, 1, 2, b"x"))
    header[6:8] = fragment.to_bytes(2, "big")
    header[10:12] = b"\0\0"
    header[10:12] = frames.checksum(bytes(header[:20])).to_bytes(2, "big")
    with pytest.raises(Malformed, match="fragment"):
        frames.read_ipv4(bytes(header))
    with pytest.raises(Malformed, match="fragment"):
        frames.read_ipv6(frames.ipv6(V6_A, V6_B, frames.FRAGMENT, bytes(16)))


def test_extension_headers_and_options_are_stepped_over() -> None:
    segment = frames.udp6(V6_A, V6_B, 1, 2, b"x")[40:]
    extensions = bytes([frames.DESTINATION_OPTIONS, 0]) + bytes(6) + bytes([17, 1]) + bytes(14)
    frame = frames.ethernet(MAC_A, MAC_B, 0x86DD, frames.ipv6(V6_A, V6_B, frames.HOP_BY_HOP, extensions + segment))
    assert frames.read_udp(frame).payload == b"x"
    assert frames.read_udp(frame).ip.options == extensions
    with pytest.raises(Malformed, match="extension"):
        frames.read_ipv6(frames.ipv6(V6_A, V6_B, frames.HOP_BY_HOP, bytes([17, 2]) + bytes(14)))
    alert = bytes.fromhex("94040000")
    ip = frames.read_ipv4(frames.ipv4(V4_A, V4_B, 2, b"report", options=alert))
    assert (ip.options, ip.payload, ip.protocol) == (alert, b"report", 2)


def test_other_protocols_are_named() -> None:
    arp = frames.ethernet(MAC_A, MAC_B, 0x0806, bytes(28))
    with pytest.raises(Malformed, match="0x0806"):
        frames.read_udp(arp)
    icmp = frames.ethernet(MAC_A, MAC_B, 0x0800, frames.icmp4(V4_A, V4_B, 8, 0, b""))
    with pytest.raises(Malformed, match="protocol 1"):
        frames.read_udp(icmp)
    with pytest.raises(Malformed, match="protocol 17"):
        frames.read_icmp(udp_frame(6))
    # ICMPv6's number in an IPv4 packet is not ICMP.
    with pytest.raises(Malformed, match="protocol 58"):
        frames.read_icmp(frames.ethernet(MAC_A, MAC_B, 0x0800, frames.ipv4(V4_A, V4_B, 58, bytes(8))))


def test_what_does_not_fit_a_packet_is_refused() -> None:
    with pytest.raises(ValueError, match="IPv4"):
        frames.ipv4(V4_A, V4_B, 17, bytes(65516))
    with pytest.raises(ValueError, match="options"):
        frames.ipv4(V4_A, V4_B, 17, b"", options=b"odd")
    with pytest.raises(ValueError, match="IPv6"):
        frames.ipv6(V6_A, V6_B, 17, bytes(65536))
    with pytest.raises(ValueError, match="UDP"):
        frames.udp6(V6_A, V6_B, 1, 2, bytes(65528))


def test_multicast_addresses_have_their_macs() -> None:
    assert frames.multicast_mac(0xE0800001) == 0x01005E000001  # 224.128.0.1: 23 bits count
    assert frames.multicast_mac(0xFF02 << 112 | 0x1FF123456) == 0x3333FF123456
