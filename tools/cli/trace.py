"""``novanet trace``: the way of a packet."""

from __future__ import annotations

import argparse
from typing import Any

from .client import Client
from .errors import DROPPED, OK, USAGE, CliError
from .tables import print_json, text

ARRIVES = ("delivered", "answered", "left")
"""Verdicts of packets that reached somebody."""


def add(nouns: Any, common: argparse.ArgumentParser) -> None:
    """The command line of ``trace``."""
    help = "A packet's way over all hypervisors, and what becomes of it."
    made: argparse.ArgumentParser = nouns.add_parser("trace", help=help, description=help, parents=[common])
    made.add_argument("source", metavar="SRC", help="the VM's port: name, id, DNS name or device")
    made.add_argument("destination", metavar="DST", help="an IP address, or another port or floating IP")
    made.add_argument(
        "packet", metavar="tcp/PORT|udp/PORT|sctp/PORT|icmp[/TYPE]", nargs="?", default="icmp",
        help="an ICMP echo request when left out",
    )  # fmt: skip
    made.add_argument("--source-port", type=int, metavar="PORT", help="40000 when left out")
    made.add_argument("--size", type=int, metavar="BYTES", help="of the IP packet, 100 when left out")
    made.add_argument("--ttl", type=int, metavar="TTL", help="or hop limit, 64 when left out")
    made.add_argument("--established", action="store_true", help="a later packet, after the first one and its answer")
    made.add_argument("--reply", action="store_true", help="trace the answer, too")
    made.add_argument("--source-ip", metavar="ADDRESS", help="as if the VM sent from this address")
    made.add_argument("--source-mac", metavar="MAC", help="as if the VM sent from this MAC address")
    versions = made.add_mutually_exclusive_group()
    versions.add_argument("-4", dest="ip_version", action="store_const", const=4, help="the IPv4 address of DST")
    versions.add_argument("-6", dest="ip_version", action="store_const", const=6, help="the IPv6 address of DST")
    made.add_argument("--flows", action="store_true", help="show the flows as well; for administrators")
    made.set_defaults(run=run)


def run(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet trace SRC DST [tcp/80]``: exit code 0 when the packet, or its answer, reaches somebody."""
    found = client.call("POST", "/v1/traces", _asked(arguments))
    if arguments.output == "json":
        print_json(found)
    else:
        _print(found, arguments.flows)
    return OK if found["verdict"] in ARRIVES else DROPPED


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    asked = {"source": arguments.source, "destination": arguments.destination, **_packet(arguments.packet)}
    for name in ("source_port", "size", "ttl", "source_ip", "source_mac", "ip_version"):
        if getattr(arguments, name) is not None:
            asked[name] = getattr(arguments, name)
    return asked | {name: True for name in ("established", "reply") if getattr(arguments, name)}


def _packet(text: str) -> dict[str, Any]:
    """``tcp/80`` as fields of the request. Raises CliError."""
    protocol, slash, number = text.lower().partition("/")
    if protocol not in ("tcp", "udp", "sctp", "icmp") or (slash and not number.isdecimal()):
        raise CliError(USAGE, f"{text!r} must be like tcp/80, udp/53, icmp or icmp/8")
    if not slash and protocol != "icmp":
        raise CliError(USAGE, f"{protocol} needs a port: {protocol}/80")
    if not slash:
        return {"protocol": protocol}
    return {"protocol": protocol, ("icmp_type" if protocol == "icmp" else "destination_port"): int(number)}


def _print(found: dict[str, Any], flows: bool) -> None:
    for leg in found["legs"]:
        brief = leg["name"] == "resolve" and leg["verdict"] in ARRIVES and not flows
        print(f"{leg['name']}: {text(leg['packet'])}" + (f": {text(leg['text'])}" if brief else ""))
        for hop in () if brief else leg["hops"]:
            _print_hop(hop, flows)
        print()
    for warning in found["warnings"]:
        print(f"warning: {text(warning)}")
    print(text(found["text"]))


def _print_hop(hop: dict[str, Any], flows: bool) -> None:
    name = hop["hypervisor"]["name"]
    print(f"  {text(name) if name.startswith('hypervisor') else f'hypervisor {text(name)}'}, {text(hop['arrives'])}")
    width = max((len(step["table"]) for step in hop["steps"]), default=0)
    for step in hop["steps"]:
        print(f"    {step['table']:{width}}  {text(step['text'])}")
        if flows and step["flow"]:
            print(f"    {'':{width}}  {text(step['flow'])}")
    for end in hop["ends"]:
        print(f"    => {text(end['text'])}")
