"""Which members are checked by whom, and by which addresses their hypervisor's agent knows them.

The agent (``novanet_apps.host_agent``) has a namespace of its own with one port on the integration bridge. Members of many
tenants have the same addresses, so there each has one made of its number; the switch translates (``pipelines.health``). To
the VM a check comes from the load balancer's own address, and from a source port below those that clients use: member
``n`` of those that share an address, in the order of their numbers, is checked from port FIRST_PORT + n.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Literal

from msgspec import Struct

from .balancing import port_of
from .graph import Topology
from .model import HealthMonitor, LoadBalancer, Member, Network, Pool

AGENT_PORT = "nn-agent"
"""The agent's port on the integration bridge."""
AGENT_OWNER = "novanet-agent"
"""Key in external_ids of the rows that the agent makes in Open vSwitch's database."""
AGENT_MAC = "02:4e:56:ff:ff:fd"
"""The MAC address of the agent's end, the same on every hypervisor: it is seen nowhere else."""

FIRST_PORT, PORTS = 384, 64
"""Source ports of checks. Hosts give outgoing connections ports from 1024 on; the few services that ask for lower ones
(bindresvport(3)) take 512 to 1023."""

SOURCES4, TARGETS4 = int(ip_address("100.64.0.0")), int(ip_address("10.0.0.0"))
"""IPv4 addresses that the agent sends from and to: the high 8 and the low 24 bits of a member's number."""
SOURCE6, TARGETS6 = int(ip_address("fd4e:4e:0:1::1")), int(ip_address("fd4e:4e:0:2::"))
"""IPv6 addresses that it sends from and to: one, and as many as there are numbers."""
CANARY = int(ip_address("100.64.1.1"))
"""What the switch itself answers (ICMP echo), so that the agent knows whether its checks get as far as that."""

Mode = Literal["tcp", "udp", "icmp"]
MODES: dict[str, Mode] = {"TCP": "tcp", "HTTP": "tcp", "HTTPS": "tcp", "UDP-CONNECT": "udp", "PING": "icmp"}
"""What each type of health monitor speaks."""


class Endpoints(Struct, frozen=True):
    """How a number looks to the agent."""

    source: int
    """Its own address."""
    target: int


def endpoints(version: int, key: int) -> Endpoints:
    """The addresses that stand for a number: a member's in checks, a port's in ICMP messages that come back."""
    if version == 6:
        return Endpoints(SOURCE6, TARGETS6 + key)
    return Endpoints(SOURCES4 + (key >> 24), TARGETS4 + (key & 0xFFFFFF))


def number(version: int, own: int, other: int) -> int:
    """The number of which ``endpoints`` has made an address of the agent's and another one."""
    return other - TARGETS6 if version == 6 else (own - SOURCES4) << 24 | other - TARGETS4


def source_port(sharing: Iterable[int], key: int) -> int | None:
    """The port that a member is checked from, by the numbers of all members that have its address; None: there are too many."""
    place = sorted(sharing).index(key)
    return FIRST_PORT + place if place < PORTS else None


def checked_port(monitor: HealthMonitor, member: Member) -> int | None:
    """The port that is checked; None where there is none to be, or none is said."""
    return None if monitor.type == "PING" else member.monitor_port or member.protocol_port


def is_checked(pool: Pool, monitor: HealthMonitor, member: Member) -> bool:
    """Whether it is wanted, and said how."""
    up = pool.admin_state_up and monitor.admin_state_up and member.admin_state_up
    return up and (monitor.type == "PING" or checked_port(monitor, member) is not None)


class Check(Struct, frozen=True):
    """A check of a member as the switch at its VM has to know it."""

    key: int
    """The member's number."""
    mode: Mode
    address: str
    """The member's."""
    seen_from: str
    """The address that the member sees the check come from: the load balancer's."""
    port: int | None
    source_port: int | None
    port_id: str
    """The VM's port."""
    vni: int
    mac: str | None
    """The load balancer's MAC address, where it is a host of the VM's own network."""


def check_at(topology: Topology, hypervisor: str, member_id: str) -> Check | None:
    """How a hypervisor checks a member; None where it does not."""
    member: Member | None = topology.get("member", member_id)
    if member is None or member.member_key is None:
        return None
    pool: Pool | None = topology.get("pool", member.pool_id)
    found: list[HealthMonitor] = [topology.get("health-monitor", id) for id in topology.monitors_of(member.pool_id)]
    balancer: LoadBalancer | None = topology.get("load-balancer", pool.loadbalancer_id) if pool is not None else None
    if pool is None or balancer is None or not found or not is_checked(pool, found[0], member):
        return None
    port = port_of(topology, member)
    if port is None or topology.location(port.id) != hypervisor:
        return None
    network: Network | None = topology.get("network", port.network_id)
    if network is None or not network.admin_state_up:
        return None
    shared = topology.members_at((member.subnet_id or "", member.address))
    keys = [topology.get("member", id).member_key or 0 for id in shared]
    mode, source = MODES[found[0].type], source_port(keys, member.member_key)
    if mode != "icmp" and source is None:
        return None
    return Check(
        member.member_key,
        mode,
        member.address,
        balancer.vip_address or "",
        checked_port(found[0], member),
        source if mode != "icmp" else None,
        port.id,
        network.vni or 0,
        balancer.vip_mac_address if balancer.vip_network_id == network.id else None,
    )
