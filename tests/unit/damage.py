"""Valid packets made invalid: cut short anywhere, or with one byte changed."""

from __future__ import annotations

from collections.abc import Iterator


def prefixes(packet: bytes) -> Iterator[bytes]:
    """Every shorter beginning of a packet."""
    for end in range(len(packet)):
        yield packet[:end]


def corruptions(packet: bytes, flips: tuple[int, ...] = (0x01, 0x20, 0x80, 0xC0, 0xFF)) -> Iterator[tuple[int, bytes]]:
    """The packet with bits of one byte flipped, and which byte that is."""
    for place, byte in enumerate(packet):
        for flip in flips:
            yield place, packet[:place] + bytes((byte ^ flip,)) + packet[place + 1 :]
