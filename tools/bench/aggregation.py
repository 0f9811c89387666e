"""How many flows packet filters need: minimised (``pipelines/minimise``) against one flow for each combination of prefixes.

The sets are ClassBench's, which say nothing of what a rule does with its packets. So each is taken three times: all rules allow
and the rest is denied, as in a security group; every rule allows or denies, by lot; every rule has a verdict of its own, as where
each is to be counted for itself, so that none can go or become one with another. Packets are tried against the first rule
that has them before a figure is printed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from random import Random

import numpy as np

from pipelines.minimise import SPACES, STEPS, Minimised, Rule, minimise
from pipelines.minimise.boxes import has
from pipelines.minimise.cubes import Pattern, patterns
from tools.bench import classbench
from tools.bench.report import line
from tools.bench.samples import median

SETS = Path(__file__).resolve().parents[3] / "shared" / "data" / "classbench"
REPETITIONS = 3
PACKETS = 1000
"""How many packets a set is tried with."""
DENY = "deny"
PLAIN = "plain expansion"
SPACE = SPACES[4]
CASES: dict[str, Callable[[int], Hashable]] = {
    "one verdict": lambda number: "allow",
    "two verdicts": lambda number: Random(number).choice(("allow", DENY)),
    "a verdict each": lambda number: number,
}


def main(arguments: Sequence[str] = ()) -> int:
    """Print flows, what each step saved, and the time it took, of each set and on the average of all.

    ``--sets`` names other files than the three in ../shared/data/classbench, NOVANET_BENCH_SETS as well (between spaces).
    Exit status 1 when there is none.
    """
    parser = argparse.ArgumentParser(
        prog="aggregation", description="flows of ClassBench sets against their plain expansion"
    )
    given = [Path(name) for name in os.environ.get("NOVANET_BENCH_SETS", "").split()]
    parser.add_argument("--sets", nargs="+", type=Path, default=given or sorted(SETS.glob("*.rules")), metavar="FILE")
    sets = parser.parse_args(arguments).sets
    if not sets:
        print(f"there are no ClassBench sets in {SETS}: name some with --sets, or in NOVANET_BENCH_SETS")
        return 1
    for case, verdict in CASES.items():
        found = [_measured(path, case, verdict) for path in sets]
        _averages(f"average of {len(sets)} sets, {case}", found)
    return 0


def _measured(path: Path, case: str, verdict: Callable[[int], Hashable]) -> tuple[Minimised, float]:
    """A set's figures, and seconds for 1,000 of its rules."""
    rules = list(classbench.read(path, verdict))
    took = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        minimised = minimise(SPACE, rules, DENY)
        took.append(time.perf_counter() - began)
    _check(path, rules, minimised)
    seconds = 1000 * median(took) / max(1, len(rules))
    name = f"{path.stem}, {case}"
    line("aggregation", f"{name}: flows", minimised.flows, PLAIN, minimised.plain, "flows", higher_is_better=False)
    for step in STEPS:
        line(
            "aggregation",
            f"{name}: fewer by {step}",
            _share(minimised, step),
            None,
            None,
            "% of plain",
            higher_is_better=True,
        )
    ours, theirs = (
        _masks(minimised),
        len({_mask(pattern) for rule in rules for pattern in patterns(SPACE, rule.box, True)}),
    )
    line("aggregation", f"{name}: different masks", ours, PLAIN, theirs, "masks", higher_is_better=False)
    line(
        "aggregation", f"{name}: compile time of 1,000 rules", 1000 * seconds, None, None, "ms", higher_is_better=False
    )
    return minimised, seconds


def _averages(name: str, found: list[tuple[Minimised, float]]) -> None:
    """Means over the sets, each counting alike."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    all = [minimised for minimised, _ in found]
    fewer = [100 * (1 - each.flows / max(1, each.plain)) for each in all]
    line("aggregation", f"{name}: fewer flows than {PLAIN}", mean(fewer), None, None, "%", higher_is_better=True)
    for step in STEPS:
        share = mean([_share(each, step) for each in all])
        line("aggregation", f"{name}: fewer by {step}", share, None, None, "% of plain", higher_is_better=True)
    milliseconds = mean([1000 * seconds for _, seconds in found])
    line("aggregation", f"{name}: compile time of 1,000 rules", milliseconds, None, None, "ms", higher_is_better=False)


def _share(minimised: Minimised, step: str) -> float:
    return 100 * minimised.saved[step] / max(1, minimised.plain)


def _mask(pattern: Pattern) -> tuple[int, ...]:
    return tuple([mask for _, mask in pattern])


def _masks(minimised: Minimised) -> int:
    """How many hash tables Open vSwitch's classifier makes of the flows; conjunctive matches have one together."""
    found = {_mask(pattern) for layer in minimised.layers for pattern in layer.patterns}
    conjunctions = [each for layer in minimised.layers for each in layer.conjunctions]
    found |= {_mask(pattern) for each in conjunctions for clause in each.clauses for pattern in clause}
    return len(found) + bool(conjunctions)


# --- the same verdicts -------------------------------------------------------------------------------------------


def _check(path: Path, rules: list[Rule], minimised: Minimised) -> None:
    """Try packets at the corners of rules; raises RuntimeError when one gets another verdict than by the first rule."""
    random = Random(1)
    lookup = _Lookup(minimised)
    for _ in range(PACKETS):
        boxes = random.choices(rules, k=random.choice((1, 2)))
        point = [_number(random, each.kind, random.choice(boxes).box[at]) for at, each in enumerate(SPACE)]
        expected = next((rule.verdict for rule in rules if has(SPACE, rule.box, point)), DENY)
        if lookup(point) != expected:
            raise RuntimeError(f"{path}: the packet {point} gets {lookup(point)!r} instead of {expected!r}")


def _number(random: Random, kind: str, pair: tuple[int, int]) -> int:
    return pair[0] if kind == "bits" else random.choice((*pair, random.randint(*pair)))


class _Lookup:
    """What a switch with some layers does with a packet."""

    def __init__(self, minimised: Minimised) -> None:
        self._layers = [
            (
                _Patterns(list(layer.patterns)),
                list(layer.patterns.values()),
                [([_Patterns(clause) for clause in each.clauses], each.verdict) for each in layer.conjunctions],
            )
            for layer in minimised.layers
        ]

    def __call__(self, point: Sequence[int]) -> Hashable:
        for single, verdicts, conjunctions in self._layers:
            found = {verdicts[number] for number in single.met(point)}
            found |= {verdict for clauses, verdict in conjunctions if all(each.met(point).size for each in clauses)}
            if len(found) > 1:
                raise RuntimeError(f"the packet {list(point)} gets {found} at once")
            if found:
                return found.pop()
        return DENY


class _Patterns:
    """Many patterns, to ask which of them a packet meets."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        pairs = np.array(patterns, np.int64).reshape(-1, len(SPACE), 2)
        self._values, self._masks = pairs[:, :, 0], pairs[:, :, 1]

    def met(self, point: Sequence[int]) -> np.ndarray:
        """Their places."""
        return np.flatnonzero((np.array(point) & self._masks == self._values).all(axis=1))
