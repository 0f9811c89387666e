"""The connection below a session: python-ovs' reconnecting JSON-RPC session, TLS 1.3, and the reasons of failures."""

from __future__ import annotations

import errno
import os
import ssl
import time
from typing import Any

import eventlet
import ovs.jsonrpc
import ovs.reconnect
import ovs.socket_util
import ovs.stream
import ovs.timeval
import ovs.util

from novanet_apps.ovsdb.fast_json import Connection, install
from novanet_apps.ovsdb.poller import Poller

MIN_BACKOFF_MS = 250
MAX_BACKOFF_MS = 2000


class OvsdbError(Exception):
    """An OVSDB server refused something or could not be reached; the text says what and why."""


def use_tls(private_key: str, certificate: str, ca: str) -> None:
    """Files (PEM) with which ``ssl:`` connections of this process prove who they are and check who answers."""
    ovs.stream.Stream.ssl_set_private_key_file(private_key)
    ovs.stream.Stream.ssl_set_certificate_file(certificate)
    ovs.stream.Stream.ssl_set_ca_cert_file(ca)


class TlsStream(ovs.stream.SSLStream):
    """``ssl:HOST:PORT`` with TLS 1.3 at least; python-ovs also takes 1.2, and hides why a handshake failed."""

    detail = ""

    @staticmethod
    def _open(suffix: str, dscp: int) -> tuple[int, Any]:
        files = ovs.stream.Stream
        missing = not (files._SSL_private_key_file and files._SSL_certificate_file and files._SSL_ca_cert_file)
        address = ovs.socket_util.inet_parse_active(suffix, 0, raises=False)
        if missing or address is None:
            return (errno.ENOKEY if missing else errno.EINVAL), None
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False  # OVS certificates name no hosts; the CA is NovaNet's own
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_verify_locations(files._SSL_ca_cert_file)
            context.load_cert_chain(files._SSL_certificate_file, files._SSL_private_key_file)
        except OSError:
            return errno.ENOKEY, None
        family, sock = ovs.socket_util.inet_create_socket_active(ovs.stream.socket.SOCK_STREAM, address)
        if sock is None:
            return family, None
        sock = context.wrap_socket(sock, do_handshake_on_connect=False)
        error = ovs.socket_util.inet_connect_active(sock, address, family, dscp)
        return error, None if error else sock

    def connect(self) -> int:
        error = ovs.stream.Stream.connect(self)
        if error or self.socket is None:
            return int(error)
        try:
            self.socket.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return errno.EAGAIN
        except OSError as exc:
            self.detail = f"TLS: {getattr(exc, 'reason', None) or exc}"
            return errno.EPROTO
        return 0

    def recv(self, n: int) -> tuple[int, Any]:
        error, data = super().recv(n)
        # With TLS 1.3 a server's refusal of our certificate arrives after the handshake, as an alert.
        return (errno.EPROTO if error == errno.EPERM else error), data


def _reason(error: int) -> str:
    if error == ovs.util.EOF:
        return "closed by the other side"
    if error == errno.ENOKEY:
        return "TLS: set tls_private_key, tls_certificate and tls_ca to readable PEM files"
    return os.strerror(error)


class _Reconnect(ovs.reconnect.Reconnect):
    """Remembers why the connection failed last."""

    def __init__(self, link: Link) -> None:
        super().__init__(ovs.timeval.msec())
        self._link = link
        self.min_backoff = MIN_BACKOFF_MS
        self.max_backoff = MAX_BACKOFF_MS
        self.failure = ""

    def disconnected(self, now: int, error: int) -> None:
        if self.state not in (ovs.reconnect.Reconnect.Backoff, ovs.reconnect.Reconnect.Void):
            where = getattr(self._link.rpc, "detail", "") or getattr(self._link.stream, "detail", "")
            if not where and error:
                where = _reason(error)
            elif not where:
                idle = self.state is ovs.reconnect.Reconnect.Idle
                where = "no answer to probes" if idle else "no answer" if not self._link.rpc else "reconnecting"
            self.failure = f"{self.name}: {where}"
        super().disconnected(now, error)


