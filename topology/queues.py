"""The classes of an uplink as queues of Open vSwitch, where its datapath honours ``set_queue``, which the kernel's does.

An uplink is shaped so when it is one of Open vSwitch's own ports on a bridge of that datapath; any other is the agent's
(``topology.shaping``). A port's queue has the number of its OpenFlow port, which nobody else there has, so nothing about a port's
queue depends on other ports; queue 0 is for all that has none. What the agent tells apart besides, the hypervisor's own traffic and
what keeps it alive, Open vSwitch cannot: it goes with the others, and what is reserved for the three is theirs together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from .changes import Change
from .graph import Topology
from .model import Bridge, Vif
from .qos import of_port as quality_of
from .qos_scope import RULES
from .shaping import CONTROL, NAMES, OWN, Leaf, Shape, has_class, shapes
from .shaping import OTHERS as OTHERS_CLASS

CLASS = "novanet-class"
"""Key in external_ids of a Queue: the id of a port, or ``others``."""
OTHERS = 0
"""The queue of packets that are given none."""
LAST = 0xEFFF
"""Open vSwitch makes no classes for higher numbers. It gives VMs' ports lower ones by itself."""
BURST_MS, BURST_LEAST = 2, 2 * 65554
"""What a queue may send at once: milliseconds of its rate, and two of the largest packets, in bytes, that the kernel's datapath gives
to an interface, which cuts them up itself."""


class Queue(Struct, frozen=True):
    """One class. Rates are bit/s, bursts bits, as Open vSwitch has them."""

    number: int
    name: str
    """The id of a port, or ``others``."""
    min_rate: int
    max_rate: int
    burst: int
    priority: int
    """0 is asked first of those that have something left to send, 7 last."""


class Queues(Struct, frozen=True):
    """What one interface has to do."""

    interface: str
    max_rate: int
    queues: tuple[Queue, ...]
    """By number."""


def of_hypervisor(topology: Topology, hypervisor_id: str) -> Iterator[Queues]:
    """What each uplink of a hypervisor would do if Open vSwitch shaped it."""
    for shape in shapes(topology, hypervisor_id):
        found = [_others(shape)]
        for leaf in shape.leaves:
            number = None if leaf.name in NAMES.values() else _number(topology, hypervisor_id, leaf.name)
            if number is not None:
                found.append(_queue(number, leaf, leaf.rate_kbps))
        yield Queues(shape.interface, shape.bandwidth_kbps * 1000, tuple(sorted(found, key=lambda queue: queue.number)))


def used(topology: Topology, hypervisor_id: str) -> bool:
    """Whether Open vSwitch shapes any uplink of a hypervisor."""
    bridge: Bridge | None = topology.get("bridge", hypervisor_id)
    return bridge is not None and bool(bridge.queueing)


def of_port(topology: Topology, hypervisor_id: str, port_id: str) -> int | None:
    """The queue by which packets of a VM's port are to leave its hypervisor; None where Open vSwitch shapes nothing."""
    if not used(topology, hypervisor_id):
        return None
    number = _number(topology, hypervisor_id, port_id) if has_class(quality_of(topology, port_id)) else None
    return OTHERS if number is None else number


def concerned(topology: Topology, changes: Iterable[Change]) -> set[str]:
    """The hypervisors whose queues may have to be others after the changes, which are in the graph already."""
    return {
        hypervisor
        for change in changes
        if change.kind in RULES and change.kind != "bridge"
        for hypervisor, (kind, _) in RULES[change.kind](topology, change)
        if kind == "qos"
    }


def _number(topology: Topology, hypervisor_id: str, port_id: str) -> int | None:
    vif: Vif | None = topology.get("vif", port_id)
    if vif is None or vif.hypervisor_id != hypervisor_id or vif.ofport is None or not 0 < vif.ofport <= LAST:
        return None
    return vif.ofport


def _others(shape: Shape) -> Queue:
    common = {leaf.number: leaf for leaf in shape.leaves}
    rate = sum(common[number].rate_kbps for number in (CONTROL, OWN, OTHERS_CLASS))
    return _queue(OTHERS, common[OTHERS_CLASS], rate)


def _queue(number: int, leaf: Leaf, rate_kbps: int) -> Queue:
    burst = max(rate_kbps * BURST_MS, BURST_LEAST * 8)
    return Queue(number, leaf.name, rate_kbps * 1000, leaf.ceil_kbps * 1000, burst, leaf.order)
