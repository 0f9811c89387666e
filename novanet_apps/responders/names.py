"""NovaNet's resolver: the names of VMs in their network and in those that routers join with it.

Other names are refused, or asked of the servers that ``dns_forwarders`` names, which is nobody by default.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import eventlet
from eventlet.green import socket
from eventlet.timeout import Timeout

from novanet_apps.compat import CONF
from novanet_apps.punts import Punt
from pipelines import fields as f
from pipelines.packets import dns, frames
from pipelines.plans import domain_of, host_name
from pipelines.punting import Reason
from topology.changes import Change
from topology.model import Network, Port

if TYPE_CHECKING:
    from novanet_apps.core import Core

LOG = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that one of the forwarders has for its answer."""
AT_ONCE = 256
"""Questions that may be with forwarders at a time; one more is told that it cannot be answered."""


class Names:
    """Answers DNS queries to the resolver's address."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.forwarded = 0
        self._zones: dict[str, dns.Zone] = {}
        self._pool = eventlet.GreenPool(AT_ONCE)

    def start(self) -> None:
        """Begin to answer."""
        self.core.punts.on(Reason.DNS, self._answer)
        self.core.subscribe(self._changed)

    def _answer(self, punt: Punt) -> None:
        network = self.core.topology.vnis.get(punt.vni)
        try:
            datagram = frames.read_udp(punt.frame)
        except frames.Malformed:
            return
        query = dns.parse_query(datagram.payload)
        if query is None or network is None:
            return
        zone = self._zone_for(query, network)
        recursive = bool(CONF.dns_forwarders)
        if recursive and not zone.answers(query):
            if self._pool.free() > 0:
                self._pool.spawn_n(self._forward, punt, datagram, query)
            else:
                self._send(punt, datagram, dns.failure(query, dns.SERVFAIL, recursion_available=True))
            return
        self._send(punt, datagram, dns.answer(query, zone, recursion_available=recursive))

    def _send(self, punt: Punt, asked: frames.Udp, payload: bytes) -> None:
        udp, ethertype = (frames.udp4, f.IPV4) if asked.ip.version == 4 else (frames.udp6, f.IPV6)
        packet = udp(asked.ip.dst, asked.ip.src, asked.dst_port, asked.src_port, payload)
        ethernet = asked.ethernet
        frame = frames.ethernet(ethernet.src, ethernet.dst, ethertype, packet, ethernet.tci)
        self.core.punts.reply(punt, frame)

    # --- what is known -------------------------------------------------------------------------------------------

    def _zone_for(self, query: dns.Query, network_id: str) -> dns.Zone:
        """The zone of the network itself, unless only that of another one in its realm has the name's domain."""
        own = self._zone(network_id)
        if own.answers(query):
            return own
        others = (self._zone(other) for other in sorted(self.core.topology.realm_of(network_id)) if other != network_id)
        return next((zone for zone in others if zone.answers(query)), own)

    def _zone(self, network_id: str) -> dns.Zone:
        zone = self._zones.get(network_id)
        if zone is None:
            zone = self._zones[network_id] = self._made(network_id)
        return zone

    def _made(self, network_id: str) -> dns.Zone:
        topology = self.core.topology
        network: Network = topology.get("network", network_id)
        prefixes = [topology.get("subnet", id).cidr for id in topology.subnets_of(network_id)]
        zone = dns.Zone([domain_of(network)], prefixes)
        for id in topology.ports_of(network_id):
            self._put(zone, network, topology.get("port", id))
        return zone

    def _put(self, zone: dns.Zone, network: Network, port: Port) -> None:
        """The names of one VM: its host name, with the domain and bare."""
        name = host_name(port)
        if not name or port.router_id is not None:
            return
        texts = [fixed.ip_address for fixed in port.fixed_ips or () if fixed.ip_address]
        addresses = {six: tuple(f.ip(text) for text in texts if (":" in text) == six) for six in (False, True)}
        zone.put(port.id, dns.Host((f"{name}.{domain_of(network)}", name), addresses[False], addresses[True]))

    def _changed(self, changes: list[Change]) -> None:
        """Keep the zones that were made."""
        for change in changes:
            obj = change.new or change.old
            if change.kind == "network":
                self._zones.pop(change.id, None)
            elif change.kind == "subnet":
                self._zones.pop(obj.network_id, None)
            elif change.kind == "port" and obj.network_id in self._zones:
                zone = self._zones[obj.network_id]
                zone.discard(change.id)
                if change.new is not None:
                    self._put(zone, self.core.topology.get("network", obj.network_id), change.new)

    # --- asking elsewhere ----------------------------------------------------------------------------------------

    def _forward(self, punt: Punt, asked: frames.Udp, query: dns.Query) -> None:
        """Ask the forwarders in turn, each from a port and with an id that nobody can guess (RFC 5452)."""
        self.forwarded += 1
        for server in CONF.dns_forwarders:
            found = self._ask(server, asked.payload, query)
            if found is not None:
                self._send(punt, asked, dns.with_id(found, query.id))
                return
        self._send(punt, asked, dns.failure(query, dns.SERVFAIL, recursion_available=True))

    def _ask(self, server: str, payload: bytes, query: dns.Query) -> bytes | None:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        id_ = random.SystemRandom().randrange(1 << 16)
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as asking, Timeout(PATIENCE, False):
                asking.connect((server, 53))
                asking.send(dns.with_id(payload, id_))
                while True:
                    answer: bytes = asking.recv(4096)
                    if dns.responds(answer, query, id_):
                        return answer
        except OSError as problem:
            LOG.warning("DNS server %s: %s", server, problem)
        return None
