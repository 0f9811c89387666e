"""Pairs that are all combinations of some lefts with some rights, found greedily.

The fewest bicliques that cover a graph's edges are hard to find (Orlin: "Contentment in graph theory: covering graphs with
cliques", 1977). Here candidates are the rights that a left has, and those that two lefts have in common.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from .boxes import Box

Edge = tuple[Box, Box]
MATES = 16
"""With how many others, those with most rights in common, a left is looked at."""
ROUNDS = 8
PRICES = (1.0, 0.5, 0.25)
"""What a left or right that is not there yet is thought to cost, since others may use it as well."""


class Biclique(NamedTuple):
    """All combinations of these are edges."""

    lefts: tuple[Box, ...]
    rights: tuple[Box, ...]


def bicliques(edges: Sequence[Edge], free: Collection[Box]) -> list[Biclique]:
    """Bicliques whose edges are more than what it takes to have them: one each, and one for each left or right.

    Those that are ``free``, or stand in several bicliques, are not counted (again).
    """
    graph = _Graph(edges)
    return min(([], *(_found(graph, free, price) for price in PRICES)), key=lambda found: _cost(edges, found, free))


def _cost(edges: Sequence[Edge], found: Sequence[Biclique], free: Collection[Box]) -> int:
    """How many flows edges and bicliques are."""
    parts = {part for each in found for side in each for part in side}
    taken = {(left, right) for each in found for left in each.lefts for right in each.rights}
    return len(found) + len(parts.difference(free)) + len(set(edges) - taken)


class _Graph:
    """Edges by their left and by their right, and which rights are worth to be looked at together."""

    def __init__(self, edges: Iterable[Edge]) -> None:
        self.rights: defaultdict[Box, set[Box]] = defaultdict(set)
        self.lefts: defaultdict[Box, set[Box]] = defaultdict(set)
        for left, right in edges:
            self.rights[left].add(right)
            self.lefts[right].add(left)
        self.candidates = list(dict.fromkeys(self._shared()))

    def _shared(self) -> Iterable[frozenset[Box]]:
        for left, rights in self.rights.items():
            if len(rights) < 2:
                continue
            yield frozenset(rights)
            common = Counter(other for right in rights for other in self.lefts[right] if other != left)
            for other, count in common.most_common(MATES):
                if count > 1:
                    yield frozenset(rights & self.rights[other])


def _found(graph: _Graph, free: Collection[Box], price: float) -> list[Biclique]:
    """The best ones first, each looked at again before it is taken; then those go that do not pay for themselves."""
    open = set(free)
    left = {(a, b) for a, rights in graph.rights.items() for b in rights}
    found: list[Biclique] = []
    for _ in range(ROUNDS):
        before = len(found)
        gains = [
            (gain, rights) for rights in graph.candidates if (gain := _best(graph, rights, left, open, price)[0]) > 0
        ]
        gains.sort(key=lambda each: -each[0])
        for expected, rights in gains:
            gain, biclique = _best(graph, rights, left, open, price)
            if gain > 0 and gain >= 0.8 * expected:
                found.append(biclique)
                open.update(*biclique)
                left.difference_update((a, b) for a in biclique.lefts for b in biclique.rights)
        if len(found) == before:
            break
    return _paying(found, free)


def _best(
    graph: _Graph, rights: frozenset[Box], left: set[Edge], open: set[Box], price: float
) -> tuple[float, Biclique]:
    """The biclique of these rights, without lefts and rights that cost more than they bring, and what it gains."""
    shared = set.intersection(*(graph.lefts[right] for right in rights))
    brings = {a: sum((a, b) in left for b in rights) for a in shared}
    lefts = [a for a in shared if brings[a] > _price(a, open, price)]
    kept = [b for b in rights if sum((a, b) in left for a in lefts) > _price(b, open, price)]
    edges = sum((a, b) in left for a in lefts for b in kept)
    gain = edges - 1 - sum(_price(part, open, price) for part in (*lefts, *kept))
    return gain, Biclique(tuple(sorted(lefts)), tuple(sorted(kept)))


def _price(part: Box, open: set[Box], price: float) -> float:
    return 0.0 if part in open else price


def _paying(found: list[Biclique], free: Collection[Box]) -> list[Biclique]:
    """The bicliques without those whose own edges are no more than what would go with them."""
    parts = Counter(part for each in found for side in each for part in side)
    edges = Counter((a, b) for each in found for a in each.lefts for b in each.rights)
    kept = []
    for each in sorted(found, key=lambda each: len(each.lefts) * len(each.rights)):
        mine = [(a, b) for a in each.lefts for b in each.rights]
        own = sum(parts[part] == 1 and part not in free for side in each for part in side)
        if sum(edges[edge] == 1 for edge in mine) <= 1 + own:
            parts.subtract(part for side in each for part in side)
            edges.subtract(mine)
        else:
            kept.append(each)
    return kept
