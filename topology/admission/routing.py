"""What routers and their interfaces demand beyond their types."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from ipaddress import ip_address
from typing import Any

from msgspec.structs import replace

from ..gateways import router_between, router_to_balancer
from ..model import (
    FixedIp,
    FloatingIp,
    LoadBalancer,
    Network,
    PolicyRoute,
    Port,
    PortForwarding,
    Router,
    StaticRoute,
    Subnet,
)
from .addresses import parse_prefix, reserved_in, stored_prefix, unicast
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
    _check_gateways(context)
    links = _Links(context.view, new.id)
    routes = tuple(_route(route, f"routes[{position}]", links) for position, route in enumerate(new.routes))
    _check_once("routes", routes)
    policies = tuple(
        _policy(policy, f"policy_routes[{position}]", links) for position, policy in enumerate(new.policy_routes)
    )
    _check_once("policy_routes", policies)
    return replace(new, router_key=key, routes=routes, policy_routes=policies)


def _check_gateways(context: Context) -> None:
    seen: set[str] = set()
    for position, gateway in enumerate(context.new.gateway_hypervisors):
        path = f"gateway_hypervisors[{position}].hypervisor_id"
        context.visible("hypervisor", gateway.hypervisor_id, path)
        if gateway.hypervisor_id in seen:
            raise Refused(400, path, f"{gateway.hypervisor_id} is listed twice")
        seen.add(gateway.hypervisor_id)


def _check_once(field: str, values: Iterable[StaticRoute | PolicyRoute]) -> None:
    seen: set[Any] = set()
    for position, value in enumerate(values):
        if value in seen:
            raise Refused(400, f"{field}[{position}]", "is listed twice")
        seen.add(value)


class _Links:
    """What a router is connected to: its own addresses, and the subnets that they are in."""

    def __init__(self, view: View, router_id: str) -> None:
        fixed = [fixed for port in view.interfaces_of(router_id) for fixed in port.fixed_ips or ()]
        self.own = {each.ip_address for each in fixed}
        subnets: list[Subnet] = [view.get("subnet", id) for id in {each.subnet_id or "" for each in fixed}]
        self.prefixes = [stored_prefix(subnet.cidr) for subnet in subnets]

    def next_hop(self, text: str, path: str, version: int | None) -> str:
        """Another host's address in a subnet that the router has an interface in. Raises Refused."""
        address = unicast(text, path)
        parsed = ip_address(address)
        if version is not None and parsed.version != version:
            raise Refused(400, path, f"{address} is not IPv{version}")
        if address in self.own:
            raise Refused(400, path, f"{address} is the router's own address")
        link = next((prefix for prefix in self.prefixes if parsed in prefix), None)
        if link is None:
            what = f"no interface of the router is in a subnet with {address}: add the interface first"
            raise Refused(409, path, what)
        if int(parsed) in reserved_in(link):
            raise Refused(400, path, f"{address} is no host address of {link}")
        return address


def _route(route: StaticRoute, path: str, links: _Links) -> StaticRoute:
    destination = parse_prefix(route.destination, f"{path}.destination")
    return StaticRoute(str(destination), links.next_hop(route.nexthop, f"{path}.nexthop", destination.version))


def _policy(policy: PolicyRoute, path: str, links: _Links) -> PolicyRoute:
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
    hops = []
    for number, text in enumerate(policy.nexthops):
        hop = links.next_hop(text, f"{path}.nexthops[{number}]", version)
        if hop in hops:
            raise Refused(400, f"{path}.nexthops[{number}]", f"{hop} is listed twice")
        hops.append(hop)
    return replace(
        policy,
        source=None if source is None else str(source),
        destination=None if destination is None else str(destination),
        nexthops=tuple(hops),
    )


# --- their interfaces --------------------------------------------------------------------------------------------


def interface(context: Context) -> Port:
    """A port that is a router's: nothing that is for VMs, and one way outside."""
    new: Port = context.new
    owner: Network = context.view.get("network", new.network_id)
    router: Router = context.visible("router", new.router_id or "", "router_id")
    for name in ("allowed_address_pairs", "extra_dhcp_opts", "dns_name", "security_groups", "labels", "trust_dscp"):
        if getattr(new, name):
            raise Refused(400, name, "is for VMs; this port is a router's")
    if context.old is None:
        new = _of_project(context, router, owner)
        for port in context.view.interfaces_of(router.id) if owner.external else ():
            if context.view.get("network", port.network_id).external:
                raise Refused(409, "router_id", f"router {router.id} has its gateway already: port {port.id}")
    return replace(new, device_owner=GATEWAY if owner.external else INTERFACE, device_id=router.id)


def _of_project(context: Context, router: Router, owner: Network) -> Port:
    """The new port in its router's project, where the network is as well, unless that is outside."""
    new: Port = context.new
    if not owner.external and owner.project_id != router.project_id:
        what = f"router {router.id} is of project {router.project_id!r}, network {owner.id} of {owner.project_id!r}"
        raise Refused(409, "router_id", f"{what}; only networks outside are for routers of other projects")
    if new.project_id != router.project_id and "project_id" in context.write.fields:
        raise Refused(400, "project_id", f"an interface belongs to its router's project, {router.project_id!r}")
    return replace(new, project_id=router.project_id)


