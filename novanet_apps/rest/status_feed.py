"""Notices when an object's status changes, while somebody is watching.

Status follows from much: what was compiled, confirmed, plugged and connected. Objects that a change touched are looked
at until they are no longer BUILD; hypervisors always, and with a hypervisor's status that of everything on it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from eventlet import sleep, spawn

from topology import balancing_scope, captures, exporters, qos_status
from topology.changes import Change
from topology.model import KINDS, Object, Port

from .views import sliced

if TYPE_CHECKING:
    from novanet_apps.core import Core

LOG = logging.getLogger(__name__)
PERIOD = 0.25
"""Seconds between two looks."""
Node = tuple[str, str]
_MEANS = {
    "vif": "port", "location": "port", "bridge": "hypervisor", "presence": "network", "membership": "network",
    "gateways": "router", "members": "security-group",
}  # fmt: skip
"""Changes of these kinds may change the status of the object of that kind."""


class StatusFeed:
    """Calls ``tell(kind, object)`` when a status, or the reason for it, is another than it was."""

    def __init__(self, core: Core, tell: Callable[[str, Object], None]) -> None:
        self._core = core
        self._tell = tell
        self._last: dict[Node, tuple[str, list[str]]] = {}
        self._open: dict[Node, None] = {}
        self._wanted = False
        self._running = False

    def touch(self, changes: list[Change]) -> None:
        """Look at what the changes concern, from the next look on."""
        for change in changes:
            kind = _MEANS.get(change.kind, change.kind)
            if kind in KINDS:
                self._open[kind, change.id] = None
            if kind in ("port", "router"):
                self._open.update(dict.fromkeys(self._outside(kind, change.id)))
            self._open.update((("port", id), None) for id in qos_status.touched(self._core.topology, change))
            self._open.update(
                (("flow-exporter", id), None) for id in exporters.touched(self._core.topology, change.kind)
            )
            self._open.update(
                (("capture", id), None) for id in captures.touched(self._core.topology, change.kind, change.id)
            )
            if change.kind == kind and change.new is None:
                self._last.pop((kind, change.id), None)

    def start(self) -> None:
        """Look until ``stop`` is called; everything is told that happens from now on."""
        self._wanted = True
        if not self._running:
            self._running = True
            for id in sliced(list(self._core.topology.all("hypervisor"))):
                self._last["hypervisor", id] = self._judge("hypervisor", id)
            spawn(self._run)

    def _run(self) -> None:
        try:
            while self._wanted:
                sleep(PERIOD)
                self._look()
        except Exception:
            LOG.exception("status changes are no longer told to clients of /v1/events")
        finally:
            self._running = False
            self._last.clear()
            self._open.clear()

    def stop(self) -> None:
        """Nobody is watching any more."""
        self._wanted = False

    def _look(self) -> None:
        for id in sliced(list(self._core.topology.all("hypervisor"))):
            if self._look_at("hypervisor", id):
                self._open.update(dict.fromkeys(self._on(id)))
        for kind, id in sliced(list(self._open)):
            self._look_at(kind, id)

    def _on(self, hypervisor: str) -> Iterator[Node]:
        """What a hypervisor realises."""
        topology = self._core.topology
        routers = {port.router_id or "" for id in topology.reached_from(hypervisor) for port in topology.routed_by(id)}
        for kind, members in (
            ("port", topology.ports_on(hypervisor)), ("network", topology.networks_on(hypervisor)), ("router", routers),
        ):  # fmt: skip
            for member in sliced(list(members)):
                yield kind, member
                if kind != "network":
                    yield from self._outside(kind, member)
        yield from (("flow-exporter", each) for each in topology.all("flow-exporter"))
        yield from self._policed(hypervisor)
        for network in sliced(list(topology.reached_from(hypervisor))):
            yield from self._balanced(list(balancing_scope.owners_in(topology, network)))

    def _balanced(self, nodes: list[Node]) -> Iterator[Node]:
        """Load balancers and pools with their parts."""
        topology = self._core.topology
        for kind, id in sliced(nodes):
            yield kind, id
            if kind == "load-balancer":
                yield from (("listener", each) for each in topology.listeners_of(id))
            else:
                yield from (("member", each) for each in topology.members_of(id))
                yield from (("health-monitor", each) for each in topology.monitors_of(id))

    def _policed(self, hypervisor: str) -> Iterator[Node]:
        """The security groups that ports on a hypervisor are members of, and their rules."""
        topology = self._core.topology
        groups = {id for number in topology.residents(hypervisor) for id in topology.groups_of_identity(number)}
        for group in sliced(list(groups)):
            yield "security-group", group
            yield from (("security-group-rule", rule) for rule in topology.rules_of(group))

    def _outside(self, kind: str, id: str) -> Iterator[Node]:
        """What follows a port or a router: interfaces, and by what it is reached: floating IPs, port forwardings, members."""
        topology = self._core.topology
        if kind == "router":
            for interface in topology.interfaces_of(id):
                yield "port", interface.id
            floating = [each.id for each in topology.all("floating-ip").values()]
            floating = [each for each in floating if topology.router_of_floating(each) == id]
        else:
            floating = list(topology.floating_of(id))
            yield from (node for node in topology.referrers("port", id) if node[0] == "port-forwarding")
            port: Port | None = topology.get("port", id)
            for fixed in (port.fixed_ips or ()) if port is not None else ():
                place = fixed.subnet_id or "", fixed.ip_address or ""
                yield from (("member", each) for each in topology.members_at(place))
        for each in floating:
            yield "floating-ip", each
            yield from (("port-forwarding", member) for member in topology.forwardings_of(each))

    def _look_at(self, kind: str, id: str) -> bool:
        """Whether the status is another than before."""
        obj = self._core.topology.get(kind, id)
        if obj is None:
            self._open.pop((kind, id), None)
            return False
        now = self._judge(kind, id)
        if now[0] != "BUILD":
            self._open.pop((kind, id), None)
        if self._last.get((kind, id)) == now:
            return False
        self._last[kind, id] = now
        self._tell(kind, obj)
        return True

    def _judge(self, kind: str, id: str) -> tuple[str, list[str]]:
        return self._core.reconciler.judge(kind, id)
