"""Least connections by slots: the weights by which slots are dealt follow how many connections each member has.

A switch cannot look for the member with the fewest connections, so shares of new ones are what is adjusted. In the long run a member
has as many connections as come to it in the time that one lasts (Little's law): with a share that is smaller by the factor by which it
has too many, it will have as many as it should.
"""

from __future__ import annotations

from collections.abc import Sequence

UNIT = 16
"""Slot weight of a member of weight 1 that has as many connections as it should."""
FURTHEST = 8
"""How many times more or less than its weight a member's share may become: one without connections may be broken."""
WORTHWHILE = 0.1
"""Weights are changed when one changes by as much: each change moves slots."""


def relieved(weights: Sequence[int], connections: Sequence[int], previous: Sequence[int], fresh: int) -> list[int]:
    """Slot weights for members who have ``connections`` now; ``previous`` (0 for a new member) when those may stay.

    ``fresh`` is how many of the pool's connections began since ``previous`` was chosen: as long as few did, what it did does not show yet,
    and it is followed with caution, so that shares do not swing. A weight of 0 remains 0.
    """
    total = sum(weights)
    if not total:
        return [0] * len(weights)
    now = sum(have for have, weight in zip(connections, weights, strict=True) if weight)
    power = min(1.0, fresh / now) / 2 if now else 0.0
    wanted = []
    for weight, have, before in zip(weights, connections, previous, strict=True):
        should = now * weight / total
        wanted.append((before or UNIT * weight) * ((should + 1) / (have + 1)) ** power if weight else 0.0)
    scale = UNIT * total / sum(wanted)
    found = [
        round(min(max(scale * each, UNIT * weight / FURTHEST), UNIT * weight * FURTHEST))
        for each, weight in zip(wanted, weights, strict=True)
    ]
    changes = [(new, old) for new, old in zip(found, previous, strict=True) if new != old]
    return found if any(abs(new - old) >= WORTHWHILE * old for new, old in changes) else list(previous)
