"""What meters of quality of service let pass, and dropped, on all hypervisors together: by port, floating IP, and router's gateway.

Switches count by meter. As with flows (``flow_counters``), what is new is added to what was read before, so that a count goes on when
a VM moves and when a switch begins anew.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import eventlet
from eventlet.semaphore import Semaphore

from pipelines.qos import Use
from pipelines.wire.multipart import MeterCount
from topology.model import Vif

from .flow_counters import FRESH, SHARE, TIMEOUT, Count, Names

if TYPE_CHECKING:
    from .core import Core

_PORTS = range(Use.EGRESS_RATE, Use.EGRESS_RATE + 4)
_GATEWAYS, _FLOATING = range(Use.GATEWAY, Use.GATEWAY + 4), range(Use.FLOATING, Use.FLOATING + 4)
_WHAT = (
    ("egress", "bandwidth_limit"), ("egress", "packet_rate_limit"),
    ("ingress", "bandwidth_limit"), ("ingress", "packet_rate_limit"),
)  # fmt: skip


class Limited(NamedTuple):
    """A limit of something."""

    kind: str
    """``port``, ``router`` or ``floating-ip``."""
    id: str
    """Empty for all those without metrics of their own."""
    direction: str
    rule: str


class Seen(NamedTuple):
    """What passed a limit, and what was dropped by it."""

    passed: Count = Count()
    dropped: Count = Count()

    def plus(self, other: Seen) -> Seen:
        """Both together."""
        return Seen(self.passed.plus(other.passed), self.dropped.plus(other.dropped))


class MeterCounters:
    """Counts by limit, as last read."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.seen: defaultdict[Limited, Seen] = defaultdict(Seen)
        self._last: dict[str, dict[int, MeterCount]] = {}
        """By hypervisor."""
        self._names = Names()
        self._again = 0.0
        self._reading = Semaphore()

    def refresh(self) -> None:
        """Read all meters anew, unless they were read just now; waits for the switches."""
        with self._reading:
            began = time.monotonic()
            if began < self._again:
                return
            topology = self.core.topology
            for hypervisor in self._last.keys() - topology.all("hypervisor").keys():
                del self._last[hypervisor]
            pool = eventlet.GreenPool()
            for hypervisor in list(topology.all("hypervisor")):
                if self.core.engine.connected(hypervisor) and self.core.engine.meters(hypervisor):
                    pool.spawn(self._read, hypervisor)
            pool.waitall()
            self._forget()
            now = time.monotonic()
            self._again = now + max(FRESH, (SHARE - 1) * (now - began))

    def _read(self, hypervisor: str) -> None:
        counts = self.core.engine.meter_counters(hypervisor, TIMEOUT)
        if counts is None:
            return
        before, owners = self._last.get(hypervisor, {}), self._owners(hypervisor)
        for count in counts:
            use, number = count.id >> 24, count.id & 0xFFFFFF
            owner = owners.get((use - use % 4 if use not in _PORTS else Use.EGRESS_RATE, number))
            if owner is not None:
                kind, id = owner
                direction, rule = _WHAT[(use - Use.EGRESS_RATE) if use in _PORTS else use % 4]
                limited = Limited(kind, self._names.label(id), direction, rule)
                self.seen[limited] = self.seen[limited].plus(_news(count, before.get(count.id)))
        self._last[hypervisor] = {count.id: count for count in counts}

    def _owners(self, hypervisor: str) -> Mapping[tuple[int, int], tuple[str, str]]:
        """Kind and id of what has meters, by the first of its uses and the number that they have."""
        topology, found = self.core.topology, {}
        for id in topology.ports_on(hypervisor):
            vif: Vif | None = topology.get("vif", id)
            if vif is not None and vif.hypervisor_id == hypervisor and vif.ofport is not None:
                found[int(Use.EGRESS_RATE), vif.ofport] = "port", id
        for id, router in topology.all("router").items():
            if router.router_key is not None:
                found[_GATEWAYS.start, router.router_key] = "router", id
        for id, floating in topology.all("floating-ip").items():
            if floating.mac_address is not None:
                found[_FLOATING.start, floating.number] = "floating-ip", id
        return found

    def _forget(self) -> None:
        """What is gone from the intent is counted no longer."""
        topology = self.core.topology
        gone = {each for each in self.seen if each.id and topology.get(each.kind, each.id) is None}
        for each in gone:
            del self.seen[each]
        ids = {each.id for each in gone}
        self._names.forget(_Without(ids))

    def series(self, field: str) -> list[tuple[dict[str, str], int]]:
        """``packets`` or ``bytes`` as a metric: by what is limited, direction, rule, and whether it was passed or dropped."""
        return [
            ({**limited._asdict(), "result": result}, getattr(getattr(seen, result), field))
            for limited, seen in sorted(self.seen.items())
            for result in ("passed", "dropped")
        ]


class _Without:
    """Contains everything but some."""

    def __init__(self, ids: set[str]) -> None:
        self._ids = ids

    def __contains__(self, id: object) -> bool:
        return id not in self._ids


def _news(now: MeterCount, before: MeterCount | None) -> Seen:
    """What a meter has seen since it was read last; all of it when it began anew."""
    if before is None or now.duration < before.duration or now.packets < before.packets:
        before = MeterCount(now.id, 0, 0, 0, 0, 0.0)
    packets, size = now.packets - before.packets, now.bytes - before.bytes
    dropped = Count(now.dropped_packets - before.dropped_packets, now.dropped_bytes - before.dropped_bytes)
    return Seen(Count(packets - dropped.packets, size - dropped.bytes), dropped)
