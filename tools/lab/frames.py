"""Raw Ethernet frames in and out of an interface of a namespace (packet(7))."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable

from tools.lab import namespaces
from tools.lab.errors import LabError

ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4
SOL_PACKET, PACKET_AUXDATA, TP_STATUS_VLAN_VALID = 263, 8, 1 << 4
_AUXDATA = struct.Struct("=IIIHHHH")
"""struct tpacket_auxdata of linux/if_packet.h; its last two members are a VLAN tag's TCI and TPID."""
Filter = Callable[[bytes], bool]


def open_socket(namespace: str, interface: str, protocol: int = ETH_P_ALL) -> socket.socket:
    """A packet socket bound to an interface; protocol 0 receives nothing, for sending only."""

    def opened() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            raw.bind((interface, protocol))
        except OSError as error:
            raw.close()
            raise LabError(f"interface {interface} in {namespace}: {error}") from error
        return raw

    return namespaces.inside(namespace, opened)


def send(namespace: str, interface: str, *frames: bytes) -> None:
    """Send frames, as they are, out of an interface."""
    with open_socket(namespace, interface, protocol=0) as raw:
        for frame in frames:
            raw.send(frame)


class Sniffer:
    """Collects the frames that an interface receives (and those that it sends, with ``outgoing``), until ``stop``.

    Frames that ``accept`` is false for are not kept. When the constructor returns, the socket is open: nothing that
    is sent later is missed.
    """

    def __init__(self, namespace: str, interface: str, accept: Filter | None = None, outgoing: bool = False) -> None:
        self._accept, self._outgoing = accept, outgoing
        self._frames: list[bytes] = []
        self._news = threading.Condition()
        self._stopping = False
        self._socket = open_socket(namespace, interface)
        self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self._socket.settimeout(0.05)
        self._thread = threading.Thread(target=self._collect, name=f"sniff-{namespace}", daemon=True)
        self._thread.start()

    @property
    def frames(self) -> list[bytes]:
        """What was collected so far, in order of arrival."""
        with self._news:
            return list(self._frames)

    def wait(self, accept: Filter | None = None, timeout: float = 5.0) -> bytes:
        """The first frame, already there or yet to come, that ``accept`` is true for (any when None).

        Raises LabError when none came within ``timeout`` seconds.
        """
        end, seen = time.monotonic() + timeout, 0
        with self._news:
            while True:
                for frame in self._frames[seen:]:
                    if accept is None or accept(frame):
                        return frame
                seen = len(self._frames)
                left = end - time.monotonic()
                if left <= 0 or not self._news.wait(left):
                    if len(self._frames) == seen:
                        raise LabError(f"no such frame within {timeout:g} s; {seen} others came")

    def stop(self) -> list[bytes]:
        """Collect no more; returns the frames in order of arrival."""
        self._stopping = True
        self._thread.join()
        self._socket.close()
        return self.frames

    def __enter__(self) -> Sniffer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _collect(self) -> None:
        while not self._stopping:
            try:
                received, ancillary, _, (_, _, kind, *_) = self._socket.recvmsg(
                    1 << 16, socket.CMSG_SPACE(_AUXDATA.size)
                )
            except TimeoutError:
                continue
            except OSError:
                return
            if kind == PACKET_OUTGOING and not self._outgoing:
                continue
            frame = _tagged(received, ancillary)
            if self._accept is None or self._accept(frame):
                with self._news:
                    self._frames.append(frame)
                    self._news.notify_all()


def _tagged(frame: bytes, ancillary: list[tuple[int, int, bytes]]) -> bytes:
    """The frame with the VLAN tag that the kernel took off before the socket got it."""
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, *_, tci, tpid = _AUXDATA.unpack_from(data)
            if status & TP_STATUS_VLAN_VALID:
                return frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]
    return frame
