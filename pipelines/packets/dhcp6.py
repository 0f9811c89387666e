"""DHCP for IPv6 (RFC 8415): what a port is told, and the answers to its client.

A port's addresses are its own for good, so the server keeps no bindings: the first IA_NA of a message holds all of
them, and any other identity association holds nothing. Also: RFC 3646 (DNS), 5908 (NTP), 5970 (boot file).
"""

from __future__ import annotations

from struct import Struct as Layout
from struct import error as StructError
from struct import unpack

from msgspec import Struct

from topology.dhcp_options import OWN6, ntp_servers
from topology.dhcp_options import option6 as option
from topology.names import labels

from ..fields import IPV6
from . import frames
from .frames import Malformed

SERVER_PORT, CLIENT_PORT = 547, 546
SERVERS = 0xFF02 << 112 | 0x1_0002
"""ff02::1:2, all DHCP relay agents and servers."""
INFINITE = 0xFFFFFFFF

SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY, RELEASE, DECLINE, _, INFORMATION_REQUEST = range(1, 12)
KINDS = {
    SOLICIT: "solicit", REQUEST: "request", CONFIRM: "confirm", RENEW: "renew", REBIND: "rebind", RELEASE: "release",
    DECLINE: "decline", INFORMATION_REQUEST: "information-request",
}  # fmt: skip
"""What clients send, in words. Relayed messages are not taken: a VM is no relay agent."""

CLIENT_ID, SERVER_ID, IA_NA, IA_TA, IA_ADDRESS, ORO, PREFERENCE, STATUS, RAPID_COMMIT = 1, 2, 3, 4, 5, 6, 7, 13, 14
DNS, SEARCH, IA_PD, REFRESH, NTP, BOOT_URL = 23, 24, 25, 32, 56, 59

SUCCESS, NO_ADDRESSES, NO_BINDING, NOT_ON_LINK, USE_MULTICAST, NO_PREFIXES = 0, 2, 3, 4, 5, 6

_TO_ONE_SERVER = frozenset({REQUEST, RENEW, RELEASE, DECLINE})
_ASSIGNING = frozenset({SOLICIT, REQUEST, RENEW, REBIND})
_GIVING_BACK = frozenset({RELEASE, DECLINE})
_OPTION = Layout("!HH")
_ADDRESS = Layout("!16sII")
_IA_HEADS = {IA_NA: 12, IA_TA: 4, IA_PD: 12}

_ROOM = 1280 - 40 - 8
"""Bytes of a message in a packet that any link carries (RFC 8200 section 5)."""
MAX_ASSOCIATIONS = 8
MAX_ADDRESSES = 24
_MAX_FOREIGN = 8
"""What one answer can hold: so many associations, addresses of the port, and addresses that are to be given up."""


class Plan(Struct, frozen=True, gc=False, kw_only=True):
    """What the client at a port is told. Addresses are numbers, times seconds; 0 or empty leaves something out."""

    server_mac: int
    server_address: int
    """The server's link-local address."""
    addresses: tuple[int, ...] = ()
    """The port's; the first MAX_ADDRESSES are told."""
    stateless: bool = False
    """Only information requests are answered: addresses come from router advertisements."""
    preferred: int = 86400
    valid: int = 86400
    dns: tuple[int, ...] = ()
    search: tuple[str, ...] = ()
    ntp: tuple[int, ...] = ()
    boot_url: str = ""
    refresh: int = 86400
    """How long an answer to an information request holds."""
    extra: tuple[tuple[int, bytes], ...] = ()
    """Further options as ``option`` makes them; they take the place of the ones above."""


class Association(Struct, frozen=True, gc=False):
    """An identity association: IA_NA, IA_TA or IA_PD, and the addresses in it."""

    kind: int
    id: bytes
    addresses: tuple[int, ...]


class Request(Struct, frozen=True, gc=False):
    """A client's message."""

    type: int
    xid: bytes
    client_mac: int
    client_address: int
    ip_dst: int
    tci: int | None
    options: dict[int, bytes]
    """All but identity associations; the first where one stands several times."""
    asked: tuple[int, ...] | None
    """Codes of the options that the client asks for, in its order; None when it does not say."""
    associations: tuple[Association, ...]

    @property
    def kind(self) -> str:
        """The message in words, for counters."""
        return KINDS[self.type]


# --- reading -------------------------------------------------------------------------------------------------------


