"""Security groups, their rules, address groups, and the identities that ports get from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, Literal

from msgspec.structs import replace

from .. import ip_protocols
from ..changes import Edit
from ..indexes import rule_match
from ..membership import identity_id, selecting, selector_scope, selects, takes
from ..model import (
    ADMIN,
    TENANT,
    AddressGroup,
    Identity,
    LabelRequirement,
    Port,
    SecurityGroup,
    SecurityGroupRule,
)
from .addresses import parse_prefix
from .allocation import IDENTITY, RULE_KEY
from .context import Context
from .default_group import DEFAULT, default_group
from .draft import View
from .write import Refused

RULES_OF_GROUP = 4096
SELECTORS_OF_PROJECT = 1024
"""Groups with a selector: every new set of labels is held against all of them."""
IDENTITIES_OF_PROJECT = 65536
"""Distinct sets of security groups and labels, those included that are still to be collected."""


# --- groups ------------------------------------------------------------------------------------------------------


def security_group(context: Context) -> SecurityGroup:
    """A selector that needs labels; the tier's own fields; and statefulness that agrees with its members' other groups."""
    new: SecurityGroup = context.new
    old: SecurityGroup | None = context.old
    if old is not None and new.tier != old.tier:
        return new  # to be refused: a group keeps its tier
    _check_tier(new)
    _check_unshared(context, "security-group")
    if new.selector is not None:
        new = replace(new, selector=_selector(new.selector))
        if old is None or old.selector is None:
            there = context.view.selectors_of(selector_scope(new))
            what = f"the project has {SELECTORS_OF_PROJECT} groups with a selector"
            _check_limit(there, SELECTORS_OF_PROJECT, "selector", what)
    if new.tier == TENANT and (old is None or (new.stateful, new.selector) != (old.stateful, old.selector)):
        field = "selector" if old is None or new.stateful == old.stateful else "stateful"
        _check_agreement(context.view, new, field)
    return new


def _check_tier(group: SecurityGroup) -> None:
    if group.tier == ADMIN:
        if group.project_id:
            raise Refused(400, "project_id", "a group of tier admin belongs to no project: leave project_id out")
        if group.name == DEFAULT:
            raise Refused(400, "name", "is the name of tenants' groups of ports for which none was named")
        if not group.stateful:
            raise Refused(400, "stateful", "goes with tier tenant: what is asked before it knows connections")
        if group.shared:
            raise Refused(400, "shared", "goes with tier tenant: ports get groups of tier admin from administrators")
    elif group.priority:
        raise Refused(400, "priority", "goes with tier admin only: what any tenant group allows is allowed")


def _selector(selector: tuple[LabelRequirement, ...]) -> tuple[LabelRequirement, ...]:
    """The selector with its values in order. Raises Refused(400)."""
    found = []
    for position, each in enumerate(selector):
        path = f"selector[{position}]"
        if each.operator in ("In", "NotIn") and not each.values:
            raise Refused(400, f"{path}.values", f"{each.operator} needs at least one value")
        if each.operator in ("Exists", "DoesNotExist") and each.values:
            raise Refused(400, f"{path}.values", f"{each.operator} takes no values")
        found.append(replace(each, values=tuple(sorted(set(each.values)))))
    if not any(each.operator in ("In", "Exists") for each in found):
        what = "needs a requirement In or Exists: ports without labels are no members of groups that select"
        raise Refused(400, "selector", what)
    return tuple(dict.fromkeys(found))


def _check_unshared(context: Context, kind: str) -> None:
    """A group that others use stays shared."""
    old, new = context.old, context.new
    if old is None or not old.shared or new.shared:
        return
    for user_kind, id in context.view.referrers(kind, new.id):
        if context.view.get(user_kind, id).project_id != new.project_id:
            raise Refused(409, "shared", f"{context.held(user_kind, id)} of another project uses it")


def _check_limit(there: Collection[Any], limit: int, field: str, what: str) -> None:
    if len(there) >= limit:
        raise Refused(409, field, f"{what}: no more are taken")


def address_group(context: Context) -> AddressGroup:
    """Prefixes in order, each once."""
    new: AddressGroup = context.new
    _check_unshared(context, "address-group")
    prefixes = [parse_prefix(text, f"addresses[{position}]") for position, text in enumerate(new.addresses)]
    return replace(new, addresses=tuple(sorted({str(prefix) for prefix in prefixes})))


# --- rules -------------------------------------------------------------------------------------------------------


def security_group_rule(context: Context) -> SecurityGroupRule:
    """A match that packets can meet and no other rule has; in the project of its group; with a key of its own."""
    new: SecurityGroupRule = context.new
    old: SecurityGroupRule | None = context.old
    if old is not None and new.security_group_id != old.security_group_id:
        return new  # to be refused: a rule keeps its group
    group: SecurityGroup = context.visible("security-group", new.security_group_id, "security_group_id")
    if context.write.project not in (None, group.project_id):
        raise Refused(403, "security_group_id", f"security-group {group.id} is somebody else's")
    if new.project_id != group.project_id:
        if "project_id" in context.write.fields:
            what = f"a rule belongs to the project of its group, {group.project_id!r}"
            raise Refused(400, "project_id", what)
        new = replace(new, project_id=group.project_id)
    if new.action == "deny" and group.tier != ADMIN:
        what = "deny is for groups of tier admin; in other groups what no rule allows is denied"
        raise Refused(400, "action", what)
    new = _peer(replace(new, ethertype=_ethertype(new)))
    new = _service(new)
    if old is None:
        what = f"security-group {group.id} has {RULES_OF_GROUP} rules"
        _check_limit(context.view.rules_of(group.id), RULES_OF_GROUP, "security_group_id", what)
    twin = context.view.rules.get(rule_match(new))
    if twin not in (None, new.id):
        raise Refused(409, "", f"{context.held('security-group-rule', twin or '')} says the same already")
    key = new.rule_key
    if key is None:
        key = context.allocator.number(context.view.rule_keys, RULE_KEY, "rule_key")
    return replace(new, rule_key=key)


def _ethertype(rule: SecurityGroupRule) -> Any:
    if rule.ethertype is None:
        return "IPv6" if rule.remote_ip_prefix is not None and ":" in rule.remote_ip_prefix else "IPv4"
    return rule.ethertype


_PEERS = ("remote_group_id", "remote_ip_prefix", "remote_address_group_id")


def _peer(rule: SecurityGroupRule) -> SecurityGroupRule:
    """At most one kind of peer, and of the rule's IP version."""
    given = [name for name in _PEERS if getattr(rule, name) is not None]
    if len(given) > 1:
        raise Refused(400, given[1], f"goes without {given[0]}: a rule has one kind of peer")
    if rule.remote_ip_prefix is None:
        return rule
    prefix = parse_prefix(rule.remote_ip_prefix, "remote_ip_prefix")
    if f"IPv{prefix.version}" != rule.ethertype:
        raise Refused(400, "remote_ip_prefix", f"{prefix} is not {rule.ethertype}, as the rule's ethertype is")
    return replace(rule, remote_ip_prefix=str(prefix))


