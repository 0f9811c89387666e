"""Slot tables: shares to the slot, the same for everyone, and little moves that need not; against the plainest way to make them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.slots import (
    ALGORITHMS,
    MOST_WEIGHT,
    SIZES,
    Slots,
    choose_size,
    filling,
    fits,
    matches,
    moves,
    table,
)
from pipelines.slots.filling import fill
from pipelines.slots.shares import quotas, turns

ROOT = Path(__file__).resolve().parents[2]
LARGEST = SIZES[-1]
EXACT = [name for name in ALGORITHMS if name != "consistent_hashing"]
"""Those that give every member its share to the slot."""

names = st.lists(st.text("abcdef0123456789.:", min_size=1, max_size=20), min_size=1, max_size=30, unique=True)
weights = st.one_of(st.integers(0, 3), st.integers(0, 256), st.integers(0, MOST_WEIGHT))


@st.composite
def pools(draw: st.DrawFn) -> list[tuple[str, int]]:
    """Members, one of which at least takes connections."""
    found = [(name, draw(weights)) for name in draw(names)]
    at = draw(st.integers(0, len(found) - 1))
    found[at] = found[at][0], max(1, found[at][1])
    return found


def members(count: int, weight: int = 1) -> list[tuple[str, int]]:
    return [(f"10.0.{number >> 8}.{number & 255}:80", weight) for number in range(count)]


def owners(dealt: Slots, given: Sequence[tuple[str, int]]) -> np.ndarray:
    """The name of each slot's member."""
    return np.array([name for name, _ in given])[dealt]


@cache
def thousand() -> np.ndarray:
    return owners(table("maglev", LARGEST, members(1000)), members(1000))


def without(gone: set[int]) -> tuple[np.ndarray, np.ndarray]:
    """The table of 1,000 members when some are gone, and which slots were others' before."""
    left = [member for number, member in enumerate(members(1000)) if number not in gone]
    return owners(table("maglev", LARGEST, left), left), np.isin(thousand(), [name for name, _ in left])


# --- any algorithm -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(pools(), st.sampled_from(SIZES[:5]), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_the_order_of_members_does_not_matter(
    algorithm: str, given: list[tuple[str, int]], size: int, random: random.Random
) -> None:
    shuffled = random.sample(given, len(given))
    dealt = table(algorithm, size, given)
    assert len(dealt) == size and dealt.dtype == np.uint16
    assert (owners(dealt, given) == owners(table(algorithm, size, shuffled), shuffled)).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(pools(), st.sampled_from(SIZES[:5]))
@settings(max_examples=40)
def test_members_of_weight_0_have_no_slots(algorithm: str, given: list[tuple[str, int]], size: int) -> None:
    dealt = table(algorithm, size, given)
    drained = [member for member in given if member[1]]
    assert not {number for number, (_, weight) in enumerate(given) if not weight} & set(dealt.tolist())
    assert (owners(dealt, given) == owners(table(algorithm, size, drained), drained)).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_member_has_everything(algorithm: str) -> None:
    assert set(table(algorithm, 251, [("a", 0), ("b", 7)])) == {1}


@pytest.mark.parametrize("algorithm", EXACT)
@given(pools(), st.sampled_from(SIZES[:5]))
@settings(max_examples=40)
def test_shares_are_those_of_weights_to_the_slot(algorithm: str, given: list[tuple[str, int]], size: int) -> None:
    counts = np.bincount(table(algorithm, size, given), minlength=len(given))
    parts = [min(1, weight) if algorithm == "round_robin" else weight for _, weight in given]
    exact = np.array(parts) * size / sum(parts)
    assert (counts[np.array(parts) > 0] >= 1).all()
    if (exact[np.array(parts) > 0] >= 1).all():  # otherwise the others make way for those that have less than a slot
        assert (abs(counts - exact) < 1).all()


