"""DHCP for IPv4 (RFC 2131): what a port is told, and the answers to its client.

A port has one address, so the server keeps no leases: it offers that address, acknowledges it, and refuses any other.
Also: RFC 2132 (options), 3396 (long options), 3442 (classless routes), 4039 (rapid commit), 6842 (client identifier).
"""

from __future__ import annotations

from ipaddress import IPv4Address
from struct import Struct as Layout

from msgspec import Struct

from topology.dhcp_options import NEXT_SERVER, OWN4, routes
from topology.dhcp_options import option4 as option
from topology.names import labels

from ..fields import IPV4
from . import frames
from .frames import BROADCAST_IPV4, BROADCAST_MAC, Malformed

SERVER_PORT, CLIENT_PORT = 67, 68
INFINITE = 0xFFFFFFFF
"""A lease that never ends."""

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
KINDS = {DISCOVER: "discover", REQUEST: "request", DECLINE: "decline", RELEASE: "release", INFORM: "inform"}
"""What clients send, in words."""

PAD, END = 0, 255
NETMASK, ROUTER, DNS, HOSTNAME, DOMAIN, MTU, NTP = 1, 3, 6, 12, 15, 26, 42
REQUESTED, LEASE, MESSAGE_TYPE, SERVER_ID, PARAMETERS, TEXT, MAX_SIZE, T1, T2 = 50, 51, 53, 54, 55, 56, 57, 58, 59
CLIENT_ID, TFTP_SERVER, BOOT_FILE, RAPID_COMMIT, SEARCH, ROUTES, TFTP_ADDRESS = 61, 66, 67, 80, 119, 121, 150
MICROSOFT_ROUTES = 249
"""The routes' number in Windows before Vista."""

_BOOTP = Layout("!BBBBIHHIIII16s64s128s4s")
_REQUEST_HEAD = Layout("!BBBBIHHIIII16s")
_COOKIE = b"\x63\x82\x53\x63"
_SHORTEST = 300
"""Bytes of a BOOTP message (RFC 1542 section 2.1); some clients drop shorter ones."""
_DEFAULT_SIZE, _LARGEST_SIZE, _IP_AND_UDP = 576, 1500, 28
"""Bytes of the IP packet: what every client takes (RFC 2131 section 2), and what fits in one frame."""
_TIMES = frozenset({LEASE, T1, T2})
_ON_REQUEST = frozenset({SEARCH, MICROSOFT_ROUTES})
"""Not sent unless asked for: few know them, and they are long."""
_IMPORTANCE = (NETMASK, LEASE, ROUTER, ROUTES, DNS, MTU, BOOT_FILE, TFTP_SERVER, T1, T2, DOMAIN, HOSTNAME, NTP)
"""What is kept first where not all fits; then the port's extra options, the search list last."""


class Plan(Struct, frozen=True, gc=False, kw_only=True):
    """What the client at a port is told. Addresses are numbers; 0 or empty leaves something out."""

    client_mac: int
    address: int
    prefix_length: int
    server_id: int
    """The server's IPv4 address, unique in the network."""
    server_mac: int
    routers: tuple[int, ...] = ()
    dns: tuple[int, ...] = ()
    ntp: tuple[int, ...] = ()
    mtu: int = 0
    """Bytes of an IP packet."""
    lease: int = 86400
    """Seconds, or INFINITE."""
    domain: str = ""
    search: tuple[str, ...] = ()
    hostname: str = ""
    routes: tuple[tuple[int, int, int], ...] = ()
    """(prefix, length, next hop). The default route by ``routers`` is added, as RFC 3442 asks for."""
    next_server: int = 0
    """Address of the TFTP server (siaddr)."""
    server_name: str = ""
    boot_file: str = ""
    extra: tuple[tuple[int, bytes], ...] = ()
    """Further options as ``option`` makes them; they take the place of the ones above."""


class Request(Struct, frozen=True, gc=False):
    """A client's message."""

    type: int
    xid: int
    flags: int
    client_address: int
    """The address that the client uses (ciaddr), 0 while it has none."""
    relay: int
    client_mac: int
    ip_dst: int
    tci: int | None
    options: dict[int, bytes]

    @property
    def kind(self) -> str:
        """The message in a word, for counters."""
        return KINDS[self.type]


def read(frame: bytes) -> Request:
    """The client's message in a frame. Raises Malformed."""
    datagram = frames.read_udp(frame)
    message = datagram.payload
    if datagram.dst_port != SERVER_PORT or datagram.ip.version != 4:
        raise Malformed(f"DHCP: UDP port {datagram.dst_port}, IPv{datagram.ip.version}")
    if len(message) < 241:
        raise Malformed(f"DHCP: {len(message)} bytes where the header takes 240")
    op, hardware, length, _, xid, _, flags, ciaddr, _, _, giaddr, chaddr = _REQUEST_HEAD.unpack_from(message)
    if (op, hardware, length) != (1, 1, 6) or message[236:240] != _COOKIE:
        raise Malformed(
            f"DHCP: operation {op}, hardware {hardware} with {length} bytes, cookie {message[236:240].hex()}"
        )
    options = _options(message)
    type_ = options.get(MESSAGE_TYPE, b"")
    if len(type_) != 1 or type_[0] not in KINDS:
        raise Malformed(f"DHCP: message type {type_.hex() or 'missing'}")
    mac = int.from_bytes(chaddr[:6], "big")
    return Request(type_[0], xid, flags, ciaddr, giaddr, mac, datagram.ip.dst, datagram.ethernet.tci, options)


