"""What is asked: which VM sends which packet where; and the packets that it sends for that, as a VM's own IP stack would."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Literal

from msgspec import Meta, Struct

from pipelines import fields as f
from pipelines.interpreter import SIZE, Packet
from pipelines.interpreter.packets import PORTS
from topology.graph import Topology
from topology.model import Port, Subnet

ETHERNET = 14
SYN, SYN_ACK, ACK = 0x02, 0x12, 0x10
PROTOCOLS = {"tcp": f.TCP, "udp": f.UDP, "sctp": f.SCTP}
ECHO = {4: 8, 6: 128}
ANSWERS = {8: 0, 13: 14, 128: 129}
"""ICMP type -> that of the answer."""
BROADCAST_MAC = 0xFFFFFFFFFFFF


class Unanswerable(ValueError):
    """The question makes no sense for this port; ``field`` names the part that is to blame."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


class Question(Struct, frozen=True, kw_only=True):
    """A packet of a VM. Ports are UDP's, TCP's or SCTP's; sizes are bytes of the IP packet."""

    source: str
    """Id of the VM's port."""
    destination: str
    """IP address."""
    protocol: Literal["tcp", "udp", "sctp", "icmp"] = "icmp"
    destination_port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    source_port: Annotated[int, Meta(ge=1, le=65535)] = 40000
    icmp_type: Annotated[int, Meta(ge=0, le=255)] | None = None
    icmp_code: Annotated[int, Meta(ge=0, le=255)] = 0
    size: Annotated[int, Meta(ge=28, le=65535)] = 100
    ttl: Annotated[int, Meta(ge=1, le=255)] = 64
    established: bool = False
    reply: bool = False
    source_ip: str | None = None
    source_mac: str | None = None

    @property
    def version(self) -> int:
        """Of IP."""
        return 6 if ":" in self.destination else 4


class Sender:
    """A VM's IP stack, as far as it has to do with one destination. Raises Unanswerable."""

    def __init__(self, topology: Topology, port: Port, destination: str) -> None:
        self.topology, self.port = topology, port
        self.six = ":" in destination
        self.to = ip_address(destination)
        fixed = [each for each in port.fixed_ips or () if each.ip_address and (":" in each.ip_address) == self.six]
        if not fixed or port.mac_address is None:
            raise Unanswerable("destination", f"the port has no IPv{6 if self.six else 4} address to send from")
        self.subnets: list[Subnet] = [
            subnet for each in fixed if (subnet := topology.get("subnet", each.subnet_id or "")) is not None
        ]
        near = [each for each in fixed if self.to in _cidr(topology.get("subnet", each.subnet_id or ""))]
        self.ip = str((near or fixed)[0].ip_address)
        self.mac = f.mac(port.mac_address)

    def next_hop(self) -> str | None:
        """Whose MAC address it asks for: the destination's on its own link, else that of the way there; None: no way."""
        if self.to.is_link_local or any(self.to in _cidr(subnet) for subnet in self.subnets):
            return str(self.to)
        routes = [
            (prefix.prefixlen, route.nexthop)
            for subnet in self.subnets
            for route in subnet.host_routes
            if self.to in (prefix := ip_network(route.destination, strict=False))
        ]
        if routes:
            return max(routes)[1]
        return next((subnet.gateway_ip for subnet in self.subnets if subnet.gateway_ip), None)

    def several(self) -> int | None:
        """The MAC address of a destination that is several (RFC 1112, RFC 2464); None for a single one."""
        if isinstance(self.to, IPv6Address):
            return 0x333300000000 | int(self.to) & 0xFFFFFFFF if self.to.is_multicast else None
        if self.to.is_multicast:
            return 0x01005E000000 | int(self.to) & 0x7FFFFF
        ends = {IPv4Address("255.255.255.255"), *(_cidr(subnet).broadcast_address for subnet in self.subnets)}
        return BROADCAST_MAC if self.to in ends else None

    def question(self, address: str) -> Packet:
        """The ARP request, or neighbour solicitation, for an address on its link."""
        target = f.ip(address)
        if not self.six:
            return {
                f.ETH_SRC: self.mac, f.ETH_DST: BROADCAST_MAC, f.ETH_TYPE: f.ARP, f.ARP_OP: 1, f.ARP_SHA: self.mac,
                f.ARP_SPA: f.ip(self.ip), f.ARP_TPA: target, SIZE: 42,
            }  # fmt: skip
        low = target & 0xFFFFFF
        return {
            f.ETH_SRC: self.mac, f.ETH_DST: 0x3333FF000000 | low, f.ETH_TYPE: f.IPV6, f.IP_PROTO: f.ICMPV6,
            f.IPV6_SRC: f.ip(self.ip), f.IPV6_DST: f.ip("ff02::1:ff00:0") | low, f.IP_TTL: 255, f.ICMPV6_TYPE: 135,
            f.ND_TARGET: target, f.ND_SLL: self.mac, SIZE: 86,
        }  # fmt: skip

    def told(self, packet: Packet, address: str) -> int | None:
        """The MAC address that an answer to the question tells; None for another packet."""
        target = f.ip(address)
        if packet.get(f.ARP_OP) == 2 and packet.get(f.ARP_SPA) == target:
            return packet.get(f.ARP_SHA)
        if packet.get(f.ICMPV6_TYPE) == 136 and packet.get(f.ND_TARGET) == target:
            return packet.get(f.ND_TLL) or packet.get(f.ETH_SRC)
        return None


