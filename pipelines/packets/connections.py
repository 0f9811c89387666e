"""Which connection a packet belongs to, read off its headers; no more of the packet need be there."""

from __future__ import annotations

from typing import NamedTuple

from ..fields import ICMP, ICMPV6, IPV4, IPV6, SCTP, TCP, UDP
from .frames import FRAGMENT, HOP_BY_HOP, Malformed, read_ethernet

_EXTENSIONS = (HOP_BY_HOP, 43, 60, 135)
"""Hop-by-hop options, routing, destination options (RFC 8200), mobility (RFC 6275): what stands before the protocol."""
_AUTHENTICATION = 51
_OFFSET = 0x1FFF


class Connection(NamedTuple):
    """Addresses are numbers. ``first`` and ``second`` are source and destination port, or ICMP type and code; None where
    the protocol has none, or a later fragment does not say."""

    version: int
    protocol: int
    source: int
    destination: int
    first: int | None = None
    second: int | None = None


def connection(frame: bytes) -> Connection | None:
    """The connection of an IP packet; None for what is none, or is cut off before its addresses."""
    try:
        ethernet = read_ethernet(frame)
    except Malformed:
        return None
    packet = ethernet.payload
    if ethernet.ethertype == IPV4 and len(packet) >= 20:
        source, destination = packet[12:16], packet[16:20]
        whole = not int.from_bytes(packet[6:8], "big") & _OFFSET
        found = 4, packet[9], packet[(packet[0] & 15) * 4 :] if whole else b""
    elif ethernet.ethertype == IPV6 and len(packet) >= 40:
        source, destination = packet[8:24], packet[24:40]
        found = 6, *_behind_extensions(packet)
    else:
        return None
    version, protocol, payload = found
    ends = int.from_bytes(source, "big"), int.from_bytes(destination, "big")
    return Connection(version, protocol, *ends, *_service(protocol, payload))


def _behind_extensions(packet: bytes) -> tuple[int, bytes]:
    """The protocol of an IPv6 packet, and what comes behind its extension headers; nothing of a later fragment."""
    protocol, at = packet[6], 40
    while at + 8 <= len(packet):
        if protocol == FRAGMENT:
            if int.from_bytes(packet[at + 2 : at + 4], "big") >> 3:
                return packet[at], b""
            size = 8
        elif protocol == _AUTHENTICATION:
            size = 4 * (packet[at + 1] + 2)
        elif protocol in _EXTENSIONS:
            size = 8 * (packet[at + 1] + 1)
        else:
            break
        protocol, at = packet[at], at + size
    return protocol, packet[at:]


def _service(protocol: int, payload: bytes) -> tuple[int | None, int | None]:
    if protocol in (TCP, UDP, SCTP) and len(payload) >= 4:
        return int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big")
    if protocol in (ICMP, ICMPV6) and len(payload) >= 2:
        return payload[0], payload[1]
    return None, None
