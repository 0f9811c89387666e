"""Flows, groups and meters in a line that people read, in the manner of ovs-ofctl(8), with NovaNet's names.

Such as ``table=2(port_security), priority=100, in_port_key(reg1)=0x5 actions=goto:4(services)``.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from pipelines import fields as f
from pipelines.flow import CONTROLLER, IN_PORT_RESERVED, LOCAL, Copy, Nat
from pipelines.tables import PIPELINE

from .decode import (
    CheckLarger,
    Clone,
    Conjunction,
    Instructions,
    Learn,
    Multipath,
    Output,
    Plain,
    PushVlan,
    Resubmit,
    Set,
    SetQueue,
    Step,
    Steps,
    ToGroup,
    ToMeter,
    Track,
    buckets,
    instructions,
    match_values,
)
from .flows import COOKIE, INSTRUCTIONS, TLVS
from .groups import BAND, KINDS, PACKETS
from .openflow import OF15

_PORTS = {IN_PORT_RESERVED: "in_port", CONTROLLER: "controller", LOCAL: "local"}
_KINDS = {number: kind for kind, number in KINDS.items()}
_SAME_IN_PORT = 0xFFF8


def describe(key: bytes, body: bytes | None = None) -> str:
    """A flow, or of a key alone, what it matches. Raises ValueError when the bytes are cut off."""
    if len(key) < TLVS:
        raise ValueError(f"flow key {key.hex()} is cut off")
    matched = [f"table={_table(key[0])}", f"priority={int.from_bytes(key[1:3], 'big')}"]
    matched += [_assignment(field, value, mask) for field, (value, mask) in match_values(key[TLVS:]).items()]
    if body is None:
        return ", ".join(matched)
    if len(body) < INSTRUCTIONS:
        raise ValueError(f"flow body {body.hex()} is cut off")
    idle, hard = int.from_bytes(body[8:10], "big"), int.from_bytes(body[10:12], "big")
    timeouts = [f"idle_timeout={idle}"] * bool(idle) + [f"hard_timeout={hard}"] * bool(hard)
    head = [f"cookie=0x{body[:COOKIE].hex()}", *timeouts, *matched]
    return f"{', '.join(head)} actions={_actions(instructions(body[INSTRUCTIONS:]))}"


def describe_group(id: int, body: bytes, version: int) -> str:
    """A group in a line. Raises ValueError when the bytes are cut off."""
    if len(body) < 3:
        raise ValueError(f"group body {body.hex()} is cut off")
    each = map(_bucket, buckets(body, version < OF15))
    return ", ".join([f"group={id:#x}", f"type={_KINDS.get(body[0], body[0])}", *each])


def _bucket(bucket: Steps) -> str:
    words = [f"weight:{bucket.weight}"] if bucket.weight else []
    words += [f"watch_port:{bucket.watch_port}"] if bucket.watch_port is not None else []
    words += [f"watch_group:{bucket.watch_group:#x}"] if bucket.watch_group is not None else []
    return f"bucket={','.join([*words, *map(_step, bucket.actions)] if bucket.actions else [*words, 'drop'])}"


def describe_meter(id: int, body: bytes) -> str:
    """A meter in a line. Raises ValueError when the bytes are cut off."""
    if len(body) < 2 or (len(body) - 2) % 16:
        raise ValueError(f"meter body {body.hex()} is cut off")
    unit = "packets/s" if body[1] & PACKETS else "kbit/s"
    bands = [
        f"band type={kind}, rate={rate} {unit}, burst={burst}" for kind, _, rate, burst in BAND.iter_unpack(body[2:])
    ]
    return ", ".join([f"meter={id}", *bands])


def _actions(done: Instructions) -> str:
    words = [] if done.meter is None else [f"meter:{done.meter}"]
    words += map(_step, done.actions)
    words += [f"unknown:{part.raw.hex()}" for part in done.other]
    if done.metadata is not None:
        words.append(_assignment(f.METADATA, *done.metadata, arrow=":"))
    if done.goto is not None:
        words.append(f"goto:{_table(done.goto)}")
    return ",".join(words) or "drop"


def _step(step: Step) -> str:
    match step:
        case Output(port):
            return f"output:{_PORTS.get(port, port)}"
        case ToGroup(id):
            return f"group:{id:#x}"
        case ToMeter(id):
            return f"meter:{id}"
        case Set(field, value, mask):
            return f"set:{_assignment(field, value, mask)}"
        case Copy(source, source_offset, target, target_offset, width):
            return f"copy:{_bits(source, source_offset, width)}->{_bits(target, target_offset, width)}"
        case Resubmit(table, in_port):
            return f"resubmit({'' if in_port == _SAME_IN_PORT else in_port},{_table(table)})"
        case Plain(name):
            return name
        case SetQueue(number):
            return f"set_queue:{number}"
        case PushVlan(tpid):
            return f"push_vlan:{tpid:#x}"
        case CheckLarger(size, field, offset):
            return f"check_pkt_larger({size})->{_bits(field, offset, 1)}"
        case Multipath(fields, basis, algorithm, links, arg, target):
            part = _bits(target.field, target.offset, target.width)
            return f"multipath({fields},{basis},{algorithm},{links},{arg},{part})"
        case Conjunction(id, clause, clauses):
            return f"conjunction({id:#x},{clause}/{clauses})"
        case Learn(table, cookie, idle_timeout, limit):
            return f"learn({_table(table)},cookie={cookie:#x},idle_timeout={idle_timeout},limit={limit})"
        case Clone(actions):
            return f"clone({','.join(map(_step, actions))})"
        case Track():
            return _track(step)
        case Nat():
            return _nat(step)
        case _:
            return f"unknown:{step.raw.hex()}"


def _track(step: Track) -> str:
    zone = step.zone if isinstance(step.zone, int) else _bits(step.zone.field, step.zone.offset, step.zone.width)
    words = [word for word, wanted in (("commit", step.commit), ("force", step.force)) if wanted]
    words += [] if step.table is None else [f"table={_table(step.table)}"]
    words += [f"zone={zone}"] if zone else []
    words += [_nat(each) for each in step.actions if isinstance(each, Nat)]
    done = ",".join(_step(each) for each in step.actions if not isinstance(each, Nat))
    words += [f"exec({done})"] if done else []
    return f"ct({','.join(words)})"


def _nat(nat: Nat) -> str:
    if nat.kind is None:
        return "nat"
    address = _IP[nat.version]
    shown = str(address(nat.first)) if nat.last is None else f"{address(nat.first)}-{address(nat.last)}"
    if nat.ports is not None:
        low, high = nat.ports
        shown = f"[{shown}]" if nat.version == 6 else shown
        shown += f":{low}" if low == high else f":{low}-{high}"
    flags = [name for name in ("persistent", "hash", "random") if getattr(nat, name)]
    return f"nat({','.join([f'{nat.kind}={shown}', *flags])})"


def _table(number: int) -> str:
    return f"{number}({PIPELINE[number].name})" if number < len(PIPELINE) else str(number)


def _name(field: f.Field) -> str:
    purpose = f.PURPOSES.get((field.oxm_class, field.field))
    return f"{purpose}({field.name})" if purpose else field.name


def _bits(field: f.Field, offset: int, width: int) -> str:
    if offset == 0 and width == field.bits.width:
        return _name(field)
    return f"{_name(field)}[{offset}]" if width == 1 else f"{_name(field)}[{offset}..{offset + width - 1}]"


def _assignment(field: f.Field, value: int, mask: int, arrow: str = "=") -> str:
    if field in _FLAGS:
        names = [
            f"{'+' if value >> bit & 1 else '-'}{name}" for bit, name in enumerate(_FLAGS[field]) if mask >> bit & 1
        ]
        return f"{_name(field)}{arrow}{''.join(names)}"
    if field is f.IP_FRAG:
        return f"{_name(field)}{arrow}{_FRAGMENTS.get((value, mask), f'{value}/{mask}')}"
    shown = _value(field, value)
    return (
        f"{_name(field)}{arrow}{shown}" if mask == field.ones else f"{_name(field)}{arrow}{shown}/{_value(field, mask)}"
    )


_FLAGS = {
    f.CT_STATE: ("new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"),
    f.TCP_FLAGS: ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]"),
}
"""Names of bits, from the lowest on."""
_FRAGMENTS = {
    (0, 3): "no",
    (1, 3): "first",
    (3, 3): "later",
    (1, 1): "yes",
    (0, 1): "no",
    (2, 2): "later",
    (0, 2): "not_later",
}
_IP = {4: IPv4Address, 6: IPv6Address}
_IPV4 = {f.IPV4_SRC, f.IPV4_DST, f.ARP_SPA, f.ARP_TPA, f.TUN_SRC, f.TUN_DST, f.CT_NW_SRC, f.CT_NW_DST}
_IPV6 = {
    f.IPV6_SRC, f.IPV6_DST, f.ND_TARGET, f.TUN_IPV6_SRC, f.TUN_IPV6_DST, f.CT_IPV6_SRC, f.CT_IPV6_DST, f.NEXT_HOP6,
}  # fmt: skip
_MAC = {f.ETH_SRC, f.ETH_DST, f.ARP_SHA, f.ARP_THA, f.ND_SLL, f.ND_TLL}
_DECIMAL = {
    f.IN_PORT, f.IP_PROTO, f.TCP_SRC, f.TCP_DST, f.UDP_SRC, f.UDP_DST, f.ARP_OP, f.ICMPV6_TYPE, f.ICMPV6_CODE, f.IP_TTL,
    f.ICMPV4_TYPE, f.ICMPV4_CODE, f.IP_DSCP, f.CT_ZONE, f.CT_NW_PROTO, f.CT_TP_SRC, f.CT_TP_DST,
}  # fmt: skip


def _value(field: f.Field, value: int) -> str:
    if field in _MAC:
        return value.to_bytes(6, "big").hex(":")
    if field in _IPV4:
        return str(IPv4Address(value))
    if field in _IPV6:
        return str(IPv6Address(value))
    return str(value) if field in _DECIMAL else f"{value:#x}"
