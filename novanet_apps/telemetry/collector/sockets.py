"""The UDP sockets of a collector: one for each address, shared with the other collectors (SO_REUSEPORT)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

RECEIVE_BUFFER = 32 << 20
"""Bytes that the kernel keeps for a collector that is busy."""
LARGEST = 65535
SO_RXQ_OVFL, SO_RCVBUFFORCE = 40, 33
"""socket(7); Python has no names for them."""


class Message(NamedTuple):
    """One datagram."""

    data: bytes
    sender: str
    dropped: int
    """Datagrams that the kernel has dropped at this socket since it was made, as the datagram says; 0 where it does not."""


@contextmanager
def namespace(name: str) -> Iterator[None]:
    """Sockets made within belong to that network namespace (ip-netns(8)); to ours when empty. Raises OSError, which says what is wrong."""
    if not name:
        yield
        return
    from pyroute2 import netns  # not everyone waits for its import

    try:
        netns.pushns(name)
    except OSError as problem:
        raise OSError(problem.errno, f"cannot enter the network namespace {name}: {problem.strerror}") from problem
    try:
        yield
    finally:
        netns.popns()


def listen(address: str) -> socket.socket:
    """A socket at IP:PORT or [IPv6]:PORT. Raises OSError, which says what is wrong."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        _enlarge(made)
        made.setblocking(False)
        made.bind((host, int(port)))
    except OSError as problem:
        made.close()
        raise OSError(problem.errno, f"cannot listen at {address}: {problem.strerror}") from problem
    return made


def _enlarge(made: socket.socket) -> None:
    """Beyond net.core.rmem_max where we may."""
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def receive(made: socket.socket) -> Message | None:
    """The next datagram; None when there is none."""
    try:
        data, ancillary, _, sender = made.recvmsg(LARGEST, socket.CMSG_SPACE(4))
    except BlockingIOError:
        return None
    dropped = 0
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL and len(value) == 4:
            (dropped,) = struct.unpack("=I", value)
    return Message(data, sender[0].partition("%")[0], dropped)
