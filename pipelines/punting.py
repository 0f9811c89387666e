"""Packets that cost more than others: those for the controller, and questions for neighbours. How many a VM may send.

A VM's packets are metered by the port that they come from, so that one VM cannot keep the controller from serving the
others; a second meter holds what a whole bridge sends. Meters work in the datapath: what is too much costs no upcall.

An answer to ARP or neighbour discovery is made by vswitchd, not by the datapath (OVS calls it the slow path), and every
address asked for takes a datapath flow of its own. So such questions are metered where they come in, and only then
looked at: the group that they go to makes the datapath begin anew with what the meter has let through.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from topology.graph import Topology

from . import fields as f
from . import tables as t
from .flow import (
    CONTROLLER,
    Action,
    Bucket,
    Flow,
    Group,
    Meter,
    Rule,
    group,
    match,
    output,
    resubmit,
    set_bits,
    set_field,
)
from .placement import Placed

METERED = 100
TO_LOG = 200
ASKED, QUESTION = 120, 110
"""In table ``classify``: above that of the port that the question comes from."""

SOLICITATION = 135
"""ICMPv6 type of a neighbour solicitation (RFC 4861)."""

WHOLE = 0xFFFF
"""OFPCML_NO_BUFFER: the packet is sent in full."""

PORT_RATE, PORT_BURST = 100, 100
"""Packets a second, and at once, that one VM may have the controller look at."""
BRIDGE_RATE, BRIDGE_BURST = 2000, 1000
"""The same for all of a bridge."""
OTHERS_METER, BRIDGE_METER = 65280, 65281
"""Meters of what no VM of the bridge sent, and of the whole bridge; a VM's has the number of its OpenFlow port."""
QUESTION_RATE, QUESTION_BURST = 500, 500
"""ARP packets and neighbour solicitations a second, and at once, that one VM may send."""
QUESTION_METERS = 1 << 16
"""Meters of those: + the number of the OpenFlow port."""
LOG_RATE, LOG_BURST = 20, 100
"""Connections a second, and at once, that one rule may have logged on a bridge."""
LOG_METERS = 1 << 17
"""Meters of those: + the lower 16 bits of the rule's key."""
ALL_LOGS_RATE, ALL_LOGS_BURST = 200, 400
"""The same for all rules together; such packets do not count for the other meters."""
ALL_LOGS_METER = 65282
LOGGED_BYTES = 256
"""Of a packet to be logged, enough for its headers."""
BEGIN_ANEW = 0xFD000000
"""The group of questions that their meter has let through."""


class Reason(IntEnum):
    """Why a packet goes to the controller; stands in the register ``PUNT``."""

    DHCPV4 = 1
    DHCPV6 = 2
    ROUTER_SOLICITATION = 3
    DNS = 4
    MULTICAST_MEMBERSHIP = 5
    TTL_EXCEEDED = 6
    NO_ROUTE = 7
    HOST_UNREACHABLE = 8
    PORT_UNREACHABLE = 9
    TOO_BIG = 10
    RESOLVE = 11
    """The next hop's MAC address outside is unknown."""
    NEIGHBOUR = 12
    """A host outside told its MAC address."""
    POLICY_LOG = 13
    """A copy of a packet that a rule of a security group allowed, or the packet that it denied, to be logged."""
    MEMBER_GONE = 14
    """A TCP connection with a load balancer whose member is gone: it is reset."""
    ANOTHER_MEMBER = 15
    """The same of a packet with which one may begin: it gets another member."""


def punt(reason: Reason) -> tuple[Action, ...]:
    """The actions of a flow that then goes to table ``punt``."""
    return (set_field(f.PUNT, int(reason)),)


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """The bridge's meters, the way to the controller, and the way of questions from their meter on.

    A group of type ``select`` chooses by the hash of the packet, for which the datapath recirculates it, even to the
    only bucket there is.
    """
    yield Group(BEGIN_ANEW, "select", (Bucket((resubmit(t.LIMIT.number),), weight=1),))
    yield Meter(OTHERS_METER, BRIDGE_RATE, BRIDGE_BURST, packets=True)
    yield Meter(BRIDGE_METER, BRIDGE_RATE, BRIDGE_BURST, packets=True)
    for question in ((f.ETH_TYPE(f.ARP),), (f.ETH_TYPE(f.IPV6), f.IP_PROTO(f.ICMPV6), f.ICMPV6_TYPE(SOLICITATION))):
        again = set_bits(f.ASKS, 1), resubmit(t.CLASSIFY.number)
        yield Flow(t.CLASSIFY.number, QUESTION, match(f.ASKS(0), *question), again)
    yield Flow(t.PUNT.number, METERED, match(f.IN_PORT_KEY(0)), goto=t.TO_CONTROLLER.number, meter=OTHERS_METER)
    yield Flow(t.TO_CONTROLLER.number, METERED, b"", (output(CONTROLLER, WHOLE),), meter=BRIDGE_METER)
    yield Meter(ALL_LOGS_METER, ALL_LOGS_RATE, ALL_LOGS_BURST, packets=True)
    to_log = match(f.PUNT(int(Reason.POLICY_LOG)))
    yield Flow(t.TO_CONTROLLER.number, TO_LOG, to_log, (output(CONTROLLER, LOGGED_BYTES),), meter=ALL_LOGS_METER)


def port(topology: Topology, hypervisor: str, found: Placed) -> Iterator[Rule]:
    """The meters of a VM that is plugged here."""
    if found.ofport is None:
        return
    yield Meter(found.ofport, PORT_RATE, PORT_BURST, packets=True)
    yield Flow(t.PUNT.number, METERED, match(f.IN_PORT_KEY(found.key)), goto=t.TO_CONTROLLER.number, meter=found.ofport)
    yield Meter(QUESTION_METERS | found.ofport, QUESTION_RATE, QUESTION_BURST, packets=True)
    yield Flow(
        t.CLASSIFY.number,
        ASKED,
        match(f.IN_PORT(found.ofport), f.ASKS(1)),
        (set_field(f.IN_PORT_KEY, found.key), set_field(f.NETWORK, found.vni), group(BEGIN_ANEW)),
        meter=QUESTION_METERS | found.ofport,
    )
