"""What the flow engine counts."""

from __future__ import annotations

from dataclasses import dataclass

from novanet_apps.compat import ConnectionCounters


@dataclass
class Counters(ConnectionCounters):
    """Since the start; all but the last only grow."""

    flows_sent: int = 0
    """Flow-mods that add or change a flow."""
    flows_deleted: int = 0
    groups_sent: int = 0
    """Group-mods of any kind."""
    meters_sent: int = 0
    """Meter-mods of any kind."""
    bundles: int = 0
    """Bundles committed."""
    bundle_errors: int = 0
    """Bundles that a switch refused, in whole or in part."""
    resyncs: int = 0
    """Times that a bridge was read whole before it was changed."""
    audits: int = 0
    """Comparisons in the background that were completed."""
    drift_repaired: int = 0
    """Flows, groups and meters that were not as they had been set, and were put right."""
    connections_flushed: int = 0
    """Requests that a switch forget connections."""
    flushes_refused: int = 0
    """Such requests that a switch refused."""
    loop_lag_ms_max: int = 0
    """Longest time in milliseconds that the event loop was held since the start."""
