"""The transaction that makes a hypervisor's Open vSwitch what it has to be.

One pass serves both purposes: without a transaction it only says what is wrong, with one it also puts it right.
Nothing but the integration bridge and what NovaNet made is ever touched (columns: ovs-vswitchd.conf.db(5)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

from ovs.db.idl import Idl, Row, Transaction

from novanet_apps.hypervisors.desired import CONTROLLER, CREATED, DATAPATH_TYPE, EXPORTER, OWNER, PROTOCOLS, Desired
from novanet_apps.hypervisors.inventory import Inventory
from novanet_apps.hypervisors.ports import PROBE_NUMBERS, PROBE_PREFIX, TUNNEL_NUMBERS, WIRE_NUMBERS, OwnPort
from novanet_apps.hypervisors.queues import Mending, taken
from novanet_apps.ovsdb.session import has, read
from topology.exporters import COLUMNS

PORTS_AT_ONCE = 50
"""Ports added in one transaction; more follow in the next, so that nobody waits for a large one."""

Rows = Callable[[str], Mapping[UUID, Row]]


class Repair:
    """One pass over a hypervisor's rows; `found` lists what was not as desired.

    Ports whose names are in `sound` are right, so they are not looked at; the pass adds those that it finds right.
    """

    def __init__(
        self, want: Desired, rows: Rows, seen: Inventory, sound: set[str], txn: Transaction | None = None
    ) -> None:
        self.found: list[str] = []
        self._sound = sound
        self._want = want
        self._rows = rows
        self._seen = seen
        self._txn = txn
        self._bridges = bridges(rows)
        self._added = 0

    @classmethod
    def transaction(
        cls, want: Desired, rows: Rows, seen: Inventory, sound: set[str]
    ) -> Callable[[Transaction, Idl], list[str]]:
        """For Session.transact: repairs, and returns what it found wrong."""
        return lambda txn, _idl: cls(want, rows, seen, set(sound), txn).run()

    def run(self) -> list[str]:
        """Look, repair where there is a transaction, and return what was wrong."""
        bridge: Any = self._bridges.get(self._want.bridge)
        if bridge is None:
            self.found.append(f"bridge {self._want.bridge} is missing")
            bridge = self._create_bridge()
        else:
            self._check_bridge(bridge)
        self._controllers(bridge)
        self._ports(bridge)
        self._exporters(bridge)
        if self._want.queues is not None:
            mark = OWNER, self._want.owner
            Mending(mark, self._rows, self._seen, self.found, self._txn).run(self._want.queues)
        return self.found

    # --- the bridge ------------------------------------------------------------------------------------------------

    def _create_bridge(self) -> Any:
        if self._txn is None:
            return None
        want = self._want
        mark = {OWNER: want.owner}
        interface = self._insert("Interface", name=want.bridge, type="internal", external_ids=mark)
        port = self._insert("Port", name=want.bridge, interfaces=[interface], external_ids=mark)
        bridge = self._insert(
            "Bridge",
            name=want.bridge,
            ports=[port],
            datapath_type=self._new_datapath_type(),
            fail_mode="secure",
            protocols=PROTOCOLS,
            other_config=self._other_config(),
            external_ids=mark | {CREATED: "true"},
        )
        self._root().addvalue("bridges", bridge)
        return bridge

    def _check_bridge(self, bridge: Row) -> None:
        name = self._want.bridge
        self._column(bridge, "fail_mode", ["secure"], name)
        self._column(bridge, "protocols", PROTOCOLS, name)
        if self._want.datapath_type != "auto":
            self._column(bridge, "datapath_type", self._want.datapath_type, name, datapath_type(bridge))
        self._keys(bridge, "other_config", self._other_config(), name)
        self._keys(bridge, "external_ids", {OWNER: self._want.owner}, name)

    def _other_config(self) -> dict[str, str]:
        return {"datapath-id": f"{self._want.datapath_id:016x}", "disable-in-band": "true"}

    def _new_datapath_type(self) -> str:
        """Wanted type, else that of the bridge with the underlay interface, else what the host says, else system."""
        if self._want.datapath_type != "auto":
            return self._want.datapath_type
        port = self._seen.port_of.get(self._seen.underlay) if self._seen.underlay else None
        holder = _holder(self._bridges, port) if port is not None else None
        if holder is not None:
            return str(read(holder, "datapath_type"))
        return str(read(self._root(), "external_ids").get(DATAPATH_TYPE, "system"))

    # --- the controllers -------------------------------------------------------------------------------------------

    def _controllers(self, bridge: Any) -> None:
        if not self._want.controllers:
            return
        there = [] if _is_new(bridge) else read(bridge, "controller")
        present = {read(row, "target"): row for row in there}
        for target in present.keys() - set(self._want.controllers):
            self.found.append(f"controller {target} does not belong to {self._want.bridge}")
        rows = []
        for target in self._want.controllers:
            row = present.get(target)
            if row is None:
                self._note_unless_new(bridge, f"controller {target} is missing")
                row = self._insert("Controller", target=target, **CONTROLLER)
            else:
                for column, value in CONTROLLER.items():
                    self._column(row, column, value, f"controller {target}")
            rows.append(row)
        if self._txn is not None and {row.uuid for row in rows} != {row.uuid for row in there}:
            bridge.controller = rows

    # --- NovaNet's own ports ---------------------------------------------------------------------------------------

    def _ports(self, integration: Any) -> None:
        outside = {"", *self._bridges} - {self._want.bridge}
        wanted = {port.name: port for port in self._want.ports if port.outside in outside}
        self._remove_others(wanted)
        doubtful = {name: port for name, port in wanted.items() if name not in self._sound}
        numbers = self._numbers(wanted) if doubtful else {}
        for name, want in doubtful.items():
            bridge = self._bridges[want.outside] if want.there else integration
            port = self._port(name)
            if port is None:
                if self._added < PORTS_AT_ONCE:
                    self._note_unless_new(bridge, f"port {name} is missing")
                    self._create_port(bridge, want, numbers[name])
            else:
                before = len(self.found)
                if self._at_home(port, bridge, want):
                    self._check_port(port, want, numbers[name])
                    if len(self.found) == before:
                        self._sound.add(name)

    def _port(self, name: str) -> Row | None:
        uuid = self._seen.own_ports.get(name)
        return self._rows("Port").get(uuid) if uuid is not None else None

    def _is_ours(self, port: Row) -> bool:
        return bool(read(port, "external_ids").get(OWNER) == self._want.owner)

    def _remove_others(self, wanted: Mapping[str, OwnPort]) -> None:
        """Take away what NovaNet made and needs no more."""
        for name, uuid in self._seen.own_ports.items():
            port = None if name in wanted else self._rows("Port").get(uuid)
            if port is None or not self._is_ours(port):
                continue
            holder = _holder(self._bridges, uuid)
            if holder is not None and (self._want.probing or not name.startswith(PROBE_PREFIX)):
                self.found.append(f"port {name} is not wanted")
                if self._txn is not None:
                    holder.delvalue("ports", port)

    def _numbers(self, wanted: Mapping[str, OwnPort]) -> dict[str, list[int]]:
        """The OpenFlow port that each asks for: the one that it has asked for before, else the first that is free.

        So a port that comes or goes does not renumber the others. Where all are taken, vswitchd chooses.
        """
        found: dict[str, list[int]] = {name: [] for name in wanted}
        taken: set[int] = set()
        for name, want in wanted.items():
            uuid = self._seen.own_interfaces.get(name)
            row = self._rows("Interface").get(uuid) if uuid is not None else None
            number = read(row, "ofport_request") if row is not None else []
            if number and number[0] in want.numbers and number[0] not in taken:
                taken.add(number[0])
                found[name] = number
        free = {numbers.start: iter(numbers) for numbers in (PROBE_NUMBERS, WIRE_NUMBERS, TUNNEL_NUMBERS)}
        for name, want in wanted.items():
            if want.numbers and not found[name]:
                found[name] = _next(free[want.numbers.start], taken)
        return found

    def _create_port(self, bridge: Any, want: OwnPort, number: list[int]) -> None:
        self._added += 1
        if self._txn is None:
            return
        mark = {OWNER: self._want.owner}
        interface = self._insert(
            "Interface",
            name=want.name,
            type=want.type,
            options=want.options,
            ofport_request=number,
            bfd=want.bfd,
            external_ids=mark,
        )
        bridge.addvalue("ports", self._insert("Port", name=want.name, interfaces=[interface], external_ids=mark))

    def _at_home(self, port: Row, bridge: Any, want: OwnPort) -> bool:
        """Whether the port is on its bridge; one of ours is moved there. Others are left alone, see ``elsewhere``."""
        if not _is_new(bridge) and has(bridge, "ports", port.uuid):
            return True
        holder = _holder(self._bridges, port.uuid)
        if holder is None or not self._is_ours(port):
            return False
        self.found.append(f"port {want.name} is on bridge {read(holder, 'name')}")
        if self._txn is not None:
            holder.delvalue("ports", port)
            bridge.addvalue("ports", port)
        return True

    def _check_port(self, port: Row, want: OwnPort, number: list[int]) -> None:
        self._keys(port, "external_ids", {OWNER: self._want.owner}, want.name)
        for interface in read(port, "interfaces"):
            self._column(interface, "type", want.type, want.name)
            self._column(interface, "options", want.options, want.name)
            self._column(interface, "ofport_request", number, want.name)
            self._column(interface, "bfd", want.bfd, want.name)

    # --- exporters -------------------------------------------------------------------------------------------------

    def _exporters(self, bridge: Any) -> None:
        """What the bridge exports; what somebody else has set up stays, see ``elsewhere``."""
        if self._want.exporters is None:
            return
        wanted = {each.column: each for each in self._want.exporters}
        for column, table in COLUMNS.items():
            there = None if _is_new(bridge) else exporter(bridge, column)
            if there is not None and not self._is_ours(there):
                continue
            want = wanted.get(column)
            if want is None:
                if there is not None:
                    self.found.append(f"{column} is not wanted")
                    if self._txn is not None:
                        setattr(bridge, column, [])
            elif there is None:
                self._note_unless_new(bridge, f"{column} is not exported")
                if self._txn is not None:
                    marks = {OWNER: self._want.owner, EXPORTER: want.mark}
                    row = self._insert(table, external_ids=marks, **want.columns)
                    setattr(bridge, column, [row])
            else:
                self._keys(there, "external_ids", {EXPORTER: want.mark}, column)
                for name, value in want.columns.items():
                    have = read(there, name)
                    self._column(there, name, value, column, sorted(have) if name == "targets" else have)

    # --- rows ------------------------------------------------------------------------------------------------------

    def _root(self) -> Row:
        return next(iter(self._rows("Open_vSwitch").values()))

    def _insert(self, table: str, **columns: Any) -> Any:
        if self._txn is None:
            return None
        row = self._txn.insert(self._txn.idl.tables[table])
        for column, value in columns.items():
            setattr(row, column, value)
        return row

    def _note_unless_new(self, bridge: Row | None, text: str) -> None:
        if not _is_new(bridge):
            self.found.append(text)

    def _column(self, row: Row, column: str, want: Any, what: str, have: Any = None) -> None:
        have = read(row, column) if have is None else have
        if have != want:
            self.found.append(f"{what}: {column} is {_show(have)} instead of {_show(want)}")
            if self._txn is not None:
                setattr(row, column, want)

    def _keys(self, row: Row, column: str, want: dict[str, str], what: str) -> None:
        have = read(row, column)
        for key, value in want.items():
            if have.get(key) != value:
                self.found.append(f"{what}: {column}:{key} is {_show(have.get(key))} instead of {value}")
                if self._txn is not None:
                    row.setkey(column, key, value)


def forget(want: Desired, rows: Rows, seen: Inventory) -> Callable[[Transaction, Idl], None]:
    """For Session.transact: remove what NovaNet made. A bridge goes if it was made here and no VM is plugged."""

    def build(txn: Transaction, _idl: Idl) -> None:
        Mending((OWNER, want.owner), rows, seen, [], txn).run(())
        present = bridges(rows)
        for uuid in seen.own_ports.values():
            port, holder = rows("Port").get(uuid), _holder(present, uuid)
            if port is not None and holder is not None and read(port, "external_ids").get(OWNER) == want.owner:
                holder.delvalue("ports", port)
        bridge = present.get(want.bridge)
        if bridge is None or read(bridge, "external_ids").get(OWNER) != want.owner:
            return
        if CREATED in read(bridge, "external_ids") and not seen.plugged():
            for root in rows("Open_vSwitch").values():
                root.delvalue("bridges", bridge)
            return
        bridge.controller = []
        for column in COLUMNS:
            there = exporter(bridge, column)
            if there is not None and read(there, "external_ids").get(OWNER) == want.owner:
                setattr(bridge, column, [])
        for key in (OWNER, CREATED):
            bridge.delkey("external_ids", key)

    return build


def elsewhere(want: Desired, rows: Rows, seen: Inventory, sound: set[str]) -> Iterator[str]:
    """What cannot be repaired, because it is somebody else's; ports in `sound` are not looked at."""
    present = bridges(rows)
    integration = present.get(want.bridge)
    for each in want.exporters or ():
        there = exporter(integration, each.column) if integration is not None else None
        if there is not None and read(there, "external_ids").get(OWNER) != want.owner:
            yield (
                f"{each.column}: somebody else exports from {want.bridge} to {', '.join(read(there, 'targets'))}; remove it with "
                f"`ovs-vsctl clear bridge {want.bridge} {each.column}`, or the hypervisor from the flow-exporter"
            )
    yield from taken(want.queues or (), (OWNER, want.owner), rows, seen)
    for wire in want.wires:
        name, physical = wire.here.outside, wire.physical_network
        outside = present.get(name)
        if outside is None:
            yield (
                f"bridge {name} of physical network {physical} is missing: create it there, or correct the "
                "hypervisor's bridge_mappings"
            )
        elif name == want.bridge:
            yield f"bridge {name} cannot lead to physical network {physical}: it is the integration bridge"
        elif integration is not None and datapath_type(outside) != datapath_type(integration):
            yield (
                f"bridge {name} of physical network {physical} has datapath_type {datapath_type(outside)}, "
                f"{want.bridge} has {datapath_type(integration)}: nothing passes between them; make them equal"
            )
    for port in want.ports:
        uuid = seen.own_ports.get(port.name) if port.name not in sound else None
        row, holder = rows("Port").get(uuid) if uuid else None, _holder(present, uuid) if uuid else None
        home = port.outside if port.there else want.bridge
        if row is not None and holder is not None and read(holder, "name") != home:
            if read(row, "external_ids").get(OWNER) != want.owner:
                yield f"a port named {port.name} is on another bridge; remove it or rename it"


def bridges(rows: Rows) -> dict[str, Row]:
    """The bridges that there are, by name."""
    return {read(row, "name"): row for row in rows("Bridge").values() if not _is_new(row)}


def exporter(bridge: Row, column: str) -> Row | None:
    """The row of a bridge's sFlow, NetFlow or IPFIX."""
    found = read(bridge, column)
    return found[0] if found else None


def datapath_type(bridge: Row) -> str:
    """``system``, which a bridge may leave out, or ``netdev``."""
    return str(read(bridge, "datapath_type") or "system")


def _holder(present: Mapping[str, Row], port: UUID) -> Row | None:
    """The bridge that has the port."""
    return next((bridge for bridge in present.values() if has(bridge, "ports", port)), None)


def _next(numbers: Iterator[int], taken: set[int]) -> list[int]:
    """The next number that nobody has, as a column has it; empty when there is none."""
    return next(([number] for number in numbers if number not in taken), [])


def _is_new(row: Row | None) -> bool:
    """Whether the row exists only within this transaction, or not yet at all."""
    return row is None or row._data is None


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={text}" for key, text in sorted(value.items())) or "empty"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "empty"
    return "empty" if value in (None, "") else str(value)
