"""What changes in the flow tables of a bridge, as the switch itself reports it (ovs-ofctl(8), ``monitor … watch``)."""

from __future__ import annotations

import subprocess
import time
from types import TracebackType

from tools.lab import processes
from tools.lab.hypervisor import Hypervisor
from tools.lab.openvswitch import OPENFLOW

EVENTS = ("event=ADDED", "event=DELETED", "event=MODIFIED")
SETTLE = 0.3
"""Seconds in which a switch reports what it has done."""


class FlowWatch:
    """Counts the flows that were added, deleted or modified within ``with``, on every one of some hypervisors."""

    def __init__(self, hypervisors: list[Hypervisor]) -> None:
        self.hypervisors = hypervisors
        self.changes: list[int] = []
        """For each hypervisor, once it is over."""
        self._watching: list[subprocess.Popen[str]] = []

    def __enter__(self) -> FlowWatch:
        for hypervisor in self.hypervisors:
            control = f"--unixctl={hypervisor.directory}/watch.ctl"
            argv = [
                "ovs-ofctl",
                control,
                "-O",
                OPENFLOW,
                "monitor",
                f"{hypervisor.directory}/br-int.mgmt",
                "watch:!initial",
            ]
            self._watching.append(
                processes.spawn(argv, lab=hypervisor.lab, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )
        time.sleep(SETTLE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        time.sleep(SETTLE)
        for watching in self._watching:
            watching.terminate()
        reports = [watching.communicate()[0] for watching in self._watching]
        self.changes = [sum(report.count(event) for event in EVENTS) for report in reports]
