"""Open vSwitch in a namespace: an ovsdb-server and an ovs-vswitchd of its own, and its tools."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from tools.lab import jsonrpc, processes
from tools.lab.errors import LabError
from tools.lab.programs import Programs

INTEGRATION = "br-int"
OPENFLOW = "OpenFlow13,OpenFlow14,OpenFlow15"


class OpenVSwitch:
    """The daemons in ``namespace``, with everything that they write below ``directory``."""

    def __init__(self, lab: str, name: str, directory: Path, programs: Programs, namespace: str) -> None:
        self.lab, self.name, self.directory, self.namespace = lab, name, directory, namespace
        self._programs = programs
        self._ovsdb: subprocess.Popen[Any] | None = None
        self._vswitchd: subprocess.Popen[Any] | None = None
        self._env = {name: str(directory) for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")}

    @property
    def ovsdb(self) -> str:
        """Where its OVSDB server listens, as OVS writes it."""
        return f"unix:{self.directory / 'db.sock'}"

    # --- OVS's own tools -------------------------------------------------------------------------------------

    def vsctl(self, *arguments: str, check: bool = True, timeout: int = 20) -> str:
        """``ovs-vsctl``: what it printed, without the last newline. Raises LabError when it fails."""
        return self._tool("ovs-vsctl", f"--timeout={timeout}", f"--db={self.ovsdb}", *arguments, check=check)

    def ofctl(self, *arguments: str, check: bool = True, version: str = OPENFLOW) -> str:
        """``ovs-ofctl``; bridges by their names."""
        return self._tool("ovs-ofctl", "-O", version, *arguments, check=check)

    def appctl(self, *arguments: str) -> str:
        """A command of ovs-vswitchd's, as ``ovs-appctl`` would send it: ``appctl("ofproto/trace", "br-int", …)``."""
        result = jsonrpc.call(self.directory / "vswitchd.ctl", arguments[0], list(arguments[1:]))
        return str(result).rstrip("\n")

    def dump_flows(self, bridge: str = INTEGRATION, *arguments: str) -> list[str]:
        """The bridge's flows as ``ovs-ofctl dump-flows`` prints them, one a line."""
        return [line.strip() for line in self.ofctl("dump-flows", bridge, *arguments).splitlines() if "cookie=" in line]

    def transact(self, *operations: dict[str, Any]) -> list[dict[str, Any]]:
        """One transaction on the Open_vSwitch database (RFC 7047, section 5.2); vswitchd acts on it later.

        Raises LabError when it was not committed.
        """
        results = jsonrpc.call(self.directory / "db.sock", "transact", ["Open_vSwitch", *operations])
        for result in results:
            if result and result.get("error"):
                raise LabError(f"OVSDB of {self.name}: {result['error']}: {result.get('details', '')}")
        return list(results)

    def synchronise(self, timeout: float = 30.0) -> None:
        """Wait until vswitchd has done everything that the database asked for when this was called."""
        everything: dict[str, Any] = {"table": "Open_vSwitch", "where": []}
        bump = everything | {"op": "mutate", "mutations": [["next_cfg", "+=", 1]]}
        read = everything | {"op": "select", "columns": ["next_cfg", "cur_cfg"]}
        wanted = self.transact(bump, read)[1]["rows"][0]["next_cfg"]
        processes.until(
            lambda: self._check_running() and self.transact(read)[0]["rows"][0]["cur_cfg"] >= wanted,
            f"ovs-vswitchd of {self.name} applies its configuration", timeout,
        )  # fmt: skip

    def add_bridge(self, name: str = INTEGRATION, *options: str) -> None:
        """A plain bridge, for labs without NovaNet: it switches like any learning switch."""
        self.vsctl("add-br", name, "--", "set", "bridge", name, "datapath_type=netdev", *options)

    # --- its daemons -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemons, for the first time or after ``stop``. The database keeps what it had."""
        first = self._ovsdb is None
        self.start_ovsdb()
        if first:
            self._configure()
        self.start_vswitchd()

    def stop(self) -> None:
        """Kill both daemons at once. Kernel devices stay, and nobody is behind them."""
        self.kill_vswitchd()
        self.stop_ovsdb(signal.SIGKILL)

    def start_ovsdb(self) -> None:
        """Start ovsdb-server and wait until it listens."""
        socket = self.directory / "db.sock"
        socket.unlink(missing_ok=True)
        self._ovsdb = self._daemon(
            "ovsdb-server", str(self.directory / "conf.db"), f"--remote=punix:{socket}",
            "--remote=db:Open_vSwitch,Open_vSwitch,manager_options", f"--unixctl={self.directory / 'ovsdb-server.ctl'}",
            "--private-key=db:Open_vSwitch,SSL,private_key", "--certificate=db:Open_vSwitch,SSL,certificate",
            "--ca-cert=db:Open_vSwitch,SSL,ca_cert",
        )  # fmt: skip
        processes.until(
            lambda: self._check_running() and jsonrpc.listens(socket), f"ovsdb-server of {self.name} listens"
        )

    def stop_ovsdb(self, how: signal.Signals = signal.SIGTERM) -> None:
        processes.end(self._ovsdb, how)

    def start_vswitchd(self) -> None:
        """Start ovs-vswitchd and wait until it has built what the database says."""
        (self.directory / "vswitchd.ctl").unlink(missing_ok=True)
        self._vswitchd = self._daemon(
            "ovs-vswitchd", self.ovsdb, f"--unixctl={self.directory / 'vswitchd.ctl'}",
            f"--pidfile={self.directory / 'ovs-vswitchd.pid'}", "--enable-dummy",
        )  # fmt: skip
        self.synchronise()

    def stop_vswitchd(self) -> None:
        """End ovs-vswitchd in order (SIGTERM)."""
        processes.end(self._vswitchd)

    def kill_vswitchd(self) -> None:
        """SIGKILL to ovs-vswitchd."""
        processes.end(self._vswitchd, signal.SIGKILL)

    @property
    def vswitchd_pid(self) -> int:
        """Process id of ovs-vswitchd, for its memory and CPU in /proc."""
        return _pid(self._vswitchd)

    @property
    def ovsdb_pid(self) -> int:
        """Process id of ovsdb-server."""
        return _pid(self._ovsdb)

    @property
    def daemons(self) -> list[subprocess.Popen[Any]]:
        """The daemons that run: ovs-vswitchd, ovsdb-server."""
        return [d for d in (self._vswitchd, self._ovsdb) if d and d.poll() is None]

    # --- inside ------------------------------------------------------------------------------------------------

    def _configure(self) -> None:
        """What the database says from the first start on; vswitchd does not run yet."""
        self.vsctl("--no-wait", "init")

    def _tool(self, name: str, *arguments: str, check: bool) -> str:
        argv = [self._programs.path(name), *arguments]
        done = processes.run(argv, lab=self.lab, namespace=self.namespace, env=self._env, check=check)
        return (done.stdout if not done.returncode else done.stdout + done.stderr).rstrip("\n")

    def _daemon(self, name: str, *arguments: str) -> subprocess.Popen[Any]:
        log = self.directory / f"{name}.log"
        argv = [self._programs.path(name), *arguments, f"--log-file={log}", "-vconsole:emer", "-vsyslog:off"]
        with (self.directory / f"{name}.err").open("ab") as err:
            return processes.spawn(
                argv, lab=self.lab, namespace=self.namespace, env=self._env, stdout=err, stderr=subprocess.STDOUT
            )

    def _check_running(self) -> bool:
        for name, daemon in (("ovsdb-server", self._ovsdb), ("ovs-vswitchd", self._vswitchd)):
            if daemon and daemon.poll() not in (None, -signal.SIGKILL, -signal.SIGTERM, 0):
                logs = [self.directory / f"{name}.{suffix}" for suffix in ("log", "err")]
                words = "".join(path.read_text(errors="replace")[-1500:] for path in logs if path.exists())
                raise LabError(f"{name} of {self.name} ended ({daemon.returncode}): {words}")
        return True


def create_database(programs: Programs, path: Path) -> None:
    """An empty Open_vSwitch database, to be copied."""
    processes.run([programs.path("ovsdb-tool"), "create", str(path), str(programs.schema())])


def install_database(empty: Path, directory: Path) -> None:
    """Give a switch's directory its database."""
    directory.mkdir(parents=True)
    shutil.copyfile(empty, directory / "conf.db")


def _pid(daemon: subprocess.Popen[Any] | None) -> int:
    if daemon is None or daemon.poll() is not None:
        raise LabError("the daemon does not run")
    return daemon.pid
