"""Limits and DSCP in the switch: every use has meters of its own, and passes them by looking them up.

A meter ends a packet wherever it stands in what the switch does, so a flow that is limited only names its meters: table ``meter``
has a flow for each. What a VM sends passes them before anything else is done with it, broadcasts and all; what it gets, at
its door; what leaves and enters by a router's gateway, and by each floating IP, where it is routed.

Where Open vSwitch shapes uplinks itself (``topology.queues``), a packet of a VM is given its port's queue before anything else, and
keeps it through routers, translations and the kernel's tunnels. Every packet is: what a container says of its own counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from topology import qos as model
from topology import queues
from topology.graph import Topology
from topology.model import FloatingIp, Port
from topology.qos import Limit, Quality

from . import fields as f
from . import tables as t
from .flow import Action, Flow, Meter, Rule, clone, match, output, resubmit, set_field, set_queue
from .gateways import CONNECTIONS, HERE, WayOut, route_out, way_out
from .nat import FLOATING, inside_of
from .placement import placed
from .routers import FAMILIES, of_address

# priorities, a band for each table
PORT, EVERYBODY = 200, 100
LIMITED_OUTPUT = 200
METERED = 100
KNOWN, KNOWN_FLOATING = CONNECTIONS + 10, CONNECTIONS + 20
ENTERS, ENTERS_FLOATING, LEAVES_FLOATING = 200, 300, FLOATING + 10


class Use(IntEnum):
    """What a meter is for: the upper 8 bits of its number. The lower ones are a port's OpenFlow number, or a key.

    Numbers below are for packets to the controller (``punting``).
    """

    EGRESS_RATE = 1
    EGRESS_PACKETS = 2
    INGRESS_RATE = 3
    INGRESS_PACKETS = 4
    GATEWAY = 8
    """+ 0 to 3 as above."""
    FLOATING = 16


def meter_id(use: int, number: int) -> int:
    """The number of a meter. Raises ValueError when ``number`` has more than 24 bits."""
    if not 0 <= number < 1 << 24:
        raise ValueError(f"{number} does not fit into a meter's number")
    return use << 24 | number


def base(topology: Topology, hypervisor: str, _: str) -> Iterator[Rule]:
    """A VM's marks are not believed unless its port says otherwise, nor is its queue."""
    if queues.used(topology, hypervisor):
        yield Flow(t.LIMIT.number, EVERYBODY, b"", (set_queue(queues.OTHERS),), goto=t.MARK.number)
    for family in FAMILIES:
        clear = (set_field(f.IP_DSCP, 0),)
        yield Flow(t.MARK.number, EVERYBODY, match(f.ETH_TYPE(family.ethertype)), clear, goto=t.PORT_SECURITY.number)


# --- VMs' ports --------------------------------------------------------------------------------------------------


def port(topology: Topology, hypervisor: str, port_id: str) -> Iterator[Rule]:
    """What holds for a VM's port that is plugged here."""
    found = placed(topology, hypervisor, port_id)
    if found is None or not found.here or found.ofport is None or found.port.router_id is not None:
        return
    quality = model.of_port(topology, port_id)
    sent, gets = _of_port(quality, found.ofport)
    yield from _all(sent, gets)
    own = f.IN_PORT_KEY(found.key)
    queue = queues.of_port(topology, hypervisor, port_id)
    if sent or queue:
        leave = () if queue is None else (set_queue(queue),)
        yield Flow(t.LIMIT.number, PORT, match(own), (*pass_by(sent), *leave), goto=t.MARK.number)
    if quality.dscp is not None or quality.trusted:
        for family in FAMILIES:
            mark = () if quality.dscp is None else (set_field(f.IP_DSCP, quality.dscp),)
            ip = match(own, f.ETH_TYPE(family.ethertype))
            yield Flow(t.MARK.number, PORT, ip, mark, goto=t.PORT_SECURITY.number)
    if gets:
        # of a broadcast others get copies, too, and a meter would end those that come after it
        to_vm = clone((*pass_by(gets), output(found.ofport)))
        there = match(f.OUT_PORT_KEY(found.key), f.NETWORK(found.vni))
        yield Flow(t.LOCAL_OUTPUT.number, LIMITED_OUTPUT, there, (to_vm,))


def meters_of(topology: Topology, hypervisor: str, port_id: str) -> Iterator[tuple[str, Meter]]:
    """The meters of a VM's port that is plugged here, each with the direction that it limits."""
    found = placed(topology, hypervisor, port_id)
    if found is None or not found.here or found.ofport is None or found.port.router_id is not None:
        return
    sent, gets = _of_port(model.of_port(topology, port_id), found.ofport)
    yield from (("egress", meter) for meter in sent)
    yield from (("ingress", meter) for meter in gets)


def _of_port(quality: Quality, ofport: int) -> tuple[tuple[Meter, ...], tuple[Meter, ...]]:
    """Meters of what a VM sends, and of what it gets."""
    gets = model.behind_shaping(quality.ingress)
    return _meters(Use.EGRESS_RATE, quality.egress, ofport), _meters(Use.INGRESS_RATE, gets, ofport)


def _meters(first: int, limit: Limit, number: int) -> tuple[Meter, ...]:
    """The meters of one direction: one for each kind of rate."""
    found = []
    if limit.kbps is not None:
        found.append(Meter(meter_id(first, number), limit.kbps, limit.burst_kbit))
    if limit.pps is not None:
        found.append(Meter(meter_id(first + 1, number), limit.pps, limit.burst_packets, packets=True))
    return tuple(found)


