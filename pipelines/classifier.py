"""Which class of an uplink, or of a VM's interface, a frame is for, as a program of the classic BSD Packet Filter: what tc-bpf(8) runs for each.

The language is that of McCanne and Jacobson's "The BSD Packet Filter" (USENIX 1993) with Linux's extensions
(Documentation/networking/filter.rst): an accumulator A, an index X, 16 words of memory, and jumps forward. The program's result
is the handle of a class, or 0 where it knows none. What it would read beyond a frame's end ends it with 0.

A frame in a tunnel is told by the key of the port that sent it, which NovaNet's Geneve option carries, so that it is known behind
routers and translations as well; VXLAN has no room for that, so there it is network and MAC address, as outside tunnels.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import ip_address
from typing import NamedTuple

from topology.shaping import CONTROL, OWN, VOICE, Shape, Source, Tunnel

from .fields import ARP, GENEVE_OPTION_CLASS, GENEVE_OPTION_TYPE, ICMPV6, IPV4, IPV6, TUN_OPTION, UDP

LONGEST = 4096
"""Instructions that Linux takes (BPF_MAXINSNS)."""
NEIGHBOUR_DISCOVERY = 133, 137
"""Types of ICMPv6 messages, the first and the last (RFC 4861, section 4)."""
VLAN_TAGS = (0x8100, 0x88A8)

LOAD_WORD, LOAD_HALF, LOAD_BYTE, LOAD_CONSTANT, LOAD_MEMORY = 0x20, 0x28, 0x30, 0x00, 0x60
BEHIND_X = 0x20
"""Added to a load: the offset is from X."""
INDEX_CONSTANT, INDEX_MEMORY, STORE, INDEX_FROM_A = 0x01, 0x61, 0x02, 0x07
AND, SHIFT_RIGHT, SHIFT_LEFT, ADD_X, ADD, TO_A = 0x54, 0x74, 0x64, 0x0C, 0x04, 0x87
JUMP, IF_EQUAL, IF_GREATER, IF_SET, RETURN = 0x05, 0x15, 0x25, 0x45, 0x06
_ANCILLARY = 0xFFFFF000
TAG, TAG_PRESENT = _ANCILLARY + 44, _ANCILLARY + 48
"""Where Linux has the VLAN tag that it keeps beside a frame (linux/filter.h)."""
SEGMENT, HIGH, LOW, ETHERTYPE = range(4)
"""Words of memory: VNI or VLAN, a MAC address' upper 16 and lower 32 bits, and what the frame holds."""
LINEAR = 4
"""So many are compared one after the other; of more, half are put aside by one comparison."""


class Instruction(NamedTuple):
    """One step; jumps count from the one after it."""

    code: int
    if_true: int
    if_false: int
    value: int


Code = list[Instruction]


def program(shape: Shape, major: int) -> tuple[Instruction, ...]:
    """The program of an uplink whose classes have handles ``major << 16 | number``.

    Raises ValueError when there are more ports than a program has room for.
    """
    base = major << 16
    code = _segment()
    if shape.wires:
        code += _load(LOAD_HALF, 6, HIGH) + _load(LOAD_WORD, 8, LOW) + _by_source(shape.wires, base)
    if shape.tunnel is not None:
        code += _of_hypervisor(shape, shape.tunnel, base)
    if shape.dscps:
        code += _by_dscp(shape.dscps, base)
    code.append(_do(RETURN, 0))
    if len(code) > LONGEST:
        raise ValueError(
            f"{len(shape.leaves)} classes need a program of {len(code)} steps, and Linux takes {LONGEST}: give fewer ports"
            " on this hypervisor a guarantee, a priority or a bound of latency"
        )
    return tuple(code)


def encode(code: Sequence[Instruction]) -> bytes:
    """As Linux takes it: struct sock_filter for each step, in the machine's order."""
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def _do(code: int, value: int = 0) -> Instruction:
    return Instruction(code, 0, 0, value)


def _load(how: int, at: int, into: int) -> Code:
    return [_do(how, at), _do(STORE, into)]


