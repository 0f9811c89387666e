"""What load balancers, their listeners, pools, members and health monitors demand beyond their types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

from msgspec.structs import replace

from ..gateways import router_to_balancer
from ..model import (
    FloatingIp,
    HealthMonitor,
    Listener,
    LoadBalancer,
    Member,
    Network,
    Object,
    Pool,
    Port,
    Router,
    Subnet,
)
from .addresses import reserved_in, stored_prefix, subnet_prefix, unicast
from .allocation import BALANCER_KEY, MEMBER_KEY, POOL_KEY
from .context import Context
from .draft import View
from .holders import check_free
from .slots import check_size, check_weights
from .write import Refused

_HTTP = ("HTTP", "HTTPS")
_OF_HTTP = {"http_method": "GET", "url_path": "/", "expected_codes": "200", "domain_name": None}
"""Fields that go with HTTP and HTTPS only, and what they are when left out."""


# --- load balancers ----------------------------------------------------------------------------------------------


def load_balancer(context: Context) -> LoadBalancer:
    """An address in a subnet, or one of a router's; a MAC address and a key of its own."""
    new: LoadBalancer = context.new
    if new.vip_address is not None:
        new = replace(new, vip_address=unicast(new.vip_address, "vip_address"))
    if context.old is not None:
        return new
    inner = context._replace(new=new)
    new = _in_network(inner) if new.router_id is None else _on_router(inner)
    return replace(
        new,
        vip_mac_address=context.allocator.mac(context.view, new.vip_network_id or ""),
        balancer_key=context.allocator.number(context.view.balancer_keys, BALANCER_KEY, "balancer_key"),
    )


def _on_router(context: Context) -> LoadBalancer:
    """An address that is in none of the router's subnets, and no other load balancer's there."""
    new: LoadBalancer = context.new
    if new.vip_network_id is not None or new.vip_subnet_id is not None:
        what = "a load balancer is on a router or in a network: leave vip_network_id and vip_subnet_id out"
        raise Refused(400, "router_id", what)
    router: Router = context.visible("router", new.router_id or "", "router_id")
    if new.vip_address is None:
        raise Refused(400, "vip_address", "must be given: one that is in no subnet of the router's")
    subnet_prefix(new.vip_address, "vip_address")
    for port in context.view.interfaces_of(router.id):
        for fixed in port.fixed_ips or ():
            subnet: Subnet = context.view.get("subnet", fixed.subnet_id or "")
            if ip_address(new.vip_address) in stored_prefix(subnet.cidr):
                what = (
                    f"{new.vip_address} is in subnet {subnet.id} ({subnet.cidr}) of the router: make it a host of that"
                )
                raise Refused(409, "vip_address", what)
    for id in context.view.balancers_on(router.id):
        if context.view.get("load-balancer", id).vip_address == new.vip_address:
            context.holds("load-balancer", id, f"{new.vip_address} of router {router.id}", "vip_address")
    return _of_project(context, router.project_id)


def _in_network(context: Context) -> LoadBalancer:
    """A free address of the network: the one asked for, else one that is allocated, IPv4 where there is any."""
    new: LoadBalancer = context.new
    subnets = _subnets(context)
    network: Network = context.view.get("network", subnets[0].network_id)
    if network.external:
        what = f"network {network.id} is external: make it a host of a network inside, and attach a floating IP to it"
        raise Refused(400, "vip_network_id", what)
    if new.vip_address is not None:
        subnet = next((each for each in subnets if ip_address(new.vip_address) in stored_prefix(each.cidr)), None)
        if subnet is None:
            where = ", ".join(f"{each.id} ({each.cidr})" for each in subnets[:3])
            raise Refused(400, "vip_address", f"{new.vip_address} is not in subnet {where}")
        if int(ip_address(new.vip_address)) in reserved_in(stored_prefix(subnet.cidr)):
            raise Refused(400, "vip_address", f"{new.vip_address} is no host address of {subnet.cidr}")
        if new.vip_address == subnet.gateway_ip:
            raise Refused(409, "vip_address", f"{new.vip_address} is the gateway of subnet {subnet.id}")
        check_free(context, subnet, new.vip_address, "vip_address")
        return _placed(context, subnet, new.vip_address)
    for subnet in subnets:
        found = context.allocator.address(context.view, subnet)
        if found is not None:
            return _placed(context, subnet, found)
    raise Refused(409, "vip_address", f"no address is free in network {network.id}")


