"""ARP and neighbour discovery: made here and read by Ryu's packet library, and the other way round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ryu.lib import addrconv
from ryu.lib.packet import arp, ethernet, icmpv6, ipv6, packet

from pipelines.packets import frames
from pipelines.packets.neighbours import (
    Kind,
    Neighbour,
    advertisement,
    arp_announcement,
    arp_reply,
    arp_request,
    parse,
    solicitation,
    solicited_node,
    unsolicited_advertisement,
)

from .damage import corruptions, prefixes

MAC, OTHER = 0x020000000001, 0x0200000000FE
MAC_TEXT, OTHER_TEXT = "02:00:00:00:00:01", "02:00:00:00:00:fe"
V4, V4_OTHER = 0x0A000005, 0x0A000001
V6, V6_OTHER = 0xFD << 120 | 0xABCDEF, 0xFE80 << 112 | 7

macs = st.integers(1, 2**48 - 1).map(lambda mac: mac & ~(1 << 40) or 2)
v4 = st.integers(1 << 24, 0xDFFFFFFF).filter(lambda ip: ip >> 24 != 127)
v6 = st.integers(2, (0xFF << 120) - 1)


def mac_text(mac: int) -> str:
    return str(addrconv.mac.bin_to_text(mac.to_bytes(6, "big")))


def v4_text(ip: int) -> str:
    return str(addrconv.ipv4.bin_to_text(ip.to_bytes(4, "big")))


def v6_text(ip: int) -> str:
    return str(addrconv.ipv6.bin_to_text(ip.to_bytes(16, "big")))


# --- ARP -----------------------------------------------------------------------------------------------------------


@given(macs, v4, macs, v4)
def test_arp_as_ryu_reads_it(mac: int, ip: int, other: int, other_ip: int) -> None:
    cases = (
        (arp_request(mac, ip, other_ip), "ff:ff:ff:ff:ff:ff", 1, 0, other_ip),
        (arp_request(mac, ip, other_ip, to_mac=other), mac_text(other), 1, 0, other_ip),
        (arp_reply(mac, ip, other, other_ip), mac_text(other), 2, other, other_ip),
        (arp_announcement(mac, ip), "ff:ff:ff:ff:ff:ff", 1, 0, ip),
    )
    for frame, to, opcode, target_mac, target_ip in cases:
        read = packet.Packet(frame)
        link, message = read.get_protocol(ethernet.ethernet), read.get_protocol(arp.arp)
        assert (link.dst, link.src, link.ethertype, message.opcode) == (to, mac_text(mac), 0x0806, opcode)
        assert (message.hwtype, message.proto, message.hlen, message.plen) == (1, 0x0800, 6, 4)
        assert (message.src_mac, message.src_ip) == (mac_text(mac), v4_text(ip))
        assert (message.dst_mac, message.dst_ip) == (mac_text(target_mac), v4_text(target_ip))


@given(macs, v4, macs, v4.filter(lambda ip: ip != V4), st.binary(max_size=18))
def test_what_arp_teaches(mac: int, ip: int, other: int, target: int, padding: bytes) -> None:
    kinds = (Kind.REQUEST, Kind.REPLY) if ip != target else (Kind.ANNOUNCEMENT, Kind.ANNOUNCEMENT)
    assert parse(arp_request(mac, ip, target) + padding) == Neighbour(ip, 4, mac, kinds[0], target)
    assert parse(arp_reply(mac, ip, other, target) + padding) == Neighbour(ip, 4, mac, kinds[1], target)
    assert parse(arp_announcement(mac, ip) + padding) == Neighbour(ip, 4, mac, Kind.ANNOUNCEMENT, ip)
    assert parse(arp_reply(mac, ip, frames.BROADCAST_MAC, ip)) == Neighbour(ip, 4, mac, Kind.ANNOUNCEMENT, ip)
    assert parse(arp_request(mac, 0, target)) == Neighbour(0, 4, mac, Kind.PROBE, target)


def arp_by_ryu(**changes: object) -> bytes:
    values: dict[str, object] = {
        "opcode": 2, "src_mac": MAC_TEXT, "src_ip": "10.0.0.5", "dst_mac": OTHER_TEXT, "dst_ip": "10.0.0.1", **changes
    }  # fmt: skip
    result = packet.Packet()
    result.add_protocol(ethernet.ethernet(OTHER_TEXT, MAC_TEXT, 0x0806))
    result.add_protocol(arp.arp(**values))
    result.serialize()
    return bytes(result.data)


def test_ryus_arp_is_ours() -> None:
    assert arp_by_ryu() == arp_reply(MAC, V4, OTHER, V4_OTHER) + bytes(18)  # padding


@pytest.mark.parametrize(
    "changes",
    [
        {"hwtype": 6},
        {"proto": 0x86DD},
        {"hlen": 8},
        {"plen": 16},
        {"opcode": 3},
        {"opcode": 0},
        {"src_mac": "ff:ff:ff:ff:ff:ff"},
        {"src_mac": "01:00:5e:00:00:01"},
        {"src_mac": "00:00:00:00:00:00"},
        {"src_ip": "0.0.0.0"},
        {"src_ip": "127.0.0.1"},
        {"src_ip": "224.0.0.1"},
        {"src_ip": "255.255.255.255"},
        {"opcode": 1, "src_ip": "0.0.0.0", "dst_ip": "0.0.0.0"},
    ],
)
def test_arp_that_teaches_nothing(changes: dict[str, object]) -> None:
    assert parse(arp_by_ryu()) is not None
    assert parse(arp_by_ryu(**changes)) is None


# --- neighbour discovery -------------------------------------------------------------------------------------------


def nd(frame: bytes) -> tuple[ethernet.ethernet, ipv6.ipv6, icmpv6.icmpv6]:
    """Ryu's reading of a message, whose checksum it finds right."""
    read = packet.Packet(frame)
    link, ip, message = (read.get_protocol(kind) for kind in (ethernet.ethernet, ipv6.ipv6, icmpv6.icmpv6))
    assert ip.hop_limit == 255 and message.code == 0
    again = packet.Packet()
    for part in (link, ip, icmpv6.icmpv6(message.type_, 0, 0, message.data)):
        again.add_protocol(part)
    again.serialize()
    assert bytes(again.data)[: len(frame)] == frame
    return link, ip, message


