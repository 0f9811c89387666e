"""What the slots of a pool demand: how many there may be, and what they can be dealt by."""

from __future__ import annotations

from collections.abc import Iterable

from ..model import Member, Pool
from .write import Refused

MOST_SLOTS = 65521
"""The largest prime that a switch can hash to (16 bits)."""


def check_size(size: int) -> None:
    """It is prime. Raises Refused(400)."""
    if not _is_prime(size):
        raise Refused(
            400, "table_size", f"{size} is no prime; the nearest are {_prime(size, -1)} and {_prime(size, 1)}"
        )


def check_weights(of: Pool, members: Iterable[Member], field: str) -> None:
    """Each member is to get a slot at least by its weight: since each gets one, it would get more than that else. Raises Refused(409)."""
    there = [member for member in members if member.weight]
    for backup in (False, True):  # which never serve together
        dealt = [member for member in there if member.backup == backup]
        if of.lb_algorithm == "round_robin" or not dealt:
            continue
        total, light = sum(member.weight for member in dealt), min(dealt, key=lambda each: (each.weight, each.id))
        if total > light.weight * of.table_size:
            wanted = -(-total // light.weight)
            hint = (
                f"a table_size of {_prime(wanted, 1)} or more" if wanted <= MOST_SLOTS else "weights that differ less"
            )
            shown = f"member {light.name or light.id} of weight {light.weight}, of {total} in all"
            raise Refused(
                409, field, f"{shown}, would have less than one of the pool's {of.table_size} slots: choose {hint}"
            )


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _prime(number: int, step: int) -> int:
    """The next prime from a number on."""
    while not _is_prime(number):
        number += step
    return number
