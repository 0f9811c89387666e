"""Packets that switches hand to the controller, given to whoever answers them.

A flow says by the register ``PUNT`` why it punts (``pipelines.punting``). A responder takes what it is for with ``on``;
it runs in the greenlet that reads the switch's connection, so it must not block.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from novanet_apps.histogram import Histogram
from pipelines import fields as f
from pipelines.fields import Field
from pipelines.flow import CONTROLLER, IN_PORT_RESERVED, Action, output, resubmit, set_bits, set_field
from pipelines.punting import Reason
from pipelines.tables import ROUTER_NAT, Table
from pipelines.wire import read_packet_in

if TYPE_CHECKING:
    from .core import Core

LOG = logging.getLogger(__name__)

_REASONS = {int(reason): reason for reason in Reason}
HERE_ONLY = (set_bits(f.FROM_TUNNEL, 1),)
"""For ``through``: a flood that stays on the hypervisor, as one from a tunnel does."""
_SEND_BACK = (output(IN_PORT_RESERVED),)


class Punt(NamedTuple):
    """A packet that a switch handed over. Keys and numbers are 0 where there is none."""

    hypervisor_id: str
    reason: Reason
    frame: bytes
    table: int
    in_port: int
    vni: int
    """Of the network that it was in last."""
    port_key: int
    """Of the VM port that sent it."""
    router_key: int
    """Of the router that had it last."""
    fields: Mapping[Field, int]
    """All that the switch told about it."""


class Punts:
    """Who answers which packets, and how many there were."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.received: Counter[str] = Counter()
        """Packets by reason."""
        self.failed: Counter[str] = Counter()
        """Packets whose responder raised an exception."""
        self.refused: Counter[str] = Counter()
        """What packets asked for, and a limit forbade."""
        self.times: defaultdict[str, Histogram] = defaultdict(Histogram)
        """How long it took from the message to the answer."""
        self.unreadable = 0
        self._responders: dict[Reason, Callable[[Punt], None]] = {}
        core.engine.on_packet_in(self._take)

    def on(self, reason: Reason, answer: Callable[[Punt], None]) -> None:
        """Have ``answer`` called with every packet that is punted for this reason."""
        self._responders[reason] = answer

    def _take(self, hypervisor_id: str, message: bytes) -> None:
        began = time.perf_counter()
        try:
            packet = read_packet_in(message)
        except ValueError as problem:
            self.unreadable += 1
            LOG.warning("hypervisor %s: a packet-in cannot be read: %s", hypervisor_id, problem)
            return
        fields = packet.fields
        reason = _REASONS.get(fields.get(f.PUNT, 0))
        answer = self._responders.get(reason) if reason is not None else None
        if reason is None or answer is None:
            self.unreadable += reason is None
            return
        self.received[reason.name] += 1
        try:
            answer(
                Punt(
                    hypervisor_id,
                    reason,
                    packet.data,
                    packet.table,
                    fields.get(f.IN_PORT, 0),
                    fields.get(f.NETWORK, 0),
                    fields.get(f.IN_PORT_KEY, 0),
                    fields.get(f.ROUTER, 0),
                    fields,
                )
            )
        except Exception:
            self.failed[reason.name] += 1
            LOG.exception("answer to a packet of hypervisor %s (%s)", hypervisor_id, reason.name)
        self.times[reason.name].observe(time.perf_counter() - began)

    # --- sending -------------------------------------------------------------------------------------------------

    def reply(self, punt: Punt, frame: bytes) -> None:
        """Send a frame out of the port that the packet came in by."""
        self.core.engine.packet_out(punt.hypervisor_id, frame, _SEND_BACK, punt.in_port)

    def inject(self, hypervisor_id: str, frame: bytes, actions: Iterable[Action]) -> None:
        """Send a frame by these actions; see ``through`` for a way into the tables."""
        self.core.engine.packet_out(hypervisor_id, frame, tuple(actions), CONTROLLER)

    def route(self, punt: Punt, frame: bytes) -> None:
        """Have the router that the packet was in route a frame of its own, which goes where such an answer would.

        What it answers may have been translated by NAT before, so that is undone first.
        """
        registers = (set_field(f.ROUTER, punt.router_key),)
        self.inject(punt.hypervisor_id, frame, through(ROUTER_NAT, punt.vni, registers))


def through(table: Table, vni: int, registers: Iterable[Action] = ()) -> tuple[Action, ...]:
    """The actions that put a packet of the controller into a table, as one of a network."""
    return (set_field(f.NETWORK, vni), set_bits(f.EXEMPT, 1), *registers, resubmit(table.number))
