"""What hypervisors can promise: bandwidth of their uplinks and meters of their switches, and who claims some of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from ..changes import Edit
from ..model import FloatingIp, Hypervisor, Network, Object, Port, QosRule
from ..qos import Account, Accounts, Guarantee, carrier, guarantees, policy_of_port, quality
from ..references import Node
from .context import Context
from .draft import Draft, View, describe
from .write import Refused

_NAMED = 3
"""Ports that a refusal names."""


def check_uplinks(context: Context, new: Hypervisor) -> None:
    """Uplinks that carry something each, once, and keep what was promised. Raises Refused."""
    wires = {mapping.physical_network for mapping in new.bridge_mappings}
    carried: set[str] = set()
    bandwidth: dict[str, int] = {}
    for position, uplink in enumerate(new.uplinks):
        path, wire = f"uplinks[{position}]", uplink.physical_network
        if wire in carried:
            what = f"physical network {wire}" if wire else "tunnels"
            raise Refused(400, f"{path}.physical_network", f"another uplink carries {what} already")
        if wire and wire not in wires:
            raise Refused(400, f"{path}.physical_network", f"{wire} is not in bridge_mappings: map it to a bridge")
        if bandwidth.setdefault(uplink.interface, uplink.bandwidth_kbps) != uplink.bandwidth_kbps:
            what = f"{uplink.interface} has {bandwidth[uplink.interface]} in another entry; it is the same interface"
            raise Refused(400, f"{path}.bandwidth_kbps", what)
        carried.add(wire)
    if context.old is not None and new.uplinks != context.old.uplinks:
        _check_promises(context, staged(context.view, new), new.id, "uplinks")


def staged(view: View, new: Object) -> Draft:
    """The view as it would be."""
    draft = Draft(view)
    draft.stage(Edit(type(new).KIND, new.id, new))
    return draft


def check_capacity(context: Context, after: View, ports: Iterable[Port], field: str) -> None:
    """Where the ports are there is enough of everything that their policy asks for. Raises Refused(409)."""
    view = context.view
    meters: defaultdict[str, int] = defaultdict(int)
    more: set[str] = set()
    known: dict[tuple[bool, str | None], Any] = {}

    def holds(later: bool, port: Port) -> Any:
        which = after if later else view
        policy, _ = policy_of_port(which, which.get("port", port.id))
        if (later, policy) not in known:
            known[later, policy] = quality(which, policy, "port")
        return known[later, policy]

    for port in ports:
        here = view.location(port.id)
        if here is not None:
            was, will = holds(False, port), holds(True, port)
            meters[here] += will.meters - was.meters
            if (will.min_kbps or 0) > (was.min_kbps or 0):
                more.add(here)
    for hypervisor, needed in sorted(meters.items()):
        _check_meters(context, hypervisor, needed, field)
    for hypervisor in sorted(more):
        _check_promises(context, after, hypervisor, field)


def _check_meters(context: Context, hypervisor_id: str, needed: int, field: str) -> None:
    """The hypervisor's switch has so many more meters, as far as is known. Raises Refused(409)."""
    found = context.view.get("meters", hypervisor_id)
    if found is None or needed <= 0:
        return
    name = _hypervisor(context, hypervisor_id)
    if not found.max_meters:
        raise Refused(409, field, f"the switch of {name} has no meters, so nothing can be limited there")
    left = found.max_meters - found.in_use
    if needed > left:
        what = f"the switch of {name} has {found.max_meters} meters, of which {max(left, 0)} are left"
        raise Refused(409, field, f"{what}, and {needed} are needed: limit fewer ports there, or move some away")


def _check_promises(context: Context, after: View, hypervisor_id: str, field: str) -> None:
    """Every uplink can keep what it promises, or at least promises no more than before. Raises Refused(409)."""
    before, then = guarantees(context.view, hypervisor_id), guarantees(after, hypervisor_id)
    name = _hypervisor(context, hypervisor_id)
    for guarantee in set(then.without) - set(before.without):
        port: Port = after.get("port", guarantee.port_id)
        wire = carrier(after.get("network", port.network_id))
        what = f"physical network {wire}" if wire else "tunnels"
        why = f"{name} has no uplink for {what}, so nothing can be guaranteed to {context.held('port', port.id)} there"
        raise Refused(409, field, f"{why}: set the hypervisor's uplinks (interface, bandwidth_kbps)")
    for account in then.uplinks:
        if account.left_kbps < min(_left_before(before, account), 0):
            raise Refused(409, field, _too_much(context, name, before, account))


