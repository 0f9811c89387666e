"""Load balancers: addresses whose connections are spread over VMs. Names follow OpenStack Octavia's API, version 2."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .base import IMMUTABLE, READ_ONLY, Ip, Mac, Object, Uuid, reference

TransportPort = Annotated[int, Meta(ge=1, le=65535)]


class LoadBalancer(Object, frozen=True, kw_only=True):
    """An address (VIP) whose connections go to members of pools: a host of a network, or an address of a router."""

    KIND = "load-balancer"
    COLLECTION = "load-balancers"
    UNIQUE = (
        ("balancer_key",),
        ("vip_subnet_id", "router_id", "vip_address"),
        ("vip_network_id", "vip_mac_address"),
    )

    admin_state_up: bool = True
    vip_network_id: Annotated[
        Uuid | None,
        Meta(
            extra={"ref": "network", "immutable": True, "allocated": True},
            description="the network that it is a host of; its subnet's when left out",
        ),
    ] = None
    vip_subnet_id: Annotated[
        Uuid | None,
        Meta(
            extra={"ref": "subnet", "immutable": True, "allocated": True},
            description="of vip_address; the network's first with an address left when left out",
        ),
    ] = None
    router_id: Annotated[
        Uuid | None,
        reference("router"),
        IMMUTABLE,
        Meta(description="makes vip_address one of this router's, for whoever it routes; instead of a network"),
    ] = None
    vip_address: Annotated[
        Ip | None,
        Meta(extra={"immutable": True, "allocated": True}, description="in a network: allocated when left out"),
    ] = None
    vip_mac_address: Annotated[Mac | None, READ_ONLY, Meta(description="by which its network's VMs reach it")] = None
    balancer_key: Annotated[
        int | None, READ_ONLY, Meta(description="32-bit number of the load balancer in the switches")
    ] = None


class SessionPersistence(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What keeps a client's further connections with the member that had its first."""

    type: Literal["SOURCE_IP"]
    persistence_timeout: Annotated[
        int, Meta(ge=1, le=65535, description="seconds without a connection after which the client may change")
    ] = 300


class Pool(Object, frozen=True, kw_only=True):
    """Members that share connections, and how they do."""

    KIND = "pool"
    COLLECTION = "pools"
    UNIQUE = (("pool_key",),)

    loadbalancer_id: Annotated[Uuid, reference("load-balancer"), IMMUTABLE]
    protocol: Annotated[Literal["TCP", "UDP"], IMMUTABLE]
    lb_algorithm: Literal[
        "maglev", "consistent_hashing", "round_robin", "weighted_round_robin", "least_connections"
    ] = "maglev"
    table_size: Annotated[
        int,
        Meta(
            ge=251,
            le=65521,
            description="slots that connections are hashed to, a prime; a hundred a member balance them within 1 %",
        ),
    ] = 1021
    session_persistence: SessionPersistence | None = None
    drain_timeout: Annotated[
        int, Meta(ge=0, le=604800, description="seconds that connections of a member with weight 0 may go on")
    ] = 300
    on_member_down: Annotated[
        Literal["reset", "drop"],
        Meta(description="what becomes of TCP connections of a member that is dead, removed or drained"),
    ] = "reset"
    admin_state_up: bool = True
    pool_key: Annotated[int | None, READ_ONLY, Meta(description="24-bit number of the pool in the switches")] = None


class Listener(Object, frozen=True, kw_only=True):
    """A port of a load balancer, or a range of ports, whose connections go to a pool."""

    KIND = "listener"
    COLLECTION = "listeners"
    UNIQUE = (("loadbalancer_id", "protocol", "protocol_port"),)

    loadbalancer_id: Annotated[Uuid, reference("load-balancer"), IMMUTABLE]
    protocol: Annotated[Literal["TCP", "UDP"], IMMUTABLE]
    protocol_port: Annotated[TransportPort, IMMUTABLE]
    protocol_port_max: (
        Annotated[
            TransportPort, Meta(extra={"immutable": True}, description="last port of a range; one port when left out")
        ]
        | None
    ) = None
    default_pool_id: Annotated[
        Uuid | None, reference("pool"), Meta(description="of the same protocol; connections are refused without one")
    ] = None
    admin_state_up: bool = True


