"""Edits of the graph and the set of changes that a batch of them makes."""

from __future__ import annotations

from typing import Any, NamedTuple


class Edit(NamedTuple):
    """Put ``value`` in place of whatever (kind, id) was; None takes it away."""

    kind: str
    id: str
    value: Any


class Change(NamedTuple):
    """What an edit did: ``old`` and ``new`` differ, and one of them may be None."""

    kind: str
    id: str
    old: Any
    new: Any
