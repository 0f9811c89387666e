"""Connections and their translation: what conntrack does with the packets of one trace (ovs-actions(7), ``ct``).

No timeouts, and every checksum is right. Ports are kept as they are where a range is free to choose from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipelines import fields as f
from pipelines.flow import Nat
from pipelines.wire.decode import Set, Track
from pipelines.wire.decode import Step as Action

from .packets import PORTS, Packet, addresses, untracked, write

Tuple = tuple[int, int, int, int, int]
"""Protocol, source, source port, destination, destination port. Of ICMP both ports are the type of the request."""
_REQUESTS = {f.ICMP: {8: 8, 0: 8, 13: 13, 14: 13, 15: 15, 16: 15}, f.ICMPV6: {128: 128, 129: 128}}
"""ICMP type -> type of the request, of those that begin or answer a connection."""
_TYPES = {f.ICMP: (f.ICMPV4_TYPE, f.ICMPV4_CODE), f.ICMPV6: (f.ICMPV6_TYPE, f.ICMPV6_CODE)}
_SYN_ACK = 0x12
_TRANSLATED = f.CT_SNAT | f.CT_DNAT


@dataclass
class Connection:
    """One that was committed: as it began, and as it is after its translation."""

    original: Tuple
    becomes: Tuple
    nat: str | None
    """``src``, ``dst`` or None: how it is translated."""
    began: Packet
    """CT_* fields that tell how it began."""
    mark: int = 0
    label: int = 0
    answered: bool = False


class Connections:
    """What a switch remembers, by zone."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, Tuple], tuple[Connection, bool]] = {}

    def __len__(self) -> int:
        """How many there are, counted once for each direction."""
        return len(self._known)

    def track(self, packet: Packet, zone: int, step: Track) -> Packet:
        """The packet as it goes on: tracked, and translated where the action says so."""
        there = dict(packet)
        untracked(there)
        there[f.CT_ZONE] = zone
        was = tuple_of(packet)
        connection, reply = self._known.get((zone, was), (None, False)) if was is not None else (None, False)
        if was is None or (connection is None and not _may_begin(packet)):
            there[f.CT_STATE] = f.CT_TRACKED | f.CT_INVALID
            return there
        nat = next((action for action in step.actions if isinstance(action, Nat)), None)
        if connection is None:
            state, began = f.CT_NEW, _beginning(packet)
            if step.commit:
                connection = self._commit(zone, was, nat, began)
        else:
            connection.answered |= reply
            began = connection.began
            state = (f.CT_ESTABLISHED if connection.answered else f.CT_NEW) | (f.CT_REPLY if reply else 0)
        there |= began
        if connection is not None:
            if step.commit:
                _execute(connection, step.actions)
            there[f.CT_MARK], there[f.CT_LABEL] = connection.mark, connection.label
            again = packet.get(f.CT_STATE, 0) & _TRANSLATED and packet.get(f.CT_ZONE) == zone
            if nat is not None and connection.nat is not None and not again:
                _put(there, _turned(connection.original) if reply else connection.becomes)
                state |= f.CT_SNAT if (connection.nat == "src") != reply else f.CT_DNAT
        there[f.CT_STATE] = f.CT_TRACKED | state
        return there

    def _commit(self, zone: int, was: Tuple, nat: Nat | None, began: Packet) -> Connection:
        kind = nat.kind if nat is not None else None
        made = Connection(was, _translated(was, nat), kind, began)
        self._known[zone, was] = made, False
        self._known[zone, _turned(made.becomes)] = made, True
        return made


def tuple_of(packet: Packet) -> Tuple | None:
    """What connection a packet belongs to; None where conntrack cannot tell, such as of an ICMP error on its own."""
    source, destination = addresses(packet)
    protocol = packet.get(f.IP_PROTO, 0)
    sport = dport = 0
    if protocol in PORTS:
        sport, dport = (packet.get(field, 0) for field in PORTS[protocol])
    elif protocol in _TYPES:
        request = _REQUESTS[protocol].get(packet.get(_TYPES[protocol][0], 0))
        if request is None:
            return None
        sport = dport = request
    return protocol, packet.get(source, 0), sport, packet.get(destination, 0), dport


def _may_begin(packet: Packet) -> bool:
    """Whether a connection may begin with the packet: no answer does."""
    protocol = packet.get(f.IP_PROTO, 0)
    if protocol == f.TCP:
        return packet.get(f.TCP_FLAGS, 0) & _SYN_ACK != _SYN_ACK
    if protocol in _TYPES:
        kind = packet.get(_TYPES[protocol][0], 0)
        return _REQUESTS[protocol].get(kind) == kind
    return True


def _beginning(packet: Packet) -> Packet:
    """The CT_* fields of a connection that begins with this packet."""
    protocol = packet.get(f.IP_PROTO, 0)
    source, destination = addresses(packet)
    to = (f.CT_IPV6_SRC, f.CT_IPV6_DST) if source is f.IPV6_SRC else (f.CT_NW_SRC, f.CT_NW_DST)
    began = {f.CT_NW_PROTO: protocol, to[0]: packet.get(source, 0), to[1]: packet.get(destination, 0)}
    ends = PORTS.get(protocol) or _TYPES.get(protocol)
    if ends is not None:
        began |= {f.CT_TP_SRC: packet.get(ends[0], 0), f.CT_TP_DST: packet.get(ends[1], 0)}
    return began


def _execute(connection: Connection, actions: Iterable[Action]) -> None:
    """Set the connection's mark and label."""
    fields = {f.CT_MARK: connection.mark, f.CT_LABEL: connection.label}
    for action in actions:
        if isinstance(action, Set) and action.field in fields:
            value = fields[action.field] & ~action.mask | action.value & action.mask
            write(fields, action.field, 0, 8 * action.field.size, value)
    connection.mark, connection.label = fields[f.CT_MARK], fields[f.CT_LABEL]


def _put(packet: Packet, to: Tuple) -> None:
    source, destination = addresses(packet)
    packet[source], packet[destination] = to[1], to[3]
    ports = PORTS.get(to[0])
    if ports:
        packet[ports[0]], packet[ports[1]] = to[2], to[4]


def _turned(packet: Tuple) -> Tuple:
    protocol, source, sport, destination, dport = packet
    return protocol, destination, dport, source, sport


def _translated(packet: Tuple, nat: Nat | None) -> Tuple:
    protocol, source, sport, destination, dport = packet
    if nat is None or nat.kind is None:
        return packet
    if nat.kind == "src":
        return protocol, nat.first, sport, destination, dport
    return protocol, source, sport, nat.first, nat.ports[0] if nat.ports else dport
