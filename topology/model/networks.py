"""Networks and their subnets."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .base import IMMUTABLE, Cidr, Ip, Object, Uuid, reference


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
    qos_policy_id: Annotated[
        Uuid | None,
        reference("qos-policy"),
        Meta(description="what holds for each of its VMs' ports that names no policy, each for itself"),
    ] = None
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

    network_id: Annotated[Uuid, reference("network"), IMMUTABLE]
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
