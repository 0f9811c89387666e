"""Who wants which multicast group: VMs' IGMP and MLD reports, and the queries that make them report (RFC 4541).

Nothing of this is stored. A controller that starts asks everybody at once, and what it does not know yet is flooded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import eventlet

from novanet_apps.punts import HERE_ONLY, Punt, through
from pipelines import fields as f
from pipelines.addresses import link_local
from pipelines.flow import Action, set_field
from pipelines.packets.multicast import Event, Joined, Left, always_flooded, igmp_query, mld_query, parse
from pipelines.placement import live_vni
from pipelines.punting import Reason
from pipelines.services import SERVICE_MAC
from pipelines.tables import FLOOD, LOCAL_OUTPUT
from topology.changes import Change, Edit
from topology.graph import Topology
from topology.model import MulticastGroup, Port

if TYPE_CHECKING:
    from novanet_apps.core import Core

LOG = logging.getLogger(__name__)

QUERY_EVERY = 125.0
"""Seconds between two general queries to a network (RFC 3376 section 8.2, RFC 3810 section 9.2)."""
FORGET_AFTER = 260.0
"""Seconds without a report after which a port counts as having left: two queries and ten seconds to answer."""
GROUPS_OF_PORT = 256
GROUPS_OF_NETWORK = 1024
CHANGES_AT_ONCE, CHANGES_A_SECOND = 512, 10
"""How often a port may join or leave: each time the flows of all hypervisors of its network change."""


def _queries(response_ms: int) -> list[bytes]:
    """The frames that ask who wants which groups, and give ``response_ms`` for the answer."""
    six = mld_query(SERVICE_MAC, link_local(SERVICE_MAC), response_ms=response_ms)
    return [igmp_query(SERVICE_MAC, response_ms=response_ms), six]


REGULAR, SOON, AT_ONCE = _queries(10_000), _queries(2_000), _queries(1_000)


class Memberships:
    """The ports' memberships: what they report becomes edits of the graph. Times are monotonic seconds."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.refused = 0
        """Joins that a limit forbade."""
        self._until: dict[tuple[str, str], float] = {}
        """When (port, multicast group) ends, soonest first: what is prolonged goes to the end."""
        self._budgets: dict[str, tuple[float, float]] = {}
        """By port: how often it may still change something, and when that was true."""
        self._warned: set[str] = set()

    def take(self, port: Port, events: Iterable[Event], now: float) -> list[Edit]:
        """What the events of one message of a port change."""
        edits: dict[str, MulticastGroup | None] = {}
        for event in events:
            if not isinstance(event, Joined | Left) or always_flooded(event.group):
                continue
            text = str(IPv6Address(event.group) if event.group >> 32 else IPv4Address(event.group))
            id = f"{port.network_id}/{text}"
            known: MulticastGroup | None = edits[id] if id in edits else self.topology.get("multicast-group", id)
            member = (port.id, id) in self._until
            if isinstance(event, Left):
                if member and known is not None and self._afford(port.id, now):
                    edits[id] = self._without(known, port.id)
                continue
            if not member:
                if not self._admits(port, known, edits, now):
                    self._refuse(port, text)
                    continue
                ports = known.ports if known is not None else frozenset()
                edits[id] = MulticastGroup(network_id=port.network_id, group=text, ports=ports | {port.id})
            self._until.pop((port.id, id), None)
            self._until[port.id, id] = now + FORGET_AFTER
        return [Edit("multicast-group", id, value) for id, value in edits.items()]

    def expire(self, now: float) -> list[Edit]:
        """Memberships that nobody prolonged end."""
        due = []
        for key, until in self._until.items():
            if until > now:
                break
            due.append(key)
        return self._end(due)

    def forget_port(self, port_id: str) -> list[Edit]:
        """A port is gone: it wants nothing."""
        self._budgets.pop(port_id, None)
        self._warned.discard(port_id)
        return self._end((port_id, id) for id in list(self.topology.wanted_by(port_id)))

    def forget_network(self, network_id: str) -> list[Edit]:
        """A network is gone, and its groups with it."""
        gone = list(self.topology.multicast_groups_of(network_id))
        for id in gone:
            for port in self.topology.get("multicast-group", id).ports:
                self._until.pop((port, id), None)
        return [Edit("multicast-group", id, None) for id in gone]

    def _end(self, keys: Iterable[tuple[str, str]]) -> list[Edit]:
        edits: dict[str, MulticastGroup] = {}
        for port_id, id in keys:
            known: MulticastGroup | None = edits.get(id) or self.topology.get("multicast-group", id)
            if known is None:
                self._until.pop((port_id, id), None)
            else:
                edits[id] = self._without(known, port_id)
        return [Edit("multicast-group", id, value) for id, value in edits.items()]

    def _without(self, known: MulticastGroup, port_id: str) -> MulticastGroup:
        """The group stays known when its last receiver leaves: what is still sent to it is not to flood the network."""
        self._until.pop((port_id, f"{known.network_id}/{known.group}"), None)
        return MulticastGroup(network_id=known.network_id, group=known.group, ports=known.ports - {port_id})

    # --- limits --------------------------------------------------------------------------------------------------

    def _admits(
        self, port: Port, known: MulticastGroup | None, edits: dict[str, MulticastGroup | None], now: float
    ) -> bool:
        """Whether a port may join one more group. Makes room in a network that has too many: see ``edits``."""
        topology = self.topology
        joined = sum(value is not None and port.id in value.ports for value in edits.values())
        kept = sum(id not in edits for id in topology.wanted_by(port.id))
        if kept + joined >= GROUPS_OF_PORT or not self._afford(port.id, now):
            return False
        if known is not None:
            return True
        of_network = topology.multicast_groups_of(port.network_id)
        added = sum(value is not None and id not in of_network for id, value in edits.items())
        removed = sum(value is None for value in edits.values())
        if len(of_network) + added - removed < GROUPS_OF_NETWORK:
            return True
        unwanted = (id for id in of_network if id not in edits and not topology.get("multicast-group", id).ports)
        id = next(unwanted, None)
        if id is not None:
            edits[id] = None
        return id is not None

    def _afford(self, port_id: str, now: float) -> bool:
        left, since = self._budgets.get(port_id, (float(CHANGES_AT_ONCE), now))
        left = min(CHANGES_AT_ONCE, left + (now - since) * CHANGES_A_SECOND)
        self._budgets[port_id] = (left - 1 if left >= 1 else left, now)
        return left >= 1

    def _refuse(self, port: Port, group: str) -> None:
        self.refused += 1
        if port.id not in self._warned:
            self._warned.add(port.id)
            LOG.warning(
                "port %s joins too many multicast groups, %s is one: a port may have %d, its network %d, and %d changes "
                "a second; more are ignored from now on, without a word",
                port.id, group, GROUPS_OF_PORT, GROUPS_OF_NETWORK, CHANGES_A_SECOND,
            )  # fmt: skip


