"""Datagrams of sFlow, NetFlow and IPFIX against what is in them; whatever is cut or corrupted harms nothing."""

from __future__ import annotations

import struct
from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novanet_apps.telemetry.decode.datagrams import Malformed, decode
from novanet_apps.telemetry.decode.headers import ethernet, innermost
from novanet_apps.telemetry.decode.reader import Reader
from novanet_apps.telemetry.decode.results import Decoded, Record
from novanet_apps.telemetry.decode.state import DOMAINS, EXPORTERS, TEMPLATES, State

from .flow_datagrams import SETS, datagrams, expected

EXPORTER = "192.0.2.1"


def decoded(name: str) -> list[Decoded]:
    state = State()
    return [decode(datagram, EXPORTER, state) for datagram in datagrams(name)]


@pytest.mark.parametrize("name", SETS)
def test_recorded_datagrams_have_the_values_that_are_expected(name: str) -> None:
    found = decoded(name)
    assert not any(each.problems or each.skipped for each in found)
    there = {
        "netflow": [record for each in found for record in (*each.flows, *each.counters)],
        "netflow_options": [record for each in found for record in each.options],
    }
    for kind, wanted in expected(name):
        match = next((r for r in there[kind] if wanted.items() <= r.items()), None)
        assert match is not None, (kind, wanted, [closest(wanted, there[kind])])
        there[kind].remove(match)
    assert there == {"netflow": [], "netflow_options": []}, "nothing but what is expected"


def closest(wanted: Record, records: list[Record]) -> dict[str, tuple[object, object]]:
    """What differs from the record that has most of it."""
    nearest = max(records, key=lambda each: len(wanted.items() & each.items()), default={})
    return {name: (value, nearest.get(name)) for name, value in wanted.items() if nearest.get(name) != value}


# --- cut and corrupted -------------------------------------------------------------------------------------------


def survives(datagram: bytes, *before: bytes) -> None:
    """Whatever it is, it is read or refused, in a size that follows from its own."""
    state = State()
    for each in (*before, datagram):
        with suppress(Malformed):
            found = decode(each, EXPORTER, state)
            count = len(found.flows) + len(found.counters) + len(found.options) + len(found.discards)
            assert count + len(found.problems) + found.skipped <= 2 * len(each) + 2


@pytest.mark.parametrize("name", SETS)
def test_every_prefix(name: str) -> None:
    there = datagrams(name)
    for number, datagram in enumerate(there):
        for size in range(len(datagram)):
            survives(datagram[:size], *there[:number])


@pytest.mark.parametrize("name", SETS)
def test_every_byte_corrupted(name: str) -> None:
    there = datagrams(name)
    for number, datagram in enumerate(there):
        for at in range(len(datagram)):
            for value in {0, 1, 0x7F, 0x80, 0xFF, datagram[at] ^ 0xFF} - {datagram[at]}:
                survives(datagram[:at] + bytes([value]) + datagram[at + 1 :], *there[:number])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([b"\0\0\0\5", b"\0\5", b"\0\x09", b"\0\x0a", b""]), st.binary(max_size=200))
def test_anything_at_all(head: bytes, rest: bytes) -> None:
    survives(head + rest)


# --- templates and sampling --------------------------------------------------------------------------------------


def ipfix(*sets: bytes, sequence: int = 0, domain: int = 7) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), 1_700_000_000, sequence, domain) + body


def a_set(id: int, body: bytes) -> bytes:
    return struct.pack(">HH", id, 4 + len(body)) + body


TEMPLATE = a_set(2, struct.pack(">HH", 256, 2) + struct.pack(">HHHH", 1, 8, 82, 0xFFFF))
"""octetDeltaCount, and a name of variable length."""


def test_variable_lengths_reduced_sizes_and_padding() -> None:
    state = State()
    record = struct.pack(">Q", 1000) + b"\4eth0"
    long = struct.pack(">QBH", 5, 255, 300) + b"x" * 300
    found = decode(ipfix(TEMPLATE, a_set(256, record + long + b"\0\0\0")), EXPORTER, state)
    assert found.flows == [
        {"octetDeltaCount": 1000, "interfaceName": "eth0"},
        {"octetDeltaCount": 5, "interfaceName": "x" * 300},
    ]
    small = a_set(2, struct.pack(">HHHH", 257, 1, 1, 3))
    assert decode(ipfix(small, a_set(257, b"\1\0\0")), EXPORTER, state).flows == [{"octetDeltaCount": 65536}]


