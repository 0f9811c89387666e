"""The few numbers that stand for many measurements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    """The middle value; raises ValueError when there is none."""
    if not values:
        raise ValueError("no measurement to take the median of")
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest measured value that ``percent`` of all values do not exceed (nearest rank); ValueError when empty."""
    if not values:
        raise ValueError("no measurement to take a percentile of")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]
