"""Source NAT, floating IPs and port forwardings (RFC 3022, RFC 4787).

What leaves by a router's gateway gets the router's address; floating IPs are translated on the VM's own hypervisor, where
that is wired to the outside, and at the gateway otherwise; so are port forwardings. A router has a conntrack zone of its
own, its key. One ``ct(commit, nat)`` serves both directions: where a connection is known, conntrack undoes or repeats what
was done to its first packet, and to the packets that ICMP errors about it quote.
"""

from __future__ import annotations

from collections.abc import Iterator

from topology.graph import Topology
from topology.model import FloatingIp, Port, PortForwarding

from . import fields as f
from . import tables as t
from .addresses import addresses_of
from .flow import Action, Flow, Nat, Rule, conntrack, ct_clear, match
from .gateways import WayOut, admit, at_gateway, route_out, to_own_address, way_out
from .neighbours import learn
from .placement import has_router
from .routers import FAMILIES, V4, V6, Family, of_address
from .services import answer_arp, answer_nd

# priorities, a band for each table
FORWARDED, NOT_FORWARDED, RETURNING, OWN_ADDRESS, HIDDEN = 200, 190, 100, 90, 50
INVALID, UNKNOWN_CONNECTION, NOT_TRANSLATED = 450, 240, 440
ERRORS, FLOATING = 350, 300
TOO_LARGE, OWN_ERRORS, OWN, TRANSLATE = 400, 360, 350, 100
ADMIT = 100

_PROTOCOLS = {"tcp": (f.TCP, f.TCP_DST), "udp": (f.UDP, f.UDP_DST)}
QUOTING = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
"""Types of ICMP errors that quote a packet: RFC 792, RFC 4443."""
_INVALID = f.CT_STATE(f.CT_INVALID, f.CT_INVALID)
_UNTRACKED = f.CT_STATE(0, f.CT_TRACKED)


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """What conntrack cannot make sense of it has not translated, so it must go nowhere."""
    for table in (t.ROUTER_LOCAL, t.NEIGHBOUR):
        yield Flow(table.number, INVALID, match(_INVALID), reason="connection tracking finds the packet invalid")
    for family in FAMILIES:  # answered before it is translated, so that its sender knows it again
        large = match(f.TOO_LARGE(1), f.ETH_TYPE(family.ethertype))
        yield Flow(t.SNAT.number, TOO_LARGE, large, goto=t.NEIGHBOUR.number)


def router(topology: Topology, hypervisor: str, router_id: str) -> Iterator[Rule]:
    """A router's own address outside, in whose name the others leave."""
    out = way_out(topology, router_id)
    if out is None or not has_router(topology, hypervisor, router_id):
        return
    for family in FAMILIES:
        if out.router.enable_snat and out.address(family.version) is not None:
            hidden = match(*from_outside(out, family))
            reason = "the networks behind source NAT are not to be reached from outside"
            yield Flow(t.ROUTER_NAT.number, HIDDEN, hidden, reason=reason)
            yield _not_translated(out, family)
    if hypervisor in out.gateways:
        yield from _snat(out)


def _not_translated(out: WayOut, family: Family) -> Flow:
    """Conntrack lets a connection pass as it is when it finds no address and port for it."""
    as_it_was = f.CT_STATE(f.CT_TRACKED, f.CT_TRACKED | f.CT_SNAT | f.CT_DNAT)
    untouched = match(*leaving(out, family), as_it_was)
    return Flow(t.NEIGHBOUR.number, NOT_TRANSLATED, untouched, reason="no address and port is free to translate it to")


def from_outside(out: WayOut, family: Family) -> tuple[bytes, ...]:
    return f.ROUTER(out.key), f.NETWORK(out.vni), f.FROM_PROVIDER(1), f.ETH_TYPE(family.ethertype)


def leaving(out: WayOut, family: Family) -> tuple[bytes, ...]:
    """The match on what leaves by a router, at its gateway."""
    return f.ROUTER(out.key), f.NETWORK(out.vni), f.ETH_TYPE(family.ethertype)


