"""Members that get no more connections: when those that they have end.

A member whose weight becomes 0 keeps its connections until ``drain_until``, which is recorded in the intent store with its
pool's ``drain_timeout`` added to now; then 0 is recorded, for over. So a deadline holds whichever controller lives to see it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import eventlet

from topology.changes import Change
from topology.model import Member, Pool

if TYPE_CHECKING:
    from .core import Core

LONGEST = 3600.0
"""Seconds of one sleep: a deadline further away is looked at again, should the clock have been set meanwhile."""


class Draining:
    """One timer for each member that drains. ``clock`` tells seconds since 1970."""

    def __init__(self, core: Core, clock: Callable[[], float] = time.time) -> None:
        self.core, self._clock = core, clock
        self._timers: dict[str, Any] = {}
        core.subscribe(self._changed)
        core.store.on_ready(self._begin)

    @property
    def under_way(self) -> int:
        """How many members drain."""
        return len(self._timers)

    def _begin(self) -> None:
        for member in list(self.core.topology.all("member")):
            self._look(member)

    def _changed(self, changes: list[Change]) -> None:
        if not self.core.store.ready:
            return
        for change in changes:
            if change.kind == "member" and not change.only_in("health", "health_detail", "slot_weight"):
                self._look(change.id)

    def _look(self, id: str) -> None:
        timer = self._timers.pop(id, None)
        if timer is not None:
            timer.cancel()
        member: Member | None = self.core.topology.get("member", id)
        if member is None or (member.weight and member.drain_until is None):
            return
        if member.weight:
            self.core.store.record("member", id, drain_until=None)
        elif member.drain_until is None:
            self._start(member)
        elif member.drain_until:
            left = member.drain_until - self._clock()
            if left <= 0:
                self.core.store.record("member", id, drain_until=0)
            else:
                self._timers[id] = eventlet.spawn_after(min(left, LONGEST), self._look, id)

    def _start(self, member: Member) -> None:
        pool: Pool | None = self.core.topology.get("pool", member.pool_id)
        wait = pool.drain_timeout if pool is not None else 0
        self.core.store.record("member", member.id, drain_until=int(self._clock()) + wait if wait else 0)
