"""How many slots of each pool have moved from one member to another, and who has how many now.

Counted from the tables that pools are compiled to, of which a pool has the same on all hypervisors and every controller: each change
once, wherever it goes. Changes that come faster than they can be looked at are one. While nobody serves, no slot moves: who serves next
is compared with who served before.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import eventlet
import numpy as np
from eventlet.event import Event

from pipelines import slots
from pipelines.balancing_pools import Dealt, dealt
from topology import balancing
from topology.changes import Change

from .flow_counters import Names

if TYPE_CHECKING:
    from .core import Core


class SlotChange(NamedTuple):
    """A change of a pool's slots."""

    at: float
    """Seconds since 1970."""
    moved: int
    """Slots that went to another member."""
    needed: int
    """How many had to at least, as members have more or fewer of them now."""
    size: int
    """Slots that there are."""


class PoolSlots(NamedTuple):
    """A pool's slots, and what became of them since the controller began."""

    by_member: Mapping[str, int] = {}
    """How many each member has, by its id; without those that have none."""
    moved: int = 0
    last: SlotChange | None = None
    """The last change by which any has moved."""
    table: Dealt | None = None
    """The last in which anybody had a slot."""


NONE = PoolSlots()


class SlotCounters:
    """Slots by member, and changes of them. ``clock`` tells seconds since 1970."""

    def __init__(self, core: Core, clock: Callable[[], float] = time.time) -> None:
        self.core, self._clock = core, clock
        self._pools: dict[str, PoolSlots] = {}
        self._due: dict[str, None] = {}
        self._wake = Event()
        self._labelled: defaultdict[str, int] = defaultdict(int)
        """Moved slots by label of metrics."""
        self._names = Names()
        core.reconciler.on_dirty("pool", self._dirty)
        core.subscribe(self._changed)
        core.store.on_ready(self._begin)

    def of_pool(self, pool_id: str) -> PoolSlots:
        """How a pool's slots were dealt at the last look."""
        return self._pools.get(pool_id, NONE)

    def look(self, pool_id: str) -> PoolSlots:
        """How a pool's slots are dealt now; also where no hypervisor has them, of which ``of_pool`` knows nothing."""
        self._look(pool_id)
        return self.of_pool(pool_id)

    def series(self) -> list[tuple[str, int]]:
        """Moved slots by pool's id, which is empty for all those that have no metric of their own."""
        return sorted(self._labelled.items())

    # --- what happens ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """All of the intent is known: what happens from now on are changes."""
        eventlet.spawn(self._run)
        for pool in self.core.topology.all("pool"):
            self._dirty(pool)

    def _dirty(self, pool_id: str) -> None:
        if self.core.store.ready:
            self._due[pool_id] = None
            if not self._wake.ready():
                self._wake.send()

    def _changed(self, changes: list[Change]) -> None:
        gone = [change.id for change in changes if change.kind == "pool" and change.new is None]
        for id in gone:
            self._pools.pop(id, None)
        for id in self._names.forget(self.core.topology.all("pool")) if gone else ():
            self._labelled.pop(id, None)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake = Event()
            while self._due:
                self._look(next(iter(self._due)))
                eventlet.sleep(0)

    def _look(self, pool_id: str) -> None:
        """Compare a pool's slots with those that it had."""
        self._due.pop(pool_id, None)
        if self.core.topology.get("pool", pool_id) is None:
            return
        before, pool = self._pools.get(pool_id, NONE), balancing.pool(self.core.topology, pool_id)
        table = dealt(pool) if pool is not None else None
        if pool is None or table is None:
            self._pools[pool_id] = before._replace(by_member={})
            return
        counts = np.bincount(table.slots, minlength=len(pool.dealt)).tolist()
        has = {backend.member_id: count for backend, count in zip(pool.dealt, counts, strict=True) if count}
        change = self._compared(before.table, table)
        moved = 0 if change is None else change.moved
        self._labelled[self._names.label(pool_id)] += moved
        self._pools[pool_id] = PoolSlots(has, before.moved + moved, change or before.last, table)

    def _compared(self, before: Dealt | None, now: Dealt) -> SlotChange | None:
        """What a change moves, if anything."""
        if before is None:
            return None
        moves = slots.moves(before.slots, before.names, now.slots, now.names)
        return SlotChange(self._clock(), *moves, len(now.slots)) if moves.moved else None
