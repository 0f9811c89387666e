"""From the results of checks to a member's health: as many in a row as the monitor says make it up, or down."""

from __future__ import annotations

from typing import Literal

Health = Literal["unknown", "up", "down"]


class Judge:
    """One member's health. ``rise`` good checks in a row make it up, ``fall`` bad ones make it down."""

    def __init__(self, rise: int, fall: int, health: Health = "unknown") -> None:
        self.rise, self.fall = rise, fall
        self.health: Health = health
        self._run = 0
        """Checks in a row that speak against ``health``; while it is unknown, positive for up and negative for down."""

    def judge(self, good: bool) -> bool:
        """Take the result of a check; whether the health has changed."""
        if self.health == "unknown":
            same = (self._run >= 0) == good
            self._run = (self._run if same else 0) + (1 if good else -1)
        elif (self.health == "up") == good:
            self._run = 0
        else:
            self._run += 1 if good else -1
        if self._run >= self.rise:
            self.health, self._run = "up", 0
            return True
        if self._run <= -self.fall:
            self.health, self._run = "down", 0
            return True
        return False
