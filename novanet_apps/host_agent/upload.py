"""Hands a capture's file over to the controller (``novanet_apps.captures`` says how)."""

from __future__ import annotations

import os
from typing import Any

import eventlet
import msgspec
from eventlet.green import socket, ssl

SOCKET = "run/captures.sock"
"""Where a controller listens below its state_dir unless it is told otherwise."""
CHUNK = 1 << 16
PATIENCE = 30.0
"""Seconds that the controller may take for the next piece."""


class UploadError(Exception):
    """It could not be handed over; the text says why. ``final``: nor will it be."""

    def __init__(self, text: str, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


def upload(remote: str, tls: tuple[str, str, str] | None, capture_id: str, descriptor: int, size: int) -> None:
    """Send the first ``size`` bytes of an open file. ``remote`` is ``unix:PATH``, ``tcp:IP:PORT`` or ``ssl:IP:PORT``.

    ``tls`` names PEM files: certificate, private key, authorities. Raises UploadError.
    """
    try:
        connection = _connect(remote, tls)
        try:
            connection.settimeout(PATIENCE)
            connection.sendall(msgspec.json.encode({"capture": capture_id, "bytes": size}) + b"\n")
            _answered(connection, "go")
            at = 0
            while at < size:
                data = os.pread(descriptor, min(CHUNK, size - at), at)
                if not data:
                    raise UploadError("the file is shorter than it was", final=True)
                connection.sendall(data)
                at += len(data)
            _answered(connection, "saved")
        finally:
            connection.close()
    except (OSError, eventlet.Timeout) as problem:
        raise UploadError(f"{remote}: {problem}") from None


def _answered(connection: Any, wanted: str) -> None:
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(4096)
        if not part:
            raise UploadError("the controller has closed the connection")
        line += part
    answer = msgspec.json.decode(line, type=dict[str, str])
    if wanted not in answer:
        raise UploadError(answer.get("refused", "the controller's answer is not known"), final="refused" in answer)


def _connect(remote: str, tls: tuple[str, str, str] | None) -> Any:
    kind, _, where = remote.partition(":")
    if kind == "unix":
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(PATIENCE)
        connection.connect(where)
        return connection
    host, _, port = where.rpartition(":")
    if kind not in ("tcp", "ssl") or not port.isdecimal():
        raise UploadError(f"agent_captures: {remote!r} is not unix:PATH, tcp:IP:PORT or ssl:IP:PORT")
    connection = socket.create_connection((host.strip("[]"), int(port)), PATIENCE)
    if kind == "tcp":
        return connection
    if tls is None:
        raise UploadError("agent_captures: ssl needs tls_certificate, tls_private_key and tls_ca")
    certificate, private_key, ca = tls
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # OVS certificates name no hosts; the CA is NovaNet's own
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(ca)
    context.load_cert_chain(certificate, private_key)
    return context.wrap_socket(connection)