def _subnets(context: Context) -> list[Subnet]:
    """The subnets that an address may be of, those of IPv4 first; all of one IP version where no address is asked for."""
    new: LoadBalancer = context.new
    if new.vip_subnet_id is not None:
        subnet: Subnet = context.visible("subnet", new.vip_subnet_id, "vip_subnet_id")
        if new.vip_network_id not in (None, subnet.network_id):
            raise Refused(400, "vip_subnet_id", f"subnet {subnet.id} is not in network {new.vip_network_id}")
        return [subnet]
    if new.vip_network_id is None:
        raise Refused(400, "vip_network_id", "must be given, or vip_subnet_id, or router_id")
    network: Network = context.visible("network", new.vip_network_id, "vip_network_id")
    found: list[Subnet] = [context.view.get("subnet", id) for id in context.view.subnets_of(network.id)]
    found.sort(key=lambda subnet: (subnet.ip_version, subnet.id))
    if not found:
        raise Refused(409, "vip_network_id", f"network {network.id} has no subnet: make one")
    return [each for each in found if new.vip_address is not None or each.ip_version == found[0].ip_version]


def _placed(context: Context, subnet: Subnet, address: str) -> LoadBalancer:
    network: Network = context.view.get("network", subnet.network_id)
    new = _of_project(context, network.project_id)
    return replace(new, vip_network_id=network.id, vip_subnet_id=subnet.id, vip_address=address)


def _of_project(context: Context, project: str) -> LoadBalancer:
    """The load balancer in the project of what it is in, unless its writer says otherwise."""
    new: LoadBalancer = context.new
    if new.project_id or "project_id" in context.write.fields:
        return new
    return replace(new, project_id=project)


# --- listeners and pools -----------------------------------------------------------------------------------------


def listener(context: Context) -> Listener:
    """Ports that no other listener of the load balancer has, and a pool that takes what comes there."""
    new: Listener = _part(context, "load-balancer", "loadbalancer_id")
    last = new.protocol_port_max or new.protocol_port
    if last < new.protocol_port:
        raise Refused(400, "protocol_port_max", f"is before protocol_port, {new.protocol_port}")
    if last == new.protocol_port:
        new = replace(new, protocol_port_max=None)
    if context.old is None:
        for id in context.view.listeners_of(new.loadbalancer_id):
            other: Listener = context.view.get("listener", id)
            end = other.protocol_port_max or other.protocol_port
            if other.protocol == new.protocol and new.protocol_port <= end and other.protocol_port <= last:
                what = f"{new.protocol} port {max(new.protocol_port, other.protocol_port)}"
                context.holds("listener", id, what, "protocol_port")
    if new.default_pool_id is not None:
        pool: Pool = context.visible("pool", new.default_pool_id, "default_pool_id")
        if pool.loadbalancer_id != new.loadbalancer_id:
            raise Refused(409, "default_pool_id", f"pool {pool.id} is of load-balancer {pool.loadbalancer_id}")
        if pool.protocol != new.protocol:
            raise Refused(
                409, "default_pool_id", f"pool {pool.id} is for {pool.protocol}, the listener for {new.protocol}"
            )
    return new


def pool(context: Context) -> Pool:
    """A prime number of slots, enough for every member; a key of its own."""
    new: Pool = _part(context, "load-balancer", "loadbalancer_id")
    check_size(new.table_size)
    members: list[Member] = [context.view.get("member", id) for id in context.view.members_of(new.id)]
    if len(members) > new.table_size:
        raise Refused(409, "table_size", f"the pool has {len(members)} members, and each needs a slot")
    if context.old is not None and new.table_size != context.old.table_size:
        check_weights(new, members, "table_size")
    elif context.old is not None and new.lb_algorithm != context.old.lb_algorithm:
        check_weights(new, members, "lb_algorithm")
    if new.pool_key is None:
        new = replace(new, pool_key=context.allocator.number(context.view.pool_keys, POOL_KEY, "pool_key"))
    return new


def _part(context: Context, kind: str, field: str) -> Any:
    """A part of a load balancer, which belongs to the project of what it is a part of."""
    new = context.new
    if context.old is not None and getattr(new, field) != getattr(context.old, field):
        return new  # to be refused: a part stays where it is
    whole = context.visible(kind, getattr(new, field), field)
    if new.project_id != whole.project_id:
        if "project_id" in context.write.fields:
            raise Refused(400, "project_id", f"is that of the {kind}, {whole.project_id!r}")
        new = replace(new, project_id=whole.project_id)
    return new