def interface_addresses(context: Context, fixed_ips: tuple[FixedIp, ...]) -> None:
    """An interface has addresses, in subnets that overlap none of the router's others, and keeps those in use."""
    new: Port = context.new
    view = context.view
    if not fixed_ips:
        what = "a router's interface needs an address: the network has no subnet with a free one"
        raise Refused(400, "fixed_ips", what)
    mine = {fixed.subnet_id: stored_prefix(view.get("subnet", fixed.subnet_id or "").cidr) for fixed in fixed_ips}
    for port in view.interfaces_of(new.router_id or ""):
        theirs = () if port.id == new.id else port.fixed_ips or ()
        for prefix in {stored_prefix(view.get("subnet", fixed.subnet_id or "").cidr) for fixed in theirs}:
            for subnet_id, own in mine.items():
                if own.version == prefix.version and own.overlaps(prefix):
                    what = f"{own} of subnet {subnet_id} overlaps {prefix}, where the router has port {port.id}"
                    raise Refused(409, "fixed_ips", what)
    for id in view.balancers_on(new.router_id or ""):
        balancer: LoadBalancer = view.get("load-balancer", id)
        if any(ip_address(balancer.vip_address or "") in prefix for prefix in mine.values()):
            what = f"{balancer.vip_address} is the router's for {context.held('load-balancer', id)}: delete that first"
            raise Refused(409, "fixed_ips", what)
    router: Router = view.get("router", new.router_id or "")
    for hop in _next_hops(router):
        if any(fixed.ip_address == hop for fixed in fixed_ips):
            raise Refused(409, "fixed_ips", f"a route of router {router.id} goes by {hop}: remove that first")
    if context.old is not None:
        release(view, context.old, keep={fixed.subnet_id for fixed in fixed_ips}, field="fixed_ips")


def gateway_addresses(context: Context) -> tuple[FixedIp, ...] | None:
    """What an interface gets unless told otherwise: the subnets' gateway addresses, or others where those are taken.

    None in a network outside, where each IP version gets one that is allocated, as VMs do.
    """
    new: Port = context.new
    if context.view.get("network", new.network_id).external:
        return None
    found = []
    for id in sorted(context.view.subnets_of(new.network_id)):
        subnet: Subnet = context.view.get("subnet", id)
        address = subnet.gateway_ip
        inside = address is not None and ip_address(address) in stored_prefix(subnet.cidr)
        if not inside or (id, address) in context.view.addresses:
            address = context.allocator.address(context.view, subnet)
        if address is None:
            raise Refused(409, "fixed_ips", f"subnet {id} ({subnet.cidr}) has no free address")
        found.append(FixedIp(id, address))
    return tuple(found)


def release(view: View, port: Port, keep: Collection[str | None] = (), field: str = "") -> None:
    """Let a router's interface go, or its addresses outside the subnets ``keep``.

    Raises Refused(409) when the router's routes or floating IPs need it.
    """
    if port.router_id is None:
        return
    router: Router = view.get("router", port.router_id)
    gone = {fixed.subnet_id or "" for fixed in port.fixed_ips or ()} - {*keep}
    prefixes = [stored_prefix(view.get("subnet", id).cidr) for id in gone]
    for hop in _next_hops(router):
        if any(ip_address(hop) in prefix for prefix in prefixes):
            raise Refused(409, field, f"a route of router {router.id} goes by {hop}: remove that first")
    for floating in view.all("floating-ip").values():
        outside = floating.floating_network_id
        for served, address in _served(view, floating):
            inside = any(fixed.ip_address == address and fixed.subnet_id in gone for fixed in served.fixed_ips or ())
            if not inside and (keep or port.network_id != outside):
                continue
            if router_between(view, served, address, outside) == router.id:
                what = f"floating-ip {floating.id} needs router {router.id}"
                raise Refused(409, field, f"{what}: detach it, or delete it and its port forwardings, first")
        balancer: LoadBalancer | None = view.get("load-balancer", floating.loadbalancer_id or "")
        if balancer is not None and (balancer.vip_subnet_id in gone or (not keep and port.network_id == outside)):
            if router_to_balancer(view, balancer, outside) == router.id:
                raise Refused(409, field, f"floating-ip {floating.id} needs router {router.id}: detach it first")


def _next_hops(router: Router) -> Iterator[str]:
    yield from (route.nexthop for route in router.routes)
    for policy in router.policy_routes:
        yield from policy.nexthops


def _served(view: View, floating: FloatingIp) -> Iterable[tuple[Port, str | None]]:
    """The ports that a floating IP leads to, and which of their addresses."""
    port: Port | None = view.get("port", floating.port_id or "")
    if port is not None:
        yield port, floating.fixed_ip_address
    for id in view.forwardings_of(floating.id):
        forwarding: PortForwarding = view.get("port-forwarding", id)
        yield view.get("port", forwarding.internal_port_id), forwarding.internal_ip_address
