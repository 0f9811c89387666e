"""The log of security groups: connections that rules with ``log`` allowed, and packets that they denied.

Switches hand over copies, as far as their meters let them (``pipelines.punting``). Each becomes a line of the logger
``novanet_apps.security_groups.log``, and stays here for a while for those who ask over REST.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from datetime import datetime, timezone
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, structs

from novanet_apps.punts import Punt
from pipelines import fields as f
from pipelines.packets.connections import Connection, connection
from pipelines.punting import Reason
from topology import ip_protocols
from topology.model import Network, Port, SecurityGroup, SecurityGroupRule

if TYPE_CHECKING:
    from .core import Core

LOG = logging.getLogger("novanet_apps.security_groups.log")

KEPT = 1000
"""Entries of a project that are kept."""
PROJECTS = 1000
"""Projects whose entries are kept, those that were written last."""
RATE, BURST = 500.0, 1000.0
"""Entries a second, and at once, that are made of what all hypervisors hand over."""
_VERDICTS: dict[str, Literal["allowed", "denied"]] = {"allow": "allowed", "deny": "denied"}


class LogEntry(Struct, frozen=True, kw_only=True):
    """A connection that a rule of a security group allowed, or a packet that it denied. Names are those of the moment."""

    id: int
    """Later entries have higher numbers; they begin anew with the controller."""
    time: str
    """When the controller heard of it (RFC 3339, UTC)."""
    verdict: Literal["allowed", "denied"]
    direction: Literal["ingress", "egress"]
    """Towards the port, or from it, when the connection began."""
    security_group_rule_id: str | None
    security_group_rule: str
    """Its name, and so on; empty where there is none, or it is not the asker's to see."""
    security_group_id: str | None
    security_group: str
    port_id: str | None
    """The VM's port that has the rule."""
    port: str
    project_id: str
    hypervisor: str
    ethertype: Literal["IPv4", "IPv6"]
    protocol: str
    source_ip: str
    """Of the connection's first packet, like all that follows."""
    source_port: int | None
    destination_ip: str
    destination_port: int | None
    icmp_type: int | None
    icmp_code: int | None
    peer_port_id: str | None
    """The VM's port at the other end, where it is known."""
    peer_port: str