def _snat(out: WayOut) -> Iterator[Flow]:
    """Source NAT at a gateway."""
    for family, address in _addresses(out):
        to_router = match(*from_outside(out, family), family.destination(address))
        yield Flow(t.ROUTER_NAT.number, OWN_ADDRESS, to_router, goto=t.ROUTER_LOCAL.number)
        yield from _own(out, family, address)
    for family in FAMILIES:
        first = out.address(family.version)
        if first is None or not out.router.enable_snat:
            continue
        returning = match(*from_outside(out, family), family.destination(first))
        yield Flow(t.ROUTER_NAT.number, RETURNING, returning, (known(out, t.ROUTER_LOCAL),))
        # not refused: a gateway that has just taken over does not know the connections of the one before it
        reason = "no connection behind source NAT"
        yield Flow(t.ROUTER_LOCAL.number, UNKNOWN_CONNECTION, returning, reason=reason)
        translate = translated(out, family, "src", first, t.NEIGHBOUR)
        yield Flow(t.SNAT.number, TRANSLATE, match(*leaving(out, family)), (translate,))


def _addresses(out: WayOut) -> Iterator[tuple[Family, int]]:
    """The addresses of the router's port outside, the link-local one included."""
    addresses = addresses_of(out.port)
    yield from ((V4, address) for address in addresses.v4)
    yield from ((V6, address) for address in addresses.v6)


def _own(out: WayOut, family: Family, address: int) -> Iterator[Flow]:
    """What leaves in the name of an address outside already; errors may quote a packet that was translated."""
    own = (*leaving(out, family), family.source(address))
    yield Flow(t.SNAT.number, OWN, match(*own), (ct_clear(),), goto=t.NEIGHBOUR.number)
    for type in QUOTING[family.version]:
        error = match(*own, f.IP_PROTO(family.icmp), family.icmp_type(type))
        yield Flow(t.SNAT.number, OWN_ERRORS, error, (known(out, t.NEIGHBOUR),))


def known(out: WayOut, table: t.Table) -> Action:
    """Translate packets of known connections, and leave the others as they are."""
    return conntrack(zone=out.key, nat=Nat(), table=table.number)


def translated(out: WayOut, family: Family, kind: str, address: int, table: t.Table, port: int | None = None) -> Action:
    """Translate, the first packet of a connection too."""
    nat = Nat(kind, address, version=family.version, ports=None if port is None else (port, port))
    return conntrack(zone=out.key, commit=True, nat=nat, table=table.number)


# --- floating IPs ------------------------------------------------------------------------------------------------


def floating_ip(topology: Topology, hypervisor: str, floating_ip_id: str) -> Iterator[Rule]:
    """A floating IP where it is: with its VM, or for port forwardings and VMs that are not wired, at the gateway."""
    floating: FloatingIp | None = topology.get("floating-ip", floating_ip_id)
    out = way_out(topology, topology.router_of_floating(floating_ip_id))
    if floating is None or out is None or floating.floating_ip_address is None or floating.mac_address is None:
        return
    text, at = floating.floating_ip_address, hypervisor in out.gateways
    if floating.loadbalancer_id is not None:
        return  # balancing_outside
    if floating.port_id is None:
        if at:
            yield from _forwardings(topology, out, floating)
        return
    port: Port | None = topology.get("port", floating.port_id)
    inside = inside_of(floating, port)
    here = topology.location(floating.port_id)
    if inside is None or here is None or port is None or not port.admin_state_up:
        return
    if here in topology.wired_to(floating.floating_network_id):
        if here == hypervisor:
            yield from _translate(out, text, inside)
            yield from _with_vm(topology, out, text, inside, f.mac(floating.mac_address))
    elif at:
        yield from _translate(out, text, inside)
        yield from at_gateway(out, text)


def inside_of(floating: FloatingIp, port: Port | None) -> int | None:
    """The VM's address that a floating IP stands for."""
    six = ":" in (floating.floating_ip_address or "")
    texts = [fixed.ip_address or "" for fixed in (port.fixed_ips or () if port is not None else ())]
    if floating.fixed_ip_address is not None:
        texts = [text for text in texts if text == floating.fixed_ip_address]
    return next((f.ip(text) for text in texts if text and (":" in text) == six), None)


