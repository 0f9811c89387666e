"""DHCP, DHCPv6 and router advertisements: answers prepared for each port, and sent as soon as a VM asks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import eventlet

from novanet_apps.punts import HERE_ONLY, Punt, through
from pipelines import plans
from pipelines.packets import dhcp4, dhcp6, router_advertisement
from pipelines.placement import live_vni
from pipelines.punting import Reason
from pipelines.tables import FLOOD
from topology.changes import Change
from topology.model import Port

if TYPE_CHECKING:
    from novanet_apps.core import Core

LOG = logging.getLogger(__name__)

ADVERTISE_EVERY = 300.0
"""Seconds between two unsolicited router advertisements; routers count as gone after six times as long."""
_OF_ALL = ("subnet", "network", "router", "tunnel-mesh", "hypervisor")
"""Kinds of objects that the answers for many ports depend on."""


class Prepared(Protocol):
    """An answer that is ready but for what the question says."""

    def answer(self, frame: bytes) -> bytes | None: ...


class Addressing:
    """Answers what VMs ask about their addresses."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._prepared: dict[tuple[Reason, str], Prepared | None] = {}
        """By reason and id of the port, or of the network for router advertisements."""

    def start(self) -> None:
        """Begin to answer, and to advertise."""
        for reason in (Reason.DHCPV4, Reason.DHCPV6, Reason.ROUTER_SOLICITATION):
            self.core.punts.on(reason, self._answer)
        self.core.subscribe(self._changed)
        eventlet.spawn(self._advertise)

    def _answer(self, punt: Punt) -> None:
        topology = self.core.topology
        port: Port | None = topology.get("port", topology.port_keys.get(punt.port_key, ""))
        if port is None:
            return
        prepared = self._for(punt.reason, port)
        reply = prepared.answer(punt.frame) if prepared is not None else None
        if reply is not None:
            self.core.punts.reply(punt, reply)

    def _for(self, reason: Reason, port: Port) -> Prepared | None:
        key = (reason, port.network_id if reason is Reason.ROUTER_SOLICITATION else port.id)
        if key not in self._prepared:
            self._prepared[key] = self._prepare(reason, port)
        return self._prepared[key]

    def _prepare(self, reason: Reason, port: Port) -> Prepared | None:
        topology = self.core.topology
        made: dict[Reason, tuple[Callable[[], Any], Callable[[Any], Prepared]]] = {
            Reason.DHCPV4: (lambda: plans.dhcp4_plan(topology, port), dhcp4.prepare),
            Reason.DHCPV6: (lambda: plans.dhcp6_plan(topology, port), dhcp6.prepare),
            Reason.ROUTER_SOLICITATION: (
                lambda: plans.advertisement_plan(topology, port.network_id),
                router_advertisement.prepare,
            ),
        }
        plan, prepare = made[reason]
        try:
            found = plan()
            return None if found is None else prepare(found)
        except ValueError as problem:
            LOG.error("port %s cannot be told its addresses (%s): %s", port.id, reason.name, problem)
            return None

    def _changed(self, changes: list[Change]) -> None:
        """Forget the answers that changes may have made untrue."""
        told_anew = set()
        for change in changes:
            if change.kind in _OF_ALL or (change.kind == "port" and (change.new or change.old).router_id is not None):
                self._prepared.clear()
            elif change.kind == "port":
                for reason in (Reason.DHCPV4, Reason.DHCPV6):
                    self._prepared.pop((reason, change.id), None)
            if change.kind == "port" and (change.new or change.old).router_id is not None:
                told_anew.add((change.new or change.old).network_id)
        for network in told_anew:
            eventlet.spawn_after(1.0, self._advertise_in, network)  # once the switches know the router

    # --- unsolicited advertisements (RFC 4861 section 6.2.4) -------------------------------------------------------

    def _advertise(self) -> None:
        while True:
            eventlet.sleep(ADVERTISE_EVERY)
            for network in list(self.core.topology.all("network")):
                self._advertise_in(network)
                eventlet.sleep(0)

    def _advertise_in(self, network_id: str) -> None:
        """Tell all VMs of a network, wherever they are: one packet for each hypervisor that has some."""
        topology = self.core.topology
        vni = live_vni(topology, network_id)
        plan = plans.advertisement_plan(topology, network_id)
        if vni is None or plan is None:
            return
        frame = router_advertisement.prepare(plan).advertisement
        for hypervisor in list(topology.hypervisors_of(network_id)):
            self.core.punts.inject(hypervisor, frame, through(FLOOD, vni, HERE_ONLY))
