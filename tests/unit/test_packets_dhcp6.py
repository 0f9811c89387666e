"""DHCPv6: a client written on Ryu's packet library asks, and reads what it is told."""

from __future__ import annotations

from ipaddress import IPv6Address
from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ryu.lib.packet import dhcp6 as ryu_dhcp6
from ryu.lib.packet import ethernet, in_proto, ipv6, packet, udp, vlan

from pipelines.addresses import link_local
from pipelines.packets import dhcp6, frames
from pipelines.packets.dhcp6 import (
    ADVERTISE,
    CONFIRM,
    DECLINE,
    INFORMATION_REQUEST,
    REBIND,
    RELEASE,
    RENEW,
    REPLY,
    REQUEST,
    SOLICIT,
    Plan,
    option,
)  # fmt: skip

CLIENT_MAC, SERVER_MAC = "02:00:00:00:00:11", "02:4e:56:ff:ff:fe"
SERVER_NUMBER = int(SERVER_MAC.replace(":", ""), 16)
CLIENT, SERVER = "fe80::ff:fe00:11", str(IPv6Address(link_local(SERVER_NUMBER)))
FIRST, SECOND, FOREIGN = "fd00:1::5", "fd00:1::6", "fd00:2::7"
DUID = bytes.fromhex("000100012233445566778899aabb")
SERVER_DUID = bytes.fromhex("00030001024e56fffffe")
XID = 0xABCDEF
IAID = b"\1\2\3\4"


def number(text: str) -> int:
    return int(IPv6Address(text))


def raw(*texts: str) -> bytes:
    return b"".join(IPv6Address(text).packed for text in texts)


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "server_mac": SERVER_NUMBER,
        "server_address": number(SERVER),
        "addresses": (number(FIRST), number(SECOND)),
        "preferred": 3600,
        "valid": 7200,
        "dns": (number("fd00:4e4e::53"),),
        "search": ("lab.example",),
    }
    return Plan(**fields | changes)


def encoded(code: int, value: bytes) -> bytes:
    return pack("!HH", code, len(value)) + value


def ia_na(*addresses: str, iaid: bytes = IAID) -> tuple[int, bytes]:
    inner = b"".join(encoded(5, raw(address) + bytes(8)) for address in addresses)
    return 3, iaid + bytes(8) + inner


def oro(*codes: int) -> tuple[int, bytes]:
    return 6, b"".join(code.to_bytes(2, "big") for code in codes)


IA_PD, IA_TA = (25, b"\0\0\0\x09" + bytes(8)), (4, b"\0\0\0\x08")
ME, YOU = (1, DUID), (2, SERVER_DUID)


def message(
    type_: int, *options: tuple[int, bytes], src: str = CLIENT, dst: str = "ff02::1:2", tag: int | None = None
) -> bytes:
    """A client's frame."""
    sent = packet.Packet()
    sent.add_protocol(ethernet.ethernet("33:33:00:01:00:02", CLIENT_MAC, 0x86DD if tag is None else 0x8100))
    if tag is not None:
        sent.add_protocol(vlan.vlan(vid=tag, ethertype=0x86DD))
    sent.add_protocol(ipv6.ipv6(src=src, dst=dst, nxt=in_proto.IPPROTO_UDP))
    sent.add_protocol(udp.udp(546, 547))
    listed = [ryu_dhcp6.option(code, value, len(value)) for code, value in options]
    sent.add_protocol(ryu_dhcp6.dhcp6(type_, ryu_dhcp6.options(listed), transaction_id=XID))
    sent.serialize()
    return bytes(sent.data)


