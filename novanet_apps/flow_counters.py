"""Counts that go on while flows come and go: what flows of all hypervisors have counted, for whomever each counts.

Switches count by flow. What was read before is kept and the difference added: a count goes on when its flows give way to
others, and when a switch begins anew. Lost is what a flow counted after it was read last, and all of it when the controller
ends but what the switches still have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import eventlet
from eventlet.semaphore import Semaphore

from pipelines.wire import FlowEntry

if TYPE_CHECKING:
    from .core import Core

K = TypeVar("K")

TIMEOUT = 2.0
"""Seconds that a switch has for its answer."""
FRESH = 2.0
"""Seconds for which what was read is used again."""
SHARE = 5
"""Reading takes at most one part in so many of the time."""
STEP = 2000
"""Flows looked at before others get their turn: a few milliseconds."""
NAMED = 1000
"""Objects that have metrics of their own; later ones share one, whose labels are empty."""


class Count(NamedTuple):
    """Packets, and their bytes from the Ethernet header on."""

    packets: int = 0
    bytes: int = 0

    def plus(self, other: Count) -> Count:
        """Both together."""
        return Count(self.packets + other.packets, self.bytes + other.bytes)


NOTHING = Count()


class FlowCounters(Generic[K]):
    """Reads flows, and hands on what is new of each.

    ``read`` has a hypervisor's flows, and others; None when its switch does not say. ``whose`` says for whom one counts, and
    ``add`` takes what was counted for somebody since the last reading: one packet or more.
    """

    def __init__(
        self,
        core: Core,
        read: Callable[[str], list[FlowEntry] | None],
        whose: Callable[[FlowEntry], K | None],
        add: Callable[[K, Count], None],
    ) -> None:
        self.core, self._read, self._whose, self._add = core, read, whose, add
        self._seen: dict[str, dict[bytes, Count]] = {}
        """By hypervisor and flow: what the switch said last, if it was anything."""
        self._again = 0.0
        self._reading = Semaphore()

    def refresh(self) -> bool:
        """Read the counters anew, of all bridges at once, unless they were read just now; waits for the switches.

        Whether they were read.
        """
        with self._reading:
            began = time.monotonic()
            if began < self._again:
                return False
            pool, there = eventlet.GreenPool(), self.core.topology.all("hypervisor")
            for hypervisor in self._seen.keys() - there.keys():
                del self._seen[hypervisor]
            for hypervisor in list(there):
                if self.core.engine.connected(hypervisor):
                    pool.spawn(self._refresh, hypervisor)
            pool.waitall()
            now = time.monotonic()
            self._again = now + max(FRESH, (SHARE - 1) * (now - began))
            return True

    def _refresh(self, hypervisor: str) -> None:
        flows = self._read(hypervisor)
        if flows is None:
            return
        before, now = self._seen.get(hypervisor, {}), {}
        for whose, flow in self._counting(flows):
            count = now[flow.key] = Count(flow.packets, flow.bytes)
            last = before.get(flow.key, NOTHING)
            if count.packets < last.packets:
                last = NOTHING  # the flow, or the switch, began anew
            if count.packets > last.packets:
                self._add(whose, Count(count.packets - last.packets, max(0, count.bytes - last.bytes)))
        self._seen[hypervisor] = now

    def _counting(self, flows: list[FlowEntry]) -> Iterator[tuple[K, FlowEntry]]:
        """Flows that have counted something, and for whom; lets other greenlets run in between."""
        for number, flow in enumerate(flows, 1):
            if number % STEP == 0:
                eventlet.sleep(0)
            whose = self._whose(flow) if flow.packets else None
            if whose is not None:
                yield whose, flow


class Names:
    """Who has metrics of their own: the first ``NAMED`` that ask, while they are there."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def label(self, id: str) -> str:
        """The id; empty for those that share a metric."""
        if id not in self._ids and len(self._ids) < NAMED:
            self._ids.add(id)
        return id if id in self._ids else ""

    def forget(self, there: Container[str]) -> set[str]:
        """Make place where somebody is not there any more; who was."""
        gone = {id for id in self._ids if id not in there}
        self._ids -= gone
        return gone
