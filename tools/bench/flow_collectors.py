"""Collectors of flows, ours and the peers', each pinned to one processor with all its processes.

Ours is what production runs: a collector, which receives, decodes and adds up, and the recorder, which enriches and stores in chDB. nfdump's
``sfcapd`` and ``nfcapd`` decode and write files; pmacct's ``sfacctd`` and ``nfacctd`` add up by five-tuple in memory, set up as they do best:
large buffers between their processes, a table large enough.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from novanet_apps.telemetry.recorder.questions import Filter, Top
from tools.bench import debian, exports, nfdump
from tools.bench.exports import Load, Totals
from tools.bench.recorder import Recorder
from tools.lab.errors import LabError

PINNED = ("taskset", "-c", "0")
PORT = 19797
SETTLING = 30.0
"""Seconds that a collector has for what it has received."""
_TICK = os.sysconf("SC_CLK_TCK")


class Collector:
    """One that runs within ``with``. Raises LabError."""

    name: str
    """As results have it."""
    held = 0
    """Records that may still be on their way between its processes when it tells its totals."""

    def __init__(self, load: Load) -> None:
        self.load = load

    def __enter__(self) -> Collector:
        self.directory = Path(tempfile.mkdtemp(prefix="novanet-bench-"))
        try:
            self._start()
            _until(lambda: _drops() is not None, f"{self.name} listens")
            time.sleep(0.5)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def processes(self) -> dict[str, list[int]]:
        """Process ids by part."""
        raise NotImplementedError

    def totals(self) -> Totals:
        """What it has stored, once that does not change."""
        raise NotImplementedError

    def by_packets(self, packets: int, size: int) -> Totals:
        """Totals of one who does not count records, which all have as many packets."""
        each = self.load.of_each[0]
        return Totals(packets * each.records // each.packets, packets, size)

    def cpu(self) -> dict[str, float]:
        """Seconds of processor by part."""
        return {part: sum(map(_seconds, pids)) for part, pids in self.processes().items()}

    def drops(self) -> int:
        """Datagrams that the kernel had no room for."""
        return _drops() or 0

    def _start(self) -> None:
        raise NotImplementedError

    def _stop(self) -> None:
        raise NotImplementedError


def _run(command: list[str], directory: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(
            [*PINNED, *command], stdout=log, stderr=log, env={**os.environ, **(env or {})}, start_new_session=True
        )


def _end(process: subprocess.Popen[bytes] | None, how: signal.Signals = signal.SIGTERM) -> None:
    """It, and what it has started."""
    if process is None or process.poll() is not None:
        return
    family = _family(process.pid)
    process.send_signal(how)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in family[1:]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


class Ours(Collector):
    """The collector and the recorder."""

    name = "novanet"

    def _start(self) -> None:
        self._collector: subprocess.Popen[bytes] | None = None
        topology = {
            "kind": "topology", "full": True, "hypervisors": [["hv1", "hv1", ["127.0.0.1"]]],
            "endpoints": list(exports.endpoints(self.load)),
        }  # fmt: skip
        self._recorder = Recorder(topology, PINNED)
        self._recorder.__enter__()
        self._began = int(time.time())
        command = [sys.executable, "-m", "novanet_apps.telemetry.collector", "--listen", f"127.0.0.1:{PORT}"]
        self._collector = _run([*command, "--recorder", str(self._recorder.socket)], self.directory)

    def _stop(self) -> None:
        _end(self._collector)
        self._recorder.__exit__()

    def processes(self) -> dict[str, list[int]]:
        assert self._collector is not None
        return {"collector": [self._collector.pid], "recorder": [self._recorder.process.pid]}

    def totals(self) -> Totals:
        def told() -> Totals:
            within = Filter(start=self._began - 60, end=int(time.time()) + 60)
            rows = self._recorder.ask(Top(filter=within, by="exporter"))
            return self.by_packets(*(int(rows[0][name]) if rows else 0 for name in ("packets", "bytes")))

        return _steady(told)


class Nfdump(Collector):
    """``sfcapd`` or ``nfcapd``, files compressed with lz4."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.name = "sfcapd" if load.name == "sFlow" else "nfcapd"
        self._peer = nfdump.Nfdump(
            *(("nfdump-sflow", "usr/bin/sfcapd") if load.name == "sFlow" else ("nfdump", nfdump.PROGRAM))
        )

    def _start(self) -> None:
        self._files = self.directory / "files"
        self._files.mkdir()
        command = [self._peer.program(self.name), "-b", "127.0.0.1", "-p", str(PORT), "-w", str(self._files), "-y"]
        self._process = _run([*command, "-t", "86400", "-B", "4000000"], self.directory, self._peer.env)

    def _stop(self) -> None:
        _end(self._process)

    def processes(self) -> dict[str, list[int]]:
        return {"collector": _family(self._process.pid)}

    def totals(self) -> Totals:
        _steady(lambda: [_seconds(pid) for pid in self.processes()["collector"]])
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)
        files = [path for path in self._files.iterdir() if path.name.startswith("nfcapd.2")]
        found = [self._peer.summed(path) for path in files]
        return Totals(*(sum(column) for column in zip(Totals(0, 0, 0), *found, strict=True)))


