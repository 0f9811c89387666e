"""Who is a member of which security group, and where: the identities of ports, and the groups that name or select them.

An identity stands for all ports of a project with the same security groups and labels, so what is kept here grows with
the number of distinct sets, not with ports. A group's members are identities: those that name it, and those that its
selector selects (Kubernetes' label selectors).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from typing import Any, Protocol, TypeVar
from uuid import UUID

import msgspec

from .changes import Change
from .model import ADMIN, Identity, LabelRequirement, SecurityGroup

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)
EVERYONE = "*"
"""In place of a project: the groups that select ports of all projects. No project has this name."""

_NO_NUMBERS: frozenset[int] = frozenset()
_NO_IDS: frozenset[str] = frozenset()
_ABSENT: tuple[tuple[int, ...], str] = (), ""
_NOWHERE: Mapping[str, int] = Counter()
_NOBODY: Mapping[int, int] = Counter()


# --- what labels select ------------------------------------------------------------------------------------------


def meets(labels: Mapping[str, str], requirement: LabelRequirement) -> bool:
    """Whether labels meet a requirement, as Kubernetes' labels.Requirement does."""
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value is not None and value in requirement.values
        case "NotIn":
            return value is None or value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None


def selects(group: SecurityGroup, project: str, labels: Mapping[str, str]) -> bool:
    """Whether a group's selector makes members of the ports with these labels in a project."""
    if group.selector is None or selector_scope(group) not in (project, EVERYONE):
        return False
    return all(meets(labels, requirement) for requirement in group.selector)


def selector_scope(group: SecurityGroup) -> str:
    """The project whose ports a group's selector chooses among, or ``EVERYONE``."""
    return EVERYONE if group.tier == ADMIN else group.project_id


def takes(group: SecurityGroup, identity: Identity) -> bool:
    """Whether a group takes ports with an identity as members: a tenant's group only those that have port security."""
    return identity.port_security_enabled or group.tier == ADMIN


class Selectors(Protocol):
    """What knows groups by the ports that they choose among: the graph, or a draft over it."""

    def get(self, kind: str, id: str) -> Any: ...
    def selectors_of(self, scope: str) -> AbstractSet[str]: ...


def selecting(view: Selectors, project: str, labels: Mapping[str, str]) -> Iterator[SecurityGroup]:
    """The groups that select the ports with these labels in a project."""
    for scope in (project, EVERYONE):
        for id in view.selectors_of(scope):
            group: SecurityGroup = view.get("security-group", id)
            if selects(group, project, labels):
                yield group


def identity_id(
    project: str, security_groups: Iterable[str], labels: Mapping[str, str], port_security: bool = True
) -> str:
    """The id that the identity of such ports has, wherever it is made: a UUID (RFC 9562, version 8) from what they are."""
    further = [] if port_security else [port_security]
    text = msgspec.json.encode([project, sorted(security_groups), sorted(labels.items()), *further])
    number = int.from_bytes(blake2b(text, digest_size=16, person=b"NovaNet identity").digest(), "big")
    number = number & ~(0xF << 76) | 8 << 76
    return str(UUID(int=number & ~(3 << 62) | 2 << 62))


# --- who is where ------------------------------------------------------------------------------------------------


