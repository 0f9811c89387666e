"""Says when the first packet got through: an ICMP echo every few milliseconds until one is answered.

    python probe.py DESTINATION INTERVAL TIMEOUT

runs inside a VM's namespace. It prints ``ready`` once it sends, then the time of the first reply on the machine's
monotonic clock, which all processes share, and the number of requests sent; or ``none`` when none came in time.
It stands alone, without NovaNet's imports, so that thirty of them start quickly.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time

ECHO_REQUEST, ECHO_REPLY = 8, 0
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


def is_reply(packet: bytes, identifier: int) -> bool:
    """Whether an IPv4 packet is an answer to one of our requests."""
    icmp = packet[(packet[0] & 0xF) * 4 :]
    return len(icmp) >= 8 and icmp[0] == ECHO_REPLY and struct.unpack_from("!H", icmp, 4)[0] == identifier


def first_reply(destination: str, interval: float, timeout: float) -> tuple[float | None, int]:
    """Monotonic time in seconds of the first reply (None: none within ``timeout``), and the requests sent until then."""
    identifier = os.getpid() & 0xFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp:
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
                if is_reply(icmp.recv(2048), identifier):
                    return time.monotonic(), sent
    return None, sent


def main() -> None:
    """The command."""
    destination, interval, timeout = sys.argv[1:4]
    at, sent = first_reply(destination, float(interval), float(timeout))
    print("none" if at is None else f"{at:.6f}", sent, flush=True)


if __name__ == "__main__":
    main()
