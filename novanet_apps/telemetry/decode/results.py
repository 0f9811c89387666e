"""What a datagram had in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]
"""Names and values: numbers, addresses as text, bytes as hexadecimal digits where nothing is known of them."""


@dataclass(slots=True)
class Decoded:
    """Of one datagram."""

    flows: list[Record] = field(default_factory=list)
    """Flow records, or sampled packets."""
    counters: list[Record] = field(default_factory=list)
    discards: list[Record] = field(default_factory=list)
    options: list[Record] = field(default_factory=list)
    """What an exporter says of itself: sampling, statistics, names of interfaces."""
    domain: int = 0
    """Observation domain, source id, engine or sub-agent."""
    sequence: int = 0
    units: int = 1
    """By how much the sequence number goes on."""
    skipped: int = 0
    """Samples, records and sets of a kind that is not known, or whose template is not."""
    problems: list[str] = field(default_factory=list)
    """What was malformed; all before it was taken."""
