"""Health checks in the switch: from the port of the hypervisor's agent to members whose VMs are here, and back.

A check goes straight to its VM: no policy is asked, as it is NovaNet's own. What comes back is told from what a VM sends to the
load balancer by its destination port, which no client's connection has (``topology.health``), and kept from everybody else.
Addresses are translated without conntrack, so a check costs no connection. The agent reaches what flows here name, and
nothing reaches the agent but answers.
"""

from __future__ import annotations

from collections.abc import Iterator

from topology.graph import Topology
from topology.health import AGENT_MAC, CANARY, SOURCES4, Check, check_at, endpoints
from topology.model import Bridge, Port

from . import fields as f
from . import tables as t
from .flow import IN_PORT_RESERVED, Action, Flow, Rule, clone, match, output, resubmit, set_bits, set_field
from .routers import V4, V6, Family
from .services import answer_arp, answer_nd

# priorities, a band for each table
AGENT, CHECK, CANARY_ANSWER, ANSWER, TO_AGENT = 150, 100, 100, 300, 200

UNREACHABLE = {4: 3, 6: 1}
"""ICMP types by which a host says that nobody listens (RFC 792, RFC 4443)."""
_MAC = f.mac(AGENT_MAC)
_PORTS = {"tcp": (f.TCP, f.TCP_SRC, f.TCP_DST), "udp": (f.UDP, f.UDP_SRC, f.UDP_DST)}
_FOR_AGENT = (f.OUT_PORT_KEY(0), f.NETWORK(0))
"""What no packet for a VM is: in no network, for no port."""


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """The agent's port, where there is one: what comes from there is a check, or asks whether the switch is there."""
    bridge: Bridge | None = topology.get("bridge", hypervisor)
    if bridge is None or bridge.agent_ofport is None:
        return
    yield Flow(t.CLASSIFY.number, AGENT, match(f.IN_PORT(bridge.agent_ofport)), goto=t.HEALTH.number)
    yield Flow(t.LOCAL_OUTPUT.number, TO_AGENT, match(*_FOR_AGENT), (output(bridge.agent_ofport),))
    echo = match(f.ETH_TYPE(f.IPV4), f.IP_PROTO(f.ICMP), f.IPV4_DST(CANARY), f.ICMPV4_TYPE(V4.echo))
    answer = (
        set_field(f.IPV4_DST, SOURCES4),
        set_field(f.IPV4_SRC, CANARY),
        set_field(f.ICMPV4_TYPE, V4.echo_reply),
        output(IN_PORT_RESERVED),
    )
    yield Flow(t.HEALTH.number, CANARY_ANSWER, echo, answer)


def member(topology: Topology, hypervisor: str, id: str) -> Iterator[Rule]:
    """A member that is checked here: the way to its VM, and back."""
    check = check_at(topology, hypervisor, id)
    if check is None:
        return
    port: Port = topology.get("port", check.port_id)
    family = V6 if ":" in check.address else V4
    yield _there(check, port, family)
    if check.mac is not None:
        yield _resolve(check, port, family, f.mac(check.mac))
    if check.mode == "icmp":
        yield _icmp_back(check, port, family, family.echo_reply)
        return
    yield _back(check, port, family)
    if check.mode == "udp":
        yield _icmp_back(check, port, family, UNREACHABLE[family.version])


def _there(check: Check, port: Port, family: Family) -> Flow:
    ends = endpoints(family.version, check.key)
    here = match(f.ETH_TYPE(family.ethertype), family.source(ends.source), family.destination(ends.target))
    actions = (
        set_field(f.ETH_DST, f.mac(port.mac_address or "")),
        set_field(family.source, f.ip(check.seen_from)),
        set_field(family.destination, f.ip(check.address)),
        set_field(f.OUT_PORT_KEY, port.port_key or 0),
        set_bits(f.EXEMPT, 1),
    )
    return Flow(t.HEALTH.number, CHECK, here, actions, metadata=check.vni, goto=t.LOCAL_OUTPUT.number)


def _resolve(check: Check, port: Port, family: Family, mac: int) -> Flow:
    """The member finds the load balancer on its link even while that is down, so that it does not seem to be down itself."""
    answer = answer_nd if family.version == 6 else answer_arp
    return answer(check.vni, f.ip(check.seen_from), mac, f.IN_PORT_KEY(port.port_key or 0))


def _sent(check: Check, port: Port, family: Family, protocol: int) -> tuple[bytes, ...]:
    """The match on what a member sends to where its checks seem to come from."""
    return (
        f.IN_PORT_KEY(port.port_key or 0),
        f.ETH_TYPE(family.ethertype),
        f.IP_PROTO(protocol),
        family.source(f.ip(check.address)),
        family.destination(f.ip(check.seen_from)),
    )


def _to_agent(family: Family, key: int) -> tuple[Action, ...]:
    ends = endpoints(family.version, key)
    return (
        set_field(f.ETH_DST, _MAC),
        set_field(family.source, ends.target),
        set_field(family.destination, ends.source),
        set_field(f.OUT_PORT_KEY, 0),
    )


def _back(check: Check, port: Port, family: Family) -> Flow:
    protocol, source, destination = _PORTS[check.mode]
    ports = source(check.port or 0), destination(check.source_port or 0)
    answer = match(*_sent(check, port, family, protocol), *ports)
    actions = _to_agent(family, check.key)
    return Flow(t.SERVICES.number, ANSWER, answer, actions, metadata=0, goto=t.LOCAL_OUTPUT.number)


def _icmp_back(check: Check, port: Port, family: Family, kind: int) -> Flow:
    """An ICMP message tells neither port nor number: the agent gets it as the port's, and finds in it which check it is about.

    It is the load balancer's as well, which may have sent what it complains of.
    """
    message = match(*_sent(check, port, family, family.icmp), family.icmp_type(kind))
    copy_for_agent = clone(
        [*_to_agent(family, port.port_key or 0), set_field(f.NETWORK, 0), resubmit(t.LOCAL_OUTPUT.number)]
    )
    return Flow(t.SERVICES.number, ANSWER, message, (copy_for_agent,), goto=t.ROUTER_ADMIT.number)
