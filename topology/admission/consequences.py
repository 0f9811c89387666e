"""What goes with an edit."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from ..changes import Edit
from ..model import FloatingIp, HealthMonitor, Member, Neighbour, Port, QosRule, SecurityGroupRule
from .allocation import Allocator
from .default_group import making
from .draft import View
from .security_groups import identity_of


def consequences(view: View, edit: Edit, allocator: Allocator) -> Iterator[Edit]:
    """The edits to be made before an admitted one, together with it.

    Floating IPs wait for another port when theirs is deleted; what was learned of hosts outside goes with their network,
    and rules with their security group. A port's identity is made when it is the first to have it, and so is its
    project's group ``default``.
    """
    if edit.value is not None:
        if isinstance(edit.value, Port):
            yield from making(view, edit.value, allocator)
            yield from identity_of(view, edit.value)
        return
    match edit.kind:
        case "port":
            for id in sorted(view.floating_of(edit.id)):
                floating: FloatingIp = view.get("floating-ip", id)
                revision = floating.revision_number + 1
                detached = replace(floating, port_id=None, fixed_ip_address=None, revision_number=revision)
                yield Edit("floating-ip", id, detached)
        case "load-balancer":
            for id in sorted(view.floating_to(edit.id)):
                floating = view.get("floating-ip", id)
                revision = floating.revision_number + 1
                yield Edit("floating-ip", id, replace(floating, loadbalancer_id=None, revision_number=revision))
        case "pool":
            for id in sorted(view.members_of(edit.id)):
                yield Edit("member", id, None)
            for id in sorted(view.monitors_of(edit.id)):
                yield Edit("health-monitor", id, None)
        case "network":
            for id in sorted(view.neighbours_in(edit.id)):
                if goes_with(view, edit.id, "neighbour", id):
                    yield Edit("neighbour", id, None)
        case "qos-policy":
            for id in sorted(view.qos_rules_of(edit.id)):
                yield Edit("qos-rule", id, None)
        case "security-group":
            for id in sorted(view.rules_of(edit.id)):
                yield Edit("security-group-rule", id, None)


def goes_with(view: View, deleted: str, kind: str, id: str) -> bool:
    """Whether an object goes with one that is deleted, and does not keep it: a host outside that NovaNet learned of by
    itself, or a rule of the security group."""
    obj = view.get(kind, id)
    match obj:
        case Neighbour():
            return obj.learned
        case SecurityGroupRule():
            return obj.security_group_id == deleted
        case Member() | HealthMonitor():
            return obj.pool_id == deleted
        case QosRule():
            return obj.qos_policy_id == deleted
    return False
