"""Reads what Open vSwitch's database has of queues."""

from __future__ import annotations

import json
from typing import Any

from tests.switch.daemons import Ovs

MEGABIT = 1_000_000


def rows(ovs: Ovs, table: str) -> list[dict[str, Any]]:
    """The rows of a table, each as {column: value}, maps as dicts and references as strings."""
    found = json.loads(ovs.vsctl("--format=json", "list", table))
    return [dict(zip(found["headings"], map(plain, row), strict=True)) for row in found["data"]]


def plain(value: Any) -> Any:
    match value:
        case ["uuid", uuid]:
            return uuid
        case ["set", members]:
            return [plain(each) for each in members]
        case ["map", pairs]:
            return {key: plain(each) for key, each in pairs}
    return value


def qos(ovs: Ovs, port: str = "eth0") -> dict[str, Any] | None:
    """What a port has, with its queues by number."""
    uuid = next(row["qos"] for row in rows(ovs, "Port") if row["name"] == port)
    found = next((row for row in rows(ovs, "QoS") if row["_uuid"] == uuid), None)
    if found is None:
        return None
    queues = {row["_uuid"]: row for row in rows(ovs, "Queue")}
    return found | {"queues": {number: queues[uuid] for number, uuid in found["queues"].items()}}


def rates(ovs: Ovs, port: str = "eth0") -> dict[int, tuple[float, float, int]]:
    """Of each queue, by number: what it has, what it may borrow up to, in Mbit/s, and its priority."""
    found = qos(ovs, port)
    configs = {} if found is None else {number: row["other_config"] for number, row in found["queues"].items()}
    return {
        number: (int(each["min-rate"]) / MEGABIT, int(each["max-rate"]) / MEGABIT, int(each["priority"]))
        for number, each in configs.items()
    }
