"""The graph of everything NovaNet knows: intent and observations as nodes, references as edges.

The graph itself is a networkx ``MultiDiGraph`` whose nodes are ``(kind, id)`` with the object as attribute
``obj`` and whose edges carry, as key, the name of the field that refers. Beside it stand indexes that answer in
O(1) what compilers and validation ask often; ``apply`` keeps them true, edit by edit.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import networkx

from .changes import Change, Edit
from .gateways import candidates, router_between, router_to_balancer
from .indexes import Indexes
from .membership import MembershipReading, discard
from .model import (
    KINDS,
    FloatingIp,
    Handover,
    Hypervisor,
    Link,
    LoadBalancer,
    Network,
    Port,
    PortForwarding,
    Router,
    TunnelMesh,
    Vif,
)
from .realms import Realms
from .references import Node, references

OBSERVED = ("vif", "bridge", "link", "meters", "multicast-group", "handover", "load")
_NOTHING: frozenset[str] = frozenset()
_NOBODY: Mapping[str, int] = Counter()


class Topology(Indexes, MembershipReading):
    """The graph and its indexes. Not thread-safe: one thread edits and reads."""

    def __init__(self) -> None:
        super().__init__()
        self.graph: networkx.MultiDiGraph[Node] = networkx.MultiDiGraph()
        self._objects: dict[str, dict[str, Any]] = {kind: {} for kind in (*KINDS, *OBSERVED)}
        self._located: defaultdict[str, set[str]] = defaultdict(set)
        self._spread: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._networks_on: defaultdict[str, set[str]] = defaultdict(set)
        self._where: dict[str, str] = {}
        self._gateways: dict[str, tuple[str, ...]] = {}
        self._reasons: dict[str, frozenset[tuple[str, str]]] = {}
        self._realms = Realms(self._joined)

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

    @property
    def underlay_version(self) -> int:
        """6 as soon as one hypervisor has an IPv6 tunnel address, since its packets are the larger ones; else 4."""
        return 6 if self._ipv6_endpoints else 4

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
        return self._spread.get(network_id, _NOBODY)

    def networks_on(self, hypervisor_id: str) -> frozenset[str] | set[str]:
        """Ids of the networks that have ports on a hypervisor."""
        return self._networks_on.get(hypervisor_id, _NOTHING)

    def peers_of(self, hypervisor_id: str) -> Mapping[str, int]:
        """The hypervisors that share realms with this one, with the number of realms."""
        return self._realms.peers(hypervisor_id)

    def reachers_of(self, network_id: str) -> Mapping[str, int]:
        """The hypervisors that reach a network: those of its realm (see ``realms``)."""
        return self._realms.hypervisors(network_id)

    def reached_from(self, hypervisor_id: str) -> Iterator[str]:
        """Ids of the networks that a hypervisor reaches, each once."""
        return self._realms.reached(hypervisor_id)

    def realm_of(self, network_id: str) -> frozenset[str]:
        """Ids of the networks that routers join with this one, itself included."""
        return self._realms.networks(network_id)

    def interfaces_of(self, router_id: str) -> list[Port]:
        """The ports that are a router's interfaces, ordered by key; its gateway is among them."""
        found: list[Port] = [self._objects["port"][id] for id in self._interfaces.get(router_id, ())]
        return sorted(found, key=lambda port: port.port_key or 0)

    def routed_by(self, network_id: str) -> list[Port]:
        """The interfaces that routers have in a network, ordered by key."""
        found: list[Port] = [self._objects["port"][id] for id in self._routed.get(network_id, ())]
        return sorted(found, key=lambda port: port.port_key or 0)

    def gateway_of(self, router_id: str) -> Port | None:
        """The interface that leads a router to the outside: the one in an external network."""
        return next((port for port in self.interfaces_of(router_id) if self._is_external(port.network_id)), None)

    def gateways_of(self, router_id: str) -> tuple[str, ...]:
        """Ids of the hypervisors that may be the router's gateway, best first; none when it has no way out."""
        return self._gateways.get(router_id, ())

    def floating_of(self, port_id: str) -> frozenset[str] | set[str]:
        """Ids of the floating IPs that stand for a port."""
        return self._floating.get(port_id, _NOTHING)

    def forwardings_of(self, floating_ip_id: str) -> frozenset[str] | set[str]:
        """Ids of the port forwardings of a floating IP."""
        return self._forwardings.get(floating_ip_id, _NOTHING)

    def router_of_floating(self, floating_ip_id: str) -> str | None:
        """Id of the router that leads from a floating IP to its port or load balancer, or to the port of its first forwarding."""
        floating: FloatingIp | None = self.get("floating-ip", floating_ip_id)
        if floating is None:
            return None
        balancer: LoadBalancer | None = self.get("load-balancer", floating.loadbalancer_id or "")
        if balancer is not None:
            return router_to_balancer(self, balancer, floating.floating_network_id)
        port_id, address = floating.port_id, floating.fixed_ip_address
        if port_id is None:
            first = min(self.forwardings_of(floating_ip_id), default="")
            forwarding: PortForwarding | None = self.get("port-forwarding", first)
            if forwarding is not None:
                port_id, address = forwarding.internal_port_id, forwarding.internal_ip_address
        port: Port | None = self.get("port", port_id or "")
        return None if port is None else router_between(self, port, address, floating.floating_network_id)

    def neighbours_in(self, network_id: str) -> frozenset[str] | set[str]:
        """Ids of the hosts outside that are known in a provider network."""
        return self._neighbours.get(network_id, _NOTHING)

    def multicast_groups_of(self, network_id: str) -> frozenset[str] | set[str]:
        """Ids of the multicast groups (``multicast-group``) that are known in a network: somebody wants them, or did."""
        return self._multicast_groups.get(network_id, _NOTHING)

    def wanted_by(self, port_id: str) -> frozenset[str] | set[str]:
        """Ids of the multicast groups (``multicast-group``) that a port wants."""
        return self._wanted.get(port_id, _NOTHING)

    def wired_to(self, network_id: str) -> frozenset[str] | set[str]:
        """Ids of the hypervisors that are wired to a provider network."""
        network: Network | None = self.get("network", network_id)
        wire = network.physical_network if network is not None else None
        return _NOTHING if wire is None else self._wires.get(wire, _NOTHING)

    def linked_to(self, hypervisor_id: str) -> set[str]:
        """Ids of the hypervisors that this one and they watch each other: one of the two is a gateway of a realm of both."""
        found: set[str] = set()
        for network in self._realms.reached(hypervisor_id):
            if self._is_external(network):
                continue  # who has VMs outside needs no gateway for them
            for interface in self._routed.get(network, ()):
                gateways = self._gateways.get(self._objects["port"][interface].router_id, ())
                found.update(self._realms.hypervisors(network) if hypervisor_id in gateways else gateways)
        found.discard(hypervisor_id)
        return found

    def links_from(self, hypervisor_id: str) -> Iterator[Link]:
        """The probes by which a hypervisor watches others."""
        return (link for link in self._links_of(hypervisor_id) if link.hypervisor_id == hypervisor_id)

    def links_to(self, hypervisor_id: str) -> Iterator[Link]:
        """The probes by which others watch a hypervisor."""
        return (link for link in self._links_of(hypervisor_id) if link.peer_id == hypervisor_id)

    def _links_of(self, hypervisor_id: str) -> Iterator[Link]:
        node = ("hypervisor", hypervisor_id)
        found = self.graph.predecessors(node) if node in self.graph else ()
        return (self._objects[kind][id] for kind, id in found if kind == "link")

    def rules_of(self, group_id: str) -> frozenset[str] | set[str]:
        """Ids of the rules of a security group."""
        return self._rules.get(group_id, _NOTHING)

    def rules_naming(self, group_id: str) -> frozenset[str] | set[str]:
        """Ids of the rules whose peers are a security group's members, or an address group's addresses."""
        return self._peers.get(group_id, _NOTHING)

    def qos_rules_of(self, policy_id: str) -> frozenset[str] | set[str]:
        """Ids of the rules of a QoS policy."""
        return self._qos_rules.get(policy_id, _NOTHING)

    def paired(self, network_id: str, ip_address: str) -> frozenset[str] | set[str]:
        """Ids of the ports that have an address among their allowed address pairs."""
        return self._paired.get((network_id, ip_address), _NOTHING)

    def bearers(self, network_id: str, ip_address: str) -> set[str]:
        """Ids of the ports of a network that have an address: fixed, or (or a prefix) among their allowed address pairs."""
        fixed = (self.addresses.get((subnet, ip_address), "") for subnet in self.subnets_of(network_id))
        return {*self.paired(network_id, ip_address), *(id for id in fixed if id in self._objects["port"])}

    def senders(self, network_id: str, mac_address: str) -> set[str]:
        """Ids of the ports of a network that may send from a MAC address: the one whose it is, and those that it is paired with."""
        found = set(self._lent.get((network_id, mac_address), _NOTHING))
        owner = self.macs.get((network_id, mac_address), "")
        return found | {owner} if owner in self._objects["port"] else found

    def location(self, port_id: str) -> str | None:
        """The hypervisor a port is on: where it is seen plugged, else where the store last had it."""
        return self._where.get(port_id)

    def identity_told(self, port: Port) -> int:
        """The identity that flows tell of a port: its own, or as yet the one before (``Handover``); 0 for none."""
        handover: Handover | None = self._objects["handover"].get(port.id)
        return port.identity or 0 if handover is None or handover.told is None else handover.told

    def local_ports(self, network_id: str, hypervisor_id: str) -> list[Port]:
        """The ports of a network on one hypervisor, in no order."""
        ports = self._objects["port"]
        ids = self._ports.get(network_id, _NOTHING) & self._located.get(hypervisor_id, _NOTHING)
        return [ports[id] for id in ids]

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
        on the new one, or lost its last on the old one); ``gateways`` (id = router: its possible gateways, in order, were
        the old and are the new ones); and ``reach`` (id = hypervisor: it no longer reaches the networks in old, and now
        reaches those in new); and ``underlay`` (id = empty: the version of IP that tunnels count with). Of security
        groups: ``members`` (id = security group: the identities in old are no longer members, those in new are now) and
        ``resident`` (id = hypervisor: it lost its last port with the identity in old, or got its first one with that in new).
        """
        changes = []
        for kind, id, value in edits:
            old = self._objects[kind].get(id)
            if old == value:
                continue
            underlay = self.underlay_version
            if old is not None:
                self._forget(kind, id, old)
            if value is not None:
                self._learn(kind, id, value)
            changes.append(Change(kind, id, old, value))
            changes += self._relocate(kind, id, old, value)
            changes += self._reroute(kind, id, old, value)
            changes += self._regroup(kind, id, old, value)
            if self.underlay_version != underlay:
                changes.append(Change("underlay", "", underlay, self.underlay_version))
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
        if before is not None:
            if self._leave(id, network, before):
                changes.append(Change("presence", network, before, None))
            changes += self._realms.leave(network, before)
        if here is not None:
            if self._enter(id, network, here):
                changes.append(Change("presence", network, None, here))
            changes += self._realms.enter(network, here)
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
        return first

    def _leave(self, port_id: str, network_id: str, hypervisor_id: str) -> bool:
        """Returns whether it was the network's last port there."""
        del self._where[port_id]
        discard(self._located, hypervisor_id, port_id)
        spread = self._spread[network_id]
        spread[hypervisor_id] -= 1
        last = not spread[hypervisor_id]
        if last:
            del spread[hypervisor_id]
            discard(self._networks_on, hypervisor_id, network_id)
        if not spread:
            del self._spread[network_id]
        return last

    # --- who is in which security group --------------------------------------------------------------------------

    def _regroup(self, kind: str, id: str, old: Any, new: Any) -> list[Change]:
        """What follows for security groups' members, and for where they are."""
        match kind:
            case "port" | "vif" | "handover":
                return self._membership.place(id, self._identities_at(id), self._where.get(id))
            case "security-group":
                return self._membership.group(id, old, new)
            case "identity":
                return self._membership.identity(old, new)
        return []

    def _identities_at(self, port_id: str) -> tuple[int, ...]:
        """The identities whose rules are wanted where a port is."""
        port: Port | None = self._objects["port"].get(port_id)
        if port is None:
            return ()
        handover: Handover | None = self._objects["handover"].get(port_id)
        own = () if port.identity is None else (port.identity,)
        return own if handover is None else tuple({*own, *handover.former})

    # --- what routers join ---------------------------------------------------------------------------------------

    def _is_external(self, network_id: str) -> bool:
        network: Network | None = self.get("network", network_id)
        return network is not None and network.external

    def _joined(self, network_id: str) -> Iterator[str]:
        """The networks that routers join a network to, one hop away."""
        if self._is_external(network_id):
            return
        for interface in self._routed.get(network_id, ()):
            for port in self._interfaces[self._objects["port"][interface].router_id]:
                other = self._objects["port"][port].network_id
                if not self._is_external(other):
                    yield other

    def _reroute(self, kind: str, id: str, old: Any, new: Any) -> list[Change]:
        """What follows from changes of routers, of their interfaces and of the wires that lead outside."""
        obj = new or old
        match obj:
            case Port() if obj.router_id is not None and (old is None or new is None):
                networks = {port.network_id for port in self.interfaces_of(obj.router_id)} | {obj.network_id}
                changes = [] if self._is_external(obj.network_id) else self._realms.regroup(networks)
                return changes + self._place_gateways(obj.router_id)
            case Router():
                return self._place_gateways(id)
            case Hypervisor():
                if (
                    old is None
                    or new is None
                    or (old.bridge_mappings, old.gateway) != (new.bridge_mappings, new.gateway)
                ):
                    return [change for router in list(self._interfaces) for change in self._place_gateways(router)]
            case Network(external=True):
                interfaces = [self._objects["port"][port].router_id for port in self._routed.get(id, ())]
                return [change for router in interfaces for change in self._place_gateways(router)]
        return []

    def _place_gateways(self, router_id: str) -> list[Change]:
        """Find a router's gateways; they reach the networks that it has interfaces in."""
        router: Router | None = self.get("router", router_id)
        way_out = self.gateway_of(router_id)
        before = self._gateways.get(router_id, ())
        now: tuple[str, ...] = ()
        if router is not None and way_out is not None:
            now = candidates(router, self._objects["network"][way_out.network_id], self.all("hypervisor"))
        inside = {p.network_id for p in self.interfaces_of(router_id) if not self._is_external(p.network_id)}
        reasons = frozenset((network, hypervisor) for network in inside for hypervisor in now)
        known = self._reasons.get(router_id, frozenset())
        changes = [Change("gateways", router_id, before, now)] if now != before else []
        for network, hypervisor in sorted(reasons - known):
            changes += self._realms.enter(network, hypervisor)
        for network, hypervisor in sorted(known - reasons):
            changes += self._realms.leave(network, hypervisor)
        self._gateways[router_id], self._reasons[router_id] = now, reasons
        if router is None and way_out is None:
            del self._gateways[router_id], self._reasons[router_id]
        return changes
