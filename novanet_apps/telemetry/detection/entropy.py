"""How spread out something is: Shannon's entropy within groups, for all groups at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from .hashing import mixed


def spread(groups: Any, keys: Any, weights: Any, count: int) -> tuple[Any, Any, Any]:
    """For each of ``count`` groups: how many different keys it has, their entropy, and the share of its heaviest key.

    ``groups`` (0 … count-1), ``keys`` (u8) and ``weights`` have a value for each row. The entropy is divided by its greatest
    value for so many keys: 1.0 when all have the same weight, 0.0 when there is one.
    """
    combined = mixed(np.column_stack((groups.astype(np.uint64), keys.astype(np.uint64))))
    _, first, inverse = np.unique(combined, return_index=True, return_inverse=True)
    weight = np.bincount(inverse.reshape(-1), weights)
    group = groups[first]
    total = np.bincount(group, weight, count)
    distinct = np.bincount(group, minlength=count)
    share = weight / np.maximum(total[group], 1e-9)
    bits = np.bincount(group, -share * np.log2(np.maximum(share, 1e-12)), count)
    heaviest = np.zeros(count)
    np.maximum.at(heaviest, group, share)
    return distinct, bits / np.maximum(np.log2(np.maximum(distinct, 2)), 1e-9), heaviest
