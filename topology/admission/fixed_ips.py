"""The fixed addresses of a port: those asked for proved free, the others allocated."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from ..model import FixedIp, Port, Subnet
from .addresses import parse_address, reserved_in, stored_prefix
from .context import Context
from .holders import check_free
from .outside import check_pools
from .routing import gateway_addresses
from .write import Refused

Taken = set[tuple[str, str]]


def fixed_ips(context: Context) -> tuple[FixedIp, ...]:
    """Complete (subnet, address) pairs, in the order asked for. Raises Refused with the position in the list."""
    port: Port = context.new
    if port.fixed_ips is None:
        found_for_router = gateway_addresses(context) if port.router_id is not None else None
        return _automatic(context) if found_for_router is None else found_for_router
    if (
        context.old is not None
        and port.fixed_ips == context.old.fixed_ips
        and port.mac_address == context.old.mac_address
    ):
        return port.fixed_ips
    found: list[FixedIp | None] = []
    taken: Taken = set()
    for position, wish in enumerate(port.fixed_ips):
        path = f"fixed_ips[{position}]"
        exact = None if wish.ip_address is None or _follows_mac(context, wish) else _exact(context, wish, path)
        if exact is not None:
            if _pair(exact) in taken:
                raise Refused(400, path, f"{exact.ip_address} is listed twice")
            taken.add(_pair(exact))
        found.append(exact)
    for position, wish in enumerate(port.fixed_ips):
        if found[position] is None:
            found[position] = chosen = _any(context, wish, f"fixed_ips[{position}]", taken)
            taken.add(_pair(chosen))
    return tuple(fixed for fixed in found if fixed is not None)


def _pair(fixed: FixedIp) -> tuple[str, str]:
    return fixed.subnet_id or "", fixed.ip_address or ""


def _exact(context: Context, wish: FixedIp, path: str) -> FixedIp:
    """An address that was asked for: in the subnet, a host's, and nobody else's."""
    address = parse_address(wish.ip_address or "", f"{path}.ip_address")
    subnet = _subnet(context, wish.subnet_id, path) if wish.subnet_id else _containing(context, str(address), path)
    prefix = stored_prefix(subnet.cidr)
    if address not in prefix:
        raise Refused(400, f"{path}.ip_address", f"{address} is outside {subnet.cidr} of subnet {subnet.id}")
    if int(address) in reserved_in(prefix):
        raise Refused(400, f"{path}.ip_address", f"{address} is no host address of {subnet.cidr}")
    if _made_by_vms(context, subnet) and str(address) != _made(context, subnet):
        what = (
            f"in subnet {subnet.id} VMs make their own address ({subnet.ipv6_address_mode}): {_made(context, subnet)}"
        )
        raise Refused(400, f"{path}.ip_address", what)
    check_free(context, subnet, str(address), f"{path}.ip_address")
    if context.old is None or FixedIp(subnet.id, str(address)) not in (context.old.fixed_ips or ()):
        network = context.view.get("network", context.new.network_id)
        check_pools(context, network, subnet, str(address), f"{path}.ip_address")
    return FixedIp(subnet.id, str(address))


def _made_by_vms(context: Context, subnet: Subnet) -> bool:
    """Whether the port's address in a subnet follows from its MAC address; a router's is given."""
    return subnet.ipv6_address_mode in ("slaac", "dhcpv6-stateless") and context.new.router_id is None


def _made(context: Context, subnet: Subnet) -> str:
    """The address that a VM makes of the subnet's prefix and its MAC address (modified EUI-64, RFC 4291 appendix A)."""
    mac = bytes.fromhex(context.new.mac_address.replace(":", ""))
    identifier = bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]
    prefix = int(stored_prefix(subnet.cidr).network_address)
    return str(IPv6Address(prefix | int.from_bytes(identifier, "big")))


def _follows_mac(context: Context, wish: FixedIp) -> bool:
    """Whether an address that is kept has to be made anew, since the port has another MAC address now."""
    old: Port | None = context.old
    if old is None or wish not in (old.fixed_ips or ()) or "fixed_ips" in context.write.fields:
        return False
    subnet: Subnet = context.view.get("subnet", wish.subnet_id or "")
    return old.mac_address != context.new.mac_address and _made_by_vms(context, subnet)


def _any(context: Context, wish: FixedIp, path: str, taken: Taken) -> FixedIp:
    """An address of a subnet that was asked for; one that the port has already is kept."""
    if wish.subnet_id is None:
        raise Refused(400, path, "needs a subnet_id or an ip_address")
    subnet = _subnet(context, wish.subnet_id, path)
    if _made_by_vms(context, subnet):
        made = _made(context, subnet)
        if (subnet.id, made) in taken:
            raise Refused(400, path, f"a port has one address in subnet {subnet.id} ({subnet.ipv6_address_mode})")
        check_free(context, subnet, made, path)
        return FixedIp(subnet.id, made)
    for fixed in (context.old.fixed_ips or ()) if context.old is not None else ():
        if fixed.subnet_id == subnet.id and _pair(fixed) not in taken:
            return FixedIp(subnet.id, fixed.ip_address)
    address = context.allocator.address(context.view, subnet, taken)
    if address is None:
        raise Refused(409, path, f"subnet {subnet.id} ({subnet.cidr}) has no free address")
    return FixedIp(subnet.id, address)


def _automatic(context: Context) -> tuple[FixedIp, ...]:
    """One address of each IP version that the network has, from the first subnet, by prefix, with one left."""
    found: list[FixedIp] = []
    full: dict[int, list[Subnet]] = {}
    subnets = [context.view.get("subnet", id) for id in context.view.subnets_of(context.new.network_id)]
    if len(subnets) > 1:
        subnets.sort(key=lambda subnet: (subnet.ip_version, int(stored_prefix(subnet.cidr).network_address)))
    served: set[int] = set()
    for subnet in subnets:
        if subnet.ip_version in served:
            continue
        address = _made(context, subnet) if _made_by_vms(context, subnet) else None
        if address is not None:
            check_free(context, subnet, address, "fixed_ips")
        else:
            address = context.allocator.address(context.view, subnet)
        if address is None:
            full.setdefault(subnet.ip_version, []).append(subnet)
        else:
            served.add(subnet.ip_version)
            found.append(FixedIp(subnet.id, address))
    for version, exhausted in full.items():
        if version not in served:
            named = ", ".join(f"{subnet.id} ({subnet.cidr})" for subnet in exhausted[:3])
            raise Refused(409, "fixed_ips", f"no IPv{version} address is free in subnet {named}")
    return tuple(found)


def _subnet(context: Context, id: str, path: str) -> Subnet:
    subnet: Subnet | None = context.view.get("subnet", id)
    if subnet is None:
        raise Refused(404, f"{path}.subnet_id", f"there is no subnet {id}")
    if subnet.network_id != context.new.network_id:
        raise Refused(400, f"{path}.subnet_id", f"subnet {id} is not in the port's network {context.new.network_id}")
    return subnet


def _containing(context: Context, text: str, path: str) -> Subnet:
    address = ip_address(text)
    for id in context.view.subnets_of(context.new.network_id):
        subnet: Subnet = context.view.get("subnet", id)
        if address in stored_prefix(subnet.cidr):
            return subnet
    raise Refused(400, f"{path}.ip_address", f"no subnet of network {context.new.network_id} contains {text}")
