"""DHCPv4: a client written on Ryu's packet library asks, and reads what it is told."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ryu.lib.packet import dhcp, ethernet, in_proto, ipv4, packet, udp, vlan

from pipelines.packets import dhcp4, frames
from pipelines.packets.dhcp4 import ACK, DISCOVER, NAK, OFFER, Plan, option

CLIENT, SERVER = "02:00:00:00:00:11", "02:4e:56:ff:ff:fe"
ADDRESS, SERVER_IP, OTHER = "10.0.0.5", "10.0.0.1", "10.0.0.6"
XID = 0x12345678


def number(text: str) -> int:
    return int(text.replace(":", ""), 16) if ":" in text else int(IPv4Address(text))


def raw(*texts: str) -> bytes:
    return b"".join(IPv4Address(text).packed for text in texts)


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "client_mac": number(CLIENT),
        "address": number(ADDRESS),
        "prefix_length": 22,
        "server_id": number(SERVER_IP),
        "server_mac": number(SERVER),
        "routers": (number(SERVER_IP),),
        "dns": (number("169.254.169.253"), number("9.9.9.9")),
        "mtu": 1442,
        "lease": 3600,
        "domain": "lab.example",
        "search": ("lab.example", "example"),
        "hostname": "vm-1",
    }
    return Plan(**fields | changes)


def request(
    type_: int, *options: tuple[int, bytes], tag: int | None = None, ip_dst: str = "255.255.255.255",
    ip_src: str = "0.0.0.0", mac: str = CLIENT, **fields: Any,
) -> bytes:  # fmt: skip
    """A client's frame."""
    message = packet.Packet()
    if tag is not None:
        message.add_protocol(ethernet.ethernet("ff:ff:ff:ff:ff:ff", mac, 0x8100))
        message.add_protocol(vlan.vlan(vid=tag))
    else:
        message.add_protocol(ethernet.ethernet("ff:ff:ff:ff:ff:ff", mac))
    message.add_protocol(ipv4.ipv4(src=ip_src, dst=ip_dst, proto=in_proto.IPPROTO_UDP))
    message.add_protocol(udp.udp(68, 67))
    listed = [dhcp.option(53, bytes([type_])), *(dhcp.option(code, value) for code, value in options)]
    message.add_protocol(dhcp.dhcp(1, fields.pop("chaddr", mac), dhcp.options(listed), xid=XID, **fields))
    message.serialize()
    return bytes(message.data)


class Reply:
    """A server's frame as Ryu reads it, checked for what every answer must have."""

    def __init__(self, frame: bytes | None) -> None:
        assert frame is not None, "no answer"
        read = packet.Packet(frame)
        self.ethernet = read.get_protocol(ethernet.ethernet)
        self.vlan = read.get_protocol(vlan.vlan)
        self.ip = read.get_protocol(ipv4.ipv4)
        self.udp = read.get_protocol(udp.udp)
        self.message = read.get_protocol(dhcp.dhcp)
        assert frames.read_udp(frame).payload, "checksums are right"
        assert (self.udp.src_port, self.udp.dst_port) == (67, 68)
        assert (self.ethernet.src, self.ip.src) == (SERVER, SERVER_IP)
        assert (self.message.op, self.message.htype, self.message.hlen, self.message.hops) == (2, 1, 6, 0)
        assert (self.message.xid, self.message.chaddr) == (XID, CLIENT)
        self.order = [found.tag for found in self.message.options.option_list]
        self.options: dict[int, bytes] = {}
        for found in self.message.options.option_list:
            self.options[found.tag] = self.options.get(found.tag, b"") + found.value
        assert self.order[0] == 53
        assert self.options[54] == raw(SERVER_IP)
        self.type = self.options[53][0]
        self.size = self.ip.total_length


def ask(frame: bytes, **changes: Any) -> Reply:
    return Reply(dhcp4.prepare(plan(**changes)).answer(frame))


