"""Which gateway is alive, and who tells the outside: gratuitous ARP (RFC 5227) and unsolicited neighbour advertisements.

The switches turn to another gateway by themselves (``pipelines.gateways``). Here it is only seen, so that the new one
announces the router's addresses, and floating IPs are announced where their VMs have come to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import eventlet

from novanet_apps.punts import through
from pipelines import fields as f
from pipelines.gateways import WayOut, way_out
from pipelines.packets import neighbours
from pipelines.tables import PROVIDER_OUTPUT
from topology.changes import Change
from topology.model import FloatingIp

if TYPE_CHECKING:
    from novanet_apps.core import Core

TIMES, APART = 3, 0.5
"""How often an address is announced, and seconds in between: a frame may be lost."""
GATHER = 0.02
"""Seconds in which changes gather before somebody looks at what they mean: many hypervisors see the same gateway die."""
AT_ONCE, PAUSE = 100, 0.05
"""Announcements in a row, and seconds until the next ones."""

Place = tuple[int, str]
"""(VNI, address)."""


class Announcement(NamedTuple):
    """Who has an address, and where it is."""

    hypervisor: str
    mac: int
    router: bool
    """Whether the address is a router's."""


class Gateways:
    """Announces the addresses of routers and floating IPs where they have come to be."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._said: dict[Place, Announcement] = {}
        """What was announced last, or was so when the controller began."""
        self._of: dict[tuple[str, str], set[Place]] = {}
        """The places of a router or floating IP, by kind and id."""
        self._suspects: set[str] = set()
        """Hypervisors that may have come to life, or died."""
        self._doubtful: dict[tuple[str, str], None] = {}
        self._looking = False
        self._news: dict[Place, Announcement] = {}

    def start(self) -> None:
        """Begin to watch."""
        self.core.subscribe(self._changed)

    # --- what may have changed -----------------------------------------------------------------------------------

    def _changed(self, changes: list[Change]) -> None:
        doubtful = self._doubtful
        for change in changes:
            match change.kind:
                case "link":
                    self._suspects.add((change.new or change.old).peer_id)
                case "gateways":
                    doubtful["router", change.id] = None
                case "router" | "floating-ip":
                    doubtful[change.kind, change.id] = None
                case "port" if (change.new or change.old).router_id is not None:
                    doubtful["router", (change.new or change.old).router_id] = None
                case "port-forwarding":
                    doubtful["floating-ip", (change.new or change.old).floating_ip_id] = None
                case "location":
                    doubtful.update((("floating-ip", id), None) for id in self.core.topology.floating_of(change.id))
        if (self._suspects or doubtful) and not self._looking:
            self._looking = True
            eventlet.spawn_after(GATHER, self._look)

    def _look(self) -> None:
        """Find out where the addresses are that may have moved, and announce those that have."""
        self._looking = False
        topology = self.core.topology
        suspects, self._suspects = self._suspects, set()
        doubtful, self._doubtful = self._doubtful, {}
        if suspects:
            for router in topology.all("router"):
                if not suspects.isdisjoint(topology.gateways_of(router)):
                    doubtful["router", router] = None
        moved = {id for kind, id in doubtful if kind == "router"}
        if moved:
            for floating in topology.all("floating-ip"):
                if topology.router_of_floating(floating) in moved:
                    doubtful["floating-ip", floating] = None
        for kind, id in doubtful:
            self._compare((kind, id), dict(self._router(id) if kind == "router" else self._floating_ip(id)))

    def _compare(self, what: tuple[str, str], now: dict[Place, Announcement]) -> None:
        gone = self._of.pop(what, set()) - now.keys()
        for place in gone:
            self._said.pop(place, None)
        if now:
            self._of[what] = set(now)
        for place, announcement in now.items():
            if self._said.get(place) != announcement:
                self._said[place] = announcement
                if self.core.store.ready:  # what the store had at the beginning is where it was before
                    self._announce(place, announcement)

    # --- where addresses are -------------------------------------------------------------------------------------

    def _router(self, id: str) -> Iterator[tuple[Place, Announcement]]:
        out = way_out(self.core.topology, id)
        active = self.core.active_gateway(id) if out is not None else None
        if out is not None and active is not None:
            for text in out.addresses:
                yield (out.vni, text), Announcement(active, out.mac, True)

    def _floating_ip(self, id: str) -> Iterator[tuple[Place, Announcement]]:
        topology = self.core.topology
        floating: FloatingIp | None = topology.get("floating-ip", id)
        out: WayOut | None = way_out(topology, topology.router_of_floating(id))
        if floating is None or floating.floating_ip_address is None or floating.mac_address is None or out is None:
            return
        here = topology.location(floating.port_id) if floating.port_id is not None else None
        place = out.vni, floating.floating_ip_address
        if here is not None and here in topology.wired_to(floating.floating_network_id):
            yield place, Announcement(here, f.mac(floating.mac_address), False)
        elif here is not None or floating.port_id is None:
            active = self.core.active_gateway(out.router.id)
            if active is not None:
                yield place, Announcement(active, out.mac, False)

    # --- announcing ----------------------------------------------------------------------------------------------

    def _announce(self, place: Place, announcement: Announcement) -> None:
        if not self._news:
            eventlet.spawn(self._tell)
        self._news[place] = announcement

    def _tell(self) -> None:
        news, self._news = self._news, {}
        for number in range(TIMES):
            if number:
                eventlet.sleep(APART)
            for count, (place, announcement) in enumerate(news.items(), 1):
                if self._said.get(place) == announcement:  # else it has moved on meanwhile
                    self._send(place, announcement)
                if count % AT_ONCE == 0:
                    eventlet.sleep(PAUSE)

    def _send(self, place: Place, announcement: Announcement) -> None:
        vni, text = place
        announce: Callable[..., bytes] = neighbours.arp_announcement
        options: dict[str, bool] = {}
        if ":" in text:
            announce, options = neighbours.unsolicited_advertisement, {"router": announcement.router}
        frame = announce(announcement.mac, f.ip(text), **options)
        self.core.punts.inject(announcement.hypervisor, frame, through(PROVIDER_OUTPUT, vni))