def _if(code: int, value: int, then: Code) -> Code:
    """``then`` when A meets the condition; what follows it may be reached from there."""
    return [Instruction(code, 1, 0, value), _do(JUMP, len(then)), *then]


def _unless(value: int, then: Code) -> Code:
    """``then`` when A is another value."""
    return [Instruction(IF_EQUAL, 0, 1, value), _do(JUMP, len(then)), *then]


def _class(base: int, number: int) -> Code:
    return [_do(RETURN, base | number)]


_NONE: Code = [_do(RETURN, 0)]


def _segment() -> Code:
    """The VLAN in memory, beside the frame or in it; the EtherType in A, and in X where what it says begins."""
    inside = [
        *_load(LOAD_HALF, 14, SEGMENT), _do(LOAD_MEMORY, SEGMENT), _do(AND, 0xFFF), _do(STORE, SEGMENT),
        _do(INDEX_CONSTANT, 18), _do(LOAD_HALF, 16),
    ]  # fmt: skip
    beside = [_do(LOAD_WORD, TAG), _do(AND, 0xFFF), _do(STORE, SEGMENT)]
    first, second = VLAN_TAGS
    return [
        _do(LOAD_CONSTANT, 0), _do(STORE, SEGMENT), _do(LOAD_WORD, TAG_PRESENT), *_if(IF_EQUAL, 1, beside),
        _do(INDEX_CONSTANT, 14), _do(LOAD_HALF, 12),
        Instruction(IF_EQUAL, 2, 0, first), *_if(IF_EQUAL, second, inside),
        _do(STORE, ETHERTYPE),
    ]  # fmt: skip


# --- by port -----------------------------------------------------------------------------------------------------


def _by_source(sources: Sequence[tuple[Source, int]], base: int) -> Code:
    """Returns the class of the frame's segment and source, if it has one; else it goes on."""

    def one(entry: tuple[Source, int]) -> Code:
        (segment, mac), number = entry
        tests = ((LOW, mac & 0xFFFFFFFF), (HIGH, mac >> 32), (SEGMENT, segment))
        return [
            *(
                step
                for left, (where, value) in zip((5, 3, 1), tests, strict=True)
                for step in (_do(LOAD_MEMORY, where), Instruction(IF_EQUAL, 0, left, value))
            ),
            *_class(base, number),
        ]

    ordered = sorted(sources, key=lambda entry: entry[0][1] & 0xFFFFFFFF)
    return _tree(
        [(source[1] & 0xFFFFFFFF, one((source, number))) for source, number in ordered], [_do(LOAD_MEMORY, LOW)]
    )


def _by_dscp(dscps: Sequence[tuple[int, int]], base: int) -> Code:
    """The same by what an IP packet says; without ARP and neighbour discovery no packet would come at all."""
    known = [step for dscp, number in dscps for step in (Instruction(IF_EQUAL, 0, 1, dscp), *_class(base, number))]
    four = [_do(LOAD_BYTE + BEHIND_X, 1), _do(SHIFT_RIGHT, 2), *known, *_NONE]
    first, last = NEIGHBOUR_DISCOVERY
    neighbours = [
        _do(LOAD_BYTE + BEHIND_X, 40), Instruction(IF_GREATER, 2, 0, last), Instruction(IF_GREATER, 0, 1, first - 1),
        *_class(base, VOICE),
    ]  # fmt: skip
    six = [
        _do(LOAD_BYTE + BEHIND_X, 6), *_if(IF_EQUAL, ICMPV6, neighbours),
        _do(LOAD_HALF + BEHIND_X, 0), _do(SHIFT_RIGHT, 6), _do(AND, 0x3F), *known, *_NONE,
    ]  # fmt: skip
    load = [_do(LOAD_MEMORY, ETHERTYPE)]
    return [*load, *_if(IF_EQUAL, ARP, _class(base, VOICE)), *_if(IF_EQUAL, IPV4, four), *_if(IF_EQUAL, IPV6, six)]


def _by_key(senders: Sequence[tuple[int, int]], base: int) -> Code:
    """The same by the number in A, which stays there."""
    return _tree(
        [(key, [Instruction(IF_EQUAL, 0, 1, key), *_class(base, number)]) for key, number in sorted(senders)], []
    )


