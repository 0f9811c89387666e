"""Provider networks: networks whose VMs are on a physical network, flat or in a VLAN (IEEE 802.1Q), with hosts outside.

A hypervisor is wired when it has a bridge mapping for the physical network. What wired hypervisors' VMs send each other
goes over the wire like what they send outside; only hypervisors without a mapping are reached through tunnels.
"""

from __future__ import annotations

from collections.abc import Iterator

from topology.graph import Topology
from topology.model import Bridge, Network

from . import fields as f
from . import overlay
from . import tables as t
from .flow import Action, Flow, Rule, match, output, pop_vlan, push_vlan, set_bits, set_field
from .placement import Placed, live_vni

# priorities, a band for each table
FROM_WIRE, FOREIGN_VLAN = 300, 250
OURS = 500
TO_WIRE, TAGGED = 100, 50
COPY = 50

_TAG = 0x1000
"""Bit 12 of vlan_vid: the frame has a tag."""
_UNTAGGED, _PRIORITY_TAGGED = f.VLAN_VID(0), f.VLAN_VID(_TAG)
"""A tag with VLAN 0 carries a priority only: the frame counts as untagged (IEEE 802.1Q, section 6.9.1)."""


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """What does not pass between a wire and the networks here."""
    bridge: Bridge | None = topology.get("bridge", hypervisor)
    for _, port in bridge.provider_ofports if bridge is not None else ():
        yield Flow(t.CLASSIFY.number, FOREIGN_VLAN, match(f.IN_PORT(port)), reason="VLAN of no network here")
    yield Flow(
        t.PROVIDER_OUTPUT.number, TAGGED, match(f.VLAN_VID(_TAG, _TAG)), reason="a VM may not choose the VLAN of a wire"
    )


def network(topology: Topology, hypervisor: str, network_id: str) -> Iterator[Rule]:
    """Between a network and its wire: unicast to hosts that are no VMs here, and broadcast."""
    found: Network | None = topology.get("network", network_id)
    vni, wire = live_vni(topology, network_id), _wire(topology, hypervisor, network_id)
    if found is None or vni is None or wire is None:
        return
    if not found.external and hypervisor not in topology.reachers_of(network_id):
        return
    yield from _from_wire(wire, found.segmentation_id, vni)
    from_here = match(f.NETWORK(vni), f.ORIGIN(0))
    yield from overlay.unknown_unicast(vni, goto=t.PATH_MTU)
    yield Flow(t.TUNNEL_FLOOD.number, COPY, from_here, goto=t.PROVIDER_OUTPUT.number)
    tag: tuple[Action, ...] = ()
    if found.segmentation_id is not None:
        tag = (push_vlan(), set_field(f.VLAN_VID, _TAG | found.segmentation_id))
    untagged = match(f.NETWORK(vni), _UNTAGGED)
    yield Flow(t.PROVIDER_OUTPUT.number, TO_WIRE, untagged, (*tag, output(wire)))


def _from_wire(wire: int, segmentation_id: int | None, vni: int) -> Iterator[Flow]:
    """What the wire brings for the network, without its tag."""
    tags: dict[bytes, tuple[Action, ...]] = {_UNTAGGED: (), _PRIORITY_TAGGED: (pop_vlan(),)}
    if segmentation_id is not None:
        tags = {f.VLAN_VID(_TAG | segmentation_id): (pop_vlan(),)}
    for tag, untag in tags.items():
        yield Flow(
            t.CLASSIFY.number,
            FROM_WIRE,
            match(f.IN_PORT(wire), tag),
            (*untag, set_bits(f.FROM_PROVIDER, 1)),
            metadata=vni,
            goto=t.PROVIDER_ADMIT.number,
        )


def port(topology: Topology, hypervisor: str, found: Placed) -> Iterator[Rule]:
    """A VM here whose frames a loop outside brings back."""
    if not found.here or _wire(topology, hypervisor, found.port.network_id) is None:
        return
    own = match(f.NETWORK(found.vni), f.ETH_SRC(f.mac(found.port.mac_address or "")))
    yield Flow(t.PROVIDER_ADMIT.number, OURS, own, reason="a VM's own frame came back from the physical network")


def _wire(topology: Topology, hypervisor: str, network_id: str) -> int | None:
    """The OpenFlow port that leads to a network's wire; None where there is none, or not yet."""
    found: Network | None = topology.get("network", network_id)
    bridge: Bridge | None = topology.get("bridge", hypervisor)
    if found is None or found.physical_network is None or bridge is None:
        return None
    if hypervisor not in topology.wired_to(network_id):
        return None
    return dict(bridge.provider_ofports).get(found.physical_network)
