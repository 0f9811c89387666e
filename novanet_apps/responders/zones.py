"""The names of VMs, network by network: made when first asked for, and kept current from then on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import eventlet

from pipelines import fields as f
from pipelines.packets import dns
from pipelines.plans import domain_of, host_name
from topology.changes import Change
from topology.model import Port

if TYPE_CHECKING:
    from novanet_apps.core import Core

LOG = logging.getLogger(__name__)

SLICE = 0.008
"""Seconds of filling a zone between two looks at the event loop."""
LOOK_EVERY = 64
"""Ports between two looks at the clock."""


@lru_cache(maxsize=1024)
def _in_order(realm: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(realm))


class Zones:
    """The zones of networks. One is filled in slices, since its network may have thousands of ports."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._zones: dict[str, dns.Zone] = {}
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        """By network whose zone is being filled: what to do when it is."""

    def best(self, query: dns.Query, network_id: str, again: Callable[[], None]) -> dns.Zone | None:
        """The zone that has the last word on a query from a network: its own, or that of one which routers join with it.

        Of several with the same domain it is one that has the name. None while a zone is being made: ``again`` is
        called when it is there.
        """
        end = time.monotonic() + SLICE
        own = self._ready(network_id, again, end)
        if own is None or own.has(query):
            return own
        zones = [own]
        for other in _in_order(self.core.topology.realm_of(network_id)):
            zone = self._ready(other, again, end)
            if zone is None or zone.has(query):
                return zone
            zones.append(zone)
        return next((zone for zone in zones if zone.answers(query)), own)

    # --- making them ---------------------------------------------------------------------------------------------

    def _ready(self, network_id: str, again: Callable[[], None], end: float) -> dns.Zone | None:
        if network_id not in self._zones:
            self._make(network_id, end)
        if network_id in self._waiting:
            self._waiting[network_id].append(again)
            return None
        return self._zones[network_id]

    def _make(self, network_id: str, end: float) -> None:
        """Begin a zone; a small one is full at once, if there is time until ``end``. Changes go into it from now on."""
        topology = self.core.topology
        prefixes = [topology.get("subnet", id).cidr for id in topology.subnets_of(network_id)]
        domain = domain_of(topology.get("network", network_id))
        zone = self._zones[network_id] = dns.Zone([domain], prefixes)
        ports = list(topology.ports_of(network_id))
        if len(ports) <= LOOK_EVERY and time.monotonic() < end:
            self._put(zone, domain, ports)
        else:
            self._waiting[network_id] = []
            eventlet.spawn(self._fill, network_id, zone, domain, ports)

    def _fill(self, network_id: str, zone: dns.Zone, domain: str, ports: list[str]) -> None:
        end = time.monotonic() + SLICE
        for start in range(0, len(ports), LOOK_EVERY):
            self._put(zone, domain, ports[start : start + LOOK_EVERY])
            if time.monotonic() > end:
                eventlet.sleep(0)
                end = time.monotonic() + SLICE
            if self._zones.get(network_id) is not zone:
                return  # it was forgotten meanwhile, and who waited was told
        for again in self._waiting.pop(network_id):
            again()

    def _put(self, zone: dns.Zone, domain: str, port_ids: list[str]) -> None:
        """The names that VMs have now: the host name, with the domain and bare."""
        for id in port_ids:
            port: Port | None = self.core.topology.get("port", id)
            name = host_name(port) if port is not None and port.router_id is None else ""
            if port is None or not name:
                zone.discard(id)
                continue
            texts = [fixed.ip_address for fixed in port.fixed_ips or () if fixed.ip_address]
            v4 = tuple(f.ip(text) for text in texts if ":" not in text)
            v6 = tuple(f.ip(text) for text in texts if ":" in text)
            try:
                zone.put(id, dns.Host((f"{name}.{domain}", name), v4, v6))
            except ValueError as problem:
                LOG.error("port %s cannot be found by name: %s", id, problem)
                zone.discard(id)

    # --- keeping them --------------------------------------------------------------------------------------------

    def changed(self, changes: list[Change]) -> None:
        """Keep the zones that were made: a port's names are edited in place, another domain or prefix makes a new zone."""
        topology = self.core.topology
        for change in changes:
            obj = change.new or change.old
            match change.kind:
                case "network" if change.new is None or change.old is None or domain_of(change.old) != domain_of(obj):
                    self._forget(change.id)
                case "subnet" if change.new is None or change.old is None:
                    self._forget(obj.network_id)
                case "port" if obj.network_id in self._zones and topology.get("network", obj.network_id) is not None:
                    domain = domain_of(topology.get("network", obj.network_id))
                    self._put(self._zones[obj.network_id], domain, [change.id])

    def _forget(self, network_id: str) -> None:
        self._zones.pop(network_id, None)
        waiting = self._waiting.pop(network_id, ())
        if waiting:
            eventlet.spawn(lambda: [again() for again in waiting])
