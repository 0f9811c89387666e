"""Which objects concern which hypervisor: what has to be compiled anew after a change, and nothing else.

A hypervisor is concerned by the networks that it reaches (see ``realms``), by all ports and routers of those, by the
other hypervisors that reach them too, and by the provider networks that it is wired to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

from . import balancing_scope, health_scope, policy_scope, qos_scope
from .aftermath import Aftermath
from .changes import Change, Dirty, Owner
from .graph import Topology
from .model import FloatingIp, Network, Port
from .reach import floating_at, floating_gateways, routers_at, where


def owners_on(topology: Topology, hypervisor: str) -> Iterator[Owner]:
    """Everything that concerns a hypervisor."""
    yield "base", hypervisor
    yield policy_scope.owner(hypervisor)
    for peer in topology.peers_of(hypervisor):
        yield "peer", peer
    networks = dict.fromkeys(topology.reached_from(hypervisor))
    networks.update(dict.fromkeys(_outside(topology, hypervisor)))
    for network in networks:
        yield from _within(topology, network)
    yield from health_scope.owners_on(topology, hypervisor)
    yield from qos_scope.owners_on(topology, hypervisor)
    for port in topology.ports_on(hypervisor):
        for floating in topology.floating_of(port):
            yield "floating-ip", floating
    for floating in topology.all("floating-ip"):
        if hypervisor in floating_gateways(topology, floating):
            yield "floating-ip", floating


def _outside(topology: Topology, hypervisor: str) -> Iterator[str]:
    """The provider networks that a hypervisor is wired to."""
    obj = topology.get("hypervisor", hypervisor)
    wires = {mapping.physical_network for mapping in obj.bridge_mappings} if obj is not None else set()
    if wires:
        yield from (id for id, network in topology.all("network").items() if network.physical_network in wires)


def _within(topology: Topology, network: str) -> Iterator[Owner]:
    """A network and what is in it. A router stands once for each of its interfaces."""
    yield "network", network
    for port in topology.ports_of(network):
        if topology.location(port) is not None:
            yield "port", port
    for interface in topology.routed_by(network):
        yield "router", interface.router_id or ""
    for group in topology.multicast_groups_of(network):
        yield "multicast-group", group
    for neighbour in topology.neighbours_in(network):
        yield "neighbour", neighbour
    yield from balancing_scope.owners_in(topology, network)


def concerned(topology: Topology, kind: str, id: str) -> Iterator[Dirty]:
    """Where an object of the intent store is realised, and by which owner."""
    match kind:
        case "port":
            port = topology.get("port", id)
            if port is not None and port.router_id is not None:
                yield from concerned(topology, "router", port.router_id)
            elif port is not None and topology.location(id) is not None:
                for hypervisor in where(topology, port.network_id):
                    yield hypervisor, ("port", id)
                    if port.identity is not None:
                        yield hypervisor, policy_scope.owner(hypervisor)
                yield from qos_scope.concerned(topology, "port", id)
        case "network":
            for hypervisor in where(topology, id):
                yield hypervisor, ("network", id)
        case "subnet":
            subnet = topology.get("subnet", id)
            if subnet is not None:
                yield from concerned(topology, "network", subnet.network_id)
        case "router":
            for hypervisor in routers_at(topology, id):
                yield hypervisor, ("router", id)
        case "floating-ip":
            for hypervisor in floating_at(topology, id):
                yield hypervisor, ("floating-ip", id)
        case "port-forwarding":
            forwarding = topology.get("port-forwarding", id)
            if forwarding is not None:
                yield from concerned(topology, "floating-ip", forwarding.floating_ip_id)
        case "neighbour":
            neighbour = topology.get("neighbour", id)
            if neighbour is not None:
                for hypervisor in where(topology, neighbour.network_id):
                    yield hypervisor, ("neighbour", id)
        case "hypervisor":
            yield id, ("base", id)
            for peer in topology.peers_of(id):
                yield peer, ("peer", id)
                yield id, ("peer", peer)
        case "tunnel-mesh":
            for hypervisor in topology.all("hypervisor"):
                yield from concerned(topology, "hypervisor", hypervisor)
        case _:
            yield from policy_scope.concerned(topology, kind, id)
            yield from balancing_scope.concerned(topology, kind, id)
            yield from qos_scope.concerned(topology, kind, id)


def dirty(topology: Topology, changes: Sequence[Change]) -> Iterator[Dirty]:
    """What has to be compiled anew after the changes, which are in the graph already. May repeat itself."""
    if Aftermath.leaves_something(changes):
        topology = Aftermath(topology, changes)
    for change in changes:
        for rules in (_RULES, balancing_scope.RULES, health_scope.RULES, qos_scope.RULES):
            rule = rules.get(change.kind)
            if rule is not None:
                yield from rule(topology, change)


# --- where hypervisors are concerned -----------------------------------------------------------------------------


def _location(topology: Topology, change: Change) -> Iterator[Dirty]:
    """A port came, went or moved: compiled anew wherever its network is."""
    owner = ("port", change.id)
    for hypervisor in {change.old, change.new} - {None}:
        yield hypervisor, owner
    for floating in topology.floating_of(change.id):
        for hypervisor in {change.old, change.new, *floating_gateways(topology, floating)} - {None}:
            yield hypervisor, ("floating-ip", floating)
    yield from _wanted_by(topology, change.id)
    port = topology.get("port", change.id)
    if port is None:
        return  # the change of the port itself tells
    yield from _sharers(topology, port)
    for hypervisor in where(topology, port.network_id):
        yield hypervisor, owner


def _membership(topology: Topology, change: Change) -> Iterator[Dirty]:
    """Broadcast changes where the port was and where it is."""
    for hypervisor in {change.old, change.new} - {None}:
        yield hypervisor, ("network", change.id)


def _presence(topology: Topology, change: Change) -> Iterator[Dirty]:
    """A hypervisor got a network's first port, or lost its last: what is answered and copied there, and to there."""
    network, here = change.id, change.new or change.old
    for owner in _within(topology, network):
        yield here, owner
    for other in topology.hypervisors_of(network):
        if other != here:
            yield other, ("network", network)


