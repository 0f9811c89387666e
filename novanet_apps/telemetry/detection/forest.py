"""Outliers among windows by an isolation forest (F. T. Liu, K. M. Ting, Z.-H. Zhou: Isolation Forest, 2008), with scikit-learn.

What it looks at says how traffic is made, not how much of it there is. It learns from windows of all ports, every ten minutes
anew, in a thread of its own, and wants to be sure: three windows in a row, each more isolated than nearly all that were learnt, and far from them in something that has a name.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Any

import numpy as np

from .features import Features
from .findings import Finding

LEARNT = 20_000
"""Windows that are remembered."""
FIRST = 2_000
"""Windows from which on there is a forest."""
EVERY = 600
"""Looks after which it is made anew."""
IN_A_ROW = 3
LEAST_SAMPLES = 20
SURE = 0.995
"""Share of what was learnt that is less isolated than an outlier."""
FAR = 8.0
"""Widths (median absolute deviations) that an outlier is off in something."""
RANGES = np.array([16.0, 16.0, 1.0, 1.0, 1.0, 1.0, 1.0])
"""What values may be. A few points are strewn over it: a forest never splits by what never differed, and would not see when it does."""
NAMES = (
    "flows",
    "sources",
    "source entropy",
    "port entropy",
    "share unanswered",
    "share of SYN",
    "share of amplifiers",
)


def vectors(found: Features) -> Any:
    """What a window is judged by, a row for each subject."""
    unanswered = found.unanswered / np.maximum(found.packets, 1)
    return np.column_stack(
        (
            np.log2(1 + found.flows), np.log2(1 + found.sources), found.source_entropy, found.target_entropy, unanswered,
            found.syn_share * unanswered, found.amplified_share * unanswered,
        )
    )  # fmt: skip


class Outliers:
    """Learns, and says what is unlike everything."""

    def __init__(self, background: bool = True) -> None:
        """``background``: whether it learns in a thread. Raises ImportError without scikit-learn."""
        import sklearn.ensemble

        self._make = sklearn.ensemble.IsolationForest
        self._background = background
        self._learnt: deque[Any] = deque(maxlen=LEARNT)
        self._model: tuple[Any, float, Any, Any] | None = None
        self._row: Counter[int] = Counter()
        self._told: dict[int, int] = {}
        self._looks = 0
        self._learning = False

    def look(self, found: Features) -> list[Finding]:
        """The outliers of a window."""
        self._looks += 1
        kept = found.samples >= LEAST_SAMPLES
        values, subjects = vectors(found)[kept], found.subjects[kept]
        odd = self._odd(values, subjects)
        findings = [self._finding(subject, score, value) for subject, score, value in odd if self._lasts(subject)]
        strange = {subject for subject, _, _ in odd}
        for subject in [subject for subject in self._row if subject not in strange]:
            del self._row[subject]
        self._learnt.extend(
            value for value, subject in zip(values, subjects.tolist(), strict=True) if subject not in strange
        )
        due = self._model is None or self._looks % EVERY == 0
        if due and len(self._learnt) >= FIRST and not self._learning:
            self._learning = True
            if self._background:
                threading.Thread(target=self._learn, name="forest", daemon=True).start()
            else:
                self._learn()
        return findings

    def _odd(self, values: Any, subjects: Any) -> list[tuple[int, float, Any]]:
        if self._model is None or not len(values):
            return []
        forest, limit, middle, width = self._model
        scores = -forest.score_samples(values)
        far = (np.abs(values - middle) / width).max(axis=1) > FAR
        odd = np.flatnonzero((scores > limit) & far).tolist()
        return [(int(subjects[n]), float(scores[n] / limit), values[n]) for n in odd]

    def _lasts(self, subject: int) -> bool:
        """Whether it is the third in a row, and has not been told for a while."""
        self._row[subject] += 1
        if self._row[subject] != IN_A_ROW or self._looks - self._told.get(subject, -EVERY) < EVERY:
            return False
        self._told[subject] = self._looks
        return True

    def _finding(self, subject: int, score: float, value: Any) -> Finding:
        assert self._model is not None
        _, _, middle, width = self._model
        far = np.abs(value - middle) / width
        worst = np.argsort(far)[::-1][:3]
        unusual = {NAMES[n]: f"{value[n]:.2f} (usual {middle[n]:.2f})" for n in worst.tolist() if far[n] > 3}
        return Finding(
            "outlier", subject, score, {"unusual": unusual or {NAMES[int(worst[0])]: f"{value[worst[0]]:.2f}"}}
        )

    def _learn(self) -> None:
        values = np.array(self._learnt)
        strewn = np.random.default_rng(7).random((max(1, len(values) // 50), len(RANGES))) * RANGES
        forest = self._make(n_estimators=100, max_samples=256, random_state=7).fit(np.concatenate((values, strewn)))
        scores = -forest.score_samples(values)
        middle = np.median(values, axis=0)
        width = np.maximum(1.4826 * np.median(np.abs(values - middle), axis=0), 0.05)
        self._model = forest, float(np.quantile(scores, SURE)), middle, width
        self._learning = False
