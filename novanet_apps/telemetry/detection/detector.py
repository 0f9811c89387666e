"""Puts the statistics together: what of a window is so odd that somebody should know.

Not the volume: a download is no attack, however long and fast. What is watched is the rate of packets that are *not answered*,
compared by CUSUM on its logarithm with its own past (EWMA); how many flows a service gets; and who tries many targets in vain.
An entropy of sources or ports far from what it was lowers the rate that is enough. What has fired is not told again before it
has been quiet for a while, and the past is not learnt from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .cusum import Cusum
from .ewma import Ewma
from .features import Features
from .findings import Finding, protocols

FLOOD = 1000.0
"""Unanswered packets a second that make a flood, at least; towards a network twice that."""
SPREAD_FLOOD = 300.0
"""The same where the entropy of sources or ports is not what it was."""
SURGE = 200.0
"""Flows a second that make a surge, at least."""
MOST = 200_000
"""Subjects of one kind; further ones are not watched."""
BUSY = 20.0
"""Flows a second from which on a service is watched: so that who tries all ports does not make each of them a subject."""
QUIET = 30
"""Windows without anything odd after which a subject may fire again."""
PATIENCE = 600
"""Windows after which what goes on is usual."""
SLACK, THRESHOLD = 1.0, 3.0
"""In powers of two: what is twice as much as usual is allowed; eight times twice that at once is too much, or twice that for three windows."""


class Detector:
    """Watches subjects of one kind, window by window."""

    def __init__(self, kind: str, floor: float = 1.0) -> None:
        """``kind``: ``flood``, ``outgoing-flood`` or ``surge``; ``floor`` multiplies the least rates."""
        self.kind = kind
        self._factor = floor
        self._places: dict[int, int] = {}
        self._rate, self._entropy, self._ports = Ewma(), Ewma(), Ewma()
        self._cusum = Cusum(SLACK, THRESHOLD)
        self._fired = np.zeros(0, np.int64)
        """Windows that a subject has been odd for, and negative for which it has been quiet since; 0: it has not fired."""

    def look(self, found: Features) -> list[Finding]:
        """What is odd about this window. Subjects that are not in it have been quiet."""
        found = self._watched(found)
        places = self._places_of(found.subjects)
        rates = found.flows if self.kind == "surge" else found.certain
        scaled = np.zeros(len(self._places))
        scaled[places] = np.log2(1 + rates)
        usual = 2 ** self._rate.mean[places] - 1
        strange = self._strange(found, places)
        over = self._cusum.update(scaled, self._rate.mean, np.arange(len(scaled)))
        enough = self._enough(rates, strange, found, places)
        odd = np.zeros(len(scaled), np.bool_)
        odd[places] = over[places] & enough
        new = odd & (self._fired == 0)
        self._learn(scaled, odd, found, places)
        return [
            Finding(self.kind, int(found.subjects[row]), float(rates[row] / self._least(strange)[row]), self._numbers(found, row, usual[row]))
            for row in np.flatnonzero(new[places]).tolist()
        ]  # fmt: skip

    def quiet(self, subject: int) -> bool:
        """Whether nothing odd goes on at a subject."""
        place = self._places.get(subject)
        return place is None or self._fired[place] == 0

    def _watched(self, found: Features) -> Features:
        """Those that are known, and new ones that are worth it."""
        known = np.array([subject in self._places for subject in found.subjects.tolist()], np.bool_)
        new = found.flows >= BUSY if self.kind == "surge" else np.full(len(known), True)
        kept = known | (new & (len(self._places) < MOST))
        return Features(*(column[kept] for column in found))

    def _places_of(self, subjects: Any) -> Any:
        found = np.array(
            [self._places.setdefault(subject, len(self._places)) for subject in subjects.tolist()], np.int64
        )
        for each in (self._rate, self._entropy, self._ports, self._cusum):
            each.grow(len(self._places))
        self._fired = np.concatenate((self._fired, np.zeros(len(self._places) - len(self._fired), np.int64)))
        return found

    def _strange(self, found: Features, places: Any) -> Any:
        """Whether sources or ports are spread otherwise than usual."""
        known = (self._entropy.seen[places] > 30) & (found.samples >= 50)
        sources = self._entropy.deviation(found.source_entropy, places, 0.05)
        ports = self._ports.deviation(found.target_entropy, places, 0.05)
        return known & ((np.abs(sources) > 6) | (np.abs(ports) > 6))

    def _least(self, strange: Any) -> Any:
        if self.kind == "surge":
            return np.full(len(strange), SURGE * self._factor)
        return np.where(strange, SPREAD_FLOOD, FLOOD) * self._factor

    def _enough(self, rates: Any, strange: Any, found: Features, places: Any) -> Any:
        enough = rates >= self._least(strange)
        if self.kind == "surge":  # what is new is not unusual; many flows of few sources are a busy client
            return enough & (self._rate.seen[places] > 30) & (found.sources >= 50)
        return enough

    def _learn(self, scaled: Any, odd: Any, found: Features, places: Any) -> None:
        fired = self._fired
        fired[odd] = np.where(fired[odd] > 0, fired[odd] + 1, 1)
        calm = ~odd & (fired != 0)
        fired[calm] = np.where(fired[calm] > 0, -1, fired[calm] - 1)
        fired[fired < -QUIET] = 0
        usual = np.flatnonzero((fired <= 0) | (fired > PATIENCE))
        self._rate.update(scaled[usual], usual)
        chosen = (found.samples >= 50) & (fired[places] == 0)
        self._entropy.update(found.source_entropy[chosen], places[chosen])
        self._ports.update(found.target_entropy[chosen], places[chosen])

    def _numbers(self, found: Features, row: int, usual: float) -> dict[str, Any]:
        told = {name: round(float(getattr(found, name)[row]), 3) for name in Features._fields[1:]}
        shares = protocols(told["syn_share"], told["amplified_share"], told["udp_share"])
        return {**told, "usual": round(float(max(usual, 0.0)), 1), "protocol_share": shares}
