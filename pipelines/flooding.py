"""Copies of a broadcast: groups of type ``all``, as many as it takes.

A group must fit one OpenFlow message of 64 KiB, which holds some 1,300 buckets; so a network's copies are spread over
groups of at most ``LARGEST``. The id of a group: VNI (bits 0 to 23), remote (bit 24), part (bits 25 to 31).
"""

from __future__ import annotations

from collections.abc import Sequence

from .flow import Bucket, Group, group

LARGEST = 1000
"""Buckets of one group."""
REMOTE = 1 << 24
_PART = 25


def copies(vni: int, buckets: Sequence[Bucket], *, remote: bool = False) -> tuple[list[Group], tuple[bytes, ...]]:
    """The groups that hold the buckets, and the actions that send a packet to all of them."""
    base = vni | (REMOTE if remote else 0)
    groups = [
        Group(base | part << _PART, "all", tuple(buckets[start : start + LARGEST]))
        for part, start in enumerate(range(0, len(buckets), LARGEST))
    ]
    return groups, tuple(group(each.id) for each in groups)
