"""The tunnel mesh: Geneve (RFC 8926) or VXLAN (RFC 7348) between hypervisors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from topology.graph import Topology
from topology.model import Bridge, Hypervisor, TunnelMesh
from topology.mtu import max_mtu

from . import fields as f
from . import tables as t
from .flooding import copies
from .flow import Action, Bucket, Flow, Rule, check_pkt_larger, copy, match, output, resubmit, set_bits, set_field
from .placement import live_vni, wired_both
from .punting import Reason, punt

TUNNEL = 200
TO_SEVERAL, TO_PORT = 200, 100
PEER = 100
UNKNOWN_UNICAST, UNKNOWN = 10, 200
TOO_LARGE, NO_TUNNEL, FITS = 200, 100, 50

FOREIGN = 0xFFFFFFFF
"""In PEER: an endpoint that is not NovaNet's. No hypervisor has this key."""
ETHERNET = 14
"""Bytes of the Ethernet header, which ``check_pkt_larger`` counts and MTUs do not."""


def _mesh(topology: Topology) -> TunnelMesh:
    return topology.mesh or TunnelMesh(id="")


def _tunnel_port(topology: Topology, hypervisor: str) -> int | None:
    bridge: Bridge | None = topology.get("bridge", hypervisor)
    return bridge.tunnel_ofport if bridge is not None else None


def _source(address: str) -> bytes:
    return f.TUN_IPV6_SRC(f.ip(address)) if ":" in address else f.TUN_SRC(f.ip(address))


def _destination(address: str) -> bytes:
    field = f.TUN_IPV6_DST if ":" in address else f.TUN_DST
    return set_field(field, f.ip(address))


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """What comes out of the tunnel port goes into the network its VNI names; foreign endpoints as the mesh allows."""
    yield from _path_mtu()
    port = _tunnel_port(topology, hypervisor)
    if port is None:
        return
    yield Flow(
        t.CLASSIFY.number,
        TUNNEL,
        match(f.IN_PORT(port)),
        (set_bits(f.FROM_TUNNEL, 1), copy(f.TUNNEL_ID, f.NETWORK)),
        goto=t.TUNNEL_ADMIT.number,
    )
    yield Flow(t.PATH_MTU.number, FITS, b"", (output(port),))
    mesh = _mesh(topology)
    if mesh.tunnel_type == "vxlan":
        for address in mesh.external_vteps:
            yield _admit(address)


def _path_mtu() -> Iterator[Flow]:
    """What does not fit is answered (RFC 1191, RFC 8201); what goes through no tunnel goes to a wire."""
    large = f.TOO_LARGE(1)
    for ethertype in (f.IPV4, f.IPV6):
        yield Flow(
            t.PATH_MTU.number, TOO_LARGE, match(large, f.ETH_TYPE(ethertype)), punt(Reason.TOO_BIG), goto=t.PUNT.number
        )
    yield Flow(t.PATH_MTU.number, TOO_LARGE - 1, match(large), reason="frame is larger than the tunnel carries")
    yield Flow(t.PATH_MTU.number, NO_TUNNEL, match(f.PEER(0)), goto=t.PROVIDER_OUTPUT.number)


def _admit(address: str) -> Flow:
    """Accept what an endpoint sends; the destination MAC says for whom it is."""
    return Flow(t.TUNNEL_ADMIT.number, TO_PORT, match(_source(address)), goto=t.ROUTER_ADMIT.number)


def peer(topology: Topology, hypervisor: str, peer_id: str) -> Iterator[Rule]:
    """Another hypervisor that has networks in common with this one: accept its packets, and send to it."""
    other: Hypervisor | None = topology.get("hypervisor", peer_id)
    port = _tunnel_port(topology, hypervisor)
    if other is None or other.hypervisor_key is None or other.tunnel_ip is None or port is None:
        return
    if peer_id not in topology.peers_of(hypervisor):
        return
    geneve = _mesh(topology).tunnel_type == "geneve"
    if geneve:
        yield from _admit_with_option(other.tunnel_ip)
    else:
        yield _admit(other.tunnel_ip)
    option: tuple[Action, ...] = (
        copy(f.OUT_PORT_KEY, f.TUN_OPTION_PORT_KEY),
        copy(f.SRC_IDENTITY, f.TUN_OPTION_IDENTITY),
        copy(f.IN_PORT_KEY, f.TUN_OPTION_SENDER_KEY),
    )
    yield Flow(
        t.TUNNEL_OUTPUT.number,
        PEER,
        match(f.PEER(other.hypervisor_key)),
        (
            copy(f.NETWORK, f.TUNNEL_ID),
            _destination(other.tunnel_ip),
            *(option if geneve else ()),
            _check_size(topology),
        ),
        goto=t.PATH_MTU.number,
    )


