"""What routers, their interfaces, and the ways to the outside demand beyond their types."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from msgspec.structs import replace

from ..model import (
    FixedIp,
    FloatingIp,
    Neighbour,
    Network,
    PolicyRoute,
    Port,
    PortForwarding,
    Router,
    StaticRoute,
    Subnet,
)
from .addresses import mac_address, parse_prefix, reserved_in, stored_prefix, unicast
from .allocation import ROUTER_KEY
from .context import Context
from .draft import View
from .write import Refused

INTERFACE, GATEWAY = "network:router_interface", "network:router_gateway"
"""Neutron's device_owner of routers' ports."""


# --- routers -----------------------------------------------------------------------------------------------------


def router(context: Context) -> Router:
    """A key of its own; routes whose next hops its interfaces reach."""
    new: Router = context.new
    key = new.router_key
    if key is None:
        key = context.allocator.number(context.view.router_keys, ROUTER_KEY, "router_key")
    subnets = _subnets_of(context.view, new.id)
    seen = set()
    for position, gateway in enumerate(new.gateway_hypervisors):
        path = f"gateway_hypervisors[{position}].hypervisor_id"
        context.visible("hypervisor", gateway.hypervisor_id, path)
        if gateway.hypervisor_id in seen:
            raise Refused(400, path, f"{gateway.hypervisor_id} is listed twice")
        seen.add(gateway.hypervisor_id)
    routes = tuple(_route(route, f"routes[{position}]", subnets) for position, route in enumerate(new.routes))
    if len(set(routes)) < len(routes):
        raise Refused(400, "routes", "one of the routes is listed twice")
    policies = tuple(
        _policy(policy, f"policy_routes[{position}]", subnets) for position, policy in enumerate(new.policy_routes)
    )
    if len(set(policies)) < len(policies):
        raise Refused(400, "policy_routes", "one of the policy routes is listed twice")
    return replace(new, router_key=key, routes=routes, policy_routes=policies)


def _subnets_of(view: View, router_id: str) -> list[Subnet]:
    """The subnets in which a router has addresses."""
    ids = {fixed.subnet_id for port in view.interfaces_of(router_id) for fixed in port.fixed_ips or ()}
    return [view.get("subnet", id) for id in sorted(id for id in ids if id)]


def _route(route: StaticRoute, path: str, subnets: Iterable[Subnet]) -> StaticRoute:
    destination = parse_prefix(route.destination, f"{path}.destination")
    nexthop = _nexthop(route.nexthop, f"{path}.nexthop", destination.version, subnets)
    return StaticRoute(str(destination), nexthop)


def _nexthop(text: str, path: str, version: int | None, subnets: Iterable[Subnet]) -> str:
    """A host's address in a subnet that the router has an interface in."""
    address = unicast(text, path)
    parsed = ip_address(address)
    if version is not None and parsed.version != version:
        raise Refused(400, path, f"{address} is not IPv{version}")
    if not any(parsed in stored_prefix(subnet.cidr) for subnet in subnets):
        raise Refused(409, path, f"no interface of the router is in a subnet with {address}: add the interface first")
    return address


def _policy(policy: PolicyRoute, path: str, subnets: list[Subnet]) -> PolicyRoute:
    source = None if policy.source is None else parse_prefix(policy.source, f"{path}.source")
    destination = None if policy.destination is None else parse_prefix(policy.destination, f"{path}.destination")
    versions = {prefix.version for prefix in (source, destination) if prefix is not None}
    if len(versions) > 1:
        raise Refused(400, path, "source and destination are of different IP versions")
    if policy.destination_port is not None and policy.protocol not in ("tcp", "udp"):
        raise Refused(400, f"{path}.destination_port", "goes with protocol tcp or udp only")
    if policy.action == "reroute" and not policy.nexthops:
        raise Refused(400, f"{path}.nexthops", "reroute needs at least one next hop")
    if policy.action != "reroute" and policy.nexthops:
        raise Refused(400, f"{path}.nexthops", f"goes with action reroute only, not with {policy.action}")
    version = next(iter(versions), None)
    hops = tuple(
        _nexthop(text, f"{path}.nexthops[{number}]", version, subnets) for number, text in enumerate(policy.nexthops)
    )
    return replace(
        policy,
        source=None if source is None else str(source),
        destination=None if destination is None else str(destination),
        nexthops=hops,
    )


# --- their interfaces --------------------------------------------------------------------------------------------


