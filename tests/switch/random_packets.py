"""Many things in one small world, and random packets in it, also in the words of Open vSwitch."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address

from pipelines import fields as f
from pipelines.compiler import Compiler
from pipelines.cookies import cookie
from pipelines.interpreter import SIZE, Packet
from pipelines.interpreter.packets import PORTS
from pipelines.ledger import Ledger
from tests.unit.outside import OUTER, OUTER6, TUNNEL, WIRE, WORLD, WORLD6, WORLD_MAC, Outside
from topology import scope
from topology.model import PolicyRoute, StaticRoute


class Everything(Outside):
    """Routers, policy routes, several next hops, floating IPs, a forwarded port, a VLAN, multicast: on three hypervisors."""

    def __init__(self, **mesh: object) -> None:
        super().__init__(**mesh)
        self.port("b3", "b", on="h3", ips=("10.0.1.13", "fd00:b::13"))
        self.port("a2", "a", on="h2", ips=("10.0.0.12", "fd00:a::12"))
        self.port("b4", "b", on="h1", ips=("10.0.1.14", "fd00:b::14"), port_security_enabled=False)
        self.network("v", 7, "10.0.7.0/24", "fd00:7::/64", physical_network="phys", segmentation_id=12)
        self.port("v2", "v", on="h2", ips=("10.0.7.12", "fd00:7::12"))
        self.port("v3", "v", on="h3", ips=("10.0.7.13", "fd00:7::13"))
        self.port("v1", "v", on="h1", ips=("10.0.7.11", "fd00:7::11"))
        self.interface("r", "v")
        self.edit("network", "b", mtu=1300)
        several = tuple(StaticRoute("192.0.2.0/24", hop) for hop in ("10.0.1.11", "10.0.1.12", "10.0.1.13"))
        six = tuple(StaticRoute("2001:db8:9::/48", hop) for hop in ("fd00:b::11", "fd00:b::12"))
        policies = (
            PolicyRoute(priority=5, protocol="tcp", destination_port=25, action="drop"),
            PolicyRoute(priority=4, source="10.0.0.0/25", protocol="udp", nexthops=("10.0.1.13", "10.0.1.12")),
        )
        self.edit("router", "r", routes=(*several, *six), policy_routes=policies)
        self.floats = [self.floating("203.0.113.77", "b3", "f3"), self.floating("2001:db8:1::77", "a2", "f2")]
        self.floats.append(self.floating("203.0.113.80", None, "fp"))
        self.forwarding("w", "fp", "b2", 8080, 80, "10.0.1.12")

    def guard(self) -> None:
        """Security groups on some of the ports: by port, by group, by prefix, by ICMP type; stateless, denying."""
        self.group("web", "b1", "b2", "b3")
        self.group("clients", "a1", "a2")
        self.group("plain", "b4", stateful=False)
        self.group("shut", tier="admin", priority=7, selector=())
        tcp = {"protocol": "tcp", "port_range_min": 80, "port_range_max": 80}
        self.rule("web", remote_group_id="clients", **tcp)
        self.rule("web", ethertype="IPv6", remote_group_id="clients", **tcp)
        self.rule("web", protocol="icmp", port_range_min=8)
        self.rule("web", protocol="udp", port_range_min=53, port_range_max=53, remote_ip_prefix="10.0.0.0/25")
        self.rule("web", protocol="udp", remote_ip_prefix="8.8.0.0/16")
        self.rule("clients", "egress")
        self.rule("clients", "egress", ethertype="IPv6", protocol="tcp", revoke=False)
        self.rule("plain", protocol="tcp", port_range_min=80, port_range_max=80)
        self.rule("plain", "egress", remote_group_id="clients")
        self.rule("shut", "egress", action="deny", protocol="tcp", port_range_min=25, port_range_max=25)
        self.rule("shut", action="deny", remote_ip_prefix="10.0.1.13/32")

    def ledger(self, hypervisor: str, version: int) -> Ledger:
        """What a hypervisor's bridge is to have."""
        ledger, compiler = Ledger(version), Compiler()
        for owner in dict.fromkeys(scope.owners_on(self.topology, hypervisor)):
            ledger.put(owner, compiler.compile(self.topology, hypervisor, owner), cookie(owner))
        return ledger


# --- packets -------------------------------------------------------------------------------------------------------------


