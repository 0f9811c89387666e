"""A router as one hypervisor has it: its interfaces that are up, and which way to a next hop."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from topology.graph import Topology
from topology.model import Port, Router, Subnet
from topology.mtu import network_mtu

from . import fields as f
from .addresses import PortAddresses, addresses_of
from .placement import has_router, live_vni


class Family(NamedTuple):
    """What differs between the versions of IP."""

    version: int
    ethertype: int
    source: f.Field
    destination: f.Field
    next_hop: f.Field
    icmp: int
    icmp_type: f.Field
    echo: int
    echo_reply: int
    never: tuple[str, ...]
    """Prefixes that no router forwards to or from: this network, this host, one link, several receivers."""


V4 = Family(
    4, f.IPV4, f.IPV4_SRC, f.IPV4_DST, f.NEXT_HOP, f.ICMP, f.ICMPV4_TYPE, 8, 0,
    ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"),
)  # fmt: skip
V6 = Family(
    6, f.IPV6, f.IPV6_SRC, f.IPV6_DST, f.NEXT_HOP6, f.ICMPV6, f.ICMPV6_TYPE, 128, 129,
    ("::/127", "fe80::/10", "ff00::/8"),
)  # fmt: skip
FAMILIES = (V4, V6)

Prefix = IPv4Network | IPv6Network


def of_address(text: str) -> Family:
    """The version of an address or prefix in text."""
    return V6 if ":" in text else V4


def of_prefix(prefix: Prefix) -> Family:
    """The version of a prefix."""
    return V6 if prefix.version == 6 else V4


def within(field: f.Field, prefix: Prefix) -> bytes:
    """The match on a field being an address of a prefix."""
    return field(int(prefix.network_address), int(prefix.netmask))


class Interface(NamedTuple):
    """An interface of a router that is up."""

    port: Port
    vni: int
    mtu: int
    outside: bool
    subnets: tuple[Subnet, ...]
    """Those that it has addresses in."""

    @property
    def addresses(self) -> PortAddresses:
        """Its MAC address and its IP addresses, the link-local one included."""
        return addresses_of(self.port)


class Hop(NamedTuple):
    """Where a route leads: out by an interface, to ``address`` or, where that is None, to the packet's destination."""

    interface: Interface
    address: int | None = None


class Routed(NamedTuple):
    """A router as a hypervisor has it."""

    router: Router
    key: int
    interfaces: tuple[Interface, ...]

    @property
    def largest(self) -> int:
        """Bytes of the largest IP packet that may come in."""
        return max(interface.mtu for interface in self.interfaces)

    def hop(self, text: str) -> Hop | None:
        """The way to a next hop: by the interface in whose subnet it is; None when it is in none."""
        address = ip_address(text)
        found = [
            (prefix.prefixlen, interface)
            for interface in self.interfaces
            for prefix in (ip_network(subnet.cidr) for subnet in interface.subnets)
            if prefix.version == address.version and address in prefix
        ]
        if not found:
            return None
        return Hop(max(found, key=lambda each: each[0])[1], int(address))


def routed(topology: Topology, hypervisor: str, router_id: str) -> Routed | None:
    """The router, when it is up and the hypervisor has to do with it."""
    router: Router | None = topology.get("router", router_id)
    if router is None or router.router_key is None or not router.admin_state_up:
        return None
    if not has_router(topology, hypervisor, router_id):
        return None
    ports = topology.interfaces_of(router_id)
    interfaces = tuple(interface for port in ports if (interface := _interface(topology, port)) is not None)
    return Routed(router, router.router_key, interfaces) if interfaces else None


def _interface(topology: Topology, port: Port) -> Interface | None:
    vni = live_vni(topology, port.network_id)
    if vni is None or not port.admin_state_up or port.mac_address is None:
        return None
    network = topology.get("network", port.network_id)
    ids = sorted({fixed.subnet_id for fixed in port.fixed_ips or () if fixed.subnet_id})
    subnets = tuple(subnet for id in ids if (subnet := topology.get("subnet", id)) is not None)
    return Interface(port, vni, network_mtu(topology, network), network.external, subnets)