def read(frame: bytes) -> Request:
    """The client's message in a frame, valid by section 16 of the RFC. Raises Malformed."""
    datagram = frames.read_udp(frame)
    message, ip = datagram.payload, datagram.ip
    if datagram.dst_port != SERVER_PORT or ip.version != 6:
        raise Malformed(f"DHCPv6: UDP port {datagram.dst_port}, IPv{ip.version}")
    if not ip.src or ip.src >> 120 == 0xFF:
        raise Malformed("DHCPv6: not from a unicast address")
    if len(message) < 4 or message[0] not in KINDS:
        raise Malformed(f"DHCPv6: {len(message)} bytes, starting {message[:4].hex()}")
    options: dict[int, bytes] = {}
    associations: list[Association] = []
    for code, value in _options(message, 4):
        if code in _IA_HEADS:
            if len(associations) == MAX_ASSOCIATIONS:
                raise Malformed(f"DHCPv6: more than {MAX_ASSOCIATIONS} identity associations")
            associations.append(_association(code, value))
        else:
            options.setdefault(code, value)
    _check(message[0], options, associations)
    return Request(
        type=message[0],
        xid=message[1:4],
        client_mac=datagram.ethernet.src,
        client_address=ip.src,
        ip_dst=ip.dst,
        tci=datagram.ethernet.tci,
        options=options,
        asked=_codes(options[ORO]) if ORO in options else None,
        associations=tuple(associations),
    )


def _codes(value: bytes) -> tuple[int, ...]:
    if len(value) % 2:
        raise Malformed(f"DHCPv6: {len(value)} bytes of option codes, which take two each")
    return unpack(f"!{len(value) // 2}H", value)


def _options(data: bytes, start: int) -> list[tuple[int, bytes]]:
    found, end = [], len(data)
    while start < end:
        if start + 4 > end:
            raise Malformed(f"DHCPv6: {end - start} bytes where an option takes 4")
        code, length = _OPTION.unpack_from(data, start)
        if start + 4 + length > end:
            raise Malformed(f"DHCPv6: option {code} is cut short")
        found.append((code, data[start + 4 : start + 4 + length]))
        start += 4 + length
    return found


def _association(kind: int, value: bytes) -> Association:
    head = _IA_HEADS[kind]
    if len(value) < head:
        raise Malformed(f"DHCPv6: an association of {len(value)} bytes where it takes {head}")
    addresses = []
    for code, inner in _options(value, head):
        if code == IA_ADDRESS:
            if len(inner) < 24:
                raise Malformed(f"DHCPv6: an address of {len(inner)} bytes where it takes 24")
            addresses.append(int.from_bytes(inner[:16], "big"))
    return Association(kind, value[:4], tuple(dict.fromkeys(addresses)))


def _check(type_: int, options: dict[int, bytes], associations: list[Association]) -> None:
    """Which identifiers a message must and must not have (sections 16.2 to 16.12)."""
    for code in (CLIENT_ID, SERVER_ID):
        if code in options and not 3 <= len(options[code]) <= 130:
            raise Malformed(f"DHCPv6: a DUID of {len(options[code])} bytes, which are 3 to 130")
    if type_ == INFORMATION_REQUEST:
        if associations:
            raise Malformed("DHCPv6: an information request with an identity association")
    elif CLIENT_ID not in options or (SERVER_ID in options) != (type_ in _TO_ONE_SERVER):
        raise Malformed(f"DHCPv6: a {KINDS[type_]} without the identifiers it needs, or with one it must not have")


# --- writing -------------------------------------------------------------------------------------------------------


