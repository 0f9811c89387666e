"""Which class a frame is for, against a reader of frames that is written another way."""

from __future__ import annotations

from ipaddress import ip_address
from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.classifier import LONGEST, encode, program
from pipelines.fields import GENEVE_OPTION_CLASS, GENEVE_OPTION_TYPE
from topology.shaping import (
    BACKGROUND,
    BEST_EFFORT,
    CONTROL,
    DSCPS,
    OWN,
    VIDEO,
    VOICE,
    Leaf,
    Shape,
    Tunnel,
    of_interface,
)

from .bpf import run

MAJOR = 0x4E4E
MINE, THEIRS, MINE6 = "192.168.50.1", "192.168.50.2", "fd50::1"
MAC, OTHER_MAC = 0x024E56112233, 0x024E56445566
CLASS, WIRED = 0x1234, 0x4321


def frame(ethertype: int, payload: bytes, source: int = 1, vlan: int | None = None) -> bytes:
    tag = b"" if vlan is None else pack("!HH", 0x8100, vlan)
    return (2).to_bytes(6, "big") + source.to_bytes(6, "big") + tag + pack("!H", ethertype) + payload


def ip(source: str, protocol: int, payload: bytes, options: bytes = b"", fragment: int = 0) -> bytes:
    address = ip_address(source)
    if address.version == 6:
        return frame(0x86DD, pack("!IHBB", 6 << 28, len(payload), protocol, 64) + address.packed + bytes(16) + payload)
    length = 5 + len(options) // 4
    head = pack("!BBHHHBBH", 0x40 | length, 0, 0, 0, fragment, 64, protocol, 0) + address.packed + bytes(4)
    return frame(0x0800, head + options + payload)


def udp(port: int, payload: bytes) -> bytes:
    return pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload


def inner(source: int) -> bytes:
    return bytes(6) + source.to_bytes(6, "big") + b"\x08\0" + bytes(40)


