"""Copies of a broadcast are dealt to groups so that one receiver more or less touches few of the others' copies."""

from __future__ import annotations

from random import Random

import pytest

from pipelines.fields import OUT_PORT_KEY
from pipelines.flooding import USUAL, copies
from pipelines.flow import Bucket, group, set_field
from pipelines.wire.groups import encode_group
from pipelines.wire.openflow import OF15


def _buckets(keys: list[int]) -> dict[int, Bucket]:
    return {key: Bucket((set_field(OUT_PORT_KEY, key),)) for key in keys}


def _keys(count: int) -> list[int]:
    return Random(count).sample(range(1, 1 << 32), count)


@pytest.mark.parametrize("count", [1, USUAL, USUAL + 1, 3_333, 20_000])
def test_everyone_gets_one_copy(count: int) -> None:
    buckets = _buckets(_keys(count))
    groups, actions = copies(0xFFFFFF, buckets)
    assert sorted(bucket.actions for each in groups for bucket in each.buckets) == sorted(
        bucket.actions for bucket in buckets.values()
    )
    assert actions == tuple(group(each.id) for each in groups)
    for each in groups:
        assert each.id < 1 << 32
        encode_group(each, OF15)  # ValueError: too long for a message


@pytest.mark.parametrize("count", [100, 3_000])
def test_one_receiver_more_is_one_group(count: int) -> None:
    keys = _keys(count + 1)
    before, _ = copies(1, _buckets(keys[:-1]))
    after, _ = copies(1, _buckets(keys))
    changed = set(after) - set(before)
    assert len(changed) == 1 and len(changed.pop().buckets) < 2 * USUAL


def test_local_and_remote_copies_have_groups_of_their_own() -> None:
    buckets = _buckets(_keys(500))
    (here, _), (there, _) = copies(7, buckets), copies(7, buckets, remote=True)
    assert not {each.id for each in here} & {each.id for each in there}
    assert not {each.id for each in here} & {each.id for each in copies(8, buckets)[0]}
