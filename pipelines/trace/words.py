"""What a table did with a packet, in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import NamedTuple

from pipelines import fields as f
from pipelines import policy
from pipelines import tables as t
from pipelines.compiler import Owner
from pipelines.interpreter import Packet, Visit
from pipelines.interpreter.packets import TAG
from pipelines.punting import Reason
from pipelines.wire.decode import match_values
from pipelines.wire.flows import TLVS
from topology.graph import Topology

from . import policies
from .names import Names
from .question import ip_text
from .report import Named, Verdict

_OWNERS = frozenset(("peer", "network", "port", "router", "floating-ip", "neighbour"))
"""Owners of flows that are objects of somebody's."""


class Seen(NamedTuple):
    """A visit, whose flow it met, and the packet as the next table saw it."""

    visit: Visit
    owners: list[Owner]
    then: Packet

    def owner(self, kind: str) -> str | None:
        """Id of the owner of a kind."""
        return next((id for each, id in self.owners if each == kind), None)


class Words:
    """Makes sentences of visits; empty where nothing happened that is worth one."""

    def __init__(self, topology: Topology, names: Names) -> None:
        self.topology, self.names = topology, names
        self._tables: dict[int, Callable[[Seen], str]] = {
            t.CLASSIFY.number: self._classify,
            t.TUNNEL_ADMIT.number: lambda seen: "accepted from a known hypervisor",
            t.PROVIDER_ADMIT.number: self._provider_admit,
            t.PORT_SECURITY.number: self._port_security,
            t.ND_SECURITY.number: lambda seen: "",
            t.SERVICES.number: self._services,
            t.ND_REPLY.number: lambda seen: "",
            t.ROUTER_ADMIT.number: self._router_admit,
            t.ROUTER_NAT.number: self._router_nat,
            t.ROUTER_LOCAL.number: self._router_local,
            t.POLICY_ROUTE.number: self._route,
            t.ROUTE.number: self._route,
            t.ECMP.number: lambda seen: f"one of several next hops, by the flow's hash: {self._next_hop(seen.then)}",
            t.OUTWARD.number: lambda seen: "",
            t.GATEWAY_REDIRECT.number: self._gateway_redirect,
            t.SNAT.number: self._snat,
            t.NEIGHBOUR.number: self._neighbour,
            t.L2_LOOKUP.number: self._l2_lookup,
            t.EGRESS_ADMIT.number: lambda seen: "",
            t.IDENTITY.number: lambda seen: "",
            t.POLICY_ADMIT.number: self._policy_admit,
            t.POLICY_STATE.number: self._policy_state,
            t.INGRESS_POLICY.number: self._policy,
            t.EGRESS_POLICY.number: self._policy,
            t.POLICY_DONE.number: lambda seen: "the connection is noted, so that its answers pass",
            t.POLICY_LOG.number: lambda seen: "",
            t.POLICY_EXIT.number: lambda seen: "",
            t.OUTPUT_SELECT.number: lambda seen: "",
            t.MULTICAST.number: lambda seen: "a copy for each receiver of the multicast group",
            t.FLOOD.number: lambda seen: "a copy for every VM of the network here",
            t.TUNNEL_FLOOD.number: lambda seen: "a copy for every other hypervisor of the network, or for its wire",
            t.INGRESS_ADMIT.number: lambda seen: "",
            t.LOCAL_OUTPUT.number: self._local_output,
            t.TUNNEL_OUTPUT.number: self._tunnel_output,
            t.PATH_MTU.number: lambda seen: "",
            t.PROVIDER_OUTPUT.number: self._provider_output,
            t.PUNT.number: lambda seen: "",
            t.TO_CONTROLLER.number: lambda seen: "",
        }

    def step(self, seen: Seen) -> str:
        """What the flow did that the packet met."""
        hit = seen.visit.hit
        if hit is None or int.from_bytes(hit.key[1:TLVS], "big") == t.MISS:
            return ""
        if seen.visit.after.get(f.PUNT, 0) != seen.visit.before.get(f.PUNT, 0):
            return ""  # what the controller does with it stands at the end
        say = self._tables.get(seen.visit.table)
        return say(seen) if say is not None else t.PIPELINE[seen.visit.table].summary

    def objects(self, seen: Seen) -> tuple[Named, ...]:
        """Whose flow it is; of flows that every bridge has, nobody's."""
        kinds = {"peer": "hypervisor"}
        return tuple(self.names.of(kinds.get(kind, kind), id) for kind, id in seen.owners if kind in _OWNERS)

    # --- coming in ---------------------------------------------------------------------------------------------------

    def _network(self, packet: Packet) -> str:
        network = self.names.network_of(packet.get(f.NETWORK, 0))
        return self.names.say("network", network.id) if network is not None else "no network of NovaNet's"

    def _port(self, key: int) -> str:
        id = self.names.port_of(key)
        return self.names.say("port", id) if id is not None else f"port key {key:#x}"

    def _classify(self, seen: Seen) -> str:
        where = f"in {self._network(seen.visit.after)}"
        after = seen.visit.after
        if after.get(f.FLAGS, 0) & f.FROM_TUNNEL.mask:
            return f"from a tunnel, {where}"
        if after.get(f.FLAGS, 0) & f.FROM_PROVIDER.mask:
            return f"from the wire, {where}"
        return f"from {self._port(after.get(f.IN_PORT_KEY, 0))}, {where}"

    def _provider_admit(self, seen: Seen) -> str:
        after = seen.visit.after
        if after.get(f.ARP_OP) == 2 or after.get(f.ICMPV6_TYPE) == 136:
            return self._services(seen)
        if after.get(f.CT_STATE, 0):
            return f"of a connection that {self._router(after)} knows" if after.get(f.ROUTER, 0) else ""
        return f"for {self._router(after)}" if not seen.visit.groups and after.get(f.ROUTER, 0) else ""

    def _port_security(self, seen: Seen) -> str:
        id = seen.owner("port")
        port = self.topology.get("port", id or "")
        if port is not None and not port.port_security_enabled:
            return "port security is off: it may send from any address"
        return "its addresses are the port's own"

    def _services(self, seen: Seen) -> str:
        after = seen.visit.after
        if after.get(f.ARP_OP) == 2 and seen.visit.before.get(f.ARP_OP) == 1:
            return f"answered: {IPv4Address(after.get(f.ARP_SPA, 0))} is at {f.mac_text(after.get(f.ARP_SHA, 0))}"
        if after.get(f.ICMPV6_TYPE) == 136 and seen.visit.before.get(f.ICMPV6_TYPE) == 135:
            return f"answered: {IPv6Address(after.get(f.ND_TARGET, 0))} is at {f.mac_text(after.get(f.ETH_SRC, 0))}"
        return ""

    # --- routers -----------------------------------------------------------------------------------------------------

    def _router(self, packet: Packet) -> str:
        id = self.names.router_of(packet.get(f.ROUTER, 0))
        return self.names.say("router", id) if id is not None else "a router"

    def _router_admit(self, seen: Seen) -> str:
        if not seen.then.get(f.ROUTER, 0):
            return ""
        return f"its destination MAC address is that of {self._router(seen.then)}"

    def _router_nat(self, seen: Seen) -> str:
        before, then = ip_text(seen.visit.before, "destination"), ip_text(seen.then, "destination")
        floating = seen.owner("floating-ip")
        what = f"floating IP {before}" if floating else f"destination {before}"
        if before != then:
            return f"{what} becomes {then}"
        return "the connection is looked for" if seen.then.get(f.CT_STATE, 0) else f"{what} is the router's own"

    def _router_local(self, seen: Seen) -> str:
        if seen.visit.after.get(f.FLAGS, 0) & ~seen.visit.before.get(f.FLAGS, 0) & f.EXEMPT.mask:
            return f"{self._router(seen.visit.before)} answers the echo request"
        return ""

    def _next_hop(self, packet: Packet) -> str:
        if packet.get(f.ETH_TYPE) == f.IPV6:
            return str(IPv6Address(sum(packet.get(part, 0) << shift for part, shift in f.NEXT_HOP6.parts)))
        return str(IPv4Address(packet.get(f.NEXT_HOP, 0)))

    def _route(self, seen: Seen) -> str:
        by = "policy route" if seen.visit.table == t.POLICY_ROUTE.number else f"route {_prefix(seen.visit)}"
        text = f"{by} of {self._router(seen.visit.before)}"
        after = seen.visit.after
        if after.get(f.ROUTE, 0) != seen.visit.before.get(f.ROUTE, 0):
            return f"{text}: several next hops"
        if not self._moved(seen):
            return text if seen.visit.table == t.POLICY_ROUTE.number else f"{text}: to the outside"
        return f"{text}: to {self._next_hop(after)} in {self._network(after)}"

    @staticmethod
    def _moved(seen: Seen) -> bool:
        """Whether the packet has been routed: its TTL is one less."""
        return seen.visit.after.get(f.IP_TTL, 0) < seen.visit.before.get(f.IP_TTL, 0)

    def _gateway_redirect(self, seen: Seen) -> str:
        if self._moved(seen):
            return f"leaves {self._router(seen.visit.before)} here, to {self._next_hop(seen.then)}"
        if seen.visit.groups and seen.then.get(f.PEER, 0):
            return f"to the gateway of {self._router(seen.visit.before)} that is alive: {self._peer(seen.then)}"
        return f"this hypervisor is the gateway of {self._router(seen.visit.before)}" if seen.visit.groups else ""

    def _snat(self, seen: Seen) -> str:
        before, then = ip_text(seen.visit.before, "source"), ip_text(seen.then, "source")
        return f"source {before} becomes {then}" if before != then else ""

    def _neighbour(self, seen: Seen) -> str:
        after = seen.visit.after
        return f"next hop {self._next_hop(after)} is at {f.mac_text(after.get(f.ETH_DST, 0))}"

    # --- switching ---------------------------------------------------------------------------------------------------

    def _peer(self, packet: Packet) -> str:
        id = self.topology.hypervisor_keys.get(packet.get(f.PEER, 0))
        name = self.names.of("hypervisor", id).name if id is not None else "a foreign endpoint"
        return name if id is None or not self.names.sees("hypervisor", id) else f"hypervisor {name}"

    def _l2_lookup(self, seen: Seen) -> str:
        after, mac = seen.visit.after, f.mac_text(seen.visit.after.get(f.ETH_DST, 0))
        if after.get(f.FLAGS, 0) & f.TO_SEVERAL.mask:
            return f"{mac} is for several"
        if not after.get(f.OUT_PORT_KEY, 0):
            return f"{mac} is no VM's"
        port = self._port(after.get(f.OUT_PORT_KEY, 0))
        return f"{mac} is {port}'s" + (f", on {self._peer(after)}" if after.get(f.PEER, 0) else ", here")

    def _local_output(self, seen: Seen) -> str:
        return f"handed to {self._port(seen.visit.after.get(f.OUT_PORT_KEY, 0))}"

    def _tunnel_output(self, seen: Seen) -> str:
        after = seen.visit.after
        return f"into the tunnel to {self._peer(after)}, VNI {after.get(f.TUNNEL_ID, 0)}"

    def _provider_output(self, seen: Seen) -> str:
        network = self.names.network_of(seen.visit.before.get(f.NETWORK, 0))
        wire = f"physical network {network.physical_network}" if network is not None else "a physical network"
        tag = seen.visit.after.get(f.VLAN_VID, 0)
        return f"onto the wire of {wire}" + (f", VLAN {tag & ~TAG}" if tag & TAG else ", untagged")

    # --- policy ------------------------------------------------------------------------------------------------------

    def _policy_admit(self, seen: Seen) -> str:
        inward = seen.visit.before.get(f.FLAGS, 0) & f.INWARD.mask
        key = seen.visit.before.get(f.OUT_PORT_KEY if inward else f.IN_PORT_KEY, 0)
        return f"the policy of {self._port(key)} is asked"

    def _policy_state(self, seen: Seen) -> str:
        state = seen.visit.before.get(f.CT_STATE, 0)
        if not state & f.CT_TRACKED:
            return "its rules are stateless"
        if seen.visit.before.get(f.CT_MARK, 0) & policy.KEEP:
            return "of a connection that stays, whatever the rules"
        if state & f.CT_RELATED:
            return "an error about a known connection"
        if state & f.CT_REPLY:
            return "of the answering side of a known connection"
        return "a new connection" if state & f.CT_NEW else "of a known connection"

    def _policy(self, seen: Seen) -> str:
        rule = policies.rule_of(self.topology, seen.visit)
        if policies.denies(seen.visit):
            return ""
        if rule is None:
            return "no rule decides: allowed"
        return f"allowed by {policies.describe(self.names, rule)[0]}"