class Reply:
    """A server's frame as Ryu reads it, checked for what every answer must have."""

    def __init__(self, frame: bytes | None, duid: bytes | None = DUID) -> None:
        assert frame is not None, "no answer"
        datagram = frames.read_udp(frame)  # checks checksums
        read = packet.Packet(frame)
        self.ethernet, self.ip = read.get_protocol(ethernet.ethernet), read.get_protocol(ipv6.ipv6)
        self.vlan = read.get_protocol(vlan.vlan)
        assert (self.ethernet.dst, self.ethernet.src) == (CLIENT_MAC, SERVER_MAC)
        assert (self.ip.src, self.ip.dst) == (SERVER, CLIENT)
        assert (datagram.src_port, datagram.dst_port) == (547, 546)
        told = ryu_dhcp6.dhcp6.parser(datagram.payload)[0]
        assert told.transaction_id == XID
        self.type = told.msg_type
        self.size = 40 + self.ip.payload_length
        self.list = [(found.code, found.data) for found in told.options.option_list]
        self.options = dict(self.list)
        assert self.options[2] == SERVER_DUID
        assert self.options.get(1) == duid

    @property
    def status(self) -> int | None:
        return int.from_bytes(self.options[13][:2], "big") if 13 in self.options else None

    def associations(self, code: int = 3) -> list[tuple[bytes, list[tuple[str, int, int]], int | None]]:
        """IAID, addresses with their lifetimes, and status of each."""
        found = []
        for _, data in filter(lambda each: each[0] == code, self.list):
            start = 4 if code == 4 else 12
            inner = [] if len(data) == start else ryu_dhcp6.options.parser(data[start:]).option_list
            told = [
                (str(IPv6Address(each.data[:16])), *(int.from_bytes(each.data[s : s + 4], "big") for s in (16, 20)))
                for each in inner
                if each.code == 5
            ]
            status = [int.from_bytes(each.data[:2], "big") for each in inner if each.code == 13]
            found.append((data[:4], told, status[0] if status else None))
        return found


def ask(frame: bytes, **changes: Any) -> Reply:
    return Reply(dhcp6.prepare(plan(**changes)).answer(frame))


MINE = [(FIRST, 3600, 7200), (SECOND, 3600, 7200)]


def test_solicit_is_advertised_all_addresses() -> None:
    reply = ask(message(SOLICIT, ME, (8, b"\0\0"), ia_na(), oro(24, 23, 17)))
    assert reply.type == ADVERTISE
    assert reply.associations() == [(IAID, MINE, None)]
    assert reply.options[3][4:12] == pack("!II", 1800, 2880), "T1 and T2"
    assert reply.options[7] == b"\xff", "the highest preference, so that no client waits for other servers"
    assert [code for code, _ in reply.list] == [2, 1, 7, 3, 24, 23], "in the order asked for"
    assert reply.options[23] == raw("fd00:4e4e::53")
    assert reply.options[24] == b"\x03lab\x07example\0"


def test_the_bytes_of_a_reply_are_these() -> None:
    frame = dhcp6.prepare(plan(addresses=(number(FIRST),))).answer(message(REQUEST, ME, YOU, ia_na(), oro(23)))
    assert frame is not None
    assert frame[62:].hex() == (
        "07abcdef" "0002000a00030001024e56fffffe" "0001000e000100012233445566778899aabb"
        "00030028" "01020304" "00000708" "00000b40" "00050018" "fd000001000000000000000000000005" "00000e10" "00001c20"
        "00170010" "fd004e4e000000000000000000000053"
    )  # fmt: skip


def test_rapid_commit_saves_a_round_trip() -> None:
    reply = ask(message(SOLICIT, ME, (14, b""), ia_na()))
    assert (reply.type, reply.options[14]) == (REPLY, b"")
    assert 7 not in reply.options
    assert reply.associations() == [(IAID, MINE, None)]
    assert 14 not in ask(message(REQUEST, ME, YOU, (14, b""), ia_na())).options


@pytest.mark.parametrize("type_", [REQUEST, RENEW, REBIND])
def test_addresses_are_given_and_renewed(type_: int) -> None:
    ids = (ME,) if type_ == REBIND else (ME, YOU)
    reply = ask(message(type_, *ids, ia_na(FIRST)))
    assert (reply.type, reply.associations(), reply.status) == (REPLY, [(IAID, MINE, None)], None)


@pytest.mark.parametrize("type_", [RENEW, REBIND])
def test_addresses_of_others_are_to_be_given_up(type_: int) -> None:
    ids = (ME,) if type_ == REBIND else (ME, YOU)
    reply = ask(message(type_, *ids, ia_na(FOREIGN, FIRST, FOREIGN)))
    assert reply.associations() == [(IAID, [*MINE, (FOREIGN, 0, 0)], None)]


def test_a_request_for_another_address_gets_the_ports() -> None:
    assert ask(message(REQUEST, ME, YOU, ia_na(FOREIGN))).associations() == [(IAID, MINE, None)]


def test_other_associations_get_nothing() -> None:
    for type_, ids in ((SOLICIT, (ME,)), (REQUEST, (ME, YOU)), (RENEW, (ME, YOU)), (REBIND, (ME,))):
        reply = ask(message(type_, *ids, IA_TA, ia_na(), IA_PD, ia_na(iaid=b"twoo")))
        assert reply.associations() == [(IAID, MINE, None), (b"twoo", [], dhcp6.NO_ADDRESSES)]
        assert reply.associations(4) == [(b"\0\0\0\x08", [], dhcp6.NO_ADDRESSES)]
        assert reply.associations(25) == [(b"\0\0\0\x09", [], dhcp6.NO_PREFIXES)]


