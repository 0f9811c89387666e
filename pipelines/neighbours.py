"""Hosts outside: the MAC addresses of next hops on a provider network (ARP, RFC 826; neighbour discovery, RFC 4861).

A packet for a next hop that is unknown goes to the controller, which asks for it. What it learns is in the intent store
and so in every switch that is wired to the network; a message that says otherwise goes to the controller again.
"""

from __future__ import annotations

from collections.abc import Iterator

from topology.graph import Topology
from topology.model import Neighbour, Network

from . import fields as f
from . import tables as t
from .flow import Flow, Rule, match, resubmit, set_bits, set_field
from .placement import live_vni
from .punting import Reason, punt
from .services import ICMPV6, NA, REPLY

# priorities, a band for each table
SAYS_SO, SAYS_OTHERWISE, ANSWER = 300, 290, 160
KNOWN, UNKNOWN = 150, 50


def next_hop(text: str) -> tuple[bytes, ...]:
    """The match on a next hop."""
    address = f.ip(text)
    if ":" in text:
        return f.ETH_TYPE(f.IPV6), f.NEXT_HOP6(address)
    return f.ETH_TYPE(f.IPV4), f.NEXT_HOP(address)


def network(topology: Topology, hypervisor: str, network_id: str) -> Iterator[Rule]:
    """Next hops outside whose MAC address nobody knows yet."""
    found: Network | None = topology.get("network", network_id)
    vni = live_vni(topology, network_id)
    if vni is None or found is None or not found.external or hypervisor not in topology.wired_to(network_id):
        return
    for ethertype in (f.IPV4, f.IPV6):
        unknown = match(f.NETWORK(vni), f.ETH_TYPE(ethertype))
        yield Flow(t.NEIGHBOUR.number, UNKNOWN, unknown, punt(Reason.RESOLVE), goto=t.PUNT.number)


def learn(vni: int, mac: int) -> Iterator[Flow]:
    """Answers to the controller's questions, which it asks in the name of this MAC address."""
    for answer in ((f.ETH_TYPE(f.ARP), f.ARP_OP(REPLY)), (*ICMPV6, f.ICMPV6_TYPE(NA))):
        told = match(f.NETWORK(vni), f.ETH_DST(mac), *answer)
        yield Flow(t.PROVIDER_ADMIT.number, ANSWER, told, punt(Reason.NEIGHBOUR), goto=t.PUNT.number)


def neighbour(topology: Topology, hypervisor: str, neighbour_id: str) -> Iterator[Rule]:
    """A host outside whose MAC address is known: how to send to it, and what shows that it has another one now."""
    found: Neighbour | None = topology.get("neighbour", neighbour_id)
    vni = live_vni(topology, found.network_id) if found is not None else None
    if found is None or vni is None or hypervisor not in topology.wired_to(found.network_id):
        return
    address, mac = f.ip(found.ip_address), f.mac(found.mac_address)
    to = match(f.NETWORK(vni), *next_hop(found.ip_address))
    yield Flow(t.NEIGHBOUR.number, KNOWN, to, (set_field(f.ETH_DST, mac),), goto=t.L2_LOOKUP.number)
    if not found.learned:
        return
    speaks: tuple[bytes, ...]
    if ":" in found.ip_address:
        speaks, so = (*ICMPV6, f.ICMPV6_TYPE(NA), f.ND_TARGET(address)), f.ND_TLL(mac)
    else:
        speaks, so = (f.ETH_TYPE(f.ARP), f.ARP_SPA(address)), f.ARP_SHA(mac)
    unmet = f.NETWORK(vni), f.MET(0), *speaks
    met = set_bits(f.MET, 1), resubmit(t.PROVIDER_ADMIT.number)
    tell = *punt(Reason.NEIGHBOUR), resubmit(t.PUNT.number)
    yield Flow(t.PROVIDER_ADMIT.number, SAYS_SO, match(*unmet, so), met)
    yield Flow(t.PROVIDER_ADMIT.number, SAYS_OTHERWISE, match(*unmet), (*tell, *met))
