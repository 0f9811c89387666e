"""What quality of service means for a port, a floating IP and a router's gateway, and what uplinks have promised.

The most specific policy holds, as a whole: a port's own over its network's, a floating IP's own over that of its router's
gateway. A port's policy and its floating IP's are for different legs of the way, and both hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace

from .graph import Topology
from .model import FloatingIp, Hypervisor, Network, Port, QosRule
from .mtu import PROVIDER

BURST_MS = 400
"""The burst of a limit that names none, in milliseconds of its rate: twice TCP's least retransmission timeout (200 ms in Linux).
With half of it TCP reaches 90 % of a meter's rate, with a quarter half; with more, what is sent at once takes longer to end."""
BURST_LEAST = 73
"""… and at least so many kbit: a frame of a network with an MTU of 9000."""
BEHIND_SHAPING = 2
"""How many times a limit its meter lets pass where the VM's interface is shaped."""
FRAME = 14 + 4
"""Bytes of an Ethernet header with a VLAN tag, which count in limits as the IP packet does."""

RESERVE_PERCENT, RESERVE_LEAST = 5, 1_000
"""What of an uplink is never promised, for traffic without a guarantee: per cent, and at least so many kbit/s."""

Source = Literal["port", "network", "floating-ip", "gateway", ""]


class View(Protocol):
    """What knows objects and who belongs to what: the graph, or a draft over it."""

    def get(self, kind: str, id: str) -> Any: ...
    def qos_rules_of(self, policy_id: str) -> Collection[str]: ...
    def ports_on(self, hypervisor_id: str) -> Collection[str]: ...


class Limit(Struct, frozen=True):
    """The most of one direction; None: no limit."""

    kbps: int | None = None
    burst_kbit: int = 0
    pps: int | None = None
    burst_packets: int = 0
    shaped: bool = False
    """Whether what is beyond ``kbps`` waits at the VM's interface; elsewhere it is dropped."""

    @property
    def meters(self) -> int:
        """Meters that it takes, one for each kind of rate."""
        return (self.kbps is not None) + (self.pps is not None)


class Quality(Struct, frozen=True):
    """What holds for a port, a floating IP or a gateway. Directions are the VM's: egress is what it sends."""

    policy_id: str | None = None
    source: Source = ""
    """What the policy is attached to; empty: there is none."""
    egress: Limit = Limit()
    ingress: Limit = Limit()
    dscp: int | None = None
    """The DSCP that what is sent gets."""
    trusted: bool = False
    """Whether the DSCP of what is sent stays where ``dscp`` does not say otherwise; else it is cleared."""
    priority: int | None = None
    max_latency_ms: int | None = None
    min_kbps: int | None = None

    @property
    def meters(self) -> int:
        """Meters that it takes."""
        return self.egress.meters + self.ingress.meters


NOTHING = Quality()
UNTOUCHED = Quality(trusted=True)
"""Of what passes a floating IP or a gateway without a policy: it was looked at where it came from."""


