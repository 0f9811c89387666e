"""Flows of three kinds of traffic, the same for whoever stores them: what is asked of DNS, the web, and bulk transfers.

Every flow is unidirectional, as exporters tell them. Numbers of packets and bytes are drawn so that they look like the traffic
that they are named after; there is no claim beyond that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from novanet_apps.telemetry.decode.records import AGGREGATE, NO_VNI

BEGIN = 1_760_000_400
"""Unix seconds at which the traffic begins: a whole hour."""
SPAN = 3600
MIXES = ("dns", "web", "bulk")
PCAP_HEADER, PCAP_RECORD, ETHERNET = 24, 16, 14


def mix(name: str, pairs: int, seed: int = 7) -> Any:
    """Rows (AGGREGATE) of so many conversations, there and back, ordered by when they end."""
    chance = np.random.default_rng(seed)
    there = _conversations(name, pairs, chance)
    back = there.copy()
    back["src"], back["dst"] = there["dst"], there["src"]
    back["sport"], back["dport"] = there["dport"], there["sport"]
    back["src_mac"], back["dst_mac"] = there["dst_mac"], there["src_mac"]
    back["packets"], back["bytes"] = _answers(name, there, chance)
    back["first_ms"] = there["first_ms"] + chance.integers(0, 20, pairs).astype(np.uint64)
    back["last_ms"] = np.maximum(back["first_ms"], there["last_ms"])
    back["samples"] = back["packets"]
    rows = np.concatenate((there, back))
    return rows[np.argsort(rows["last_ms"], kind="stable")]


def captured(rows: Any) -> int:
    """Bytes of a pcap file with every packet of the flows, whole (pcap-savefile(5))."""
    packets = int(rows["packets"].sum())
    return PCAP_HEADER + packets * (PCAP_RECORD + ETHERNET) + int(rows["bytes"].sum())


def _conversations(name: str, count: int, chance: Any) -> Any:
    rows = np.zeros(count, AGGREGATE)
    clients = {"dns": 5000, "web": 3000, "bulk": 200}[name]
    servers = {"dns": 4, "web": 60, "bulk": 40}[name]
    client = np.minimum(chance.zipf(1.2, count), clients) - 1
    server = np.minimum(chance.zipf(1.3, count), servers) - 1
    rows["src"], rows["dst"] = _addresses(client, 16), _addresses(server, 200)
    rows["src_mac"], rows["dst_mac"] = client + 0x020000000000, server + 0x020000A00000
    rows["sport"] = chance.integers(32768, 61000, count)
    rows["dport"] = {"dns": 53, "web": 443, "bulk": 5001}[name]
    rows["protocol"], rows["version"], rows["direction"] = 17 if name == "dns" else 6, 4, 2
    rows["tcp_flags"] = 0 if name == "dns" else 0x1B
    rows["vni"], rows["rate"], rows["in_if"], rows["out_if"] = NO_VNI, 1, client % 40 + 1, 41
    first = BEGIN * 1000 + chance.integers(0, SPAN * 1000, count)
    lasts = {
        "dns": lambda: np.zeros(count), "web": lambda: chance.lognormal(6, 1.5, count),
        "bulk": lambda: chance.uniform(1000, 60000, count),
    }[name]()  # fmt: skip
    rows["first_ms"] = first
    rows["last_ms"] = first + np.minimum(lasts, 60000).astype(np.int64)
    rows["packets"], rows["bytes"] = _asked(name, count, chance)
    rows["samples"] = rows["packets"]
    return rows


def _asked(name: str, count: int, chance: Any) -> tuple[Any, Any]:
    if name == "dns":
        return np.ones(count), chance.integers(56, 90, count)
    packets = np.clip(
        chance.lognormal(2.3, 1.0, count) if name == "web" else chance.lognormal(10, 1, count), 4, 1e6
    ).astype(np.int64)
    if name == "web":
        return packets, packets * 52 + chance.lognormal(6, 1, count).astype(np.int64)
    return packets, packets * 1500 - chance.integers(0, 1460, count)


def _answers(name: str, there: Any, chance: Any) -> tuple[Any, Any]:
    count = len(there)
    if name == "dns":
        return np.ones(count), chance.integers(80, 500, count)
    if name == "web":
        packets = np.clip(chance.lognormal(2.8, 1.3, count), 3, 1e6).astype(np.int64)
        return packets, packets * 52 + chance.integers(100, 1448, count) * packets - chance.integers(0, 50, count)
    packets = there["packets"] // 2 + 1
    return packets, packets * 52


def _addresses(numbers: Any, second: int) -> Any:
    found = np.zeros((len(numbers), 16), np.uint8)
    found[:, 10:12] = 255
    found[:, 12], found[:, 13], found[:, 14], found[:, 15] = 10, second, numbers // 250, numbers % 250 + 1
    return found
