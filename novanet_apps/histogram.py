"""How long something takes, counted in buckets, as Prometheus reads it."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

BOUNDS = (
    20e-6, 30e-6, 50e-6, 70e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 700e-6,
    1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 10e-3, 50e-3, 0.2, 1.0,
)  # fmt: skip
"""Seconds: the upper ends of the buckets; there is one more for all that takes longer."""


class Histogram:
    """Durations in seconds: ``counts`` in each bucket, and their sum."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def samples(self) -> list[tuple[str, dict[str, str], float]]:
        """(suffix of the metric's name, label, value), as the text format of Prometheus has a histogram."""
        totals = list(accumulate(self.counts))
        bounds = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
        buckets = [("_bucket", {"le": bound}, float(total)) for bound, total in zip(bounds, totals, strict=True)]
        return [*buckets, ("_sum", {}, self.seconds), ("_count", {}, float(totals[-1]))]
