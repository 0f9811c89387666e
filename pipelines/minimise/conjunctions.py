"""Rules as conjunctive matches where these take fewer flows.

A conjunctive match has some clauses, each of which is met by any of several patterns; a packet that meets all has the verdict.
It costs a flow for each pattern of each clause and one for itself, instead of one for every combination; and a pattern that
stands in clauses of several costs one flow only, as long as they have one priority (ovs-fields(7), "Conjunctive Match Fields").
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from itertools import product
from typing import NamedTuple

from .bicliques import bicliques
from .boxes import Box, Rule, Space
from .cubes import Pattern, patterns, ternaries

Clause = tuple[Pattern, ...]


class Conjunction(NamedTuple):
    """A packet that meets a pattern of each clause has the verdict."""

    clauses: tuple[Clause, ...]
    verdict: Hashable


class Factored(NamedTuple):
    """What a layer is made of."""

    patterns: dict[Pattern, Hashable]
    conjunctions: list[Conjunction]

    @property
    def flows(self) -> int:
        """How many flows that takes; a clause's pattern that is one of ``patterns`` takes none."""
        clauses = {pattern for each in self.conjunctions for clause in each.clauses for pattern in clause}
        return len(self.patterns) + len(self.conjunctions) + len(clauses - self.patterns.keys())


def factored(space: Space, rules: Sequence[Rule]) -> Factored:
    """Rules of which those that overlap have the same verdict, first by their ranges, then by whatever they share."""
    ranged, rest = _by_ranges(space, rules)
    found = min(_plain(space, rules), _plain(space, rest, ranged), key=lambda each: each.flows)
    free = {pattern for each in found.conjunctions for clause in each.clauses for pattern in clause}
    for parts in _splits(space):
        for verdict in dict.fromkeys(found.patterns.values()):
            mine = [pattern for pattern, each in found.patterns.items() if each == verdict]
            left, right = (_places(space, part) for part in parts)
            for clauses in bicliques([(_only(pattern, left), _only(pattern, right)) for pattern in mine], free):
                found.conjunctions.append(Conjunction(clauses, verdict))
                free.update(*clauses)
                for a, b in product(*clauses):
                    found.patterns.pop(_both(a, b), None)
    return found


def _plain(space: Space, rules: Iterable[Rule], conjunctions: Iterable[Conjunction] = ()) -> Factored:
    """Rules as their patterns."""
    return Factored({pattern: rule.verdict for rule in rules for pattern in patterns(space, rule.box)}, [*conjunctions])


def _splits(space: Space) -> list[tuple[set[int], set[int]]]:
    """The ways to make two of the parts of a space: each against all others."""
    parts = {dimension.part for dimension in space}
    return [({part}, parts - {part}) for part in sorted(parts, reverse=True)]


def _places(space: Space, parts: set[int]) -> frozenset[int]:
    """The dimensions of some parts, with those that they need."""
    own = {at for at, dimension in enumerate(space) if dimension.part in parts}
    return frozenset(own.union(*(space[at].needs for at in own)))


def _only(pattern: Pattern, places: Iterable[int]) -> Pattern:
    return tuple([pair if at in places else (0, 0) for at, pair in enumerate(pattern)])


def _both(a: Pattern, b: Pattern) -> Pattern:
    """The packets that meet both; they agree where both say something."""
    return tuple([(v | w, m | n) for (v, m), (w, n) in zip(a, b, strict=True)])


# --- ranges ------------------------------------------------------------------------------------------------------


class _Group(NamedTuple):
    """Rules of one verdict with the same ranges, of which each takes several pairs."""

    bases: frozenset[Pattern]
    """The rest of each rule."""
    ranges: tuple[Clause, ...]
    rules: tuple[Rule, ...]

    @property
    def patterns(self) -> list[Pattern]:
        """Those of all clauses of its conjunction."""
        return [*self.bases, *(pattern for clause in self.ranges for pattern in clause)]

    @property
    def plain(self) -> int:
        """The flows without a conjunction."""
        combinations = len(self.bases)
        for clause in self.ranges:
            combinations *= len(clause)
        return combinations


def _by_ranges(space: Space, rules: Sequence[Rule]) -> tuple[list[Conjunction], list[Rule]]:
    """Conjunctions of rules with the same ranges, and the rules that are better off without."""
    groups, plain = _ranged(space, rules)
    chosen = {number for number, group in enumerate(groups) if group.plain > 1 + len(group.bases)}
    users = Counter(pattern for number in chosen for pattern in groups[number].patterns)
    families: dict[Clause, set[int]] = {}
    for number in sorted(chosen):
        for clause in groups[number].ranges:
            families.setdefault(clause, set()).add(number)
    candidates = [*({number} for number in sorted(chosen)), *families.values(), set(chosen)]
    before = None
    while before != len(chosen):
        before = len(chosen)
        for together in candidates:
            together &= chosen
            own = Counter(pattern for number in together for pattern in groups[number].patterns)
            cost = len(together) + sum(users[pattern] == count for pattern, count in own.items())
            if cost >= sum(groups[number].plain for number in together):
                chosen -= together
                users.subtract(own)
    found = [
        Conjunction((tuple(sorted(groups[n].bases)), *groups[n].ranges), groups[n].rules[0].verdict)
        for n in sorted(chosen)
    ]
    rest = [rule for n, group in enumerate(groups) if n not in chosen for rule in group.rules]
    return found, [*plain, *rest]


def _ranged(space: Space, rules: Sequence[Rule]) -> tuple[list[_Group], list[Rule]]:
    """Rules grouped by their ranges, and those that have none."""
    alike: defaultdict[tuple[Hashable, tuple[Clause, ...]], list[Rule]] = defaultdict(list)
    plain = []
    for rule in rules:
        ranges = tuple(_range(space, rule.box, at) for at, each in enumerate(space) if each.kind == "range")
        ranges = tuple(clause for clause in ranges if len(clause) > 1)
        if ranges:
            alike[rule.verdict, ranges].append(rule)
        else:
            plain.append(rule)
    groups = [
        _Group(frozenset(_base(space, rule.box) for rule in members), ranges, tuple(members))
        for (_, ranges), members in alike.items()
    ]
    return groups, plain


def _range(space: Space, box: Box, at: int) -> Clause:
    """The patterns of one range, with what they need."""
    start = _only(_base(space, box), space[at].needs)
    return tuple((*start[:at], pair, *start[at + 1 :]) for pair in ternaries("range", space[at].width, box[at]))


def _base(space: Space, box: Box) -> Pattern:
    """A rule without the ranges that take several pairs."""
    parts = [ternaries(each.kind, each.width, pair) for each, pair in zip(space, box, strict=True)]
    return tuple([part[0] if len(part) == 1 else (0, 0) for part in parts])
