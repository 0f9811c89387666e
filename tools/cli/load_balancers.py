"""What load balancers are asked for in words of their own: how they are doing, what they did, and members by VMs' ports."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from topology.model import LoadBalancer, Member, Object

from . import fields
from .client import Client
from .errors import NOT_FOUND, OK, USAGE, CliError
from .objects import show_one, write
from .tables import amount, print_json, record, table, text
from .verbs import Verb

BAR = 20
"""Characters that stand for all slots of a pool, and for all of its connections."""
LEGEND = "▀ share of slots   ▄ share of connections so far"
SHORTEST = 5.0
"""Seconds: switches count some seconds late."""
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
        print("\n".join(_picture(client, found["id"])))
    return OK


def status(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet load-balancer status NAME|ID``: how it and its parts are doing."""
    id = client.id_of(cls.KIND, cls.COLLECTION, arguments.object)
    if arguments.output == "json":
        print_json(_tree(client, id, "status"))
    else:
        print("\n".join(_picture(client, id)))
    return OK


def _tree(client: Client, id: str, what: str) -> dict[str, Any]:
    found: dict[str, Any] = client.call("GET", f"/v1/{LoadBalancer.COLLECTION}/{quote(id)}/{what}")
    return found


def _picture(client: Client, id: str) -> Iterator[str]:
    return picture(_tree(client, id, "status"), _tree(client, id, "statistics"))


def picture(tree: dict[str, Any], counts: dict[str, Any]) -> Iterator[str]:
    """A load balancer, its listeners, and its pools with the share of slots and of connections of each member."""
    counted = {pool["pool_id"]: pool for pool in counts["pools"]}
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
        found = counted.get(pool["id"])  # it may have been made just now
        if pool["members"] and found is not None:
            members = {member["member_id"]: member for member in found["members"]}
            there = [member for member in pool["members"] if member["id"] in members]
            head = ("member", "address", "operating_status", "weight", "share", "", "connections", "why")
            rows = (_member(member, members[member["id"]]) for member in there)
            yield from (f"    {line}" for line in table(head, rows).splitlines())
            yield f"    {_slots(found)}"
    if any(pool["members"] for pool in tree["pools"]):
        yield f"  {LEGEND}"


def _slots(pool: dict[str, Any]) -> str:
    """What became of a pool's slots."""
    change = pool["last_change"]
    if change is None:
        return f"{pool['slots']} slots, none of which has moved"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(change["at"]))
    had = f"{change['moved']} moved at {when}, {change['needed']} of which had to"
    return f"{pool['slots']} slots; {had}; {pool['slots_moved']} since the controller began"


def _bar(slots: float, connections: float | None) -> str:
    """Both shares in one bar: its upper half and its lower half."""
    upper, lower = round(slots * BAR), round((connections or 0.0) * BAR)
    return "".join("·▄▀█"[2 * (place < upper) + (place < lower)] for place in range(BAR))


