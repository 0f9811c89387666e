"""How collectors, the recorder and the controller talk over a Unix stream socket: frames of a msgpack map and raw bytes.

A frame is two 32-bit lengths in network order, the map's and the body's, then both. The body is empty, or a numpy array as it
lies in memory; the map says which by ``kind``. Nobody but processes of the same user can connect, and still lengths are
bounded: a bug at one end must not eat the memory of the other.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

LENGTHS = struct.Struct("!II")
MAX_HEADER = 64 << 20
"""Bytes of a map; the whole topology of a large platform is one."""
MAX_BODY = 256 << 20


class FrameError(Exception):
    """What came is no frame; the connection cannot go on."""


def pack(header: dict[str, Any], body: bytes | memoryview = b"") -> bytes:
    """A frame, ready to be sent."""
    packed = msgpack.packb(header)
    return LENGTHS.pack(len(packed), len(body)) + packed + bytes(body)


def lengths(prefix: bytes) -> tuple[int, int]:
    """Bytes of the map and of the body that follow. Raises FrameError."""
    header, body = LENGTHS.unpack(prefix)
    if not 0 < header <= MAX_HEADER or body > MAX_BODY:
        raise FrameError(f"a frame of {header} + {body} bytes is longer than any that is sent")
    return header, body


def unpack(packed: bytes) -> dict[str, Any]:
    """The map of a frame. Raises FrameError."""
    try:
        header = msgpack.unpackb(packed, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as problem:
        raise FrameError(f"a frame does not begin with msgpack: {problem}") from None
    if not isinstance(header, dict):
        raise FrameError(f"a frame begins with a map, not {type(header).__name__}")
    return header
