"""The hypervisor's OVSDB: who this hypervisor is, and the agent's port on the integration bridge.

The port is made anew whenever the agent starts, since vswitchd holds on to the device that a port had first. Its rows carry
``OWNER``; a port of that name that does not is somebody else's, and stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

import eventlet

from novanet_apps.host_agent import queues
from novanet_apps.host_agent.hands_off import HandsOff
from novanet_apps.ovsdb.link import OvsdbError
from novanet_apps.ovsdb.session import RowEvent, Session, members, read
from topology.health import AGENT_OWNER, AGENT_PORT
from topology.model import IFACE_ID

LOG = logging.getLogger(__name__)

OWNER = AGENT_OWNER
"""Key in external_ids of what the agent made."""
OFPORT = 65010
"""OpenFlow port to ask for, so that it stays the same."""
WITHOUT_QUEUES = ("afxdp", "afxdp-nonpmd", "dpdk", "dpdkvhostuser", "dpdkvhostuserclient")
"""Types of interfaces whose packets do not pass Linux's queues."""
WITHOUT_QUEUES_OF_VM = (*WITHOUT_QUEUES, "internal", "tap", "patch")
"""… of which Open vSwitch made the device itself: what it sends there the device receives."""
FOLLOWING = 10.0
"""Seconds that vswitchd has to follow."""
TABLES = {
    "Open_vSwitch": ["external_ids", "cur_cfg"],
    "Bridge": ["name", "ports", "datapath_type"],
    "Port": ["name", "interfaces", "qos", "external_ids"],
    "Interface": ["name", "type", "ofport", "error", "external_ids"],
    **queues.TABLES,
}


