"""Connections and traffic of each member of a pool, on all hypervisors together, and how its slots are shared.

Switches count them where clients are: the flows that begin a connection with a member, send to it, and send back what it answers
(``pipelines.balancing_pools.counted_for``). They are read now and then also when nobody asks, so that little is lost when a member goes,
and its flows with it. Connections that are open now are known of pools by ``least_connections`` alone, whose agents count them.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import eventlet

from pipelines.balancing_pools import COUNTING, Counted, counted_for
from pipelines.wire import FlowEntry
from topology.balancing_scope import hypervisors_of
from topology.balancing_status import Operating, operating
from topology.changes import Change
from topology.loads import LIFETIME, summed
from topology.model import Member, Pool

from .flow_counters import TIMEOUT, Count, FlowCounters, Names
from .slot_counters import SlotCounters

if TYPE_CHECKING:
    from .core import Core

STEP = 500
"""Members looked at before others get their turn: a few milliseconds."""
INTERVAL = 10.0
"""Seconds between two readings that nobody has asked for."""
Series = list[tuple[dict[str, str], int]]
STATUSES: tuple[Operating, ...] = ("ONLINE", "NO_MONITOR", "DRAINING", "ERROR", "OFFLINE")
"""What members can be."""


class Traffic(NamedTuple):
    """What a member has got, and has answered; bytes from the Ethernet header on."""

    connections: int = 0
    """Those that began with it."""
    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0

    def plus(self, other: Traffic) -> Traffic:
        """Both together."""
        return Traffic(*(one + more for one, more in zip(self, other, strict=True)))


NONE = Traffic()


def _traffic(what: Counted, count: Count) -> Traffic:
    match what:
        case "connections":
            return Traffic(connections=count.packets)
        case "in":
            return Traffic(packets_in=count.packets, bytes_in=count.bytes)
        case "out":
            return Traffic(packets_out=count.packets, bytes_out=count.bytes)


class BalancingCounters:
    """Traffic by member and by pool, as last read, and their slots."""

    def __init__(self, core: Core, clock: Callable[[], float] = time.monotonic) -> None:
        self.core, self._clock = core, clock
        self.slots = SlotCounters(core)
        self.flows = FlowCounters(core, self._read, lambda flow: counted_for(flow.key), self._add)
        self._by_key: defaultdict[int, Traffic] = defaultdict(Traffic)
        self._by_pool: defaultdict[str, Traffic] = defaultdict(Traffic)
        """With what members had that are gone."""
        self._labelled: defaultdict[str, Traffic] = defaultdict(Traffic)
        """By label of metrics."""
        self._names = Names()
        self._where: set[str] = set()
        """The hypervisors that load balancers concern."""
        self._states: Counter[Operating] = Counter()
        self._told: dict[str, dict[str, float]] = {}
        """By pool of which agents have told anything, the ids of its loads, and when each was told last."""
        core.subscribe(self._changed)
        core.store.on_ready(lambda: eventlet.spawn(self._run))

    def of_member(self, member: Member) -> Traffic:
        """What a member has had."""
        return self._by_key.get(member.member_key or 0, NONE)

    def of_pool(self, pool: Pool) -> Traffic:
        """What all its members have had, those included that are gone."""
        return self._by_pool.get(pool.id, NONE)

    def active(self, pool: Pool) -> dict[int, int] | None:
        """Connections that are open, by member's key, those of none left out; None where nobody counts them."""
        told = self._told.get(pool.id)
        if told is None or pool.lb_algorithm != "least_connections":
            return None
        since = self._clock() - LIFETIME
        return summed(self.core.topology.get("load", id) for id, at in told.items() if at >= since)

    def refresh(self) -> None:
        """Read the counters anew, of all bridges at once, unless they were read just now; waits for the switches."""
        topology = self.core.topology
        self._where = {each for id in topology.all("load-balancer") for each in hypervisors_of(topology, id)}
        if self.flows.refresh():
            self._keep_up()

    def _run(self) -> None:
        while True:
            eventlet.sleep(INTERVAL)
            self.refresh()

    def _read(self, hypervisor: str) -> list[FlowEntry] | None:
        """The flows of the few tables that count, and so none of slots, of which there are many."""
        if hypervisor not in self._where:
            return []
        found: list[FlowEntry] = []
        for table in COUNTING:
            flows = self.core.engine.counted_in(hypervisor, table, TIMEOUT)
            if flows is None:
                return None
            found += flows
        return found

    def _add(self, whose: tuple[int, Counted], more: Count) -> None:
        key, what = whose
        member: Member | None = self.core.topology.get("member", self.core.topology.member_keys.get(key, ""))
        if member is None:
            return
        traffic = _traffic(what, more)
        label = self._names.label(member.id)
        self._by_key[key] = self._by_key[key].plus(traffic)
        self._by_pool[member.pool_id] = self._by_pool[member.pool_id].plus(traffic)
        self._labelled[label] = self._labelled[label].plus(traffic)

    def _keep_up(self) -> None:
        """What is gone from the intent is counted no longer; what is new there begins at 0."""
        topology = self.core.topology
        for key in self._by_key.keys() - topology.member_keys.keys():
            del self._by_key[key]
        for pool in self._by_pool.keys() - topology.all("pool").keys():
            del self._by_pool[pool]
        for member in self._names.forget(topology.all("member")):
            self._labelled.pop(member, None)
        self._states = self._census()

    def _census(self) -> Counter[Operating]:
        """How members are doing; lets other greenlets run in between."""
        topology, found = self.core.topology, Counter[Operating]()
        for number, id in enumerate(list(topology.all("member")), 1):
            member: Member | None = topology.get("member", id)
            if member is not None:
                self._labelled.setdefault(self._names.label(id), NONE)
                found[operating(topology, member)] += 1
            if number % STEP == 0:
                eventlet.sleep(0)
        return found

    def _changed(self, changes: list[Change]) -> None:
        for change in changes:
            if change.kind == "load":
                told = self._told.setdefault((change.new or change.old).pool_id, {})
                told.pop(change.id, None)
                if change.new is not None:
                    told[change.id] = self._clock()
            elif change.kind == "pool" and change.new is None:
                self._told.pop(change.id, None)

    # --- metrics -----------------------------------------------------------------------------------------------------

    def connections(self) -> Series:
        """Connections by member."""
        return [(labels, traffic.connections) for labels, traffic in self._members()]

    def bytes(self) -> Series:
        """Bytes by member and direction."""
        return [
            ({**labels, "direction": direction}, count)
            for labels, traffic in self._members()
            for direction, count in (("in", traffic.bytes_in), ("out", traffic.bytes_out))
        ]

    def _members(self) -> Iterator[tuple[dict[str, str], Traffic]]:
        for member, traffic in sorted(self._labelled.items()):
            yield self._labels(member), traffic

    def slots_by_member(self) -> Series:
        """Slots by member."""
        found: defaultdict[str, int] = defaultdict(int)
        for pool in self.core.topology.all("pool"):
            for member, count in self.slots.of_pool(pool).by_member.items():
                found[self._names.label(member)] += count
        return [(self._labels(member), count) for member, count in sorted(found.items())]

    def slots_moved(self) -> Series:
        """Slots that have moved, by pool."""
        return [(self._of_pool(pool), count) for pool, count in self.slots.series()]

    def by_operating_status(self) -> Series:
        """Members by how they were doing at the last reading."""
        return [({"operating_status": status}, self._states[status]) for status in STATUSES]

    def _labels(self, member_id: str) -> dict[str, str]:
        """Labels of a member's metrics; it is empty for those that have none of their own."""
        member: Member | None = self.core.topology.get("member", member_id)
        pool = self._of_pool(member.pool_id if member is not None else "")
        return {**pool, "member_id": member_id, "member": "" if member is None else member.name or _place(member)}

    def _of_pool(self, pool_id: str) -> dict[str, str]:
        pool: Pool | None = self.core.topology.get("pool", pool_id)
        return {"pool_id": pool_id, "pool": pool.name if pool is not None else ""}


def _place(member: Member) -> str:
    host = f"[{member.address}]" if ":" in member.address else member.address
    return host if member.protocol_port is None else f"{host}:{member.protocol_port}"
