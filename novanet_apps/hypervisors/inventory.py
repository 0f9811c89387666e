"""What is plugged where on one hypervisor, kept up to date row by row.

The work for a batch of row events depends on the rows in it, never on how many interfaces there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from uuid import UUID

from ovs.db.idl import Row

from novanet_apps.hypervisors.ports import PREFIX
from novanet_apps.ovsdb.session import RowEvent, members, read
from topology.model import IFACE_ID, Vif

WRITTEN_BY_VSWITCHD = frozenset({"bfd_status", "error", "mtu", "admin_state", "ofport"})
"""Columns of interfaces that are not ours to set."""


class Inventory:
    """Interfaces of the integration bridge by the port whose VM they belong to.

    `rows` gives a table's current rows. Feed every event to `note`; then, until `settled`, `changed` tells which
    ports' interfaces are to be looked at, and `vif` shows one.
    """

    def __init__(
        self, rows: Callable[[str], Mapping[UUID, Row]], hypervisor_id: str, bridge: str, underlay: str
    ) -> None:
        self._rows = rows
        self._hypervisor_id = hypervisor_id
        self._bridge_name = bridge
        self._underlay_name = underlay
        self.bridge: UUID | None = None
        self.ports: set[UUID] = set()
        """Rows of Port in the integration bridge."""
        self.port_of: dict[UUID, UUID] = {}
        """Row of Interface -> row of Port."""
        self.own_ports: dict[str, UUID] = {}
        """Rows of Port, on any bridge, that have the names of NovaNet's own."""
        self.own_interfaces: dict[str, UUID] = {}
        self.own_failures: dict[str, str] = {}
        """Which of those vswitchd could not open, and why."""
        self.disturbed: set[str] = set()
        """Which of those were added, moved, changed or removed since somebody emptied this."""
        self._own_names: dict[UUID, str] = {}
        self.underlay: UUID | None = None
        self.rows_noted = 0
        self._interfaces: dict[UUID, tuple[UUID, ...]] = {}
        self._iface_ids: dict[UUID, str] = {}
        self._holders: dict[str, list[UUID]] = {}
        self._touched: dict[UUID, None] = {}
        self._names: dict[str, UUID] = {}
        self._heard: dict[str, int] = {}
        self._shared: set[str] = set()

    def note(self, event: RowEvent) -> None:
        """Take an event in."""
        self.rows_noted += 1
        match event.table:
            case "Interface":
                self._note_interface(event)
            case "Port":
                self._note_port(event)
            case "Bridge":
                self._note_bridge(event)

    def changed(self, limit: int) -> list[str]:
        """Ids of the ports whose interface appeared, changed or went: what `limit` rows tell, not told before."""
        touched = list(islice(self._touched, limit))
        dirty: dict[str, None] = {}
        for interface in touched:
            del self._touched[interface]
            iface_id = self._iface_id(interface)
            before = self._iface_ids.get(interface, "")
            if before and before != iface_id:
                self._release(interface, before)
                dirty[before] = None
            if iface_id:
                if before != iface_id:
                    self._hold(interface, iface_id)
                dirty[iface_id] = None
        return list(dirty)

    @property
    def settled(self) -> bool:
        """Whether `changed` has nothing more to tell."""
        return not self._touched

    def vif(self, port_id: str) -> Vif | None:
        """The port's interface, the first of several; None when there is none."""
        holders = self._holders.get(port_id)
        row = self._rows("Interface").get(holders[0]) if holders else None
        if row is None:
            return None
        ofport, error = self.opened(row)
        mtu = read(row, "mtu")
        return Vif(
            port_id=port_id,
            hypervisor_id=self._hypervisor_id,
            interface=read(row, "name"),
            ofport=ofport,
            mtu=mtu[0] if mtu else None,
            error=error,
        )

    def hear(self, name: str, ofport: int | None) -> None:
        """The switch says that a port of this name has this number, or is gone; no name: forget all it said."""
        if not name:
            self._heard.clear()
        elif ofport is None:
            self._heard.pop(name, None)
        else:
            self._heard[name] = ofport
            if name in self._names:
                self._touched[self._names[name]] = None

    def opened(self, row: Row) -> tuple[int | None, str]:
        """An interface's OpenFlow port, None until vswitchd has opened it, and why it could not."""
        ofport = read(row, "ofport")
        error = read(row, "error")
        if not ofport and not error and (heard := self._heard.get(read(row, "name"))) is not None:
            return heard, ""
        number = ofport[0] if ofport and ofport[0] >= 0 else None
        if error:
            return number, str(error[0])
        return number, "vswitchd could not open the interface" if ofport == [-1] else ""

    def interface(self, name: str) -> UUID | None:
        """The row of an interface, on whichever bridge."""
        return self._names.get(name)

    def plugged(self) -> Mapping[str, list[UUID]]:
        """Every port that has an interface here, with the rows."""
        return self._holders

    def duplicates(self) -> Iterator[str]:
        """A warning for each port that has several interfaces."""
        for port_id in sorted(self._shared):
            rows = [self._rows("Interface").get(interface) for interface in self._holders[port_id]]
            first, *others = (read(row, "name") for row in rows if row is not None)
            yield f"port {port_id}: interfaces {', '.join(others)} have the same iface-id as {first}, which is used"

    def watch(self, bridge: str, underlay: str) -> None:
        """Another integration bridge or underlay interface from now on; looks through all rows once."""
        if underlay != self._underlay_name:
            self._underlay_name = underlay
            self.underlay = next(
                (row.uuid for row in self._rows("Interface").values() if read(row, "name") == underlay), None
            )
        if bridge != self._bridge_name:
            self._bridge_name = bridge
            self._set_bridge(next((row for row in self._rows("Bridge").values() if read(row, "name") == bridge), None))

    # --- rows ------------------------------------------------------------------------------------------------------

    def _note_interface(self, event: RowEvent) -> None:
        row = event.row
        self._touched[row.uuid] = None
        name, gone = read(row, "name"), event.op == "delete"
        if name.startswith(PREFIX):
            self._note_own_interface(event, name, gone)
        if event.op == "update":
            return
        _move(self._names, name, row.uuid, gone)
        if name == self._underlay_name:
            self.underlay = _moved(self.underlay, row.uuid, gone)

    def _note_own_interface(self, event: RowEvent, name: str, gone: bool) -> None:
        if event.old is None:
            _move(self.own_interfaces, name, event.row.uuid, gone)
        if event.old is None or not WRITTEN_BY_VSWITCHD.issuperset(event.old):
            self.disturbed.add(name)
        failure = "" if gone else self.opened(event.row)[1]
        if failure:
            self.own_failures[name] = failure
        else:
            self.own_failures.pop(name, None)

    def _note_port(self, event: RowEvent) -> None:
        row = event.row
        gone = event.op == "delete"
        if (name := read(row, "name")).startswith(PREFIX):
            self.disturbed.add(name)
            if event.op != "update":
                _move(self.own_ports, name, row.uuid, gone)
                if gone:
                    self._own_names.pop(row.uuid, None)
                else:
                    self._own_names[row.uuid] = name
        if event.old is not None and "interfaces" not in event.old:
            return
        for interface in self._interfaces.pop(row.uuid, ()):
            if self.port_of.get(interface) == row.uuid:
                del self.port_of[interface]
            self._touched[interface] = None
        if not gone:
            self._interfaces[row.uuid] = tuple(members(row, "interfaces"))
            for interface in self._interfaces[row.uuid]:
                self.port_of[interface] = row.uuid
                self._touched[interface] = None

    def _note_bridge(self, event: RowEvent) -> None:
        row = event.row
        added, removed = ([*members(row, "ports")], []) if event.old is None else event.old.difference("ports")
        self.disturbed.update(self._own_names[port] for port in (*added, *removed) if port in self._own_names)
        if read(row, "name") != self._bridge_name:
            return
        if event.old is None:
            if event.op == "insert":
                self._set_bridge(row)
            elif row.uuid == self.bridge:
                self._set_bridge(None)
            return
        self.ports.update(added)
        self.ports.difference_update(removed)
        self._touch_ports(added)
        self._touch_ports(removed)

    def _set_bridge(self, row: Row | None) -> None:
        before, self.ports = self.ports, set() if row is None else set(members(row, "ports"))
        self.bridge = None if row is None else row.uuid
        self._touch_ports(before ^ self.ports)

    def _touch_ports(self, ports: list[UUID] | set[UUID]) -> None:
        for port in ports:
            for interface in self._interfaces.get(port, ()):
                self._touched[interface] = None

    # --- who has which port ----------------------------------------------------------------------------------------

    def _iface_id(self, interface: UUID) -> str:
        row = self._rows("Interface").get(interface)
        if row is None or self.port_of.get(interface) not in self.ports:
            return ""
        return str(read(row, "external_ids").get(IFACE_ID, ""))

    def _hold(self, interface: UUID, port_id: str) -> None:
        holders = self._holders.setdefault(port_id, [])
        holders.append(interface)
        self._iface_ids[interface] = port_id
        if len(holders) > 1:
            self._shared.add(port_id)

    def _release(self, interface: UUID, port_id: str) -> None:
        holders = self._holders[port_id]
        holders.remove(interface)
        del self._iface_ids[interface]
        if len(holders) < 2:
            self._shared.discard(port_id)
        if not holders:
            del self._holders[port_id]


def _moved(present: UUID | None, row: UUID, gone: bool) -> UUID | None:
    """The row that has a watched name, after `row` came or went; names are unique, but come before they go."""
    if not gone:
        return row
    return None if present == row else present


def _move(names: dict[str, UUID], name: str, row: UUID, gone: bool) -> None:
    """The same for an index of names."""
    if not gone:
        names[name] = row
    elif names.get(name) == row:
        del names[name]
