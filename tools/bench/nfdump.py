"""nfdump, the peer of flow storage: nfcapd takes NetFlow v5 over UDP on loopback and writes its files."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

from tools.bench import debian
from tools.bench.exports import Totals
from tools.lab.errors import LabError

PROGRAM = "usr/bin/nfcapd"
RECORDS = 30
PACE = 0.0008
"""Seconds between two datagrams, so that none is lost."""
_HEADER, _RECORD = struct.Struct("!HHIIIIBBH"), struct.Struct("!4s4s4sHHIIIIHHBBBBHHBBH")
_COMPRESSION = {"lz4": "-y", "bz2": "-j"}


class Nfdump:
    """The programs, unpacked."""

    def __init__(self, package: str = "nfdump", program: str = PROGRAM) -> None:
        """``package``: nfdump, or what has further programs of it. Raises LabError when they cannot be had."""
        self._root = debian.unpacked(package, tuple(dict.fromkeys([package, *debian.needed("nfdump")])), program)
        self.env = {**os.environ, **debian.libraries(self._root)}

    def program(self, name: str) -> str:
        """Path of a program."""
        return str(self._root / "usr/bin" / name)

    def capture(self, rows: Any, directory: Path) -> Path:
        """A file, compressed with lz4, of rows that must be IPv4. Raises LabError when flows were lost."""
        port = _free_port()
        daemon = subprocess.Popen(
            [self.program("nfcapd"), "-p", str(port), "-b", "127.0.0.1", "-w", str(directory), "-y", "-B", "4000000", "-t", "86400"],
            env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            time.sleep(1)
            _send(rows, port)
            time.sleep(1)
        finally:
            daemon.send_signal(signal.SIGTERM)
            _, said = daemon.communicate(timeout=20)
        files = [path for path in directory.iterdir() if path.name.startswith("nfcapd.2")]
        if len(files) != 1:
            raise LabError(f"nfcapd wrote {len(files)} files: {said[-300:]}")
        if (found := self.flows(files[0])) != len(rows):
            raise LabError(f"nfcapd has {found} of {len(rows)} flows")
        return files[0]

    def flows(self, path: Path) -> int:
        """How many flows a file has."""
        return self.summed(path).records

    def summed(self, path: Path) -> Totals:
        """What a file says of itself."""
        text = self._nfdump("-r", str(path), "-I")
        found = dict(re.findall(r"^(Flows|Packets|Bytes): (\d+)$", text, re.MULTILINE))
        return Totals(*(int(found.get(name, 0)) for name in ("Flows", "Packets", "Bytes")))

    def compressed(self, path: Path, how: str) -> Path:
        """The file compressed with ``lz4`` or ``bz2``."""
        fresh = path.with_name(f"flows.{how}")
        self._nfdump("-r", str(path), _COMPRESSION[how], "-w", str(fresh))
        return fresh

    def _nfdump(self, *arguments: str) -> str:
        done = subprocess.run([self.program("nfdump"), *arguments], env=self.env, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"nfdump {' '.join(arguments)}: {done.stderr.strip()[-300:]}")
        return done.stdout


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _send(rows: Any, port: int) -> None:
    """As NetFlow v5 (Cisco: NetFlow Export Datagram Format), 30 records a datagram."""
    boot = int(rows["first_ms"].min()) - 1000
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port))
        for at in range(0, len(rows), RECORDS):
            chunk = rows[at : at + RECORDS]
            now = int(chunk["last_ms"].max())
            head = _HEADER.pack(5, len(chunk), now - boot, now // 1000, now % 1000 * 1_000_000, at, 0, 0, 0)
            sender.send(head + b"".join(_record(row, boot) for row in chunk))
            time.sleep(PACE)


def _record(row: Any, boot: int) -> bytes:
    src, dst = bytes(row["src"])[12:], bytes(row["dst"])[12:]
    packets, size = min(int(row["packets"]), 2**32 - 1), min(int(row["bytes"]), 2**32 - 1)
    return _RECORD.pack(
        src, dst, bytes(4), int(row["in_if"]), int(row["out_if"]), packets, size, int(row["first_ms"]) - boot,
        int(row["last_ms"]) - boot, int(row["sport"]), int(row["dport"]), 0, int(row["tcp_flags"]), int(row["protocol"]),
        int(row["tos"]), 0, 0, 0, 0, 0,
    )  # fmt: skip
