"""The thread that checks, with its own event loop in the agent's namespace, and how the main thread talks with it."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import eventlet
from eventlet.hubs import trampoline

from novanet_apps.host_agent import namespace
from novanet_apps.host_agent.checks import Checker
from novanet_apps.host_agent.judge import Health
from novanet_apps.host_agent.namespace import NamespaceError
from novanet_apps.host_agent.targets import Target

LOG = logging.getLogger(__name__)
T = TypeVar("T")


class CheckingThread:
    """Its methods are for greenlets of the main thread. ``report`` is called there."""

    def __init__(self, report: Callable[[str, Health, str], None], at_once: int) -> None:
        self._report, self._at_once = report, at_once
        self._loop = asyncio.new_event_loop()
        self._checker: Checker | None = None
        self._failure: BaseException | None = None
        self._news: deque[Callable[[], None]] = deque()
        self._here, self._there = socket.socketpair()
        for end in (self._here, self._there):
            end.setblocking(False)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="checks", daemon=True)

    def start(self) -> None:
        """Make the namespace and the loop. Raises NamespaceError."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        eventlet.spawn(self._listen)

    def stop(self) -> None:
        """End the thread, and with it the namespace."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)

    def connect(self) -> None:
        """Make the veth pair anew. Raises NamespaceError."""
        self._call(namespace.connect)

    def disconnect(self) -> None:
        """Take the veth pair away."""
        self._call(namespace.disconnect)

    def change(self, changes: Mapping[str, tuple[Target, Health] | None]) -> None:
        """Check these members so from now on."""
        self._loop.call_soon_threadsafe(self._own.change, dict(changes))

    def state(self) -> dict[str, Any]:
        """How checks go: what metrics tell."""
        own = self._own

        def read() -> dict[str, Any]:
            return {
                "checks": dict(own.counters),
                "healths": dict(own.healths()),
                "lag": own.lag,
                "path_good": own.canary.good,
            }

        return self._call(read)

    @property
    def _own(self) -> Checker:
        if self._checker is None:
            raise RuntimeError("the thread was not started")
        return self._checker

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            namespace.enter_new()
            self._checker = Checker(self._loop, self._tell, self._at_once)
        except (NamespaceError, OSError) as error:
            self._failure = error if isinstance(error, NamespaceError) else NamespaceError(str(error))
            return
        finally:
            self._ready.set()
        self._loop.run_forever()
        self._checker.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    # --- between threads ---------------------------------------------------------------------------------------------

    def _tell(self, member_id: str, health: Health, why: str) -> None:
        self._post(lambda: self._report(member_id, health, why))

    def _post(self, call: Callable[[], None]) -> None:
        """Have it called in the main thread."""
        self._news.append(call)
        try:
            self._there.send(b"!")
        except BlockingIOError:
            pass  # enough of them are waiting already

    def _listen(self) -> None:
        while True:
            trampoline(self._here.fileno(), read=True)
            self._here.recv(4096)
            while self._news:
                self._news.popleft()()

    def _call(self, function: Callable[[], T]) -> T:
        """What a function returns, or raises, in the thread."""
        done: eventlet.event.Event = eventlet.event.Event()

        def run() -> None:
            try:
                result = function()
            except Exception as error:
                self._post(lambda failure=error: done.send_exception(failure))  # type: ignore[misc]
            else:
                self._post(lambda: done.send(result))

        self._loop.call_soon_threadsafe(run)
        return done.wait()
