"""The only package that knows how old Ryu is: what keeps it running, and the names that NovaNet takes from it.

Ryu 4.34 is from 2020. Three things are put right here, before any of it is imported or used:

- ``ryu.app.wsgi`` wants ``eventlet.wsgi.ALREADY_HANDLED``, which eventlet no longer has;
- its OpenFlow listener serves one TLS switch only and needs ``ssl.wrap_socket``, gone from Python 3.12; ours
  (``openflow``) takes its place, with a connection (``datapath``) that reads and writes in large pieces;
- eventlet announces its retirement on every start, which tells an operator nothing.

Everything else in NovaNet imports Ryu's names from here, so that another framework could stand in one day.
"""

from __future__ import annotations

import warnings

warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")

import eventlet  # noqa: E402
import eventlet.wsgi  # noqa: E402

if not hasattr(eventlet.wsgi, "ALREADY_HANDLED"):
    eventlet.wsgi.ALREADY_HANDLED = object()

from ryu.app import wsgi  # noqa: E402
from ryu.app.wsgi import ControllerBase, WSGIApplication, route  # noqa: E402
from ryu.base import app_manager  # noqa: E402
from ryu.cfg import CONF  # noqa: E402
from ryu.controller import controller, event, handler, ofp_event  # noqa: E402
from ryu.controller.handler import (  # noqa: E402
    CONFIG_DISPATCHER,
    DEAD_DISPATCHER,
    HANDSHAKE_DISPATCHER,
    MAIN_DISPATCHER,
    set_ev_cls,
)
from ryu.lib import hub  # noqa: E402

from .datapath import Datapath  # noqa: E402
from .errors import ConfigurationError  # noqa: E402
from .openflow import CONNECTIONS, ConnectionCounters, Connections, Observer, OpenFlowController  # noqa: E402
from .tls import make_client_context, make_server_context  # noqa: E402

controller.OpenFlowController = OpenFlowController
controller.Datapath = Datapath


def ryu_manager(args: list[str] | None = None) -> int:
    """The command ``ryu-manager``; see ``manager.run``."""
    from .manager import run

    return run(args)


__all__ = [
    "CONF", "CONFIG_DISPATCHER", "CONNECTIONS", "DEAD_DISPATCHER", "HANDSHAKE_DISPATCHER", "MAIN_DISPATCHER",
    "ConfigurationError", "ConnectionCounters", "Connections", "ControllerBase", "Datapath", "Observer", "OpenFlowController", "WSGIApplication", "app_manager",
    "controller", "event", "handler", "hub", "make_client_context", "make_server_context", "ofp_event", "route",
    "ryu_manager", "set_ev_cls", "wsgi",
]  # fmt: skip
