"""Mirrors on the integration bridge: what VMs' ports send and receive, copied to ports of a capture's own (ovs-vswitchd.conf.db(5)).

Rows carry ``OWNER`` and the capture's id. They are asked for and changed by requests of their own, since nobody captures most of the time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import eventlet

from novanet_apps.host_agent.bridge import FOLLOWING, OWNER
from novanet_apps.ovsdb.link import OvsdbError, call, connect
from pipelines.fields import IN_PORT_KEY
from topology.model import IFACE_ID

WHAT = "capture"
"""Value of ``OWNER``."""
CAPTURE = "novanet-capture"
"""Key in external_ids: the capture's id."""
_MINE = ["external_ids", "includes", ["map", [[OWNER, WHAT]]]]
_TIMEOUT = 5.0
_SELECTS = {"egress": "select_src_port", "ingress": "select_dst_port"}
"""By direction, the column of what is mirrored."""

Operation = dict[str, Any]


class Vif(NamedTuple):
    """A VM's interface."""

    port: str
    """UUID of its row of ``Port``."""
    name: str
    type: str
    """As Open vSwitch has it; empty: a device of Linux."""


class Mirrors:
    """Of one hypervisor. Everything raises OvsdbError."""

    def __init__(self, remote: str) -> None:
        self._remotes = remote.split(",")

    def vifs(self, port_ids: Collection[str]) -> dict[str, Vif]:
        """The interfaces of these VMs' ports (``iface-id``), those that are plugged."""
        wanted = sorted(port_ids)
        asked = [
            _select("Interface", [["external_ids", "includes", ["map", [[IFACE_ID, id]]]]], "name", "type")
            for id in wanted
        ]
        found: dict[str, Vif] = {}
        interfaces = {id: rows[0] for id, rows in zip(wanted, self._transact(*asked), strict=True) if rows}
        asked = [_select("Port", [["interfaces", "includes", row["_uuid"]]]) for row in interfaces.values()]
        for (id, row), ports in zip(interfaces.items(), self._transact(*asked), strict=True):
            if ports:
                found[id] = Vif(ports[0]["_uuid"][1], row["name"], row["type"])
        return found

    def offloads(self) -> bool:
        """Whether hardware may forward packets that Linux does not see."""
        (rows,) = self._transact({"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["other_config"]})
        return dict(rows[0]["other_config"][1]).get("hw-offload") == "true"

    def add(self, capture_id: str, bridge: str, interfaces: Mapping[str, str], ports: Collection[str]) -> None:
        """Mirror ports (UUIDs) to these interfaces, by direction, and wait until vswitchd does."""
        mark = ["map", [[OWNER, WHAT], [CAPTURE, capture_id]]]
        once = {"filter": f"{IN_PORT_KEY.name}=0"} if self._filters() else {}
        operations: list[Operation] = []
        for direction, name in interfaces.items():
            port = {"name": name, "interfaces": ["named-uuid", f"interface_{direction}"], "external_ids": mark}
            mirror: Operation = {
                "name": f"{capture_id}-{direction}", "external_ids": mark, "output_port": ["named-uuid", f"port_{direction}"],
                _SELECTS[direction]: _ports(ports), **(once if direction == "egress" else {}),
            }  # fmt: skip
            operations += [
                _insert("Interface", f"interface_{direction}", {"name": name, "external_ids": mark}),
                _insert("Port", f"port_{direction}", port),
                _insert("Mirror", f"mirror_{direction}", mirror),
            ]
        named = [
            [kind, ["set", [["named-uuid", f"{kind}_{each}"] for each in interfaces]]] for kind in ("port", "mirror")
        ]
        changes = [[f"{kind}s", "insert", rows] for kind, rows in named]
        operations.append({"op": "mutate", "table": "Bridge", "where": [["name", "==", bridge]], "mutations": changes})
        *_, mutated = self._change(operations)
        if mutated != 1:
            raise OvsdbError(f"bridge {bridge} is missing: NovaNet's controller makes it")
        self._check(interfaces.values())

    def select(self, capture_id: str, ports: Collection[str]) -> None:
        """Mirror these ports from now on, and no others."""
        where = [["external_ids", "includes", ["map", [[CAPTURE, capture_id]]]]]
        (rows,) = self._transact(_select("Mirror", where, "name"))
        for row in rows:
            column = _SELECTS[row["name"].rpartition("-")[2]]
            self._transact(
                {
                    "op": "update",
                    "table": "Mirror",
                    "where": [["_uuid", "==", row["_uuid"]]],
                    "row": {column: _ports(ports)},
                }
            )

    def remove(self, capture_id: str | None = None) -> int:
        """Take away what a capture has here, or all of them have; returns how many mirrors there were."""
        where = (
            [_MINE] if capture_id is None else [_MINE, ["external_ids", "includes", ["map", [[CAPTURE, capture_id]]]]]
        )
        mirrors, ports = self._transact(_select("Mirror", where), _select("Port", where))
        if not mirrors and not ports:
            return 0
        operations = [
            {"op": "mutate", "table": "Bridge", "where": [[column, "includes", row["_uuid"]]], "mutations": [[column, "delete", row["_uuid"]]]}
            for column, rows in (("mirrors", mirrors), ("ports", ports))
            for row in rows
        ]  # fmt: skip
        self._change(operations)
        return len(mirrors)

    def _filters(self) -> bool:
        """Whether mirrors can be told to take packets as they come in only, when nothing was made of them yet: from 3.4 on.

        From 3.2 on, Open vSwitch mirrors a packet again when it was modified and goes on after conntrack.
        """
        rpc = connect(self._remotes, _TIMEOUT)
        try:
            schema = call(rpc, "get_schema", ["Open_vSwitch"], _TIMEOUT)
        finally:
            rpc.close()
        return "filter" in schema["tables"]["Mirror"]["columns"]

    def _change(self, operations: list[Operation]) -> list[int]:
        """Do it, and wait until vswitchd has followed; returns how many rows each mutation was of."""
        nudge = {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["next_cfg", "+=", 1]]}
        results = self._ask(
            *operations, nudge, {"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["next_cfg"]}
        )
        wanted = results[-1]["rows"][0]["next_cfg"]
        with eventlet.Timeout(FOLLOWING, False):
            while self._configured() < wanted:
                eventlet.sleep(0.02)
        return [result["count"] for result in results[:-2] if "count" in result]

    def _configured(self) -> int:
        (rows,) = self._transact({"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["cur_cfg"]})
        return int(rows[0]["cur_cfg"])

    def _check(self, names: Collection[str]) -> None:
        asked = [_select("Interface", [["name", "==", name]], "ofport", "error") for name in names]
        for name, rows in zip(names, self._transact(*asked), strict=True):
            row = rows[0] if rows else {"ofport": -1, "error": "is gone"}
            if not isinstance(row["ofport"], int) or row["ofport"] < 0:
                why = row["error"] if isinstance(row["error"], str) else "vswitchd has not opened it"
                raise OvsdbError(f"interface {name}: {why}")

    def _transact(self, *operations: Operation) -> list[list[dict[str, Any]]]:
        """The rows of each."""
        return [result.get("rows", []) for result in self._ask(*operations)] if operations else []

    def _ask(self, *operations: Operation) -> list[dict[str, Any]]:
        rpc = connect(self._remotes, _TIMEOUT)
        try:
            results = call(rpc, "transact", ["Open_vSwitch", *operations], _TIMEOUT)
        finally:
            rpc.close()
        for result in results:
            if result is not None and "error" in result:
                raise OvsdbError(f"{result['error']}: {result.get('details', '')}")
        return [result or {} for result in results]


def _ports(uuids: Collection[str]) -> list[Any]:
    return ["set", [["uuid", uuid] for uuid in sorted(uuids)]]


def _insert(table: str, name: str, row: dict[str, Any]) -> Operation:
    return {"op": "insert", "table": table, "uuid-name": name, "row": row}


def _select(table: str, where: list[Any], *columns: str) -> Operation:
    names = columns or ("name",)
    return {"op": "select", "table": table, "where": where, "columns": ["_uuid", *names]}
