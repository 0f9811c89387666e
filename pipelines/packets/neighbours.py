"""Whose MAC address is it: ARP (RFC 826, 5227) and IPv6 neighbour discovery (RFC 4861) messages, made and read."""

from __future__ import annotations

from enum import Enum
from struct import Struct as Layout

from msgspec import Struct

from pipelines.fields import ARP, IPV4, IPV6, MULTICAST_BIT

from . import frames
from .frames import ALL_NODES, BROADCAST_MAC, Ethernet, Icmp, Malformed, multicast_mac

REQUEST, REPLY = 1, 2
SOLICITATION, ADVERTISEMENT = 135, 136
SOURCE_LINK_LAYER, TARGET_LINK_LAYER = 1, 2
ROUTER, SOLICITED, OVERRIDE = 0x80000000, 0x40000000, 0x20000000
"""Flags of an advertisement (RFC 4861 section 4.4)."""

_SOLICITED_NODE = 0xFF02 << 112 | 0x1FF << 24
_ARP = Layout("!HHBBHHIIHII")
"""Link type, protocol, lengths, operation; MAC (16 and 32 bits) and IP address of the sender; of the target."""
_ETHERNET = 1


class Kind(Enum):
    """What a message is for."""

    REQUEST = "request"
    """An ARP request or a solicitation: asks for ``target``, and says who asks."""
    REPLY = "reply"
    """An ARP reply or a solicited advertisement."""
    ANNOUNCEMENT = "announcement"
    """Gratuitous ARP in either form, or an advertisement nobody asked for."""
    PROBE = "probe"
    """Looks whether somebody has ``target`` already (RFC 5227, RFC 4862): its own ``ip`` is 0, nothing to learn."""


class Neighbour(Struct, frozen=True, gc=False):
    """What a message says: that ``ip`` is at ``mac``; addresses are numbers."""

    ip: int
    version: int
    mac: int
    kind: Kind
    target: int


# --- making --------------------------------------------------------------------------------------------------------


def arp_request(mac: int, ip: int, target: int, *, to_mac: int = BROADCAST_MAC) -> bytes:
    """Ask for ``target``; ``to_mac`` where it is only checked whether it is there still."""
    return _arp(to_mac, REQUEST, mac, ip, 0, target)


def arp_reply(mac: int, ip: int, to_mac: int, to_ip: int) -> bytes:
    """Tell one host that ``ip`` is at ``mac``."""
    return _arp(to_mac, REPLY, mac, ip, to_mac, to_ip)


def arp_announcement(mac: int, ip: int) -> bytes:
    """Tell everybody that ``ip`` is at ``mac``: a request for the own address (RFC 5227 sections 2.3 and 3)."""
    return _arp(BROADCAST_MAC, REQUEST, mac, ip, 0, ip)


def _arp(to: int, operation: int, mac: int, ip: int, target_mac: int, target_ip: int) -> bytes:
    sender = mac >> 32, mac & 0xFFFFFFFF, ip
    target = target_mac >> 32, target_mac & 0xFFFFFFFF, target_ip
    return frames.ethernet(to, mac, ARP, _ARP.pack(_ETHERNET, IPV4, 6, 4, operation, *sender, *target))


def solicited_node(address: int) -> int:
    """The multicast address at which the holder of ``address`` is asked (RFC 4291 section 2.7.1)."""
    return _SOLICITED_NODE | address & 0xFFFFFF


def solicitation(mac: int, ip: int, target: int, *, to_mac: int | None = None) -> bytes:
    """Ask for ``target``, at ``to_mac`` where it is only checked whether it is there still.

    From an ``ip`` of 0 it looks for a duplicate (RFC 4862 section 5.4.2).
    """
    to = solicited_node(target) if to_mac is None else target
    option = _link_layer(SOURCE_LINK_LAYER, mac) if ip else b""
    packet = frames.icmp6(ip, to, SOLICITATION, 0, bytes(4) + target.to_bytes(16, "big") + option)
    return frames.ethernet(multicast_mac(to) if to_mac is None else to_mac, mac, IPV6, packet)


def advertisement(mac: int, ip: int, to_mac: int, to_ip: int, *, router: bool = False) -> bytes:
    """Tell one host, which has asked, that ``ip`` is at ``mac``."""
    return _advertisement(mac, ip, to_mac, to_ip, SOLICITED | OVERRIDE | (ROUTER if router else 0))


def unsolicited_advertisement(mac: int, ip: int, *, router: bool = False) -> bytes:
    """Tell everybody that ``ip`` is at ``mac`` (RFC 4861 section 7.2.6).

    It also answers who looks for a duplicate (section 7.2.4).
    """
    return _advertisement(mac, ip, multicast_mac(ALL_NODES), ALL_NODES, OVERRIDE | (ROUTER if router else 0))


