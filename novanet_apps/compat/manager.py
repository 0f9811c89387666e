"""The command ``ryu-manager``: Ryu's own, started the way that today's Python needs and ended in good order."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

import eventlet
import eventlet.hubs
from eventlet.green import socket
from eventlet.timeout import Timeout

from . import logs
from .errors import ConfigurationError

LOG = logging.getLogger(__name__)

CLOSING = 10.0
"""Seconds that the apps have to close."""


def run(args: list[str] | None = None) -> int:
    """Run ``ryu-manager`` with ``args`` (default: the command line) until SIGTERM or SIGINT; returns the exit status."""
    eventlet.monkey_patch()
    from ryu import log
    from ryu.base.app_manager import AppManager
    from ryu.cmd import manager

    import novanet_apps.options  # noqa: F401  registers them

    _raise_file_limit()
    end_signals()
    log.init_log = _after_options(log.init_log)
    try:
        manager.main(args=args, prog="ryu-manager")
    except ConfigurationError as error:
        print(f"ryu-manager: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    finally:
        with Timeout(CLOSING, False):
            AppManager.get_instance().close()
    return 0


def end_signals() -> None:
    """End the main greenlet with KeyboardInterrupt on SIGTERM or SIGINT; the second signal ends the process at once.

    A signal handler runs between any two instructions and must not touch greenlets, so the signal goes through a socket
    to a greenlet of its own.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    eventlet.spawn(_wait_for_signal, reader, writer, eventlet.getcurrent())


def _wait_for_signal(reader: Any, writer: Any, main: Any) -> None:
    asked = False
    while True:
        number = reader.recv(1)[0]
        if number not in (signal.SIGTERM, signal.SIGINT):
            continue
        if asked:
            os._exit(128 + number)
        asked = True
        LOG.info("%s: ending", signal.Signals(number).name)
        eventlet.hubs.get_hub().schedule_call_global(0, main.throw, KeyboardInterrupt)


def _raise_file_limit() -> None:
    """A connection is a file: allow as many as the system lets us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _after_options(init_log: Callable[[], None]) -> Callable[[], None]:
    """Ryu sets up its log once the options are read, before it loads apps: the moment to check them."""

    def initialise() -> None:
        from ryu.cfg import CONF

        from .openflow import configured_endpoints

        init_log()
        logs.use(CONF.log_format)
        configured_endpoints()

    return initialise
