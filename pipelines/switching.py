"""Layer 2 in one hypervisor: who sends, whether he may, and where the destination is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from topology.graph import Topology
from topology.model import Port

from . import fields as f
from . import tables as t
from .addresses import PortAddresses, addresses_of
from .flooding import copies
from .flow import Bucket, Flow, Rule, match, output, resubmit, set_bits, set_field
from .placement import Placed, live_vni, wired_both
from .services import ICMPV6

# priorities, a band for each table
PORT = 100
TRUSTED, FORBIDDEN, SECURE = 300, 200, 100
ND_OWN, ND_FOREIGN = 100, 50
UNICAST, MULTICAST = 100, 50
SEVERAL, HERE = 300, 100

UNSPECIFIED = f.IPV6_SRC(0)
BROADCAST = 0xFFFFFFFF
_FORBIDDEN_ND = {
    134: "router advertisement",
    135: "neighbour solicitation",
    136: "neighbour advertisement",
    137: "redirect",
}
_UNSPECIFIED_SENDERS = (131, 132, 133, 143)
"""ICMPv6 types that a host may send before it has an address: MLD reports (RFC 2710, 3810), router solicitation."""


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """What every bridge has: what VMs must not send, and broadcast."""
    for kind, name in _FORBIDDEN_ND.items():
        yield Flow(
            t.ND_SECURITY.number, ND_FOREIGN, match(*ICMPV6, f.ICMPV6_TYPE(kind)), reason=f"{name} of somebody else"
        )
    for ethertype, port, name in ((f.IPV4, 67, "DHCP"), (f.IPV6, 547, "DHCPv6")):
        answer = match(f.ETH_TYPE(ethertype), f.IP_PROTO(f.UDP), f.UDP_SRC(port))
        yield Flow(t.PORT_SECURITY.number, FORBIDDEN, answer, reason=f"a VM may not be a {name} server")
    to_several = match(f.ETH_DST(f.MULTICAST_BIT, f.MULTICAST_BIT))
    yield Flow(t.L2_LOOKUP.number, MULTICAST, to_several, (set_bits(f.TO_SEVERAL, 1),), goto=t.EGRESS_ADMIT.number)
    yield Flow(t.OUTPUT_SELECT.number, SEVERAL, match(f.TO_SEVERAL(1)), goto=t.MULTICAST.number)
    yield Flow(t.OUTPUT_SELECT.number, HERE, match(f.PEER(0)), (resubmit(t.INGRESS_ADMIT.number),))


def network(topology: Topology, hypervisor: str, network_id: str) -> Iterator[Rule]:
    """Broadcast in a network: a copy for every VM here."""
    vni = live_vni(topology, network_id)
    if vni is None:
        return
    ports = [port for port in topology.local_ports(network_id, hypervisor) if port.admin_state_up]
    if not ports:
        return
    groups, to_all = copies(vni, {port.port_key or 0: _copy(port.port_key or 0) for port in ports})
    yield from groups
    yield Flow(t.FLOOD.number, PORT, match(f.NETWORK(vni)), to_all, goto=t.TUNNEL_FLOOD.number)


@lru_cache(maxsize=1 << 16)
def _copy(key: int) -> Bucket:
    """A port's copy of a broadcast; kept, since each port that comes or goes has those of its network compiled again."""
    return Bucket((set_field(f.OUT_PORT_KEY, key), resubmit(t.INGRESS_ADMIT.number)))


def port(topology: Topology, hypervisor: str, found: Placed) -> Iterator[Rule]:
    """A port as its own hypervisor sees it, or as another one of its network does."""
    addresses = addresses_of(found.port)
    if found.here:
        yield from _plug(found)
        yield from _port_security(found.port, addresses)
        yield _forward_here(found, addresses)
    else:
        peer = topology.get("hypervisor", found.location)
        if peer is None or peer.hypervisor_key is None:
            return
        if wired_both(topology, found.port.network_id, hypervisor, found.location):
            return  # it is one of the many hosts on the wire
        yield _forward_there(found, addresses, peer.hypervisor_key)
    for mac in addresses.foreign_macs:
        shared = match(f.NETWORK(found.vni), f.ETH_DST(mac))
        yield Flow(t.L2_LOOKUP.number, UNICAST, shared, (set_bits(f.TO_SEVERAL, 1),), goto=t.EGRESS_ADMIT.number)