def test_a_port_without_addresses_says_so() -> None:
    reply = ask(message(SOLICIT, ME, ia_na()), addresses=())
    assert (reply.type, reply.associations()) == (ADVERTISE, [(IAID, [], dhcp6.NO_ADDRESSES)])


@pytest.mark.parametrize(
    ("addresses", "status"),
    [([FIRST], dhcp6.SUCCESS), ([SECOND, FIRST], dhcp6.SUCCESS), ([FIRST, FOREIGN], dhcp6.NOT_ON_LINK)],
)
def test_confirm(addresses: list[str], status: int) -> None:
    reply = ask(message(CONFIRM, ME, ia_na(*addresses)))
    assert (reply.type, reply.status, reply.associations()) == (REPLY, status, [])


def test_confirm_of_nothing_is_not_answered() -> None:
    assert dhcp6.prepare(plan()).answer(message(CONFIRM, ME, ia_na())) is None


@pytest.mark.parametrize("type_", [RELEASE, DECLINE])
def test_giving_back(type_: int) -> None:
    reply = ask(message(type_, ME, YOU, ia_na(FIRST)))
    assert (reply.type, reply.status, reply.associations()) == (REPLY, dhcp6.SUCCESS, [])
    reply = ask(message(type_, ME, YOU, ia_na(FOREIGN), IA_PD))
    assert (reply.status, reply.associations()) == (dhcp6.SUCCESS, [(IAID, [], dhcp6.NO_BINDING)])
    assert reply.associations(25) == [(b"\0\0\0\x09", [], dhcp6.NO_BINDING)]


def test_information_requests() -> None:
    reply = ask(message(INFORMATION_REQUEST, ME, oro(32, 23)), refresh=7200)
    assert reply.type == REPLY
    assert reply.list[2:] == [(32, pack("!I", 7200)), (23, raw("fd00:4e4e::53"))]
    anonymous = Reply(dhcp6.prepare(plan()).answer(message(INFORMATION_REQUEST, oro(23))), duid=None)
    assert set(anonymous.options) == {2, 23}
    assert 32 not in ask(message(REQUEST, ME, YOU, ia_na(), oro(32))).options


def test_a_stateless_plan_answers_nothing_else() -> None:
    prepared = dhcp6.prepare(plan(stateless=True, addresses=()))
    assert Reply(prepared.answer(message(INFORMATION_REQUEST, ME, oro(23)))).options[23] == raw("fd00:4e4e::53")
    assert prepared.answer(message(SOLICIT, ME, ia_na())) is None
    assert prepared.answer(message(RENEW, ME, YOU, ia_na(FIRST))) is None


def test_options_are_sent_when_asked_for_or_when_the_client_does_not_say() -> None:
    extra = (option("sntp-server", "fd00::1"),)
    changes: dict[str, Any] = {"extra": extra, "boot_url": "tftp://[fd00::2]/x", "ntp": (number("fd00::3"),)}
    assert set(ask(message(SOLICIT, ME, ia_na()), **changes).options) == {1, 2, 3, 7, 23, 24, 31, 56, 59}
    assert set(ask(message(SOLICIT, ME, ia_na(), oro()), **changes).options) == {1, 2, 3, 7}
    reply = ask(message(SOLICIT, ME, ia_na(), oro(59, 56, 31)), **changes)
    assert reply.options[59] == b"tftp://[fd00::2]/x"
    assert reply.options[56] == bytes.fromhex("00010010") + raw("fd00::3")
    assert reply.options[31] == raw("fd00::1")
    own = ask(message(SOLICIT, ME, oro(23)), extra=(option("dns-server", "fd00::9, fd00::a"),))
    assert own.options[23] == raw("fd00::9", "fd00::a")


def test_messages_for_others_are_not_answered() -> None:
    prepared = dhcp6.prepare(plan())
    other = (2, b"\0\3\0\1other!")
    for type_ in (REQUEST, RENEW, RELEASE, DECLINE):
        assert prepared.answer(message(type_, ME, other, ia_na(FIRST))) is None
    assert prepared.answer(message(INFORMATION_REQUEST, other, oro(23))) is None
    assert prepared.answer(message(SOLICIT, ME, ia_na(), dst="fd00::1")) is None
    assert prepared.answer(message(REQUEST, ME, YOU, ia_na(), dst="fd00::1")) is None


