"""The routed world with a way outside, on switches that send each other packets through tunnels."""

from __future__ import annotations

from typing import NamedTuple

from pipelines import fields as f
from pipelines.interpreter import SIZE, Connections, Interpreter, Packet
from pipelines.punting import Reason
from topology.changes import Edit
from topology.model import FloatingIp, Link, Neighbour, PortForwarding, RouterGateway

from .test_routing import CONTROLLER, Switches

WIRE, TUNNEL, EXT = 900, 1000, 100
"""OpenFlow ports towards the wire and the tunnels, and the VNI of the network outside."""
OUTER, OUTER6 = "203.0.113.10", "2001:db8:1::10"
"""The router's addresses outside."""
WORLD, WORLD6 = "203.0.113.1", "2001:db8:1::1"
WORLD_MAC = f.mac("02:77:00:00:00:01")
FIELDS = (
    f.ETH_SRC, f.ETH_DST, f.ETH_TYPE, f.IP_PROTO, f.IPV4_SRC, f.IPV4_DST, f.IPV6_SRC, f.IPV6_DST, f.IP_TTL, f.TCP_SRC,
    f.TCP_DST, f.UDP_SRC, f.UDP_DST, f.ICMPV4_TYPE, f.ICMPV6_TYPE, f.ARP_OP, f.ARP_SPA, f.ARP_TPA, f.ARP_SHA, f.ARP_THA,
    f.ND_TARGET, f.ND_TLL, f.ND_SLL, f.VLAN_VID, SIZE,
)  # fmt: skip
"""What a cable carries."""


class Left(NamedTuple):
    """A packet that left the hypervisors, or went to the controller."""

    hypervisor: str
    port: int
    packet: Packet
    hops: int
    """Through so many tunnels."""


