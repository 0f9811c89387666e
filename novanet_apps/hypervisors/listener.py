"""Where hypervisors connect that are not connected to: ``ovs-vsctl set-manager tcp:…`` or ``ssl:…``."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import eventlet
import ovs.stream

from novanet_apps.compat.logs import Throttle
from novanet_apps.compat.openflow import Endpoint
from novanet_apps.ovsdb.fast_json import Connection
from novanet_apps.ovsdb.link import OvsdbError, TlsStream, call

LOG = logging.getLogger(__name__)

IDENTIFY_TIMEOUT = 10.0
"""Seconds that a connection has to prove itself."""
MAX_UNIDENTIFIED = 256
"""Connections that may be doing so; one more closes the oldest."""
IDENTIFY_LIMIT = 1 << 20
"""Bytes of the longest message from a peer that is not identified."""
LISTEN_AGAIN = 5.0

Arrived = Callable[[Connection, str], str]


class Listener:
    """Accepts connections, asks each for its system id and hands it to `arrived`, which returns why it is refused."""

    def __init__(self, endpoint: Endpoint, context: Any, arrived: Arrived) -> None:
        self.endpoint = endpoint
        self.port = endpoint.port
        """The port in use, when the system chose one."""
        self._context = context
        self._arrived = arrived
        self._greenlet: Any = None
        self._unidentified: OrderedDict[int, Any] = OrderedDict()
        self._log = Throttle(LOG)

    def start(self) -> None:
        """Listen; an address that is in use is tried again."""
        self._greenlet = eventlet.spawn(self._main)

    def stop(self) -> None:
        """Stop listening and close what is not identified."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill()
        for handler in list(self._unidentified.values()):
            handler.kill()

    def _main(self) -> None:
        failure = ""
        while True:
            try:
                listening = self._listen()
            except OSError as exc:
                if str(exc) != failure:
                    failure = str(exc)
                    LOG.error("ovsdb_listen: %s cannot be used and is tried again: %s", self.endpoint, exc)
                eventlet.sleep(LISTEN_AGAIN)
                continue
            self.port = 0 if self._unix else listening.getsockname()[1]
            LOG.info("hypervisors may connect to %s", self.endpoint._replace(port=self.port))
            try:
                self._accept(listening)
            finally:
                listening.close()
                if self._unix:
                    _unlink(self.endpoint.host)

    @property
    def _unix(self) -> bool:
        return self.endpoint.kind == "punix"

    def _listen(self) -> Any:
        if not self._unix:
            family = socket.AF_INET6 if ":" in self.endpoint.host else socket.AF_INET
            return eventlet.listen((self.endpoint.host, self.endpoint.port), family, backlog=1024, reuse_port=False)
        _unlink(self.endpoint.host)
        before = os.umask(0o077)
        try:
            return eventlet.listen(self.endpoint.host, socket.AF_UNIX, backlog=1024)
        finally:
            os.umask(before)

    def _accept(self, listening: Any) -> None:
        while True:
            try:
                sock, peer = listening.accept()
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._log.warning("%s: connections cannot be accepted: %s", self.endpoint, exc)
                    eventlet.sleep(0.5)
                continue
            if len(self._unidentified) >= MAX_UNIDENTIFIED:
                _, oldest = self._unidentified.popitem(last=False)
                self._log.warning("%s: closed the oldest of %d idle connections", self.endpoint, MAX_UNIDENTIFIED)
                oldest.kill()
            key = id(sock)
            self._unidentified[key] = eventlet.spawn(self._receive, key, sock, peer)

    def _receive(self, key: int, sock: Any, peer: Any) -> None:
        name = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(self.endpoint)
        kept = False
        try:
            rpc = self._open(sock, name)
            sock = rpc.stream.socket
            refused = self._arrived(rpc, system_id(rpc))
            kept = not refused
        except (OSError, OvsdbError) as exc:
            self._log.warning("%s: closed: %s", name, exc)
        except eventlet.Timeout:
            self._log.warning("%s: closed: no TLS handshake within %.0f s", name, IDENTIFY_TIMEOUT)
        finally:
            self._unidentified.pop(key, None)
            if not kept:
                sock.close()

    def _open(self, sock: Any, name: str) -> Connection:
        if self._context is None:
            stream_class: type[ovs.stream.Stream] = ovs.stream.Stream
            method = "unix" if self._unix else "tcp"
        else:
            stream_class, method = TlsStream, "ssl"
            sock = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            with eventlet.Timeout(IDENTIFY_TIMEOUT):
                sock.do_handshake()
        if method != "unix":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        return Connection(stream_class(sock, f"{method}:{name}", 0), IDENTIFY_LIMIT)


def system_id(rpc: Connection) -> str:
    """The ``external_ids:system-id`` of the database at the other end. Raises OvsdbError."""
    select = {"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["external_ids"]}
    result = call(rpc, "transact", ["Open_vSwitch", select], IDENTIFY_TIMEOUT)
    try:
        kind, pairs = result[0]["rows"][0]["external_ids"]
        found = dict(pairs).get("system-id") if kind == "map" else None
    except (LookupError, TypeError, ValueError):
        raise OvsdbError("it has no usable Open_vSwitch database") from None
    if not isinstance(found, str) or not found:
        raise OvsdbError(
            "it has no external_ids:system-id; set it with ovs-vsctl set open . external_ids:system-id=NAME"
        )
    return found


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
