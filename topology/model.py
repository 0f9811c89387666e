"""The objects of NovaNet, once: REST validation, OpenAPI, the store's schema and the graph all derive from here.

Names follow OpenStack Neutron's API. An object is a frozen msgspec struct; what a field means beyond its
type (who may write it, what it refers to) stands in its ``Meta(extra=...)``:

``ref``        the kind of object whose id the field holds (a strong reference: what is referred to cannot be deleted)
``weak``       the reference is cleared instead when what it refers to is deleted
``read_only``  set by NovaNet, refused in requests
``admin``      may be written by administrators only
``immutable``  fixed once the object exists
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


class AllocationPool(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Addresses that may be allocated, both ends included."""

    start: Ip
    end: Ip


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


class FixedIp(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """An address of a port. In requests either part may be left out; the other is then found or allocated."""

    subnet_id: Annotated[Uuid, _ref("subnet")] | None = None
    ip_address: Ip | None = None


class AddressPair(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A further source address that a port may use; the MAC address is the port's own when left out."""

    ip_address: Annotated[str, Meta(max_length=49, description="address or prefix")]
    mac_address: Mac | None = None


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
    device_id: Annotated[str, Meta(max_length=255, description="the VM")] = ""
    device_owner: Annotated[str, Meta(max_length=255)] = ""
    host_id: Annotated[
        Uuid | None,
        READ_ONLY,
        Meta(extra={"ref": "hypervisor", "weak": True}, description="the hypervisor it was last seen on"),
    ] = None
    port_key: Annotated[int | None, READ_ONLY, Meta(description="32-bit number of the port in the switches")] = None


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


KINDS: dict[str, type[Object]] = {cls.KIND: cls for cls in (Network, Subnet, Port, Hypervisor, TunnelMesh)}
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
    underlay_mtu: int | None = None
    datapath_type: str = ""
    ovs_version: str = ""
    problems: tuple[str, ...] = ()


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
    "KINDS", "UUID_PATTERN", "AddressPair", "AllocationPool", "Bridge", "FixedIp", "Hypervisor", "Network", "Object",
    "Port", "Status", "Subnet", "TunnelMesh", "Vif", "encode", "field", "traits",
]  # fmt: skip
