"""Sets of packets that first-match rules are made of: a box has a range, or a value under a mask, in every dimension.

Nothing here knows what the dimensions mean: a ``Space`` says of what kind they are.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Box = tuple[tuple[int, int], ...]
"""For each dimension its lowest and highest number, or value and mask."""
Mask = NDArray[np.bool_]
Column = NDArray[np.int32]


class Dimension(NamedTuple):
    """``kind`` says which sets a box may have there.

    ``prefix``: the numbers that begin with the same bits; ``range``: any range; ``any``: one number or all;
    ``bits``: value and mask. All but the last are kept as ranges.
    """

    name: str
    kind: str
    width: int
    part: int
    """Dimensions of one part are not taken asunder when rules are made conjunctions, but for ranges."""
    needs: tuple[int, ...] = ()
    """Places of the dimensions that have to be stated where this one is."""

    @property
    def everything(self) -> tuple[int, int]:
        """The set of all numbers."""
        return (0, 0) if self.kind == "bits" else (0, (1 << self.width) - 1)


Space = tuple[Dimension, ...]


class Rule(NamedTuple):
    """Of a list, the first whose box has the packet decides."""

    box: Box
    verdict: Hashable


def overlap(space: Space, a: Box, b: Box) -> bool:
    """Whether some packet is in both."""
    for dimension, (p, q), (r, s) in zip(space, a, b, strict=True):
        if (p ^ r) & q & s if dimension.kind == "bits" else p > s or r > q:
            return False
    return True


def within(space: Space, a: Box, b: Box) -> bool:
    """Whether all of ``a`` is in ``b``."""
    for dimension, (p, q), (r, s) in zip(space, a, b, strict=True):
        if s & ~q or (p ^ r) & s if dimension.kind == "bits" else p < r or q > s:
            return False
    return True


def has(space: Space, box: Box, point: Sequence[int]) -> bool:
    """Whether a packet, one number for each dimension, is in the box."""
    for dimension, (p, q), number in zip(space, box, point, strict=True):
        if number & q != p if dimension.kind == "bits" else not p <= number <= q:
            return False
    return True


def without(space: Space, box: Box, taken: Box) -> list[Box]:
    """What is left of a box, as boxes that do not overlap."""
    if not overlap(space, box, taken):
        return [box]
    left = []
    for at, dimension in enumerate(space):
        (p, q), (r, s) = box[at], taken[at]
        outside: list[tuple[int, int]] = []
        if dimension.kind != "bits":
            outside = [span for span in ((p, r - 1), (s + 1, q)) if span[0] <= span[1]]
            inside = max(p, r), min(q, s)
        else:
            for bit in [1 << n for n in range(dimension.width) if s & ~q & 1 << n]:
                outside.append((p | ~r & bit, q | bit))
                p, q = p | r & bit, q | bit
            inside = p, q
        left += [(*box[:at], part, *box[at + 1 :]) for part in outside]
        box = (*box[:at], inside, *box[at + 1 :])
    return left


class Boxes:
    """Many boxes, to ask which of them a box overlaps, in one go.

    Ranges are kept by the rank of their ends among all ends, so that addresses of any length fit in 32 bits.
    """

    def __init__(self, space: Space, boxes: Sequence[Box]) -> None:
        self._size = len(boxes)
        self._columns: list[tuple[bool, Column, Column]] = []
        for at, dimension in enumerate(space):
            pairs = [box[at] for box in boxes]
            if len(set(pairs)) < 2:
                continue
            if dimension.kind != "bits":
                rank = {end: rank for rank, end in enumerate(sorted({end for pair in pairs for end in pair}))}
                pairs = [(rank[low], rank[high]) for low, high in pairs]
            low, high = np.array(pairs, np.int32).T.copy()
            self._columns.append((dimension.kind == "bits", low, high))

    def overlapping(self, number: int, among: slice = slice(None)) -> Mask:
        """Which of the boxes ``among`` overlap this one."""
        found: Mask = np.ones(len(range(*among.indices(self._size))), np.bool_)
        for bits, lows, highs in self._columns:
            low, high, p, q = lows[among], highs[among], lows[number], highs[number]
            found &= (low ^ p) & high & q == 0 if bits else (low <= q) & (high >= p)
        return found

    def containing(self, number: int, among: slice = slice(None)) -> Mask:
        """Which of the boxes ``among`` have all of this one."""
        found: Mask = np.ones(len(range(*among.indices(self._size))), np.bool_)
        for bits, lows, highs in self._columns:
            low, high, p, q = lows[among], highs[among], lows[number], highs[number]
            found &= (high & ~q) | ((low ^ p) & high) == 0 if bits else (low <= p) & (high >= q)
        return found
