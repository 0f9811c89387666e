"""Edits of the graph and the set of changes that a batch of them makes."""

from __future__ import annotations

from typing import Any, NamedTuple

Owner = tuple[str, str]
"""(kind, id) of what flows belong to: a port, a network, a hypervisor's policy …"""
Dirty = tuple[str, Owner]
"""(hypervisor, owner): what has to be compiled anew."""


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

    def only_in(self, *names: str) -> bool:
        """Whether old and new, objects both, differ in no other fields than these."""
        old, new = self.old, self.new
        if old is None or new is None:
            return False
        fields: tuple[str, ...] = type(new).__struct_fields__
        return all(getattr(old, name) == getattr(new, name) for name in fields if name not in names)
