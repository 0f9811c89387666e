"""How long until a VM that is plugged in gets its first packet through to another hypervisor, against OVN.

A VM is prepared: its namespace, its interface and static neighbours are there, OVS does not know of it. A probe in it
pings a VM on another hypervisor every 2 ms. Then it is plugged in by one OVSDB transaction, as a VM platform does it,
and the time counts from the start of that until the first packet arrives; and, in the cases ``… and back``, until the
answer is there too. In the cases ``plug`` the port was made before, in the cases ``create`` the time starts with the
request that makes it. ``vsctl`` is ``plug`` by the ``ovs-vsctl`` command, whose own start counts too.

All of it with ports that nothing filters, and again with all ports in a stateful security group (ACLs in OVN). NovaNet and
OVN stand on labs of their own, both up all the time, and take turns; tunnels are warm.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count, product
from pathlib import Path
from typing import Any, NamedTuple

from tools.bench import probe, workload
from tools.bench.groups import Group
from tools.bench.novanet import NovaNet
from tools.bench.ovn import Ovn
from tools.bench.report import line
from tools.bench.samples import percentile
from tools.bench.scale import GROUPS
from tools.bench.workload import HYPERVISORS, Cloud, PortSpec
from tools.lab.errors import LabError
from tools.lab.hypervisor import Hypervisor
from tools.lab.lab import Lab
from tools.lab.vm import VM

PRODUCTS: tuple[Callable[[Lab], Cloud], ...] = (NovaNet, Ovn)
REPETITIONS = int(os.environ.get("NOVANET_BENCH_REPETITIONS", "30"))
LOADS = (0, 1000)
"""Ports that are present beside those measured."""
INTERVAL = 0.002
"""Seconds between two probes."""
TIMEOUT = 20.0
PREFIX = 16
SETTLE = 0.15
"""Seconds in which the machine comes to rest before a measurement starts."""


class Times(NamedTuple):
    """Seconds from the start until the first packet arrived, and until its answer did."""

    there: float
    back: float


class Side(NamedTuple):
    """One product with a VM that everyone pings."""

    cloud: Cloud
    target: VM
    target_ip: str
    group: Group
    """What all ports are in."""


def main() -> int:
    """Measure and print; 0 when done. Raises LabError when a side does not work."""
    for (suffix, group), load in product(GROUPS.items(), LOADS):
        with ExitStack() as stack:
            clouds = [stack.enter_context(make(stack.enter_context(Lab(HYPERVISORS)))) for make in PRODUCTS]
            sides = [_prepare(cloud, load, group) for cloud in clouds]
            for case, way in WAYS.items():
                _report(case, f"{load:,} ports{suffix}", _interleaved(sides, way))
    return 0


def _report(case: str, load: str, times: dict[str, list[Times]]) -> None:
    for end in Times._fields:
        way = case if end == "there" else f"{case} and back"
        ours, theirs = ([getattr(each, end) * 1000 for each in times[name]] for name in (NovaNet.name, Ovn.name))
        for percent in (50, 95):
            figures = percentile(ours, percent), Ovn.name, percentile(theirs, percent)
            line("port_up", f"{way} p{percent}, {load}", *figures, "ms", higher_is_better=False)


def _interleaved(sides: list[Side], way: Callable[[Side, PortSpec, VM], Times]) -> dict[str, list[Times]]:
    """Every repetition's, by the side's name; the sides take turns, each being first in turn."""
    times: dict[str, list[Times]] = defaultdict(list)
    for repetition in range(REPETITIONS):
        for side in sides if repetition % 2 else reversed(sides):
            times[side.cloud.name].append(_measure(side, next(_SPECS), way))
    return times


def _specs() -> Iterator[PortSpec]:
    """Ports on the second and third hypervisor in turn; the target is on the first."""
    for number in count():
        yield workload.extra(number % 200 + 10, 1 + number % 2)


_SPECS = _specs()


def _prepare(cloud: Cloud, load: int, group: Group) -> Side:
    """Networks, the load, the target, and a resident VM on each other hypervisor through which tunnels are warm."""
    cloud.add_networks()
    cloud.add_group(group)
    ports = [workload.port(number) for number in range(load)]
    cloud.add_ports(ports, group)
    workload.plug_dummies(cloud.lab, ports)
    specs = [workload.extra(number, number) for number in range(HYPERVISORS)]
    cloud.add_ports(specs, group)
    vms = [_hypervisor(cloud, spec).plug(spec.id, spec.mac, [(spec.ip, PREFIX)]) for spec in specs]
    cloud.wait_realised(load + len(specs), timeout=300)
    side = Side(cloud, vms[0], specs[0].ip, group)
    for vm, spec in zip(vms[1:], specs[1:], strict=True):
        _introduce(side, vm, spec)
        if not vm.ping(side.target_ip, count=3).received:
            raise LabError(f"{cloud.name}: no packet gets from {spec.ip} to {side.target_ip}")
    return side


def _measure(side: Side, spec: PortSpec, way: Callable[[Side, PortSpec, VM], Times]) -> Times:
    """The times of a VM that is made for this and removed afterwards."""
    hypervisor = _hypervisor(side.cloud, spec)
    vm = hypervisor.prepare(spec.id, spec.mac, [(spec.ip, PREFIX)])
    _introduce(side, vm, spec)
    times = way(side, spec, vm)
    if way is vsctl:
        hypervisor.vsctl("del-port", "br-int", vm.interface)
    hypervisor.unplug(spec.id)
    side.cloud.delete_port(spec)
    return times


def _hypervisor(cloud: Cloud, spec: PortSpec) -> Hypervisor:
    return cloud.lab.hypervisors[spec.hypervisor]


def _introduce(side: Side, vm: VM, spec: PortSpec) -> None:
    """Static neighbours, so that no ARP is waited for."""
    vm.exec(["ip", "neigh", "replace", side.target_ip, "lladdr", side.target.mac, "dev", "eth0", "nud", "permanent"])
    side.target.exec(["ip", "neigh", "replace", spec.ip, "lladdr", spec.mac, "dev", "eth0", "nud", "permanent"])


# --- ways to plug ------------------------------------------------------------------------------------------------


def plug(side: Side, spec: PortSpec, vm: VM) -> Times:
    """The port is there already; the interface comes by one OVSDB transaction."""
    side.cloud.add_port(spec, side.group)
    return _timed(side, vm, spec, lambda: _hypervisor(side.cloud, spec).attach(vm))


def create(side: Side, spec: PortSpec, vm: VM) -> Times:
    """The port is made, then the interface is plugged."""

    def act() -> None:
        side.cloud.add_port(spec, side.group)
        _hypervisor(side.cloud, spec).attach(vm)

    return _timed(side, vm, spec, act)


def vsctl(side: Side, spec: PortSpec, vm: VM) -> Times:
    """The port is there already; the interface comes by ``ovs-vsctl``."""
    side.cloud.add_port(spec, side.group)
    interface = vm.interface
    command = [
        "--",
        "add-port",
        "br-int",
        interface,
        "--",
        "set",
        "interface",
        interface,
        f"external_ids:iface-id={spec.id}",
    ]
    return _timed(side, vm, spec, lambda: _hypervisor(side.cloud, spec).vsctl(*command))


WAYS: dict[str, Callable[[Side, PortSpec, VM], Times]] = {"plug": plug, "vsctl": vsctl, "create": create}


def _timed(side: Side, vm: VM, spec: PortSpec, act: Callable[[], Any]) -> Times:
    """How long after the start of ``act`` a packet of the VM arrives at the target, and its answer at the VM."""
    with ExitStack() as stack:
        receiver = stack.enter_context(_probe(side.target, "receive", spec.ip, TIMEOUT))
        sender = stack.enter_context(_probe(vm, "send", side.target_ip, INTERVAL, TIMEOUT))
        time.sleep(SETTLE)
        start = time.monotonic()
        act()
        seen = [_said(probing) for probing in (receiver, sender)]
    if not all(seen) or "none" in seen:
        raise LabError(
            f"{side.cloud.name}: no packet got from {vm.name} to {side.target.name} and back within {TIMEOUT:g} s of plugging it in"
        )
    return Times(*(float(at) - start for at in seen))


def _probe(vm: VM, *arguments: object) -> subprocess.Popen[Any]:
    """A probe that is at work in a VM."""
    command = [sys.executable, "-IS", str(Path(probe.__file__)), *map(str, arguments)]
    probing = vm.popen(command, stdout=subprocess.PIPE, text=True)
    if _said(probing) != "ready":
        raise LabError(f"the probe in {vm.name} did not start")
    return probing


def _said(probing: subprocess.Popen[Any]) -> str:
    """The next line of a probe; empty when it has ended."""
    assert probing.stdout is not None
    return str(probing.stdout.readline()).strip()
