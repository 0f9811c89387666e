"""NovaNet's resolver: the names of VMs in their network and in those that routers join with it.

Other names are refused, or asked of the servers that ``dns_forwarders`` names, which is nobody by default.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import novanet_apps.options  # noqa: F401 (registers them)
from novanet_apps.compat import CONF
from novanet_apps.punts import Punt
from pipelines import fields as f
from pipelines.packets import dns, frames
from pipelines.punting import Reason

from .forwarders import Forwarders
from .zones import Zones

if TYPE_CHECKING:
    from novanet_apps.core import Core


class Names:
    """Answers DNS queries to the resolver's address."""

    def __init__(self, core: Core) -> None:
        """Raises ConfigurationError when an option is wrong."""
        self.core = core
        self.zones = Zones(core)
        self.forwarders = Forwarders(CONF.dns_forwarders)

    def start(self) -> None:
        """Begin to answer."""
        self.core.punts.on(Reason.DNS, self._answer)
        self.core.subscribe(self.zones.changed)

    def _answer(self, punt: Punt) -> None:
        network = self.core.topology.vnis.get(punt.vni)
        try:
            datagram = frames.read_udp(punt.frame)
        except frames.Malformed:
            return
        query = dns.parse_query(datagram.payload)
        if query is None or network is None:
            return
        zone = self.zones.best(query, network, again=partial(self._answer, punt))
        if zone is None:
            return
        send = partial(self._send, punt, datagram)
        recursive = bool(self.forwarders.servers)
        failed = dns.failure(query, dns.SERVFAIL, recursion_available=recursive)
        if not recursive or zone.answers(query):
            send(dns.answer(query, zone, recursion_available=recursive))
        elif not self.forwarders.ask(punt.port_key, query, lambda found: send(found or failed)):
            self.core.punts.refused[Reason.DNS.name] += 1
            send(failed)

    def _send(self, punt: Punt, asked: frames.Udp, payload: bytes) -> None:
        udp, ethertype = (frames.udp4, f.IPV4) if asked.ip.version == 4 else (frames.udp6, f.IPV6)
        packet = udp(asked.ip.dst, asked.ip.src, asked.dst_port, asked.src_port, payload)
        ethernet = asked.ethernet
        frame = frames.ethernet(ethernet.src, ethernet.dst, ethertype, packet, ethernet.tci)
        self.core.punts.reply(punt, frame)
