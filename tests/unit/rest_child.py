"""A REST server of its own process, over a real topology and real admission, with everything else of the core played.

``python -m tests.unit.rest_child STATE_DIR [option=value …]`` writes one JSON line with its URL and then serves until its
standard input ends. How far an object is realised is what its description says: ``status=DEGRADED``, else ACTIVE;
``status=BUILD for 0.3`` becomes ACTIVE by itself. Lines on standard input are Python expressions, evaluated with
the names in ``main``; their values come back as JSON lines.
"""

from __future__ import annotations

# ruff: noqa: E402
import eventlet

eventlet.monkey_patch()

import itertools
import json
import logging
import random
import re
import sys
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from eventlet import tpool
from msgspec.structs import replace

from novanet_apps import captures as capture_files
from novanet_apps.balancing_counters import BalancingCounters
from novanet_apps.compat import logs
from novanet_apps.compat.openflow import Endpoint
from novanet_apps.meter_counters import MeterCounters
from novanet_apps.policy_log import LogEntry, PolicyLog
from novanet_apps.rest import Server, Settings, open_tokens
from novanet_apps.rest.api import Api
from novanet_apps.rule_counters import RuleCounters
from novanet_apps.telemetry.app import Processes
from novanet_apps.telemetry.settings import Settings as TelemetrySettings
from novanet_apps.tokens import TokenFile
from pipelines import fields as f
from pipelines import tables
from pipelines.compiler import Compiler
from pipelines.flow import Flow, match, set_field
from pipelines.ledger import Ledger, Snapshot
from pipelines.wire import OF13, FlowEntry
from pipelines.wire.flows import encode_flow
from topology import scope
from topology.admission import Allocator, Draft, Refused, Write, admit, consequences
from topology.changes import Edit
from topology.graph import Topology
from topology.model import Bridge, Network, TunnelMesh, Vif
from topology.mtu import max_mtu

MESH = "00000000-0000-4000-8000-000000000001"


class Store:
    """Admits writes and puts them into the graph at once."""

    def __init__(self, core: ChildCore) -> None:
        self.core = core
        self.ready = True
        self.fail: str = ""
        self._allocator = Allocator(random.Random(1))

    def on_ready(self, callback: Any) -> None:
        callback()

    def wait_ready(self, timeout: float | None = None) -> bool:
        return self.ready

    def record(self, kind: str, id: str, **fields: Any) -> None:
        self.core.apply([Edit(kind, id, replace(self.core.topology.get(kind, id), **fields))])

    def state(self) -> dict[str, Any]:
        return {"ready": self.ready, "connected": True, "error": ""}

    def submit(self, writes: list[Write], wait: bool = True) -> list[Any]:
        if self.fail:
            raise RuntimeError(self.fail)
        if not self.ready:
            raise Refused(503, "", "the intent store is not ready: connecting")
        if len(writes) == 1:
            eventlet.sleep(0)
        draft = Draft(self.core.topology)
        made = []
        for index, write in enumerate(writes):
            try:
                edit = admit(draft, write, self._allocator, str(uuid.uuid4()))
            except Refused as refused:
                refused.index = index
                raise
            for each in (*consequences(draft, edit, self._allocator), edit):
                draft.stage(each)
            made.append(edit.value)
        self.core.apply(draft.edits)
        return made


class Reconciler:
    """Statuses as descriptions say."""

    def __init__(self, core: ChildCore) -> None:
        self.core = core
        self.compiler = Compiler()
        self.since: dict[str, float] = {}
        self.asked = 0
        self.noted: list[str] = []
        self.dirtied: list[Any] = []

    def on_dirty(self, kind: str, tell: Any) -> None:
        assert kind == "pool"
        self.dirtied.append(tell)

    def status(self, kind: str, id: str) -> str:
        self.asked += 1
        obj = self.core.topology.get(kind, id)
        said = re.match(r"status=([A-Z]+)(?: for ([\d.]+))?", obj.description if obj else "")
        if said is None:
            return "ACTIVE"
        began = self.since.setdefault(id, time.monotonic())
        return "ACTIVE" if said[2] and time.monotonic() - began > float(said[2]) else said[1]

    def judge(self, kind: str, id: str) -> tuple[str, list[str]]:
        status = self.status(kind, id)
        return status, [] if status == "ACTIVE" else [f"it is {status}"]

    def settled(self, kind: str, id: str, timeout: float) -> str:
        end = time.monotonic() + timeout
        while self.status(kind, id) == "BUILD" and time.monotonic() < end:
            eventlet.sleep(0.02)
        return self.status(kind, id)

    def network_mtu(self, network: Network) -> int:
        return network.mtu or max_mtu(self.core.topology.mesh, 4)

    def warnings(self) -> list[str]:
        return self.noted


