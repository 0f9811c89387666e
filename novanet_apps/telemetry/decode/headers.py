"""The first bytes of a sampled frame: through VLAN tags, MPLS labels and tunnels to the innermost packet.

IEEE 802.1Q and 802.1ad, RFC 3032 (MPLS), 2784 and 2890 (GRE), 2003 and 2473 (IP in IP), 7348 (VXLAN), 8926 (Geneve). Field names are
IPFIX's (RFC 5102 and IANA). What is cut off is left out: a sample is cut somewhere.
"""

from __future__ import annotations

from typing import Any

from .reader import Reader, Truncated

Headers = dict[str, Any]
"""Names and values of a packet's headers; those of the packet in a tunnel under ``inner``."""

DEEPEST = 4
"""Tunnels in tunnels that are looked into."""
TAGS = 8
"""VLAN tags, MPLS labels or IPv6 extension headers that are looked through."""
VXLAN_PORTS = (4789, 8472)
GENEVE_PORT = 6081

_IPV4, _IPV6, _BRIDGED = 0x0800, 0x86DD, 0x6558
_VLAN = (0x8100, 0x88A8, 0x9100, 0x9200)
_MPLS = (0x8847, 0x8848)
_TCP, _UDP, _SCTP, _GRE, _ICMP, _ICMP6, _IPIP, _IP6IN = 6, 17, 132, 47, 1, 58, 4, 41
_EXTENSIONS = (0, 43, 60, 135, 139, 140)


def ethernet(frame: Reader, depth: int = 0) -> Headers:
    """The headers of a frame, as far as they are there."""
    found: Headers = {}
    try:
        found["destinationMacAddress"], found["sourceMacAddress"] = frame.mac(), frame.mac()
        _by_type(frame, frame.u16(), found, depth)
    except Truncated:
        pass
    return found


def internet(packet: Reader, depth: int = 0) -> Headers:
    """The headers of an IPv4 or IPv6 packet without a frame, as far as they are there."""
    found: Headers = {}
    try:
        if packet.left:
            _by_type(packet, _IPV6 if packet.data[packet.at] >> 4 == 6 else _IPV4, found, depth)
    except Truncated:
        pass
    return found


def _by_type(packet: Reader, kind: int, found: Headers, depth: int) -> None:
    for _ in range(TAGS):
        if kind not in _VLAN:
            break
        tag, kind = packet.u16(), packet.u16()
        outer = "vlanId" if "vlanId" not in found else "dot1qCustomerVlanId"
        found.setdefault(outer, tag & 0xFFF)
        if outer == "vlanId":
            found["dot1qPriority"] = tag >> 13
    found["ethernetType"] = kind
    if kind in _MPLS:
        _mpls(packet, found, depth)
    elif kind == _IPV4:
        _ipv4(packet, found, depth)
    elif kind == _IPV6:
        _ipv6(packet, found, depth)


def _mpls(packet: Reader, found: Headers, depth: int) -> None:
    """What is below the last label tells itself by its first bits."""
    found["mplsLabels"] = labels = []
    for _ in range(TAGS):
        word = packet.u32()
        labels.append(word >> 12)
        if word & 0x100:
            break
    else:
        return
    if packet.left and (version := packet.data[packet.at] >> 4) in (4, 6):
        (_ipv6 if version == 6 else _ipv4)(packet, found, depth)


def _ipv4(packet: Reader, found: Headers, depth: int) -> None:
    start, first = packet.at, packet.u8()
    if first >> 4 != 4 or first & 15 < 5:
        return
    found["ipVersion"], found["ipClassOfService"] = 4, packet.u8()
    found["ipTotalLength"] = packet.u16()
    packet.skip(2)
    fragment = packet.u16()
    found["ipTTL"], protocol = packet.u8(), packet.u8()
    found["protocolIdentifier"] = protocol
    packet.skip(2)
    found["sourceIPv4Address"], found["destinationIPv4Address"] = packet.ip4(), packet.ip4()
    found["fragmentOffset"] = fragment & 0x1FFF
    packet.skip(4 * (first & 15) - (packet.at - start))
    if not fragment & 0x1FFF:
        _transport(packet, protocol, found, depth)


