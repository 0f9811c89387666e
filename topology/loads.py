"""How agents tell how many connections begin on their hypervisors, and what that comes to. Pure; why so: docs/decisions/0019.

A ``Load`` is of a hypervisor and a pool. It is told anew when it differs from what was told by more than chance, and otherwise
now and then, so that one whose agent is gone can be told from one in which nothing happens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import sqrt
from typing import Any

from msgspec import Struct

from .model import Load
from .schema import LOAD, Operation, table

WORTHWHILE = 0.1
"""Of a count: what it has to change by to be told."""
BEAT = 30.0
"""Seconds after which an agent tells a load that has not changed."""
LIFETIME = 3 * BEAT
"""Seconds after which a load that was not told again counts for nothing."""


class Count(Struct):
    """What an agent has counted of a pool."""

    connections: dict[int, int]
    """Live ones by member's key, those of none left out."""
    fresh: int = 0
    """Those that were not there at the last count."""


def differs(count: int, told: int) -> bool:
    """Whether a count is worth telling: it differs by a tenth from what was told, and by more than chance makes it."""
    return abs(count - told) >= max(1.0, WORTHWHILE * told, sqrt(told))


def is_news(count: Count, told: Load | None) -> bool:
    """Whether what was told of a pool no longer holds."""
    former = told.connections if told is not None else {}
    keys = former.keys() | count.connections.keys()
    return any(differs(count.connections.get(key, 0), former.get(key, 0)) for key in keys)


def told(hypervisor_id: str, pool_id: str, count: Count, before: Load | None) -> Load | None:
    """What is to be told after a count; None: nothing any more."""
    if not count.connections:
        return None
    began, beat = (before.began, before.beat) if before is not None else (0, 0)
    return Load(
        hypervisor_id=hypervisor_id,
        pool_id=pool_id,
        connections=count.connections,
        began=began + count.fresh,
        beat=beat + 1,
    )


def operations(news: Mapping[tuple[str, str], tuple[str | None, Load | None]]) -> list[Operation]:
    """The operations that tell loads: by (hypervisor, pool), the id of the row that there is, and what it is to have."""
    found: list[Operation] = []
    for number, ((hypervisor, _), (row, load)) in enumerate(news.items()):
        if load is None:
            found += [] if row is None else [_hold(hypervisor, "delete", ["uuid", row])]
        elif row is not None:
            found.append(
                {"op": "update", "table": LOAD, "where": [["_uuid", "==", ["uuid", row]]], "row": _counted(load)}
            )
        else:
            name = f"load_{number}"
            ids = {"hypervisor_id": ["uuid", load.hypervisor_id], "pool_id": ["uuid", load.pool_id]}
            found.append({"op": "insert", "table": LOAD, "uuid-name": name, "row": {**ids, **_counted(load)}})
            found.append(_hold(hypervisor, "insert", ["named-uuid", name]))
    return found


def _counted(load: Load) -> dict[str, Any]:
    return {
        "connections": ["map", [[key, count] for key, count in sorted(load.connections.items())]],
        "began": load.began,
        "beat": load.beat,
    }


def _hold(hypervisor_id: str, mutator: str, row: list[str]) -> Operation:
    """A hypervisor holds its rows: without that the server takes them away."""
    return {
        "op": "mutate",
        "table": table("hypervisor"),
        "where": [["_uuid", "==", ["uuid", hypervisor_id]]],
        "mutations": [["loads", mutator, ["set", [row]]]],
    }


def summed(loads: Iterable[Load]) -> dict[int, int]:
    """Connections by member's key, of all hypervisors."""
    found: dict[int, int] = {}
    for load in loads:
        for key, count in load.connections.items():
            found[key] = found.get(key, 0) + count
    return found
