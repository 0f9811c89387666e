"""Objects and states as text for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

_COLUMNS = {
    "network": ("name", "id", "status", "vni", "mtu", "external", "physical_network", "segmentation_id", "project_id"),
    "subnet": ("name", "id", "status", "cidr", "gateway_ip", "network_id"),
    "router": ("name", "id", "status", "external_addresses", "active_gateway"),
    "port": ("name", "id", "status", "fixed_ips", "mac_address", "device_owner", "host_id"),
    "floating-ip": ("name", "id", "status", "floating_ip_address", "fixed_ip_address", "port_id", "hypervisor"),
    "port-forwarding": (
        "id", "status", "floating_ip_id", "protocol", "external_port", "internal_ip_address", "internal_port",
    ),
    "security-group": ("name", "id", "status", "tier", "stateful", "rule_count", "port_count", "project_id"),
    "address-group": ("name", "id", "status", "addresses", "project_id"),
    "security-group-rule": (
        "id", "status", "security_group_id", "direction", "ethertype", "protocol", "port_range_min", "port_range_max",
        "remote_ip_prefix", "remote_group_id", "remote_address_group_id", "action",
    ),
    "identity": ("number", "status", "port_count", "security_groups", "labels", "port_security_enabled", "project_id"),
    "load-balancer": (
        "name", "id", "status", "operating_status", "vip_address", "vip_network_id", "router_id", "project_id",
    ),
    "listener": (
        "name", "id", "status", "operating_status", "loadbalancer_id", "protocol", "protocol_port", "protocol_port_max",
        "default_pool_id",
    ),
    "pool": ("name", "id", "status", "operating_status", "loadbalancer_id", "protocol", "lb_algorithm", "table_size"),
    "member": (
        "name", "id", "status", "operating_status", "pool_id", "address", "protocol_port", "weight", "backup", "health",
    ),
    "health-monitor": ("name", "id", "status", "operating_status", "pool_id", "type", "delay", "timeout"),
    "qos-policy": ("name", "id", "status", "shared", "project_id"),
    "qos-rule": (
        "id", "status", "qos_policy_id", "type", "direction", "max_kbps", "max_burst_kbps", "shape", "max_pps", "min_kbps",
        "dscp_mark", "priority", "max_latency_ms",
    ),
    "neighbour": ("id", "status", "network_id", "ip_address", "mac_address", "learned"),
    "hypervisor": ("name", "id", "status", "tunnel_ip", "ovsdb", "bridge_mappings", "gateway"),
    "flow-exporter": ("name", "id", "status", "type", "hypervisor_ids", "targets", "sampling", "enabled"),
    "capture": (
        "name", "id", "state", "state_detail", "port_id", "packets", "file_bytes", "dropped_packets", "ended_at",
    ),
    "tunnel-mesh": ("name", "id", "status", "tunnel_type", "udp_port", "underlay_mtu"),
}  # fmt: skip


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


def amount(number: int) -> str:
    """A number in a few characters, with an SI prefix: 999, 1.0k, 12.3M."""
    size, units = float(number), iter(("", "k", "M", "G", "T", "P", "E"))
    unit = next(units)
    while size >= 999.95 and unit != "E":
        size, unit = size / 1000, next(units)
    return f"{size:.1f}{unit}" if unit else str(number)


def record(obj: dict[str, Any]) -> str:
    """One object, a line a field."""
    return table(("field", "value"), obj.items())


def tree(graph: dict[str, Any]) -> str:
    """The topology: networks with what they hold, routers with their interfaces, and where ports are."""
    nodes = {node["key"]: node for node in graph["nodes"]}
    inner: dict[str, list[str]] = {}
    located: dict[str, str] = {}
    networks: dict[str, str] = {}
    for link in graph["links"]:
        if link["relation"] in ("network_id", "floating_network_id", "router_id"):
            inner.setdefault(link["target"], []).append(link["source"])
        if link["relation"] == "network_id":
            networks[link["source"]] = link["target"]
        elif link["relation"] == "located_on":
            located[link["source"]] = link["target"]

    def described(key: str) -> str:
        node = nodes[key]
        where = f" on {_label(nodes[located[key]])}" if key in located else ""
        return f"{node['kind']} {_label(node)} [{node['status']}]{where}"

    def order(key: str) -> tuple[str, str]:
        return (nodes[key]["kind"] != "subnet" and "port") or "", _label(nodes[key])

    def member(of: str, key: str) -> str:
        joined = nodes[of]["kind"] == "router" and key in networks
        return described(key) + (f" in network {_label(nodes[networks[key]])}" if joined else "")

    lines = []
    for kind in ("network", "router"):
        for outer in sorted((key for key, node in nodes.items() if node["kind"] == kind), key=order):
            lines.append(described(outer))
            members = sorted(inner.get(outer, ()), key=order)
            lines += [("└── " if key is members[-1] else "├── ") + member(outer, key) for key in members]
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
