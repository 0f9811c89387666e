"""Room in the socket by which vswitchd sends, so that a full queue of one class does not keep packets of others from theirs.

On its own datapath Open vSwitch sends everything by one packet socket (packet(7)), and does not wait: what waits in any queue of any
uplink counts in the socket's send buffer, and when that is full every packet is lost, whatever its class. Linux's usual
212,992 bytes are 92 full frames. So it is made as large as all queues together, from outside (pidfd_getfd(2), Linux 5.6).
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from pathlib import Path

SO_SNDBUFFORCE = 32
PIDFD_GETFD = 438
"""Number of the system call, on every architecture but Alpha."""
CONTROL_TIMEOUT = 2.0
OVERHEAD = 8
"""Bytes that Linux counts for a byte of the smallest frames."""
LARGEST = 1 << 30
_LIBC = ctypes.CDLL(None, use_errno=True)


class SendBufferError(Exception):
    """The socket could not be changed; the text says why, and what to do."""


def process(control: str) -> int:
    """Id of the process that listens on a control socket. Raises SendBufferError."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(CONTROL_TIMEOUT)
            sock.connect(control)
            pid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    except OSError as error:
        raise SendBufferError(f"vswitchd's control socket {control}: {error.strerror or error}") from None
    if not pid:
        raise SendBufferError("vswitchd runs in another PID namespace: let the agent share it")
    return int(pid)


def widen(pid: int, queues: int) -> int:
    """Let the packet sockets of a process hold queues of so many bytes; those that are large enough stay.

    Returns how many were changed. Raises SendBufferError.
    """
    wanted = min(queues * OVERHEAD, LARGEST)
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        raise SendBufferError(f"vswitchd, process {pid}: {error.strerror}") from None
    try:
        return sum(_widen(handle, fd, wanted) for fd in _sockets(pid))
    finally:
        os.close(handle)


def _sockets(pid: int) -> list[int]:
    """The numbers of a process' packet sockets."""
    found = []
    try:
        _, *lines = Path(f"/proc/{pid}/net/packet").read_text().splitlines()
        packet = {f"socket:[{line.split()[-1]}]" for line in lines}
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(entry.path) in packet:
                    found.append(int(entry.name))
            except OSError:
                continue  # closed in between
    except OSError as error:
        raise SendBufferError(f"vswitchd, process {pid}: {error.strerror}") from None
    return found


def _widen(handle: int, number: int, wanted: int) -> bool:
    fd = _LIBC.syscall(PIDFD_GETFD, handle, number, 0)
    if fd < 0:
        code = ctypes.get_errno()
        if code == 9:  # closed in between
            return False
        raise SendBufferError(
            f"vswitchd's sockets cannot be reached: {os.strerror(code)}; the agent needs root (CAP_SYS_PTRACE) and Linux 5.6,"
            " or else have net.core.wmem_default hold all queues before vswitchd starts"
        )
    with socket.socket(fileno=fd) as sock:
        if sock.family != socket.AF_PACKET or sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= wanted:
            return False
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, wanted // 2)  # which Linux doubles
        return True
