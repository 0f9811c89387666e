"""A draft: edits laid over a view of the objects, which itself stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Protocol, TypeVar

from ..balancing_index import numbers, places
from ..changes import Edit
from ..indexes import rule_match
from ..membership import selector_scope
from ..model import (
    KINDS,
    FloatingIp,
    Hypervisor,
    Identity,
    LoadBalancer,
    Neighbour,
    Network,
    Object,
    Port,
    PortForwarding,
    QosRule,
    Router,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
    TunnelMesh,
)
from ..references import Node, references

K = TypeVar("K")
V = TypeVar("V")


class View(Protocol):
    """What admission reads; see ``Topology`` for what each member holds."""

    @property
    def vnis(self) -> Mapping[int, str]: ...
    @property
    def port_keys(self) -> Mapping[int, str]: ...
    @property
    def hypervisor_keys(self) -> Mapping[int, str]: ...
    @property
    def macs(self) -> Mapping[tuple[str, str], str]: ...
    @property
    def addresses(self) -> Mapping[tuple[str, str], str]: ...
    @property
    def names(self) -> Mapping[tuple[str, str, str], str]: ...
    @property
    def host_names(self) -> Mapping[tuple[str, str], str]: ...
    @property
    def router_keys(self) -> Mapping[int, str]: ...
    @property
    def neighbours(self) -> Mapping[tuple[str, str], str]: ...
    @property
    def identities(self) -> Mapping[int, str]: ...
    @property
    def rule_keys(self) -> Mapping[int, str]: ...
    @property
    def rules(self) -> Mapping[tuple[Any, ...], str]: ...
    @property
    def balancer_keys(self) -> Mapping[int, str]: ...
    @property
    def pool_keys(self) -> Mapping[int, str]: ...
    @property
    def member_keys(self) -> Mapping[int, str]: ...
    @property
    def floating_numbers(self) -> Mapping[int, str]: ...
    @property
    def mesh(self) -> TunnelMesh | None: ...
    def get(self, kind: str, id: str) -> Any: ...
    def all(self, kind: str) -> Mapping[str, Any]: ...
    def subnets_of(self, network_id: str) -> AbstractSet[str]: ...
    def interfaces_of(self, router_id: str) -> list[Port]: ...
    def routed_by(self, network_id: str) -> list[Port]: ...
    def floating_of(self, port_id: str) -> AbstractSet[str]: ...
    def forwardings_of(self, floating_ip_id: str) -> AbstractSet[str]: ...
    def neighbours_in(self, network_id: str) -> AbstractSet[str]: ...
    def rules_of(self, group_id: str) -> AbstractSet[str]: ...
    def selectors_of(self, scope: str) -> AbstractSet[str]: ...
    def identities_of_project(self, project_id: str) -> AbstractSet[int]: ...
    def ports_with(self, number: int) -> Iterable[str]: ...
    def balancers_in(self, network_id: str) -> AbstractSet[str]: ...
    def balancers_on(self, router_id: str) -> AbstractSet[str]: ...
    def pools_of(self, balancer_id: str) -> AbstractSet[str]: ...
    def listeners_of(self, balancer_id: str) -> AbstractSet[str]: ...
    def listeners_to(self, pool_id: str) -> AbstractSet[str]: ...
    def members_of(self, pool_id: str) -> AbstractSet[str]: ...
    def members_at(self, place: tuple[str, str]) -> AbstractSet[str]: ...
    def monitors_of(self, pool_id: str) -> AbstractSet[str]: ...
    def floating_to(self, balancer_id: str) -> AbstractSet[str]: ...
    def qos_rules_of(self, policy_id: str) -> AbstractSet[str]: ...
    def ports_of(self, network_id: str) -> AbstractSet[str]: ...
    def ports_on(self, hypervisor_id: str) -> AbstractSet[str]: ...
    def location(self, port_id: str) -> str | None: ...
    def referrers(self, kind: str, id: str) -> list[Node]: ...


class Overlay(Mapping[K, V]):
    """A mapping with changes over another one; a change to None hides the key."""

    __slots__ = ("base", "changes")

    def __init__(self, base: Mapping[K, V]) -> None:
        self.base = base
        self.changes: dict[K, V | None] = {}

    def get(self, key: K, default: Any = None) -> Any:
        """As ``dict.get``."""
        if key in self.changes:
            value = self.changes[key]
            return default if value is None else value
        return self.base.get(key, default)

    def __getitem__(self, key: K) -> V:
        value: V | None = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[K]:
        for key in self.base:
            if key not in self.changes:
                yield key
        for key, value in self.changes.items():
            if value is not None:
                yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Draft:
    """A view with edits staged over ``base``, which may be a ``Topology`` or another draft."""

    def __init__(self, base: View) -> None:
        self.base = base
        self.edits: list[Edit] = []
        """What was staged, in order."""
        self.vnis: Overlay[int, str] = Overlay(base.vnis)
        self.port_keys: Overlay[int, str] = Overlay(base.port_keys)
        self.hypervisor_keys: Overlay[int, str] = Overlay(base.hypervisor_keys)
        self.macs: Overlay[tuple[str, str], str] = Overlay(base.macs)
        self.addresses: Overlay[tuple[str, str], str] = Overlay(base.addresses)
        self.names: Overlay[tuple[str, str, str], str] = Overlay(base.names)
        self.host_names: Overlay[tuple[str, str], str] = Overlay(base.host_names)
        self._objects: dict[str, Overlay[str, Any]] = {}
        self.router_keys: Overlay[int, str] = Overlay(base.router_keys)
        self.neighbours: Overlay[tuple[str, str], str] = Overlay(base.neighbours)
        self.identities: Overlay[int, str] = Overlay(base.identities)
        self.rule_keys: Overlay[int, str] = Overlay(base.rule_keys)
        self.rules: Overlay[tuple[Any, ...], str] = Overlay(base.rules)
        self.balancer_keys: Overlay[int, str] = Overlay(base.balancer_keys)
        self.pool_keys: Overlay[int, str] = Overlay(base.pool_keys)
        self.member_keys: Overlay[int, str] = Overlay(base.member_keys)
        self.floating_numbers: Overlay[int, str] = Overlay(base.floating_numbers)
        self._members: dict[tuple[str, Any], set[Any]] = {}
        self._referring: dict[Node, dict[Node, None]] = {}

    @property
    def mesh(self) -> TunnelMesh | None:
        """The tunnel mesh; None only before it was made."""
        return next(iter(self.all("tunnel-mesh").values()), None)

    def get(self, kind: str, id: str) -> Any:
        """The object, or None."""
        overlay = self._objects.get(kind)
        return self.base.get(kind, id) if overlay is None else overlay.get(id)

    def all(self, kind: str) -> Mapping[str, Any]:
        """Every object of a kind, by id."""
        overlay = self._objects.get(kind)
        return self.base.all(kind) if overlay is None else overlay

    def subnets_of(self, network_id: str) -> AbstractSet[str]:
        """Ids of the subnets of a network."""
        return self._ids("subnets_of", network_id)

    def interfaces_of(self, router_id: str) -> list[Port]:
        """The ports that are a router's, ordered by key."""
        return self._ports("interfaces_of", router_id)

    def routed_by(self, network_id: str) -> list[Port]:
        """The ports of a network that are routers', ordered by key."""
        return self._ports("routed_by", network_id)

    def floating_of(self, port_id: str) -> AbstractSet[str]:
        """Ids of the floating IPs that stand for a port."""
        return self._ids("floating_of", port_id)

    def forwardings_of(self, floating_ip_id: str) -> AbstractSet[str]:
        """Ids of the port forwardings of a floating IP."""
        return self._ids("forwardings_of", floating_ip_id)

    def neighbours_in(self, network_id: str) -> AbstractSet[str]:
        """Ids of the hosts outside that are known in a provider network."""
        return self._ids("neighbours_in", network_id)

    def rules_of(self, group_id: str) -> AbstractSet[str]:
        """Ids of the rules of a security group."""
        return self._ids("rules_of", group_id)

    def selectors_of(self, scope: str) -> AbstractSet[str]:
        """Ids of the security groups that select among the ports of a project, or of all."""
        return self._ids("selectors_of", scope)

    def identities_of_project(self, project_id: str) -> AbstractSet[int]:
        """Numbers of the identities of a project's ports."""
        return self._ids("identities_of_project", project_id)

    def ports_with(self, number: int) -> Iterator[str]:
        """Ids of the ports that have an identity; they may be many, so they are not copied."""
        overlay = self._objects.get("port")
        staged = overlay.changes if overlay is not None else {}
        yield from (id for id in self.base.ports_with(number) if id not in staged)
        yield from (id for id, port in staged.items() if port is not None and port.identity == number)

    def balancers_in(self, network_id: str) -> AbstractSet[str]:
        """Ids of the load balancers that are hosts of a network."""
        return self._ids("balancers_in", network_id)

    def balancers_on(self, router_id: str) -> AbstractSet[str]:
        """Ids of the load balancers whose addresses are a router's."""
        return self._ids("balancers_on", router_id)

    def pools_of(self, balancer_id: str) -> AbstractSet[str]:
        """Ids of the pools of a load balancer."""
        return self._ids("pools_of", balancer_id)

    def listeners_of(self, balancer_id: str) -> AbstractSet[str]:
        """Ids of the listeners of a load balancer."""
        return self._ids("listeners_of", balancer_id)

    def listeners_to(self, pool_id: str) -> AbstractSet[str]:
        """Ids of the listeners whose connections go to a pool."""
        return self._ids("listeners_to", pool_id)

    def members_of(self, pool_id: str) -> AbstractSet[str]:
        """Ids of the members of a pool."""
        return self._ids("members_of", pool_id)

    def members_at(self, place: tuple[str, str]) -> AbstractSet[str]:
        """Ids of the members that have an address: (subnet id, address)."""
        return self._ids("members_at", place)

    def monitors_of(self, pool_id: str) -> AbstractSet[str]:
        """Id of the health monitor of a pool."""
        return self._ids("monitors_of", pool_id)

    def floating_to(self, balancer_id: str) -> AbstractSet[str]:
        """Ids of the floating IPs that lead to a load balancer."""
        return self._ids("floating_to", balancer_id)

    def qos_rules_of(self, policy_id: str) -> AbstractSet[str]:
        """Ids of the rules of a QoS policy."""
        return self._ids("qos_rules_of", policy_id)

    def ports_of(self, network_id: str) -> AbstractSet[str]:
        """Ids of the ports of a network; a port stays in its network."""
        overlay = self._objects.get("port")
        staged = overlay.changes if overlay is not None else {}
        new = {id for id, port in staged.items() if port is not None and port.network_id == network_id}
        return new | {id for id in self.base.ports_of(network_id) if id not in staged}

    def ports_on(self, hypervisor_id: str) -> AbstractSet[str]:
        """Ids of the ports on a hypervisor. No edit puts one there: the platform does."""
        return {id for id in self.base.ports_on(hypervisor_id) if self.get("port", id) is not None}

    def location(self, port_id: str) -> str | None:
        """The hypervisor that a port is on."""
        return self.base.location(port_id)

    def _ports(self, index: str, key: str) -> list[Port]:
        found: list[Port] = [self.get("port", id) for id in self._ids(index, key)]
        return sorted(found, key=lambda port: port.port_key or 0)

    def _ids(self, index: str, key: Any) -> AbstractSet[Any]:
        """The members of an index, which is named as the method of the view that reads it."""
        staged = self._members.get((index, key))
        if staged is not None:
            return staged
        return {each.id if isinstance(each, Port) else each for each in getattr(self.base, index)(key)}

    def referrers(self, kind: str, id: str) -> list[Node]:
        """The objects that refer to this one."""
        found = [other for other in self.base.referrers(kind, id) if not self._staged(other)]
        return found + list(self._referring.get((kind, id), ()))

    def stage(self, edit: Edit) -> None:
        """Lay one edit over what is there."""
        kind, id, new = edit
        old = self.get(kind, id)
        if old == new:
            return
        self.edits.append(edit)
        if kind not in self._objects:
            self._objects[kind] = Overlay(self.base.all(kind))
        self._objects[kind].changes[id] = new
        if old is not None:
            for _, target in references(kind, old):
                self._referring.get(target, {}).pop((kind, id), None)
            for index, key in self._keys(kind, old):
                if index.get(key) == id:
                    index.changes[key] = None
        if new is not None:
            for _, target in references(kind, new):
                self._referring.setdefault(target, {})[kind, id] = None
            for index, key in self._keys(kind, new):
                index.changes[key] = id
        for place in _memberships(old):
            self._members.setdefault(place, set(self._ids(*place))).discard(_member(old))
        for place in _memberships(new):
            self._members.setdefault(place, set(self._ids(*place))).add(_member(new))

    def _staged(self, node: Node) -> bool:
        overlay = self._objects.get(node[0])
        return overlay is not None and node[1] in overlay.changes

    def _keys(self, kind: str, obj: Any) -> Iterator[tuple[Overlay[Any, str], Any]]:
        """Every index entry that an object makes."""
        if isinstance(obj, Object) and obj.name:
            yield self.names, (kind, obj.project_id, obj.name)
        for index, number in numbers(obj):
            yield getattr(self, index), number
        match obj:
            case Network(vni=int()):
                yield self.vnis, obj.vni
            case Hypervisor(hypervisor_key=int()):
                yield self.hypervisor_keys, obj.hypervisor_key
            case Router(router_key=int()):
                yield self.router_keys, obj.router_key
            case Identity():
                yield self.identities, obj.number
            case SecurityGroupRule():
                yield self.rules, rule_match(obj)
                if obj.rule_key is not None:
                    yield self.rule_keys, obj.rule_key
            case Neighbour():
                yield self.neighbours, (obj.network_id, obj.ip_address)
            case FloatingIp():
                yield self.addresses, (obj.subnet_id, obj.floating_ip_address)
                yield self.macs, (obj.floating_network_id, obj.mac_address)
            case LoadBalancer(vip_network_id=str()):
                yield self.addresses, (obj.vip_subnet_id, obj.vip_address)
                yield self.macs, (obj.vip_network_id, obj.vip_mac_address)
            case Port():
                yield self.port_keys, obj.port_key
                yield self.macs, (obj.network_id, obj.mac_address)
                if obj.dns_name:
                    yield self.host_names, (obj.network_id, obj.dns_name)
                for fixed in obj.fixed_ips or ():
                    yield self.addresses, (fixed.subnet_id, fixed.ip_address)