def _prefix(visit: Visit) -> str:
    """The destination prefix that a route's flow matches."""
    values = match_values(visit.hit.key[TLVS:]) if visit.hit is not None else {}
    for field, size in ((f.IPV4_DST, 32), (f.IPV6_DST, 128)):
        if field in values:
            value, mask = values[field]
            address = IPv6Address(value) if size == 128 else IPv4Address(value)
            return str(ip_network(f"{address}/{mask.bit_count()}"))
    return "::/0" if values.get(f.ETH_TYPE, (0, 0))[0] == f.IPV6 else "0.0.0.0/0"


# --- the controller --------------------------------------------------------------------------------------------------

PUNTED: dict[Reason, tuple[Verdict, str]] = {
    Reason.DHCPV4: ("answered", "the controller answers by DHCP"),
    Reason.DHCPV6: ("answered", "the controller answers by DHCPv6"),
    Reason.ROUTER_SOLICITATION: ("answered", "the controller answers with a router advertisement"),
    Reason.DNS: ("answered", "the controller's resolver answers"),
    Reason.MULTICAST_MEMBERSHIP: ("answered", "the controller notes which multicast group the VM wants"),
    Reason.TTL_EXCEEDED: ("refused", "its TTL has ended: ICMP time exceeded"),
    Reason.NO_ROUTE: ("refused", "there is no route: ICMP destination unreachable"),
    Reason.HOST_UNREACHABLE: ("refused", "nobody has the next hop's address: ICMP host unreachable"),
    Reason.PORT_UNREACHABLE: ("refused", "the router offers no such service: ICMP port unreachable"),
    Reason.TOO_BIG: ("refused", "it is too large for its way: ICMP fragmentation needed, or packet too big"),
    Reason.RESOLVE: ("held", "the controller asks for the next hop's MAC address, and then sends it on"),
    Reason.MEMBER_GONE: ("refused", "the connection's member is gone: it is reset"),
    Reason.ANOTHER_MEMBER: ("held", "the connection's member is gone: the controller sends it on to another one"),
    Reason.NEIGHBOUR: ("answered", "the controller notes the neighbour's MAC address"),
}
"""What the controller does with what it is handed. Reasons that are missing concern no packet's fate: copies for logs."""
