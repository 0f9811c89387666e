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

from msgspec import field

from .balancing import HealthMonitor, Listener, LoadBalancer, Member, Pool, SessionPersistence
from .base import UUID_PATTERN, Object, Status, encode, traits
from .captures import Capture
from .hypervisors import BridgeMapping, Hypervisor, TunnelMesh
from .networks import AllocationPool, HostRoute, Network, Subnet
from .observations import IFACE_ID, Bridge, Handover, Link, Load, Meters, MulticastGroup, Vif
from .outside import FloatingIp, Neighbour, PortForwarding
from .ports import AddressPair, DhcpOption, FixedIp, Port
from .qos import Answer, QosPolicy, QosRule, Question, Shaping, Uplink
from .routers import PolicyRoute, Router, RouterGateway, StaticRoute
from .security_groups import (
    ADMIN,
    RULE_MATCH,
    TENANT,
    AddressGroup,
    Identity,
    LabelRequirement,
    SecurityGroup,
    SecurityGroupRule,
)
from .telemetry import FlowExporter

KINDS: dict[str, type[Object]] = {
    cls.KIND: cls
    for cls in (
        QosPolicy,
        QosRule,
        Network,
        Subnet,
        Router,
        SecurityGroup,
        AddressGroup,
        SecurityGroupRule,
        Identity,
        Port,
        LoadBalancer,
        Pool,
        Listener,
        Member,
        HealthMonitor,
        FloatingIp,
        PortForwarding,
        Neighbour,
        Hypervisor,
        FlowExporter,
        Capture,
        TunnelMesh,
    )
}
"""Every kind of the intent store, in an order in which references point backwards."""

RECORDED: dict[str, tuple[str, ...]] = {
    "port": ("host_id",),
    "qos-policy": ("promises",),
    "hypervisor": ("shaping", "question", "answer", "promises"),
    "capture": (
        "state", "state_detail", "host_id", "packets", "file_bytes", "dropped_packets", "started_at", "ended_at",
    ),
    "member": ("health", "health_detail", "drain_until", "slot_weight"),
}  # fmt: skip
"""Fields that tell how things are rather than what is wanted: they change without a new revision."""

__all__ = [
    "ADMIN", "IFACE_ID", "KINDS", "RECORDED", "RULE_MATCH", "TENANT", "UUID_PATTERN", "AddressGroup", "AddressPair",
    "AllocationPool", "Answer", "Bridge", "BridgeMapping", "Capture", "DhcpOption", "FixedIp", "FloatingIp", "FlowExporter", "Handover", "HealthMonitor",
    "HostRoute", "Hypervisor", "Identity", "LabelRequirement", "Link", "Listener", "Load", "LoadBalancer", "Member", "Meters",
    "MulticastGroup", "Neighbour", "Network", "Object", "PolicyRoute", "Pool", "Port", "PortForwarding", "QosPolicy",
    "QosRule", "Question", "Router", "RouterGateway", "SecurityGroup", "SecurityGroupRule", "SessionPersistence", "Shaping",
    "StaticRoute", "Status", "Subnet", "TunnelMesh", "Uplink", "Vif", "encode", "field", "traits",
]  # fmt: skip
