"""What the intent store says of this hypervisor's uplinks and VMs' interfaces: a view as ``topology.shaping`` needs it, of what
concerns this one.

Read are its own row, its ports, the mesh, networks with a policy and rules that shape interfaces; where it has uplinks, all networks
of its ports and all rules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec

from novanet_apps.intent.feed import Feed
from novanet_apps.ovsdb.session import RowEvent, members, read
from topology.changes import Change, Edit
from topology.model import AddressPair, Hypervisor, Port, TunnelMesh
from topology.schema import columns, table

HYPERVISOR, PORT, NETWORK, RULE, MESH = map(table, ("hypervisor", "port", "network", "qos-rule", "tunnel-mesh"))
TABLES = {
    HYPERVISOR: list(columns("hypervisor")),
    NETWORK: list(columns("network")),
    RULE: list(columns("qos-rule")),
    MESH: list(columns("tunnel-mesh")),
}
PORT_COLUMNS = [
    "network_id",
    "mac_address",
    "allowed_address_pairs",
    "qos_policy_id",
    "router_id",
    "port_key",
    "host_id",
]
_EVERY: list[Any] = [True]
_OF_INTERFACES: dict[str, list[Any]] = {
    NETWORK: [["qos_policy_id", "!=", ["set", []]]],
    RULE: [["shape", "==", True]],
}
"""What VMs' interfaces may depend on, on any hypervisor."""
_PAIRS = msgspec.json.Decoder(tuple[AddressPair, ...])


class ShapingIntent:
    """Takes rows; ``restrict`` has other rows replicated, ``changed`` is called when the uplinks may have to be shaped otherwise."""

    def __init__(self, restrict: Callable[[str, list[Any]], None], changed: Callable[[], None]) -> None:
        self._restrict, self._changed = restrict, changed
        self._feed = Feed(self._apply, dict)
        self._objects: dict[tuple[str, str], Any] = {}
        self._ports: set[str] = set()
        self._rules: dict[str, set[str]] = {}
        """By policy."""
        self._busy = False
        self._asked: dict[str, list[Any]] = {NETWORK: [], RULE: []}
        for name, where in self._asked.items():
            restrict(name, where)

    # --- topology.shaping.Wishes -------------------------------------------------------------------------------------

    def get(self, kind: str, id: str) -> Any:
        """An object, or None."""
        return self._objects.get((kind, id))

    def qos_rules_of(self, policy_id: str) -> Collection[str]:
        """Ids of a policy's rules."""
        return self._rules.get(policy_id, ())

    def ports_on(self, hypervisor_id: str) -> Collection[str]:
        """Ids of the ports that are here."""
        return self._ports

    @property
    def mesh(self) -> TunnelMesh | None:
        """The tunnel mesh."""
        return next((each for (kind, _), each in self._objects.items() if kind == "tunnel-mesh"), None)

    # --- rows --------------------------------------------------------------------------------------------------------

    def take(self, events: list[RowEvent], hypervisor_id: str | None) -> None:
        """What the session reports; ports that are not on this hypervisor are none of it."""
        ports = [event for event in events if event.table == PORT]
        whole = [event for event in events if event.table in TABLES]
        if not ports and not whole:
            return
        self._busy = True
        for event in ports:
            self._note_port(event, hypervisor_id)
        self._feed.take(whole)
        self._ask(hypervisor_id)
        self._busy = False
        self._changed()

    @property
    def complete(self) -> bool:
        """Whether everything is asked for that what is here refers to; then the session knows whether it has come."""
        return not self._busy

    def _note_port(self, event: RowEvent, hypervisor_id: str | None) -> None:
        here = event.op != "delete" and hypervisor_id in [str(each) for each in members(event.row, "host_id")]
        self._ports.discard(event.uuid)
        self._objects.pop(("port", event.uuid), None)
        if here:
            self._ports.add(event.uuid)
            self._objects["port", event.uuid] = _port(event.uuid, event.row)

    def _apply(self, edits: Iterable[Edit]) -> list[Change]:
        for kind, id, value in edits:
            old = self._objects.pop((kind, id), None)
            if value is not None:
                self._objects[kind, id] = value
            if kind == "qos-rule":
                if old is not None:
                    self._rules[old.qos_policy_id].discard(id)
                if value is not None:
                    self._rules.setdefault(value.qos_policy_id, set()).add(id)
        return []

    def _ask(self, hypervisor_id: str | None) -> None:
        """Ask for what interfaces depend on, and where there are uplinks for the networks of the ports here, and all rules."""
        hypervisor: Hypervisor | None = self.get("hypervisor", hypervisor_id or "")
        shaped = hypervisor is not None and bool(hypervisor.uplinks)
        networks = {self.get("port", id).network_id for id in self._ports} if shaped else set()
        wanted = {
            NETWORK: [*_OF_INTERFACES[NETWORK], *(["_uuid", "==", ["uuid", id]] for id in sorted(networks))],
            RULE: _EVERY if shaped else _OF_INTERFACES[RULE],
        }
        for name, where in wanted.items():
            if self._asked[name] != where:
                self._asked[name] = where
                self._restrict(name, where)


def _port(id: str, row: Any) -> Port:
    """As much of a port as shaping asks for."""
    return Port(
        id=id,
        network_id=str(next(members(row, "network_id"))),
        mac_address=_one(row, "mac_address"),
        allowed_address_pairs=_PAIRS.decode(read(row, "allowed_address_pairs") or "[]"),
        qos_policy_id=_one(row, "qos_policy_id"),
        router_id=_one(row, "router_id"),
        port_key=next(members(row, "port_key"), None),
    )


def _one(row: Any, column: str) -> str | None:
    found = next(members(row, column), None)
    return None if found is None else str(found)
