"""A comparison of a bridge with its ledger in the background, while changes go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import eventlet
from eventlet.semaphore import Semaphore

from pipelines.ledger import Ledger
from pipelines.wire import Delta

from . import reading
from .session import Session, SessionEnded, SwitchError

LOG = logging.getLogger(__name__)

STEP = 250
"""Flows that are compared before others get their turn: some 3 ms. What somebody waits for takes a dozen turns."""
_ONE_AT_A_TIME = Semaphore(1)
"""Nobody waits for an audit: those of several bridges have half of the processor together."""


class Audit:
    """Started by making it, at a moment when nothing is on its way to the switch."""

    def __init__(self, session: Session, ledger: Ledger, rouse: Callable[[], None]) -> None:
        self.done = False
        self.seconds = 0.0
        """How long it took."""
        self._session, self._ledger, self._rouse = session, ledger, rouse
        self._found = Delta()
        self._touched: set[bytes | tuple[str, int]] = set()
        self._greenlet = eventlet.spawn(self._run)

    def touch(self, delta: Delta) -> None:
        """These were changed meanwhile: what was read of them says nothing."""
        self._touched.update(delta.flows)
        self._touched.update(("group", id) for id in delta.groups)
        self._touched.update(("meter", id) for id in delta.meters)

    def drift(self) -> Delta:
        """What leads back to what the ledger wants."""
        flows = {key: body for key, body in self._found.flows.items() if key not in self._touched}
        groups = {id: body for id, body in self._found.groups.items() if ("group", id) not in self._touched}
        meters = {id: change for id, change in self._found.meters.items() if ("meter", id) not in self._touched}
        return Delta(flows, groups, meters)

    def stop(self) -> None:
        """End it early."""
        self._greenlet.kill()

    def _run(self) -> None:
        try:
            with _ONE_AT_A_TIME:
                began = time.monotonic()
                self._read()
                self.seconds = time.monotonic() - began
        except SessionEnded:
            return
        except (SwitchError, ValueError) as error:
            LOG.warning("a bridge cannot be audited: %s", error)
            self._found = Delta()
        self.done = True
        self._rouse()

    def _read(self) -> None:
        groups, meters = reading.read_groups(self._session), reading.read_meters(self._session)
        turn = time.monotonic()
        for delta in self._ledger.differences(reading.read_flows(self._session), groups, meters, STEP):
            self._found.then(delta)
            eventlet.sleep(time.monotonic() - turn)
            turn = time.monotonic()
