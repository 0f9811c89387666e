"""What load balancers mean, without OpenFlow: how they are reached, who serves, and with which share.

Pure values from the graph, the same on every controller whatever the order in which objects came: the tables of slots
that follow from them are equal on all hypervisors. OpenFlow flows are made of them, and so is what users are told.
"""

from __future__ import annotations

from functools import reduce
from ipaddress import ip_address
from math import gcd
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from .gateways import router_to_balancer
from .graph import Topology
from .ip_protocols import NUMBERS
from .model import FloatingIp, Listener, LoadBalancer, Member, Pool, Port
from .relief import UNIT

State = Literal["serving", "standby", "unplugged", "draining", "drained", "down", "disabled", "absent"]
KEPT: tuple[State, ...] = ("serving", "standby", "unplugged", "draining")
"""States in which a member keeps the connections that it has."""
PROTOCOLS = {"TCP": NUMBERS["tcp"], "UDP": NUMBERS["udp"]}


class Entry(Struct, frozen=True):
    """One way by which clients come to a load balancer.

    ``network``: a host of the network, with a MAC address. ``router``: an address that a router serves to whoever it routes.
    ``outside``: a floating IP in a network outside, to which the router is the way.
    """

    kind: Literal["network", "router", "outside"]
    address: str
    network_id: str | None = None
    router_id: str | None = None
    mac: str | None = None


class Service(Struct, frozen=True):
    """What a listener does. Without a pool connections are refused."""

    listener_id: str
    protocol: int
    """IP protocol number."""
    ports: tuple[int, int]
    """First and last."""
    pool_id: str | None


class Balancer(Struct, frozen=True):
    """A load balancer that is up: how it is reached, and what it does."""

    id: str
    key: int
    entries: tuple[Entry, ...]
    services: tuple[Service, ...]


