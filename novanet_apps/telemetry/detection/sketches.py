"""Sketches: what takes room in proportion to the answer, not to the traffic, however many addresses are forged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .hashing import mixed


class CountMin:
    """Sums by key in ``depth`` rows of ``width`` counters (G. Cormode, S. Muthukrishnan: An improved data stream summary, 2005).

    An estimate is never too low, and too high by more than 2.72/width of all weight with a probability of exp(-depth) only.
    """

    def __init__(self, width: int = 4096, depth: int = 4) -> None:
        self._counts = np.zeros((depth, width))
        self._salts = np.arange(1, depth + 1, dtype=np.uint64)

    def add(self, keys: Any, weights: Any) -> None:
        """Add weights by key (u8); keys may occur several times."""
        for row, at in zip(self._counts, self._places(keys), strict=True):
            np.add.at(row, at, weights)

    def estimate(self, keys: Any) -> Any:
        """The sum of each key's weights, or more."""
        rows = [row[at] for row, at in zip(self._counts, self._places(keys), strict=True)]
        return np.min(rows, axis=0) if len(keys) else np.zeros(0)

    def fade(self, factor: float) -> None:
        """Let what was count less than what comes."""
        self._counts *= factor

    def _places(self, keys: Any) -> Iterable[Any]:
        width = np.uint64(self._counts.shape[1])
        for salt in self._salts:
            yield mixed(np.column_stack((keys, np.full(len(keys), salt)))) % width


class HeavyHitters:
    """The keys with most weight: sums by a count-min sketch, and of the keys themselves only the heaviest ``size``."""

    def __init__(self, size: int = 128, width: int = 4096) -> None:
        self._size = size
        self._sketch = CountMin(width)
        self._kept: dict[int, Any] = {}

    def add(self, keys: Any, weights: Any, names: Any) -> None:
        """Add weights; ``names`` is what each key (u8) stands for."""
        distinct, first = np.unique(keys, return_index=True)
        self._sketch.add(keys, weights)
        estimates = self._sketch.estimate(distinct)
        for at in np.argsort(estimates)[::-1][: self._size].tolist():
            self._kept.setdefault(int(distinct[at]), names[int(first[at])])
        if len(self._kept) > 2 * self._size:
            self._kept = {key: name for key, name, _ in self._ranked()[: self._size]}

    def fade(self, factor: float) -> None:
        """Let what was count less than what comes."""
        self._sketch.fade(factor)

    def top(self, count: int) -> list[tuple[Any, float]]:
        """The heaviest with their weights, which may be too high but not too low."""
        return [(name, weight) for _, name, weight in self._ranked()[:count]]

    def _ranked(self) -> list[tuple[int, Any, float]]:
        keys = np.fromiter(self._kept, np.uint64, len(self._kept))
        weights = self._sketch.estimate(keys).tolist()
        found = [(key, name, weight) for (key, name), weight in zip(self._kept.items(), weights, strict=True)]
        return sorted(found, key=lambda each: -each[2])


class HyperLogLog:
    """How many different keys there were, within 1.04/sqrt(registers) (P. Flajolet et al.: HyperLogLog, 2007)."""

    def __init__(self, bits: int = 10) -> None:
        self._bits = bits
        self._registers = np.zeros(1 << bits, np.uint8)

    def add(self, hashes: Any) -> None:
        """Take keys, as 64-bit hashes."""
        at = (hashes >> np.uint64(64 - self._bits)).astype(np.int64)
        rest = (hashes << np.uint64(self._bits)) | np.uint64((1 << self._bits) - 1)
        leading = 63 - np.floor(np.log2(rest.astype(np.float64))).clip(0, 63)
        np.maximum.at(self._registers, at, (leading + 1).astype(np.uint8))

    def count(self) -> float:
        """The estimate; by linear counting where few registers are used."""
        size = len(self._registers)
        estimate = 0.7213 / (1 + 1.079 / size) * size * size / float(np.sum(2.0 ** -self._registers.astype(np.float64)))
        empty = int((self._registers == 0).sum())
        return size * float(np.log(size / empty)) if estimate <= 2.5 * size and empty else estimate


class Recent:
    """Whether a key was there lately: two Bloom filters (B. H. Bloom, 1970), of which the older is emptied in turn."""

    def __init__(self, bits: int = 1 << 22) -> None:
        self._bits = np.uint64(bits)
        self._filters = [np.zeros(bits, np.bool_), np.zeros(bits, np.bool_)]

    def add(self, hashes: Any) -> None:
        """Keys are there now."""
        for at in self._places(hashes):
            self._filters[0][at] = True

    def has(self, hashes: Any) -> Any:
        """Whether keys were there since the turn before last; a few are said to have been that were not."""
        first, second = self._places(hashes)
        return np.any([each[first] & each[second] for each in self._filters], axis=0)

    def turn(self) -> None:
        """Forget what was there before the last turn."""
        self._filters.reverse()
        self._filters[0][:] = False

    def _places(self, hashes: Any) -> tuple[Any, Any]:
        return hashes % self._bits, (hashes >> np.uint64(32)) % self._bits
