"""Copies of a broadcast: groups of type ``all``, as many as it takes.

A port that comes or goes is to touch few of the others' copies, and a group must fit one OpenFlow message of 64 KiB, which
holds some 1,300 buckets. So a network's copies are dealt to groups by the receivers' keys, which are random: ``USUAL`` to a
group, until there are no more groups. The id of a group: VNI (bits 0 to 23), remote (bit 24), part (bits 25 to 31).
"""

from __future__ import annotations

from collections.abc import Mapping

from .flow import Bucket, Group, group

USUAL = 64
"""Buckets of a group, on the average at most."""
REMOTE = 1 << 24
_PART, _PARTS = 25, 1 << 7


def copies(vni: int, buckets: Mapping[int, Bucket], *, remote: bool = False) -> tuple[list[Group], tuple[bytes, ...]]:
    """The groups that hold the buckets, by the keys of those who get a copy, and the actions that send a packet to all."""
    base = vni | (REMOTE if remote else 0)
    parts = 1
    while len(buckets) > parts * USUAL and parts < _PARTS:
        parts *= 2
    dealt: list[list[Bucket]] = [[] for _ in range(parts)]
    for key in sorted(buckets):
        dealt[key % parts].append(buckets[key])
    groups = [Group(base | part << _PART, "all", tuple(each)) for part, each in enumerate(dealt) if each]
    return groups, tuple(group(each.id) for each in groups)