class Random:
    """Packets that have a good chance to get somewhere."""

    def __init__(self, world: Everything, hypervisor: str, seed: int) -> None:
        self.world, self.hypervisor, self._dice = world, hypervisor, random.Random(seed)
        ports = world.topology.all("port").values()
        self._macs = [f.mac(port.mac_address) for port in ports] + world.floats
        self._macs += [WORLD_MAC, 0xFFFFFFFFFFFF, 0x01005E000001, 0x333300000001, 0x020000009999]
        texts = [fixed.ip_address for port in ports for fixed in port.fixed_ips]
        texts += [
            OUTER,
            OUTER6,
            WORLD,
            WORLD6,
            "203.0.113.77",
            "2001:db8:1::77",
            "203.0.113.80",
            "8.8.8.8",
            "10.0.1.99",
        ]
        texts += ["192.0.2.9", "192.0.2.10", "2001:db8:9::1", "2001:db8:ffff::1", "224.0.0.251", "239.1.1.1", "ff02::1"]
        texts += ["169.254.169.253", "fd00:4e4e::53", "255.255.255.255", "fe80::1"]
        self._texts = {six: [f.ip(text) for text in texts if (":" in text) == six] for six in (False, True)}

    def packet(self) -> tuple[Packet, int]:
        """A packet, and the port that it comes in by."""
        dice = self._dice
        here = [vif for vif in self.world.topology.all("vif").values() if vif.hypervisor_id == self.hypervisor]
        kind = dice.choice(("vm", "vm", "vm", "vm", "tunnel", "wire", "nowhere"))
        six = dice.random() < 0.4
        packet: Packet = {f.ETH_SRC: dice.choice(self._macs), f.ETH_DST: dice.choice(self._macs)}
        source = dice.choice(self._texts[six])
        in_port = 77
        if kind == "vm":
            vif = dice.choice(here)
            in_port = vif.ofport
            port = self.world.topology.get("port", vif.port_id)
            if dice.random() < 0.9:
                packet[f.ETH_SRC] = f.mac(port.mac_address)
                source = next(f.ip(fixed.ip_address) for fixed in port.fixed_ips if (":" in fixed.ip_address) == six)
            if dice.random() < 0.6:
                packet[f.ETH_DST] = self.world.mac({"a": "r-a", "b": "r-b", "v": "r-v"}[port.network_id])
        elif kind == "wire":
            in_port = WIRE
            packet |= dice.choice(({}, {}, {f.VLAN_VID: 0x1000 | 12}, {f.VLAN_VID: 0x1000 | 13}))
            packet[f.ETH_SRC] = WORLD_MAC
            if dice.random() < 0.7:
                packet[f.ETH_DST] = dice.choice([self.world.outer_mac, *self.world.floats, 0xFFFFFFFFFFFF])
        elif kind == "tunnel":
            in_port = TUNNEL
            peer = dice.choice((1, 2, 3, 9))
            packet |= {f.TUN_SRC: f.ip(f"192.168.50.{peer}"), f.TUNNEL_ID: dice.choice((1, 2, 7, 100, 5))}
            keys = [0, 0, *(port.port_key for port in self.world.topology.all("port").values())]
            packet[f.TUN_OPTION] = dice.choice((0, 77)) << 32 | dice.choice(keys)
        return packet | self._body(six, source, packet[f.ETH_SRC]), in_port

    def _body(self, six: bool, source: int, mac: int) -> Packet:
        dice = self._dice
        destination = dice.choice(self._texts[six])
        if not six and dice.random() < 0.15:
            return {
                f.ETH_TYPE: f.ARP, f.ARP_OP: dice.choice((1, 1, 2)), f.ARP_SPA: dice.choice((source, 0)), f.ARP_TPA: destination,
                f.ARP_SHA: dice.choice((mac, mac, WORLD_MAC)),
            }  # fmt: skip
        body = {f.ETH_TYPE: f.IPV6 if six else f.IPV4, f.IP_TTL: dice.choice((0, 1, 2, 64, 64, 64, 255))}
        body |= dict(
            zip((f.IPV6_SRC, f.IPV6_DST) if six else (f.IPV4_SRC, f.IPV4_DST), (source, destination), strict=True)
        )
        protocol = dice.choice((f.TCP, f.UDP, f.ICMPV6 if six else f.ICMP, 47, 2))
        body[f.IP_PROTO] = protocol
        fragment = dice.choice((0, 0, 0, 0, 0, 1, 3))
        body[f.IP_FRAG] = fragment
        if fragment == 3:
            return body
        if protocol in PORTS:
            ports = PORTS[protocol]
            body |= {
                ports[0]: dice.choice((67, 68, 546, 547, 1024, 5000)),
                ports[1]: dice.choice((25, 53, 67, 68, 80, 547, 8080)),
            }
        elif protocol == f.ICMP:
            body |= {f.ICMPV4_TYPE: dice.choice((0, 3, 8, 8, 11)), f.ICMPV4_CODE: dice.choice((0, 4))}
        elif protocol == f.ICMPV6:
            body |= {f.ICMPV6_TYPE: dice.choice((1, 2, 128, 128, 129, 133, 134, 135, 136, 137, 143)), f.ICMPV6_CODE: 0}
            if body[f.ICMPV6_TYPE] in (135, 136):
                body |= {f.ND_TARGET: dice.choice((destination, source)), f.IP_FRAG: 0, f.IP_TTL: 255}
                body[f.ND_SLL if body[f.ICMPV6_TYPE] == 135 else f.ND_TLL] = dice.choice((mac, mac, WORLD_MAC, 0))
        return body