class ChildCore:
    """What ``novanet_apps.core.Core`` is to the REST interface."""

    def __init__(self) -> None:
        self.topology = Topology()
        self.store = Store(self)
        self.reconciler = Reconciler(self)
        self.hypervisors = SimpleNamespace(
            state=lambda id: {"connected": True, "ovs_version": "3.1.0"}, unknown={"hv9": {"reason": "who is that?"}}
        )
        self.engine = SimpleNamespace(
            state=lambda id: {"connected": False, "error": "no OpenFlow connection"},
            unknown=list,
            snapshot=self.snapshot,
            connected=lambda id: id in self.counted,
            meters=lambda id: 0,
            counted=lambda id, owner, timeout: self.counted[id],
            counted_in=lambda id, table, timeout: [entry for entry in self.counted[id] if entry.key[0] == table],
        )
        self.drops = SimpleNamespace(refresh=lambda: None)
        self.counted: dict[str, list[FlowEntry]] = {}
        """By hypervisor: what its switch counted for the rules of security groups, and for members of pools."""
        self.punts = SimpleNamespace(on=lambda reason, take: None)
        self._subscribers: list[Any] = []
        self.telemetry: Any = None
        self.anomalies: list[Any] = []
        self.rule_counters = RuleCounters(self)  # type: ignore[arg-type]
        self.balancing_counters = BalancingCounters(self)  # type: ignore[arg-type]
        self.meter_counters = MeterCounters(self)  # type: ignore[arg-type]
        self.policy_log = PolicyLog(self)  # type: ignore[arg-type]
        self.apply([Edit("tunnel-mesh", MESH, TunnelMesh(id=MESH, name="default"))])

    def apply(self, edits: list[Edit]) -> None:
        changes = self.topology.apply(edits)
        for _, (kind, id) in scope.dirty(self.topology, changes):
            for tell in self.reconciler.dirtied if kind == "pool" else ():
                tell(id)
        for tell in self._subscribers:
            tell(changes)

    def decided(self, hypervisor: str, rule: str, packets: int, size: int) -> None:
        """A hypervisor's switch has counted this for a rule."""
        key = self.topology.get("security-group-rule", rule).rule_key
        body = encode_flow(Flow(0, 0, b"", (set_field(f.RULE, key),)), OF13, 0)[1]
        self.counted.setdefault(hypervisor, []).append(FlowEntry(rule.encode(), body, packets, size, 1.0))

    def dealt(self, hypervisor: str, member: str, connections: int, packets: int, size: int) -> None:
        """A hypervisor's switch has counted this for a member: connections, and each way so many packets of so many bytes."""
        key = self.topology.get("member", member).member_key
        for table, what, number in (
            (tables.LB_DNAT, f.MEMBER(key), connections),
            (tables.LB_FORWARD, f.CT_MARK(key), packets),
            (tables.LB_REPLY, f.CT_MARK(key), packets),
        ):
            counted = Flow(table.number, 1, match(what)).key, b"", number, number * size, 1.0
            self.counted.setdefault(hypervisor, []).append(FlowEntry(*counted))

    def snapshot(self, hypervisor: str) -> Snapshot | None:
        """What a bridge would have; nothing is known of one that was never seen."""
        if self.topology.get("bridge", hypervisor) is None:
            return None
        ledger = Ledger(OF13)
        for owner in dict.fromkeys(scope.owners_on(self.topology, hypervisor)):
            ledger.put(owner, self.reconciler.compiler.rules(self.topology, hypervisor, owner), 0)
        return ledger.snapshot()

    def active_gateway(self, router_id: str) -> str | None:
        return None

    def subscribe(self, tell: Any) -> None:
        self._subscribers.append(tell)

    def counters(self) -> dict[str, Any]:
        return {
            "novanet_played_total": ("counter", "A counter of the core.", 3),
            "novanet_played": ("gauge", "A gauge with labels.", [({"what": 'say "so"\\\n'}, 0.5)]),
        }


