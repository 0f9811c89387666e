"""Which flows and meters of quality of service depend on what.

What a VM's port may send and get is an owner of its own, ("qos", port id), on the hypervisor where the port is: another rate
changes a meter there, and nothing else. What holds outside belongs to the floating IP, or to the router whose gateway it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .changes import Change, Dirty, Owner
from .graph import Topology
from .model import Bridge, FloatingIp, Network, Port
from .reach import floating_at, routers_at

_NO_EFFECT = ("name", "description", "revision_number")
"""Fields of rules that nothing depends on."""


def owners_on(topology: Topology, hypervisor: str) -> Iterator[Owner]:
    """The VMs' ports on a hypervisor."""
    for id in topology.ports_on(hypervisor):
        if topology.get("port", id).router_id is None:
            yield "qos", id


def concerned(topology: Topology, kind: str, id: str) -> Iterator[Dirty]:
    """Where policies, their rules, and what ports have of them take effect."""
    match kind:
        case "port":
            yield from _port_at(topology, topology.get("port", id))
        case "qos-policy":
            for user_kind, user in topology.referrers("qos-policy", id):
                yield from _held_by(topology, user_kind, user)
        case "qos-rule":
            rule = topology.get("qos-rule", id)
            if rule is not None:
                yield from concerned(topology, "qos-policy", rule.qos_policy_id)


def _port_at(topology: Topology, port: Port | None) -> Iterator[Dirty]:
    if port is None or port.router_id is not None:
        return
    here = topology.location(port.id)
    if here is not None:
        yield here, ("qos", port.id)


def _held_by(topology: Topology, kind: str, id: str) -> Iterator[Dirty]:
    """What a policy holds for by way of what it is attached to."""
    obj = topology.get(kind, id)
    match obj:
        case Port(router_id=str()):
            yield from _gateway(topology, obj)
        case Port():
            yield from _port_at(topology, obj)
        case Network():
            for port_id in topology.ports_of(id):
                port: Port = topology.get("port", port_id)
                if port.qos_policy_id is None:
                    yield from _port_at(topology, port)
        case FloatingIp():
            yield from _floating(topology, id)


def _gateway(topology: Topology, port: Port) -> Iterator[Dirty]:
    """A router on its gateways, and the floating IPs that it leads to, which have its policy where they name none."""
    router = port.router_id or ""
    for hypervisor in routers_at(topology, router):
        yield hypervisor, ("router", router)
    for id, floating in topology.all("floating-ip").items():
        if floating.qos_policy_id is None and floating.floating_network_id == port.network_id:
            if topology.router_of_floating(id) in (router, None):
                yield from _floating(topology, id)


def _floating(topology: Topology, id: str) -> Iterator[Dirty]:
    for hypervisor in floating_at(topology, id):
        yield hypervisor, ("floating-ip", id)


# --- what changes make dirty -------------------------------------------------------------------------------------


def _rule(topology: Topology, change: Change) -> Iterator[Dirty]:
    if not change.only_in(*_NO_EFFECT):
        yield from concerned(topology, "qos-policy", (change.new or change.old).qos_policy_id)


def _port(topology: Topology, change: Change) -> Iterator[Dirty]:
    old, new = change.old, change.new
    port: Port = new or old
    if port.router_id is None:
        if new is not None and (old is None or _said(old) != _said(new)):
            yield from _port_at(topology, new)
    elif {_policy(old), _policy(new)} != {_policy(port)} or (
        (old is None or new is None) and _policy(port) is not None
    ):
        yield from _gateway(topology, port)


def _said(port: Port) -> tuple[str | None, bool]:
    """What a port says of its quality."""
    return port.qos_policy_id, port.trust_dscp


def _policy(obj: Port | Network | None) -> str | None:
    return None if obj is None else obj.qos_policy_id


def _location(topology: Topology, change: Change) -> Iterator[Dirty]:
    port: Port | None = topology.get("port", change.id)
    if port is None or port.router_id is None:
        yield from ((hypervisor, ("qos", change.id)) for hypervisor in {change.old, change.new} - {None})


def _vif(topology: Topology, change: Change) -> Iterator[Dirty]:
    """Meters and flows name the number of the port in its switch."""
    old, new = change.old, change.new
    if (old and old.ofport) != (new and new.ofport):
        yield from ((vif.hypervisor_id, ("qos", change.id)) for vif in (old, new) if vif is not None)


def _network(topology: Topology, change: Change) -> Iterator[Dirty]:
    if change.new is not None and _policy(change.old) != _policy(change.new):
        yield from _held_by(topology, "network", change.id)


def _bridge(topology: Topology, change: Change) -> Iterator[Dirty]:
    """Packets get queues where Open vSwitch shapes an uplink itself."""
    old: Bridge | None = change.old
    new: Bridge | None = change.new
    if bool(old and old.queueing) != bool(new and new.queueing):
        yield change.id, ("base", change.id)
        yield from ((change.id, owner) for owner in owners_on(topology, change.id))


RULES: dict[str, Callable[[Topology, Change], Iterable[Dirty]]] = {
    "qos-rule": _rule,
    "port": _port,
    "location": _location,
    "vif": _vif,
    "network": _network,
    "bridge": _bridge,
}
"""What each kind of change makes dirty, beside what ``scope`` says. The graph has the changes in it already."""
