"""The way to the recorder: batches wait for it, but nothing here does. What finds no room is lost, and counted."""

from __future__ import annotations

import socket
from collections import deque
from pathlib import Path

ROOM = 64 << 20
"""Bytes that may wait while the recorder is away or busy."""


class Outgoing:
    """A Unix stream socket that is connected again whenever it was lost; ``pump`` sends what it takes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._waiting: deque[memoryview] = deque()
        self._size = 0
        self._begun = False
        """Whether the first of those that wait has been sent in part."""

    @property
    def waiting(self) -> int:
        """Bytes."""
        return self._size

    def put(self, frame: bytes) -> bool:
        """Queue a frame; False where there is no room."""
        if self._size + len(frame) > ROOM:
            return False
        self._waiting.append(memoryview(frame))
        self._size += len(frame)
        return True

    def pump(self) -> None:
        """Send as much as the recorder takes now."""
        if self._socket is None and not self._connect():
            return
        while self._waiting and self._socket is not None:
            first = self._waiting[0]
            try:
                sent = self._socket.send(first)
            except BlockingIOError:
                return
            except OSError:
                self._lost()
                return
            self._size -= sent
            self._begun = sent < len(first)
            if self._begun:
                self._waiting[0] = first[sent:]
            else:
                self._waiting.popleft()

    def close(self) -> None:
        """No more is sent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> bool:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(str(self._path))
        except OSError:
            made.close()
            return False
        made.setblocking(False)
        self._socket = made
        return True

    def _lost(self) -> None:
        """A frame that was sent in part is gone: the recorder has the beginning, and throws it away."""
        self.close()
        if self._begun and self._waiting:
            self._size -= len(self._waiting.popleft())
        self._begun = False
