"""Cumulative sums of what is more than expected (E. S. Page: Continuous inspection schemes, Biometrika 41, 1954), one-sided."""

from __future__ import annotations

from typing import Any

import numpy as np


class Cusum:
    """One sum for each place: S = max(0, S + x - expected - slack). It exceeds ``threshold`` when there is too much for too long."""

    def __init__(self, slack: float, threshold: float) -> None:
        self.slack, self.threshold = slack, threshold
        self.sums = np.zeros(0)

    def grow(self, places: int) -> None:
        """Have room for so many series."""
        self.sums = np.concatenate((self.sums, np.zeros(max(0, places - len(self.sums)))))

    def update(self, values: Any, expected: Any, places: Any) -> Any:
        """Take one value for each of these places; whether their sums exceed the threshold. Sums stop at twice the threshold,
        so that what is over is forgotten soon."""
        sums = np.clip(self.sums[places] + values - expected - self.slack, 0, 2 * self.threshold)
        self.sums[places] = sums
        return sums > self.threshold

    def reset(self, places: Any) -> None:
        """Begin anew."""
        self.sums[places] = 0
