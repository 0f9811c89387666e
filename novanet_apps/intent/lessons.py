"""What NovaNet learns of hosts outside, on its way into the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import eventlet

from novanet_apps.intent.writer import Submission
from topology.admission import Refused, Write
from topology.graph import Topology

LOG = logging.getLogger(__name__)

PENDING_LIMIT = 10_000
"""Hosts that may wait to be recorded; more are left out, and learned again when somebody asks for them."""

Place = tuple[str, str]
"""(network id, IP address)."""


class Lessons:
    """Nobody waits for what is learned; of several words on one host the last one counts."""

    def __init__(self, topology: Topology, submit: Callable[[Sequence[Write]], Submission]) -> None:
        self._topology = topology
        self._submit = submit
        self._pending: dict[Place, str | None] = {}
        self._running = False

    def note(self, network_id: str, ip_address: str, mac_address: str | None) -> None:
        """A host outside has this MAC address, or has gone (None)."""
        place = network_id, ip_address
        if place not in self._pending and len(self._pending) >= PENDING_LIMIT:
            LOG.warning("intent store: %d hosts outside wait to be recorded; %s is left out", PENDING_LIMIT, ip_address)
            return
        self._pending[place] = mac_address
        if not self._running:
            self._running = True
            eventlet.spawn(self._run)

    def _run(self) -> None:
        try:
            while self._pending:
                pending, self._pending = self._pending, {}
                self._record(pending)
        finally:
            self._running = False

    def _record(self, pending: dict[Place, str | None]) -> None:
        """Write each by itself, so that one that cannot be does no harm to the others; they share transactions."""
        try:
            under_way = [
                self._submit([write])
                for place, mac in pending.items()
                if (write := self._write(place, mac)) is not None
            ]
        except Refused as refused:
            LOG.warning("intent store: what was learned of %d hosts outside is lost: %s", len(pending), refused)
            return
        for submission in under_way:
            try:
                submission.outcome.wait()
            except Refused as refused:
                LOG.info("intent store: a host outside is not recorded: %s", refused)

    def _write(self, place: Place, mac: str | None) -> Write | None:
        """What has to be written; nothing when it is known already, or was set by an administrator."""
        id = self._topology.neighbours.get(place)
        known = self._topology.get("neighbour", id) if id is not None else None
        if known is not None and not known.learned:
            return None
        if mac is None:
            return None if known is None else Write("delete", "neighbour", known.id, system=True)
        fields = {"mac_address": mac, "learned": True}
        if known is None:
            network_id, ip_address = place
            fields |= {"network_id": network_id, "ip_address": ip_address}
            return Write("create", "neighbour", fields=fields, system=True)
        return None if known.mac_address == mac else Write("patch", "neighbour", known.id, fields, system=True)
