"""Packets of an interface from the kernel, in blocks of a ring that is mapped (packet(7); Documentation/networking/packet_mmap.rst).

Of version 3: packets have the size that they have, a block is handed over when it is full or ``RETIRE`` milliseconds old, and what
there is no room for is counted.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

BLOCK, BLOCKS = 1 << 18, 64
"""Bytes of a block, which have to hold the largest packet, and blocks: 16 MiB."""
RETIRE = 20
"""Milliseconds."""
_SOL_PACKET, _RX_RING, _STATISTICS, _VERSION, _IGNORE_OUTGOING = 263, 5, 6, 10, 23
_V3, _FRAME = 2, 2048
_SO_ATTACH_FILTER = 26
_LEAVING = b"".join(
    struct.pack("=HBBI", *step)
    for step in ((0x20, 0, 0, 0xFFFFF004), (0x15, 1, 0, socket.PACKET_OUTGOING), (0x06, 0, 0, 0))
)
"""Begins a filter: nothing of what is not sent (SKF_AD_PKTTYPE of linux/filter.h)."""
_ETH_P_ALL = 3
_OURS, _TAGGED, _WITH_TPID = 1, 1 << 4, 1 << 6
_VLAN = 0x8100
_HEAD = struct.Struct("=IIIIIIHHIIH")
"""struct tpacket3_hdr: next offset, seconds, nanoseconds, bytes kept, bytes, status, offset of the MAC header and of the network's, hash,
VLAN tag and its type."""


class Packet(NamedTuple):
    """What came."""

    at: int
    """Nanoseconds since 1970."""
    length: int
    """Bytes that it had."""
    data: bytes
    flags: int
    """What the ring was given."""


class PacketRing:
    """Packets that come in by an interface, or else those that leave by it, and pass a filter (struct sock_filter each step, which says
    how much is kept of one).

    ``flags`` go with each packet. Raises OSError.
    """

    def __init__(self, interface: str, filter: bytes, flags: int = 0, leaving: bool = False) -> None:
        self.flags = flags
        self.received = self.dropped = 0
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # 0: nothing comes before all is set
        try:
            self._socket.setsockopt(_SOL_PACKET, _VERSION, _V3)
            self._socket.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, not leaving)
            filter = _LEAVING + filter if leaving else filter
            steps = ctypes.create_string_buffer(filter, len(filter))
            program = struct.pack("HP", len(filter) // 8, ctypes.addressof(steps))
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            room = struct.pack("IIIIIII", BLOCK, BLOCKS, _FRAME, BLOCK // _FRAME * BLOCKS, RETIRE, 0, 0)
            self._socket.setsockopt(_SOL_PACKET, _RX_RING, room)
            self._map = mmap.mmap(self._socket.fileno(), BLOCK * BLOCKS)
            self._socket.bind((interface, _ETH_P_ALL))
        except OSError:
            self._socket.close()
            raise
        self._next = 0

    def fileno(self) -> int:
        """Readable when there are packets."""
        return self._socket.fileno()

    def close(self) -> None:
        """Take no more."""
        self._map.close()
        self._socket.close()

    def take(self) -> Iterator[Packet]:
        """All that is there."""
        for _ in range(BLOCKS):
            base = self._next * BLOCK
            status, count, at = struct.unpack_from("=III", self._map, base + 8)
            if not status & _OURS:
                return
            at += base
            for _ in range(count):
                following, seconds, nanoseconds, kept, length, bits, start, _, _, tag, kind = _HEAD.unpack_from(
                    self._map, at
                )
                begin = at + start
                data = self._map[begin : begin + kept]
                if bits & _TAGGED:
                    kind = kind if bits & _WITH_TPID else _VLAN
                    data, length = data[:12] + struct.pack("!HH", kind, tag & 0xFFFF) + data[12:], length + 4
                yield Packet(seconds * 1_000_000_000 + nanoseconds, length, data, self.flags)
                at += following
            struct.pack_into("=I", self._map, base + 8, 0)
            self._next = (self._next + 1) % BLOCKS

    def count(self) -> None:
        """Bring ``received`` and ``dropped`` up to date: packets that passed the filter, and of these the ones that found no room."""
        packets, drops, _ = struct.unpack("=III", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 12))
        self.received, self.dropped = self.received + packets, self.dropped + drops
