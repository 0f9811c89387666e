"""The way outside: which hypervisor is a router's gateway, and how packets for the outside get there.

A router's gateway is the best of a few hypervisors that is alive. Hypervisors watch each other by BFD (RFC 5880), and the
switches choose by fast-failover groups whose buckets watch those probes, so that nobody has to be asked when one dies:

- leaving packets go unrouted to the best gateway that is alive (``gateway_redirect``);
- a gateway is active when no better one is alive, and it can see somebody: who sees nobody has lost the underlay, and would
  only disturb the one that has taken over;
- a gateway that is not active hands on what others send to it, answers nobody outside, and takes nothing from there but
  packets of connections that it knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from topology.graph import Topology
from topology.model import Link, Network, Port, Router
from topology.mtu import network_mtu

from . import fields as f
from . import tables as t
from .flow import (
    ALIVE,
    Action,
    Bucket,
    Flow,
    Group,
    Nat,
    Rule,
    check_pkt_larger,
    conntrack,
    ct_clear,
    dec_ttl,
    group,
    match,
    resubmit,
    set_bits,
    set_field,
)
from .neighbours import learn, next_hop
from .placement import has_router, live_vni
from .routers import FAMILIES
from .routing import ETHERNET, FORGET_ORIGIN
from .services import ARP_REQUEST, SOLICITATION, answer_arp, answer_nd

# priorities, a band for each table
HERE, SENT_HERE, REDIRECT = 200, 150, 100
AS_GATEWAY, FROM_PEER, ENTER = 100, 95, 90
ASK_WHETHER_ACTIVE, CONNECTIONS, ADMIT, UNTRACKED, FOR_ROUTER = 400, 120, 98, 95, 90
TO_ROUTER = 100
OWN_ADDRESS = 200

REDIRECT_GROUPS, RELAY_GROUPS, ACTIVE_GROUPS, ENTER_GROUPS = (0xFE000000 | n << 16 for n in range(4))
"""Groups of routers: + key."""
COMPANY = 0xFFFF0001
"""A group that is alive while this hypervisor sees another one, or has seen one only and so cannot tell which is lost."""
ENOUGH = 32
"""Probes that are watched for that."""


class WayOut(NamedTuple):
    """A router's way to the outside."""

    router: Router
    key: int
    port: Port
    vni: int
    mac: int
    limit: int | None
    """Bytes of the largest IP packet outside, where larger ones may come from inside."""
    gateways: tuple[str, ...]
    """Hypervisors, best first."""

    @property
    def addresses(self) -> list[str]:
        """The router's addresses outside."""
        return [fixed.ip_address for fixed in self.port.fixed_ips or () if fixed.ip_address]

    def address(self, version: int) -> int | None:
        """The address outside of an IP version."""
        return next((f.ip(text) for text in self.addresses if (":" in text) == (version == 6)), None)


def way_out(topology: Topology, router_id: str | None) -> WayOut | None:
    """A router's way to the outside; None while it has none."""
    router: Router | None = topology.get("router", router_id or "")
    port = topology.gateway_of(router_id or "")
    if router is None or router.router_key is None or not router.admin_state_up or port is None:
        return None
    vni = live_vni(topology, port.network_id)
    if vni is None or port.mac_address is None or not port.admin_state_up:
        return None
    mtu = network_mtu(topology, topology.get("network", port.network_id))
    inside: list[Network | None] = [
        topology.get("network", each.network_id) for each in topology.interfaces_of(router.id)
    ]
    largest = max(network_mtu(topology, network) for network in inside if network is not None)
    limit = mtu if mtu < largest else None
    mac = f.mac(port.mac_address)
    return WayOut(router, router.router_key, port, vni, mac, limit, topology.gateways_of(router.id))


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """What failover watches."""
    yield ALIVE
    links = [link for link in topology.links_from(hypervisor) if link.ofport is not None]
    waits = len(links) > 1 or any(not link.settled for link in links)
    watched = sorted(link.ofport for link in links if link.ofport is not None)[:ENOUGH] if waits else [None]
    yield Group(COMPANY, "fast_failover", tuple(Bucket((), watch_port=port) for port in watched))


def router(topology: Topology, hypervisor: str, router_id: str) -> Iterator[Rule]:
    """A router's way outside, on its gateways and on the hypervisors that send to them."""
    out = way_out(topology, router_id)
    if out is None or not out.gateways or not has_router(topology, hypervisor, router_id):
        return
    yield from _redirect(topology, hypervisor, out)
    if hypervisor in out.gateways:
        yield from _gateway(topology, hypervisor, out)


# --- leaving -----------------------------------------------------------------------------------------------------


def route_out(out: WayOut, source_mac: int) -> tuple[Action, ...]:
    """The actions by which a packet is routed to the outside here."""
    fits = () if out.limit is None else (check_pkt_larger(out.limit + ETHERNET, f.TOO_LARGE),)
    return (dec_ttl(), set_field(f.ETH_SRC, source_mac), set_field(f.NETWORK, out.vni), *FORGET_ORIGIN, *fits)