def test_discover_is_offered_the_ports_address_with_everything() -> None:
    reply = ask(request(DISCOVER))
    assert reply.type == OFFER
    assert (reply.message.yiaddr, reply.message.ciaddr, reply.message.siaddr) == (ADDRESS, "0.0.0.0", "0.0.0.0")
    assert {code: value for code, value in reply.options.items() if code not in (53, 54)} == {
        1: raw("255.255.252.0"),
        3: raw(SERVER_IP),
        6: raw("169.254.169.253", "9.9.9.9"),
        12: b"vm-1",
        15: b"lab.example",
        26: (1442).to_bytes(2, "big"),
        51: (3600).to_bytes(4, "big"),
        58: (1800).to_bytes(4, "big"),
        59: (3150).to_bytes(4, "big"),
    }
    assert (reply.ethernet.dst, reply.ip.dst) == (CLIENT, ADDRESS)


def test_the_first_bytes_of_an_offer_are_these() -> None:
    frame = dhcp4.prepare(plan()).answer(request(DISCOVER))
    assert frame is not None
    assert frame[42:70].hex() == "020106001234567800000000000000000a0000050000000000000000"
    assert frame[278:294].hex() == "6382536335010236040a0000010104ff"


def test_the_broadcast_flag_is_honoured() -> None:
    reply = ask(request(DISCOVER, flags=0x8000))
    assert (reply.ethernet.dst, reply.ip.dst, reply.message.flags) == ("ff:ff:ff:ff:ff:ff", "255.255.255.255", 0x8000)


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ([(54, raw(SERVER_IP)), (50, raw(ADDRESS))], {}),
        ([(50, raw(ADDRESS))], {}),
        ([], {"ciaddr": ADDRESS, "ip_src": ADDRESS, "ip_dst": SERVER_IP}),
        ([], {"ciaddr": ADDRESS, "ip_src": ADDRESS}),
    ],
    ids=["selecting", "init-reboot", "renewing", "rebinding"],
)
def test_the_ports_address_is_acknowledged(options: list[tuple[int, bytes]], fields: dict[str, Any]) -> None:
    reply = ask(request(3, *options, **fields))
    assert (reply.type, reply.message.yiaddr) == (ACK, ADDRESS)
    assert reply.message.ciaddr == fields.get("ciaddr", "0.0.0.0")
    assert (reply.ip.dst, reply.ethernet.dst) == (ADDRESS, CLIENT)
    assert int.from_bytes(reply.options[51], "big") == 3600


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ([(54, raw(SERVER_IP)), (50, raw(OTHER))], {}),
        ([(54, raw(SERVER_IP))], {}),
        ([(50, raw(OTHER))], {}),
        ([], {"ciaddr": OTHER, "ip_src": OTHER, "ip_dst": SERVER_IP}),
        ([], {"ciaddr": OTHER, "ip_src": OTHER}),
    ],
    ids=["selecting", "selecting-nothing", "init-reboot", "renewing", "rebinding"],
)
def test_any_other_address_is_refused_to_all(options: list[tuple[int, bytes]], fields: dict[str, Any]) -> None:
    reply = ask(request(3, *options, (61, b"\1me"), **fields), next_server=number(OTHER), boot_file="x")
    assert (reply.type, reply.message.yiaddr, reply.message.ciaddr) == (NAK, "0.0.0.0", "0.0.0.0")
    assert set(reply.options) == {53, 54, 56, 61}
    assert (reply.message.siaddr, reply.message.boot_file.strip("\0")) == ("0.0.0.0", "")
    assert (reply.ethernet.dst, reply.ip.dst) == ("ff:ff:ff:ff:ff:ff", "255.255.255.255")
    assert reply.size == 20 + 8 + 300, "no shorter than a BOOTP message"


def test_a_client_that_chose_another_server_is_left_alone() -> None:
    prepared = dhcp4.prepare(plan())
    assert prepared.answer(request(3, (54, raw(OTHER)), (50, raw(ADDRESS)))) is None
    assert prepared.answer(request(3, ip_dst=OTHER, ciaddr=ADDRESS)) is None


def test_another_mac_has_no_address_here() -> None:
    prepared = dhcp4.prepare(plan())
    assert prepared.answer(request(DISCOVER, mac="02:00:00:00:00:12")) is None
    assert prepared.answer(request(DISCOVER, chaddr="02:00:00:00:00:12")) is None


