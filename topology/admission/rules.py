"""What each kind of object demands beyond its types. Each rule returns the object complete and in canonical form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from ..dhcp_options import option4, option6
from ..model import (
    AddressPair,
    AllocationPool,
    DhcpOption,
    HostRoute,
    Hypervisor,
    Network,
    Object,
    Port,
    Subnet,
    TunnelMesh,
)
from ..mtu import max_mtu, underlay_version
from ..names import labels
from . import balancing, captures, promises, qos, telemetry
from .addresses import (
    Prefix,
    mac_address,
    parse_address,
    parse_prefix,
    reserved_in,
    stored_prefix,
    subnet_prefix,
    unicast,
)
from .allocation import HYPERVISOR_KEY, PORT_KEY, SERVICE_MAC, VNI
from .context import Context
from .draft import View
from .fixed_ips import fixed_ips
from .holders import kind_of
from .outside import check_addresses_kept, floating_ip, neighbour, port_forwarding
from .routing import interface, interface_addresses, router
from .security_groups import address_group, identity, membership, security_group, security_group_rule
from .write import Refused

IPV6_MIN_MTU = 1280
"""RFC 8200, section 5."""


def network(context: Context) -> Network:
    """A VNI of its own, and an MTU that the underlay carries."""
    new: Network = context.new
    view = context.view
    if new.vni is None:
        new = replace(new, vni=context.allocator.number(view.vnis, VNI, "vni"))
    else:
        context.holds("network", view.vnis.get(new.vni), f"VNI {new.vni}", "vni")
    new = replace(new, dns_domain=_domain(new.dns_domain))
    if new.physical_network is None:
        if new.segmentation_id is not None:
            raise Refused(400, "segmentation_id", "needs a physical_network that has the VLAN")
        if new.external:
            what = "needs a physical_network: gateways reach the outside by the wire that it names"
            raise Refused(400, "external", what)
    elif context.old is None:
        _check_wire_free(context)
    if new.mtu is not None:
        limit = max_mtu(view.mesh, _underlay(view))
        if new.mtu > limit and new.physical_network is None:
            raise Refused(409, "mtu", f"{new.mtu} is more than the {limit} bytes that the tunnel mesh carries")
        if new.mtu < IPV6_MIN_MTU:
            for id in view.subnets_of(new.id):
                if view.get("subnet", id).ip_version == 6:
                    raise Refused(409, "mtu", f"IPv6 needs {IPV6_MIN_MTU} bytes, and subnet {id} is IPv6")
    attached: Network = qos.attach(context, new)
    return attached


def _check_wire_free(context: Context) -> None:
    """Nobody else has the VLAN, or the untagged frames, of the physical network."""
    new: Network = context.new
    for id, other in context.view.all("network").items():
        if (other.physical_network, other.segmentation_id) == (new.physical_network, new.segmentation_id):
            what = "its untagged frames" if new.segmentation_id is None else f"VLAN {new.segmentation_id}"
            context.holds("network", id, f"{new.physical_network}: {what}", "segmentation_id")


def _domain(text: str) -> str:
    """A domain in lower case without its final dot. Raises Refused(400)."""
    if not text:
        return ""
    try:
        labels(text)
    except ValueError as problem:
        raise Refused(400, "dns_domain", str(problem)) from None
    return text.removesuffix(".").lower()


def subnet(context: Context) -> Subnet:
    """A prefix that overlaps no other of its network, with a gateway and pools inside it."""
    new: Subnet = context.new
    prefix = subnet_prefix(new.cidr, "cidr")
    if context.old is not None and str(prefix) != context.old.cidr:
        return new  # to be refused: a subnet keeps its cidr
    if new.ip_version not in (None, prefix.version):
        raise Refused(400, "ip_version", f"{prefix} is IPv{prefix.version}")
    new = replace(
        new,
        cidr=str(prefix),
        ip_version=prefix.version,
        gateway_ip=_gateway(context, str(prefix)),
        allocation_pools=_pools(new.allocation_pools, str(prefix)),
        ipv6_address_mode=_address_mode(new.ipv6_address_mode, prefix),
        dns_nameservers=tuple(
            dict.fromkeys(unicast(text, f"dns_nameservers[{n}]") for n, text in enumerate(new.dns_nameservers))
        ),
        host_routes=tuple(_host_route(route, f"host_routes[{n}]", prefix) for n, route in enumerate(new.host_routes)),
    )
    if context.old is None:
        owner: Network = context.visible("network", new.network_id, "network_id")
        if context.guest(owner):
            raise Refused(403, "network_id", f"network {owner.id} is somebody else's")
        if not new.project_id and "project_id" not in context.write.fields:
            new = replace(new, project_id=owner.project_id)
        if new.ip_version == 6 and owner.mtu is not None and owner.mtu < IPV6_MIN_MTU:
            raise Refused(409, "cidr", f"IPv6 needs an MTU of {IPV6_MIN_MTU}, network {owner.id} has {owner.mtu}")
        for id in context.view.subnets_of(new.network_id):
            other: Subnet = context.view.get("subnet", id)
            if other.ip_version == prefix.version and prefix.overlaps(stored_prefix(other.cidr)):
                who = context.held("subnet", id)
                raise Refused(409, "cidr", f"{prefix} overlaps {other.cidr} of {who} in the same network")
    return new


def _address_mode(mode: Any, prefix: Prefix) -> Any:
    """How VMs get their IPv6 addresses: from DHCPv6 unless told; addresses made by VMs need a /64 (RFC 4862)."""
    if prefix.version == 4:
        if mode is not None:
            raise Refused(400, "ipv6_address_mode", f"{prefix} is IPv4")
        return None
    if mode in ("slaac", "dhcpv6-stateless") and prefix.prefixlen != 64:
        raise Refused(400, "ipv6_address_mode", f"{mode} needs a /64, and {prefix} is none")
    return mode or "dhcpv6-stateful"


def _host_route(route: HostRoute, path: str, prefix: Prefix) -> HostRoute:
    if prefix.version != 4:
        raise Refused(400, path, "DHCP tells routes of IPv4 only; for IPv6 it is routers that do")
    destination = parse_prefix(route.destination, f"{path}.destination")
    nexthop = unicast(route.nexthop, f"{path}.nexthop")
    for text, version in (
        (f"{path}.destination", destination.version),
        (f"{path}.nexthop", 6 if ":" in nexthop else 4),
    ):
        if version != prefix.version:
            raise Refused(400, text, f"is not IPv{prefix.version}, as the subnet is")
    return HostRoute(str(destination), nexthop)


def _gateway(context: Context, cidr: str) -> str | None:
    """The first address when left out; inside the cidr, or link-local for IPv6 as routers announce it (RFC 4861)."""
    prefix = stored_prefix(cidr)
    text = context.new.gateway_ip
    if text is None:
        named = "gateway_ip" in context.write.fields
        if named or (context.write.op == "patch" and context.old is not None) or prefix.num_addresses == 1:
            return None
        return str(prefix.network_address + (1 if reserved_in(prefix) else 0))
    address = parse_address(text, "gateway_ip")
    if address.version == 6 and prefix.version == 6 and address.is_link_local:
        return str(address)
    if address not in prefix:
        raise Refused(400, "gateway_ip", f"{address} is outside {prefix}")
    if int(address) in reserved_in(prefix):
        raise Refused(400, "gateway_ip", f"{address} is no host address of {prefix}")
    return str(address)


def _pools(pools: tuple[AllocationPool, ...], cidr: str) -> tuple[AllocationPool, ...]:
    """The pools in canonical form, inside the cidr and disjoint."""
    prefix = stored_prefix(cidr)
    found: list[tuple[int, int, AllocationPool]] = []
    for position, pool in enumerate(pools):
        path = f"allocation_pools[{position}]"
        start, end = parse_address(pool.start, f"{path}.start"), parse_address(pool.end, f"{path}.end")
        for address, name in ((start, "start"), (end, "end")):
            if address not in prefix:
                raise Refused(400, f"{path}.{name}", f"{address} is outside {prefix}")
        if int(start) > int(end):
            raise Refused(400, path, f"starts at {start}, after its end {end}")
        for first, last, other in found:
            if int(start) <= last and first <= int(end):
                raise Refused(400, path, f"overlaps the pool from {other.start} to {other.end}")
        found.append((int(start), int(end), AllocationPool(str(start), str(end))))
    return tuple(pool for _, _, pool in found)


def port(context: Context) -> Port:
    """A MAC address and fixed addresses of its own within the network, and a key of its own everywhere."""
    new: Port = context.new
    view = context.view
    if context.old is None:
        owner: Network = context.visible("network", new.network_id, "network_id")
        if new.router_id is None:
            if context.guest(owner):
                what = f"network {owner.id} takes routers' ports and floating IPs of yours only"
                raise Refused(403, "network_id", what)
            if not new.project_id and "project_id" not in context.write.fields:
                new = replace(new, project_id=owner.project_id)
    elif (new.network_id, new.router_id) != (context.old.network_id, context.old.router_id):
        return new  # to be refused: a port keeps its network and its router
    if new.router_id is not None:
        new = interface(context._replace(new=new))
    mac = _mac(context._replace(new=new))
    key = new.port_key
    if key is None:
        key = context.allocator.number(view.port_keys, PORT_KEY, "port_key")
    _check_options(new.extra_dhcp_opts)
    new = replace(
        new,
        mac_address=mac,
        port_key=key,
        dns_name=_host_name(context),
        allowed_address_pairs=_pairs(context, mac),
    )
    _check_port_security(context)
    new = membership(context._replace(new=new))
    addresses = fixed_ips(context._replace(new=new))
    if new.router_id is not None:
        interface_addresses(context._replace(new=new), addresses)
    elif context.old is not None:
        check_addresses_kept(view, context.old, addresses)
    attached: Port = qos.attach(context, replace(new, fixed_ips=addresses))
    return attached


def _mac(context: Context) -> str:
    """The MAC address that was asked for, free in the network; or one that is allocated."""
    new: Port = context.new
    view = context.view
    if new.mac_address is None:
        return context.allocator.mac(view, new.network_id)
    mac = mac_address(new.mac_address, "mac_address")
    if context.old is not None and mac == context.old.mac_address:
        return mac
    if mac == SERVICE_MAC:
        raise Refused(409, "mac_address", f"NovaNet itself has {mac} in every network")
    if context.guest(view.get("network", new.network_id)):
        raise Refused(403, "mac_address", "is chosen by NovaNet in networks of others: who is outside may have it")
    holder = view.macs.get((new.network_id, mac))
    context.holds(kind_of(view, holder), holder, f"{mac} in network {new.network_id}", "mac_address")
    return mac


def _host_name(context: Context) -> str:
    """A label in lower case that no other port of the network has; or none."""
    new: Port = context.new
    if not new.dns_name:
        return ""
    try:
        labels(new.dns_name)
    except ValueError as problem:
        raise Refused(400, "dns_name", str(problem)) from None
    if "." in new.dns_name:
        raise Refused(400, "dns_name", f"{new.dns_name!r} has a dot; the domain is the network's dns_domain")
    name = new.dns_name.lower()
    holder = context.view.host_names.get((new.network_id, name))
    context.holds("port", holder, f"{name!r} in network {new.network_id}", "dns_name")
    return name


def _check_options(options: Iterable[DhcpOption]) -> None:
    """Every DHCP option can be made sense of. Raises Refused(400)."""
    seen = set()
    for position, each in enumerate(options):
        try:
            code, _ = (option4 if each.ip_version == 4 else option6)(each.opt_name, each.opt_value)
        except ValueError as problem:
            raise Refused(400, f"extra_dhcp_opts[{position}]", str(problem)) from None
        if (each.ip_version, code) in seen:
            raise Refused(400, f"extra_dhcp_opts[{position}]", f"option {code} is given twice")
        seen.add((each.ip_version, code))


def _check_port_security(context: Context) -> None:
    """In a network of others a port cannot do without: it could pass for any other port there. Raises Refused(403)."""
    new, old = context.new, context.old
    if new.port_security_enabled or (old is not None and not old.port_security_enabled):
        return
    if context.guest(context.view.get("network", new.network_id)):
        raise Refused(403, "port_security_enabled", "stays true in networks of others: their owner may switch it off")


def _pairs(context: Context, own: str) -> tuple[AddressPair, ...]:
    """The allowed address pairs, as the store has them. None has the MAC address that is another port's own."""
    new: Port = context.new
    before = context.old.allowed_address_pairs if context.old is not None else ()
    found: dict[AddressPair, None] = {}
    for position, pair in enumerate(new.allowed_address_pairs):
        path = f"allowed_address_pairs[{position}]"
        prefix = parse_prefix(pair.ip_address, f"{path}.ip_address")
        address = str(prefix) if "/" in pair.ip_address and prefix.num_addresses > 1 else str(prefix.network_address)
        mac = None if pair.mac_address is None else mac_address(pair.mac_address, f"{path}.mac_address")
        same = AddressPair(address, mac)
        if same in found:
            raise Refused(400, path, "is listed twice")
        if mac is not None and mac != own and same not in before:
            holder = context.view.macs.get((new.network_id, mac))
            what = f"{mac} in network {new.network_id}"
            context.holds(kind_of(context.view, holder), holder, what, f"{path}.mac_address")
        found[same] = None
    return tuple(found)


