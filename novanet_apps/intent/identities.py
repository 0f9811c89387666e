"""Collects identities that no port has any more, so that their numbers are free again.

A number may stand for other ports only when no hypervisor takes it for the old ones. So an identity goes in two steps:
it is retired, which ends its memberships and so takes it out of every switch; and when every hypervisor has confirmed
that, it is deleted. A port that wants it meanwhile has it back (see ``topology.admission``), and the store decides who
was first. A hypervisor that is away keeps identities from being deleted until it is back, or is taken away itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import eventlet
from eventlet.event import Event

from pipelines.compiler import Owner
from topology.admission import Refused, Write
from topology.changes import Change

if TYPE_CHECKING:
    from novanet_apps.core import Core

LOG = logging.getLogger(__name__)

LINGER = 30.0
"""Seconds that an identity stays after its last port, since the next one often comes soon."""
PERIOD = 1.0
"""Seconds between two looks at how far hypervisors are."""
AT_ONCE = 300
"""Writes under way."""


class Confirmations:
    """Whether every hypervisor has confirmed what was known of at some moment: when this was made."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Owner] | None] = {}
        self._done: set[str] = set()

    def look(self, unconfirmed: dict[str, set[Owner] | None]) -> bool:
        """Take note of the owners that each hypervisor has yet to confirm, None for one that cannot say; whether each
        has confirmed all that it had not when it was first looked at.

        What has changed since then, again and again perhaps, is not waited for.
        """
        for hypervisor, now in unconfirmed.items():
            if hypervisor in self._done:
                continue
            before = self._waiting.get(hypervisor)
            left = now if before is None or now is None else before & now
            self._waiting[hypervisor] = left
            if left is not None and not left:
                self._done.add(hypervisor)
        return self._done >= unconfirmed.keys()


class IdentityCollector:
    """One greenlet, which works while there are identities without ports. ``counters`` count since the start."""

    def __init__(self, core: Core, linger: float = LINGER, period: float = PERIOD) -> None:
        self._core = core
        self._linger, self._period = linger, period
        self._idle: dict[str, float] = {}
        """When an identity (by its row's id) was first seen without ports; monotonic seconds."""
        self._wake: Event = Event()
        self.counters = {"retired": 0, "deleted": 0}

    def start(self) -> None:
        """Begin to collect; the store's content is loaded."""
        self._core.subscribe(self._changed)
        for identity in self._core.topology.all("identity").values():
            self._note(identity.number)
        eventlet.spawn(self._run)

    def _changed(self, changes: list[Change]) -> None:
        for change in changes:
            match change.kind:
                case "port":
                    number = change.old.identity if change.old is not None else None
                    if number is not None and (change.new is None or change.new.identity != number):
                        self._note(number)
                case "identity" if change.new is not None:
                    self._note(change.new.number)

    def _note(self, number: int) -> None:
        """Look at an identity later on when no port has it now."""
        id = self._core.topology.identities.get(number)
        if id is None or self._core.topology.ports_with(number):
            return
        self._idle.setdefault(id, time.monotonic())
        if not self._wake.ready():
            self._wake.send()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake = Event()
            while self._idle:
                eventlet.sleep(self._period)
                try:
                    self.collect(time.monotonic())
                except Exception:
                    LOG.exception("identities that no port has are not collected")

    def collect(self, now: float) -> None:
        """Retire what is due at a time, and delete it once every hypervisor has confirmed; blocks until then."""
        due = [id for id, since in self._idle.items() if now - since >= self._linger]
        fresh = [id for id in due if self._is_unused(id) and not self._is_retired(id) and not self._is_told(id)]
        self.counters["retired"] += self._write(
            Write("patch", "identity", id, {"retired": True}, system=True) for id in fresh
        )
        retired = [id for id in due if self._is_retired(id)]
        if retired:
            confirmations = Confirmations()
            while not confirmations.look(self._unconfirmed()):
                eventlet.sleep(self._period)
            done = (Write("delete", "identity", id, system=True) for id in retired if self._is_retired(id))
            self.counters["deleted"] += self._write(done)
        for id in due:
            del self._idle[id]
            if self._is_unused(id):  # somebody was in the way: again later
                self._idle[id] = now

    def _unconfirmed(self) -> dict[str, set[Owner] | None]:
        return {id: self._core.reconciler.unconfirmed(id) for id in self._core.topology.all("hypervisor")}

    def _is_unused(self, id: str) -> bool:
        identity = self._core.topology.get("identity", id)
        return identity is not None and not self._core.topology.ports_with(identity.number)

    def _is_retired(self, id: str) -> bool:
        return self._is_unused(id) and self._core.topology.get("identity", id).retired

    def _is_told(self, id: str) -> bool:
        """Whether rules for it are wanted somewhere, since a port that had it is not yet known by another (``handovers``)."""
        return bool(self._core.topology.hypervisors_with(self._core.topology.get("identity", id).number))

    def _write(self, writes: Iterable[Write]) -> int:
        """Make each write by itself, since a port may have taken one of the identities meanwhile; how many were made."""
        made = 0
        pending = list(writes)
        for start in range(0, len(pending), AT_ONCE):
            some = [eventlet.spawn(self._submit, write) for write in pending[start : start + AT_ONCE]]
            made += sum(each.wait() for each in some)
        return made

    def _submit(self, write: Write) -> bool:
        try:
            self._core.store.submit([write])
        except Refused as refused:
            LOG.info("identity %s is not collected now: %s", write.id, refused)
            return False
        return True