def burst_floor(mtu: int) -> int:
    """The kbit of one frame with an IP packet of ``mtu`` bytes: a smaller burst lets none pass."""
    return -(-(mtu + FRAME) * 8 // 1000)


def largest_packet(view: Any, network: Network) -> int:
    """No IP packet of a network has more bytes: its MTU, or what the wire below takes."""
    if network.mtu is not None:
        return network.mtu
    if network.physical_network is not None:
        return PROVIDER
    return 1500 if view.mesh is None else int(view.mesh.underlay_mtu)


# --- what holds --------------------------------------------------------------------------------------------------


def of_port(view: View, port_id: str) -> Quality:
    """What holds for a VM's port by its own policy or its network's; for a router's gateway as ``of_gateway`` says."""
    port: Port | None = view.get("port", port_id)
    if port is None:
        return NOTHING
    if port.router_id is not None:
        return of_gateway(view, port_id) or NOTHING
    policy, source = policy_of_port(view, port)
    return quality(view, policy, source, trusted=port.trust_dscp)


def policy_of_port(view: View, port: Port) -> tuple[str | None, Source]:
    """The policy that holds for a VM's port, and what it is attached to."""
    if port.qos_policy_id is not None:
        return port.qos_policy_id, "port"
    network: Network | None = view.get("network", port.network_id)
    policy = None if network is None else network.qos_policy_id
    return policy, "network" if policy is not None else ""


def of_gateway(view: View, port_id: str) -> Quality | None:
    """What holds for all that passes a router's gateway and no floating IP; None where its port names no policy."""
    port: Port | None = view.get("port", port_id)
    if port is None or port.router_id is None or port.qos_policy_id is None:
        return None
    return quality(view, port.qos_policy_id, "gateway", trusted=True)


def of_floating_ip(topology: Topology, floating_ip_id: str) -> Quality | None:
    """What holds for all that passes a floating IP: by its own policy, else by that of the gateway of the router that leads
    to it, each floating IP for itself, since it leaves where its VM is. None where neither names one.
    """
    floating: FloatingIp | None = topology.get("floating-ip", floating_ip_id)
    if floating is None:
        return None
    if floating.qos_policy_id is not None:
        return quality(topology, floating.qos_policy_id, "floating-ip", trusted=True)
    router = topology.router_of_floating(floating_ip_id)
    gateway = None if router is None else topology.gateway_of(router)
    return None if gateway is None else of_gateway(topology, gateway.id)


def rules_of(view: View, policy_id: str | None) -> Iterator[QosRule]:
    """The rules of a policy."""
    for id in view.qos_rules_of(policy_id) if policy_id is not None else ():
        yield view.get("qos-rule", id)


def quality(view: View, policy_id: str | None, source: Source, trusted: bool = False) -> Quality:
    """What a policy means. With its rules still to come it is there, and says nothing."""
    if policy_id is None:
        return Quality(trusted=trusted)
    rules: dict[tuple[str, str], QosRule] = {(rule.type, rule.direction): rule for rule in rules_of(view, policy_id)}

    def said(type: str, field: str) -> int | None:
        return getattr(rules.get((type, "egress")), field, None)

    return Quality(
        policy_id=policy_id,
        source=source,
        egress=_limit(rules.get(("bandwidth_limit", "egress")), rules.get(("packet_rate_limit", "egress"))),
        ingress=_limit(
            rules.get(("bandwidth_limit", "ingress")),
            rules.get(("packet_rate_limit", "ingress")),
            has_interface=source in ("port", "network"),
        ),
        dscp=said("dscp_marking", "dscp_mark"),
        trusted=trusted,
        priority=said("priority", "priority"),
        max_latency_ms=said("max_latency", "max_latency_ms"),
        min_kbps=said("minimum_bandwidth", "min_kbps"),
    )


def _limit(bandwidth: QosRule | None, packets: QosRule | None, has_interface: bool = False) -> Limit:
    kbps = None if bandwidth is None else bandwidth.max_kbps
    pps = None if packets is None else packets.max_pps
    return Limit(
        kbps,
        0 if bandwidth is None or kbps is None else burst_kbit(kbps, bandwidth.max_burst_kbps),
        pps,
        0 if packets is None or pps is None else packets.max_burst_packets or max(pps * BURST_MS // 1000, 1),
        has_interface and bandwidth is not None and bandwidth.shape,
    )


def behind_shaping(limit: Limit) -> Limit:
    """What the meter of a VM's port has to be where its interface is shaped: what would never find room there need not come so far, and
    without the agent it is a limit still.
    """
    if limit.kbps is None or not limit.shaped:
        return limit
    return replace(limit, kbps=limit.kbps * BEHIND_SHAPING, burst_kbit=limit.burst_kbit * BEHIND_SHAPING)


def burst_kbit(kbps: int, wish: int | None) -> int:
    """The burst of a limit, in kbit: the one asked for, or one by which TCP gets its rate."""
    return max(kbps * BURST_MS // 1000, BURST_LEAST) if wish is None else wish


# --- what is promised --------------------------------------------------------------------------------------------


class Guarantee(Struct, frozen=True):
    """What a port has been promised, in kbit/s."""

    port_id: str
    min_kbps: int


class Account(Struct, frozen=True):
    """What one uplink of a hypervisor has, and has promised; in kbit/s."""

    interface: str
    physical_networks: tuple[str, ...]
    """What it carries; the empty one stands for tunnels."""
    bandwidth_kbps: int
    guarantees: tuple[Guarantee, ...] = ()
    """By port id."""

    @property
    def reserve_kbps(self) -> int:
        """What is never promised."""
        return max(self.bandwidth_kbps * RESERVE_PERCENT // 100, RESERVE_LEAST)

    @property
    def available_kbps(self) -> int:
        """What can be promised in all."""
        return self.bandwidth_kbps - self.reserve_kbps

    @property
    def promised_kbps(self) -> int:
        """What has been."""
        return sum(each.min_kbps for each in self.guarantees)

    @property
    def left_kbps(self) -> int:
        """What can still be; negative where VMs were plugged that have been promised more than there is."""
        return self.available_kbps - self.promised_kbps

    def granted(self, min_kbps: int) -> int:
        """What a port gets of its guarantee: all of it, or its share of what there is."""
        promised = self.promised_kbps
        return min_kbps if promised <= self.available_kbps else min_kbps * self.available_kbps // promised


class Accounts(Struct, frozen=True):
    """What a hypervisor has promised."""

    uplinks: tuple[Account, ...] = ()
    """In the order in which the hypervisor lists them."""
    without: tuple[Guarantee, ...] = ()
    """Of ports whose network no uplink carries."""

    def of(self, physical_network: str) -> Account | None:
        """The account of the uplink that carries a physical network, or for "" tunnels."""
        return next((each for each in self.uplinks if physical_network in each.physical_networks), None)


def carrier(network: Network) -> str:
    """What carries a network between hypervisors: a physical network, or for "" tunnels."""
    return network.physical_network or ""


def guarantees(view: View, hypervisor_id: str) -> Accounts:
    """What each uplink of a hypervisor has promised to the ports that are there.

    A port's guarantee is for the uplink that carries its network.
    """
    hypervisor: Hypervisor | None = view.get("hypervisor", hypervisor_id)
    carried: dict[str, list[str]] = {}
    bandwidth: dict[str, int] = {}
    by: dict[str, str] = {}
    for uplink in hypervisor.uplinks if hypervisor is not None else ():
        carried.setdefault(uplink.interface, []).append(uplink.physical_network)
        bandwidth[uplink.interface] = uplink.bandwidth_kbps
        by[uplink.physical_network] = uplink.interface
    found: dict[str | None, list[Guarantee]] = {}
    for guarantee, wire in _promised(view, hypervisor_id):
        found.setdefault(by.get(wire), []).append(guarantee)
    accounts = (
        Account(interface, tuple(wires), bandwidth[interface], tuple(found.get(interface, ())))
        for interface, wires in carried.items()
    )
    return Accounts(tuple(accounts), tuple(found.get(None, ())))


def _promised(view: View, hypervisor_id: str) -> Iterator[tuple[Guarantee, str]]:
    """The guarantees of the ports on a hypervisor, by port id, each with what carries the port's network."""
    least: dict[str, int | None] = {}
    for id in sorted(view.ports_on(hypervisor_id)):
        port: Port = view.get("port", id)
        policy, _ = policy_of_port(view, port)
        if policy is None or port.router_id is not None:
            continue
        if policy not in least:
            least[policy] = next((r.min_kbps for r in rules_of(view, policy) if r.type == "minimum_bandwidth"), None)
        min_kbps = least[policy]
        if min_kbps is not None:
            yield Guarantee(id, min_kbps), carrier(view.get("network", port.network_id))
