"""What ``east_west`` compares, each on a lab of its own with two hypervisors: a floor that is written by hand, NovaNet and
OVN without filters, NovaNet with security groups and OVN with ACLs.

All have the same VMs: a pair in one subnet, and a pair in two subnets with a router between, a VM of each pair on either
hypervisor. All use Geneve without checksums of the outer UDP header (an inner packet has its own), and OVS's userspace
datapath.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

from tools.bench.groups import DEFAULT, OPEN
from tools.bench.novanet import NovaNet
from tools.bench.ovn import Ovn
from tools.lab import processes
from tools.lab.errors import LabError
from tools.lab.lab import Lab
from tools.lab.vm import VM

HYPERVISORS = 2
MTU = 1400
"""Bytes of an IP packet of the VMs: what every system's tunnel leaves, and the same for all."""
PREFIX = 24
SAME, ROUTED = "same-subnet", "routed"
CASES = (SAME, ROUTED)


class Spec(NamedTuple):
    """A VM. Its gateway is the router's address in its network."""

    id: str
    network: int
    mac: str
    ip: str
    hypervisor: int

    @property
    def gateway(self) -> str:
        return f"10.{self.network}.0.1"

    @property
    def gateway_mac(self) -> str:
        return f"02:00:00:00:ff:{self.network:02x}"


def _spec(number: int, network: int) -> Spec:
    mac = f"02:00:00:00:00:{number:02x}"
    return Spec(f"00000000-0000-4000-8000-0005{number:08x}", network, mac, f"10.{network}.0.1{number}", number % 2)


PAIRS = {SAME: (_spec(0, 1), _spec(1, 1)), ROUTED: (_spec(2, 2), _spec(3, 3))}
"""By case, the VM that sends and the one that receives."""
NETWORKS = (1, 2, 3)
ROUTED_NETWORKS = (2, 3)


class System(Protocol):
    """A way to connect the VMs, on a lab that is up."""

    name: str
    lab: Lab

    def __init__(self, lab: Lab) -> None:
        """On this lab."""

    def __enter__(self) -> Any:
        """Bring it up."""

    def __exit__(self, *exc: object) -> None:
        """End it."""

    def define(self) -> None:
        """Make networks, ports and the router; nothing is plugged yet."""

    def settle(self) -> None:
        """The VMs are plugged: return when packets get through."""


class Side(NamedTuple):
    """A system with its VMs, by their specs."""

    system: System
    vms: dict[Spec, VM]

    @property
    def name(self) -> str:
        return self.system.name

    def pair(self, case: str) -> tuple[VM, VM, str]:
        """The VM that sends, the one that receives, and the latter's address."""
        source, destination = PAIRS[case]
        return self.vms[source], self.vms[destination], destination.ip


def bring_up(stack: ExitStack, make: type[System]) -> Side:
    """A system with its VMs, through which all of them have been reached; LabError when one is not."""
    lab = stack.enter_context(Lab(HYPERVISORS))
    system = stack.enter_context(make(lab))
    system.define()
    vms = {}
    for spec in (spec for pair in PAIRS.values() for spec in pair):
        hypervisor = lab.hypervisors[spec.hypervisor]
        vms[spec] = hypervisor.plug(spec.id, spec.mac, [(spec.ip, PREFIX)], MTU, gateways=[spec.gateway])
    system.settle()
    side = Side(system, vms)
    for case in CASES:
        source, _, ip = side.pair(case)
        processes.until(lambda: source.ping(ip, count=1).received, f"{system.name}, {case}: a packet gets to {ip}")  # noqa: B023
    return side


class Floor:
    """Two flows a VM, on a bridge that nobody controls: from the VM into the tunnel, and out of the tunnel to the VM.

    Routed, the first rewrites the Ethernet addresses and decrements the TTL besides.
    """

    name = "floor"
    tunnel = "type=geneve options:remote_ip=flow options:key=flow options:csum=false ofport_request=100"

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def __enter__(self) -> Floor:
        for hypervisor in self.lab.hypervisors:
            hypervisor.add_bridge()
            hypervisor.vsctl("add-port", "br-int", "tun", "--", "set", "interface", "tun", *self.tunnel.split())
        return self

    def __exit__(self, *exc: object) -> None:
        """It ends with its lab."""

    def define(self) -> None:
        for hypervisor in self.lab.hypervisors:
            hypervisor.ofctl("del-flows", "br-int")

    def settle(self) -> None:
        for number, (case, pair) in enumerate(PAIRS.items(), start=1):
            for here, there in (pair, pair[::-1]):
                self._connect(number, here, there, routed=case == ROUTED)

    def _connect(self, tunnel_id: int, here: Spec, there: Spec, routed: bool) -> None:
        hypervisor, peer = self.lab.hypervisors[here.hypervisor], self.lab.hypervisors[there.hypervisor]
        vm = hypervisor.vms[here.id]
        rewrite = f"set_field:{there.gateway_mac}->eth_src,set_field:{there.mac}->eth_dst,dec_ttl,"
        out = f"set_field:{tunnel_id}->tun_id,set_field:{peer.tunnel_ip}->tun_dst,output:100"
        match = f"in_port={vm.interface},ip" if routed else f"in_port={vm.interface}"
        hypervisor.ofctl("add-flow", "br-int", f"{match} actions={rewrite if routed else ''}{out}")
        hypervisor.ofctl("add-flow", "br-int", f"in_port=100,tun_id={tunnel_id} actions=output:{vm.interface}")
        if routed:  # nobody answers for the gateway
            vm.exec(
                ["ip", "neigh", "replace", here.gateway, "lladdr", here.gateway_mac, "dev", "eth0", "nud", "permanent"]
            )


