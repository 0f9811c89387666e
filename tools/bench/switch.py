"""A switch and a controller process for benchmarks of the flow engine: no namespaces, no ports, just flows."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tools.lab import processes
from tools.lab.programs import Programs

ROOT = Path(__file__).resolve().parents[2]
BRIDGE, DPID = "br0", 0x4E4E000000000001
RYU_MANAGER = "import sys; from novanet_apps.compat import ryu_manager; sys.exit(ryu_manager())"
APP = "tools.bench.engine_app"


class Bench:
    """A private ovs-vswitchd with one bridge, and ``ryu-manager`` with ``engine_app`` that it is connected to."""

    def __init__(self, protocols: str = "OpenFlow13,OpenFlow14,OpenFlow15") -> None:
        self._protocols = protocols
        self._programs = Programs()
        self._name = f"bench{os.getpid()}"
        self._processes: list[subprocess.Popen[Any]] = []
        self.directory = Path()

    def __enter__(self) -> Bench:
        self.directory = Path(tempfile.mkdtemp(prefix="novanet-bench-"))
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for process in reversed(self._processes):
            processes.end(process)
        shutil.rmtree(self.directory, ignore_errors=True)

    def ovs(self, name: str, *arguments: str, timeout: float = 600.0) -> str:
        """Run an OVS program against the private switch."""
        command = [self._programs.path(name), *arguments]
        return processes.run(command, lab=self._name, env=self._env, timeout=timeout).stdout

    def tell(self, **command: Any) -> dict[str, Any]:
        """Have the controller do something (see ``engine_app``) and return what it says."""
        self._stream.write(json.dumps(command).encode() + b"\n")
        self._stream.flush()
        answer: dict[str, Any] = json.loads(self._stream.readline())
        return answer

    def quiet(self) -> None:
        """Wait until vswitchd has nothing left to clean up."""
        before = self._cpu()
        while True:
            time.sleep(0.3)
            now = self._cpu()
            if now - before < 0.02:
                return
            before = now

    def memory(self) -> dict[str, float]:
        """Resident memory in MiB of the switch and of the controller."""
        return {"switch": _rss(self._vswitchd.pid), "controller": _rss(self._controller.pid)}

    def flows(self) -> int:
        """How many flows the bridge has."""
        said = self.ovs("ovs-ofctl", "-O", "OpenFlow14", "dump-aggregate", BRIDGE)
        return int(said.rpartition("flow_count=")[2].split()[0])

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._vswitchd.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _start(self) -> None:
        d = self.directory
        self._env = {name: str(d) for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")}
        self.ovs("ovsdb-tool", "create", f"{d}/conf.db", str(self._programs.schema()))
        self._spawn("ovsdb-server", f"{d}/conf.db", f"--remote=punix:{d}/db.sock", f"--unixctl={d}/ovsdb.ctl")
        processes.until((d / "db.sock").exists, "ovsdb-server listens")
        vsctl = ("ovs-vsctl", "-t", "20", f"--db=unix:{d}/db.sock")
        self.ovs(*vsctl, "--no-wait", "init")
        self._vswitchd = self._spawn(
            "ovs-vswitchd", f"unix:{d}/db.sock", f"--unixctl={d}/vswitchd.ctl", "--disable-system"
        )
        command = [
            sys.executable,
            "-c",
            RYU_MANAGER,
            "--openflow-listen",
            f"punix:{d}/of",
            "--audit-interval",
            "0",
            APP,
        ]
        self._controller = self._launch(command, {"NOVANET_BENCH_CONTROL": f"{d}/control", "PYTHONPATH": str(ROOT)})
        self._stream = processes.until(self._connected, "the controller starts", timeout=60, interval=0.05)
        self.ovs(
            *vsctl, "add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=netdev", "fail_mode=secure",
            f"protocols={self._protocols}", f"other-config:datapath-id={DPID:016x}", "other-config:disable-in-band=true",
            "--", "set-controller", BRIDGE, f"unix:{d}/of",
        )  # fmt: skip
        processes.until(lambda: self.tell(do="state")["synced"], "the bridge is in sync with the engine", interval=0.1)

    def _connected(self) -> Any:
        """A stream to the controller, None while it does not listen."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(f"{self.directory}/control")
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            return connection.makefile("rwb")

    def _spawn(self, name: str, *arguments: str) -> subprocess.Popen[Any]:
        return self._launch([self._programs.path(name), *arguments, "-vsyslog:off", "-vconsole:warn"], self._env)

    def _launch(self, command: list[str], env: dict[str, str]) -> subprocess.Popen[Any]:
        with (self.directory / f"{Path(command[0]).name}.log").open("ab") as log:
            process = processes.spawn(command, lab=self._name, env=env, stdout=log, stderr=log)
        self._processes.append(process)
        return process


def _rss(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
