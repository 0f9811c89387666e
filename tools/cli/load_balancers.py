"""What load balancers are asked for in words of their own: how they are doing, and members by the names of VMs' ports."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from topology.model import LoadBalancer, Member, Object

from . import fields
from .client import Client
from .errors import NOT_FOUND, OK, CliError
from .objects import show_one, write
from .tables import print_json, record, table, text
from .verbs import Verb

BAR = 20
"""Characters that stand for all connections of a pool."""
_OF_MEMBER = tuple(
    field.name
    for field in fields.fields(Member)
    if field.writable and field.name not in ("pool_id", "address", "subnet_id")
)


def show(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet load-balancer show NAME|ID``: its fields and, for people, a picture of what it consists of."""
    found = client.named(cls.KIND, cls.COLLECTION, arguments.object)
    if arguments.output == "json":
        print_json(found)
    else:
        print(record(found))
        print()
        print("\n".join(picture(_tree(client, found["id"]))))
    return OK


def status(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet load-balancer status NAME|ID``: how it and its parts are doing."""
    tree = _tree(client, client.id_of(cls.KIND, cls.COLLECTION, arguments.object))
    if arguments.output == "json":
        print_json(tree)
    else:
        print("\n".join(picture(tree)))
    return OK


def _tree(client: Client, id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.call("GET", f"/v1/{LoadBalancer.COLLECTION}/{quote(id)}/status")
    return found


def picture(tree: dict[str, Any]) -> Iterator[str]:
    """A load balancer, its listeners, and its pools with the share of new connections of each member."""
    addresses = " ".join([tree["vip_address"], *tree["floating_ip_addresses"]])
    yield f"{_name(tree)}  {addresses}  {_how(tree)}"
    pools = {pool["id"]: pool for pool in tree["pools"]}
    for listener in tree["listeners"]:
        last = f"-{listener['protocol_port_max']}" if listener["protocol_port_max"] else ""
        to = f"pool {_name(pools[listener['pool_id']])}" if listener["pool_id"] else "no pool: connections are refused"
        ports = f"{listener['protocol']} {listener['protocol_port']}{last}"
        yield f"  listener {_name(listener)}  {ports}  {_how(listener)}  to {to}"
    for pool in tree["pools"]:
        monitor = pool["health_monitor"]
        checked = f"checked by {monitor['type']}" if monitor else "not checked"
        yield f"  pool {_name(pool)}  {pool['protocol']}  {pool['lb_algorithm']}, {checked}  {_how(pool)}"
        if pool["members"]:
            head = ("member", "address", "operating_status", "weight", "share", "", "why")
            lines = table(head, map(_member, pool["members"])).splitlines()
            yield from (f"    {line}" for line in lines)


def _member(member: dict[str, Any]) -> tuple[Any, ...]:
    host, port = member["address"], member["protocol_port"]
    address = host if port is None else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    weight = f"{member['weight']} backup" if member["backup"] else member["weight"]
    bar = "█" * round(member["share"] * BAR) + "·" * (BAR - round(member["share"] * BAR))
    why = "; ".join(member["status_reason"]) or (member["health_detail"] if member["health"] == "down" else "")
    return _name(member), address, member["operating_status"], weight, f"{member['share']:.1%}", bar, why


def _name(part: dict[str, Any]) -> str:
    return text(part["name"] or part["id"])


def _how(part: dict[str, Any]) -> str:
    return f"[{part['status']}, {part['operating_status']}]"


def add_member(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet pool add-member POOL PORT|ADDRESS``: by the address of the VM's port that is of the right IP version."""
    pool = client.named(cls.KIND, cls.COLLECTION, arguments.object)
    member = fields.values(arguments, Member, client)
    if fields.is_address(arguments.vm):
        member["address"] = arguments.vm
    else:
        port = client.named("port", "ports", arguments.vm)
        balancer = client.call("GET", f"/v1/{LoadBalancer.COLLECTION}/{quote(pool['loadbalancer_id'])}")
        six = ":" in balancer["vip_address"]
        found = [fixed for fixed in port["fixed_ips"] if (":" in fixed["ip_address"]) == six]
        if not found:
            what = f"port {arguments.vm} has no address of the same IP version as {balancer['vip_address']}"
            raise CliError(NOT_FOUND, what)
        member |= {"address": found[0]["ip_address"], "subnet_id": found[0]["subnet_id"]}
    body = {"pool_id": pool["id"], **member}
    return show_one(write(client, "POST", f"/v1/{Member.COLLECTION}", body, arguments), arguments)


def _named(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("object", metavar="NAME|ID")


def _added(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("object", metavar="POOL", help="name or id")
    parser.add_argument("vm", metavar="PORT|ADDRESS", help="the VM's port, by name or id, or one of its addresses")
    fields.add_options(parser, Member, "create", only=_OF_MEMBER)


ALIASES = {"load-balancer": ("lb",)}
"""Shorter names of nouns."""

VERBS: dict[str, tuple[Verb, ...]] = {
    "load-balancer": (Verb("status", status, "How it and its parts are doing.", _named, waits=False),),
    "pool": (Verb("add-member", add_member, "Let a VM have a share of its connections.", _added),),
}
"""By kind."""
