"""What quality of service is asked for in words of its own: ``novanet qos policy``, and what uplinks have left."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import quote

from topology.model import Object, Port

from .client import Client
from .errors import NOT_REALISED, OK
from .tables import print_json, record, table
from .verbs import Verb

NOUNS = {"qos-policy": "policy", "qos-rule": "rule"}
"""Kinds that are nouns of ``novanet qos``, too."""
ANSWER = 30.0
"""Seconds that switch and agent have for their answers, beyond those that are counted."""
_COUNTED = ("interface", "carries", "bandwidth", "reserve", "guaranteed", "left", "shaped")
_PROMISED = ("port", "project", "uplink", "guaranteed", "granted")


def bandwidth(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet hypervisor bandwidth NAME|ID``: its uplinks, who has been guaranteed how much, and what is left; in kbit/s."""
    found = _about(arguments, cls, client, "bandwidth")
    if arguments.output == "json":
        print_json(found)
        return OK
    print(table(_COUNTED, map(_uplink, found["uplinks"])))
    promised = [_promise(each, uplink["interface"]) for uplink in found["uplinks"] for each in uplink["guarantees"]]
    promised += [_promise(each, "none") for each in found["not_guaranteed"]]
    if promised:
        print()
        print(table(_PROMISED, promised))
    if found["max_meters"] is not None:
        print()
        print(f"{found['meters_in_use']} of {found['max_meters']} meters are in use")
    return OK


def _uplink(uplink: dict[str, Any]) -> tuple[Any, ...]:
    carries = ", ".join(wire or "tunnels" for wire in uplink["physical_networks"])
    by = {"agent": "by the agent", "ovsdb": "by Open vSwitch"}[uplink["shaper"]]
    shaped = by if uplink["shaped"] else f"no: {uplink['error']}" if uplink["error"] else "no"
    numbers = (uplink[f"{name}_kbps"] for name in ("bandwidth", "reserve", "guaranteed", "left"))
    return uplink["interface"], carries, *numbers, shaped


def _promise(each: dict[str, Any], uplink: str) -> tuple[Any, ...]:
    name = each["port_name"] or each["port_id"]
    return name, each["project_id"], uplink, each["min_kbps"], each["granted_kbps"]


def effective(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet port qos NAME|ID`` and ``novanet floating-ip qos``: what holds for it, and what that comes from."""
    found = _about(arguments, cls, client, "qos")
    if arguments.output == "json":
        print_json(found)
        return OK
    for direction in ("egress", "ingress"):
        limits = found.pop(direction)
        found |= {f"{direction}_{name}": value for name, value in limits.items()}
    print(record(found))
    return OK


def add_verify(nouns: Any, common: argparse.ArgumentParser) -> None:
    """The command ``novanet qos verify``."""
    help = "Whether a port has what its policy says: meters and queues read back, and its traffic counted for some seconds."
    parser = nouns.add_parser("verify", help=help, description=help, parents=[common])
    parser.add_argument("object", metavar="PORT", help="name or id")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to count, 1 to 60 (default: %(default)s)")
    parser.set_defaults(run=verify)


def verify(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet qos verify PORT``: what was asked for, what is in force, and what was measured. Nothing is sent for it."""
    id = client.id_of(Port.KIND, Port.COLLECTION, arguments.object)
    path = f"/v1/{Port.COLLECTION}/{quote(id)}/qos/verification?seconds={arguments.seconds:g}"
    found = client.call("GET", path, timeout=max(arguments.seconds, 0) + ANSWER)
    if arguments.output == "json":
        print_json(found)
    else:
        print(table(_CHECKED, map(_checked, found["checks"])))
        print()
        print(f"{found['verdict']}, on hypervisor {found['hypervisor_name']}, in {found['seconds']:g} seconds")
    return NOT_REALISED if found["verdict"] == "broken" else OK


_CHECKED = ("rule", "direction", "asked", "in force", "measured", "unit", "passed", "dropped", "verdict", "detail")


def _checked(check: dict[str, Any]) -> tuple[Any, ...]:
    numbers = ("-" if check[name] is None else check[name] for name in ("asked", "in_force", "measured"))
    counts = check["passed_packets"], check["dropped_packets"]
    return check["rule"], check["direction"], *numbers, check["unit"], *counts, check["verdict"], check["detail"]


def _about(arguments: argparse.Namespace, cls: type[Object], client: Client, what: str) -> dict[str, Any]:
    id = client.id_of(cls.KIND, cls.COLLECTION, arguments.object)
    found: dict[str, Any] = client.call("GET", f"/v1/{cls.COLLECTION}/{quote(id)}/{what}")
    return found


def _named(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("object", metavar="NAME|ID")


_EFFECTIVE = Verb("qos", effective, "What holds for its traffic, and what that comes from.", _named, waits=False)

VERBS: dict[str, tuple[Verb, ...]] = {
    "hypervisor": (
        Verb("bandwidth", bandwidth, "What its uplinks have promised, and have left.", _named, waits=False),
    ),
    "port": (_EFFECTIVE,),
    "floating-ip": (_EFFECTIVE,),
}
"""By kind."""
