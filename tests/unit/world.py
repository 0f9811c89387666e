"""Small networks for tests: objects with readable ids, in a graph."""

from __future__ import annotations

from topology.changes import Change, Edit
from topology.graph import Topology
from topology.model import AddressPair, Bridge, FixedIp, Hypervisor, Network, Port, Subnet, TunnelMesh, Vif


class World:
    """A graph with ``hypervisors`` h1, h2 … that are all connected, and methods that add to it."""

    def __init__(
        self, hypervisors: int = 3, *, tunnel_type: str = "geneve", ipv6: bool = False, **mesh: object
    ) -> None:
        self.topology = Topology()
        self.apply(Edit("tunnel-mesh", "mesh", TunnelMesh(id="mesh", tunnel_type=tunnel_type, **mesh)))
        for n in range(1, hypervisors + 1):
            ip = f"fd50::{n}" if ipv6 else f"192.168.50.{n}"
            hypervisor = Hypervisor(id=f"h{n}", name=f"h{n}", tunnel_ip=ip, hypervisor_key=n)
            self.apply(
                Edit("hypervisor", f"h{n}", hypervisor),
                Edit("bridge", f"h{n}", Bridge(hypervisor_id=f"h{n}", tunnel_ofport=1000)),
            )
        self._keys = 0

    def apply(self, *edits: Edit) -> list[Change]:
        return self.topology.apply(edits)

    def network(self, id: str, vni: int, **fields: object) -> None:
        self.apply(Edit("network", id, Network(id=id, vni=vni, **fields)))
        self.apply(Edit("subnet", f"{id}-4", Subnet(id=f"{id}-4", network_id=id, cidr="10.0.0.0/16")))

    def port(
        self, id: str, network: str, on: str | None = None, ips: tuple[str, ...] = (), **fields: object
    ) -> list[Change]:
        """A port with the next key; its MAC address and, unless ``ips`` are given, its address follow from the key."""
        self._keys += 1
        key = self._keys
        mac = f"02:00:00:00:{key >> 8:02x}:{key & 255:02x}"
        fixed = tuple(FixedIp(f"{network}-4", ip) for ip in ips or (f"10.0.{key >> 8}.{key & 255}",))
        port = Port(id=id, network_id=network, port_key=key, mac_address=mac, fixed_ips=fixed, **fields)
        changes = self.apply(Edit("port", id, port))
        return changes + (self.plug(id, on) if on else [])

    def plug(self, port: str, hypervisor: str, ofport: int | None = -1) -> list[Change]:
        """The port's interface appears; its ofport is the port's key unless given."""
        number = self.topology.get("port", port).port_key if ofport == -1 else ofport
        vif = Vif(port_id=port, hypervisor_id=hypervisor, interface=f"v-{port}", ofport=number, mtu=1400)
        return self.apply(Edit("vif", port, vif))

    def unplug(self, port: str) -> list[Change]:
        return self.apply(Edit("vif", port, None))


__all__ = ["AddressPair", "World"]
