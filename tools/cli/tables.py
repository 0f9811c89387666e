"""Objects and states as text for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

_COLUMNS = {
    "network": ("name", "id", "status", "vni", "mtu", "project_id"),
    "subnet": ("name", "id", "status", "cidr", "gateway_ip", "network_id"),
    "router": ("name", "id", "status", "external_addresses", "active_gateway"),
    "port": ("name", "id", "status", "fixed_ips", "mac_address", "host_id"),
    "floating-ip": ("name", "id", "status", "floating_ip_address", "fixed_ip_address", "port_id", "hypervisor"),
    "port-forwarding": (
        "id",
        "status",
        "floating_ip_id",
        "protocol",
        "external_port",
        "internal_ip_address",
        "internal_port",
    ),
    "neighbour": ("id", "status", "network_id", "ip_address", "mac_address", "learned"),
    "hypervisor": ("name", "id", "status", "tunnel_ip", "ovsdb"),
    "tunnel-mesh": ("name", "id", "status", "tunnel_type", "udp_port", "underlay_mtu"),
}


def columns(kind: str) -> tuple[str, ...]:
    """What a list shows of a kind."""
    return _COLUMNS.get(kind, ("name", "id", "status"))


def print_json(value: Any) -> None:
    """JSON for scripts."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns as wide as needed."""
    lines = [[cell.upper().replace("_", " ") for cell in head], *([text(cell) for cell in row] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def text(value: Any) -> str:
    """A value in a cell; whatever would move the cursor is shown, not done."""
    match value:
        case None | "" | []:
            return "-"
        case bool():
            return "yes" if value else "no"
        case {"ip_address": str(address)}:
            return address
        case dict():
            return ",".join(f"{name}={text(inner)}" for name, inner in value.items())
        case list():
            return " ".join(text(inner) for inner in value)
    plain = str(value)
    return plain if plain.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in plain)


def record(obj: dict[str, Any]) -> str:
    """One object, a line a field."""
    return table(("field", "value"), obj.items())


def tree(graph: dict[str, Any]) -> str:
    """The topology: networks with their subnets and ports, and where the ports are."""
    nodes = {node["key"]: node for node in graph["nodes"]}
    inner: dict[str, list[str]] = {}
    located: dict[str, str] = {}
    for link in graph["links"]:
        if link["relation"] == "network_id":
            inner.setdefault(link["target"], []).append(link["source"])
        elif link["relation"] == "located_on":
            located[link["source"]] = link["target"]

    def described(key: str) -> str:
        node = nodes[key]
        where = f" on {_label(nodes[located[key]])}" if key in located else ""
        return f"{node['kind']} {_label(node)} [{node['status']}]{where}"

    def order(key: str) -> tuple[str, str]:
        return (nodes[key]["kind"] != "subnet" and "port") or "", _label(nodes[key])

    lines = []
    networks = [key for key, node in nodes.items() if node["kind"] == "network"]
    for network in sorted(networks, key=order):
        lines.append(described(network))
        members = sorted(inner.get(network, ()), key=order)
        lines += [("└── " if key is members[-1] else "├── ") + described(key) for key in members]
    lines += [described(key) for key, node in nodes.items() if node["kind"] in ("hypervisor", "tunnel-mesh")]
    return "\n".join(lines) or "nothing yet; begin with: novanet network create --name blue"


def _label(node: dict[str, Any]) -> str:
    return text(node["name"] or node["id"])


def progress(done: int, of: int) -> None:
    """How far a long task is; on standard error, in one line where that is a terminal."""
    if sys.stderr.isatty():
        print(f"\r{done} of {of}", end="\n" if done == of else "", file=sys.stderr, flush=True)
    else:
        print(f"{done} of {of}", file=sys.stderr, flush=True)