class Membership:
    """Listens to reports and asks for them."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.members = Memberships(core.topology)
        self._due: dict[str, float] = {}
        """When a network is asked next; only those in which groups are known."""
        self._asked: set[str] = set()
        """Hypervisors whose VMs were asked since their bridge connected."""

    def start(self) -> None:
        """Begin to listen and to ask."""
        self.core.punts.on(Reason.MULTICAST_MEMBERSHIP, self._heard)
        self.core.subscribe(self._changed)
        self.core.engine.on_confirmed(self._bridge_changed)
        eventlet.spawn(self._run)

    def _heard(self, punt: Punt) -> None:
        topology = self.core.topology
        port: Port | None = topology.get("port", topology.port_keys.get(punt.port_key, ""))
        if port is None:
            return
        events = parse(punt.frame)
        refused = self.members.refused
        self._observe(self.members.take(port, events, time.monotonic()))
        self.core.punts.refused[punt.reason.name] += self.members.refused - refused
        if _may_be_several(port) and any(isinstance(event, Left) for event in events):
            self._ask_port(port.id)

    def _observe(self, edits: list[Edit]) -> None:
        if edits:
            self.core.observe(edits)

    # --- what changes elsewhere ----------------------------------------------------------------------------------

    def _changed(self, changes: list[Change]) -> None:
        """Whoever is gone wants nothing; whoever has come is asked. A port that moves keeps its groups."""
        for change in changes:
            match change.kind:
                case "vif" | "port" if change.new is None:
                    self._observe(self.members.forget_port(change.id))
                case "vif" if change.new.ofport is not None and change.new.hypervisor_id in self._asked:
                    if change.old is None or change.old.ofport != change.new.ofport:
                        eventlet.spawn_after(1.0, self._ask_port, change.id)
                case "network" if change.new is None:
                    self._observe(self.members.forget_network(change.id))
                case "multicast-group" if change.old is None:
                    self._due.setdefault(change.new.network_id, 0.0)

    def _bridge_changed(self, hypervisor: str) -> None:
        """A bridge has come: its VMs joined groups while nobody here listened."""
        if not self.core.engine.connected(hypervisor):
            self._asked.discard(hypervisor)
        elif hypervisor not in self._asked and self.core.engine.state(hypervisor)["synced"]:
            self._asked.add(hypervisor)
            eventlet.spawn_after(1.0, self._ask_hypervisor, hypervisor)

    # --- queries -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            eventlet.sleep(1.0)
            now = time.monotonic()
            self._observe(self.members.expire(now))
            for network in [network for network, due in self._due.items() if due <= now]:
                self._ask_network(network, now)
                eventlet.sleep(0)

    def _ask_network(self, network: str, now: float) -> None:
        """Ask again, and for the first time as soon as a group is known, as there may be receivers not heard so far."""
        if not self.core.topology.multicast_groups_of(network):
            del self._due[network]
            return
        self._due[network] = now + QUERY_EVERY
        for hypervisor in list(self.core.topology.hypervisors_of(network)):
            self._ask(hypervisor, network, REGULAR)

    def _ask_hypervisor(self, hypervisor: str) -> None:
        for network in list(self.core.topology.networks_on(hypervisor)):
            self._ask(hypervisor, network, SOON)
            eventlet.sleep(0)

    def _ask(self, hypervisor: str, network: str, queries: list[bytes]) -> None:
        """Ask the VMs of one hypervisor; wires and other endpoints hear nothing of it."""
        vni = live_vni(self.core.topology, network)
        if vni is not None:
            self._send(hypervisor, queries, through(FLOOD, vni, HERE_ONLY))

    def _ask_port(self, port_id: str) -> None:
        topology = self.core.topology
        port: Port | None = topology.get("port", port_id)
        hypervisor = topology.location(port_id)
        vni = live_vni(topology, port.network_id) if port is not None else None
        if port is not None and port.port_key is not None and hypervisor is not None and vni is not None:
            to_port = through(LOCAL_OUTPUT, vni, (set_field(f.OUT_PORT_KEY, port.port_key),))
            self._send(hypervisor, AT_ONCE, to_port)

    def _send(self, hypervisor: str, queries: list[bytes], actions: tuple[Action, ...]) -> None:
        for frame in queries:
            self.core.punts.inject(hypervisor, frame, actions)


def _may_be_several(port: Port) -> bool:
    """Whether more than one host may be behind a port, so that another one may still want what one has left."""
    return bool(port.allowed_address_pairs) or not port.port_security_enabled
