"""Admission: what a write to the intent store means, and whether it is allowed. Pure.

``admit(view, write, allocator)`` turns a ``Write`` into the ``Edit`` that it stands for: fields checked against the
model and brought to one form, defaults filled in, numbers and addresses allocated, references and uniqueness
proved against ``view``. What cannot be is ``Refused`` with an HTTP status, the field and what to do.

``consequences(view, edit, allocator)`` are the edits that go with an admitted one; ``claims(view, edit)`` the objects of whose
promises it takes something.

``view`` is a ``Topology``, or a ``Draft`` laid over one: writes admitted earlier in the same batch, not yet stored.
"""

from .admit import admit, conflict
from .allocation import Allocator
from .consequences import consequences
from .draft import Draft, View
from .promises import claims
from .write import Refused, Write

__all__ = ["Allocator", "Draft", "Refused", "View", "Write", "admit", "claims", "conflict", "consequences"]