def test_inform_is_told_everything_but_a_lease() -> None:
    reply = ask(request(8, ciaddr=OTHER, ip_src=OTHER))
    assert (reply.type, reply.message.yiaddr, reply.message.ciaddr, reply.ip.dst) == (ACK, "0.0.0.0", OTHER, OTHER)
    assert not {51, 58, 59} & set(reply.options)
    assert {1, 3, 6, 15, 26} <= set(reply.options)


@pytest.mark.parametrize(
    ("type_", "kind"), [(4, "decline"), (7, "release"), (1, "discover"), (3, "request"), (8, "inform")]
)
def test_messages_are_named(type_: int, kind: str) -> None:
    frame = request(type_, ciaddr=ADDRESS, ip_dst=SERVER_IP)
    assert dhcp4.read(frame).kind == kind
    assert (dhcp4.prepare(plan()).answer(frame) is None) == (kind in ("decline", "release"))


def test_rapid_commit_saves_a_round_trip() -> None:
    reply = ask(request(DISCOVER, (80, b"")))
    assert (reply.type, reply.options[80], reply.message.yiaddr) == (ACK, b"", ADDRESS)
    assert 80 not in ask(request(3, (80, b""), (50, raw(ADDRESS)))).options


def test_the_client_identifier_comes_back() -> None:
    for frame in (request(DISCOVER, (61, b"\xffabc")), request(3, (50, raw(OTHER)), (61, b"\xffabc"))):
        assert ask(frame).options[61] == b"\xffabc"


def test_the_vlan_tag_comes_back() -> None:
    reply = ask(request(DISCOVER, tag=100))
    assert (reply.vlan.vid, reply.type) == (100, OFFER)


def test_options_come_in_the_order_asked_for_the_netmask_before_the_routers() -> None:
    reply = ask(request(DISCOVER, (55, bytes([15, 3, 119, 6, 1, 15, 200]))))
    assert reply.order[:7] == [53, 54, 1, 15, 3, 119, 6]
    assert sorted(reply.order[7:]) == [12, 26, 51, 58, 59], "what must be sent and was not asked for"
    assert reply.options[119] == b"\x03lab\x07example\0\x07example\0"
    assert 119 not in ask(request(DISCOVER)).options


def test_classless_routes_include_the_default_route() -> None:
    table = ((number("10.9.0.0"), 16, number("10.0.0.9")), (number("192.168.5.128"), 25, number("10.0.0.8")))
    reply = ask(request(DISCOVER, (55, bytes([121, 249]))), routes=table)
    # RFC 3442: as many bytes of the prefix as are significant
    encoded = bytes.fromhex("100a090a00000919c0a805800a000008000a000001")
    assert reply.options[121] == reply.options[249] == encoded
    assert 249 not in ask(request(DISCOVER), routes=table).options
    assert ask(request(DISCOVER), routes=table).options[121] == encoded
    own = (*table, (0, 0, number("10.0.0.7")))
    assert ask(request(DISCOVER), routes=own).options[121].endswith(bytes.fromhex("000a000007"))
    assert ask(request(DISCOVER), routes=table, routers=()).options[121] == encoded[:-5]


def test_a_long_option_goes_out_in_pieces() -> None:
    table = tuple((index << 8 | 0x0A000000, 24, number("10.0.0.9")) for index in range(60))
    reply = ask(request(DISCOVER, (57, (1500).to_bytes(2, "big"))), routes=table, routers=())
    assert len(reply.options[121]) == 60 * 8
    assert reply.order.count(121) == 2


def test_too_much_leaves_out_the_least_important() -> None:
    extra = tuple((code, bytes(100)) for code in (224, 225, 226))
    everything = ask(request(DISCOVER, (57, (1500).to_bytes(2, "big")), (55, b"\x77")), extra=extra)
    assert {224, 225, 226, 119} <= set(everything.options)
    # What takes no more than it must (576 bytes), and what wrongly claims to take less.
    for stated in ([], [(57, (100).to_bytes(2, "big"))]):
        short = ask(request(DISCOVER, (55, b"\x77"), *stated), extra=extra)
        assert short.size <= 576
        assert {1, 3, 6, 12, 15, 26, 51, 224} <= set(short.options)
        assert 226 not in short.options
    assert ask(request(DISCOVER, (57, b"\xff\xff")), extra=tuple((c, bytes(250)) for c in range(224, 234))).size <= 1500


