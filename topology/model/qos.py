"""Quality of service: policies of rules about bandwidth, packets, DSCP and priority. Names follow OpenStack Neutron's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from .base import IMMUTABLE, READ_ONLY, Object, Uuid, reference

Direction = Literal["egress", "ingress"]

BOUNDS: dict[str, tuple[int, int]] = {
    "max_kbps": (64, 400_000_000),
    "max_burst_kbps": (1, 1_600_000_000),
    "max_pps": (1, 100_000_000),
    "max_burst_packets": (1, 400_000_000),
    "min_kbps": (64, 400_000_000),
    "dscp_mark": (0, 63),
    "priority": (0, 7),
    "max_latency_ms": (1, 1000),
}
"""The least and the most that each field of a rule may be; admission refuses the rest and says why."""


Promises = Annotated[
    int,
    READ_ONLY,
    Meta(description="counts the writes that take of what it can give, so that controllers see each other's"),
]


def _value(name: str, description: str) -> Any:
    low, high = BOUNDS[name]
    return Meta(description=description, extra_json_schema={"minimum": low, "maximum": high})


class QosPolicy(Object, frozen=True, kw_only=True):
    """Rules for the traffic of what it is attached to: ports, networks, floating IPs and routers' gateways.

    Administrators make policies; tenants attach those of their project, and shared ones.
    """

    KIND = "qos-policy"
    COLLECTION = "qos-policies"
    ADMIN_WRITES = True

    shared: Annotated[bool, Meta(description="whether every project may attach it")] = False
    promises: Promises = 0


class QosRule(Object, frozen=True, kw_only=True):
    """One rule of a policy: a limit, a guarantee, a mark or a priority. A policy has one of each type and direction."""

    KIND = "qos-rule"
    COLLECTION = "qos-rules"
    ADMIN_WRITES = True
    UNIQUE = (("qos_policy_id", "type", "direction"),)

    qos_policy_id: Annotated[Uuid, reference("qos-policy"), IMMUTABLE]
    type: Annotated[
        Literal["bandwidth_limit", "packet_rate_limit", "minimum_bandwidth", "dscp_marking", "priority", "max_latency"],
        IMMUTABLE,
    ]
    direction: Annotated[
        Direction, IMMUTABLE, Meta(description="seen from the VM: egress is what it sends, ingress what it gets")
    ] = "egress"
    max_kbps: Annotated[int, _value("max_kbps", "of bandwidth_limit: kbit/s of Ethernet frames")] | None = None
    max_burst_kbps: (
        Annotated[
            int,
            _value("max_burst_kbps", "of bandwidth_limit: kbit at once; chosen so that TCP gets its rate when null"),
        ]
        | None
    ) = None
    shape: Annotated[
        bool,
        Meta(
            description="of bandwidth_limit, ingress: what is too much waits at the VM's interface, in classes by DSCP, "
            "instead of being dropped at once"
        ),
    ] = False
    max_pps: Annotated[int, _value("max_pps", "of packet_rate_limit: packets per second")] | None = None
    max_burst_packets: (
        Annotated[int, _value("max_burst_packets", "of packet_rate_limit: packets at once; chosen when null")] | None
    ) = None
    min_kbps: (
        Annotated[
            int,
            _value("min_kbps", "of minimum_bandwidth: kbit/s that each port has on its hypervisor's uplink, always"),
        ]
        | None
    ) = None
    dscp_mark: Annotated[int, _value("dscp_mark", "of dscp_marking: the DSCP of what is sent (RFC 2474)")] | None = None
    priority: (
        Annotated[int, _value("priority", "of priority: 0 to 7 (IEEE 802.1Q); 7 leaves the hypervisor first")] | None
    ) = None
    max_latency_ms: (
        Annotated[int, _value("max_latency_ms", "of max_latency: how long a packet may wait at the uplink")] | None
    ) = None


class Uplink(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A network interface by which a hypervisor's traffic leaves, and what it carries."""

    interface: Annotated[
        str, Meta(min_length=1, max_length=15, pattern="^[^/:\\s]+$", description="its name in Linux, such as eth0")
    ]
    bandwidth_kbps: Annotated[
        int, Meta(ge=2_000, le=800_000_000, description="kbit/s that may leave by it, of Ethernet frames")
    ]
    physical_network: Annotated[
        str,
        Meta(
            max_length=64,
            pattern="^[A-Za-z0-9_.-]*$",
            description="the physical network whose frames leave by it; empty: tunnels do. "
            "An interface that carries several is listed once for each",
        ),
    ] = ""


class Shaping(Struct, frozen=True, kw_only=True, gc=False):
    """How the shaping of an uplink or of a VM's interface is doing, as the hypervisor's agent found it."""

    interface: str
    error: str = ""
    """What keeps it from being shaped; empty: it is."""
    port_id: str = ""
    """Whose interface it is; empty: an uplink."""


class Question(Struct, frozen=True, kw_only=True, gc=False):
    """What a hypervisor's agent is asked about a port: about its class on its uplink, or what waits at its own interface."""

    number: int
    """Tells questions apart."""
    port_id: str
    direction: Direction = "egress"
    """The VM's: what it sends passes the uplink, what it gets its own interface."""
    milliseconds: int
    """How long to count."""


class Answer(Struct, frozen=True, kw_only=True, gc=False):
    """What the agent has read of the class, or of all of an interface's, and counted meanwhile."""

    number: int
    """Of the question."""
    error: str = ""
    """Why there is nothing to say; then the rest says nothing."""
    interface: str = ""
    rate_kbps: int = 0
    ceil_kbps: int = 0
    order: int = 0
    """0 is served first, 7 last."""
    queue_bytes: int = 0
    milliseconds: int = 0
    bytes: int = 0
    """That left; so ``packets``."""
    packets: int = 0
    dropped_packets: int = 0
    backlog_bytes: int = 0
    """That waited in the end."""
