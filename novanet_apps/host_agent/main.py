"""The command ``novanet-host-agent``."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import warnings
from typing import Any

from oslo_config import cfg

warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")

from novanet_apps import logs  # noqa: E402
from novanet_apps.host_agent import settings  # noqa: E402
from novanet_apps.host_agent.agent import Agent  # noqa: E402
from novanet_apps.host_agent.namespace import NamespaceError  # noqa: E402
from novanet_apps.ovsdb.link import use_tls  # noqa: E402

LOG = logging.getLogger("novanet_apps.host_agent")


def main(args: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status."""
    try:
        conf = settings.read(args)
    except cfg.Error as error:
        print(f"novanet-host-agent: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logs.use(conf.log_format)
    _raise_file_limit()
    if conf.tls_certificate and conf.tls_private_key and conf.tls_ca:
        use_tls(conf.tls_private_key, conf.tls_certificate, conf.tls_ca)
    ended, _keep = _signals()
    agent = Agent(conf)
    try:
        agent.start()
    except (NamespaceError, OSError, ValueError) as error:
        print(f"novanet-host-agent: {error}", file=sys.stderr)
        return 1
    ended.recv(1)
    LOG.info("ending")
    agent.stop()
    return 0


def _signals() -> tuple[Any, Any]:
    """A socket with something to read once a signal to end has come, and its other end; a second signal ends the process at once."""
    from eventlet.green import socket

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    came = []

    def end(number: int, _frame: Any) -> None:
        came.append(number)
        if len(came) > 1:
            os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    return reader, writer


def _raise_file_limit() -> None:
    """Each check has a file for as long as it takes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
