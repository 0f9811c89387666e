"""Recorded flows, multiplied: background traffic whose protocols, ports, packets and bytes are those of ../shared/data/flows.

The recordings are a few dozen flows of a workstation. A second of background is drawn from them with other clients and other
ports, both directions of each, so that there is as much of it as is wanted while every single flow looks like a recorded one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from novanet_apps.telemetry.decode.records import AGGREGATE
from tools.lab.errors import LabError
from topology.ip_protocols import NUMBERS

FLOWS = Path(__file__).resolve().parents[3] / "shared" / "data" / "flows"
_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^,\s]+)')
_FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32}


class Flow(NamedTuple):
    """What a recorded flow was like."""

    protocol: int
    service: int
    packets: int
    bytes: int
    flags: int


def flows(directory: Path = FLOWS) -> list[Flow]:
    """The recorded flows. Raises LabError when there are none."""
    found = [flow for path in sorted(directory.glob("*/expected")) for flow in _read(path)]
    if not found:
        raise LabError(f"there are no recorded flows below {directory}; name the directory with --recorded")
    return found


def _read(path: Path) -> Iterator[Flow]:
    for line in path.read_text().splitlines():
        fields = {name: value.strip('"') for name, value in _FIELD.findall(line)}
        size = _number(fields, "in_bytes") or _number(fields, "in_total_bytes")
        packets = _number(fields, "in_packets") or _number(fields, "in_total_packets")
        protocol = NUMBERS.get(fields.get("protocol", "").replace("icmp6", "ipv6-icmp"), 0)
        if "src" not in fields or not size or not packets or protocol not in (1, 6, 17):
            continue
        service = min(_number(fields, "src_port"), _number(fields, "dst_port"))
        flags = sum(_FLAGS.get(letter, 0) for letter in fields.get("tcp_flags", ""))
        yield Flow(protocol, service, packets, size, flags | (0x18 if protocol == 6 else 0))


def _number(fields: dict[str, str], name: str) -> int:
    text = fields.get(name, "0").rstrip("u")
    return int(text) if text.isdigit() else 0


def second(recorded: list[Flow], count: int, chance: Any, servers: int, clients: int = 400) -> Any:
    """A second's rows (AGGREGATE) of so many conversations from clients outside to servers 10.0.0.1 and on, and back."""
    chosen = [recorded[n] for n in chance.integers(0, len(recorded), count)]
    rows = np.zeros(count, AGGREGATE)
    rows["src"], rows["dst"] = (
        address(198, 51, chance.integers(0, clients, count)),
        address(10, 0, chance.integers(0, servers, count)),
    )
    rows["sport"] = chance.integers(49152, 65535, count)
    for name, values in zip(
        ("protocol", "dport", "packets", "bytes", "tcp_flags"), zip(*chosen, strict=True), strict=True
    ):
        rows[name] = values
    rows["version"], rows["vni"], rows["rate"] = 4, 5, 1
    rows["samples"] = rows["packets"]
    back = rows.copy()
    for one, other in (("src", "dst"), ("sport", "dport")):
        back[one], back[other] = rows[other], rows[one]
    return np.concatenate((rows, back))


def address(first: int, second: int, numbers: Any) -> Any:
    """Addresses first.second.x.y by number, as columns of 16 bytes."""
    found = np.zeros((len(numbers), 16), np.uint8)
    found[:, 10:12] = 255
    found[:, 12], found[:, 13], found[:, 14], found[:, 15] = first, second, numbers // 250, numbers % 250 + 1
    return found
