"""Packets to the controller carry what the pipeline knows of them, and packets from it enter the pipeline anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines import fields as f
from pipelines import wire
from pipelines.flow import (
    CONTROLLER,
    IN_PORT_RESERVED,
    Flow,
    check_pkt_larger,
    conntrack,
    copy,
    dec_ttl,
    match,
    output,
    resubmit,
    set_bits,
    set_field,
    to_controller,
)
from pipelines.ledger import Ledger
from tests.switch.conftest import TUNNEL_PORT, Switch
from tests.switch.speaker import Speaker

from .shapes import OPTION

OWNER = ("base", "h1")
FRAME = bytes.fromhex("020000000002 020000000001 88b5") + bytes(range(50))
TABLE_PORT = 0xFFFFFFF9
"""OFPP_TABLE: the packet takes the way of one that came in."""
EVERY_REGISTER = {f.register(n): 0x80000000 + n for n in range(16)}
WIDE = 0xFD00_0000_0001_0000_0000_0002_0000_0003
UDP_FRAME = FRAME[:12] + bytes.fromhex(
    "0800 4500002c000000004011 66bf 0a000001 0a000002 1000 2000 0018 0000".replace(" ", "")
) + bytes(16)  # fmt: skip


@pytest.fixture(params=wire.VERSIONS, ids=("OpenFlow13", "OpenFlow14", "OpenFlow15"))
def speaker(switch: Switch, request: pytest.FixtureRequest) -> Iterator[Speaker]:
    """A connection to the switch that gets every packet-in; its flows go afterwards."""
    speaker = Speaker(switch, request.param)
    speaker.send(wire.message(speaker.version, wire.Type.SET_CONFIG, next(speaker.xids), b"\0\0\xff\xff"))
    reasons = 0b111 if speaker.version == wire.OF13 else 0b111111
    speaker.send(wire.set_async(speaker.version, next(speaker.xids), packet_in=reasons))
    yield speaker
    speaker.close()
    cleaner = Speaker(switch, request.param)
    cleaner.apply(Ledger(request.param).difference([flow[:2] for flow in cleaner.flows()], {}, {}))
    cleaner.close()


def install(speaker: Speaker, *flows: Flow) -> None:
    speaker.apply(Ledger(speaker.version).put(OWNER, flows, 0x1234))


def packet_in(speaker: Speaker) -> wire.PacketIn:
    """The next packet that the switch hands over; read from the message's bytes, as the controller does."""
    while (message := speaker.receive()).type != wire.Type.PACKET_IN:
        assert message.type != wire.Type.ERROR, wire.read(message)
    packet = wire.read_packet_in(wire.message(*message))
    assert packet == wire.read(message)
    return packet


def send(speaker: Speaker, *actions, in_port: int = CONTROLLER, frame: bytes = FRAME) -> None:  # type: ignore[no-untyped-def]
    speaker.send(wire.encode_packet_out(speaker.version, frame, actions, in_port, next(speaker.xids)))


def test_a_packet_in_carries_all_that_the_pipeline_knows(speaker: Speaker) -> None:
    fields = {**EVERY_REGISTER, f.TUNNEL_ID: 7, f.TUN_SRC: 0xC0A80001, f.TUN_DST: 0xC0A80002, f.PKT_MARK: 9}
    sets = tuple(set_field(field, value) for field, value in fields.items())
    install(
        speaker,
        Flow(0, 5, match(f.IN_PORT(1)), (), metadata=0x123456789A, goto=4),
        Flow(4, 5, b"", (*sets, to_controller())),
    )
    send(speaker, output(TABLE_PORT), in_port=1)
    packet = packet_in(speaker)
    assert (packet.version, packet.table, packet.cookie, packet.data) == (speaker.version, 4, 0x1234, FRAME)
    assert packet.fields == {f.IN_PORT: 1, f.METADATA: 0x123456789A, **fields}


@pytest.mark.parametrize("register", [f.register(n) for n in range(16)], ids=str)
def test_a_register_alone(speaker: Speaker, register: f.Field) -> None:
    install(speaker, Flow(0, 5, b"", (set_field(register, 1), to_controller())))
    send(speaker, output(TABLE_PORT), in_port=2)
    assert packet_in(speaker).fields == {f.IN_PORT: 2, register: 1}


def test_a_128_bit_register_is_four_others(speaker: Speaker) -> None:
    install(
        speaker,
        Flow(0, 5, b"", (set_field(f.xxregister(2), WIDE), copy(f.xxregister(2), f.xxregister(0))), goto=1),
        Flow(1, 5, match(f.xxregister(0)(WIDE), f.xxregister(2)(WIDE & 0xFFFF << 64, 0xFFFF << 64)), (to_controller(),)),
    )  # fmt: skip
    send(speaker, output(TABLE_PORT), in_port=2)
    parts = (0xFD000000, 0x00010000, 0x00000002, 0x00000003)
    registers = {f.register(first + n): part for first in (0, 8) for n, part in enumerate(parts)}
    assert packet_in(speaker).fields == {f.IN_PORT: 2, **registers}


