"""How many slots each member has, and in which order members take them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .pools import Slots

Counts = NDArray[np.int64]


def quotas(weights: Sequence[int], size: int) -> Counts:
    """Slots of each member: its share of ``size`` rounded down or up, by largest remainder, and 1 where that would be none.

    Of equal remainders the first is rounded up. A weight of 0 has none. At least one weight is above 0, and not more than ``size``.
    """
    given = np.asarray(weights, np.int64)
    found = np.zeros(len(given), np.int64)
    active = np.flatnonzero(given)
    left = size
    while (light := given[active] * left < given[active].sum()).any():
        found[active[light]] = 1
        left -= int(light.sum())
        active = active[~light]
    total = given[active].sum()
    exact = given[active] * left
    found[active] = exact // total
    first = np.argsort(-(exact % total), kind="stable")[: size - int(found.sum())]
    found[active[first]] += 1
    return found


def turns(weights: Sequence[int], size: int) -> Slots:
    """Who has each of ``size`` turns: as many a member as ``quotas`` says, as far apart as its weight says.

    A member of half the weight of another has every second of its turns. All have their first in the first round, in order.
    """
    quota = quotas(weights, size)
    members = np.flatnonzero(quota)
    weight = np.asarray(weights, np.int64)[members]
    if weight.min() == weight.max():
        return np.tile(members.astype(np.uint16), -(-size // len(members)))[:size]
    quota = quota[members]
    number = np.arange(size) - np.repeat(np.cumsum(quota) - quota, quota)
    round = (number * np.repeat(weight.max() / weight, quota)).astype(np.int64)
    # numbers of 16 bits are sorted in linear time
    order = np.argsort(round.astype(np.uint16) if round.max() <= 0xFFFF else round, kind="stable")
    return np.repeat(members.astype(np.uint16), quota)[order]
