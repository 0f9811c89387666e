"""Rules that become one: they differ in one dimension, where what they have together is a prefix, or a range, again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from .boxes import Box, Dimension, Rule, Space, overlap
from .ranges import Span


def collapse(spans: Sequence[Span]) -> list[Span]:
    """Prefixes as ranges of addresses, in order, without those that are in others, and siblings as their parent."""
    found: list[Span] = []
    for span in sorted(spans, key=lambda each: (each[0], -each[1])):
        if found and span[1] <= found[-1][1]:
            continue
        found.append(span)
        while len(found) > 1 and (parent := _parent(found[-2], found[-1])):
            found[-2:] = [parent]
    return found


def _parent(a: Span, b: Span) -> Span | None:
    """The prefix that consists of these two."""
    size = a[1] - a[0] + 1
    together = a[0] & 2 * size - 1 == 0 and b == (a[0] + size, a[1] + size)
    return (a[0], b[1]) if together else None


def _union(dimension: Dimension, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int] | None:
    """The set that consists of these two, when a box can have it."""
    (p, q), (r, s) = sorted((a, b))
    match dimension.kind:
        case "range":
            return (p, max(q, s)) if r <= q + 1 else None
        case "prefix":
            return (p, q) if s <= q else _parent((p, q), (r, s))
        case "bits":
            differs = p ^ r
            return (p & r, q & ~differs) if q == s and differs & differs - 1 == 0 else None
    return None


def merged(space: Space, rules: Sequence[Rule], dimension: int) -> list[Rule]:
    """The rules, those made one that differ in this dimension alone and have one verdict.

    The later one moves up to the place of the earlier one, which it may where no rule of another verdict in between has one of
    its packets.
    """
    left: list[Rule | None] = list(rules)
    alike: defaultdict[tuple[object, Box], list[int]] = defaultdict(list)
    for number, (box, verdict) in enumerate(rules):
        alike[verdict, (*box[:dimension], *box[dimension + 1 :])].append(number)
    for numbers in alike.values():
        if len(numbers) > 1:
            _merge(space, left, numbers, dimension)
    return [rule for rule in left if rule is not None]


def _merge(space: Space, rules: list[Rule | None], numbers: list[int], dimension: int) -> None:
    """Merge what can be of some rules that differ in this dimension alone, taking neighbours in its order again and again."""
    while True:
        order = sorted(numbers, key=lambda number: _set_of(rules, number, dimension))
        before = len(numbers)
        kept: list[int] = []
        for number in order:
            if not kept or not _join(space, rules, kept, number, dimension):
                kept.append(number)
        numbers = kept
        if len(numbers) == before:
            return


def _set_of(rules: list[Rule | None], number: int, dimension: int) -> tuple[int, int]:
    rule = rules[number]
    assert rule is not None
    return rule.box[dimension]


def _join(space: Space, rules: list[Rule | None], kept: list[int], number: int, dimension: int) -> bool:
    """Make one of a rule and one before it, if that can be."""
    for at in range(len(kept) - 1, max(-1, len(kept) - 5), -1):
        both = _union(space[dimension], _set_of(rules, kept[at], dimension), _set_of(rules, number, dimension))
        if both is None:
            continue
        first, last = min(kept[at], number), max(kept[at], number)
        early, late = rules[first], rules[last]
        assert early is not None and late is not None
        between = [rule for rule in rules[first + 1 : last] if rule is not None and rule.verdict != late.verdict]
        if any(overlap(space, late.box, rule.box) for rule in between):
            continue
        rules[first] = Rule((*early.box[:dimension], both, *early.box[dimension + 1 :]), early.verdict)
        rules[last] = None
        kept[at] = first
        return True
    return False
