"""Hands a port from one identity to another so that no packet is lost that both allow.

Switches know numbers, and none takes a packet of a number that its rules do not name. So a port whose groups or labels change
goes in three steps, which the graph has as ``Handover``:

1. the rules of every hypervisor that the port's packets may come to know the new identity, while flows tell the old one;
2. flows tell the new one;
3. the rules for the old one go from where the port is. (Elsewhere they stay until nobody has it, see ``intent.identities``.)

What a port may do no longer it may until the second step. So that is not put off for longer than ``PATIENCE``, nor for
switches that are away. A port whose new identity is known where it comes to, as in a large group, is not put off at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import eventlet
from msgspec.structs import replace

from topology import policy_scope, reach
from topology.changes import Edit
from topology.model import Handover, Port

if TYPE_CHECKING:
    from .core import Core

LOG = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds after which flows tell a new identity although not all rules are known to have it."""
LINGER = 1.0
"""Seconds that the rules for an old one stay after the last flow that told it: Open vSwitch's datapath looks at what it has
cached again every half second, and packets that wait for conntrack have been identified already."""


class Handovers:
    """Every port that is on its way from one identity to another."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._until: dict[str, float] = {}
        """Ports in the first step, and when it ends at the latest; monotonic seconds."""
        self._telling: set[str] = set()
        """Ports in the second step."""
        self._alarm: Any = None
        self.counters = {"begun": 0, "hurried": 0}

    def staged(self, edits: Iterable[Edit]) -> list[Edit]:
        """The edits, with those that begin and end handovers."""
        made: list[Edit] = []
        for edit in edits:
            if edit.kind == "port":
                made += self._begun(edit.id, edit.value)
            made.append(edit)
        return made

    def _begun(self, id: str, new: Port | None) -> Iterable[Edit]:
        topology = self._core.topology
        old: Port | None = topology.get("port", id)
        handover: Handover | None = topology.get("handover", id)
        if new is None or topology.location(id) is None:
            self._until.pop(id, None)
            self._telling.discard(id)
            return (Edit("handover", id, None),) if handover is not None else ()
        if old is None or old.identity == new.identity:
            return ()
        self.counters["begun"] += 1
        told = topology.identity_told(old)
        former = handover.former if handover is not None else frozenset()
        self._telling.discard(id)
        # one that changes again and again does not begin to wait anew
        self._until.setdefault(id, time.monotonic() + PATIENCE)
        return (Edit("handover", id, Handover(told=told, former=former | {told} - {0})),)

    def advance(self) -> None:
        """Take every port as far as it can go; called when the graph has changed, and when switches have confirmed."""
        if self._until:
            self._tell()
        for id in list(self._telling):
            self._leave(id)

    def _tell(self) -> None:
        """The second step for whom there is nothing, or no time, left to wait for."""
        topology, now = self._core.topology, time.monotonic()
        unready: dict[str, list[str]] = {}
        late: dict[str, list[str]] = {}
        edits = []
        for id, until in list(self._until.items()):
            network = topology.get("port", id).network_id
            if network not in unready:
                unready[network] = list(self._unready(network))
            if unready[network]:
                if now < until:
                    continue
                late[id] = unready[network]
            del self._until[id]
            self._telling.add(id)
            edits.append(Edit("handover", id, replace(topology.get("handover", id), told=None)))
        if late:
            self._complain(late)
        if edits:
            self._core.apply(edits)
        if self._until and self._alarm is None:
            self._alarm = eventlet.spawn_after(max(0.0, min(self._until.values()) - now), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self.advance()

    def _complain(self, late: dict[str, list[str]]) -> None:
        self.counters["hurried"] += len(late)
        known = (
            self._core.topology.get("hypervisor", each) for each in {each for ids in late.values() for each in ids}
        )
        names = ", ".join(sorted(each.name for each in known if each is not None))
        ports = ", ".join(list(late)[:5]) + (", …" if len(late) > 5 else "")
        LOG.warning("hypervisors %s may not know new identities after %.1f s, of ports %s", names, PATIENCE, ports)

    def _unready(self, network: str) -> Iterable[str]:
        """The connected hypervisors that packets of a network's ports come to, and whose rules are not known to be there."""
        for hypervisor in reach.where(self._core.topology, network):
            if self._core.reconciler.awaits(hypervisor, policy_scope.owner(hypervisor)):
                yield hypervisor

    def _leave(self, id: str) -> None:
        """The third step, once no flow where the port is tells the old identity."""
        here = self._core.topology.location(id)
        if here is not None and self._core.reconciler.awaits(here, ("port", id)):
            return
        self._telling.discard(id)
        eventlet.spawn_after(LINGER, self._end, id, self._core.topology.get("handover", id))

    def _end(self, id: str, handover: Handover) -> None:
        """End a handover unless the port has begun another one meanwhile."""
        if self._core.topology.get("handover", id) is handover:
            self._core.apply([Edit("handover", id, None)])
