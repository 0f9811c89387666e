"""The traffic of one second, and what of it nobody answered."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .hashing import halves, mixed
from .sketches import Recent

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
_WITH_PORTS = (6, 17, 132)


class Window(NamedTuple):
    """Rows of flows; every field has a value for each row."""

    src: Any
    """Addresses as two columns of 64 bits."""
    dst: Any
    src_end: Any
    """Number of the sender's port, -1 where it is none of ours."""
    dst_end: Any
    sport: Any
    dport: Any
    protocol: Any
    packets: Any
    bytes: Any
    samples: Any
    flags: Any
    unanswered: Any
    """Packets of flows that have no other direction, as far as can be told."""


class Answers:
    """Which flows have another direction, of the last 20 to 40 seconds."""

    TURN = 20
    """Windows after which what is old is forgotten."""

    def __init__(self) -> None:
        self._recent = Recent()
        self._windows = 0

    def window(self, rows: Any, src_end: Any, dst_end: Any) -> Window:
        """The window of rows (fields of AGGREGATE)."""
        self._windows += 1
        if self._windows % self.TURN == 0:
            self._recent.turn()
        src, dst = halves(rows["src"]), halves(rows["dst"])
        ported = np.isin(rows["protocol"], _WITH_PORTS)
        sport, dport = np.where(ported, rows["sport"], 0), np.where(ported, rows["dport"], 0)
        ports = (
            (sport.astype(np.uint64) << np.uint64(32)) | (dport.astype(np.uint64) << np.uint64(8)) | rows["protocol"]
        )
        back = (dport.astype(np.uint64) << np.uint64(32)) | (sport.astype(np.uint64) << np.uint64(8)) | rows["protocol"]
        forward = mixed(np.column_stack((src, dst, ports)))
        reverse = mixed(np.column_stack((dst, src, back)))
        self._recent.add(forward[_means_it(rows)])
        answered = self._recent.has(reverse) if len(rows) else np.zeros(0, np.bool_)
        packets = rows["packets"].astype(np.float64)
        return Window(
            src, dst, src_end, dst_end, sport, dport, rows["protocol"], packets, rows["bytes"].astype(np.float64),
            rows["samples"].astype(np.float64), rows["tcp_flags"], np.where(answered, 0.0, packets),
        )  # fmt: skip


def _means_it(rows: Any) -> Any:
    """Rows that are more than a first or a last word of TCP: hosts refuse, and accept, connections that were never meant."""
    flags = rows["tcp_flags"] & (FIN | SYN | RST | PSH | ACK)
    refusal = (flags & RST != 0) & (flags & PSH == 0)
    greeting = (flags == SYN) | ((flags == SYN | ACK) & (rows["samples"] <= 1))
    return (rows["protocol"] != 6) | ~(refusal | greeting)
