"""The interpreter with connections and their translation: as much of conntrack as it takes to test NAT.

No timeouts, no states of TCP, no ICMP errors, and every packet is valid; ports are kept as they are.
"""

from __future__ import annotations

from typing import Any

from pipelines import fields as f
from pipelines.flow import Nat
from pipelines.wire.decode import Track
from tests.interpreter import Interpreter, Outcome, Packet

Tuple = tuple[int, int, int, int, int]
"""Protocol, source, source port, destination, destination port."""
Connections = dict[tuple[int, Tuple], tuple[Tuple, bool]]
"""(zone, packet) -> what becomes of it, and whether it is of the answering side."""
_PORTS = {f.TCP: (f.TCP_SRC, f.TCP_DST), f.UDP: (f.UDP_SRC, f.UDP_DST)}
_TRANSLATED = 0xC0
"""+snat or +dnat."""


class Tracking(Interpreter):
    """A switch whose ``connections`` may be shared by what it is after its flows have changed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.connections: Connections = {}

    def _track(self, step: Track, packet: Packet, outcome: Outcome, depth: int) -> None:
        assert isinstance(step.zone, int)
        assert not packet.get(f.CT_STATE, 0) & _TRANSLATED, "a zone does not translate a packet twice"
        nat = next((action for action in step.actions if isinstance(action, Nat)), None)
        there = dict(packet)
        was = _tuple(there)
        becomes, reply = self.connections.get((step.zone, was), (None, False))
        state = f.CT_TRACKED | (f.CT_NEW if becomes is None else f.CT_ESTABLISHED) | (f.CT_REPLY if reply else 0)
        if becomes is None:
            becomes = was
            if step.commit:
                becomes = _translated(was, nat)
                self.connections[step.zone, was] = becomes, False
                self.connections[step.zone, _turned(becomes)] = _turned(was), True
        if nat is not None and becomes != was:
            _put(there, becomes)
            state |= f.CT_SNAT if becomes[1] != was[1] else f.CT_DNAT
        there[f.CT_STATE] = state
        if step.table is not None:
            self._lookup(step.table, there, outcome, depth + 1)


def _tuple(packet: Packet) -> Tuple:
    source, destination = _addresses(packet)
    protocol = packet.get(f.IP_PROTO, 0)
    ports = _PORTS.get(protocol)
    sport, dport = (packet.get(ports[0], 0), packet.get(ports[1], 0)) if ports else (0, 0)
    return protocol, packet.get(source, 0), sport, packet.get(destination, 0), dport


def _put(packet: Packet, to: Tuple) -> None:
    source, destination = _addresses(packet)
    packet[source], packet[destination] = to[1], to[3]
    ports = _PORTS.get(to[0])
    if ports:
        packet[ports[0]], packet[ports[1]] = to[2], to[4]


def _addresses(packet: Packet) -> tuple[f.Field, f.Field]:
    six = packet.get(f.ETH_TYPE) == f.IPV6
    return (f.IPV6_SRC, f.IPV6_DST) if six else (f.IPV4_SRC, f.IPV4_DST)


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