@pytest.mark.parametrize(
    ("algorithm", "size", "given", "message"),
    [
        ("maglev", 251, [(str(number), 1) for number in range(252)], "252 members do not fit in a table of 251 slots"),
        ("round_robin", 1, [("a", 1), ("b", 1)], "2 members do not fit in a table of 1 slots"),
        ("consistent_hashing", 251, [], "no member of the pool has a weight above 0"),
        ("least_connections", 251, [("a", 0)], "no member of the pool has a weight above 0"),
        ("maglev", 251, [("10.0.0.1:80", 1), ("10.0.0.1:80", 2)], "member 10.0.0.1:80 is in the pool twice"),
        ("maglev", 251, [("10.0.0.1:80", -1)], "member 10.0.0.1:80: its weight is -1"),
        ("maglev", 251, [("10.0.0.1:80", 65536)], "weights are 0 to 65535"),
        ("maglev", 256, [("a", 1)], "a Maglev table of 256 slots: it has to be a prime"),
        ("random", 251, [("a", 1)], "balancing by 'random': choose from maglev, consistent_hashing"),
    ],
)
def test_what_cannot_be_is_refused(algorithm: str, size: int, given: list[tuple[str, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(algorithm, size, given)


def test_as_many_members_as_slots_fit() -> None:
    assert sorted(table("maglev", 251, [(str(number), 1 + number) for number in range(251)])) == list(range(251))


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("maglev", "341aa778477eb9d9"),
        ("consistent_hashing", "343c741f72e761ab"),
        ("round_robin", "d91bb4ef9cf3935e"),
        ("weighted_round_robin", "338fd71a27fb6f2f"),
    ],
)
def test_tables_are_those_of_every_other_machine_and_version(algorithm: str, expected: str) -> None:
    """A controller that is upgraded must not move connections: these tables stay what they are."""
    given = [("10.0.0.1:80", 1), ("10.0.0.2:80", 2), ("[2001:db8::1]:443", 3), ("10.0.0.3:80", 10)]
    dealt = table(algorithm, 1021, given)
    assert blake2b(dealt.astype("<u2").tobytes(), digest_size=8).hexdigest() == expected


def test_hashes_do_not_differ_between_processes() -> None:
    program = (
        "import json; from pipelines.slots import *;"
        "print(json.dumps([table(a, 251, [(str(n), n) for n in range(9)]).tolist() for a in ALGORITHMS]))"
    )
    found = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        ran = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, cwd=ROOT
        )
        found.append(json.loads(ran.stdout))
    assert found[0] == found[1]


# --- Maglev ------------------------------------------------------------------------------------------------------


def by_hand(order: Sequence[int], start: Sequence[int], step: Sequence[int], taken: Sequence[bool]) -> list[int]:
    """Section 3.4 of the paper: each in turn looks through its permutation from the beginning."""
    size, closed = len(taken), list(taken)
    found = [filling.NOBODY] * size
    for member in order:
        at = next(at for j in range(size) if not closed[at := (start[member] + j * step[member]) % size])
        found[at], closed[at] = member, True
    return found


@given(st.data(), st.sampled_from([2, 3, 5, 7, 11, 13, 61, 127, 251]))
def test_members_take_their_first_free_slots_in_turns(data: st.DataObject, size: int) -> None:
    count = data.draw(st.integers(1, 8))
    taken = data.draw(st.one_of(st.just([False] * size), st.lists(st.booleans(), min_size=size, max_size=size)))
    free = taken.count(False)
    length = data.draw(st.one_of(st.just(free), st.integers(0, free)))
    order = data.draw(st.lists(st.integers(0, count - 1), min_size=length, max_size=length))
    start = data.draw(st.lists(st.integers(0, size - 1), min_size=count, max_size=count))
    step = data.draw(st.lists(st.integers(1, size - 1), min_size=count, max_size=count))
    arrays = np.array(order, np.uint16), np.array(start, np.uint32), np.array(step, np.uint32), np.array(taken)
    kept = [array.copy() for array in arrays]
    expected = by_hand(order, start, step, taken)
    assert fill(*arrays).tolist() == expected
    assert filling._plain(*arrays).tolist() == expected
    assert all((array == before).all() for array, before in zip(arrays, kept, strict=True))


