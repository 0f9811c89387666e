"""Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4).

Each member has the slots in an order of its own, a permutation that follows from its name alone: ``start``, and then every ``step``-th,
modulo the prime M. In turns, each takes the first of them that is free. So every member gets what its weight says, to the slot, and
when one goes, most of the others find the slots free that they had.
"""

from __future__ import annotations

import numpy as np

from .filling import NOBODY, Places, fill, prime
from .pools import Pool, Slots, digests
from .shares import quotas, turns


def maglev(pool: Pool, size: int) -> Slots:
    """The table of ``size`` slots. Raises ValueError when that is no prime."""
    if prime(size) != size:
        raise ValueError(
            f"a Maglev table of {size} slots: it has to be a prime, such as 251, 1021, 4093, 16381 or 65521"
        )
    start, step = _permutations(pool, size, size)
    return fill(turns(pool.weights, size), start, step, np.zeros(size, bool))


def in_blocks(pool: Pool, size: int) -> Slots:
    """A table of ``size`` slots in which each member has a block of 2^k slots, at a multiple of 2^k, for every bit of its quota.

    A switch matches a block by one mask. From the largest blocks to the smallest, members take theirs as they take slots in ``maglev``. When a
    member goes, more of the others' slots move than there: quotas of other bits are other blocks.
    """
    table, quota = np.full(size, NOBODY, np.uint16), quotas(pool.weights, size)
    for shift in reversed(range(int(quota.max()).bit_length())):
        takers, count = np.flatnonzero(quota >> shift & 1).astype(np.uint16), size >> shift
        if len(takers):
            taken = np.ones(prime(count), bool)
            taken[:count] = table[: count << shift : 1 << shift] != NOBODY
            start, step = _permutations(pool, count, len(taken))
            owners = fill(takers, start, step, taken)[:count].repeat(1 << shift)
            table[: count << shift] = np.minimum(table[: count << shift], owners)
    return table


def _permutations(pool: Pool, count: int, modulus: int) -> tuple[Places, Places]:
    """Where each member begins, one of ``count``, and how far it goes on, modulo the prime ``modulus``.

    It begins at the same part of the table however finely that is divided.
    """
    numbers = digests(pool.names)
    start = (numbers[:, 0] >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)
    step = numbers[:, 1] % np.uint64(modulus - 1) + np.uint64(1)
    return start.astype(np.uint32), step.astype(np.uint32)
