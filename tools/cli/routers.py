"""What routers and floating IPs are asked for in words of their own; each is a write that ``create`` or ``set`` could make."""

from __future__ import annotations

import argparse
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import quote, urlencode

from topology.model import Object, Port

from . import fields
from .client import Client
from .errors import NOT_FOUND, OK, USAGE, CliError
from .objects import show_one, write
from .verbs import Verb, rewrite

GATEWAY = "network:router_gateway"
"""The device_owner of a router's port in a network outside."""


# --- interfaces --------------------------------------------------------------------------------------------------


def add_interface(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet router add-interface ROUTER NETWORK``."""
    router, network = _router(arguments, cls, client), _network(arguments, client)
    if network["external"]:
        raise CliError(
            USAGE, f"network {arguments.network} is external: novanet router set-gateway leads a router there"
        )
    return _join(router, network, arguments, client)


def remove_interface(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet router remove-interface ROUTER NETWORK``."""
    router, network = _router(arguments, cls, client), _network(arguments, client)
    found = _interfaces(client, router, network_id=network["id"])
    if not found:
        raise CliError(NOT_FOUND, f"router {arguments.object} has no interface in network {arguments.network}")
    return _delete(client, found)


def set_gateway(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet router set-gateway ROUTER NETWORK``; a gateway in another network is given up for it."""
    router, network = _router(arguments, cls, client), _network(arguments, client)
    if not network["external"]:
        raise CliError(USAGE, f"network {arguments.network} is not external: novanet router add-interface joins it")
    wanted = fields.values(arguments, Port, client)
    found = _interfaces(client, router, device_owner=GATEWAY)
    if found and found[0]["network_id"] == network["id"]:
        if not wanted:
            return show_one(found[0], arguments)
        path = f"/v1/ports/{quote(found[0]['id'])}"
        return show_one(write(client, "PATCH", path, wanted, arguments), arguments)
    _delete(client, found)
    return _join(router, network, arguments, client)


def clear_gateway(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet router clear-gateway ROUTER``."""
    found = _interfaces(client, _router(arguments, cls, client), device_owner=GATEWAY)
    if not found:
        raise CliError(NOT_FOUND, f"router {arguments.object} has no gateway")
    return _delete(client, found)


def _router(arguments: argparse.Namespace, cls: type[Object], client: Client) -> str:
    return client.id_of(cls.KIND, cls.COLLECTION, arguments.object)


def _network(arguments: argparse.Namespace, client: Client) -> dict[str, Any]:
    return client.named("network", "networks", arguments.network)


def _interfaces(client: Client, router: str, **filters: str) -> list[dict[str, Any]]:
    query = urlencode({"router_id": router, **filters, "limit": 1000})
    found: list[dict[str, Any]] = client.call("GET", f"/v1/ports?{query}")["items"]
    return found


def _join(router: str, network: dict[str, Any], arguments: argparse.Namespace, client: Client) -> int:
    body = {"router_id": router, "network_id": network["id"], **fields.values(arguments, Port, client)}
    return show_one(write(client, "POST", "/v1/ports", body, arguments), arguments)


def _delete(client: Client, ports: list[dict[str, Any]]) -> int:
    for port in ports:
        client.call("DELETE", f"/v1/ports/{quote(port['id'])}")
    return OK


# --- static routes -----------------------------------------------------------------------------------------------


def add_route(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet router add-route ROUTER --destination PREFIX --nexthop ADDRESS``; one that is there already stays."""
    route = {"destination": _prefix(arguments.destination), "nexthop": _address(arguments.nexthop)}
    return rewrite(arguments, cls, client, "routes", lambda routes: routes if route in routes else [*routes, route])


def remove_route(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet router remove-route ROUTER --destination PREFIX``, by one next hop or by all."""
    destination = _prefix(arguments.destination)
    nexthop = None if arguments.nexthop is None else _address(arguments.nexthop)

    def without(routes: list[dict[str, str]]) -> list[dict[str, str]]:
        left = [r for r in routes if r["destination"] != destination or nexthop not in (None, r["nexthop"])]
        if left == routes:
            by = "" if nexthop is None else f" by {nexthop}"
            raise CliError(NOT_FOUND, f"router {arguments.object} has no route to {destination}{by}")
        return left

    return rewrite(arguments, cls, client, "routes", without)


def _prefix(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as problem:
        raise CliError(USAGE, f"--destination: {problem}") from None


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError as problem:
        raise CliError(USAGE, f"--nexthop: {problem}") from None


# --- floating IPs ------------------------------------------------------------------------------------------------


def attach(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet floating-ip attach FLOATING-IP PORT``."""
    port = client.id_of("port", "ports", arguments.port)
    return _stand_for(arguments, cls, client, {"port_id": port, "fixed_ip_address": arguments.fixed_ip})


def detach(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet floating-ip detach FLOATING-IP``."""
    nothing = {"port_id": None, "fixed_ip_address": None, "loadbalancer_id": None}
    return _stand_for(arguments, cls, client, nothing)


def _stand_for(arguments: argparse.Namespace, cls: type[Object], client: Client, body: dict[str, Any]) -> int:
    id = client.id_of(cls.KIND, cls.COLLECTION, arguments.object)
    return show_one(write(client, "PATCH", f"/v1/{cls.COLLECTION}/{quote(id)}", body, arguments), arguments)


# --- the command line --------------------------------------------------------------------------------------------


def _of_router(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("object", metavar="ROUTER", help="name or id")


def _in_network(parser: argparse.ArgumentParser) -> None:
    _of_router(parser)
    parser.add_argument("network", metavar="NETWORK", help="name or id")


def _port(parser: argparse.ArgumentParser) -> None:
    _in_network(parser)
    fields.add_options(parser, Port, "create", only=("name", "mac_address", "fixed_ips"))


def _route(parser: argparse.ArgumentParser, one: bool) -> None:
    _of_router(parser)
    parser.add_argument("--destination", required=True, metavar="PREFIX")
    parser.add_argument("--nexthop", required=one, metavar="ADDRESS", help=None if one else "this one only; else all")


def _floating(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("object", metavar="FLOATING-IP", help="its address, name or id")


def _attached(parser: argparse.ArgumentParser) -> None:
    _floating(parser)
    parser.add_argument("port", metavar="PORT", help="name or id of the VM's port")
    parser.add_argument("--fixed-ip", metavar="ADDRESS", help="which of the port's; else the first of the same version")


VERBS: dict[str, tuple[Verb, ...]] = {
    "router": (
        Verb(
            "add-interface", add_interface, "Join a network; the interface has the subnets' gateway addresses.", _port
        ),
        Verb("remove-interface", remove_interface, "Leave a network.", _in_network, waits=False),
        Verb("set-gateway", set_gateway, "Lead to the outside by an external network.", _port),
        Verb("clear-gateway", clear_gateway, "Lead outside no more.", _of_router, waits=False),
        Verb("add-route", add_route, "Add a static route.", lambda parser: _route(parser, True)),
        Verb("remove-route", remove_route, "Remove a static route.", lambda parser: _route(parser, False)),
    ),
    "floating-ip": (
        Verb("attach", attach, "Let it stand for a VM's address.", _attached),
        Verb("detach", detach, "Let it wait for another port or load balancer.", _floating),
    ),
}
"""By kind."""