def _encode(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value


def _status(code: int) -> bytes:
    return _encode(STATUS, code.to_bytes(2, "big"))


def _share(lifetime: int, tenths: int) -> int:
    return INFINITE if lifetime == INFINITE else lifetime * tenths // 10


def prepare(plan: Plan) -> Prepared:
    """Everything of the answers that does not depend on the request.

    Raises ValueError when a value does not fit its option.
    """
    if plan.preferred > plan.valid:
        raise ValueError(f"DHCPv6 plan: preferred for {plan.preferred} s, valid for {plan.valid} s only")
    for code, _ in plan.extra:
        if not 1 <= code <= 0xFFFF or code in OWN6:
            raise ValueError(f"DHCPv6 plan: option {code} cannot be given")
    try:
        plan.server_address.to_bytes(16, "big")
        return Prepared(plan)
    except (OverflowError, StructError) as error:
        raise ValueError(f"DHCPv6 plan: {error}") from None


class Prepared:
    """A plan with its options as bytes."""

    __slots__ = ("_leases", "_options", "_own", "_server_id", "_times", "plan", "server_id")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.server_id = b"\0\3\0\1" + plan.server_mac.to_bytes(6, "big")
        """The server's DUID, by its link-layer address (section 11.4)."""
        values = {
            DNS: b"".join(address.to_bytes(16, "big") for address in plan.dns),
            SEARCH: b"".join(map(labels, plan.search)),
            NTP: ntp_servers(plan.ntp),
            BOOT_URL: plan.boot_url.encode("ascii"),
            REFRESH: plan.refresh.to_bytes(4, "big"),
        } | dict(plan.extra)
        self._options = {code: _encode(code, value) for code, value in values.items() if value}
        self._own = frozenset(plan.addresses)
        self._server_id = _encode(SERVER_ID, self.server_id)
        # Renewed at half, rebound at eight tenths of the time (section 21.4 recommends these shares).
        self._times = _share(plan.preferred, 5), _share(plan.preferred, 8)
        self._leases = b"".join(
            _encode(IA_ADDRESS, _ADDRESS.pack(address.to_bytes(16, "big"), plan.preferred, plan.valid))
            for address in plan.addresses[:MAX_ADDRESSES]
        )

    def answer(self, frame: bytes) -> bytes | None:
        """The frame that answers a client's frame; None where there is nothing to say. Never raises."""
        try:
            return self.reply(read(frame))
        except Malformed:
            return None

    def reply(self, request: Request) -> bytes | None:
        """The frame that answers a request; None where there is nothing to say."""
        plan, type_ = self.plan, request.type
        if request.options.get(SERVER_ID, self.server_id) != self.server_id:
            return None
        if plan.stateless and type_ != INFORMATION_REQUEST:
            return None
        if request.ip_dst != SERVERS:
            # No client was allowed to speak to the server's own address (section 18.4).
            to_me = request.ip_dst == plan.server_address and type_ in _TO_ONE_SERVER
            return self._message(request, REPLY, _status(USE_MULTICAST)) if to_me else None
        if type_ in _ASSIGNING:
            return self._assign(request)
        if type_ in _GIVING_BACK:
            unbound = [ia for ia in request.associations if not self._holds(ia)]
            body = _status(SUCCESS) + b"".join(_empty(ia, NO_BINDING) for ia in unbound)
            return self._message(request, REPLY, body)
        if type_ == CONFIRM:
            asked = [address for ia in request.associations for address in ia.addresses]
            status = SUCCESS if self._own.issuperset(asked) else NOT_ON_LINK
            return self._message(request, REPLY, _status(status)) if asked else None
        return self._message(request, REPLY, self._with_options(request, b""))

    def _assign(self, request: Request) -> bytes:
        """The answer with addresses. Whoever says Rapid Commit has them at once (section 18.3.1)."""
        rapid = request.type == SOLICIT and RAPID_COMMIT in request.options
        body = _encode(RAPID_COMMIT, b"") if rapid else b""
        advertise = request.type == SOLICIT and not rapid
        if advertise:
            body += _encode(PREFERENCE, b"\xff")
        first = True
        for ia in request.associations:
            if ia.kind == IA_NA and first and self._leases:
                body += self._leased(ia, request.type)
                first = False
            else:
                body += _empty(ia, NO_PREFIXES if ia.kind == IA_PD else NO_ADDRESSES)
        return self._message(request, ADVERTISE if advertise else REPLY, self._with_options(request, body))

    def _leased(self, ia: Association, type_: int) -> bytes:
        """The association with the port's addresses; those that the client should give up last for 0 s."""
        content = ia.id + self._times[0].to_bytes(4, "big") + self._times[1].to_bytes(4, "big") + self._leases
        if type_ in (RENEW, REBIND):
            foreign = [address for address in ia.addresses if address not in self._own]
            for address in foreign[:_MAX_FOREIGN]:
                content += _encode(IA_ADDRESS, _ADDRESS.pack(address.to_bytes(16, "big"), 0, 0))
        return _encode(IA_NA, content)

    def _holds(self, ia: Association) -> bool:
        return ia.kind == IA_NA and self._own.issuperset(ia.addresses)

    def _with_options(self, request: Request, body: bytes) -> bytes:
        """``body`` and the options asked for, in the client's order, as far as there is room; all when it does not say."""
        room = _ROOM - len(self._head(request, REPLY)) - len(body)
        for code in dict.fromkeys(self._options if request.asked is None else request.asked):
            encoded = self._options.get(code, b"")
            if len(encoded) <= room and (code != REFRESH or request.type == INFORMATION_REQUEST):
                body += encoded
                room -= len(encoded)
        return body

    def _head(self, request: Request, type_: int) -> bytes:
        client = request.options.get(CLIENT_ID)
        head = bytes([type_]) + request.xid + self._server_id
        return head if client is None else head + _encode(CLIENT_ID, client)

    def _message(self, request: Request, type_: int, body: bytes) -> bytes:
        source, message = self.plan.server_address, self._head(request, type_) + body
        packet = frames.udp6(source, request.client_address, SERVER_PORT, CLIENT_PORT, message)
        return frames.ethernet(request.client_mac, self.plan.server_mac, IPV6, packet, request.tci)


def _empty(ia: Association, status: int) -> bytes:
    """An association that has nothing, and why."""
    return _encode(ia.kind, ia.id + bytes(_IA_HEADS[ia.kind] - 4) + _status(status))


__all__ = [
    "INFINITE",
    "KINDS",
    "MAX_ADDRESSES",
    "Malformed",
    "Plan",
    "Prepared",
    "Request",
    "option",
    "prepare",
    "read",
]
