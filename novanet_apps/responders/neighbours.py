"""Hosts outside: who has the address of a next hop (ARP, RFC 826; neighbour discovery, RFC 4861).

What is learned goes into the intent store, so that every hypervisor and the next controller know it. A neighbour that is
known is asked now and then whether it is still there.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from ipaddress import ip_address
from typing import TYPE_CHECKING

import eventlet

from novanet_apps.punts import Punt, through
from pipelines import fields as f
from pipelines.gateways import way_out
from pipelines.packets import frames, neighbours
from pipelines.punting import Reason
from pipelines.tables import L2_LOOKUP, PROVIDER_OUTPUT
from topology.model import Neighbour

if TYPE_CHECKING:
    from novanet_apps.core import Core

ASK_AGAIN = 1.0
"""Seconds between two questions for one address; also between two changes of one address that are believed."""
GIVE_UP = 10.0
"""Seconds after which an unanswered question is forgotten, with the packets that wait for its answer."""
KEEP = 3
"""Packets that wait for an answer, for each next hop; the oldest give way."""
MOST = 256
"""Questions that packets of one router may leave open: who looks through a whole prefix keeps only itself waiting."""
CHECK_EVERY = 30.0
"""Seconds between two checks of what is known."""
FORGET_AFTER = 3
"""Checks without an answer after which a neighbour is forgotten."""

Place = tuple[str, int]
"""(network, address)."""


class _Question:
    """An address that was asked for, and the packets that go there."""

    __slots__ = ("asked", "frames", "router_key")

    def __init__(self, router_key: int) -> None:
        self.asked = 0.0
        self.router_key = router_key
        self.frames: deque[tuple[str, bytes]] = deque(maxlen=KEEP)


class Neighbours:
    """Asks for MAC addresses outside, and learns from the answers."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._open: dict[Place, _Question] = {}
        """Questions, the one that was asked the longest ago first."""
        self._of_router: Counter[int] = Counter()
        self._learned: dict[Place, tuple[float, int]] = {}
        """When what was learned last, the oldest first: the store and the switches take a moment."""
        self._moved: dict[Place, float] = {}
        """When an address got another MAC address, the longest ago first."""
        self._silent: dict[Place, int] = {}

    def start(self) -> None:
        """Begin to ask and to learn."""
        self.core.punts.on(Reason.RESOLVE, self._resolve)
        self.core.punts.on(Reason.NEIGHBOUR, self._learn)
        eventlet.spawn(self._check)

    # --- asking --------------------------------------------------------------------------------------------------

    def _resolve(self, punt: Punt) -> None:
        """A packet whose next hop is unknown: it waits while that is asked for."""
        network = self.core.topology.vnis.get(punt.vni)
        try:
            ethernet = frames.read_ethernet(punt.frame)
            packet = frames.read_ip(ethernet)
        except frames.Malformed:
            return
        target = _next_hop(punt, packet.version)
        if network is None or not target:
            return
        place, now = (network, target), time.monotonic()
        mac = self._mac(place, packet.version)
        if mac is not None:
            self._send_on(punt.hypervisor_id, punt.vni, mac, punt.frame)
            return
        question = self._question(place, punt.router_key, now)
        if question is None:
            self.core.punts.refused[Reason.RESOLVE.name] += 1
            return
        question.frames.append((punt.hypervisor_id, punt.frame))
        if now - question.asked < ASK_AGAIN:
            return
        question.asked = now
        self._open[place] = self._open.pop(place)
        source = self._source(punt, network, packet.src, packet.version)
        if source:
            self._ask(punt.hypervisor_id, punt.vni, packet.version, ethernet.src, source, target)

    def _question(self, place: Place, router_key: int, now: float) -> _Question | None:
        """The question for an address; None when a router has too many open."""
        question = self._open.get(place)
        if question is None:
            self._give_up(now)
            if self._of_router[router_key] >= MOST:
                return None
            self._of_router[router_key] += 1
            question = self._open[place] = _Question(router_key)
        return question

    def _give_up(self, now: float) -> None:
        for place, question in list(self._open.items()):
            if now - question.asked < GIVE_UP:
                break
            self._close(place)

    def _close(self, place: Place) -> _Question | None:
        question = self._open.pop(place, None)
        if question is not None:
            self._of_router[question.router_key] -= 1
            if not self._of_router[question.router_key]:
                del self._of_router[question.router_key]
        return question

    def _source(self, punt: Punt, network: str, packet_source: int, version: int) -> int:
        """Who asks: the packet's source where a router or floating IP has it outside, else the router."""
        topology = self.core.topology
        text = _text(packet_source, version)
        if any((subnet, text) in topology.addresses for subnet in topology.subnets_of(network)):
            return packet_source
        out = way_out(topology, topology.router_keys.get(punt.router_key))
        return (out.address(version) or 0) if out is not None else 0

    def _ask(
        self, hypervisor: str, vni: int, version: int, mac: int, source: int, target: int, to: int | None = None
    ) -> None:
        """``to`` is the MAC address that it had; None: everybody is asked."""
        if version == 6:
            question = neighbours.solicitation(mac, source, target, to_mac=to)
        elif to is None:
            question = neighbours.arp_request(mac, source, target)
        else:
            question = neighbours.arp_request(mac, source, target, to_mac=to)
        self.core.punts.inject(hypervisor, question, through(PROVIDER_OUTPUT, vni))

    def _send_on(self, hypervisor: str, vni: int, mac: int, frame: bytes) -> None:
        self.core.punts.inject(hypervisor, mac.to_bytes(6, "big") + frame[6:], through(L2_LOOKUP, vni))

    # --- learning ------------------------------------------------------------------------------------------------

    def _learn(self, punt: Punt) -> None:
        found = neighbours.parse(punt.frame)
        network = self.core.topology.vnis.get(punt.vni)
        if found is None or network is None or not found.ip:
            return
        place, now = (network, found.ip), time.monotonic()
        known = self._known(place, found.version)
        question = self._close(place)
        if known is None and question is None:
            return  # nobody wants to know
        self._silent.pop(place, None)
        if known is not None and not known.learned:
            return
        if self._is_news(place, known, found.mac, now):
            self.core.store.learn(network, _text(found.ip, found.version), found.mac.to_bytes(6, "big").hex(":"))
        for hypervisor, frame in question.frames if question is not None else ():
            self._send_on(hypervisor, punt.vni, found.mac, frame)

    def _is_news(self, place: Place, known: Neighbour | None, mac: int, now: float) -> bool:
        """Whether to tell the store; two hosts that claim one address may not keep it busy."""
        if known is not None and f.mac(known.mac_address) == mac:
            return False
        for old, when in list(self._moved.items()):
            if now - when < ASK_AGAIN:
                break
            del self._moved[old]
        for old, (when, _) in list(self._learned.items()):
            if now - when < ASK_AGAIN:
                break
            del self._learned[old]
        if place in self._moved or (known is None and place in self._learned):
            return False
        if known is not None:
            self._moved[place] = now
        self._learned.pop(place, None)
        self._learned[place] = now, mac
        return True

    def _mac(self, place: Place, version: int) -> int | None:
        """What is known already, though not yet to every switch."""
        when, mac = self._learned.get(place, (0.0, 0))
        if mac and time.monotonic() - when < ASK_AGAIN:
            return mac
        known = self._known(place, version)
        return f.mac(known.mac_address) if known is not None else None

    def _known(self, place: Place, version: int) -> Neighbour | None:
        network, address = place
        id = self.core.topology.neighbours.get((network, _text(address, version)))
        found: Neighbour | None = self.core.topology.get("neighbour", id) if id is not None else None
        return found

    # --- checking ------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        while True:
            learned = [each for each in self.core.topology.all("neighbour").values() if each.learned]
            for neighbour in learned:
                self._check_one(neighbour)
                eventlet.sleep(CHECK_EVERY / len(learned))
            if not learned:
                eventlet.sleep(CHECK_EVERY)

    def _check_one(self, neighbour: Neighbour) -> None:
        """Ask a neighbour, and everybody when it was silent the last time; forget it when it has been silent for long."""
        asking = self._asking(neighbour)
        if asking is None:
            return
        hypervisor, vni, mac, source = asking
        place = (neighbour.network_id, f.ip(neighbour.ip_address))
        silent = self._silent.get(place, 0)
        if silent >= FORGET_AFTER:
            del self._silent[place]
            self.core.store.forget(neighbour.network_id, neighbour.ip_address)
            return
        self._silent[place] = silent + 1
        version = 6 if ":" in neighbour.ip_address else 4
        to = None if silent else f.mac(neighbour.mac_address)
        self._ask(hypervisor, vni, version, mac, source, place[1], to)

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


def _next_hop(punt: Punt, version: int) -> int:
    """What the switch says about the next hop; 0 when it says nothing."""
    if version == 4:
        return punt.fields.get(f.NEXT_HOP, 0)
    parts = [punt.fields.get(part, 0) << shift for part, shift in f.NEXT_HOP6.parts]
    return sum(parts) or punt.fields.get(f.NEXT_HOP6, 0)


def _text(address: int, version: int) -> str:
    return str(ip_address(address.to_bytes(4 if version == 4 else 16, "big")))
