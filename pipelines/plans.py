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
    routed = _has_gateway(topology, network, subnet)
    dns = tuple(f.ip(text) for text in subnet.dns_nameservers if ":" not in text) or (RESOLVER,)
    routes = [_route(each.destination, each.nexthop) for each in subnet.host_routes]
    if not routed:  # then what the client asks is on the link itself
        routes += [(address, 32, 0) for address in (DHCP_SERVER, *dns) if address in (DHCP_SERVER, RESOLVER)]
    return dhcp4.Plan(
        client_mac=f.mac(port.mac_address),
        address=f.ip(fixed.ip_address or ""),
        prefix_length=prefix.prefixlen,
        server_id=gateway if routed else DHCP_SERVER,
        server_mac=_mac_of(_router_at_gateway(topology, subnet)),
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
    router = next(filter(None, (_router_at_gateway(topology, subnet) for subnet in subnets)), None)
    mac = _mac_of(router)
    dns = tuple(dict.fromkeys(f.ip(text) for subnet in subnets for text in subnet.dns_nameservers if ":" in text))
    prefixes = [_prefix(subnet) for subnet in subnets]
    if router is None and not dns:
        prefixes.append((RESOLVER6, 128, False, True, LEASE, LEASE))  # on the link itself, without a router
    stateful = any(_stateful(subnet) for subnet in subnets)
    return router_advertisement.Plan(
        router_mac=mac,
        link_local=link_local(mac),
        mtu=network_mtu(topology, network),
        lifetime=0 if router is None else ROUTER_LIFETIME,
        prefixes=tuple(prefixes),
        managed=stateful,
        other=stateful or any(subnet.ipv6_address_mode == "dhcpv6-stateless" for subnet in subnets),
        dns=dns or (RESOLVER6,),
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


def _has_gateway(topology: Topology, network: Network, subnet: Subnet) -> bool:
    """Whether somebody has the subnet's gateway address: a router, a VM, or a host on the wire, as it must be taken to be."""
    if subnet.gateway_ip is None:
        return False
    return network.physical_network is not None or (subnet.id, subnet.gateway_ip) in topology.addresses


def _router_at_gateway(topology: Topology, subnet: Subnet) -> Port | None:
    """The router's interface that has the subnet's gateway address: the default router of its hosts, while it is up."""
    port: Port | None = topology.get("port", topology.addresses.get((subnet.id, subnet.gateway_ip or ""), ""))
    router = topology.get("router", port.router_id or "") if port is not None else None
    return port if router is not None and router.admin_state_up and port and port.admin_state_up else None


def _mac_of(router: Port | None) -> int:
    """The MAC address that answers come from: the router's, so that hosts see one neighbour behind the gateway address."""
    return SERVICE_MAC if router is None or router.mac_address is None else f.mac(router.mac_address)


def _extra(port: Port, version: int) -> tuple[tuple[int, bytes], ...]:
    """The port's own options; what cannot be made sense of was refused when it was asked for."""
    option = dhcp4.option if version == 4 else dhcp6.option
    asked: list[DhcpOption] = [each for each in port.extra_dhcp_opts if each.ip_version == version]
    return tuple(option(each.opt_name, each.opt_value) for each in asked)
