"""Which frames a capture keeps, as a program of the classic BSD Packet Filter (see ``classifier``), for a packet socket.

Its result is how many bytes of a frame are kept, 0 for none. What it would read beyond a frame's end makes that 0. A VLAN tag stands
beside the frame, where Linux has put it; one further tag is looked through, and so are ``LEVELS`` IPv6 extension headers.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from topology import ip_protocols
from topology.model import Capture

from .classifier import (
    ADD,
    ADD_X,
    AND,
    BEHIND_X,
    IF_EQUAL,
    IF_SET,
    INDEX_CONSTANT,
    INDEX_FROM_A,
    JUMP,
    LOAD_BYTE,
    LOAD_HALF,
    LOAD_MEMORY,
    LOAD_WORD,
    RETURN,
    SHIFT_LEFT,
    STORE,
    TO_A,
    VLAN_TAGS,
    Code,
    Instruction,
    encode,
)
from .fields import ARP, IPV4, IPV6

LEVELS = 4
_OPTIONS = (0, 43, 60)
"""Extension headers that say how long they are (RFC 8200, section 4): hop-by-hop options, routing, destination options."""
_FRAGMENT = 44
_PROTOCOL = 0
"""Word of memory."""
_TYPES = {"IPv4": IPV4, "IPv6": IPV6, "ARP": ARP}


def compiled(capture: Capture, egress: bool) -> bytes:
    """The program for what VMs send, or for what they receive: struct sock_filter for each step."""
    return encode(program(capture, egress))


def program(capture: Capture, egress: bool) -> Code:
    """Its steps."""
    keep = [_do(RETURN, capture.snaplen)]
    prefix = None if capture.remote_ip_prefix is None else ip_network(capture.remote_ip_prefix)
    types = _ethertypes(capture, prefix)
    if types is None:
        return keep
    tests = {
        IPV4: [*_remote4(prefix, egress), *_transport4(capture)],
        IPV6: [*_remote6(prefix, egress), *_transport6(capture)],
        ARP: _remote_arp(prefix, egress),
    }
    inside = [_do(INDEX_CONSTANT, 18), _do(LOAD_HALF, 16)]
    first, second = VLAN_TAGS
    code = [_do(INDEX_CONSTANT, 14), _do(LOAD_HALF, 12), Instruction(IF_EQUAL, 2, 0, first), *_if(second, inside)]
    for type in types:
        code += _if(type, [*tests[type], *keep])
    return [*code, *_NOTHING]


def _ethertypes(capture: Capture, prefix: IPv4Network | IPv6Network | None) -> tuple[int, ...] | None:
    """The EtherTypes that can pass; None: all."""
    if capture.ethertype is not None:
        return (_TYPES[capture.ethertype],)
    behind = capture.protocol is not None or capture.transport_port is not None
    if prefix is not None:
        return (IPV6,) if prefix.version == 6 else (IPV4,) if behind else (IPV4, ARP)
    return (IPV4, IPV6) if behind else None


def _do(code: int, value: int = 0) -> Instruction:
    return Instruction(code, 0, 0, value)


_NOTHING = [_do(RETURN, 0)]


def _if(value: int, then: Code) -> Code:
    """``then`` when A is this."""
    return [Instruction(IF_EQUAL, 1, 0, value), _do(JUMP, len(then)), *then]


def _must_be(*values: int) -> Code:
    """Ends with nothing when A is none of these."""
    last = len(values) - 1
    return [*(Instruction(IF_EQUAL, last - at + 1, 0, value) for at, value in enumerate(values)), *_NOTHING]


def _must_not_have(bits: int) -> Code:
    return [Instruction(IF_SET, 0, 1, bits), *_NOTHING]


# --- addresses; X is where the header begins -----------------------------------------------------------------------


def _remote4(prefix: IPv4Network | IPv6Network | None, egress: bool) -> Code:
    return _in_prefix(prefix, 16 if egress else 12) if isinstance(prefix, IPv4Network) else []


def _remote6(prefix: IPv4Network | IPv6Network | None, egress: bool) -> Code:
    return _in_prefix(prefix, 24 if egress else 8) if isinstance(prefix, IPv6Network) else []


def _remote_arp(prefix: IPv4Network | IPv6Network | None, egress: bool) -> Code:
    return _in_prefix(prefix, 24 if egress else 14) if isinstance(prefix, IPv4Network) else []


def _in_prefix(prefix: IPv4Network | IPv6Network, at: int) -> Code:
    """The address there has to be of the prefix, of whose words those are compared that say something."""
    code: Code = []
    bits = prefix.max_prefixlen
    for word in range(bits // 32):
        shift = bits - 32 * (word + 1)
        mask = int(prefix.netmask) >> shift & 0xFFFFFFFF
        if mask:
            value = int(prefix.network_address) >> shift & 0xFFFFFFFF
            code += [_do(LOAD_WORD + BEHIND_X, at + 4 * word), _do(AND, mask), *_must_be(value)]
    return code


# --- protocols and ports --------------------------------------------------------------------------------------------


def _transport4(capture: Capture) -> Code:
    protocols = _protocols(capture)
    if not protocols:
        return []
    code = [_do(LOAD_BYTE + BEHIND_X, 9), *_must_be(*protocols)]
    if capture.transport_port is None:
        return code
    return [
        *code, _do(LOAD_HALF + BEHIND_X, 6), *_must_not_have(0x1FFF),
        _do(LOAD_BYTE + BEHIND_X, 0), _do(AND, 0xF), _do(SHIFT_LEFT, 2), _do(ADD_X), _do(INDEX_FROM_A),
        *_port(capture.transport_port),
    ]  # fmt: skip


def _transport6(capture: Capture) -> Code:
    protocols = _protocols(capture)
    if not protocols:
        return []
    code = [_do(LOAD_BYTE + BEHIND_X, 6), _do(STORE, _PROTOCOL), _do(TO_A), _do(ADD, 40), _do(INDEX_FROM_A)]
    following = [_do(LOAD_BYTE + BEHIND_X, 0), _do(STORE, _PROTOCOL)]
    options = [
        *following, _do(LOAD_BYTE + BEHIND_X, 1), _do(SHIFT_LEFT, 3), _do(ADD, 8), _do(ADD_X), _do(INDEX_FROM_A),
        _do(LOAD_MEMORY, _PROTOCOL),
    ]  # fmt: skip
    whole = [_do(LOAD_HALF + BEHIND_X, 2), *_must_not_have(0xFFF8)] if capture.transport_port is not None else []
    fragment = [*whole, *following, _do(TO_A), _do(ADD, 8), _do(INDEX_FROM_A), _do(LOAD_MEMORY, _PROTOCOL)]
    for _ in range(LEVELS):
        code += [_do(LOAD_MEMORY, _PROTOCOL), *_if(_FRAGMENT, fragment)]
        for header in _OPTIONS:
            code += _if(header, options)
    code += _must_be(*protocols)
    return code if capture.transport_port is None else [*code, *_port(capture.transport_port)]


def _protocols(capture: Capture) -> list[int]:
    """Numbers; none: whatever there is."""
    number = ip_protocols.number(capture.protocol)
    if number is not None:
        return [number]
    return sorted(ip_protocols.WITH_PORTS) if capture.transport_port is not None else []


def _port(port: int) -> Code:
    """From it or to it; X is where the transport header begins."""
    to = [_do(LOAD_HALF + BEHIND_X, 2), *_must_be(port)]
    return [_do(LOAD_HALF + BEHIND_X, 0), Instruction(IF_EQUAL, len(to), 0, port), *to]
