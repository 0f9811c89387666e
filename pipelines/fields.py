"""The packet fields, registers and bits that NovaNet's flows match and set, by name.

A field is called to make a match on it: ``ETH_TYPE(IPV4)``, ``IPV4_SRC(0x0a000000, 0xff000000)``. The result is
the OXM TLV (OpenFlow 1.5.1, section 7.2.3; ovs-fields(7)), since a flow *is* its bytes.
"""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Address, IPv6Address

OPENFLOW_BASIC = 0x8000
NXM_0 = 0x0000
NXM_1 = 0x0001
ERICSSON = 0x1000
"""OVS's neighbour discovery extensions, ERICOXM in ovs-fields(7)."""
EXPERIMENTER = 0xFFFF


class Field:
    """One OXM field: its class, number and length in bytes, of which the lower ``width`` bits are used.

    OVS drops leading zero bytes of a ``variable`` field (a Geneve option) where an action sets it.
    """

    __slots__ = ("field", "head", "head_masked", "name", "ones", "oxm_class", "size", "variable")

    def __init__(
        self, name: str, oxm_class: int, field: int, size: int, *, width: int | None = None, variable: bool = False
    ) -> None:
        self.name, self.oxm_class, self.field, self.size = name, oxm_class, field, size
        self.variable = variable
        self.ones = (1 << (width or 8 * size)) - 1
        self.head = (oxm_class << 16 | field << 9 | size).to_bytes(4, "big")
        self.head_masked = (oxm_class << 16 | field << 9 | 1 << 8 | 2 * size).to_bytes(4, "big")

    def __call__(self, value: int | bytes, mask: int | bytes | None = None) -> bytes:
        """The TLV that matches ``value`` (an int in host order, or ``size`` bytes) under ``mask``.

        Equal matches have equal bytes: bits outside the mask count as zero, a mask of ones is none, and a mask of
        zeros matches every packet, so it leaves nothing. Raises ValueError when value or mask do not fit the field.
        """
        if mask is None:
            return self.assigned(value)
        bits = mask if type(mask) is int else int.from_bytes(self._checked(bytes(mask)), "big")
        number = value if type(value) is int else int.from_bytes(self._checked(bytes(value)), "big")
        if bits == self.ones:
            return self.head + self._bytes(number)
        if bits == 0:
            return b""
        return self.head_masked + self._bytes(number & bits) + self._bytes(bits)

    def assigned(self, value: int | bytes) -> bytes:
        """The TLV by which an action sets the whole field. Raises ValueError when the value does not fit."""
        return self.head + (self._bytes(value) if type(value) is int else self._checked(bytes(value)))

    def _bytes(self, number: int) -> bytes:
        if not 0 <= number <= self.ones:
            raise ValueError(f"{self.name}: {number:#x} does not fit in {self.ones.bit_length()} bits")
        return number.to_bytes(self.size, "big")

    def _checked(self, raw: bytes) -> bytes:
        if len(raw) != self.size:
            raise ValueError(f"{self.name}: {raw.hex()} is {len(raw)} bytes long instead of {self.size}")
        return raw

    @property
    def bits(self) -> Bits:
        """The whole field as a range of bits."""
        return Bits(self, 0, self.ones.bit_length())

    def __repr__(self) -> str:
        return self.name


class Bits:
    """Part of a field: ``width`` bits from bit ``offset`` (0 is the least significant). Called, it makes a match."""

    __slots__ = ("field", "offset", "width")

    def __init__(self, field: Field, offset: int, width: int) -> None:
        self.field, self.offset, self.width = field, offset, width

    @property
    def mask(self) -> int:
        """The bits within the field."""
        return ((1 << self.width) - 1) << self.offset

    def __call__(self, value: int) -> bytes:
        """The TLV that matches ``value`` in these bits."""
        return self.field(value << self.offset, self.mask)

    def __repr__(self) -> str:
        return f"{self.field}[{self.offset}..{self.offset + self.width - 1}]"


class ConnectionState(Field):
    """Conntrack's flags. Open vSwitch describes a match on all of them as one under a mask, so here it is one."""

    __slots__ = ()

    def __call__(self, value: int | bytes, mask: int | bytes | None = None) -> bytes:
        """The TLV that matches ``value`` under ``mask``. Raises ValueError as ``Field`` does."""
        tlv = super().__call__(value, mask)
        return tlv if len(tlv) != 8 else self.head_masked + tlv[4:] + self._bytes(self.ones)


