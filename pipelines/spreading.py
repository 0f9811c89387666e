"""How the flows of a route are spread over several next hops: by slots, dealt to them by rendezvous hashing.

A switch hashes a packet's flow to a slot (``multipath``); a slot belongs to the next hop that wins it (Thaler and
Ravishankar, 1998). Taking a next hop away moves the flows of its own slots only, and adding one takes from each other
one no more than it gets. A group of type ``select`` would not do: its hash moves most flows when a bucket goes.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from hashlib import blake2b
from typing import TypeVar

SLOTS = 128
"""Shares of a route's flows: a power of two, so that the hash falls on each alike. Two next hops differ by some 9 %."""

H = TypeVar("H", bound=Hashable)


@lru_cache(maxsize=1024)
def deal(hops: tuple[H, ...]) -> tuple[H, ...]:
    """The next hop of each slot; their order does not matter."""
    return tuple(
        max(hops, key=lambda hop: blake2b(f"{slot}/{hop}".encode(), digest_size=8).digest()) for slot in range(SLOTS)
    )


def number_of(name: str, taken: set[int]) -> int:
    """A 32-bit number for a route of a router, other than those taken; it follows from the name, so others' come and go."""
    number = int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big")
    while number == 0 or number in taken:
        number = (number + 1) & 0xFFFFFFFF
    taken.add(number)
    return number
