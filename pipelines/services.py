"""What a network does for its VMs: address resolution, and the way to what the controller answers.

ARP requests (RFC 826) and neighbour solicitations (RFC 4861) are turned into their replies by the switch itself, so VMs
find each other while no controller runs. DHCP, router solicitations and DNS go to the controller.
"""

from __future__ import annotations

from collections.abc import Iterator

from topology.graph import Topology

from . import fields as f
from . import tables as t
from .addresses import addresses_of
from .flow import IN_PORT_RESERVED, Action, Flow, Rule, copy, match, output, resubmit, set_bits, set_field
from .placement import Placed, live_vni
from .punting import Reason, punt

OWN, ANSWER, ASK, RESOLVER_ONLY = 200, 100, 90, 80
TO_NOBODY = 150

REQUEST, REPLY = 1, 2
RS, NS, NA = 133, 135, 136
SOLICITED_OVERRIDE = 0x60000000
"""Flags of an advertisement: solicited, override (RFC 4861 section 4.4)."""
UNSOLICITED_OVERRIDE = 0x20000000
ROUTER_FLAG = f.Bits(f.ND_RESERVED, 31, 1)
ALL_NODES, ALL_NODES_MAC = f.ip("ff02::1"), f.mac("33:33:00:00:00:01")
TARGET_LINK_LAYER = 2

SERVICE_MAC = f.mac("02:4e:56:ff:ff:fe")
"""Who answers for the service addresses, in every network."""
DHCP_SERVER = f.ip("169.254.169.254")
"""Server identifier of subnets without a gateway."""
RESOLVER, RESOLVER6 = f.ip("169.254.169.253"), f.ip("fd00:4e4e::53")
"""NovaNet's own DNS resolver."""

_SEND_BACK = output(IN_PORT_RESERVED)
TO_WIRE = (set_field(f.INGRESS, f.NO_PORT), resubmit(t.PROVIDER_OUTPUT.number))
"""Back to a physical network, with the tag that it has there."""
ARP_REQUEST = (f.ETH_TYPE(f.ARP), f.ARP_OP(REQUEST))
ICMPV6 = (f.ETH_TYPE(f.IPV6), f.IP_PROTO(f.ICMPV6))
SOLICITATION = (*ICMPV6, f.ICMPV6_TYPE(NS))
_UDP = (f.IP_PROTO(f.UDP),)


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """The second half of every advertisement: what may be set only once the packet is one."""
    for origin, back in ((f.FROM_PROVIDER(0), (_SEND_BACK,)), (f.FROM_PROVIDER(1), TO_WIRE)):
        yield from _complete(origin, back)
    yield answer_arp(None, DHCP_SERVER, SERVICE_MAC)
    yield answer_arp(None, RESOLVER, SERVICE_MAC)
    yield answer_nd(None, RESOLVER6, SERVICE_MAC)
    for resolver in ((f.ETH_TYPE(f.IPV4), f.IPV4_DST(RESOLVER)), (f.ETH_TYPE(f.IPV6), f.IPV6_DST(RESOLVER6))):
        yield _ask(Reason.DNS, *resolver, f.IP_PROTO(f.UDP), f.UDP_DST(53))
        yield Flow(
            t.SERVICES.number, RESOLVER_ONLY, match(*resolver), reason="the resolver speaks DNS over UDP, nothing else"
        )


def _complete(origin: bytes, back: tuple[Action, ...]) -> Iterator[Flow]:
    yield Flow(
        t.ND_REPLY.number,
        ANSWER,
        match(origin, *ICMPV6, f.ICMPV6_TYPE(NA)),
        (
            set_field(f.ND_OPTIONS_TYPE, TARGET_LINK_LAYER),
            set_field(f.ND_RESERVED, SOLICITED_OVERRIDE),
            copy(f.AS_ROUTER, ROUTER_FLAG),
            copy(f.ETH_SRC, f.ND_TLL),
            *back,
        ),
    )
    yield Flow(
        t.ND_REPLY.number,
        TO_NOBODY,
        match(origin, *ICMPV6, f.ICMPV6_TYPE(NA), f.IPV6_DST(0)),
        (
            set_field(f.IPV6_DST, ALL_NODES),  # who asked has no address yet (section 7.2.4)
            set_field(f.ETH_DST, ALL_NODES_MAC),
            set_field(f.ND_RESERVED, UNSOLICITED_OVERRIDE),
            copy(f.AS_ROUTER, ROUTER_FLAG),
            *back,
        ),
    )


