"""What both sides are asked for: ports in fifty networks, or in one and in one group, dealt to the hypervisors in turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

from tools.bench.groups import Group
from tools.lab.lab import Lab

NETWORKS = 50
HYPERVISORS = 3


class PortSpec(NamedTuple):
    """A port that is wanted: ``id`` is the iface-id, ``network`` and ``hypervisor`` are indexes."""

    id: str
    network: int
    mac: str
    ip: str
    hypervisor: int


class Cloud(Protocol):
    """A product on a lab of its own: NovaNet or a peer."""

    name: str
    lab: Lab

    def __enter__(self) -> Cloud:
        """Bring it up, with all hypervisors of the lab."""

    def __exit__(self, *exc: object) -> None:
        """End it."""

    def add_networks(self, count: int = NETWORKS) -> None:
        """Make networks 0 to ``count - 1``; network n has the addresses of ``cidr(n)``."""

    def add_group(self, group: Group) -> None:
        """Make a group, before any port that is to be a member."""

    def add_ports(self, ports: list[PortSpec], group: Group | None) -> None:
        """Make ports, as members of a group or of none, in as few requests as the product takes, and do not wait for
        the switches."""

    def add_port(self, port: PortSpec, group: Group | None) -> None:
        """Make one port by the product's quickest request, and do not wait for the switches."""

    def realise_port(self, port: PortSpec, group: Group | None) -> None:
        """Make one port, whose interface is plugged, and wait until every hypervisor has confirmed it."""

    def join(self, port: PortSpec, group: Group) -> None:
        """Make a port of no group a member of one, and wait until every hypervisor has confirmed it."""

    def leave(self, port: PortSpec, group: Group) -> None:
        """Undo ``join``, and wait likewise."""

    def delete_port(self, port: PortSpec) -> None:
        """Remove one port; the switches may still have to follow."""

    def wait_realised(self, count: int, timeout: float) -> None:
        """Wait until ``count`` plugged ports work everywhere, as confirmed by barriers; LabError when they do not."""

    def load(self, ports: list[PortSpec], group: Group) -> None:
        """Store networks, a group and its ports, and leave them for ``start_control`` to realise."""

    def start_control(self) -> None:
        """Start the process that computes what is in the store."""

    def processes(self) -> dict[str, int]:
        """Process ids of the product and of the switches, by name."""


def cidr(network: int) -> str:
    """The addresses of a network."""
    return f"10.{10 + network}.0.0/16"


def port(number: int) -> PortSpec:
    """The ``number``-th port of the bulk: up to 250 a /24, from 10.x.1.1 on."""
    row = number // NETWORKS
    network = number % NETWORKS
    mac = f"02:00:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    return PortSpec(
        _id(0, number), network, mac, f"10.{10 + network}.{1 + row // 250}.{1 + row % 250}", number % HYPERVISORS
    )


def neighbour(number: int) -> PortSpec:
    """The ``number``-th port of a bulk that is in network 0 alone; at most 50,000 of them."""
    mac = f"02:00:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    return PortSpec(_id(0, number), 0, mac, f"10.10.{1 + number // 250}.{1 + number % 250}", number % HYPERVISORS)


def extra(number: int, hypervisor: int, network: int = 0) -> PortSpec:
    """A port beside the bulk; at most 250 of them."""
    return PortSpec(
        _id(1, number), network, f"02:01:00:00:00:{number:02x}", f"10.{10 + network}.250.{1 + number}", hypervisor
    )


def _id(series: int, number: int) -> str:
    return f"00000000-0000-4000-8000-{series:04x}{number:08x}"


def plug_dummies(lab: Lab, ports: Iterable[PortSpec]) -> None:
    """Plug the ports as OVS's dummy devices, on all hypervisors at once, and wait until vswitchd has taken them."""
    here: dict[int, list[str]] = defaultdict(list)
    for spec in ports:
        here[spec.hypervisor].append(spec.id)

    def plug(number: int) -> None:
        lab.hypervisors[number].plug_dummy(here[number])
        lab.hypervisors[number].synchronise(timeout=300)

    with ThreadPoolExecutor(max_workers=HYPERVISORS) as pool:
        list(pool.map(plug, here))


def resident_mib(pid: int) -> float:
    """Resident memory of a process, in MiB (proc(5), VmRSS)."""
    with open(f"/proc/{pid}/status") as status:
        kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return kib / 1024


def processor_seconds(pid: int) -> float:
    """The processor time that all threads of a process have had."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            spent += int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue  # the thread has ended
    return spent / 1e9


def flows_per_hypervisor(lab: Lab) -> list[int]:
    """How many OpenFlow flows each br-int has."""
    shown = (hypervisor.ofctl("dump-aggregate", "br-int") for hypervisor in lab.hypervisors)
    return [int(text.rpartition("flow_count=")[2].split()[0]) for text in shown]


def rules(lab: Lab) -> list[int]:
    """How many OpenFlow flows each hypervisor's bridges have together (``memory/show``), which is quick to ask for."""
    shown = (hypervisor.appctl("memory/show").split() for hypervisor in lab.hypervisors)
    return [int(word.removeprefix("rules:")) for words in shown for word in words if word.startswith("rules:")]


def switches(lab: Lab) -> dict[str, int]:
    """Process ids of the hypervisors' OVS daemons, by name."""
    names = ("ovs-vswitchd", "ovsdb-server")
    return {
        f"{name} {hypervisor.name}": daemon.pid
        for hypervisor in lab.hypervisors
        for name, daemon in zip(names, hypervisor.daemons, strict=True)
    }
