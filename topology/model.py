"""The objects of NovaNet, once: REST validation, OpenAPI, the store's schema and the graph all derive from here.

Names follow OpenStack Neutron's API. An object is a frozen msgspec struct; what a field means beyond its
type (who may write it, what it refers to) stands in its ``Meta(extra=...)``:

``ref``        the kind of object whose id the field holds (a strong reference: what is referred to cannot be deleted)
``weak``       the reference is cleared instead when what it refers to is deleted
``read_only``  set by NovaNet, refused in requests
``admin``      may be written by administrators only
``immutable``  fixed once the object exists
``ordered``    the order of a list of text matters
``allocated``  chosen by NovaNet when left out, and kept when a later write leaves it out

A field has one ``Meta`` with an ``extra``, or several, which msgspec merges; ``traits`` gives the sum.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import msgspec.inspect
from msgspec import Meta, Struct, field

UUID_PATTERN = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"

Uuid = Annotated[str, Meta(pattern=UUID_PATTERN, max_length=36)]
Name = Annotated[str, Meta(max_length=255)]
Project = Annotated[
    str, Meta(max_length=64, pattern="^[A-Za-z0-9_.-]*$", description="owner of the object", extra={"immutable": True})
]
Mac = Annotated[
    str,
    Meta(
        pattern="^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$",
        max_length=17,
        description="unicast MAC address, aa:bb:cc:dd:ee:ff",
    ),
]
Ip = Annotated[str, Meta(max_length=45, description="IPv4 or IPv6 address")]
Cidr = Annotated[str, Meta(max_length=49, description="IPv4 or IPv6 prefix, e.g. 10.0.0.0/24")]

Status = Literal["BUILD", "ACTIVE", "DOWN", "DEGRADED", "ERROR"]


def _ref(kind: str) -> Meta:
    return Meta(description=f"id of a {kind}", extra={"ref": kind})


READ_ONLY = Meta(extra={"read_only": True}, extra_json_schema={"readOnly": True})
IMMUTABLE = Meta(extra={"immutable": True})
ALLOCATED = Meta(extra={"allocated": True})


class Object(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What every object of the intent store has."""

    KIND: ClassVar[str]
    """Singular, hyphenated name: ``network``, ``tunnel-mesh``."""
    COLLECTION: ClassVar[str]
    """Path below /v1: ``networks``."""
    TENANT: ClassVar[bool] = True
    """Whether tenants own objects of this kind; the others are the administrator's."""
    UNIQUE: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of fields whose values together no two objects of the kind may share (beside id and name)."""
    SINGLE: ClassVar[bool] = False
    """Whether there is exactly one object of this kind, made by NovaNet."""

    id: Uuid
    name: Name = ""
    project_id: Project = ""
    description: Annotated[str, Meta(max_length=1024)] = ""
    revision_number: Annotated[int, READ_ONLY, Meta(description="counts the object's changes; the ETag")] = 0


class Network(Object, frozen=True, kw_only=True):
    """A layer-2 segment of VMs, isolated from every other."""

    KIND = "network"
    COLLECTION = "networks"
    UNIQUE = (("vni",),)

    admin_state_up: bool = True
    vni: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=0xFFFFFF,
                extra={"admin": True, "immutable": True, "allocated": True},
                description="number of the network in tunnels; allocated when left out",
            ),
        ]
        | None
    ) = None
    mtu: (
        Annotated[
            int,
            Meta(
                ge=576,
                le=65000,
                description="bytes of an IP packet; the largest that the underlay carries when left out",
            ),
        ]
        | None
    ) = None
    external: Annotated[
        bool,
        Meta(
            extra={"admin": True, "immutable": True},
            description="the outside: routers have their gateways here, floating IPs their addresses",
        ),
    ] = False
    physical_network: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=64,
                pattern="^[A-Za-z0-9_.-]+$",
                extra={"admin": True, "immutable": True},
                description="makes it a provider network: the name by which hypervisors' bridge_mappings know the wire",
            ),
        ]
        | None
    ) = None
    segmentation_id: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=4094,
                extra={"admin": True, "immutable": True},
                description="VLAN on the physical network; untagged (flat) when left out",
            ),
        ]
        | None
    ) = None
    dns_domain: Annotated[str, Meta(max_length=253, description="domain of its VMs' names; `internal` when empty")] = ""


class AllocationPool(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Addresses that may be allocated, both ends included."""

    start: Ip
    end: Ip


