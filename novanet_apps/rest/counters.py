"""What the REST server counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Series = list[tuple[dict[str, str], float]]
Metric = tuple[str, str, "float | Series"]
"""Type (``counter``, ``gauge``), help, and one value or one for each set of labels."""


@dataclass
class Counters:
    """Counts since the start, and gauges of now."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    authentication_failures: int = 0
    accepted: int = 0
    connections: int = 0
    evicted: int = 0
    timeouts: int = 0
    event_clients: int = 0
    events: int = 0
    events_lost: int = 0

    def metrics(self) -> dict[str, Metric]:
        """The declarations and values for /metrics."""
        requests: Any = [
            ({"method": method, "status": str(status)}, count)
            for (method, status), count in sorted(self.requests.items())
        ]
        return {
            "novanet_rest_requests_total": ("counter", "Requests answered, by method and status.", requests),
            "novanet_rest_authentication_failures_total": (
                "counter", "Requests without a valid token.", self.authentication_failures,
            ),
            "novanet_rest_connections_total": ("counter", "Connections accepted.", self.accepted),
            "novanet_rest_connections": ("gauge", "Connections that are open.", self.connections),
            "novanet_rest_evicted_total": (
                "counter", "Idle connections closed because others were waiting.", self.evicted,
            ),
            "novanet_rest_timeouts_total": (
                "counter", "Connections closed because the client took too long to send its request.", self.timeouts,
            ),
            "novanet_rest_event_clients": ("gauge", "Clients that follow /v1/events.", self.event_clients),
            "novanet_rest_events_total": ("counter", "Events published.", self.events),
            "novanet_rest_events_lost_total": (
                "counter", "Events that a client read too slowly to get; it was told to read everything again.",
                self.events_lost,
            ),
        }  # fmt: skip
