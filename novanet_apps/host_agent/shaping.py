"""Keeps this hypervisor's uplinks and VMs' interfaces shaped as the intent store says, and tells it whether they are.

Linux keeps what was made when the agent ends, and goes on by it; the next agent finds it. It goes when the uplink does, or what the port's policy says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import eventlet
from eventlet.event import Event

from novanet_apps.host_agent.bridge import LocalBridge
from novanet_apps.host_agent.conntrack import ConntrackError
from novanet_apps.host_agent.measuring import Measuring
from novanet_apps.host_agent.metrics import Samples
from novanet_apps.host_agent.queues import MAJOR as OPEN_VSWITCH
from novanet_apps.host_agent.queues import QueuedUplink
from novanet_apps.host_agent.send_buffer import SendBufferError, process, widen
from novanet_apps.host_agent.traffic_control import Counts, Found, ShapingError, TrafficControl, total
from novanet_apps.host_agent.uplink import Uplink
from novanet_apps.ovsdb.link import OvsdbError
from topology.model import Hypervisor
from topology.model import Shaping as Told
from topology.schema import record_operations
from topology.shaping import ROOT, Shape, of_interface, of_interfaces, shapes

if TYPE_CHECKING:
    from novanet_apps.host_agent.intent import Intent

LOG = logging.getLogger(__name__)

COUNTED = ("bytes_total", "packets_total", "dropped_total", "backlog_bytes")
"""What metrics tell of Counts."""
AGAIN = 5.0
"""Seconds after which everything is compared anew: somebody may have touched it, or vswitchd has started."""
SOON = 0.1
"""… while classes wait to be removed, or it is not known what has to be."""


class Shaping:
    """One greenlet. ``intent`` is what the store says, ``control`` finds vswitchd's control socket."""

    def __init__(self, intent: Callable[[], Intent | None], local: LocalBridge, control: Callable[[], str]) -> None:
        self._intent, self._local, self._control_socket = intent, local, control
        self._control: TrafficControl | None = None
        self._queue_control: TrafficControl | None = None
        self._uplinks: dict[str, Uplink] = {}
        """Those that the agent shapes, and VMs' interfaces."""
        self._vms: dict[str, str] = {}
        """Ids of the ports whose interfaces are to be shaped, by the interface's name."""
        self._queued: dict[str, QueuedUplink] = {}
        """Those that Open vSwitch shapes."""
        self._look: Event = Event()
        self._measuring = Measuring(self._class_of)
        self.buffer_trouble = ""
        """What keeps queues of one class from taking the room of others."""
        self.errors: dict[str, str] = {}
        """By interface, what keeps it from being shaped."""

    def start(self) -> None:
        """Begin to shape."""
        eventlet.spawn(self._run)

    def wake(self) -> None:
        """Something may have to be otherwise."""
        if not self._look.ready():
            self._look.send()

    @property
    def trouble(self) -> str:
        """What is wrong; empty when all is well."""
        found = (f"{self._what(name)}: {error}" for name, error in self.errors.items() if error)
        return next(found, self.buffer_trouble)

    def _what(self, interface: str) -> str:
        return f"{'interface' if interface in self._vms else 'uplink'} {interface}"

    def counts(self) -> list[tuple[Shape, dict[int, Counts]]]:
        """What the classes of each uplink and interface have seen, by number. Raises ShapingError."""
        found = []
        for name, uplink in self._uplinks.items():
            there = self._netlink.read(name) if uplink.shape is not None else None
            if there is not None and uplink.shape is not None:
                found.append((uplink.shape, there.counts))
        for queued in self._queued.values():
            seen = queued.read().counts
            numbers = {leaf.number: queued.numbers.get(leaf.name) for leaf in queued.shape.leaves}
            found.append((queued.shape, {leaf: seen[number] for leaf, number in numbers.items() if number in seen}))
        return found

    def samples(self) -> Samples:
        """What metrics tell."""
        found: Samples = {}
        for name, error in self.errors.items():
            found.setdefault(f"{self._metric(name)}_shaped", []).append((self._labels(name), not error))
        for name, uplink in self._uplinks.items():
            for what, count in sorted(uplink.changes.items()):
                labels = {**self._labels(name), "what": what}
                found.setdefault(f"{self._metric(name)}_changes_total", []).append((labels, count))
        try:
            counted = self.counts()
        except ShapingError:
            return found
        for shape, counts in counted:
            for leaf in (leaf for leaf in shape.leaves if leaf.number in counts):
                labels = {**self._labels(shape.interface), "class": leaf.name}
                for what, value in zip(COUNTED, counts[leaf.number], strict=True):
                    found.setdefault(f"{self._metric(shape.interface)}_{what}", []).append((labels, value))
        return found

    def _metric(self, interface: str) -> str:
        return "novanet_agent_vm" if interface in self._vms else "novanet_agent_uplink"

    def _labels(self, interface: str) -> dict[str, str]:
        port = self._vms.get(interface)
        return {"interface": interface} if port is None else {"interface": interface, "port_id": port}

    def _run(self) -> None:
        while True:
            uplinks: list[Uplink | QueuedUplink] = [*self._uplinks.values(), *self._queued.values()]
            soon = not self._knows or any(uplink.settling for uplink in uplinks)
            with eventlet.Timeout(SOON if soon else AGAIN, False):
                self._look.wait()
            self._look = Event()
            intent = self._intent()
            if intent is None or not self._knows:
                continue
            try:
                self._see_to(intent)
            except (OvsdbError, ShapingError) as problem:
                LOG.warning("uplinks and interfaces: %s", problem)
                eventlet.sleep(AGAIN)

    @property
    def _knows(self) -> bool:
        """Whether everything is here that says what has to be."""
        intent = self._intent()
        if intent is None or not intent.session.settled or not intent.shaping.complete:
            return False
        return self._local.session.settled

    @property
    def _netlink(self) -> TrafficControl:
        if self._control is None:
            self._control = TrafficControl()
        return self._control

    def _see_to(self, intent: Intent) -> None:
        id = intent.hypervisor_id or ""
        hypervisor: Hypervisor | None = intent.shaping.get("hypervisor", id)
        names = {uplink.interface for uplink in hypervisor.uplinks} if hypervisor is not None else set()
        limits = dict(of_interfaces(intent.shaping, id)) if hypervisor is not None else {}
        self._local.watch(names, set(limits))
        if not self._local.session.settled:
            return  # what Open vSwitch does with them is still to come
        theirs = {name for name in names if hypervisor is not None and self._local.queued(name, hypervisor.bridge)}
        self._vms = {name: port for name, port in self._local.interfaces(set(limits)).items() if name not in names}
        ours = names - theirs | self._vms.keys()
        self._forget(ours)
        self._local.keep_hands_off(ours)
        if hypervisor is None:
            return
        segments = self._local.datapath_type(hypervisor.bridge) != "netdev"
        try:
            wanted, error = shapes(intent.shaping, id), ""
        except ValueError as problem:
            wanted, error = (), str(problem)
        self._queued = {name: uplink for name, uplink in self._queued.items() if name in theirs}
        errors = {
            shape.interface: self._make_queued(shape) if shape.interface in theirs else self._make(shape, segments)
            for shape in wanted
        } or dict.fromkeys(sorted(names), error)
        of_vms = [of_interface(name, limits[port]) for name, port in self._vms.items()]
        errors |= {shape.interface: self._make(shape, segments) for shape in of_vms}
        self._note(errors)
        if not segments and (wanted or of_vms):
            self._widen((*wanted, *of_vms))
        told = tuple(Told(interface=name, error=why, port_id=self._vms.get(name, "")) for name, why in errors.items())
        if told != hypervisor.shaping:
            self._tell(intent, id, told)
        self._measuring.see(hypervisor, intent.session)

    def _class_of(self, port_id: str, direction: str) -> tuple[str, int, Found]:
        """Interface and number of a port's class, and what there is of the interface. Of what a VM gets it is the class that all
        others are in. Raises ShapingError."""
        if direction == "ingress":
            return self._all_of(port_id)
        for name, uplink in self._uplinks.items():
            for leaf in uplink.shape.leaves if uplink.shape is not None else ():
                found = self._netlink.read(name) if leaf.name == port_id else None
                if found is not None and leaf.number in found.counts:
                    return name, leaf.number, found
        for queued in self._queued.values():
            found = queued.read()
            if queued.numbers.get(port_id) in found.counts:
                return queued.shape.interface, queued.numbers[port_id], found
        raise ShapingError(
            self.trouble or "it has no class on any uplink: its network's uplink is none of the hypervisor's"
        )

    def _all_of(self, port_id: str) -> tuple[str, int, Found]:
        name = next((name for name, port in self._vms.items() if port == port_id), None)
        if name is None:
            raise ShapingError("its policy shapes no interface, or no VM is plugged in here")
        found = self._netlink.read(name)
        if found is None or ROOT not in found.counts:
            raise ShapingError(self.errors.get(name) or f"{name} is not shaped yet")
        return name, ROOT, found._replace(counts={ROOT: total(found.counts)})

    def _make(self, shape: Shape, segments: bool) -> str:
        """Shape an uplink or a VM's interface; returns what keeps it from being shaped."""
        error = self._local.not_ours(shape.interface, vm=shape.interface in self._vms)
        if error:
            return error
        uplink = self._uplinks.setdefault(shape.interface, Uplink(self._netlink, shape.interface))
        before = uplink.changes.total()
        try:
            uplink.make(shape, segments)
        except ShapingError as problem:
            return str(problem)
        if uplink.changes.total() != before:
            LOG.info("%s: %d changes", self._what(shape.interface), uplink.changes.total() - before)
        return ""

    def _make_queued(self, shape: Shape) -> str:
        """Set the lengths of the queues of an uplink that Open vSwitch shapes; returns what keeps them from being set."""
        if self._queue_control is None:
            self._queue_control = TrafficControl(OPEN_VSWITCH)
        uplink = QueuedUplink(self._queue_control, shape, self._local.classes(shape.interface))
        self._queued[shape.interface] = uplink
        try:
            changed = uplink.make()
        except ShapingError as problem:
            return str(problem)
        if changed:
            LOG.info("uplink %s: set the length of %d queues", shape.interface, changed)
        return ""

    def _forget(self, names: set[str]) -> None:
        """Give back interfaces that are not to be shaped any more."""
        for name in set(self._netlink.shaped()) - names:
            self._netlink.end(name)
            LOG.info(
                "interface %s: given back, as no uplink and no policy needs it any more, or Open vSwitch shapes it",
                name,
            )
        for name in self._uplinks.keys() - names:
            del self._uplinks[name]

    def _note(self, errors: dict[str, str]) -> None:
        for name, error in errors.items():
            if error and self.errors.get(name) != error:
                LOG.error("%s is not shaped: %s", self._what(name), error)
        self.errors = errors

    def _widen(self, wanted: tuple[Shape, ...]) -> None:
        """Make room for all queues in the socket by which vswitchd sends."""
        queues = sum(leaf.queue_bytes for shape in wanted for leaf in shape.leaves)
        try:
            widen(process(self._control_socket()), queues)
            self.buffer_trouble = ""
        except (SendBufferError, ConntrackError) as problem:
            if str(problem) != self.buffer_trouble:
                LOG.warning("a full queue may cost packets of other classes: %s", problem)
            self.buffer_trouble = str(problem)

    def _tell(self, intent: Intent, id: str, told: tuple[Told, ...]) -> None:
        operations = record_operations("hypervisor", {id: {"shaping": told}})

        def build(txn: Any, idl: Any) -> None:
            for operation in operations:
                txn.add_op(operation)

        intent.session.transact(build)
