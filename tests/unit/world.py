"""Small networks for tests: objects with readable ids, in a graph."""

from __future__ import annotations

from ipaddress import ip_network

from msgspec.structs import replace

from pipelines import fields as f
from topology.changes import Change, Edit
from topology.graph import Topology
from topology.membership import identity_id
from topology.model import (
    AddressGroup,
    AddressPair,
    Bridge,
    BridgeMapping,
    FixedIp,
    Hypervisor,
    Identity,
    Network,
    Port,
    Router,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
    TunnelMesh,
    Vif,
)


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
        self._routers = 0
        self._rules = 0

    def apply(self, *edits: Edit) -> list[Change]:
        return self.topology.apply(edits)

    def network(self, id: str, vni: int, *cidrs: str, **fields: object) -> None:
        """A network with a subnet ``<id>-4`` or ``<id>-6`` for each cidr, whose gateway is the first address."""
        self.apply(Edit("network", id, Network(id=id, vni=vni, **fields)))
        for cidr in cidrs or ("10.0.0.0/16",):
            self.subnet(f"{id}-{ip_network(cidr).version}", id, cidr)

    def subnet(self, id: str, network: str, cidr: str, **fields: object) -> list[Change]:
        prefix = ip_network(cidr)
        fields = {"gateway_ip": str(prefix[1]), **fields}
        subnet = Subnet(id=id, network_id=network, cidr=cidr, ip_version=prefix.version, **fields)
        return self.apply(Edit("subnet", id, subnet))

    def port(
        self, id: str, network: str, on: str | None = None, ips: tuple[str, ...] = (), **fields: object
    ) -> list[Change]:
        """A port with the next key; its MAC address and, unless ``ips`` are given, its address follow from the key.

        Without ``security_groups`` it is open, as those are that were made before groups; with () it is closed.
        """
        self._keys += 1
        key = self._keys
        mac = f"02:00:00:00:{key >> 8:02x}:{key & 255:02x}"
        ips = ips or (f"10.0.{key >> 8}.{key & 255}",)
        fixed = tuple(FixedIp(f"{network}-{6 if ':' in ip else 4}", ip) for ip in ips)
        port = Port(id=id, network_id=network, port_key=key, mac_address=mac, fixed_ips=fixed, **fields)
        changes = self.apply(*self._identified(port))
        return changes + (self.plug(id, on) if on else [])

    def _identified(self, port: Port) -> list[Edit]:
        """The edits that put a port with the identity that its security groups and labels have, as admission makes them."""
        named, secure = tuple(sorted(port.security_groups or ())), port.port_security_enabled
        closed = secure and port.security_groups is not None
        if not closed and not named and not port.labels:
            return [Edit("port", port.id, replace(port, identity=None))]
        id = identity_id(port.project_id, named, port.labels, secure)
        known = self.topology.get("identity", id)
        number = known.number if known else max(self.topology.identities, default=0) + 1
        row = Identity(
            id=id, number=number, project_id=port.project_id, security_groups=named, labels=port.labels,
            port_security_enabled=secure,
        )  # fmt: skip
        return [Edit("identity", id, row), Edit("port", port.id, replace(port, security_groups=named, identity=number))]

    def regroup(self, port: str, **fields: object) -> list[Change]:
        """Give a port other ``security_groups`` or ``labels``, or ``port_security_enabled``."""
        return self.apply(*self._identified(replace(self.topology.get("port", port), **fields)))

    def group(self, id: str, *members: str, **fields: object) -> list[Change]:
        """A security group that these ports name, beside those that they name already."""
        changes = self.apply(Edit("security-group", id, SecurityGroup(id=id, **fields)))
        for port in members:
            named = self.topology.get("port", port).security_groups or ()
            changes += self.regroup(port, security_groups=(*named, id))
        return changes

    def rule(self, group: str, direction: str = "ingress", **fields: object) -> list[Change]:
        """A rule with the next key, for IPv4 unless told; its id is ``rule<key>`` unless given."""
        self._rules += 1
        fields = {"id": f"rule{self._rules}", "ethertype": "IPv4", **fields}
        rule = SecurityGroupRule(security_group_id=group, direction=direction, rule_key=self._rules, **fields)
        return self.apply(Edit("security-group-rule", rule.id, rule))

    def address_group(self, id: str, *addresses: str) -> list[Change]:
        return self.apply(Edit("address-group", id, AddressGroup(id=id, addresses=addresses)))

    def router(self, id: str, *networks: str, **fields: object) -> list[Change]:
        """A router with the next key, and an interface ``<id>-<network>`` in each network."""
        self._routers += 1
        changes = self.apply(Edit("router", id, Router(id=id, router_key=self._routers, **fields)))
        return changes + [change for network in networks for change in self.interface(id, network)]

    def interface(self, router: str, network: str, *ips: str, **fields: object) -> list[Change]:
        """A router's interface, with the gateway addresses of the network's subnets unless ``ips`` are given."""
        subnets = (self.topology.get("subnet", id) for id in sorted(self.topology.subnets_of(network)))
        gateways = tuple(subnet.gateway_ip for subnet in subnets if subnet.gateway_ip)
        return self.port(f"{router}-{network}", network, ips=ips or gateways, router_id=router, **fields)

    def wire(self, hypervisor: str, *physical: str) -> list[Change]:
        """Give a hypervisor bridge mappings; the patch ports are 900, 901 …"""
        mappings = tuple(BridgeMapping(physical_network=name, bridge=f"br-{name}") for name in physical)
        ofports = tuple((name, 900 + number) for number, name in enumerate(physical))
        old = self.topology.get("hypervisor", hypervisor), self.topology.get("bridge", hypervisor)
        return self.apply(
            Edit("hypervisor", hypervisor, replace(old[0], bridge_mappings=mappings)),
            Edit("bridge", hypervisor, replace(old[1], provider_ofports=ofports)),
        )

    def plug(self, port: str, hypervisor: str, ofport: int | None = -1) -> list[Change]:
        """The port's interface appears; its ofport is the port's key unless given."""
        number = self.topology.get("port", port).port_key if ofport == -1 else ofport
        vif = Vif(port_id=port, hypervisor_id=hypervisor, interface=f"v-{port}", ofport=number, mtu=1400)
        return self.apply(Edit("vif", port, vif))

    def unplug(self, port: str) -> list[Change]:
        return self.apply(Edit("vif", port, None))

    def edit(self, kind: str, id: str, **fields: object) -> list[Change]:
        """Give an object other values of some fields."""
        return self.apply(Edit(kind, id, replace(self.topology.get(kind, id), **fields)))


class Routed(World):
    """Networks a (10.0.0.0/24, fd00:a::/64) and b (10.0.1.0/24, fd00:b::/64) joined by router r, VMs a1, b1 on h1 and b2 on h2."""

    def __init__(self, **mesh: object) -> None:
        super().__init__(**mesh)
        self.network("a", 1, "10.0.0.0/24", "fd00:a::/64")
        self.network("b", 2, "10.0.1.0/24", "fd00:b::/64")
        self.router("r", "a", "b")
        self.port("a1", "a", on="h1", ips=("10.0.0.11", "fd00:a::11"))
        self.port("b1", "b", on="h1", ips=("10.0.1.11", "fd00:b::11"))
        self.port("b2", "b", on="h2", ips=("10.0.1.12", "fd00:b::12"))

    def mac(self, port: str) -> int:
        return f.mac(self.topology.get("port", port).mac_address)

    def key(self, port: str) -> int:
        return self.topology.get("port", port).port_key


__all__ = ["AddressPair", "Routed", "World"]
