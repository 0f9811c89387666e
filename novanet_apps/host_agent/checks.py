"""Checks targets, each at its interval, on one event loop.

A check that nobody answers tells of a member only while the way to members is good: the switch itself is asked twice a second
(``Canary``), and a check that timed out counts when the switch has answered since it began. While Open vSwitch restarts, has
lost its flows or stands still, members stay what they are.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping

from novanet_apps.host_agent import probers
from novanet_apps.host_agent.icmp import Icmp
from novanet_apps.host_agent.judge import Health, Judge
from novanet_apps.host_agent.probers import Failed
from novanet_apps.host_agent.targets import Target

LOG = logging.getLogger(__name__)

CANARY_INTERVAL = 0.5
CANARY_TIMEOUT = 2.0
SETTLING = 3.0
"""Seconds that the way has to be good before a check that times out counts: after a restart members' flows come after the switch's own."""

Report = Callable[[str, Health, str], None]
"""(member id, health, why)"""


class Canary:
    """Whether checks get as far as the switch."""

    def __init__(self, ask: Callable[[], asyncio.Future[None] | asyncio.Task[None]]) -> None:
        self._ask = ask
        self.answered = 0.0
        """When it has answered last, and since when it has without a break."""
        self.good_since = float("inf")

    @property
    def good(self) -> bool:
        """Whether it has answered lately."""
        return self.good_since != float("inf")

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            try:
                await asyncio.wait_for(self._ask(), CANARY_TIMEOUT)
            except (OSError, asyncio.TimeoutError):  # also while there is no port yet
                self.good_since = float("inf")
            else:
                self.answered = time.monotonic()
                self.good_since = min(self.good_since, self.answered)
            await asyncio.sleep(CANARY_INTERVAL)

    def vouches(self, began: float) -> bool:
        """Whether a check that began then has failed by the member's own fault."""
        return self.answered > began >= self.good_since + SETTLING


class Running:
    """A target that is being checked."""

    __slots__ = ("judge", "next", "target", "task", "timer")

    def __init__(self, target: Target, health: Health) -> None:
        self.target, self.judge = target, Judge(target.rise, target.fall, health)
        self.next = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None


class Checker:
    """To be made and used on its event loop, in the namespace."""

    def __init__(self, loop: asyncio.AbstractEventLoop, report: Report, at_once: int, icmp: Icmp | None = None) -> None:
        self._loop, self._report, self._at_once = loop, report, at_once
        self._icmp = icmp or Icmp(loop)
        self._tls: ssl.SSLContext = probers.tls_context()
        self.canary = Canary(lambda: loop.create_task(self._icmp.ping_switch()))
        self._asking = loop.create_task(self.canary.run())
        self._running: dict[str, Running] = {}
        self._under_way = 0
        self._waiting: list[Running] = []
        self.counters: Counter[tuple[str, str]] = Counter()
        """Checks by (type, result): good, bad, inconclusive."""
        self.lag = 0.0
        """Seconds by which the last check began too late."""

    def close(self) -> None:
        """Check nobody any more."""
        self.change(dict.fromkeys(self._running))
        self._asking.cancel()
        self._icmp.close()

    def change(self, changes: Mapping[str, tuple[Target, Health] | None]) -> None:
        """Check these members so from now on; None: no more. One whose target is as before goes on."""
        for id, wanted in changes.items():
            running = self._running.get(id)
            if running is not None and wanted is not None and running.target == wanted[0]:
                continue
            if running is not None:
                self._stop(running)
            if wanted is not None:
                health = running.judge.health if running is not None else wanted[1]
                self._start(Running(wanted[0], health))

    def healths(self) -> Counter[str]:
        """How many members there are of each health."""
        return Counter(running.judge.health for running in self._running.values())

    # --- one target --------------------------------------------------------------------------------------------------

    def _start(self, running: Running) -> None:
        """The first check comes at once for one of whom nothing is known, else within an interval, at a time of its own."""
        target = running.target
        self._running[target.member_id] = running
        spread = (target.key * 0x9E3779B1 & 0xFFFFFFFF) / 2**32
        wait = spread * (min(1.0, target.delay) if running.judge.health == "unknown" else target.delay)
        running.next = self._loop.time() + wait
        running.timer = self._loop.call_at(running.next, self._due, running)

    def _stop(self, running: Running) -> None:
        del self._running[running.target.member_id]
        if running.timer is not None:
            running.timer.cancel()
        if running.task is not None:
            running.task.cancel()

    def _is_current(self, running: Running) -> bool:
        return self._running.get(running.target.member_id) is running

    def _due(self, running: Running) -> None:
        if not self._is_current(running):
            return
        if self._under_way >= self._at_once:
            self._waiting.append(running)
            return
        self._under_way += 1
        self.lag = max(0.0, self._loop.time() - running.next)
        running.task = self._loop.create_task(self._check(running))

    async def _check(self, running: Running) -> None:
        target, began = running.target, time.monotonic()
        timed_out = False

        def cut_off() -> None:
            nonlocal timed_out
            timed_out = True
            task.cancel()

        task = self._loop.create_task(self._probe(target))
        limit = self._loop.call_later(target.timeout, cut_off)
        try:
            await asyncio.wait({task})
            error = None if task.cancelled() else task.exception()
            if isinstance(error, Failed):
                self._result(running, "bad", str(error))
            elif error is not None:
                self._give_up(target, error)
            elif not task.cancelled():
                self._result(running, "good", "")
            elif timed_out and self.canary.vouches(began):
                self._result(running, "bad", f"no answer within {target.timeout:g} s")
            else:
                self.counters[target.type, "inconclusive"] += 1
        finally:
            limit.cancel()
            task.cancel()
            running.task = None
            self._under_way -= 1
            self._again(running)

    def _again(self, running: Running) -> None:
        if self._is_current(running):
            late = max(0.0, self._loop.time() - running.next)
            running.next += running.target.delay * (
                late // running.target.delay + 1
            )  # what was missed is not made up for
            running.timer = self._loop.call_at(running.next, self._due, running)
        while self._waiting and self._under_way < self._at_once:
            self._due(self._waiting.pop(0))

    async def _probe(self, target: Target) -> None:
        match target.type:
            case "TCP":
                await probers.tcp(target)
            case "HTTP":
                await probers.http(target)
            case "HTTPS":
                await probers.https(target, self._tls)
            case "PING":
                await self._icmp.ping(target)
            case "UDP-CONNECT":
                refused = self._icmp.expect(target)
                try:
                    await probers.udp(target, refused)
                finally:
                    self._icmp.forget(target)

    def _result(self, running: Running, result: str, why: str) -> None:
        target = running.target
        self.counters[target.type, result] += 1
        if self._is_current(running) and running.judge.judge(result == "good"):
            self._report(target.member_id, running.judge.health, why)

    def _give_up(self, target: Target, error: BaseException) -> None:
        """A check that this host could not make."""
        self.counters[target.type, "inconclusive"] += 1
        if self.canary.good or not isinstance(error, OSError):
            LOG.warning("member %s could not be checked: %r", target.member_id, error)
