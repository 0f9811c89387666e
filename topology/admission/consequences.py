"""What goes with an edit."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from ..changes import Edit
from ..model import FloatingIp, Neighbour
from .draft import View


def consequences(view: View, edit: Edit) -> Iterator[Edit]:
    """The edits to be made before an admitted one, together with it.

    Floating IPs wait for another port when theirs is deleted; what was learned of hosts outside goes with their network.
    """
    if edit.value is not None:
        return
    match edit.kind:
        case "port":
            for id in sorted(view.floating_of(edit.id)):
                floating: FloatingIp = view.get("floating-ip", id)
                revision = floating.revision_number + 1
                detached = replace(floating, port_id=None, fixed_ip_address=None, revision_number=revision)
                yield Edit("floating-ip", id, detached)
        case "network":
            for id in sorted(view.neighbours_in(edit.id)):
                if is_learned(view, "neighbour", id):
                    yield Edit("neighbour", id, None)


def is_learned(view: View, kind: str, id: str) -> bool:
    """Whether an object is a host outside that NovaNet learned of by itself, which keeps nothing from being deleted."""
    neighbour: Neighbour | None = view.get(kind, id) if kind == "neighbour" else None
    return neighbour is not None and neighbour.learned