def _wanted_by(topology: Topology, port_id: str) -> Iterator[Dirty]:
    """The multicast groups that a port wants, wherever somebody may send to them."""
    for group in topology.wanted_by(port_id):
        for hypervisor in topology.hypervisors_of(topology.get("multicast-group", group).network_id):
            yield hypervisor, ("multicast-group", group)


def _reach(topology: Topology, change: Change) -> Iterator[Dirty]:
    """A hypervisor reaches other networks than before: all that is in them there, and tunnels both ways."""
    here = change.id
    for network in change.old | change.new:
        for owner in _within(topology, network):
            yield here, owner
        for other in topology.reachers_of(network):
            if other != here:
                yield other, ("peer", here)
                yield here, ("peer", other)


# --- what objects change -----------------------------------------------------------------------------------------

_NO_FLOWS = (
    "host_id", "name", "description", "device_id", "device_owner", "revision_number", "dns_name", "extra_dhcp_opts",
    "security_groups", "labels", "qos_policy_id", "trust_dscp",
)  # fmt: skip
"""Fields of ports that no flow depends on. Of security groups and labels flows know the identity."""


def _port(topology: Topology, change: Change) -> Iterator[Dirty]:
    if change.only_in(*_NO_FLOWS):
        return
    port = change.new or change.old
    if port.router_id is not None:
        yield from _interface(topology, change)
        return
    here = topology.location(change.id)
    for floating in topology.floating_of(change.id):
        yield from concerned(topology, "floating-ip", floating)
    if change.new is not None and here is None:
        return
    for hypervisor in where(topology, port.network_id):
        yield hypervisor, ("port", change.id)
    for obj in (change.old, change.new):
        yield from _sharers(topology, obj)
    switched = change.old and change.new and change.old.admin_state_up != change.new.admin_state_up
    if switched and here is not None:
        yield here, ("network", port.network_id)
        yield from _wanted_by(topology, change.id)


def _handover(topology: Topology, change: Change) -> Iterator[Dirty]:
    """The flows of a port tell another identity, where they are."""
    told, telling = (each.told if each is not None else None for each in (change.old, change.new))
    port = topology.get("port", change.id)
    if told != telling and port is not None:
        for hypervisor in where(topology, port.network_id):
            yield hypervisor, ("port", change.id)
        yield from _sharers(topology, port)


def _sharers(topology: Topology, port: Port | None) -> Iterator[Dirty]:
    """The ports that have a further address in common with one: the first of them gets what is routed there, and whose a packet
    is that comes from a MAC address of theirs depends on all of them."""
    if port is None:
        return
    pairs, others = port.allowed_address_pairs, set()
    for address in {*(fixed.ip_address or "" for fixed in port.fixed_ips or ()), *(pair.ip_address for pair in pairs)}:
        others |= topology.bearers(port.network_id, address)
    for mac in {port.mac_address or "", *(pair.mac_address or "" for pair in pairs)}:
        others |= topology.senders(port.network_id, mac)
    for other in others - {port.id}:
        for hypervisor in where(topology, port.network_id) if topology.location(other) is not None else ():
            yield hypervisor, ("port", other)


