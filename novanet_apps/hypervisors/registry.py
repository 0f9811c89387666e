"""All hypervisors: who is wanted, who is there, and which of them has a port's VM."""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Mapping
from typing import Any, Protocol

import eventlet
from msgspec.structs import replace

from novanet_apps.hypervisors.desired import datapath_id
from novanet_apps.hypervisors.host import Host
from novanet_apps.hypervisors.listener import Listener
from novanet_apps.hypervisors.settings import Settings, from_options
from novanet_apps.ovsdb.fast_json import Connection
from novanet_apps.ovsdb.session import OvsdbError, use_tls
from topology import exporters, links, queues
from topology.changes import Change, Edit
from topology.model import Bridge, FlowExporter, Hypervisor, Link, TunnelMesh, Vif

LOG = logging.getLogger(__name__)

MAX_UNKNOWN = 1000
"""System ids remembered of those that connect without being known."""


class Engine(Protocol):
    """What is needed of the flow engine."""

    def expect(self, hypervisor_id: str, dpid: int) -> Any:
        """The bridge with this datapath id is that hypervisor's."""


class Core(Protocol):
    """What is needed of the core."""

    topology: Any
    engine: Any

    def observe(self, edits: list[Edit]) -> Any:
        """Edit the graph and tell everyone."""


