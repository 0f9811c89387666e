"""Security groups: who may talk to whom, and the identities by which the switches know who is who."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from .base import IMMUTABLE, READ_ONLY, Cidr, LabelKey, LabelValue, Object, Uuid, reference

ADMIN, TENANT = "admin", "tenant"
"""The tiers of security groups, in the order in which they are asked."""

RULE_MATCH = (
    "security_group_id", "direction", "ethertype", "protocol", "port_range_min", "port_range_max", "remote_group_id",
    "remote_ip_prefix", "remote_address_group_id", "action",
)  # fmt: skip
"""The fields of a rule that say what it does; no two rules have the same there."""


class LabelRequirement(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What a port's labels must be, as in Kubernetes' label selectors.

    ``NotIn`` and ``DoesNotExist`` are met by ports without the label, too.
    """

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Annotated[tuple[LabelValue, ...], Meta(max_length=64, description="for `In` and `NotIn`")] = ()


class SecurityGroup(Object, frozen=True, kw_only=True):
    """Ports that the same rules hold for, and that rules may name as peers.

    Its members are the ports that name it, and those that its selector selects.
    """

    KIND = "security-group"
    COLLECTION = "security-groups"

    stateful: Annotated[
        bool, Meta(description="whether answers to what is allowed are allowed; all groups of a port are, or none is")
    ] = True
    selector: (
        Annotated[
            tuple[LabelRequirement, ...],
            Meta(
                max_length=16,
                description="its project's ports whose labels meet all of these are members, too; none when null",
            ),
        ]
        | None
    ) = None
    tier: Annotated[
        Literal["tenant", "admin"],
        Meta(
            extra={"admin": True, "immutable": True},
            description="`admin`: of no project, selects ports of all, may deny, and is asked before every tenant group",
        ),
    ] = "tenant"
    priority: Annotated[
        int, Meta(ge=0, le=1000, extra={"admin": True}, description="of tier admin: the highest is asked first")
    ] = 0
    shared: Annotated[
        bool, Meta(extra={"admin": True}, description="whether other projects may see it and name it")
    ] = False


class AddressGroup(Object, frozen=True, kw_only=True):
    """Addresses that rules may name as peers."""

    KIND = "address-group"
    COLLECTION = "address-groups"

    addresses: Annotated[tuple[Cidr, ...], Meta(max_length=4096)] = ()
    shared: Annotated[
        bool, Meta(extra={"admin": True}, description="whether other projects may see it and name it")
    ] = False


class SecurityGroupRule(Object, frozen=True, kw_only=True):
    """Lets members of a security group send to peers, or receive from them; or forbids it.

    What it matches is fixed; another match is another rule.
    """

    KIND = "security-group-rule"
    COLLECTION = "security-group-rules"
    UNIQUE = (("rule_key",), RULE_MATCH)

    security_group_id: Annotated[Uuid, reference("security-group"), IMMUTABLE]
    direction: Annotated[
        Literal["ingress", "egress"], IMMUTABLE, Meta(description="towards the group's members, or from them")
    ]
    ethertype: (
        Annotated[
            Literal["IPv4", "IPv6"],
            Meta(
                extra={"immutable": True, "allocated": True},
                description="as remote_ip_prefix, or IPv4, when left out",
            ),
        ]
        | None
    ) = None
    protocol: (
        Annotated[
            str,
            Meta(
                max_length=10,
                extra={"immutable": True},
                description="name (`tcp`, `udp`, `icmp`, `sctp` …) or number; every protocol when left out",
            ),
        ]
        | None
    ) = None
    port_range_min: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=65535,
                extra={"immutable": True},
                description="first destination port of tcp, udp or sctp; or ICMP type",
            ),
        ]
        | None
    ) = None
    port_range_max: (
        Annotated[
            int,
            Meta(ge=0, le=65535, extra={"immutable": True}, description="last destination port, or ICMP code"),
        ]
        | None
    ) = None
    remote_group_id: Annotated[
        Uuid | None, reference("security-group"), IMMUTABLE, Meta(description="peers: members of this group")
    ] = None
    remote_ip_prefix: (
        Annotated[Cidr, Meta(extra={"immutable": True}, description="peers: addresses in this prefix")] | None
    ) = None
    remote_address_group_id: Annotated[
        Uuid | None, reference("address-group"), IMMUTABLE, Meta(description="peers: addresses of this group")
    ] = None
    action: Annotated[
        Literal["allow", "deny"],
        Meta(extra={"immutable": True}, description="`deny` in groups of tier admin only"),
    ] = "allow"
    log: Annotated[bool, Meta(description="whether connections that it decides are logged")] = False
    revoke: Annotated[bool, Meta(description="whether connections that it has allowed end when it is deleted")] = True
    rule_key: Annotated[int | None, READ_ONLY, Meta(description="32-bit number of the rule in the switches")] = None


class Identity(Object, frozen=True, kw_only=True):
    """What the ports with one set of security groups and labels are to the switches; made and deleted by NovaNet."""

    KIND = "identity"
    COLLECTION = "identities"
    TENANT = False
    DERIVED: ClassVar[bool] = True
    UNIQUE = (("number",),)

    number: Annotated[int, READ_ONLY, Meta(ge=1, le=2**32 - 1)]
    security_groups: Annotated[
        tuple[Uuid, ...], READ_ONLY, Meta(description="those that the ports name, sorted; they may be gone")
    ] = ()
    labels: Annotated[dict[str, str], READ_ONLY] = {}
    port_security_enabled: Annotated[
        bool, READ_ONLY, Meta(description="whether the ports have it; else groups of tier admin alone are asked")
    ] = True
    retired: Annotated[
        bool,
        READ_ONLY,
        Meta(description="no port has it: it goes when every hypervisor has confirmed to know it no more"),
    ] = False
