"""Batches that a switch has and has not answered, and the loads that they are parts of."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from pipelines.compiler import Owner
from pipelines.wire import Batch, Error, Reply, Subject

from .session import Session

FIRST_XID, LAST_XID = 0x80000000, 0xBFFFFFFF
"""Transaction ids of batches; those of single requests are above, those of Ryu's messages below."""


def transaction_ids() -> Iterator[int]:
    """Ids for the messages of batches, without end; one comes again after a thousand million others."""
    while True:
        yield from range(FIRST_XID, LAST_XID + 1)


class Load:
    """Changes that were sent together, in one or more batches, for some owners."""

    __slots__ = ("landed", "launched", "number", "owners", "sealed")

    def __init__(self, number: int, owners: list[Owner]) -> None:
        self.number, self.owners = number, owners
        self.launched = self.landed = 0
        self.sealed = False
        """Whether all of its batches were sent."""

    @property
    def done(self) -> bool:
        """Whether the switch has answered all of it."""
        return self.sealed and self.landed == self.launched


class Flight:
    """One batch on its way; ``errors`` are (xid, error) as they come."""

    __slots__ = ("bundle", "errors", "last", "load", "subjects")

    def __init__(self, batch: Batch, load: Load) -> None:
        self.bundle, self.last, self.subjects, self.load = batch.bundle, batch.last, batch.subjects, load
        self.errors: list[tuple[int, Error]] = []

    def concerns(self, xid: int) -> bool:
        """Whether a message with this transaction id is about this batch."""
        return xid == self.last or xid == self.bundle or xid in self.subjects

    def blamed(self) -> list[tuple[Subject, Error]]:
        """What the switch objected to; empty when it did not say."""
        found = [(self.subjects[xid], error) for xid, error in self.errors if xid in self.subjects]
        if not found and len(self.subjects) == 1:
            found = [(subject, self.errors[0][1]) for subject in self.subjects.values()]
        return found


class Flights:
    """The batches of one session in the order sent. ``landed`` is called with each as the switch answers it."""

    def __init__(self, session: Session, landed: Callable[[Flight], None]) -> None:
        self._session, self._landed = session, landed
        self._flying: deque[Flight] = deque()
        session.on_batch_reply = self._receive

    def __len__(self) -> int:
        return len(self._flying)

    @property
    def newest(self) -> Load | None:
        """The load of the batch sent last, while it is on its way."""
        return self._flying[-1].load if self._flying else None

    def launch(self, batch: Batch, load: Load) -> None:
        """Send a batch."""
        load.launched += 1
        self._flying.append(Flight(batch, load))
        self._session.send(batch.data)

    def _receive(self, xid: int, reply: Reply) -> bool:
        for flight in self._flying:
            if flight.concerns(xid):
                break
        else:
            return False
        if isinstance(reply, Error):
            flight.errors.append((xid, reply))
        if xid == flight.last:
            self._flying.remove(flight)
            flight.load.landed += 1
            self._landed(flight)
        return True
