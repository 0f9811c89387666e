"""What it takes that a member of a load balancer's pool comes, goes or gets another weight, with 10, 100 and 1,000 members, against OVN.

Members are in one network on 3 hypervisors, plugged already (as OVS's ``dummy`` devices), in ports that nothing filters. A change is over when every hypervisor
has confirmed it: NovaNet by ``?wait`` (of a deletion nothing is left to wait for: until every switch has as many flows as before the member came, asked
every millisecond), OVN by ``ovn-nbctl --wait=hv set load_balancer``, since it has a pool only as a whole. OVN knows no weights. The processor time is that of all processes of the
control plane together, from the request until ``REST`` seconds after it is realised; flow changes are those that the switches report, which OVN's
groups, where its members are, are not among. ``floor`` is one flow to the same switches by bare sockets.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from pipelines.slots import choose_size
from tools.bench import workload
from tools.bench.floor import Floor
from tools.bench.flow_watch import FlowWatch
from tools.bench.groups import OPEN
from tools.bench.novanet import BULK, NovaNet
from tools.bench.ovn import Ovn
from tools.bench.report import line
from tools.bench.samples import median, percentile
from tools.bench.workload import HYPERVISORS, Cloud, PortSpec
from tools.lab import processes
from tools.lab.lab import Lab

SIZES = tuple(int(size) for size in os.environ.get("NOVANET_BENCH_SIZES", "10,100,1000").split(","))
ROUNDS = 2
"""Times that each side is brought up, in turns."""
CHANGES = 20
"""Of each kind in a round."""
REST = 0.2
"""Seconds before a change, and after it."""
TIMEOUT = 600.0
POLL = 0.001
VIP, VIP_PORT, PORT = "10.96.0.1", 80, 8080
ADD, REMOVE, WEIGH = "a member more", "a member less", "another weight"
WEIGHTS = (2, 1)
"""That a member gets in turn."""
Figures = dict[str, dict[str, list[float]]]
"""Kind of change -> figure -> what was measured."""
TIME, PROCESSOR, FLOWS = "until realised", "processor time", "flow changes on a hypervisor"


class Balanced(Cloud, Protocol):
    """A product that has a load balancer with one pool."""

    def balance(self, ports: Sequence[PortSpec]) -> None:
        """Make it, and return when the switches have it."""

    def changes(self) -> dict[str, Callable[[PortSpec], None]]:
        """What can be done with a member, in this order, each returning when every hypervisor has confirmed it."""


class OurPool(NovaNet):
    """NovaNet: a request for a member."""

    def balance(self, ports: Sequence[PortSpec]) -> None:
        where = {"vip_network_id": self.request("GET", "/v1/networks")["items"][0]["id"]}
        self.balancer = self.request("POST", "/v1/load-balancers", {"name": "bench"} | where)["id"]
        common = {"loadbalancer_id": self.balancer, "protocol": "TCP"}
        pool = common | {"table_size": choose_size([1] * len(ports))}
        self.pool = self.request("POST", "/v1/pools", pool)["id"]
        members = [self._member(port) for port in ports]
        for start in range(0, len(members), BULK):
            self.request("POST", "/v1/members", members[start : start + BULK])
        self.members: dict[PortSpec, str] = {}
        listener = common | {"protocol_port": VIP_PORT, "default_pool_id": self.pool}
        self.request("POST", "/v1/listeners?wait=300", listener)
        shown = partial(self.request, "GET", f"/v1/pools/{self.pool}")
        processes.until(lambda: shown()["status"] == "ACTIVE", "the switches have the pool", TIMEOUT)
        self.before = _steady(self.lab)

    def changes(self) -> dict[str, Callable[[PortSpec], None]]:
        return {ADD: self._add, WEIGH: partial(self._weigh, WEIGHTS[0]), REMOVE: self._remove}

    def _member(self, port: PortSpec) -> dict[str, object]:
        return {"pool_id": self.pool, "address": port.ip, "protocol_port": PORT}

    def _add(self, port: PortSpec) -> None:
        self.members[port] = self.request("POST", "/v1/members?wait=60", self._member(port))["id"]

    def _weigh(self, weight: int, port: PortSpec) -> None:
        self.request("PATCH", f"/v1/members/{self.members[port]}?wait=60", {"weight": weight})

    def _remove(self, port: PortSpec) -> None:
        self.request("DELETE", f"/v1/members/{self.members.pop(port)}")
        processes.until(lambda: workload.rules(self.lab) == self.before, "a member is gone", TIMEOUT, POLL)


class OvnPool(Ovn):
    """OVN: all members in one value of the load balancer, which the network's logical switch has."""

    def balance(self, ports: Sequence[PortSpec]) -> None:
        self.members = list(ports)
        self.nbctl("lb-add", "bench", f"{VIP}:{VIP_PORT}", self._text(), "tcp")
        self.nbctl("ls-lb-add", "net0", "bench")
        self.sync()

    def changes(self) -> dict[str, Callable[[PortSpec], None]]:
        return {ADD: self._add, REMOVE: self._remove}

    def _text(self) -> str:
        return ",".join(f"{port.ip}:{PORT}" for port in self.members)

    def _add(self, port: PortSpec) -> None:
        self.members.append(port)
        self._set()

    def _remove(self, port: PortSpec) -> None:
        self.members.remove(port)
        self._set()

    def _set(self) -> None:
        self.nbctl("--wait=hv", "set", "load_balancer", "bench", f'vips:"{VIP}:{VIP_PORT}"="{self._text()}"')


