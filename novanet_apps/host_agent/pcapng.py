"""Blocks of a pcapng file (draft-ietf-opsawg-pcapng), in the machine's byte order, with times in nanoseconds."""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterable
from typing import Final

Option = tuple[int, bytes]

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER = 0x1A2B3C4D
_UNKNOWN_LENGTH = 0xFFFFFFFFFFFFFFFF
ETHERNET = 1
"""LINKTYPE_ETHERNET."""
INBOUND: Final = 1
OUTBOUND: Final = 2
"""Of epb_flags (section 4.3.1): to whom the interface belongs, or from there."""
_COMMENT, _HARDWARE, _SYSTEM, _PROGRAM = 1, 2, 3, 4
_NAME, _DESCRIPTION, _RESOLUTION, _FILTER = 2, 3, 9, 11
_FLAGS = 2
_START, _END, _RECEIVED, _DROPPED = 2, 3, 4, 5
_NANOSECONDS = 9
_PACKET_HEAD = struct.Struct("=IIIIIII")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
PACKET_OVERHEAD = 44
"""Bytes of a packet's block beside the packet, which is padded to four."""


def section(program: str, comment: str = "") -> bytes:
    """The block that a file begins with: what wrote it, and on what."""
    said = [(_HARDWARE, platform.machine()), (_SYSTEM, f"{platform.system()} {platform.release()}")]
    said += [(_PROGRAM, program)]
    if comment:
        said.insert(0, (_COMMENT, comment))
    head = struct.pack("=IHHQ", _BYTE_ORDER, 1, 0, _UNKNOWN_LENGTH)
    return _block(_SECTION, head + _options((code, text.encode()) for code, text in said))


def interface(name: str, snaplen: int, description: str = "", filter: str = "") -> bytes:
    """An interface, of whose packets ``snaplen`` bytes are kept; they are numbered as they come, from 0."""
    options: list[Option] = [(_NAME, name.encode())]
    if description:
        options.append((_DESCRIPTION, description.encode()))
    options.append((_RESOLUTION, bytes([_NANOSECONDS])))
    if filter:
        options.append((_FILTER, b"\0" + filter.encode()))
    return _block(_INTERFACE, struct.pack("=HHI", ETHERNET, 0, snaplen) + _options(options))


def packet(data: bytes, length: int, at: int, flags: int, interface: int = 0) -> bytes:
    """A packet of ``length`` bytes of which ``data`` was kept, seen ``at`` (nanoseconds since 1970)."""
    kept = len(data)
    padding = _PADDING[kept & 3]
    size = PACKET_OVERHEAD + kept + len(padding)
    head = _PACKET_HEAD.pack(_PACKET, size, interface, at >> 32, at & 0xFFFFFFFF, kept, length)
    return b"%b%b%b%b" % (head, data, padding, struct.pack("=HHIII", _FLAGS, 4, flags, 0, size))


def statistics(start: int, end: int, received: int, dropped: int, interface: int = 0) -> bytes:
    """What there was of an interface from ``start`` to ``end`` (nanoseconds since 1970)."""

    def time(at: int) -> bytes:
        return struct.pack("=II", at >> 32, at & 0xFFFFFFFF)

    options = [
        (_START, time(start)), (_END, time(end)),
        (_RECEIVED, struct.pack("=Q", received)), (_DROPPED, struct.pack("=Q", dropped)),
    ]  # fmt: skip
    return _block(_STATISTICS, struct.pack("=I", interface) + time(end) + _options(options))


def _options(options: Iterable[Option]) -> bytes:
    parts = [
        struct.pack("=HH", code, len(value)) + value + _PADDING[len(value) & 3]
        for code, value in options
        if len(value) <= 0xFFFF
    ]
    return b"".join(parts) + bytes(4)


def _block(type: int, body: bytes) -> bytes:
    size = struct.pack("=I", 12 + len(body))
    return struct.pack("=I", type) + size + body + size