def _interface(topology: Topology, change: Change) -> Iterator[Dirty]:
    """A router's interface: the router wherever it is or was, and the ports that get their first router, or lose it."""
    port = change.new or change.old
    for hypervisor in routers_at(topology, port.router_id) | where(topology, port.network_id):
        yield hypervisor, ("router", port.router_id)
    if change.old is None or change.new is None:
        for hypervisor in where(topology, port.network_id):
            for owner in _within(topology, port.network_id):
                yield hypervisor, owner
    for floating in _floating_into(topology, {port.network_id} | _joined_by(topology, port.router_id)):
        yield from _anywhere(topology, floating)


def _network(topology: Topology, change: Change) -> Iterator[Dirty]:
    if change.only_in("name", "description", "revision_number", "dns_domain", "qos_policy_id"):
        return
    for hypervisor in where(topology, change.id) | _wired_by(topology, change):
        for owner in _within(topology, change.id):
            yield hypervisor, owner
    for interface in topology.routed_by(change.id):  # a router may be where its way outside is not
        yield from concerned(topology, "router", interface.router_id or "")
    for floating in topology.all("floating-ip").values():
        if floating.floating_network_id == change.id:
            yield from _anywhere(topology, floating)
    for floating in _floating_into(topology, {change.id}):  # whose packets may be too large outside
        yield from _anywhere(topology, floating)


def _wired_by(topology: Topology, change: Change) -> set[str]:
    """The hypervisors that a provider network concerned which is gone."""
    network: Network = change.new or change.old
    return {
        id
        for id, hypervisor in topology.all("hypervisor").items()
        if network.physical_network is not None
        and any(mapping.physical_network == network.physical_network for mapping in hypervisor.bridge_mappings)
    }


def _subnet(topology: Topology, change: Change) -> Iterator[Dirty]:
    """Subnets decide what routers have as connected routes, once they have an address there."""
    subnet = change.new or change.old
    if change.only_in("name", "description", "revision_number", "allocation_pools", "dns_nameservers", "host_routes"
    ):  # fmt: skip
        return
    yield from concerned(topology, "network", subnet.network_id)
    for interface in topology.routed_by(subnet.network_id):
        yield from concerned(topology, "router", interface.router_id or "")


def _router(topology: Topology, change: Change) -> Iterator[Dirty]:
    if change.only_in("name", "description", "revision_number", "gateway_hypervisors"):
        return
    yield from concerned(topology, "router", change.id)
    for floating in _floating_into(topology, _joined_by(topology, change.id)):
        yield from _anywhere(topology, floating)


def _gateways(topology: Topology, change: Change) -> Iterator[Dirty]:
    """Another hypervisor is the gateway: wherever the router is, and its floating IPs."""
    for hypervisor in {*routers_at(topology, change.id), *change.old, *change.new}:
        yield hypervisor, ("router", change.id)
    for floating in _floating_into(topology, _joined_by(topology, change.id)):
        yield from _anywhere(topology, floating)


def _floating(topology: Topology, change: Change) -> Iterator[Dirty]:
    yield from _anywhere(topology, change.new or change.old)


def _forwarding(topology: Topology, change: Change) -> Iterator[Dirty]:
    floating = topology.get("floating-ip", (change.new or change.old).floating_ip_id)
    if floating is not None:  # else its own change tells
        yield from _anywhere(topology, floating)


def _anywhere(topology: Topology, floating: FloatingIp) -> Iterator[Dirty]:
    """A floating IP wherever it may be or have been, since that follows from its VM, the VM's router and its gateways."""
    for hypervisor in topology.wired_to(floating.floating_network_id):
        yield hypervisor, ("floating-ip", floating.id)


def _floating_into(topology: Topology, networks: Set[str]) -> Iterator[FloatingIp]:
    """The floating IPs, and those of port forwardings, that lead to VMs in these networks."""
    for floating in topology.all("floating-ip").values():
        ids = [floating.port_id] if floating.port_id is not None else []
        forwardings = (topology.get("port-forwarding", id) for id in topology.forwardings_of(floating.id))
        ids += [forwarding.internal_port_id for forwarding in forwardings]
        if any((port := topology.get("port", id)) is not None and port.network_id in networks for id in ids):
            yield floating


def _joined_by(topology: Topology, router_id: str) -> set[str]:
    """The networks that a router has interfaces in."""
    return {port.network_id for port in topology.interfaces_of(router_id)}


def _neighbour(topology: Topology, change: Change) -> Iterator[Dirty]:
    if change.only_in("name", "description", "revision_number", "learned"):
        return
    network = (change.new or change.old).network_id
    for hypervisor in where(topology, network):
        yield hypervisor, ("neighbour", change.id)


def _multicast_group(topology: Topology, change: Change) -> Iterator[Dirty]:
    for hypervisor in topology.hypervisors_of((change.new or change.old).network_id):
        yield hypervisor, ("multicast-group", change.id)


