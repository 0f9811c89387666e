"""JSON-RPC 1.0 over Unix sockets, as spoken by ovsdb-server (RFC 7047) and by every OVS daemon's control socket.

A process for every ``ovs-appctl`` or ``ovs-vsctl`` would make a lab of many hypervisors and ports slow.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from tools.lab.errors import LabError


def call(path: Path | str, method: str, params: list[Any], timeout: float = 60.0) -> Any:
    """Connect, call one method, and return its result.

    Raises LabError when nobody listens, on a timeout, and with the server's words when the call fails.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps({"method": method, "params": params, "id": 0}).encode())
            answer = _receive(connection)
        except OSError as error:
            raise LabError(f"{method} at {path}: {error}") from error
    if answer.get("error") is not None:
        raise LabError(f"{method} at {path} failed: {_text(answer['error'])}")
    return answer["result"]


def listens(path: Path | str) -> bool:
    """Whether a connection is accepted there; a socket exists a moment before its server listens."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True


def _receive(connection: socket.socket) -> dict[str, Any]:
    """The answer to request 0; the server's own requests (echo) are passed over."""
    decoder, buffer, received = json.JSONDecoder(), "", b""
    while True:
        data = connection.recv(1 << 20)
        if not data:
            raise ConnectionError("closed without an answer")
        received += data
        if data.rstrip()[-1:] not in b"}":
            continue
        buffer = received.decode(errors="replace")
        while buffer:
            try:
                message, length = decoder.raw_decode(buffer)
            except ValueError:
                break
            if message.get("id") == 0 and "method" not in message:
                return dict(message)
            buffer = buffer[length:].lstrip()
            received = buffer.encode()


def _text(error: Any) -> str:
    return error.strip() if isinstance(error, str) else json.dumps(error)
