"""A write under way: what it wants, what there is, and who asks."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..model import Network, Object
from ..sharing import is_common
from .allocation import Allocator
from .draft import View, describe
from .write import Refused, Write


class Context(NamedTuple):
    """A write under way."""

    view: View
    write: Write
    cls: type[Object]
    """The model of its kind."""
    new: Any
    """The object with what was given and kept; None where something is still to be allocated."""
    old: Any
    """What stands in its place now, or None."""
    allocator: Allocator

    def visible(self, kind: str, id: str, field: str) -> Any:
        """The object that a field refers to. Raises Refused(404) when the writer sees none such.

        What everyone may use is there for everyone (see ``sharing``).
        """
        found = self.view.get(kind, id)
        project = self.write.project
        foreign = project is not None and found is not None and type(found).TENANT and found.project_id != project
        if found is None or (foreign and not is_common(self.view, found)):
            raise Refused(404, field, f"there is no {kind} {id}")
        return found

    def guest(self, network: Network) -> bool:
        """Whether the writer is a tenant, and the network somebody else's."""
        return self.write.project not in (None, network.project_id)

    def held(self, kind: str, id: str) -> str:
        """Who has something, in words for the writer."""
        return describe(self.view, kind, id, self.write.project)

    def holds(self, kind: str, holder: str | None, what: str, field: str) -> None:
        """Raises Refused(409) when somebody else has it."""
        if holder is not None and holder != self.new.id:
            raise Refused(409, field, f"{what} is in use by {self.held(kind, holder)}")
