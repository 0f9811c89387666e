"""What the scenarios of the hypervisors part run in: a real graph, a core that writes down, and real Open vSwitch.

This module is only imported in child processes: importing it turns eventlet's green threads on for good.
"""

from __future__ import annotations

import warnings

warnings.simplefilter("ignore")

import eventlet  # noqa: E402

eventlet.monkey_patch()

import logging  # noqa: E402
from collections.abc import Callable, Iterable, Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from msgspec.structs import replace  # noqa: E402

from novanet_apps.compat.openflow import parse_endpoint  # noqa: E402
from novanet_apps.hypervisors.registry import Hypervisors  # noqa: E402
from novanet_apps.hypervisors.settings import Settings  # noqa: E402
from tests.switch.daemons import Ovs, wait_for  # noqa: E402
from topology.changes import Change, Edit  # noqa: E402
from topology.graph import Topology  # noqa: E402
from topology.model import Bridge, Hypervisor, TunnelMesh, Vif  # noqa: E402

CONTROLLER = "tcp:127.0.0.1:1"
MESH = "00000000-0000-4000-8000-00000000aaaa"


def ident(number: int) -> str:
    """A UUID for tests."""
    return f"00000000-0000-4000-8000-{number:012d}"


class Engine:
    """Writes down which datapath belongs to whom."""

    def __init__(self) -> None:
        self.expected: dict[str, int] = {}

    def expect(self, hypervisor_id: str, dpid: int) -> None:
        self.expected[hypervisor_id] = dpid


class Core:
    """The graph, and every edit that was observed."""

    def __init__(self, settings: Settings) -> None:
        self.topology = Topology()
        self.engine = Engine()
        self.edits: list[Edit] = []
        self.hypervisors = Hypervisors(self, settings)

    def observe(self, edits: Iterable[Edit]) -> list[Change]:
        edits = list(edits)
        self.edits += edits
        return self.apply(edits)

    def apply(self, edits: Iterable[Edit]) -> list[Change]:
        changes = self.topology.apply(edits)
        self.hypervisors.changed(changes)
        return changes


class Lines(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def having(self, part: str) -> list[str]:
        return [text for text in self.texts if part in text]


class World:
    """One core, any number of hypervisors; everything is ended by `close`."""

    def __init__(self, directory: Path, listen: tuple[str, ...] = (), **settings: Any) -> None:
        self.directory = directory
        self._options = {"listen": listen, **settings}
        self.log = Lines()
        logging.basicConfig(level=logging.INFO)
        logging.getLogger("novanet_apps").addHandler(self.log)
        targets = settings.pop("controller_targets", (CONTROLLER,))
        endpoints = tuple(parse_endpoint(text) for text in listen)
        self.core = Core(Settings(listen=endpoints, controller_targets=targets, **settings))
        self.topology, self.hypervisors = self.core.topology, self.core.hypervisors
        self.switches: list[Ovs] = []

    def start(self) -> None:
        """Begin, with all of the intent known."""
        self.core.apply([Edit("tunnel-mesh", MESH, TunnelMesh(id=MESH))])
        self.hypervisors.start()
        self.hypervisors.complete()

    def another(self) -> World:
        """A controller that takes this one's place; it is not started."""
        return World(self.directory, **self._options)

    def ovs(self, name: str, *server_options: str) -> Ovs:
        """A host's Open vSwitch, not yet known to NovaNet."""
        switch = Ovs(self.directory / name, name, *server_options)
        self.switches.append(switch)
        return switch

    def add(self, number: int, switch: Ovs | None = None, **fields: Any) -> str:
        """Make a hypervisor object h<number>; returns its id."""
        fields = {"tunnel_ip": f"192.0.2.{number}", "ovsdb": switch.socket if switch else "passive"} | fields
        hypervisor = Hypervisor(**{"id": ident(number), "name": f"h{number}", "hypervisor_key": number} | fields)
        self.core.apply([Edit("hypervisor", hypervisor.id, hypervisor)])
        return hypervisor.id

    def change(self, kind: str, id: str, **fields: Any) -> None:
        """Change an object of the intent."""
        self.core.apply([Edit(kind, id, replace(self.topology.get(kind, id), **fields))])

    def ready(self, *ids: str) -> None:
        """Wait until these hypervisors are connected and set up, with an open tunnel port."""
        for id in ids:
            wait_for(
                lambda id=id: (self.bridge(id) or Bridge(hypervisor_id="")).tunnel_ofport, f"{id}: {self.state(id)}"
            )

    def state(self, id: str) -> dict[str, Any]:
        return self.hypervisors.state(id)

    def bridge(self, id: str) -> Bridge | None:
        bridge: Bridge | None = self.topology.get("bridge", id)
        return bridge

    def vif(self, port_id: str) -> Vif | None:
        vif: Vif | None = self.topology.get("vif", port_id)
        return vif

    @contextmanager
    def edits(self) -> Iterator[list[Edit]]:
        """The edits that are observed meanwhile."""
        start = len(self.core.edits)
        found: list[Edit] = []
        yield found
        found += self.core.edits[start:]

    def settle(self, counter: Callable[[], object], quiet: float = 0.5) -> None:
        """Wait until a value has stayed the same for some time."""
        before = object()
        while before != (before := counter()):
            eventlet.sleep(quiet)

    def listener(self) -> tuple[str, int]:
        """Where the first listener listens."""
        wait_for(lambda: self.hypervisors.listeners[0].port)
        return "127.0.0.1", self.hypervisors.listeners[0].port

    def close(self) -> None:
        self.hypervisors.stop()
        for switch in self.switches:
            switch.stop()
