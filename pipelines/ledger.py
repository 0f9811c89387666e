"""What every owner wants of one bridge, and how the bridge gets from what it has to that. No input or output here.

An owner is (kind, id). Several may want the same flow: it is there once, with the cookie of the first of them, and
goes with the last. A flow is its two byte strings (``wire.flows``), so four million of them fit in about a gigabyte.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

from .claims import Claims, Owner, Plan
from .flow import Flow, Group, Rule
from .wire.delta import Delta
from .wire.describe import describe, describe_group, describe_meter
from .wire.flows import COOKIE, encode_flow
from .wire.groups import encode_group, encode_meter
from .wire.openflow import Command, check_version

STEP = 2000
"""Rules that ``put_steps`` encodes at a time: a few milliseconds."""


@dataclass(frozen=True)
class Wanted:
    """Encoded rules by key or number; ``Ledger.put`` takes it in place of rules."""

    flows: dict[bytes, bytes]
    groups: dict[int, bytes]
    meters: dict[int, bytes]

    def __len__(self) -> int:
        """How many rules they are."""
        return len(self.flows) + len(self.groups) + len(self.meters)


class Snapshot(NamedTuple):
    """What a bridge is to have at one moment, encoded for an OpenFlow ``version``. Not to be changed."""

    version: int
    flows: Mapping[bytes, bytes]
    groups: Mapping[int, bytes]
    owned: Sequence[tuple[Owner, tuple[bytes, ...]]]
    """The keys of every owner's flows."""