# --- members and health monitors ---------------------------------------------------------------------------------


def member(context: Context) -> Member:
    """An address of the same IP version as the load balancer's, in a subnet that it reaches; a key of its own."""
    new: Member = _part(context, "pool", "pool_id")
    new = replace(new, address=unicast(new.address, "address"))
    if new.weight:
        new = replace(new, drain_until=None)
    view, old = context.view, context.old
    if old is not None and (new.weight, new.backup) == (old.weight, old.backup):
        return new
    of: Pool = view.get("pool", (old or new).pool_id)
    others: list[Member] = [view.get("member", id) for id in view.members_of(of.id) if id != new.id]
    if old is None and len(others) >= of.table_size:
        what = f"pool {of.id} has a member for each of its {of.table_size} slots: choose a larger table_size first"
        raise Refused(409, "pool_id", what)
    check_weights(of, [*others, new], "weight")
    if old is not None:
        return new if new.weight == old.weight else replace(new, slot_weight=None)
    balancer: LoadBalancer = view.get("load-balancer", of.loadbalancer_id)
    if (":" in new.address) != (":" in (balancer.vip_address or "")):
        what = f"{new.address} is not of the same IP version as load-balancer {balancer.id}, {balancer.vip_address}"
        raise Refused(400, "address", what)
    new = replace(new, subnet_id=_subnet_of(context._replace(new=new), balancer).id)
    _check_host(context._replace(new=new))
    for other in others:
        if (other.address, other.protocol_port) == (new.address, new.protocol_port):
            port = "" if new.protocol_port is None else f" port {new.protocol_port}"
            context.holds("member", other.id, f"{new.address}{port} in pool {of.id}", "address")
    for floating in view.floating_to(balancer.id):
        for own in _own_floating(view, new):
            raise Refused(409, "address", _two_ways(context, new.address, own, floating))
    return replace(new, member_key=context.allocator.number(view.member_keys, MEMBER_KEY, "member_key"))


def _subnet_of(context: Context, balancer: LoadBalancer) -> Subnet:
    """The subnet that an address is in, among those of the networks that the load balancer reaches."""
    new: Member = context.new
    view, address = context.view, ip_address(new.address)
    networks = reach(view, balancer)
    if new.subnet_id is not None:
        subnet: Subnet = context.visible("subnet", new.subnet_id, "subnet_id")
        if address not in stored_prefix(subnet.cidr):
            raise Refused(400, "address", f"{address} is outside {subnet.cidr} of subnet {subnet.id}")
        if subnet.network_id not in networks:
            what = f"no router joins network {subnet.network_id} with load-balancer {balancer.id}: add an interface"
            raise Refused(409, "subnet_id", what)
        return subnet
    subnets: list[Subnet] = [view.get("subnet", id) for network in networks for id in view.subnets_of(network)]
    found = [subnet for subnet in subnets if address in stored_prefix(subnet.cidr)]
    if len(found) > 1:
        named = ", ".join(sorted(f"{subnet.id} ({subnet.cidr})" for subnet in found)[:3])
        raise Refused(409, "subnet_id", f"must be given: {address} is in subnet {named}")
    if not found:
        what = f"{address} is in no subnet of the networks that routers join with load-balancer {balancer.id}'s"
        raise Refused(409, "address", what)
    return found[0]


def reach(view: View, balancer: LoadBalancer) -> set[str]:
    """Ids of the networks that routers join with a load balancer's own, that one included; the outside joins nothing."""
    todo = [balancer.vip_network_id] if balancer.router_id is None else _inside(view, balancer.router_id)
    found: set[str] = set()
    while todo:
        network = todo.pop()
        if network is not None and network not in found:
            found.add(network)
            for interface in view.routed_by(network):
                todo += _inside(view, interface.router_id or "")
    return found


def _inside(view: View, router_id: str) -> list[str | None]:
    ports = view.interfaces_of(router_id)
    return [port.network_id for port in ports if not view.get("network", port.network_id).external]


def _check_host(context: Context) -> None:
    """The address is, or will be, a VM's."""
    new: Member = context.new
    holder = context.view.addresses.get((new.subnet_id or "", new.address))
    port: Port | None = context.view.get("port", holder or "")
    if holder is not None and port is None:
        raise Refused(409, "address", f"{new.address} is that of {context.held('load-balancer', holder)}, not of a VM")
    if port is not None and port.router_id is not None:
        raise Refused(409, "address", f"{new.address} is that of {context.held('port', port.id)}, which is a router's")
    subnet: Subnet = context.view.get("subnet", new.subnet_id or "")
    if int(ip_address(new.address)) in reserved_in(stored_prefix(subnet.cidr)):
        raise Refused(400, "address", f"{new.address} is no host address of {subnet.cidr}")


