"""Counts the connections of clients on this hypervisor, by member, for pools that are balanced by least connections.

How often follows from what it costs: counting takes ``LARGEST_PART`` of a processor at most, vswitchd's time included, and is begun every
``INTERVAL`` seconds at most. Where no pool wants it nothing is read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import eventlet

from novanet_apps.host_agent.conntrack import ConntrackError, Source, Tracked
from novanet_apps.host_agent.intent import Intent
from novanet_apps.ovsdb.link import OvsdbError
from topology.loads import BEAT, Count, is_news, operations, told

LOG = logging.getLogger(__name__)

INTERVAL = 5.0
LARGEST_PART = 0.05
IDLE, LOOK_AGAIN = 3, 8
"""A part without connections so many times in a row is looked at only every so many times."""


class Counted:
    """One count, from part to part."""

    def __init__(self, keys: Mapping[int, str], known: frozenset[int] | None, told: Collection[str]) -> None:
        """``keys``: pools by members' keys. ``known``: the connections of the last count; None: there was none. Then those of
        pools that were ``told`` of before are not new."""
        self._keys, self._known = keys, known or frozenset()
        self._old = frozenset(told if known is None else ())
        self.pools = {pool: Count({}) for pool in keys.values()}
        self.seen: set[int] = set()

    def add(self, batch: list[Tracked]) -> None:
        """Connections, some of which are with members."""
        for key, which in batch:
            id = self._keys.get(key)
            if id is not None:
                pool = self.pools[id]
                pool.connections[key] = pool.connections.get(key, 0) + 1
                pool.fresh += which not in self._known and id not in self._old
                self.seen.add(which)


class Connections:
    """One greenlet that counts, and tells the intent store. ``source`` gives what connection tracking there is now."""

    def __init__(self, intent: Callable[[], Intent | None], source: Callable[[], Source]) -> None:
        self._intent, self._source = intent, source
        self._known: frozenset[int] | None = None
        self._unsaid: dict[str, int] = {}
        """By pool, new connections that were not told yet."""
        self._told_at: dict[str, float] = {}
        self._idle: dict[int | None, int] = {}
        self._rounds = 0
        self.live = 0
        """Connections in the last count."""
        self.counts = 0
        self.written = 0
        """Loads that were told."""
        self.cost = 0.0
        """Seconds of a processor that the last count took."""
        self.trouble = ""

    def start(self) -> None:
        """Begin to count."""
        eventlet.spawn(self._run)

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                self._round()
                self.trouble = ""
            except (ConntrackError, OvsdbError) as problem:
                if str(problem) != self.trouble:
                    LOG.warning("connections are not counted: %s", problem)
                self.trouble, self._known = str(problem), None
            eventlet.sleep(max(0.1, began + INTERVAL - time.monotonic()))

    def _round(self) -> None:
        intent = self._intent()
        if intent is None or not intent.session.connected or intent.hypervisor_id is None:
            return
        keys = intent.counted()
        if not keys:
            self._known, self.live = None, 0
            self._tell(intent, {})
            return
        count = Counted(keys, self._known, intent.loads)
        self._count(count, intent)
        self._known = frozenset(count.seen)
        self.live, self.counts = len(count.seen), self.counts + 1
        self._tell(intent, count.pools)

    # --- counting ----------------------------------------------------------------------------------------------------

    def _count(self, count: Counted, intent: Intent) -> None:
        """Read part after part, as slowly as it has to be. Raises ConntrackError."""
        source, cost = self._source(), 0.0
        self._rounds += 1
        for part in source.parts(intent.router_zones):
            if not self._is_due(part):
                continue
            before, found = time.monotonic(), 0
            for batch in source.read(part):
                found += len(batch)
                count.add(batch)
                eventlet.sleep(0)
            self._idle[part] = 0 if found else self._idle.get(part, 0) + 1
            took = time.monotonic() - before
            cost += took
            eventlet.sleep(took / LARGEST_PART - took)
        self.cost = cost

    def _is_due(self, part: int | None) -> bool:
        return part is None or self._idle.get(part, 0) < IDLE or (part + self._rounds) % LOOK_AGAIN == 0

    # --- telling -----------------------------------------------------------------------------------------------------

    def _tell(self, intent: Intent, pools: Mapping[str, Count]) -> None:
        """Have the store know what is news. Raises OvsdbError."""
        hypervisor, now = intent.hypervisor_id or "", time.monotonic()
        news: dict[tuple[str, str], Any] = {}
        for pool in [*pools, *(each for each in intent.loads if each not in pools)]:
            row, before = intent.loads.get(pool, (None, None))
            count = pools.get(pool) or Count({})
            count.fresh = self._unsaid[pool] = self._unsaid.get(pool, 0) + count.fresh
            due = before is not None and now - self._told_at.get(pool, 0.0) >= BEAT
            if due or is_news(count, before):
                news[hypervisor, pool] = row, told(hypervisor, pool, count, before)
        if not news:
            return
        todo = operations(news)

        def build(txn: Any, idl: Any) -> None:
            for operation in todo:
                txn.add_op(operation)

        intent.session.transact(build)
        self.written += len(news)
        for _, pool in news:
            self._unsaid.pop(pool, None)
            self._told_at[pool] = now