def hypervisor(context: Context) -> Hypervisor:
    """A name, and endpoints that no other hypervisor has."""
    new: Hypervisor = context.new
    if not new.name:
        raise Refused(400, "name", "a hypervisor must have the name that its OVS has in external_ids:system-id")
    tunnel_ip = None if new.tunnel_ip is None else unicast(new.tunnel_ip, "tunnel_ip")
    wires: set[str] = set()
    bridges: set[str] = set()
    for position, mapping in enumerate(new.bridge_mappings):
        path = f"bridge_mappings[{position}]"
        if mapping.bridge == new.bridge:
            raise Refused(
                400, f"{path}.bridge", f"{mapping.bridge} is NovaNet's own; name the bridge that holds the NIC"
            )
        if mapping.physical_network in wires:
            raise Refused(400, f"{path}.physical_network", f"{mapping.physical_network} is mapped twice")
        if mapping.bridge in bridges:
            raise Refused(400, f"{path}.bridge", f"{mapping.bridge} leads to another physical network already")
        wires.add(mapping.physical_network)
        bridges.add(mapping.bridge)
    port_number = new.ovsdb.rpartition(":")[2]
    if new.ovsdb.startswith(("tcp:", "ssl:")) and not 1 <= int(port_number) <= 65535:
        raise Refused(400, "ovsdb", f"{port_number} is no TCP port; there are 1 to 65535")
    changed = context.old is None or tunnel_ip != context.old.tunnel_ip or new.ovsdb != context.old.ovsdb
    if changed:
        for id, other in context.view.all("hypervisor").items():
            if tunnel_ip is not None and other.tunnel_ip == tunnel_ip:
                context.holds("hypervisor", id, tunnel_ip, "tunnel_ip")
            if new.ovsdb != "passive" and other.ovsdb == new.ovsdb:
                context.holds("hypervisor", id, new.ovsdb, "ovsdb")
        if tunnel_ip is not None and ":" in tunnel_ip and _underlay(context.view) == 4:
            _check_networks_fit(context.view, max_mtu(context.view.mesh, 6), "tunnel_ip")
    promises.check_uplinks(context, new)
    key = new.hypervisor_key
    if key is None:
        key = context.allocator.number(context.view.hypervisor_keys, HYPERVISOR_KEY, "hypervisor_key")
    return replace(new, tunnel_ip=tunnel_ip, hypervisor_key=key)