IN_PORT = Field("in_port", OPENFLOW_BASIC, 0, 4)
INGRESS = Field("in_port", NXM_0, 0, 2)
"""IN_PORT as flows may set it (ovs-fields(7)): a packet never leaves by the port that stands here."""
METADATA = Field("metadata", OPENFLOW_BASIC, 2, 8)
ETH_DST = Field("eth_dst", OPENFLOW_BASIC, 3, 6)
ETH_SRC = Field("eth_src", OPENFLOW_BASIC, 4, 6)
VLAN_VID = Field("vlan_vid", OPENFLOW_BASIC, 6, 2, width=13)
"""Bit 12 says that there is a tag; 0 means none."""
ETH_TYPE = Field("eth_type", OPENFLOW_BASIC, 5, 2)
IP_DSCP = Field("ip_dscp", OPENFLOW_BASIC, 8, 1, width=6)
IP_PROTO = Field("ip_proto", OPENFLOW_BASIC, 10, 1)
IPV4_SRC = Field("ipv4_src", OPENFLOW_BASIC, 11, 4)
IPV4_DST = Field("ipv4_dst", OPENFLOW_BASIC, 12, 4)
TCP_SRC = Field("tcp_src", OPENFLOW_BASIC, 13, 2)
TCP_DST = Field("tcp_dst", OPENFLOW_BASIC, 14, 2)
UDP_SRC = Field("udp_src", OPENFLOW_BASIC, 15, 2)
UDP_DST = Field("udp_dst", OPENFLOW_BASIC, 16, 2)
SCTP_SRC = Field("sctp_src", OPENFLOW_BASIC, 17, 2)
SCTP_DST = Field("sctp_dst", OPENFLOW_BASIC, 18, 2)
ICMPV4_TYPE = Field("icmpv4_type", OPENFLOW_BASIC, 19, 1)
ICMPV4_CODE = Field("icmpv4_code", OPENFLOW_BASIC, 20, 1)
ARP_OP = Field("arp_op", OPENFLOW_BASIC, 21, 2)
ARP_SPA = Field("arp_spa", OPENFLOW_BASIC, 22, 4)
ARP_TPA = Field("arp_tpa", OPENFLOW_BASIC, 23, 4)
ARP_SHA = Field("arp_sha", OPENFLOW_BASIC, 24, 6)
ARP_THA = Field("arp_tha", OPENFLOW_BASIC, 25, 6)
IPV6_SRC = Field("ipv6_src", OPENFLOW_BASIC, 26, 16)
IPV6_DST = Field("ipv6_dst", OPENFLOW_BASIC, 27, 16)
IPV6_FLABEL = Field("ipv6_flabel", OPENFLOW_BASIC, 28, 4, width=20)
ICMPV6_TYPE = Field("icmpv6_type", OPENFLOW_BASIC, 29, 1)
ICMPV6_CODE = Field("icmpv6_code", OPENFLOW_BASIC, 30, 1)
ND_TARGET = Field("ipv6_nd_target", OPENFLOW_BASIC, 31, 16)
ND_SLL = Field("ipv6_nd_sll", OPENFLOW_BASIC, 32, 6)
ND_TLL = Field("ipv6_nd_tll", OPENFLOW_BASIC, 33, 6)
ND_RESERVED = Field("nd_reserved", ERICSSON, 1, 4)
ND_OPTIONS_TYPE = Field("nd_options_type", ERICSSON, 2, 1)
TUNNEL_ID = Field("tunnel_id", OPENFLOW_BASIC, 38, 8)
IP_FRAG = Field("ip_frag", NXM_1, 26, 1, width=2)
"""Bit 0: a fragment; bit 1: not the first one."""
IP_TTL = Field("nw_ttl", NXM_1, 29, 1)
PKT_MARK = Field("pkt_mark", NXM_1, 33, 4)
"""The mark of Linux's packet (ovs-fields(7))."""
TCP_FLAGS = Field("tcp_flags", NXM_1, 34, 2, width=12)
CONJ_ID = Field("conj_id", NXM_1, 37, 4)
"""Which conjunctive match the packet has met (``flow.conjunction``). It is matched whole."""
CT_STATE = ConnectionState("ct_state", NXM_1, 105, 4, width=8)
"""What conntrack knows of the packet: ``CT_NEW`` and the others. 0 for one that it has not seen."""
CT_ZONE = Field("ct_zone", NXM_1, 106, 2)
DP_HASH = Field("dp_hash", NXM_1, 35, 4)
"""What the datapath has hashed for a group of type ``select``; OpenFlow lets nobody match it, but copy."""
CT_MARK = Field("ct_mark", NXM_1, 107, 4)
CT_LABEL = Field("ct_label", NXM_1, 108, 16)
CT_NW_PROTO = Field("ct_nw_proto", NXM_1, 119, 1)
"""This and the following are those of the connection's first packet, before any NAT; they need ``ct_state`` with +trk-inv."""
CT_NW_SRC = Field("ct_nw_src", NXM_1, 120, 4)
CT_NW_DST = Field("ct_nw_dst", NXM_1, 121, 4)
CT_IPV6_SRC = Field("ct_ipv6_src", NXM_1, 122, 16)
CT_IPV6_DST = Field("ct_ipv6_dst", NXM_1, 123, 16)
CT_TP_SRC = Field("ct_tp_src", NXM_1, 124, 2)
CT_TP_DST = Field("ct_tp_dst", NXM_1, 125, 2)
TUN_SRC = Field("tun_ipv4_src", NXM_1, 31, 4)
TUN_DST = Field("tun_ipv4_dst", NXM_1, 32, 4)
TUN_IPV6_SRC = Field("tun_ipv6_src", NXM_1, 109, 16)
TUN_IPV6_DST = Field("tun_ipv6_dst", NXM_1, 110, 16)
TUN_OPTION = Field("tun_metadata0", NXM_1, 40, 12, variable=True)
"""NovaNet's Geneve option (DESIGN section 6): sender's port key, source identity, destination port key; 32 bits each.

With its header it fills whole words of 8 bytes: Open vSwitch compares options by such words, and of shorter ones it found 12
to 37 % of the packets missing in its exact-match cache (``make bench NAME=east_west``: 7 % more processor time a packet).
"""