def _service(rule: SecurityGroupRule) -> SecurityGroupRule:
    """A protocol of the IP version, with the ports, or type and code, that it can have."""
    protocol = None
    if rule.protocol is not None:
        try:
            protocol = ip_protocols.canonical(rule.protocol, rule.ethertype or "")
        except ValueError as problem:
            raise Refused(400, "protocol", str(problem)) from None
    number = ip_protocols.number(protocol)
    if rule.ethertype == "IPv4" and number in ip_protocols.ONLY_IPV6:
        raise Refused(400, "protocol", f"{protocol} is IPv6 only: the rule needs the ethertype IPv6")
    if rule.ethertype == "IPv6" and number in ip_protocols.EXTENSION_HEADERS:
        what = f"{protocol} is an extension header of IPv6; rules are about the protocol behind those"
        raise Refused(400, "protocol", what)
    low, high = rule.port_range_min, rule.port_range_max
    if number in (ip_protocols.ICMP, ip_protocols.ICMPV6):
        _check_icmp(low, high)
    elif number in ip_protocols.WITH_PORTS:
        _check_ports(low, high)
    elif low is not None or high is not None:
        field = "port_range_min" if low is not None else "port_range_max"
        what = "every protocol" if protocol is None else f"protocol {protocol}"
        raise Refused(400, field, f"goes with tcp, udp, sctp and ICMP, where switches can tell; not with {what}")
    return replace(rule, protocol=protocol)


