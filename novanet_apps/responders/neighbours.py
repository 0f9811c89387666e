"""Hosts outside: who has the address of a next hop (ARP, RFC 826; neighbour discovery, RFC 4861).

What is learned goes into the intent store, so that every hypervisor and the next controller know it. A neighbour that is
known is asked now and then whether it is still there.
"""

from __future__ import annotations

import time
from collections import deque
from ipaddress import ip_address
from typing import TYPE_CHECKING

import eventlet

from novanet_apps.punts import Punt, through
from pipelines import fields as f
from pipelines.nat import way_out
from pipelines.packets import frames, neighbours
from pipelines.punting import Reason
from pipelines.tables import L2_LOOKUP, PROVIDER_OUTPUT
from topology.model import Neighbour

if TYPE_CHECKING:
    from novanet_apps.core import Core

ASK_AGAIN = 1.0
"""Seconds between two questions for one address."""
KEEP = 3
"""Packets that wait for an answer, for each next hop; the oldest give way."""
CHECK_EVERY = 30.0
"""Seconds between two checks of what is known."""
FORGET_AFTER = 3
"""Checks without an answer after which a neighbour is forgotten."""

Place = tuple[str, int]
"""(network, address)."""


class _Wanted:
    """An address that was asked for."""

    __slots__ = ("asked", "frames")

    def __init__(self) -> None:
        self.asked = 0.0
        self.frames: deque[tuple[str, bytes]] = deque(maxlen=KEEP)


class Neighbours:
    """Asks for MAC addresses outside, and learns from the answers."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._wanted: dict[Place, _Wanted] = {}
        self._silent: dict[Place, int] = {}

    def start(self) -> None:
        """Begin to ask and to learn."""
        self.core.punts.on(Reason.RESOLVE, self._resolve)
        self.core.punts.on(Reason.NEIGHBOUR, self._learn)
        eventlet.spawn(self._check)

    # --- asking --------------------------------------------------------------------------------------------------

    def _resolve(self, punt: Punt) -> None:
        """A packet whose next hop is unknown: it waits while that is asked for."""
        topology = self.core.topology
        network = topology.vnis.get(punt.vni)
        try:
            ethernet = frames.read_ethernet(punt.frame)
            packet = frames.read_ip(ethernet)
        except frames.Malformed:
            return
        target = self._next_hop(punt, packet.version)
        if network is None or not target:
            return
        wanted = self._wanted.setdefault((network, target), _Wanted())
        wanted.frames.append((punt.hypervisor_id, punt.frame))
        now = time.monotonic()
        if now - wanted.asked < ASK_AGAIN:
            return
        wanted.asked = now
        self._forget_old(now)
        source = (
            packet.src if self._is_outside(network, packet.src, packet.version) else self._source(punt, packet.version)
        )
        if source:
            question = _question(packet.version, ethernet.src, source, target)
            self.core.punts.inject(punt.hypervisor_id, question, through(PROVIDER_OUTPUT, punt.vni))

    def _next_hop(self, punt: Punt, version: int) -> int:
        if version == 4:
            return punt.fields.get(f.NEXT_HOP, 0)
        parts = (punt.fields.get(f.register(number), 0) for number in range(8, 12))
        found = 0
        for part in parts:
            found = found << 32 | part
        return found or punt.fields.get(f.NEXT_HOP6, 0)

    def _is_outside(self, network_id: str, address: int, version: int) -> bool:
        """Whether a router or a floating IP has the address in the network, so that an answer finds its way back."""
        topology = self.core.topology
        text = str(ip_address(address.to_bytes(4 if version == 4 else 16, "big")))
        return any((subnet, text) in topology.addresses for subnet in topology.subnets_of(network_id))

    def _source(self, punt: Punt, version: int) -> int:
        """The router's own address outside, for packets that keep theirs."""
        out = way_out(self.core.topology, self.core.topology.router_keys.get(punt.router_key))
        return (out.address(version) or 0) if out is not None else 0

    def _forget_old(self, now: float) -> None:
        for place, wanted in list(self._wanted.items()):
            if now - wanted.asked > 10 * ASK_AGAIN:
                del self._wanted[place]

    # --- learning ------------------------------------------------------------------------------------------------

    def _learn(self, punt: Punt) -> None:
        found = neighbours.parse(punt.frame)
        network = self.core.topology.vnis.get(punt.vni)
        if found is None or network is None:
            return
        place = (network, found.ip)
        known = self._known(place, found.version)
        wanted = self._wanted.pop(place, None)
        if known is None and wanted is None:
            return  # nobody wants to know
        self._silent.pop(place, None)
        if known is not None and not known.learned:
            return
        text = _text(found.ip, found.version)
        if known is None or f.mac(known.mac_address) != found.mac:
            self.core.store.learn(network, text, _mac(found.mac))
        for hypervisor, frame in wanted.frames if wanted is not None else ():
            addressed = found.mac.to_bytes(6, "big") + frame[6:]
            self.core.punts.inject(hypervisor, addressed, through(L2_LOOKUP, punt.vni))

    def _known(self, place: Place, version: int) -> Neighbour | None:
        network, address = place
        id = self.core.topology.neighbours.get((network, _text(address, version)))
        found: Neighbour | None = self.core.topology.get("neighbour", id) if id is not None else None
        return found

    # --- checking ------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        while True:
            eventlet.sleep(CHECK_EVERY)
            for neighbour in list(self.core.topology.all("neighbour").values()):
                if neighbour.learned:
                    self._check_one(neighbour)
                    eventlet.sleep(0)

    def _check_one(self, neighbour: Neighbour) -> None:
        """Ask a neighbour, by a router that has its gateway there; forget it when it has been silent for long."""
        asking = self._asking(neighbour)
        if asking is None:
            return
        place = (neighbour.network_id, f.ip(neighbour.ip_address))
        if self._silent.get(place, 0) >= FORGET_AFTER:
            del self._silent[place]
            self.core.store.forget(neighbour.network_id, neighbour.ip_address)
            return
        self._silent[place] = self._silent.get(place, 0) + 1
        hypervisor, vni, mac, source = asking
        version = 6 if ":" in neighbour.ip_address else 4
        question = _question(version, mac, source, place[1], f.mac(neighbour.mac_address))
        self.core.punts.inject(hypervisor, question, through(PROVIDER_OUTPUT, vni))

    def _asking(self, neighbour: Neighbour) -> tuple[str, int, int, int] | None:
        """Hypervisor, VNI, MAC and IP address of a router that may ask."""
        version = 6 if ":" in neighbour.ip_address else 4
        for interface in self.core.topology.routed_by(neighbour.network_id):
            out = way_out(self.core.topology, interface.router_id)
            gateway = self.core.active_gateway(interface.router_id or "") if out is not None else None
            source = out.address(version) if out is not None else None
            if out is not None and gateway is not None and source is not None:
                return gateway, out.vni, out.mac, source
        return None


def _question(version: int, mac: int, source: int, target: int, to: int | None = None) -> bytes:
    if version == 4:
        return neighbours.arp_request(mac, source, target, **({} if to is None else {"to_mac": to}))
    return neighbours.solicitation(mac, source, target, to_mac=to)


def _text(address: int, version: int) -> str:
    return str(ip_address(address.to_bytes(4 if version == 4 else 16, "big")))


def _mac(number: int) -> str:
    return number.to_bytes(6, "big").hex(":")
