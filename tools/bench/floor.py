"""What a change costs without any controller: one flow to every switch at once over bare sockets, until all barriers."""

from __future__ import annotations

import socket
import time
from itertools import count
from selectors import EVENT_READ, DefaultSelector
from types import TracebackType

from pipelines import wire
from pipelines.flow import Flow
from tools.lab.errors import LabError
from tools.lab.hypervisor import Hypervisor
from tools.lab.openvswitch import INTEGRATION

TABLE = 253
"""A table that no product uses: what is there, no packet meets."""
TIMEOUT = 60.0


class Floor:
    """Connections of our own to the bridges of some hypervisors, within ``with``."""

    def __init__(self, hypervisors: list[Hypervisor]) -> None:
        self._hypervisors = hypervisors
        self._sockets: list[socket.socket] = []
        self._xids = count(1)
        self._flow = wire.encode_flow(Flow(TABLE, 1, b""), wire.OF13, 0)

    def __enter__(self) -> Floor:
        for hypervisor in self._hypervisors:
            connection = socket.socket(socket.AF_UNIX)
            self._sockets.append(connection)
            connection.connect(f"{hypervisor.directory}/{INTEGRATION}.mgmt")
            connection.sendall(wire.hello({wire.OF13}, next(self._xids)))
        self.change()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._sockets:
            connection.close()

    def change(self) -> float:
        """Seconds until all bridges have confirmed one more flow; it is taken away again. Raises LabError."""
        xid = next(self._xids)
        seconds = self._ask(wire.flow_add(*self._flow, wire.OF13, xid))
        self._ask(wire.flow_delete(self._flow[0], wire.OF13, xid))
        return seconds

    def _ask(self, request: bytes) -> float:
        xid = next(self._xids)
        began = time.monotonic()
        with DefaultSelector() as selector:
            for connection in self._sockets:
                connection.sendall(request + wire.barrier(wire.OF13, xid))
                selector.register(connection, EVENT_READ, wire.Framer())
            while selector.get_map():
                ready = selector.select(TIMEOUT)
                if not ready:
                    raise LabError(f"a bridge does not answer within {TIMEOUT:g} s")
                for key, _ in ready:
                    data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    if not data:
                        raise LabError("a bridge has closed the connection")
                    if any(
                        message.type == wire.Type.BARRIER_REPLY and message.xid == xid
                        for message in key.data.feed(data)
                    ):
                        selector.unregister(key.fileobj)
        return time.monotonic() - began