@cache
def register(number: int) -> Field:
    """OVS's 32-bit register ``number`` (0 to 15)."""
    return Field(f"reg{number}", NXM_1, number, 4)


class WideRegister(Field):
    """One of OVS's 128-bit registers. A match on it is one on its four 32-bit registers, as OVS describes it."""

    __slots__ = ("parts",)

    def __init__(self, number: int) -> None:
        super().__init__(f"xxreg{number}", NXM_1, 111 + number, 16)
        self.parts = [(register(4 * number + part), 96 - 32 * part) for part in range(4)]
        """The four, and where they begin in this one: the bits to their right."""

    def __call__(self, value: int | bytes, mask: int | bytes | None = None) -> bytes:
        """TLVs, up to four of them, that match ``value`` under ``mask``. Raises ValueError as ``Field`` does."""
        number = int.from_bytes(self.assigned(value)[4:], "big")
        bits = self.ones if mask is None else int.from_bytes(self.assigned(mask)[4:], "big")
        return b"".join([part(number >> shift & part.ones, bits >> shift & part.ones) for part, shift in self.parts])


@cache
def xxregister(number: int) -> WideRegister:
    """OVS's 128-bit register ``number`` (0 to 3): registers 4n (its most significant part) to 4n + 3."""
    return WideRegister(number)