def test_templates_are_of_a_domain_and_are_withdrawn() -> None:
    state, data = State(), a_set(256, struct.pack(">Q", 1) + b"\0")
    assert decode(ipfix(data), EXPORTER, state).skipped == 1
    decode(ipfix(TEMPLATE), EXPORTER, state)
    assert len(decode(ipfix(data), EXPORTER, state).flows) == 1
    assert decode(ipfix(data, domain=8), EXPORTER, state).skipped == 1
    assert decode(ipfix(data), "192.0.2.2", state).skipped == 1
    decode(ipfix(a_set(2, struct.pack(">HH", 256, 0))), EXPORTER, state)
    assert decode(ipfix(data), EXPORTER, state).skipped == 1
    decode(ipfix(TEMPLATE), EXPORTER, state)
    decode(ipfix(a_set(2, struct.pack(">HH", 2, 0))), EXPORTER, state)
    assert decode(ipfix(data), EXPORTER, state).skipped == 1


def test_templates_and_rates_outlive_a_restart() -> None:
    before, after = State(), State()
    sampling = a_set(3, struct.pack(">HHH", 300, 2, 1) + struct.pack(">HHHH", 302, 4, 305, 4))
    decode(ipfix(TEMPLATE, sampling, a_set(300, struct.pack(">II", 9, 100))), EXPORTER, before)
    after.load(before.dump())
    assert len(decode(ipfix(a_set(256, struct.pack(">Q", 1) + b"\0")), EXPORTER, after).flows) == 1
    assert dict(after.domain(EXPORTER, 10, 7).rates) == dict(before.domain(EXPORTER, 10, 7).rates)
    for broken in (b"", b"x", before.dump()[:-3]):
        with pytest.raises(ValueError):
            after.load(broken)


def test_sampling_rates_come_late_and_by_sampler() -> None:
    state = State()
    domain = state.domain(EXPORTER, 10, 7)
    assert domain.rate(None) == domain.rate(9) == 1
    sampling = a_set(3, struct.pack(">HHH", 300, 3, 1) + struct.pack(">HHHHHH", 302, 4, 305, 4, 306, 4))
    decode(ipfix(sampling, a_set(300, struct.pack(">III", 9, 1, 99))), EXPORTER, state)
    assert domain.rate(9) == 100 and domain.rate(None) == 100, "one sampler stands for all"
    decode(ipfix(a_set(300, struct.pack(">III", 10, 1, 9))), EXPORTER, state)
    assert (domain.rate(9), domain.rate(10), domain.rate(None)) == (100, 10, 1)


def test_lost_datagrams_are_counted_and_late_ones_are_not_lost() -> None:
    state = State()
    domain = state.domain(EXPORTER, 10, 7)
    decode(ipfix(TEMPLATE), EXPORTER, state)
    data = a_set(256, struct.pack(">Q", 1) + b"\0")
    for sequence in (0, 1, 4, 5):
        decode(ipfix(data, sequence=sequence), EXPORTER, state)
    assert domain.lost == 2
    decode(ipfix(data, sequence=3), EXPORTER, state)
    assert domain.lost == 1
    decode(ipfix(data, sequence=6), EXPORTER, state)
    decode(ipfix(data, sequence=3_000_000_000), EXPORTER, state)
    decode(ipfix(data, sequence=3_000_000_001), EXPORTER, state)
    assert domain.lost == 1, "it began anew"


