"""What it takes that a port joins a security group of 500, 2,000 or 10,000 members whose rules name the group, against OVN.

All ports are in one network on 3 hypervisors and in one group, which lets its members reach each other at four TCP ports
and send whatever they want. ``membership only``: a port that exists and is plugged becomes a member. ``create and join``: a
port is made as a member; its interface is plugged already. Both until every hypervisor has confirmed. The processor time
is that of all processes of the control plane together, from the request until ``REST`` seconds after it is realised; flow changes are those that the
switches report. ``floor`` is one flow to the same switches by bare sockets, in NovaNet's lab: what it takes them to confirm anything.

OVN is measured with 10,000 members only with NOVANET_BENCH_OVN_10000=1.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from tools.bench import workload
from tools.bench.floor import Floor
from tools.bench.flow_watch import FlowWatch
from tools.bench.groups import MEMBERS
from tools.bench.novanet import NovaNet
from tools.bench.ovn import Ovn
from tools.bench.report import line
from tools.bench.samples import median
from tools.bench.scale import LARGE, NOT_RUN, OVN_LIMIT
from tools.bench.workload import HYPERVISORS, Cloud, PortSpec
from tools.lab.lab import Lab

SIZES = tuple(int(size) for size in os.environ.get("NOVANET_BENCH_SIZES", "500,2000,10000").split(","))
ROUNDS = 2
"""Times that each side is brought up, in turns; once from ``LARGE`` members on."""
JOINS = 10
"""Of each kind in a round."""
REST = 0.3
"""Seconds before a join, and after it."""
TIMEOUT = 1800.0


class Result(NamedTuple):
    """A figure and its unit."""

    figure: float
    unit: str


@dataclass
class Case:
    """What joins of one kind took: seconds until realised, seconds of processor time, flow changes."""

    times: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    others: list[int] = field(default_factory=list)

    def milliseconds(self) -> float:
        """Until realised."""
        return median(self.times) * 1000

    def results(self, name: str) -> dict[str, Result]:
        """By what they are called."""
        return {
            name: Result(self.milliseconds(), "ms"),
            f"processor time, {name}": Result(median(self.processor) * 1000, "ms"),
            f"flow changes on its hypervisor, {name}": Result(median(self.own), "flows"),
            f"flow changes on another one, {name}": Result(median(self.others), "flows"),
        }


@dataclass
class Figures:
    """What was measured of one side at one size."""

    membership: Case = field(default_factory=Case)
    creation: Case = field(default_factory=Case)
    flows: list[float] = field(default_factory=list)
    """For a member, on each hypervisor."""
    floor: list[float] = field(default_factory=list)
    """Seconds that the switches alone take."""

    def cases(self) -> dict[str, Case]:
        """By what they are called."""
        return {"membership only": self.membership, "create and join": self.creation}

    def results(self) -> dict[str, Result]:
        """By what they are called."""
        found = {"flows per member and hypervisor": Result(median(self.flows), "flows")}
        for name, case in self.cases().items():
            found |= case.results(name)
        return found


def main() -> int:
    """Measure and print; 0 when done. Raises LabError when a side does not get there."""
    ours: dict[int, Figures] = {}
    for size in SIZES:
        sides = [(NovaNet, Figures())] + ([(Ovn, Figures())] if size <= OVN_LIMIT else [])
        for _ in range(ROUNDS if size < LARGE else 1):
            for make, figures in sides:
                _measure(make, figures, size)
        ours[size] = sides[0][1]
        _report(size, *(figures for _, figures in sides))
    few, many = ours[min(ours)].cases(), ours[max(ours)].cases()
    for name in few if len(ours) > 1 else ():
        case, against = f"{name}, {max(ours):,} members", f"NovaNet with {min(ours):,}"
        _line(case, many[name].milliseconds(), against, few[name].milliseconds(), "ms")
    return 0


def _report(size: int, ours: Figures, theirs: Figures | None = None) -> None:
    note = NOT_RUN if theirs is None else ""
    peers = {} if theirs is None else theirs.results()
    for case, (figure, unit) in ours.results().items():
        peer = peers[case].figure if peers else None
        _line(f"{case}, {size:,} members{note}", figure, Ovn.name, peer, unit)
    for name, each in ours.cases().items():
        _line(f"{name}, {size:,} members", each.milliseconds(), "floor", median(ours.floor) * 1000, "ms")


def _line(case: str, ours: float, peer: str, theirs: float | None, unit: str) -> None:
    line("group_join", case, ours, peer, theirs, unit, higher_is_better=False)


# --- measuring ---------------------------------------------------------------------------------------------------


def _measure(make: Callable[[Lab], Cloud], figures: Figures, size: int) -> None:
    """Add one round's measurements."""
    with _up(make, size, figures) as cloud:
        switches = workload.switches(cloud.lab)
        control = [pid for name, pid in cloud.processes().items() if name not in switches]
        joining = [workload.extra(number, number) for number in range(HYPERVISORS)]
        workload.plug_dummies(cloud.lab, joining)
        for port in joining:
            cloud.realise_port(port, None)
            cloud.join(port, MEMBERS)  # what happens once only, such as a connection's first request
            cloud.leave(port, MEMBERS)
        for number in range(JOINS):
            port = joining[number % HYPERVISORS]
            _join(control, figures.membership, partial(cloud.join, port, MEMBERS))
            cloud.leave(port, MEMBERS)
        _watch(cloud.lab, figures.membership, joining, partial(cloud.join, group=MEMBERS))
        with Floor(cloud.lab.hypervisors) as floor:
            for _ in range(JOINS):
                time.sleep(REST)
                figures.floor.append(floor.change())

        created = [workload.extra(100 + number, number % HYPERVISORS) for number in range(JOINS + HYPERVISORS)]
        workload.plug_dummies(cloud.lab, created)
        for port in created[HYPERVISORS:]:
            _join(control, figures.creation, partial(cloud.realise_port, port, group=MEMBERS))
        _watch(cloud.lab, figures.creation, created[:HYPERVISORS], partial(cloud.realise_port, group=MEMBERS))


@contextmanager
def _up(make: Callable[[Lab], Cloud], size: int, figures: Figures) -> Iterator[Cloud]:
    """One side on a fresh lab, with all members realised."""
    ports = [workload.neighbour(number) for number in range(size)]
    with Lab(HYPERVISORS) as lab, make(lab) as cloud:
        cloud.add_networks(1)
        cloud.add_group(MEMBERS)
        before = workload.flows_per_hypervisor(lab)
        workload.plug_dummies(lab, ports)
        cloud.add_ports(ports, group=MEMBERS)
        cloud.wait_realised(size, TIMEOUT)
        after = workload.flows_per_hypervisor(lab)
        figures.flows += [(many - few) / size for many, few in zip(after, before, strict=True)]
        yield cloud


def _join(control: Sequence[int], case: Case, ask: Callable[[], None]) -> None:
    """Time a join, and the processor time of these processes until some time after it."""
    time.sleep(REST)
    began, before = time.monotonic(), _spent(control)
    ask()
    case.times.append(time.monotonic() - began)
    time.sleep(REST)
    case.processor.append(_spent(control) - before)


def _spent(processes: Sequence[int]) -> float:
    return sum(map(workload.processor_seconds, processes))


def _watch(lab: Lab, case: Case, ports: Iterable[PortSpec], ask: Callable[[PortSpec], None]) -> None:
    """Count the flow changes of joins."""
    for port in ports:
        with FlowWatch(lab.hypervisors) as watch:
            ask(port)
        for number, changes in enumerate(watch.changes):
            (case.own if number == port.hypervisor else case.others).append(changes)
