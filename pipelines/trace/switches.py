"""The switches of a trace: what their flows do, whose they are, and why they drop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pipelines import tables as t
from pipelines.compiler import Compiler, Owner
from pipelines.flow import Flow
from pipelines.interpreter import Connections, Interpreter, Outcome, Packet, Visit
from pipelines.ledger import Snapshot
from topology.graph import Topology

Pace = Callable[[Iterable[Any]], Iterable[Any]]
"""Gives the same items, and lets others work in between."""
Fetch = Callable[[str], Snapshot | None]
"""Id of a hypervisor -> what its bridge has; None when that is unknown."""


class Unknown(LookupError):
    """Nothing is known of a hypervisor's flows."""

    def __init__(self, hypervisor: str) -> None:
        super().__init__(f"nothing is known of the flows of hypervisor {hypervisor}")
        self.hypervisor = hypervisor


class Switch:
    """One hypervisor's bridge."""

    def __init__(self, topology: Topology, compiler: Compiler, hypervisor: str, snapshot: Snapshot, pace: Pace) -> None:
        self.hypervisor = hypervisor
        self._topology, self._compiler, self._pace, self._owned = topology, compiler, pace, snapshot.owned
        self._interpreter = Interpreter(snapshot.flows, snapshot.groups, snapshot.version, strict=False, pace=pace)
        self._interpreter.down = {
            link.ofport for link in topology.links_from(hypervisor) if link.ofport is not None and not link.up
        }
        self._owners: dict[bytes, list[Owner]] = {}

    @property
    def connections(self) -> Connections:
        """What its conntrack knows of the trace's connections."""
        return self._interpreter.connections

    def run(self, packet: Packet, in_port: int) -> Outcome:
        """What becomes of a packet that comes in by a port. Raises NotInterpreted."""
        outcome = self._interpreter.run(packet, in_port)
        self._find_owners({visit.hit.key for visit in outcome.visits if visit.hit is not None})
        return outcome

    def owners(self, visit: Visit) -> list[Owner]:
        """Who wants the flow that the packet met."""
        return self._owners.get(visit.hit.key, []) if visit.hit is not None else []

    def reason(self, visit: Visit) -> str:
        """Why a flow drops, or a table what none of its flows wants, in the words that they declare."""
        hit = visit.hit
        for owner in self.owners(visit) if hit is not None else ():
            for rule in self._compiler.rules(self._topology, self.hypervisor, owner):
                if isinstance(rule, Flow) and rule.reason and rule.key == hit.key:  # type: ignore[union-attr]
                    return rule.reason
        return t.PIPELINE[visit.table].reason

    def _find_owners(self, keys: set[bytes]) -> None:
        """Look for the owners of flows, through all of them once."""
        missing = keys - self._owners.keys()
        found: dict[bytes, list[Owner]] = {key: [] for key in missing}
        for owner, owned in self._pace(self._owned) if missing else ():
            for key in missing.intersection(owned):
                found[key].append(owner)
        self._owners |= found


class Switches:
    """The bridges that packets of a trace have come to."""

    def __init__(self, topology: Topology, compiler: Compiler, fetch: Fetch, pace: Pace = iter) -> None:
        self._topology, self._compiler, self._fetch, self._pace = topology, compiler, fetch, pace
        self._known: dict[str, Switch] = {}

    def __getitem__(self, hypervisor: str) -> Switch:
        """A hypervisor's. Raises Unknown."""
        found = self._known.get(hypervisor)
        if found is None:
            snapshot = self._fetch(hypervisor)
            if snapshot is None:
                raise Unknown(hypervisor)
            found = self._known[hypervisor] = Switch(self._topology, self._compiler, hypervisor, snapshot, self._pace)
        return found

    @property
    def met(self) -> list[str]:
        """Ids of the hypervisors that packets have come to."""
        return list(self._known)
