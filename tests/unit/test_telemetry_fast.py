"""The compiled part of collectors and Python's decoder give the same rows and losses, whatever comes."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novanet_apps.telemetry.collector import sums
from novanet_apps.telemetry.collector.fast import Fast, compiled
from novanet_apps.telemetry.collector.sockets import listen
from novanet_apps.telemetry.decode.datagrams import Malformed, decode, domain_of, version_of
from novanet_apps.telemetry.decode.elements import ELEMENTS, REVERSE
from novanet_apps.telemetry.decode.records import AGGREGATE
from novanet_apps.telemetry.decode.state import State

from .flow_datagrams import SETS, datagrams

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_700_000_000_000
SENDER = "192.0.2.1"
_KEY = AGGREGATE.names[: AGGREGATE.names.index("bytes")]  # type: ignore[index]


def test_it_is_there() -> None:
    assert compiled(), "a C compiler is among what `make` installs; run `make setup`"


class Plain:
    """All by Python."""

    def __init__(self) -> None:
        self.state, self.sums = State(), sums.Sums()

    def take(self, data: bytes, sender: str = SENDER, number: int = 0) -> None:
        try:
            found = decode(data, sender, self.state)
        except Malformed:
            return
        domain = domain_of(data, sender, found, self.state)
        for record in found.flows:
            if "sampling_rate" in record:
                sums.sample(self.sums, number, record, NOW)
            else:
                sums.flow(self.sums, number, record, domain, NOW)
        self.learn(data, sender, number, found.domain, domain)

    def learn(self, data: bytes, sender: str, number: int, id: int, domain: Any) -> None:
        """Nothing to do."""

    def rows(self) -> Any:
        return self.sums.drain()


class Both(Plain):
    """What is usual by the compiled part, as the worker does it."""

    def __init__(self, most: int = 1 << 20) -> None:
        super().__init__()
        self.fast = Fast(most)

    def take(self, data: bytes, sender: str = SENDER, number: int = 0) -> None:
        if not self.fast.take(sender, data, NOW):
            super().take(data, sender, number)

    def learn(self, data: bytes, sender: str, number: int, id: int, domain: Any) -> None:
        self.fast.learn(sender, number, version_of(data), id, domain)

    def rows(self) -> Any:
        return np.concatenate((self.fast.drain(), super().rows()))


def merged(rows: Any) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Values by key; of those that are the last one's, all that there are."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(bytes(row[name]) if name in ("src", "dst") else int(row[name]) for name in _KEY)
        there = found.setdefault(
            key,
            {
                "bytes": 0,
                "packets": 0,
                "samples": 0,
                "flags": 0,
                "first": 1 << 64,
                "last": 0,
                "rate": set(),
                "tos": set(),
            },
        )
        for name in ("bytes", "packets", "samples"):
            there[name] = min(there[name] + int(row[name]), 2**64 - 1)
        there["flags"] |= int(row["tcp_flags"])
        there["first"], there["last"] = (
            min(there["first"], int(row["first_ms"])),
            max(there["last"], int(row["last_ms"])),
        )
        there["rate"].add(int(row["rate"]))
        there["tos"].add(int(row["tos"]))
    return found


def losses(state: State) -> Any:
    return [
        (sender, key, domain.received, domain.lost, domain.expected)
        for sender, domains in state.exporters.items()
        for key, domain in domains.items()
    ]


def same(messages: Iterable[bytes]) -> int:
    """Checks, and returns how many datagrams the compiled part has taken."""
    plain, both = Plain(), Both()
    for message in messages:
        plain.take(message)
        both.take(message)
    one, other = merged(plain.rows()), merged(both.rows())
    assert one.keys() == other.keys()
    for key, values in one.items():
        told = other[key]
        assert {**values, "rate": 0, "tos": 0} == {**told, "rate": 0, "tos": 0}, key
        assert values["rate"] <= told["rate"] and values["tos"] <= told["tos"], key
    assert losses(plain.state) == losses(both.state)
    return both.fast.taken


# --- recorded ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_recorded_datagrams(name: str) -> None:
    messages = list(datagrams(name))
    taken = same([*messages, *messages])
    assert taken > 0 or name != "netflow_v5", "all the others have counters, templates or both directions in them"


def _cut(name: str) -> Iterator[bytes]:
    for message in datagrams(name):
        yield from (message[:size] for size in range(0, len(message), 1 if len(message) < 400 else 3))


@pytest.mark.parametrize("name", SETS)
def test_every_prefix(name: str) -> None:
    whole = list(datagrams(name))
    same([*whole, *_cut(name)])


@pytest.mark.parametrize("name", SETS)
def test_corrupted_bytes(name: str) -> None:
    whole, chance = list(datagrams(name)), random.Random(7)
    broken = []
    for message in whole:
        for at in range(0, len(message), max(1, len(message) // 150)):
            changed = bytearray(message)
            changed[at] = chance.randrange(256)
            broken.append(bytes(changed))
    same([*whole, *broken])


SANITIZED = """
import random, sys
from novanet_apps.telemetry.collector import fast
fast.path = lambda: sys.argv[1]
from tests.unit.flow_datagrams import SETS, datagrams
from tests.unit.test_telemetry_fast import Both, v5
chance = random.Random(11)
both, count = Both(most=200), 0
for name in SETS:
    whole = list(datagrams(name))
    for message in [*whole, v5(0)]:
        both.take(message)
    for message in whole:
        for at in range(len(message)):
            changed = bytearray(message)
            changed[at] = chance.choice([0, 1, 127, 255, chance.randrange(256)])
            for each in (message[:at], bytes(changed), bytes(changed[at:]), bytes(message[:4] + changed[at:])):
                both.fast.take("192.0.2.1", each, 5)
                count += 1
    both.fast.drain()
