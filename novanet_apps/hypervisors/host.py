"""One hypervisor: its OVSDB session, what is observed there, and the repair of its integration bridge."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

import eventlet
from ovs.db.idl import Row

from novanet_apps.hypervisors import desired
from novanet_apps.hypervisors.desired import Desired
from novanet_apps.hypervisors.inventory import Inventory
from novanet_apps.hypervisors.pace import FORGOTTEN_AFTER, Pace
from novanet_apps.hypervisors.ports import TUNNEL_PORT, probe_name
from novanet_apps.hypervisors.queues import TABLES as QUEUE_TABLES
from novanet_apps.hypervisors.queues import Mending, shapeable
from novanet_apps.hypervisors.repair import Repair, elsewhere, exporter, forget
from novanet_apps.hypervisors.settings import fill_in
from novanet_apps.ovsdb.fast_json import Connection
from novanet_apps.ovsdb.session import READING, OvsdbError, RowEvent, Session, has, read
from topology.exporters import COLUMNS
from topology.health import AGENT_PORT
from topology.model import Bridge, Hypervisor, Link

if TYPE_CHECKING:
    from novanet_apps.hypervisors.registry import Hypervisors

LOG = logging.getLogger(__name__)

SLICE = 0.010
"""Seconds of work on a large batch after which other greenlets get their turn."""
VIFS_AT_ONCE = 200
"""Interfaces published in one batch of edits."""
TRANSACTION_TIMEOUT = 10.0
SETTLING = 3.0
"""Seconds after which a probe that never was up is believed: BFD sends once a second until then (RFC 5880, section 6.8.3)."""
MAX_DUPLICATES_SHOWN = 10
REPAIRED_TABLES = frozenset({"Open_vSwitch", "Bridge", "Controller", *COLUMNS.values(), *QUEUE_TABLES})


class Host:
    """A hypervisor and the session with its OVSDB, from `start` until `stop`."""

    def __init__(self, hypervisor: Hypervisor, registry: Hypervisors, inherits: bool = False) -> None:
        """`inherits`: there are observations from an earlier address, good until this one has been read."""
        self.hypervisor = hypervisor
        self._inherits = inherits
        self._registry = registry
        self.session = Session(
            f"hypervisor {hypervisor.name or hypervisor.id}",
            "" if hypervisor.ovsdb == "passive" else hypervisor.ovsdb,
            database="Open_vSwitch",
            tables=desired.TABLES,
            on_rows=self._on_rows,
            on_state=self._on_state,
            probe_interval_ms=registry.settings.probe_interval_ms,
        )
        self.seen = Inventory(self.session.rows, hypervisor.id, hypervisor.bridge, hypervisor.underlay_interface)
        self.repairs = 0
        """Transactions that put something right."""
        self._since = time.time()
        self._trouble = ""
        self._published: Bridge | None = None
        self._pace = Pace()
        self._mender: Any = None
        self._calming: Any = None
        self._postponed: tuple[str, ...] = ()
        self._failed = False
        self._was_other = False
        self._probes: dict[str, str] = {}
        """The ports that watch other hypervisors, by their ids."""
        self._queued: tuple[str, ...] = ()
        """The uplinks for which ``_want`` has queues."""
        self._sound: set[str] = set()
        """Ports of NovaNet's own that were found right and have been left alone since."""
        self._want = self._derive()
        self._wants = 0
        """How often what is wanted has changed."""
        self._fulfilled = -1
        """For which of these everything was found to be right."""
        self._links: dict[str, Link] = registry.links_of(hypervisor.id) if inherits else {}
        self._tried_since: dict[str, float] = {}
        """Since when probes try that were never up, by the ids of whom they watch."""
        self._looking_again: Any = None
        self._looking = False

    def start(self) -> None:
        """Begin to connect."""
        self.session.start()

    def stop(self) -> None:
        """Close the session; observations stay."""
        for timer in (self._calming, self._looking_again):
            if timer is not None:
                timer.cancel()
        mender, self._mender = self._mender, None
        if mender is not None:
            mender.kill()
        self.session.stop()

    def adopt(self, rpc: Connection) -> None:
        """The hypervisor has connected to us."""
        self.session.adopt(rpc)

    def update(self, hypervisor: Hypervisor) -> None:
        """The intent has changed, though not the hypervisor's address."""
        self.hypervisor = hypervisor
        self.seen.watch(hypervisor.bridge, hypervisor.underlay_interface)
        self.review()

    def review(self) -> None:
        """The intent has changed: look soon whether everything is as desired, and repair what is not."""

        def look() -> None:
            self._looking = False
            want = self._derive()
            if want != self._want:
                self._want = want
                self._wants += 1
                self._sound.clear()
            if self.session.synced:
                self._publish_interfaces()
                self._publish_bridge()
                self._publish_links({*self._probes, *self._links})
                self._mend_if_wrong()

        if not self._looking:
            self._looking = True
            eventlet.spawn(look)

    def forget(self) -> None:
        """Remove from the hypervisor what NovaNet made there. Raises OvsdbError."""
        if not self.session.synced:
            raise OvsdbError(f"not connected: {self.session.error or self.session.name}")
        if self._other_system():
            return
        self.session.transact(forget(self._want, self.session.rows, self.seen), TRANSACTION_TIMEOUT)

    @property
    def connected(self) -> bool:
        """Whether the session is up, with the hypervisor that is meant."""
        return self.session.connected and not self._was_other

    def state(self) -> dict[str, Any]:
        """What `novanet status` shows; times are seconds since 1970."""
        bridge = self._row("Bridge", self.seen.bridge)
        controllers = read(bridge, "controller") if bridge is not None else []
        return {
            "connected": self.connected,
            "since": self._since,
            "error": self.session.error,
            "address": self.hypervisor.ovsdb,
            "system_id": self._system_id(),
            "ovs_version": self._published.ovs_version if self._published else "",
            "bridge": self.hypervisor.bridge if bridge is not None else "",
            "datapath_type": self._published.datapath_type if self._published else "",
            "datapath_id": f"{desired.datapath_id(self.hypervisor.hypervisor_key or 0):016x}",
            "controllers": {read(row, "target"): read(row, "is_connected") for row in controllers},
            "interfaces": len(self.seen.plugged()),
            "links_up": sum(link.up for link in self._links.values()),
            "links_down": sorted(peer for peer, link in self._links.items() if not link.up),
            "problems": list(self._problems()) if self.session.synced else [],
            "repairs": self.repairs,
            "rows_handled": self.seen.rows_noted,
            "rows_received": self.session.rows_received,
        }

    def port_seen(self, name: str, ofport: int | None) -> None:
        """What the switch says of a port, which OVSDB will say some milliseconds later."""
        self.seen.hear(name, ofport)
        if self.session.synced:
            self._publish_interfaces()

    # --- rows and connection ---------------------------------------------------------------------------------------

    def _on_rows(self, events: list[RowEvent]) -> None:
        began = time.monotonic()
        look = not self.session.synced
        probes: set[str] = set()
        for event in events:
            self.seen.note(event)
            look = look or event.table in REPAIRED_TABLES or _has_other_queues(event)
            if event.table == "Interface":
                probes.add(read(event.row, "name"))
            if time.monotonic() - began > SLICE:
                eventlet.sleep(0)
                began = time.monotonic()
        if bool(self._other_system()) != self._was_other:
            self._was_other = not self._was_other
            self._registry.withdraw(self.hypervisor.id, keep=())
            self._publish(list(self.seen.plugged()))
        self._publish_interfaces()
        if self._inherits and not self.session.synced:
            self._registry.withdraw(self.hypervisor.id, keep=self.seen.plugged())
        disturbed, self.seen.disturbed = self.seen.disturbed, set()
        self._sound -= disturbed
        if self._queueing() != self._queued:
            self.review()
        self._publish_bridge()
        if probes:
            self._publish_links([peer for peer, name in self._probes.items() if name in probes])
        if look or disturbed:
            self._mend_if_wrong()

    def _on_state(self, connected: bool, error: str) -> None:
        self._since = time.time()
        if connected:
            LOG.info("%s: connected to its OVSDB", self.session.name)
        elif error != READING:
            LOG.warning("%s: no OVSDB connection: %s", self.session.name, error)
        if self.session.synced:
            self._publish_bridge()
        if connected:
            self._mend_if_wrong()

    def _publish_interfaces(self) -> None:
        """Tell what changed; a large number in slices."""
        self._publish(self.seen.changed(VIFS_AT_ONCE))
        while not self.seen.settled:
            eventlet.sleep(0)
            self._publish(self.seen.changed(VIFS_AT_ONCE))

    def _publish(self, ports: list[str]) -> None:
        if not self._other_system():
            vifs = {port: self.seen.vif(port) for port in ports}
            self._registry.plugged(self.hypervisor.id, vifs, first=not self.session.synced)

    def _publish_bridge(self) -> None:
        bridge = self._bridge()
        if bridge != self._published:
            self._published = bridge
            self._registry.observe_bridge(bridge)

    def _publish_links(self, peers: Iterable[str]) -> None:
        """Tell how the probes of these hypervisors are, and which are gone."""
        if self._other_system():
            return
        found = {peer: self._link(peer) for peer in peers}
        news = {peer: link for peer, link in found.items() if link != self._links.get(peer)}
        for peer, link in news.items():
            if link is None:
                del self._links[peer]
                self._tried_since.pop(peer, None)
            else:
                self._links[peer] = link
        self._registry.observe_links(self.hypervisor.id, news)
        if self._looking_again is None and any(not link.settled for link in self._links.values()):
            self._looking_again = eventlet.spawn_after(SETTLING / 3, self._look_again)

    def _link(self, peer: str) -> Link | None:
        """A probe as it is now; None when there is none, or none is wanted."""
        interface = self._own_interface(self._probes.get(peer, ""))
        if interface is None:
            return None
        status = read(interface, "bfd_status")
        up = status.get("state") == "up" and status.get("forwarding") == "true"
        settled = self._has_settled(peer, up or status.get("flap_count", "0") != "0")
        ofport = self.seen.opened(interface)[0]
        return Link(hypervisor_id=self.hypervisor.id, peer_id=peer, ofport=ofport, up=up, settled=settled)

    def _has_settled(self, peer: str, was_up: bool) -> bool:
        """Whether a probe tells something: one that was never up, only once it had the time for that."""
        if was_up:
            self._tried_since.pop(peer, None)
            return True
        now = time.monotonic()
        return now - self._tried_since.setdefault(peer, now) >= SETTLING

    def _look_again(self) -> None:
        """Those that are still trying may have had their time."""
        self._looking_again = None
        self._publish_links(list(self._tried_since))

    def _own_interface(self, name: str) -> Row | None:
        """The interface of one of NovaNet's ports, if it is on the integration bridge."""
        on_bridge = self.seen.own_ports.get(name) in self.seen.ports
        return self._row("Interface", self.seen.own_interfaces.get(name)) if on_bridge else None

    def _provider_ofports(self) -> Iterator[tuple[str, int]]:
        """The physical networks that are connected: both ends of the wire are in place."""
        for wire in self._want.wires:
            interface = self._own_interface(wire.here.name)
            end = self.seen.own_ports.get(wire.there.name)
            bridge = self._bridge_named(wire.there.outside)
            if interface is not None and end is not None and bridge is not None and has(bridge, "ports", end):
                number = self.seen.opened(interface)[0]
                if number is not None:
                    yield wire.physical_network, number

    def _exporting(self, bridge: Row) -> Iterator[str]:
        """The flow exporters that are set up, ``ID/REVISION`` each."""
        for column in COLUMNS:
            there = exporter(bridge, column)
            marks = read(there, "external_ids") if there is not None else {}
            if marks.get(desired.OWNER) == self.hypervisor.id and desired.EXPORTER in marks:
                yield marks[desired.EXPORTER]

    def _queueing(self) -> tuple[str, ...]:
        """The uplinks that Open vSwitch has to shape, being ports whose queues are honoured."""
        names = sorted({uplink.interface for uplink in self.hypervisor.uplinks})
        bridge = self._row("Bridge", self.seen.bridge) if names else None
        return tuple(name for name in names if shapeable(name, bridge, self.session.rows, self.seen) is not None)

    def _queues(self) -> Iterator[tuple[str, int]]:
        """The queues that are as they have to be."""
        mark = desired.OWNER, self.hypervisor.id
        return Mending(mark, self.session.rows, self.seen, [], None).right(self._want.queues or ())

    def _bridge_named(self, name: str) -> Row | None:
        return next((row for row in self.session.rows("Bridge").values() if read(row, "name") == name), None)

    def _bridge(self) -> Bridge:
        row = self._row("Bridge", self.seen.bridge)
        tunnel, agent = self._own_interface(TUNNEL_PORT), self._own_interface(AGENT_PORT)
        underlay = self._row("Interface", self.seen.underlay)
        mtu = read(underlay, "mtu") if underlay is not None else []
        if underlay is not None and not mtu and self._published is not None:
            mtu = [self._published.underlay_mtu]  # forgotten by a restarted server until vswitchd writes it again
        root = self._root()
        version = read(root, "ovs_version") if root is not None else []
        return Bridge(
            hypervisor_id=self.hypervisor.id,
            tunnel_ofport=self.seen.opened(tunnel)[0] if tunnel is not None else None,
            agent_ofport=self.seen.opened(agent)[0] if agent is not None else None,
            provider_ofports=tuple(self._provider_ofports()),
            underlay_mtu=mtu[0] if mtu else None,
            datapath_type=(read(row, "datapath_type") or "system") if row is not None else "",
            ovs_version=version[0] if version else "",
            exporting=tuple(self._exporting(row)) if row is not None else (),
            queueing=self._queueing(),
            queues=tuple(self._queues()),
            problems=tuple(self._problems()),
        )

    def _problems(self) -> Iterator[str]:
        if not self.session.connected:
            # The session reports itself connected only after its first rows were handled.
            if self.session.synced:
                yield f"no OVSDB connection: {self.session.error}"
        other = self._other_system()
        if other:
            yield (
                f"{self.hypervisor.ovsdb} is {other}, not {self.hypervisor.name}: it is left alone; correct the "
                "hypervisor's ovsdb or name, or external_ids:system-id there"
            )
            return
        if self._trouble:
            yield self._trouble
        yield from self._target_errors()
        yield from elsewhere(self._want, self.session.rows, self.seen, self._sound)
        agent = self._own_interface(AGENT_PORT)
        if agent is not None and read(agent, "admin_state") == ["down"]:
            yield f"port {AGENT_PORT}: novanet-host-agent has died; start it there, nobody checks members' health"
        yield from (f"port {name}: {text}" for name, text in sorted(self.seen.own_failures.items()))
        for number, text in enumerate(self.seen.duplicates()):
            if number == MAX_DUPLICATES_SHOWN:
                yield "and more ports have several interfaces"
                break
            yield text

    def _root(self) -> Row | None:
        return next(iter(self.session.rows("Open_vSwitch").values()), None)

    def _row(self, table: str, key: UUID | None) -> Row | None:
        rows: Mapping[UUID, Row] = self.session.rows(table)
        return rows.get(key) if key is not None else None

    def _system_id(self) -> str:
        root = self._root()
        return str(read(root, "external_ids").get("system-id", "")) if root is not None else ""

    def _other_system(self) -> str:
        """The name of the system that answers, when it is another than the hypervisor's."""
        found = self._system_id()
        return found if found and self.hypervisor.name and found != self.hypervisor.name else ""

    # --- repair ----------------------------------------------------------------------------------------------------

    def _targets(self) -> tuple[str, ...]:
        targets = []
        for text in self._registry.settings.controller_targets:
            try:
                targets.append(fill_in(text, ovsdb=self.hypervisor.ovsdb, bridge=self.hypervisor.bridge))
            except ValueError:
                continue
        return tuple(targets)

    def _target_errors(self) -> Iterator[str]:
        targets = self._registry.settings.controller_targets
        if not targets:
            yield "no controller: set the option controller_target to where the switch finds NovaNet"
        for text in targets:
            try:
                fill_in(text, ovsdb=self.hypervisor.ovsdb, bridge=self.hypervisor.bridge)
            except ValueError as exc:
                yield str(exc)

    def _derive(self) -> Desired:
        """What is wanted now. It may be much: a gateway watches every hypervisor that it serves."""
        watched = self._registry.watched(self.hypervisor.id)
        self._probes = {peer.id: probe_name(key) for key, peer in (watched or {}).items()}
        peers = None if watched is None else {key: peer.tunnel_ip for key, peer in watched.items()}
        exporting = self._registry.exporters_of(self.hypervisor.id)
        self._queued = self._queueing()
        queueing = self._registry.queues_of(self.hypervisor.id, self._queued)
        return desired.desired(self.hypervisor, self._registry.mesh, self._targets(), peers, exporting, queueing)

    def _wrong(self) -> list[str]:
        if self.hypervisor.hypervisor_key is None or not self.session.connected or self._other_system():
            return []
        if self._root() is None:
            return []
        return Repair(self._want, self.session.rows, self.seen, self._sound).run()

    def _mend_if_wrong(self) -> None:
        wrong = tuple(self._wrong())
        if not wrong and self.session.connected:
            self._fulfilled = self._wants
        if self._mender is not None and self._postponed and wrong != self._postponed:
            self._mender.kill()
            self._mender = None
        if self._mender is None and wrong:
            self._mender = eventlet.spawn(self._mend)

    def _mend(self) -> None:
        """Repair until nothing is wrong; at once, but ever more slowly if the same things keep going wrong."""
        if self._calming is not None:
            self._calming.cancel()
        while wrong := tuple(self._wrong()):
            what = self._wants, wrong
            wait = self._pace.wait(what)
            if wait:
                if not self._failed:
                    times = self._pace.repeats(what) - 1
                    self._set_trouble(
                        f"somebody undid the same repair {times} times, the next follows in {wait:.0f} s: {wrong[0]}"
                    )
                self._postponed = wrong
                eventlet.sleep(wait)
                self._postponed = ()
            self._mend_once()
        self._mender = None
        self._fulfilled = self._wants
        if self._trouble:
            self._calming = eventlet.spawn_after(FORGOTTEN_AFTER, self._set_trouble, "")

    def _mend_once(self) -> None:
        try:
            build = Repair.transaction(self._want, self.session.rows, self.seen, self._sound)
            level, how = (logging.WARNING, "repaired") if self._fulfilled == self._wants else (logging.INFO, "set up")
            for text in self.session.transact(build, TRANSACTION_TIMEOUT):
                LOG.log(level, "%s: %s: %s", self.session.name, how, text)
            self.repairs += 1
            if self._failed:
                self._failed = False
                self._set_trouble("")
        except Exception as exc:
            if not isinstance(exc, OvsdbError):
                LOG.exception("%s: the repair is defective", self.session.name)
            self._failed = True
            self._set_trouble(f"{self.hypervisor.bridge} cannot be set up: {exc}")

    def _set_trouble(self, text: str) -> None:
        if text != self._trouble:
            self._trouble = text
            if text:
                LOG.warning("%s: %s", self.session.name, text)
            self._publish_bridge()


def _has_other_queues(event: RowEvent) -> bool:
    return event.table == "Port" and event.old is not None and "qos" in event.old
