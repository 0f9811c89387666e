"""Files of captures as tshark reads them, and what the process that writes them does when there is no room."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from novanet_apps.host_agent import capture_process, pcapng
from novanet_apps.host_agent.packet_ring import Packet

START = 1_700_000_000_123_456_789


def tshark(path: Path, *fields: str) -> list[tuple[str, ...]]:
    """Fields of every packet. A file that is not as it should be makes tshark fail."""
    wanted = [word for name in fields for word in ("-e", name)]
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=;", "-E", "occurrence=f", *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [tuple(line.split(";")) for line in done.stdout.splitlines()]


def blocks(data: bytes) -> list[tuple[int, bytes]]:
    """Type and body of each block; both lengths agree, and all of them are of whole words."""
    found = []
    while data:
        kind, size = struct.unpack_from("=II", data)
        assert size % 4 == 0 and struct.unpack_from("=I", data, size - 4) == (size,)
        found.append((kind, data[8 : size - 4]))
        data = data[size:]
    return found


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    packets=st.lists(
        st.tuples(st.binary(min_size=14, max_size=90), st.integers(0, 2000), st.sampled_from([1, 2])), max_size=8
    ),
    comment=st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=20),
)
def test_what_is_written_is_read(tmp_path: Path, packets: list[tuple[bytes, int, int]], comment: str) -> None:
    path = tmp_path / "x.pcapng"
    written = [pcapng.section("tests", comment), pcapng.interface("vm1", 1000, "port 1", "protocol tcp")]
    for number, (data, more, flags) in enumerate(packets):
        written.append(pcapng.packet(data, len(data) + more, START + number * 10**9, flags))
    written.append(pcapng.statistics(START, START + 10**10, len(packets), 3))
    path.write_bytes(b"".join(written))
    names = ("frame.time_epoch", "frame.cap_len", "frame.len", "frame.packet_flags_direction", "frame.interface_name")
    assert tshark(path, *names) == [
        (f"{1_700_000_000 + number}.123456789", str(len(data)), str(len(data) + more), f"0x{flags:08x}", "vm1")
        for number, (data, more, flags) in enumerate(packets)
    ]
    assert [kind for kind, _ in blocks(path.read_bytes())] == [0x0A0D0D0A, 1, *(6 for _ in packets), 5]


def test_what_is_said_beside_packets(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    data = bytes(60)
    path.write_bytes(
        pcapng.section("NovaNet", "capture 7") + pcapng.interface("vm1", 96, "port 1", "protocol tcp")
        + pcapng.packet(data, 60, START, pcapng.INBOUND) + pcapng.statistics(START, START + 1, 1, 0)
    )  # fmt: skip
    told = subprocess.run(["capinfos", "-M", str(path)], capture_output=True, text=True, check=True).stdout
    for line in ("Capture application: NovaNet", "Capture comment:     capture 7", "Name = vm1", "Description = port 1",
                 "Capture length = 96", "Filter string = protocol tcp", "Number of stat entries = 1"):  # fmt: skip
        assert line in told


def orders(max_bytes: int, snaplen: int = 65535) -> Any:
    return {"name": "vm1", "description": "", "filter": "", "snaplen": snaplen, "max_bytes": max_bytes}


def test_a_file_is_never_larger_than_it_may_be(tmp_path: Path) -> None:
    for size in range(60, 64):
        with (tmp_path / "x").open("w+b") as raw:
            file = capture_process.File(raw.fileno(), orders(4096))
            while file.add(Packet(START, size, bytes(size), 1)):
                pass
            file.end(pcapng.statistics(START, START, file.packets, 0))
            raw.seek(0)
            data = raw.read()
        assert 4096 - 256 - 112 < len(data) == file.bytes <= 4096
        assert [kind for kind, _ in blocks(data)].count(6) == file.packets


def test_of_a_packet_no_more_is_kept_than_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("w+b") as raw:
        file = capture_process.File(raw.fileno(), orders(4096, snaplen=64))
        file.add(Packet(START, 1518, bytes(68), 2))  # a VLAN tag was put back
        file.flush()
    assert tshark(path, "frame.cap_len", "frame.len") == [("64", "1518")]


def test_a_disk_that_is_full_leaves_whole_blocks(tmp_path: Path) -> None:
    """As much is in the file as was there before."""
    import resource

    path = tmp_path / "x"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with path.open("w+b") as raw:
        file = capture_process.File(raw.fileno(), orders(1 << 20))
        file.add(Packet(START, 1000, bytes(1000), 1))
        file.flush()
        size = os.fstat(raw.fileno()).st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 500, before[1]))
        try:
            file.add(Packet(START, 1000, bytes(1000), 1))
            with pytest.raises(capture_process.Refused, match="disk: File too large"):
                file.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size == size == file.bytes
    assert len(tshark(path, "frame.len")) == 1