class Pmacct(Collector):
    """``sfacctd`` or ``nfacctd`` with the memory plugin, which is handed whole buffers."""

    held = 700

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.name = "sfacctd" if load.name == "sFlow" else "nfacctd"
        self._root = debian.unpacked("pmacct", debian.needed("pmacct"), f"usr/sbin/{self.name}")
        self._env = debian.libraries(self._root)

    def _start(self) -> None:
        self._pipe = self.directory / "pipe"
        lines = [
            "daemonize: false", f"{self.name}_port: {PORT}", f"{self.name}_ip: 127.0.0.1", f"{self.name}_pipe_size: 4000000",
            f"{self.name}_renormalize: true", "plugins: memory[m]", "aggregate[m]: src_host,dst_host,src_port,dst_port,proto",
            f"imt_path[m]: {self._pipe}", "imt_buckets[m]: 32771", "imt_mem_pools_number[m]: 64", "imt_mem_pools_size[m]: 1048576",
            "plugin_buffer_size: 102400", "plugin_pipe_size: 102400000",
        ]  # fmt: skip
        (self.directory / "conf").write_text("\n".join([*lines, ""]))
        program = self._root / "usr/sbin" / self.name
        self._process = _run([str(program), "-f", str(self.directory / "conf")], self.directory, self._env)

    def _stop(self) -> None:
        _end(self._process, signal.SIGINT)

    def processes(self) -> dict[str, list[int]]:
        return {"collector": _family(self._process.pid)}

    def totals(self) -> Totals:
        return _steady(self._told)

    def _told(self) -> Totals:
        command = [str(self._root / "usr/bin/pmacct"), "-s", "-p", str(self._pipe), "-O", "csv"]
        text = subprocess.run(command, env={**os.environ, **self._env}, capture_output=True, text=True).stdout
        rows = [row for row in csv.DictReader(io.StringIO(text)) if row.get("PACKETS", "").isdigit()]
        return self.by_packets(*(sum(int(row[name]) for row in rows) for name in ("PACKETS", "BYTES")))


# --- processes ---------------------------------------------------------------------------------------------------


def _until(condition: Any, what: str) -> None:
    end = time.monotonic() + SETTLING
    while not condition():
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {SETTLING:g} s")
        time.sleep(0.05)


def _steady(told: Any) -> Any:
    """What is told, once it has been the same for four seconds."""
    end, last, since = time.monotonic() + SETTLING, told(), time.monotonic()
    while time.monotonic() < min(end, since + 4.2):
        time.sleep(0.4)
        now = told()
        if now != last:
            last, since = now, time.monotonic()
    return last


def _family(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def _seconds(pid: int) -> float:
    """Of processor, that a process has taken, with those of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICK


def _drops() -> int | None:
    """Datagrams that the socket of ``PORT`` had no room for; None while there is none."""
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    found = [int(line.split()[-1]) for line in lines if re.match(rf"\s*\d+: \w+:{PORT:04X} ", line)]
    return sum(found) if found else None
