"""From a list of first-match rules to the fewest flows that are known how to find, step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from math import prod
from typing import NamedTuple

from .boxes import Rule, Space
from .conjunctions import Factored, factored
from .cubes import Pattern, fewer, masked, ternaries
from .layers import layers
from .merging import merged
from .redundancy import needed

PLAIN = "plain expansion"
REDUNDANT = "redundant and shadowed rules removed"
CIDRS = "CIDR collapse"
RANGES = "ranges and flags merged"
COVER = "value/mask cover of ranges"
CONJUNCTIONS = "conjunctions"
QUINE_MCCLUSKEY = "Quine-McCluskey"
STEPS = (REDUNDANT, CIDRS, RANGES, COVER, CONJUNCTIONS, QUINE_MCCLUSKEY)
ROUNDS = 4
"""How often rules are merged and looked at again, since a larger rule may make others redundant."""
MOST_CONJUNCTIONS = 4000
"""Of a layer: a clause that they all share is a flow with an action of 16 bytes for each, in a message of at most 65,535."""
_KINDS = {CIDRS: ("prefix",), RANGES: ("range", "bits")}


class Minimised(NamedTuple):
    """Layers, those that decide first first, and by how many flows each of ``STEPS`` made them fewer."""

    layers: tuple[Factored, ...]
    plain: int
    """Flows of the plain expansion: one for each combination of a rule's prefixes."""
    saved: dict[str, int]

    @property
    def flows(self) -> int:
        """How many flows are left."""
        return sum(layer.flows for layer in self.layers)


def minimise(space: Space, rules: Iterable[Rule], default: Hashable) -> Minimised:
    """Flows that give every packet the verdict of the first rule whose box has it, ``default`` where none has.

    Packets that no flow wants get the default verdict.
    """
    left = list(rules)
    plain = now = expanded(space, left)
    saved: Counter[str] = Counter(dict.fromkeys(STEPS, 0))

    def count(step: str, flows: int) -> None:
        nonlocal now
        saved[step] += now - flows
        now = flows

    for _ in range(ROUNDS):
        left = needed(space, left, default)
        count(REDUNDANT, expanded(space, left))
        before = len(left)
        for step, kinds in _KINDS.items():
            for at, dimension in enumerate(space):
                if dimension.kind in kinds:
                    left = merged(space, left, at)
            count(step, expanded(space, left))
        if len(left) == before:
            break
    count(COVER, expanded(space, left, customary=False))
    found = [part for layer in layers(space, left) for part in _apart(factored(space, layer))]
    count(CONJUNCTIONS, sum(layer.flows for layer in found))
    done = tuple(_fewer(space, layer) for layer in found)
    count(QUINE_MCCLUSKEY, sum(layer.flows for layer in done))
    return Minimised(done, plain, dict(saved))


def expanded(space: Space, rules: Iterable[Rule], customary: bool = True) -> int:
    """How many flows rules are, one for each combination of what they have in each dimension."""
    return sum(
        prod(len(ternaries(each.kind, each.width, pair, customary)) for each, pair in zip(space, rule.box, strict=True))
        for rule in rules
    )


def _apart(layer: Factored) -> list[Factored]:
    """A layer as several, so that none has too many conjunctions; their order does not matter."""
    first, *more = (
        layer.conjunctions[at : at + MOST_CONJUNCTIONS]
        for at in range(0, max(1, len(layer.conjunctions)), MOST_CONJUNCTIONS)
    )
    return [Factored(layer.patterns, first), *(Factored({}, part) for part in more)]


def _fewer(space: Space, layer: Factored) -> Factored:
    """A layer whose single patterns are made fewer, where that does not cost what clauses share with them."""
    verdicts: dict[Hashable, list[Pattern]] = {}
    for pattern, verdict in layer.patterns.items():
        verdicts.setdefault(verdict, []).append(pattern)
    places: Sequence[int] = masked(space)
    patterns = {pattern: verdict for verdict, mine in verdicts.items() for pattern in fewer(mine, places)}
    return min(layer, Factored(patterns, layer.conjunctions), key=lambda each: each.flows)
