"""Consistent hashing on a ring (Karger et al., "Consistent Hashing and Random Trees", STOC 1997).

A member has points on the ring, as many as its weight says; a slot goes to the member of the next point. When a member goes, or
its weight changes, slots move from it or to it and between no others. Shares are off by some 10 % (one sigma) of what weights say.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .pools import Pool, Slots, digests

POINTS = 256
"""Points of a member of mean weight: at most so many, and more than half of it."""
_OWNER = np.uint64(0xFFFF)
_STEP, _MIX = np.uint64(0x9E3779B97F4A7C15), (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def consistent_hashing(pool: Pool, size: int) -> Slots:
    """The table of ``size`` slots. A member that is light beside the others, or one of very many, may get none."""
    weights = np.asarray(pool.weights, np.int64)
    active = np.flatnonzero(weights)
    # points for a unit of weight are a power of two: they stay what they are while the mean weight changes little
    unit = 2.0 ** np.floor(np.log2(POINTS * len(active) / weights.sum()))
    counts = np.maximum(1, weights[active] * unit).astype(np.int64)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    points = _mixed(np.repeat(digests(pool.names)[active, 0], counts) + number.astype(np.uint64) * _STEP)
    # a point's low bits say whose it is: to sort numbers is quicker than to sort their places
    points = np.sort(points & ~_OWNER | np.repeat(active.astype(np.uint64), counts))
    slots = np.arange(size, dtype=np.uint64) * np.uint64((1 << 64) // size)
    owners: Slots = (points[np.searchsorted(points, slots) % len(points)] & _OWNER).astype(np.uint16)
    return owners


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The numbers with all bits mixed, one to one (Steele et al., "Fast Splittable Pseudorandom Number Generators", 2014)."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * _MIX[0]
    numbers = (numbers ^ numbers >> np.uint64(27)) * _MIX[1]
    numbers = numbers ^ numbers >> np.uint64(31)
    return numbers