def _left_before(before: Accounts, account: Account) -> int:
    """What was left for what an uplink carries now; 0 for what nothing carried."""
    found = (each.left_kbps for wire in account.physical_networks if (each := before.of(wire)) is not None)
    return min(found, default=0)


def _too_much(context: Context, name: str, before: Accounts, account: Account) -> str:
    """Who asks for how much of an uplink, what there is, and who has it."""
    had = {each: None for uplink in before.uplinks for each in uplink.guarantees}
    others = [each for each in account.guarantees if each in had]
    asked = [each for each in account.guarantees if each not in had]
    taken = sum(each.min_kbps for each in others)
    what = (
        f"uplink {account.interface} of {name} has {account.bandwidth_kbps} kbit/s, of which {account.reserve_kbps} stay for"
        f" what has no guarantee; {taken} are guaranteed to others{_who(context, others)}, so"
        f" {max(account.available_kbps - taken, 0)} are left"
    )
    if not asked:
        return f"{what}, {-account.left_kbps} less than what is guaranteed already"
    return f"{what}, and {sum(each.min_kbps for each in asked)} are asked for{_who(context, asked)}"


def _who(context: Context, found: list[Guarantee]) -> str:
    """The ports that have most; a tenant is told of its own."""
    project = context.write.project
    shown = [each for each in found if project in (None, context.view.get("port", each.port_id).project_id)]
    shown.sort(key=lambda each: (-each.min_kbps, each.port_id))
    named = [f"{each.min_kbps} {describe(context.view, 'port', each.port_id, project)}" for each in shown[:_NAMED]]
    if named and len(found) > len(named):
        named.append(f"and {len(found) - len(named)} more")
    return f" ({', '.join(named)})" if named else ""


def _hypervisor(context: Context, id: str) -> str:
    """A hypervisor in words for the writer; tenants know its id from their ports."""
    return describe(context.view, "hypervisor", id, None) if context.write.project is None else f"hypervisor {id}"


def ports_with(view: View, policy_id: str) -> Iterator[Port]:
    """The VMs' ports that a policy holds for."""
    for kind, id in view.referrers("qos-policy", policy_id):
        if kind != "qos-rule":
            yield from ports_of(view, view.get(kind, id))


def ports_of(view: View, obj: Object) -> Iterator[Port]:
    """The VMs' ports that a policy attached to an object would hold for."""
    if isinstance(obj, Port) and obj.router_id is None:
        yield obj
    if isinstance(obj, Network):
        for id in view.ports_of(obj.id):
            port: Port = view.get("port", id)
            if port.router_id is None and port.qos_policy_id is None:
                yield port


# --- who must see whom -------------------------------------------------------------------------------------------


def claims(view: View, edit: Edit) -> Iterator[Node]:
    """The policies and hypervisors of whose promises an edit takes something, or might.

    What is left follows from many objects, so that two controllers which write at once would both find room. Each claim counts
    up ``promises`` of the object, from the number that the writer has seen: the second one to do so is told to look again.
    """
    kind, id, new = edit
    old = view.get(kind, id)
    match new:
        case QosRule() if old is None or new.min_kbps != old.min_kbps:
            yield "qos-policy", new.qos_policy_id
            if new.type == "minimum_bandwidth":
                yield from _located(view, ports_with(view, new.qos_policy_id))
        case Hypervisor() if old is not None and new.uplinks != old.uplinks:
            yield "hypervisor", id
        case Port() | Network() | FloatingIp():
            before = None if old is None else old.qos_policy_id
            if new.qos_policy_id == before:
                return
            later = staged(view, new)
            holds = policy_of_port(later, new)[0] if isinstance(new, Port) else None
            policies = [each for each in dict.fromkeys((new.qos_policy_id, holds)) if each is not None]
            yield from (("qos-policy", policy) for policy in policies)
            if any(quality(view, policy, "").min_kbps is not None for policy in policies):
                yield from _located(view, ports_of(view, new))


def _located(view: View, ports: Iterable[Port]) -> Iterator[Node]:
    found = {view.location(port.id) for port in ports}
    yield from (("hypervisor", here) for here in found if here is not None)
