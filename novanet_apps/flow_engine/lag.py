"""How long the event loop is held: a greenlet that sleeps and looks how late it wakes."""

from __future__ import annotations

import time

import eventlet

from .counters import Counters

PERIOD = 0.02
"""Seconds between two looks."""


def watch_loop(counters: Counters) -> None:
    """Keep ``loop_lag_ms_max`` true; never returns."""
    while True:
        before = time.monotonic()
        eventlet.sleep(PERIOD)
        late = int((time.monotonic() - before - PERIOD) * 1000)
        if late > counters.loop_lag_ms_max:
            counters.loop_lag_ms_max = late
