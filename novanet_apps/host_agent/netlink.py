"""The kernel's connections by netlink (linux/netfilter/nfnetlink_conntrack.h): of each its zone, mark, id, and whether it lives."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from eventlet.green import socket as green

NETLINK_NETFILTER = 12
GET = 1 << 8 | 1
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET."""
REQUEST, DUMP = 0x1, 0x300
ERROR, DONE = 2, 3
PROTOINFO, MARK, ID, ZONE = 4, 8, 12, 18
TCP, TCP_STATE = 1, 1
LIVE = (1, 2, 3, 9)
"""Of TCP: SYN_SENT, SYN_RECV, ESTABLISHED, SYN_SENT2; the others were closed by an end."""
BUFFER = 1 << 17
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_FAMILY = 4
"""Length of struct nfgenmsg."""
_TYPE = 0x3FFF
"""Attribute types without their flags."""


class NetlinkError(Exception):
    """The kernel refused; the text says why."""


class KernelEntry(NamedTuple):
    """A connection."""

    zone: int
    mark: int
    id: int
    live: bool


class KernelEntries:
    """All connections of the network namespace."""

    def read(self) -> Iterator[list[KernelEntry]]:
        """In batches, as the kernel sends them. Raises NetlinkError."""
        try:
            with green.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
                body = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
                sock.send(_HEADER.pack(_HEADER.size + len(body), GET, REQUEST | DUMP, 1, 0) + body)
                while True:
                    found, done = parse(sock.recv(BUFFER))
                    yield found
                    if done:
                        return
        except OSError as error:
            raise NetlinkError(f"connections of the kernel: {error.strerror or error}") from None


def parse(data: bytes) -> tuple[list[KernelEntry], bool]:
    """The connections in a datagram, and whether it is the last one. Raises NetlinkError."""
    found: list[KernelEntry] = []
    at = 0
    while at < len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if kind == DONE:
            return found, True
        if kind == ERROR:
            number = -struct.unpack_from("=i", data, at + _HEADER.size)[0]
            raise NetlinkError(f"connections of the kernel: {os.strerror(number)}")
        found.append(_entry(data, at + _HEADER.size + _FAMILY, at + length))
        at += length + 3 & ~3
    return found, False


def _entry(data: bytes, at: int, end: int) -> KernelEntry:
    zone = mark = id = 0
    live = True
    while at < end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        kind &= _TYPE
        if kind == MARK:
            mark = int.from_bytes(data[at + 4 : at + 8], "big")
        elif kind == ZONE:
            zone = int.from_bytes(data[at + 4 : at + 6], "big")
        elif kind == ID:
            id = int.from_bytes(data[at + 4 : at + 8], "big")
        elif kind == PROTOINFO:
            live = _is_live(data, at + 4)
        at += length + 3 & ~3
    return KernelEntry(zone, mark, id, live)


def _is_live(data: bytes, at: int) -> bool:
    """Of the attributes of TCP the state is the first."""
    (_, kind), (_, inner) = _ATTRIBUTE.unpack_from(data, at), _ATTRIBUTE.unpack_from(data, at + 4)
    return kind & _TYPE != TCP or inner & _TYPE != TCP_STATE or data[at + 8] in LIVE
