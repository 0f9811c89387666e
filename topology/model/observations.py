"""Observations: what is true on the hypervisors, never stored."""

from __future__ import annotations

from msgspec import Struct

IFACE_ID = "iface-id"
"""Key in external_ids of an interface: the id of the port whose VM it belongs to."""


class Vif(Struct, frozen=True, kw_only=True):
    """A VM's interface seen in a hypervisor's OVSDB. Its id in the graph is the port's."""

    port_id: str
    hypervisor_id: str
    interface: str
    ofport: int | None = None
    """OpenFlow port number; None until vswitchd has opened the device."""
    mtu: int | None = None
    error: str = ""


class Bridge(Struct, frozen=True, kw_only=True):
    """The state of a hypervisor's br-int as its OVSDB shows it. Its id in the graph is the hypervisor's."""

    hypervisor_id: str
    tunnel_ofport: int | None = None
    agent_ofport: int | None = None
    """The port of the hypervisor's agent (``topology.health``)."""
    provider_ofports: tuple[tuple[str, int], ...] = ()
    """(physical network, OpenFlow port towards it) for each mapping that is in place."""
    underlay_mtu: int | None = None
    datapath_type: str = ""
    ovs_version: str = ""
    exporting: tuple[str, ...] = ()
    """The flow exporters that are set up there, ``ID/REVISION`` each."""
    queueing: tuple[str, ...] = ()
    """The uplinks that Open vSwitch itself has to shape: ports of its own on the kernel's datapath (``topology.queues``)."""
    queues: tuple[tuple[str, int], ...] = ()
    """(uplink, number) of each queue that is there as it has to be."""
    problems: tuple[str, ...] = ()


class Meters(Struct, frozen=True, kw_only=True):
    """What a hypervisor's switch can do with meters, and how many it has. Its id in the graph is the hypervisor's.

    Known from OFPMP_METER_FEATURES once the switch has connected.
    """

    hypervisor_id: str
    max_meters: int
    """0: it has none."""
    in_use: int = 0
    """What NovaNet wants of them."""
    kbps: bool = True
    pktps: bool = True
    burst: bool = True
    dscp_remark: bool = False


class Link(Struct, frozen=True, kw_only=True):
    """The probe (BFD) from a hypervisor to another one. Its id in the graph is ``hypervisor/peer``."""

    hypervisor_id: str
    peer_id: str
    ofport: int | None = None
    up: bool = False
    settled: bool = True
    """Whether ``up`` can be believed: the session was up since the port was made, or had the time to come up."""


class Handover(Struct, frozen=True, kw_only=True):
    """A port's way from one identity to another, until the switches that are to know the new one do. Its id in the graph is
    the port's. Identities are numbers, 0 for none.
    """

    told: int | None
    """The identity that flows tell of the port as yet; None: its own."""
    former: frozenset[int]
    """Those whose rules stay where the port is, since flows there may still tell them."""


class Load(Struct, frozen=True, kw_only=True):
    """How many connections with a pool's members begin on a hypervisor, as its agent counts them. Its id in the graph is its row's
    in the intent store, where it goes with the hypervisor (docs/decisions/0019).
    """

    hypervisor_id: str
    pool_id: str
    connections: dict[int, int]
    """Live ones, by the members' keys. Members without any are not in it."""
    began: int = 0
    """Connections that were new in some count, since the agent has begun to tell of the pool."""
    beat: int = 0
    """Goes up when nothing else has changed for long, so that an agent that is gone can be told."""


class MulticastGroup(Struct, frozen=True, kw_only=True):
    """Who wants a multicast group in a network, as IGMP and MLD told. Its id in the graph is ``network/group``.

    Without ports the group is known, and nobody wants it any more.
    """

    network_id: str
    group: str
    ports: frozenset[str] = frozenset()