def test_boot_settings_stand_in_the_header_and_in_options() -> None:
    extra = (option("tftp-server", "10.0.0.77"), option("bootfile-name", "undionly.kpxe"))
    reply = ask(request(DISCOVER), extra=extra)
    assert (reply.message.siaddr, reply.message.sname.strip("\0")) == ("10.0.0.77", "10.0.0.77")
    assert reply.message.boot_file.strip("\0") == "undionly.kpxe"
    assert (reply.options[66], reply.options[67]) == (b"10.0.0.77", b"undionly.kpxe")

    named = ask(request(DISCOVER), extra=(*extra, option("server-ip-address", "10.0.0.78")))
    assert named.message.siaddr == "10.0.0.78"
    assert max(named.options) < 255, "siaddr is no option"
    assert ask(request(DISCOVER), extra=(option("150", "10.0.0.79, 10.0.0.80"),)).message.siaddr == "10.0.0.79"
    both = ask(request(DISCOVER), next_server=number(OTHER), extra=(option("150", "10.0.0.79"),))
    assert both.message.siaddr == OTHER
    assert ask(request(DISCOVER), extra=(option("66", "boot.example"),)).message.siaddr == "0.0.0.0"
    planned = ask(request(DISCOVER), next_server=number(OTHER), server_name="boot", boot_file="a" * 200)
    assert (planned.message.siaddr, planned.options[66]) == (OTHER, b"boot")
    assert (planned.message.boot_file.strip("\0"), planned.options[67]) == ("", b"a" * 200)


def test_extra_options_take_the_place_of_the_plans() -> None:
    extra = (
        option("router", OTHER),
        option("mtu", "1280"),
        option("lease-time", "600"),
        option("dns-server", "1.1.1.1"),
    )
    reply = ask(request(DISCOVER), extra=extra, routes=((0x0B000000, 8, 1),))
    assert (reply.options[3], reply.options[6]) == (raw(OTHER), raw("1.1.1.1"))
    assert reply.options[121].endswith(b"\0" + raw(OTHER))
    times = [int.from_bytes(reply.options[code], "big") for code in (26, 51, 58, 59)]
    assert times == [1280, 600, 300, 525]


def test_an_endless_lease_is_not_renewed() -> None:
    reply = ask(request(DISCOVER), lease=dhcp4.INFINITE)
    assert reply.options[51] == b"\xff\xff\xff\xff"
    assert not {58, 59} & set(reply.options)


