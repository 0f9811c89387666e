"""What was captured: ``novanet capture run`` and ``download``."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import quote

from topology.model import Capture, Object

from . import fields
from .client import TIMEOUT, Client
from .errors import NOT_REALISED, OK, USAGE, CliError, code_for
from .tables import amount
from .verbs import Verb

LOOK = 0.5
"""Seconds between two looks at how far a capture is."""
_CHUNK = 1 << 16
_OPTIONS = (
    "hypervisor_id", "network_id", "direction", "ethertype", "protocol", "remote_ip_prefix", "transport_port", "snaplen",
    "max_bytes", "max_seconds",
)  # fmt: skip


def download(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet capture download NAME|ID -w FILE``."""
    _fetch(client, client.id_of(cls.KIND, cls.COLLECTION, arguments.object), arguments.write)
    return OK


def run(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet capture run PORT -w FILE``: begins, waits until it has ended, downloads, and deletes. Ctrl-C ends it before its time."""
    arguments.field_port_id = arguments.object
    body = fields.values(arguments, cls, client)
    path = f"/v1/{cls.COLLECTION}"
    id = client.call("POST", path, body)["id"]
    path += f"/{quote(id)}"
    try:
        found = _wait(client, path)
        if found["state"] == "DONE":
            _fetch(client, id, arguments.write)
        _say(f"{found['packets']} packets, {found['dropped_packets']} dropped: {found['state_detail']}", last=True)
        return OK if found["state"] == "DONE" else NOT_REALISED
    finally:
        client.close()  # an answer may not have been read
        client.call("DELETE", path)


def _wait(client: Client, path: str) -> dict[str, Any]:
    """The capture when it has ended."""
    while True:
        try:
            found: dict[str, Any] = client.call("GET", path)
            if found["state"] in ("DONE", "ERROR"):
                return found
            if found["state"] == "PENDING":
                _say("; ".join(found["status_reason"]))
            else:
                _say(f"{found['packets']} packets, {amount(found['file_bytes'])} bytes")
            time.sleep(LOOK)
        except KeyboardInterrupt:
            client.close()
            if client.call("GET", path)["state"] == "PENDING":
                raise
            client.call("PATCH", path, {"enabled": False})


def _say(text: str, last: bool = False) -> None:
    """How far it is; on standard error, in one line where that is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
    elif last:
        print(text, file=sys.stderr, flush=True)


def _fetch(client: Client, id: str, target: str) -> None:
    """Write a capture's file. Raises CliError."""
    response = client.open("GET", f"/v1/{Capture.COLLECTION}/{quote(id)}/file", timeout=TIMEOUT)
    if response.status >= 400:
        raise client.refused(response.status, response.read())
    missing = int(response.getheader("Content-Length") or 0)
    with _opened(target) as file:
        try:
            while data := response.read(_CHUNK):
                file.write(data)
                missing -= len(data)
        except http.client.HTTPException:
            pass  # then there is something missing
    if missing:
        raise CliError(code_for(503), f"the controller has broken off, and {target} is not whole: try again")


@contextlib.contextmanager
def _opened(target: str) -> Iterator[BinaryIO]:
    if target == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            yield file
    except OSError as problem:
        raise CliError(USAGE, f"cannot write {target}: {problem.strerror}") from None


def _target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-w", "--write", metavar="FILE", required=True, help="pcapng file; `-` is standard output")


def _download_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("object", metavar="NAME|ID")
    _target(parser)


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("object", metavar="PORT", nargs="?", help="name or id; or give --hypervisor")
    _target(parser)
    fields.add_options(parser, Capture, "create", _OPTIONS)


VERBS: dict[str, tuple[Verb, ...]] = {
    Capture.KIND: (
        Verb("download", download, "Write the file of a capture that is DONE.", _download_options, waits=False),
        Verb(
            "run", run, "Capture to a file of this machine, as tcpdump -w; Ctrl-C ends it.", _run_options, waits=False
        ),
    )
}
"""By kind."""