@given(macs, v6, macs, v6)
def test_solicitations_as_ryu_reads_them(mac: int, ip: int, other: int, target: int) -> None:
    link, packet_, message = nd(solicitation(mac, ip, target))
    group = v6_text(solicited_node(target))
    assert (link.dst, link.src) == (f"33:33:ff:{mac_text(target & 0xFFFFFF)[9:]}", mac_text(mac))
    assert (packet_.src, packet_.dst, message.type_, message.data.dst) == (v6_text(ip), group, 135, v6_text(target))
    assert isinstance(message.data.option, icmpv6.nd_option_sla) and message.data.option.hw_src == mac_text(mac)
    link, packet_, message = nd(solicitation(mac, ip, target, to_mac=other))
    assert (link.dst, packet_.dst, message.data.dst) == (mac_text(other), v6_text(target), v6_text(target))
    link, packet_, message = nd(solicitation(mac, 0, target))
    assert (packet_.src, packet_.dst, message.data.option) == ("::", group, None)


@given(macs, v6, macs, v6, st.booleans())
def test_advertisements_as_ryu_reads_them(mac: int, ip: int, other: int, to: int, router: bool) -> None:
    cases = (
        (advertisement(mac, ip, other, to, router=router), mac_text(other), v6_text(to), 3),
        (unsolicited_advertisement(mac, ip, router=router), "33:33:00:00:00:01", "ff02::1", 1),
    )
    for frame, to_mac, to_ip, flags in cases:
        link, packet_, message = nd(frame)
        assert (link.dst, link.src, packet_.src, packet_.dst) == (to_mac, mac_text(mac), v6_text(ip), to_ip)
        assert (message.type_, message.data.dst, message.data.res) == (136, v6_text(ip), flags | 4 * router)
        assert isinstance(message.data.option, icmpv6.nd_option_tla) and message.data.option.hw_src == mac_text(mac)


def test_the_solicited_node_group() -> None:
    assert v6_text(solicited_node(0x4037 << 112 | 0x01_0800_200E_8C6C)) == "ff02::1:ff0e:8c6c"  # RFC 4291's example


@given(macs, v6, macs, v6)
def test_what_neighbour_discovery_teaches(mac: int, ip: int, other: int, target: int) -> None:
    for to_mac in (None, other):
        assert parse(solicitation(mac, ip, target, to_mac=to_mac)) == Neighbour(ip, 6, mac, Kind.REQUEST, target)
    assert parse(solicitation(mac, 0, target)) == Neighbour(0, 6, mac, Kind.PROBE, target)
    assert parse(advertisement(mac, ip, other, target)) == Neighbour(ip, 6, mac, Kind.REPLY, ip)
    assert parse(unsolicited_advertisement(mac, ip)) == Neighbour(ip, 6, mac, Kind.ANNOUNCEMENT, ip)