def interface(context: Context) -> Port:
    """A port that is a router's: no VM's settings, one way outside, and subnets that overlap no other interface's."""
    new: Port = context.new
    owner: Network = context.view.get("network", new.network_id)
    router: Router = context.visible("router", new.router_id or "", "router_id")
    for name in ("allowed_address_pairs", "extra_dhcp_opts", "dns_name"):
        if getattr(new, name):
            raise Refused(400, name, "is for VMs; this port is a router's")
    if new.project_id != router.project_id and context.old is None:
        if "project_id" in context.write.fields:
            raise Refused(400, "project_id", f"an interface belongs to its router's project, {router.project_id!r}")
        new = replace(new, project_id=router.project_id)
    others = [port for port in context.view.interfaces_of(router.id) if port.id != new.id]
    if owner.external:
        for port in others:
            if context.view.get("network", port.network_id).external:
                raise Refused(409, "router_id", f"router {router.id} has its gateway already: port {port.id}")
    return replace(new, device_owner=GATEWAY if owner.external else INTERFACE, device_id=router.id)


def interface_addresses(context: Context, fixed_ips: tuple[FixedIp, ...]) -> None:
    """An interface has addresses, in subnets that overlap none of the router's others."""
    new: Port = context.new
    if not fixed_ips:
        raise Refused(
            400, "fixed_ips", "a router's interface needs an address: the network has no subnet with a free one"
        )
    mine = {
        fixed.subnet_id: stored_prefix(context.view.get("subnet", fixed.subnet_id or "").cidr) for fixed in fixed_ips
    }
    for port in context.view.interfaces_of(new.router_id or ""):
        if port.id == new.id:
            continue
        for fixed in port.fixed_ips or ():
            theirs = stored_prefix(context.view.get("subnet", fixed.subnet_id or "").cidr)
            for subnet_id, prefix in mine.items():
                if prefix.version == theirs.version and prefix.overlaps(theirs):
                    what = f"{prefix} of subnet {subnet_id} overlaps {theirs}, where the router has port {port.id}"
                    raise Refused(409, "fixed_ips", what)


def gateway_addresses(context: Context) -> tuple[FixedIp, ...] | None:
    """The subnets' gateway addresses that are free: what an interface gets unless told otherwise; None where it allocates."""
    new: Port = context.new
    if context.view.get("network", new.network_id).external:
        return None
    found = []
    for id in sorted(context.view.subnets_of(new.network_id)):
        subnet: Subnet = context.view.get("subnet", id)
        gateway = subnet.gateway_ip
        if gateway is None or ip_address(gateway).is_link_local or (id, gateway) in context.view.addresses:
            address = context.allocator.address(context.view, subnet)
            if address is None:
                raise Refused(409, "fixed_ips", f"subnet {id} ({subnet.cidr}) has no free address")
            found.append(FixedIp(id, address))
        else:
            found.append(FixedIp(id, gateway))
    return tuple(found)


def release_interface(view: View, port: Port) -> None:
    """Raises Refused(409) when routes or floating IPs need a router's interface that is to go."""
    if port.router_id is None:
        return
    router: Router = view.get("router", port.router_id)
    gone = [stored_prefix(view.get("subnet", fixed.subnet_id or "").cidr) for fixed in port.fixed_ips or ()]
    hops = [route.nexthop for route in router.routes] + [hop for each in router.policy_routes for hop in each.nexthops]
    for hop in hops:
        if any(ip_address(hop) in prefix for prefix in gone):
            raise Refused(409, "", f"a route of router {router.id} goes by {hop}: remove that first")
    for floating in view.all("floating-ip").values():
        for port_id in _served(view, floating):
            if router_between(view, view.get("port", port_id), floating.floating_network_id) == router.id:
                raise Refused(409, "", f"floating-ip {floating.id} needs router {router.id}: detach or delete it first")


def _served(view: View, floating: FloatingIp) -> list[str]:
    """The ports that a floating IP leads to."""
    if floating.port_id is not None:
        return [floating.port_id]
    return [view.get("port-forwarding", id).internal_port_id for id in view.forwardings_of(floating.id)]


# --- the outside -------------------------------------------------------------------------------------------------


def router_between(view: View, port: Port | None, outside: str) -> str | None:
    """The router with an interface in a port's network and its gateway in the network outside."""
    for interface in view.routed_by(port.network_id) if port is not None else ():
        ports = view.interfaces_of(interface.router_id or "")
        if any(other.network_id == outside for other in ports):
            return interface.router_id
    return None


def floating_ip(context: Context) -> FloatingIp:
    """An address and a MAC address of its own in a network outside, from which a router leads to the port."""
    new: FloatingIp = context.new
    view = context.view
    outside: Network = context.visible("network", new.floating_network_id, "floating_network_id")
    if not outside.external:
        raise Refused(400, "floating_network_id", f"network {outside.id} is not external")
    if new.floating_ip_address is None or context.old is None:
        subnet_id, address = _outside_address(context)
        new = replace(new, subnet_id=subnet_id, floating_ip_address=address)
    if new.mac_address is None:
        new = replace(new, mac_address=context.allocator.mac(view, outside.id))
    if new.port_id is None:
        return replace(new, fixed_ip_address=None)
    if view.forwardings_of(new.id):
        raise Refused(409, "port_id", "the floating IP has port forwardings: delete those, or leave it without a port")
    port = _reachable(context, new.port_id, "port_id", outside.id)
    fixed = _inside(port, new.floating_ip_address or "", new.fixed_ip_address, "fixed_ip_address")
    for id in view.floating_of(port.id):
        other: FloatingIp = view.get("floating-ip", id)
        if id != new.id and other.fixed_ip_address == fixed:
            raise Refused(409, "port_id", f"{fixed} of port {port.id} has {context.held('floating-ip', id)} already")
    return replace(new, fixed_ip_address=fixed)


