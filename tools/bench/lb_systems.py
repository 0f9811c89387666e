"""What ``lb_connections`` compares, on labs with two hypervisors: NovaNet with a load balancer and with HAProxy in a VM, and OVN.

All have the same VMs in one subnet: a client, two members of a pool on its hypervisor (``NEAR``) and two of another pool on the other one
(``FAR``). NovaNet's labs have a box for HAProxy besides, on the hypervisor of its members, which is where it does best: no packet passes
the tunnel twice. NovaNet's VIPs are hosts of the subnet. OVN's are where they usually are: outside of it, so that a router leads there, as
load balancers of the logical switch.
"""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, Protocol

from tools.bench import haproxy
from tools.bench.groups import DEFAULT, OPEN, Group
from tools.bench.novanet import NovaNet
from tools.bench.ovn import Ovn
from tools.lab import processes
from tools.lab.lab import Lab
from tools.lab.vm import VM

HYPERVISORS = 2
MTU = 1400
"""Bytes of an IP packet of the VMs: what every system's tunnel leaves."""
PREFIX, GATEWAY, GATEWAY_MAC = 24, "10.1.0.1", "02:00:00:00:ff:01"
NETWORK, SUBNET = "00000000-0000-4000-8000-000700000001", "00000000-0000-4000-8000-000700000002"
NEAR, FAR = "same hypervisor", "other hypervisor"
CASES = (NEAR, FAR)
VIP_PORT, BOX_PORT = 80, 8080
DIRECT_PORT, VIP_MEMBER_PORT, BOX_MEMBER_PORT = 7000, 7001, 7002
"""Where members serve: each way ends at a port of its own, so that no two use the same pair of ports."""
TABLE_SIZE = 1021


class Spec(NamedTuple):
    """A VM, by the last byte of its address."""

    number: int
    hypervisor: int

    @property
    def id(self) -> str:
        return f"00000000-0000-4000-8000-0008{self.number:08x}"

    @property
    def mac(self) -> str:
        return f"02:00:00:00:01:{self.number:02x}"

    @property
    def ip(self) -> str:
        return f"10.1.0.{self.number}"


CLIENT = Spec(10, 0)
MEMBERS = {NEAR: (Spec(11, 0), Spec(12, 0)), FAR: (Spec(21, 1), Spec(22, 1))}
BOXES = {NEAR: Spec(31, 0), FAR: Spec(32, 1)}
SPECS = (CLIENT, *MEMBERS[NEAR], *MEMBERS[FAR], *BOXES.values())
VIPS = {NEAR: "10.1.0.101", FAR: "10.1.0.102"}
ROUTED_VIPS = {NEAR: "10.96.0.1", FAR: "10.96.0.2"}


class Way(NamedTuple):
    """How a client gets to members: addresses that take turns, and a port."""

    addresses: tuple[str, ...]
    port: int
    relays: tuple[int, ...] = ()
    """Process ids of what is in between, switches apart."""


class System(Protocol):
    """A way to connect the VMs and to balance, on a lab that is up."""

    lab: Lab
    vips: dict[str, str]

    def __init__(self, lab: Lab, group: Group) -> None:
        """On this lab, with ports in this group."""

    def __enter__(self) -> Any:
        """Bring it up."""

    def __exit__(self, *exc: object) -> None:
        """End it."""

    def define(self) -> None:
        """Make network and ports; nothing is plugged yet."""

    def balance(self) -> None:
        """The VMs are plugged: make the VIPs, and return when they are in the switches."""


class OurSystem(NovaNet):
    """NovaNet, by its REST interface."""

    vips = VIPS

    def __init__(self, lab: Lab, group: Group) -> None:
        super().__init__(lab)
        self.group = group

    def define(self) -> None:
        self.add_group(self.group)
        self.request("POST", "/v1/networks", {"id": NETWORK, "name": "net", "mtu": MTU})
        self.request("POST", "/v1/subnets", {"id": SUBNET, "network_id": NETWORK, "cidr": f"10.1.0.0/{PREFIX}"})
        for spec in SPECS:
            fields = {"id": spec.id, "network_id": NETWORK, "mac_address": spec.mac}
            also = {"fixed_ips": [{"ip_address": spec.ip}], "security_groups": [self.group.id]}
            self.request("POST", "/v1/ports", fields | also)

    def balance(self) -> None:
        self.wait_realised(len(SPECS), timeout=60)
        for case, vip in VIPS.items():
            balancer = {"name": case, "vip_subnet_id": SUBNET, "vip_address": vip}
            made = self.request("POST", "/v1/load-balancers", balancer)
            common = {"loadbalancer_id": made["id"], "protocol": "TCP"}
            pool = self.request("POST", "/v1/pools", common | {"table_size": TABLE_SIZE})
            for spec in MEMBERS[case]:
                member = {"pool_id": pool["id"], "address": spec.ip, "protocol_port": VIP_MEMBER_PORT}
                self.request("POST", "/v1/members", member)
            listener = common | {"protocol_port": VIP_PORT, "default_pool_id": pool["id"]}
            self.request("POST", "/v1/listeners?wait=60", listener)
        self.wait_settled()


