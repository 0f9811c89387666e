"""What floating IPs, port forwardings and hosts outside demand beyond their types."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from msgspec.structs import replace

from ..gateways import router_between
from ..model import FixedIp, FloatingIp, Neighbour, Network, Port, PortForwarding, Subnet
from .addresses import mac_address, reserved_in, stored_prefix, unicast
from .allocation import ranges
from .balancing import check_member, check_way_in
from .context import Context
from .draft import View
from .holders import check_free
from .qos import attach
from .write import Refused

# --- floating IPs ------------------------------------------------------------------------------------------------


def floating_ip(context: Context) -> FloatingIp:
    """An address and a MAC address of its own in a network outside, from which a router leads to the port or load balancer."""
    new: FloatingIp = context.new
    view = context.view
    outside: Network = context.visible("network", new.floating_network_id, "floating_network_id")
    if not outside.external:
        raise Refused(400, "floating_network_id", f"network {outside.id} is not external")
    if context.old is None:
        subnet_id, address = _address_outside(context, outside)
        new = replace(new, subnet_id=subnet_id, floating_ip_address=address)
    elif new.floating_ip_address is not None:
        new = replace(new, floating_ip_address=unicast(new.floating_ip_address, "floating_ip_address"))
    if new.mac_address is None:
        new = replace(new, mac_address=context.allocator.mac(view, outside.id, view.floating_numbers))
    if new.loadbalancer_id is not None:
        check_way_in(context._replace(new=new))
    if new.port_id is None:
        if "fixed_ip_address" in context.write.fields and new.fixed_ip_address is not None:
            raise Refused(400, "fixed_ip_address", "needs a port_id")
        return _with_policy(context, replace(new, fixed_ip_address=None))
    if view.forwardings_of(new.id):
        raise Refused(409, "port_id", "the floating IP has port forwardings: delete those, or leave it without a port")
    port = _port_inside(context, new.port_id, "port_id")
    moved = context.old is not None and context.old.port_id != new.port_id
    wish = None if moved and "fixed_ip_address" not in context.write.fields else new.fixed_ip_address
    fixed = _inside(port, new.floating_ip_address or "", wish, "fixed_ip_address")
    _check_reach(view, port, fixed, outside.id, "port_id")
    for id in view.floating_of(port.id):
        other: FloatingIp = view.get("floating-ip", id)
        if id != new.id and other.fixed_ip_address == fixed:
            raise Refused(409, "port_id", f"{fixed} of port {port.id} has {context.held('floating-ip', id)} already")
    _check_one_way_out(view, port, fixed, "port-forwarding", "port_id")
    check_member(context, port, fixed)
    return _with_policy(context, replace(new, fixed_ip_address=fixed))


def _with_policy(context: Context, new: FloatingIp) -> FloatingIp:
    attached: FloatingIp = attach(context, new)
    return attached


def _address_outside(context: Context, outside: Network) -> tuple[str, str]:
    """A free address of the network outside: the one asked for, else one of its first subnet with some left.

    Who asks for nothing gets IPv4 where there is any, and is refused rather than given another version.
    """
    new: FloatingIp = context.new
    view = context.view
    subnets: list[Subnet] = [view.get("subnet", id) for id in view.subnets_of(outside.id)]
    subnets.sort(key=lambda subnet: (subnet.ip_version, subnet.id))
    if new.subnet_id is not None:
        subnets = [subnet for subnet in subnets if subnet.id == new.subnet_id]
        if not subnets:
            raise Refused(404, "subnet_id", f"network {outside.id} has no subnet {new.subnet_id}")
    if new.floating_ip_address is not None:
        address = unicast(new.floating_ip_address, "floating_ip_address")
        for subnet in subnets:
            if ip_address(address) in stored_prefix(subnet.cidr):
                _check_address(context, outside, subnet, address)
                return subnet.id, address
        where = f"subnet {new.subnet_id}" if new.subnet_id is not None else f"a subnet of network {outside.id}"
        raise Refused(400, "floating_ip_address", f"{address} is not in {where}")
    for subnet in subnets:
        if subnet.ip_version != subnets[0].ip_version:
            break
        found = context.allocator.address(view, subnet)
        if found is not None:
            return subnet.id, found
    where = ", ".join(f"{subnet.id} ({subnet.cidr})" for subnet in subnets[:3]) or "which there is none"
    raise Refused(409, "floating_network_id", f"no address is free in network {outside.id}, subnet {where}")


def _check_address(context: Context, outside: Network, subnet: Subnet, address: str) -> None:
    """The address that was asked for is a host's, free, and not that of the router outside."""
    field = "floating_ip_address"
    if int(ip_address(address)) in reserved_in(stored_prefix(subnet.cidr)):
        raise Refused(400, field, f"{address} is no host address of {subnet.cidr}")
    if address == subnet.gateway_ip:
        raise Refused(409, field, f"{address} is the gateway of subnet {subnet.id}")
    check_pools(context, outside, subnet, address, field)
    check_free(context, subnet, address, field)


def check_pools(context: Context, network: Network, subnet: Subnet, address: str, field: str) -> None:
    """Tenants may ask for what would be allocated, in networks of others: what is not may be in use outside."""
    pool = ranges(subnet.cidr, subnet.allocation_pools, subnet.gateway_ip)
    if context.guest(network) and int(ip_address(address)) not in pool:
        raise Refused(403, field, f"{address} is not in the allocation pools of subnet {subnet.id}")