class Hypervisors:
    """Keeps a session with every hypervisor of the graph and publishes what it sees as ``vif``, ``bridge`` and ``link``.

    `unknown` holds, by system id, the hypervisors that connected to us without being known: ``{"address", "since",
    "tries", "reason"}``.
    """

    def __init__(self, core: Core, settings: Settings | None = None) -> None:
        self._core = core
        self._settings = settings
        self._hosts: dict[str, Host] = {}
        self.listeners: list[Listener] = []
        self._claims: dict[str, dict[str, Vif]] = {}
        self._started = False
        self._complete = False
        self._queueing: set[str] = set()
        """Hypervisors whose Open vSwitch shapes uplinks."""
        self.unknown: dict[str, dict[str, Any]] = {}

    @property
    def settings(self) -> Settings:
        """The options' values, read once."""
        if self._settings is None:
            self._settings = from_options()
        return self._settings

    @property
    def mesh(self) -> TunnelMesh | None:
        """The tunnel mesh of the graph."""
        mesh: TunnelMesh | None = self._core.topology.mesh
        return mesh

    def start(self) -> None:
        """Connect to every hypervisor and listen for those that connect. Raises ConfigurationError."""
        settings = self.settings
        if settings.has_tls:
            use_tls(settings.tls_private_key, settings.tls_certificate, settings.tls_ca)
        for endpoint in settings.listen:
            context = settings.server_context() if endpoint.kind == "pssl" else None
            self.listeners.append(Listener(endpoint, context, self._arrived))
        self._started = True
        for listener in self.listeners:
            listener.start()
        for hypervisor in list(self._core.topology.all("hypervisor").values()):
            self._add(hypervisor)

    def stop(self) -> None:
        """Close every session. The hypervisors keep what they have."""
        self._started = False
        for listener in self.listeners:
            listener.stop()
        self.listeners.clear()
        for host in self._hosts.values():
            host.stop()
        self._hosts.clear()

    def changed(self, changes: list[Change]) -> None:
        """Follow changes of the graph; others than those of hypervisors and the mesh are ignored."""
        if not self._started:
            return
        for change in changes:
            if change.kind == "hypervisor":
                self._hypervisor_changed(change.id, change.old, change.new)
            elif change.kind in ("tunnel-mesh", "flow-exporter"):
                self._review_all()
        if self._complete:
            topology = self._core.topology
            concerned = links.concerned(topology, changes)
            if self._queueing:
                concerned |= queues.concerned(topology, changes) & self._queueing
            for id in concerned:
                if id in self._hosts:
                    self._hosts[id].review()

    def complete(self) -> None:
        """All of the intent is in the graph: from now on it is known which hypervisors are to watch each other."""
        self._complete = True
        self._review_all()

    def _review_all(self) -> None:
        for host in list(self._hosts.values()):
            host.review()

    def watched(self, hypervisor_id: str) -> dict[int, links.Peer] | None:
        """The hypervisors that this one is to watch, by key; None before ``complete``."""
        return links.watched(self._core.topology, hypervisor_id) if self._complete else None

    def exporters_of(self, hypervisor_id: str) -> tuple[FlowExporter, ...] | None:
        """What a hypervisor exports; None before ``complete``."""
        return exporters.of_hypervisor(self._core.topology, hypervisor_id) if self._complete else None

    def queues_of(self, hypervisor_id: str, interfaces: Container[str]) -> tuple[queues.Queues, ...] | None:
        """What these uplinks of a hypervisor have to have, when Open vSwitch shapes them; None before ``complete``."""
        if not self._complete:
            return None
        found = queues.of_hypervisor(self._core.topology, hypervisor_id) if interfaces else ()
        return tuple(each for each in found if each.interface in interfaces)

    def state(self, hypervisor_id: str) -> dict[str, Any]:
        """What is known about a hypervisor, see Host.state; only ``connected`` and ``error`` for an unknown one."""
        host = self._hosts.get(hypervisor_id)
        return host.state() if host is not None else {"connected": False, "error": "no such hypervisor"}

    def connected(self, hypervisor_id: str) -> bool:
        """Whether there is a session with the hypervisor's own OVSDB; cheap, unlike ``state``."""
        host = self._hosts.get(hypervisor_id)
        return host is not None and host.connected

    def port_seen(self, hypervisor_id: str, name: str, ofport: int | None) -> None:
        """The switch itself says which number an interface has (None: it is gone; no name: forget what it said)."""
        host = self._hosts.get(hypervisor_id)
        if host is not None:
            host.port_seen(name, ofport)

    # --- the graph's hypervisors -----------------------------------------------------------------------------------

    def _hypervisor_changed(self, id: str, old: Hypervisor | None, new: Hypervisor | None) -> None:
        host = self._hosts.get(id)
        if new is None:
            if host is not None:
                self._remove(id, host)
        elif host is None:
            self._add(new)
        elif old is None or old.ovsdb != new.ovsdb:
            self._hosts.pop(id)
            _spawn_stop(host)
            self._add(new, inherits=True)
        else:
            self._expect(new)
            host.update(new)

    def _add(self, hypervisor: Hypervisor, inherits: bool = False) -> None:
        self._expect(hypervisor)
        host = self._hosts[hypervisor.id] = Host(hypervisor, self, inherits)
        host.start()
        self.unknown.pop(hypervisor.name, None)

    def _expect(self, hypervisor: Hypervisor) -> None:
        if hypervisor.hypervisor_key is not None:
            self._core.engine.expect(hypervisor.id, datapath_id(hypervisor.hypervisor_key))

    def _remove(self, id: str, host: Host) -> None:
        del self._hosts[id]
        self._queueing.discard(id)

        def leave() -> None:
            self.withdraw(id, keep=())
            gone = [Edit("link", f"{id}/{peer}", None) for peer in self.links_of(id)]
            self._core.observe([Edit("bridge", id, None), *gone])
            try:
                host.forget()
                LOG.info("%s: NovaNet's bridge settings are removed", host.session.name)
            except OvsdbError as exc:
                LOG.warning("%s: NovaNet's bridge settings stay behind: %s", host.session.name, exc)
            finally:
                host.stop()

        eventlet.spawn(leave)

    # --- observations ----------------------------------------------------------------------------------------------

    def observe_bridge(self, bridge: Bridge) -> None:
        """Publish the state of a hypervisor's bridge."""
        if bridge.hypervisor_id in self._hosts:
            (self._queueing.add if bridge.queueing else self._queueing.discard)(bridge.hypervisor_id)
            self._core.observe([Edit("bridge", bridge.hypervisor_id, bridge)])

    def links_of(self, hypervisor_id: str) -> dict[str, Link]:
        """The probes of a hypervisor that are published, by the peer that they watch."""
        found = self._core.topology.all("link").values()
        return {link.peer_id: link for link in found if link.hypervisor_id == hypervisor_id}

    def observe_links(self, hypervisor_id: str, found: Mapping[str, Link | None]) -> None:
        """Publish probes by the peer that they watch, None for those that are gone."""
        if hypervisor_id in self._hosts and found:
            self._core.observe([Edit("link", f"{hypervisor_id}/{peer}", link) for peer, link in found.items()])

    def plugged(self, hypervisor_id: str, vifs: Mapping[str, Vif | None], *, first: bool) -> None:
        """Publish interfaces of ports, None for those that are gone. `first`: found there, not seen to be plugged."""
        if hypervisor_id not in self._hosts:
            return
        edits = []
        for port_id, vif in vifs.items():
            edit = self._unclaim(hypervisor_id, port_id) if vif is None else self._claim(vif, first)
            if edit is not None:
                edits.append(edit)
        if edits:
            self._core.observe(edits)

    def withdraw(self, hypervisor_id: str, *, keep: Container[str]) -> None:
        """Take back what was observed on a hypervisor, except the ports in `keep`."""
        gone = [port for port, claims in self._claims.items() if hypervisor_id in claims and port not in keep]
        edits = [edit for edit in (self._unclaim(hypervisor_id, port) for port in gone) if edit is not None]
        if edits:
            self._core.observe(edits)

    def _claim(self, vif: Vif, first: bool) -> Edit | None:
        """A port that is plugged on several hypervisors, as in a live migration, is where it was plugged last."""
        claims = self._claims.get(vif.port_id, {})
        vif = _steady(claims.get(vif.hypervisor_id), vif)
        owner = next(reversed(claims), vif.hypervisor_id)
        if owner != vif.hypervisor_id and vif.hypervisor_id not in claims:
            port = self._core.topology.get("port", vif.port_id)
            if first and (port is None or port.host_id != vif.hypervisor_id):
                self._claims[vif.port_id] = {vif.hypervisor_id: vif, **claims}
                return None
            LOG.info("port %s is now plugged on %s, before on %s", vif.port_id, vif.hypervisor_id, owner)
            owner = vif.hypervisor_id
        if claims.get(vif.hypervisor_id) == vif:
            return None
        self._claims[vif.port_id] = {**claims, vif.hypervisor_id: vif}
        return Edit("vif", vif.port_id, vif) if owner == vif.hypervisor_id else None

    def _unclaim(self, hypervisor_id: str, port_id: str) -> Edit | None:
        claims = self._claims.get(port_id, {})
        if hypervisor_id not in claims:
            return None
        owner = next(reversed(claims))
        del claims[hypervisor_id]
        if not claims:
            del self._claims[port_id]
            return Edit("vif", port_id, None)
        return Edit("vif", port_id, claims[next(reversed(claims))]) if owner == hypervisor_id else None

    # --- hypervisors that connect to us ----------------------------------------------------------------------------

    def _arrived(self, rpc: Connection, system_id: str) -> str:
        """Take a connection over; returns why not."""
        for host in self._hosts.values():
            if host.hypervisor.name == system_id and host.hypervisor.ovsdb == "passive":
                rpc.trust()
                host.adopt(rpc)
                return ""
        known = any(host.hypervisor.name == system_id for host in self._hosts.values())
        reason = "its ovsdb is not `passive`" if known else f"no hypervisor is named {system_id}"
        entry = self.unknown.get(system_id)
        if entry is None:
            if len(self.unknown) >= MAX_UNKNOWN:
                self.unknown.pop(next(iter(self.unknown)))
            entry = self.unknown[system_id] = {"address": rpc.name, "since": time.time(), "tries": 0, "reason": reason}
            LOG.warning("%s: system-id %s connected and is refused: %s", rpc.name, system_id, reason)
        entry.update(address=rpc.name, tries=entry["tries"] + 1, reason=reason)
        return reason


def _steady(before: Vif | None, vif: Vif) -> Vif:
    """The interface with the MTU it had: a restarted ovsdb-server has forgotten it until vswitchd writes it again."""
    if before is None or vif.mtu is not None or before.interface != vif.interface:
        return vif
    return replace(vif, mtu=before.mtu)


def _spawn_stop(host: Host) -> None:
    """Stop it from a greenlet of its own, since the change may come from one of its callbacks."""
    eventlet.spawn(host.stop)
