"""DHCP, DHCPv6 and router advertisements, from answers that are prepared once and kept until something they say changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import eventlet
from msgspec.structs import replace

from novanet_apps.punts import HERE_ONLY, Punt, through
from pipelines import plans
from pipelines.packets import dhcp4, dhcp6, router_advertisement
from pipelines.placement import live_vni
from pipelines.punting import Reason
from pipelines.tables import FLOOD
from topology.changes import Change
from topology.graph import Topology
from topology.model import Port, Subnet

if TYPE_CHECKING:
    from novanet_apps.core import Core

LOG = logging.getLogger(__name__)

ADVERTISE_EVERY = 300.0
"""Seconds between two unsolicited router advertisements; routers count as gone after six times as long."""
ADVERTISE_SOON = 1.0
"""Seconds from a change until hosts are told: by then the switches know it."""


class Prepared(Protocol):
    """An answer that is ready but for what the question says."""

    def answer(self, frame: bytes) -> bytes | None: ...


_MADE: dict[Reason, tuple[Callable[[Topology, Port], Any], Callable[[Any], Prepared]]] = {
    Reason.DHCPV4: (plans.dhcp4_plan, dhcp4.prepare),
    Reason.DHCPV6: (plans.dhcp6_plan, dhcp6.prepare),
    Reason.ROUTER_SOLICITATION: (
        lambda topology, port: plans.advertisement_plan(topology, port.network_id),
        router_advertisement.prepare,
    ),
}
"""What an answer says, and how its bytes are made."""


class Addressing:
    """Answers what VMs ask about their addresses."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._prepared: dict[str, dict[tuple[Reason, str], Prepared | None]] = {}
        """By network; then by reason and id of the port, or of the network for router advertisements."""
        self._advertised: dict[str, router_advertisement.Plan] = {}
        """What the hosts of a network were told last without asking."""
        self._to_tell: set[str] = set()

    def start(self) -> None:
        """Begin to answer, and to advertise."""
        for reason in _MADE:
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
        kept = self._prepared.setdefault(port.network_id, {})
        key = (reason, port.network_id if reason is Reason.ROUTER_SOLICITATION else port.id)
        if key not in kept:
            kept[key] = self._prepare(reason, port)
        return kept[key]

    def _prepare(self, reason: Reason, port: Port) -> Prepared | None:
        plan, prepare = _MADE[reason]
        try:
            found = plan(self.core.topology, port)
            return None if found is None else prepare(found)
        except ValueError as problem:
            LOG.error("port %s cannot be told its addresses (%s): %s", port.id, reason.name, problem)
            return None

    # --- what changes make untrue --------------------------------------------------------------------------------

    def _changed(self, changes: list[Change]) -> None:
        """Forget the answers that changes may have made untrue, and tell the hosts whose router has changed."""
        networks: dict[str, None] = {}
        for change in changes:
            networks.update(dict.fromkeys(self._concerned(change)))
        for network in networks:
            self._prepared.pop(network, None)
            self._tell_soon(network)

    def _concerned(self, change: Change) -> Iterable[str]:
        """The networks whose answers may all be others now; those for one port alone are forgotten here."""
        match change.kind:
            case "network":
                return (change.id,)
            case "subnet":
                return ((change.new or change.old).network_id,)
            case "router":
                return [port.network_id for port in self.core.topology.interfaces_of(change.id)]
            case "port":
                return self._concerned_by_port(change)
            case "tunnel-mesh" | "underlay":
                return list(self._prepared)  # the MTU of networks that name none follows from these
        return ()

    def _concerned_by_port(self, change: Change) -> Iterator[str]:
        """Who has a subnet's gateway address matters to everybody in the network."""
        network: str = (change.new or change.old).network_id
        kept = self._prepared.get(network, {})
        for reason in (Reason.DHCPV4, Reason.DHCPV6):
            kept.pop((reason, change.id), None)
        topology = self.core.topology
        for port in (change.old, change.new):
            for fixed in port.fixed_ips or () if port is not None else ():
                subnet: Subnet | None = topology.get("subnet", fixed.subnet_id or "")
                if subnet is not None and subnet.gateway_ip == fixed.ip_address:
                    yield network

    # --- unsolicited advertisements (RFC 4861 section 6.2.4) -----------------------------------------------------

    def _advertise(self) -> None:
        """Every network in turn, evenly over the time."""
        while True:
            networks = list(self.core.topology.all("network"))
            for network in networks:
                eventlet.sleep(ADVERTISE_EVERY / len(networks))
                self._advertise_in(network)
            if not networks:
                eventlet.sleep(ADVERTISE_EVERY)

    def _tell_soon(self, network_id: str) -> None:
        if network_id not in self._to_tell:
            self._to_tell.add(network_id)
            eventlet.spawn_after(ADVERTISE_SOON, self._advertise_in, network_id)

    def _advertise_in(self, network_id: str) -> None:
        """Tell all VMs of a network, wherever they are: one packet for each hypervisor that has some."""
        topology = self.core.topology
        self._to_tell.discard(network_id)
        vni = live_vni(topology, network_id)
        plan = plans.advertisement_plan(topology, network_id) if vni is not None else None
        before = self._advertised.pop(network_id, None)
        if plan is not None:
            self._advertised[network_id] = plan
        said = [] if plan is None else [plan]
        if before is not None and before.lifetime and (plan is None or plan.router_mac != before.router_mac):
            said.append(replace(before, lifetime=0, prefixes=()))  # that router is none any more (section 6.2.5)
        if vni is None:
            return
        try:
            frames = [router_advertisement.prepare(each).advertisement for each in said]
        except ValueError as problem:
            LOG.error("network %s cannot be advertised: %s", network_id, problem)
            return
        for hypervisor in list(topology.hypervisors_of(network_id)):
            for frame in frames:
                self.core.punts.inject(hypervisor, frame, through(FLOOD, vni, HERE_ONLY))
