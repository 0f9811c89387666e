"""Realms: networks that routers join, and which hypervisors can reach which of them.

A network alone is a realm of its own; a router makes one of all the networks that it has interfaces in. The outside
(an external network) joins nothing. A hypervisor that has a VM in a realm, or is a gateway of it, reaches all of its
networks: what their ports need is compiled there, and the hypervisors of a realm are each other's peers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set

from .changes import Change

_NOBODY: Mapping[str, int] = Counter()


class Realm:
    """Networks joined by routers; ``spread`` counts, by hypervisor, the reasons for which it reaches them."""

    __slots__ = ("networks", "spread")

    def __init__(self, networks: Iterable[str]) -> None:
        self.networks = frozenset(networks)
        self.spread: Counter[str] = Counter()


class Realms:
    """Which network is in which realm. ``joined(network)`` names the networks that routers join it to directly."""

    def __init__(self, joined: Callable[[str], Iterable[str]]) -> None:
        self._joined = joined
        self._of: dict[str, Realm] = {}
        self._reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._on: defaultdict[str, dict[Realm, None]] = defaultdict(dict)
        self._shared: defaultdict[str, Counter[str]] = defaultdict(Counter)

    # --- reading -------------------------------------------------------------------------------------------------

    def networks(self, network: str) -> frozenset[str]:
        """The networks of a network's realm, itself included."""
        realm = self._of.get(network)
        return frozenset((network,)) if realm is None else realm.networks

    def hypervisors(self, network: str) -> Mapping[str, int]:
        """The hypervisors that reach a network."""
        realm = self._of.get(network)
        return _NOBODY if realm is None else realm.spread

    def reached(self, hypervisor: str) -> Iterator[str]:
        """The networks that a hypervisor reaches."""
        for realm in self._on.get(hypervisor, ()):
            yield from realm.networks

    def peers(self, hypervisor: str) -> Mapping[str, int]:
        """The hypervisors that share realms with this one, with their number."""
        return self._shared.get(hypervisor, _NOBODY)

    # --- editing -------------------------------------------------------------------------------------------------

    def enter(self, network: str, hypervisor: str) -> list[Change]:
        """A hypervisor has one more reason to reach a network."""
        realm = self._of.get(network)
        if realm is None:
            realm = self._of[network] = Realm((network,))
        self._reasons[network][hypervisor] += 1
        realm.spread[hypervisor] += 1
        if realm.spread[hypervisor] > 1:
            return []
        self._pair(realm, hypervisor)
        return [Change("reach", hypervisor, frozenset(), realm.networks)]

    def leave(self, network: str, hypervisor: str) -> list[Change]:
        """A hypervisor has one reason less to reach a network."""
        realm = self._of[network]
        _less(self._reasons, network, hypervisor)
        realm.spread[hypervisor] -= 1
        if realm.spread[hypervisor]:
            return []
        del realm.spread[hypervisor]
        self._part(realm, hypervisor)
        if not realm.spread and len(realm.networks) == 1:
            del self._of[network]
        return [Change("reach", hypervisor, realm.networks, frozenset())]

    def regroup(self, networks: Iterable[str]) -> list[Change]:
        """Routers join these networks otherwise than before: find the realms anew, theirs and no others."""
        affected = {member for network in networks for member in self._component(network)}
        for network in list(affected):
            affected |= self.networks(network)
        before = self._reach(affected)
        for realm in {self._of[network] for network in affected if network in self._of}:
            for hypervisor in list(realm.spread):
                del realm.spread[hypervisor]
                self._part(realm, hypervisor)
        for network in affected:
            self._of.pop(network, None)
        while affected:
            component = self._component(next(iter(affected)))
            affected -= component
            self._found(component)
        after = self._reach(network for networks in before.values() for network in networks) if before else {}
        return [
            Change("reach", hypervisor, frozenset(old - new), frozenset(new - old))
            for hypervisor in before
            if (old := before[hypervisor]) != (new := after.get(hypervisor, set()))
        ]

    def _found(self, component: Set[str]) -> None:
        """Make a realm of networks, with the reasons that are known for each."""
        realm = Realm(component)
        for network in component:
            realm.spread.update(self._reasons.get(network, _NOBODY))
        if not realm.spread and len(component) == 1:
            return
        for network in component:
            self._of[network] = realm
        present = list(realm.spread)
        for number, hypervisor in enumerate(present):
            self._on[hypervisor][realm] = None
            for other in present[:number]:
                self._shared[hypervisor][other] += 1
                self._shared[other][hypervisor] += 1

    def _component(self, network: str) -> set[str]:
        found, todo = {network}, [network]
        while todo:
            for other in self._joined(todo.pop()):
                if other not in found:
                    found.add(other)
                    todo.append(other)
        return found

    def _reach(self, networks: Iterable[str]) -> dict[str, set[str]]:
        """By hypervisor, the networks that it reaches in the realms that these are in."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for realm in {self._of[network] for network in networks if network in self._of}:
            for hypervisor in realm.spread:
                found[hypervisor] |= realm.networks
        return dict(found)

    def _pair(self, realm: Realm, hypervisor: str) -> None:
        self._on[hypervisor][realm] = None
        for other in realm.spread:
            if other != hypervisor:
                self._shared[hypervisor][other] += 1
                self._shared[other][hypervisor] += 1

    def _part(self, realm: Realm, hypervisor: str) -> None:
        del self._on[hypervisor][realm]
        if not self._on[hypervisor]:
            del self._on[hypervisor]
        for other in realm.spread:
            _less(self._shared, hypervisor, other)
            _less(self._shared, other, hypervisor)


def _less(index: defaultdict[str, Counter[str]], key: str, other: str) -> None:
    counts = index[key]
    counts[other] -= 1
    if not counts[other]:
        del counts[other]
    if not counts:
        del index[key]