@pytest.mark.parametrize(
    ("name", "value", "code", "encoded"),
    [
        ("router", "10.0.0.1", 3, raw("10.0.0.1")),
        ("dns-server", "10.0.0.1, 10.0.0.2", 6, raw("10.0.0.1", "10.0.0.2")),
        ("option:ntp-server", "10.0.0.3", 42, raw("10.0.0.3")),
        ("6", "10.0.0.1", 6, raw("10.0.0.1")),
        ("mtu", "1400", 26, b"\x05\x78"),
        ("domain-name", "lab.example.", 15, b"lab.example"),
        ("domain-search", "a.b,c", 119, b"\1a\1b\0\1c\0"),
        ("bootfile-name", "http://10.0.0.1:8080/boot.ipxe", 67, b"http://10.0.0.1:8080/boot.ipxe"),
        ("server-ip-address", "10.0.0.4", 256, raw("10.0.0.4")),
        (
            "classless-static-route",
            "10.0.0.0/8,10.1.1.1,0.0.0.0/0,10.1.1.2",
            121,
            bytes.fromhex("080a0a010101000a010102"),
        ),
        ("classless-static-route", "{10.0.0.0/8,10.1.1.1}", 121, bytes.fromhex("080a0a010101")),
        ("static-route", "10.0.0.0,10.0.0.1", 33, raw("10.0.0.0", "10.0.0.1")),
        ("ip-forward-enable", "true", 19, b"\1"),
        ("netmask", "255.255.0.0", 1, raw("255.255.0.0")),
        ("224", "0x0a0B", 224, b"\x0a\x0b"),
        ("224", "0a:0b:0c", 224, b"\x0a\x0b\x0c"),
        ("224", "10.0.0.1,10.0.0.2", 224, raw("10.0.0.1", "10.0.0.2")),
        ("224", "hello, world", 224, b"hello, world"),
        ("224", "v1.2", 224, b"v1.2"),
        ("vendor-class", "PXEClient", 60, b"PXEClient"),
    ],
)
def test_options_by_neutrons_names_or_numbers(name: str, value: str, code: int, encoded: bytes) -> None:
    assert option(name, value) == (code, encoded)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gateway", "10.0.0.1", "'gateway' is not known; give its number"),
        ("0", "x", "numbers go from 1 to 254"),
        ("255", "x", "numbers go from 1 to 254"),
        ("9" * 5000, "x", "numbers go from 1 to 254"),
        ("54", "10.0.0.1", "'54' cannot be given"),
        ("router", "fd00::1", "'router'.*fd00::1"),
        ("router", "10.0.0.1,,", "separated by commas"),
        ("router", "", "separated by commas"),
        ("mtu", "67", "'67' is not a number from 68 to 65535"),
        ("mtu", "1" * 5000, "is not a number"),
        ("mtu", "²", "is not a number"),
        ("domain-name", "no spaces", "no domain name"),
        ("domain-search", "a..b", "no domain name"),
        ("domain-search", ".".join(["a" * 63] * 4), "longer than 253"),
        ("tftp-server", "", "1 to 255 printable"),
        ("tftp-server", "a\n", None),
        ("tftp-server", "a\nb", "printable"),
        ("bootfile-name", "é", "printable ASCII"),
        ("classless-static-route", "10.0.0.1/8,10.1.1.1", "host bits"),
        ("classless-static-route", "10.0.0.0/8", "pairs of prefix and next hop"),
        ("policy-filter", "10.0.0.1", "pairs of addresses"),
        ("ip-forward-enable", "maybe", "neither true"),
        ("netmask", "255.0.255.0", "255.0.255.0"),
        ("224", "12", "write it as bytes, like 0x0001"),
        ("224", "0x123", "hexadecimal"),
        ("dns-server", ",".join(["10.0.0.1"] * 300), "at most 1024"),
    ],
)
def test_a_wrong_option_is_refused_in_words(name: str, value: str, message: str | None) -> None:
    if message is None:  # space around a value means nothing
        assert option(name, value) == (66, b"a")
        return
    with pytest.raises(ValueError, match=message):
        option(name, value)


@given(st.text(max_size=20) | st.integers(-1, 300).map(str), st.text(max_size=60))
def test_an_option_is_bytes_or_a_value_error(name: str, value: str) -> None:
    try:
        code, encoded = option(name, value)
    except ValueError as error:
        assert str(error).startswith("DHCP option")
    else:
        assert 1 <= code <= 256
        assert len(encoded) <= 1024


@pytest.mark.parametrize(
    "changes",
    [
        {"prefix_length": 33}, {"mtu": 70000}, {"lease": -1}, {"dns": (1 << 32,)}, {"hostname": "é"},
        {"search": ("a b",)}, {"extra": ((54, b"1234"),)}, {"extra": ((255, b""),)}, {"extra": ((300, b"1"),)},
        {"address": 1 << 32}, {"next_server": -1}, {"client_mac": 1 << 48}, {"server_mac": 1 << 48},
    ],
    ids=str,
)  # fmt: skip
def test_a_plan_that_fits_no_message_is_a_value_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        dhcp4.prepare(plan(**changes))


VALID = [
    request(DISCOVER, (61, b"\1abc"), (55, bytes([1, 3, 6, 121])), (57, b"\x05\xdc"), (80, b"")),
    request(3, (54, raw(SERVER_IP)), (50, raw(ADDRESS)), (12, b"name"), tag=7),
    request(8, ciaddr=ADDRESS),
]


@pytest.mark.parametrize("frame", VALID)
def test_a_request_cut_short_is_not_answered(frame: bytes) -> None:
    prepared = dhcp4.prepare(plan())
    assert prepared.answer(frame)
    assert not any(prepared.answer(frame[:length]) for length in range(len(frame)))


def without_checksum(frame: bytes) -> bytes:
    """The frame with no UDP checksum, so that damage reaches the DHCP code."""
    start = 18 if frame[12:14] == b"\x81\0" else 14
    return frame[: start + 26] + b"\0\0" + frame[start + 28 :]


