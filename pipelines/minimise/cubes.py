"""Patterns, a value and a mask in every dimension, made fewer by the method of Quine and McCluskey, within bounds.

Two patterns of one mask whose values differ in one bit become one without that bit, again and again; of all that come about
("implicants"), as few as a greedy choice finds are taken. (McCluskey: "Minimization of Boolean Functions", 1956.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from .boxes import Box, Space
from .ranges import PORT_BITS, Span, Ternary, cover, joined, prefixes

Pattern = tuple[Ternary, ...]
MOST = 50_000
"""How many implicants are looked at; beyond, no more are made."""
_SINGLES = 128
"""How many numbers of a set are looked at one by one."""
_MASKED = ("prefix", "range", "bits")


def patterns(space: Space, box: Box, customary: bool = False) -> list[Pattern]:
    """A box as patterns; by prefixes alone in the ``customary`` way."""
    found: list[Pattern] = [()]
    for dimension, pair in zip(space, box, strict=True):
        found = [
            (*each, part) for each in found for part in ternaries(dimension.kind, dimension.width, pair, customary)
        ]
    return found


def ternaries(kind: str, width: int, pair: tuple[int, int], customary: bool = False) -> Sequence[Ternary]:
    """What a box has in a dimension, as value/mask pairs."""
    if kind == "bits":
        return (pair,)
    if kind == "range":
        return prefixes(*pair, width) if customary else cover(*pair, width)
    return ((pair[0], (1 << width) - 1 ^ pair[1] - pair[0]),)


def cover_set(spans: Iterable[Span], width: int = PORT_BITS) -> list[Ternary]:
    """Any numbers, in ranges, as few value/mask pairs as are found within bounds.

    Those of each range are made fewer together; so are the numbers themselves, where there are not too many.
    """
    apart = joined(spans)
    pairs: list[Pattern] = [((v, m),) for low, high in apart for v, m in cover(low, high, width)]
    found = fewer(pairs, (0,))
    if len(apart) > 1 and sum(high - low + 1 for low, high in apart) <= _SINGLES:
        ones = (1 << width) - 1
        singles: list[Pattern] = [((number, ones),) for low, high in apart for number in range(low, high + 1)]
        found = min(found, fewer(singles, (0,)), key=len)
    return [pair for (pair,) in found]


def fewer(given: Collection[Pattern], dimensions: Collection[int], most: int = MOST) -> list[Pattern]:
    """Patterns that together have the same packets, masks changed in these dimensions only."""
    first = list(dict.fromkeys(given))
    of: dict[Pattern, frozenset[int]] = {pattern: frozenset((number,)) for number, pattern in enumerate(first)}
    fresh = first
    used: set[Pattern] = set()
    while fresh and len(of) < most:
        made: defaultdict[Pattern, frozenset[int]] = defaultdict(frozenset)
        for pattern in fresh:
            for at in dimensions:
                value, mask = pattern[at]
                for bit in _bits(mask):
                    other = (*pattern[:at], (value ^ bit, mask), *pattern[at + 1 :])
                    if other in of:
                        both = (*pattern[:at], (value & ~bit, mask & ~bit), *pattern[at + 1 :])
                        made[both] |= of[pattern] | of[other]
                        used.add(pattern)
        # one that was there already may stand for more than was known, and so may those that were made of it
        fresh = [pattern for pattern in made if not made[pattern] <= of.get(pattern, frozenset())]
        for pattern in fresh:
            of[pattern] = of.get(pattern, frozenset()) | made[pattern]
    primes = {pattern: covers for pattern, covers in of.items() if pattern not in used}
    for number in set(range(len(first))).difference(*primes.values()):  # it ended before all of that was known
        primes[first[number]] = frozenset((number,))
    return _chosen(primes, len(first))


def _bits(mask: int) -> Iterable[int]:
    while mask:
        yield mask & -mask
        mask &= mask - 1


def _chosen(primes: dict[Pattern, frozenset[int]], count: int) -> list[Pattern]:
    """Some of the implicants that together have everything: those that nothing else can stand for, then the largest."""
    owners: defaultdict[int, list[Pattern]] = defaultdict(list)
    for pattern, covers in primes.items():
        for number in covers:
            owners[number].append(pattern)
    taken = dict.fromkeys(patterns[0] for patterns in owners.values() if len(patterns) == 1)
    left = set(range(count)).difference(*(primes[pattern] for pattern in taken)) if taken else set(range(count))
    waiting = {pattern: primes[pattern] & left for pattern in primes if pattern not in taken and primes[pattern] & left}
    while left:
        best = max(waiting, key=lambda pattern: len(waiting[pattern]))
        taken[best] = None
        gone = waiting.pop(best)
        left -= gone
        for number in gone:
            for pattern in owners[number]:
                if pattern in waiting:
                    waiting[pattern] -= gone
                    if not waiting[pattern]:
                        del waiting[pattern]
    return list(taken)


def masked(space: Space) -> list[int]:
    """The dimensions in which any mask may be used."""
    return [at for at, dimension in enumerate(space) if dimension.kind in _MASKED]