def _port_inside(context: Context, port_id: str, field: str) -> Port:
    port: Port = context.visible("port", port_id, field)
    if port.router_id is not None:
        raise Refused(400, field, f"port {port_id} is a router's")
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


def _check_reach(view: View, port: Port, address: str, outside: str, field: str) -> None:
    """A router joins the address's subnet with the network outside. Raises Refused(409) that says what is missing."""
    if router_between(view, port, address, outside) is not None:
        return
    subnet = next(fixed.subnet_id for fixed in port.fixed_ips or () if fixed.ip_address == address)
    interfaces = view.routed_by(port.network_id)
    joined = [each for each in interfaces if subnet in {fixed.subnet_id for fixed in each.fixed_ips or ()}]
    if not joined:
        what = f"no router has an interface in subnet {subnet} of {address}: add one"
    else:
        named = " or ".join(sorted(each.router_id or "" for each in joined))
        what = f"router {named} has no gateway in network {outside}: set it"
    raise Refused(409, field, what)


def check_addresses_kept(view: View, port: Port, fixed_ips: tuple[FixedIp, ...]) -> None:
    """The addresses of a VM that floating IPs or port forwardings stand for stay. Raises Refused(409)."""
    gone = {fixed.ip_address for fixed in port.fixed_ips or ()} - {fixed.ip_address for fixed in fixed_ips}
    if not gone:
        return
    for kind, id, address in _standing_for(view, port.id):
        if address in gone:
            raise Refused(409, "fixed_ips", f"{kind} {id} stands for {address}: change that first")


def _standing_for(view: View, port_id: str) -> Iterator[tuple[str, str, str | None]]:
    """(kind, id, address of the port) of floating IPs and port forwardings that lead to a port."""
    for id in view.floating_of(port_id):
        yield "floating-ip", id, view.get("floating-ip", id).fixed_ip_address
    for kind, id in view.referrers("port", port_id):
        if kind == "port-forwarding":
            yield kind, id, view.get(kind, id).internal_ip_address


# --- port forwardings --------------------------------------------------------------------------------------------


def port_forwarding(context: Context) -> PortForwarding:
    """A port of a floating IP that no other forwarding has, and a VM's address that a router leads to."""
    new: PortForwarding = context.new
    floating: FloatingIp = context.visible("floating-ip", new.floating_ip_id, "floating_ip_id")
    if floating.port_id is not None:
        what = f"floating-ip {floating.id} stands for port {floating.port_id} as a whole: detach it first"
        raise Refused(409, "floating_ip_id", what)
    if floating.loadbalancer_id is not None:
        what = f"floating-ip {floating.id} leads to load-balancer {floating.loadbalancer_id}: detach it first"
        raise Refused(409, "floating_ip_id", what)
    for id in context.view.forwardings_of(floating.id):
        other: PortForwarding = context.view.get("port-forwarding", id)
        if (other.protocol, other.external_port) == (new.protocol, new.external_port):
            what = f"{new.protocol} port {new.external_port} of floating-ip {floating.id}"
            context.holds("port-forwarding", id, what, "external_port")
    if not new.project_id and context.old is None and "project_id" not in context.write.fields:
        new = replace(new, project_id=floating.project_id)
    port = _port_inside(context, new.internal_port_id, "internal_port_id")
    moved = context.old is not None and context.old.internal_port_id != new.internal_port_id
    wish = None if moved and "internal_ip_address" not in context.write.fields else new.internal_ip_address
    inside = _inside(port, floating.floating_ip_address or "", wish, "internal_ip_address")
    _check_reach(context.view, port, inside, floating.floating_network_id, "internal_port_id")
    _check_one_way_out(context.view, port, inside, "floating-ip", "internal_port_id")
    return replace(new, internal_ip_address=inside)


def _check_one_way_out(view: View, port: Port, address: str, kind: str, field: str) -> None:
    """Answers leave by a VM's floating IP, or by the gateway where ports are forwarded: an address has one of the two."""
    for other, id, leads_to in _standing_for(view, port.id):
        if other == kind and leads_to == address:
            raise Refused(
                409, field, f"{kind} {id} leads to {address} of port {port.id} already: delete or detach it first"
            )


# --- hosts outside -----------------------------------------------------------------------------------------------


def neighbour(context: Context) -> Neighbour:
    """A host of a provider network; one that an administrator writes is no longer NovaNet's to change."""
    new: Neighbour = context.new
    network: Network = context.visible("network", new.network_id, "network_id")
    if network.physical_network is None:
        raise Refused(400, "network_id", f"network {network.id} is no provider network, so it has no hosts outside")
    address = unicast(new.ip_address, "ip_address")
    context.holds("neighbour", context.view.neighbours.get((network.id, address)), address, "ip_address")
    learned = new.learned and context.write.system
    if learned and context.old is not None and not context.old.learned:
        raise Refused(409, "", f"{address} of network {network.id} was set by an administrator")
    return replace(new, ip_address=address, mac_address=mac_address(new.mac_address, "mac_address"), learned=learned)
