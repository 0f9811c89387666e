"""The pipeline: its tables in order, what each reads and where it may go.

Table numbers follow from the order here; docs/pipeline.md is generated from it, and ``check`` holds every flow
against it. A table belongs to a feature; while the feature's app is not loaded, the table just passes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from . import fields as f
from .flow import Flow


class Table(NamedTuple):
    """A declared table."""

    number: int
    name: str
    feature: str
    summary: str
    reads: tuple[f.Field, ...]
    goes_to: tuple[str, ...]
    """Names of the tables that flows here may go to or resubmit to."""
    otherwise: str
    """Where a packet goes that no flow wants: the name of a table, or empty: it is dropped."""
    reason: str
    """Why such a packet is dropped, in the words that a user reads. Empty where packets are only looked up, and go on."""


_ND = (f.ETH_TYPE, f.IP_PROTO, f.ICMPV6_TYPE, f.ND_TARGET, f.ND_SLL, f.ND_TLL)
_ARP = (f.ETH_TYPE, f.ARP_OP, f.ARP_SPA, f.ARP_TPA, f.ARP_SHA)

_NEXT_HOP = (f.NETWORK, f.ROUTER, f.ETH_TYPE, f.NEXT_HOP, f.NEXT_HOP6, f.FLAGS, f.CT_STATE)
_IP = (f.ETH_TYPE, f.IPV4_SRC, f.IPV4_DST, f.IPV6_SRC, f.IPV6_DST, f.IP_PROTO)
_PORTS = (f.TCP_SRC, f.TCP_DST, f.UDP_SRC, f.UDP_DST)
_POLICY = (
    *(f.CONJ_ID, f.LOCAL, f.OTHER, f.FLAGS, *_IP, f.IP_FRAG, f.TCP_DST, f.UDP_DST, f.SCTP_SRC, f.SCTP_DST),
    *(f.ICMPV4_TYPE, f.ICMPV4_CODE, f.ICMPV6_TYPE, f.ICMPV6_CODE),
    *(f.CT_STATE, f.CT_NW_PROTO, f.CT_NW_SRC, f.CT_NW_DST, f.CT_IPV6_SRC, f.CT_IPV6_DST, f.CT_TP_SRC, f.CT_TP_DST),
)

PIPELINE: tuple[Table, ...] = tuple(
    Table(number, *declared)
    for number, declared in enumerate(
        [
            (
                "classify",
                "switching",
                "Which VM port, tunnel or wire the packet comes from; puts it into its network.",
                (f.IN_PORT, f.FLAGS, f.VLAN_VID, f.ETH_TYPE, f.IP_PROTO, f.ICMPV6_TYPE),
                ("health", "tunnel_admit", "provider_admit", "limit"),
                "",
                "no VM is plugged into this port",
            ),
            (
                "health",
                "health",
                "Health checks of the hypervisor's agent: straight to the member that each is for.",
                (f.ETH_TYPE, f.IPV4_SRC, f.IPV4_DST, f.IPV6_SRC, f.IPV6_DST, f.IP_PROTO, f.ICMPV4_TYPE),
                ("local_output",),
                "",
                "health check of nobody who is checked here",
            ),
            (
                "tunnel_admit",
                "overlay",
                "Accepts tunnel packets from known hypervisors only; reads destination and identity from the Geneve option.",
                (f.TUN_SRC, f.TUN_IPV6_SRC, f.TUN_OPTION),
                ("router_admit", "multicast", "ingress_admit"),
                "",
                "tunnel packet from an address that is no hypervisor's",
            ),
            (
                "provider_admit",
                "provider",
                "What a physical network sends: ARP and ND for routers and floating IPs answered, neighbours learned.",
                (f.NETWORK, f.ROUTER, f.ETH_SRC, f.ETH_DST, f.FLAGS, f.CT_STATE, f.IPV4_DST, f.IPV6_DST, *_ARP, *_ND),
                ("nd_reply", "router_admit", "router_local", "provider_output", "punt", "meter"),
                "router_admit",
                "",
            ),
            (
                "limit",
                "qos",
                "What a VM sends has to pass the meters of its port, and gets its queue where Open vSwitch shapes uplinks.",
                (f.IN_PORT_KEY,),
                ("meter", "mark"),
                "mark",
                "",
            ),
            (
                "mark",
                "qos",
                "The DSCP of what a VM sends: set, kept where the port is trusted, and cleared otherwise.",
                (f.IN_PORT_KEY, f.ETH_TYPE),
                ("port_security",),
                "port_security",
                "",
            ),
            (
                "port_security",
                "switching",
                "Anti-spoofing: the MAC and IP addresses, ARP senders and DHCP requests that a port may send.",
                (f.IN_PORT_KEY, f.ETH_SRC, f.IPV4_SRC, f.IPV4_DST, f.IPV6_SRC, f.UDP_SRC, f.UDP_DST, *_ARP, *_ND),
                ("nd_security", "services"),
                "",
                "source address is not the port's",
            ),
            (
                "nd_security",
                "switching",
                "Anti-spoofing of IPv6 neighbour discovery; router advertisements and redirects of VMs.",
                (f.IN_PORT_KEY, *_ND),
                ("services",),
                "services",
                "",
            ),
            (
                "services",
                "services",
                "Answers ARP requests and neighbour solicitations; hands DHCP, RS, DNS, IGMP and MLD to the controller.",
                (f.NETWORK, f.IN_PORT_KEY, f.ICMPV4_TYPE, f.ETH_DST, *_IP, *_PORTS, *_ARP, *_ND),
                ("nd_reply", "router_admit", "local_output", "provider_output", "punt"),
                "router_admit",
                "",
            ),
            (
                "nd_reply",
                "services",
                "Completes a neighbour advertisement that `services` or `provider_admit` began, and sends it back.",
                (f.FLAGS, f.ETH_TYPE, f.IP_PROTO, f.ICMPV6_TYPE, f.IPV6_DST),
                ("provider_output",),
                "",
                "not a neighbour advertisement",
            ),
            (
                "router_admit",
                "routing",
                "Whether the packet is for a router: its destination MAC address is an interface's.",
                (f.NETWORK, f.ETH_DST, f.FLAGS, f.ETH_TYPE, f.IPV4_DST, f.IPV6_DST),
                ("router_nat", "l2_lookup", "meter"),
                "l2_lookup",
                "",
            ),
            (
                "router_nat",
                "nat",
                "What comes for a floating IP, a forwarded port or the address of SNAT gets its address inside.",
                (f.ROUTER, f.NETWORK, f.FLAGS, *_IP, *_PORTS),
                ("router_local", "lb_vip"),
                "router_local",
                "",
            ),
            (
                "router_local",
                "routing",
                "What is for the router itself; packets whose TTL ends here.",
                (
                    f.ROUTER,
                    f.NETWORK,
                    f.FLAGS,
                    f.IP_TTL,
                    f.IP_FRAG,
                    f.ICMPV4_TYPE,
                    f.ICMPV4_CODE,
                    f.ICMPV6_TYPE,
                    f.ICMPV6_CODE,
                    f.CT_STATE,
                    f.CT_NW_DST,
                    f.CT_IPV6_DST,
                    *_IP,
                ),
                ("policy_route", "lb_forward", "l2_lookup", "punt"),
                "policy_route",
                "",
            ),
            (
                "policy_route",
                "routing",
                "Policy routes: by source, protocol and port as well, before the routes.",
                (f.ROUTER, *_IP, *_PORTS),
                ("route", "ecmp", "outward", "snat"),
                "route",
                "",
            ),
            (
                "route",
                "routing",
                "The longest prefix: which network the packet goes to, and its next hop.",
                (f.ROUTER, *_IP),
                ("ecmp", "outward", "snat", "punt"),
                "",
                "not an IP packet, or the router is down",
            ),
            (
                "ecmp",
                "routing",
                "Routes with several next hops: the one for the packet's flow.",
                (f.ROUTER, f.ROUTE, f.SLOT, f.ETH_TYPE),
                ("outward", "snat"),
                "",
                "route has no next hop",
            ),
            (
                "outward",
                "policy",
                "Packets of VMs here for the outside: their sender's policy, before any translation.",
                (f.IN_PORT_KEY, f.FLAGS),
                ("egress_admit",),
                "gateway_redirect",
                "",
            ),
            (
                "gateway_redirect",
                "gateways",
                "Packets for the outside: to the router's gateway, unless it is here.",
                (f.ROUTER, f.NETWORK, f.FLAGS, f.CT_STATE, f.ICMPV4_TYPE, f.ICMPV6_TYPE, *_IP),
                ("snat", "tunnel_output", "meter"),
                "snat",
                "",
            ),
            (
                "snat",
                "nat",
                "What leaves for the outside gets its floating IP, or the router's address, as its source.",
                (f.ROUTER, f.NETWORK, f.FLAGS, f.ICMPV4_TYPE, f.ICMPV6_TYPE, *_IP, *_PORTS, f.TCP_FLAGS),
                ("lb_leave", "neighbour"),
                "neighbour",
                "",
            ),
            (
                "lb_vip",
                "balancing",
                "What is for a load balancer: echo requests answered, everything else looked for in its sender's connections.",
                (
                    f.BALANCER,
                    f.ROUTER,
                    f.FLAGS,
                    f.IN_PORT_KEY,
                    f.CT_STATE,
                    f.IP_FRAG,
                    f.ICMPV4_TYPE,
                    f.ICMPV6_TYPE,
                    *_IP,
                    *_PORTS,
                ),
                ("policy_route", "lb_hairpin", "lb_state", "l2_lookup"),
                "",
                "not for the load balancer's address",
            ),
            (
                "lb_hairpin",
                "balancing",
                "What a member sends to its load balancer from the port that it serves: an answer to itself, or a connection as any other.",
                (f.IN_PORT_KEY, f.CT_STATE, f.ETH_TYPE),
                ("lb_state", "l2_lookup"),
                "",
                "not an IP packet",
            ),
            (
                "lb_state",
                "balancing",
                "Connections that are known go on to their member; new ones to the listener's pool, by the hash of their addresses and ports.",
                (f.BALANCER, f.FLAGS, f.CT_STATE, f.ETH_TYPE, f.IP_FRAG, f.CT_NW_PROTO, f.CT_TP_DST),
                ("lb_affinity", "lb_hash", "lb_select", "lb_forward", "punt"),
                "",
                "not an IP packet",
            ),
            (
                "lb_hash",
                "balancing",
                "Takes the connection's slot from the datapath's hash, which costs no visit to ovs-vswitchd for each connection.",
                (f.TABLE, f.SLOT),
                ("lb_select",),
                "",
                "pool is gone",
            ),
            (
                "lb_affinity",
                "balancing",
                "The member that a client had before, where the pool keeps to it: learned by the switch.",
                (f.TABLE, f.ETH_TYPE, f.IPV4_SRC, f.IPV6_SRC),
                (),
                "",
                "",
            ),
            (
                "lb_select",
                "balancing",
                "The pool's table of slots: the member that has the connection's.",
                (f.TABLE, f.SLOT, f.FLAGS),
                ("lb_dnat",),
                "",
                "pool has no such slot",
            ),
            (
                "lb_dnat",
                "balancing",
                "Commits a new connection, and translates it to its member's address and port.",
                (f.MEMBER, f.ETH_TYPE, f.IP_FRAG, f.FLAGS),
                ("lb_select", "lb_forward"),
                "",
                "member takes no new connections",
            ),
            (
                "lb_forward",
                "balancing",
                "To the connection's member: switched, routed, or back to itself.",
                (
                    f.CT_MARK,
                    f.CT_STATE,
                    f.NETWORK,
                    f.IN_PORT_KEY,
                    f.BALANCER,
                    f.CT_NW_PROTO,
                    f.CT_TP_DST,
                    f.ETH_TYPE,
                    f.IP_PROTO,
                    f.IP_FRAG,
                    f.IP_TTL,
                    f.TCP_FLAGS,
                ),
                ("neighbour", "l2_lookup", "punt"),
                "",
                "connection's member is gone",
            ),
            (
                "lb_leave",
                "balancing",
                "Counts what members answer to clients outside, which has been translated back.",
                (f.ROUTER, f.NETWORK, f.ETH_TYPE, f.CT_STATE, f.CT_MARK, f.IP_FRAG),
                ("neighbour",),
                "neighbour",
                "",
            ),
            (
                "neighbour",
                "routing",
                "The MAC address of the next hop; from here on it is switched.",
                (*_NEXT_HOP, *_IP, f.TCP_FLAGS, f.CT_NW_PROTO),
                ("router_admit", "l2_lookup", "lb_vip", "path_mtu", "punt"),
                "",
                "next hop is unknown",
            ),
            (
                "l2_lookup",
                "switching",
                "Where the destination MAC address is: a VM here, a VM behind a tunnel, or several.",
                (f.NETWORK, f.ETH_DST, f.FLAGS),
                ("egress_admit", "lb_vip"),
                "",
                "destination MAC is unknown in the network",
            ),
            (
                "egress_admit",
                "policy",
                "Who sends and who receives: their identities; only packets of VMs here have a sender's policy.",
                (f.IN_PORT_KEY, f.OUT_PORT_KEY, f.FLAGS, f.ETH_TYPE, f.IP_PROTO, f.ICMPV6_TYPE),
                ("identity", "source", "destination", "policy_admit"),
                "output_select",
                "",
            ),
            (
                "ingress_admit",
                "policy",
                "Packets for a VM here: the receiver's policy.",
                (f.OUT_PORT_KEY, f.FLAGS, f.ETH_TYPE, f.IP_PROTO, f.ICMPV6_TYPE),
                ("identity", "policy_admit", "lb_return", "local_output"),
                "lb_return",
                "",
            ),
            (
                "identity",
                "policy",
                "The identity of a port: one flow for each, whatever the number of rules.",
                (f.WHO,),
                (),
                "",
                "",
            ),
            (
                "source",
                "policy",
                "Who sends, where tunnel or wire do not tell: the port of a MAC address, and of an IP address on wires or behind routers.",
                (f.NETWORK, f.ROUTER, f.FLAGS, f.ETH_SRC, f.ETH_TYPE, f.IPV4_SRC, f.IPV6_SRC),
                ("identity", "source"),
                "",
                "",
            ),
            (
                "destination",
                "policy",
                "Who receives, where the packet goes to a wire: the port of the MAC address.",
                (f.NETWORK, f.ETH_DST),
                ("identity",),
                "",
                "",
            ),
            (
                "policy_admit",
                "policy",
                "Whether the identity has a policy; then the connection is looked for in the port's zone.",
                (f.LOCAL, f.ETH_TYPE),
                ("policy_state", "policy_exit"),
                "",
                "policy of the port's identity is not there yet",
            ),
            (
                "policy_state",
                "policy",
                "What is known of the connection: replies are judged as the direction in which it began.",
                (f.CT_STATE, f.CT_MARK, f.ETH_TYPE, f.IP_FRAG, f.FLAGS),
                ("ingress_policy", "egress_policy", "policy_done", "policy_exit"),
                "",
                "connection is invalid",
            ),
            (
                "ingress_policy",
                "policy",
                "Rules for connections that others begin with a port here.",
                _POLICY,
                ("policy_done", "policy_log"),
                "",
                "no rule of the receiver's security groups allows it",
            ),
            (
                "egress_policy",
                "policy",
                "Rules for connections that a port here begins.",
                _POLICY,
                ("policy_done", "policy_log"),
                "",
                "no rule of the sender's security groups allows it",
            ),
            (
                "policy_done",
                "policy",
                "A new connection that is allowed is committed, and logged where its rule says so.",
                (f.CT_STATE, f.ETH_TYPE, f.IP_FRAG, f.FLAGS, f.RULE),
                ("policy_log", "policy_exit"),
                "policy_exit",
                "",
            ),
            (
                "policy_log",
                "policy",
                "Copies of what rules allow, and what they deny, to be logged; metered by the rule.",
                (f.RULE,),
                ("to_controller",),
                "",
                "its rule logs nothing",
            ),
            (
                "policy_exit",
                "policy",
                "Back to where the packet came from: out of the VM's network, to the VM here, or on to its destination.",
                (f.FLAGS, f.CT_STATE),
                ("gateway_redirect", "lb_return"),
                "output_select",
                "",
            ),
            (
                "output_select",
                "switching",
                "To several, to the wire, to a VM here, or into a tunnel.",
                (f.NETWORK, f.FLAGS, f.OUT_PORT_KEY, f.PEER),
                ("multicast", "path_mtu", "ingress_admit"),
                "tunnel_output",
                "",
            ),
            (
                "multicast",
                "multicast",
                "Multicast groups whose receivers are known: a copy for each of them, and no one else.",
                (f.NETWORK, f.FLAGS, f.ETH_TYPE, f.IPV4_DST, f.IPV6_DST),
                ("flood", "tunnel_flood", "ingress_admit", "tunnel_output", "provider_output"),
                "flood",
                "",
            ),
            (
                "flood",
                "switching",
                "Broadcast and multicast: a copy for every VM of the network here.",
                (f.NETWORK,),
                ("tunnel_flood", "ingress_admit"),
                "tunnel_flood",
                "",
            ),
            (
                "tunnel_flood",
                "overlay",
                "Broadcast and multicast: one copy for every other hypervisor of the network, or one for its wire.",
                (f.NETWORK, f.FLAGS),
                ("tunnel_output", "provider_output"),
                "",
                "delivered here; nobody else to send it to",
            ),
            (
                "lb_return",
                "balancing",
                "Packets for a VM here in networks from which load balancers are reached; a member that gets its own.",
                (f.NETWORK, f.FLAGS, f.ETH_TYPE, f.NEXT_HOP, f.NEXT_HOP6),
                ("lb_answer", "local_output"),
                "local_output",
                "",
            ),
            (
                "lb_answer",
                "balancing",
                "Answers of members, and ICMP errors: translated back where they belong to a connection with a load balancer.",
                (f.IP_FRAG, f.ICMPV4_TYPE, f.ICMPV6_TYPE, *_IP, *_PORTS),
                ("lb_reply", "local_output"),
                "local_output",
                "",
            ),
            (
                "lb_reply",
                "balancing",
                "Counts what members answer.",
                (f.CT_STATE, f.CT_MARK, f.IP_FRAG, f.ETH_TYPE),
                ("local_output",),
                "local_output",
                "",
            ),
            (
                "local_output",
                "switching",
                "Hands the packet to the VM; one for a router's gateway goes into the router.",
                (f.OUT_PORT_KEY, f.NETWORK),
                ("router_admit", "meter"),
                "",
                "destination port is not on this hypervisor",
            ),
            (
                "meter",
                "qos",
                "The meter whose number the packet comes with; what is too much for its rate ends here.",
                (f.METER,),
                (),
                "",
                "",
            ),
            (
                "tunnel_output",
                "overlay",
                "Chooses the tunnel to the destination's hypervisor, with VNI, destination port and identity.",
                (f.PEER,),
                ("path_mtu",),
                "",
                "no tunnel to the destination's hypervisor",
            ),
            (
                "path_mtu",
                "overlay",
                "Packets that are too large for their way are answered; the others go out.",
                (f.FLAGS, f.NETWORK, f.PEER, f.ETH_TYPE),
                ("provider_output", "punt"),
                "",
                "packet is too large for its way",
            ),
            (
                "provider_output",
                "provider",
                "Puts the packet on the physical network's wire, with its VLAN tag.",
                (f.NETWORK, f.VLAN_VID),
                (),
                "",
                "hypervisor is not wired to the physical network",
            ),
            (
                "punt",
                "punting",
                "Packets for the controller, metered by the port that they come from.",
                (f.IN_PORT_KEY,),
                ("to_controller",),
                "",
                "port may not speak to the controller",
            ),
            (
                "to_controller",
                "punting",
                "Hands the packet to the controller, metered for the whole bridge.",
                (f.PUNT,),
                (),
                "",
                "no controller is asked",
            ),
        ]
    )
)

(
    CLASSIFY,
    HEALTH,
    TUNNEL_ADMIT,
    PROVIDER_ADMIT,
    LIMIT,
    MARK,
    PORT_SECURITY,
    ND_SECURITY,
    SERVICES,
    ND_REPLY,
    ROUTER_ADMIT,
    ROUTER_NAT,
    ROUTER_LOCAL,
    POLICY_ROUTE,
    ROUTE,
    ECMP,
    OUTWARD,
    GATEWAY_REDIRECT,
    SNAT,
    LB_VIP,
    LB_HAIRPIN,
    LB_STATE,
    LB_HASH,
    LB_AFFINITY,
    LB_SELECT,
    LB_DNAT,
    LB_FORWARD,
    LB_LEAVE,
    NEIGHBOUR,
    L2_LOOKUP,
    EGRESS_ADMIT,
    INGRESS_ADMIT,
    IDENTITY,
    SOURCE,
    DESTINATION,
    POLICY_ADMIT,
    POLICY_STATE,
    INGRESS_POLICY,
    EGRESS_POLICY,
    POLICY_DONE,
    POLICY_LOG,
    POLICY_EXIT,
    OUTPUT_SELECT,
    MULTICAST,
    FLOOD,
    TUNNEL_FLOOD,
    LB_RETURN,
    LB_ANSWER,
    LB_REPLY,
    LOCAL_OUTPUT,
    METER,
    TUNNEL_OUTPUT,
    PATH_MTU,
    PROVIDER_OUTPUT,
    PUNT,
    TO_CONTROLLER,
) = PIPELINE

BY_NAME: dict[str, Table] = {table.name: table for table in PIPELINE}

MISS = 0
"""Priority of a table's flow for packets that no other wants."""


def check(flow: Flow) -> None:
    """Raise ValueError where a flow does what its table does not declare."""
    if not 0 <= flow.table < len(PIPELINE):
        raise ValueError(f"table {flow.table} is not declared")
    table = PIPELINE[flow.table]
    readable = {key for field in table.reads for key in _matched(field(field.ones))}
    matched = list(_matched(flow.match))
    if len(matched) != len(set(matched)):
        raise ValueError(f"{table.name}: matches a field twice")
    for key in matched:
        if key not in readable:
            raise ValueError(f"{table.name}: matches {f.FIELDS.get(key, key)}, which the table does not declare")
    targets = {BY_NAME[name].number for name in (*table.goes_to, table.otherwise) if name}
    if flow.goto is not None and flow.goto not in targets:
        raise ValueError(f"{table.name}: goes to table {flow.goto}, which the table does not declare")


def _matched(match: bytes) -> Iterator[tuple[int, int]]:
    """(class, number) of every field in a match."""
    at = 0
    while at < len(match):
        yield int.from_bytes(match[at : at + 2], "big"), match[at + 2] >> 1
        at += 4 + match[at + 3]
