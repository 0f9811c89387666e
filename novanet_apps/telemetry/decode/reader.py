"""Bytes of a datagram, read from left to right and never beyond their end."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address


class Truncated(ValueError):
    """There are fewer bytes than the format says."""


class Reader:
    """A part of a datagram."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.data, self.at = data, at
        self.end = len(data) if end is None else end

    @property
    def left(self) -> int:
        """Bytes that have not been read."""
        return self.end - self.at

    def take(self, size: int) -> bytes:
        """The next bytes. Raises Truncated."""
        at = self.at
        if size < 0 or size > self.end - at:
            raise Truncated(f"{size} bytes wanted at offset {at}, {self.end - at} there")
        self.at = at + size
        return self.data[at : at + size]

    def skip(self, size: int) -> None:
        """Leave some out. Raises Truncated."""
        self.take(size)

    def part(self, size: int) -> Reader:
        """The next bytes, as a part of their own. Raises Truncated."""
        at = self.at
        self.take(size)
        return Reader(self.data, at, at + size)

    def number(self, size: int) -> int:
        """An unsigned number of so many bytes, the highest first. Raises Truncated."""
        return int.from_bytes(self.take(size), "big")

    def u8(self) -> int:
        """8 bits."""
        return self.number(1)

    def u16(self) -> int:
        """16 bits."""
        return self.number(2)

    def u32(self) -> int:
        """32 bits."""
        return self.number(4)

    def u64(self) -> int:
        """64 bits."""
        return self.number(8)

    def mac(self) -> str:
        """A MAC address, as text."""
        return self.take(6).hex(":")

    def ip4(self) -> str:
        """An IPv4 address, as text."""
        return str(IPv4Address(self.take(4)))

    def ip6(self) -> str:
        """An IPv6 address, as text."""
        return str(IPv6Address(self.take(16)))