class PolicyLog:
    """Makes entries, writes them to the log, and keeps the latest of every project."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.entries: Counter[str] = Counter()
        """How many were made, by verdict."""
        self.suppressed = 0
        """What came too fast, beside what switches held back."""
        self._rings: OrderedDict[str, deque[LogEntry]] = OrderedDict()
        """By project, the one that was written last at the end."""
        self._numbers = count(1)
        self._left, self._since = BURST, time.monotonic()
        core.punts.on(Reason.POLICY_LOG, self._take)

    def latest(self, project: str | None) -> Iterator[LogEntry]:
        """The entries of a project, or of all; the newest first."""
        if project is not None:
            return iter(list(reversed(self._rings.get(project, ()))))
        every = [entry for ring in self._rings.values() for entry in ring]
        return iter(sorted(every, key=lambda entry: entry.id, reverse=True))

    def _take(self, punt: Punt) -> None:
        now = time.monotonic()
        self._left = min(BURST, self._left + RATE * (now - self._since))
        self._since = now
        if self._left < 1:
            self.suppressed += 1
            return
        self._left -= 1
        entry = self._entry(punt)
        if entry is None:
            return
        self.entries[entry.verdict] += 1
        self.keep(entry)
        LOG.info("connection %s", entry.verdict, extra=_told(entry))

    def keep(self, entry: LogEntry) -> None:
        """Have an entry here for those who ask; it takes the place of the project's oldest where there are ``KEPT``."""
        ring = self._rings.get(entry.project_id)
        if ring is None:
            if len(self._rings) >= PROJECTS:
                self._rings.popitem(last=False)
            ring = self._rings[entry.project_id] = deque(maxlen=KEPT)
        self._rings.move_to_end(entry.project_id)
        ring.append(entry)

    # --- what a packet says --------------------------------------------------------------------------------------

    def _entry(self, punt: Punt) -> LogEntry | None:
        """None for a packet of a rule that has gone meanwhile, or that cannot be read."""
        topology = self.core.topology
        key = punt.fields.get(f.RULE, 0) & ~f.LOGS.mask
        rule: SecurityGroupRule | None = topology.get("security-group-rule", topology.rule_keys.get(key, ""))
        found = _tracked(punt) or connection(punt.frame)
        if rule is None or found is None:
            return None
        group: SecurityGroup | None = topology.get("security-group", rule.security_group_id)
        inward = punt.fields.get(f.FLAGS, 0) & f.INWARD.mask
        ends = [punt.port_key, punt.fields.get(f.OUT_PORT_KEY, 0)]
        port, other = (self._port(number) for number in (reversed(ends) if inward else ends))
        peer = other or self._peer(punt, port, found.source if rule.direction == "ingress" else found.destination)
        hypervisor = topology.get("hypervisor", punt.hypervisor_id)
        echoes = found.protocol in (f.ICMP, f.ICMPV6)
        return LogEntry(
            id=next(self._numbers),
            time=datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            verdict=_VERDICTS[rule.action],
            direction=rule.direction,
            security_group_rule_id=rule.id,
            security_group_rule=rule.name,
            security_group_id=rule.security_group_id,
            security_group=group.name if group is not None else "",
            port_id=port.id if port is not None else None,
            port=_name(port),
            project_id=port.project_id if port is not None else rule.project_id,
            hypervisor=hypervisor.name if hypervisor is not None else punt.hypervisor_id,
            ethertype="IPv6" if found.version == 6 else "IPv4",
            protocol=ip_protocols.NAMES.get(found.protocol, str(found.protocol)),
            source_ip=_text(found.version, found.source),
            source_port=None if echoes else found.first,
            destination_ip=_text(found.version, found.destination),
            destination_port=None if echoes else found.second,
            icmp_type=found.first if echoes else None,
            icmp_code=found.second if echoes else None,
            peer_port_id=peer.id if peer is not None else None,
            peer_port=_name(peer),
        )

    def _port(self, key: int) -> Port | None:
        """The VM's port with a key."""
        port: Port | None = self.core.topology.get("port", self.core.topology.port_keys.get(key, ""))
        return port if port is not None and port.router_id is None else None

    def _peer(self, punt: Punt, port: Port | None, address: int) -> Port | None:
        """The VM's port that has an address in a network that this port reaches, if its identity is the packet's."""
        topology = self.core.topology
        network: Network | None = topology.get("network", port.network_id) if port is not None else None
        if network is None:
            return None
        text = _text(6 if address >> 32 else 4, address)
        identities = {punt.fields.get(f.SRC_IDENTITY, 0), punt.fields.get(f.DST_IDENTITY, 0)}
        for each in (network.id, *sorted(topology.realm_of(network.id) - {network.id})):
            for subnet in topology.subnets_of(each):
                peer: Port | None = topology.get("port", topology.addresses.get((subnet, text), ""))
                if peer is not None and peer.router_id is None and (peer.identity or 0) in identities | {0}:
                    return peer
        return None


def _tracked(punt: Punt) -> Connection | None:
    """The connection as conntrack knows it: as it began, even where the packet is an answer. None where it does not."""
    told = punt.fields
    if not told.get(f.CT_STATE, 0) & f.CT_TRACKED or f.CT_NW_PROTO not in told:
        return None
    six = f.CT_IPV6_SRC in told
    source, destination = (f.CT_IPV6_SRC, f.CT_IPV6_DST) if six else (f.CT_NW_SRC, f.CT_NW_DST)
    protocol = told[f.CT_NW_PROTO]
    serves = protocol in ip_protocols.WITH_PORTS or protocol in (f.ICMP, f.ICMPV6)
    first, second = (told.get(f.CT_TP_SRC, 0), told.get(f.CT_TP_DST, 0)) if serves else (None, None)
    return Connection(6 if six else 4, protocol, told.get(source, 0), told.get(destination, 0), first, second)


def _text(version: int, address: int) -> str:
    return str(IPv6Address(address) if version == 6 else IPv4Address(address))


def _name(port: Port | None) -> str:
    return "" if port is None else port.name or port.dns_name or port.device_id


def _told(entry: LogEntry) -> dict[str, object]:
    """The fields of a log line; what there is not is left out, and the line has a time of its own."""
    every = structs.asdict(entry)
    return {name: value for name, value in every.items() if value not in (None, "") and name not in ("id", "time")}
