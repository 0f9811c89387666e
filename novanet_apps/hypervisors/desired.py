"""What the integration bridge of a hypervisor has to look like, and the transaction that makes it so.

One pass serves both purposes: without a transaction it only says what is wrong, with one it also puts it right.
Nothing but the integration bridge and what NovaNet made in it is ever touched (columns: ovs-vswitchd.conf.db(5)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from ovs.db.idl import Idl, Row, Transaction

from novanet_apps.hypervisors.inventory import TUNNEL_PORT, Inventory
from novanet_apps.ovsdb.session import read
from topology.model import Hypervisor, TunnelMesh

OWNER = "novanet-owner"
"""Key in external_ids: the id of the hypervisor object for which NovaNet made or took over the row."""
CREATED = "novanet-created"
"""Key in a bridge's external_ids: NovaNet made it and may remove it."""
DATAPATH_TYPE = "novanet-datapath-type"
"""Key in Open_vSwitch's external_ids with which a host says which datapath type a new bridge shall have."""

TUNNEL_OFPORT = 65000
DEFAULT_UDP_PORT = {"geneve": 6081, "vxlan": 4789}
PROTOCOLS = ["OpenFlow13", "OpenFlow14", "OpenFlow15"]
CONTROLLER = {"connection_mode": ["out-of-band"], "inactivity_probe": [5000], "max_backoff": [1000]}
"""Reconnection within a second; probes that a busy controller still answers."""

TABLES = {
    "Open_vSwitch": ["bridges", "external_ids", "ovs_version"],
    "Bridge": [
        "name", "ports", "datapath_type", "datapath_id", "fail_mode", "protocols", "controller", "other_config",
        "external_ids",
    ],
    "Port": ["name", "interfaces", "external_ids"],
    "Interface": [
        "name", "type", "ofport", "ofport_request", "external_ids", "options", "mtu", "error", "admin_state",
    ],
    "Controller": ["target", "is_connected", "connection_mode", "inactivity_probe", "max_backoff"],
}  # fmt: skip
"""What is replicated: no column with statistics, so that a hypervisor at rest sends nothing."""

Rows = Callable[[str], Mapping[UUID, Row]]


def datapath_id(hypervisor_key: int) -> int:
    """The OpenFlow datapath id of a hypervisor's bridge: "NN", then the 48-bit key."""
    return 0x4E4E << 48 | hypervisor_key


class Tunnel(NamedTuple):
    """The port that carries the mesh: flow-based, one for all peers."""

    type: str
    options: dict[str, str]


class Desired(NamedTuple):
    """What a hypervisor's integration bridge has to be."""

    owner: str
    bridge: str
    datapath_type: str
    datapath_id: int
    controllers: tuple[str, ...]
    tunnel: Tunnel | None


def desired(hypervisor: Hypervisor, mesh: TunnelMesh | None, controllers: tuple[str, ...]) -> Desired:
    """Derive it from the intent; a hypervisor without tunnel_ip gets no tunnel port."""
    return Desired(
        owner=hypervisor.id,
        bridge=hypervisor.bridge,
        datapath_type=hypervisor.datapath_type,
        datapath_id=datapath_id(hypervisor.hypervisor_key or 0),
        controllers=controllers,
        tunnel=_tunnel(hypervisor.tunnel_ip, mesh or TunnelMesh(id="")) if hypervisor.tunnel_ip else None,
    )


def _tunnel(tunnel_ip: str, mesh: TunnelMesh) -> Tunnel:
    port = mesh.udp_port or DEFAULT_UDP_PORT[mesh.tunnel_type]
    options = {"remote_ip": "flow", "key": "flow", "dst_port": str(port)}
    if ":" in tunnel_ip:
        options["csum"] = "true"  # RFC 8200 §8.1: UDP over IPv6 without checksum is dropped
    return Tunnel(mesh.tunnel_type, options)