class Outside(Switches):
    """h2 and h3 are gateways, in this order, and wired; h1 is neither. Each watches the others by port 2000 + number."""

    def __init__(self, *wired: str, **mesh: object) -> None:
        super().__init__(**mesh)
        self.network("ext", EXT, "203.0.113.0/24", "2001:db8:1::/64", external=True, physical_network="phys")
        for hypervisor in wired or ("h2", "h3"):
            self.wire(hypervisor, "phys")
        self.interface("r", "ext", OUTER, OUTER6)
        self.prefer("h2", "h3")
        for here in ("h1", "h2", "h3"):
            for there in {"h1", "h2", "h3"} - {here}:
                self.link(here, there, 2000 + int(there[1]))
        for number, text in enumerate((WORLD, WORLD6)):
            host = Neighbour(id=f"n{number}", network_id="ext", ip_address=text, mac_address="02:77:00:00:00:01")
            self.apply(Edit("neighbour", host.id, host))
        self.down: dict[str, set[int]] = {}
        self._connections: dict[str, Connections] = {}

    @property
    def outer_mac(self) -> int:
        return self.mac("r-ext")

    def prefer(self, *hypervisors: str) -> None:
        order = tuple(RouterGateway(id, 9 - number) for number, id in enumerate(hypervisors))
        self.edit("router", "r", gateway_hypervisors=order)

    def link(self, here: str, there: str, ofport: int | None, settled: bool = True) -> None:
        link = Link(hypervisor_id=here, peer_id=there, ofport=ofport, up=settled, settled=settled)
        self.apply(Edit("link", f"{here}/{there}", link))

    def lose(self, here: str, *there: str) -> None:
        """``here`` no longer sees these hypervisors."""
        self.down[here] = {2000 + int(hypervisor[1]) for hypervisor in there}

    def floating(self, text: str, port: str | None, id: str = "f") -> int:
        """A floating IP; returns its MAC address."""
        number = len(self.topology.all("floating-ip"))
        self.apply(
            Edit(
                "floating-ip",
                id,
                FloatingIp(
                    id=id, floating_network_id="ext", subnet_id=f"ext-{6 if ':' in text else 4}", port_id=port,
                    floating_ip_address=text, mac_address=f"02:66:00:00:00:{number:02x}",
                ),
            )
        )  # fmt: skip
        return f.mac(f"02:66:00:00:00:{number:02x}")

    def forwarding(self, id: str, floating: str, port: str, external: int, internal: int, inside: str) -> None:
        made = PortForwarding(
            id=id, floating_ip_id=floating, protocol="tcp", external_port=external, internal_port_id=port,
            internal_port=internal, internal_ip_address=inside,
        )  # fmt: skip
        self.apply(Edit("port-forwarding", id, made))

    # --- packets -------------------------------------------------------------------------------------------------

    def tracking(self, hypervisor: str) -> Interpreter:
        switch = Interpreter.of(self.rules(hypervisor))
        switch.connections = self._connections.setdefault(hypervisor, switch.connections)
        switch.down = self.down.get(hypervisor, set())
        return switch

    def run(self, hypervisor: str, packet: Packet, port: int, hops: int = 0) -> list[Left]:
        """Where a packet comes out that a hypervisor gets by a port; from hypervisor to hypervisor, if need be."""
        assert hops < 100, "it goes to and fro"
        left: list[Left] = []
        for sent in self.tracking(hypervisor).run(packet, port).sent:
            if sent.port != TUNNEL:
                left.append(Left(hypervisor, sent.port, sent.packet, hops))
                continue
            target = f"h{sent.packet[f.TUN_DST] & 0xFF}"
            here = self.topology.get("hypervisor", hypervisor).tunnel_ip
            arriving = {field: sent.packet.get(field, 0) for field in (*FIELDS, f.TUNNEL_ID, f.TUN_OPTION)}
            left += self.run(target, arriving | {f.TUN_SRC: f.ip(here)}, TUNNEL, hops + 1)
        return left

    def from_vm(self, port: str, destination: str, *, via: str = "r-a", **more: int) -> list[Left]:
        """A packet of a VM, to its router."""
        obj = self.topology.get("port", port)
        six = ":" in destination
        own = next(fixed.ip_address for fixed in obj.fixed_ips if (":" in fixed.ip_address) == six)
        packet = _packet(f.mac(obj.mac_address), self.mac(via), own, destination, more)
        return self.run(self.topology.location(port), packet, self.topology.get("vif", port).ofport)

    def from_outside(self, hypervisor: str, mac: int, source: str, destination: str, **more: int) -> list[Left]:
        """A packet from the wire."""
        return self.run(hypervisor, _packet(WORLD_MAC, mac, source, destination, more), WIRE)

    def answer(self, left: Left) -> list[Left]:
        """What becomes of the answer to a packet that left by a wire, or reached a VM."""
        packet = {field: left.packet.get(field, 0) for field in FIELDS}
        for one, other in (
            (f.ETH_SRC, f.ETH_DST), (f.IPV4_SRC, f.IPV4_DST), (f.IPV6_SRC, f.IPV6_DST), (f.TCP_SRC, f.TCP_DST),
        ):  # fmt: skip
            packet[one], packet[other] = packet[other], packet[one]
        return self.run(left.hypervisor, packet | {f.IP_TTL: 64}, left.port)

    def asks(self, hypervisor: str, text: str, sender: str = "203.0.113.7", mac: int = WORLD_MAC) -> list[Left]:
        """ARP or a solicitation from the wire; what leaves are the answers, and what the controller gets."""
        address = f.ip(text)
        if ":" in text:
            packet = {
                f.ETH_SRC: mac, f.ETH_DST: 0x3333FF000001, f.ETH_TYPE: f.IPV6, f.IP_PROTO: f.ICMPV6,
                f.IPV6_SRC: f.ip("2001:db8:1::7"), f.ICMPV6_TYPE: 135, f.ND_TARGET: address, f.ND_SLL: mac,
            }  # fmt: skip
        else:
            packet = {
                f.ETH_SRC: mac, f.ETH_DST: 0xFFFFFFFFFFFF, f.ETH_TYPE: f.ARP, f.ARP_OP: 1, f.ARP_SHA: mac,
                f.ARP_SPA: f.ip(sender), f.ARP_TPA: address,
            }  # fmt: skip
        return self.run(hypervisor, packet, WIRE)


def _packet(source_mac: int, mac: int, source: str, destination: str, more: dict[str, int]) -> Packet:
    six = ":" in destination
    packet = {
        f.ETH_SRC: source_mac, f.ETH_DST: mac, f.ETH_TYPE: f.IPV6 if six else f.IPV4, f.IP_PROTO: f.TCP,
        (f.IPV6_SRC if six else f.IPV4_SRC): f.ip(source), (f.IPV6_DST if six else f.IPV4_DST): f.ip(destination),
        f.IP_TTL: 64, f.TCP_SRC: 5000, f.TCP_DST: 80,
    }  # fmt: skip
    return packet | {SIZE if name == "SIZE" else getattr(f, name): value for name, value in more.items()}


def ends(packet: Packet) -> tuple[int, int]:
    """Source and destination address."""
    if packet[f.ETH_TYPE] == f.IPV6:
        return packet[f.IPV6_SRC], packet[f.IPV6_DST]
    return packet[f.IPV4_SRC], packet[f.IPV4_DST]


def reasons(left: list[Left]) -> list[Reason]:
    """Why the controller was asked."""
    return [Reason(each.packet[f.PUNT]) for each in left if each.port == CONTROLLER]
