"""Keeps the recorder's directory of endpoints current: everything when it connects, then what changes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import eventlet
import msgspec
from eventlet.event import Event

from novanet_apps.telemetry.recorder.endpoints import Endpoint
from topology.changes import Change
from topology.model import FloatingIp, Hypervisor, Network, Port, Vif

from .link import Link

if TYPE_CHECKING:
    from novanet_apps.core import Core

LOG = logging.getLogger(__name__)
CHUNK = 500
"""Endpoints in a frame; others have their turn between two."""
PAUSE = 0.2
"""Seconds in which changes are gathered."""


class Feed:
    """Subscribes to the topology, and tells the recorder by a link."""

    def __init__(self, core: Core, link: Link) -> None:
        self.core, self._link = core, link
        self._dirty: dict[str, None] = {}
        self._told: dict[str, Endpoint] = {}
        self._hosts: dict[str, list[Any]] = {}
        self._wake = Event()
        core.subscribe(self._changed)

    def start(self) -> None:
        """Tell what changes, from now on."""
        eventlet.spawn(self._run)

    def everything(self) -> None:
        """The recorder is new, and knows nothing."""
        self._told.clear()
        self._hosts.clear()
        self._link.send({"kind": "topology", "full": True})
        self._mark(list(self.core.topology.all("port")))

    def _mark(self, ports: Iterable[str]) -> None:
        self._dirty.update(dict.fromkeys(ports))
        if not self._wake.ready():
            self._wake.send()

    def _changed(self, changes: list[Change]) -> None:
        self._mark([port for change in changes for port in self._concerned(change)])

    def _concerned(self, change: Change) -> Iterator[str]:
        """The ports that a change may make another endpoint of."""
        topology = self.core.topology
        match change.kind:
            case "port":
                yield change.id
                if any(port is not None and port.router_id for port in (change.old, change.new)):
                    yield from self._in_realm((change.new or change.old).network_id)
            case "vif" | "location":
                yield change.id
            case "network":
                yield from topology.ports_of(change.id)
            case "hypervisor":
                yield from topology.ports_on(change.id)
            case "members":
                for number in topology.identities_of_group(change.id):
                    yield from topology.ports_with(number)
            case "identity":
                yield from (
                    id
                    for each in (change.old, change.new)
                    if each is not None
                    for id in topology.ports_with(each.number)
                )
            case "floating-ip":
                yield from (each.port_id for each in (change.old, change.new) if each is not None and each.port_id)

    def _in_realm(self, network: str) -> Iterator[str]:
        for each in self.core.topology.realm_of(network):
            yield from self.core.topology.ports_of(each)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            eventlet.sleep(PAUSE)
            self._wake = Event()
            try:
                self._tell()
            except Exception:
                LOG.exception("the recorder was not told of a change")

    def _tell(self) -> None:
        self._tell_hosts()
        dirty, self._dirty = list(self._dirty), {}
        for at in range(0, len(dirty), CHUNK):
            gone, endpoints = [], []
            for id in dirty[at : at + CHUNK]:
                found = self._endpoint(id)
                if found is None and self._told.pop(id, None) is not None:
                    gone.append(id)
                elif found is not None and self._told.get(id) != found:
                    self._told[id] = found
                    endpoints.append(msgspec.to_builtins(found))
            if gone or endpoints:
                self._link.send({"kind": "topology", "gone": gone, "endpoints": endpoints})
            eventlet.sleep(0)

    def _tell_hosts(self) -> None:
        hosts = {obj.id: [obj.id, obj.name, addresses(obj)] for obj in self.core.topology.all("hypervisor").values()}
        gone = [id for id in self._hosts if id not in hosts]
        new = [host for id, host in hosts.items() if self._hosts.get(id) != host]
        self._hosts = hosts
        if gone or new:
            self._link.send({"kind": "topology", "gone": gone, "hypervisors": new})

    def _endpoint(self, id: str) -> Endpoint | None:
        topology = self.core.topology
        port: Port | None = topology.get("port", id)
        network: Network | None = topology.get("network", port.network_id) if port is not None else None
        if port is None or network is None:
            return None
        where = topology.location(id) if port.router_id is None else None
        host: Hypervisor | None = topology.get("hypervisor", where or "")
        vif: Vif | None = topology.get("vif", id)
        groups = topology.groups_of_identity(port.identity) if port.identity else port.security_groups or ()
        return Endpoint(
            port=id,
            kind="router" if port.router_id else "vm",
            name=port.name,
            vm=port.device_id,
            network=network.id,
            network_name=network.name,
            project=port.project_id,
            hypervisor=where or "",
            hypervisor_name=host.name if host is not None else "",
            groups=tuple(sorted(groups)),
            vni=network.vni or 0,
            realm=self._realm(network.id),
            mac=int((port.mac_address or "0").replace(":", ""), 16),
            ofport=(vif.ofport or 0) if vif is not None and vif.hypervisor_id == where else 0,
            addresses=tuple(_own(port)),
            also=tuple(self._floating(id)),
        )

    def _realm(self, network: str) -> str:
        return min(self.core.topology.realm_of(network))

    def _floating(self, port: str) -> Iterator[tuple[str, str]]:
        for id in sorted(self.core.topology.floating_of(port)):
            floating: FloatingIp | None = self.core.topology.get("floating-ip", id)
            if floating is not None and floating.floating_ip_address:
                yield self._realm(floating.floating_network_id), floating.floating_ip_address


def _own(port: Port) -> Iterator[str]:
    yield from (fixed.ip_address for fixed in port.fixed_ips or () if fixed.ip_address)
    for pair in port.allowed_address_pairs:
        prefix = ip_network(pair.ip_address)
        if prefix.num_addresses == 1:
            yield str(prefix.network_address)


def addresses(hypervisor: Hypervisor) -> list[str]:
    """The addresses that a hypervisor's exports come from: its tunnel endpoint's, and that of its OVSDB."""
    found = [hypervisor.tunnel_ip] if hypervisor.tunnel_ip else []
    if hypervisor.ovsdb.startswith(("tcp:", "ssl:")):
        host = urlsplit(f"//{hypervisor.ovsdb[4:]}").hostname
        if host and host not in found:
            found.append(host)
    return found