def geneve(key: int | None, vni: int = 7, source: int = MAC) -> bytes:
    option = b"" if key is None else pack("!HBBIII", GENEVE_OPTION_CLASS, GENEVE_OPTION_TYPE, 3, key, 5, 6)
    return pack("!BBHI", len(option) // 4, 0, 0x6558, vni << 8) + option + inner(source)


def vxlan(vni: int, source: int) -> bytes:
    return pack("!II", 1 << 27, vni << 8) + inner(source)


GENEVE = Tunnel("geneve", 6081, MINE)


def shape(tunnel: Tunnel | None = GENEVE, **fields: Any) -> Shape:
    return Shape("eth0", 100_000, (), tunnel, **fields)


def found(what: Shape, packet: bytes, tag: int | None = None) -> int:
    """Number of the class; 0 without one."""
    result = run(program(what, MAJOR), packet, tag)
    assert result == 0 or result >> 16 == MAJOR
    return result & 0xFFFF


SENDERS = ((77, CLASS), (0xFFFFFFFF, 0xFFFE))


@pytest.mark.parametrize("address", [MINE, MINE6])
def test_a_tunnel_packet_is_its_senders(address: str) -> None:
    what = shape(Tunnel("geneve", 6081, address), senders=SENDERS)
    assert found(what, ip(address, 17, udp(6081, geneve(77)))) == CLASS
    assert found(what, ip(address, 17, udp(6081, geneve(0xFFFFFFFF)))) == 0xFFFE
    assert found(what, ip(address, 17, udp(6081, geneve(78)))) == 0, "a port without a class"
    assert found(what, ip(address, 17, udp(6081, geneve(0)))) == 0, "nobody's"
    assert found(what, ip(address, 17, udp(6081, geneve(None)))) == 0, "somebody else's tunnel"
    assert found(what, ip(address, 17, udp(6081, geneve(None, vni=0)))) == CONTROL, "BFD"
    assert found(what, ip(address, 17, udp(53, geneve(77)))) == OWN
    assert found(what, ip(address, 6, bytes(40))) == OWN


def test_what_others_send_is_never_the_hypervisors() -> None:
    what = shape(senders=SENDERS)
    assert found(what, ip(THEIRS, 17, udp(6081, geneve(77)))) == 0
    assert found(what, ip(THEIRS, 6, bytes(40))) == 0
    assert found(what, frame(0x0806, pack("!HHBBH", 1, 0x0800, 6, 4, 1) + bytes(6) + ip_address(THEIRS).packed)) == 0
    assert found(shape(Tunnel("geneve", 6081, MINE6), senders=SENDERS), ip("fd50::2", 58, bytes(40))) == 0


def test_what_keeps_the_hypervisor_alive_gets_through() -> None:
    arp = frame(0x0806, pack("!HHBBH", 1, 0x0800, 6, 4, 1) + bytes(6) + ip_address(MINE).packed + bytes(10))
    assert found(shape(), arp) == CONTROL
    assert found(shape(Tunnel("geneve", 6081, MINE6)), ip(MINE6, 58, bytes(24))) == CONTROL


def test_headers_that_are_not_the_usual_ones() -> None:
    what = shape(senders=SENDERS)
    assert found(what, ip(MINE, 17, udp(6081, geneve(77)), options=bytes(8))) == CLASS
    assert found(what, ip(MINE, 17, udp(6081, geneve(77)), fragment=0x2000)) == CLASS, "the first fragment"
    assert found(what, ip(MINE, 17, udp(6081, geneve(77)), fragment=185)) == OWN, "a later one has no UDP header"
    tagged = ip(MINE, 17, udp(6081, geneve(77)))
    tagged = tagged[:12] + pack("!HH", 0x8100, 0x6005) + tagged[12:]
    assert found(what, tagged) == CLASS and found(what, b"\x88\xa8".join((tagged[:12], tagged[14:]))) == CLASS
    assert found(what, ip(MINE, 17, udp(6081, geneve(77))), tag=0x6005) == CLASS
    for end in range(58):
        assert found(what, ip(MINE, 17, udp(6081, geneve(77)))[:end]) in (0, OWN, CONTROL)


def test_vxlan_is_told_by_network_and_address() -> None:
    what = shape(Tunnel("vxlan", 4789, MINE), sources=(((7, MAC), CLASS), ((8, MAC), WIRED), ((7, OTHER_MAC), 99)))
    seen = [
        found(what, ip(MINE, 17, udp(4789, vxlan(*who))))
        for who in ((7, MAC), (8, MAC), (7, OTHER_MAC), (8, OTHER_MAC))
    ]
    assert seen == [CLASS, WIRED, 99, 0]
    assert found(what, ip(MINE, 17, udp(4789, vxlan(0, MAC)))) == CONTROL


def test_frames_of_a_wire_are_told_by_vlan_and_address() -> None:
    what = shape(None, wires=(((0, MAC), CLASS), ((42, MAC), WIRED)))
    assert found(what, frame(0x0800, bytes(40), MAC)) == CLASS
    assert found(what, frame(0x0800, bytes(40), MAC, vlan=0xE02A)) == WIRED, "whatever its priority bits"
    assert found(what, frame(0x0800, bytes(40), MAC), tag=42) == WIRED
    assert found(what, frame(0x0800, bytes(40), MAC, vlan=43)) == 0
    assert found(what, frame(0x0806, bytes(28), MAC)) == CLASS, "all that it sends"


def test_a_vm_on_the_wire_that_forges_a_tunnel_stays_in_its_class() -> None:
    what = shape(senders=SENDERS, wires=(((0, MAC), WIRED),))
    forged = ip(MINE, 17, udp(6081, geneve(77)))
    assert found(what, forged[:6] + MAC.to_bytes(6, "big") + forged[12:]) == WIRED
    assert found(what, forged) == CLASS


@given(st.dictionaries(st.integers(1, 2**32 - 1), st.integers(16, 0xFFFE), max_size=60), st.integers(1, 2**32 - 1))
def test_every_key_of_many_finds_its_class(senders: dict[int, int], stranger: int) -> None:
    code = program(shape(senders=tuple(sorted(senders.items()))), MAJOR)
    for key in (*senders, stranger):
        expected = MAJOR << 16 | senders[key] if key in senders else 0
        assert run(code, ip(MINE, 17, udp(6081, geneve(key)))) == expected


_SOURCE = st.tuples(
    st.sampled_from((0, 1, 42)), st.integers(1, 2**48 - 1) | st.sampled_from([n << 32 | 5 for n in range(20)])
)


@given(st.dictionaries(_SOURCE, st.integers(16, 0xFFFE), max_size=60), _SOURCE)
def test_every_address_of_many_finds_its_class(wires: dict[tuple[int, int], int], stranger: tuple[int, int]) -> None:
    code = program(shape(None, wires=tuple(sorted(wires.items()))), MAJOR)
    for segment, mac in (*wires, stranger):
        expected = wires.get((segment, mac), 0)
        assert run(code, frame(0x0800, bytes(40), mac), segment) & 0xFFFF == expected


def marked(version: int, dscp: int, protocol: int = 17, payload: bytes = bytes(8)) -> bytes:
    if version == 4:
        return frame(0x0800, pack("!BBHHHBBH", 0x45, dscp << 2 | 3, 0, 0, 0, 64, protocol, 0) + bytes(8) + payload)
    return frame(0x86DD, pack("!IHBB", 6 << 28 | dscp << 22 | 3 << 20, 8, protocol, 64) + bytes(32) + payload)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("dscp", range(64))
def test_what_waits_at_a_vms_interface_is_told_by_its_dscp(version: int, dscp: int) -> None:
    """By the table of RFC 8325, figure 1; what is in none is left to HTB's default, which is best effort."""
    expected = next((number for number, which in DSCPS.items() if dscp in which), 0)
    tap = of_interface("tap1", 8000)
    assert found(tap, marked(version, dscp)) == expected
    assert found(tap, marked(version, dscp, 58, b"\x80" + bytes(7))) == expected, "an echo"
    assert found(tap, marked(6, dscp, 58, b"\x87" + bytes(7))) == VOICE, "neighbour discovery"


def test_what_makes_a_vm_reachable_goes_first() -> None:
    tap = of_interface("tap1", 8000)
    assert found(tap, frame(0x0806, bytes(28))) == VOICE
    kinds = [found(tap, marked(6, 0, 58, bytes([kind]) + bytes(7))) for kind in (132, 133, 137, 138)]
    assert kinds == [0, VOICE, VOICE, 0]
    assert found(tap, frame(0x88CC, bytes(40))) == 0 and found(tap, frame(0x0800, b"")) == 0


def test_parts_of_a_vms_limit_add_up_to_it() -> None:
    tap = of_interface("tap1", 8000)
    assert {leaf.number: leaf.rate_kbps for leaf in tap.leaves} == {
        VOICE: 2400, VIDEO: 2400, BEST_EFFORT: 2400, BACKGROUND: 800,
    }  # fmt: skip
    assert {leaf.ceil_kbps for leaf in tap.leaves} == {8000} == {tap.bandwidth_kbps}
    assert [leaf.order for leaf in tap.leaves] == sorted({leaf.order for leaf in tap.leaves})
    slow = of_interface("tap1", 64)
    assert all(leaf.rate_kbps > 0 and leaf.queue_bytes >= 16 * 1514 for leaf in slow.leaves)


def test_a_thousand_ports_have_room_and_take_a_few_steps_each() -> None:
    many = tuple((key * 4_000_037 % 2**32, 16 + key) for key in range(1, 1001))
    code = program(shape(senders=tuple(sorted(many))), MAJOR)
    assert len(encode(code)) == 8 * len(code) <= 8 * LONGEST
    for key, number in many[::97]:
        assert run(code, ip(MINE, 17, udp(6081, geneve(key)))) & 0xFFFF == number


def test_more_ports_than_a_program_has_room_for_are_refused() -> None:
    leaves = tuple(Leaf(16 + n, "", 1, 1, 7, 1) for n in range(2000))
    with pytest.raises(ValueError, match=r"2000 classes need a program of .* steps, and Linux takes 4096"):
        program(Shape("eth0", 1, leaves, Tunnel("geneve", 6081, MINE), tuple((n, 16 + n) for n in range(2000))), MAJOR)
