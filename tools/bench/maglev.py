"""Slot tables of load balancers: how long they take to make, and the table of section 5.3 of Maglev's paper for them.

That section asks how even a table is, and how much of it changes when backends fail, with 1,000 backends and tables of 65,537 and 655,373
slots (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, figures 11 and 12). The peer is the paper's
pseudocode as it stands there, in Python, for a table's time and resilience; a ring (Karger) and rendezvous hashing, as in the paper, for its balance.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b, md5
from random import Random

import numpy as np
from numpy.typing import NDArray

from pipelines.slots import compiled, matches, table
from pipelines.slots.pools import digest
from tools.bench.report import line
from tools.bench.samples import median

BACKENDS = 1000
LARGEST = 65521
"""The largest table that a switch can hash to."""
SMALL, LARGE = 65537, 655373
"""Those of the paper."""
REPETITIONS = 15
FAILURES = (1, 5, 10, 20, 30, 40, 50)
"""How many of the backends fail at a time."""
DRAWS = {SMALL: 8, LARGE: 3}
"""How often those that fail are drawn; the peer, which takes its time, gets the first two."""
PEER_DRAWS = 2
PAPER = "the paper's pseudocode in Python"
A_FLOW_A_SLOT = "a flow a slot"

Members = list[tuple[str, int]]
Table = NDArray[np.uint16]


def main() -> int:
    """Print times, balance, resilience, and how many flows tables are. Always 0."""
    if not compiled():
        print("pipelines/slots/fill.c is not compiled here: these are the times of plain Python", file=sys.stderr)
    _times()
    for size in (SMALL, LARGE):
        _balance(size)
        _resilience(size)
    _flows()
    return 0


def members(count: int, weight: Callable[[int], int] = lambda number: 1) -> Members:
    """Backends by address and port."""
    return [(f"10.0.{number >> 8}.{number & 255}:80", weight(number)) for number in range(count)]


# --- times -------------------------------------------------------------------------------------------------------


def _times() -> None:
    for size in (LARGEST, LARGE):
        _builds(size)
    weighted = members(BACKENDS, lambda number: 1 + number % 10)
    for algorithm in ("consistent_hashing", "weighted_round_robin"):
        made = partial(table, algorithm, LARGEST, weighted)
        _milliseconds(f"build M={LARGEST}, N={BACKENDS}, {algorithm}, weights 1 to 10", _time(made))


def _builds(size: int) -> None:
    def started() -> None:
        digest.cache_clear()
        table("maglev", size, equal)

    equal, weighted = members(BACKENDS), members(BACKENDS, lambda number: 1 + number % 10)
    name = f"build M={size}, N={BACKENDS}"
    ours, theirs = _alternating(partial(table, "maglev", size, equal), partial(paper, equal, size), 3)
    _milliseconds(name, ours, PAPER, theirs)
    _milliseconds(f"{name}, names not seen before", _time(started))
    _milliseconds(f"{name}, weights 1 to 10", _time(partial(table, "maglev", size, weighted)))


def _alternating(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Medians, in turns; the peer runs once a round."""
    found: tuple[list[float], list[float]] = [], []
    for _ in range(rounds):
        found[0].extend(_seconds(ours) for _ in range(REPETITIONS // rounds))
        found[1].append(_seconds(theirs))
    return median(found[0]), median(found[1])


def _time(run: Callable[[], object]) -> float:
    return median([_seconds(run) for _ in range(REPETITIONS)])


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _milliseconds(case: str, ours: float, peer: str | None = None, theirs: float | None = None) -> None:
    line("maglev", case, 1000 * ours, peer, theirs and 1000 * theirs, "ms", higher_is_better=False)


# --- the paper's section 5.3 -------------------------------------------------------------------------------------


def _balance(size: int) -> None:
    """Over-provisioning: how far the most loaded backend is above the mean."""
    given = members(BACKENDS)
    ours = _shares(table("maglev", size, given))
    peers = {"ring (Karger)": table("consistent_hashing", size, given), "rendezvous": rendezvous(given, size)}
    for peer, other in peers.items():
        theirs = _shares(other)
        for case, at, better in (("most loaded", max, False), ("least loaded", min, True)):
            name = f"balance M={size}, N={BACKENDS}: {case} backend"
            line("maglev", name, 100 * at(ours), peer, 100 * at(theirs), "% of the mean", higher_is_better=better)


def _shares(made: Table) -> list[float]:
    found: list[float] = (np.bincount(made, minlength=BACKENDS) * BACKENDS / len(made)).tolist()
    return found


def _resilience(size: int) -> None:
    """Slots of backends that live, of which another backend has them when some fail."""
    given = members(BACKENDS)
    whole, theirs_whole = table("maglev", size, given), paper(given, size)
    for failing in FAILURES:
        draws = [set(Random(draw).sample(range(BACKENDS), failing)) for draw in range(DRAWS[size])]
        ours = [_moved(whole, lambda left: table("maglev", size, left), given, gone) for gone in draws]
        theirs = [_moved(theirs_whole, lambda left: paper(left, size), given, gone) for gone in draws[:PEER_DRAWS]]
        case = f"resilience M={size}, N={BACKENDS}: {100 * failing / BACKENDS:g} % fail, slots of others that move"
        line(
            "maglev", case, 100 * sum(ours) / len(ours), PAPER, 100 * sum(theirs) / len(theirs), "% of theirs",
            higher_is_better=False,
        )  # fmt: skip


def _moved(whole: Table, make: Callable[[Members], Table], given: Members, gone: set[int]) -> float:
    living = np.array([number for number in range(len(given)) if number not in gone])
    after = living[make([given[number] for number in living])]
    others = np.isin(whole, living)
    return float((after != whole)[others].mean())


def paper(given: Sequence[tuple[str, int]], size: int) -> Table:
    """Maglev's table as section 3.4 of the paper has it (pseudocode 1), for weights that are all the same."""
    names = [name.encode() for name, _ in given]
    offsets = [int.from_bytes(md5(name).digest(), "big") % size for name in names]
    skips = [int.from_bytes(blake2b(name).digest(), "big") % (size - 1) + 1 for name in names]
    next, entry, filled = [0] * len(names), [-1] * size, 0
    while True:
        for i in range(len(names)):
            c = (offsets[i] + next[i] * skips[i]) % size
            while entry[c] >= 0:
                next[i] += 1
                c = (offsets[i] + next[i] * skips[i]) % size
            entry[c] = i
            next[i] += 1
            filled += 1
            if filled == size:
                return np.array(entry, np.uint16)


def rendezvous(given: Sequence[tuple[str, int]], size: int) -> Table:
    """Each slot to the backend whose hash together with it is highest (Thaler and Ravishankar, 1998)."""
    random = np.random.default_rng
    best, owner = np.zeros(size, np.uint64), np.zeros(size, np.uint16)
    for number, (name, _) in enumerate(given):
        seed = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
        score = random(seed).integers(0, 1 << 63, size, np.uint64)
        higher = score > best
        best[higher], owner[higher] = score[higher], number
    return owner


# --- flows -------------------------------------------------------------------------------------------------------


def _flows() -> None:
    for algorithm in ("maglev", "consistent_hashing", "weighted_round_robin"):
        for count in (2, 10, 100, 1000):
            for size in (251, 4093, LARGEST):
                if count <= size:
                    case = f"flows {algorithm}, N={count}, M={size}"
                    ours = len(matches(table(algorithm, size, members(count))))
                    line("maglev", case, ours, A_FLOW_A_SLOT, size, "flows", higher_is_better=False)
