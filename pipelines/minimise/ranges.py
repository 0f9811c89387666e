"""Ranges and sets of numbers as value/mask pairs, which are all that a flow can match.

A number ``n`` meets a pair when ``n & mask == value``. A range of W bits takes up to 2 W - 2 pairs when only prefixes are used,
up to 2 W - 4 with any masks (Schieber, Geist, Zaks: "Computing the minimum DNF representation of Boolean functions defined by
intervals", 2005): 1 to 65534 takes 30 prefixes, and 16 pairs of other masks.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

Span = tuple[int, int]
"""The lowest and the highest number of a range, both in it."""
Ternary = tuple[int, int]
"""Value and mask; bits outside the mask are 0 in the value."""

PORT_BITS = 16


def joined(spans: Iterable[Span]) -> list[Span]:
    """The same numbers in as few ranges as there can be, in order."""
    found: list[Span] = []
    for low, high in sorted(spans):
        if found and low <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], high)
        else:
            found.append((low, high))
    return found


def prefixes(low: int, high: int, width: int = PORT_BITS) -> list[Ternary]:
    """A range as prefixes, the customary way, which ``cover`` is held against."""
    ones = (1 << width) - 1
    found = []
    while low <= high:
        size = low & -low or 1 << width
        while low + size - 1 > high:
            size >>= 1
        found.append((low, ones ^ (size - 1)))
        low += size
    return found


def cover(low: int, high: int, width: int = PORT_BITS) -> tuple[Ternary, ...]:
    """A range as value/mask pairs, as few as are known how to find and never more than prefixes; they may overlap.

    Of all ranges of up to 4 bits these are the fewest that there can be, of the 528 of 5 bits two take one more.
    Raises ValueError when the range is empty or does not fit ``width`` bits.
    """
    if not 0 <= low <= high < 1 << width:
        raise ValueError(f"range {low} to {high}: it is empty, or does not fit in {width} bits")
    return _cover(width, low, high)


@lru_cache(65536)
def _cover(width: int, low: int, high: int) -> tuple[Ternary, ...]:
    if low == 0 and high == (1 << width) - 1:
        return ((0, 0),)
    top = 1 << width - 1
    if not (low ^ high) & top:
        return _under(low & top, top, _cover(width - 1, low & ~top, high & ~top))
    below, above = _cover(width - 1, low, top - 1), _cover(width - 1, 0, high - top)
    found = _under(0, top, below) + _under(top, top, above)
    if width > 1 and not (low ^ high) & top >> 1:
        found = min(found, _same_second_bit(width, low, high), key=len)
    elif width > 1 and not low & top >> 1:
        found = min(found, *_around(width, low, high), key=len)
    return found


def _under(value: int, mask: int, pairs: Iterable[Ternary]) -> tuple[Ternary, ...]:
    """The pairs that meet another pair's bits as well."""
    return tuple([(v | value, m | mask) for v, m in pairs])


def _same_second_bit(width: int, low: int, high: int) -> tuple[Ternary, ...]:
    """A range from 00… to 10… or from 01… to 11…: one pair has the quarter between; the rest is a range without that bit."""
    top, second = 1 << width - 1, 1 << width - 2
    rest, same = second - 1, low & second
    shorter = _cover(width - 1, low & rest, second | high & rest)
    moved = [((v & rest) | (v & second) << 1, (m & rest) | (m & second) << 1) for v, m in shorter]
    return (top if same else second, top | second), *_under(same, second, moved)


def _around(width: int, low: int, high: int) -> list[tuple[Ternary, ...]]:
    """A range from 0…0 x to 1…1 y, by how many leading bits are taken together.

    Those that are not all alike have somewhere a 0 before a 1, the last bit standing before the first: a pair for each
    place. When x and y together are everything (x <= y + 1), the pairs of x after the 0 and of y after the 1 have one place.
    """
    found = []
    for count in range(2, width + 1):
        rest = (1 << width - count) - 1
        ahead = (1 << width) - 1 ^ rest
        if low & ahead or high & ahead != ahead:
            break
        bits = [1 << width - 1 - place for place in range(count)]
        places = [(bit, bit | before) for before, bit in zip(bits, bits[1:] + bits[:1], strict=True)]
        x, y = _cover(width - count, low & rest, rest), _cover(width - count, 0, high & rest)
        found.append((*places, *_under(0, ahead, x), *_under(ahead, ahead, y)))
        if low & rest <= (high & rest) + 1:
            found.append((*places[1:], *_under(0, bits[0], x), *_under(bits[1], bits[1], y)))
    return found
