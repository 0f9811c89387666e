"""Ports: the interfaces of VMs and routers."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .base import ALLOCATED, IMMUTABLE, READ_ONLY, Ip, LabelKey, LabelValue, Mac, Object, Uuid, reference


class FixedIp(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """An address of a port. In requests either part may be left out; the other is then found or allocated."""

    subnet_id: Annotated[Uuid, reference("subnet")] | None = None
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

    network_id: Annotated[Uuid, reference("network"), IMMUTABLE]
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
    port_security_enabled: Annotated[
        bool,
        Meta(description="whether it may send by its own addresses only, and is closed but for what groups allow"),
    ] = True
    router_id: Annotated[
        Uuid | None,
        reference("router"),
        IMMUTABLE,
        Meta(description="makes it an interface of this router, with the subnets' gateway addresses unless told"),
    ] = None
    security_groups: (
        Annotated[
            tuple[Uuid, ...],
            reference("security-group"),
            Meta(
                max_length=32,
                extra={"allocated": True},
                description="ids of the groups whose rules hold for it, beside those that select it; the project's "
                "`default` when left out, none when []: then nothing reaches it",
            ),
        ]
        | None
    ) = None
    labels: Annotated[
        dict[LabelKey, LabelValue],
        Meta(max_length=64, description="by which security groups select it"),
    ] = {}
    qos_policy_id: Annotated[
        Uuid | None,
        reference("qos-policy"),
        Meta(
            description="what holds for its traffic; the network's policy when null. Of routers' ports, for gateways only"
        ),
    ] = None
    trust_dscp: Annotated[
        bool,
        Meta(
            extra={"admin": True},
            description="whether the DSCP of what it sends is kept; else it is cleared, unless a policy marks it",
        ),
    ] = False
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
    identity: Annotated[
        int | None,
        READ_ONLY,
        Meta(description="32-bit number of its identity in the switches; none where no group can be asked"),
    ] = None
