"""What a policy asks for, what is in force, and what was counted meanwhile: whether they agree."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from .model import Answer
from .qos import Quality
from .shaping import LAST, PRIORITY_OF_LATENCY

TOLERANCE_PERCENT = 5

Verdict = Literal["kept", "broken", "idle"]


class Check(Struct, frozen=True, kw_only=True):
    """One rule of a policy, looked at for some seconds."""

    rule: str
    """The rule's type."""
    direction: str
    """The VM's."""
    unit: str
    """Of ``asked``, ``in_force`` and ``measured``."""
    asked: int
    in_force: int | None
    """As it was read back from the switch or from Linux; null: it is not there."""
    measured: int | None
    """Of what passed; null where nothing is counted."""
    passed_packets: int = 0
    passed_bytes: int = 0
    dropped_packets: int = 0
    verdict: Verdict
    """`idle`: as it was asked for, but nothing had to be held back or preferred meanwhile, so it was not put to the test."""
    detail: str = ""


class Metered(Struct, frozen=True):
    """What a meter is to be and is: a rate, and a burst, in kbit or packets; and what it has seen meanwhile."""

    rule: str
    direction: str
    unit: str
    asked: tuple[int, int]
    in_force: tuple[int, int] | None
    seconds: float
    passed_packets: int
    passed_bytes: int
    dropped_packets: int


def of_meter(seen: Metered) -> Check:
    """Whether a limit holds: its meter is as asked, and lets no more through than rate and burst allow."""
    passed = seen.passed_packets if seen.unit == "packets/s" else seen.passed_bytes * 8 // 1000
    measured = round(passed / seen.seconds) if seen.seconds > 0 else 0
    rate, burst = seen.asked
    verdict: Verdict = "kept"
    if seen.in_force is None:
        verdict, detail = "broken", "the switch has no such meter"
    elif seen.in_force != seen.asked:
        verdict, detail = (
            "broken",
            f"the switch has rate {seen.in_force[0]}, burst {seen.in_force[1]} instead of {rate}, {burst}",
        )
    elif passed > rate * seen.seconds * (100 + TOLERANCE_PERCENT) / 100 + burst:
        verdict, detail = "broken", f"more than the rate and a burst of {burst} passed"
    elif not seen.dropped_packets:
        verdict, detail = "idle", "no more than that was sent, so nothing had to be dropped"
    else:
        detail = "what was sent beyond it was dropped"
    return Check(
        rule=seen.rule, direction=seen.direction, unit=seen.unit, asked=rate,
        in_force=None if seen.in_force is None else seen.in_force[0], measured=measured,
        passed_packets=seen.passed_packets, passed_bytes=seen.passed_bytes, dropped_packets=seen.dropped_packets,
        verdict=verdict, detail=detail,
    )  # fmt: skip


def of_class(quality: Quality, granted_kbps: int | None, answer: Answer) -> list[Check]:
    """Whether guarantee, priority and bound of latency hold, by what the agent says of the port's class."""
    found = []
    if quality.min_kbps is not None:
        found.append(_guarantee(quality.min_kbps, granted_kbps or 0, answer))
    if quality.priority is not None:
        found.append(_priority(quality.priority, answer))
    if quality.max_latency_ms is not None:
        found.append(_latency(quality, answer))
    return found


def of_interface(asked: int, answer: Answer) -> Check:
    """Whether a limit holds that is kept by a VM's interface, where what is too much waits."""
    measured = answer.bytes * 8 // max(answer.milliseconds, 1)
    verdict: Verdict = "kept"
    if answer.error:
        verdict, detail = "broken", answer.error
    elif answer.ceil_kbps != asked:
        verdict, detail = "broken", f"{answer.interface} has {answer.ceil_kbps} instead of {asked}"
    elif measured > asked * (100 + TOLERANCE_PERCENT) / 100:
        verdict, detail = "broken", f"more than the rate passed {answer.interface}"
    elif not (answer.dropped_packets or answer.backlog_bytes):
        verdict, detail = "idle", f"no more than that came, so all passed {answer.interface} at once"
    else:
        detail = f"what came beyond it waited at {answer.interface}, or was dropped there"
    in_force = None if answer.error else answer.ceil_kbps
    check = _check("bandwidth_limit", "kbit/s", asked, in_force, measured, answer, verdict, detail)
    return replace(check, direction="ingress")


def _guarantee(asked: int, granted: int, answer: Answer) -> Check:
    measured = answer.bytes * 8 // max(answer.milliseconds, 1)
    verdict: Verdict = "kept"
    if answer.error:
        verdict, detail = "broken", answer.error
    elif answer.rate_kbps != granted:
        verdict, detail = "broken", f"its class on {answer.interface} has {answer.rate_kbps} instead of {granted}"
    elif granted < asked:
        verdict, detail = (
            "broken",
            f"{answer.interface} has been promised more than it has: {granted} is this port's share",
        )
    elif not (answer.dropped_packets or answer.backlog_bytes):
        verdict, detail = "idle", f"all that was sent left by {answer.interface} at once"
    elif measured < granted * (100 - TOLERANCE_PERCENT) / 100:
        verdict, detail = "broken", f"more was sent, and waited or was dropped at {answer.interface}"
    else:
        detail = f"more was sent, and what {answer.interface} had left was borrowed"
    return _check(
        "minimum_bandwidth",
        "kbit/s",
        asked,
        None if answer.error else answer.rate_kbps,
        measured,
        answer,
        verdict,
        detail,
    )


def _priority(asked: int, answer: Answer) -> Check:
    in_force = None if answer.error else LAST - answer.order
    verdict: Verdict = "broken" if in_force != asked else "kept" if answer.packets else "idle"
    detail = answer.error or (
        "" if verdict == "broken" else "what was sent left in its order" if answer.packets else "nothing was sent"
    )
    return _check("priority", "", asked, in_force, None, answer, verdict, detail)


def _latency(quality: Quality, answer: Answer) -> Check:
    """By what waits, as long as the class' own rate takes for it; with its queue full that is what the queue holds."""
    asked = quality.max_latency_ms or 0

    def wait(waiting: int) -> int:
        return waiting * 8 // max(answer.rate_kbps, 1)

    longest = wait(answer.queue_bytes)
    verdict: Verdict = "kept"
    if answer.error:
        verdict, detail = "broken", answer.error
    elif quality.priority is None and answer.order != LAST - PRIORITY_OF_LATENCY:
        verdict, detail = (
            "broken",
            f"its class is served as priority {LAST - answer.order} instead of {PRIORITY_OF_LATENCY}",
        )
    elif longest > asked:
        verdict, detail = (
            "broken",
            f"at its own rate of {answer.rate_kbps} kbit/s two frames take longer: guarantee it more (min_kbps)",
        )
    elif not answer.packets:
        verdict, detail = "idle", "nothing was sent"
    else:
        detail = "what would wait longer is dropped"
    in_force = None if answer.error else longest
    return _check("max_latency", "ms", asked, in_force, wait(answer.backlog_bytes), answer, verdict, detail)


def _check(
    rule: str,
    unit: str,
    asked: int,
    in_force: int | None,
    measured: int | None,
    answer: Answer,
    verdict: Verdict,
    detail: str,
) -> Check:
    return Check(
        rule=rule, direction="egress", unit=unit, asked=asked, in_force=in_force, measured=None if answer.error else measured,
        passed_packets=answer.packets, passed_bytes=answer.bytes, dropped_packets=answer.dropped_packets, verdict=verdict,
        detail=detail,
    )  # fmt: skip