@pytest.mark.parametrize("frame", [*VALID, *map(without_checksum, VALID)])
def test_a_damaged_request_never_raises(frame: bytes) -> None:
    prepared = dhcp4.prepare(plan())
    for position in range(len(frame)):
        for value in (0, 1, frame[position] ^ 1, 0x80, 0xFE, 0xFF):
            damaged = frame[:position] + bytes([value]) + frame[position + 1 :]
            answer = prepared.answer(damaged)
            assert answer is None or frames.read_udp(answer)


@given(st.binary(max_size=80))
def test_any_options_never_raise(options: bytes) -> None:
    message = frames.read_udp(request(DISCOVER)).payload[:240] + options
    packet_ = frames.udp4(0, 0xFFFFFFFF, 68, 67, message)
    prepared = dhcp4.prepare(plan())
    frame = frames.ethernet(0xFFFFFFFFFFFF, number(CLIENT), 0x0800, packet_)
    answer = prepared.answer(frame)
    assert answer is None or frames.read_udp(answer)


@pytest.mark.parametrize(
    "options",
    [
        "3501", "350101" "3203010203", "350101" "36030102ff", "350101" "39010a", "3500ff", "350109ff", "35020101ff",
        "ff", "0000ff", "350101" "3dff" + "00" * 255 + "3d0100",
    ],
)  # fmt: skip
def test_malformed_options_are_not_answered(options: str) -> None:
    message = frames.read_udp(request(DISCOVER)).payload[:240] + bytes.fromhex(options)
    frame = frames.ethernet(0xFFFFFFFFFFFF, number(CLIENT), 0x0800, frames.udp4(0, 0xFFFFFFFF, 68, 67, message))
    with pytest.raises(dhcp4.Malformed, match="DHCP"):
        dhcp4.read(frame)


def test_other_packets_are_not_dhcp() -> None:
    message = frames.read_udp(request(DISCOVER)).payload
    for changed in (
        b"\2" + message[1:],  # a server's
        message[:1] + b"\6" + message[2:],  # another medium's
        message[:236] + b"\0" + message[237:],
        message[:236],
    ):
        frame = frames.ethernet(1, 2, 0x0800, frames.udp4(0, 0xFFFFFFFF, 68, 67, changed))
        with pytest.raises(dhcp4.Malformed, match="DHCP"):
            dhcp4.read(frame)
    with pytest.raises(dhcp4.Malformed, match="port 69"):
        dhcp4.read(frames.ethernet(1, 2, 0x0800, frames.udp4(0, 0xFFFFFFFF, 68, 69, message)))
    with pytest.raises(dhcp4.Malformed, match="IPv6"):
        dhcp4.read(frames.ethernet(1, 2, 0x86DD, frames.udp6(1, 2, 68, 67, message)))


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(1, 2**32 - 1)), max_size=20),
    st.lists(st.integers(1, 2**32 - 1), max_size=3),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
    st.binary(min_size=1, max_size=20),
)
def test_what_the_plan_says_is_what_a_client_reads(
    table: list[tuple[int, int, int]], dns: list[int], address: int, length: int, asked: bytes
) -> None:
    prefixes = tuple((prefix >> (32 - bits) << (32 - bits), bits, hop) for prefix, bits, hop in table)
    reply = ask(
        request(DISCOVER, (55, asked), (57, b"\x05\xdc")),
        routes=prefixes, dns=tuple(dns), address=address, prefix_length=length, routers=(),
    )  # fmt: skip
    assert int(IPv4Address(reply.message.yiaddr)) == address
    assert bin(int.from_bytes(reply.options[1], "big"))[2:].rstrip("0").count("1") == length
    assert reply.options.get(6, b"") == b"".join(server.to_bytes(4, "big") for server in dns)
    assert tuple(read_routes(reply.options.get(121, b""))) == prefixes


def read_routes(encoded: bytes) -> list[tuple[int, int, int]]:
    found = []
    while encoded:
        significant = (encoded[0] + 7) // 8
        prefix = int.from_bytes(encoded[1 : 1 + significant].ljust(4, b"\0"), "big")
        hop = encoded[1 + significant : 5 + significant]
        found.append((prefix, encoded[0], int.from_bytes(hop, "big")))
        encoded = encoded[5 + significant :]
    return found
