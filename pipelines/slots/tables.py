"""The algorithms of load balancing as slot tables. A switch hashes each new connection to a slot, evenly.

``maglev`` and ``consistent_hashing`` leave slots where they are when members come and go. The others deal members' shares in blocks, which a
switch has in a few flows a member: what they promise is shares, not that a client meets the same member again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from .maglev import in_blocks, maglev
from .pools import MOST_WEIGHT, Pool, Slots
from .ring import consistent_hashing

ALGORITHMS: dict[str, Callable[[Pool, int], Slots]] = {
    "maglev": maglev,
    "consistent_hashing": consistent_hashing,
    "round_robin": lambda pool, size: in_blocks(Pool(pool.names, tuple([min(1, each) for each in pool.weights])), size),
    "weighted_round_robin": in_blocks,
    "least_connections": in_blocks,  # with the weights of ``topology.relief``
}


def table(algorithm: str, size: int, members: Sequence[tuple[str, int]]) -> Slots:
    """The table of ``size`` slots for members (name, weight), whatever their order; it names them by their places in ``members``.

    A name says who a member is, such as its address and port: the slots follow from names and weights alone. A member of weight 0 gets
    none, any other at least one, save on the ring.

    Raises ValueError when the algorithm is none of ``ALGORITHMS``, two members have one name, a weight is not 0 to 65535, none is above
    0, more members have one than there are slots, or ``maglev`` is asked for a size that is no prime.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"balancing by {algorithm!r}: choose from {', '.join(ALGORITHMS)}")
    order = sorted(range(len(members)), key=lambda number: members[number][0])
    pool = Pool(tuple([members[number][0] for number in order]), tuple([members[number][1] for number in order]))
    for name, weight in zip(*pool, strict=True):
        if not 0 <= weight <= MOST_WEIGHT:
            raise ValueError(f"member {name}: its weight is {weight}; weights are 0 to {MOST_WEIGHT}")
    for one, next in pairwise(pool.names):
        if one == next:
            raise ValueError(f"member {one} is in the pool twice")
    active = len(pool.weights) - pool.weights.count(0)
    if not active:
        raise ValueError("no member of the pool has a weight above 0: nobody takes its connections")
    if active > size:
        raise ValueError(f"{active} members do not fit in a table of {size} slots: make it larger, 100 slots a member")
    return np.array(order, np.uint16)[ALGORITHMS[algorithm](pool, size)]
