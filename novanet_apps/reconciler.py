"""From what changed to what the switches must have: compiles dirty owners and knows how far each object is.

Nothing here talks to a switch. An owner is dirty on a hypervisor; one greenlet compiles what is dirty, in slices
that leave the event loop free, and gives the result to the flow engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from eventlet import sleep, spawn, spawn_after
from eventlet.event import Event
from eventlet.timeout import Timeout

from pipelines.compiler import Compiler, Owner
from topology import balancing, captures, exporters, qos_status, scope, wires
from topology.changes import Change
from topology.model import Capture, FloatingIp, FlowExporter, Handover, Member, Network, Port, PortForwarding, Status

from .mtu_watch import MtuWatch

if TYPE_CHECKING:
    from .core import Core

LOG = logging.getLogger(__name__)

BIND_AFTER = 0.05
"""Seconds until it is recorded where a port was plugged."""
BIND_LATER, BIND_BY = 1.0, 60.0
"""Seconds between looks whether the switches are done, and after which it is recorded though they are not."""
SLICE = 0.008
"""Seconds of compiling between two looks at the event loop."""


class Reconciler:
    """Dirty owners, compiled; and the status that follows for every object."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.compiler = Compiler()
        self.full_recomputes = 0
        self._dirty: dict[str, dict[Owner, None]] = {}
        self._known: set[str] = set()
        self._first: set[str] = set()
        self._unbound: dict[str, None] = {}
        self._dirtied: dict[str, list[Callable[[str], None]]] = {}
        self._compiled: dict[str, list[Callable[[str, str], None]]] = {}
        self._wake: Event = Event()
        self._news: Event = Event()
        self.mtu = MtuWatch(core.topology)

    def start(self, compiler: Compiler) -> None:
        """Begin to compile, with the features that are loaded."""
        self.compiler = compiler
        self.core.engine.on_confirmed(lambda hypervisor: self._tell())
        self.core.engine.on_recompile(self._take_on_again)
        spawn(self._run)

    # --- what changed --------------------------------------------------------------------------------------------

    def changed(self, changes: list[Change]) -> None:
        """Mark what the changes make dirty; record where ports were seen."""
        topology = self.core.topology
        for change in changes:
            if change.kind == "bridge" and change.old is None and self.core.store.ready:
                self._take_on(change.id)
            elif change.kind == "hypervisor" and change.new is None:
                self._let_go(change.id)
            elif change.kind in ("vif", "port"):
                self._bind_soon(change.id)
        for hypervisor, owner in scope.dirty(topology, changes):
            self.mark(hypervisor, owner)
            for tell in self._dirtied.get(owner[0], ()):
                tell(owner[1])
        self.mtu.changed(changes)
        self._tell()

    def store_ready(self) -> None:
        """The store's content is complete: take on the bridges that were seen before."""
        for hypervisor in self.core.topology.all("bridge"):
            self._take_on(hypervisor)

    def _take_on(self, hypervisor: str) -> None:
        """A bridge that is known now: everything that concerns it is dirty."""
        if hypervisor in self._known or self.core.topology.get("hypervisor", hypervisor) is None:
            return
        self._known.add(hypervisor)
        self._first.add(hypervisor)
        self.full_recomputes += 1
        for owner in scope.owners_on(self.core.topology, hypervisor):
            self.mark(hypervisor, owner)
        for port in self.core.topology.ports_on(hypervisor):
            if self.core.topology.get("vif", port) is None:
                self._bind_soon(port)

    def _take_on_again(self, hypervisor: str) -> None:
        """The engine needs everything anew: the bridge speaks another version of OpenFlow now."""
        self._known.discard(hypervisor)
        self._take_on(hypervisor)

    def _let_go(self, hypervisor: str) -> None:
        self._known.discard(hypervisor)
        self._first.discard(hypervisor)
        self._dirty.pop(hypervisor, None)
        self.core.engine.forget(hypervisor)

    def mark(self, hypervisor: str, owner: Owner) -> None:
        """The owner has to be compiled anew for the hypervisor."""
        if hypervisor not in self._known:
            return
        self._dirty.setdefault(hypervisor, {})[owner] = None
        if not self._wake.ready():
            self._wake.send()

    def _bind_soon(self, port_id: str) -> None:
        """Keep in the store where a port is, so that it is known before its hypervisor is heard again.

        Nobody waits for that, so the switches come first.
        """
        if not self._unbound:
            spawn_after(BIND_AFTER, self._bind, time.monotonic() + BIND_BY)
        self._unbound[port_id] = None

    def _bind(self, by: float) -> None:
        if time.monotonic() < by and (self._dirty or any(map(self.core.engine.unconfirmed, self._known))):
            spawn_after(BIND_LATER, self._bind, by)
            return
        ports, self._unbound = self._unbound, {}
        for port_id in ports:
            port = self.core.topology.get("port", port_id)
            vif = self.core.topology.get("vif", port_id)
            here = vif.hypervisor_id if vif is not None else None
            if port is not None and port.host_id != here and self._knows_of(port.host_id):
                self.core.store.bind(port_id, here)

    def _knows_of(self, hypervisor: str | None) -> bool:
        """Whether what is plugged there is known, so that a port which is not seen there has left."""
        return (
            hypervisor is None or hypervisor in self._known or self.core.topology.get("hypervisor", hypervisor) is None
        )

    # --- compiling -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake = Event()
            while self._dirty:
                for hypervisor in list(self._dirty):
                    self._compile_some(hypervisor)
                    sleep(0)

    def _compile_some(self, hypervisor: str) -> None:
        """Compile dirty owners of one hypervisor for one slice of time, and hand them over."""
        todo = self._dirty.get(hypervisor)
        if todo is None:
            return
        compiled: dict[Owner, list[Any]] = {}
        end = time.monotonic() + SLICE
        while todo and time.monotonic() < end:
            owner = next(iter(todo))
            del todo[owner]
            compiled[owner] = self._compile(hypervisor, owner)
        self.core.engine.put(hypervisor, compiled)
        if not todo:
            self._dirty.pop(hypervisor, None)
            if hypervisor in self._first:
                self._first.discard(hypervisor)
                self.core.engine.complete(hypervisor)

    def _compile(self, hypervisor: str, owner: Owner) -> list[Any]:
        try:
            rules = self.compiler.compile(self.core.topology, hypervisor, owner)
        except Exception:
            LOG.exception("cannot compile %s %s for hypervisor %s; it gets no flows", *owner, hypervisor)
            rules = []
        for tell in self._compiled.get(owner[0], ()):
            tell(hypervisor, owner[1])
        return rules

    def on_dirty(self, kind: str, tell: Callable[[str], None]) -> None:
        """Call ``tell`` with the id whenever an owner of this kind is dirty, on whichever hypervisors; it must not block."""
        self._dirtied.setdefault(kind, []).append(tell)

    def on_compiled(self, kind: str, tell: Callable[[str, str], None]) -> None:
        """Call ``tell`` with (hypervisor, id) whenever an owner of this kind was compiled, before it is sent; it must not block."""
        self._compiled.setdefault(kind, []).append(tell)

    # --- how far things are --------------------------------------------------------------------------------------

    def status(self, kind: str, id: str) -> Status:
        """BUILD until every concerned hypervisor has confirmed; then ACTIVE, or DOWN for a port that is not plugged."""
        return self.judge(kind, id)[0]

    def judge(self, kind: str, id: str) -> tuple[Status, list[str]]:
        """The status, with what keeps the object from being ACTIVE and what is odd about it."""
        capture: Capture | None = self.core.topology.get(kind, id) if kind == "capture" else None
        if capture is not None:
            return captures.judge(self.core.topology, capture)
        reasons = list(self.mtu.about(kind, id))
        idle = self._idle(kind, id)
        if idle:
            return "DOWN", [*reasons, idle]
        failed, away, building = self._concerned(kind, id)
        if failed:
            return "ERROR", [*reasons, *failed]
        cut_off = [*wires.cut_off(self.core.topology, kind, id), *qos_status.unkept(self.core.topology, kind, id)]
        if away or cut_off:
            told = (f"hypervisor {name}: {text}" for name, text in sorted(away.items()))
            return "DEGRADED", [*reasons, *cut_off, *told]
        if building:
            return "BUILD", [*reasons, f"waiting for {', '.join(sorted(building))}"]
        return "ACTIVE", reasons

    def _idle(self, kind: str, id: str) -> str:
        """Why there is nothing to realise of an object now; empty when there is."""
        topology = self.core.topology
        obj = topology.get(kind, id)
        match obj:
            case Port(router_id=None) if topology.location(id) is None:
                return "not plugged: no hypervisor has an interface with this iface-id"
            case FlowExporter(enabled=False):
                return "it is not enabled"
            case FloatingIp(port_id=None, loadbalancer_id=None) if not topology.forwardings_of(id):
                return "it stands for no port, and nothing is forwarded"
            case Member():
                return balancing.idle(topology, obj)
            case FloatingIp(port_id=str(port_id)) | PortForwarding(internal_port_id=port_id):
                if topology.location(port_id) is None:
                    return f"port {port_id} is not plugged"
        return ""

    def _concerned(self, kind: str, id: str) -> tuple[list[str], dict[str, str], set[str]]:
        """Errors, absent hypervisors (name -> why), and names of those that have not confirmed."""
        failed: list[str] = []
        away: dict[str, str] = {}
        building: set[str] = set()
        for hypervisor, owner in scope.concerned(self.core.topology, kind, id):
            obj = self.core.topology.get("hypervisor", hypervisor)
            name = obj.name if obj is not None else hypervisor
            text = self._absent(hypervisor)
            if text:
                away[name] = text
                continue
            error = self.core.engine.error(hypervisor, owner)
            if error:
                failed.append(f"hypervisor {name}: {error}")
            elif owner in self._dirty.get(hypervisor, ()) or self.core.engine.pending(hypervisor, owner):
                building.add(name)
        for hypervisor, text in wires.unwired(self.core.topology, kind, id):
            obj = self.core.topology.get("hypervisor", hypervisor)
            away.setdefault(obj.name if obj is not None else hypervisor, text)
        exporter: FlowExporter | None = self.core.topology.get("flow-exporter", id) if kind == "flow-exporter" else None
        if exporter is not None:
            kept_from, awaited = exporters.missing(self.core.topology, exporter)
            gone = {each.name for each in exporters.where(self.core.topology, exporter) if self._unheard(each.id)}
            away |= dict.fromkeys(gone, "no OVSDB connection") | kept_from
            building |= awaited - gone
        if kind == "port":
            failed += self._interface_error(id)
            building |= self._handed_over_at(id) | self._queued_at(id)
        return failed, away, building

    def _interface_error(self, port_id: str) -> Iterator[str]:
        vif = self.core.topology.get("vif", port_id)
        if vif is not None and vif.error:
            yield f"interface {vif.interface}: {vif.error}"

    def _handed_over_at(self, port_id: str) -> set[str]:
        """The hypervisor where a port does not tell its identity yet, since others have to know it first."""
        handover: Handover | None = self.core.topology.get("handover", port_id)
        here = self.core.topology.location(port_id)
        if handover is None or handover.told is None or here is None:
            return set()
        obj = self.core.topology.get("hypervisor", here)
        return {obj.name if obj is not None else here}

    def _queued_at(self, port_id: str) -> set[str]:
        """The hypervisor whose Open vSwitch has yet to be given a port's queue."""
        if not qos_status.awaited(self.core.topology, port_id):
            return set()
        here = self.core.topology.location(port_id) or ""
        obj = self.core.topology.get("hypervisor", here)
        return {obj.name if obj is not None else here}

    def unconfirmed(self, hypervisor: str) -> set[Owner] | None:
        """The owners whose state on a hypervisor is not yet what the graph says; None while that cannot be known."""
        if self._absent(hypervisor):
            return None
        pending = self.core.engine.unconfirmed(hypervisor)
        return None if pending is None else pending | self._dirty.get(hypervisor, {}).keys()

    def awaits(self, hypervisor: str, owner: Owner) -> bool:
        """Whether a hypervisor whose bridge is connected has yet to confirm what the owner wants there."""
        engine = self.core.engine
        return engine.connected(hypervisor) and (
            owner in self._dirty.get(hypervisor, ()) or engine.pending(hypervisor, owner)
        )

    def _absent(self, hypervisor: str) -> str:
        """Why a hypervisor cannot confirm anything now; empty when it can."""
        if self._unheard(hypervisor):
            return "no OVSDB connection"
        if not self.core.engine.connected(hypervisor):
            return "no OpenFlow connection"
        return ""

    def _unheard(self, hypervisor: str) -> bool:
        return not self.core.hypervisors.connected(hypervisor)

    def settled(self, kind: str, id: str, timeout: float) -> Status:
        """Wait until the status is no longer BUILD, ``timeout`` seconds at most; returns the status."""
        with Timeout(timeout, False):
            while self.status(kind, id) == "BUILD":
                self._news.wait()
        return self.status(kind, id)

    def _tell(self) -> None:
        """Wake those who wait for a status."""
        news, self._news = self._news, Event()
        news.send()

    def network_mtu(self, network: Network) -> int:
        """Bytes of the largest IP packet of a network's VMs."""
        return self.mtu.of(network)

    def warnings(self) -> list[str]:
        """What works but should be looked at."""
        return self.mtu.warnings()