def network(topology: Topology, hypervisor: str, network_id: str) -> Iterator[Rule]:
    """The way to the controller for VMs that ask for their addresses, where NovaNet gives them."""
    vni = live_vni(topology, network_id)
    if vni is None or hypervisor not in topology.hypervisors_of(network_id):
        return
    subnets = (topology.get("subnet", id) for id in topology.subnets_of(network_id))
    versions = {subnet.ip_version for subnet in subnets if subnet.enable_dhcp}
    if 4 in versions:
        yield _ask(Reason.DHCPV4, f.NETWORK(vni), f.ETH_TYPE(f.IPV4), *_UDP, f.UDP_SRC(68), f.UDP_DST(67))
    if 6 in versions:
        yield _ask(Reason.DHCPV6, f.NETWORK(vni), f.ETH_TYPE(f.IPV6), *_UDP, f.UDP_SRC(546), f.UDP_DST(547))
        yield _ask(Reason.ROUTER_SOLICITATION, f.NETWORK(vni), *ICMPV6, f.ICMPV6_TYPE(RS))


def _ask(reason: Reason, *tlvs: bytes) -> Flow:
    return Flow(t.SERVICES.number, ASK, match(*tlvs), punt(reason), goto=t.PUNT.number)


def port(topology: Topology, hypervisor: str, found: Placed) -> Iterator[Rule]:
    """The answers for a port's addresses, on every hypervisor that has its network."""
    if not found.met:
        return
    addresses = addresses_of(found.port)
    for address in addresses.v4:
        yield answer_arp(found.vni, address, addresses.mac)
        if found.here:
            yield _announce(found.key, *ARP_REQUEST, f.ARP_TPA(address))
    for address in addresses.v6:
        yield answer_nd(found.vni, address, addresses.mac)
        if found.here:
            yield _announce(found.key, *SOLICITATION, f.ND_TARGET(address))


def _announce(port_key: int, *asked: bytes) -> Flow:
    """A port that asks for its own address announces itself or looks for duplicates: that is for the network."""
    return Flow(t.SERVICES.number, OWN, match(f.IN_PORT_KEY(port_key), *asked), goto=t.ROUTER_ADMIT.number)


def _in(vni: int | None) -> tuple[bytes, ...]:
    """The match on a network; None is every network."""
    return () if vni is None else (f.NETWORK(vni),)


def answer_arp(vni: int | None, address: int, mac: int, *tlvs: bytes, table: t.Table = t.SERVICES) -> Flow:
    """The flow that answers an ARP request for an address; ``tlvs`` say which ones beside."""
    return Flow(
        table.number,
        ANSWER,
        match(*_in(vni), *ARP_REQUEST, f.ARP_TPA(address), *tlvs),
        (
            copy(f.ETH_SRC, f.ETH_DST),
            set_field(f.ETH_SRC, mac),
            set_field(f.ARP_OP, REPLY),
            copy(f.ARP_SHA, f.ARP_THA),
            set_field(f.ARP_SHA, mac),
            copy(f.ARP_SPA, f.ARP_TPA),
            set_field(f.ARP_SPA, address),
            *((_SEND_BACK,) if table is t.SERVICES else TO_WIRE),
        ),
    )


def answer_nd(
    vni: int | None, address: int, mac: int, *tlvs: bytes, table: t.Table = t.SERVICES, router: bool = False
) -> Flow:
    """The flow that answers a neighbour solicitation for an address, of a host or a router.

    ``tlvs`` say which solicitations beside.
    """
    return Flow(
        table.number,
        ANSWER,
        match(*_in(vni), *SOLICITATION, f.ND_TARGET(address), *tlvs),
        (
            copy(f.ETH_SRC, f.ETH_DST),
            set_field(f.ETH_SRC, mac),
            copy(f.IPV6_SRC, f.IPV6_DST),
            set_field(f.IPV6_SRC, address),
            set_field(f.ICMPV6_TYPE, NA),
            *((set_bits(f.AS_ROUTER, 1),) if router else ()),
        ),
        goto=t.ND_REPLY.number,
    )