def test_the_compiled_loop_makes_the_same_tables() -> None:
    assert filling.compiled(), "pipelines/slots/fill.c is not compiled: `make setup` does it"
    for size in (251, 4093, LARGEST):
        draw = np.random.default_rng(size)
        order, taken = turns(draw.integers(0, 20, 100).tolist(), size), np.zeros(size, bool)
        start, step = draw.integers(0, size, 100, np.uint32), draw.integers(1, size, 100, np.uint32)
        assert (fill(order, start, step, taken) == filling._plain(order, start, step, taken)).all()


@given(st.lists(weights, min_size=1, max_size=12).filter(any), st.sampled_from([61, 251, 1021]))
def test_turns_are_as_far_apart_as_weights_say(given: list[int], size: int) -> None:
    order, quota = turns(given, size).tolist(), quotas(given, size).tolist()
    assert Counter(order) == {number: count for number, count in enumerate(quota) if count}
    heaviest, seen = max(given), Counter[int]()
    rounds = []
    for member in order:
        rounds.append((int(seen[member] * (heaviest / given[member])), member))
        seen[member] += 1
    assert rounds == sorted(rounds)


def test_balance_of_1000_members() -> None:
    counts = Counter(thousand().tolist()).values()
    assert len(counts) == 1000 and max(counts) * 1000 / LARGEST <= 1.01


def test_one_of_1000_members_goes() -> None:
    for gone in (0, 1, 500, 998, 999):
        after, others = without({gone})
        assert 100 * (after != thousand())[others].mean() <= 0.7


def test_50_of_1000_members_go() -> None:
    for seed in range(3):
        after, others = without(set(random.Random(seed).sample(range(1000), 50)))
        assert 100 * (after != thousand())[others].mean() <= 4


def test_members_come_back_to_what_they_had() -> None:
    assert (owners(table("maglev", LARGEST, members(1000)), members(1000)) == thousand()).all()


@pytest.mark.parametrize("size", SIZES)
def test_weights_within_one_slot(size: int) -> None:
    given = [("a", 1), ("b", 2), ("c", 3), ("d", 10)]
    counts = np.bincount(table("maglev", size, given))
    assert (abs(counts - np.array([1, 2, 3, 10]) * size / 16) < 1).all()


