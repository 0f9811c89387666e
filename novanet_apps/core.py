"""What all NovaNet apps share: one graph, one intent store, one flow engine, made once and given to every app.

Ryu makes one ``Core`` for all apps that name it in ``_CONTEXTS``; it starts when the first app starts, when every
selected app has said by ``use`` which features of the pipeline it brings.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from novanet_apps.balancing_counters import BalancingCounters
from novanet_apps.captures import Captures
from novanet_apps.drops import Drops
from novanet_apps.flow_engine import FlowEngine
from novanet_apps.handovers import Handovers
from novanet_apps.hypervisors import Hypervisors
from novanet_apps.intent import IntentStore
from novanet_apps.intent.identities import IdentityCollector
from novanet_apps.meter_counters import MeterCounters
from novanet_apps.metrics import Metric, collect
from novanet_apps.policy_log import PolicyLog
from novanet_apps.punts import Punts
from novanet_apps.reconciler import Reconciler
from novanet_apps.rule_counters import RuleCounters
from pipelines.compiler import Compiler, Feature
from topology.changes import Change, Edit
from topology.graph import Topology
from topology.links import is_alive

if TYPE_CHECKING:
    from novanet_apps.telemetry.app import Processes

LOG = logging.getLogger(__name__)


def _spare_the_collector() -> None:
    """Keep the garbage collector from walking through all that was loaded: it holds the event loop meanwhile.

    Measured with 10,000 ports: pauses of 0.2 to 0.5 s without this, 0.03 to 0.06 s with it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)


class Core:
    """The parts of a controller and the way news travels between them."""

    def __init__(self) -> None:
        self.topology = Topology()
        self._subscribers: list[Callable[[list[Change]], None]] = []
        self.features: list[Feature] = []
        self.engine = FlowEngine(self)
        self.store = IntentStore(self)
        self.hypervisors = Hypervisors(self)
        self.reconciler = Reconciler(self)
        self.handovers = Handovers(self)
        self.punts = Punts(self)
        self.drops = Drops(self)
        self.rule_counters = RuleCounters(self)
        self.balancing_counters = BalancingCounters(self)
        self.meter_counters = MeterCounters(self)
        self.policy_log = PolicyLog(self)
        self.identities = IdentityCollector(self)
        self.captures = Captures(self)
        self.telemetry: Processes | None = None
        """The processes of ``novanet_apps.telemetry``, where that app is loaded."""
        self._started = False

    def use(self, feature: Feature) -> None:
        """An app brings a feature of the pipeline; before ``start``."""
        self.features.append(feature)

    def start(self) -> None:
        """Start every part; later calls do nothing."""
        if self._started:
            return
        self._started = True
        LOG.info("features: %s", ", ".join(feature.name for feature in self.features) or "none")
        self.reconciler.start(Compiler(self.features))
        self.engine.on_port(self.hypervisors.port_seen)
        self.engine.on_confirmed(lambda hypervisor: self.handovers.advance())
        self.engine.start()
        self.hypervisors.start()
        self.store.on_ready(_spare_the_collector)
        self.store.on_ready(self.reconciler.store_ready)
        self.store.on_ready(self.hypervisors.complete)
        self.store.on_ready(self.identities.start)
        self.store.start()
        self.captures.start()

    def close(self) -> None:
        """Called by Ryu when it ends: sessions and the embedded server end, the switches keep what they have."""
        self.captures.stop()
        self.hypervisors.stop()
        self.engine.stop()
        self.store.stop()

    def apply(self, edits: Iterable[Edit]) -> list[Change]:
        """Edit the graph and tell everyone; for committed intent and for observations alike."""
        changes = self.topology.apply(self.handovers.staged(edits))
        if changes:
            self.reconciler.changed(changes)
            self.hypervisors.changed(changes)
            for tell in self._subscribers:
                tell(changes)
            self.handovers.advance()
        return changes

    observe = apply

    def subscribe(self, tell: Callable[[list[Change]], None]) -> None:
        """Call ``tell`` with every batch of changes, in the greenlet that made them; it must not block."""
        self._subscribers.append(tell)

    def active_gateway(self, router_id: str) -> str | None:
        """The hypervisor that is a router's gateway now: the best that somebody's probe (BFD) reaches, or nobody probes."""
        topology, seen = self.topology, self.hypervisors.connected
        return next((id for id in topology.gateways_of(router_id) if is_alive(topology, id, seen)), None)

    def counters(self) -> dict[str, Metric]:
        """The metrics of all parts, by name."""
        return collect(self)