def main() -> int:
    """Measure and print; 0 when done. Raises LabError when a side does not get there."""
    for size in SIZES:
        ours, theirs, floors = _figures(), _figures(), list[float]()
        for _ in range(ROUNDS):
            _measure(OurPool, ours, size, floors)
            _measure(OvnPool, theirs, size, [])
        _report(size, ours, theirs, floors)
    return 0


def _figures() -> Figures:
    return defaultdict(lambda: defaultdict(list))


def _report(size: int, ours: Figures, theirs: Figures, floors: list[float]) -> None:
    for change, found in ours.items():
        peer = theirs.get(change)
        note = "" if peer else "; OVN has no weights"
        for percent in (50, 95):
            a, b = (percentile(side[TIME], percent) * 1000 if side else None for side in (found, peer))
            _line(f"{change}, {size:,} members, {TIME}, p{percent}{note}", a, Ovn.name, b, "ms")
        _line(f"{change}, {size:,} members", median(found[TIME]) * 1000, "floor", median(floors) * 1000, "ms")
        a, b = (median(side[PROCESSOR]) * 1000 if side else None for side in (found, peer))
        _line(f"{change}, {size:,} members, {PROCESSOR}{note}", a, Ovn.name, b, "ms")
        a, b = (median(side[FLOWS]) if side else None for side in (found, peer))
        _line(f"{change}, {size:,} members, {FLOWS}{note}", a, Ovn.name, b, "flows")


def _line(case: str, ours: float | None, peer: str, theirs: float | None, unit: str) -> None:
    line("lb_update", case, ours, peer, theirs, unit, higher_is_better=False)


# --- measuring ---------------------------------------------------------------------------------------------------


def _measure(make: Callable[[Lab], Balanced], figures: Figures, size: int, floors: list[float]) -> None:
    """Add one round's measurements."""
    ports = [workload.neighbour(number) for number in range(size)]
    extra = [workload.extra(number, number % HYPERVISORS) for number in range(HYPERVISORS)]
    with Lab(HYPERVISORS) as lab:
        cloud = make(lab)
        with cloud:
            cloud.add_networks(1)
            cloud.add_group(OPEN)
            workload.plug_dummies(lab, [*ports, *extra])
            cloud.add_ports([*ports, *extra], OPEN)
            cloud.wait_realised(size + HYPERVISORS, TIMEOUT)
            cloud.balance(ports)
            switches = workload.switches(lab)
            control = [pid for name, pid in cloud.processes().items() if name not in switches]
            changes = cloud.changes()
            for change in changes.values():  # what happens once only, such as a connection's first request
                change(extra[0])
            for number in range(CHANGES):
                for name, change in changes.items():
                    _time(control, figures[name], partial(change, extra[number % HYPERVISORS]))
            for port in extra:
                for name, change in changes.items():
                    with FlowWatch(lab.hypervisors) as watch:
                        change(port)
                    figures[name][FLOWS] += watch.changes
            if make is OurPool:
                with Floor(lab.hypervisors) as floor:
                    floors += [floor.change() for _ in range(CHANGES)]


def _time(control: Sequence[int], found: dict[str, list[float]], ask: Callable[[], None]) -> None:
    time.sleep(REST)
    began, before = time.monotonic(), _spent(control)
    ask()
    found[TIME].append(time.monotonic() - began)
    time.sleep(REST)
    found[PROCESSOR].append(_spent(control) - before)


def _steady(lab: Lab) -> list[int]:
    """How many flows every switch has, once that has not changed for a second: many flows come in several steps."""
    found, before = workload.rules(lab), None
    while found != before:
        time.sleep(1)
        before, found = found, workload.rules(lab)
    return found


def _spent(control: Sequence[int]) -> float:
    return sum(map(workload.processor_seconds, control))
