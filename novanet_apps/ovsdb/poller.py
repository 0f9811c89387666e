"""Waiting for an OVSDB connection in a greenlet."""

from __future__ import annotations

from typing import Any

import eventlet
import ovs.poller
import ovs.timeval
from eventlet.hubs import get_hub


class Poller:
    """ovs.poller.Poller for one greenlet, which others may wake.

    The original cannot be woken from another greenlet, and under eventlet it waits 0.1 ms where it should not wait.
    """

    def __init__(self) -> None:
        self._reset()
        self._woken = False
        self._waiting: Any = None
        self._waking: Any = None

    def _reset(self) -> None:
        self._read: set[int] = set()
        self._write: set[int] = set()
        self._timeout: float | None = None

    def fd_wait(self, fd: Any, events: int) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        if events & ovs.poller.POLLIN:
            self._read.add(number)
        if events & ovs.poller.POLLOUT:
            self._write.add(number)

    def timer_wait(self, msec: float) -> None:
        msec = max(0, msec)
        self._timeout = msec if self._timeout is None else min(self._timeout, msec)

    def timer_wait_until(self, msec: float) -> None:
        self.timer_wait(msec - ovs.timeval.msec())

    def immediate_wake(self) -> None:
        self._timeout = 0

    def wake(self) -> None:
        """End the wait that is under way in another greenlet, or else the next."""
        self._woken = True
        if self._waiting is not None:
            greenlet, self._waiting = self._waiting, None
            self._waking = get_hub().schedule_call_global(0, greenlet.switch)

    def block(self) -> None:
        """Wait until a descriptor is ready, the time is over, or :meth:`wake`."""
        try:
            if self._woken or self._timeout == 0 or any(fd < 0 for fd in self._read | self._write):
                eventlet.sleep(0)
            else:
                self._wait()
        finally:
            self._woken = False
            self._reset()

    def _wait(self) -> None:
        hub = get_hub()
        current = eventlet.getcurrent()
        self._waiting = current

        def ready(_fd: int = -1) -> None:
            if self._waiting is current:
                self._waiting = None
                current.switch()

        listeners = []
        timer = None if self._timeout is None else hub.schedule_call_global(self._timeout / 1000, ready)
        try:
            for kind, descriptors in ((hub.READ, self._read), (hub.WRITE, self._write)):
                for fd in descriptors:
                    listeners.append(hub.add(kind, fd, ready, current.throw, lambda: None))
            hub.switch()
        finally:
            self._waiting = None
            for listener in listeners:
                hub.remove(listener)
            for pending in (timer, self._waking):
                if pending is not None:
                    pending.cancel()
            self._waking = None
