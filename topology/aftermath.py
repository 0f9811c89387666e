"""The graph right after a batch of edits, seen by who must clean up: whoever had to do with a network before still has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from .changes import Change
from .graph import Topology
from .model import Network, Port

_TELLING = ("reach", "presence", "hypervisor", "load-balancer", "pool")
"""Kinds of changes whose old value tells something."""


class Aftermath(Topology):
    """A view of a graph that shares its state: read it at once, and do not edit it.

    One batch may take a port away and with it the last reason of a hypervisor to reach the port's network. Who asks
    where that network is must be told of this hypervisor too, since it still has what the port once needed there.
    """

    def __init__(self, topology: Topology, changes: Iterable[Change]) -> None:
        self.__dict__.update(topology.__dict__)
        self._had_reached: defaultdict[str, set[str]] = defaultdict(set)
        self._had_ports: defaultdict[str, set[str]] = defaultdict(set)
        self._had_wire: defaultdict[str, set[str]] = defaultdict(set)
        self._gone: dict[tuple[str, str], Any] = {}
        self._had_interfaces: defaultdict[str, list[Port]] = defaultdict(list)
        for change in changes:
            match change.kind:
                case "reach":
                    for network in change.old:
                        self._had_reached[network].add(change.id)
                case "presence" if change.old is not None:
                    self._had_ports[change.id].add(change.old)
                case "load-balancer" | "pool" if change.new is None:
                    self._gone[change.kind, change.id] = change.old
                case "port" if change.new is None and change.old.router_id is not None:
                    self._had_interfaces[change.old.router_id].append(change.old)
                case "hypervisor" if change.old is not None:
                    for mapping in change.old.bridge_mappings:
                        self._had_wire[mapping.physical_network].add(change.id)

    @staticmethod
    def leaves_something(changes: Iterable[Change]) -> bool:
        """Whether there is anything to be told that the graph itself does not tell."""
        return any(change.kind in _TELLING and change.old for change in changes)

    def get(self, kind: str, id: str) -> Any:
        """The object; load balancers and pools also when they are just gone, since their parts are told by them."""
        found = super().get(kind, id)
        return found if found is not None else self._gone.get((kind, id))

    def interfaces_of(self, router_id: str) -> list[Port]:
        """The ports that are a router's interfaces, or were."""
        return [*super().interfaces_of(router_id), *self._had_interfaces.get(router_id, ())]

    def reachers_of(self, network_id: str) -> Mapping[str, int]:
        """The hypervisors that reach a network, or did."""
        return {**super().reachers_of(network_id), **dict.fromkeys(self._had_reached.get(network_id, ()), 1)}

    def hypervisors_of(self, network_id: str) -> Mapping[str, int]:
        """The hypervisors on which a network has ports, or had."""
        return {**super().hypervisors_of(network_id), **dict.fromkeys(self._had_ports.get(network_id, ()), 1)}

    def wired_to(self, network_id: str) -> frozenset[str] | set[str]:
        """The hypervisors that are wired to a provider network, or were."""
        network: Network | None = self.get("network", network_id)
        wire = network.physical_network if network is not None else None
        return super().wired_to(network_id) | (self._had_wire.get(wire, set()) if wire is not None else set())
