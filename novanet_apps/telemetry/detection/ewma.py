"""Exponentially weighted means and variances of many series at once (S. W. Roberts, 1959; T. Finch, 2009, for the variance)."""

from __future__ import annotations

from typing import Any

import numpy as np


class Ewma:
    """One mean and variance for each place of an array that grows."""

    def __init__(self, weight: float = 0.02, warm: int = 20) -> None:
        """``weight`` of the newest value; before ``warm`` values it is that of a plain mean, so that a start is not believed for long."""
        self._weight, self._warm = weight, warm
        self.mean = np.zeros(0)
        self.variance = np.zeros(0)
        self.seen = np.zeros(0, np.int64)

    def grow(self, places: int) -> None:
        """Have room for so many series; new ones begin at 0."""
        more = places - len(self.mean)
        if more > 0:
            self.mean = np.concatenate((self.mean, np.zeros(more)))
            self.variance = np.concatenate((self.variance, np.zeros(more)))
            self.seen = np.concatenate((self.seen, np.zeros(more, np.int64)))

    def update(self, values: Any, places: Any) -> None:
        """Take one value for each of these places, which are all different."""
        seen = self.seen[places] + 1
        weight = np.maximum(self._weight, 1.0 / np.minimum(seen + 1, self._warm * 10))
        difference = values - self.mean[places]
        step = weight * difference
        self.mean[places] += step
        self.variance[places] = (1 - weight) * (self.variance[places] + difference * step)
        self.seen[places] = seen

    def deviation(self, values: Any, places: Any, least: float) -> Any:
        """How many standard deviations the values are from their means; a deviation counts as ``least`` at least."""
        return (values - self.mean[places]) / np.maximum(np.sqrt(self.variance[places]), least)