print(count, both.fast.taken)
"""


def test_no_byte_is_read_or_written_that_is_not_there(tmp_path: Path) -> None:
    """Compiled with AddressSanitizer and UndefinedBehaviorSanitizer, which end the process at the first such access."""
    library = tmp_path / "sanitized.so"
    sources = sorted(map(str, (ROOT / "novanet_apps/telemetry/collector/fast").glob("*.c")))
    flags = ["-g", "-O1", "-shared", "-fPIC", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(["gcc", *flags, "-o", str(library), *sources], check=True)
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    known = {"LD_PRELOAD": runtime.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(library)], env=os.environ | known, cwd=ROOT, capture_output=True, text=True, timeout=250
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    count, taken = map(int, done.stdout.split())
    assert count > 20_000 and taken > 100


# --- sFlow -------------------------------------------------------------------------------------------------------


def frame(draw: Any, depth: int = 0) -> bytes:
    """A frame with whatever tags and tunnels, all well-formed."""
    return draw(st.binary(min_size=12, max_size=12)) + _tags(draw) + _typed(draw, depth)


def _tags(draw: Any) -> bytes:
    count = draw(st.sampled_from([0, 0, 0, 1, 2, 9]))
    return b"".join(
        struct.pack(">HH", draw(st.sampled_from([0x8100, 0x88A8])), draw(st.integers(0, 65535))) for _ in range(count)
    )


def _typed(draw: Any, depth: int) -> bytes:
    kind = draw(st.sampled_from([0x0800, 0x0800, 0x86DD, 0x8847, 0x0806]))
    if kind == 0x8847:
        labels = draw(st.integers(0, 9))
        stack = b"".join(struct.pack(">I", n << 12 | (n == labels - 1) << 8) for n in range(labels))
        return struct.pack(">H", kind) + stack + _internet(draw, draw(st.sampled_from([4, 6])), depth)
    payload = _internet(draw, 4 if kind == 0x0800 else 6, depth) if kind != 0x0806 else bytes(28)
    return struct.pack(">H", kind) + payload


def _internet(draw: Any, version: int, depth: int) -> bytes:
    protocol = draw(st.sampled_from([6, 17, 17, 1, 58, 132, 47, 4, 41, 50]))
    payload = _transport(draw, protocol, depth)
    tos, addresses = draw(st.integers(0, 255)), draw(st.binary(min_size=32, max_size=32))
    if version == 4:
        words = draw(st.sampled_from([5, 5, 5, 6, 15, 4]))
        fragment = draw(st.sampled_from([0, 0, 0, 0x2000, 0x4000, 5]))
        head = struct.pack(">BBHHHBBH", 4 << 4 | words, tos, 20 + len(payload), 1, fragment, 64, protocol, 0)
        return head + addresses[:8] + bytes(max(0, 4 * words - 20)) + payload
    extensions = b""
    for extension in draw(st.lists(st.sampled_from([0, 44, 51, 60]), max_size=3)):
        size = draw(st.integers(0, 3))
        length = {44: 6, 51: 4 * size + 6}.get(extension, 8 * size + 6)
        body = draw(st.sampled_from([bytes(length), b"\0\x01" + bytes(length - 2)]))
        extensions, protocol = bytes([protocol, size]) + body + extensions, extension
    return struct.pack(">IHBB", 6 << 28 | tos << 20, len(payload), protocol, 64) + addresses + extensions + payload


def _transport(draw: Any, protocol: int, depth: int) -> bytes:
    if protocol == 6:
        return struct.pack(">HHIIBBHHH", draw(st.integers(0, 65535)), 443, 1, 1, 80, draw(st.integers(0, 255)), 0, 0, 0)
    if protocol == 17:
        port = draw(st.sampled_from([53, 4789, 8472, 6081]))
        head, vni = struct.pack(">HHHH", 1000, port, 8, 0), draw(st.integers(0, 0xFFFFFF))
        if port == 53:
            return head
        if port == 6081:
            kind, options = draw(st.sampled_from([0x6558, 0x0800, 0x86DD, 0x1234])), draw(st.integers(0, 3))
            first = draw(st.sampled_from([0, 1])) << 14 | options << 8
            return head + struct.pack(">HHI", first, kind, vni << 8) + bytes(4 * options) + _deeper(draw, kind, depth)
        flags = draw(st.sampled_from([8, 8, 0]))
        return head + struct.pack(">BBHI", flags, 0, 0, vni << 8) + _deeper(draw, 0x6558, depth)
    if protocol == 47:
        flags = draw(st.sampled_from([0, 0x2000, 0xB000, 0x8000, 1]))
        kind = draw(st.sampled_from([0x6558, 0x0800, 0x86DD]))
        extra = 4 * bin(flags & 0xB000).count("1")
        return (
            struct.pack(">HH", flags, kind)
            + draw(st.binary(min_size=extra, max_size=extra))
            + _deeper(draw, kind, depth)
        )
    if protocol in (4, 41):
        return _deeper(draw, 0x0800 if protocol == 4 else 0x86DD, depth)
    return bytes([draw(st.integers(0, 255)), draw(st.integers(0, 255))]) + bytes(6)


def _deeper(draw: Any, kind: int, depth: int) -> bytes:
    if depth > 5:
        return b""
    return frame(draw, depth + 1) if kind == 0x6558 else _internet(draw, 4 if kind == 0x0800 else 6, depth + 1)


def _xdr(format: int, body: bytes) -> bytes:
    return struct.pack(">II", format, len(body)) + body


_SIZES = {
    1001: 16,
    1011: 4,
    1020: 8,
    1021: 24,
    1023: 32,
    1025: 56,
    1027: 4,
    1029: 4,
    1030: 4,
    1036: 4,
    2100: 20,
    2101: 44,
    77777: 3,
}


@st.composite
def samples(draw: Any) -> bytes:
    """An sFlow datagram."""
    made = []
    for _ in range(draw(st.integers(0, 4))):
        records = []
        for _ in range(draw(st.sampled_from([1] * 12 + [0, 2]))):
            packet = frame(draw)[: draw(st.sampled_from([128, 64, 400, 1]))]
            protocol = draw(st.sampled_from([1] * 12 + [11, 11, 5]))
            packet = packet[14:] if protocol == 11 else packet
            head = struct.pack(">IIII", protocol, draw(st.integers(0, 9000)), 4, len(packet))
            records.append(_xdr(1, head + packet + bytes(-len(packet) % 4)))
        for format in draw(st.lists(st.sampled_from([*_SIZES, 1002, 1003]), max_size=3)):
            if format == 1002:
                body = draw(
                    st.sampled_from([struct.pack(">IIII", 1, 1, 8, 8), struct.pack(">I", 2) + bytes(24), bytes(8)])
                )
            elif format == 1003:
                body = struct.pack(">IIIIIIIIIIII", 1, 9, 1, 2, 3, 1, 2, 1, 65000, 1, 7, 100)
            else:
                body = draw(st.binary(min_size=_SIZES[format], max_size=_SIZES[format]))
            records.append(_xdr(format, body))
        expanded, rate = draw(st.booleans()), draw(st.sampled_from([0, 1, 400, 2**32 - 1]))
        ends = [draw(st.sampled_from([1, 2, 3])) for _ in range(3)]
        if expanded:
            words = [
                1,
                draw(st.sampled_from([0, 0, 1])),
                ends[0],
                rate,
                5,
                0,
                draw(st.sampled_from([0, 0, 1])),
                ends[1],
                0,
                ends[2],
            ]
        else:
            words = [
                1,
                ends[0] | draw(st.sampled_from([0, 0, 1 << 24])),
                rate,
                5,
                0,
                ends[1] | draw(st.sampled_from([0, 2])) << 30,
                ends[2],
            ]
        body = struct.pack(f">{len(words)}I", *words) + struct.pack(">I", len(records)) + b"".join(records)
        made.append(_xdr(3 if expanded else 1, body))
    for _ in range(draw(st.sampled_from([0] * 12 + [1]))):
        made.append(_xdr(draw(st.sampled_from([2, 4, 5, 99])), struct.pack(">IIII", 1, 1, 0, 0)))
    agent = draw(st.sampled_from([struct.pack(">I4x", 1)] * 12 + [struct.pack(">I16x", 2), struct.pack(">I", 0)]))
    return (
        struct.pack(">I", 5)
        + agent
        + struct.pack(">IIII", 1, draw(st.integers(0, 20)), 100, len(made))
        + b"".join(made)
    )


@st.composite
def broken(draw: Any, good: Any) -> bytes:
    """Now and then cut, or with a byte changed."""
    message = bytearray(draw(good))
    how = draw(st.sampled_from(["as it is"] * 6 + ["cut", "changed"]))
    if how == "cut":
        del message[draw(st.integers(0, len(message))) :]
    elif how == "changed" and message:
        message[draw(st.integers(0, len(message) - 1))] = draw(st.integers(0, 255))
    return bytes(message)


@settings(max_examples=300, deadline=None)
@given(st.lists(broken(samples()), min_size=1, max_size=6))
def test_sflow(messages: list[bytes]) -> None:
    first = struct.pack(">IIIIIII", 5, 1, 0, 1, 0, 0, 0)  # the domain is known
    same([first, *messages])


# --- NetFlow and IPFIX -------------------------------------------------------------------------------------------

_OF_FLOWS = [1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 14, 21, 22, 27, 28, 32, 34, 48, 50, 56, 61, 80, 85, 86, 139, 150, 151, 152, 153, 154, 155,
             156, 157, 158, 159, 176, 177, 178, 179, 231, 298, 302, 305, 309, 312, 315, 351, 352]  # fmt: skip
_USUAL = {8: 4, 12: 4, 27: 16, 28: 16, 56: 6, 80: 6, 154: 8, 155: 8, 156: 8, 157: 8, 315: 20}


@st.composite
def fields(draw: Any, ipfix: bool) -> list[tuple[int, int, int]]:
    """Of a template: number, enterprise, length."""
    odd = draw(st.integers(0, 3)) == 0
    numbers = _OF_FLOWS if odd else [number for number in _OF_FLOWS if not 300 < number < 350]
    found = [(1, 0, 8), (2, 0, 4)] if draw(st.integers(0, 5)) else []
    for number in draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=14)):
        length = _USUAL.get(number) or draw(st.sampled_from([4, 4, 1, 2, 3, 8]))
        if odd and draw(st.integers(0, 3)) == 0:
            length = draw(st.sampled_from([0, 5, 9]))
        if ipfix and draw(st.integers(0, 20)) == 0:
            length = 65535
        enterprise = draw(st.sampled_from([0] * 5 + [REVERSE, 6871])) if ipfix and odd else 0
        found.append((number, enterprise, length))
    return found


def _template(number: int, told: list[tuple[int, int, int]]) -> bytes:
    parts = [struct.pack(">HH", number, len(told))]
    for element, enterprise, length in told:
        parts.append(struct.pack(">HH", element | (0x8000 if enterprise else 0), length))
        parts.append(struct.pack(">I", enterprise) if enterprise else b"")
    return b"".join(parts)


def _record(draw: Any, told: list[tuple[int, int, int]]) -> bytes:
    parts = []
    for _, _, length in told:
        if length == 65535:
            length = draw(st.integers(0, 10))
            parts.append(bytes([length]) if draw(st.booleans()) else b"\xff" + struct.pack(">H", length))
        parts.append(draw(st.one_of(st.binary(min_size=length, max_size=length), st.just(bytes(length)))))
    return b"".join(parts)


def _set(number: int, content: bytes) -> bytes:
    return struct.pack(">HH", number, len(content) + 4) + content


_SAMPLING = [(302, 0, 1), (34, 0, 4)]


@st.composite
def by_templates(draw: Any) -> list[bytes]:
    """Messages of an exporter of IPFIX or NetFlow v9: templates, options, data, in any order."""
    ipfix = draw(st.booleans())
    known = {256 + n: draw(fields(ipfix)) for n in range(draw(st.integers(1, 3)))}
    messages = []
    for at in range(draw(st.integers(1, 7))):
        sets = []
        if at == 0 or draw(st.integers(0, 9)) == 0:
            sets.append(_set(2 if ipfix else 0, b"".join(_template(number, told) for number, told in known.items())))
        if draw(st.integers(0, 9)) == 0 or (at == 1 and draw(st.booleans())):
            words = [(300, 2, 1), (300, 4, 4)][not ipfix]
            head = struct.pack(">HHH", *words) + struct.pack(
                ">HHHH", *(word for field in _SAMPLING for word in field[::2])
            )
            option = struct.pack(">BI", draw(st.integers(0, 3)), draw(st.integers(0, 1000)))
            sets += [_set(3 if ipfix else 1, head), _set(300, option)]
        if ipfix and draw(st.integers(0, 9)) == 0:
            sets.append(_set(2, struct.pack(">HH", 256, 0)))
        for number in draw(st.lists(st.sampled_from([*known, *known, *known, 999]), max_size=2)):
            told = known.get(number, [(1, 0, 4)])
            content = b"".join(_record(draw, told) for _ in range(draw(st.integers(0, 3))))
            sets.append(_set(number, content + bytes(draw(st.sampled_from([0, 0, 1, 3])))))
        body, sequence, id = b"".join(sets), draw(st.integers(0, 30)), draw(st.sampled_from([7] * 8 + [0]))
        if ipfix:
            messages.append(struct.pack(">HHIII", 10, 16 + len(body), 1_600_000_000, sequence, id) + body)
        else:
            messages.append(struct.pack(">HHIIII", 9, len(sets), 70_000, 1_600_000_000, sequence, id) + body)
    return messages


@settings(max_examples=400, deadline=None)
@given(by_templates(), st.randoms(use_true_random=False))
def test_templates(messages: list[bytes], chance: random.Random) -> None:
    if chance.random() < 0.3:
        at = chance.randrange(len(messages))
        changed = bytearray(messages[at])
        changed[chance.randrange(len(changed))] = chance.randrange(256)
        messages[at] = bytes(changed[: chance.choice([len(changed), chance.randrange(len(changed) + 1)])])
    same(messages)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 31), st.integers(0, 40), st.binary(min_size=48, max_size=48), st.booleans()),
        max_size=8,
    )
)
def test_netflow_v5(told: list[tuple[int, int, bytes, bool]]) -> None:
    messages = []
    for count, sequence, record, cut in told:
        head = struct.pack(
            ">HHIIIIBBH", 5, count, 5000, 1_600_000_000, 999_999_999, sequence, 1, 2, sequence * 0x0801 & 0xFFFF
        )
        messages.append((head + record * count)[: -1 if cut else None])
    same([struct.pack(">HHIIIIBBH", 5, 0, 0, 0, 0, 0, 1, 2, 0), *messages])


def test_tunnels_in_tunnels() -> None:
    """Four are looked into; the VNI is the innermost's that is."""
    packet = (
        bytes(12) + b"\x08\0" + struct.pack(">BBHHHBBH4s4s", 0x45, 7, 40, 0, 0, 64, 6, 0, b"abcd", b"efgh") + bytes(20)
    )
    messages = [struct.pack(">IIIIIII", 5, 1, 0, 1, 0, 0, 0)]
    for vni in range(1, 8):
        udp = struct.pack(">HHHH", 1, 4789, 8, 0) + struct.pack(">II", 8 << 24, vni << 8)
        packet = (
            bytes(11)
            + bytes([vni])
            + b"\x08\0"
            + struct.pack(">BBHHHBBH8x", 0x45, 0, 40, 0, 0, 64, 17, 0)
            + udp
            + packet
        )
        head = struct.pack(">IIII", 1, 1000, 4, len(packet)) + packet + bytes(-len(packet) % 4)
        body = struct.pack(">IIIIIIII", 1, 1, 10, 5, 0, 1, 2, 1) + _xdr(1, head)
        messages.append(struct.pack(">IIIIIII", 5, 1, 0, 1, vni, 0, 1) + _xdr(1, body))
    assert same(messages) == 7


