"""Packet filter sets in ClassBench's format (Taylor and Turner, "ClassBench: A Packet Classification Benchmark", 2007).

A line: ``@source prefix, destination prefix, source port range, destination port range, protocol/mask, flags/mask``, in between
tabs; ranges are ``low : high``, the rest is hexadecimal. The flags are 16 bits of the header behind the ports: of TCP the
upper 8 are FIN to CWR, of ICMP they are the type, the lower 8 its code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

from pipelines.minimise import Rule, rule
from pipelines.minimise.packets import ICMP, PORTED, TCP

_LINE = re.compile(r"@(\S+)\s+(\S+)\s+(\d+)\s*:\s*(\d+)\s+(\d+)\s*:\s*(\d+)\s+(0x\w+)/(0x\w+)(?:\s+(0x\w+)/(0x\w+))?.*")


def read(path: Path, verdict: Callable[[int], Hashable]) -> Iterator[Rule]:
    """The rules of an IPv4 set, the verdict of each by its place. Raises ValueError at a line that is none.

    Ports count only where the protocol has them; flags, type and code only where a rule asks for TCP or ICMP. A rule on ports
    for any protocol is one for each protocol that has ports.
    """
    number = 0
    for at, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"{path}, line {at}: not a rule in ClassBench's format: {line!r}")
        try:
            yield from _rules(found, verdict(number))
        except ValueError as wrong:
            raise ValueError(f"{path}, line {at}: {wrong}") from wrong
        number += 1


def _rules(found: re.Match[str], verdict: Hashable) -> Iterator[Rule]:
    source, destination = found[1], found[2]
    ports = (int(found[3]), int(found[4])), (int(found[5]), int(found[6]))
    number, mask, flags, known = (int(part or "0", 16) for part in found.groups()[6:])
    if mask not in (0, 0xFF):
        raise ValueError(f"protocol {number:#x}/{mask:#x}: a switch matches one protocol, or any")
    protocol = number if mask else None
    restricted = ports != ((0, 0xFFFF), (0, 0xFFFF))
    for each in sorted(PORTED) if protocol is None and restricted else (protocol,):
        more: dict[str, Any] = {}
        if each in PORTED:
            more |= {"source_ports": ports[0], "destination_ports": ports[1]}
        if each == TCP:
            more |= {"flags": (flags >> 8, known >> 8)}
        if each == ICMP and known & 0xFF00 == 0xFF00:
            more |= {"icmp_type": flags >> 8}
        if each == ICMP and known & 0xFF == 0xFF:
            more |= {"icmp_code": flags & 0xFF}
        yield rule(4, source, destination, verdict, protocol=each, **more)
