"""A private Open vSwitch for tests: its own daemons, directory and dummy ports; nothing of the host's is touched.

NOVANET_OVS_BINDIR names the directory of the OVS programs to test against; the installed ones when it is unset.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BRIDGE = "br0"
PORTS = {f"p{n}": n for n in range(1, 5)}
TUNNEL, TUNNEL_PORT = "tun0", 100
DEADLINE = 20.0
"""Seconds that a daemon may take to start or stop."""


def program(name: str) -> str:
    """Path of an OVS program of the version under test."""
    directory = os.environ.get("NOVANET_OVS_BINDIR")
    found = (
        shutil.which(name, path=directory) if directory else shutil.which(name) or shutil.which(name, path="/usr/sbin")
    )
    if not found:
        raise FileNotFoundError(
            f"{name} is missing in {directory or 'PATH'}: install openvswitch-switch or set NOVANET_OVS_BINDIR"
        )
    return found


def schema() -> Path:
    """The vswitch.ovsschema that goes with the programs."""
    directory = os.environ.get("NOVANET_OVS_BINDIR")
    share = Path("usr/share/openvswitch/vswitch.ovsschema")
    near = (
        [parent / part / share for parent in Path(directory).parents[:2] for part in ("root", ".")] if directory else []
    )
    for path in (*near, Path("/") / share):
        if path.exists():
            return path
    raise FileNotFoundError(f"vswitch.ovsschema is missing near {directory or '/usr'}: install openvswitch-common")


class Switch:
    """ovsdb-server and ovs-vswitchd with one dummy bridge.

    ``bridge`` is its name, ``mgmt`` the path of the Unix socket on which it speaks OpenFlow 1.3 to 1.5.
    """

    dummies = "override"
    """Which kinds of ports take and send nothing by themselves (ovs-vswitchd's ``--enable-dummy``): tunnels are among them."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.bridge = directory, BRIDGE
        self.env = os.environ | {
            name: str(directory) for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
        }
        self._daemons: list[subprocess.Popen[bytes]] = []

    @property
    def mgmt(self) -> str:
        return str(self.directory / f"{self.bridge}.mgmt")

    def run(self, name: str, *arguments: str) -> str:
        """Run an OVS program; returns what it printed, raises AssertionError with its complaint when it fails."""
        done = subprocess.run([program(name), *arguments], capture_output=True, text=True, env=self.env, timeout=60)
        assert done.returncode == 0, f"{name} {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done.stdout

    def vsctl(self, *arguments: str) -> str:
        return self.run("ovs-vsctl", "-t", "20", f"--db=unix:{self.directory}/db.sock", *arguments)

    def ofctl(self, *arguments: str, version: str = "OpenFlow13,OpenFlow14,OpenFlow15") -> str:
        return self.run("ovs-ofctl", "-O", version, *arguments)

    def appctl(self, *arguments: str) -> str:
        return self.run("ovs-appctl", "-t", str(self.directory / "vswitchd.ctl"), *arguments)

    def connect(self) -> socket.socket:
        """A fresh OpenFlow connection; nothing has been sent on it."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        connection.connect(self.mgmt)
        return connection

    def start(self) -> None:
        d = self.directory
        self.run("ovsdb-tool", "create", f"{d}/conf.db", str(schema()))
        self._daemon("ovsdb-server", f"{d}/conf.db", f"--remote=punix:{d}/db.sock", f"--unixctl={d}/ovsdb.ctl")
        self._until((d / "db.sock").exists)
        self.vsctl("--no-wait", "init")
        self._daemon(
            "ovs-vswitchd", f"unix:{d}/db.sock", f"--unixctl={d}/vswitchd.ctl",
            f"--enable-dummy={self.dummies}", "--disable-system", "--disable-system-route",
        )  # fmt: skip
        interfaces = [
            word
            for name, number in PORTS.items()
            for word in f"-- add-port {BRIDGE} {name} -- set interface {name} type=dummy ofport_request={number}".split()
        ]
        tunnel = (
            f"-- add-port {BRIDGE} {TUNNEL} -- set interface {TUNNEL} type=geneve "
            f"options:remote_ip=flow options:key=flow ofport_request={TUNNEL_PORT}"
        )
        self.vsctl(
            "add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=dummy", "fail_mode=secure",
            "protocols=OpenFlow13,OpenFlow14,OpenFlow15", *interfaces, *tunnel.split(),
        )  # fmt: skip

    def stop(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()

    def _daemon(self, name: str, *arguments: str) -> None:
        log = self.directory / f"{name}.log"
        with log.open("wb") as output:
            self._daemons.append(
                subprocess.Popen(
                    [program(name), *arguments, "-vsyslog:off"], env=self.env, stdout=output, stderr=output
                )
            )

    def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, f"OVS did not start; see {self.directory}/*.log"
            assert all(daemon.poll() is None for daemon in self._daemons), self._logs()
            time.sleep(0.01)

    def _logs(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in self.directory.glob("*.log"))


@pytest.fixture(scope="session")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    """A running switch; each test removes what it leaves behind in the bridge."""
    running = Switch(tmp_path_factory.mktemp("ovs"))
    try:
        running.start()
        yield running
    finally:
        running.stop()
