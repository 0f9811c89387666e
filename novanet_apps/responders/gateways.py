"""Which gateway is alive, and who tells the outside: gratuitous ARP (RFC 5227) and unsolicited neighbour advertisements.

The switches turn to another gateway by themselves (``pipelines.nat``). Here it is only seen, so that the new one announces
the router's addresses, and the API can say which one it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import eventlet

from novanet_apps.punts import through
from pipelines import fields as f
from pipelines.nat import WayOut, way_out
from pipelines.packets import neighbours
from pipelines.tables import PROVIDER_OUTPUT
from topology.changes import Change
from topology.model import FloatingIp

if TYPE_CHECKING:
    from novanet_apps.core import Core

TIMES, APART = 3, 0.5
"""How often an address is announced, and seconds in between: a frame may be lost."""


class Gateways:
    """Announces the addresses of routers and floating IPs where they have come to be."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._active: dict[str, str | None] = {}
        self._homes: dict[str, str | None] = {}

    def start(self) -> None:
        """Begin to watch."""
        self.core.subscribe(self._changed)

    def _changed(self, changes: list[Change]) -> None:
        topology = self.core.topology
        routers: dict[str, None] = {}
        floating: dict[str, None] = {}
        for change in changes:
            match change.kind:
                case "link":
                    peer = (change.new or change.old).peer_id
                    routers.update((id, None) for id in topology.all("router") if peer in topology.gateways_of(id))
                case "gateways" | "router":
                    routers[change.id] = None
                case "floating-ip":
                    floating[change.id] = None
                case "location":
                    floating.update(dict.fromkeys(topology.floating_of(change.id)))
                case "bridge":
                    routers.update(dict.fromkeys(topology.all("router")))
        for router in routers:
            self._look_at_router(router)
        for id in floating:
            self._look_at_floating(id)

    def _look_at_router(self, router_id: str) -> None:
        active = self.core.active_gateway(router_id)
        if self._active.get(router_id) == active:
            return
        self._active[router_id] = active
        out = way_out(self.core.topology, router_id)
        if active is not None and out is not None:
            addresses = [*out.addresses, *self._forwarded(out)]
            self._announce(active, out.vni, out.mac, addresses)

    def _forwarded(self, out: WayOut) -> Iterable[str]:
        """Floating IPs that the router's gateway answers for."""
        topology = self.core.topology
        for floating in topology.all("floating-ip").values():
            if topology.router_of_floating(floating.id) == out.router.id and not self._with_vm(floating):
                yield floating.floating_ip_address

    def _with_vm(self, floating: FloatingIp) -> str | None:
        """The VM's hypervisor, where a floating IP is realised there."""
        topology = self.core.topology
        here = topology.location(floating.port_id) if floating.port_id is not None else None
        return here if here is not None and here in topology.wired_to(floating.floating_network_id) else None

    def _look_at_floating(self, id: str) -> None:
        floating: FloatingIp | None = self.core.topology.get("floating-ip", id)
        out = way_out(self.core.topology, self.core.topology.router_of_floating(id))
        here = self._with_vm(floating) if floating is not None else None
        home = here or (self.core.active_gateway(out.router.id) if out is not None else None)
        if self._homes.get(id) == home:
            return
        self._homes[id] = home
        if home is not None and out is not None and floating is not None and floating.floating_ip_address is not None:
            mac = f.mac(floating.mac_address or "") if here is not None else out.mac
            self._announce(home, out.vni, mac, [floating.floating_ip_address])

    def _announce(self, hypervisor: str, vni: int, mac: int, addresses: Iterable[str]) -> None:
        frames = [
            neighbours.unsolicited_advertisement(mac, f.ip(text), router=True)
            if ":" in text
            else neighbours.arp_announcement(mac, f.ip(text))
            for text in addresses
        ]
        for number in range(TIMES):
            eventlet.spawn_after(number * APART, self._send, hypervisor, vni, frames)

    def _send(self, hypervisor: str, vni: int, frames: list[bytes]) -> None:
        for frame in frames:
            self.core.punts.inject(hypervisor, frame, through(PROVIDER_OUTPUT, vni))