def _translate(out: WayOut, text: str, inside: int) -> Iterator[Flow]:
    """Both directions of a floating IP."""
    family, outside = of_address(text), f.ip(text)
    inward = match(*from_outside(out, family), family.destination(outside))
    to_vm = translated(out, family, "dst", inside, t.ROUTER_LOCAL)
    yield Flow(t.ROUTER_NAT.number, FORWARDED, inward, (to_vm,))
    outward = match(*leaving(out, family), family.source(inside))
    from_vm = translated(out, family, "src", outside, t.NEIGHBOUR)
    yield Flow(t.SNAT.number, FLOATING, outward, (from_vm,))


def _with_vm(topology: Topology, out: WayOut, text: str, inside: int, mac: int) -> Iterator[Flow]:
    """A floating IP on its VM's hypervisor has a MAC address of its own, and its packets leave there."""
    family, address = of_address(text), f.ip(text)
    for source in (inside, address):
        sent = match(f.ROUTER(out.key), f.ETH_TYPE(family.ethertype), family.source(source))
        yield Flow(t.GATEWAY_REDIRECT.number, FLOATING, sent, route_out(out, mac), goto=t.SNAT.number)
    own = match(*leaving(out, family), family.source(address))
    yield Flow(t.SNAT.number, OWN, own, (ct_clear(),), goto=t.NEIGHBOUR.number)
    yield from errors_of_router(topology, out, family)
    yield admit(ADMIT, out, f.NETWORK(out.vni), f.ETH_DST(mac))
    yield from learn(out.vni, mac)
    answer = answer_nd if family is V6 else answer_arp
    yield answer(out.vni, address, mac, table=t.PROVIDER_ADMIT)
    yield answer(out.vni, address, mac)
    yield to_own_address(out, text, mac, outside=True)


def errors_of_router(topology: Topology, out: WayOut, family: Family) -> Iterator[Flow]:
    """The router's errors about packets for a floating IP: they leave where the connection is known, as the floating IP."""
    for interface in topology.interfaces_of(out.router.id):
        for fixed in interface.fixed_ips or ():
            if fixed.ip_address and of_address(fixed.ip_address) is family:
                own = f.ROUTER(out.key), f.ETH_TYPE(family.ethertype), family.source(f.ip(fixed.ip_address))
                for type in QUOTING[family.version]:
                    error = match(*own, _UNTRACKED, f.IP_PROTO(family.icmp), family.icmp_type(type))
                    yield Flow(t.GATEWAY_REDIRECT.number, ERRORS, error, (known(out, t.GATEWAY_REDIRECT),))


# --- port forwardings --------------------------------------------------------------------------------------------


def _forwardings(topology: Topology, out: WayOut, floating: FloatingIp) -> Iterator[Flow]:
    """A floating IP of which only some ports lead inside, each to its own VM.

    A fragment does not show its ports. Those of a connection that conntrack knows are translated all the same (see
    ``gateways.at_gateway``); a connection cannot begin with one.
    """
    text = floating.floating_ip_address or ""
    family = of_address(text)
    asked = (*from_outside(out, family), family.destination(f.ip(text)))
    yield from at_gateway(out, text)
    for id in sorted(topology.forwardings_of(floating.id)):
        yield from _forward(out, family, asked, topology.get("port-forwarding", id))
    yield Flow(t.ROUTER_NAT.number, NOT_FORWARDED, match(*asked), reason="no port forwarding for the packet")


def _forward(out: WayOut, family: Family, asked: tuple[bytes, ...], forwarding: PortForwarding) -> Iterator[Flow]:
    if forwarding.internal_ip_address is None:
        return
    protocol, port = _PROTOCOLS[forwarding.protocol]
    inside = f.ip(forwarding.internal_ip_address)
    to_vm = translated(out, family, "dst", inside, t.ROUTER_LOCAL, forwarding.internal_port)
    inward = match(*asked, f.IP_PROTO(protocol), port(forwarding.external_port))
    yield Flow(t.ROUTER_NAT.number, FORWARDED, inward, (to_vm,))
    if not out.router.enable_snat:  # which would do it
        answers = match(*leaving(out, family), family.source(inside))
        yield Flow(t.SNAT.number, FLOATING, answers, (known(out, t.NEIGHBOUR),))