def _cidr(subnet: Subnet | None) -> IPv4Network | IPv6Network:
    return ip_network(subnet.cidr if subnet is not None else "255.255.255.255/32")


def request(question: Question, sender: Sender, mac: int) -> Packet:
    """The packet itself, to a MAC address. Raises Unanswerable."""
    six = sender.six
    if (question.source_ip is not None) and (":" in question.source_ip) != six:
        raise Unanswerable("source_ip", "is of another IP version than the destination")
    source, destination = (f.IPV6_SRC, f.IPV6_DST) if six else (f.IPV4_SRC, f.IPV4_DST)
    packet: Packet = {
        f.ETH_SRC: f.mac(question.source_mac) if question.source_mac else sender.mac, f.ETH_DST: mac,
        f.ETH_TYPE: f.IPV6 if six else f.IPV4, source: f.ip(question.source_ip or sender.ip),
        destination: int(sender.to), f.IP_TTL: question.ttl, SIZE: question.size + ETHERNET,
    }  # fmt: skip
    if question.protocol == "icmp":
        kind, code = (f.ICMPV6_TYPE, f.ICMPV6_CODE) if six else (f.ICMPV4_TYPE, f.ICMPV4_CODE)
        asked = ECHO[question.version] if question.icmp_type is None else question.icmp_type
        return packet | {f.IP_PROTO: f.ICMPV6 if six else f.ICMP, kind: asked, code: question.icmp_code}
    if question.destination_port is None:
        raise Unanswerable("destination_port", f"{question.protocol} needs a port")
    number = PROTOCOLS[question.protocol]
    ports = PORTS[number]
    packet |= {f.IP_PROTO: number, ports[0]: question.source_port, ports[1]: question.destination_port}
    return packet | {f.TCP_FLAGS: SYN} if number == f.TCP else packet


def answer(packet: Packet) -> Packet | None:
    """What the receiver of a packet answers, its MAC addresses turned around; None where nobody would."""
    turned = dict(packet)
    pairs = ((f.ETH_SRC, f.ETH_DST), (f.IPV4_SRC, f.IPV4_DST), (f.IPV6_SRC, f.IPV6_DST), *PORTS.values())
    for one, other in pairs:
        turned[one], turned[other] = packet.get(other, 0), packet.get(one, 0)
    for kind in (f.ICMPV4_TYPE, f.ICMPV6_TYPE):
        if packet.get(f.IP_PROTO) == (f.ICMP if kind is f.ICMPV4_TYPE else f.ICMPV6):
            if packet.get(kind, 0) not in ANSWERS:
                return None
            turned[kind] = ANSWERS[packet.get(kind, 0)]
    if packet.get(f.IP_PROTO) == f.TCP:
        turned[f.TCP_FLAGS] = SYN_ACK if packet.get(f.TCP_FLAGS, 0) & SYN else ACK
    if packet.get(f.ETH_DST, 0) & f.MULTICAST_BIT:
        return None
    return turned | {f.IP_TTL: 64}


def following(packet: Packet) -> Packet:
    """A later packet of the same connection."""
    return packet | {f.TCP_FLAGS: ACK} if packet.get(f.IP_PROTO) == f.TCP else dict(packet)


# --- in words --------------------------------------------------------------------------------------------------------


def ip_text(packet: Packet, end: Literal["source", "destination"]) -> str:
    """The address at an end of an IP packet."""
    first = end == "source"
    if packet.get(f.ETH_TYPE) == f.IPV6:
        return str(IPv6Address(packet.get(f.IPV6_SRC if first else f.IPV6_DST, 0)))
    return str(IPv4Address(packet.get(f.IPV4_SRC if first else f.IPV4_DST, 0)))


def describe(packet: Packet) -> str:
    """A packet in a line: ``tcp 10.0.0.5:40000 > 10.0.1.7:80, 100 bytes``."""
    return " ".join(_words(packet))


def _words(packet: Packet) -> Iterator[str]:
    if packet.get(f.ETH_TYPE) == f.ARP:
        verb = "ARP request for" if packet.get(f.ARP_OP) == 1 else "ARP reply about"
        asked = f.ARP_TPA if packet.get(f.ARP_OP) == 1 else f.ARP_SPA
        yield f"{verb} {IPv4Address(packet.get(asked, 0))}"
        return
    protocol = packet.get(f.IP_PROTO, 0)
    source, destination = ip_text(packet, "source"), ip_text(packet, "destination")
    size = packet.get(SIZE, 0) - ETHERNET
    if protocol in PORTS:
        name = next(name for name, number in PROTOCOLS.items() if number == protocol)
        sport, dport = (packet.get(port, 0) for port in PORTS[protocol])
        bracket = ("[{}]:{}" if ":" in source else "{}:{}").format
        yield f"{name} {bracket(source, sport)} > {bracket(destination, dport)}, {size} bytes"
        return
    kind = packet.get(f.ICMPV6_TYPE if protocol == f.ICMPV6 else f.ICMPV4_TYPE, 0)
    if protocol == f.ICMPV6 and kind == 135:
        yield f"neighbour solicitation for {IPv6Address(packet.get(f.ND_TARGET, 0))}"
        return
    names = {(f.ICMP, 8): "echo request", (f.ICMP, 0): "echo reply", (f.ICMPV6, 128): "echo request", (f.ICMPV6, 129): "echo reply"}  # fmt: skip
    yield f"icmp {names.get((protocol, kind), f'type {kind}')} {source} > {destination}, {size} bytes"