_NAMES = {
    f.ETH_SRC: "dl_src", f.ETH_DST: "dl_dst", f.ETH_TYPE: "dl_type", f.IP_PROTO: "nw_proto", f.IPV4_SRC: "nw_src",
    f.IPV4_DST: "nw_dst", f.IP_TTL: "nw_ttl", f.ICMPV4_TYPE: "icmp_type", f.ICMPV4_CODE: "icmp_code", f.ND_TARGET: "nd_target",
    f.ND_SLL: "nd_sll", f.ND_TLL: "nd_tll", f.IP_FRAG: "ip_frag", f.VLAN_VID: "vlan_vid", f.TUNNEL_ID: "tun_id",
    f.TUN_SRC: "tun_src", f.METADATA: "metadata", f.TUN_OPTION: "tun_metadata0",
}  # fmt: skip
_TEXT = {
    f.IPV4_SRC, f.IPV4_DST, f.IPV6_SRC, f.IPV6_DST, f.ARP_SPA, f.ARP_TPA, f.ND_TARGET, f.TUN_SRC, f.CT_NW_SRC, f.CT_NW_DST,
    f.CT_IPV6_SRC, f.CT_IPV6_DST,
}  # fmt: skip


def words(packet: Packet, in_port: int) -> str:
    """A packet in the words of ovs-fields(7)."""

    parts = [f"in_port={in_port}"]
    for field in sorted(packet, key=lambda field: list(_ORDER).index(field) if field in _ORDER else 99):
        value = packet[field]
        if field is SIZE or (field is f.IP_FRAG and not value):
            continue
        if field is f.IP_FRAG:
            shown = {1: "first", 3: "later"}[value]
        elif field is f.CT_STATE:
            states = ("new", "est", "rel", "rpl", "inv", "trk")
            shown = "|".join(name for bit, name in enumerate(states) if value >> bit & 1)
        elif field in _TEXT:
            shown = str(IPv6Address(value)) if field.size == 16 else str(IPv4Address(value))
        elif field.size == 6:
            shown = value.to_bytes(6, "big").hex(":")
        else:
            shown = f"{value:#x}" if field.size > 2 else str(value)
        parts.append(f"{_NAMES.get(field, field.name)}={shown}")
    return ",".join(parts)


_ORDER = (f.TUNNEL_ID, f.TUN_SRC, f.TUN_OPTION, f.METADATA, f.ETH_SRC, f.ETH_DST, f.VLAN_VID, f.ETH_TYPE, f.IP_PROTO)


def tracked(packet: Packet, dice: random.Random) -> Packet:
    """What conntrack says of a packet: of a connection that begins with it, or with its answer."""
    six = packet[f.ETH_TYPE] == f.IPV6
    source, destination = (f.IPV6_SRC, f.IPV6_DST) if six else (f.IPV4_SRC, f.IPV4_DST)
    state = dice.choice(
        (f.CT_NEW, f.CT_NEW, f.CT_ESTABLISHED, f.CT_ESTABLISHED | f.CT_REPLY, f.CT_RELATED | f.CT_NEW, f.CT_INVALID)
    )
    protocol = packet[f.IP_PROTO]
    ends = (f.CT_IPV6_SRC, f.CT_IPV6_DST) if six else (f.CT_NW_SRC, f.CT_NW_DST)
    found = {
        f.CT_STATE: f.CT_TRACKED | state, f.CT_ZONE: 0x4001, f.CT_MARK: dice.choice((0, 0, 0, 1)), f.CT_NW_PROTO: protocol,
        ends[0]: packet[source], ends[1]: packet[destination],
    }  # fmt: skip
    if state & f.CT_INVALID:
        return {f.CT_STATE: f.CT_TRACKED | state, f.CT_ZONE: 0x4001}
    if protocol in PORTS:
        found |= {f.CT_TP_SRC: dice.choice((1024, 53)), f.CT_TP_DST: dice.choice((25, 53, 80, 80))}
    elif protocol in (f.ICMP, f.ICMPV6):
        found |= {f.CT_TP_SRC: dice.choice((8, 0, 128)), f.CT_TP_DST: 0}
    return found
