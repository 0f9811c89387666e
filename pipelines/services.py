"""Address resolution answered where it is asked: ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861).

The switch itself turns a request into its reply, so VMs find each other while no controller runs.
"""

from __future__ import annotations

from collections.abc import Iterator

from topology.graph import Topology

from . import fields as f
from . import tables as t
from .addresses import addresses_of
from .flow import IN_PORT_RESERVED, Flow, Rule, copy, match, output, set_field
from .placement import placed

OWN, ANSWER = 200, 100

REQUEST, REPLY = 1, 2
NS, NA = 135, 136
SOLICITED_OVERRIDE = 0x60000000
"""Flags of an advertisement: not a router, solicited, override (RFC 4861 section 4.4)."""
TARGET_LINK_LAYER = 2

_SEND_BACK = output(IN_PORT_RESERVED)
_ARP_REQUEST = (f.ETH_TYPE(f.ARP), f.ARP_OP(REQUEST))
_SOLICITATION = (f.ETH_TYPE(f.IPV6), f.IP_PROTO(f.ICMPV6), f.ICMPV6_TYPE(NS))


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """The second half of every advertisement: what may be set only once the packet is one."""
    yield Flow(
        t.ND_REPLY.number,
        ANSWER,
        match(f.ETH_TYPE(f.IPV6), f.IP_PROTO(f.ICMPV6), f.ICMPV6_TYPE(NA)),
        (
            set_field(f.ND_OPTIONS_TYPE, TARGET_LINK_LAYER),
            set_field(f.ND_RESERVED, SOLICITED_OVERRIDE),
            copy(f.ETH_SRC, f.ND_TLL),
            _SEND_BACK,
        ),
    )


def port(topology: Topology, hypervisor: str, port_id: str) -> Iterator[Rule]:
    """The answers for a port's addresses, on every hypervisor that has its network."""
    found = placed(topology, hypervisor, port_id)
    if found is None:
        return
    addresses = addresses_of(found.port)
    for address in addresses.v4:
        yield _answer_arp(found.vni, address, addresses.mac)
        if found.here:
            yield _announce(found.key, *_ARP_REQUEST, f.ARP_TPA(address))
    for address in addresses.v6:
        yield _answer_nd(found.vni, address, addresses.mac)
        if found.here:
            yield _announce(found.key, *_SOLICITATION, f.ND_TARGET(address))


def _announce(port_key: int, *asked: bytes) -> Flow:
    """A port that asks for its own address announces itself or looks for duplicates: that is for the network."""
    return Flow(t.SERVICES.number, OWN, match(f.IN_PORT_KEY(port_key), *asked), goto=t.L2_LOOKUP.number)


def _answer_arp(vni: int, address: int, mac: int) -> Flow:
    return Flow(
        t.SERVICES.number,
        ANSWER,
        match(f.NETWORK(vni), *_ARP_REQUEST, f.ARP_TPA(address)),
        (
            copy(f.ETH_SRC, f.ETH_DST),
            set_field(f.ETH_SRC, mac),
            set_field(f.ARP_OP, REPLY),
            copy(f.ARP_SHA, f.ARP_THA),
            set_field(f.ARP_SHA, mac),
            copy(f.ARP_SPA, f.ARP_TPA),
            set_field(f.ARP_SPA, address),
            _SEND_BACK,
        ),
    )


def _answer_nd(vni: int, address: int, mac: int) -> Flow:
    return Flow(
        t.SERVICES.number,
        ANSWER,
        match(f.NETWORK(vni), *_SOLICITATION, f.ND_TARGET(address)),
        (
            copy(f.ETH_SRC, f.ETH_DST),
            set_field(f.ETH_SRC, mac),
            copy(f.IPV6_SRC, f.IPV6_DST),
            set_field(f.IPV6_SRC, address),
            set_field(f.ICMPV6_TYPE, NA),
        ),
        goto=t.ND_REPLY.number,
    )