def _part(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _member(member: dict[str, Any], counts: dict[str, Any]) -> tuple[Any, ...]:
    host, port = member["address"], member["protocol_port"]
    address = host if port is None else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    weight = f"{member['weight']} backup" if member["backup"] else member["weight"]
    bar = _bar(counts["share_of_slots"], counts["share_of_connections"])
    connections = f"{amount(counts['total_connections'])} {_part(counts['share_of_connections'])}"
    why = "; ".join(member["status_reason"]) or (member["health_detail"] if member["health"] == "down" else "")
    return _name(member), address, member["operating_status"], weight, _part(member["share"]), bar, connections, why


def _name(part: dict[str, Any]) -> str:
    return text(part["name"] or part["id"])


def _how(part: dict[str, Any]) -> str:
    return f"[{part['status']}, {part['operating_status']}]"


# --- what members have had -------------------------------------------------------------------------------------------

_COUNTED = "total_connections", "packets_in", "bytes_in", "packets_out", "bytes_out"


def statistics(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet load-balancer|pool statistics NAME|ID``: so far, or ``--during`` so many seconds from now on."""
    id = client.id_of(cls.KIND, cls.COLLECTION, arguments.object)
    if arguments.during is not None and arguments.during < SHORTEST:
        raise CliError(USAGE, f"--during must be {SHORTEST:g} or more: switches count some seconds late")
    found = client.call("GET", f"/v1/{cls.COLLECTION}/{quote(id)}/statistics")
    if arguments.during is not None:
        time.sleep(arguments.during)
        found = _since(found, client.call("GET", f"/v1/{cls.COLLECTION}/{quote(id)}/statistics"))
    if arguments.output == "json":
        print_json(found)
    else:
        for pool in found.get("pools", [found]):
            print("\n".join(_had(pool)))
    return OK


def _since(before: Any, now: dict[str, Any]) -> dict[str, Any]:
    """What was counted in between; what began anew meanwhile, as with another controller, counts whole."""
    new = {name: now[name] - before[name] if now[name] >= before[name] else now[name] for name in _COUNTED}
    found = {**now, **new}
    for inner, key in (("pools", "pool_id"), ("members", "member_id")):
        if inner in now:
            were = {part[key]: part for part in before[inner]}
            nothing: dict[str, Any] = dict.fromkeys(_COUNTED, 0) | {"members": []}
            found[inner] = [_since(were.get(part[key], nothing), part) for part in now[inner]]
    total = sum(member["total_connections"] for member in found.get("members", ()))
    for member in found.get("members", ()):
        member["share_of_connections"] = round(member["total_connections"] / total, 6) if total else None
    return found


def _had(pool: dict[str, Any]) -> Iterator[str]:
    """What the members of a pool have had, for people."""
    yield f"pool {text(pool['name'] or pool['pool_id'])}  {_slots(pool)}"
    head = (
        "member",
        "slots",
        "share",
        "",
        "connections",
        "of_all",
        "open",
        "packets_in",
        "bytes_in",
        "packets_out",
        "bytes_out",
    )
    rows = [
        (
            text(member["name"] or member["member_id"]), member["slots"], _part(member["share"]),
            _bar(member["share_of_slots"], member["share_of_connections"]), amount(member["total_connections"]),
            _part(member["share_of_connections"]), member["active_connections"],
            *(amount(member[name]) for name in _COUNTED[1:]),
        )
        for member in pool["members"]
    ]  # fmt: skip
    gone = {name: pool[name] - sum(member[name] for member in pool["members"]) for name in _COUNTED}
    if any(gone.values()):
        rows.append(
            ("(gone)", "", "", "", amount(gone["total_connections"]), "", "", *(amount(gone[n]) for n in _COUNTED[1:]))
        )
    yield from (f"  {line}" for line in table(head, rows).splitlines())


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


def _counted(parser: argparse.ArgumentParser) -> None:
    _named(parser)
    parser.add_argument(
        "--during", type=float, metavar="SECONDS", help="what comes in so many seconds from now on, 5 or more"
    )


def _added(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("object", metavar="POOL", help="name or id")
    parser.add_argument("vm", metavar="PORT|ADDRESS", help="the VM's port, by name or id, or one of its addresses")
    fields.add_options(parser, Member, "create", only=_OF_MEMBER)


ALIASES = {"load-balancer": ("lb",)}
"""Shorter names of nouns."""

VERBS: dict[str, tuple[Verb, ...]] = {
    "load-balancer": (
        Verb("status", status, "How it and its parts are doing.", _named, waits=False),
        Verb("statistics", statistics, "What its members have had, and how slots moved.", _counted, waits=False),
    ),
    "pool": (
        Verb("add-member", add_member, "Let a VM have a share of its connections.", _added),
        Verb("statistics", statistics, "What its members have had, and how slots moved.", _counted, waits=False),
    ),
}
"""By kind."""