_SIZES = {REQUESTED: 4, SERVER_ID: 4, MAX_SIZE: 2}


def _options(message: bytes) -> dict[int, bytes]:
    """The options by code; pieces of one that stands several times are joined (RFC 3396)."""
    found: dict[int, bytes] = {}
    position, end = 240, len(message)
    while position < end:
        code = message[position]
        if code == PAD:
            position += 1
            continue
        if code == END:
            break
        if position + 2 > end or (after := position + 2 + message[position + 1]) > end:
            raise Malformed(f"DHCP: option {code} is cut short")
        value = message[position + 2 : after]
        found[code] = found[code] + value if code in found else value
        position = after
    for code, size in _SIZES.items():
        if code in found and len(found[code]) != size:
            raise Malformed(f"DHCP: option {code} has {len(found[code])} bytes instead of {size}")
    if len(found.get(CLIENT_ID, b"")) > 255:
        raise Malformed("DHCP: a client identifier of more than 255 bytes")
    return found


def _encode(code: int, value: bytes) -> bytes:
    """An option, in pieces of 255 bytes where it is longer (RFC 3396)."""
    pieces = [value[start : start + 255] for start in range(0, len(value), 255)] or [b""]
    return b"".join(bytes([code, len(piece)]) + piece for piece in pieces)


def _list(addresses: tuple[int, ...]) -> bytes:
    return b"".join(address.to_bytes(4, "big") for address in addresses)


