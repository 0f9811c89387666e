"""How many slots a pool's table should have."""

from __future__ import annotations

from collections.abc import Sequence

SIZES = (251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521)
"""The largest prime below each power of two, up to what ``multipath`` can hash to (16 bits)."""
SLOTS_A_MEMBER = 100
"""What the lightest member should have: then none has over 1 % more than its share (Eisenbud et al.: M > 100 N)."""


def choose_size(weights: Sequence[int]) -> int:
    """The smallest of ``SIZES`` in which the lightest member has 100 slots, or the largest; weights of 0 do not count.

    More slots are nearer to the weights, and fewer of them move needlessly when a member goes; but each is a flow on every hypervisor with
    clients, where ``matches`` does not find that they go together. Raises ValueError when there are more members than slots.
    """
    active = [weight for weight in weights if weight]
    if len(active) > SIZES[-1]:
        raise ValueError(f"{len(active)} members: a table has {SIZES[-1]} slots at most; make several pools of them")
    wanted = SLOTS_A_MEMBER * sum(active) / min(active, default=1)
    return next((size for size in SIZES if size >= wanted), SIZES[-1])


def fits(size: int, weights: Sequence[int]) -> bool:
    """Whether a pool may keep its size, at least half and at most eight times the best: with another, nearly all slots move.

    Raises what ``choose_size`` raises.
    """
    best = choose_size(weights)
    return best <= 2.2 * size and size <= 8.8 * best  # neighbours in SIZES differ by factors of 2.0 to 2.03
