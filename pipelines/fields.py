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
    """One OXM field: its class, number and length in bytes.

    OVS drops leading zero bytes of a ``variable`` field (a Geneve option) where an action sets it.
    """

    __slots__ = ("field", "head", "head_masked", "name", "ones", "oxm_class", "size", "variable")

    def __init__(self, name: str, oxm_class: int, field: int, size: int, *, variable: bool = False) -> None:
        self.name, self.oxm_class, self.field, self.size = name, oxm_class, field, size
        self.variable = variable
        self.ones = (1 << 8 * size) - 1
        self.head = (oxm_class << 16 | field << 9 | size).to_bytes(4, "big")
        self.head_masked = (oxm_class << 16 | field << 9 | 1 << 8 | 2 * size).to_bytes(4, "big")

    def __call__(self, value: int | bytes, mask: int | bytes | None = None) -> bytes:
        """The TLV that matches ``value`` (an int in host order, or ``size`` bytes) under ``mask``.

        Equal matches have equal bytes: bits outside the mask count as zero, a mask of ones is none, and a mask of
        zeros matches every packet, so it leaves nothing. Raises ValueError when value or mask do not fit the field.
        """
        if mask is None:
            return self.head + (self._bytes(value) if type(value) is int else self._checked(bytes(value)))
        bits = mask if type(mask) is int else int.from_bytes(self._checked(bytes(mask)), "big")
        number = value if type(value) is int else int.from_bytes(self._checked(bytes(value)), "big")
        if bits == self.ones:
            return self.head + self._bytes(number)
        if bits == 0:
            return b""
        return self.head_masked + self._bytes(number & bits) + self._bytes(bits)

    def _bytes(self, number: int) -> bytes:
        try:
            return number.to_bytes(self.size, "big")
        except OverflowError:
            raise ValueError(f"{self.name}: {number:#x} does not fit in {self.size} bytes") from None

    def _checked(self, raw: bytes) -> bytes:
        if len(raw) != self.size:
            raise ValueError(f"{self.name}: {raw.hex()} is {len(raw)} bytes long instead of {self.size}")
        return raw

    @property
    def bits(self) -> Bits:
        """The whole field as a range of bits."""
        return Bits(self, 0, self.size * 8)

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


IN_PORT = Field("in_port", OPENFLOW_BASIC, 0, 4)
METADATA = Field("metadata", OPENFLOW_BASIC, 2, 8)
ETH_DST = Field("eth_dst", OPENFLOW_BASIC, 3, 6)
ETH_SRC = Field("eth_src", OPENFLOW_BASIC, 4, 6)
ETH_TYPE = Field("eth_type", OPENFLOW_BASIC, 5, 2)
IP_PROTO = Field("ip_proto", OPENFLOW_BASIC, 10, 1)
IPV4_SRC = Field("ipv4_src", OPENFLOW_BASIC, 11, 4)
IPV4_DST = Field("ipv4_dst", OPENFLOW_BASIC, 12, 4)
TCP_SRC = Field("tcp_src", OPENFLOW_BASIC, 13, 2)
TCP_DST = Field("tcp_dst", OPENFLOW_BASIC, 14, 2)
UDP_SRC = Field("udp_src", OPENFLOW_BASIC, 15, 2)
UDP_DST = Field("udp_dst", OPENFLOW_BASIC, 16, 2)
ARP_OP = Field("arp_op", OPENFLOW_BASIC, 21, 2)
ARP_SPA = Field("arp_spa", OPENFLOW_BASIC, 22, 4)
ARP_TPA = Field("arp_tpa", OPENFLOW_BASIC, 23, 4)
ARP_SHA = Field("arp_sha", OPENFLOW_BASIC, 24, 6)
ARP_THA = Field("arp_tha", OPENFLOW_BASIC, 25, 6)
IPV6_SRC = Field("ipv6_src", OPENFLOW_BASIC, 26, 16)
IPV6_DST = Field("ipv6_dst", OPENFLOW_BASIC, 27, 16)
ICMPV6_TYPE = Field("icmpv6_type", OPENFLOW_BASIC, 29, 1)
ICMPV6_CODE = Field("icmpv6_code", OPENFLOW_BASIC, 30, 1)
ND_TARGET = Field("ipv6_nd_target", OPENFLOW_BASIC, 31, 16)
ND_SLL = Field("ipv6_nd_sll", OPENFLOW_BASIC, 32, 6)
ND_TLL = Field("ipv6_nd_tll", OPENFLOW_BASIC, 33, 6)
ND_RESERVED = Field("nd_reserved", ERICSSON, 1, 4)
ND_OPTIONS_TYPE = Field("nd_options_type", ERICSSON, 2, 1)
TUNNEL_ID = Field("tunnel_id", OPENFLOW_BASIC, 38, 8)
IP_TTL = Field("nw_ttl", NXM_1, 29, 1)
TUN_SRC = Field("tun_ipv4_src", NXM_1, 31, 4)
TUN_DST = Field("tun_ipv4_dst", NXM_1, 32, 4)
TUN_IPV6_SRC = Field("tun_ipv6_src", NXM_1, 109, 16)
TUN_IPV6_DST = Field("tun_ipv6_dst", NXM_1, 110, 16)
TUN_OPTION = Field("tun_metadata0", NXM_1, 40, 8, variable=True)
"""NovaNet's Geneve option (DESIGN section 6): source identity (32 bits), then destination port key (32 bits)."""


@cache
def register(number: int) -> Field:
    """OVS's 32-bit register ``number`` (0 to 15)."""
    return Field(f"reg{number}", NXM_1, number, 4)


# --- named registers ---------------------------------------------------------------------------------------------
NETWORK = METADATA
"""VNI of the network that the packet is in."""
IN_PORT_KEY = register(1)
"""Key of the VM port that sent the packet; 0 when it came through a tunnel."""
OUT_PORT_KEY = register(2)
"""Key of the VM port that the packet goes to; 0 while undecided or for several."""
SRC_IDENTITY = register(3)
DST_IDENTITY = register(4)
PEER = register(5)
"""Key of the hypervisor that the packet is tunnelled to."""
FLAGS = register(6)
FROM_TUNNEL = Bits(FLAGS, 0, 1)

GENEVE_OPTION_CLASS, GENEVE_OPTION_TYPE = 0xFFF1, 0x01
"""An experimental class (RFC 8926 section 7); not critical, since only NovaNet's own endpoints are spoken to."""

TUN_OPTION_PORT_KEY = Bits(TUN_OPTION, 0, 32)
TUN_OPTION_IDENTITY = Bits(TUN_OPTION, 32, 32)

# --- values ------------------------------------------------------------------------------------------------------
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
MULTICAST_BIT = 0x010000000000


def mac(text: str) -> int:
    """A MAC address as a 48-bit number."""
    return int(text.replace(":", ""), 16)


def ip(text: str) -> int:
    """An IPv4 or IPv6 address as a number."""
    return int(IPv6Address(text) if ":" in text else IPv4Address(text))


FIELDS: dict[tuple[int, int], Field] = {
    (f.oxm_class, f.field): f for f in (*globals().values(), *map(register, range(16))) if isinstance(f, Field)
}
"""Every field by (class, number), for readers of what a switch says."""

PURPOSES: dict[tuple[int, int], str] = {
    (f.oxm_class, f.field): name.lower()
    for name, f in globals().items()
    if isinstance(f, Field) and (f is METADATA or f.name.startswith("reg")) and name != "METADATA"
}
"""What NovaNet keeps in metadata and registers, by (class, number): ``network``, ``in_port_key`` …"""