class OurSystem(NovaNet):
    """NovaNet, by its REST interface, with ports that nothing filters and no connection is tracked of."""

    group = OPEN
    """What all ports are in."""

    def define(self) -> None:
        self.add_group(self.group)
        router = self.request("POST", "/v1/routers", {"name": "router"})
        for number in NETWORKS:
            network = _network(number)
            self.request("POST", "/v1/networks", {"id": network, "name": f"net{number}", "mtu": MTU})
            self.request("POST", "/v1/subnets", {"network_id": network, "cidr": f"10.{number}.0.0/{PREFIX}"})
            if number in ROUTED_NETWORKS:
                self.request("POST", "/v1/ports", {"network_id": network, "router_id": router["id"]})
        for spec in (spec for pair in PAIRS.values() for spec in pair):
            fields = {"id": spec.id, "network_id": _network(spec.network), "mac_address": spec.mac}
            also = {"fixed_ips": [{"ip_address": spec.ip}], "security_groups": [self.group.id]}
            self.request("POST", "/v1/ports", fields | also)

    def settle(self) -> None:
        self.wait_realised(len(PAIRS) * 2, timeout=60)
        self.wait_settled()


class OurGroups(OurSystem):
    """With security groups: all ports in a stateful one, as Neutron's ``default``."""

    name = "NovaNet with groups"
    group = DEFAULT


class OvnSystem(Ovn):
    """OVN, with a logical router."""

    group = OPEN

    def define(self) -> None:
        self.add_group(self.group)
        for hypervisor in self.lab.hypervisors:
            hypervisor.vsctl("set", "open_vswitch", ".", "external_ids:ovn-encap-csum=false")
        self.nbctl("lr-add", "router")
        for number in NETWORKS:
            self.nbctl("ls-add", f"net{number}")
        for number in ROUTED_NETWORKS:
            interface, mac = f"router-net{number}", f"02:00:00:00:ff:{number:02x}"
            self.nbctl("lrp-add", "router", interface, mac, f"10.{number}.0.1/{PREFIX}")
            self.nbctl("lsp-add", f"net{number}", f"net{number}-router")
            self.nbctl("lsp-set-type", f"net{number}-router", "router")
            self.nbctl("lsp-set-addresses", f"net{number}-router", "router")
            self.nbctl("lsp-set-options", f"net{number}-router", f"router-port={interface}")
        for spec in (spec for pair in PAIRS.values() for spec in pair):
            addresses = f"{spec.mac} {spec.ip}"
            self.nbctl("lsp-add", f"net{spec.network}", spec.id)
            self.nbctl("lsp-set-addresses", spec.id, addresses)
            self.nbctl("lsp-set-port-security", spec.id, addresses)
        if self.group != OPEN:
            self.nbctl("pg-set-ports", self.group.name, *(spec.id for pair in PAIRS.values() for spec in pair))

    def settle(self) -> None:
        self.wait_realised(len(PAIRS) * 2, timeout=60)
        for hypervisor in self.lab.hypervisors:
            if 'csum="true"' in hypervisor.vsctl("--columns=options", "find", "interface", "type=geneve"):
                raise LabError("OVN's tunnels compute checksums, and the others' do not")


class OvnAcls(OvnSystem):
    """With ACLs, as OpenStack's driver makes them of the same group."""

    name = "OVN with ACLs"
    group = DEFAULT


SYSTEMS: dict[str, type[System]] = {
    "novanet": OurSystem, "floor": Floor, "ovn": OvnSystem, "novanet-groups": OurGroups, "ovn-acls": OvnAcls,
}  # fmt: skip
PEERS: dict[str, tuple[str, ...]] = {"novanet": ("floor", "ovn"), "novanet-groups": ("floor", "ovn-acls")}
"""What ours are held against."""


def _network(number: int) -> str:
    return f"00000000-0000-4000-8000-0006{number:08x}"