def _redirect(topology: Topology, hypervisor: str, out: WayOut) -> Iterator[Rule]:
    """To the best gateway that is alive, as this hypervisor's probes see it."""
    enter: tuple[Action, ...] = (
        set_field(f.NETWORK, out.vni),
        set_field(f.ETH_DST, out.mac),
        set_field(f.OUT_PORT_KEY, out.port.port_key or 0),
    )
    here = (set_bits(f.ACTIVE, 1), ct_clear(), resubmit(t.GATEWAY_REDIRECT.number))
    rank = _rank(hypervisor, out)
    better = [
        Bucket(_tunnel(topology, gateway), watch_port=_probe(topology, hypervisor, gateway))
        for gateway in out.gateways[:rank]
    ]
    # should every probe of a hypervisor fail that is no gateway itself, it tries the best all the same
    last = Bucket(better[0].actions) if rank == len(out.gateways) else Bucket(here, watch_group=COMPANY)
    yield Group(REDIRECT_GROUPS | out.key, "fast_failover", (*better, last))
    leaving = match(f.ROUTER(out.key), f.ACTIVE(0))
    yield Flow(t.GATEWAY_REDIRECT.number, REDIRECT, leaving, (*enter, group(REDIRECT_GROUPS | out.key)))
    if rank < len(out.gateways):
        # handed on, which costs a hop: gateways that disagree about their order must not send it to and fro for ever
        hop = dec_ttl(), set_field(f.INGRESS, f.NO_PORT)
        relay = [Bucket((*hop, *bucket.actions), watch_port=bucket.watch_port) for bucket in better]
        yield Group(RELAY_GROUPS | out.key, "fast_failover", (*relay, Bucket(here)))  # its sender is company
        for family in FAMILIES:
            sent = match(f.ROUTER(out.key), f.FROM_TUNNEL(1), f.ETH_TYPE(family.ethertype))
            yield Flow(t.GATEWAY_REDIRECT.number, SENT_HERE, sent, (*enter, group(RELAY_GROUPS | out.key)))


def _rank(hypervisor: str, out: WayOut) -> int:
    """How many gateways are better than a hypervisor: all, for one that is none."""
    return out.gateways.index(hypervisor) if hypervisor in out.gateways else len(out.gateways)


def _tunnel(topology: Topology, gateway: str) -> tuple[Action, ...]:
    peer = topology.get("hypervisor", gateway)
    return set_field(f.PEER, peer.hypervisor_key or 0), resubmit(t.TUNNEL_OUTPUT.number)


def _probe(topology: Topology, hypervisor: str, peer: str) -> int | None:
    """The OpenFlow port of the probe to another hypervisor; None, which passes for alive, until it can be believed."""
    link: Link | None = topology.get("link", f"{hypervisor}/{peer}")
    return link.ofport if link is not None and link.settled else None


# --- at a gateway ------------------------------------------------------------------------------------------------


def _gateway(topology: Topology, hypervisor: str, out: WayOut) -> Iterator[Rule]:
    """What a gateway does; the others of the router are ready to."""
    for family in FAMILIES:
        here = match(f.ROUTER(out.key), f.ACTIVE(1), f.ETH_TYPE(family.ethertype))
        yield Flow(t.GATEWAY_REDIRECT.number, HERE, here, route_out(out, out.mac), goto=t.SNAT.number)
    to_gateway = match(f.OUT_PORT_KEY(out.port.port_key or 0), f.NETWORK(out.vni))
    yield Flow(t.LOCAL_OUTPUT.number, TO_ROUTER, to_gateway, (resubmit(t.ROUTER_ADMIT.number),))
    yield from _from_outside(topology, hypervisor, out)
    yield from _from_here(topology, hypervisor, out)
    yield from learn(out.vni, out.mac)
    for text in out.addresses:
        yield from at_gateway(out, text, router=True)


def _from_outside(topology: Topology, hypervisor: str, out: WayOut) -> Iterator[Rule]:
    """From the wire: for the active gateway only, save what belongs to connections that are known here.

    When gateways change, they do not all know at the same moment: BFD takes a second at most until both ends are up.
    """
    active = set_bits(f.ACTIVE, 1), resubmit(t.PROVIDER_ADMIT.number)
    yield _unless_better(topology, hypervisor, out, ACTIVE_GROUPS, (), active)
    asks = match(f.NETWORK(out.vni), f.ROUTER(out.key), f.ACTIVE(0))
    yield Flow(t.PROVIDER_ADMIT.number, ASK_WHETHER_ACTIVE, asks, (group(ACTIVE_GROUPS | out.key),))
    mine = f.NETWORK(out.vni), f.ETH_DST(out.mac)
    yield Flow(t.PROVIDER_ADMIT.number, ADMIT, match(*mine, f.ACTIVE(1)), goto=t.ROUTER_ADMIT.number)
    yield Flow(t.PROVIDER_ADMIT.number, FOR_ROUTER, match(*mine), whether_active(out))
    for state in (f.CT_ESTABLISHED, f.CT_RELATED, f.CT_DNAT):  # one without an answer counts as new, yet is translated
        for family in FAMILIES:
            known = match(*mine, f.ETH_TYPE(family.ethertype), f.CT_STATE(f.CT_TRACKED | state, f.CT_TRACKED | state))
            enter = (set_field(f.ROUTER, out.key),)
            priority = CONNECTIONS + (state == f.CT_RELATED)
            yield Flow(t.PROVIDER_ADMIT.number, priority, known, enter, goto=t.ROUTER_LOCAL.number)