def telemetry(core: Any, state_dir: Path) -> str:
    """Begin to record flows, without collectors; the recorder's socket."""
    core.telemetry = Processes(
        core,
        TelemetrySettings(("127.0.0.1:1",), "", (), 0, state_dir / "telemetry", "", None, (3, 14, 90, 400), 16, False),
    )
    core.telemetry.on_anomaly(core.anomalies.append)
    core.telemetry.start()
    while not core.telemetry.link.connected:
        eventlet.sleep(0.02)
    return str(state_dir / "telemetry" / "recorder.sock")


def captures(core: Any, state_dir: Path, *tls: str) -> str:
    """Begin to take captures, up to 1 MiB, on a socket of this machine or by TLS; where."""
    path = str(state_dir / "captures.sock")
    endpoint = Endpoint("pssl", "127.0.0.1", 0) if tls else Endpoint("punix", path, 0)
    settings = capture_files.Settings(state_dir / "captures", (endpoint,), tls or (None, None, None), 1 << 20, 3600.0)
    core.captures = capture_files.Captures(core, settings)
    core.captures.start()
    return f"ssl:127.0.0.1:{core.captures.ports[0]}" if tls else f"unix:{path}"


class Turns:
    """Counts how often another greenlet gets its turn."""

    def __init__(self) -> None:
        self.turns = 0

    def start(self) -> None:
        eventlet.spawn(self._run)

    def _run(self) -> None:
        while True:
            eventlet.sleep(0)
            self.turns += 1


def main() -> None:
    state_dir, *options = sys.argv[1:]
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    logs.use("keyvalue")
    chosen: dict[str, Any] = dict(option.split("=", 1) for option in options)
    for name in ("max_body", "max_connections"):
        if name in chosen:
            chosen[name] = int(chosen[name])
    settings = Settings(**{"listen": "127.0.0.1:0", "state_dir": Path(state_dir), **chosen})
    tokens = TokenFile(settings.state_dir)
    if settings.auth == "bearer":
        open_tokens(tokens)
    core: Any = ChildCore()
    api = Api(core, settings, tokens)
    server = Server(api, settings.address, settings.tls(), api.counters, settings.max_connections)
    server.start()
    print(json.dumps(server.url), flush=True)
    ofports = itertools.count(1)
    known = {
        "core": core,
        "api": api,
        "server": server,
        "modules": sys.modules,
        "sleep": eventlet.sleep,
        "lag": Turns(),
        "captures": lambda *tls: captures(core, settings.state_dir, *tls),
        "telemetry": lambda: telemetry(core, settings.state_dir),
        "logged": lambda **fields: core.policy_log.keep(msgspec.convert(fields, LogEntry)),
        "decided": lambda hypervisor, rule, packets, size: core.decided(hypervisor, rule, packets, size),
        "dealt": lambda hypervisor, member, connections, packets, size: core.dealt(
            hypervisor, member, connections, packets, size
        ),
        "plug": lambda port, hypervisor: core.apply(
            [Edit("vif", port, Vif(port_id=port, hypervisor_id=hypervisor, interface="v", ofport=next(ofports)))]
        ),
        "bridge": lambda hypervisor: core.apply(
            [Edit("bridge", hypervisor, Bridge(hypervisor_id=hypervisor, tunnel_ofport=1000))]
        ),
    }
    while line := tpool.execute(sys.stdin.readline):
        print(json.dumps(eval(line, known)), flush=True)
    server.stop()
    if core.telemetry is not None:
        core.telemetry.stop()


if __name__ == "__main__":
    main()
