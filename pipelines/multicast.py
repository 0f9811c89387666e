"""Multicast for those who want it: IGMP and MLD snooping (RFC 4541) in a network.

What VMs report goes to the controller, which keeps who wants which group (``multicast-group`` in the graph). A group that is
known there goes to its receivers and to nobody else; one that nobody ever asked for is flooded like broadcast.

The copies stand in the flow itself rather than in a group of OpenFlow: a flow needs no number that no other group
has, and one message replaces it. A flow-mod of 64 KiB holds some 2,000 copies; how larger sets are served, ``LARGEST``
says.
"""

from __future__ import annotations

from collections.abc import Iterator

from topology.graph import Topology
from topology.model import MulticastGroup

from . import fields as f
from . import overlay
from . import tables as t
from .addresses import addresses_of
from .flow import Action, Flow, Rule, match, resubmit, set_field
from .packets.multicast import IGMP, MLD_DONE, MLD_QUERY, MLD_REPORT1, MLD_REPORT2, always_flooded
from .placement import Placed, live_vni
from .punting import Reason, punt
from .services import ICMPV6

# priorities, a band for each table
WITHOUT_ADDRESS = 100
TELL_WIRE, TELL = 92, 90
FROM_HERE, FROM_ELSEWHERE = 200, 100

LARGEST = 1000
"""Copies of one flow. With more, all hypervisors of the network get one, and each of them gives it to its receivers
only; with more on one hypervisor alone, that one floods it."""

_REPORTS = (
    (f.ETH_TYPE(f.IPV4), f.IP_PROTO(IGMP)),
    *((*ICMPV6, f.ICMPV6_TYPE(kind)) for kind in (MLD_QUERY, MLD_REPORT1, MLD_DONE, MLD_REPORT2)),
)
_PUNT = punt(Reason.MULTICAST_MEMBERSHIP)


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """Reports are for the controller; no other VM hears them (RFC 4541 section 2.1.1)."""
    for report in _REPORTS:
        yield Flow(t.SERVICES.number, TELL, match(*report), _PUNT, goto=t.PUNT.number)


def network(topology: Topology, hypervisor: str, network_id: str) -> Iterator[Rule]:
    """On a wire there may be routers and other snooping switches: they hear the reports too."""
    vni = live_vni(topology, network_id)
    if vni is None or hypervisor not in topology.hypervisors_of(network_id):
        return
    if hypervisor in topology.wired_to(network_id):
        actions = (resubmit(t.PROVIDER_OUTPUT.number), *_PUNT)
        for report in _REPORTS:
            yield Flow(t.SERVICES.number, TELL_WIRE, match(f.NETWORK(vni), *report), actions, goto=t.PUNT.number)


def port(topology: Topology, hypervisor: str, found: Placed) -> Iterator[Rule]:
    """A VM that has no address yet may report groups (RFC 3376 section 4.2.13); for MLD ``switching`` sees to it."""
    if not found.here or not found.port.port_security_enabled:
        return
    for mac, prefixes in addresses_of(found.port).allowed.items():
        if prefixes.v4:
            report = match(f.IN_PORT_KEY(found.key), f.ETH_SRC(mac), *_REPORTS[0], f.IPV4_SRC(0))
            yield Flow(t.PORT_SECURITY.number, WITHOUT_ADDRESS, report, goto=t.SERVICES.number)


def multicast_group(topology: Topology, hypervisor: str, group_id: str) -> Iterator[Rule]:
    """A group that is known: a copy for each of its receivers here, and one for each hypervisor that has others."""
    found: MulticastGroup | None = topology.get("multicast-group", group_id)
    vni = live_vni(topology, found.network_id) if found is not None else None
    if found is None or vni is None or hypervisor not in topology.hypervisors_of(found.network_id):
        return
    group = f.ip(found.group)
    here, away = _receivers(topology, hypervisor, found)
    if always_flooded(group) or len(here) > LARGEST:
        return
    address = (f.ETH_TYPE(f.IPV6), f.IPV6_DST(group)) if ":" in found.group else (f.ETH_TYPE(f.IPV4), f.IPV4_DST(group))
    copies = tuple(
        action for key in here for action in (set_field(f.OUT_PORT_KEY, key), resubmit(t.INGRESS_ADMIT.number))
    )
    yield Flow(
        t.MULTICAST.number,
        FROM_ELSEWHERE,
        match(f.NETWORK(vni), *address),
        copies,
        reason="" if copies else "nobody here wants the multicast group",
    )
    from_here = match(f.NETWORK(vni), f.ORIGIN(0), *address)
    peers = overlay.peers_to_copy(topology, hypervisor, found.network_id, away)
    if len(here) + len(peers) > LARGEST:
        yield Flow(t.MULTICAST.number, FROM_HERE, from_here, copies, goto=t.TUNNEL_FLOOD.number)
        return
    sends = (*copies, *_to_peers(peers), *overlay.copies_to_foreign(topology, hypervisor, found.network_id))
    wired = hypervisor in topology.wired_to(found.network_id)
    yield Flow(
        t.MULTICAST.number,
        FROM_HERE,
        from_here,
        sends,
        goto=t.PROVIDER_OUTPUT.number if wired else None,
        reason="" if sends or wired else "nobody wants the multicast group",
    )


def _receivers(topology: Topology, hypervisor: str, found: MulticastGroup) -> tuple[list[int], set[str]]:
    """Keys of the ports here that want the group, and the hypervisors where others do."""
    here: list[int] = []
    away: set[str] = set()
    for id in found.ports:
        port, location = topology.get("port", id), topology.location(id)
        if port is None or location is None or not port.admin_state_up:
            continue
        if location == hypervisor:
            here.append(port.port_key or 0)
        else:
            away.add(location)
    return sorted(here), away


def _to_peers(peers: list[int]) -> Iterator[Action]:
    if peers:
        yield set_field(f.OUT_PORT_KEY, 0)
    for key in peers:
        yield set_field(f.PEER, key)
        yield resubmit(t.TUNNEL_OUTPUT.number)
