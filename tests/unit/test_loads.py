"""What agents tell of connections, and what that comes to in the store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topology import loads
from topology.loads import Count
from topology.model import Load

HERE, POOL, ROW = "h", "p", "11111111-0000-4000-8000-000000000000"
BEFORE = Load(hypervisor_id=HERE, pool_id=POOL, connections={1: 100, 2: 4}, began=50, beat=3)


@pytest.mark.parametrize(
    ("count", "told", "news"),
    [(0, 0, False), (1, 0, True), (0, 1, True), (5, 4, False), (6, 4, True), (2, 4, True), (109, 100, False),
     (110, 100, True), (1090, 1000, False), (900, 1000, True), (31, 25, True), (29, 25, False)],
)  # fmt: skip
def test_what_is_worth_telling(count: int, told: int, news: bool) -> None:
    """A tenth, and more than the square root, which is chance."""
    assert loads.differs(count, told) is news


@given(st.dictionaries(st.integers(1, 5), st.integers(1, 500)), st.dictionaries(st.integers(1, 5), st.integers(1, 500)))
def test_what_is_not_told_is_nearly_so(now: dict[int, int], told: dict[int, int]) -> None:
    before = Load(hypervisor_id=HERE, pool_id=POOL, connections=told)
    if not loads.is_news(Count(now), before):
        assert now.keys() == told.keys()
        assert all(abs(now[key] - told[key]) < max(1, told[key] / 10, told[key] ** 0.5) for key in now)
    assert not loads.is_news(Count(told), before)
    assert loads.is_news(Count(now), None) is bool(now)


def test_new_connections_add_up() -> None:
    found = loads.told(HERE, POOL, Count({1: 7}, fresh=6), BEFORE)
    assert found == Load(hypervisor_id=HERE, pool_id=POOL, connections={1: 7}, began=56, beat=4)
    assert loads.told(HERE, POOL, Count({1: 7}, fresh=7), None).began == 7
    assert loads.told(HERE, POOL, Count({}, fresh=3), BEFORE) is None


def test_a_row_goes_with_its_hypervisor() -> None:
    load = loads.told(HERE, POOL, Count({2: 3, 1: 7}, fresh=7), None)
    insert, hold = loads.operations({(HERE, POOL): (None, load)})
    assert (insert["op"], insert["table"]) == ("insert", "Load")
    assert insert["row"] == {
        "hypervisor_id": ["uuid", HERE], "pool_id": ["uuid", POOL], "connections": ["map", [[1, 7], [2, 3]]],
        "began": 7, "beat": 1,
    }  # fmt: skip
    assert (hold["op"], hold["table"], hold["where"]) == ("mutate", "Hypervisor", [["_uuid", "==", ["uuid", HERE]]])
    assert hold["mutations"] == [["loads", "insert", ["set", [["named-uuid", insert["uuid-name"]]]]]]


def test_a_row_changes_and_goes() -> None:
    (update,) = loads.operations({(HERE, POOL): (ROW, loads.told(HERE, POOL, Count({1: 7}), BEFORE))})
    assert (update["op"], update["where"]) == ("update", [["_uuid", "==", ["uuid", ROW]]])
    assert update["row"] == {"connections": ["map", [[1, 7]]], "began": 50, "beat": 4}
    (gone,) = loads.operations({(HERE, POOL): (ROW, None)})
    assert gone["mutations"] == [["loads", "delete", ["set", [["uuid", ROW]]]]]
    assert loads.operations({(HERE, POOL): (None, None)}) == []


def test_hypervisors_add_up() -> None:
    other = Load(hypervisor_id="i", pool_id=POOL, connections={2: 5, 3: 1})
    assert loads.summed([BEFORE, other]) == {1: 100, 2: 9, 3: 1}
    assert loads.summed([]) == {}
