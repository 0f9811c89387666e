"""Many switches in one vswitchd, each with its controller, and rules for them to have."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines import fields as f
from pipelines.flow import Flow, match, set_field

from .conftest import Switch
from .controller import Controller, until

ALL_VERSIONS = "OpenFlow13,OpenFlow14,OpenFlow15"
TABLE = 5
OWNER = ("network", "n1")


def dpid_of(name: str) -> int:
    """A datapath id of NovaNet's kind for a bridge's name."""
    return 0x4E4E << 48 | sum(byte << 8 * n for n, byte in enumerate(name.encode()[-6:]))


class Bridges(Switch):
    """``add`` makes a bridge that connects to a controller; the controller's name for its hypervisor is the bridge's."""

    def start(self) -> None:
        super().start()
        self.vsctl("del-br", self.bridge)

    def add(self, name: str, controller: Controller, protocols: str = ALL_VERSIONS) -> None:
        controller.call("expect", name, dpid_of(name))
        self.vsctl(
            *f"add-br {name} -- set bridge {name} datapath_type=dummy fail_mode=secure protocols={protocols} "
            f"other-config:datapath-id={dpid_of(name):016x} other-config:disable-in-band=true "
            f"-- set-controller {name} unix:{controller.socket}".split()
        )  # fmt: skip
        self.vsctl("set", "controller", name, "max_backoff=1000")

    def remove(self, *names: str) -> None:
        for name in names:
            self.vsctl("--if-exists", "del-br", name)

    def dpid(self, name: str) -> int:
        """The bridge's datapath id."""
        return int(self.vsctl("get", "bridge", name, "datapath_id").strip().strip('"'), 16)

    def kill(self) -> None:
        """SIGKILL for vswitchd; its flows are gone with it."""
        daemon = self._daemons.pop()
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """vswitchd hangs."""
        self._daemons[-1].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._daemons[-1].send_signal(signal.SIGCONT)

    def start_again(self) -> None:
        for left in self.directory.glob("*.mgmt"):
            left.unlink()
        self._daemon(
            "ovs-vswitchd", f"unix:{self.directory}/db.sock", f"--unixctl={self.directory}/vswitchd.ctl",
            "--enable-dummy=override", "--disable-system", "--disable-system-route",
        )  # fmt: skip

    def flows(self, name: str) -> dict[str, dict[str, str]]:
        """Match -> the rest of each flow as ovs-ofctl dumps it."""
        found = {}
        for line in self.ofctl("dump-flows", name, version=ALL_VERSIONS).splitlines():
            parts = re.match(r"\s*(.*?)\s*(priority=\S+)? actions=(.*)", line)
            if "table=" not in line or parts is None:
                continue
            values = dict(item.partition("=")[::2] for item in parts[1].split(", "))
            found[f"{values['table']},{parts[2] or ''}"] = values | {"actions": parts[3]}
        return found

    def count(self, name: str) -> int:
        return len(self.flows(name))

    def trace(self, name: str, flow: str) -> str:
        return self.appctl("ofproto/trace", name, flow)


class EngineController(Controller):
    """A controller on a unix socket in OVS's own directory, the only place where OVS looks; audits only where asked for."""

    def __init__(self, directory: Path, rundir: Path, *more: str, socket: Path | None = None) -> None:
        """``socket`` is where an earlier controller listened, to take its place."""
        self.socket = socket or rundir / f"of.{time.monotonic_ns()}"
        super().__init__(directory, "--openflow-listen", f"punix:{self.socket}", "--audit-interval", "0", *more)

    def synced(self, name: str) -> dict[str, Any]:
        """Wait until the bridge was compared and has confirmed everything; returns its state."""
        state: dict[str, Any] = until(
            lambda: self._settled_state(name),
            lambda: f"{name} is in sync: {self.call('state', name)}\n{self.log[-3000:]}",
        )
        return state

    def _settled_state(self, name: str) -> dict[str, Any] | None:
        state: dict[str, Any] = self.call("state", name)
        return state if state["synced"] and not state["pending"] and not state["in_flight"] else None


def flow(
    number: int, register: int | None = None, network: int = 1, priority: int = 100, goto: int = TABLE + 1
) -> Flow:
    """Flow ``number`` of the shape metadata + ipv4_dst -> set register, goto."""
    value = number if register is None else register
    matched = match(f.ETH_TYPE(f.IPV4), f.NETWORK(network), f.IPV4_DST(0x0A000000 + number))
    return Flow(TABLE, priority, matched, (set_field(f.OUT_PORT_KEY, value),), goto)


def flows(count: int, start: int = 0, register: int | None = None) -> list[Flow]:
    return [flow(number, register) for number in range(start, start + count)]
