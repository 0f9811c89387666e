"""The graph of everything NovaNet knows: intent and observations as nodes, references as edges.

The graph itself is a networkx ``MultiDiGraph`` whose nodes are ``(kind, id)`` with the object as attribute
``obj`` and whose edges carry, as key, the name of the field that refers. Beside it stand indexes that answer in
O(1) what compilers and validation ask often; ``apply`` keeps them true, edit by edit.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import networkx

from .changes import Change, Edit
from .model import KINDS, Bridge, Hypervisor, Network, Object, Port, Subnet, TunnelMesh, Vif

Node = tuple[str, str]
OBSERVED = ("vif", "bridge")
_NOTHING: frozenset[str] = frozenset()


def references(kind: str, obj: Any) -> list[tuple[str, Node]]:
    """The nodes that an object refers to: ``(field, (kind, id))`` each."""
    match obj:
        case Subnet():
            return [("network_id", ("network", obj.network_id))]
        case Port():
            found = [("network_id", ("network", obj.network_id))]
            subnets = {f.subnet_id for f in obj.fixed_ips or () if f.subnet_id}
            found += [("fixed_ips", ("subnet", subnet)) for subnet in sorted(subnets)]
            return found
        case Vif():
            return [("port_id", ("port", obj.port_id)), ("hypervisor_id", ("hypervisor", obj.hypervisor_id))]
        case Bridge():
            return [("hypervisor_id", ("hypervisor", obj.hypervisor_id))]
    return []


class Topology:
    """The graph and its indexes. Not thread-safe: one thread edits and reads."""

    def __init__(self) -> None:
        self.graph: networkx.MultiDiGraph[Node] = networkx.MultiDiGraph()
        self._objects: dict[str, dict[str, Any]] = {kind: {} for kind in (*KINDS, *OBSERVED)}
        self.vnis: dict[int, str] = {}
        self.port_keys: dict[int, str] = {}
        self.hypervisor_keys: dict[int, str] = {}
        self.macs: dict[tuple[str, str], str] = {}
        self.addresses: dict[tuple[str, str], str] = {}
        self.names: dict[tuple[str, str, str], str] = {}
        self._subnets: defaultdict[str, set[str]] = defaultdict(set)
        self._ports: defaultdict[str, set[str]] = defaultdict(set)
        self._located: defaultdict[str, set[str]] = defaultdict(set)
        self._spread: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._networks_on: defaultdict[str, set[str]] = defaultdict(set)
        self._shared: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._where: dict[str, str] = {}

    # --- reading -------------------------------------------------------------------------------------------------

    def get(self, kind: str, id: str) -> Any:
        """The object, or None."""
        return self._objects[kind].get(id)

    def all(self, kind: str) -> Mapping[str, Any]:
        """Every object of a kind, by id (a live view)."""
        return MappingProxyType(self._objects[kind])

    @property
    def mesh(self) -> TunnelMesh | None:
        """The tunnel mesh; None only before the store has made it."""
        return next(iter(self._objects["tunnel-mesh"].values()), None)

    def subnets_of(self, network_id: str) -> frozenset[str] | set[str]:
        """Ids of the subnets of a network."""
        return self._subnets.get(network_id, _NOTHING)

    def ports_of(self, network_id: str) -> frozenset[str] | set[str]:
        """Ids of the ports of a network."""
        return self._ports.get(network_id, _NOTHING)

    def ports_on(self, hypervisor_id: str) -> frozenset[str] | set[str]:
        """Ids of the ports located on a hypervisor."""
        return self._located.get(hypervisor_id, _NOTHING)

    def hypervisors_of(self, network_id: str) -> Mapping[str, int]:
        """The hypervisors on which a network has ports, with their number."""
        return self._spread.get(network_id, Counter())

    def networks_on(self, hypervisor_id: str) -> frozenset[str] | set[str]:
        """Ids of the networks that have ports on a hypervisor."""
        return self._networks_on.get(hypervisor_id, _NOTHING)

    def peers_of(self, hypervisor_id: str) -> Mapping[str, int]:
        """The hypervisors that share networks with this one, with the number of networks."""
        return self._shared.get(hypervisor_id, Counter())

    def location(self, port_id: str) -> str | None:
        """The hypervisor a port is on: where it is seen plugged, else where the store last had it."""
        return self._where.get(port_id)

    def local_ports(self, network_id: str, hypervisor_id: str) -> list[Port]:
        """The ports of a network on one hypervisor, ordered by key."""
        ids = self._ports.get(network_id, _NOTHING)
        here = self._located.get(hypervisor_id, _NOTHING)
        small, large = (ids, here) if len(ids) < len(here) else (here, ids)
        found: list[Port] = [self._objects["port"][id] for id in small if id in large]
        return sorted(found, key=lambda port: port.port_key or 0)

    def referrers(self, kind: str, id: str) -> list[Node]:
        """The objects of the intent store that refer to this one, and so keep it from being deleted."""
        node = (kind, id)
        if node not in self.graph:
            return []
        return [source for source in self.graph.predecessors(node) if source[0] not in OBSERVED]

    # --- editing -------------------------------------------------------------------------------------------------

    def apply(self, edits: Iterable[Edit]) -> list[Change]:
        """Make the edits, in their order; returns those that changed something.

        Derived kinds tell what followed, with hypervisors as old and new: ``location`` (id = port), ``membership``
        (id = network: one of its ports came, went or moved) and ``presence`` (id = network: it got its first port
        on the new one, or lost its last on the old one).
        """
        changes = []
        for kind, id, value in edits:
            old = self._objects[kind].get(id)
            if old == value:
                continue
            if old is not None:
                self._forget(kind, id, old)
            if value is not None:
                self._learn(kind, id, value)
            changes.append(Change(kind, id, old, value))
            changes += self._relocate(kind, id, old, value)
        return changes

    def _learn(self, kind: str, id: str, obj: Any) -> None:
        node = (kind, id)
        self._objects[kind][id] = obj
        self.graph.add_node(node, obj=obj)
        for field, target in references(kind, obj):
            self.graph.add_edge(node, target, key=field)
        self._index(kind, id, obj)

    def _forget(self, kind: str, id: str, obj: Any) -> None:
        node = (kind, id)
        del self._objects[kind][id]
        for field, target in references(kind, obj):
            self.graph.remove_edge(node, target, key=field)
            self._drop_bare(target)
        self.graph.nodes[node].pop("obj", None)
        self._drop_bare(node)
        self._unindex(kind, id, obj)

    def _drop_bare(self, node: Node) -> None:
        """Remove a node that stands for nothing and that nothing points to."""
        if "obj" not in self.graph.nodes[node] and not self.graph.degree(node):
            self.graph.remove_node(node)

    def _index(self, kind: str, id: str, obj: Any) -> None:
        if isinstance(obj, Object) and obj.name:
            self.names[kind, obj.project_id, obj.name] = id
        match obj:
            case Network():
                if obj.vni is not None:
                    self.vnis[obj.vni] = id
            case Subnet():
                self._subnets[obj.network_id].add(id)
            case Port():
                self._ports[obj.network_id].add(id)
                if obj.port_key is not None:
                    self.port_keys[obj.port_key] = id
                if obj.mac_address is not None:
                    self.macs[obj.network_id, obj.mac_address] = id
                for fixed in obj.fixed_ips or ():
                    if fixed.subnet_id and fixed.ip_address:
                        self.addresses[fixed.subnet_id, fixed.ip_address] = id
            case Hypervisor():
                if obj.hypervisor_key is not None:
                    self.hypervisor_keys[obj.hypervisor_key] = id

    def _unindex(self, kind: str, id: str, obj: Any) -> None:
        def drop(index: dict[Any, str], key: Any) -> None:
            if index.get(key) == id:
                del index[key]

        if isinstance(obj, Object):
            drop(self.names, (kind, obj.project_id, obj.name))
        match obj:
            case Network():
                drop(self.vnis, obj.vni)
            case Subnet():
                _discard(self._subnets, obj.network_id, id)
            case Port():
                _discard(self._ports, obj.network_id, id)
                drop(self.port_keys, obj.port_key)
                drop(self.macs, (obj.network_id, obj.mac_address))
                for fixed in obj.fixed_ips or ():
                    drop(self.addresses, (fixed.subnet_id, fixed.ip_address))
            case Hypervisor():
                drop(self.hypervisor_keys, obj.hypervisor_key)

    # --- where ports are -----------------------------------------------------------------------------------------

    def _relocate(self, kind: str, id: str, old: Any, new: Any) -> list[Change]:
        if kind not in ("port", "vif"):
            return []
        port: Port | None = self._objects["port"].get(id)
        vif: Vif | None = self._objects["vif"].get(id)
        here = None
        if port is not None:
            here = vif.hypervisor_id if vif is not None else port.host_id
        before = self._where.get(id)
        if before == here:
            return []
        network = port.network_id if port is not None else old.network_id
        changes = [Change("location", id, before, here), Change("membership", network, before, here)]
        if before is not None and self._leave(id, network, before):
            changes.append(Change("presence", network, before, None))
        if here is not None and self._enter(id, network, here):
            changes.append(Change("presence", network, None, here))
        return changes

    def _enter(self, port_id: str, network_id: str, hypervisor_id: str) -> bool:
        """Returns whether it is the network's first port there."""
        self._where[port_id] = hypervisor_id
        self._located[hypervisor_id].add(port_id)
        spread = self._spread[network_id]
        spread[hypervisor_id] += 1
        first = spread[hypervisor_id] == 1
        if first:
            self._networks_on[hypervisor_id].add(network_id)
            for other in spread:
                if other != hypervisor_id:
                    self._shared[hypervisor_id][other] += 1
                    self._shared[other][hypervisor_id] += 1
        return first

    def _leave(self, port_id: str, network_id: str, hypervisor_id: str) -> bool:
        """Returns whether it was the network's last port there."""
        del self._where[port_id]
        _discard(self._located, hypervisor_id, port_id)
        spread = self._spread[network_id]
        spread[hypervisor_id] -= 1
        last = not spread[hypervisor_id]
        if last:
            del spread[hypervisor_id]
            _discard(self._networks_on, hypervisor_id, network_id)
            for other in spread:
                _decrement(self._shared, hypervisor_id, other)
                _decrement(self._shared, other, hypervisor_id)
        if not spread:
            del self._spread[network_id]
        return last


def _discard(index: defaultdict[str, set[str]], key: str, value: str) -> None:
    members = index[key]
    members.discard(value)
    if not members:
        del index[key]


def _decrement(index: defaultdict[str, Counter[str]], key: str, other: str) -> None:
    counts = index[key]
    counts[other] -= 1
    if not counts[other]:
        del counts[other]
    if not counts:
        del index[key]