# --- named registers ---------------------------------------------------------------------------------------------
NETWORK = METADATA
"""VNI of the network that the packet is in."""
IN_PORT_KEY = register(1)
"""Key of the VM port that sent the packet; 0 when it came through a tunnel."""
OUT_PORT_KEY = register(2)
"""Key of the VM port that the packet goes to; 0 while undecided or for several."""
SRC_IDENTITY = register(3)
"""Identity of the VM port that sent the packet (DESIGN section 6); 0 for anything else."""
DST_IDENTITY = register(4)
"""Identity of the VM port that the packet goes to; 0 for anything else, or several."""
PEER = register(5)
"""Key of the hypervisor that the packet is tunnelled to."""
FLAGS = register(6)
FROM_TUNNEL = Bits(FLAGS, 0, 1)
FROM_PROVIDER = Bits(FLAGS, 1, 1)
"""The packet came from a physical network."""
ORIGIN = Bits(FLAGS, 0, 2)
"""Both of these: 0 when a VM of this hypervisor sent the packet, or a router here."""
TOO_LARGE = Bits(FLAGS, 2, 1)
"""The packet does not fit where it is to go."""
ACTIVE = Bits(FLAGS, 3, 1)
"""This hypervisor is the gateway of the router that the packet is for: no better one is alive."""
AS_ROUTER = Bits(FLAGS, 4, 1)
"""The advertisement that answers is a router's."""
MET = Bits(FLAGS, 5, 1)
"""Whether the sender of an ARP or ND message is a known neighbour was looked up already."""
EXEMPT = Bits(FLAGS, 6, 1)
"""NovaNet made the packet: an answer of a router, or of the controller."""
TO_SEVERAL = Bits(FLAGS, 7, 1)
"""Broadcast, multicast, or for a MAC address that stands behind a port together with others."""
OUTWARD = Bits(FLAGS, 8, 1)
"""The packet of a VM here leaves for the outside; else, while policy looks at it, it stays inside."""
INWARD = Bits(FLAGS, 9, 1)
"""The policy of the receiver is looked at; else that of the sender."""
LEFT = Bits(FLAGS, 10, 1)
"""The policy of the sender has let the packet go."""
KEPT = Bits(FLAGS, 11, 1)
"""The connection stays even when the rule that allows it is gone."""
ASKS = Bits(FLAGS, 12, 1)
"""ARP, or a neighbour solicitation."""
HAIRPIN = Bits(FLAGS, 13, 1)
"""The load balancer has chosen the very VM that sends the packet."""
PINNED = Bits(FLAGS, 14, 1)
"""MEMBER is the one that the client had before."""
BALANCED = Bits(FLAGS, 15, 1)
"""A load balancer here has sent the packet to its member, so it is no answer of one."""
ZONE = Bits(FLAGS, 16, 16)
"""Conntrack zone of the VM port that sends, or gets, the packet."""
ZONE_KIND = Bits(FLAGS, 30, 2)
"""What the zone is for: 1 policy, 2 load balancing, 3 members that reach themselves; 0: it is a router's."""
BALANCER = register(8)
"""Key of the load balancer that the packet is for."""
MEMBER = register(9)
"""Key of the member that gets the new connection."""
TABLE = register(12)
"""Key of the pool (24 bits), and which of its tables of slots is looked at (8 bits)."""
POOL = Bits(TABLE, 8, 24)
PUNT = register(0)
"""Why the packet goes to the controller: one of ``punting.Reason``."""
ROUTER = register(7)
"""Key of the router that the packet is in, or was last; 0 while it was only switched."""
NEXT_HOP = register(8)
"""IPv4 address of the next hop."""
NEXT_HOP6 = xxregister(2)
"""IPv6 address of the next hop (reg8 to reg11, so a packet has one of the two)."""
ROUTE = register(12)
"""Number of the route with several next hops that the packet takes; 0: it has one."""
SLOT = register(13)
"""Which share of that route's flows the packet belongs to."""
RULE = register(14)
"""Key of the security group rule that has decided; 0 when none did."""
LOGS = Bits(RULE, 31, 1)
"""It has its decisions logged."""
WHO = register(14)
"""Key of the port whose identity is looked for."""
FOUND = register(15)
"""Its identity."""
METER = register(14)
"""Number of the meter that the packet has to pass."""
LOCAL = register(14)
"""Identity whose policy is looked at."""
OTHER = register(15)
"""Identity at the other end."""

GENEVE_OPTION_CLASS, GENEVE_OPTION_TYPE = 0xFFF1, 0x01
"""An experimental class (RFC 8926 section 7); not critical, since only NovaNet's own endpoints are spoken to."""

TUN_OPTION_PORT_KEY = Bits(TUN_OPTION, 0, 32)
TUN_OPTION_IDENTITY = Bits(TUN_OPTION, 32, 32)
TUN_OPTION_SENDER_KEY = Bits(TUN_OPTION, 64, 32)
"""0 where no VM port of that hypervisor has sent it. Nobody but the sender's own uplink looks at it (``classifier``)."""

# --- values ------------------------------------------------------------------------------------------------------
CT_NEW, CT_ESTABLISHED, CT_RELATED, CT_REPLY, CT_INVALID, CT_TRACKED, CT_SNAT, CT_DNAT = (1 << n for n in range(8))
"""Bits of CT_STATE."""
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
MULTICAST_BIT = 0x010000000000
NO_PORT = 0xFFFF
"""OFPP_NONE of OpenFlow 1.0, in whose numbers INGRESS is."""


def mac(text: str) -> int:
    """A MAC address as a 48-bit number."""
    return int(text.replace(":", ""), 16)


def mac_text(number: int) -> str:
    """A MAC address as text, as the intent store has it."""
    return number.to_bytes(6, "big").hex(":")


def ip(text: str) -> int:
    """An IPv4 or IPv6 address as a number."""
    return int(IPv6Address(text) if ":" in text else IPv4Address(text))


FIELDS: dict[tuple[int, int], Field] = {
    (f.oxm_class, f.field): f
    for f in (*globals().values(), *map(register, range(16)), *map(xxregister, range(4)))
    if isinstance(f, Field)
}
"""Every field by (class, number), for readers of what a switch says."""

PURPOSES: dict[tuple[int, int], str] = {
    (f.oxm_class, f.field): name.lower()
    for name, f in globals().items()
    if isinstance(f, Field) and (f is METADATA or f.name.startswith(("reg", "xxreg"))) and name != "METADATA"
}
"""What NovaNet keeps in metadata and registers, by (class, number): ``network``, ``in_port_key`` …"""