class LocalBridge:
    """One session with the hypervisor's own OVSDB; ``changed`` is called when something in it is other than before."""

    def __init__(self, remote: str, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.session = Session(
            "this hypervisor", remote, database="Open_vSwitch", tables=TABLES, on_rows=self._on_rows, on_state=self._on_state,
        )  # fmt: skip
        for table in ("Port", "Interface"):
            self.session.restrict(table, [["name", "==", AGENT_PORT]])

        self._watched: tuple[set[str], set[str]] = set(), set()
        self._ports: list[Any] = []
        """Conditions of the ports that are replicated."""
        self._hands_off = HandsOff(self.session, (OWNER, "shaping"))

    def start(self) -> None:
        """Begin to connect."""
        self.session.start()

    def watch(self, interfaces: set[str], vms: set[str]) -> None:
        """Look at these interfaces, and those of these VMs' ports, and the ports of Open vSwitch that they belong to, too."""
        if (interfaces, vms) != self._watched:
            self._watched = set(interfaces), set(vms)
            named = [["name", "==", name] for name in sorted({AGENT_PORT, *interfaces})]
            plugged = [["external_ids", "includes", ["map", [[IFACE_ID, id]]]] for id in sorted(vms)]
            self.session.restrict("Interface", named + plugged)

    def interfaces(self, vms: set[str]) -> dict[str, str]:
        """The names of the interfaces of VMs' ports that are watched and plugged, each with the port's id."""
        rows = self.session.rows("Interface").values() if self.session.synced else ()
        found = ((str(read(row, "name")), read(row, "external_ids").get(IFACE_ID)) for row in rows)
        return {name: id for name, id in sorted(found) if id in vms}

    def not_ours(self, vms: Collection[str]) -> dict[str, str]:
        """Of which interfaces that are watched, uplinks and these of VMs, the queues cannot be the agent's, and why."""
        found = {}
        for row in self.session.rows("Interface").values() if self.session.synced else ():
            name, kind = str(read(row, "name")), read(row, "type")
            if kind in (WITHOUT_QUEUES_OF_VM if name in vms else WITHOUT_QUEUES):
                found[name] = f"packets of interfaces of type {kind} do not pass Linux's queues"
        return found | self._hands_off.errors()

    def queued(self, interface: str, bridge: str) -> bool:
        """Whether Open vSwitch shapes an interface that is watched, as the controller tells it. Not while it leaves that to the agent: the
        controller takes it over from there."""
        return queues.honoured(self.session, interface, bridge) and not self._hands_off.are_off(interface)

    def classes(self, interface: str) -> dict[str, int]:
        """Numbers of the classes that it has for it, by name."""
        return queues.classes(self.session, interface)

    def keep_hands_off(self, interfaces: set[str]) -> None:
        """Have Open vSwitch leave the queues of these interfaces alone, and of no others. Raises OvsdbError."""
        operations = self._hands_off.operations(interfaces)
        if operations:
            self._transact(*operations)

    def stop(self) -> None:
        """Close the session."""
        self.session.stop()

    @property
    def system_id(self) -> str:
        """Who this hypervisor is; empty while that is not known."""
        rows = self.session.rows("Open_vSwitch").values() if self.session.synced else ()
        return next((str(read(row, "external_ids").get("system-id", "")) for row in rows), "")

    def has(self, bridge: str) -> bool:
        """Whether the bridge is there."""
        return self._bridge(bridge) is not None

    def datapath_type(self, bridge: str) -> str:
        """``netdev`` for Open vSwitch's own datapath, ``system`` or nothing for the kernel's; nothing where there is no bridge."""
        row = self._bridge(bridge)
        return "" if row is None else str(read(row, "datapath_type"))

    def is_plugged(self, bridge: str) -> bool:
        """Whether the agent's port is on the bridge."""
        row, port = self._bridge(bridge), self._port()
        return row is not None and port is not None and port.uuid in set(members(row, "ports"))

    @property
    def broken(self) -> str:
        """What vswitchd could not do with the port; empty when it could, or has not yet."""
        for row in self.session.rows("Interface").values():
            if read(row, "name") != AGENT_PORT:
                continue
            error = read(row, "error")
            if error or read(row, "ofport") == [-1]:
                return str(error[0]) if error else "could not be opened"
        return ""

    def plug(self, bridge: str) -> None:
        """Add the port to the bridge. Raises OvsdbError."""
        mark = ["map", [[OWNER, "health"]]]
        interface = {"name": AGENT_PORT, "ofport_request": OFPORT, "external_ids": mark}
        port = {"name": AGENT_PORT, "interfaces": ["named-uuid", "agent_interface"], "external_ids": mark}
        self._transact(
            {"op": "insert", "table": "Interface", "uuid-name": "agent_interface", "row": interface},
            {"op": "insert", "table": "Port", "uuid-name": "agent_port", "row": port},
            {
                "op": "mutate", "table": "Bridge", "where": [["name", "==", bridge]],
                "mutations": [["ports", "insert", ["set", [["named-uuid", "agent_port"]]]]],
            },
        )  # fmt: skip

    def unplug(self) -> None:
        """Take the port away from wherever it is, and wait until vswitchd has let go of it. Raises OvsdbError."""
        port = self._port()
        if port is None:
            return
        if OWNER not in read(port, "external_ids"):
            raise OvsdbError(f"a port named {AGENT_PORT} is there that is not the agent's: remove it or rename it")
        gone = ["set", [["uuid", str(port.uuid)]]]
        mutate = {
            "op": "mutate",
            "table": "Bridge",
            "where": [["ports", "includes", gone]],
            "mutations": [["ports", "delete", gone]],
        }
        before = self._done()
        self._transact(
            mutate, {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["next_cfg", "+=", 1]]}
        )
        with eventlet.Timeout(FOLLOWING, False):
            while self._done() == before:
                eventlet.sleep(0.02)

    def _transact(self, *operations: dict[str, Any]) -> None:
        def build(txn: Any, idl: Any) -> None:
            for operation in operations:
                txn.add_op(operation)

        self.session.transact(build)

    def _done(self) -> int:
        """The last configuration that vswitchd has realised."""
        return next((read(row, "cur_cfg") for row in self.session.rows("Open_vSwitch").values()), 0)

    def _bridge(self, name: str) -> Any:
        rows = self.session.rows("Bridge").values() if self.session.synced else ()
        return next((row for row in rows if read(row, "name") == name), None)

    def _port(self) -> Any:
        return next((row for row in self.session.rows("Port").values() if read(row, "name") == AGENT_PORT), None)

    def _on_rows(self, events: list[RowEvent]) -> None:
        if any(event.table == "Interface" for event in events):
            uuids = sorted(str(uuid) for uuid in self.session.rows("Interface"))
            ports = [["name", "==", AGENT_PORT], *(["interfaces", "includes", ["uuid", uuid]] for uuid in uuids)]
            if ports != self._ports:
                self._ports = ports
                self.session.restrict("Port", ports)
        if any(event.table != "Open_vSwitch" or event.op != "update" for event in events):
            self._changed()

    def _on_state(self, connected: bool, error: str) -> None:
        LOG.info("this hypervisor's OVSDB: %s", "connected" if connected else error)
        self._changed()
