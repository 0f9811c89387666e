"""Least connections by slot weights: members have as many as they should, whatever their connections last, and weights rest then.

The simulation is the benchmark's: random connections, counted and told as agents do, and the slots that the switch gets.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.slots import MOST_WEIGHT, SIZES, table
from tools.bench.least_connections import CASES, Case, Outcome, simulate
from topology.relief import LEAST, MOST, UNIT, relieved

LARGEST = SIZES[-1]
ALIKE = Case("alike", (1,) * 10, (30.0,) * 10, 100, seconds=600)
ONE_SLOW = ALIKE._replace(name="one slow", lasts=(90.0, *[30.0] * 9))


def run(case: Case, policy: str = "slot weights") -> Outcome:
    return simulate(case, policy)


@pytest.mark.parametrize(
    ("case", "most", "changes"),
    [
        (ONE_SLOW, 1.25, 20),
        (Case("short", (1,) * 4, (3.0, 1.0, 1.0, 1.0), 400, seconds=300), 1.3, 60),
        (Case("long", (1,) * 4, (900.0, 300.0, 300.0, 300.0), 20, seconds=7200), 1.15, 20),
        (Case("weights", (1, 2, 3, 10), (30.0, 30.0, 30.0, 60.0), 100, seconds=600), 1.25, 20),
        (ONE_SLOW._replace(name="bursts", burst=20.0), 1.35, 30),
        (ONE_SLOW._replace(name="heavy tails", law="lognormal"), 1.35, 30),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else None,
)
def test_members_whose_connections_last_longer_get_fewer(case: Case, most: float, changes: int) -> None:
    """By weight the slow one would have 1.6 to 2.5 times the mean."""
    followed, by_weight = run(case), run(case, "by weight")
    assert followed.worst < most < 1.45 < by_weight.excess
    assert followed.changes <= changes


def test_members_alike_are_left_alone() -> None:
    """What is chance is not followed: no worse than a tenth beyond slots that do not follow anything."""
    followed = run(ALIKE)
    assert followed.excess < run(ALIKE, "by weight").excess + 0.1
    assert followed.largest_share < 1.4


def test_a_new_member_is_not_flooded() -> None:
    case = ALIKE._replace(name="new", lasts=(60.0,) * 10, joins=300.0, seconds=1200.0)
    found = run(case)
    own = found.history[600:, -1]
    assert found.largest_share <= 1.6
    assert own.max() < 1.4, "it does not get more than it should have, by much"
    assert own[600:].mean() == pytest.approx(1.0, abs=0.15)


def test_a_member_that_refuses_at_once_gets_twice_its_share_at_most() -> None:
    """It always has the fewest; the members that do serve have the others' share."""
    found = run(ALIKE._replace(name="refuses", lasts=(0.01, *[30.0] * 9)))
    assert 1.5 < found.largest_share < 2.1


def test_the_benchmark_has_these_cases() -> None:
    assert {case.law for case in CASES} == {"exponential", "lognormal"} and any(case.joins for case in CASES)


# --- one step ----------------------------------------------------------------------------------------------------------


def units(*weights: int) -> list[int]:
    return [UNIT * weight for weight in weights]


def test_weights_stay_while_nothing_is_known() -> None:
    assert relieved([1, 2, 0], [0, 0, 0], units(1, 2, 0), 0) == units(1, 2, 0)
    assert relieved([1, 2, 0], [100, 200, 50], units(1, 2, 0), 300) == units(1, 2, 0)
    assert relieved([1, 1], [190, 10], units(1, 1), 2) == units(1, 1)


def test_members_that_come_and_go() -> None:
    assert relieved([1, 2, 3], [0, 0, 0], [0, 0, 0], 0) == units(1, 2, 3)
    assert relieved([1, 1, 0], [100, 100, 50], units(1, 1, 1), 0) == units(1, 1, 0)
    assert relieved([0, 0], [1, 0], units(1, 1), 10) == [0, 0]
    first, second = relieved([1, 1], [100, 0], [UNIT, 0], 100)
    assert first < UNIT < second


@given(st.lists(st.tuples(st.integers(0, 256), st.integers(0, 10**6)), min_size=1, max_size=20), st.integers(0, 10**6))
def test_slot_weights_are_weights(given: list[tuple[int, int]], fresh: int) -> None:
    given_weights, connections = [weight for weight, _ in given], [count for _, count in given]
    current = units(*given_weights)
    for _ in range(5):
        current = relieved(given_weights, connections, current, fresh)
        for weight, found in zip(given_weights, current, strict=True):
            assert UNIT * weight / LEAST <= found <= min(MOST_WEIGHT, UNIT * weight * MOST)
    if any(given_weights):
        table("least_connections", LARGEST, [(str(n), w) for n, w in enumerate(current)])
