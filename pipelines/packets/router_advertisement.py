"""Router advertisements (RFC 4861): what a network's hosts are told, and the answers to their solicitations.

Also: RFC 4191 (preference), 8106 (DNS servers and search list).
"""

from __future__ import annotations

from struct import Struct as Layout
from struct import error as StructError
from typing import Literal

from msgspec import Struct

from topology.names import labels

from ..fields import IPV6
from . import frames
from .frames import ALL_NODES, ALL_ROUTERS, Malformed

SOLICITATION, ADVERTISEMENT = 133, 134
SOURCE_LINK_LAYER, PREFIX, MTU, RDNSS, DNSSL = 1, 3, 5, 25, 31
ON_LINK, AUTONOMOUS = 0x80, 0x40
MANAGED, OTHER = 0x80, 0x40
INFINITE = 0xFFFFFFFF
LONGEST = 1280
"""Bytes of a packet that every link carries (RFC 8200 section 5)."""

_PREFERENCES = {"medium": 0x00, "high": 0x08, "low": 0x18}
_PREFIX = Layout("!BBBBIII16s")


class Plan(Struct, frozen=True, gc=False, kw_only=True):
    """What a router tells the hosts of a network. Addresses are numbers, times seconds."""

    router_mac: int
    link_local: int
    """The router's link-local address, which advertisements come from."""
    mtu: int = 0
    """Bytes of an IP packet; 0 leaves it out."""
    lifetime: int = 1800
    """How long the router is a default router; 0: it is none."""
    prefixes: tuple[tuple[int, int, bool, bool, int, int], ...] = ()
    """(prefix, length, autonomous, on link, valid, preferred); autonomous ones give hosts addresses (SLAAC)."""
    managed: bool = False
    """Addresses are to be had by DHCPv6."""
    other: bool = False
    """Other settings are to be had by DHCPv6."""
    dns: tuple[int, ...] = ()
    search: tuple[str, ...] = ()
    dns_lifetime: int = 1800
    hop_limit: int = 64
    preference: Literal["low", "medium", "high"] = "medium"


def _check(plan: Plan) -> None:
    if plan.mtu and plan.mtu < 1280:
        raise ValueError(f"router advertisement: IPv6 needs an MTU of 1280, {plan.mtu} is less")
    for _, length, _, _, valid, preferred in plan.prefixes:
        if not 0 <= length <= 128:
            raise ValueError(f"router advertisement: prefix length {length} is not 0 to 128")
        if preferred > valid:
            raise ValueError(f"router advertisement: a prefix preferred for {preferred} s is valid for {valid} s only")


def _prefix(prefix: int, length: int, autonomous: bool, on_link: bool, valid: int, preferred: int) -> bytes:
    flags = (ON_LINK if on_link else 0) | (AUTONOMOUS if autonomous else 0)
    network = prefix >> (128 - length) << (128 - length)
    return _PREFIX.pack(PREFIX, 4, length, flags, valid, preferred, 0, network.to_bytes(16, "big"))


def _lasting(kind: int, lifetime: int, value: bytes) -> bytes:
    """An option of RFC 8106: a lifetime and a list, filled up to a multiple of 8 bytes."""
    value += b"\0" * (-len(value) % 8)
    return bytes([kind, 1 + len(value) // 8, 0, 0]) + lifetime.to_bytes(4, "big") + value


def _body(plan: Plan) -> bytes:
    """The advertisement behind its checksum."""
    # Who is no default router has no preference among them (RFC 4191 section 2.2).
    flags = _PREFERENCES[plan.preference] if plan.lifetime else 0
    flags |= (MANAGED if plan.managed else 0) | (OTHER if plan.other else 0)
    body = bytes([plan.hop_limit, flags]) + plan.lifetime.to_bytes(2, "big") + bytes(8)
    body += bytes([SOURCE_LINK_LAYER, 1]) + plan.router_mac.to_bytes(6, "big")
    if plan.mtu:
        body += bytes([MTU, 1, 0, 0]) + plan.mtu.to_bytes(4, "big")
    body += b"".join(_prefix(*prefix) for prefix in plan.prefixes)
    if plan.dns:
        body += _lasting(RDNSS, plan.dns_lifetime, b"".join(address.to_bytes(16, "big") for address in plan.dns))
    if plan.search:
        body += _lasting(DNSSL, plan.dns_lifetime, b"".join(map(labels, plan.search)))
    return body


def prepare(plan: Plan) -> Prepared:
    """The advertisement of a plan.

    Raises ValueError when a value does not fit its field, or all of it does not fit one packet of 1280 bytes.
    """
    _check(plan)
    try:
        prepared = Prepared(plan, _body(plan))
    except (OverflowError, StructError) as error:
        raise ValueError(f"router advertisement: {error}") from None
    size = len(prepared.advertisement) - 14
    if size > LONGEST:
        raise ValueError(f"router advertisement: {size} bytes, {LONGEST} are possible; name fewer prefixes")
    return prepared


class Prepared:
    """A plan with its advertisement as bytes."""

    __slots__ = ("_body", "advertisement", "plan")

    def __init__(self, plan: Plan, body: bytes) -> None:
        self.plan = plan
        self._body = body
        self.advertisement = self._frame(ALL_NODES, frames.multicast_mac(ALL_NODES), None)
        """The frame that tells all hosts."""

    def answer(self, frame: bytes) -> bytes | None:
        """The frame that answers a router solicitation, None when it is not a valid one. Never raises."""
        try:
            solicitation = read(frame)
        except Malformed:
            return None
        if solicitation.ip.dst not in (ALL_ROUTERS, self.plan.link_local):
            return None
        if not solicitation.ip.src:
            return self._frame(ALL_NODES, frames.multicast_mac(ALL_NODES), solicitation.ethernet.tci)
        return self._frame(solicitation.ip.src, solicitation.ethernet.src, solicitation.ethernet.tci)

    def _frame(self, address: int, mac: int, tci: int | None) -> bytes:
        packet = frames.icmp6(self.plan.link_local, address, ADVERTISEMENT, 0, self._body)
        return frames.ethernet(mac, self.plan.router_mac, IPV6, packet, tci)


def read(frame: bytes) -> frames.Icmp:
    """The router solicitation in a frame, checked as RFC 4861 section 6.1.1 asks for. Raises Malformed."""
    message = frames.read_icmp(frame)
    if message.ip.version != 6 or message.type != SOLICITATION:
        raise Malformed(f"router solicitation: ICMPv{message.ip.version} type {message.type}")
    if message.ip.ttl != 255 or message.code:
        raise Malformed(f"router solicitation: hop limit {message.ip.ttl}, code {message.code}")
    if message.ip.src >> 120 == 0xFF:
        raise Malformed("router solicitation: from a multicast address")
    body = message.body
    if len(body) < 4:
        raise Malformed(f"router solicitation: {4 + len(body)} bytes where it takes 8")
    position, end = 4, len(body)
    while position < end:
        length = 8 * body[position + 1] if position + 1 < end else 0
        if not length or position + length > end:
            raise Malformed(f"router solicitation: option {body[position]} is cut short")
        if body[position] == SOURCE_LINK_LAYER and not message.ip.src:
            raise Malformed("router solicitation: a link-layer address without a source address")
        position += length
    return message


__all__ = ["Malformed", "Plan", "Prepared", "prepare", "read"]
