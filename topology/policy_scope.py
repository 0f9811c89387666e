"""Which hypervisors' policies depend on what: the owner ("policy", hypervisor) has the rules of all that is local there.

It depends on the identities that local ports have, the groups that these are members of, the rules of those groups, and
whom these name. A port that joins where its identity is known changes none of that, whatever the number of rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .changes import Change, Dirty, Owner
from .graph import Topology
from .model import SecurityGroupRule


def owner(hypervisor: str) -> Owner:
    """The owner of the rules on a hypervisor."""
    return "policy", hypervisor


def concerned(topology: Topology, kind: str, id: str) -> Iterator[Dirty]:
    """Where groups, rules and address groups take effect; an identity may be known to every hypervisor."""
    match kind:
        case "security-group":
            yield from _at(topology, (id,))
            yield from _naming(topology, id)
        case "security-group-rule":
            rule: SecurityGroupRule | None = topology.get("security-group-rule", id)
            yield from _at(topology, () if rule is None else (rule.security_group_id,))
        case "address-group":
            yield from _naming(topology, id)
        case "identity":
            for hypervisor in topology.all("hypervisor"):
                yield hypervisor, owner(hypervisor)


def _at(topology: Topology, groups: Iterable[str]) -> Iterator[Dirty]:
    """Where members of groups are."""
    hypervisors = dict.fromkeys(here for group in groups for here in topology.hypervisors_of_group(group))
    return ((here, owner(here)) for here in hypervisors)


def _naming(topology: Topology, peer: str) -> Iterator[Dirty]:
    """Where rules apply that name a security group, or an address group, as their peers."""
    rules = (topology.get("security-group-rule", id) for id in topology.rules_naming(peer))
    return _at(topology, {rule.security_group_id for rule in rules})


# --- what changes make dirty -------------------------------------------------------------------------------------


def _resident(topology: Topology, change: Change) -> Iterator[Dirty]:
    """A hypervisor got the first port with an identity, or lost the last."""
    yield change.id, owner(change.id)


def _members(topology: Topology, change: Change) -> Iterator[Dirty]:
    """Identities joined or left a group: other rules apply to their ports, and rules that name the group have other peers."""
    for number in change.old | change.new:
        for hypervisor in topology.hypervisors_with(number):
            yield hypervisor, owner(hypervisor)
    yield from _naming(topology, change.id)


def _identity(topology: Topology, change: Change) -> Iterator[Dirty]:
    """Without an identity nothing is allowed to its ports, even where it is a member of no group."""
    if change.only_in(*_NO_RULES):
        return
    for hypervisor in topology.hypervisors_with((change.new or change.old).number):
        yield hypervisor, owner(hypervisor)


def _group(topology: Topology, change: Change) -> Iterator[Dirty]:
    """Who its members are is told apart from it."""
    if not change.only_in(*_NO_RULES, "selector", "shared"):
        yield from _at(topology, (change.id,))


def _rule(topology: Topology, change: Change) -> Iterator[Dirty]:
    if not change.only_in(*_NO_RULES):
        yield from _at(topology, ((change.new or change.old).security_group_id,))


def _address_group(topology: Topology, change: Change) -> Iterator[Dirty]:
    if not change.only_in(*_NO_RULES, "shared"):
        yield from _naming(topology, change.id)


_NO_RULES = ("name", "description", "revision_number")
"""Fields that no policy depends on."""

RULES: dict[str, Callable[[Topology, Change], Iterator[Dirty]]] = {
    "resident": _resident,
    "members": _members,
    "identity": _identity,
    "security-group": _group,
    "security-group-rule": _rule,
    "address-group": _address_group,
}
"""What each kind of change makes dirty. The graph has the changes in it already."""
