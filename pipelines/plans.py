"""What the VMs of a network are told when they boot: DHCP, DHCPv6 and router advertisements, derived from the graph."""

from __future__ import annotations

from ipaddress import ip_network

from topology.graph import Topology
from topology.model import DhcpOption, FixedIp, Network, Port, Subnet
from topology.mtu import network_mtu

from . import fields as f
from .addresses import link_local
from .packets import dhcp4, dhcp6, router_advertisement
from .services import DHCP_SERVER, RESOLVER, RESOLVER6, SERVICE_MAC

LEASE = 86400
"""Seconds; a VM's address is its own for good, so this is how often it asks again."""
ROUTER_LIFETIME = 1800
DEFAULT_DOMAIN = "internal"


def domain_of(network: Network) -> str:
    """The domain of the names of a network's VMs."""
    return network.dns_domain or DEFAULT_DOMAIN


def host_name(port: Port) -> str:
    """The name that a VM is told and found by: its own, or one made of its first address."""
    if port.dns_name:
        return port.dns_name
    first = next((fixed.ip_address for fixed in port.fixed_ips or () if fixed.ip_address), "")
    return f"host-{first.replace('.', '-').replace('::', '--').replace(':', '-')}".rstrip("-") if first else ""


def dhcp4_plan(topology: Topology, port: Port) -> dhcp4.Plan | None:
    """What a port's DHCP client is told; None when it has no IPv4 address that NovaNet gives."""
    found = _leased(topology, port, 4)
    network: Network | None = topology.get("network", port.network_id)
    if not found or network is None or port.mac_address is None:
        return None
    fixed, subnet = found[0]
    prefix = ip_network(subnet.cidr)
    gateway = f.ip(subnet.gateway_ip) if subnet.gateway_ip else 0
    routes = [_route(each.destination, each.nexthop) for each in subnet.host_routes]
    dns = tuple(f.ip(text) for text in subnet.dns_nameservers if ":" not in text)
    if not dns:
        dns = (RESOLVER,)
        if not gateway:
            routes.append((RESOLVER, 32, 0))  # on the link itself: whoever has no router reaches it all the same
    return dhcp4.Plan(
        client_mac=f.mac(port.mac_address),
        address=f.ip(fixed.ip_address or ""),
        prefix_length=prefix.prefixlen,
        server_id=gateway or DHCP_SERVER,
        server_mac=_mac_of(topology, port.network_id, subnet.gateway_ip),
        routers=(gateway,) if gateway else (),
        dns=dns,
        mtu=network_mtu(topology, network),
        lease=LEASE,
        domain=domain_of(network),
        hostname=host_name(port),
        routes=tuple(routes),
        extra=_extra(port, 4),
    )


def dhcp6_plan(topology: Topology, port: Port) -> dhcp6.Plan | None:
    """What a port's DHCPv6 client is told; None where NovaNet does not answer DHCPv6."""
    found = [(fixed, subnet) for fixed, subnet in _leased(topology, port, 6) if subnet.ipv6_address_mode != "slaac"]
    network: Network | None = topology.get("network", port.network_id)
    if not found or network is None:
        return None
    stateful = [f.ip(fixed.ip_address or "") for fixed, subnet in found if _stateful(subnet)]
    dns = tuple(f.ip(text) for _, subnet in found for text in subnet.dns_nameservers if ":" in text)
    return dhcp6.Plan(
        server_mac=SERVICE_MAC,
        server_address=link_local(SERVICE_MAC),
        addresses=tuple(stateful),
        stateless=not stateful,
        preferred=LEASE,
        valid=LEASE,
        dns=tuple(dict.fromkeys(dns)) or (RESOLVER6,),
        search=(domain_of(network),),
        extra=_extra(port, 6),
    )


def advertisement_plan(topology: Topology, network_id: str) -> router_advertisement.Plan | None:
    """What the hosts of a network are told about IPv6; None where it has none of NovaNet's."""
    network: Network | None = topology.get("network", network_id)
    subnets = [topology.get("subnet", id) for id in sorted(topology.subnets_of(network_id))]
    subnets = [subnet for subnet in subnets if subnet.ip_version == 6 and subnet.enable_dhcp]
    if network is None or not subnets:
        return None
    router = _router(topology, network_id)
    mac = SERVICE_MAC if router is None else f.mac(router.mac_address or "")
    dns = tuple(f.ip(text) for subnet in subnets for text in subnet.dns_nameservers if ":" in text)
    stateful = any(_stateful(subnet) for subnet in subnets)
    return router_advertisement.Plan(
        router_mac=mac,
        link_local=link_local(mac),
        mtu=network_mtu(topology, network),
        lifetime=0 if router is None else ROUTER_LIFETIME,
        prefixes=tuple(_prefix(subnet) for subnet in subnets),
        managed=stateful,
        other=stateful or any(subnet.ipv6_address_mode == "dhcpv6-stateless" for subnet in subnets),
        dns=tuple(dict.fromkeys(dns)) or (RESOLVER6,),
        search=(domain_of(network),),
    )


def _leased(topology: Topology, port: Port, version: int) -> list[tuple[FixedIp, Subnet]]:
    """The port's addresses of an IP version that DHCP is to give, with their subnets."""
    found = []
    for fixed in port.fixed_ips or ():
        subnet: Subnet | None = topology.get("subnet", fixed.subnet_id or "")
        if subnet is not None and subnet.ip_version == version and subnet.enable_dhcp:
            found.append((fixed, subnet))
    return found


def _stateful(subnet: Subnet) -> bool:
    return subnet.ipv6_address_mode in (None, "dhcpv6-stateful")


def _route(destination: str, nexthop: str) -> tuple[int, int, int]:
    prefix = ip_network(destination)
    return int(prefix.network_address), prefix.prefixlen, f.ip(nexthop)


def _prefix(subnet: Subnet) -> tuple[int, int, bool, bool, int, int]:
    prefix = ip_network(subnet.cidr)
    return int(prefix.network_address), prefix.prefixlen, not _stateful(subnet), True, LEASE, LEASE


def _mac_of(topology: Topology, network_id: str, address: str | None) -> int:
    """The MAC address of the router that has an address, else that of the service addresses."""
    for port in topology.routed_by(network_id):
        if any(fixed.ip_address == address for fixed in port.fixed_ips or ()):
            return f.mac(port.mac_address or "")
    return SERVICE_MAC


def _router(topology: Topology, network_id: str) -> Port | None:
    """The first router's interface with an IPv6 address in a network: its hosts' default router."""
    for port in topology.routed_by(network_id):
        router = topology.get("router", port.router_id or "")
        six = any(":" in (fixed.ip_address or "") for fixed in port.fixed_ips or ())
        if six and router is not None and router.admin_state_up and port.admin_state_up:
            return port
    return None


def _extra(port: Port, version: int) -> tuple[tuple[int, bytes], ...]:
    """The port's own options; what cannot be made sense of was refused when it was asked for."""
    option = dhcp4.option if version == 4 else dhcp6.option
    asked: list[DhcpOption] = [each for each in port.extra_dhcp_opts if each.ip_version == version]
    return tuple(option(each.opt_name, each.opt_value) for each in asked)