def _tree(entries: list[tuple[int, Code]], load: Code) -> Code:
    """Entries by ascending number: half of them are passed over by each comparison of A, which ``load`` brings there."""
    edges = [at for at in range(1, len(entries)) if entries[at - 1][0] != entries[at][0]]
    if len(entries) <= LINEAR or not edges:
        return [step for _, code in entries for step in code]
    middle = min(edges, key=lambda at: abs(2 * at - len(entries)))
    below, above = _tree(entries[:middle], load), _tree(entries[middle:], load)
    below.append(_do(JUMP, len(above)))
    return [*load, *_if(IF_GREATER, entries[middle - 1][0], [_do(JUMP, len(below))]), *below, *above]


# --- tunnels -----------------------------------------------------------------------------------------------------


def _of_hypervisor(shape: Shape, tunnel: Tunnel, base: int) -> Code:
    """What comes from the tunnel's address: tunnels, and what else the hypervisor says."""
    address = ip_address(tunnel.address)
    number = int(address)
    if address.version == 4:
        arp = [_do(LOAD_WORD + BEHIND_X, 14), *_unless(number, _NONE), *_class(base, CONTROL)]
        mine = [_do(LOAD_WORD + BEHIND_X, 12), *_unless(number, _NONE)]
        code = [_do(LOAD_MEMORY, ETHERTYPE), *_if(IF_EQUAL, ARP, arp), *_unless(IPV4, _NONE), *mine, *_udp4(base)]
    else:
        words = [(8 + 4 * n, number >> (96 - 32 * n) & 0xFFFFFFFF) for n in range(4)]
        mine = [step for at, word in words for step in (_do(LOAD_WORD + BEHIND_X, at), *_unless(word, _NONE))]
        code = [_do(LOAD_MEMORY, ETHERTYPE), *_unless(IPV6, _NONE), *mine, *_udp6(base)]
    own = _class(base, OWN)
    code += [_do(LOAD_HALF + BEHIND_X, 2), *_unless(tunnel.udp_port, own)]
    code += [
        _do(LOAD_WORD + BEHIND_X, 12),
        _do(SHIFT_RIGHT, 8),
        *_if(IF_EQUAL, 0, _class(base, CONTROL)),
        _do(STORE, SEGMENT),
    ]
    if tunnel.type == "vxlan":
        inner = _load(LOAD_HALF + BEHIND_X, 22, HIGH) + _load(LOAD_WORD + BEHIND_X, 24, LOW)
        return code + inner + _by_source(shape.sources, base)
    option = GENEVE_OPTION_CLASS << 16 | GENEVE_OPTION_TYPE << 8 | TUN_OPTION.size // 4
    code += [_do(LOAD_WORD + BEHIND_X, 16), _do(AND, 0xFFFFFF1F), *_unless(option, _NONE)]
    return [*code, _do(LOAD_WORD + BEHIND_X, 20), *_by_key(shape.senders, base)]


def _udp4(base: int) -> Code:
    """X goes to the UDP header of an IPv4 packet; others are the hypervisor's own, and fragments without one."""
    own = _class(base, OWN)
    return [
        _do(LOAD_BYTE + BEHIND_X, 9), *_unless(UDP, own),
        _do(LOAD_HALF + BEHIND_X, 6), *_if(IF_SET, 0x1FFF, own),
        _do(LOAD_BYTE + BEHIND_X, 0), _do(AND, 0xF), _do(SHIFT_LEFT, 2), _do(ADD_X), _do(INDEX_FROM_A),
    ]  # fmt: skip


def _udp6(base: int) -> Code:
    """The same of IPv6; neighbour discovery and the like must get through."""
    return [
        _do(LOAD_BYTE + BEHIND_X, 6), *_if(IF_EQUAL, ICMPV6, _class(base, CONTROL)), *_unless(UDP, _class(base, OWN)),
        _do(TO_A), _do(ADD, 40), _do(INDEX_FROM_A),
    ]  # fmt: skip
