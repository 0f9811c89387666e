"""One check each: TCP connect, HTTP, HTTPS and UDP. They return when the member is well, and raise ``Failed`` when it is not.

Members are strangers. No more than the first line of an answer is read, of ``LONGEST_LINE`` bytes at most; nothing that it
says is followed; and whoever is slow is cut off by the caller, who cancels. Connections are reset when they have told
enough (SO_LINGER 0), so that neither end keeps anything of them, and the one source port that a member has serves again.

The certificate that HTTPS shows is not verified: what is checked is whether the member answers, not who it is; its
name would be that of the service, and its authority the tenant's own. TLS 1.2 is the least.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from novanet_apps.host_agent.targets import Codes, Target

LONGEST_LINE = 8192
"""Bytes."""
_LONG = 3600.0
"""Seconds: the caller cuts off, not asyncio."""
_RESET = struct.pack("ii", 1, 0)
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?:[ \r]|$)")
_HOST = re.compile(r"\[?[0-9A-Za-z._:-]+\]?(:[0-9]+)?")
_WITH_BODY = ("POST", "PUT", "PATCH")
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Failed(Exception):
    """The member is not well; the text says what was wrong, in words for users."""


def tls_context() -> ssl.SSLContext:
    """For all HTTPS checks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@contextmanager
def opened(target: Target, kind: int) -> Iterator[socket.socket]:
    """A socket with the addresses that stand for the member, not connected yet."""
    sock = socket.socket(FAMILIES[target.version], kind | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        sock.bind((target.ends[0], target.source_port or 0))
        yield sock
    finally:
        sock.close()


_MEMBERS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection reset",
}
"""Errors that a member has caused. All others are this host's own, and say nothing of it."""


@contextmanager
def errors_of(what: str) -> Iterator[None]:
    """Raises Failed where the member has refused or reset the connection; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _MEMBERS:
            raise
        raise Failed(f"{what}: {_MEMBERS[error.errno or 0]}") from None


async def connect(target: Target, sock: socket.socket) -> None:
    """Connect to the member's port."""
    with errors_of(f"TCP port {target.port}"):
        await asyncio.get_running_loop().sock_connect(sock, (target.ends[1], target.port or 0))


async def tcp(target: Target) -> None:
    """The member accepts a connection."""
    with opened(target, socket.SOCK_STREAM) as sock:
        await connect(target, sock)


def request(target: Target) -> bytes:
    """The request that HTTP checks send. Raises Failed where it cannot be: a name with characters that no name has."""
    if not _HOST.fullmatch(target.host):
        raise Failed("domain_name is not a host name: correct it in the health monitor")
    lines = [
        f"{target.method} {target.path} HTTP/1.1",
        f"Host: {target.host}",
        "User-Agent: NovaNet-health",
        "Accept: */*",
    ]
    lines += ["Content-Length: 0"] if target.method in _WITH_BODY else []
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("ascii")


def judge_status(line: bytes, expected: str) -> None:
    """Take the first line of an answer. Raises Failed."""
    found = _STATUS.match(line)
    if found is None:
        raise Failed("the answer is not HTTP/1.1" if line else "connection closed without an answer")
    code = int(found[1])
    if not Codes.parse(expected).allow(code):
        raise Failed(f"HTTP status {code} instead of {expected}")


async def http(target: Target) -> None:
    """The member answers a request with a status that is expected."""
    asked, loop = request(target), asyncio.get_running_loop()
    with opened(target, socket.SOCK_STREAM) as sock:
        await connect(target, sock)
        with errors_of("HTTP"):
            await loop.sock_sendall(sock, asked)
            line = b""
            while b"\n" not in line and len(line) < LONGEST_LINE:
                piece = await loop.sock_recv(sock, LONGEST_LINE - len(line))
                if not piece:
                    break
                line += piece
        judge_status(line, target.expected)


async def https(target: Target, context: ssl.SSLContext) -> None:
    """The same within TLS."""
    asked = request(target)
    name = target.host.partition(":")[0] if re.search("[A-Za-z]", target.host.partition(":")[0]) else ""
    with opened(target, socket.SOCK_STREAM) as sock:
        await connect(target, sock)
        try:
            with errors_of("TLS"):
                reader, writer = await asyncio.open_connection(
                    sock=sock,
                    ssl=context,
                    server_hostname=name,
                    limit=LONGEST_LINE,
                    ssl_handshake_timeout=_LONG,
                )
        except ssl.SSLError as error:
            raise Failed(f"TLS: {error.reason or error}") from None
        try:
            with errors_of("HTTPS"):
                writer.write(asked)
                line = await reader.readline()
        except ValueError:  # the line is longer than any status
            line = b"?"
        finally:
            writer.transport.abort()
        judge_status(line, target.expected)


async def udp(target: Target, refused: asyncio.Future[None]) -> None:
    """Nobody says that there is no service, for as long as an answer may take, or somebody answers.

    ``refused`` fails when an ICMP message says so. UDP has no more to offer: a service may be silent when it is asked nothing.
    """
    loop = asyncio.get_running_loop()
    with opened(target, socket.SOCK_DGRAM) as sock:
        with errors_of("UDP"):
            sock.connect((target.ends[1], target.port or 0))
            sock.send(b"")
        answer = loop.create_task(loop.sock_recv(sock, 1))
        waiting: set[asyncio.Future[Any]] = {answer, refused}
        try:
            done, _ = await asyncio.wait(waiting, timeout=target.timeout * 0.9, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                if each.exception() is not None:
                    raise Failed(f"UDP port {target.port}: nobody listens there")
        finally:
            answer.cancel()
            await asyncio.wait({answer})
