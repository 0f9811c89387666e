"""What security groups are asked for in words of their own; each is a write that ``create`` or ``set`` could make."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import quote, urlencode

from topology.model import Object, SecurityGroup, SecurityGroupRule

from . import fields
from .client import Client
from .errors import NOT_FOUND, OK, USAGE, CliError
from .objects import show_one, write
from .tables import columns, print_json, table
from .verbs import Verb, rewrite

_OF_RULE = tuple(field.name for field in fields.fields(SecurityGroupRule) if field.name != "security_group_id")


def add_rule(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet security-group add-rule GROUP --direction …``."""
    group = client.id_of(cls.KIND, cls.COLLECTION, arguments.object)
    rule = fields.values(arguments, SecurityGroupRule, client)
    if arguments.port is not None:
        if not {"port_range_min", "port_range_max"}.isdisjoint(rule):
            raise CliError(USAGE, "--port says both ends of the range: leave the others out")
        rule |= _ports(arguments.port)
    body = {"security_group_id": group, **rule}
    return show_one(write(client, "POST", f"/v1/{SecurityGroupRule.COLLECTION}", body, arguments), arguments)


def _ports(text: str) -> dict[str, int]:
    first, colon, last = text.partition(":")
    try:
        return {"port_range_min": int(first), "port_range_max": int(last if colon else first)}
    except ValueError:
        raise CliError(USAGE, f"--port must be like 80 or 8000:8080, not {text!r}") from None


def add_group(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet port add-security-group PORT GROUP``; one that it names already stays."""
    group = _group(arguments, client)

    def added(groups: list[Any]) -> list[Any]:
        return groups if group in groups else [*groups, group]

    return rewrite(arguments, cls, client, "security_groups", added)


def remove_group(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet port remove-security-group PORT GROUP``."""
    group = _group(arguments, client)

    def without(groups: list[Any]) -> list[Any]:
        if group not in groups:
            raise CliError(NOT_FOUND, f"port {arguments.object} does not name security-group {arguments.group}")
        return [each for each in groups if each != group]

    return rewrite(arguments, cls, client, "security_groups", without)


def _group(arguments: argparse.Namespace, client: Client) -> str:
    return client.id_of("security-group", "security-groups", arguments.group)


def _rule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("object", metavar="GROUP", help="name or id")
    parser.add_argument("--port", metavar="PORT|FIRST:LAST", help="destination port or ports of tcp, udp or sctp")
    fields.add_options(parser, SecurityGroupRule, "create", only=_OF_RULE)


def _of_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("object", metavar="PORT", help="name or id")
    parser.add_argument("group", metavar="GROUP", help="name or id of the security group")


def group_statistics(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet security-group statistics GROUP``."""
    id = client.id_of(cls.KIND, cls.COLLECTION, arguments.object)
    found = client.call("GET", f"/v1/{cls.COLLECTION}/{quote(id)}/statistics")
    if arguments.output == "json":
        print_json(found)
        return OK
    rules = [
        rule
        for page in client.pages(SecurityGroupRule.COLLECTION, [("security_group_id", id)])
        for rule in page
    ]  # fmt: skip
    counted = {each["security_group_rule_id"]: each for each in found["rules"]}
    shown = [name for name in columns(SecurityGroupRule.KIND) if name not in ("status", "security_group_id")]
    rows = (
        [*(rule[name] for name in shown), *(counted[rule["id"]][name] for name in ("packets", "bytes"))]
        for rule in rules
        if rule["id"] in counted
    )
    print(table((*shown, "packets", "bytes"), rows))
    return OK


def rule_statistics(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet security-group-rule statistics RULE``."""
    id = client.id_of(cls.KIND, cls.COLLECTION, arguments.object)
    return show_one(client.call("GET", f"/v1/{cls.COLLECTION}/{quote(id)}/statistics"), arguments)


# --- the log ---------------------------------------------------------------------------------------------------------

_LOG = (
    "time", "verdict", "direction", "security_group", "security_group_rule", "port", "peer_port", "protocol", "source",
    "destination",
)  # fmt: skip


def add(nouns: Any, common: argparse.ArgumentParser) -> None:
    """The command line of ``security-group-log``."""
    help = "The latest connections that rules with log decided, the newest first."
    made: argparse.ArgumentParser = nouns.add_parser(
        "security-group-log", help=help, description=help, parents=[common]
    )
    made.add_argument("--security-group", action="append", metavar="GROUP", help="of this group's rules; name or id")
    made.add_argument("--rule", action="append", metavar="RULE", help="of this rule; name or id")
    made.add_argument("--port", action="append", metavar="PORT", help="of this VM's port; name or id")
    made.add_argument("--verdict", action="append", choices=("allowed", "denied"))
    made.add_argument("--limit", type=int, metavar="N", default=100, help="entries, 100 when left out")
    made.set_defaults(run=log)


def log(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet security-group-log``."""
    asked = [("security_group_id", client.id_of(*_GROUP, name)) for name in arguments.security_group or ()]
    asked += [("security_group_rule_id", client.id_of(*_RULE, name)) for name in arguments.rule or ()]
    asked += [("port_id", client.id_of("port", "ports", name)) for name in arguments.port or ()]
    asked += [("verdict", verdict) for verdict in arguments.verdict or ()]
    found: list[dict[str, Any]] = []
    path: str | None = f"/v1/security-group-logs?{urlencode([*asked, ('limit', min(1000, max(1, arguments.limit)))])}"
    while path and len(found) < arguments.limit:
        page = client.call("GET", path)
        found += page["items"]
        path = page["next"]
    found = found[: max(0, arguments.limit)]
    if arguments.output == "json":
        print_json(found)
    else:
        print(table(_LOG, ([_cell(entry, name) for name in _LOG] for entry in found)))
    return OK


def _cell(entry: dict[str, Any], name: str) -> Any:
    """A field; what has a name by that, else by its id; an end with its port, or the ICMP type with its code."""
    if name in ("source", "destination"):
        address, port = entry[f"{name}_ip"], entry[f"{name}_port"]
        return address if port is None else f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    if name == "protocol" and entry["icmp_type"] is not None:
        return f"{entry[name]} {entry['icmp_type']}/{entry['icmp_code']}"
    return entry[name] or entry.get(f"{name}_id")


_GROUP = SecurityGroup.KIND, SecurityGroup.COLLECTION
_RULE = SecurityGroupRule.KIND, SecurityGroupRule.COLLECTION


def _named(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("object", metavar="NAME|ID")


VERBS: dict[str, tuple[Verb, ...]] = {
    "security-group": (
        Verb("add-rule", add_rule, "Add a rule.", _rule),
        Verb("statistics", group_statistics, "Packets and bytes that its rules decided.", _named, waits=False),
    ),
    "security-group-rule": (
        Verb("statistics", rule_statistics, "Packets and bytes that it decided.", _named, waits=False),
    ),
    "port": (
        Verb("add-security-group", add_group, "Make it a member of one more security group.", _of_port),
        Verb("remove-security-group", remove_group, "Make it a member no longer.", _of_port),
    ),
}
"""By kind."""
