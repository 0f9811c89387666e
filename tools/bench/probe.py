"""Says when the first packet got through: an ICMP echo every few milliseconds until one is answered.

    python probe.py send DESTINATION INTERVAL TIMEOUT
    python probe.py receive SOURCE TIMEOUT

run inside VMs' namespaces. Each prints ``ready`` once it is at work; then, the one the time of the first reply, the other that of the
first request that arrived, on the machine's monotonic clock, which all processes share; or ``none`` when none came in time.
It stands alone, without NovaNet's imports, so that it starts quickly.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time

ECHO_REQUEST, ECHO_REPLY = 8, 0
SO_TIMESTAMPNS = 35
"""Linux, socket(7); Python has no name for it."""
PAYLOAD = b"novanet port_up probe...."[:24]


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(identifier: int, number: int) -> bytes:
    """An ICMP echo request (RFC 792)."""
    body = struct.pack("!HH", identifier, number & 0xFFFF) + PAYLOAD
    return struct.pack("!BBH", ECHO_REQUEST, 0, checksum(struct.pack("!BBH", ECHO_REQUEST, 0, 0) + body)) + body


def icmp_of(packet: bytes) -> tuple[int, int]:
    """ICMP type and identifier of an IPv4 packet; (-1, 0) when it is cut short."""
    icmp = packet[(packet[0] & 0xF) * 4 :]
    return (icmp[0], struct.unpack_from("!H", icmp, 4)[0]) if len(icmp) >= 8 else (-1, 0)


def open_icmp() -> socket.socket:
    """A raw ICMP socket on which the kernel writes down when a packet arrived: this process may be woken late."""
    icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    icmp.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    return icmp


def receive(icmp: socket.socket) -> tuple[bytes, str, float]:
    """A packet, its sender, and when it arrived: seconds of the monotonic clock."""
    packet, ancillary, _, (sender, _) = icmp.recvmsg(2048, 64)
    now, real = time.monotonic(), time.time()
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("@ll", data[: struct.calcsize("@ll")])
            return packet, sender, now - (real - seconds - nanoseconds / 1e9)
    return packet, sender, now


def first_request(source: str, timeout: float) -> float | None:
    """Monotonic time in seconds at which the first echo request of ``source`` arrived; None within ``timeout``."""
    with open_icmp() as icmp:
        print("ready", flush=True)
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            icmp.settimeout(left)
            try:
                packet, sender, at = receive(icmp)
            except TimeoutError:
                return None
            if sender == source and icmp_of(packet)[0] == ECHO_REQUEST:
                return at
    return None


def first_reply(destination: str, interval: float, timeout: float) -> float | None:
    """Monotonic time in seconds of the first reply to a request every ``interval`` seconds; None within ``timeout``."""
    identifier = os.getpid() & 0xFFFF
    with open_icmp() as icmp:
        icmp.setblocking(False)
        print("ready", flush=True)
        start = due = time.monotonic()
        sent = 0
        while due < start + timeout:
            try:
                icmp.sendto(echo_request(identifier, sent), (destination, 0))
            except OSError:
                pass  # the interface is not up yet: that is what is being waited for
            sent += 1
            due += interval
            while (left := due - time.monotonic()) > 0:
                if not select.select([icmp], [], [], left)[0]:
                    break
                packet, _, at = receive(icmp)
                if icmp_of(packet) == (ECHO_REPLY, identifier):
                    return at
    return None


def main() -> None:
    """The command."""
    match sys.argv[1:]:
        case ["send", destination, interval, timeout]:
            at = first_reply(destination, float(interval), float(timeout))
        case ["receive", source, timeout]:
            at = first_request(source, float(timeout))
        case _:
            sys.exit(__doc__)
    print("none" if at is None else f"{at:.6f}", flush=True)


if __name__ == "__main__":
    main()