@pytest.mark.parametrize("weight", [2, 100])
def test_one_of_100_weights_is_halved(weight: int) -> None:
    given = members(100, weight)
    before = table("maglev", LARGEST, given)
    for halved in (0, 50, 99):
        after = [(name, weight // 2 if number == halved else weight) for number, (name, weight) in enumerate(given)]
        found = moves(before, given_names := [name for name, _ in given], table("maglev", LARGEST, after), given_names)
        assert found.moved / LARGEST < 0.0125
        assert found.needed == pytest.approx(LARGEST / 200, rel=0.01)


def test_weights_by_another_measure_are_the_same() -> None:
    for algorithm in EXACT:
        one, other = ([(name, factor * (1 + at % 5)) for at, (name, _) in enumerate(members(40))] for factor in (1, 7))
        assert (table(algorithm, 4093, one) == table(algorithm, 4093, other)).all()


# --- the others --------------------------------------------------------------------------------------------------


@given(pools().filter(lambda given: sum(1 for _, weight in given if weight) > 1), st.data())
@settings(max_examples=40)
def test_on_a_ring_slots_move_only_from_whom_goes(given: list[tuple[str, int]], data: st.DataObject) -> None:
    equal = [(name, min(weight, 1)) for name, weight in given]
    gone = data.draw(st.sampled_from([member for member in equal if member[1]]))
    left = [member for member in equal if member != gone]
    before = owners(table("consistent_hashing", 4093, equal), equal)
    after = owners(table("consistent_hashing", 4093, left), left)
    assert ((before == after) | (before == gone[0])).all()


def test_ring_shares_follow_weights() -> None:
    given = [(name, 1 + at % 4) for at, (name, _) in enumerate(members(100))]
    counts = np.bincount(table("consistent_hashing", LARGEST, given), minlength=100)
    ratio = counts * 250 / LARGEST / np.array([weight for _, weight in given])
    assert ratio.std() < 0.15 and 0.6 < ratio.min() and ratio.max() < 1.5


@pytest.mark.parametrize("algorithm", ["round_robin", "weighted_round_robin", "least_connections"])
def test_blocks_are_a_few_matches_a_member(algorithm: str) -> None:
    for count, most in ((2, 13), (10, 7), (100, 6), (1000, 2)):
        assert len(matches(table(algorithm, LARGEST, members(count)))) <= most * count


@pytest.mark.parametrize(("count", "size", "most"), [(10, 1021, 0.3), (100, 16381, 0.1), (1000, LARGEST, 0.02)])
def test_blocks_stay_for_the_most_part(count: int, size: int, most: float) -> None:
    given = members(count)
    before = owners(table("weighted_round_robin", size, given), given)
    for gone in (0, count // 2, count - 1):
        left = given[:gone] + given[gone + 1 :]
        after = owners(table("weighted_round_robin", size, left), left)
        assert (after != before)[before != given[gone][0]].mean() <= most


def test_round_robin_knows_no_weights() -> None:
    given = [("a", 1), ("b", 200), ("c", 0)]
    assert np.bincount(table("round_robin", 1021, given)).tolist() == [511, 510]


# --- matches and moves -------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=1, max_size=300))
def test_matches_have_each_slot_once(given: list[int]) -> None:
    dealt = np.array(given, np.uint16)
    found = matches(dealt)
    for slot, member in enumerate(given):
        assert [owner for value, mask, owner in found if slot & mask == value] == [member]
    assert len(found) <= len(given)
    assert all(not value & ~mask and mask <= 0xFFFF for value, mask, _ in found)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("count", "size"), [(1, 251), (2, 251), (10, 1021), (100, 4093), (1000, 65521)])
def test_matches_of_tables(algorithm: str, count: int, size: int) -> None:
    dealt = table(algorithm, size, members(count))
    found = matches(dealt)
    member, times = np.full(size, -1), np.zeros(size, int)
    for value, mask, number in found:
        first, length = value, (~mask & 0xFFFF) + 1
        member[first : first + length] = number
        times[first : first + length] += 1
    assert (member == dealt).all() and (times == 1).all()
    assert len(found) == 1 if count == 1 else len(found) <= size


def test_a_slot_that_moves_changes_the_matches_around_it_only() -> None:
    dealt = table("weighted_round_robin", LARGEST, members(10))
    changed = dealt.copy()
    changed[12345] = (changed[12345] + 1) % 10
    assert len(set(matches(dealt)) ^ set(matches(changed))) <= 2 * 16


def test_moves() -> None:
    before, after = np.array([0, 0, 1, 1, 2], np.uint16), np.array([1, 0, 0, 1, 1], np.uint16)
    assert moves(before, ["a", "b", "c"], after, ["c", "b"]) == (4, 2)
    assert moves(before, ["a", "b", "c"], before, ["a", "b", "c"]) == (0, 0)
    assert moves(before, ["a", "b", "c"], after[:4], ["c", "b"]) == (4, 4)


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ([], 251),
        ([1], 251),
        ([1, 1, 0, 0], 251),
        ([1] * 10, 1021),
        ([1, 2, 3, 10], 2039),
        ([1] * 100, 16381),
        ([1] * 1000, 65521),
        ([1, 256], 32749),
    ],
)
def test_sizes_give_the_lightest_member_100_slots(given: list[int], size: int) -> None:
    assert choose_size(given) == size


def test_sizes_are_primes_and_fit_multipath() -> None:
    assert all(all(size % divisor for divisor in range(2, 256)) or size == 251 for size in SIZES)
    assert SIZES[-1] < 1 << 16
    with pytest.raises(ValueError, match="65522 members"):
        choose_size([1] * 65522)


def test_a_size_is_kept_while_it_does() -> None:
    assert fits(1021, [1] * 10) and fits(1021, [1] * 20) and not fits(1021, [1] * 21)
    assert fits(1021, [1] * 2) and fits(2039, [1] * 2) and not fits(4093, [1] * 2)
