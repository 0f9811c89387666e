"""Makes one uplink what it has to be: what is right already stays, so a change of one class touches one class."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from novanet_apps.host_agent.traffic_control import (
    HEAD_DROP,
    MAJOR,
    NOTHING,
    TAIL_DROP,
    Found,
    Qdiscs,
    ShapingError,
    TrafficControl,
    as_read,
    parameters,
)
from pipelines.classifier import encode, program
from topology.shaping import ROOT, Leaf, Shape

HEADER = 18
"""Bytes of an Ethernet header with a VLAN tag."""
SEGMENTS = 65536 + HEADER
"""Bytes of the largest packet that the kernel's datapath gives to an interface, which cuts it up itself."""
LEAST_PACKETS = 16
"""That a queue told in packets keeps."""
LONGEST_QUEUE = (1 << 31) - 1
"""Bytes that pyroute2 can say."""
EMPTYING = 2.0
"""Seconds that a class has to send what waits in it when nobody is in it any more."""


class Uplink:
    """One interface. ``changes`` counts what was done, by what it was done to."""

    def __init__(self, control: TrafficControl, interface: str) -> None:
        self.interface = interface
        self.shape: Shape | None = None
        """What it was made last."""
        self.changes: Counter[str] = Counter()
        self._control = control
        self._made: tuple[Shape, bool, int] | None = None
        """What it was made last, and of which device; None: that failed."""
        self._left: dict[int, float] = {}
        """Classes that nobody is in any more, and since when."""

    @property
    def settling(self) -> bool:
        """Whether classes are still to be removed."""
        return bool(self._left)

    def is_made(self, shape: Shape, segments: bool) -> bool:
        """Whether ``make`` has done all this already, as long as nobody else touches it. Raises ShapingError."""
        return not self._left and self._made == (shape, segments, self._control.index(self.interface))

    def make(self, shape: Shape, segments: bool, qdiscs: Callable[[], Qdiscs] | None = None) -> None:
        """Have it shaped so. ``segments``: the kernel's datapath sends by it; ``qdiscs`` as ``TrafficControl.read`` takes it.
        Raises ShapingError."""
        self._made = None
        try:
            code = encode(program(shape, MAJOR))
        except ValueError as error:
            raise ShapingError(str(error)) from None
        index = self._control.index(self.interface)
        found = self._control.read(self.interface, qdiscs)
        if found is None:
            self._control.begin(self.interface)
            self.changes["root"] += 1
            found = NOTHING
        largest = SEGMENTS if segments else self._control.mtu(self.interface) + HEADER
        classes, queues = wanted(shape, largest)
        for number, options in classes.items():
            if found.classes.get(number) != as_read(options):
                self._control.put_class(self.interface, number, options)
                self.changes["class"] += 1
        kind = HEAD_DROP if shape.dscps and not segments else TAIL_DROP
        for number, size in queues.items():
            limit = size if kind == TAIL_DROP else max(size // largest, LEAST_PACKETS)
            there = found.queues.get(number)
            if there is None or (there.kind, there.limit) != (kind, limit):
                handle = there.handle if there is not None and there.kind == kind else 0
                self._control.put_queue(self.interface, number, limit, handle, kind)
                self.changes["queue"] += 1
        if found.program != code:
            self._control.put_program(self.interface, code)
            self.changes["classifier"] += 1
        self._remove(found, set(classes))
        self.shape, self._made = shape, (shape, segments, index)

    def _remove(self, found: Found, classes: set[int]) -> None:
        """Take away classes that nobody is in, as soon as they are empty. They are told no packets from now on."""
        now = time.monotonic()
        self._left = {number: self._left.get(number, now) for number in found.classes if number not in classes}
        for number, since in list(self._left.items()):
            if not found.counts[number].backlog or now - since >= EMPTYING:
                self._control.delete_class(self.interface, number)
                self.changes["class"] += 1
                del self._left[number]


def wanted(shape: Shape, largest: int) -> tuple[dict[int, dict[str, Any]], dict[int, int]]:
    """The classes, the one of all first, and the lengths of their queues in bytes, by number.

    ``largest`` is the bytes of the largest frame that Linux is given: two of them find room everywhere.
    """
    everything = parameters(shape.bandwidth_kbps, shape.bandwidth_kbps, 0, largest)
    leaves = {
        leaf.number: parameters(leaf.rate_kbps, leaf.ceil_kbps, leaf.order, largest) for leaf in shape.leaves
    }  # fmt: skip
    return {ROOT: everything, **leaves}, {leaf.number: length(leaf, largest) for leaf in shape.leaves}


def length(leaf: Leaf, largest: int) -> int:
    """Bytes of a class' queue."""
    return min(max(leaf.queue_bytes, 2 * largest), LONGEST_QUEUE)
