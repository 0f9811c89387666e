"""Hypervisors, and how they carry each other's traffic."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .base import READ_ONLY, Ip, Object
from .qos import Answer, Promises, Question, Shaping, Uplink


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
    uplinks: Annotated[
        tuple[Uplink, ...],
        Meta(
            max_length=64,
            description="the interfaces by which its traffic leaves; bandwidth is guaranteed on these only",
        ),
    ] = ()
    shaping: Annotated[
        tuple[Shaping, ...], READ_ONLY, Meta(description="what its agent has done about the uplinks")
    ] = ()
    question: Annotated[
        tuple[Question, ...], READ_ONLY, Meta(description="what its agent is asked about a port's class, one at a time")
    ] = ()
    answer: Annotated[tuple[Answer, ...], READ_ONLY, Meta(description="what the agent has said to it")] = ()
    promises: Promises = 0
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
