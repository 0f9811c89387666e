"""A pool's members, and the numbers that follow from their names."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.uint16]
"""For each slot, 0 to M - 1, the number of the member that has it: its place among the members as they were given."""
MOST_WEIGHT = 0xFFFF


class Pool(NamedTuple):
    """Members in the order of their names, which tables are made in. A weight of 0 takes no slots: the member is draining."""

    names: tuple[str, ...]
    weights: tuple[int, ...]


def digests(names: Iterable[str]) -> NDArray[np.uint64]:
    """Two numbers of 64 bits for each name, shape (N, 2), alike on every machine."""
    return np.frombuffer(b"".join([digest(name) for name in names]), "<u8").reshape(-1, 2)


@lru_cache(1 << 15)
def digest(name: str) -> bytes:
    """16 bytes for a name."""
    return blake2b(name.encode(), digest_size=16).digest()
