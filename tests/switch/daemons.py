"""A hypervisor's Open vSwitch for tests that configure it over OVSDB: its own daemons and directory, dummy datapaths."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.switch.conftest import program, schema
from tools.lab.jsonrpc import listens

DEADLINE = 20.0
"""Seconds that a daemon may take."""


class Ovs:
    """ovsdb-server and ovs-vswitchd with an empty configuration.

    `system_id` becomes its external_ids:system-id, `server_options` are further arguments of ovsdb-server.
    """

    def __init__(self, directory: Path, system_id: str, *server_options: str) -> None:
        directory.mkdir()
        self.directory, self.system_id = directory, system_id
        self.socket = f"unix:{directory}/db.sock"
        self._options = [f"--remote=p{self.socket}", f"--unixctl={directory}/ovsdb.ctl", *server_options]
        self._env = os.environ | {
            name: str(directory) for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._run("ovsdb-tool", "create", f"{directory}/conf.db", str(schema()))
        self.start_server()
        self.vsctl("--no-wait", "init", "--", "set", "open", ".", f"external_ids:system-id={system_id}")
        self._start(
            "ovs-vswitchd", self.socket, f"--unixctl={directory}/vswitchd.ctl",
            "--enable-dummy=override", "--disable-system", "--disable-system-route",
        )  # fmt: skip

    def start_server(self) -> None:
        """Start ovsdb-server, on the database that is there."""
        path = self.directory / "db.sock"
        path.unlink(missing_ok=True)
        self._start("ovsdb-server", f"{self.directory}/conf.db", *self._options)
        wait_for(lambda: listens(path), f"{path} listens")

    def kill_server(self) -> None:
        """End ovsdb-server without a farewell."""
        server = self._running.pop("ovsdb-server")
        server.kill()
        server.wait()

    def freeze_vswitchd(self) -> None:
        """Stop vswitchd in its tracks until `thaw_vswitchd`."""
        self._running["ovs-vswitchd"].send_signal(signal.SIGSTOP)

    def thaw_vswitchd(self) -> None:
        """Let it go on."""
        self._running["ovs-vswitchd"].send_signal(signal.SIGCONT)

    def vsctl(self, *arguments: str) -> str:
        """Run ovs-vsctl; waits for vswitchd unless told `--no-wait`."""
        return self._run("ovs-vsctl", "-t", "20", f"--db={self.socket}", *arguments).strip()

    def get(self, table: str, record: str, column: str) -> str:
        """A column as ovs-vsctl prints it; empty when there is no such row."""
        return self.vsctl("--if-exists", "get", table, record, column).strip('"')

    def add_remote(self, remote: str) -> None:
        """Have ovsdb-server listen somewhere, or connect to somewhere, besides its socket."""
        self._run("ovs-appctl", "-t", f"{self.directory}/ovsdb.ctl", "ovsdb-server/add-remote", remote)

    def plug(self, name: str, port_id: str, bridge: str = "br-int") -> None:
        """Do what a hypervisor does when a VM starts."""
        self.vsctl(
            "add-port", bridge, name, "--", "set", "interface", name, "type=dummy", f"external_ids:iface-id={port_id}"
        )

    def stop(self) -> None:
        """End both daemons."""
        for process in self._running.values():
            process.kill()
            process.wait()
        self._running.clear()

    def _start(self, name: str, *arguments: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as output:
            self._running[name] = subprocess.Popen(
                [program(name), *arguments, "-vsyslog:off"], env=self._env, stdout=output, stderr=output
            )

    def run(self, name: str, *arguments: str) -> str:
        """Run one of Open vSwitch's programs; what it prints."""
        return self._run(name, *arguments)

    def _run(self, name: str, *arguments: str) -> str:
        done = subprocess.run([program(name), *arguments], capture_output=True, text=True, env=self._env, timeout=60)
        assert done.returncode == 0, f"{name} {' '.join(arguments)[:500]}: {(done.stderr or done.stdout)[-2000:]}"
        return done.stdout


def wait_for(condition: Callable[[], object], what: str = "", timeout: float = DEADLINE) -> None:
    """Wait until the condition holds; AssertionError with `what` when it does not."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"did not come true: {what or condition}"
        time.sleep(0.01)