def _values(plan: Plan) -> dict[int, bytes]:
    """The value of every option that the plan has, by code. Raises ValueError."""
    extra = dict(plan.extra)
    lease = int.from_bytes(extra.get(LEASE, b""), "big") or plan.lease
    values = {
        NETMASK: ((0xFFFFFFFF << (32 - plan.prefix_length)) & 0xFFFFFFFF).to_bytes(4, "big"),
        ROUTER: _list(plan.routers),
        DNS: _list(plan.dns),
        NTP: _list(plan.ntp),
        MTU: plan.mtu.to_bytes(2, "big") if plan.mtu else b"",
        DOMAIN: plan.domain.encode("ascii"),
        SEARCH: b"".join(map(labels, plan.search)),
        HOSTNAME: plan.hostname.encode("ascii"),
        TFTP_SERVER: plan.server_name.encode("ascii"),
        BOOT_FILE: plan.boot_file.encode("ascii"),
        LEASE: lease.to_bytes(4, "big"),
        T1: b"" if lease == INFINITE else (lease // 2).to_bytes(4, "big"),
        T2: b"" if lease == INFINITE else (lease * 7 // 8).to_bytes(4, "big"),
    } | extra
    table = plan.routes
    if table:
        if values[ROUTER] and not any(length == 0 for _, length, _ in table):
            table += ((0, 0, int.from_bytes(values[ROUTER][:4], "big")),)
        for code in (ROUTES, MICROSOFT_ROUTES):
            values.setdefault(code, routes(table))
    return {code: value for code, value in values.items() if value and code != NEXT_SERVER}


def _header(plan: Plan, values: dict[int, bytes]) -> tuple[int, bytes, bytes]:
    """Next server, its name and the boot file, for the header; boot ROMs look there, in the options, or in both."""
    name, file = values.get(TFTP_SERVER, b""), values.get(BOOT_FILE, b"")
    server = int.from_bytes(dict(plan.extra).get(NEXT_SERVER, b""), "big") or plan.next_server
    server = server or int.from_bytes(values.get(TFTP_ADDRESS, b"")[:4], "big")
    if not server and name:
        try:
            server = int(IPv4Address(name.decode("ascii")))
        except ValueError:
            server = 0  # a name, which only the client can look up
    # Each field ends with a zero; what does not fit stands in the option only.
    return server, name if len(name) < 64 else b"", file if len(file) < 128 else b""


def prepare(plan: Plan) -> Prepared:
    """Everything of the answers that does not depend on the request.

    Raises ValueError when a value does not fit its option (a number too large, a name that is not ASCII).
    """
    if not 0 <= plan.prefix_length <= 32:
        raise ValueError(f"DHCP plan: prefix length {plan.prefix_length} is not 0 to 32")
    for code, _ in plan.extra:
        if not 1 <= code <= NEXT_SERVER or code == END or code in OWN4:
            raise ValueError(f"DHCP plan: option {code} cannot be given")
    try:
        for number, size in ((plan.address, 4), (plan.next_server, 4), (plan.client_mac, 6), (plan.server_mac, 6)):
            number.to_bytes(size, "big")
        return Prepared(plan)
    except OverflowError as error:
        raise ValueError(f"DHCP plan: {error}") from None


class Prepared:
    """A plan with its options as bytes."""

    __slots__ = ("_file", "_name", "_next_server", "_options", "_order", "_server_id", "plan")

    def __init__(self, plan: Plan) -> None:
        values = _values(plan)
        self.plan = plan
        self._next_server, self._name, self._file = _header(plan, values)
        ranks = {code: rank for rank, code in enumerate(_IMPORTANCE)}
        self._order = sorted(values, key=lambda code: (code in _ON_REQUEST, ranks.get(code, len(ranks))))
        self._options = {code: _encode(code, value) for code, value in values.items()}
        self._server_id = _encode(SERVER_ID, plan.server_id.to_bytes(4, "big"))

    def answer(self, frame: bytes) -> bytes | None:
        """The frame that answers a client's frame; None where there is nothing to say. Never raises."""
        try:
            return self.reply(read(frame))
        except Malformed:
            return None

    def reply(self, request: Request) -> bytes | None:
        """The frame that answers a request; None where there is nothing to say."""
        plan, options = self.plan, request.options
        if request.client_mac != plan.client_mac or request.ip_dst not in (BROADCAST_IPV4, plan.server_id):
            return None
        if request.type == DISCOVER:
            rapid = RAPID_COMMIT in options
            return self._lease(request, ACK if rapid else OFFER, b"\x50\0" if rapid else b"")
        if request.type == REQUEST:
            chosen = options.get(SERVER_ID)
            if chosen is not None and int.from_bytes(chosen, "big") != plan.server_id:
                return None
            # Asked for by option while selecting and after a reboot, by ciaddr to renew and rebind (section 4.3.2).
            wanted = int.from_bytes(options.get(REQUESTED, b""), "big") or request.client_address
            return self._lease(request, ACK) if wanted == plan.address else self._refusal(request)
        if request.type == INFORM:
            return self._message(request, ACK, 0, self._chosen(request, b"", without=_TIMES))
        return None

    def _lease(self, request: Request, type_: int, head: bytes = b"") -> bytes:
        return self._message(request, type_, self.plan.address, self._chosen(request, head, frozenset()))

    def _refusal(self, request: Request) -> bytes:
        text = _encode(TEXT, b"the address is not this port's")
        return self._message(request, NAK, 0, self._identity(request) + text)

    def _identity(self, request: Request) -> bytes:
        client = request.options.get(CLIENT_ID)
        return self._server_id if client is None else self._server_id + _encode(CLIENT_ID, client)

    def _chosen(self, request: Request, head: bytes, without: frozenset[int]) -> bytes:
        """The options: those asked for in the client's order, then the others, less the least important too many."""
        head = self._identity(request) + head
        asked = request.options.get(PARAMETERS, b"")
        stated = int.from_bytes(request.options.get(MAX_SIZE, b""), "big")
        size = min(max(stated, _DEFAULT_SIZE), _LARGEST_SIZE)
        room = size - _IP_AND_UDP - _BOOTP.size - 4 - len(head)  # 4: the message type, and the end
        kept = set()
        for code in self._order:
            if code in without or (code in _ON_REQUEST and code not in asked):
                continue
            if len(self._options[code]) <= room:
                room -= len(self._options[code])
                kept.add(code)
        # The netmask goes before the routers, whatever the client asks for (RFC 2132 section 3.3).
        order = dict.fromkeys((NETMASK, *asked, *self._order))
        return head + b"".join([self._options[code] for code in order if code in kept])

    def _message(self, request: Request, type_: int, address: int, options: bytes) -> bytes:
        plan, nak = self.plan, type_ == NAK
        message = _BOOTP.pack(
            2, 1, 6, 0, request.xid, 0, request.flags,
            0 if nak else request.client_address, address, 0 if nak else self._next_server, request.relay,
            plan.client_mac.to_bytes(6, "big"), b"" if nak else self._name, b"" if nak else self._file, _COOKIE,
        )  # fmt: skip
        message = (message + bytes([MESSAGE_TYPE, 1, type_]) + options + b"\xff").ljust(_SHORTEST, b"\0")
        # To the address in use, else to all when the client says so or has none that is right (section 4.1).
        to = 0 if nak else request.client_address or (0 if request.flags & 0x8000 else address)
        packet = frames.udp4(plan.server_id, to or BROADCAST_IPV4, SERVER_PORT, CLIENT_PORT, message)
        return frames.ethernet(plan.client_mac if to else BROADCAST_MAC, plan.server_mac, IPV4, packet, request.tci)


__all__ = ["INFINITE", "KINDS", "Malformed", "Plan", "Prepared", "Request", "option", "prepare", "read"]
