"""Readers give back what a switch was told, and nothing worse than ValueError on whatever bytes they get.

Answers are made here as OVS makes them; that it does so is the business of tests/switch/test_readback.py.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import pack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import fields as f
from pipelines import wire
from pipelines.flow import (
    Bucket,
    Flow,
    Group,
    Nat,
    check_pkt_larger,
    clone,
    conntrack,
    copy,
    dec_ttl,
    group,
    match,
    multipath,
    output,
    resubmit,
    set_bits,
    set_field,
)
from pipelines.wire.openflow import NICIRA, ONF
from pipelines.wire.replies import Experimenter, Hello

versions = pytest.mark.parametrize("version", wire.VERSIONS)

ACTIONS = (
    copy(f.ETH_SRC, f.ETH_DST), set_field(f.OUT_PORT_KEY, 9), set_bits(f.FROM_TUNNEL, 1), set_field(f.TUN_OPTION, 5),
    group(3), resubmit(4), output(7), multipath(f.SLOT, 8), check_pkt_larger(1514, f.TOO_LARGE), dec_ttl(),
    clone((set_bits(f.FROM_TUNNEL, 1), output(3))),
    conntrack(commit=True, nat=Nat("src", 1, 2, ports=(3, 4)), exec=(set_field(f.CT_MARK, 3), copy(f.PEER, f.CT_MARK))),
)  # fmt: skip
FLOWS = [
    Flow(
        1, 2, match(f.IN_PORT(3), f.IN_PORT_KEY(5), f.FROM_TUNNEL(0)), ACTIONS, 9, metadata=8, meter=4, idle_timeout=6
    ),
    Flow(2, 65535, b""),
    Flow(3, 3, match(f.ETH_TYPE(f.IPV6), f.IPV6_SRC(1), f.register(15)(7), f.register(14)(8)), goto=7),
    Flow(5, 4, match(f.CT_STATE(0x21, 0x31), f.NEXT_HOP6(1 << 127)), goto=7),
    Flow(4, 3, match(f.TUN_OPTION(5), f.TUNNEL_ID(9), f.ETH_SRC(2, 3)), goto=7, hard_timeout=60000),
]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def oxm(match: bytes) -> bytes:
    return padded(pack(">HH", 1, 4 + len(match)) + match)


def statistics(*fields: tuple[int, int, int]) -> bytes:
    """OXS fields, (number, size, value) each."""
    body = b"".join(pack(">HBB", 0x8002, n << 1, size) + value.to_bytes(size, "big") for n, size, value in fields)
    return padded(pack(">HH", 0, 4 + len(body)) + body)


def paired(tlvs: list[bytes]) -> list[bytes]:
    """Registers as OVS describes them in OpenFlow 1.5: pairs of them in one field."""
    pairs: dict[int, list[int]] = {}
    rest = []
    for tlv in tlvs:
        field = f.FIELDS[int.from_bytes(tlv[:2], "big"), tlv[2] >> 1]
        if not field.name.startswith("reg"):
            rest.append(tlv)
            continue
        number, shift = divmod(field.field, 2)
        shift = 0 if shift else 32
        value = int.from_bytes(tlv[4:8], "big")
        mask = int.from_bytes(tlv[8:12], "big") if tlv[2] & 1 else 0xFFFFFFFF
        pair = pairs.setdefault(number, [0, 0])
        pair[0] |= value << shift
        pair[1] |= mask << shift
    return rest + [f.Field("", 0x8001, number, 8)(value, mask) for number, (value, mask) in pairs.items()]


def flow_entry(key: bytes, body: bytes, version: int) -> bytes:
    """A flow as a switch describes it: fields in another order, counters 11 packets, 22 bytes, 3.5 s."""
    tlvs = wire_tlvs(key[3:])[::-1]
    if version < wire.OF15:
        fixed = (
            key[:1]
            + b"\0"
            + pack(">II", 3, 500_000_000)
            + key[1:3]
            + body[8:16]
            + bytes(2)
            + body[:8]
            + pack(">QQ", 11, 22)
        )
        rest = fixed + oxm(b"".join(tlvs)) + body[16:]
        return pack(">H", 2 + len(rest)) + rest
    counted = statistics((0, 8, 3 << 32 | 500_000_000), (1, 8, 0), (4, 8, 11), (5, 8, 22))
    rest = (
        bytes(2)
        + key[:1]
        + b"\0"
        + key[1:3]
        + body[8:16]
        + body[:8]
        + oxm(b"".join(paired(tlvs)))
        + counted
        + body[16:]
    )
    return pack(">H", 2 + len(rest)) + rest


def wire_tlvs(match: bytes) -> list[bytes]:
    tlvs = []
    while match:
        tlvs.append(match[: 4 + match[3]])
        match = match[4 + match[3] :]
    return tlvs


def part(version: int, kind: int, body: bytes, more: bool = False) -> wire.Part:
    value = wire.read(wire.Message(version, wire.Type.MULTIPART_REPLY, 1, pack(">HHxxxx", kind, more) + body))
    assert isinstance(value, wire.Part)
    return value


@versions
def test_flows_are_as_they_were_encoded(version: int) -> None:
    encoded = [wire.encode_flow(flow, version, 0x1234) for flow in FLOWS]
    reply = part(version, wire.Multipart.FLOWS, b"".join(flow_entry(*one, version) for one in encoded), more=True)
    found = list(wire.flows(reply))
    assert reply.more
    assert [flow[:2] for flow in found] == encoded
    assert {flow[2:] for flow in found} == {(11, 22, 3.5)}


@versions
def test_unknown_fields_and_actions_are_kept(version: int) -> None:
    unknown = bytes.fromhex("9999fe03") + b"abc"
    body = bytes(16) + bytes.fromhex("0004001800000000") + bytes.fromhex("fedc0010") + bytes(12)
    key = b"\x01\0\x05" + match(f.IN_PORT(1), unknown)
    tlvs_known = f.IN_PORT(1)
    entry = flow_entry(b"\x01\0\x05" + tlvs_known, body, version).replace(oxm(tlvs_known), oxm(unknown + tlvs_known))
    (found,) = wire.flows(part(version, wire.Multipart.FLOWS, pack(">H", len(entry)) + entry[2:]))
    assert found[:2] == (key, body)
    line = wire.describe(*found[:2])
    assert "oxm(0x9999,127)=0x616263" in line and "unknown:fedc0010" in line


@versions
def test_groups_and_meters(version: int) -> None:
    body = wire.encode_group(Group(9, "select", (Bucket(ACTIONS, 3), Bucket((output(1),), 4))), version)
    length = body[1:3] + bytes(6) if version == wire.OF15 else b""
    entry = body[:1] + b"\0" + pack(">I", 9) + length + body[3:]
    reply = part(version, wire.Multipart.GROUPS, pack(">H", 2 + len(entry)) + entry)
    assert list(wire.groups(reply)) == [(9, body)]
    meter = bytes.fromhex("00050001001000000064000000640000") + bytes(2)
    entry = meter[:2] + pack(">I", 7) + meter[2:]
    reply = part(version, wire.Multipart.METERS, pack(">H", 2 + len(entry)) + entry)
    assert list(wire.meters(reply)) == [(7, meter)]


@versions
def test_a_reply_of_another_kind_is_refused(version: int) -> None:
    for reader in (wire.flows, wire.groups, wire.meters, wire.ports, lambda reply: [wire.aggregate(reply)]):
        with pytest.raises(ValueError, match="type 99 instead"):
            list(reader(part(version, 99, b"")))


@versions
def test_errors_are_explained(version: int) -> None:
    refused = wire.barrier(version, 77)
    error = wire.read(wire.Message(version, wire.Type.ERROR, 77, pack(">HH", 4, 9) + refused))
    assert isinstance(error, wire.Error)
    assert (error.name, error.data) == ("OFPBMC_BAD_PREREQ", refused)
    assert (
        str(error)
        == "OFPBMC_BAD_PREREQ: a field is matched without one that it needs, such as ipv4_dst without eth_type"
    )
    bundle = (pack(">HHI", 0xFFFF, 2313, ONF), pack(">HH", 17, 13))[version > wire.OF13]
    assert wire.read(wire.Message(version, wire.Type.ERROR, 77, bundle)).name == "OFPBFC_MSG_FAILED"  # type: ignore[union-attr]
    ovs = wire.read(wire.Message(version, wire.Type.ERROR, 77, pack(">HHI", 0xFFFF, 20, NICIRA)))
    assert isinstance(ovs, wire.Error) and ovs.name == "NXTTMFC_ALREADY_MAPPED"
    odd = wire.read(wire.Message(version, wire.Type.ERROR, 77, pack(">HHI", 0xFFFF, 5, 0x77)))
    assert str(odd) == "error 5 of experimenter 0x77: unknown to NovaNet"


@versions
def test_hello_names_versions_in_both_ways(version: int) -> None:
    (sent,) = wire.Framer().feed(wire.hello({4, 6}, 1))
    assert wire.read(sent) == Hello(frozenset({4, 6}))
    assert wire.read(wire.Message(version, 0, 1, b"")) == Hello(frozenset(range(1, version + 1)))
    unknown_element = pack(">HH", 9, 6) + bytes(4)
    assert wire.read(wire.Message(version, 0, 1, unknown_element + sent.body)) == Hello(frozenset({4, 6}))


def test_what_needs_no_reading_stays_a_message() -> None:
    echo = wire.Message(4, wire.Type.ECHO_REQUEST, 1, b"data")
    assert wire.read(echo) is echo
    other = wire.Message(4, wire.Type.EXPERIMENTER, 1, pack(">II", 0x55, 66) + b"data")
    assert wire.read(other) == Experimenter(0x55, 66, b"data")


def examples(version: int) -> list[wire.Message]:
    """A message of every kind that is read."""
    flows = b"".join(flow_entry(*wire.encode_flow(flow, version, 1), version) for flow in FLOWS)
    body = wire.encode_group(Group(9, "select", (Bucket(ACTIONS, 3),)), version)
    entry = body[:1] + b"\0" + pack(">I", 9) + (body[1:3] + bytes(6) if version == wire.OF15 else b"") + body[3:]
    bodies = {
        wire.Multipart.FLOWS: flows,
        wire.Multipart.GROUPS: pack(">H", 2 + len(entry)) + entry,
        wire.Multipart.METERS: bytes.fromhex("00180005000000030001001000000064000000640000000000"[:48]),
        wire.Multipart.PORTS: pack(">IHH8x16s", 1, 0 if version == wire.OF13 else 72, 0, b"p1")
        + bytes(32 if version == wire.OF13 else 40),
        wire.Multipart.AGGREGATE: statistics((4, 8, 1), (5, 8, 2), (3, 4, 3))
        if version == wire.OF15
        else pack(">QQII", 1, 2, 3, 0),
    }
    bundle = pack(">IHH", 1, 5, 0)
    metadata = oxm(match(f.IN_PORT(1), f.METADATA(2)))
    registers = [f.register(n)(n, mask) for n, mask in ((0, None), (1, None), (5, None), (7, 0xFF))]
    known = oxm(b"".join([f.IN_PORT(1), *(paired(registers) if version == wire.OF15 else registers)]))
    removed = {
        True: pack(">BBHIQ", 1, 2, 3, 0, 4) + metadata + statistics((0, 8, 1), (4, 8, 1)),
        False: pack(">QHBBIIHHQQ", 4, 3, 2, 1, 5, 6, 0, 0, 7, 8) + metadata,
    }
    plain = {
        wire.Type.HELLO: pack(">HHI", 1, 8, 0x70),
        wire.Type.ERROR: pack(">HHI", 0xFFFF, 20, NICIRA) + bytes(8),
        wire.Type.FEATURES_REPLY: bytes(24),
        wire.Type.PACKET_IN: pack(">IHBBQ", 0xFFFFFFFF, 5, 1, 2, 3) + known + bytes(2) + b"frame",
        wire.Type.FLOW_REMOVED: removed[version == wire.OF15],
        wire.Type.ROLE_REPLY: bytes(16),
        wire.Type.BUNDLE_CONTROL: bundle,
    }
    return [
        *(
            wire.Message(version, wire.Type.MULTIPART_REPLY, 1, pack(">HHxxxx", kind, 0) + body)
            for kind, body in bodies.items()
        ),
        *(wire.Message(version, kind, 1, body) for kind, body in plain.items()),
        wire.Message(version, wire.Type.EXPERIMENTER, 1, pack(">II", ONF, 2300) + bundle),
        wire.Message(
            version, wire.Type.EXPERIMENTER, 1, pack(">II", NICIRA, 26) + bytes(16) + pack(">HBBHxx", 1, 2, 8, 0)
        ),
    ]


READERS: dict[int, Callable[[wire.Part], Any]] = {
    wire.Multipart.FLOWS: lambda reply: [wire.describe(*flow[:2]) for flow in wire.flows(reply)],
    wire.Multipart.GROUPS: lambda reply: [wire.describe_group(*one, reply.version) for one in wire.groups(reply)],
    wire.Multipart.METERS: lambda reply: [wire.describe_meter(*one) for one in wire.meters(reply)],
    wire.Multipart.PORTS: lambda reply: list(wire.ports(reply)),
    wire.Multipart.AGGREGATE: wire.aggregate,
}


def digest(message: wire.Message) -> object:
    """Read all of a message."""
    value = wire.read(message)
    if isinstance(value, wire.PacketIn):
        return value.fields
    return READERS[value.kind](value) if isinstance(value, wire.Part) and value.kind in READERS else value


@versions
def test_the_examples_can_be_read(version: int) -> None:
    for message in examples(version):
        assert digest(message)


@versions
def test_a_message_cut_off_anywhere_is_a_clear_error_or_what_was_whole(version: int) -> None:
    for whole in examples(version):
        for end in range(len(whole.body)):
            try:
                digest(whole._replace(body=whole.body[:end]))
            except ValueError as error:
                assert str(error)


@versions
@settings(deadline=None)
@given(data=st.data())
def test_no_bytes_do_worse_than_value_error(version: int, data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(examples(version)))
    body = bytearray(message.body)
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=6)):
        body[place] = data.draw(st.integers(0, 255))
    noise = data.draw(st.one_of(st.just(bytes(body)), st.binary(max_size=200)))
    try:
        digest(message._replace(body=noise))
    except ValueError as error:
        assert str(error)
