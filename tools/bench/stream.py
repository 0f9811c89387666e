"""Small UDP packets as fast as the way between two hosts carries them without loss: ``receive`` in one, ``send`` in the other.

    python -IS stream.py receive PORT
    python -IS stream.py send ADDRESS PORT SECONDS

The sender keeps at most WINDOW packets under way; the receiver says how many it has got, in one packet for each batch. So
nothing overflows, and no processor time goes to packets that are dropped further on (RFC 2544, section 26.1, asks for the
rate without loss). Both hand BATCH packets to the kernel at once (sendmmsg(2), recvmmsg(2)): Python is not what takes time.
The sender prints packets received, packets lost and seconds, as JSON.
"""

import contextlib
import ctypes
import json
import socket
import struct
import sys
import time

SIZE = 18
"""Bytes of data in the smallest Ethernet frame: 64 - 14 (Ethernet) - 4 (its checksum) - 20 (IPv4) - 8 (UDP)."""
BATCH, WINDOW = 32, 128
PATIENCE = 0.1
"""Seconds without news after which all that is under way counts as lost."""
MSG_WAITFORONE = 0x10000
COUNT = struct.Struct("!Q")


class Vector(ctypes.Structure):
    """struct iovec"""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Header(ctypes.Structure):
    """struct msghdr"""

    _fields_ = (
        ("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32), ("vector", ctypes.POINTER(Vector)),
        ("vectors", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )  # fmt: skip


class Message(ctypes.Structure):
    """struct mmsghdr"""

    _fields_ = (("header", Header), ("length", ctypes.c_uint))


class Batch:
    """BATCH messages of SIZE bytes for a connected socket."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._buffer = ctypes.create_string_buffer(SIZE * BATCH)
        start = ctypes.addressof(self._buffer)
        self._vectors = (Vector * BATCH)(*(Vector(start + SIZE * n, SIZE) for n in range(BATCH)))
        self._messages = (Message * BATCH)()
        for message, vector in zip(self._messages, self._vectors, strict=True):
            message.header.vector, message.header.vectors = ctypes.pointer(vector), 1

    def send(self, sock: socket.socket) -> int:
        """How many were sent."""
        return self._done(self._libc.sendmmsg(sock.fileno(), self._messages, BATCH, 0))

    def receive(self, sock: socket.socket) -> int:
        """Wait for one at least; how many came."""
        return self._done(self._libc.recvmmsg(sock.fileno(), self._messages, BATCH, MSG_WAITFORONE, None))

    def _done(self, result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), "sendmmsg or recvmmsg")
        return result


def receive(port: int) -> None:
    """Count, and tell the sender after each BATCH, until the sender is gone."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", port))
    print("ready", flush=True)
    _, sender = sock.recvfrom(SIZE)
    sock.connect(sender)
    batch, total, told = Batch(), 0, 0
    sock.send(COUNT.pack(0))
    while True:
        total += batch.receive(sock)
        if total - told >= BATCH:
            sock.send(COUNT.pack(total))
            told = total


def send(address: str, port: int, seconds: float) -> dict[str, float]:
    """Send for so long; the first packet opens the way and does not count."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, port))
    # Not settimeout, which makes the socket non-blocking for the kernel, and so for sendmmsg.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, round(PATIENCE * 1e6)))
    sock.send(bytes(SIZE))
    sock.recv(COUNT.size)
    batch, sent, lost, received = Batch(), 0, 0, 0
    start = now = time.monotonic()
    while now - start < seconds:
        while sent - lost - received + BATCH <= WINDOW:
            sent += batch.send(sock)
        try:
            received = max(received, COUNT.unpack(sock.recv(COUNT.size))[0])
            lost = min(lost, sent - received)
        except BlockingIOError:
            lost = sent - received
        now = time.monotonic()
    return {"packets": received, "lost": lost, "seconds": now - start}


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        with contextlib.suppress(ConnectionRefusedError):
            receive(int(sys.argv[2]))
    else:
        print(json.dumps(send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