class Link(ovs.jsonrpc.Session):
    """ovs.jsonrpc.Session to any of `remotes`; without remotes it only uses connections that are adopted."""

    rpc: Any
    stream: Any

    def __init__(self, remotes: list[str], probe_interval_ms: int) -> None:
        super().__init__(_Reconnect(self), None, remotes)
        if remotes:
            self.pick_remote()
            self.reconnect.enable(ovs.timeval.msec())
            self.reconnect.set_backoff_free_tries(len(remotes))
        else:
            self.reconnect.set_max_tries(0)
        unix_only = remotes and all(remote.startswith("unix:") for remote in remotes)
        self.reconnect.set_probe_interval(0 if unix_only else probe_interval_ms)

    def pick_remote(self) -> None:
        if self.remotes:
            super().pick_remote()

    def adopt(self, rpc: Connection) -> None:
        """Go on with a connection that is already established, in place of the present one."""
        now = ovs.timeval.msec()
        if self.rpc is not None:
            self.reconnect.force_reconnect(now)
            self.reconnect.disconnected(now, 0)
            self.rpc.close()
        elif self.stream is not None:
            self.stream.close()
            self.stream = None
        self.rpc = rpc
        self.seqno += 1
        self.reconnect.set_name(rpc.name)
        self.reconnect.connected(now)


def connect(remotes: list[str], timeout: float) -> Connection:
    """A connection to the first of `remotes` that answers. Raises :class:`OvsdbError`, after `timeout` s at most."""
    deadline = time.monotonic() + timeout
    failures = []
    for remote in remotes:
        if not ovs.stream.Stream.is_valid_name(remote):
            raise OvsdbError(f"{remote}: not an OVSDB address (tcp:IP:PORT, ssl:IP:PORT or unix:PATH)")
        error, stream = ovs.stream.Stream.open(remote)
        detail = ""
        while not error:
            error = stream.connect()
            if error != errno.EAGAIN:
                break
            left = deadline - time.monotonic()
            if left <= 0:
                error = errno.ETIMEDOUT
                break
            error = 0
            poller = Poller()
            stream.connect_wait(poller)
            poller.timer_wait(left * 1000)
            poller.block()
        if not error:
            return Connection(stream)
        if stream is not None:
            detail = getattr(stream, "detail", "")
            stream.close()
        failures.append(f"{remote}: {detail or _reason(error)}")
    raise OvsdbError("; ".join(failures))


def call(rpc: Connection, method: str, params: list[Any], timeout: float) -> Any:
    """Ask a connection on which nothing else goes on, and return the result (RFC 7047 §4.1).

    Raises :class:`OvsdbError`, also when there is no answer within `timeout` seconds.
    """
    request = ovs.jsonrpc.Message.create_request(method, params)
    rpc.send(request)
    deadline = time.monotonic() + timeout
    while True:
        rpc.run()
        error, message = rpc.recv()
        if message is not None and message.id == request.id and message.type in (message.T_REPLY, message.T_ERROR):
            if message.type == message.T_ERROR:
                raise OvsdbError(f"{rpc.name}: {method}: {message.error}")
            return message.result
        if message is not None and message.type == message.T_REQUEST and message.method == "echo":
            rpc.send(ovs.jsonrpc.Message.create_reply(message.params, message.id))
        elif error and error != errno.EAGAIN:
            raise OvsdbError(f"{rpc.name}: {rpc.detail or _reason(error)}")
        left = deadline - time.monotonic()
        if left <= 0:
            raise OvsdbError(f"{rpc.name}: no answer to {method}")
        if message is None:
            poller = Poller()
            rpc.wait(poller)
            rpc.recv_wait(poller)
            poller.timer_wait(left * 1000)
            poller.block()
        else:
            eventlet.sleep(0)


install()
ovs.stream.Stream.register_method("ssl", TlsStream)
