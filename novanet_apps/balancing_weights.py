"""Least connections: slot weights that follow how many connections members have.

Agents tell the intent store how many connections begin on each hypervisor (``topology.loads``). What that comes to depends on nothing but what is
in the store, and on how many connections were new since the weights last changed, which every controller sees alike: several that
choose weights choose the same ones, and who comes second finds that nothing is left to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import eventlet

from topology import balancing as model
from topology.changes import Change
from topology.loads import LIFETIME, summed
from topology.model import Load, Member
from topology.relief import UNIT, relieved

if TYPE_CHECKING:
    from .core import Core

LOG = logging.getLogger(__name__)

INTERVAL = 5.0
"""Seconds between two looks: a pool's weights change at most that often."""
_ALGORITHM = "least_connections"


class SlotWeights:
    """One greenlet that looks at the pools of which something has changed. ``clock`` tells seconds, from any start."""

    def __init__(self, core: Core, clock: Callable[[], float] = time.monotonic) -> None:
        self.core, self._clock = core, clock
        self._loads: dict[str, dict[str, float]] = {}
        """By pool, the ids of its loads, and when each was told last."""
        self._fresh: dict[str, int] = {}
        """Connections that were new since a pool's weights, or its members, last changed."""
        self._served: dict[str, frozenset[str]] = {}
        """By pool, the members that had slots at the last look."""
        self._due: set[str] = set()
        self.changes = 0
        """Times that a pool got other weights."""
        core.subscribe(self._changed)
        core.store.on_ready(self._begin)

    def _begin(self) -> None:
        self._due.update(self.core.topology.all("pool"))
        eventlet.spawn(self._run)

    def _run(self) -> None:
        while True:
            eventlet.sleep(INTERVAL)
            self.look()

    def look(self) -> None:
        """See to the pools of which something has changed, or of which somebody tells nothing any more."""
        expired = self._clock() - LIFETIME
        due = self._due | {pool for pool, told in self._loads.items() if min(told.values()) < expired}
        self._due = set()
        for pool in due:
            self._weigh(pool, expired)

    # --- what has changed --------------------------------------------------------------------------------------------

    def _changed(self, changes: list[Change]) -> None:
        for change in changes:
            if change.kind == "load":
                self._note(change)
            elif change.kind == "pool":
                self._due.add(change.id)
            elif change.kind == "member" and not change.only_in("health_detail", "drain_until", "name", "description"):
                pool = (change.new or change.old).pool_id
                self._fresh.pop(pool, None)
                self._due.add(pool)

    def _note(self, change: Change) -> None:
        old: Load | None = change.old
        new: Load | None = change.new
        pool = new.pool_id if new is not None else change.old.pool_id
        told = self._loads.setdefault(pool, {})
        if new is not None:
            told[change.id] = self._clock()
            if self.core.store.ready:  # else nobody knows since when they are there
                more = new.began - (old.began if old is not None else 0)
                self._fresh[pool] = self._fresh.get(pool, 0) + max(more, 0)
        else:
            told.pop(change.id, None)
            if not told:
                del self._loads[pool]
        self._due.add(pool)

    # --- weights -----------------------------------------------------------------------------------------------------

    def _weigh(self, pool_id: str, expired: float) -> None:
        """Choose the weights of a pool's members, and have those recorded that differ."""
        topology = self.core.topology
        pool = model.pool(topology, pool_id)
        dealt = pool.dealt if pool is not None and pool.algorithm == _ALGORITHM else ()
        members: list[Member] = [topology.get("member", backend.member_id) for backend in dealt]
        serving = frozenset(member.id for member in members)
        if serving != self._served.get(pool_id, serving):
            self._fresh.pop(pool_id, None)
        self._served[pool_id] = serving
        for id in topology.members_of(pool_id):
            if id not in serving and topology.get("member", id).slot_weight is not None:
                self.core.store.record("member", id, slot_weight=None)
        if not members:
            return
        counts = summed(self._alive(pool_id, expired))
        weights = [member.weight for member in members]
        now = [member.slot_weight or UNIT * member.weight for member in members]
        have = [counts.get(member.member_key or 0, 0) for member in members]
        wanted = relieved(weights, have, now, self._fresh.get(pool_id, 0))
        if wanted == now:
            return
        self.changes += 1
        self._fresh.pop(pool_id, None)
        for member, weight in zip(members, wanted, strict=True):
            self.core.store.record("member", member.id, slot_weight=weight)

    def _alive(self, pool_id: str, expired: float) -> list[Load]:
        """What is told of a pool; what is told no more goes, as does what was told of hypervisors that are no more."""
        told = self._loads.get(pool_id, {})
        for id in [id for id, at in told.items() if at < expired]:
            del told[id]
            LOG.warning("hypervisor %s tells nothing of its connections any more", self._load(id).hypervisor_id)
        if not told:
            self._loads.pop(pool_id, None)
        return [self._load(id) for id in sorted(told)]

    def _load(self, id: str) -> Load:
        load: Load = self.core.topology.get("load", id)
        return load
