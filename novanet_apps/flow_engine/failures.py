"""What a bridge refused: who is to blame, and how to go on."""

from __future__ import annotations

from typing import NamedTuple

from pipelines.compiler import Owner
from pipelines.flow import Rule
from pipelines.ledger import Ledger, Wanted
from pipelines.wire import Error, Subject, describe

from .flights import Flight

LONGEST_DELAY = 30.0
"""Seconds between two attempts at most."""
SHRINK = 8
"""By how much bundles get smaller when a switch does not say what it objects to."""


class Failure(NamedTuple):
    """A batch that was refused."""

    blamed: list[tuple[Subject, Error]]
    errors: list[Error]

    @property
    def superseded(self) -> bool:
        """Whether the reason is that another controller is the bridge's master."""
        return any("SLAVE" in error.name for error in self.errors)

    @property
    def text(self) -> str:
        """What was refused and why, in a line."""
        if not self.blamed:
            return "; ".join(dict.fromkeys(map(str, self.errors)))
        return "; ".join(_complaint(subject, error, None) for subject, error in self.blamed[:3])

    def culprits(self, ledger: Ledger) -> dict[Owner, str]:
        """Owners that want what was refused, each with why."""
        found: dict[Owner, str] = {}
        for subject, error in self.blamed:
            for owner in ledger.owners_of(subject.id):
                found.setdefault(owner, _complaint(subject, error, ledger))
        return found


def _complaint(subject: Subject, error: Error, ledger: Ledger | None) -> str:
    if isinstance(subject.id, bytes):
        what = f"flow {describe(subject.id, ledger.flow(subject.id) if ledger else None)}"
    else:
        what = f"{subject.kind} {subject.id}"
    return f"{what}: {error}"


class Failures:
    """The failures of one bridge. ``texts``: owner -> why what it wants is not done."""

    def __init__(self) -> None:
        self.texts: dict[Owner, str] = {}
        self.first: Failure | None = None
        """The first since the last comparison; those after it may only be its consequences."""
        self._rules: dict[Owner, list[Rule] | Wanted] = {}
        self._attempts = 0
        self._divisor = 1

    def forget(self, owner: Owner) -> None:
        """The owner's wants were confirmed, or replaced."""
        self.texts.pop(owner, None)
        self._rules.pop(owner, None)

    def note(self, flight: Flight) -> None:
        """A batch was refused."""
        if self.first is None:
            self.first = Failure(flight.blamed(), [error for _, error in flight.errors])

    def take(self) -> tuple[Failure, float]:
        """(the failure, seconds to wait before the next attempt); bundles shrink while nobody can be blamed."""
        failure = self.first
        assert failure is not None
        self.first = None
        self._attempts += 1
        if failure.blamed:
            self._divisor = 1
            return failure, 0.0 if self._attempts < 8 else 1.0
        self._divisor *= SHRINK
        return failure, min(LONGEST_DELAY, 0.05 * 2**self._attempts)

    def settled(self) -> None:
        """A comparison went through."""
        self._attempts, self._divisor = 0, 1

    def bundle_size(self, size: int) -> int:
        """How many changes to put in a bundle when ``size`` is wanted."""
        return max(1, size // self._divisor)

    def set_aside(self, owner: Owner, text: str, rules: list[Rule] | Wanted) -> None:
        """The owner has nothing in the bridge until it wants something else, or is tried again."""
        self.texts[owner] = text
        self._rules[owner] = rules

    def retry(self) -> dict[Owner, list[Rule] | Wanted]:
        """What was set aside, to be tried again: the cause may have been another owner's."""
        return dict(self._rules)

    def start_over(self) -> None:
        """Everything will be put again; what was encoded is of no use any more."""
        self._rules.clear()
