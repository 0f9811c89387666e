"""status, topology, events and token."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, get_args
from urllib.parse import urlencode

import msgspec

from novanet_apps.tokens import TokenError, TokenFile
from topology.model import KINDS, Status

from .client import Client, default_state_dir
from .errors import FAILED, OK, UNREACHABLE, CliError
from .tables import print_json, table, text, tree

SILENCE = 60.0
"""Seconds without even a heartbeat after which the connection counts as lost."""
RETRY = 2.0
SHOWN = 20


def status(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet status``: exit code 0 when all is well, 1 when not."""
    found = client.call("GET", "/v1/status")
    if arguments.output == "json":
        print_json(found)
    else:
        _print_status(found, client)
    return OK if found["healthy"] else FAILED


def _print_status(found: dict[str, Any], client: Client) -> None:
    store = found["store"]
    connected = "connected" if store["ready"] and store["connected"] else f"not connected ({text(store.get('error'))})"
    print(f"{client.endpoint}: {'healthy' if found['healthy'] else 'needs attention'}; intent store {connected}\n")
    if found["hypervisors"]:
        rows = [
            (
                h["name"] or h["id"],
                h["status"],
                _connection(h["ovsdb"]),
                _connection(h["openflow"]),
                h["ports"],
                h["tunnel_ip"],
            )
            for h in found["hypervisors"]
        ]
        print(table(("hypervisor", "status", "ovsdb", "openflow", "ports", "tunnel_ip"), rows) + "\n")
    states = get_args(Status)
    counts = [(kind, *(count.get(state, 0) for state in states)) for kind, count in found["objects"].items()]
    print(table(("objects", *states), counts))
    for kind, count in found["objects"].items():
        if any(count.get(state) for state in ("DEGRADED", "ERROR")):
            _print_degraded(kind, sum(count.get(state, 0) for state in ("DEGRADED", "ERROR")), client)
    for warning in found["warnings"]:
        print(f"\nwarning: {text(warning)}")
    for name, entry in found["unknown"].get("ovsdb", {}).items():
        print(f"\nunknown hypervisor: {text(name)} connects by OVSDB and is refused: {text(entry['reason'])}")
    for entry in found["unknown"].get("openflow", []):
        print(f"\nunknown switch: datapath {entry['dpid']} is connected by OpenFlow and left alone")


def _connection(state: dict[str, Any]) -> str:
    return "connected" if state.get("connected") else "away"


def _print_degraded(kind: str, number: int, client: Client) -> None:
    query = urlencode([("status", "DEGRADED"), ("status", "ERROR"), ("limit", SHOWN)])
    print()
    for item in client.call("GET", f"/v1/{KINDS[kind].COLLECTION}?{query}")["items"]:
        why = "; ".join(text(reason) for reason in item["status_reason"])
        print(f"{kind} {text(item['name'] or item['id'])} is {item['status']}: {why}")
    if number > SHOWN:
        print(f"… and {number - SHOWN} more: novanet {kind} list --status DEGRADED --status ERROR")


def topology(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet topology``."""
    graph = client.call("GET", "/v1/topology")
    if arguments.output == "json":
        print_json(graph)
    else:
        print(tree(graph))
    return OK


def events(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet events``: one line an event, until interrupted."""
    query = f"?{urlencode([('kind', kind) for kind in arguments.kind])}" if arguments.kind else ""
    return follow(client, f"/v1/events{query}", lambda name, data: _print_event(name, data, arguments.output))


def follow(client: Client, path: str, shown: Callable[[str, dict[str, Any]], None]) -> int:
    """Call ``shown`` with the name and the data of each event of a stream, and come back to it when it is lost."""
    last, began = "", False
    while True:
        try:
            for id, name, data in _stream(client, path, last):
                last, began = id, True
                shown(name, data)
        except CliError as problem:
            if problem.code != UNREACHABLE or not began:
                raise
            print(f"novanet: {problem}; trying again", file=sys.stderr)
        time.sleep(RETRY)


def _stream(client: Client, path: str, last: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Events as (id, name, data), until the connection ends."""
    response = client.open("GET", path, timeout=SILENCE, headers={"Last-Event-ID": last} if last else None)
    if response.status != 200:
        raise client.refused(response.status, response.read())
    fields: dict[str, str] = {}
    try:
        while line := response.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "event" in fields:
                yield fields.get("id", ""), fields["event"], msgspec.json.decode(fields["data"])
                fields = {}
    except OSError:
        pass  # lost; the caller comes back
    finally:
        client.close()


def _print_event(name: str, data: dict[str, Any], output: str) -> None:
    if output == "json":
        line = msgspec.json.encode({"event": name, **data}).decode()
    elif name == "sync":
        line = "following; what was before is not shown"
    else:
        obj = data["object"]
        line = f"{name:8} {data['kind']} {text(obj['name'] or obj['id'])} {obj.get('status', '')}".rstrip()
        line += "".join(f"; {text(reason)}" for reason in obj.get("status_reason", ()))
    print(line, flush=True)


# --- tokens: not over REST, but in the controller's state directory -------------------------------------------------


def token(arguments: argparse.Namespace) -> int:
    """``novanet token create|list|delete``."""
    book = TokenFile(arguments.state_dir or default_state_dir())
    try:
        if arguments.verb == "create":
            secret = book.create(arguments.name, arguments.role, arguments.project)
            print(secret)
            print("it is shown this once; only its hash is kept", file=sys.stderr)
        elif arguments.verb == "delete":
            book.delete(arguments.name)
        else:
            shown = [{"name": t.name, "role": t.role, "project_id": t.project_id} for t in book.read()]
            if arguments.output == "json":
                print_json(shown)
            else:
                print(table(("name", "role", "project"), (list(row.values()) for row in shown)))
    except TokenError as problem:
        raise CliError(FAILED, str(problem)) from None
    return OK