def _plug(found: Placed) -> Iterator[Flow]:
    """The flows that need the port's OpenFlow number; none until vswitchd has given it one."""
    if found.ofport is None:
        return
    yield Flow(
        t.CLASSIFY.number,
        PORT,
        match(f.IN_PORT(found.ofport)),
        (set_field(f.IN_PORT_KEY, found.key),),
        metadata=found.vni,
        goto=t.LIMIT.number,
    )
    destination = match(f.OUT_PORT_KEY(found.key), f.NETWORK(found.vni))
    yield Flow(t.LOCAL_OUTPUT.number, PORT, destination, (output(found.ofport),))


def _forward_here(found: Placed, addresses: PortAddresses) -> Flow:
    return Flow(
        t.L2_LOOKUP.number,
        UNICAST,
        match(f.NETWORK(found.vni), f.ETH_DST(addresses.mac)),
        (set_field(f.OUT_PORT_KEY, found.key),),
        goto=t.EGRESS_ADMIT.number,
    )


def _forward_there(found: Placed, addresses: PortAddresses, peer: int) -> Flow:
    return Flow(
        t.L2_LOOKUP.number,
        UNICAST,
        match(f.NETWORK(found.vni), f.ETH_DST(addresses.mac), f.ORIGIN(0)),
        (set_field(f.OUT_PORT_KEY, found.key), set_field(f.PEER, peer)),
        goto=t.EGRESS_ADMIT.number,
    )


def _port_security(obj: Port, addresses: PortAddresses) -> Iterator[Flow]:
    key = f.IN_PORT_KEY(obj.port_key or 0)
    if not obj.port_security_enabled:
        yield Flow(t.PORT_SECURITY.number, TRUSTED, match(key), goto=t.SERVICES.number)
        return
    for mac, prefixes in addresses.allowed.items():
        sender = (key, f.ETH_SRC(mac))
        if prefixes.v4:
            yield from _ipv4_security(sender, mac, prefixes.v4)
        if prefixes.v6:
            yield from _ipv6_security(sender, mac, prefixes.v6)


def _allow(*tlvs: bytes, goto: t.Table = t.SERVICES) -> Flow:
    return Flow(t.PORT_SECURITY.number, SECURE, match(*tlvs), goto=goto.number)


def _ipv4_security(sender: tuple[bytes, ...], mac: int, prefixes: list[tuple[int, int | None]]) -> Iterator[Flow]:
    arp = (*sender, f.ETH_TYPE(f.ARP), f.ARP_SHA(mac))
    yield _allow(*arp, f.ARP_SPA(0))  # a probe before use, RFC 5227
    dhcp = (f.ETH_TYPE(f.IPV4), f.IP_PROTO(f.UDP), f.UDP_SRC(68), f.UDP_DST(67))
    yield _allow(*sender, *dhcp, f.IPV4_SRC(0), f.IPV4_DST(BROADCAST))
    for address, mask in prefixes:
        yield _allow(*sender, f.ETH_TYPE(f.IPV4), f.IPV4_SRC(address, mask))
        yield _allow(*arp, f.ARP_SPA(address, mask))


def _ipv6_security(sender: tuple[bytes, ...], mac: int, prefixes: list[tuple[int, int | None]]) -> Iterator[Flow]:
    """Neighbour discovery as in RFC 6620's spirit: a port speaks only of its own addresses, with its own MAC."""
    key = sender[0]
    for kind in _UNSPECIFIED_SENDERS:
        yield _allow(*sender, *ICMPV6, f.ICMPV6_TYPE(kind), UNSPECIFIED)
    for sll in (mac, 0):
        yield _nd(key, f.ICMPV6_TYPE(135), f.ND_SLL(sll))
    for address, mask in prefixes:
        yield _allow(*sender, f.ETH_TYPE(f.IPV6), f.IPV6_SRC(address, mask), goto=t.ND_SECURITY)
        target = f.ND_TARGET(address, mask)
        yield _allow(*sender, *ICMPV6, f.ICMPV6_TYPE(135), UNSPECIFIED, target)  # duplicate address detection
        for tll in (mac, 0):
            yield _nd(key, f.ICMPV6_TYPE(136), target, f.ND_TLL(tll))


def _nd(*tlvs: bytes) -> Flow:
    return Flow(t.ND_SECURITY.number, ND_OWN, match(*ICMPV6, *tlvs), goto=t.SERVICES.number)
