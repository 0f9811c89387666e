"""The security group ``default`` that each project has: of the ports for which no group was named, as in Neutron.

It is made with the first port that needs it. Two controllers that do so at once make the same row, so that one of them
fails, and finds the other's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Literal
from uuid import UUID, uuid5

from ..changes import Edit
from ..model import TENANT, Port, SecurityGroup, SecurityGroupRule
from .allocation import RULE_KEY, Allocator
from .draft import Overlay, View
from .write import Refused

DEFAULT = "default"
"""The name by which it is known: a group that a project itself has made under it serves as well."""
_NAMESPACE = UUID("5d0c2c0a-6f0f-4f53-9a8e-1f0d6e6b7c41")
_DESCRIPTION = "of ports for which no group was named"
_RULES: tuple[tuple[Literal["ingress", "egress"], Literal["IPv4", "IPv6"]], ...] = (
    ("egress", "IPv4"), ("egress", "IPv6"), ("ingress", "IPv4"), ("ingress", "IPv6"),
)  # fmt: skip


def default_group(view: View, project: str) -> SecurityGroup:
    """A project's group ``default``: the one that there is, or the one that is to be made (``making``).

    Raises Refused(409) when its name is taken by a group of another kind.
    """
    there: SecurityGroup | None = view.get("security-group", view.names.get(("security-group", project, DEFAULT), ""))
    if there is None:
        id = _unused(view, "security-group", project)
        return SecurityGroup(id=id, name=DEFAULT, project_id=project, description=_DESCRIPTION, revision_number=1)
    if there.tier != TENANT:
        what = f"security-group {there.id} of tier {there.tier} has the name {DEFAULT!r}: rename it, or name groups"
        raise Refused(409, "security_groups", what)
    return there


def making(view: View, port: Port, allocator: Allocator) -> Iterator[Edit]:
    """The edits that make the group ``default`` of a port that is to have it, where it is not there yet."""
    for id in port.security_groups or ():
        if view.get("security-group", id) is None:  # every other one was found
            yield Edit("security-group", id, default_group(view, port.project_id))
            yield from _rules(view, id, port.project_id, allocator)


def _rules(view: View, group: str, project: str, allocator: Allocator) -> Iterator[Edit]:
    """Members send to everyone, and receive from each other."""
    keys = Overlay(view.rule_keys)
    for direction, ethertype in _RULES:
        id = _unused(view, "security-group-rule", f"{group}/{direction}/{ethertype}")
        key = allocator.number(keys, RULE_KEY, "rule_key")
        keys.changes[key] = id
        made = SecurityGroupRule(
            id=id, project_id=project, security_group_id=group, direction=direction, ethertype=ethertype,
            remote_group_id=group if direction == "ingress" else None, rule_key=key, revision_number=1,
        )  # fmt: skip
        yield Edit("security-group-rule", id, made)


def _unused(view: View, kind: str, name: str) -> str:
    """The id of what has this name, wherever it is made: a UUID of version 5 (RFC 9562), the first that nobody has."""
    ids = (str(uuid5(_NAMESPACE, f"{kind}/{name}/{number}")) for number in count())
    return next(id for id in ids if view.get(kind, id) is None)
