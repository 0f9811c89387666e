"""The ids of every kind in order, kept up as objects come and go, so that a page costs what is on it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from typing import TYPE_CHECKING

from topology.changes import Change

if TYPE_CHECKING:
    from novanet_apps.core import Core


class Ordering:
    """Sorted ids; of a kind that nobody has listed yet, none are kept."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._ids: dict[str, list[str]] = {}
        core.subscribe(self._changed)

    def after(self, kind: str, marker: str) -> list[str]:
        """The ids that follow ``marker``, which need not be there any more. A copy."""
        ids = self._ids.get(kind)
        if ids is None:
            ids = self._ids[kind] = sorted(self._core.topology.all(kind))
        return ids[bisect_right(ids, marker) :]

    def _changed(self, changes: Iterable[Change]) -> None:
        for kind, id, old, new in changes:
            ids = self._ids.get(kind)
            if ids is None:
                continue
            if old is None:
                insort(ids, id)
            elif new is None:
                del ids[bisect_left(ids, id)]