def pass_by(meters: tuple[Meter, ...]) -> tuple[Action, ...]:
    """The actions that take a packet through meters."""
    return tuple(action for each in meters for action in (set_field(f.METER, each.id), resubmit(t.METER.number)))


def _all(*uses: tuple[Meter, ...]) -> Iterator[Rule]:
    """Meters, and the flows by which they are found."""
    for meters in uses:
        for meter in meters:
            yield meter
            yield Flow(t.METER.number, METERED, match(f.METER(meter.id)), meter=meter.id)


# --- the outside -------------------------------------------------------------------------------------------------


def router(topology: Topology, hypervisor: str, router_id: str) -> Iterator[Rule]:
    """What holds for all that passes a router's gateway and no floating IP; each gateway measures for itself."""
    out = way_out(topology, router_id)
    if out is None or hypervisor not in out.gateways:
        return
    quality = model.of_gateway(topology, out.port.id)
    if quality is None:
        return
    leaves, enters = _outside(quality, Use.GATEWAY, out.key)
    yield from _all(leaves, enters)
    if leaves or quality.dscp is not None:
        for family in FAMILIES:
            here = match(f.ROUTER(out.key), f.ACTIVE(1), f.ETH_TYPE(family.ethertype))
            yield _leaving(HERE + 10, here, leaves, quality, out, out.mac)
    if enters:
        from_wire = match(f.NETWORK(out.vni), f.ETH_DST(out.mac), f.ACTIVE(1))
        yield _entering(ENTERS, from_wire, enters, out)
        for family in FAMILIES:
            yield from _known(KNOWN, out, out.mac, (f.ETH_TYPE(family.ethertype),), enters)


def floating_ip(topology: Topology, hypervisor: str, floating_ip_id: str) -> Iterator[Rule]:
    """What holds for a floating IP of a VM, where it is translated."""
    floating: FloatingIp | None = topology.get("floating-ip", floating_ip_id)
    out = way_out(topology, topology.router_of_floating(floating_ip_id))
    if floating is None or out is None or floating.floating_ip_address is None or floating.port_id is None:
        return
    port: Port | None = topology.get("port", floating.port_id)
    inside, here = inside_of(floating, port), topology.location(floating.port_id)
    quality = model.of_floating_ip(topology, floating_ip_id)
    if inside is None or here is None or quality is None or floating.mac_address is None:
        return
    with_vm = here in topology.wired_to(floating.floating_network_id)
    if hypervisor not in ((here,) if with_vm else out.gateways):
        return
    family, outside = of_address(floating.floating_ip_address), f.ip(floating.floating_ip_address)
    leaves, enters = _outside(quality, Use.FLOATING, floating.number)
    yield from _all(leaves, enters)
    mac = f.mac(floating.mac_address) if with_vm else out.mac
    if leaves or quality.dscp is not None:
        active = () if with_vm else (f.ACTIVE(1),)
        sent = match(f.ROUTER(out.key), *active, f.ETH_TYPE(family.ethertype), family.source(inside))
        yield _leaving(LEAVES_FLOATING, sent, leaves, quality, out, mac)
    if enters:
        active = () if with_vm else (f.ACTIVE(1),)
        to = f.NETWORK(out.vni), f.ETH_DST(mac), f.ETH_TYPE(family.ethertype), family.destination(outside)
        yield _entering(ENTERS_FLOATING, match(*to, *active), enters, out)
        if not with_vm:
            known = f.ETH_TYPE(family.ethertype), family.destination(inside)
            yield from _known(KNOWN_FLOATING, out, mac, known, enters)


def _outside(quality: Quality, use: Use, number: int) -> tuple[tuple[Meter, ...], tuple[Meter, ...]]:
    """Meters of what leaves, and of what enters."""
    return _meters(use, quality.egress, number), _meters(use + 2, quality.ingress, number)


def _leaving(priority: int, what: bytes, meters: tuple[Meter, ...], quality: Quality, out: WayOut, mac: int) -> Flow:
    mark = () if quality.dscp is None else (set_field(f.IP_DSCP, quality.dscp),)
    actions = *pass_by(meters), *mark, *route_out(out, mac)
    return Flow(t.GATEWAY_REDIRECT.number, priority, what, actions, goto=t.SNAT.number)


def _entering(priority: int, what: bytes, meters: tuple[Meter, ...], out: WayOut) -> Flow:
    enter = *pass_by(meters), set_field(f.ROUTER, out.key)
    return Flow(t.ROUTER_ADMIT.number, priority, what, enter, goto=t.ROUTER_NAT.number)


def _known(priority: int, out: WayOut, mac: int, which: tuple[bytes, ...], meters: tuple[Meter, ...]) -> Iterator[Flow]:
    """Packets of connections that a gateway knows: they have been translated by then, and go straight on."""
    for state in (f.CT_ESTABLISHED, f.CT_RELATED, f.CT_DNAT):
        tracked = f.CT_STATE(f.CT_TRACKED | state, f.CT_TRACKED | state)
        known = match(f.NETWORK(out.vni), f.ETH_DST(mac), *which, tracked)
        enter = *pass_by(meters), set_field(f.ROUTER, out.key)
        related = state == f.CT_RELATED
        yield Flow(t.PROVIDER_ADMIT.number, priority + related, known, enter, goto=t.ROUTER_LOCAL.number)
