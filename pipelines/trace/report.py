"""What a trace tells, as values that are also its JSON."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Verdict = Literal["delivered", "answered", "left", "held", "refused", "dropped"]
BEST_FIRST: tuple[Verdict, ...] = ("delivered", "answered", "left", "held", "refused", "dropped")
"""What became of a packet of which there were several copies is the first of these that holds for one."""
ARRIVES = frozenset(("delivered", "answered", "left"))
"""Verdicts of packets that reached somebody."""


class Named(Struct, frozen=True):
    """An object, for people and for machines. What the asker may not see has no id."""

    kind: str
    id: str
    name: str


class Step(Struct, frozen=True):
    """What a table did with the packet."""

    table: str
    text: str
    objects: Annotated[tuple[Named, ...], Meta(description="whose the flow is that did it")] = ()
    flow: Annotated[str, Meta(description="the flow; for administrators")] = ""


class End(Struct, frozen=True):
    """Where a packet, or a copy of it, ended."""

    verdict: Verdict
    text: str
    table: Annotated[str, Meta(description="the table that decided; empty outside the switches")] = ""
    objects: Annotated[tuple[Named, ...], Meta(description="who got it, or by whom it was dropped")] = ()


class Hop(Struct, frozen=True):
    """The packet on one hypervisor."""

    hypervisor: Named
    arrives: Annotated[str, Meta(description="by which port")]
    steps: tuple[Step, ...]
    ends: Annotated[tuple[End, ...], Meta(description="of the copies that went no further than here")] = ()


class Leg(Struct, frozen=True):
    """One packet on its way over the hypervisors."""

    name: Annotated[
        Literal["resolve", "request", "reply"],
        Meta(description="the question for the next hop's MAC address, the packet itself, or the answer to it"),
    ]
    packet: str
    verdict: Verdict
    text: str
    hops: tuple[Hop, ...]


class Trace(Struct, frozen=True):
    """The way of a packet, and what became of it."""

    verdict: Verdict
    text: str
    legs: tuple[Leg, ...]
    warnings: Annotated[tuple[str, ...], Meta(description="why a packet sent now might fare otherwise")] = ()


def best(ends: list[End]) -> End | None:
    """The end that tells what became of a packet; None when there is none."""
    return min(ends, key=lambda end: BEST_FIRST.index(end.verdict), default=None)