def _memberships(obj: Any) -> Iterator[tuple[str, Any]]:
    """(index, key) under which an object is listed."""
    yield from places(obj)
    match obj:
        case Subnet():
            yield "subnets_of", obj.network_id
        case Port(router_id=str()):
            yield "interfaces_of", obj.router_id or ""
            yield "routed_by", obj.network_id
        case SecurityGroup(selector=tuple()):
            yield "selectors_of", selector_scope(obj)
        case SecurityGroupRule():
            yield "rules_of", obj.security_group_id
        case QosRule():
            yield "qos_rules_of", obj.qos_policy_id
        case Identity():
            yield "identities_of_project", obj.project_id
        case FloatingIp(port_id=str()):
            yield "floating_of", obj.port_id or ""
        case PortForwarding():
            yield "forwardings_of", obj.floating_ip_id
        case Neighbour():
            yield "neighbours_in", obj.network_id


def _member(obj: Any) -> Any:
    """As what an object is listed: an identity by its number, everything else by its id."""
    return obj.number if isinstance(obj, Identity) else obj.id


def describe(view: View, kind: str, id: str, project: str | None) -> str:
    """An object named for a message, as far as the reader may know of it: ``port 0c1… (web-1)``."""
    obj = view.get(kind, id) if kind in KINDS else None
    if obj is None or (project is not None and obj.project_id != project):
        return f"a {kind} of another project"
    return f"{kind} {id}" + (f" ({obj.name})" if obj.name else "")