@pytest.mark.parametrize("samplers", [[], [0], [3], [3, 4], [0, 3]])
def test_sampling_rates_of_options(samplers: list[int]) -> None:
    template = _set(2, _template(256, [(1, 0, 4), (2, 0, 4), (48, 0, 1), (351, 0, 4)]))
    options = _set(3, struct.pack(">HHH", 300, 2, 1) + struct.pack(">HHHH", 302, 1, 34, 4))
    rates = b"".join(struct.pack(">BI", sampler, 10 + sampler) for sampler in samplers)
    bodies = [template + options + (_set(300, rates) if rates else b"")]
    bodies += [_set(256, struct.pack(">IIBI", 100, 1, sampler, 0xFFFFFFFF - sampler)) for sampler in range(6)]
    assert same([struct.pack(">HHIII", 10, 16 + len(body), 1, 0, 1) + body for body in bodies]) == 6


def test_every_field_that_is_read_is_one_that_is_known() -> None:
    assert set(_OF_FLOWS) <= ELEMENTS.keys()


# --- what is bounded, and where it stands -------------------------------------------------------------------------


def v5(flows: int, sequence: int = 0) -> bytes:
    head = struct.pack(">HHIIIIBBH", 5, flows, 5000, 1_600_000_000, 0, sequence, 0, 0, 0)
    return head + b"".join(struct.pack(">II40x", sequence + n, 1) for n in range(flows))