def health_monitor(context: Context) -> HealthMonitor:
    """One for a pool; what is asked by HTTP goes with HTTP only."""
    new: HealthMonitor = _part(context, "pool", "pool_id")
    if context.old is not None and new.type != context.old.type:
        return new  # to be refused: a monitor keeps its type
    for id in context.view.monitors_of(new.pool_id):
        context.holds("health-monitor", id, f"pool {new.pool_id}", "pool_id")
    if new.timeout > new.delay:
        raise Refused(400, "timeout", f"is longer than delay, {new.delay} s: a check ends before the next begins")
    for field, default in _OF_HTTP.items():
        given = getattr(new, field)
        if new.type not in _HTTP and given is not None:
            raise Refused(400, field, f"goes with HTTP and HTTPS, not with {new.type}")
        if new.type in _HTTP and given is None:
            new = replace(new, **{field: default})
    codes = (new.expected_codes or "").partition("-")
    if codes[2] and codes[2] < codes[0]:
        raise Refused(400, "expected_codes", f"{new.expected_codes} begins after its end")
    return new


# --- floating IPs of load balancers, and of members ---------------------------------------------------------------


def check_way_in(context: Context) -> None:
    """A floating IP leads to a load balancer of the same IP version, by a router, and to nothing else. Raises Refused."""
    new: FloatingIp = context.new
    view = context.view
    if new.port_id is not None:
        what = "a floating IP leads to a port or to a load balancer: detach it from one of them"
        raise Refused(409, "port_id" if "port_id" in context.write.fields else "loadbalancer_id", what)
    if view.forwardings_of(new.id):
        raise Refused(409, "loadbalancer_id", "the floating IP has port forwardings: delete those first")
    balancer: LoadBalancer = context.visible("load-balancer", new.loadbalancer_id or "", "loadbalancer_id")
    if (":" in (new.floating_ip_address or "")) != (":" in (balancer.vip_address or "")):
        what = f"load-balancer {balancer.id} has {balancer.vip_address}, not of the same IP version as {new.floating_ip_address}"
        raise Refused(409, "loadbalancer_id", what)
    if router_to_balancer(view, balancer, new.floating_network_id) is None:
        by = f"router {balancer.router_id}" if balancer.router_id else f"no router of subnet {balancer.vip_subnet_id}"
        has = "has no gateway" if balancer.router_id else "has its gateway"
        raise Refused(409, "loadbalancer_id", f"{by} {has} in network {new.floating_network_id}: set it")
    for pool_id in view.pools_of(balancer.id):
        for id in view.members_of(pool_id):
            served: Member = view.get("member", id)
            for own in _own_floating(view, served):
                raise Refused(409, "loadbalancer_id", _two_ways(context, served.address, own, new.id))


def check_member(context: Context, port: Port, address: str) -> None:
    """A VM that gets its own floating IP is no member that clients outside reach by another. Raises Refused(409)."""
    view = context.view
    for fixed in port.fixed_ips or ():
        if fixed.ip_address != address:
            continue
        for id in view.members_at((fixed.subnet_id or "", address)):
            of: Pool = view.get("pool", view.get("member", id).pool_id)
            for floating in view.floating_to(of.loadbalancer_id):
                raise Refused(409, "port_id", _two_ways(context, address, context.new.id, floating))


def _own_floating(view: View, of: Member) -> Iterator[str]:
    """Ids of the floating IPs that stand for a member's address."""
    port_id = view.addresses.get((of.subnet_id or "", of.address), "")
    for id in sorted(view.floating_of(port_id)):
        if view.get("floating-ip", id).fixed_ip_address == of.address:
            yield id


def _two_ways(context: Context, address: str, own: str, of_balancer: str) -> str:
    """Answers leave by a VM's floating IP, or by the gateway that the load balancer's is at: an address has one of the two."""
    own, other = (context.held("floating-ip", id) if id != context.new.id else "this one" for id in (own, of_balancer))
    return f"{address} cannot answer by {own} and by the load balancer's, {other}: detach one of them"


RULES: dict[str, Callable[[Context], Object]] = {
    "load-balancer": load_balancer,
    "listener": listener,
    "pool": pool,
    "member": member,
    "health-monitor": health_monitor,
}
