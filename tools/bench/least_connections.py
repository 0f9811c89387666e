"""How near slot weights come to least connections, simulated: most connections of a member for its weight / mean.

Connections come at random to three hypervisors, last as long as they last, and are counted and reported as agents do; slot weights follow as in the
controller, and slots are those that the switch gets. Peers: ``least connections``, each connection to the member that has the fewest for its
weight at that moment, which nobody can do who does not see all connections; and slots that do not follow connections, by weight and by Maglev.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.slots import table
from tools.bench.report import line
from topology.loads import differs
from topology.relief import UNIT, relieved

SLOTS = 4093
HYPERVISORS = 3
TICK = 0.5
"""Seconds of a step of the simulation."""
INTERVAL = 5.0
"""Seconds between two counts, and two changes of weights."""
SEEDS = (1, 2, 3)
POLICIES = ("slot weights", "least connections", "by weight", "maglev")

Counts = NDArray[np.int64]
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


class Case(NamedTuple):
    """A pool and its clients."""

    name: str
    weights: tuple[int, ...]
    lasts: tuple[float, ...]
    """Mean seconds of a connection, by member."""
    rate: float
    """Connections a second."""
    law: str = "exponential"
    burst: float = 0.0
    """Every 60 s so many connections more, at once, as multiples of those of a second."""
    joins: float = 0.0
    """When the last member joins, seconds; until then it has weight 0."""
    seconds: float = 1200.0


CASES = (
    Case("10 members alike, 30 s, 100/s", (1,) * 10, (30.0,) * 10, 100),
    Case("10 members alike, 30 s, 4/s", (1,) * 10, (30.0,) * 10, 4),
    Case("10 members, one 3 times as slow, 30 s", (1,) * 10, (90.0, *[30.0] * 9), 100),
    Case("4 members, one 3 times as slow, 1 s", (1,) * 4, (3.0, 1.0, 1.0, 1.0), 400),
    Case("4 members, one 3 times as slow, 300 s", (1,) * 4, (900.0, 300.0, 300.0, 300.0), 20, seconds=7200),
    Case("weights 1, 2, 3, 10, the last twice as slow, 30 s", (1, 2, 3, 10), (30.0, 30.0, 30.0, 60.0), 100),
    Case("10 members alike, lognormal (sigma 2), 30 s", (1,) * 10, (30.0,) * 10, 100, "lognormal"),
    Case("10 members, one 3 times as slow, bursts of 20 s' worth", (1,) * 10, (90.0, *[30.0] * 9), 100, burst=20),
    Case("10 members, one of them new after 600 s, 60 s", (1,) * 10, (60.0,) * 10, 100, joins=600),
    Case("10 members, one refuses at once (0.01 s), 30 s", (1,) * 10, (0.01, *[30.0] * 9), 100),
)


class Outcome(NamedTuple):
    """What a policy came to in the second half of the time."""

    excess: float
    """Mean over time of (most connections of a member for its weight / mean)."""
    worst: float
    """The same, at most, of every 20 s' mean."""
    changes: int
    """How often weights were changed, in all the time."""
    largest_share: float
    """Of new connections that one member got for its weight, at any time, as a multiple of the mean."""
    history: NDArray[np.float64]
    """Connections of each member for its weight / mean, by tick; shape (ticks, members)."""


class Members:
    """Connections that are alive, by hypervisor and member, with those among them that began since the last count."""

    def __init__(self, case: Case, draw: np.random.Generator) -> None:
        self.case, self.draw = case, draw
        self.ticks = int(case.seconds / TICK)
        shape = (HYPERVISORS, len(case.weights))
        self.alive: Counts = np.zeros(shape, np.int64)
        self._ends: Counts = np.zeros((self.ticks + 1, *shape), np.int64)
        self._new: list[tuple[Counts, Counts]] = []

    def end(self, tick: int) -> None:
        """Connections that end by this tick do."""
        self.alive -= self._ends[tick]

    def begin(self, tick: int, members: Counts) -> None:
        """New connections, of these members."""
        case = self.case
        mean = np.array(case.lasts)[members]
        if case.law == "lognormal":
            lasts = mean * self.draw.lognormal(-2.0, 2.0, len(members))
        else:
            lasts = self.draw.exponential(mean)
        where = self.draw.integers(0, HYPERVISORS, len(members))
        ends = np.minimum(tick + (lasts / TICK + self.draw.random(len(members))).astype(np.int64), self.ticks)
        stay = ends > tick
        where, members, ends = where[stay], members[stay], ends[stay]
        np.add.at(self.alive, (where, members), 1)
        np.add.at(self._ends, (ends, where, members), 1)
        self._new.append((ends, where))

    def count_new(self, tick: int) -> Counts:
        """By hypervisor, connections that began since the last time that this was asked, and are still there."""
        found = np.zeros(HYPERVISORS, np.int64)
        for ends, where in self._new:
            found += np.bincount(where[ends > tick], minlength=HYPERVISORS)
        self._new = []
        return found