def _advertisement(mac: int, ip: int, to_mac: int, to_ip: int, flags: int) -> bytes:
    body = flags.to_bytes(4, "big") + ip.to_bytes(16, "big") + _link_layer(TARGET_LINK_LAYER, mac)
    return frames.ethernet(to_mac, mac, IPV6, frames.icmp6(ip, to_ip, ADVERTISEMENT, 0, body))


def _link_layer(kind: int, mac: int) -> bytes:
    return (kind << 56 | 1 << 48 | mac).to_bytes(8, "big")


# --- reading -------------------------------------------------------------------------------------------------------


def parse(frame: bytes) -> Neighbour | None:
    """What an ARP or neighbour discovery message says; None when it is none, or not as its RFC wants it.

    An advertisement without a link-layer address says nothing. A solicitation without one is the Ethernet sender's.
    """
    try:
        ethernet = frames.read_ethernet(frame)
        if ethernet.src & MULTICAST_BIT or not ethernet.src:
            return None
        if ethernet.ethertype == ARP:
            return _read_arp(ethernet)
        if ethernet.ethertype == IPV6:
            return _read_nd(frames.read_icmp(frame))
    except Malformed:
        pass
    return None


def _read_arp(ethernet: Ethernet) -> Neighbour | None:
    if len(ethernet.payload) < _ARP.size:
        return None
    link, protocol, link_size, size, operation, high, low, ip, *_, target = _ARP.unpack_from(ethernet.payload)
    mac = high << 32 | low
    if (link, protocol, link_size, size) != (_ETHERNET, IPV4, 6, 4) or operation not in (REQUEST, REPLY):
        return None
    if not mac or mac & MULTICAST_BIT:
        return None
    if not ip:
        return Neighbour(0, 4, mac, Kind.PROBE, target) if operation == REQUEST and _host4(target) else None
    if not _host4(ip):
        return None
    kind = Kind.ANNOUNCEMENT if ip == target else Kind.REQUEST if operation == REQUEST else Kind.REPLY
    return Neighbour(ip, 4, mac, kind, target)


def _host4(address: int) -> bool:
    """Whether an IPv4 address can be a neighbour's: no loopback, multicast, reserved or broadcast."""
    return 0 < address >> 24 < 0xE0 and address >> 24 != 127


def _host6(address: int) -> bool:
    return address > 1 and address >> 120 != 0xFF


def _read_nd(icmp: Icmp) -> Neighbour | None:
    """As RFC 4861 sections 7.1.1 and 7.1.2 validate it; no fragments (RFC 6980) get here."""
    if icmp.type not in (SOLICITATION, ADVERTISEMENT) or icmp.ip.ttl != 255 or icmp.code or len(icmp.body) < 20:
        return None
    target = int.from_bytes(icmp.body[4:20], "big")
    options = _options(icmp.body[20:])
    if options is None or not _host6(target):
        return None
    return (
        _read_solicitation(icmp, target, options) if icmp.type == SOLICITATION else _read_answer(icmp, target, options)
    )


def _read_solicitation(icmp: Icmp, target: int, options: dict[int, int]) -> Neighbour | None:
    src = icmp.ip.src
    if not src:
        if icmp.ip.dst != solicited_node(target) or SOURCE_LINK_LAYER in options:
            return None
        return Neighbour(0, 6, icmp.ethernet.src, Kind.PROBE, target)
    mac = options.get(SOURCE_LINK_LAYER, icmp.ethernet.src)
    if not _host6(src) or not mac or mac & MULTICAST_BIT:
        return None
    return Neighbour(src, 6, mac, Kind.REQUEST, target)


def _read_answer(icmp: Icmp, target: int, options: dict[int, int]) -> Neighbour | None:
    solicited = int.from_bytes(icmp.body[:4], "big") & SOLICITED
    mac = options.get(TARGET_LINK_LAYER, 0)
    if not _host6(icmp.ip.src) or not mac or mac & MULTICAST_BIT:
        return None
    if solicited and icmp.ip.dst >> 120 == 0xFF:
        return None
    return Neighbour(target, 6, mac, Kind.REPLY if solicited else Kind.ANNOUNCEMENT, target)


def _options(data: bytes) -> dict[int, int] | None:
    """The Ethernet addresses in options, by the option's type; None when an option has no length or ends too late."""
    found: dict[int, int] = {}
    position = 0
    while position < len(data):
        size = 8 * data[position + 1] if position + 1 < len(data) else 0
        if not size or position + size > len(data):
            return None
        if size == 8:
            found.setdefault(data[position], int.from_bytes(data[position + 2 : position + 8], "big"))
        position += size
    return found