def _link(topology: Topology, change: Change) -> Iterator[Dirty]:
    """Gateways are found by the number of the port that watches them; whether it is up the switch sees itself."""
    if change.only_in("up"):
        return
    link = change.new or change.old
    here = link.hypervisor_id
    routers = {router for router in topology.all("router") if here in topology.gateways_of(router)}
    for network in topology.reached_from(here):
        routers.update(interface.router_id or "" for interface in topology.routed_by(network))
    for router in routers:
        if link.peer_id in topology.gateways_of(router):
            yield here, ("router", router)
    yield here, ("base", here)


def _vif(topology: Topology, change: Change) -> Iterator[Dirty]:
    """A port's flows name its number, which is another one once it is plugged again, even where it was before."""
    old, new = change.old, change.new
    if (old and old.ofport) != (new and new.ofport):
        for vif in (old, new):
            if vif is not None:
                yield vif.hypervisor_id, ("port", change.id)


def _hypervisor(topology: Topology, change: Change) -> Iterator[Dirty]:
    old, new = change.old, change.new
    before = old.bridge_mappings if old is not None else ()
    after = new.bridge_mappings if new is not None else ()
    if before != after:
        wires = {mapping.physical_network for mapping in {*before} ^ {*after}}
        yield from _rewired(topology, change.id, wires)
        for floating in topology.all("floating-ip").values():
            outside: Network | None = topology.get("network", floating.floating_network_id)
            if outside is not None and outside.physical_network in wires:
                yield from _anywhere(topology, floating)
    if old is not None and new is not None and old.tunnel_ip == new.tunnel_ip:
        return
    yield from concerned(topology, "hypervisor", change.id)
    if old is None or new is None:
        for network in topology.reached_from(change.id):
            for hypervisor in where(topology, network):
                for owner in _within(topology, network):
                    if owner[0] != "port" or owner[1] in topology.ports_on(change.id):
                        yield hypervisor, owner


def _rewired(topology: Topology, hypervisor: str, wires: set[str]) -> Iterator[Dirty]:
    """A hypervisor got or lost wires: the networks on them there, and the ways to its VMs elsewhere."""
    yield hypervisor, ("base", hypervisor)
    here = topology.ports_on(hypervisor)
    for network, obj in topology.all("network").items():
        if obj.physical_network not in wires:
            continue
        for owner in _within(topology, network):
            yield hypervisor, owner
        for other in where(topology, network) - {hypervisor}:
            yield other, ("network", network)
            for group in topology.multicast_groups_of(network):
                yield other, ("multicast-group", group)
            for port in topology.ports_of(network) & here:
                yield other, ("port", port)


def _bridge(topology: Topology, change: Change) -> Iterator[Dirty]:
    old, new = change.old, change.new
    before = set(old.provider_ofports) if old is not None else set()
    after = set(new.provider_ofports) if new is not None else set()
    if before != after:
        yield change.id, ("base", change.id)
        wires = {wire for wire, _ in before ^ after}
        for network in _outside(topology, change.id):
            if topology.get("network", network).physical_network in wires:
                for owner in _within(topology, network):
                    yield change.id, owner
    if (old and old.tunnel_ofport) == (new and new.tunnel_ofport):
        return
    yield from _tunnels(topology, change.id)


def _mesh(topology: Topology, change: Change) -> Iterator[Dirty]:
    for hypervisor in topology.all("hypervisor"):
        yield from _tunnels(topology, hypervisor)
    for floating in topology.all("floating-ip").values():
        yield from _anywhere(topology, floating)
    for number in topology.identities:
        for port in topology.ports_with(number):
            yield from concerned(topology, "port", port)
    for router in topology.all("router"):
        yield from concerned(topology, "router", router)


def _tunnels(topology: Topology, hypervisor: str) -> Iterator[Dirty]:
    """Everything of one hypervisor that depends on its tunnel port."""
    yield hypervisor, ("base", hypervisor)
    for peer in topology.peers_of(hypervisor):
        yield hypervisor, ("peer", peer)
    for network in topology.reached_from(hypervisor):
        yield hypervisor, ("network", network)
        for interface in topology.routed_by(network):
            yield hypervisor, ("router", interface.router_id or "")
        for group in topology.multicast_groups_of(network):
            yield hypervisor, ("multicast-group", group)


_RULES: dict[str, Any] = {
    "location": _location,
    "membership": _membership,
    "presence": _presence,
    "reach": _reach,
    "gateways": _gateways,
    "port": _port,
    "handover": _handover,
    "network": _network,
    "subnet": _subnet,
    "router": _router,
    "floating-ip": _floating,
    "port-forwarding": _forwarding,
    "neighbour": _neighbour,
    "multicast-group": _multicast_group,
    "link": _link,
    "vif": _vif,
    "hypervisor": _hypervisor,
    "bridge": _bridge,
    "tunnel-mesh": _mesh,
    "underlay": _mesh,
    **policy_scope.RULES,
}
