"""Pings whose losses are counted exactly."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from random import randrange

from tools.lab import namespaces
from tools.lab.errors import LabError

_REPLY = re.compile(r"icmp_seq=(\d+) .*?time=([\d.]+) ms")
_SUMMARY = re.compile(r"(\d+) packets transmitted, (\d+) received")
_IDENTIFIERS = count(randrange(1 << 16))
"""One for each ping of this process: to who translates addresses, the same one again would be the same connection."""
_ECHO = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}
"""ICMP types of echo request and reply: RFC 792, RFC 4443."""


@dataclass(frozen=True)
class PingResult:
    """``rtts`` are round trips in seconds, in order of arrival; ``lost_sequences`` count from 1."""

    sent: int
    received: int
    rtts: Sequence[float] = field(default=(), repr=False)
    lost_sequences: Sequence[int] = ()
    duplicates: int = 0

    @property
    def lost(self) -> int:
        """Requests that had no reply."""
        return self.sent - self.received


def parse(output: str) -> PingResult:
    """What ping(8) of iputils printed; raises LabError when that is no ping."""
    summary = _SUMMARY.search(output)
    if not summary:
        raise LabError(f"ping did not run: {output.strip()}")
    sent, received = int(summary[1]), int(summary[2])
    seen: set[int] = set()
    rtts, duplicates = [], 0
    for line in output.splitlines():
        if reply := _REPLY.search(line):
            if line.endswith("(DUP!)"):
                duplicates += 1
                continue
            seen.add(int(reply[1]))
            rtts.append(float(reply[2]) / 1000)
    lost = tuple(n for n in range(1, sent + 1) if n not in seen)
    return PingResult(sent, received, tuple(rtts), lost, duplicates)


class BackgroundPing:
    """Echo requests at a steady rate from a namespace, until ``stop``.

    ping(8) counts what is under way when it is stopped as lost; this one waits for it. Requests are sent on a fixed
    schedule: when this process gets no processor for a while, the late ones follow at once, and none is left out.
    """

    def __init__(self, namespace: str, destination: str, interval: float = 0.01, patience: float = 1.0) -> None:
        """Send every ``interval`` seconds, and wait for the last replies for ``patience`` seconds at most."""
        self.destination, self.interval, self.patience = destination, interval, patience
        self._family = socket.AF_INET6 if ":" in destination else socket.AF_INET
        self._socket = namespaces.inside(namespace, self._open)
        self._identifier = next(_IDENTIFIERS) & 0xFFFF
        self._sent_at: list[float] = []
        self._rtts: dict[int, float] = {}
        self._duplicates = 0
        self._failure: OSError | None = None
        self._stopping, self._done = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._receiver = threading.Thread(target=self._receive, daemon=True)
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._receiver.start()
        self._sender.start()

    def so_far(self) -> PingResult:
        """The count now; requests under way are among the lost."""
        with self._lock:
            rtts, sent, duplicates = dict(self._rtts), len(self._sent_at), self._duplicates
        lost = tuple(n for n in range(1, sent + 1) if n not in rtts)
        return PingResult(sent, len(rtts), tuple(rtts.values()), lost, duplicates)

    def stop(self) -> PingResult:
        """Send no more, wait for what is under way, and return the exact count.

        Raises LabError when nothing was received because nothing could be sent (no route, no interface).
        """
        self._stopping.set()
        self._sender.join()
        end = time.monotonic() + self.patience
        while self.so_far().lost and time.monotonic() < end:
            time.sleep(0.005)
        self._done.set()
        self._receiver.join()
        self._socket.close()
        result = self.so_far()
        if self._failure and not result.received:
            raise LabError(f"ping {self.destination}: {self._failure}")
        return result

    def __enter__(self) -> BackgroundPing:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._stopping.is_set():
            self.stop()

    def _open(self) -> socket.socket:
        protocol = socket.IPPROTO_ICMPV6 if self._family == socket.AF_INET6 else socket.IPPROTO_ICMP
        opened = socket.socket(self._family, socket.SOCK_RAW, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        opened.settimeout(0.05)
        return opened

    def _send(self) -> None:
        start = time.monotonic()
        while not self._stopping.wait(max(0.0, start + len(self._sent_at) * self.interval - time.monotonic())):
            number = len(self._sent_at) + 1
            packet = echo(_ECHO[self._family][0], self._identifier, number)
            with self._lock:
                self._sent_at.append(time.monotonic())
            try:
                self._socket.sendto(packet, (self.destination, 0))
            except OSError as error:
                self._failure = error

    def _receive(self) -> None:
        while not self._done.is_set():
            try:
                packet = self._socket.recv(2048)
            except TimeoutError:
                continue
            except OSError as error:
                self._failure = error
                continue
            self._received(packet, time.monotonic())

    def _received(self, packet: bytes, now: float) -> None:
        if self._family == socket.AF_INET:
            packet = packet[(packet[0] & 0xF) * 4 :]
        if len(packet) < 8:
            return
        kind, _, _, identifier, low = struct.unpack_from("!BBHHH", packet)
        if kind != _ECHO[self._family][1] or identifier != self._identifier:
            return
        with self._lock:
            sent = len(self._sent_at)
            number = sent - ((sent - low) & 0xFFFF)
            if number in self._rtts:
                self._duplicates += 1
            elif number > 0:
                self._rtts[number] = now - self._sent_at[number - 1]


def echo(kind: int, identifier: int, number: int, payload: bytes = b"novanet ping".ljust(56, b".")) -> bytes:
    """An ICMP echo message with its checksum (the kernel puts in that of ICMPv6 itself)."""
    body = struct.pack("!HH", identifier, number & 0xFFFF) + payload
    total = sum(struct.unpack(f"!{len(body) // 2}H", body)) + (kind << 8)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBH", kind, 0, ~total & 0xFFFF) + body