class Member(Object, frozen=True, kw_only=True):
    """A VM of a pool, by its address. It gets connections while a port has the address."""

    KIND = "member"
    COLLECTION = "members"
    UNIQUE = (("member_key",), ("pool_id", "address", "protocol_port"))

    pool_id: Annotated[Uuid, reference("pool"), IMMUTABLE]
    address: Annotated[Ip, IMMUTABLE]
    subnet_id: Annotated[
        Uuid | None,
        Meta(
            extra={"ref": "subnet", "immutable": True, "allocated": True},
            description="of the address; found among those that the load balancer reaches when left out",
        ),
    ] = None
    protocol_port: (
        Annotated[
            TransportPort,
            Meta(extra={"immutable": True}, description="the one that the client has asked for when left out"),
        ]
        | None
    ) = None
    weight: Annotated[
        int, Meta(ge=0, le=256, description="its share of new connections; 0: those that it has go on for a while")
    ] = 1
    backup: Annotated[bool, Meta(description="gets connections only while no other member does")] = False
    monitor_port: (
        Annotated[TransportPort, Meta(description="where its health is checked; protocol_port when left out")] | None
    ) = None
    admin_state_up: bool = True
    member_key: Annotated[int | None, READ_ONLY, Meta(description="32-bit number of the member in the switches")] = None
    health: Annotated[
        Literal["unknown", "up", "down"], READ_ONLY, Meta(description="what the pool's health monitor has found")
    ] = "unknown"
    health_detail: Annotated[str, READ_ONLY, Meta(max_length=1024, description="why the last check has failed")] = ""
    drain_until: Annotated[
        int | None,
        READ_ONLY,
        Meta(description="when its connections end, in seconds since 1970; 0: they have; none: it has a weight"),
    ] = None
    slot_weight: Annotated[
        int | None, READ_ONLY, Meta(description="of least_connections: the share that its connections leave it")
    ] = None


class HealthMonitor(Object, frozen=True, kw_only=True):
    """How the members of a pool are checked, each on its own hypervisor."""

    KIND = "health-monitor"
    COLLECTION = "health-monitors"
    UNIQUE = (("pool_id",),)

    pool_id: Annotated[Uuid, reference("pool"), IMMUTABLE]
    type: Annotated[Literal["TCP", "HTTP", "HTTPS", "UDP-CONNECT", "PING"], IMMUTABLE]
    delay: Annotated[int, Meta(ge=1, le=3600, description="seconds from check to check")] = 5
    timeout: Annotated[int, Meta(ge=1, le=300, description="seconds that an answer may take; delay at most")] = 3
    max_retries: Annotated[int, Meta(ge=1, le=10, description="good checks in a row that make a member up")] = 2
    max_retries_down: Annotated[int, Meta(ge=1, le=10, description="bad checks in a row that make it down")] = 3
    http_method: Annotated[
        Literal["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] | None,
        Meta(extra={"allocated": True}, description="of HTTP and HTTPS; GET when left out"),
    ] = None
    url_path: (
        Annotated[
            str,
            Meta(
                max_length=2048,
                pattern="^/[!-~]*$",
                extra={"allocated": True},
                description="path and query, percent-encoded; / when left out",
            ),
        ]
        | None
    ) = None
    expected_codes: (
        Annotated[
            str,
            Meta(
                max_length=64,
                pattern="^[1-5][0-9][0-9](-[1-5][0-9][0-9]|(,[1-5][0-9][0-9])*)$",
                extra={"allocated": True},
                description="such as 200, or 200,202, or 200-204; 200 when left out",
            ),
        ]
        | None
    ) = None
    domain_name: (
        Annotated[
            str,
            Meta(max_length=253, description="of the request's Host, and of HTTPS; the member's address when left out"),
        ]
        | None
    ) = None
    admin_state_up: bool = True