SLLA, TLLA = bytes.fromhex("0101 020000000002"), bytes.fromhex("0201 020000000002")


def message(
    kind: int,
    *,
    flags: int = 0,
    target: int = V6,
    options: bytes = b"",
    src: int = V6_OTHER,
    dst: int = V6,
    **rest: int,
) -> bytes:
    body = flags.to_bytes(4, "big") + target.to_bytes(16, "big") + options
    code = rest.pop("code", 0)
    return frames.ethernet(MAC, OTHER, 0x86DD, frames.icmp6(src, dst, kind, code, body, **rest))


def test_the_link_layer_address_is_the_options() -> None:
    learned = 0x020000000002
    assert parse(message(135, options=SLLA)) == Neighbour(V6_OTHER, 6, learned, Kind.REQUEST, V6)
    assert parse(message(136, options=TLLA)) == Neighbour(V6, 6, learned, Kind.ANNOUNCEMENT, V6)
    # Other options pass, known or not; the first address counts.
    assert parse(message(136, options=bytes.fromhex("0e02") + bytes(14) + TLLA + b"\x02\x01" + bytes(6))) == Neighbour(
        V6, 6, learned, Kind.ANNOUNCEMENT, V6
    )
    # Who checks a neighbour by unicast may leave its address away.
    assert parse(message(135)) == Neighbour(V6_OTHER, 6, OTHER, Kind.REQUEST, V6)


@pytest.mark.parametrize(
    "frame",
    [
        message(136),  # no address
        message(136, options=TLLA, hop_limit=254),
        message(135, options=SLLA, hop_limit=64),
        message(136, options=TLLA, code=1),
        message(133, options=SLLA),
        message(134, options=TLLA),
        message(137, options=TLLA),
        message(136, options=TLLA, target=0xFF02 << 112 | 1),
        message(136, options=TLLA, target=0),
        message(135, options=SLLA, target=1),
        message(136, options=TLLA, src=0),
        message(136, options=TLLA, src=0xFF02 << 112 | 1),
        message(136, options=TLLA, flags=0x60000000, dst=0xFF02 << 112 | 1),  # solicited by a group
        message(136, options=TLLA + b"\x02\0" + bytes(6)),  # an option without length
        message(136, options=TLLA + b"\x02\x02" + bytes(6)),
        message(136, options=TLLA + b"\x02"),
        message(136, options=b"\x02\x01" + bytes(6)),
        message(136, options=bytes.fromhex("0201 ffffffffffff")),
        message(135, options=SLLA, src=0, dst=solicited_node(V6)),
        message(135, src=0, dst=V6),
        message(135, src=0, dst=solicited_node(V6 + 1)),
        message(135, options=SLLA, src=1),
        frames.ethernet(MAC, OTHER | 1 << 40, 0x86DD, message(136, options=TLLA)[14:]),
        frames.ethernet(MAC, 0, 0x0806, arp_reply(MAC, V4, OTHER, V4_OTHER)[14:]),
        frames.ethernet(MAC, OTHER, 0x0800, frames.icmp4(1, 2, 136, 0, bytes(28))),
        frames.ethernet(MAC, OTHER, 0x86DD, frames.udp6(V6, V6_OTHER, 1, 2, b"")),
    ],
)
def test_messages_that_teach_nothing(frame: bytes) -> None:
    assert parse(frame) is None


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        arp_reply(MAC, V4, OTHER, V4_OTHER),
        solicitation(MAC, V6_OTHER, V6),
        solicitation(MAC, 0, V6),
        advertisement(MAC, V6, OTHER, V6_OTHER),
        unsolicited_advertisement(MAC, V6),
    ],
)
def test_damaged_messages_teach_nothing(frame: bytes) -> None:
    assert all(parse(prefix) is None for prefix in prefixes(frame))
    for place, damaged in corruptions(frame):
        learned = parse(damaged)  # ARP has no checksum, so what its addresses say is taken
        if frame[12] == 0x86 and place >= 18:
            # Between the checksum's and the hop limit's bytes nothing is left but the next header.
            assert learned is None


@given(st.binary(max_size=120), st.sampled_from([bytes.fromhex("0806 0001 0800 0604"), bytes.fromhex("86dd 60"), b""]))
def test_any_bytes_raise_nothing(tail: bytes, start: bytes) -> None:
    parse(bytes.fromhex("0200000000fe 020000000001") + start + tail)
