"""Collectors as processes: what exporters send them, and what they hand on."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from novanet_apps.telemetry import frames
from novanet_apps.telemetry.collector import sums
from novanet_apps.telemetry.collector.allowed import Allowed
from novanet_apps.telemetry.collector.outgoing import ROOM, Outgoing
from novanet_apps.telemetry.collector.sums import Sums
from novanet_apps.telemetry.decode.datagrams import decode, domain_of
from novanet_apps.telemetry.decode.records import AGGREGATE, NO_VNI
from novanet_apps.telemetry.decode.state import State

from .flow_datagrams import datagrams

ROOT = Path(__file__).resolve().parents[2]


def summed(*messages: bytes, now: int = 5000) -> Any:
    state, found = State(), Sums()
    for message in messages:
        read = decode(message, "192.0.2.1", state)
        for record in read.flows:
            if "sampling_rate" in record:
                sums.sample(found, 3, record, now)
            else:
                sums.flow(found, 3, record, domain_of(message, "192.0.2.1", read, state), now)
    return found.drain()


def text(address: Any) -> str:
    return ".".join(map(str, address[12:].tolist()))


# --- rows --------------------------------------------------------------------------------------------------------


def test_rows_of_netflow() -> None:
    rows = summed(*datagrams("netflow_v5"))
    assert rows.dtype == AGGREGATE and len(rows) == 8 and set(rows["exporter"].tolist()) == {3}
    [row] = rows[(rows["bytes"] == 87477)]
    assert (text(row["src"]), text(row["dst"]), row["sport"], row["dport"]) == (
        "140.82.121.3",
        "192.168.119.100",
        443,
        55516,
    )
    assert (row["protocol"], row["version"], row["packets"], row["samples"], row["rate"]) == (6, 4, 78, 1, 1)
    assert (row["first_ms"], row["last_ms"]) == (1666350478660, 1666350481316) and row["vni"] == NO_VNI
    again = summed(*datagrams("netflow_v9"))
    names = ("src", "dst", "sport", "dport", "bytes", "packets", "first_ms", "last_ms", "tcp_flags")
    one, other = ([[np.array(row[name]).tolist() for name in names] for row in each] for each in (rows, again))
    assert sorted(one) == sorted(other), "the same flows in v9"


def test_both_directions_of_ipfix_are_rows() -> None:
    """YAF's records have both; 27 of 29 are such, and in some nothing came back."""
    rows = summed(*datagrams("ipfix"))
    assert rows["bytes"].sum() > 0 and len(rows) > 29
    forward = {(*map(bytes, (row["src"], row["dst"])), row["sport"], row["dport"]) for row in rows}
    assert all((dst, src, dport, sport) in forward for src, dst, sport, dport in list(forward) if sport == 443)


def sflow(rate: int, frame: bytes, length: int, *, source: int = 5, sequence: int = 1) -> bytes:
    header = struct.pack(">IIII", 1, length, 4, len(frame)) + frame + bytes(-len(frame) % 4)
    record = struct.pack(">II", 1, len(header)) + header
    body = struct.pack(">IIIIIIII", sequence, source, rate, rate, 0, 5, 9, 1) + record
    return (
        struct.pack(">II4sIIII", 5, 1, bytes([192, 0, 2, 1]), 0, sequence, 1000, 1)
        + struct.pack(">II", 1, len(body))
        + body
    )


def frame(protocol: int = 17) -> bytes:
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 1000, 0, 0, 64, protocol, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
    return b"\2\0\0\0\0\2" + b"\2\0\0\0\0\1" + b"\x08\0" + ip + struct.pack(">HHHH", 1234, 53, 0, 0)


def test_samples_stand_for_as_many_packets_as_the_rate_says() -> None:
    rows = summed(sflow(100, frame(), 1014), sflow(100, frame(), 514, sequence=2))
    assert len(rows) == 1
    [row] = rows
    assert (row["bytes"], row["packets"], row["samples"], row["rate"]) == (152_800, 200, 2, 100)
    assert (row["src_mac"], row["dst_mac"], row["in_if"], row["out_if"], row["direction"]) == (
        0x020000000001,
        0x020000000002,
        5,
        9,
        0,
    )
    assert summed(sflow(1, frame(), 60, source=9))["direction"].tolist() == [1]


def test_there_is_room_for_so_many_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "MOST", 2)
    found = Sums()
    for number in range(5):
        key = sums.Key(0, bytes(16), bytes(16), number, 0, 6, 4, 2, NO_VNI, 0, 0, 0, 0)
        found.add(key, 1, 1, 1, 0, 0, 1, 1)
    assert len(found) == 2 and found.refused == 3
    assert len(found.drain()) == 2 and len(found) == 0