class OvnSystem(Ovn):
    """OVN, with a logical router before the VIPs."""

    vips = ROUTED_VIPS

    def __init__(self, lab: Lab, group: Group) -> None:
        super().__init__(lab)
        self.group = group

    def define(self) -> None:
        self.add_group(self.group)
        for hypervisor in self.lab.hypervisors:
            hypervisor.vsctl("set", "open_vswitch", ".", "external_ids:ovn-encap-csum=false")
        self.nbctl("lr-add", "router")
        self.nbctl("lrp-add", "router", "router-net", GATEWAY_MAC, f"{GATEWAY}/{PREFIX}")
        self.nbctl("ls-add", "net")
        self.nbctl("lsp-add", "net", "net-router")
        self.nbctl("lsp-set-type", "net-router", "router")
        self.nbctl("lsp-set-addresses", "net-router", "router")
        self.nbctl("lsp-set-options", "net-router", "router-port=router-net")
        for spec in SPECS:
            addresses = f"{spec.mac} {spec.ip}"
            self.nbctl("lsp-add", "net", spec.id)
            self.nbctl("lsp-set-addresses", spec.id, addresses)
            self.nbctl("lsp-set-port-security", spec.id, addresses)
        if self.group != OPEN:
            self.nbctl("pg-set-ports", self.group.name, *(spec.id for spec in SPECS))

    def balance(self) -> None:
        self.wait_realised(len(SPECS), timeout=60)
        for case, vip in ROUTED_VIPS.items():
            name, members = case.replace(" ", "-"), ",".join(f"{spec.ip}:{VIP_MEMBER_PORT}" for spec in MEMBERS[case])
            self.nbctl("lb-add", name, f"{vip}:{VIP_PORT}", members, "tcp")
            self.nbctl("ls-lb-add", "net", name)
        self.sync()


class Side(NamedTuple):
    """A system with its VMs, and the boxes that HAProxy is in."""

    system: System
    vms: dict[Spec, VM]
    boxes: dict[str, subprocess.Popen[str]]

    def direct(self, case: str) -> Way:
        """Members themselves."""
        return Way(tuple(spec.ip for spec in MEMBERS[case]), DIRECT_PORT)

    def vip(self, case: str) -> Way:
        """The system's load balancer."""
        return Way((self.system.vips[case],), VIP_PORT)

    def box(self, case: str) -> Way:
        """HAProxy."""
        return Way((BOXES[case].ip,), BOX_PORT, (self.boxes[case].pid,))


GROUPS = {"open": OPEN, "with groups": DEFAULT}
KINDS: dict[str, type[System]] = {"novanet": OurSystem, "ovn": OvnSystem}


def bring_up(stack: ExitStack, make: type[System], group: Group) -> Side:
    """A system with its VMs, of which the client has reached all; LabError when it cannot."""
    lab = stack.enter_context(Lab(HYPERVISORS))
    system = stack.enter_context(make(lab, group))
    system.define()
    vms = {}
    for spec in SPECS:
        hypervisor = lab.hypervisors[spec.hypervisor]
        vms[spec] = hypervisor.plug(spec.id, spec.mac, [(spec.ip, PREFIX)], MTU, gateways=[GATEWAY])
    system.balance()
    for spec in SPECS[1:]:
        reached = partial(_reached, vms[CLIENT], spec.ip)
        processes.until(reached, f"a packet gets to {spec.ip}")
    boxes = {}
    if make is OurSystem:
        for case, spec in BOXES.items():
            members = [f"{member.ip}:{BOX_MEMBER_PORT}" for member in MEMBERS[case]]
            boxes[case] = haproxy.start(vms[spec], lab.directory, BOX_PORT, members)
    return Side(system, vms, boxes)


def _reached(client: VM, ip: str) -> bool:
    return client.ping(ip, count=1).received > 0