class HostRoute(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A route: what goes to ``destination`` goes by way of ``nexthop``."""

    destination: Cidr
    nexthop: Ip


class Subnet(Object, frozen=True, kw_only=True):
    """A range of IP addresses of a network."""

    KIND = "subnet"
    COLLECTION = "subnets"

    network_id: Annotated[Uuid, _ref("network"), IMMUTABLE]
    cidr: Annotated[Cidr, IMMUTABLE]
    ip_version: (
        Annotated[
            int,
            Meta(
                ge=4,
                le=6,
                extra={"immutable": True, "allocated": True},
                description="4 or 6; follows from the cidr",
            ),
        ]
        | None
    ) = None
    gateway_ip: (
        Annotated[Ip, Meta(description="kept out of allocation; the first address when left out, none when null")]
        | None
    ) = None
    allocation_pools: Annotated[
        tuple[AllocationPool, ...],
        Meta(max_length=64, description="where addresses are allocated; all the cidr when empty"),
    ] = ()
    enable_dhcp: Annotated[
        bool, Meta(description="whether NovaNet answers DHCP here, and for IPv6 sends router advertisements")
    ] = True
    ipv6_address_mode: (
        Annotated[
            Literal["dhcpv6-stateful", "dhcpv6-stateless", "slaac"],
            Meta(
                extra={"immutable": True, "allocated": True},
                description="how VMs get their IPv6 addresses; dhcpv6-stateful when left out, none for IPv4",
            ),
        ]
        | None
    ) = None
    dns_nameservers: Annotated[
        tuple[Ip, ...],
        Meta(
            max_length=8,
            extra={"ordered": True},
            description="told to VMs in this order; NovaNet's own resolver when empty",
        ),
    ] = ()
    host_routes: Annotated[tuple[HostRoute, ...], Meta(max_length=64, description="routes told to VMs by DHCP")] = ()


class StaticRoute(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A route of a router. Several to one destination share its traffic, each flow on one of them."""

    destination: Cidr
    nexthop: Ip


class PolicyRoute(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Decides before the routes where packets go; of those that match, the one with the highest priority."""

    priority: Annotated[int, Meta(ge=0, le=1000)]
    action: Literal["reroute", "drop", "allow"] = "reroute"
    """``allow`` leaves it to the routes."""
    source: Cidr | None = None
    destination: Cidr | None = None
    protocol: Literal["tcp", "udp", "icmp"] | None = None
    destination_port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    nexthops: Annotated[
        tuple[Ip, ...], Meta(max_length=16, description="for `reroute`: flows are spread over them")
    ] = ()


class RouterGateway(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A hypervisor that may be a router's gateway; the one with the highest priority that is alive is."""

    hypervisor_id: Annotated[Uuid, _ref("hypervisor")]
    priority: Annotated[int, Meta(ge=0, le=32767)] = 0


class Router(Object, frozen=True, kw_only=True):
    """Routes between networks, on every hypervisor.

    Its interfaces are ports with its ``router_id``; one in an external network is its gateway to the outside.
    """

    KIND = "router"
    COLLECTION = "routers"
    UNIQUE = (("router_key",),)

    admin_state_up: bool = True
    enable_snat: Annotated[
        bool, Meta(description="whether what leaves by the gateway gets the gateway's address as its source")
    ] = True
    routes: Annotated[tuple[StaticRoute, ...], Meta(max_length=256)] = ()
    policy_routes: Annotated[tuple[PolicyRoute, ...], Meta(max_length=256)] = ()
    gateway_hypervisors: Annotated[
        tuple[RouterGateway, ...],
        Meta(max_length=5, extra={"admin": True}, description="chosen by NovaNet when empty"),
    ] = ()
    router_key: Annotated[int | None, READ_ONLY, Meta(description="16-bit number of the router in the switches")] = None


class FixedIp(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """An address of a port. In requests either part may be left out; the other is then found or allocated."""

    subnet_id: Annotated[Uuid, _ref("subnet")] | None = None
    ip_address: Ip | None = None


class AddressPair(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A further source address that a port may use; the MAC address is the port's own when left out."""

    ip_address: Annotated[str, Meta(max_length=49, description="address or prefix")]
    mac_address: Mac | None = None


class DhcpOption(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A DHCP option for one port, by Neutron's name or by number."""

    opt_name: Annotated[str, Meta(min_length=1, max_length=64)]
    opt_value: Annotated[str, Meta(max_length=1024)]
    ip_version: Literal[4, 6] = 4


class Port(Object, frozen=True, kw_only=True):
    """A VM's interface in a network. The VM is plugged where an OVS interface has ``external_ids:iface-id`` = ``id``."""

    KIND = "port"
    COLLECTION = "ports"
    UNIQUE = (("port_key",), ("network_id", "mac_address"))

    network_id: Annotated[Uuid, _ref("network"), IMMUTABLE]
    admin_state_up: bool = True
    mac_address: Annotated[Mac | None, ALLOCATED] = None
    fixed_ips: (
        Annotated[
            tuple[FixedIp, ...],
            Meta(
                max_length=64,
                extra={"allocated": True},
                description="one address of each IP version that the network has when left out, none when []",
            ),
        ]
        | None
    ) = None
    allowed_address_pairs: Annotated[tuple[AddressPair, ...], Meta(max_length=64)] = ()
    port_security_enabled: bool = True
    router_id: Annotated[
        Uuid | None,
        _ref("router"),
        IMMUTABLE,
        Meta(description="makes it an interface of this router, with the subnets' gateway addresses unless told"),
    ] = None
    dns_name: Annotated[str, Meta(max_length=63, description="host name of the VM in its network")] = ""
    extra_dhcp_opts: Annotated[tuple[DhcpOption, ...], Meta(max_length=32)] = ()
    device_id: Annotated[str, Meta(max_length=255, description="the VM")] = ""
    device_owner: Annotated[str, Meta(max_length=255)] = ""
    host_id: Annotated[
        Uuid | None,
        READ_ONLY,
        Meta(extra={"ref": "hypervisor", "weak": True}, description="the hypervisor it was last seen on"),
    ] = None
    port_key: Annotated[int | None, READ_ONLY, Meta(description="32-bit number of the port in the switches")] = None


class FloatingIp(Object, frozen=True, kw_only=True):
    """An address outside that stands for a VM's address, on the VM's own hypervisor."""

    KIND = "floating-ip"
    COLLECTION = "floating-ips"
    UNIQUE = (("subnet_id", "floating_ip_address"), ("floating_network_id", "mac_address"))

    floating_network_id: Annotated[Uuid, _ref("network"), IMMUTABLE]
    subnet_id: Annotated[Uuid | None, Meta(extra={"ref": "subnet", "immutable": True, "allocated": True})] = None
    floating_ip_address: Annotated[Ip | None, Meta(extra={"immutable": True, "allocated": True})] = None
    mac_address: Annotated[Mac | None, READ_ONLY] = None
    port_id: Annotated[
        Uuid | None, Meta(extra={"ref": "port", "weak": True}, description="the VM's port; none: it waits")
    ] = None
    fixed_ip_address: Annotated[
        Ip | None, Meta(description="which of the port's addresses; the first of the same version when left out")
    ] = None


class PortForwarding(Object, frozen=True, kw_only=True):
    """One TCP or UDP port of a floating IP that stands for a port of a VM; done on the router's gateway."""

    KIND = "port-forwarding"
    COLLECTION = "port-forwardings"
    UNIQUE = (("floating_ip_id", "protocol", "external_port"),)

    floating_ip_id: Annotated[Uuid, _ref("floating-ip"), IMMUTABLE]
    protocol: Literal["tcp", "udp"]
    external_port: Annotated[int, Meta(ge=1, le=65535)]
    internal_port_id: Annotated[Uuid, _ref("port")]
    internal_ip_address: Annotated[
        Ip | None, Meta(extra={"allocated": True}, description="the first of the port's of the same version")
    ] = None
    internal_port: Annotated[int, Meta(ge=1, le=65535)]


class Neighbour(Object, frozen=True, kw_only=True):
    """The MAC address of a host outside, in a provider network: learned by NovaNet, or set by an administrator."""

    KIND = "neighbour"
    COLLECTION = "neighbours"
    TENANT = False
    UNIQUE = (("network_id", "ip_address"),)

    network_id: Annotated[Uuid, _ref("network"), IMMUTABLE]
    ip_address: Annotated[Ip, IMMUTABLE]
    mac_address: Mac
    learned: Annotated[bool, READ_ONLY] = False


class BridgeMapping(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Which bridge of a hypervisor leads to a physical network."""

    physical_network: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9_.-]+$")]
    bridge: Annotated[str, Meta(min_length=1, max_length=15, pattern="^[A-Za-z0-9_.-]+$")]


class Hypervisor(Object, frozen=True, kw_only=True):
    """A host that runs VMs on Open vSwitch. ``name`` is its ``external_ids:system-id``."""

    KIND = "hypervisor"
    COLLECTION = "hypervisors"
    TENANT = False
    UNIQUE = (("hypervisor_key",),)

    ovsdb: Annotated[
        str,
        Meta(
            max_length=255,
            pattern="^(passive|tcp:.+:[0-9]+|ssl:.+:[0-9]+|unix:/.+)$",
            description="where its ovsdb-server listens (tcp:IP:PORT, ssl:IP:PORT, unix:PATH), or `passive`: it connects to NovaNet",
        ),
    ] = "passive"
    tunnel_ip: Annotated[Ip, Meta(description="address of its tunnel endpoint")] | None = None
    underlay_interface: Annotated[
        str, Meta(max_length=255, description="OVS interface that carries tunnel_ip; its MTU is watched")
    ] = ""
    bridge: Annotated[str, Meta(min_length=1, max_length=15, pattern="^[A-Za-z0-9_.-]+$")] = "br-int"
    datapath_type: Literal["auto", "system", "netdev"] = "auto"
    bridge_mappings: Annotated[
        tuple[BridgeMapping, ...], Meta(max_length=64, description="the physical networks that it is wired to")
    ] = ()
    gateway: Annotated[
        bool, Meta(description="whether NovaNet may choose it as gateway of routers to networks that it is wired to")
    ] = True
    hypervisor_key: Annotated[
        int | None, READ_ONLY, Meta(description="16-bit number of the hypervisor in the switches")
    ] = None


class TunnelMesh(Object, frozen=True, kw_only=True):
    """How hypervisors carry each other's traffic. There is exactly one."""

    KIND = "tunnel-mesh"
    COLLECTION = "tunnel-meshes"
    TENANT = False
    SINGLE = True

    tunnel_type: Literal["geneve", "vxlan"] = "geneve"
    udp_port: (
        Annotated[int, Meta(ge=1, le=65535, description="6081 for Geneve, 4789 for VXLAN when left out")] | None
    ) = None
    underlay_mtu: Annotated[int, Meta(ge=1280, le=65535, description="bytes of an IP packet between hypervisors")] = (
        1500
    )
    bfd_interval: Annotated[
        int, Meta(ge=10, le=10000, description="milliseconds between the probes of gateways (RFC 5880)")
    ] = 100
    bfd_multiplier: Annotated[int, Meta(ge=2, le=20, description="probes lost until a gateway counts as dead")] = 3
    multicast_group: (
        Annotated[
            Ip,
            Meta(
                description="VXLAN only: broadcast goes once to this group (RFC 7348) instead of once to every hypervisor"
            ),
        ]
        | None
    ) = None
    external_vteps: Annotated[
        tuple[Ip, ...],
        Meta(max_length=256, description="VXLAN only: endpoints that are not NovaNet's, whose frames are accepted"),
    ] = ()


KINDS: dict[str, type[Object]] = {
    cls.KIND: cls
    for cls in (Network, Subnet, Router, Port, FloatingIp, PortForwarding, Neighbour, Hypervisor, TunnelMesh)
}
"""Every kind of the intent store, in an order in which references point backwards."""


# --- observations: what is true on the hypervisors, never stored -------------------------------------------------


class Vif(Struct, frozen=True, kw_only=True):
    """A VM's interface seen in a hypervisor's OVSDB. Its id in the graph is the port's."""

    port_id: str
    hypervisor_id: str
    interface: str
    ofport: int | None = None
    """OpenFlow port number; None until vswitchd has opened the device."""
    mtu: int | None = None
    error: str = ""


class Bridge(Struct, frozen=True, kw_only=True):
    """The state of a hypervisor's br-int as its OVSDB shows it. Its id in the graph is the hypervisor's."""

    hypervisor_id: str
    tunnel_ofport: int | None = None
    provider_ofports: tuple[tuple[str, int], ...] = ()
    """(physical network, OpenFlow port towards it) for each mapping that is in place."""
    underlay_mtu: int | None = None
    datapath_type: str = ""
    ovs_version: str = ""
    problems: tuple[str, ...] = ()


class Link(Struct, frozen=True, kw_only=True):
    """The probe (BFD) from a hypervisor to another one. Its id in the graph is ``hypervisor/peer``."""

    hypervisor_id: str
    peer_id: str
    ofport: int | None = None
    up: bool = False
    settled: bool = True
    """Whether ``up`` can be believed: the session was up since the port was made, or had the time to come up."""


class Listener(Struct, frozen=True, kw_only=True):
    """Who wants a multicast group in a network, as IGMP and MLD told. Its id in the graph is ``network/group``.

    Without ports the group is known, and nobody wants it any more.
    """

    network_id: str
    group: str
    ports: frozenset[str] = frozenset()


@cache
def traits(cls: type[Struct]) -> dict[str, dict[str, Any]]:
    """What is said in ``Meta(extra=...)`` about each field of a model, whatever way it is wrapped or optional."""
    found: dict[str, dict[str, Any]] = {}
    for field_ in msgspec.inspect.type_info(cls).fields:  # type: ignore[attr-defined]
        extra: dict[str, Any] = {}
        pending: list[Any] = [field_.type]
        while pending:
            match pending.pop():
                case msgspec.inspect.Metadata() as wrapped:
                    extra |= wrapped.extra or {}
                    pending.append(wrapped.type)
                case msgspec.inspect.UnionType() as union:
                    pending.extend(union.types)
        found[field_.name] = extra
    return found


def encode(obj: Struct) -> dict[str, Any]:
    """The object as plain JSON types."""
    plain: dict[str, Any] = msgspec.to_builtins(obj)
    return plain


__all__ = [
    "KINDS", "UUID_PATTERN", "AddressPair", "AllocationPool", "Bridge", "BridgeMapping", "DhcpOption", "FixedIp",
    "FloatingIp", "HostRoute", "Hypervisor", "Link", "Listener", "Neighbour", "Network", "Object", "PolicyRoute", "Port",
    "PortForwarding", "Router", "RouterGateway", "StaticRoute", "Status", "Subnet", "TunnelMesh", "Vif", "encode",
    "field", "traits",
]  # fmt: skip
