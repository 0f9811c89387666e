"""What exporters send in benchmarks: datagrams about 5,000 flows, as Open vSwitch and hardware would fill them."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TUPLES, DATAGRAMS = 5000, 2000
RATE = 1000
"""One of so many packets is sampled."""
SAMPLES, RECORDS = 7, 20
"""In a datagram."""
HEADER = 128
_FIELDS = (
    (8, 4),
    (12, 4),
    (7, 2),
    (11, 2),
    (4, 1),
    (5, 1),
    (6, 1),
    (10, 4),
    (14, 4),
    (1, 8),
    (2, 8),
    (152, 8),
    (153, 8),
    (58, 2),
    (15, 4),
)
"""Of the IPFIX template: element and bytes."""


class Totals(NamedTuple):
    """Of everything that was sent or stored."""

    records: int
    packets: int
    bytes: int


class Load(NamedTuple):
    """Datagrams that are sent over and over."""

    name: str
    first: tuple[bytes, ...]
    """Sent once, before: templates."""
    ring: list[bytes]
    of_each: list[Totals]
    offset: int
    """Where a datagram's sequence number is, and by how much it grows."""
    step: int
    addresses: list[str]

    def write(self, path: Path) -> Path:
        """As ``datagrams.c`` reads them."""
        path.write_bytes(b"".join(struct.pack("=I", len(each)) + each for each in self.ring))
        return path

    def totals(self, count: int) -> Totals:
        """Of the first so many datagrams."""
        rounds, rest = divmod(count, len(self.ring))
        whole = [sum(column) for column in zip(*self.of_each, strict=True)]
        part = [sum(column) for column in zip(Totals(0, 0, 0), *self.of_each[:rest], strict=True)]
        return Totals(*(rounds * one + other for one, other in zip(whole, part, strict=True)))


class _Tuple(NamedTuple):
    src: int
    dst: int
    sport: int
    dport: int
    protocol: int


def _tuples(chance: random.Random) -> list[_Tuple]:
    ports = (80, 443, 22, 53, 8080)
    return [
        _Tuple(
            0x0A000000 | chance.randrange(1 << 12), 0x0A010000 | chance.randrange(1 << 12), chance.randrange(1024, 61024),
            ports[n % 5], 6 if n % 3 else 17,
        )
        for n in range(TUPLES)
    ]  # fmt: skip


def _addresses(tuples: list[_Tuple]) -> list[str]:
    numbers = sorted({number for each in tuples for number in each[:2]})
    return [".".join(str(number >> shift & 0xFF) for shift in (24, 16, 8, 0)) for number in numbers]


def sflow() -> Load:
    """sFlow v5 with samples of 128 bytes of frames, and what a switch adds of VLANs."""
    chance = random.Random(7)
    tuples = _tuples(chance)
    ring, totals = [], []
    for _ in range(DATAGRAMS):
        lengths = [chance.randrange(200, 1500) for _ in range(SAMPLES)]
        body = b"".join(_sample(chance.choice(tuples), length) for length in lengths)
        ring.append(struct.pack(">IIIIIII", 5, 1, 0x7F000001, 0, 0, 1_000_000, SAMPLES) + body)
        totals.append(Totals(SAMPLES, SAMPLES * RATE, sum(lengths) * RATE))
    return Load("sFlow", (), ring, totals, 16, 1, _addresses(tuples))


def _sample(flow: _Tuple, length: int) -> bytes:
    frame = b"\x02\0" + struct.pack(">I", flow.dst) + b"\x02\0" + struct.pack(">I", flow.src) + b"\x08\0"
    frame += struct.pack(">BBHHHBBHII", 0x45, 0, length - 18, 1, 0x4000, 64, flow.protocol, 0, flow.src, flow.dst)
    frame += struct.pack(">HH", flow.sport, flow.dport)
    frame += (
        struct.pack(">IIBBHHH", 1, 2, 0x50, 0x10, 1000, 0, 0)
        if flow.protocol == 6
        else struct.pack(">HH", length - 38, 0)
    )
    raw = struct.pack(">IIII", 1, length, 4, HEADER) + frame.ljust(HEADER, b"U")
    records = struct.pack(">II", 1, len(raw)) + raw + struct.pack(">IIIIII", 1001, 16, 100, 0, 100, 0)
    sample = struct.pack(">IIIIIIII", 1, 3, RATE, RATE, 0, 5, 6, 2) + records
    return struct.pack(">II", 1, len(sample)) + sample


def ipfix() -> Load:
    """IPFIX by a template of fifteen fields, which comes first."""
    chance, now = random.Random(7), int(time.time())
    tuples = _tuples(chance)
    template = struct.pack(">HH", 300, len(_FIELDS)) + b"".join(struct.pack(">HH", *field) for field in _FIELDS)
    ring, totals = [], []
    for _ in range(DATAGRAMS):
        sizes = [chance.randrange(640, 9640) for _ in range(RECORDS)]
        body = b"".join(_record(chance.choice(tuples), size, 1000 * now - chance.randrange(5000)) for size in sizes)
        ring.append(_message(now, struct.pack(">HH", 300, 4 + len(body)) + body))
        totals.append(Totals(RECORDS, RECORDS * 10, sum(sizes)))
    first = _message(now, struct.pack(">HH", 2, 4 + len(template)) + template)
    return Load("IPFIX", (first,), ring, totals, 8, RECORDS, _addresses(tuples))


def _message(now: int, sets: bytes) -> bytes:
    return struct.pack(">HHIII", 10, 16 + len(sets), now, 0, 1) + sets


def _record(flow: _Tuple, size: int, end: int) -> bytes:
    flags = 0x1B if flow.protocol == 6 else 0
    return struct.pack(">IIHHBBBIIQQQQHI", *flow[:5], 0, flags, 5, 6, size, 10, end - 10, end, 100, 0x0A0000FE)


def endpoints(load: Load) -> Iterator[dict[str, object]]:
    """Every address is a VM's."""
    for number, address in enumerate(load.addresses):
        yield {
            "port": f"00000000-0000-4000-8000-{number:012x}", "name": f"vm{number}", "vm": f"vm-{number}", "network": f"net{number % 20}",
            "network_name": f"net{number % 20}", "project": f"project{number % 7}", "hypervisor": "hv1", "hypervisor_name": "hv1",
            "realm": "all", "addresses": [address],
        }  # fmt: skip
