"""A controller's end of an OpenFlow connection, for tests: asks, waits for the answer, and complains about errors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from pipelines import wire
from tests.switch.conftest import Switch


class Speaker:
    """One connection to a switch that speaks one version."""

    def __init__(self, switch: Switch, version: int) -> None:
        self.version = version
        self.xids = count(1)
        self._socket = switch.connect()
        self._framer = wire.Framer()
        self._inbox: list[wire.Message] = []
        self.send(wire.hello({version}, next(self.xids)))
        assert self.receive().type == wire.Type.HELLO

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> wire.Message:
        """The next message."""
        while not self._inbox:
            data = self._socket.recv(1 << 16)
            assert data, "the switch closed the connection"
            self._inbox = self._framer.feed(data)
        return self._inbox.pop(0)

    def until(self, xid: int) -> Iterator[wire.Message]:
        """Messages up to the one that answers a transaction; errors fail the test."""
        while True:
            message = self.receive()
            value = wire.read(message)
            assert not isinstance(value, wire.Error), f"{value} {value.data.hex()}"
            yield message
            if message.xid == xid and not (isinstance(value, wire.Part) and value.more):
                return

    def parts(self, request: bytes) -> list[wire.Part]:
        """The answer to a multipart request."""
        self.send(request)
        values = [wire.read(message) for message in self.until(int.from_bytes(request[4:8], "big"))]
        return [value for value in values if isinstance(value, wire.Part)]

    def flows(self) -> list[wire.FlowEntry]:
        return [
            flow for part in self.parts(wire.flows_request(self.version, next(self.xids))) for flow in wire.flows(part)
        ]

    def groups(self) -> dict[int, bytes]:
        parts = self.parts(wire.groups_request(self.version, next(self.xids)))
        return dict(group for part in parts for group in wire.groups(part))

    def meters(self) -> dict[int, bytes]:
        parts = self.parts(wire.meters_request(self.version, next(self.xids)))
        return dict(meter for part in parts for meter in wire.meters(part))

    def ask(self, request: bytes) -> wire.Message:
        """The answer to a request."""
        self.send(request)
        return list(self.until(int.from_bytes(request[4:8], "big")))[-1]

    def map_option(self, option: tuple[int, int, int, int]) -> None:
        """Map a Geneve option unless it is; it stays mapped, since flows that are gone may hold it for a while."""
        table = wire.read(self.ask(wire.tlv_request(self.version, next(self.xids))))
        assert isinstance(table, wire.TlvTable)
        if option not in table.options:
            self.send(wire.tlv_mod(self.version, next(self.xids), wire.TlvCommand.ADD, option))
            self.ask(wire.barrier(self.version, next(self.xids)))

    def apply(self, delta: wire.Delta, size: int = wire.BUNDLE_SIZE) -> list[wire.Batch]:
        """Send a delta and wait until all of it is done; returns the batches that were sent."""
        sent = []
        for batch in wire.batches(delta, self.version, self.xids, size):
            self.send(batch.data)
            for _ in self.until(batch.last):
                pass
            sent.append(batch)
        return sent
