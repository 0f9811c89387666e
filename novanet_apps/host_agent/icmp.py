"""ICMP and ICMPv6 of the agent's namespace: pings, what answers them, and who says that a UDP port has nobody.

One raw socket a version. What is sent carries in its payload who asks, so answers need no addresses to be told apart. An error
comes from the address that stands for a VM's port; whose check it is about stands in the packet that it returns, by ports.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct

from novanet_apps.host_agent.targets import Target, address
from topology.health import CANARY, SOURCE6, SOURCES4, endpoints, number

ECHO = {4: (8, 0), 6: (128, 129)}
"""Request and reply."""
UNREACHABLE = {4: 3, 6: 1}
UDP = 17
IPV6_HEADER = 40
_RCVBUF = 1 << 20
_ICMP6_FILTER = 1
"""ICMPV6_FILTER of linux/icmpv6.h."""
_IP_PKTINFO = 8
"""Of linux/in.h: with which address a packet is sent."""
_ENDS = struct.Struct("!HH")

Asked = tuple[int, int, int]
"""(IP version, key of the VM's port, source port): which UDP check an error is about."""


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Icmp:
    """To be made in the namespace. ``answers`` are awaited by token, ``errors`` by what they are about."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._echoes: dict[bytes, asyncio.Future[None]] = {}
        self._udp: dict[Asked, asyncio.Future[None]] = {}
        self._sockets: dict[int, socket.socket] = {}
        for version, family, protocol in (
            (4, socket.AF_INET, socket.IPPROTO_ICMP),
            (6, socket.AF_INET6, socket.IPPROTO_ICMPV6),
        ):
            sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RCVBUF)
            self._sockets[version] = sock
        six = self._sockets[6]
        six.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _blocking_all_but(ECHO[6][1], UNREACHABLE[6]))
        for version, sock in self._sockets.items():
            loop.add_reader(sock.fileno(), self._receive, version, sock)

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets.values():
            self._loop.remove_reader(sock.fileno())
            sock.close()

    async def ping(self, target: Target) -> None:
        """Wait until the member has answered an echo request; the caller cancels who waits for too long."""
        ends = endpoints(target.version, target.key)
        await self._ping(target.version, ends.source, ends.target)

    async def ping_switch(self) -> None:
        """The same of the switch itself."""
        await self._ping(4, SOURCES4, CANARY)

    async def _ping(self, version: int, own: int, other: int) -> None:
        token = secrets.token_bytes(16)
        answer = self._echoes[token] = self._loop.create_future()
        try:
            self._send(version, own, other, token)
            await answer
        finally:
            del self._echoes[token]

    def expect(self, target: Target) -> asyncio.Future[None]:
        """A future that fails when a message says that the port of a UDP check is unreachable; ``forget`` it in the end."""
        future = self._udp[_about(target)] = self._loop.create_future()
        return future

    def forget(self, target: Target) -> None:
        """Nobody waits for what is said of a check any more."""
        self._udp.pop(_about(target)).cancel()

    def _send(self, version: int, own: int, other: int, token: bytes) -> None:
        kind = ECHO[version][0]
        message = struct.pack("!BBHHH", kind, 0, 0, 0, 0) + token
        to = (address(version, other), 0)
        if version == 6:  # the kernel adds the checksum
            self._sockets[6].sendto(message, to)
            return
        message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
        source = struct.pack("=I4s4s", 0, own.to_bytes(4, "big"), bytes(4))
        self._sockets[4].sendmsg([message], [(socket.IPPROTO_IP, _IP_PKTINFO, source)], 0, to)

    def _receive(self, version: int, sock: socket.socket) -> None:
        for _ in range(64):
            try:
                data, _, _, sender = sock.recvmsg(2048)
            except BlockingIOError:
                return
            except OSError:
                continue
            if version == 4:
                self._take(4, data[(data[0] & 15) * 4 :], int.from_bytes(data[16:20], "big"), _number(sender[0]))
            else:
                self._take(6, data, SOURCE6, _number(sender[0]))

    def _take(self, version: int, message: bytes, own: int, other: int) -> None:
        if len(message) < 8:
            return
        if message[0] == ECHO[version][1]:
            answer = self._echoes.get(message[8:24])
            if answer is not None and not answer.done():
                answer.set_result(None)
        elif message[0] == UNREACHABLE[version]:
            self._take_error(version, message[8:], number(version, own, other))

    def _take_error(self, version: int, returned: bytes, port_key: int) -> None:
        if version == 4:
            protocol, head = returned[9:10], (returned[0] & 15) * 4 if returned else 0
        else:
            protocol, head = returned[6:7], IPV6_HEADER
        if protocol != bytes([UDP]) or len(returned) < head + 4:
            return
        source, _ = _ENDS.unpack_from(returned, head)
        refused = self._udp.get((version, port_key, source))
        if refused is not None and not refused.done():
            refused.set_exception(ConnectionRefusedError())


def _about(target: Target) -> Asked:
    return target.version, target.port_key, target.source_port or 0


def _number(text: str) -> int:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return int.from_bytes(socket.inet_pton(family, text.partition("%")[0]), "big")


def _blocking_all_but(*kinds: int) -> bytes:
    """struct icmp6_filter of linux/icmpv6.h: a set bit blocks a type."""
    words = [0xFFFFFFFF] * 8
    for kind in kinds:
        words[kind >> 5] &= ~(1 << (kind & 31)) & 0xFFFFFFFF
    return struct.pack("=8I", *words)
