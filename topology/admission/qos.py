"""What quality of service demands: rules that make sense, and policies that fit what they are attached to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from ..model import FloatingIp, Network, Object, Port, QosPolicy, QosRule, TunnelMesh
from ..model.qos import BOUNDS
from ..qos import (
    burst_floor,
    burst_kbit,
    largest_packet,
    rules_of,
)
from .context import Context
from .draft import View
from .promises import check_capacity, ports_of, ports_with, staged
from .write import Refused

BURST_MOST = 4
"""Seconds of its rate that a burst may be: who sends for longer at any speed has no limit worth the name."""

_FIELDS: dict[str, tuple[str, ...]] = {
    "bandwidth_limit": ("max_kbps", "max_burst_kbps"),
    "packet_rate_limit": ("max_pps", "max_burst_packets"),
    "minimum_bandwidth": ("min_kbps",),
    "dscp_marking": ("dscp_mark",),
    "priority": ("priority",),
    "max_latency": ("max_latency_ms",),
}
"""What each type of rule says; the first of it must be given."""
_EGRESS_ONLY = {
    "minimum_bandwidth": "how much comes in is decided by those who send; guarantee it to them",
    "dscp_marking": "a VM's packets are marked where they come from",
    "priority": "it orders what leaves by the hypervisor's uplink",
    "max_latency": "it bounds the wait at the hypervisor's uplink",
}
_WHY = {
    "max_kbps": "below, one packet takes longer than TCP waits for it",
    "max_burst_kbps": "a burst is how much may pass at once",
    "max_pps": "to let nothing pass set admin_state_up to false",
    "max_burst_packets": "a burst is how many may pass at once",
    "min_kbps": "less is what everybody has anyway",
    "dscp_mark": "a DSCP has 6 bits (RFC 2474)",
    "priority": "there are eight (IEEE 802.1Q)",
    "max_latency_ms": "below, a queue could not hold one packet; above, it needs no bound",
}
_OUTSIDE = ("bandwidth_limit", "packet_rate_limit", "dscp_marking")
"""Types of rules that hold for floating IPs and gateways."""


# --- policies and rules ------------------------------------------------------------------------------------------


def qos_policy(context: Context) -> QosPolicy:
    """Any policy is good; it does something by its rules."""
    new: QosPolicy = context.new
    return new


def qos_rule(context: Context) -> QosRule:
    """What its type says and nothing else, within bounds, once in its policy; and good for all that have the policy."""
    new: QosRule = context.new
    old: QosRule | None = context.old
    if old is not None and (new.qos_policy_id, new.type, new.direction) != (old.qos_policy_id, old.type, old.direction):
        return new  # to be refused: a rule stays what it is, and where
    policy: QosPolicy = context.visible("qos-policy", new.qos_policy_id, "qos_policy_id")
    if new.project_id != policy.project_id:
        if "project_id" in context.write.fields:
            raise Refused(400, "project_id", f"a rule belongs to the project of its policy, {policy.project_id!r}")
        new = replace(new, project_id=policy.project_id)
    _check_fields(new)
    for other in rules_of(context.view, policy.id):
        if (other.type, other.direction) == (new.type, new.direction):
            context.holds("qos-rule", other.id, f"{new.type}, {new.direction}, of qos-policy {policy.id}", "type")
    after = staged(context.view, new)
    _check_against_limit(after, new)
    for kind, id in context.view.referrers("qos-policy", policy.id):
        user = context.view.get(kind, id)
        if isinstance(user, FloatingIp) or (isinstance(user, Port) and user.router_id is not None):
            _check_outside(new, context.held(kind, id), "type")
    if new.type == "bandwidth_limit":
        for network in _networks_with(context.view, policy.id):
            _check_burst(context, new, network, "max_burst_kbps")
    check_capacity(context, after, ports_with(context.view, policy.id), _FIELDS[new.type][0])
    return new


def _check_fields(rule: QosRule) -> None:
    """The fields of its type are there and within bounds, and no others are. Raises Refused(400)."""
    for type, names in _FIELDS.items():
        for name in names if type != rule.type else ():
            if getattr(rule, name) is not None:
                raise Refused(400, name, f"goes with type {type}, not with {rule.type}: leave it out")
    if rule.direction == "ingress" and rule.type in _EGRESS_ONLY:
        raise Refused(400, "direction", f"{rule.type} goes with egress only: {_EGRESS_ONLY[rule.type]}")
    if rule.shape and (rule.type, rule.direction) != ("bandwidth_limit", "ingress"):
        what = "goes with bandwidth_limit, ingress: it is for what waits at the VM's interface"
        raise Refused(400, "shape", f"{what}; what leaves waits at the hypervisor's uplink")
    if rule.shape and rule.max_burst_kbps is not None:
        raise Refused(400, "max_burst_kbps", "goes without shape: what is too much waits, and nothing passes at once")
    needed = _FIELDS[rule.type][0]
    if getattr(rule, needed) is None:
        raise Refused(400, needed, f"must be given with type {rule.type}")
    for name in _FIELDS[rule.type]:
        value, (low, high) = getattr(rule, name), BOUNDS[name]
        if value is not None and not low <= value <= high:
            raise Refused(400, name, f"{value} is not within {low} to {high}: {_WHY[name]}")
    if rule.max_kbps is not None and rule.max_burst_kbps is not None:
        least = burst_floor(1500)
        most = max(BURST_MOST * rule.max_kbps, burst_floor(65_535))
        if rule.max_burst_kbps < least:
            what = f"{rule.max_burst_kbps} kbit is less than one packet: with an MTU of 1500 that takes {least}"
            raise Refused(400, "max_burst_kbps", what)
        if rule.max_burst_kbps > most:
            what = f"{rule.max_burst_kbps} kbit is more than {BURST_MOST} s of the rate, {most}: it would be no limit"
            raise Refused(400, "max_burst_kbps", what)
    if rule.max_pps is not None and rule.max_burst_packets is not None:
        if rule.max_burst_packets > BURST_MOST * rule.max_pps:
            what = f"{rule.max_burst_packets} packets are more than {BURST_MOST} s of the rate, {BURST_MOST * rule.max_pps}"
            raise Refused(400, "max_burst_packets", f"{what}: it would be no limit")


def _check_against_limit(after: View, rule: QosRule) -> None:
    """No more is guaranteed than allowed. Raises Refused(409)."""
    rules = {(each.type, each.direction): each for each in rules_of(after, rule.qos_policy_id)}
    least, most = rules.get(("minimum_bandwidth", "egress")), rules.get(("bandwidth_limit", "egress"))
    if least is None or most is None or (least.min_kbps or 0) <= (most.max_kbps or 0):
        return
    if rule.type == "minimum_bandwidth":
        what = f"{least.min_kbps} kbit/s is more than qos-rule {most.id} of the policy allows, {most.max_kbps}"
        raise Refused(409, "min_kbps", what)
    if rule.type == "bandwidth_limit":
        what = f"{most.max_kbps} kbit/s is less than qos-rule {least.id} of the policy guarantees, {least.min_kbps}"
        raise Refused(409, "max_kbps", what)


def _check_outside(rule: QosRule, user: str, field: str) -> None:
    if rule.type not in _OUTSIDE:
        what = (
            f"{rule.type} goes with VMs' ports and networks, not with {user}: floating IPs and gateways are limited and"
        )
        raise Refused(409, field, f"{what} marked only")


def _check_burst(context: Context, rule: QosRule, network: Network, field: str) -> None:
    """The largest packet of a network fits the burst. Raises Refused(409)."""
    if rule.type != "bandwidth_limit" or rule.max_kbps is None:
        return
    burst, mtu = burst_kbit(rule.max_kbps, rule.max_burst_kbps), largest_packet(context.view, network)
    if burst < burst_floor(mtu):
        where = context.held("network", network.id)
        what = f"a packet of {where} with its MTU of {mtu} takes {burst_floor(mtu)} kbit, and the burst of {rule.direction}"
        raise Refused(409, field, f"{what} is {burst}: set max_burst_kbps of qos-rule {rule.id} first")


# --- what has a policy -------------------------------------------------------------------------------------------


def attach(context: Context, new: Any) -> Any:
    """A port, network or floating IP with a policy that its writer may attach, and that fits it. Raises Refused.

    A policy that a tenant cannot see was attached by an administrator, and stays.
    """
    old = context.old
    before = None if old is None else old.qos_policy_id
    if new.qos_policy_id != before and before is not None and not _sees(context, before):
        if context.write.op == "replace" and "qos_policy_id" not in context.write.fields:
            return replace(new, qos_policy_id=before)
        raise Refused(403, "qos_policy_id", "was set by an administrator, and may be changed by administrators only")
    wider = isinstance(new, Network) and old is not None and new.mtu != old.mtu
    if new.qos_policy_id != before:
        if new.qos_policy_id is not None:
            context.visible("qos-policy", new.qos_policy_id, "qos_policy_id")
            _check_fits(context._replace(new=new))
        check_capacity(context, staged(context.view, new), ports_of(context.view, new), "qos_policy_id")
    elif wider:
        check_packets(context, new, "mtu")
    return new


def _sees(context: Context, policy_id: str) -> bool:
    try:
        context.visible("qos-policy", policy_id, "qos_policy_id")
    except Refused:
        return False
    return True


def _check_fits(context: Context) -> None:
    """The rules of the policy are for such an object. Raises Refused."""
    new, view = context.new, context.view
    network: Network
    outside = True
    match new:
        case Network():
            network, outside = new, False
        case Port():
            network, outside = view.get("network", new.network_id), new.router_id is not None
            if outside and not network.external:
                what = "of a router's ports only its gateway, in an external network, takes a policy; set it on the VMs' network"
                raise Refused(400, "qos_policy_id", what)
        case _:
            network = view.get("network", new.floating_network_id)
    for rule in rules_of(view, new.qos_policy_id):
        if outside:
            _check_outside(rule, f"this {context.cls.KIND}", "qos_policy_id")
        _check_burst(context, rule, network, "qos_policy_id")


def check_packets(context: Context, network: Network, field: str) -> None:
    """The bursts of all policies that hold in a network, which is to have larger packets, let these pass."""
    ports = (context.view.get("port", id) for id in context.view.ports_of(network.id))
    policies = {network.qos_policy_id, *(port.qos_policy_id for port in ports)} - {None}
    for policy in sorted(policies):
        for rule in rules_of(context.view, policy):
            _check_burst(context, rule, network, field)


def check_underlay(context: Context, new: TunnelMesh) -> None:
    """Bursts let the packets pass that fit the underlay, in all networks whose MTU follows from it."""
    if context.old is None or new.underlay_mtu <= context.old.underlay_mtu:
        return
    later = context._replace(view=staged(context.view, new))
    for network in context.view.all("network").values():
        if network.mtu is None and network.physical_network is None:
            check_packets(later, network, "underlay_mtu")


def _networks_with(view: View, policy_id: str) -> list[Network]:
    """The networks whose packets a policy limits."""
    found: dict[str, Network] = {}
    for kind, id in view.referrers("qos-policy", policy_id):
        match view.get(kind, id):
            case Network() as network:
                found[id] = network
            case Port() as port:
                found[port.network_id] = view.get("network", port.network_id)
            case FloatingIp() as floating:
                found[floating.floating_network_id] = view.get("network", floating.floating_network_id)
    return [found[id] for id in sorted(found)]


RULES: dict[str, Callable[[Context], Object]] = {"qos-policy": qos_policy, "qos-rule": qos_rule}