class Backend(Struct, frozen=True):
    """A member of a pool as it is now."""

    member_id: str
    key: int
    """Its number in the switches."""
    address: str
    port: int | None
    """None: the port that the client has asked for."""
    weight: int
    """Its part of the slots; 0: it gets none."""
    state: State
    port_id: str | None = None
    """The VM's port; None where no port has the address."""
    network_id: str | None = None
    mac: str | None = None

    @property
    def name(self) -> str:
        """What stands for it in hashes: the same wherever, and by whatever id, it is made."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return host if self.port is None else f"{host}:{self.port}"


class BackendPool(Struct, frozen=True):
    """A pool with its members, in an order that depends on nothing but their addresses and ports."""

    id: str
    key: int
    balancer_id: str
    protocol: int
    """IP protocol number."""
    algorithm: str
    size: int
    """Slots."""
    affinity: int | None
    """Seconds for which a client stays with a member; None: it need not."""
    resets: bool
    """Whether TCP connections of a member that goes are reset, rather than dropped."""
    backends: tuple[Backend, ...]

    @property
    def dealt(self) -> tuple[Backend, ...]:
        """Those that get slots."""
        return tuple(backend for backend in self.backends if backend.weight)

    @property
    def kept(self) -> tuple[Backend, ...]:
        """Those whose connections go on."""
        return tuple(backend for backend in self.backends if backend.state in KEPT)


# --- load balancers ----------------------------------------------------------------------------------------------


def balancer(topology: Topology, id: str) -> Balancer | None:
    """A load balancer; None when it is down, or gone."""
    obj: LoadBalancer | None = topology.get("load-balancer", id)
    if obj is None or obj.balancer_key is None or not obj.admin_state_up:
        return None
    listeners: list[Listener] = [topology.get("listener", each) for each in topology.listeners_of(id)]
    services = (_service(topology, listener) for listener in listeners if listener.admin_state_up)
    ordered = tuple(sorted(services, key=lambda each: (each.protocol, each.ports)))
    return Balancer(id, obj.balancer_key, _entries(topology, obj), ordered)


def _entries(topology: Topology, obj: LoadBalancer) -> tuple[Entry, ...]:
    own = Entry(
        "network" if obj.router_id is None else "router",
        obj.vip_address or "",
        network_id=obj.vip_network_id,
        router_id=obj.router_id,
        mac=obj.vip_mac_address if obj.router_id is None else None,
    )
    found = [own]
    for id in sorted(topology.floating_to(obj.id)):
        floating: FloatingIp = topology.get("floating-ip", id)
        router = router_to_balancer(topology, obj, floating.floating_network_id)
        if router is not None:
            address, outside = floating.floating_ip_address or "", floating.floating_network_id
            found.append(Entry("outside", address, network_id=outside, router_id=router, mac=floating.mac_address))
    return tuple(found)


def _service(topology: Topology, listener: Listener) -> Service:
    pool: Pool | None = topology.get("pool", listener.default_pool_id or "")
    last = listener.protocol_port_max or listener.protocol_port
    return Service(
        listener.id,
        PROTOCOLS[listener.protocol],
        (listener.protocol_port, last),
        pool.id if pool is not None and pool.admin_state_up else None,
    )


def reachable(topology: Topology, obj: LoadBalancer) -> frozenset[str]:
    """Ids of the networks from which, and in which, a load balancer works: those that routers join with its own."""
    if obj.router_id is None:
        return topology.realm_of(obj.vip_network_id or "")
    ports = topology.interfaces_of(obj.router_id)
    inside = (port.network_id for port in ports if not topology.get("network", port.network_id).external)
    return frozenset(network for each in inside for network in topology.realm_of(each))


# --- pools -------------------------------------------------------------------------------------------------------


def pool(topology: Topology, id: str) -> BackendPool | None:
    """A pool with its members; None when it is down, or gone."""
    obj: Pool | None = topology.get("pool", id)
    if obj is None or obj.pool_key is None or not obj.admin_state_up:
        return None
    members: list[Member] = [topology.get("member", each) for each in topology.members_of(id)]
    backends = sorted((_backend(topology, obj, member) for member in members), key=_order)
    return BackendPool(
        id,
        obj.pool_key,
        obj.loadbalancer_id,
        PROTOCOLS[obj.protocol],
        obj.lb_algorithm,
        obj.table_size,
        None if obj.session_persistence is None else obj.session_persistence.persistence_timeout,
        obj.on_member_down == "reset",
        _weighed(backends, {member.id for member in members if member.backup}),
    )


def _order(backend: Backend) -> tuple[int, int, int]:
    address = ip_address(backend.address)
    return address.version, int(address), backend.port or 0


def _backend(topology: Topology, of: Pool, member: Member) -> Backend:
    port = port_of(topology, member)
    weight = 1 if of.lb_algorithm == "round_robin" and member.weight else member.weight
    if of.lb_algorithm == "least_connections" and member.weight and member.slot_weight is not None:
        weight = member.slot_weight
    elif of.lb_algorithm == "least_connections":
        weight *= UNIT
    return Backend(
        member.id,
        member.member_key or 0,
        member.address,
        member.protocol_port,
        weight,
        state_of(topology, of, member),
        port_id=port.id if port is not None else None,
        network_id=port.network_id if port is not None else None,
        mac=port.mac_address if port is not None else None,
    )


def port_of(topology: Topology, member: Member) -> Port | None:
    """The VM's port that has a member's address, and is up."""
    port: Port | None = topology.get("port", topology.addresses.get((member.subnet_id or "", member.address), ""))
    return port if port is not None and port.router_id is None and port.admin_state_up else None


def idle(topology: Topology, member: Member) -> str:
    """Why there is no VM to send connections to; empty when there is one."""
    port = port_of(topology, member)
    where = f"{member.address} of subnet {member.subnet_id}"
    of: Pool | None = topology.get("pool", member.pool_id)
    if port is None:
        return f"no VM's port that is up has {where}"
    if of is None or not _is_reached(topology, of, port):
        return f"no router joins network {port.network_id} with the load balancer any more, or the network is down"
    return "" if topology.location(port.id) is not None else f"port {port.id}, which has {where}, is not plugged"


def state_of(topology: Topology, of: Pool, member: Member) -> State:
    """What a member is by itself; of those that serve, ``pool`` has backups stand by while others serve."""
    port = port_of(topology, member)
    if not member.admin_state_up:
        return "disabled"
    if port is None or not _is_reached(topology, of, port):
        return "absent"
    if member.health == "down" and is_monitored(topology, of.id):
        return "down"
    if not member.weight:
        return "drained" if member.drain_until == 0 else "draining"
    return "serving" if topology.location(port.id) is not None else "unplugged"


def keeps(topology: Topology, member: Member) -> bool:
    """Whether a member keeps the connections that it has."""
    of: Pool | None = topology.get("pool", member.pool_id)
    return of is not None and of.admin_state_up and state_of(topology, of, member) in KEPT


def _is_reached(topology: Topology, of: Pool, port: Port) -> bool:
    """Whether the load balancer's clients can come to a port: their networks are joined, and it is up."""
    obj: LoadBalancer | None = topology.get("load-balancer", of.loadbalancer_id)
    network = topology.get("network", port.network_id)
    up = network is not None and network.admin_state_up
    return up and obj is not None and port.network_id in reachable(topology, obj)


def is_monitored(topology: Topology, pool_id: str) -> bool:
    """Whether a pool's members are checked."""
    return any(topology.get("health-monitor", id).admin_state_up for id in topology.monitors_of(pool_id))


def _weighed(backends: list[Backend], reserve: set[str]) -> tuple[Backend, ...]:
    """With weights that count: of those that serve, by their common divisor; backups serve when nobody else does."""
    first = any(each.state == "serving" and each.member_id not in reserve for each in backends)
    found = [
        replace(each, state="standby") if first and each.state == "serving" and each.member_id in reserve else each
        for each in backends
    ]
    divisor = reduce(gcd, (each.weight for each in found if each.state == "serving"), 0)
    return tuple(replace(each, weight=each.weight // divisor if each.state == "serving" else 0) for each in found)
