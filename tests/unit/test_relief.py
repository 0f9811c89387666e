"""Least connections by slot weights: members have as many as they should, whatever their connections last, and weights rest then."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.slots import MOST_WEIGHT, SIZES, UNIT, relieved, table

LARGEST = SIZES[-1]


def balanced(durations: Sequence[float], arrivals: int, steps: int, interval: float = 1.0) -> tuple[list[float], int]:
    """Connections come, to members by their slots, and end after exponential times; how many there are on the average of the
    second half, relative to the mean, and how often weights have changed."""
    draw = np.random.default_rng(7)
    count = len(durations)
    current = [UNIT] * count
    alive, fresh, changed = np.zeros(count, np.int64), 0, 0
    sums = np.zeros(count)
    for step in range(steps):
        shares = np.bincount(
            table("least_connections", LARGEST, [(str(n), w) for n, w in enumerate(current)]), minlength=count
        )
        alive -= draw.binomial(alive, 1 - np.exp(-interval / np.array(durations)))
        fresh += arrivals
        alive += draw.multinomial(arrivals, shares / LARGEST)
        wanted = relieved([1] * count, alive.tolist(), current, fresh)
        if wanted != current:
            current, fresh, changed = wanted, 0, changed + 1
        if step >= steps // 2:
            sums += alive
    return (sums / sums.mean()).tolist(), changed


@pytest.mark.parametrize(("scale", "steps"), [(0.2, 60), (3, 200), (60, 2000)])
def test_members_whose_connections_last_longer_get_fewer(scale: float, steps: int) -> None:
    """With shares by weight one member would have three times the connections of each other: 2.0 of the mean, and they 0.67."""
    load, changed = balanced([scale, scale, scale, 3 * scale], 2000, steps)
    assert max(load) < 1.12 and min(load) > 0.88
    assert changed < steps / 2


def test_weights_stay_while_nothing_is_known() -> None:
    assert relieved([1, 2, 0], [0, 0, 0], [UNIT, 2 * UNIT, 0], 0) == [UNIT, 2 * UNIT, 0]
    assert relieved([1, 2, 0], [100, 200, 50], [UNIT, 2 * UNIT, 0], 300) == [UNIT, 2 * UNIT, 0]
    assert relieved([1, 1], [190, 10], [UNIT, UNIT], 2) == [UNIT, UNIT]


def test_members_that_come_and_go() -> None:
    assert relieved([1, 2, 3], [0, 0, 0], [0, 0, 0], 0) == [UNIT, 2 * UNIT, 3 * UNIT]
    assert relieved([1, 1, 0], [100, 100, 50], [UNIT, UNIT, UNIT], 0) == [UNIT, UNIT, 0]
    assert relieved([0, 0], [1, 0], [UNIT, UNIT], 10) == [0, 0]
    first, second = relieved([1, 1], [100, 0], [UNIT, 0], 100)
    assert first < UNIT < second


@given(st.lists(st.tuples(st.integers(0, 256), st.integers(0, 10**6)), min_size=1, max_size=20), st.integers(0, 10**6))
def test_slot_weights_are_weights(given: list[tuple[int, int]], fresh: int) -> None:
    given_weights, connections = [weight for weight, _ in given], [count for _, count in given]
    current = [UNIT * weight for weight in given_weights]
    for _ in range(5):
        current = relieved(given_weights, connections, current, fresh)
        for weight, found in zip(given_weights, current, strict=True):
            assert UNIT * weight / 8 <= found <= min(MOST_WEIGHT, UNIT * weight * 8)
    if any(given_weights):
        table("least_connections", LARGEST, [(str(n), w) for n, w in enumerate(current)])
