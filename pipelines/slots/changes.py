"""What has changed between two tables of a pool, and what had to."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from .pools import Slots


class Moves(NamedTuple):
    """How many slots have another member than before, and how many at least, since members have more or fewer of them."""

    moved: int
    needed: int


def moves(before: Slots, members_before: Sequence[Hashable], after: Slots, members_after: Sequence[Hashable]) -> Moves:
    """How many slots have moved; the members are who the tables' numbers stand for. Of another size, all have."""
    if len(before) != len(after):
        return Moves(len(after), len(after))
    numbers: dict[Hashable, int] = {}
    old, new = (
        np.array([numbers.setdefault(member, len(numbers)) for member in members], np.int64)[table]
        for table, members in ((before, members_before), (after, members_after))
    )
    had, has = (np.bincount(owners, minlength=len(numbers)) for owners in (old, new))
    return Moves(int((old != new).sum()), int(np.maximum(0, had - has).sum()))
