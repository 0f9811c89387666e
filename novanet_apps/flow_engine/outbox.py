"""What is to be sent on one connection, what was sent and not answered, and the owners who wait for it."""

from __future__ import annotations

from collections.abc import Callable

import eventlet

from novanet_apps.compat import CONF
from pipelines.compiler import Owner
from pipelines.wire import Delta, batches

from .counters import Counters
from .failures import Failures
from .flights import Flight, Flights, Load, transaction_ids
from .session import Session

WAITING, ENCODED = 0, -1
"""What ``pending`` says of an owner that no load has yet: not encoded, encoded."""


class Outbox:
    """Collects changes into bundles, sends them, and confirms owners. Its methods belong to the bridge's worker.

    ``pending``: unconfirmed owner -> number of the load that has what it wants, or WAITING, or ENCODED. ``rest`` lets the
    worker wait for news, ``rouse`` is news, ``tell`` is called when owners were confirmed.
    """

    _xids = transaction_ids()

    def __init__(
        self,
        session: Session,
        counters: Counters,
        failures: Failures,
        pending: dict[Owner, int],
        *,
        rest: Callable[[], None],
        rouse: Callable[[], None],
        tell: Callable[[], None],
    ) -> None:
        self._version = session.version
        self._counters, self._failures, self._pending = counters, failures, pending
        self._rest, self._rouse, self._tell = rest, rouse, tell
        self._delta = Delta()
        self._owners: list[Owner] = []
        self._loads = 0
        self.flights = Flights(session, self._landed)

    @property
    def waiting(self) -> bool:
        """Whether there is something to ``ship``."""
        return bool(self._owners) or len(self._delta) > 0

    def take(self, delta: Delta, owners: list[Owner]) -> None:
        """Add changes, and the owners whose wants they complete; an owner's stay in one bundle if they can."""
        if len(self._delta) and len(self._delta) + len(delta) > CONF.bundle_size:
            self.ship()
        self._delta.then(delta)
        self._owners += owners
        if len(self._delta) >= CONF.bundle_size:
            self.ship()

    def ship(self) -> None:
        """Send what was taken."""
        delta, owners, self._delta, self._owners = self._delta, self._owners, Delta(), []
        load = self.flights.newest if not len(delta) else None
        if load is None:
            load = self.open(owners)
        else:
            self._charge(load, owners)  # they wait for what is on its way
        self.send(delta, load)
        self.seal(load)

    def open(self, owners: list[Owner]) -> Load:
        """A load for these owners, as far as they are encoded."""
        self._loads += 1
        load = Load(self._loads, [])
        self._charge(load, owners)
        return load

    def send(self, delta: Delta, load: Load) -> None:
        """Send changes in bundles, no more of them at a time than the switch may have unanswered.

        Stops when something was refused: the comparison that follows finds what was not sent.
        """
        if not len(delta):
            return
        self._count(delta)
        for batch in batches(delta, self._version, self._xids, self._failures.bundle_size(CONF.bundle_size)):
            while len(self.flights) >= CONF.bundles_in_flight and self._failures.first is None:
                self._rest()
            if self._failures.first is not None:
                return
            self.flights.launch(batch, load)
            self._counters.bundles += batch.bundle is not None
            eventlet.sleep(0)

    def seal(self, load: Load) -> None:
        """All of the load was sent."""
        load.sealed = True
        self._settle(load)

    def _charge(self, load: Load, owners: list[Owner]) -> None:
        for owner in owners:
            if self._pending.get(owner, WAITING) != WAITING:
                self._pending[owner] = load.number
                load.owners.append(owner)

    def _count(self, delta: Delta) -> None:
        deleted = sum(1 for body in delta.flows.values() if body is None)
        self._counters.flows_deleted += deleted
        self._counters.flows_sent += len(delta.flows) - deleted
        self._counters.groups_sent += len(delta.groups)
        self._counters.meters_sent += len(delta.meters)

    def _landed(self, flight: Flight) -> None:
        """The switch has answered a batch; called in the receiving greenlet."""
        if flight.errors:
            self._counters.bundle_errors += 1
            self._failures.note(flight)
        else:
            self._settle(flight.load)
        self._rouse()

    def _settle(self, load: Load) -> None:
        """Confirm a load's owners when all of it has landed."""
        if not load.done or self._failures.first is not None:
            return
        # An owner put again while its load was on its way, with nothing new to send, was charged to that load twice.
        confirmed = [owner for owner in dict.fromkeys(load.owners) if self._pending.get(owner) == load.number]
        for owner in confirmed:
            del self._pending[owner]
            self._failures.forget(owner)
        load.owners = []
        self._failures.settled()
        if confirmed:
            self._tell()
