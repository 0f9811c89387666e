"""A hash for rows of 64-bit columns, keyed anew in every process, so that nobody outside can aim at collisions."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np

_SEED = secrets.randbits(64)


def mixed(columns: Any, seed: int = _SEED) -> Any:
    """64 bits for each row, after splitmix64's finaliser (Steele, Lea, Flood: Fast splittable generators, 2014)."""
    state = np.full(len(columns), seed, np.uint64)
    for column in range(columns.shape[1]):
        state = (state ^ columns[:, column]) * np.uint64(0x9E3779B97F4A7C15)
        state ^= state >> np.uint64(30)
        state *= np.uint64(0xBF58476D1CE4E5B9)
        state ^= state >> np.uint64(27)
        state *= np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def halves(addresses: Any) -> Any:
    """Addresses of 16 bytes as two columns of 64 bits."""
    return np.ascontiguousarray(addresses).view("<u8").reshape(len(addresses), 2)