def test_to_the_servers_own_address() -> None:
    reply = ask(message(REQUEST, ME, YOU, ia_na(), dst=SERVER))
    assert (reply.status, reply.associations()) == (dhcp6.USE_MULTICAST, [])
    assert dhcp6.prepare(plan()).answer(message(SOLICIT, ME, ia_na(), dst=SERVER)) is None


def test_the_vlan_tag_comes_back() -> None:
    reply = ask(message(SOLICIT, ME, ia_na(), tag=100))
    assert reply.vlan.vid == 100


def test_an_answer_fits_the_smallest_packet() -> None:
    many = tuple(number(FIRST) + index for index in range(64))
    foreign = [str(IPv6Address(number(FOREIGN) + index)) for index in range(20)]
    longest = (1, bytes(2) + bytes(128))
    frame = message(REBIND, longest, ia_na(*foreign), *[(25, bytes(12))] * 7, oro(23, 24, 59))
    changes: dict[str, Any] = {"addresses": many, "boot_url": "x" * 200, "dns": tuple(range(1, 9))}
    reply = Reply(dhcp6.prepare(plan(**changes)).answer(frame), duid=longest[1])
    assert reply.size <= 1280
    told = reply.associations()[0][1]
    assert [address for address, *_ in told[:24]] == [str(IPv6Address(address)) for address in many[:24]]
    assert [lifetimes for _, *lifetimes in told[24:]] == [[0, 0]] * 8


@pytest.mark.parametrize(
    ("type_", "kind"), [(1, "solicit"), (4, "confirm"), (6, "rebind"), (11, "information-request")]
)
def test_messages_are_named(type_: int, kind: str) -> None:
    assert dhcp6.read(message(type_, ME)).kind == kind


@pytest.mark.parametrize(
    "frame",
    [
        message(SOLICIT, ia_na()),
        message(SOLICIT, ME, YOU, ia_na()),
        message(REQUEST, ME, ia_na()),
        message(REQUEST, YOU, ia_na()),
        message(CONFIRM, ME, YOU, ia_na(FIRST)),
        message(REBIND, ME, YOU, ia_na()),
        message(RELEASE, ME, ia_na()),
        message(INFORMATION_REQUEST, ME, ia_na()),
        message(SOLICIT, (1, b"\0\1"), ia_na()),
        message(SOLICIT, (1, bytes(131)), ia_na()),
        message(SOLICIT, ME, (3, bytes(11))),
        message(SOLICIT, ME, (3, bytes(12) + b"\0\5\0\x10" + bytes(16))),
        message(SOLICIT, ME, (3, bytes(12) + b"\0\5\0\x18" + bytes(16))),
        message(SOLICIT, ME, (6, b"\0")),
        message(SOLICIT, ME, *[ia_na()] * 9),
        message(SOLICIT, ME, ia_na(), src="::"),
        message(SOLICIT, ME, ia_na(), src="ff02::1"),
        message(ADVERTISE, ME, YOU),
        message(REPLY, ME, YOU),
        message(10, ME, YOU),
        frames.ethernet(1, 2, 0x86DD, frames.udp6(3, 4, 547, 547, b"\x0c\0" + bytes(32))),  # relayed
        frames.ethernet(1, 2, 0x86DD, frames.udp6(3, 4, 546, 547, b"\1\0\0")),
        frames.ethernet(1, 2, 0x86DD, frames.udp6(3, 4, 546, 547, b"\1\0\0\0\0")),
        frames.ethernet(1, 2, 0x86DD, frames.udp6(3, 4, 546, 548, bytes(20))),
        frames.ethernet(1, 2, 0x0800, frames.udp4(3, 4, 546, 547, bytes(20))),
    ],
)
def test_what_a_server_must_drop_is_dropped(frame: bytes) -> None:
    with pytest.raises(dhcp6.Malformed, match="DHCPv6"):
        dhcp6.read(frame)
    assert dhcp6.prepare(plan()).answer(frame) is None


VALID = [
    message(SOLICIT, ME, (8, b"\0\0"), ia_na(FIRST), IA_PD, oro(23, 24), (14, b"")),
    message(RENEW, ME, YOU, ia_na(FIRST, FOREIGN), tag=5),
    message(INFORMATION_REQUEST, oro(23)),
]