def tunnel_mesh(context: Context) -> TunnelMesh:
    """Multicast and foreign endpoints go with VXLAN only; the networks still fit."""
    new: TunnelMesh = context.new
    group, vteps = new.multicast_group, tuple(new.external_vteps)
    if new.tunnel_type != "vxlan":
        for name, value in (("multicast_group", group), ("external_vteps", vteps)):
            if value:
                raise Refused(400, name, f"goes with tunnel_type vxlan only, not with {new.tunnel_type}")
    if group is not None:
        address = parse_address(group, "multicast_group")
        if not address.is_multicast:
            raise Refused(400, "multicast_group", f"{address} is not a multicast address (224.0.0.0/4 or ff00::/8)")
        group = str(address)
    vteps = tuple(unicast(text, f"external_vteps[{position}]") for position, text in enumerate(vteps))
    if context.old is not None:
        _check_networks_fit(context.view, max_mtu(new, _underlay(context.view)), "underlay_mtu")
    qos.check_underlay(context, new)
    return replace(new, multicast_group=group, external_vteps=tuple(sorted(set(vteps))))


def _underlay(view: View) -> int:
    return underlay_version(hypervisor.tunnel_ip for hypervisor in view.all("hypervisor").values())


def _check_networks_fit(view: View, limit: int, field: str) -> None:
    for id, found in view.all("network").items():
        if found.mtu is not None and found.mtu > limit and found.physical_network is None:
            raise Refused(409, field, f"would leave {limit} bytes, but network {id} has an MTU of {found.mtu}")


RULES: dict[str, Callable[[Context], Object]] = {
    "network": network,
    "subnet": subnet,
    "router": router,
    "security-group": security_group,
    "address-group": address_group,
    "security-group-rule": security_group_rule,
    "identity": identity,
    "port": port,
    **balancing.RULES,
    **qos.RULES,
    "floating-ip": floating_ip,
    "port-forwarding": port_forwarding,
    "neighbour": neighbour,
    "hypervisor": hypervisor,
    "tunnel-mesh": tunnel_mesh,
    **telemetry.RULES,
    "capture": captures.capture,
}