def _outside_address(context: Context) -> tuple[str, str]:
    """A free address of the network outside: the one asked for, else one of its first subnet with some left."""
    new: FloatingIp = context.new
    view = context.view
    ids = sorted(view.subnets_of(new.floating_network_id), key=lambda id: (view.get("subnet", id).ip_version, id))
    if new.subnet_id is not None:
        if new.subnet_id not in ids:
            raise Refused(404, "subnet_id", f"network {new.floating_network_id} has no subnet {new.subnet_id}")
        ids = [new.subnet_id]
    if new.floating_ip_address is not None:
        address = unicast(new.floating_ip_address, "floating_ip_address")
        for id in ids:
            prefix = stored_prefix(view.get("subnet", id).cidr)
            if ip_address(address) in prefix:
                if int(ip_address(address)) in reserved_in(prefix):
                    raise Refused(400, "floating_ip_address", f"{address} is no host address of {prefix}")
                holder = view.addresses.get((id, address))
                if holder not in (None, new.id):
                    raise Refused(409, "floating_ip_address", f"{address} is in use")
                return id, address
        raise Refused(400, "floating_ip_address", f"{address} is in no subnet of network {new.floating_network_id}")
    for id in ids:
        found = context.allocator.address(view, view.get("subnet", id))
        if found is not None:
            return id, found
    raise Refused(409, "floating_network_id", f"network {new.floating_network_id} has no free address")


def _reachable(context: Context, port_id: str, field: str, outside: str) -> Port:
    """The VM's port, when a router joins its network with the one outside."""
    port: Port = context.visible("port", port_id, field)
    if port.router_id is not None:
        raise Refused(400, field, f"port {port_id} is a router's")
    if router_between(context.view, port, outside) is None:
        what = f"no router has an interface in network {port.network_id} of port {port_id} and its gateway in network {outside}"
        raise Refused(409, field, what)
    return port


def _inside(port: Port, outer: str, wish: str | None, field: str) -> str:
    """The port's address that an address outside is to stand for."""
    same = [f.ip_address for f in port.fixed_ips or () if f.ip_address and (":" in f.ip_address) == (":" in outer)]
    if wish is not None:
        address = unicast(wish, field)
        if address not in same:
            raise Refused(400, field, f"port {port.id} has no address {address} of the same IP version as {outer}")
        return address
    if not same:
        raise Refused(409, field, f"port {port.id} has no address of the same IP version as {outer}")
    return same[0]


def port_forwarding(context: Context) -> PortForwarding:
    """A port of a floating IP that no other forwarding has, and a VM's address that a router leads to."""
    new: PortForwarding = context.new
    floating: FloatingIp = context.visible("floating-ip", new.floating_ip_id, "floating_ip_id")
    if floating.port_id is not None:
        raise Refused(409, "floating_ip_id", f"floating-ip {floating.id} stands for port {floating.port_id} as a whole")
    for id in context.view.forwardings_of(floating.id):
        other: PortForwarding = context.view.get("port-forwarding", id)
        if id != new.id and (other.protocol, other.external_port) == (new.protocol, new.external_port):
            what = f"{new.protocol} port {new.external_port} of floating-ip {floating.id}"
            context.holds("port-forwarding", id, what, "external_port")
    if not new.project_id and context.old is None and "project_id" not in context.write.fields:
        new = replace(new, project_id=floating.project_id)
    port = _reachable(context, new.internal_port_id, "internal_port_id", floating.floating_network_id)
    moved = context.old is not None and context.old.internal_port_id != new.internal_port_id
    wish = None if moved and "internal_ip_address" not in context.write.fields else new.internal_ip_address
    inside = _inside(port, floating.floating_ip_address or "", wish, "internal_ip_address")
    return replace(new, internal_ip_address=inside)


def neighbour(context: Context) -> Neighbour:
    """A host of a provider network."""
    new: Neighbour = context.new
    network: Network = context.visible("network", new.network_id, "network_id")
    if network.physical_network is None:
        raise Refused(400, "network_id", f"network {network.id} is no provider network, so it has no hosts outside")
    address = unicast(new.ip_address, "ip_address")
    context.holds("neighbour", context.view.neighbours.get((network.id, address)), address, "ip_address")
    learned = new.learned and context.write.system
    return replace(new, ip_address=address, mac_address=mac_address(new.mac_address, "mac_address"), learned=learned)