def whether_active(out: WayOut) -> tuple[Action, ...]:
    """The actions after which ``provider_admit`` sees the packet once more, ACTIVE, where this gateway is; else it is gone."""
    return set_field(f.ROUTER, out.key), resubmit(t.PROVIDER_ADMIT.number)


def _from_here(topology: Topology, hypervisor: str, out: WayOut) -> Iterator[Rule]:
    """From other gateways, and from VMs and routers here: when this is not the active gateway, it is on the wire."""
    enters = set_bits(f.FROM_PROVIDER, 1), set_bits(f.ACTIVE, 1), resubmit(t.ROUTER_ADMIT.number)
    yield _unless_better(topology, hypervisor, out, ENTER_GROUPS, (resubmit(t.L2_LOOKUP.number),), enters)
    mine = f.NETWORK(out.vni), f.ETH_DST(out.mac)
    yield admit(AS_GATEWAY, out, *mine, f.ACTIVE(1))
    yield admit(FROM_PEER, out, *mine, f.FROM_TUNNEL(1))
    yield Flow(t.ROUTER_ADMIT.number, ENTER, match(*mine), (group(ENTER_GROUPS | out.key),))


def admit(priority: int, out: WayOut, *tlvs: bytes) -> Flow:
    """Into the router."""
    enter = (set_field(f.ROUTER, out.key),)
    return Flow(t.ROUTER_ADMIT.number, priority, match(*tlvs), enter, goto=t.ROUTER_NAT.number)


def _unless_better(
    topology: Topology, hypervisor: str, out: WayOut, groups: int, better: Iterable[Action], active: Iterable[Action]
) -> Group:
    """A group that does ``active`` where this gateway is, and ``better`` while a better one is alive."""
    probes = [_probe(topology, hypervisor, gateway) for gateway in out.gateways[: _rank(hypervisor, out)]]
    buckets = [Bucket(tuple(better), watch_port=probe) for probe in probes]
    return Group(groups | out.key, "fast_failover", (*buckets, Bucket(tuple(active), watch_group=COMPANY)))


def at_gateway(out: WayOut, text: str, *, router: bool = False) -> Iterator[Flow]:
    """An address outside that the gateway has: the one that is active answers for it, with the router's MAC address."""
    address, six = f.ip(text), ":" in text
    if six:
        yield answer_nd(out.vni, address, out.mac, f.ACTIVE(1), table=t.PROVIDER_ADMIT, router=router)
        yield answer_nd(out.vni, address, out.mac, router=router)
    else:
        yield answer_arp(out.vni, address, out.mac, f.ACTIVE(1), table=t.PROVIDER_ADMIT)
        yield answer_arp(out.vni, address, out.mac)
    asked = (*SOLICITATION, f.ND_TARGET(address)) if six else (*ARP_REQUEST, f.ARP_TPA(address))
    yield Flow(t.PROVIDER_ADMIT.number, FOR_ROUTER, match(f.NETWORK(out.vni), *asked), whether_active(out))
    to = (f.ETH_TYPE(f.IPV6), f.IPV6_DST(address)) if six else (f.ETH_TYPE(f.IPV4), f.IPV4_DST(address))
    untracked = match(f.NETWORK(out.vni), f.ETH_DST(out.mac), *to, f.CT_STATE(0, f.CT_TRACKED))
    look = conntrack(zone=out.key, nat=Nat(), table=t.PROVIDER_ADMIT.number)
    yield Flow(t.PROVIDER_ADMIT.number, UNTRACKED, untracked, (look,))
    yield to_own_address(out, text, out.mac)


def to_own_address(out: WayOut, text: str, mac: int, *, outside: bool = False) -> Flow:
    """A next hop outside that is this bridge itself: what goes there comes in again, ``outside``: as from the wire."""
    wire = (set_bits(f.FROM_PROVIDER, 1),) if outside else ()
    again = set_field(f.ETH_DST, mac), *wire, ct_clear(), resubmit(t.ROUTER_ADMIT.number)
    return Flow(t.NEIGHBOUR.number, OWN_ADDRESS, match(f.NETWORK(out.vni), *next_hop(text)), again)
