"""From an older schema to ours: what OVSDB cannot know when it converts a database.

A conversion (ovsdb-server(7), section 4.1.20, "convert") gives new columns of rows that exist OVSDB's defaults: 0, false
and "". Where a model has another default, and where a new field follows from others, the rows are brought up to date by
``operations``. That takes three steps, which can be interrupted and begun again after each:

1. convert to ``between``, our tables with the old version, in which no column is immutable;
2. transact ``operations``;
3. convert to our schema, whose version says that it is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec.inspect as inspect

from .model import KINDS
from .schema import Operation, schema, table

Version = tuple[int, ...]

ADDED: dict[Version, dict[str, tuple[str, ...]]] = {
    (1, 1, 0): {
        "subnet": ("enable_dhcp",),
        "hypervisor": ("gateway",),
        "tunnel-mesh": ("bfd_interval", "bfd_multiplier"),
    },
    (1, 3, 0): {"identity": ("port_security_enabled",)},
}
"""By the version that brought them: fields of kinds that there were before, whose default is not OVSDB's."""


def between(version: str) -> dict[str, Any]:
    """Our schema as a stage of the conversion: with the old version, and nothing immutable."""
    found = schema() | {"version": version}
    for described in found["tables"].values():
        for column in described["columns"].values():
            column.pop("mutable", None)
    return found


def operations(version: Version) -> Iterator[Operation]:
    """What brings the rows up to date that were written with ``version``; doing it again does no harm."""
    for since, kinds in ADDED.items():
        if version < since:
            for kind, names in kinds.items():
                fields: Any = inspect.type_info(KINDS[kind]).fields  # type: ignore[attr-defined]
                row = {field.name: field.default for field in fields if field.name in names}
                yield {"op": "update", "table": table(kind), "where": [], "row": row}
    if version < (1, 1, 0):
        six = [["ip_version", "==", 6]]
        yield {"op": "update", "table": "Subnet", "where": six, "row": {"ipv6_address_mode": "dhcpv6-stateful"}}
