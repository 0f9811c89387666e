"""Routers and their routes."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .base import READ_ONLY, Cidr, Ip, Object, Uuid, reference


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

    hypervisor_id: Annotated[Uuid, reference("hypervisor")]
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
