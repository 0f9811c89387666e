"""Rules that change no verdict, and are not needed.

Two kinds: shadowed rules, whose every packet an earlier rule decides; and redundant ones, whose packets would get the same
verdict without them, from later rules or from what happens to packets that no rule wants.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from .boxes import Box, Boxes, Rule, Space, overlap, without

PIECES = 64
"""Into how many pieces a rule is cut to find out where its packets go, before it is kept without knowing."""


def needed(space: Space, rules: Sequence[Rule], default: Hashable) -> list[Rule]:
    """The rules without those that change no verdict. The order stays; packets that no rule wants get ``default``."""
    return [rules[number] for number in needed_numbers(space, rules, default)]


def needed_numbers(space: Space, rules: Sequence[Rule], default: Hashable) -> list[int]:
    """Which rules are needed, by their place in the list."""
    boxes = Boxes(space, [rule.box for rule in rules])
    alive = np.ones(len(rules), np.bool_)
    for number in range(len(rules) - 1, -1, -1):
        near = np.flatnonzero(boxes.overlapping(number) & alive)
        earlier, later = near[near < number], near[near > number]
        alive[number] = not (
            bool(boxes.containing(number, slice(number))[earlier].any())
            or _same_without(space, rules, number, earlier.tolist(), later.tolist(), default)
        )
    return [number for number, kept in enumerate(alive.tolist()) if kept]


def _same_without(
    space: Space, rules: Sequence[Rule], number: int, earlier: list[int], later: list[int], default: Hashable
) -> bool:
    """Whether the other rules, those of them that overlap this one, give its packets its verdict."""
    box, verdict = rules[number]
    if not earlier and (rules[later[0]].verdict if later else default) != verdict:
        return False
    left: list[Box] = [box]
    for other in earlier:
        left = [part for piece in left for part in without(space, piece, rules[other].box)]
        if not left:
            return True
        if len(left) > PIECES:
            return False
    for other in later:
        taken = rules[other].box
        if rules[other].verdict != verdict:
            if any(overlap(space, piece, taken) for piece in left):
                return False
            continue
        left = [part for piece in left for part in without(space, piece, taken)]
        if not left:
            return True
        if len(left) > PIECES:
            return False
    return verdict == default