class Ledger:
    """What owners want of a bridge that speaks OpenFlow ``version`` (4, 5 or 6: 1.3, 1.4 or 1.5)."""

    def __init__(self, version: int) -> None:
        check_version(version)
        self.version = version
        self._flows: Claims[bytes] = Claims(describe, lambda one, other: one[COOKIE:] == other[COOKIE:])
        self._groups: Claims[int] = Claims(lambda id, body: describe_group(id, body, version))
        self._meters: Claims[int] = Claims(describe_meter)

    @property
    def flows(self) -> int:
        """How many flows the bridge is to have."""
        return len(self._flows.bodies)

    @property
    def groups(self) -> int:
        """How many groups the bridge is to have."""
        return len(self._groups.bodies)

    @property
    def meters(self) -> int:
        """How many meters the bridge is to have."""
        return len(self._meters.bodies)

    @property
    def owners(self) -> int:
        """How many owners want something."""
        return len(self._flows.owned.keys() | self._groups.owned.keys() | self._meters.owned.keys())

    def flow(self, key: bytes) -> bytes | None:
        """The body of the flow with this key, None when nobody wants it."""
        return self._flows.bodies.get(key)

    def owners_of(self, key: bytes | int) -> list[Owner]:
        """Who wants the flow with this key, or the group or meter of this number. Looks at every owner."""
        if isinstance(key, bytes):
            return self._flows.owners_of(key)
        return list(dict.fromkeys(self._groups.owners_of(key) + self._meters.owners_of(key)))

    def digest(self) -> str:
        """A hash of all that the bridge is to have, save cookies: equal for equal wants, in whatever order they came.

        Looks at every flow.
        """
        total = 0
        for key, body in self._flows.bodies.items():
            total ^= _hash(b"flow", key, body[COOKIE:])
        for kind, shelf in ((b"group", self._groups), (b"meter", self._meters)):
            for id, body in shelf.bodies.items():
                total ^= _hash(kind, id.to_bytes(4, "big"), body)
        return f"{total:032x}"

    def snapshot(self) -> Snapshot:
        """All flows and groups, as they are now."""
        return Snapshot(
            self.version, dict(self._flows.bodies), dict(self._groups.bodies), list(self._flows.owned.items())
        )

    # --- what owners want ----------------------------------------------------------------------------------------

    def wanted(self, owner: Owner) -> Wanted:
        """What the owner wants now, encoded."""
        return Wanted(self._flows.held(owner), self._groups.held(owner), self._meters.held(owner))

    def put(self, owner: Owner, rules: Iterable[Rule] | Wanted, cookie: int) -> Delta:
        """From now on the owner wants exactly these rules; returns what has to change in the bridge.

        Raises ValueError, and changes nothing, when a rule cannot be encoded or another owner wants the same
        flow, group or meter to be something else.
        """
        return self.put_all({owner: (rules, cookie)})

    def put_all(self, wants: Mapping[Owner, tuple[Iterable[Rule] | Wanted, int]]) -> Delta:
        """``put`` for several owners at once, each with (rules, cookie): all or none."""
        wanted = [self._encode(rules, cookie) for rules, cookie in wants.values()]
        flows = self._flows.plan(wants, [want.flows for want in wanted])
        groups = self._groups.plan(wants, [want.groups for want in wanted])
        meters = self._meters.plan(wants, [want.meters for want in wanted])
        delta = Delta(self._flows.exchange(flows), self._groups.exchange(groups), self._exchange_meters(meters))
        for owner, want in zip(wants, wanted, strict=True):
            self._flows.own(owner, want.flows)
            self._groups.own(owner, want.groups)
            self._meters.own(owner, want.meters)
        return delta

    def put_steps(self, owner: Owner, rules: Sequence[Rule], cookie: int, size: int = STEP) -> Iterator[Delta]:
        """``put`` for very many rules, in steps of at most ``size`` flows that are encoded as they are asked for.

        The first step has the groups and meters, the last ones delete what the owner no longer wants. Until the end,
        and when a step raises ValueError or is never asked for, the owner has what it had and what it got so far.
        In between other owners may be ``put``, the same one may not (RuntimeError).
        """
        others = self._encode([rule for rule in rules if not isinstance(rule, Flow)], cookie)
        flows, groups, meters = self._flows.change(owner), self._groups.change(owner), self._meters.change(owner)
        try:
            had = others.meters.keys() & self._meters.bodies.keys()
            yield Delta(groups=groups.take(others.groups), meters=_meter_commands(meters.take(others.meters), had))
            only_flows = (rule for rule in rules if isinstance(rule, Flow))
            while part := self._encode(islice(only_flows, size), cookie).flows:
                yield Delta(flows.take(part))
            for gone in flows.drops(size):
                yield Delta(gone)
            yield Delta(groups=next(groups.drops(), {}), meters=_meter_commands(next(meters.drops(), {}), had))
        finally:
            flows.end()
            groups.end()
            meters.end()

    def _encode(self, rules: Iterable[Rule] | Wanted, cookie: int) -> Wanted:
        """Raises ValueError when two of the rules contradict each other."""
        if isinstance(rules, Wanted):
            return rules
        wanted = Wanted({}, {}, {})
        flows, version = wanted.flows, self.version
        for rule in rules:
            if isinstance(rule, Flow):
                key, body = encode_flow(rule, version, cookie)
                if flows.setdefault(key, body) != body:
                    raise ValueError(
                        f"wants one flow to do two things: {describe(key, flows[key])}; {describe(key, body)}"
                    )
            elif isinstance(rule, Group):
                body = encode_group(rule, version)
                if wanted.groups.setdefault(rule.id, body) != body:
                    raise ValueError(f"wants group {rule.id} twice, with different buckets")
            else:
                body = encode_meter(rule)
                if wanted.meters.setdefault(rule.id, body) != body:
                    raise ValueError(f"wants meter {rule.id} twice, with different bands")
        return wanted

    def _exchange_meters(self, plan: Plan[int]) -> dict[int, tuple[Command, bytes]]:
        had = {id for take in plan.takes for id in take if id in self._meters.bodies}
        return _meter_commands(self._meters.exchange(plan), had)

    # --- what the bridge has -------------------------------------------------------------------------------------

    def differences(
        self,
        flows: Iterable[tuple[bytes, bytes]],
        groups: Mapping[int, bytes],
        meters: Mapping[int, bytes],
        size: int = STEP,
    ) -> Iterator[Delta]:
        """What leads from what a bridge has to what it is to have, in steps of at most ``size`` flows.

        ``flows`` gives (key, body) and is read as steps are asked for. First come groups and meters, then flows that
        are wrong or missing, and at the end all that is foreign goes. A flow of several owners may have any cookie.
        """
        yield Delta(
            groups={id: body for id, body in self._groups.bodies.items() if groups.get(id) != body},
            meters={
                id: (Command.MODIFY if id in meters else Command.ADD, body)
                for id, body in self._meters.bodies.items()
                if meters.get(id) != body
            },
        )
        foreign: list[bytes] = []
        yield from self._wrong_or_missing(iter(flows), foreign, size)
        for at in range(0, len(foreign), size):
            yield Delta({key: None for key in foreign[at : at + size] if key not in self._flows.bodies})
        yield Delta(
            groups={id: None for id in groups if id not in self._groups.bodies},
            meters={id: (Command.DELETE, b"") for id in meters if id not in self._meters.bodies},
        )

    def _wrong_or_missing(
        self, flows: Iterator[tuple[bytes, bytes]], foreign: list[bytes], size: int
    ) -> Iterator[Delta]:
        """Steps that add or replace flows; appends the keys of what nobody wants to ``foreign``."""
        bodies, shared = self._flows.bodies, self._flows.extra
        seen: set[bytes] = set()
        while part := list(islice(flows, size)):
            wrong: dict[bytes, bytes | None] = {}
            for key, body in part:
                wanted = bodies.get(key)
                if wanted is None:
                    foreign.append(key)
                    continue
                seen.add(key)
                if wanted != body and not (key in shared and wanted[COOKIE:] == body[COOKIE:]):
                    wrong[key] = wanted
            yield Delta(wrong)
        wants = iter(list(bodies))
        while some := list(islice(wants, size)):  # a step for every so many that are looked at, missing or not
            yield Delta({key: bodies[key] for key in some if key not in seen and key in bodies})

    def difference(
        self, flows: Iterable[tuple[bytes, bytes]], groups: Mapping[int, bytes], meters: Mapping[int, bytes]
    ) -> Delta:
        """All the ``differences`` at once."""
        whole = Delta()
        for step in self.differences(flows, groups, meters):
            whole.then(step)
        return whole


def _hash(*parts: bytes) -> int:
    return int.from_bytes(blake2b(b"".join(parts), digest_size=16).digest(), "big")


def _meter_commands(changes: Mapping[int, bytes | None], had: Collection[int]) -> dict[int, tuple[Command, bytes]]:
    return {
        id: (Command.DELETE, b"") if body is None else (Command.MODIFY if id in had else Command.ADD, body)
        for id, body in changes.items()
    }