class Repair:
    """One pass over a hypervisor's rows; `found` lists what was not as desired."""

    def __init__(self, want: Desired, rows: Rows, seen: Inventory, txn: Transaction | None = None) -> None:
        self.found: list[str] = []
        self._want = want
        self._rows = rows
        self._seen = seen
        self._txn = txn

    @classmethod
    def transaction(cls, want: Desired, rows: Rows, seen: Inventory) -> Callable[[Transaction, Idl], list[str]]:
        """For Session.transact: repairs, and returns what it found wrong."""
        return lambda txn, _idl: cls(want, rows, seen, txn).run()

    def run(self) -> list[str]:
        """Look, repair where there is a transaction, and return what was wrong."""
        bridge = self._find("Bridge", self._want.bridge)
        if bridge is None:
            self.found.append(f"bridge {self._want.bridge} is missing")
            bridge = self._create_bridge()
        else:
            self._check_bridge(bridge)
        self._controllers(bridge)
        self._tunnel(bridge)
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
            present = read(bridge, "datapath_type") or "system"
            self._column(bridge, "datapath_type", self._want.datapath_type, name, present)
        self._keys(bridge, "other_config", self._other_config(), name)
        self._keys(bridge, "external_ids", {OWNER: self._want.owner}, name)

    def _other_config(self) -> dict[str, str]:
        return {"datapath-id": f"{self._want.datapath_id:016x}", "disable-in-band": "true"}

    def _new_datapath_type(self) -> str:
        """Wanted type, else that of the bridge with the underlay interface, else what the host says, else system."""
        if self._want.datapath_type != "auto":
            return self._want.datapath_type
        port = self._seen.port_of.get(self._seen.underlay) if self._seen.underlay else None
        if port is not None:
            for bridge in self._rows("Bridge").values():
                if any(port == member.uuid for member in read(bridge, "ports")):
                    return str(read(bridge, "datapath_type"))
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

    # --- the tunnel port -------------------------------------------------------------------------------------------

    def _tunnel(self, bridge: Any) -> None:
        port = self._rows("Port").get(self._seen.tunnel_port) if self._seen.tunnel_port else None
        want = self._want.tunnel
        if port is not None and port.uuid not in self._seen.ports:
            return  # somebody else's, see elsewhere()
        if want is None:
            if port is not None and OWNER in read(port, "external_ids"):
                self.found.append(f"port {TUNNEL_PORT} is not wanted: the hypervisor has no tunnel_ip")
                if self._txn is not None:
                    bridge.delvalue("ports", port)
        elif port is None:
            self._note_unless_new(bridge, f"port {TUNNEL_PORT} is missing")
            self._create_tunnel(bridge, want)
        else:
            self._keys(port, "external_ids", {OWNER: self._want.owner}, TUNNEL_PORT)
            for interface in read(port, "interfaces"):
                self._column(interface, "type", want.type, TUNNEL_PORT)
                self._column(interface, "options", want.options, TUNNEL_PORT)
                self._column(interface, "ofport_request", [TUNNEL_OFPORT], TUNNEL_PORT)

    def _create_tunnel(self, bridge: Any, want: Tunnel) -> None:
        if self._txn is None:
            return
        mark = {OWNER: self._want.owner}
        interface = self._insert(
            "Interface",
            name=TUNNEL_PORT,
            type=want.type,
            options=want.options,
            ofport_request=[TUNNEL_OFPORT],
            external_ids=mark,
        )
        bridge.addvalue("ports", self._insert("Port", name=TUNNEL_PORT, interfaces=[interface], external_ids=mark))

    # --- rows ------------------------------------------------------------------------------------------------------

    def _find(self, table: str, name: str) -> Row | None:
        return next((row for row in self._rows(table).values() if not _is_new(row) and read(row, "name") == name), None)

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

    def build(_txn: Transaction, _idl: Idl) -> None:
        bridge = next((row for row in rows("Bridge").values() if read(row, "name") == want.bridge), None)
        if bridge is None or read(bridge, "external_ids").get(OWNER) != want.owner:
            return
        if CREATED in read(bridge, "external_ids") and not seen.plugged():
            for root in rows("Open_vSwitch").values():
                root.delvalue("bridges", bridge)
            return
        bridge.controller = []
        for key in (OWNER, CREATED):
            bridge.delkey("external_ids", key)
        port = rows("Port").get(seen.tunnel_port) if seen.tunnel_port in seen.ports else None
        if port is not None and OWNER in read(port, "external_ids"):
            bridge.delvalue("ports", port)

    return build


def _is_new(row: Row | None) -> bool:
    """Whether the row exists only within this transaction, or not yet at all."""
    return row is None or row._data is None


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={text}" for key, text in sorted(value.items())) or "empty"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "empty"
    return "empty" if value in (None, "") else str(value)


def elsewhere(rows: Rows, seen: Inventory) -> Iterator[str]:
    """What cannot be repaired, because it is somebody else's."""
    if seen.tunnel_port and seen.tunnel_port in rows("Port") and seen.tunnel_port not in seen.ports:
        yield f"tunnel port: a port named {TUNNEL_PORT} is on another bridge; remove it or rename it"
