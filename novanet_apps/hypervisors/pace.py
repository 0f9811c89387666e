"""How soon to repeat a repair."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

AT_ONCE = 3
"""So often the same repair is made without waiting."""
FORGOTTEN_AFTER = 60.0
"""Seconds without that repair after which it counts as new."""
LONGEST = 60.0


class Pace:
    """Lets the first repairs of a kind pass at once and doubles the time between further ones.

    Somebody who removes the bridge by mistake finds it back immediately; a program that insists on another setting
    does not make us write to the database a thousand times a second.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._made: dict[Hashable, tuple[int, float]] = {}

    def wait(self, what: Hashable) -> float:
        """Seconds to wait before doing `what`, which counts as done then."""
        now = self._clock()
        for key, (_, until) in list(self._made.items()):
            if now > until:
                del self._made[key]
        repeats = self._made.get(what, (0, 0.0))[0] + 1
        wait = 0.0 if repeats <= AT_ONCE else min(LONGEST, 2.0 ** (repeats - AT_ONCE - 1))
        self._made[what] = repeats, now + wait + FORGOTTEN_AFTER
        return wait

    def repeats(self, what: Hashable) -> int:
        """How often `what` was done lately."""
        return self._made.get(what, (0, 0.0))[0]