def test_a_packet_out_sets_registers_and_metadata_that_tables_match(speaker: Speaker) -> None:
    sets = [set_field(register, value) for register, value in EVERY_REGISTER.items()]
    wanted = match(
        f.NETWORK(7), f.IN_PORT(CONTROLLER), *(register(value) for register, value in EVERY_REGISTER.items())
    )
    install(
        speaker, Flow(6, 5, wanted, (to_controller(),)), Flow(6, 1, b"", (set_field(f.PKT_MARK, 1), to_controller()))
    )
    send(speaker, set_field(f.NETWORK, 7), *sets, resubmit(6))
    packet = packet_in(speaker)
    assert packet.fields == {f.IN_PORT: CONTROLLER, f.METADATA: 7, **EVERY_REGISTER}
    assert (packet.table, packet.data) == (6, FRAME)


def test_a_packet_out_sets_bits_and_copies(speaker: Speaker) -> None:
    install(speaker, Flow(6, 5, match(f.FROM_TUNNEL(1), f.PEER(0xABCD)), (to_controller(),)))
    low = copy(f.Bits(f.NETWORK, 0, 16), f.Bits(f.PEER, 0, 16))
    send(speaker, set_field(f.NETWORK, 0x1ABCD), set_bits(f.FROM_TUNNEL, 1), low, resubmit(6))
    assert packet_in(speaker).fields == {f.IN_PORT: CONTROLLER, f.METADATA: 0x1ABCD, f.FLAGS: 1, f.PEER: 0xABCD}


def test_a_packet_out_goes_back_where_it_came_from(speaker: Speaker, switch: Switch) -> None:
    before = sent_by(switch, 3)
    send(speaker, output(IN_PORT_RESERVED), in_port=3)
    speaker.ask(wire.barrier(speaker.version, next(speaker.xids)))
    assert sent_by(switch, 3) == before + 1


def sent_by(switch: Switch, port: int) -> int:
    """Packets that left by a port."""
    line = next(line for line in switch.ofctl("dump-ports", switch.bridge, str(port)).splitlines() if "tx pkts" in line)
    return int(line.split("tx pkts=")[1].split(",")[0])


def test_packets_that_are_tracked_and_measured(speaker: Speaker) -> None:
    """What conntrack says, whether the packet is too large, and a TTL that ends."""
    ipv4 = match(f.ETH_TYPE(f.IPV4))
    committed = conntrack(zone=5, commit=True, table=2, exec=(set_field(f.CT_MARK, 3),))
    new = match(
        f.CT_STATE(f.CT_NEW | f.CT_TRACKED, f.CT_NEW | f.CT_TRACKED),
        f.ETH_TYPE(f.IPV4),
        f.CT_ZONE(5),
        f.CT_NW_SRC(0x0A000001),
    )
    install(
        speaker,
        Flow(0, 5, ipv4, (conntrack(zone=5, table=1),)),
        Flow(1, 5, new, (set_field(f.PEER, 1), committed)),
        Flow(2, 5, match(f.ETH_TYPE(f.IPV4), f.CT_MARK(3)), (check_pkt_larger(len(UDP_FRAME) - 1, f.TOO_LARGE), dec_ttl(), to_controller())),
    )  # fmt: skip
    send(speaker, output(TABLE_PORT), in_port=1, frame=UDP_FRAME)
    packet = packet_in(speaker)
    assert packet.fields[f.CT_STATE] & (f.CT_NEW | f.CT_TRACKED) == f.CT_NEW | f.CT_TRACKED
    known = {f.IN_PORT: 1, f.ETH_TYPE: f.IPV4, f.PEER: 1, f.FLAGS: f.TOO_LARGE.mask, f.CT_ZONE: 5, f.CT_MARK: 3}
    known |= {
        f.CT_NW_SRC: 0x0A000001,
        f.CT_NW_DST: 0x0A000002,
        f.CT_NW_PROTO: f.UDP,
        f.CT_TP_SRC: 0x1000,
        f.CT_TP_DST: 0x2000,
    }
    assert {field: value for field, value in packet.fields.items() if field is not f.CT_STATE} == known
    assert packet.data[22] == 63


def test_a_packet_from_a_tunnel(speaker: Speaker) -> None:
    speaker.map_option(OPTION)
    fields = {f.TUNNEL_ID: 77, f.TUN_SRC: 5, f.TUN_DST: 6, f.TUN_OPTION: 0x0000000100000002}
    install(
        speaker,
        Flow(0, 5, match(f.IN_PORT(TUNNEL_PORT), f.TUN_OPTION_IDENTITY(1)), (set_field(f.PEER, 3), to_controller())),
    )
    sets = [set_field(field, value) for field, value in fields.items()]
    send(speaker, *sets, output(TABLE_PORT), in_port=TUNNEL_PORT)
    assert packet_in(speaker).fields == {f.IN_PORT: TUNNEL_PORT, f.PEER: 3, **fields}


def test_a_packet_of_9_kilobytes(speaker: Speaker) -> None:
    install(speaker, Flow(0, 5, b"", (to_controller(),)))
    frame = FRAME[:14] + bytes(9000)
    send(speaker, output(TABLE_PORT), in_port=1, frame=frame)
    assert packet_in(speaker).data == frame