def _check_icmp(type_: int | None, code: int | None) -> None:
    if type_ is None and code is not None:
        raise Refused(400, "port_range_min", "is the ICMP type, which a code (port_range_max) needs")
    for field, value in (("port_range_min", type_), ("port_range_max", code)):
        if value is not None and value > 255:
            raise Refused(
                400, field, f"{value} is no ICMP {'type' if field == 'port_range_min' else 'code'}; there are 0 to 255"
            )


def _check_ports(low: int | None, high: int | None) -> None:
    for field, value, other in (("port_range_min", low, high), ("port_range_max", high, low)):
        if value is None and other is not None:
            raise Refused(400, field, "must be given: a range has two ends, which may be the same")
        if value == 0:
            raise Refused(400, field, "0 is no port; there are 1 to 65535")
    if low is not None and high is not None and low > high:
        raise Refused(400, "port_range_min", f"{low} is more than port_range_max, {high}")


# --- ports -------------------------------------------------------------------------------------------------------


def membership(context: Context) -> Port:
    """The port with its groups in order, and the identity that follows from groups and labels; a router's has neither."""
    new: Port = context.new
    old: Port | None = context.old
    if new.router_id is not None:
        return replace(new, security_groups=())
    new = replace(new, security_groups=_groups(context))
    if not new.port_security_enabled and not new.security_groups and not new.labels:
        return replace(new, identity=None)
    if old is not None and _of(old) == _of(new):
        # one of a database that knew no group default is open without an identity, until its groups are written
        if old.identity is not None or _wish(context) == "kept":
            return new
    return replace(new, identity=_number(context._replace(new=new)))


def _of(port: Port) -> tuple[Any, ...]:
    """What decides a port's identity."""
    return port.project_id, port.security_groups, port.labels, port.port_security_enabled


def _wish(context: Context) -> Literal["given", "default", "kept"]:
    """Where a port's groups come from. Who writes none gets the default where the port is new or comes under the rule of
    groups, and where a merge patch takes them away by null."""
    write, new, old = context.write, context.new, context.old
    if write.fields.get("security_groups") is not None:
        return "given"
    open_before = old is None or not old.port_security_enabled or (old.identity is None and new.labels != old.labels)
    reset = write.op == "patch" and "security_groups" in write.fields
    return "default" if reset or (open_before and new.port_security_enabled) else "kept"


def _groups(context: Context) -> tuple[str, ...]:
    """The groups that the port names, sorted. Those of tier admin stay as an administrator has set them. Without port
    security it names no others: a replacement that says nothing of groups takes it out of those, a patch is refused."""
    view, new = context.view, context.new
    secure: bool = new.port_security_enabled
    before = frozenset(context.old.security_groups or ()) if context.old is not None else frozenset()
    named = admins = {id for id in before if view.get("security-group", id).tier == ADMIN}
    match _wish(context):
        case "given":
            named = _given(context, before) | (admins if context.write.project is not None else set())
        case "default" if secure:
            named = admins | {default_group(view, new.project_id).id}
        case "kept" if secure or context.write.op == "patch":
            named = {*before}
    if not secure and any(view.get("security-group", id).tier == TENANT for id in named):
        what = "need port_security_enabled: without it the port can be in groups of tier admin only, so take it out, []"
        raise Refused(409, "security_groups", what)
    return tuple(sorted(named))


def _given(context: Context, before: Collection[str]) -> set[str]:
    """The groups that the writer gives; what is new among them the writer must see."""
    new: Port = context.new
    given = new.security_groups or ()
    if len(set(given)) < len(given):
        raise Refused(400, "security_groups", "names a group twice")
    for position, id in enumerate(given):
        if id not in before:
            group = context.visible("security-group", id, f"security_groups[{position}]")
            if group.tier == TENANT and not group.shared and group.project_id != new.project_id:
                what = f"security-group {id} is of project {group.project_id!r} and not shared, the port of {new.project_id!r}"
                raise Refused(409, f"security_groups[{position}]", what)
    return set(given)


