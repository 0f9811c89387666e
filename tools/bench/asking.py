"""Asks a question again and again and times the answers, or floods; run inside VMs' namespaces.

    python asking.py ask COUNT INTERVAL QUESTION SIGNS
    python asking.py flood SECONDS FILE

QUESTION is an Ethernet frame in hexadecimal; SIGNS tell its answer: ``offset=hex,…``. ``ask`` prints the seconds until
each answer, or null where none came within a second, as a JSON list. ``flood`` sends the frames in FILE (each behind its
length in two bytes), over and over and as fast as it goes; it prints ``ready``, and at the end how many it sent.
It stands alone, without NovaNet's imports, so that it starts quickly.
"""

from __future__ import annotations

import json
import socket
import sys
import time

INTERFACE = "eth0"
ALL_PROTOCOLS = 3
PATIENCE = 1.0


def ask(count: int, interval: float, question: bytes, signs: list[tuple[int, bytes]]) -> list[float | None]:
    """Seconds until each answer; the next question follows ``interval`` seconds after the last answer."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS)) as raw:
        raw.bind((INTERFACE, ALL_PROTOCOLS))
        found = []
        for _ in range(count):
            found.append(_ask(raw, question, signs))
            time.sleep(interval)
    return found


def _ask(raw: socket.socket, question: bytes, signs: list[tuple[int, bytes]]) -> float | None:
    began = time.perf_counter()
    raw.send(question)
    while (left := began + PATIENCE - time.perf_counter()) > 0:
        raw.settimeout(left)
        try:
            frame = raw.recv(2048)
        except TimeoutError:
            break
        if all(frame[at : at + len(sign)] == sign for at, sign in signs):
            return time.perf_counter() - began
    return None


def flood(seconds: float, frames: list[bytes]) -> int:
    """How many frames were sent."""
    sent, end = 0, time.monotonic() + seconds
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((INTERFACE, 0))
        print("ready", flush=True)
        while time.monotonic() < end:
            for frame in frames:
                try:
                    raw.send(frame)
                    sent += 1
                except OSError:
                    pass  # the queue is full: that is as fast as it goes
    return sent


def read_frames(path: str) -> list[bytes]:
    """The frames of a file."""
    with open(path, "rb") as file:
        data = file.read()
    found, at = [], 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        found.append(data[at + 2 : end])
        at = end
    return found


def main() -> None:
    """The command."""
    match sys.argv[1:]:
        case ["ask", count, interval, question, signs]:
            pairs = (sign.split("=") for sign in signs.split(","))
            wanted = [(int(at), bytes.fromhex(text)) for at, text in pairs]
            print(json.dumps(ask(int(count), float(interval), bytes.fromhex(question), wanted)))
        case ["flood", seconds, path]:
            print(flood(float(seconds), read_frames(path)), flush=True)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