def test_flows_beyond_the_most_are_refused_and_counted() -> None:
    both = Both(most=100)
    both.take(v5(0))
    for number in range(10):
        both.take(v5(30, 30 * number))
    assert len(both.fast) == 100 and both.fast.losses(SENDER) == (0, 200)
    assert len(both.rows()) == 100 and len(both.fast) == 0
    both.take(v5(30, 300))
    assert len(both.fast) == 30, "there is room again"


def test_many_flows_and_few_again() -> None:
    both = Both()
    both.take(v5(0))
    for number in range(2000):
        both.take(v5(30, 30 * number))
    rows = both.rows()
    assert len(rows) == 60_000 and len({bytes(each) for each in rows["src"]}) == 60_000
    for _ in range(3):
        both.take(v5(30))
        both.take(v5(30))
        assert sorted(both.rows()["samples"].tolist()) == [2] * 30


def test_what_is_forgotten_is_learnt_anew() -> None:
    both = Both()
    both.take(v5(1))
    both.take(v5(1, 1))
    assert both.fast.taken == 1
    both.fast.forget()
    for number in range(2, 5):
        both.take(v5(1, number))
    assert both.fast.taken == 3 and both.rows()["samples"].sum() == 5 and losses(both.state)[0][2:] == (5, 0, 5)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams_from_a_socket(host: str, tmp_path: Path) -> None:
    """Those that Python is to read come out one by one, in their place."""
    address = f"[{host}]" if ":" in host else host
    receiver = listen(f"{address}:0")
    fast, plain, left = Fast(1 << 20), Plain(), []
    with receiver, socket.socket(receiver.family, socket.SOCK_DGRAM) as sender:
        sender.connect(receiver.getsockname()[:2])
        messages = [v5(0), *(v5(1, n) for n in range(100)), b"nothing", *(v5(2, 100 + 2 * n) for n in range(100))]
        for message in messages:
            sender.send(message)
        end = time.monotonic() + 10
        while fast.taken < 200 and time.monotonic() < end:
            found = fast.receive(receiver.fileno(), NOW, 10)
            if found is not None:
                left.append(found.data)
                assert found.sender == host and found.dropped == 0
                plain.take(found.data, host)
                state = plain.state.exporters.get(host)
                if found.data != b"nothing" and state:
                    fast.learn(host, 0, 5, 0, state[5, 0])
    assert left == [v5(0), b"nothing"] and fast.taken == 200
    assert fast.drain()["samples"].sum() == 300 and plain.state.exporters[host][5, 0].lost == 0