class Membership:
    """Members of groups, and the hypervisors that have ports of them. An edit costs what it changes."""

    def __init__(self) -> None:
        self.identities: dict[int, Identity] = {}
        self.groups: dict[str, SecurityGroup] = {}
        self.ports: defaultdict[int, set[str]] = defaultdict(set)
        self.selectors: defaultdict[str, set[str]] = defaultdict(set)
        self.members: defaultdict[str, set[int]] = defaultdict(set)
        self.groups_of: defaultdict[int, set[str]] = defaultdict(set)
        self.of_project: defaultdict[str, set[int]] = defaultdict(set)
        self.homes: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self.residents: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.group_homes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._naming: defaultdict[str, set[int]] = defaultdict(set)
        self._placed: dict[str, tuple[tuple[int, ...], str]] = {}

    # --- groups and identities -----------------------------------------------------------------------------------

    def group(self, id: str, old: SecurityGroup | None, new: SecurityGroup | None) -> list[Change]:
        """A group came, went or changed: find its members anew when that decides who they are."""
        if old is not None and old.selector is not None:
            discard(self.selectors, selector_scope(old), id)
        if new is None:
            del self.groups[id]
        else:
            self.groups[id] = new
            if new.selector is not None:
                self.selectors[selector_scope(new)].add(id)
        if old is not None and new is not None and _chooses(old) == _chooses(new):
            return []
        return self._regroup(id, set() if new is None else set(self._found(new)))

    def _found(self, group: SecurityGroup) -> Iterator[int]:
        """The identities that name a group, or that it selects."""
        naming = self._naming.get(group.id, _NO_NUMBERS)
        chosen: Iterable[int] = ()
        if group.selector is not None:
            scope = selector_scope(group)
            chosen = self.identities if scope == EVERYONE else self.of_project.get(scope, ())
        for number in {*naming, *chosen}:
            identity = self.identities[number]
            named = number in naming or selects(group, identity.project_id, identity.labels)
            if named and not identity.retired and takes(group, identity):
                yield number

    def _regroup(self, id: str, members: set[int]) -> list[Change]:
        before = self.members.get(id, _NO_NUMBERS)
        lost, gained = frozenset(before - members), frozenset(members - before)
        for number in lost:
            self._leave(number, id)
        for number in gained:
            self._join(number, id)
        return [Change("members", id, lost, gained)] if lost or gained else []

    def identity(self, old: Identity | None, new: Identity | None) -> list[Change]:
        """An identity came or went, or was retired, which ends its memberships."""
        changes = []
        if old is not None:
            for group in sorted(self.groups_of.get(old.number, ())):
                self._leave(old.number, group)
                changes.append(Change("members", group, frozenset((old.number,)), _NO_NUMBERS))
            for group in () if old.retired else old.security_groups:
                discard(self._naming, group, old.number)
            discard(self.of_project, old.project_id, old.number)
            del self.identities[old.number]
        if new is not None:
            self.identities[new.number] = new
            self.of_project[new.project_id].add(new.number)
        if new is not None and not new.retired:
            for group in new.security_groups:
                self._naming[group].add(new.number)
            for group in sorted(self._groups_for(new)):
                self._join(new.number, group)
                changes.append(Change("members", group, _NO_NUMBERS, frozenset((new.number,))))
        return changes

    def _groups_for(self, identity: Identity) -> set[str]:
        found = {id for id in identity.security_groups if id in self.groups}
        for scope in (identity.project_id, EVERYONE):
            for id in self.selectors.get(scope, ()):
                if id not in found and selects(self.groups[id], identity.project_id, identity.labels):
                    found.add(id)
        return {id for id in found if takes(self.groups[id], identity)}

    def _join(self, number: int, group: str) -> None:
        self.members[group].add(number)
        self.groups_of[number].add(group)
        homes = self.homes.get(number)
        if homes is not None:
            self.group_homes[group].update(dict.fromkeys(homes, 1))

    def _leave(self, number: int, group: str) -> None:
        discard(self.members, group, number)
        discard(self.groups_of, number, group)
        for hypervisor in self.homes.get(number, ()):
            _less(self.group_homes, group, hypervisor)

    # --- ports ---------------------------------------------------------------------------------------------------

    def place(self, port_id: str, numbers: tuple[int, ...], hypervisor: str | None) -> list[Change]:
        """A port has this identity, or several while one takes the place of another, and is there; None: it is nowhere."""
        had, there = self._placed.pop(port_id, _ABSENT)
        has, here = (numbers, hypervisor) if numbers and hypervisor is not None else _ABSENT
        if has:
            self._placed[port_id] = has, here
        changes = []
        for number in had:
            if there != here or number not in has:
                changes += self._less_at(number, there)
        for number in has:
            if there != here or number not in had:
                changes += self._more_at(number, here)
        return changes

    def _more_at(self, number: int, hypervisor: str) -> list[Change]:
        self.homes[number][hypervisor] += 1
        self.residents[hypervisor][number] += 1
        if self.residents[hypervisor][number] > 1:
            return []
        for group in self.groups_of.get(number, ()):
            self.group_homes[group][hypervisor] += 1
        return [Change("resident", hypervisor, None, number)]

    def _less_at(self, number: int, hypervisor: str) -> list[Change]:
        _less(self.homes, number, hypervisor)
        _less(self.residents, hypervisor, number)
        if number in self.residents.get(hypervisor, ()):
            return []
        for group in self.groups_of.get(number, ()):
            _less(self.group_homes, group, hypervisor)
        return [Change("resident", hypervisor, number, None)]


class MembershipReading:
    """What the graph tells of security groups' members."""

    _membership: Membership

    def identity(self, number: int) -> Identity | None:
        """The identity with a number."""
        return self._membership.identities.get(number)

    def identities_of_group(self, group_id: str) -> frozenset[int] | set[int]:
        """Numbers of the identities that are members of a security group, named or selected."""
        return self._membership.members.get(group_id, _NO_NUMBERS)

    def groups_of_identity(self, number: int) -> frozenset[str] | set[str]:
        """Ids of the security groups that an identity is a member of, of all tiers."""
        return self._membership.groups_of.get(number, _NO_IDS)

    def identities_of_project(self, project_id: str) -> frozenset[int] | set[int]:
        """Numbers of the identities that a project's ports have, or had."""
        return self._membership.of_project.get(project_id, _NO_NUMBERS)

    def ports_with(self, number: int) -> frozenset[str] | set[str]:
        """Ids of the ports that have an identity."""
        return self._membership.ports.get(number, _NO_IDS)

    def residents(self, hypervisor_id: str) -> Mapping[int, int]:
        """Numbers of the identities that ports on a hypervisor have, with how many have it."""
        return self._membership.residents.get(hypervisor_id, _NOBODY)

    def members_here(self, hypervisor_id: str, number: int) -> bool:
        """Whether a port on a hypervisor has an identity."""
        return number in self.residents(hypervisor_id)

    def hypervisors_with(self, number: int) -> Mapping[str, int]:
        """The hypervisors on which ports have an identity, with how many."""
        return self._membership.homes.get(number, _NOWHERE)

    def hypervisors_of_group(self, group_id: str) -> Mapping[str, int]:
        """The hypervisors on which ports are members of a security group, with how many identities they have there."""
        return self._membership.group_homes.get(group_id, _NOWHERE)

    def selectors_of(self, scope: str) -> frozenset[str] | set[str]:
        """Ids of the groups that select among the ports of a project, or of all (``EVERYONE``)."""
        return self._membership.selectors.get(scope, _NO_IDS)


def _chooses(group: SecurityGroup) -> tuple[Any, ...]:
    return group.selector, group.tier, group.project_id


def discard(index: defaultdict[K, set[V]], key: K, value: V) -> None:
    """Take a value out of an index, and its key when nothing is left there."""
    members = index[key]
    members.discard(value)
    if not members:
        del index[key]


def _less(index: defaultdict[K, Counter[V]], key: K, value: V) -> None:
    counts = index[key]
    counts[value] -= 1
    if not counts[value]:
        del counts[value]
    if not counts:
        del index[key]
