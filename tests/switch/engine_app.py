"""A Ryu app around a flow engine, driven by the test through a unix socket: pickled calls in, pickled results out.

The test starts it with the real ``ryu-manager``; NOVANET_TEST_CONTROL names the socket.
"""

from __future__ import annotations

import os
import pickle
from typing import Any

import eventlet
from eventlet.green import socket

from novanet_apps.compat import MAIN_DISPATCHER, app_manager, ofp_event, set_ev_cls
from novanet_apps.flow_engine import FlowEngine


class EngineApp(app_manager.RyuApp):  # type: ignore[misc]
    """Also an ordinary Ryu app: it counts the packet-ins and replies that Ryu's own way brings it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.engine = FlowEngine()
        self.confirmed: list[str] = []
        self.engine.on_confirmed(self.confirmed.append)
        self.recompile: list[str] = []
        self.engine.on_recompile(self.recompile.append)
        self.punts: list[str] = []
        self.engine.on_packet_in(lambda hypervisor, message: self.punts.append(hypervisor))
        self.seen: list[str] = []
        self.datapaths: dict[int, Any] = {}

    def start(self) -> Any:
        thread = super().start()
        self.engine.start()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.environ["NOVANET_TEST_CONTROL"])
        listener.listen(8)
        eventlet.spawn(self._accept, listener)
        return thread

    def close(self) -> None:
        self.engine.stop()

    @set_ev_cls(ofp_event.EventOFPStateChange, MAIN_DISPATCHER)
    def on_main(self, event: Any) -> None:
        self.datapaths[event.datapath.id] = event.datapath

    @set_ev_cls(
        [ofp_event.EventOFPPacketIn, ofp_event.EventOFPDescStatsReply, ofp_event.EventOFPFlowStatsReply],
        MAIN_DISPATCHER,
    )
    def on_message(self, event: Any) -> None:
        self.seen.append(type(event.msg).__name__)

    def send(self, dpid: int, message: str, *arguments: Any) -> None:
        """Send a message of Ryu's own."""
        datapath = self.datapaths[dpid]
        datapath.send_msg(getattr(datapath.ofproto_parser, message)(datapath, *arguments))

    def get(self, path: str) -> Any:
        """The value of a dotted attribute of the app."""
        value: Any = self
        for name in path.split("."):
            value = getattr(value, name)
        return vars(value) if hasattr(value, "__dict__") else value

    def _accept(self, listener: Any) -> None:
        while True:
            eventlet.spawn(self._serve, listener.accept()[0])

    def _serve(self, connection: Any) -> None:
        stream = connection.makefile("rwb")
        while True:
            try:
                name, arguments = pickle.load(stream)
            except EOFError:
                return
            method = getattr(self, name, None) or getattr(self.engine, name)
            try:
                result = True, method(*arguments)
            except Exception as error:
                result = False, f"{type(error).__name__}: {error}"
            pickle.dump(result, stream)
            stream.flush()