def _check_size(topology: Topology) -> Action:
    """Mark a frame that does not fit the underlay in a tunnel."""
    return check_pkt_larger(max_mtu(topology.mesh, topology.underlay_version) + ETHERNET, f.TOO_LARGE)


def _admit_with_option(address: str) -> Iterator[Flow]:
    """Accept what a hypervisor sends; its option says for which port (0: for all) and with which identity."""
    identity = copy(f.TUN_OPTION_IDENTITY, f.SRC_IDENTITY)
    source = _source(address)
    yield Flow(
        t.TUNNEL_ADMIT.number,
        TO_SEVERAL,
        match(source, f.TUN_OPTION_PORT_KEY(0)),
        (identity,),
        goto=t.MULTICAST.number,
    )
    yield Flow(
        t.TUNNEL_ADMIT.number,
        TO_PORT,
        match(source),
        (identity, copy(f.TUN_OPTION_PORT_KEY, f.OUT_PORT_KEY)),
        goto=t.INGRESS_ADMIT.number,
    )


def network(topology: Topology, hypervisor: str, network_id: str) -> Iterator[Rule]:
    """Broadcast of VMs here: once to every other hypervisor of the network, or once to the multicast group.

    What is on the same wire gets its copy there.
    """
    vni, port = live_vni(topology, network_id), _tunnel_port(topology, hypervisor)
    spread = topology.hypervisors_of(network_id)
    if vni is None or port is None or hypervisor not in spread:
        return
    foreign = copies_to_foreign(topology, hypervisor, network_id)
    sends: tuple[Action, ...] = ()
    peers = peers_to_copy(topology, hypervisor, network_id, spread)
    if peers:
        buckets = {key: Bucket((set_field(f.PEER, key), resubmit(t.TUNNEL_OUTPUT.number))) for key in peers}
        groups, to_all = copies(vni, buckets, remote=True)
        yield from groups
        sends = (set_field(f.OUT_PORT_KEY, 0), *to_all)
    from_here = match(f.NETWORK(vni), f.ORIGIN(0))
    if sends or foreign:
        then = t.PROVIDER_OUTPUT.number if hypervisor in topology.wired_to(network_id) else None
        yield Flow(t.TUNNEL_FLOOD.number, PEER, from_here, (*sends, *foreign), goto=then)
    if foreign:
        checked = copies_to_foreign(topology, hypervisor, network_id, checked=True)
        yield from unknown_unicast(vni, tuple(checked))


def unknown_unicast(vni: int, actions: tuple[Action, ...] = (), goto: t.Table | None = None) -> Iterator[Flow]:
    """What becomes of packets from here for a MAC address that is no VM's."""
    nowhere = (set_field(f.OUT_PORT_KEY, 0),)
    yield Flow(
        t.L2_LOOKUP.number, UNKNOWN_UNICAST, match(f.NETWORK(vni), f.ORIGIN(0)), nowhere, goto=t.EGRESS_ADMIT.number
    )
    unknown = match(f.NETWORK(vni), f.OUT_PORT_KEY(0), f.PEER(0))
    yield Flow(t.OUTPUT_SELECT.number, UNKNOWN, unknown, actions, goto=None if goto is None else goto.number)


def peers_to_copy(topology: Topology, hypervisor: str, network_id: str, receivers: Iterable[str]) -> list[int]:
    """Keys of those among the receiving hypervisors that need a copy of their own, as neither wire nor multicast reaches them."""
    if _mesh(topology).multicast_group and hypervisor not in topology.wired_to(network_id):
        return []
    away = (other for other in receivers if not wired_both(topology, network_id, hypervisor, other))
    return _peer_keys(topology, away, hypervisor)


def copies_to_foreign(topology: Topology, hypervisor: str, network_id: str, *, checked: bool = False) -> list[Action]:
    """Copies for endpoints that are not NovaNet's: to the multicast group, or to each of them; none where there is a wire.

    With ``checked``, a packet that is too large is answered, as one for a hypervisor is.
    """
    mesh, port = _mesh(topology), _tunnel_port(topology, hypervisor)
    if mesh.tunnel_type != "vxlan" or port is None or hypervisor in topology.wired_to(network_id):
        return []
    targets = [mesh.multicast_group] if mesh.multicast_group else mesh.external_vteps
    sends: list[Action] = [copy(f.NETWORK, f.TUNNEL_ID)] if targets else []
    fits = (set_field(f.PEER, FOREIGN), _check_size(topology), resubmit(t.PATH_MTU.number))
    for address in targets:
        sends += [_destination(address), *(fits if checked else (output(port),))]
    return sends


def _peer_keys(topology: Topology, spread: Iterable[str], hypervisor: str) -> list[int]:
    found = (topology.get("hypervisor", id) for id in spread if id != hypervisor)
    return sorted(peer.hypervisor_key for peer in found if peer is not None and peer.hypervisor_key is not None)