@pytest.mark.parametrize("frame", VALID)
def test_a_request_cut_short_or_damaged_is_not_answered(frame: bytes) -> None:
    prepared = dhcp6.prepare(plan())
    assert prepared.answer(frame)
    assert not any(prepared.answer(frame[:length]) for length in range(len(frame)))
    start = 22 if frame[12:14] == b"\x81\0" else 18  # behind version, class and flow label
    for position in range(start, len(frame)):
        for value in {frame[position] ^ 1, frame[position] ^ 0x80, frame[position] ^ 0xFF}:
            if position != start + 3:  # hop limit
                assert prepared.answer(frame[:position] + bytes([value]) + frame[position + 1 :]) is None


@given(st.sampled_from(VALID), st.integers(0, 300), st.binary(max_size=4), st.binary(max_size=20))
def test_damage_with_a_right_checksum_never_raises(frame: bytes, position: int, change: bytes, tail: bytes) -> None:
    whole = frames.read_udp(frame).payload
    position %= len(whole)
    damaged = whole[:position] + change + whole[position + len(change) :] + tail
    prepared = dhcp6.prepare(plan())
    packet_ = frames.udp6(number(CLIENT), dhcp6.SERVERS, 546, 547, damaged)
    answer = prepared.answer(frames.ethernet(1, 2, 0x86DD, packet_))
    assert answer is None or frames.read_udp(answer)


@given(
    st.lists(st.integers(1, 2**128 - 1), unique=True, max_size=24),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=3, max_size=130),
    st.lists(st.integers(0, 65535), max_size=30),
)
def test_what_the_plan_says_is_what_a_client_reads(
    addresses: list[int], lifetime: int, duid: bytes, asked: list[int]
) -> None:
    prepared = dhcp6.prepare(plan(addresses=tuple(addresses), preferred=lifetime, valid=lifetime))
    reply = Reply(prepared.answer(message(SOLICIT, (1, duid), ia_na(), oro(*asked))), duid=duid)
    [(iaid, told, status)] = reply.associations()
    assert iaid == IAID
    assert told == [(str(IPv6Address(address)), lifetime, lifetime) for address in addresses]
    assert status == (None if addresses else dhcp6.NO_ADDRESSES)
    assert {23, 24} & set(reply.options) == {23, 24} & set(asked)


@pytest.mark.parametrize(
    ("name", "value", "code", "value_bytes"),
    [
        ("dns-server", "fd00::1,fd00::2", 23, raw("fd00::1", "fd00::2")),
        ("option6:dns-server", "[fd00::1]", 23, raw("fd00::1")),
        ("24", "a.b", 24, b"\1a\1b\0"),
        ("bootfile-url", "tftp://[fd00::1]/boot.efi", 59, b"tftp://[fd00::1]/boot.efi"),
        ("bootfile-param", "a,bc", 60, b"\0\1a\0\2bc"),
        ("ntp-server", "fd00::1", 56, bytes.fromhex("00010010") + raw("fd00::1")),
        ("information-refresh-time", "600", 32, pack("!I", 600)),
        ("4000", "0x0102", 4000, b"\1\2"),
        ("4000", "fd00::1", 4000, raw("fd00::1")),
        ("4000", "http://x/", 4000, b"http://x/"),
    ],
)
def test_options_by_neutrons_names_or_numbers(name: str, value: str, code: int, value_bytes: bytes) -> None:
    assert option(name, value) == (code, value_bytes)


@pytest.mark.parametrize(
    ("name", "value", "message_"),
    [
        ("router", "fd00::1", "DHCPv6 option 'router' is not known"),
        ("dns-server", "10.0.0.1", "DHCPv6 option 'dns-server'"),
        ("3", "0x00", "cannot be given"),
        ("65536", "x", "1 to 65535"),
        ("information-refresh-time", "599", "600"),
    ],
)
def test_a_wrong_option_is_refused_in_words(name: str, value: str, message_: str) -> None:
    with pytest.raises(ValueError, match=message_):
        option(name, value)


@pytest.mark.parametrize(
    "changes",
    [
        {"preferred": 3, "valid": 2},
        {"valid": 1 << 32},
        {"dns": (1 << 128,)},
        {"extra": ((3, b""),)},
        {"refresh": -1},
        {"server_address": 1 << 128},
        {"server_mac": 1 << 48},
    ],
    ids=str,
)
def test_a_plan_that_fits_no_message_is_a_value_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        dhcp6.prepare(plan(**changes))
