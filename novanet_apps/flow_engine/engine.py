"""The flow engine: which bridge is whose, and what is wanted of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import eventlet

from novanet_apps.compat import CONNECTIONS, Datapath
from pipelines.compiler import Owner
from pipelines.flow import Action, Rule
from pipelines.ledger import Snapshot
from pipelines.wire import FlowEntry, Message, MeterCount, MeterFeatures, PortStatus, Tracked, Type, read

from . import reading
from .bridge import Bridge
from .counters import Counters
from .lag import watch_loop
from .session import Session

LOG = logging.getLogger(__name__)

FIRST_RESERVED_PORT = 0xFFFFFF00
PortSeen = Callable[[str, str, int | None], None]
"""(hypervisor, name of the port, its number or None when it is gone); no name: forget all that were told."""
PacketIn = Callable[[str, bytes], None]
"""(hypervisor, the whole OFPT_PACKET_IN message)."""


class FlowEngine:
    """Keeps every bridge as its owners want it. An owner is ``(kind, id)``; nothing here blocks its caller."""

    def __init__(self, core: object = None) -> None:
        self.counters = Counters()
        self._bridges: dict[str, Bridge] = {}
        self._expected: dict[int, str] = {}
        self._connected: dict[int, Datapath] = {}
        self._refusals: dict[int, str] = {}
        self._confirmed: list[Callable[[str], None]] = []
        self._recompile: list[Callable[[str], None]] = []
        self._packet_in: list[PacketIn] = []
        self._port_seen: list[PortSeen] = []
        self._watch: Any = None
        CONNECTIONS.counters = self.counters
        CONNECTIONS.observers.append(self)

    def start(self) -> None:
        """Begin to watch the event loop. Connections are served from the moment that Ryu listens."""
        self._watch = eventlet.spawn(watch_loop, self.counters)

    def stop(self) -> None:
        """Let the switches go; they keep what they have."""
        if self in CONNECTIONS.observers:
            CONNECTIONS.observers.remove(self)
        for bridge in self._bridges.values():
            bridge.detach("the controller ends")
        if self._watch is not None:
            self._watch.kill()

    # --- what is wanted ------------------------------------------------------------------------------------------

    def expect(self, hypervisor_id: str, dpid: int) -> None:
        """The hypervisor's bridge has this datapath id. Until this is said, a switch is left alone."""
        for old in [known for known, whose in self._expected.items() if whose == hypervisor_id and known != dpid]:
            del self._expected[old]
            self._bridge(hypervisor_id).detach("the hypervisor's bridge has another datapath id now")
        if self._expected.get(dpid, hypervisor_id) != hypervisor_id:
            LOG.error("datapath id %#x is expected of two hypervisors; %s loses it", dpid, self._expected[dpid])
            self._bridge(self._expected[dpid]).detach("another hypervisor claims its datapath id")
        self._expected[dpid] = hypervisor_id
        bridge = self._bridge(hypervisor_id)
        if dpid in self._connected and not bridge.connected:
            self._attach(bridge, self._connected[dpid])

    bind = expect

    def put(self, hypervisor_id: str, wanted: dict[Owner, list[Rule]]) -> None:
        """Replace what these owners want on that bridge; an empty list takes all of an owner's away."""
        self._bridge(hypervisor_id).put(wanted)

    def complete(self, hypervisor_id: str) -> None:
        """The first full set has been put: the bridge may be read, compared and changed."""
        self._bridge(hypervisor_id).complete()

    def forget(self, hypervisor_id: str) -> None:
        """The hypervisor is NovaNet's no longer. Its bridge keeps what it has."""
        for dpid in [known for known, whose in self._expected.items() if whose == hypervisor_id]:
            del self._expected[dpid]
        bridge = self._bridges.pop(hypervisor_id, None)
        if bridge is not None:
            bridge.detach("the hypervisor was taken away")

    def fence(self, hypervisor_id: str, generation: int) -> None:
        """Claim the bridge anew with a term: a 64-bit number that grows with every change of who is responsible."""
        self._bridge(hypervisor_id).fence(generation)

    # --- how far it is -------------------------------------------------------------------------------------------

    def pending(self, hypervisor_id: str, owner: Owner) -> bool:
        """Whether the bridge has yet to confirm what the owner wants of it."""
        bridge = self._bridges.get(hypervisor_id)
        return bridge is not None and bridge.pending(owner)

    def unconfirmed(self, hypervisor_id: str) -> set[Owner] | None:
        """The owners whose wishes the bridge has yet to confirm; None while it is not known what the bridge has."""
        bridge = self._bridges.get(hypervisor_id)
        return None if bridge is None else bridge.unconfirmed()

    def error(self, hypervisor_id: str, owner: Owner) -> str:
        """Why the bridge does not do what the owner wants; empty when it does, or has yet to answer."""
        bridge = self._bridges.get(hypervisor_id)
        return "" if bridge is None else bridge.error(owner)

    def connected(self, hypervisor_id: str) -> bool:
        """Whether the hypervisor's bridge is connected; cheap, unlike ``state``."""
        bridge = self._bridges.get(hypervisor_id)
        return bridge is not None and bridge.connected

    def state(self, hypervisor_id: str) -> dict[str, Any]:
        """What is known of a bridge: ``connected``, ``version``, ``synced``, ``pending`` (owners), ``error`` …"""
        bridge = self._bridges.get(hypervisor_id)
        if bridge is None:
            return {"connected": False, "error": "nothing is wanted of this hypervisor"}
        state = bridge.state()
        dpid = next((dpid for dpid, whose in self._expected.items() if whose == hypervisor_id), None)
        state["dpid"] = None if dpid is None else f"{dpid:016x}"
        if not state["connected"] and dpid in self._refusals:
            state["error"] = self._refusals[dpid]
        return state

    def unknown(self) -> list[dict[str, Any]]:
        """Switches that are connected although no hypervisor is expected with their datapath id; they are left alone."""
        return [
            {"dpid": f"{dpid:016x}", "address": str(datapath.address)}
            for dpid, datapath in self._connected.items()
            if dpid not in self._expected
        ]

    def counted(self, hypervisor_id: str, owner: Owner, timeout: float) -> list[FlowEntry] | None:
        """An owner's flows on a bridge with their counters, read now; None when they cannot be had in ``timeout`` seconds."""
        bridge = self._bridges.get(hypervisor_id)
        return None if bridge is None else bridge.counted(owner, timeout)

    def counted_in(self, hypervisor_id: str, table: int, timeout: float) -> list[FlowEntry] | None:
        """All flows of a table of a bridge with their counters; None as above."""
        bridge = self._bridges.get(hypervisor_id)
        return None if bridge is None else bridge.ask(lambda session: reading.read_counted_in(session, table), timeout)

    def meter_counters(self, hypervisor_id: str, timeout: float) -> list[MeterCount] | None:
        """What the meters of a bridge have seen, read now; None when that cannot be had in ``timeout`` seconds."""
        bridge = self._bridges.get(hypervisor_id)
        return None if bridge is None else bridge.ask(reading.read_meter_counters, timeout)

    def meter_bodies(self, hypervisor_id: str, timeout: float) -> dict[int, bytes] | None:
        """The meters of a bridge as ``wire.encode_meter`` writes them, by number, read now; None as above."""
        bridge = self._bridges.get(hypervisor_id)
        return None if bridge is None else bridge.ask(reading.read_meters, timeout)

    def meter_features(self, hypervisor_id: str, timeout: float) -> MeterFeatures | None:
        """What meters a bridge can have; None as above."""
        bridge = self._bridges.get(hypervisor_id)
        return None if bridge is None else bridge.ask(reading.read_meter_features, timeout)

    def meters(self, hypervisor_id: str) -> int:
        """How many meters are wanted of a bridge."""
        bridge = self._bridges.get(hypervisor_id)
        return 0 if bridge is None or bridge.ledger is None else bridge.ledger.meters

    def snapshot(self, hypervisor_id: str) -> Snapshot | None:
        """The flows and groups of a bridge as they were last sent; None when it has not been connected yet."""
        bridge = self._bridges.get(hypervisor_id)
        return None if bridge is None or bridge.ledger is None else bridge.ledger.snapshot()

    def packet_out(self, hypervisor_id: str, frame: bytes, actions: tuple[Action, ...], in_port: int) -> bool:
        """Have a bridge do something with a frame (OFPT_PACKET_OUT); never waits. False when it is not connected."""
        bridge = self._bridges.get(hypervisor_id)
        return bridge is not None and bridge.packet_out(frame, actions, in_port)

    def forget_connections(self, hypervisor_id: str, zone: int | None, match: Tracked | None = None) -> bool:
        """Have a bridge's conntrack forget a zone, before what is put next, or what matches in it, or in all zones (None).

        False when the bridge is not connected, or has refused to forget what matches: Open vSwitch before 3.1 does.
        """
        bridge = self._bridges.get(hypervisor_id)
        return bridge is not None and bridge.forget_connections(zone, match)

    def on_confirmed(self, tell: Callable[[str], None]) -> None:
        """Call ``tell`` with the hypervisor's id whenever its bridge confirmed, refused, came or went."""
        self._confirmed.append(tell)

    def on_recompile(self, tell: Callable[[str], None]) -> None:
        """Call ``tell`` with a hypervisor's id when everything that is wanted of its bridge has to be put again, and
        ``complete`` said again: its version of OpenFlow has changed, and what was put was encoded for the old one."""
        self._recompile.append(tell)

    def on_packet_in(self, take: PacketIn) -> None:
        """Give every packet-in of a known bridge to ``take``, as bytes, in the receiving greenlet; it must not block."""
        self._packet_in.append(take)

    def on_port(self, take: PortSeen) -> None:
        """Tell ``take`` of every port that comes or goes on a known bridge, at once: OVSDB says it milliseconds later."""
        self._port_seen.append(take)

    # --- what the connections say (compat.Observer) --------------------------------------------------------------

    def up(self, datapath: Datapath) -> None:
        """A switch is there: put it to work if its hypervisor is known."""
        older = self._connected.get(datapath.id)
        self._connected[datapath.id] = datapath
        datapath.tap(int(Type.PACKET_IN), lambda xid, message: self._punted(datapath.id, message))
        datapath.tap(int(Type.PORT_STATUS), lambda xid, message: self._port_changed(datapath.id, message))
        self._refusals.pop(datapath.id, None)
        hypervisor = self._expected.get(datapath.id)
        if hypervisor is None:
            LOG.warning("switch %016x from %s is no hypervisor's; it is left alone", datapath.id, datapath.address)
        else:
            self._attach(self._bridge(hypervisor), datapath)
        if older is not None:
            older.abort("the same switch connected again")

    def down(self, datapath: Datapath, reason: str) -> None:
        """A switch is gone."""
        if self._connected.get(datapath.id) is not datapath:
            return
        del self._connected[datapath.id]
        hypervisor = self._expected.get(datapath.id)
        if hypervisor is not None:
            self._bridge(hypervisor).detach(reason)
            self._tell_port(hypervisor, "", None)

    def refused(self, dpid: int | None, reason: str) -> None:
        """A switch failed in its handshake."""
        if dpid is not None:
            self._refusals[dpid] = reason

    def _bridge(self, hypervisor_id: str) -> Bridge:
        found = self._bridges.get(hypervisor_id)
        if found is None:
            found = self._bridges[hypervisor_id] = Bridge(hypervisor_id, self.counters, self._tell, self._ask_again)
        return found

    def _attach(self, bridge: Bridge, datapath: Datapath) -> None:
        bridge.attach(Session(datapath))
        self._tell(bridge.hypervisor_id)

    def _punted(self, dpid: int, message: bytes) -> bool:
        hypervisor = self._expected.get(dpid)
        if hypervisor is not None:
            for take in self._packet_in:
                take(hypervisor, message)
        return False

    def _port_changed(self, dpid: int, message: bytes) -> bool:
        hypervisor = self._expected.get(dpid)
        if hypervisor is not None:
            try:
                status = read(Message(message[0], message[1], 0, message[8:]))
            except ValueError as problem:
                LOG.warning("switch %016x: %s", dpid, problem)
                return False
            if isinstance(status, PortStatus) and status.number < FIRST_RESERVED_PORT:
                self._tell_port(hypervisor, status.name, None if status.gone else status.number)
        return False

    def _tell_port(self, hypervisor_id: str, name: str, number: int | None) -> None:
        for take in self._port_seen:
            take(hypervisor_id, name, number)

    def _ask_again(self, hypervisor_id: str) -> None:
        for tell in self._recompile:
            tell(hypervisor_id)

    def _tell(self, hypervisor_id: str) -> None:
        for tell in self._confirmed:
            tell(hypervisor_id)
