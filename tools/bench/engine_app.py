"""The Ryu app that benchmarks of the flow engine drive: one JSON command a line on a unix socket, one answer a line.

{"do": "install", "first": A, "count": N, "owners": M, "prepared": true}    -> {"seconds": …}, from put to confirmation
{"do": "remove"}    take everything away again    {"do": "ryu_loop", "count": N}    the same by Ryu's OFPFlowMod
{"do": "state"}     the engine's state of the bridge
"""

from __future__ import annotations

import gc
import json
import os
import time
from typing import Any

import eventlet
from eventlet.event import Event
from eventlet.green import socket

from novanet_apps.compat import MAIN_DISPATCHER, app_manager, ofp_event, set_ev_cls
from novanet_apps.flow_engine import FlowEngine
from pipelines import fields as f
from pipelines.flow import Flow, Rule, match, set_field
from tools.bench.switch import DPID

HYPERVISOR = "bench"
TABLE, PRIORITY, GOTO = 5, 100, 6
NETWORKS = 1000
FIRST_ADDRESS = 0x0A000000
AHEAD = 8
"""Owners that a large load may be ahead of the switch, so that only their flows are in memory as objects."""

Owner = tuple[str, str]


def flow(number: int) -> Flow:
    """metadata and ipv4_dst -> set a register, goto: the shape of most of the pipeline's flows."""
    matched = match(f.ETH_TYPE(f.IPV4), f.NETWORK(number % NETWORKS + 1), f.IPV4_DST(FIRST_ADDRESS + number))
    return Flow(TABLE, PRIORITY, matched, (set_field(f.IN_PORT_KEY, number),), GOTO)


class BenchApp(app_manager.RyuApp):
    """Serves one client."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.engine = FlowEngine()
        self.engine.expect(HYPERVISOR, DPID)
        self.engine.complete(HYPERVISOR)
        self.engine.on_confirmed(lambda hypervisor: self._tell())
        self._news = Event()
        self._barrier = Event()
        self._owners: list[Owner] = []
        self._datapath: Any = None

    def start(self) -> Any:
        thread = super().start()
        self.engine.start()
        gc.freeze()  # as novanet_apps.core does
        gc.set_threshold(50_000, 50, 1000)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.environ["NOVANET_BENCH_CONTROL"])
        listener.listen(1)
        eventlet.spawn(self._serve, listener)
        return thread

    @set_ev_cls(ofp_event.EventOFPStateChange, MAIN_DISPATCHER)
    def on_main(self, event: Any) -> None:
        self._datapath = event.datapath

    @set_ev_cls(ofp_event.EventOFPBarrierReply, MAIN_DISPATCHER)
    def on_barrier(self, event: Any) -> None:
        self._barrier.send()

    def _serve(self, listener: Any) -> None:
        stream = listener.accept()[0].makefile("rwb")
        while asked := stream.readline():
            command = json.loads(asked)
            answer = getattr(self, command.pop("do"))(**command)
            stream.write(json.dumps(answer).encode() + b"\n")
            stream.flush()

    def state(self) -> dict[str, Any]:
        return self.engine.state(HYPERVISOR)

    def install(self, first: int, count: int, owners: int, prepared: bool) -> dict[str, float]:
        """Seconds from the first put to the confirmation of the last owner; with the making of the values or without."""
        share = count // owners
        starts = range(first, first + count, share)
        spans = [(("port", str(start)), range(start, start + share)) for start in starts]
        self._owners += [owner for owner, _ in spans]
        ready: dict[Owner, list[Rule]] = {}
        if prepared:
            ready = {owner: [flow(number) for number in span] for owner, span in spans}
        eventlet.sleep(0.1)  # the making of the values is not the engine's lag
        self.engine.counters.loop_lag_ms_max = 0
        began = time.perf_counter()
        if prepared:
            self.engine.put(HYPERVISOR, ready)
        else:
            for n, (owner, span) in enumerate(spans):
                self.engine.put(HYPERVISOR, {owner: [flow(number) for number in span]})
                eventlet.sleep(0)
                if n >= AHEAD:
                    self._wait(spans[n - AHEAD][0])
        for owner, _ in spans:
            self._wait(owner)
        return {"seconds": time.perf_counter() - began, "loop_lag_ms": self.engine.counters.loop_lag_ms_max}

    def remove(self) -> dict[str, float]:
        began = time.perf_counter()
        self.engine.put(HYPERVISOR, {owner: [] for owner in self._owners})
        for owner in self._owners:
            self._wait(owner)
        self._owners = []
        return {"seconds": time.perf_counter() - began}

    def ryu_loop(self, count: int) -> dict[str, float]:
        """Ryu's own classes in a loop, as its documentation has it."""
        datapath = self._datapath
        parser, ofproto = datapath.ofproto_parser, datapath.ofproto
        began = time.perf_counter()
        for number in range(count):
            matched = parser.OFPMatch(eth_type=f.IPV4, metadata=number % NETWORKS + 1, ipv4_dst=FIRST_ADDRESS + number)
            apply = parser.OFPInstructionActions(ofproto.OFPIT_APPLY_ACTIONS, [parser.OFPActionSetField(reg1=number)])
            instructions = [apply, parser.OFPInstructionGotoTable(GOTO)]
            datapath.send_msg(
                parser.OFPFlowMod(datapath, table_id=TABLE, priority=PRIORITY, match=matched, instructions=instructions)
            )
        self._barrier = Event()
        datapath.send_msg(parser.OFPBarrierRequest(datapath))
        self._barrier.wait()
        return {"seconds": time.perf_counter() - began}

    def _wait(self, owner: Owner) -> None:
        while self.engine.pending(HYPERVISOR, owner):
            self._news.wait()
        if error := self.engine.error(HYPERVISOR, owner):
            raise RuntimeError(error)

    def _tell(self) -> None:
        news, self._news = self._news, Event()
        news.send()
