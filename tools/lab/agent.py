"""NovaNet's agent on a hypervisor of a lab, as a process of its own."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from tools.lab import namespaces, processes
from tools.lab.controller import ROOT, Controller
from tools.lab.errors import LabError
from tools.lab.hypervisor import Hypervisor

METRICS = "127.0.0.1:9478"


class HostAgent:
    """``novanet-host-agent`` in a hypervisor's namespace, which reads the store of a controller with an embedded one.

    It runs between ``start()`` and ``terminate()`` or ``kill()``, any number of times, or within ``with``.
    """

    def __init__(
        self, hypervisor: Hypervisor, controller: Controller, options: Mapping[str, Any] | None = None
    ) -> None:
        self.hypervisor = hypervisor
        self.log = hypervisor.directory / "agent.log"
        """What it printed, all its runs one after the other."""
        self.config_file = hypervisor.directory / "agent.conf"
        self.process: subprocess.Popen[Any] | None = None
        settings = {
            "store": controller.store,
            "agent_ovsdb": hypervisor.ovsdb,
            "agent_captures": controller.captures,
            "agent_vswitchd": hypervisor.directory / "vswitchd.ctl",
            **(options or {}),
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        self.config_file.write_text("\n".join(["[DEFAULT]", *lines]) + "\n")

    def __enter__(self) -> HostAgent:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.terminate()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Process id, for its memory and CPU in /proc. Raises LabError."""
        if self.process is None or not self.running:
            raise LabError(f"the agent of {self.hypervisor.name} does not run: {self.tail()}")
        return self.process.pid

    def start(self) -> None:
        """Start it; returns at once."""
        if self.running:
            raise LabError("the agent runs already")
        command = [sys.executable, "-m", "novanet_apps.host_agent", "--config-file", str(self.config_file)]
        with self.log.open("ab") as log:
            self.process = processes.spawn(
                command, lab=self.hypervisor.lab, namespace=self.hypervisor.namespace,
                env={"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL."""
        processes.end(self.process, signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM, and SIGKILL if it has not ended after 15 s."""
        processes.end(self.process, timeout=15)

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of ``/metrics`` or ``/healthz``. Raises OSError."""

        def ask() -> tuple[int, str]:
            connection = http.client.HTTPConnection(METRICS, timeout=10)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            finally:
                connection.close()

        return namespaces.inside(self.hypervisor.namespace, ask)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values, of those that have these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.split()[-1]) for line in lines if all(each in line for each in wanted))

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])
