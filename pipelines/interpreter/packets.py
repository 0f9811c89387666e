"""Packets as values: a dict of field -> value. Fields that it lacks are 0.

The 128-bit registers stand in a packet as the 32-bit registers that they consist of.
"""

from __future__ import annotations

from pipelines import fields as f

Packet = dict[f.Field, int]
SIZE = f.Field("size", f.EXPERIMENTER, 0, 4)
"""Bytes of a packet, Ethernet header included, for ``check_pkt_larger``; no flow can match it."""
QUEUE = f.Field("queue", f.EXPERIMENTER, 1, 4)
"""The queue by which a packet leaves a port, which ``set_queue`` says; no flow can match it."""
TAG = 0x1000
"""Bit of VLAN_VID: there is a tag."""


class NotInterpreted(ValueError):
    """A flow does what the interpreter does not know."""


HEADERS = (
    f.ETH_SRC, f.ETH_DST, f.VLAN_VID, f.ETH_TYPE,
    f.IP_DSCP, f.IP_PROTO, f.IP_TTL, f.IP_FRAG, f.IPV4_SRC, f.IPV4_DST, f.IPV6_SRC, f.IPV6_DST, f.IPV6_FLABEL,
    f.TCP_SRC, f.TCP_DST, f.TCP_FLAGS, f.UDP_SRC, f.UDP_DST, f.SCTP_SRC, f.SCTP_DST,
    f.ICMPV4_TYPE, f.ICMPV4_CODE, f.ICMPV6_TYPE, f.ICMPV6_CODE, f.ND_TARGET, f.ND_SLL, f.ND_TLL, f.ND_RESERVED,
    f.ND_OPTIONS_TYPE, f.ARP_OP, f.ARP_SPA, f.ARP_TPA, f.ARP_SHA, f.ARP_THA, SIZE,
)  # fmt: skip
"""What a cable carries; all else is a switch's own."""
CONNECTION = (
    f.CT_STATE, f.CT_ZONE, f.CT_MARK, f.CT_LABEL, f.CT_NW_PROTO, f.CT_NW_SRC, f.CT_NW_DST, f.CT_IPV6_SRC, f.CT_IPV6_DST,
    f.CT_TP_SRC, f.CT_TP_DST,
)  # fmt: skip
"""What conntrack adds."""
PORTS = {f.TCP: (f.TCP_SRC, f.TCP_DST), f.UDP: (f.UDP_SRC, f.UDP_DST), f.SCTP: (f.SCTP_SRC, f.SCTP_DST)}
"""Fields of the ports, by protocol."""


def read(packet: Packet, field: f.Field) -> int:
    """A field's value."""
    if isinstance(field, f.WideRegister):
        return sum(packet.get(part, 0) << shift for part, shift in field.parts)
    return packet.get(f.IN_PORT if field is f.INGRESS else field, 0)


def write(packet: Packet, field: f.Field, offset: int, width: int, value: int) -> None:
    """Set ``width`` bits of a field from bit ``offset`` on."""
    mask = (1 << width) - 1 << offset
    new = read(packet, field) & ~mask | value << offset & mask
    if isinstance(field, f.WideRegister):
        packet.update({part: new >> shift & part.ones for part, shift in field.parts})
    else:
        packet[f.IN_PORT if field is f.INGRESS else field] = new


def shown(packet: Packet) -> Packet:
    """What flows see of a packet: of a fragment, even the first, neither ports nor ICMP type (ovs-fields(7), ``ip_frag``)."""
    if not packet.get(f.IP_FRAG):
        return packet
    return {field: value for field, value in packet.items() if field not in _TRANSPORT}


_TRANSPORT = frozenset(
    (*(port for ports in PORTS.values() for port in ports), f.ICMPV4_TYPE, f.ICMPV4_CODE, f.ICMPV6_TYPE, f.ICMPV6_CODE)
)


def addresses(packet: Packet) -> tuple[f.Field, f.Field]:
    """The fields of the source and destination address."""
    six = packet.get(f.ETH_TYPE) == f.IPV6
    return (f.IPV6_SRC, f.IPV6_DST) if six else (f.IPV4_SRC, f.IPV4_DST)


def untracked(packet: Packet) -> None:
    """The packet is as if conntrack had not seen it."""
    for field in CONNECTION:
        packet.pop(field, None)