def test_records_of_the_whole_exporter_are_numbered_along_by_open_vswitch() -> None:
    state = State()
    options = a_set(3, struct.pack(">HHH", 300, 2, 1) + struct.pack(">HHHH", 144, 4, 166, 8))
    decode(ipfix(TEMPLATE), EXPORTER, state)
    decode(ipfix(options, domain=0), EXPORTER, state)
    data = a_set(256, struct.pack(">Q", 1) + b"\0")
    decode(ipfix(a_set(300, struct.pack(">IQ", 1, 0)), domain=0), EXPORTER, state)
    for sequence in (1, 2):
        decode(ipfix(data, sequence=sequence), EXPORTER, state)
    decode(ipfix(a_set(300, struct.pack(">IQ", 1, 0)), domain=0, sequence=3), EXPORTER, state)
    decode(ipfix(data, sequence=4), EXPORTER, state)
    assert state.domain(EXPORTER, 10, 7).lost == state.domain(EXPORTER, 10, 0).lost == 0
    decode(ipfix(data, sequence=9), EXPORTER, state)
    assert state.domain(EXPORTER, 10, 7).lost == 4


@pytest.mark.parametrize("last", [False, True], ids=["first record", "last record, as Open vSwitch"])
def test_losses_of_netflow_v5_whichever_record_it_numbers(last: bool) -> None:
    state, number = State(), 0
    for count, arrives in ((1, True), (2, True), (2, True), (1, True), (30, True), (3, False), (4, True), (1, True)):
        sequence = number + (count - 1 if last else 0)
        head = struct.pack(">HHIIIIBBH", 5, count, 60_000, 1_700_000_000, 0, sequence, 47, 209, 0)
        if arrives:
            decode(head + bytes(48 * count), EXPORTER, state)
        number += count
    assert state.domain(EXPORTER, 5, 47 << 8 | 209).lost == 3


def test_what_is_remembered_is_bounded() -> None:
    state = State()
    for number in range(TEMPLATES + 10):
        one = struct.pack(">HHHH", 256 + number, 1, 1, 8)
        decode(ipfix(a_set(2, one)), EXPORTER, state)
    assert len(state.domain(EXPORTER, 10, 7).templates) == TEMPLATES
    for number in range(DOMAINS + 10):
        decode(ipfix(domain=number), EXPORTER, state)
    assert len(state.exporters[EXPORTER]) == DOMAINS
    for number in range(EXPORTERS + 10):
        decode(ipfix(), str(ip_address(number)), state)
    assert len(state.exporters) == EXPORTERS
    endless = a_set(2, struct.pack(">HHHH", 400, 1, 1, 0))
    assert decode(ipfix(endless, a_set(400, b"\0" * 1000)), EXPORTER, state).flows == []


# --- sampled frames ----------------------------------------------------------------------------------------------


def frame(inner: bytes = b"") -> bytes:
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0x10, 28 + len(inner), 0, 0, 64, 17, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
    )
    return bytes(6) + b"\2\0\0\0\0\1" + b"\x08\0" + ip + struct.pack(">HHHH", 1234, 53, 8 + len(inner), 0) + inner


def outer(port: int, payload: bytes) -> bytes:
    found = bytearray(frame(payload))
    found[14 + 22 : 14 + 24] = port.to_bytes(2, "big")
    return bytes(found)


@pytest.mark.parametrize(
    ("name", "packet"),
    [
        ("plain", frame()),
        ("VLAN", frame()[:12] + b"\x81\0\0\x2a" + frame()[12:]),
        ("QinQ", frame()[:12] + b"\x88\xa8\0\1\x81\0\0\x2a" + frame()[12:]),
        ("MPLS", frame()[:12] + b"\x88\x47" + bytes([0, 1, 0, 64, 0, 2, 1, 64]) + frame()[14:]),
        ("VXLAN", outer(4789, b"\x08\0\0\0\0\0\x2a\0" + frame())),
        ("Geneve", outer(6081, b"\x02\0\x65\x58\0\0\x2a\0" + bytes(8) + frame())),
    ],
)
def test_the_innermost_packet_is_found(name: str, packet: bytes) -> None:
    found = innermost(ethernet(Reader(packet)))
    assert (found["sourceIPv4Address"], found["destinationIPv4Address"]) == ("10.0.0.1", "10.0.0.2")
    assert (found["sourceTransportPort"], found["destinationTransportPort"], found["ipClassOfService"]) == (
        1234,
        53,
        16,
    )
    assert found.get("layer2SegmentId") == (42 if name in ("VXLAN", "Geneve") else None)
    for size in range(len(packet)):
        ethernet(Reader(packet[:size]))