def _number(context: Context) -> int:
    """The number of the port's identity: the one that such ports have, or a free one when its groups go together."""
    view, new = context.view, context.new
    secure: bool = new.port_security_enabled
    known: Identity | None = view.get("identity", identity_id(new.project_id, new.security_groups, new.labels, secure))
    if known is not None and next(iter(view.ports_with(known.number)), None) is not None:
        return known.number
    groups = {id: view.get("security-group", id) or default_group(view, new.project_id) for id in new.security_groups}
    if secure:
        groups |= {group.id: group for group in selecting(view, new.project_id, new.labels)}
    labels_alone = new.labels and not context.write.fields.get("security_groups")
    _check_one_statefulness(groups.values(), "labels" if labels_alone else "security_groups")
    if known is not None:
        return known.number
    there = view.identities_of_project(new.project_id)
    what = f"project {new.project_id!r} has {IDENTITIES_OF_PROJECT} different sets of security groups and labels"
    _check_limit(there, IDENTITIES_OF_PROJECT, "labels", f"{what}, with those not collected yet")
    return context.allocator.number(view.identities, IDENTITY, "identity")


def identity_of(view: View, port: Port) -> Iterator[Edit]:
    """The edit that makes the identity of a port, or takes it out of retirement; nothing when there is none to make."""
    if port.identity is None:
        return
    id = view.identities.get(port.identity)
    known: Identity | None = view.get("identity", id) if id is not None else None
    if known is None:
        named, secure = port.security_groups or (), port.port_security_enabled
        id = identity_id(port.project_id, named, port.labels, secure)
        made = Identity(
            id=id, project_id=port.project_id, number=port.identity, security_groups=named, labels=port.labels,
            port_security_enabled=secure, revision_number=1,
        )  # fmt: skip
        yield Edit("identity", id, made)
    elif known.retired:
        yield Edit("identity", known.id, replace(known, retired=False, revision_number=known.revision_number + 1))


def identity(context: Context) -> Identity:
    """Retired only while no port has it. Everything else about it is fixed."""
    new: Identity = context.new
    if new.retired:
        check_unused(context.view, new)
    return new


def check_unused(view: View, identity: Identity) -> None:
    """Raises Refused(409) when a port has the identity."""
    user = next(iter(view.ports_with(identity.number)), None)
    if user is not None:
        raise Refused(409, "", f"port {user} has it")


# --- statefulness ------------------------------------------------------------------------------------------------


def _check_one_statefulness(groups: Iterable[SecurityGroup], field: str) -> None:
    """The tenant groups of a port are all stateful, or none is."""
    tenant = sorted((group for group in groups if group.tier == TENANT), key=lambda group: group.id)
    with_state = next((group for group in tenant if group.stateful), None)
    without = next((group for group in tenant if not group.stateful), None)
    if with_state is not None and without is not None:
        what = f"security-group {with_state.id} is stateful and {without.id} is not: a port's groups must agree"
        raise Refused(409, field, what)


def _check_agreement(view: View, group: SecurityGroup, field: str) -> None:
    """No port that names the group, or that it selects, has another one that is stateful where this one is not."""
    numbers: Iterable[int] = view.identities if group.shared else view.identities_of_project(group.project_id)
    for number in numbers:
        found: Identity = view.get("identity", view.identities[number])
        if not takes(group, found):
            continue
        if group.id not in found.security_groups and not selects(group, found.project_id, found.labels):
            continue
        others = {id: view.get("security-group", id) for id in found.security_groups}
        others |= {other.id: other for other in selecting(view, found.project_id, found.labels)}
        others[group.id] = group
        try:
            _check_one_statefulness((other for other in others.values() if other is not None), "")
        except Refused as refused:
            user = next(iter(view.ports_with(number)), None)
            if user is not None:
                raise Refused(409, field, f"port {user}: {refused.detail}") from None
