"""Where switches connect: the listeners, the handshakes, and who is told about connections.

Stands in for ``ryu.controller.controller.OpenFlowController``. However many connect at once, whatever they send and however
long they wait, they cost one greenlet each until the handshake's time is over, and one log line at most.
"""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, NamedTuple, Protocol

import eventlet
from eventlet.green import socket, ssl
from eventlet.timeout import Timeout
from ryu.cfg import CONF
from ryu.lib.dpid import dpid_to_str

from .datapath import ConnectionFailed, Datapath
from .errors import ConfigurationError
from .logs import Throttle
from .tls import make_server_context

LOG = logging.getLogger(__name__)
NOISE = Throttle(LOG)

REPLACED = (
    "ofp_tcp_listen_port",
    "ofp_ssl_listen_port",
    "ctl_privkey",
    "ctl_cert",
    "ca_certs",
    "ofp_switch_address_list",
)
"""Ryu's options that ``openflow_listen`` and ``tls_*`` replace."""


class Endpoint(NamedTuple):
    """A parsed ``openflow_listen`` entry; ``host`` is the path of a unix socket."""

    kind: str
    host: str
    port: int

    def __str__(self) -> str:
        if self.kind == "punix":
            return f"punix:{self.host}"
        return f"{self.kind}:{self.port}:{f'[{self.host}]' if ':' in self.host else self.host}"


def parse_endpoint(text: str, option: str = "openflow_listen") -> Endpoint:
    """Read ``ptcp:PORT[:IP]``, ``pssl:PORT[:IP]`` or ``punix:PATH`` (ovs-vsctl(8), connection methods), a value of `option`.

    Raises ConfigurationError when it is none of them, or plain TCP off loopback.
    """
    kind, _, rest = text.strip().partition(":")
    if kind == "punix" and rest:
        return Endpoint(kind, rest, 0)
    port, _, host = rest.partition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    try:
        address = ip_address(host)
        number = int(port)
    except ValueError:
        number = -1
    if kind not in ("ptcp", "pssl") or not 0 <= number <= 65535:
        raise ConfigurationError(
            f"{option}: {text!r} is not an endpoint; write ptcp:PORT[:IP], pssl:PORT[:IP] or punix:PATH"
        )
    if kind == "ptcp" and not address.is_loopback:
        raise ConfigurationError(
            f"{option}: {text!r} is refused: plain TCP would let anyone who reaches {host} program the switches; use "
            f"pssl:{port}:{host} with tls_certificate, tls_private_key and tls_ca, or a loopback address"
        )
    return Endpoint(kind, host, number)


def configured_endpoints() -> list[tuple[Endpoint, Any]]:
    """Each endpoint of the configuration with its TLS context (None without TLS); raises ConfigurationError."""
    for name in REPLACED:
        if getattr(CONF, name):
            raise ConfigurationError(
                f"option {name} of Ryu is not used here; say where to listen with openflow_listen and tls_*"
            )
    endpoints = [parse_endpoint(text) for text in CONF.openflow_listen]
    return [(endpoint, _context() if endpoint.kind == "pssl" else None) for endpoint in endpoints]


def _context() -> Any:
    missing = [name for name in ("tls_certificate", "tls_private_key", "tls_ca") if not getattr(CONF, name)]
    if missing:
        raise ConfigurationError(f"openflow_listen has a pssl endpoint; it needs {' and '.join(missing)} too")
    return make_server_context(CONF.tls_certificate, CONF.tls_private_key, CONF.tls_ca)


class Observer(Protocol):
    """Who wants to know of switches. The calls come from the connection's greenlet and must not block."""

    def up(self, datapath: Datapath) -> None:
        """The handshake with a switch is done; ``datapath.id`` is known."""

    def down(self, datapath: Datapath, reason: str) -> None:
        """An established connection ended."""

    def refused(self, dpid: int | None, reason: str) -> None:
        """A handshake failed, of the switch with that datapath id if it got so far."""


@dataclass
class ConnectionCounters:
    """What happened on OpenFlow connections since the start."""

    connections: int = 0
    """Handshakes completed."""
    connection_errors: int = 0
    """Connections that failed in their handshake, or ended for another reason than their peer's wish."""
    messages_received: int = 0
    bytes_sent: int = 0


class Connections:
    """The registry of observers, and the counters."""

    def __init__(self) -> None:
        self.observers: list[Observer] = []
        self.counters = ConnectionCounters()

    def up(self, datapath: Datapath) -> None:
        """Tell everyone of a new switch."""
        self.counters.connections += 1
        LOG.info(
            "switch %s connected from %s with version %#04x",
            dpid_to_str(datapath.id),
            datapath.address,
            datapath.ofproto.OFP_VERSION,
        )
        for observer in self.observers:
            observer.up(datapath)

    def down(self, datapath: Datapath, reason: str) -> None:
        """Tell everyone of a lost switch."""
        LOG.info("switch %s from %s disconnected: %s", dpid_to_str(datapath.id), datapath.address, reason)
        for observer in self.observers:
            observer.down(datapath, reason)

    def refused(self, dpid: int | None, peer: str, reason: str) -> None:
        """Tell everyone of a failed handshake, once in the log."""
        self.counters.connection_errors += 1
        name = f"switch {dpid_to_str(dpid)} at {peer}" if dpid is not None else peer
        NOISE.warning("OpenFlow connection of %s refused: %s", name, reason)
        for observer in self.observers:
            observer.refused(dpid, reason)