# --- who may, and where it goes ------------------------------------------------------------------------------------


def test_only_who_is_named_may_export(tmp_path: Path) -> None:
    path = tmp_path / "exporters"
    allowed = Allowed(path)
    assert "127.0.0.1" in allowed and "::1" in allowed and "192.0.2.1" not in allowed
    path.write_text("192.0.2.0/24\n2001:db8::1\nnonsense\n")
    assert "192.0.2.1" not in allowed
    allowed.read()
    assert "192.0.2.1" in allowed and "2001:db8::1" in allowed and "192.0.3.1" not in allowed


def test_batches_wait_for_the_recorder_but_not_without_end(tmp_path: Path) -> None:
    out = Outgoing(tmp_path / "nobody")
    assert out.put(bytes(ROOM - 10)) and not out.put(bytes(11)) and out.put(bytes(10))
    out.pump()
    assert out.waiting == ROOM


# --- processes ---------------------------------------------------------------------------------------------------


class Collector:
    """A collector, and the recorder's end of its socket."""

    def __init__(self, directory: Path, family: int = socket.AF_INET) -> None:
        self.path, self.directory = directory / "recorder.sock", directory
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(2)
        self.host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((self.host, 0))
            self.port = probe.getsockname()[1]
        self._family = family
        self._process: Any = None

    def start(self) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "novanet_apps.telemetry.collector", "--listen", f"{host}:{self.port}", "--recorder",
                str(self.path), "--state", str(self.directory), "--interval", "0.2", "--parent", str(os.getpid()),
            ],
            cwd=ROOT,
        )  # fmt: skip
        self._listener.settimeout(20)
        connection, _ = self._listener.accept()
        connection.settimeout(20)
        self._stream = connection.makefile("rb")
        connection.close()

    def stop(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        return int(process.wait(20))

    def close(self) -> None:
        self.stop()
        self._listener.close()

    def send(self, *messages: bytes) -> None:
        with socket.socket(self._family, socket.SOCK_DGRAM) as client:
            for message in messages:
                client.sendto(message, (self.host, self.port))

    def next(self) -> tuple[dict[str, Any], bytes]:
        header, body = frames.lengths(self._stream.read(frames.LENGTHS.size))
        return frames.unpack(self._stream.read(header)), self._stream.read(body)

    def rows(self, count: int, seconds: float = 20.0) -> Any:
        """All rows until they count so many records, and the header of the last batch."""
        found, end, header = np.zeros(0, AGGREGATE), time.monotonic() + seconds, {}
        while found["samples"].sum() < count and time.monotonic() < end:
            header, body = self.next()
            if header["kind"] == "aggregates":
                found = np.concatenate((found, np.frombuffer(body, AGGREGATE)))
        return found, header


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def collector(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Collector]:
    found = Collector(tmp_path, request.param)
    try:
        found.start()
        yield found
    finally:
        found.close()


def test_a_collector_takes_all_formats_at_one_socket(collector: Collector) -> None:
    collector.send(
        *datagrams("netflow_v5"), *datagrams("netflow_v9"), sflow(10, frame(), 100), b"nonsense", *datagrams("sflow_v5")
    )
    rows, header = collector.rows(17)
    assert rows["samples"].sum() == 17 and 9 <= len(rows) <= 17, "v5 and v9 tell of the same flows"
    assert header["exporters"] == {0: [collector.host, 0]}
    assert header["lost"][0]["malformed"] == 1


def test_templates_outlive_a_collector(collector: Collector) -> None:
    there = datagrams("netflow_v9")
    collector.send(*there)
    assert len(collector.rows(8)[0]) == 8
    assert collector.stop() == 0
    collector.start()
    template = struct.unpack(">H", there[0][22:24])[0] if len(there) == 1 else 0
    assert template
    data = there[0]
    at = 20
    while at + 4 <= len(data):  # the sets without the templates
        id, size = struct.unpack(">HH", data[at : at + 4])
        if id > 255:
            break
        at += size
    collector.send(data[:20] + data[at:])
    assert len(collector.rows(8)[0]) == 8


def test_lost_datagrams_are_told(collector: Collector) -> None:
    collector.send(sflow(10, frame(), 100, sequence=1), sflow(10, frame(), 100, sequence=5))
    _, header = collector.rows(1)
    while header["lost"].get(0, {}).get("sequence") != 3:
        header, _ = collector.next()


def test_an_address_that_is_taken_is_an_error_that_says_so(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "novanet_apps.telemetry.collector", "--listen", f"127.0.0.1:{port}", "--recorder", "x"],
            cwd=ROOT, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    assert done.returncode == 1 and f"127.0.0.1:{port}" in done.stderr