class Following:
    """Slots whose weights follow what is reported."""

    def __init__(self, case: Case) -> None:
        self.current = [UNIT * weight for weight in case.weights]
        self.reported: Counts = np.zeros((HYPERVISORS, len(case.weights)), np.int64)
        self.began: Counts = np.zeros(HYPERVISORS, np.int64)
        self.unsaid: Counts = np.zeros(HYPERVISORS, np.int64)
        self.beat = [0] * HYPERVISORS
        self.fresh, self.changes = 0, 0

    def look(self, tick: int, members: Members, weights: Sequence[int]) -> bool:
        """Count, report, and choose weights anew; whether they have changed."""
        self.unsaid += members.count_new(tick)
        for number in range(HYPERVISORS):
            due = (tick - self.beat[number]) * TICK >= 30
            changed = [
                differs(int(new), int(old))
                for new, old in zip(members.alive[number], self.reported[number], strict=True)
            ]
            if any(changed) or due:
                self.reported[number] = members.alive[number]
                self.fresh += int(self.unsaid[number])
                self.unsaid[number], self.beat[number] = 0, tick
        wanted = relieved(weights, self.reported.sum(axis=0).tolist(), self.current, self.fresh)
        if wanted == self.current:
            return False
        self.current, self.fresh = wanted, 0
        self.changes += 1
        return True


def simulate(case: Case, policy: str, seed: int = 1) -> Outcome:
    """Run a case under a policy, one of ``POLICIES``."""
    draw = np.random.default_rng(seed)
    members, following = Members(case, draw), Following(case)
    history = np.zeros((members.ticks, len(case.weights)))
    weights: tuple[int, ...] = ()
    slots, largest, every = np.zeros(SLOTS, np.int64), 0.0, int(INTERVAL / TICK)
    for tick in range(members.ticks):
        members.end(tick)
        now = (*case.weights[:-1], 0 if tick * TICK < case.joins else case.weights[-1])
        moved = now != weights
        if moved:
            following.current = [
                unit if before else UNIT * weight
                for unit, before, weight in zip(following.current, weights or now, now, strict=True)
            ]
            following.fresh = 0
        weights = now
        if policy == "slot weights" and tick % every == 0 and tick:
            moved |= following.look(tick, members, weights)
        if moved:
            dealt = following.current if policy == "slot weights" else list(weights)
            dealt = [each if weight else 0 for each, weight in zip(dealt, weights, strict=True)]
            algorithm = {"slot weights": "least_connections", "maglev": "maglev"}.get(policy, "weighted_round_robin")
            slots = table(algorithm, SLOTS, [(f"10.0.0.{n}:80", each) for n, each in enumerate(dealt)]).astype(np.int64)
            share = np.bincount(slots, minlength=len(weights)) / SLOTS * sum(weights)
            largest = max(largest, max(each / weight for each, weight in zip(share, weights, strict=True) if weight))
        count = int(draw.poisson(case.rate * TICK))
        if case.burst and tick and tick % int(60 / TICK) == 0:
            count += int(case.burst * case.rate)
        if policy == "least connections":
            chosen = np.fromiter(fewest(members.alive.sum(axis=0), weights, count), np.int64, count)
        else:
            chosen = slots[draw.integers(0, SLOTS, count)]
        members.begin(tick, chosen)
        load = members.alive.sum(axis=0) / np.maximum(weights, 1) * np.array([weight > 0 for weight in weights])
        history[tick] = load / max(load.sum() / max(sum(weight > 0 for weight in weights), 1), 1e-9)
    half = history[members.ticks // 2 :]
    most = half.max(axis=1)
    blocks = most[: len(most) // 40 * 40].reshape(-1, 40).mean(axis=1)
    return Outcome(float(most.mean()), float(blocks.max()), following.changes, largest, history)


def fewest(alive: Counts, weights: Sequence[int], count: int) -> Iterator[int]:
    """Members for so many connections: one after the other, who has the fewest for its weight."""
    heap = [
        ((int(have) + 1) / weight, number, int(have))
        for number, (have, weight) in enumerate(zip(alive, weights, strict=True))
        if weight
    ]
    heapq.heapify(heap)
    for _ in range(count):
        _, number, have = heap[0]
        heapq.heapreplace(heap, ((have + 2) / weights[number], number, have + 1))
        yield number


def main() -> int:
    """Print the table. Always 0."""
    for case in CASES:
        found = {policy: [simulate(case, policy, seed) for seed in SEEDS] for policy in POLICIES}
        excess = {policy: fmean(each.excess for each in outcomes) for policy, outcomes in found.items()}
        ours, ideal = found["slot weights"], found["least connections"]
        for peer in POLICIES[1:]:
            _print(f"{case.name}: most / mean", excess["slot weights"], peer, excess[peer], "times")
        worst, best = (max(each.worst for each in outcomes) for outcomes in (ours, ideal))
        _print(f"{case.name}: the same, worst 20 s", worst, "least connections", best, "times")
        share = max(each.largest_share for each in ours)
        _print(f"{case.name}: largest share of new connections / its weight's", share, None, None, "times")
        _print(
            f"{case.name}: changes of weights an hour",
            fmean(each.changes for each in ours) * 3600 / case.seconds,
            None,
            None,
            "changes",
        )
    return 0


def _print(case: str, ours: float, peer: str | None, theirs: float | None, unit: str) -> None:
    line("least_connections", case, ours, peer, theirs, unit, higher_is_better=False)
