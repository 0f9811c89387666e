"""/metrics and /healthz of the agent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import eventlet
import eventlet.wsgi

METRICS = {
    "novanet_agent_checks_total": ("counter", "health checks, by type of monitor and result: good, bad, or inconclusive while the switch did not answer either"),
    "novanet_agent_members": ("gauge", "members that are checked here, by health"),
    "novanet_agent_reports_total": ("counter", "changes of health that were written to the intent store"),
    "novanet_agent_path_up": ("gauge", "1: the switch answers the agent, so checks that time out count"),
    "novanet_agent_store_connected": ("gauge", "1: the intent store answers"),
    "novanet_agent_late_seconds": ("gauge", "by how much the last check began after its time"),
    "novanet_agent_connections": ("gauge", "live connections of clients here with members of pools that are balanced by least connections"),
    "novanet_agent_connection_counts_total": ("counter", "times that those were counted"),
    "novanet_agent_connection_count_seconds": ("gauge", "seconds of a processor that the last count took, of the agent and of vswitchd"),
    "novanet_agent_loads_written_total": ("counter", "counts of a pool's connections that were written to the intent store"),
    "novanet_agent_datapath_lookups_total": ("counter", "packets by which flow cache of the datapath had their flow: exact_match, signature_match, megaflow …, or upcall when none had, or lost"),
    "novanet_agent_captures": ("gauge", "captures that run"),
    "novanet_agent_captures_ended_total": ("counter", "captures that have ended, however they did"),
    "novanet_agent_uplink_shaped": ("gauge", "1: the uplink is shaped as the intent store says"),
    "novanet_agent_uplink_bytes_total": ("counter", "bytes that left by an uplink, by class: the id of a port, control, hypervisor, or others"),
    "novanet_agent_uplink_packets_total": ("counter", "packets that left by an uplink, by class"),
    "novanet_agent_uplink_dropped_total": ("counter", "packets that found the queue of their class full"),
    "novanet_agent_uplink_backlog_bytes": ("gauge", "bytes that wait in the queue of a class"),
    "novanet_agent_uplink_changes_total": ("counter", "what was changed of an uplink's shaping: root, class, queue or classifier"),
    "novanet_agent_vm_shaped": ("gauge", "1: a VM's interface is shaped as its policy says"),
    "novanet_agent_vm_bytes_total": ("counter", "bytes that a VM was sent by a shaped interface, by class: voice, video, best-effort or background"),
    "novanet_agent_vm_packets_total": ("counter", "packets that a VM was sent by a shaped interface, by class"),
    "novanet_agent_vm_dropped_total": ("counter", "packets that found the queue of their class full"),
    "novanet_agent_vm_backlog_bytes": ("gauge", "bytes that wait in the queue of a class of a VM's interface"),
    "novanet_agent_vm_changes_total": ("counter", "what was changed of the shaping of a VM's interface: root, class, queue or classifier"),
}  # fmt: skip

Samples = dict[str, list[tuple[dict[str, str], float]]]


def text(samples: Samples) -> str:
    """Samples in Prometheus' text format, version 0.0.4."""
    lines = []
    for name, (kind, what) in METRICS.items():
        lines += [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]
        for labels, value in samples.get(name, ()):
            inner = ",".join(f'{key}="{each}"' for key, each in labels.items())
            lines.append(f"{name}{{{inner}}} {value:.15g}" if inner else f"{name} {value:.15g}")
    return "\n".join(lines) + "\n"


def listen(where: str) -> Any:
    """A socket at IP:PORT or [IPv6]:PORT. Raises OSError, ValueError."""
    host, _, port = where.rpartition(":")
    version = eventlet.green.socket.AF_INET6 if host.startswith("[") else eventlet.green.socket.AF_INET
    return eventlet.listen((host.strip("[]"), int(port)), family=version)


def serve(listener: Any, samples: Callable[[], Samples], healthy: Callable[[], str]) -> None:
    """Answer for ever; ``healthy`` says what is wrong, and nothing when all is well."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        status, body = "200 OK", ""
        if path == "/metrics":
            body = text(samples())
        elif path == "/healthz":
            body = healthy()
            status, body = ("503 Service Unavailable", body + "\n") if body else (status, "ok\n")
        else:
            status = "404 Not Found"
        start(status, [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")])
        return [body.encode()]

    eventlet.wsgi.server(listener, answer, log_output=False, max_size=16, socket_timeout=10)
