"""What each kind of object demands beyond its types. Each rule returns the object complete and in canonical form."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from ..model import AddressPair, AllocationPool, Hypervisor, Network, Object, Port, Subnet, TunnelMesh
from ..mtu import max_mtu, underlay_version
from .addresses import mac_address, parse_address, parse_prefix, reserved_in, stored_prefix, subnet_prefix, unicast
from .allocation import HYPERVISOR_KEY, PORT_KEY, VNI
from .context import Context
from .draft import View
from .fixed_ips import fixed_ips
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
    if new.mtu is not None:
        limit = max_mtu(view.mesh, _underlay(view))
        if new.mtu > limit:
            raise Refused(409, "mtu", f"{new.mtu} is more than the {limit} bytes that the tunnel mesh carries")
        if new.mtu < IPV6_MIN_MTU:
            for id in view.subnets_of(new.id):
                if view.get("subnet", id).ip_version == 6:
                    raise Refused(409, "mtu", f"IPv6 needs {IPV6_MIN_MTU} bytes, and subnet {id} is IPv6")
    return new


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
    )
    if context.old is None:
        owner: Network = context.visible("network", new.network_id, "network_id")
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
        if not new.project_id and "project_id" not in context.write.fields:
            new = replace(new, project_id=owner.project_id)
    elif new.network_id != context.old.network_id:
        return new  # to be refused: a port keeps its network
    if new.mac_address is None:
        mac = context.allocator.mac(view, new.network_id)
    else:
        mac = mac_address(new.mac_address, "mac_address")
        context.holds("port", view.macs.get((new.network_id, mac)), f"{mac} in network {new.network_id}", "mac_address")
    key = new.port_key
    if key is None:
        key = context.allocator.number(view.port_keys, PORT_KEY, "port_key")
    pairs = _pairs(new.allowed_address_pairs)
    return replace(new, mac_address=mac, port_key=key, fixed_ips=fixed_ips(context), allowed_address_pairs=pairs)


def _pairs(pairs: tuple[AddressPair, ...]) -> tuple[AddressPair, ...]:
    found: dict[AddressPair, None] = {}
    for position, pair in enumerate(pairs):
        path = f"allowed_address_pairs[{position}]"
        prefix = parse_prefix(pair.ip_address, f"{path}.ip_address")
        address = str(prefix) if "/" in pair.ip_address and prefix.num_addresses > 1 else str(prefix.network_address)
        mac = None if pair.mac_address is None else mac_address(pair.mac_address, f"{path}.mac_address")
        same = AddressPair(address, mac)
        if same in found:
            raise Refused(400, path, "is listed twice")
        found[same] = None
    return tuple(found)


def hypervisor(context: Context) -> Hypervisor:
    """A name, and endpoints that no other hypervisor has."""
    new: Hypervisor = context.new
    if not new.name:
        raise Refused(400, "name", "a hypervisor must have the name that its OVS has in external_ids:system-id")
    tunnel_ip = None if new.tunnel_ip is None else unicast(new.tunnel_ip, "tunnel_ip")
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
    return replace(new, multicast_group=group, external_vteps=tuple(sorted(set(vteps))))


def _underlay(view: View) -> int:
    return underlay_version(hypervisor.tunnel_ip for hypervisor in view.all("hypervisor").values())


def _check_networks_fit(view: View, limit: int, field: str) -> None:
    for id, found in view.all("network").items():
        if found.mtu is not None and found.mtu > limit:
            raise Refused(409, field, f"would leave {limit} bytes, but network {id} has an MTU of {found.mtu}")


RULES: dict[str, Callable[[Context], Object]] = {
    "network": network,
    "subnet": subnet,
    "port": port,
    "hypervisor": hypervisor,
    "tunnel-mesh": tunnel_mesh,
}
