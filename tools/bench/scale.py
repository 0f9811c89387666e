"""How NovaNet grows: 100, 1,000 and 10,000 ports in 50 networks over 3 hypervisors, against OVN.

``offered``: the interfaces are plugged already, then everything is asked for; until every port works on every
hypervisor, as confirmed by barriers. ``started``: the intent is in the store and the switches are empty, then the
control process starts (``ryu-manager``, ``ovn-northd``); until the same. ``one more``: a port is made whose interface
is plugged already; ``one less``: it is removed, until the switches have as many flows as before. There are no routers.
All of this without filters (``OPEN``: OVN has port security only), and again with all ports in a stateful group
(``SERVERS``; ACLs in OVN).

OVN needs minutes for 10,000 ports; it is measured there only with NOVANET_BENCH_OVN_10000=1.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from tools.bench import workload
from tools.bench.groups import OPEN, SERVERS, Group
from tools.bench.novanet import NovaNet
from tools.bench.ovn import Ovn
from tools.bench.report import line
from tools.bench.samples import median
from tools.bench.workload import HYPERVISORS, Cloud, PortSpec
from tools.lab import processes
from tools.lab.errors import LabError
from tools.lab.lab import Lab

SIZES = tuple(int(size) for size in os.environ.get("NOVANET_BENCH_SIZES", "100,1000,10000").split(","))
OVN_LIMIT = 10_000 if os.environ.get("NOVANET_BENCH_OVN_10000") == "1" else 9_999
"""Most ports that OVN is measured with."""
NOT_RUN = "; OVN not run at this size, NOVANET_BENCH_OVN_10000=1 runs it"
CASES = {"open": ("", OPEN), "groups": (", with security groups", SERVERS)}
"""By the name in NOVANET_BENCH_GROUPS: what cases are called, and the group that all ports are in."""
GROUPS = dict(CASES[name] for name in os.environ.get("NOVANET_BENCH_GROUPS", "open,groups").split(","))
REPETITIONS = 3
LARGE = 10_000
"""Ports from which on there is one repetition."""
ONE_MORE = 10
REST = 0.3
"""Seconds in which the machine comes to rest before a measurement starts."""
TIMEOUT = 1800.0


@dataclass
class Figures:
    """What was measured of one side at one size; times in seconds, memory in MiB by process."""

    offered: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    one_more: list[float] = field(default_factory=list)
    one_less: list[float] = field(default_factory=list)
    flows: list[int] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)

    def control_plane(self) -> float:
        """Memory of all processes but the switches."""
        return sum(mib for name, mib in self.memory.items() if not name.startswith(("ovs-vswitchd", "ovsdb-server")))

    def vswitchd(self) -> float:
        """Memory of an ovs-vswitchd."""
        return median([mib for name, mib in self.memory.items() if name.startswith("ovs-vswitchd")])


def main() -> int:
    """Measure and print; 0 when done. Raises LabError when a side does not get there."""
    for case, group in GROUPS.items():
        one_more: dict[int, float] = {}
        for size in SIZES:
            sides = [(NovaNet, Figures())] + ([(Ovn, Figures())] if size <= OVN_LIMIT else [])
            for _ in range(REPETITIONS if size < LARGE else 1):
                for make, figures in sides:
                    _measure(make, figures, size, group)
            _report(f"{size:,} ports{case}", *(figures for _, figures in sides))
            one_more[size] = median(sides[0][1].one_more) * 1000
        few, many = min(one_more), max(one_more)
        if few != many:
            against = f"NovaNet at {few:,}"
            _line(f"one more port at {many:,}{case}", one_more[many], against, one_more[few], "ms")
    return 0


def _report(size: str, ours: Figures, theirs: Figures | None = None) -> None:
    def compare(case: str, unit: str, figure: Callable[[Figures], float]) -> None:
        note = NOT_RUN if theirs is None else ""
        _line(f"{case}, {size}{note}", figure(ours), Ovn.name, None if theirs is None else figure(theirs), unit)

    compare("realised after it was offered", "s", lambda side: median(side.offered))
    compare("realised after the start", "s", lambda side: median(side.started))
    compare("one more port", "ms", lambda side: median(side.one_more) * 1000)
    compare("one less port", "ms", lambda side: median(side.one_less) * 1000)
    compare("flows per hypervisor", "flows", lambda side: median(side.flows))
    compare("memory of the control plane", "MiB", Figures.control_plane)
    compare("memory of an ovs-vswitchd", "MiB", Figures.vswitchd)
    for name, mib in ours.memory.items():
        _line(f"memory of {name}, {size}", mib, None, None, "MiB")
    for name, mib in theirs.memory.items() if theirs else ():
        _line(f"memory of {name}, {size}", None, Ovn.name, mib, "MiB")


def _line(case: str, ours: float | None, peer: str | None, theirs: float | None, unit: str) -> None:
    line("scale", case, ours, peer, theirs, unit, higher_is_better=False)


def _measure(make: Callable[[Lab], Cloud], figures: Figures, size: int, group: Group) -> None:
    """Add one repetition's measurements."""
    ports = [workload.port(number) for number in range(size)]
    with _up(make) as cloud:
        workload.plug_dummies(cloud.lab, ports)
        began = time.monotonic()
        cloud.add_networks()
        cloud.add_group(group)
        cloud.add_ports(ports, group)
        cloud.wait_realised(size, TIMEOUT)
        figures.offered.append(time.monotonic() - began)
        _check(cloud, size)
        figures.flows = workload.flows_per_hypervisor(cloud.lab)
        figures.memory = {name: workload.resident_mib(pid) for name, pid in cloud.processes().items()}
        extras = [workload.extra(number, number % HYPERVISORS, number) for number in range(ONE_MORE)]
        workload.plug_dummies(cloud.lab, extras)
        before = []
        for port in extras:
            before.append(workload.rules(cloud.lab))
            figures.one_more.append(_timed(partial(cloud.realise_port, port, group)))
        for port in reversed(extras):
            figures.one_less.append(_timed(partial(_one_less, cloud, port, before.pop())))
    with _up(make) as cloud:
        cloud.load(ports, group)
        workload.plug_dummies(cloud.lab, ports)
        began = time.monotonic()
        cloud.start_control()
        cloud.wait_realised(size, TIMEOUT)
        figures.started.append(time.monotonic() - began)
        _check(cloud, size)


@contextmanager
def _up(make: Callable[[Lab], Cloud]) -> Iterator[Cloud]:
    """One side on a fresh lab."""
    with Lab(HYPERVISORS) as lab, make(lab) as cloud:
        yield cloud


def _timed(act: Callable[[], None]) -> float:
    """Seconds that it takes a machine that has come to rest."""
    time.sleep(REST)
    began = time.monotonic()
    act()
    return time.monotonic() - began


def _one_less(cloud: Cloud, port: PortSpec, flows: list[int]) -> None:
    """Remove the last port and wait until the switches have done so: OVN says it, NovaNet's have as many flows as before."""
    cloud.delete_port(port)
    if not isinstance(cloud, Ovn):  # its switches keep some flows that were made with the port
        gone = f"{cloud.name}: hypervisors have {flows} flows again, as before port {port.id}"
        processes.until(lambda: workload.rules(cloud.lab) == flows, gone, interval=0.001)


def _check(cloud: Cloud, size: int) -> None:
    """Every network is on every hypervisor, so each must have a flow at least for every port."""
    flows = workload.flows_per_hypervisor(cloud.lab)
    if min(flows) < size:
        raise LabError(f"{cloud.name} says that {size} ports are realised, but the hypervisors have {flows} flows")
