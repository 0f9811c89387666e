"""Packets to the controller are read whole or refused, and packets from it are what a switch expects."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import fields as f
from pipelines import wire
from pipelines.flow import CONTROLLER, output, resubmit, set_bits, set_field
from pipelines.wire.actions import encode_actions
from pipelines.wire.packets import PacketIn

versions = pytest.mark.parametrize("version", wire.VERSIONS)
DATA = bytes(range(60))


def message(version: int, fields: bytes, data: bytes = DATA, *, type: int = wire.Type.PACKET_IN) -> bytes:
    """A packet-in as a switch makes it."""
    match = pack(">HH", 1, 4 + len(fields)) + fields
    match += bytes(-len(match) % 8)
    return wire.message(version, type, 7, pack(">IHBBQ", 0xFFFFFFFF, len(data), 1, 9, 0x1234) + match + bytes(2) + data)


@versions
def test_what_a_packet_came_with(version: int) -> None:
    fields = f.IN_PORT(5) + f.METADATA(7) + f.ROUTER(3) + f.TUNNEL_ID(8) + f.CT_STATE(0x21) + f.CT_LABEL(1 << 100)
    assert wire.read_packet_in(message(version, fields)) == PacketIn(
        version, 1, 9, 0x1234,
        {f.IN_PORT: 5, f.METADATA: 7, f.ROUTER: 3, f.TUNNEL_ID: 8, f.CT_STATE: 0x21, f.CT_LABEL: 1 << 100}, DATA,
    )  # fmt: skip
    assert wire.read_packet_in(message(version, b"", b""))[4:] == ({}, b"")


def test_pairs_of_registers() -> None:
    def pair(number: int, value: int, mask: int | None = None) -> bytes:
        return f.Field("", 0x8001, number, 8)(value, mask)

    fields = f.IN_PORT(5) + pair(0, 1 << 32 | 2) + pair(3, 7, 0xFFFFFFFF) + pair(7, 9 << 32, 0xFFFFFFFF << 32)
    registers = {f.register(0): 1, f.register(1): 2, f.register(7): 7, f.register(14): 9}
    assert wire.read_packet_in(message(wire.OF15, fields)).fields == {f.IN_PORT: 5, **registers}


@versions
def test_fields_that_nobody_uses_here_do_not_hide_the_others(version: int) -> None:
    """One of an unknown class, one of an experimenter, and one under a mask."""
    unknown = bytes.fromhex("9999fe03 616263") + bytes.fromhex("ffff5406 4f4e4600 0012")
    fields = f.IN_PORT(5) + unknown + f.register(7)(3, 0xFF) + f.TUN_SRC(9)
    found = wire.read_packet_in(message(version, fields)).fields
    assert (found[f.IN_PORT], found[f.ROUTER], found[f.TUN_SRC], len(found)) == (5, 3, 9, 5)


@versions
def test_what_is_no_packet_in_is_refused(version: int) -> None:
    whole = message(version, f.IN_PORT(5) + f.METADATA(7))
    wrong = [
        *(whole[:end] for end in range(len(whole))),
        whole + b"more",
        message(version, b"", type=wire.Type.PACKET_OUT),
        message(1, b""),
        whole[:24] + b"\0\0" + whole[26:],  # a match of another type
        whole[:26] + b"\0\x03" + whole[28:],  # shorter than its head
        whole[:26] + b"\xff\xff" + whole[28:],
        whole[:26] + b"\0\x16" + whole[28:],  # ends in the middle of a field
        whole[:31] + b"\xff" + whole[32:],  # a field that goes on beyond the match
    ]
    for raw in wrong:
        with pytest.raises(ValueError):
            wire.read_packet_in(raw)


@versions
@settings(deadline=None)
@given(data=st.data())
def test_no_bytes_do_worse_than_value_error(version: int, data: st.DataObject) -> None:
    raw = bytearray(message(version, f.IN_PORT(5) + f.METADATA(7) + f.ROUTER(3, 0xFF) + f.TUN_SRC(9)))
    for place in data.draw(st.lists(st.integers(0, 60), max_size=6)):
        raw[place] = data.draw(st.integers(0, 255))
    try:
        packet = wire.read_packet_in(data.draw(st.one_of(st.just(bytes(raw)), st.binary(max_size=100))))
    except ValueError as error:
        assert str(error)
    else:
        assert all(isinstance(value, int) for value in packet.fields.values())


@versions
def test_a_packet_out(version: int) -> None:
    """Byte by byte: header, no buffer, where from, length of the actions, actions, frame."""
    actions = (set_field(f.NETWORK, 7), set_bits(f.FROM_TUNNEL, 1), resubmit(4))
    raw = wire.encode_packet_out(version, DATA, actions)
    (sent,) = wire.Framer().feed(raw)
    assert (sent.version, sent.type, sent.xid) == (version, wire.Type.PACKET_OUT, 0)
    encoded = encode_actions(actions, version)
    if version == wire.OF15:
        head = pack(">IHxxHHII4x", 0xFFFFFFFF, len(encoded), 1, 12, 0x80000004, CONTROLLER)
    else:
        head = pack(">IIH6x", 0xFFFFFFFF, CONTROLLER, len(encoded))
    assert sent.body == head + encoded + DATA
    with pytest.raises(ValueError, match="more than 65535"):
        wire.encode_packet_out(version, bytes(0xFFFF), (output(1),))
