"""Uplinks that Open vSwitch shapes itself, since its datapath honours queues: the controller makes the rows of QoS and Queue
(``novanet_apps.hypervisors.queues``), vswitchd the classes, and the agent sets how much waits in them, which no row can say.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from novanet_apps.host_agent.traffic_control import Found, ShapingError, TrafficControl
from novanet_apps.host_agent.uplink import SEGMENTS, length
from novanet_apps.ovsdb.session import Session, members, read
from topology.queues import CLASS
from topology.shaping import Shape

MAJOR = 1
"""Of the handles that vswitchd gives: queue N is class 1:(N + 1)."""
TABLES = {"QoS": ["type", "queues", "external_ids"], "Queue": ["external_ids"]}


def port_of(session: Session, interface: str) -> Any:
    """The port that has an interface of this name, as one of several perhaps; None when Open vSwitch has none."""
    return ports(session).get(interface)


def ports(session: Session) -> dict[str, Any]:
    """The same of all interfaces, by name."""
    rows = session.rows("Interface").items() if session.synced else ()
    names = {uuid: str(read(row, "name")) for uuid, row in rows}
    found = ((names.get(uuid), port) for port in session.rows("Port").values() for uuid in members(port, "interfaces"))
    return {name: port for name, port in found if name is not None}


def qos_of(session: Session, port: Any) -> Any:
    """A port's row of QoS, or None."""
    uuid: UUID | None = next(members(port, "qos"), None)
    return None if uuid is None else session.rows("QoS").get(uuid)


def honoured(session: Session, interface: str, bridge: str) -> bool:
    """Whether queues have an effect on an interface: it is alone in its port, and that on a bridge of the kernel's datapath as is the
    integration bridge ``bridge``.
    """
    port = port_of(session, interface)
    if port is None or len(set(members(port, "interfaces"))) != 1:
        return False
    rows = list(session.rows("Bridge").values())
    two = (
        [row for row in rows if read(row, "name") == bridge],
        [row for row in rows if port.uuid in members(row, "ports")],
    )
    return all(found and read(found[0], "datapath_type") in ("", "system") for found in two)


def classes(session: Session, interface: str) -> dict[str, int]:
    """The numbers of the classes that Open vSwitch has for an interface, by the id of the port, or ``others``."""
    port = port_of(session, interface)
    qos = None if port is None else qos_of(session, port)
    found: dict[int, Any] = {} if qos is None else read(qos, "queues")
    names = {number: read(row, "external_ids").get(CLASS) for number, row in found.items()}
    return {name: number + 1 for number, name in names.items() if name}


class QueuedUplink:
    """One interface; ``numbers`` are those of its classes, by name."""

    def __init__(self, control: TrafficControl, shape: Shape, numbers: dict[str, int]) -> None:
        self.shape, self.numbers = shape, numbers
        self.settling = True
        """Whether vswitchd has yet to make some of the classes."""
        self._control = control

    def read(self) -> Found:
        """What Linux has. Raises ShapingError."""
        found = self._control.read(self.shape.interface)
        if found is None:
            raise ShapingError("Open vSwitch has not made its classes yet")
        return found

    def make(self) -> int:
        """Have each class keep as much as it has to; returns how many had another length. Raises ShapingError."""
        found, changed = self.read(), 0
        there_are = {self.numbers[leaf.name] for leaf in self.shape.leaves if leaf.name in self.numbers}
        self.settling = not there_are <= found.classes.keys()
        for leaf in self.shape.leaves:
            number = self.numbers.get(leaf.name)
            if number is None or number not in found.classes:
                continue
            there, limit = found.queues.get(number), length(leaf, SEGMENTS)
            if there is None or there.limit != limit:
                handle = there.handle if there is not None and there.limit >= 0 else 0
                self._control.put_queue(self.shape.interface, number, limit, handle)
                changed += 1
        return changed
