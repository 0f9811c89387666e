"""Who wants what: things that several owners may want, there once, and gone when the last owner lets go of them.

Kept small, since there may be millions: a thing is an entry in a dictionary and a place in its owner's tuple; only
of what more than one owner wants there is a count.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

Owner = tuple[str, str]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Plan(Generic[Key]):
    """A change that contradicts nobody: how many owners let go of each key, and what owners take."""

    leaves: dict[Key, int]
    takes: Sequence[Mapping[Key, bytes]]


class Claims(Generic[Key]):
    """The things of one kind. ``bodies`` are what they are, ``extra`` how many owners beyond the first want them.

    ``describe`` makes words of a thing; ``same`` says whether two bodies are the same to two owners.
    """

    def __init__(
        self,
        describe: Callable[[Key, bytes], str],
        same: Callable[[bytes, bytes], bool] = lambda one, other: one == other,
    ) -> None:
        self.bodies: dict[Key, bytes] = {}
        self.extra: dict[Key, int] = {}
        self.owned: dict[Owner, tuple[Key, ...]] = {}
        self._describe, self._same = describe, same
        self._changing: set[Owner] = set()

    def owners_of(self, key: Key) -> list[Owner]:
        """Who wants a thing. Looks at every owner."""
        return [owner for owner, keys in self.owned.items() if key in keys]

    def held(self, owner: Owner) -> dict[Key, bytes]:
        """What an owner wants."""
        return {key: self.bodies[key] for key in self.owned.get(owner, ())}

    def plan(self, owners: Collection[Owner], takes: Sequence[Mapping[Key, bytes]]) -> Plan[Key]:
        """The change after which these owners want exactly what they take, in the same order.

        Raises ValueError when two owners then want one thing to be two.
        """
        leaves: dict[Key, int] = {}
        for owner in owners:
            if owner in self._changing:
                raise RuntimeError(f"what {owner} wants is being changed in steps; end them first")
            for key in self.owned.get(owner, ()):
                leaves[key] = leaves.get(key, 0) + 1
        return self._checked(Plan(leaves, takes))

    def _checked(self, plan: Plan[Key]) -> Plan[Key]:
        bodies, extra = self.bodies, self.extra
        for take in plan.takes:
            for key in take.keys() & bodies.keys():
                if bodies[key] != take[key] and plan.leaves.get(key, 0) <= extra.get(key, 0):
                    self._agree(key, bodies[key], take[key])
        if len(plan.takes) > 1:
            together: dict[Key, bytes] = {}
            for take in plan.takes:
                for key in take.keys() & together.keys():
                    self._agree(key, together[key], take[key])
                together.update(take)
        return plan

    def _agree(self, key: Key, one: bytes, other: bytes) -> None:
        if one != other and not self._same(one, other):
            names = ", ".join(map("/".join, self.owners_of(key))) or "another owner"
            raise ValueError(f"{names} wants {self._describe(key, one)}; this contradicts {self._describe(key, other)}")

    def exchange(self, plan: Plan[Key]) -> dict[Key, bytes | None]:
        """Do it; returns what is new or different, and None for what is gone."""
        bodies, extra = self.bodies, self.extra
        leaves = dict(plan.leaves)
        changes: dict[Key, bytes | None] = {}
        for take in plan.takes:
            for key, body in take.items():
                have = bodies.get(key)
                if have is None:
                    bodies[key] = changes[key] = body
                elif leaves.get(key, 0) <= extra.get(key, 0):
                    extra[key] = extra.get(key, 0) + 1
                else:  # all who wanted it are in this plan, so it may become another
                    del leaves[key]
                    shared = extra.pop(key, 0) > 0
                    if have != body and not (shared and self._same(have, body)):
                        bodies[key] = changes[key] = body
        for key, count in leaves.items():
            more = extra.pop(key, 0) - count
            if more < 0:
                del bodies[key]
                changes[key] = None
            elif more > 0:
                extra[key] = more
        return changes

    def own(self, owner: Owner, keys: Iterable[Key]) -> None:
        """Remember what an owner wants after ``exchange``."""
        had = {key: key for key in self.owned.get(owner, ())}
        # equal keys are one object, so that a key is in memory once
        have = tuple([had.get(key, key) for key in keys]) if had else tuple(keys)
        if have:
            self.owned[owner] = have
        else:
            self.owned.pop(owner, None)

    def change(self, owner: Owner) -> Change[Key]:
        """Change what an owner wants in steps."""
        if owner in self._changing:
            raise RuntimeError(f"what {owner} wants is being changed in steps; end them first")
        self._changing.add(owner)
        return Change(self, owner)

    def _end(self, owner: Owner, keys: Iterable[Key]) -> None:
        self._changing.discard(owner)
        self.own(owner, keys)

    def _step(self, plan: Plan[Key]) -> dict[Key, bytes | None]:
        return self.exchange(self._checked(plan))


class Change(Generic[Key]):
    """What an owner wants, changed in steps: ``take`` all of it, then ``drops`` the rest, then ``end`` in any case."""

    def __init__(self, claims: Claims[Key], owner: Owner) -> None:
        self._claims, self._owner = claims, owner
        self._held = {key: key for key in claims.owned.get(owner, ())}
        self._taken: set[Key] = set()

    def take(self, part: Mapping[Key, bytes]) -> dict[Key, bytes | None]:
        """The owner wants these, besides what it has. Raises ValueError, and changes nothing, as ``plan`` does."""
        for key in self._taken & part.keys():
            self._claims._agree(key, self._claims.bodies[key], part[key])
        changes = self._claims._step(Plan({key: 1 for key in part if key in self._held}, [part]))
        for key in part:
            self._taken.add(self._held.setdefault(key, key))
        return changes

    def drops(self, size: int | None = None) -> Iterator[dict[Key, bytes | None]]:
        """The owner wants no longer what it did not take: ``size`` of them at a time, or all at once."""
        gone = iter([key for key in self._held if key not in self._taken])
        while some := list(islice(gone, size)):
            for key in some:
                del self._held[key]
            yield self._claims.exchange(Plan(dict.fromkeys(some, 1), []))

    def end(self) -> None:
        """The steps are done, or given up."""
        self._claims._end(self._owner, self._held)
