"""Flows as they come, for those who follow them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address
from typing import Any

import numpy as np

from .enrichment import Enriched, Index
from .questions import Filter

MOST = 500
"""Flows of a batch that a follower gets: those with most bytes."""


def text(address: bytes) -> str:
    """An address as people write it, IPv4 without its prefix."""
    found = IPv6Address(address)
    return str(found.ipv4_mapped or found)


class Follower:
    """One who follows, and what he may and wants to see; ``start`` and ``end`` of the filter mean nothing here."""

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self._version = -1
        self._chosen: dict[str, Any] = {}

    def pick(self, rows: Any, enriched: Enriched, index: Index, exporters: Sequence[str]) -> tuple[list[Any], int]:
        """The flows of a batch, and how many more there were."""
        self._refresh(index)
        mask = enriched.counted.copy()
        for chosen in self._chosen.values():
            mask &= chosen[enriched.src] | chosen[enriched.dst]
        for name, column in (("protocol", rows["protocol"]), ("service", enriched.service)):
            if (number := getattr(self.wanted, name)) is not None:
                mask &= column == number
        found = np.flatnonzero(mask)
        order = found[np.argsort(rows["bytes"][found])[::-1][:MOST]]
        return [self._shown(rows[n], enriched, n, index, exporters) for n in order], len(found) - len(order)

    def _refresh(self, index: Index) -> None:
        """Which endpoints are asked for; the last place stands for none."""
        if self._version == index.version:
            return
        self._version = index.version
        self._chosen = {
            name: np.array([*(_has(endpoint, name, value) for endpoint in index.endpoints), False])
            for name, value in _asked(self.wanted)
        }

    def _shown(self, row: Any, enriched: Enriched, n: int, index: Index, exporters: Sequence[str]) -> dict[str, Any]:
        shown: dict[str, Any] = {
            name: int(row[name])
            for name in ("sport", "dport", "protocol", "tcp_flags", "bytes", "packets", "samples", "rate")
        }
        shown["exporter"] = "" if self.wanted.scope else exporters[int(row["exporter"])]
        for end, at in (("src", int(enriched.src[n])), ("dst", int(enriched.dst[n]))):
            shown[end] = text(bytes(row[end]))
            known = index.endpoints[at] if at >= 0 else None
            told = known is not None and self.wanted.scope in (None, known.project)
            for column in ("port", "name", "network", "project"):
                name = f"{end}_{column}" if column == "name" else f"{end}_{column}_id"
                shown[name] = getattr(known, column) if told else ""
        return shown


def _asked(wanted: Filter) -> Iterator[tuple[str, str]]:
    for name in ("scope", "port", "network", "project", "hypervisor", "group"):
        if value := getattr(wanted, name):
            yield name, value


def _has(endpoint: Any, name: str, value: str) -> bool:
    if name == "group":
        return value in endpoint.groups
    return bool(getattr(endpoint, {"scope": "project"}.get(name, name)) == value)
