"""One connection to vswitchd's control socket (ovs-appctl(8)), for thousands of questions."""

from __future__ import annotations

import json
import socket
from itertools import count
from pathlib import Path


class Unixctl:
    """Asks over JSON-RPC, one question at a time."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._decoder, self._text, self._ids = json.JSONDecoder(), "", count()

    def close(self) -> None:
        self._socket.close()

    def ask(self, method: str, *params: str) -> str:
        """What the command prints. Fails the test when it is refused."""
        request = {"id": next(self._ids), "method": method, "params": params}
        self._socket.sendall(json.dumps(request).encode())
        while True:
            try:
                answer, end = self._decoder.raw_decode(self._text)
                break
            except ValueError:
                data = self._socket.recv(1 << 16)
                assert data, "vswitchd closed the connection"
                self._text += data.decode()
        self._text = self._text[end:].lstrip()
        assert answer["error"] is None, f"{method} {params}: {answer['error']}"
        return str(answer["result"])
