"""Keeps this hypervisor's uplinks and VMs' interfaces shaped as the intent store says, and tells it whether they are.

Linux keeps what was made when the agent ends, and goes on by it; the next agent finds it. It goes when the uplink does, or what the port's policy says.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache
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
from novanet_apps.host_agent.traffic_control import Counts, Found, Qdiscs, ShapingError, TrafficControl, total
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
MOST = 20
"""… or so many times as long as that took, so that it never takes more of a processor than a twentieth."""
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
        self._compare_at = 0.0
        """When everything is compared next; until then what has changed."""
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
        """What the classes of each uplink and interface have seen, by number; those that cannot be read are left out."""
        found = []
        uplinks: list[Uplink | QueuedUplink] = [*self._uplinks.values(), *self._queued.values()]
        for each in uplinks:
            try:
                found += self._counts(each)
            except ShapingError:
                continue  # the others are there all the same
        return found

    def _counts(self, uplink: Uplink | QueuedUplink) -> list[tuple[Shape, dict[int, Counts]]]:
        if isinstance(uplink, QueuedUplink):
            seen, shape = uplink.read().counts, uplink.shape
            numbers = {leaf.number: uplink.numbers.get(leaf.name) for leaf in shape.leaves}
            return [(shape, {leaf: seen[number] for leaf, number in numbers.items() if number in seen})]
        return [] if uplink.shape is None else [(uplink.shape, self._netlink.counts(uplink.interface))]

    def samples(self) -> Samples:
        """What metrics tell."""
        found: Samples = {}
        for name, error in self.errors.items():
            found.setdefault(f"{self._metric(name)}_shaped", []).append((self._labels(name), not error))
        for name, uplink in self._uplinks.items():
            for what, count in sorted(uplink.changes.items()):
                labels = {**self._labels(name), "what": what}
                found.setdefault(f"{self._metric(name)}_changes_total", []).append((labels, count))
        for shape, counts in self.counts():
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
            wait = SOON if soon else max(self._compare_at - time.monotonic(), 0)
            with eventlet.Timeout(wait, False):
                self._look.wait()
            self._look = Event()
            intent = self._intent()
            if intent is None or not self._knows:
                continue
            began = time.monotonic()
            everything = began >= self._compare_at
            try:
                if self._see_to(intent, everything) and everything:
                    ended = time.monotonic()
                    self._compare_at = ended + max(AGAIN, MOST * (ended - began))
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

    def _see_to(self, intent: Intent, everything: bool) -> bool:
        """Returns whether it is known what is to be done; then it is."""
        id = intent.hypervisor_id or ""
        hypervisor: Hypervisor | None = intent.shaping.get("hypervisor", id)
        names = {uplink.interface for uplink in hypervisor.uplinks} if hypervisor is not None else set()
        limits = dict(of_interfaces(intent.shaping, id)) if hypervisor is not None else {}
        self._local.watch(names, set(limits))
        if not self._local.session.settled:
            return False  # what Open vSwitch does with them is still to come
        theirs = {name for name in names if hypervisor is not None and self._local.queued(name, hypervisor.bridge)}
        self._vms = {name: port for name, port in self._local.interfaces(set(limits)).items() if name not in names}
        ours = names - theirs | self._vms.keys()
        qdiscs = cache(self._netlink.qdiscs)
        self._forget(ours, theirs, qdiscs, everything)
        self._local.keep_hands_off(ours)
        if hypervisor is None:
            return True
        foreign = self._local.not_ours(self._vms.keys())
        segments = self._local.datapath_type(hypervisor.bridge) != "netdev"
        try:
            wanted, error = shapes(intent.shaping, id), ""
        except ValueError as problem:
            wanted, error = (), str(problem)
        self._queued = {name: uplink for name, uplink in self._queued.items() if name in theirs}
        errors = {} if wanted else dict.fromkeys(sorted(names), error)
        of_vms = [of_interface(name, limits[port]) for name, port in self._vms.items()]
        for shape in (*wanted, *of_vms):
            name = shape.interface
            if name in theirs:
                errors[name] = self._make_queued(shape)
            else:
                errors[name] = foreign.get(name) or self._make(shape, segments, qdiscs, everything)
            eventlet.sleep(0)
        self._note(errors)
        if not segments and (wanted or of_vms):
            self._widen((*wanted, *of_vms))
        told = tuple(Told(interface=name, error=why, port_id=self._vms.get(name, "")) for name, why in errors.items())
        if told != hypervisor.shaping:
            self._tell(intent, id, told)
        self._measuring.see(hypervisor, intent.session)
        return True

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
        names = sorted(
            (name for name, port in self._vms.items() if port == port_id), key=lambda name: bool(self.errors.get(name))
        )
        name = next(iter(names), None)
        if name is None:
            raise ShapingError("its policy shapes no interface, or no VM is plugged in here")
        found = self._netlink.read(name)
        if found is None or ROOT not in found.counts:
            raise ShapingError(self.errors.get(name) or f"{name} is not shaped yet")
        return name, ROOT, found._replace(counts={ROOT: total(found.counts)})

    def _make(self, shape: Shape, segments: bool, qdiscs: Callable[[], Qdiscs], again: bool) -> str:
        """Shape an uplink or a VM's interface, ``again`` when it seems to be already; returns what keeps it from being shaped."""
        uplink = self._uplinks.setdefault(shape.interface, Uplink(self._netlink, shape.interface))
        before = uplink.changes.total()
        try:
            if again or not uplink.is_made(shape, segments):
                uplink.make(shape, segments, qdiscs)
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

    def _forget(self, ours: set[str], theirs: set[str], qdiscs: Callable[[], Qdiscs], everything: bool) -> None:
        """Give back interfaces that are not to be shaped any more."""
        gone = self._uplinks.keys() - ours
        for name in set(self._netlink.shaped(qdiscs())) - ours if everything or gone else ():
            try:
                self._netlink.end(name)
            except ShapingError as problem:
                LOG.warning("interface %s is not given back: %s", name, problem)  # it has gone, or is looked at again
                continue
            LOG.info(
                "interface %s: given back, as no uplink and no policy needs it any more, or Open vSwitch shapes it",
                name,
            )
        for name in gone:
            del self._uplinks[name]
        self.errors = {name: error for name, error in self.errors.items() if name in ours | theirs}

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
