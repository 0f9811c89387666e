"""Whether VMs, networks and the underlay agree on the size of packets; what does not is a warning, once in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from topology.changes import Change
from topology.graph import Topology
from topology.model import Bridge, Network, Vif
from topology.mtu import max_mtu, network_mtu

LOG = logging.getLogger(__name__)


class MtuWatch:
    """Compares MTUs as they change; a change of one interface costs one comparison."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._found: dict[tuple[str, str], str] = {}

    def largest(self) -> int:
        """The largest VM packet that the mesh carries, in bytes."""
        return max_mtu(self._topology.mesh, self._topology.underlay_version)

    def of(self, network: Network) -> int:
        """A network's MTU."""
        return network_mtu(self._topology, network)

    def about(self, kind: str, id: str) -> Iterator[str]:
        """Warnings about one object."""
        text = self._found.get((kind, id))
        if text:
            yield text

    def warnings(self) -> list[str]:
        """Every warning."""
        return [self._found[key] for key in sorted(self._found)]

    def changed(self, changes: list[Change]) -> None:
        """Look again at what the changes touch."""
        if any(change.kind in ("hypervisor", "tunnel-mesh") for change in changes):
            self._look_at_all()
            return
        for change in changes:
            match change.kind:
                case "vif" | "port":
                    self._look_at_vif(change.id)
                case "bridge":
                    self._look_at_bridge(change.id)
                case "network":
                    self._look_at_network(change.id)
                    for port in self._topology.ports_of(change.id):
                        self._look_at_vif(port)

    def _look_at_all(self) -> None:
        for bridge in list(self._topology.all("hypervisor")):
            self._look_at_bridge(bridge)
        for network in self._topology.all("network"):
            self._look_at_network(network)
        for vif in self._topology.all("vif"):
            self._look_at_vif(vif)

    def _look_at_vif(self, port_id: str) -> None:
        vif: Vif | None = self._topology.get("vif", port_id)
        port = self._topology.get("port", port_id)
        network = self._topology.get("network", port.network_id) if port is not None else None
        text = ""
        if vif is not None and vif.mtu is not None and network is not None and vif.mtu > self.of(network):
            text = (
                f"port {port.name or port_id}: interface {vif.interface} has an MTU of {vif.mtu}, its network carries "
                f"{self.of(network)}; set the VM's MTU to {self.of(network)}"
            )
        self._note(("port", port_id), text)

    def _look_at_network(self, network_id: str) -> None:
        network: Network | None = self._topology.get("network", network_id)
        text = ""
        if network is not None and network.mtu is not None and network.mtu > self.largest():
            text = (
                f"network {network.name or network_id}: its MTU of {network.mtu} does not fit the tunnels, which carry "
                f"{self.largest()}"
            )
        self._note(("network", network_id), text)

    def _look_at_bridge(self, hypervisor_id: str) -> None:
        bridge: Bridge | None = self._topology.get("bridge", hypervisor_id)
        hypervisor = self._topology.get("hypervisor", hypervisor_id)
        mesh = self._topology.mesh
        text = ""
        if bridge is not None and hypervisor is not None and mesh is not None and bridge.underlay_mtu is not None:
            if bridge.underlay_mtu < mesh.underlay_mtu:
                text = (
                    f"hypervisor {hypervisor.name}: {hypervisor.underlay_interface} has an MTU of {bridge.underlay_mtu}, "
                    f"the tunnel mesh expects {mesh.underlay_mtu}; large packets will be lost"
                )
        self._note(("hypervisor", hypervisor_id), text)

    def _note(self, key: tuple[str, str], text: str) -> None:
        if not text:
            self._found.pop(key, None)
        elif self._found.get(key) != text:
            self._found[key] = text
            LOG.warning("%s", text)