CONNECTIONS = Connections()


class OpenFlowController:
    """All listeners. Ryu's ``ofp_handler`` makes one, calls it in a greenlet of its own, and kills that at the end."""

    def __init__(self) -> None:
        self._half_open: dict[Any, None] = {}
        self._serving: set[Any] = set()
        self._listeners = [(_listen(endpoint), endpoint, context) for endpoint, context in configured_endpoints()]

    def __call__(self) -> None:
        """Accept connections until killed; then close everything."""
        accepting = [eventlet.spawn(self._accept, *listener) for listener in self._listeners]
        try:
            for thread in accepting:
                thread.wait()
        finally:
            for thread in [*accepting, *self._serving]:
                thread.kill()
            for listener, endpoint, _ in self._listeners:
                listener.close()
                if endpoint.kind == "punix":
                    _unlink(endpoint.host)

    def _accept(self, listener: Any, endpoint: Endpoint, context: Any) -> None:
        if endpoint.kind != "punix":
            endpoint = endpoint._replace(port=listener.getsockname()[1])
        LOG.info("OpenFlow listens on %s", endpoint)
        while True:
            try:
                connection, address = listener.accept()
            except OSError as error:
                NOISE.warning("cannot accept an OpenFlow connection on %s: %s", endpoint, error)
                eventlet.sleep(0.1)
                continue
            peer = f"{address[0]}:{address[1]}" if endpoint.port else f"a process on {endpoint}"
            self._serving.add(eventlet.spawn(self._serve, connection, peer, context))

    def _serve(self, connection: Any, peer: str, context: Any) -> None:
        """One connection from accept to end; nothing that it does goes further."""
        me = eventlet.getcurrent()
        timeout = CONF.openflow_handshake_timeout
        timer = Timeout(timeout, ConnectionFailed(f"its handshake was not done within {timeout:g} s"))
        datapath: Datapath | None = None
        up = False

        def established(datapath: Datapath) -> None:
            nonlocal up
            up = True
            timer.cancel()
            self._half_open.pop(me, None)
            CONNECTIONS.up(datapath)

        reason = "it closed the connection"
        try:
            self._admit(me)
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                connection.do_handshake()
            elif not peer.startswith("a process"):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            datapath = Datapath(
                connection, peer, established=established, counters=CONNECTIONS.counters, tls=context is not None,
                probe=(CONF.openflow_probe_interval, CONF.openflow_probe_timeout),
            )  # fmt: skip
            datapath.serve()
        except ConnectionFailed as failure:
            reason = str(failure)
            CONNECTIONS.counters.connection_errors += up  # refused() counts the others
        except (OSError, EOFError, ssl.SSLError, ValueError) as error:
            reason = f"{'TLS: ' if isinstance(error, ssl.SSLError) else ''}{getattr(error, 'reason', None) or error}"
        except Exception as error:
            reason = f"internal error: {error!r}"
            LOG.exception("OpenFlow connection of %s", peer)
        finally:
            timer.cancel()
            self._half_open.pop(me, None)
            self._serving.discard(me)
            connection.close()
            if up and datapath is not None:
                CONNECTIONS.down(datapath, reason)
            else:
                CONNECTIONS.refused(datapath.id if datapath is not None else None, peer, reason)

    def _admit(self, me: Any) -> None:
        """Take the connection among those in their handshake; an honest handshake is never the oldest for long."""
        self._half_open[me] = None
        if len(self._half_open) > CONF.openflow_half_open:
            oldest = next(iter(self._half_open))
            del self._half_open[oldest]
            eventlet.kill(oldest, ConnectionFailed("too many connections within their handshake"))


def _listen(endpoint: Endpoint) -> Any:
    """A listening socket; raises ConfigurationError."""
    family = socket.AF_UNIX if endpoint.kind == "punix" else socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if endpoint.kind == "punix":
            _unlink(endpoint.host)
            before = os.umask(0o077)
            try:
                listener.bind(endpoint.host)
            finally:
                os.umask(before)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((endpoint.host, endpoint.port))
        listener.listen(CONF.openflow_backlog)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen for OpenFlow on {endpoint}: {error.strerror or error}; does another controller run, and is the address "
            "this machine's?"
        ) from error
    return listener


def _unlink(path: str) -> None:
    """Remove a socket that an earlier run left behind."""
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
