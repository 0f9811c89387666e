"""Members' health, written to the intent store: when it changes, and again where the store has lost it."""

from __future__ import annotations

import logging
from typing import Any

import eventlet
from eventlet.event import Event

from novanet_apps.host_agent.judge import Health
from novanet_apps.ovsdb.link import OvsdbError
from novanet_apps.ovsdb.session import Session
from topology.schema import record_operations

LOG = logging.getLogger(__name__)

BATCH = 300
PAUSE = 1.0
"""Seconds until writing is tried again after it failed."""
LONGEST_DETAIL = 1024


class Reports:
    """One greenlet that writes. Of several words on a member the last counts."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting: dict[str, dict[str, Any]] = {}
        self._said: dict[str, tuple[Health, str]] = {}
        self._wake: Event = Event()
        self.written = 0

    def start(self) -> None:
        """Begin to write."""
        eventlet.spawn(self._run)

    def say(self, member_id: str, health: Health, detail: str) -> None:
        """Have it recorded how a member is."""
        self._waiting[member_id] = {"health": health, "health_detail": detail[:LONGEST_DETAIL]}
        self._said[member_id] = health, detail
        if not self._wake.ready():
            self._wake.send()

    def seen(self, member_id: str, health: Health) -> None:
        """The store has this of a member: if it is not what was said last, and nothing new is on its way, say it again."""
        said = self._said.get(member_id)
        if said is not None and said[0] != health and member_id not in self._waiting:
            self.say(member_id, *said)

    def forget(self, member_id: str) -> None:
        """It is no longer for this agent to say how the member is."""
        self._said.pop(member_id, None)
        self._waiting.pop(member_id, None)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake = Event()
            while self._waiting:
                batch = dict(list(self._waiting.items())[:BATCH])
                try:
                    self._write(batch)
                except OvsdbError as problem:
                    LOG.warning("the health of %d members is not recorded yet: %s", len(self._waiting), problem)
                    eventlet.sleep(PAUSE)
                    continue
                self.written += len(batch)
                for id, fields in batch.items():
                    if self._waiting.get(id) is fields:
                        del self._waiting[id]

    def _write(self, batch: dict[str, dict[str, Any]]) -> None:
        operations = record_operations("member", batch)

        def build(txn: Any, idl: Any) -> None:
            for operation in operations:
                txn.add_op(operation)

        self._session.transact(build)
