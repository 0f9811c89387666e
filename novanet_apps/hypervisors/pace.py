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
        self._what: Hashable = None
        self._last = 0.0
        self.repeats = 0
        self.waiting = 0.0

    def wait(self, what: Hashable) -> float:
        """Seconds to wait before doing `what`, which counts as done then."""
        now = self._clock()
        if what != self._what or now - self._last > FORGOTTEN_AFTER + self.waiting:
            self._what, self.repeats = what, 0
        self.repeats += 1
        self.waiting = 0.0 if self.repeats <= AT_ONCE else min(LONGEST, 2.0 ** (self.repeats - AT_ONCE - 1))
        self._last = now
        return self.waiting
