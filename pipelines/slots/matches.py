"""A slot table as value/mask pairs, none of which has a slot of another."""

from __future__ import annotations

import numpy as np

from .pools import Slots

SLOT_BITS = 16
Match = tuple[int, int, int]
"""Value, mask, member: slots with ``slot & mask == value`` are the member's. 16 bits; bits outside the mask are 0 in the value."""
_FREE, _MIXED = -2, -1


def matches(table: Slots) -> list[Match]:
    """The fewest disjoint prefixes, for 1 to 65536 slots; numbers from M on never occur, and may go to anyone.

    Two blocks that are one's go together, as far up as that goes. So a slot that changes hands changes a few pairs around it, and no others.
    """
    width = int(len(table) - 1).bit_length()
    owners = np.full(1 << width, _FREE)
    owners[: len(table)] = table
    levels = [owners]
    for _ in range(width):
        left, right = owners[0::2], owners[1::2]
        alike = (left == right) | (left == _FREE) | (right == _FREE)
        owners = np.where(alike, np.maximum(left, right), _MIXED)
        levels.append(owners)
    found: list[Match] = []
    within = np.ones(1, bool)  # whether the block around it is of several members
    for shift in reversed(range(width + 1)):
        owners = levels[shift]
        blocks = np.flatnonzero(within & (owners >= 0))
        mask = 0xFFFF >> shift << shift if shift < width else 0
        found += zip((blocks << shift).tolist(), [mask] * len(blocks), owners[blocks].tolist(), strict=True)
        within = np.repeat(owners == _MIXED, 2)
    return found
