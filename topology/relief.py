"""Least connections by slots: the weights by which slots are dealt follow how many connections each member has.

A switch cannot look for the member with the fewest connections, so shares of new ones are what is adjusted. In the long run a member
has as many connections as come to it in the time that one lasts (Little's law): with a share that is smaller by the factor by which it
has too many, it will have as many as it should. How near that comes: docs/decisions/0019-least-connections.md.
"""

from __future__ import annotations

from collections.abc import Sequence

UNIT = 64
"""Slot weight of a member of weight 1 that has as many connections as it should."""
MOST, LEAST = 2, 8
"""A member's share is at most so many times, and at least so many times less than, what its weight gives it. One that has few
connections may be new, or broken, so it is not flooded; one that has many may be slow, and more of them would not help it."""
STEP = 2
"""How many times more or less a share may become at once."""
WORTHWHILE = 0.1
"""Weights are changed when one changes by as much: each change moves slots."""


def relieved(weights: Sequence[int], connections: Sequence[int], previous: Sequence[int], fresh: int) -> list[int]:
    """Slot weights for members who have ``connections`` now; ``previous`` (0 for a new member) when those may stay.

    ``fresh`` is how many of the pool's connections began since ``previous`` was chosen: as long as few did, what it did does not show yet,
    and it is followed with caution, so that shares do not swing. A weight of 0 remains 0, any other gives 1 at least.
    """
    total = sum(weights)
    if not total:
        return [0] * len(weights)
    now = sum(have for have, weight in zip(connections, weights, strict=True) if weight)
    power = min(1.0, fresh / now) / 2 if now else 0.0
    wanted = []
    for weight, have, before in zip(weights, connections, previous, strict=True):
        should = now * weight / total
        change = min(max((should + 1) / (have + 1), 1 / STEP), STEP) ** power
        wanted.append(_within(weight, (before or UNIT * weight) * change))
    scale = UNIT * total / sum(wanted)
    found = [round(_within(weight, scale * each)) for weight, each in zip(weights, wanted, strict=True)]
    changes = [(new, old) for new, old in zip(found, previous, strict=True) if new != old]
    return found if any(abs(new - old) >= WORTHWHILE * old for new, old in changes) else list(previous)


def _within(weight: int, share: float) -> float:
    return min(max(share, UNIT * weight / LEAST), UNIT * weight * MOST)