def _ipv6(packet: Reader, found: Headers, depth: int) -> None:
    word = packet.u32()
    if word >> 28 != 6:
        return
    found["ipVersion"], found["ipClassOfService"], found["flowLabelIPv6"] = 6, word >> 20 & 0xFF, word & 0xFFFFF
    found["ipTotalLength"], protocol = packet.u16() + 40, packet.u8()
    found["ipTTL"] = packet.u8()
    found["sourceIPv6Address"], found["destinationIPv6Address"] = packet.ip6(), packet.ip6()
    offset = 0
    found["protocolIdentifier"] = protocol
    for _ in range(TAGS):
        if protocol == 44:
            protocol, _, offset = packet.u8(), packet.u8(), packet.u16() >> 3
            packet.skip(4)
        elif protocol in _EXTENSIONS:
            protocol, length = packet.u8(), packet.u8()
            packet.skip(8 * length + 6)
        elif protocol == 51:
            protocol, length = packet.u8(), packet.u8()
            packet.skip(4 * length + 6)
        else:
            break
        found["protocolIdentifier"] = protocol
    found["fragmentOffset"] = offset
    if not offset:
        _transport(packet, protocol, found, depth)


def _transport(packet: Reader, protocol: int, found: Headers, depth: int) -> None:
    match protocol:
        case 6 | 17 | 132:
            found["sourceTransportPort"], found["destinationTransportPort"] = packet.u16(), packet.u16()
            if protocol == _TCP:
                packet.skip(9)
                found["tcpControlBits"] = packet.u8()
            elif protocol == _UDP:
                packet.skip(4)
                _tunnel_by_port(packet, found["destinationTransportPort"], found, depth)
        case 1:
            found["icmpTypeIPv4"], found["icmpCodeIPv4"] = packet.u8(), packet.u8()
        case 58:
            found["icmpTypeIPv6"], found["icmpCodeIPv6"] = packet.u8(), packet.u8()
        case 47:
            _gre(packet, found, depth)
        case 4 | 41:
            _within("ipip", internet, packet, found, depth)


def _tunnel_by_port(packet: Reader, port: int, found: Headers, depth: int) -> None:
    if port in VXLAN_PORTS:
        flags = packet.u32()
        found["layer2SegmentId"] = packet.u32() >> 8
        if flags >> 27 & 1:
            _within("vxlan", ethernet, packet, found, depth)
    elif port == GENEVE_PORT:
        first, kind = packet.u16(), packet.u16()
        found["layer2SegmentId"] = packet.u32() >> 8
        packet.skip(4 * (first >> 8 & 0x3F))
        if first >> 14 == 0:
            _by_kind("geneve", packet, kind, found, depth)


def _gre(packet: Reader, found: Headers, depth: int) -> None:
    flags, kind = packet.u16(), packet.u16()
    if flags & 7:
        return  # another version: PPTP's
    packet.skip(4 * bool(flags & 0x8000))
    if flags & 0x2000:
        key = packet.u32()
        found["greKey"] = key
        if kind == _BRIDGED:
            found["layer2SegmentId"] = key >> 8  # NVGRE, RFC 7637
    packet.skip(4 * bool(flags & 0x1000))
    _by_kind("gre", packet, kind, found, depth)


def _by_kind(tunnel: str, packet: Reader, kind: int, found: Headers, depth: int) -> None:
    if kind == _BRIDGED:
        _within(tunnel, ethernet, packet, found, depth)
    elif kind in (_IPV4, _IPV6):
        _within(tunnel, internet, packet, found, depth)


def _within(tunnel: str, read: Any, packet: Reader, found: Headers, depth: int) -> None:
    found["tunnel"] = tunnel
    if depth < DEEPEST:
        inner = read(packet, depth + 1)
        if inner:
            found["inner"] = inner


def innermost(found: Headers) -> Headers:
    """The headers of the packet that no other is in, with the VNI of its tunnel."""
    vni = None
    while "inner" in found:
        vni = found.get("layer2SegmentId", vni)
        found = found["inner"]
    return found if vni is None else {**found, "layer2SegmentId": vni}
