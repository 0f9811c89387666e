"""A switch that understands no more than flow-mods, group-mods, meter-mods and bundles, and insists on their order.

It reads messages on its own, byte by byte, and does what Open vSwitch does with them: a flow may only use groups and
meters that are there, a group or meter that goes takes the flows that use it along, a meter is added once.
"""

from __future__ import annotations

from pipelines.wire import OF13, OF15, Framer, Message
from pipelines.wire.decode import ToGroup, ToMeter, buckets, instructions

ADD, MODIFY, DELETE, DELETE_STRICT, ADD_OR_MODIFY = 0, 1, 2, 4, 0x8000


def number(data: bytes) -> int:
    return int.from_bytes(data, "big")


class NaiveSwitch:
    """What the switch has: ``flows`` by key, ``groups`` and ``meters`` by number."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.flows: dict[bytes, bytes] = {}
        self.groups: dict[int, bytes] = {}
        self.meters: dict[int, bytes] = {}
        self.bundles: list[int] = []
        """How many messages each bundle had."""
        self._open: dict[int, list[Message]] = {}

    def receive(self, data: bytes) -> None:
        """Take messages in; a bundle happens when it is committed."""
        for message in Framer().feed(data):
            assert message.version == self.version
            self._message(message)

    def _message(self, message: Message) -> None:
        control, add = (33, 34) if self.version > OF13 else (2300, 2301)
        kind, body = message.type, message.body
        if self.version == OF13 and kind == 4:
            assert body[:4] == b"ONF\0"
            kind, body = number(body[4:8]), body[8:]
        if kind == control:
            self._control(number(body[:4]), number(body[4:6]), number(body[6:8]))
        elif kind == add:
            (inner,) = Framer().feed(body[8:])
            assert inner.xid == message.xid and body[6:8] == b"\0\3"
            assert inner.type in (14, 15), "only flow-mods and group-mods can be in a bundle"
            self._open[number(body[:4])].append(inner)
        elif kind != 20:
            assert kind == 29, f"message of type {kind} outside a bundle"
            self._meter_mod(body)

    def _control(self, bundle: int, what: int, flags: int) -> None:
        assert flags == 3, "atomic and ordered"
        if what == 0:
            self._open[bundle] = []
        else:
            assert what == 4
            messages = self._open.pop(bundle)
            self.bundles.append(len(messages))
            for message in messages:
                (self._flow_mod if message.type == 14 else self._group_mod)(message.body)

    def _flow_mod(self, body: bytes) -> None:
        command, length = body[17], number(body[42:44])
        key = body[16:17] + body[22:24] + body[44 : 40 + length]
        flow = body[:8] + body[18:22] + body[36:40] + body[40 + (length + 7) // 8 * 8 :]
        if command == DELETE_STRICT:
            self.flows.pop(key, None)
            return
        assert command == ADD
        groups, meters = self.used(flow)
        assert groups <= self.groups.keys(), "the flow uses a group that is not there"
        assert meters <= self.meters.keys(), "the flow uses a meter that is not there"
        self.flows[key] = flow

    def _group_mod(self, body: bytes) -> None:
        command, id = number(body[:2]), number(body[4:8])
        if command == DELETE:
            self.groups.pop(id, None)
            self.flows = {key: flow for key, flow in self.flows.items() if id not in self.used(flow)[0]}
            return
        assert command == ADD_OR_MODIFY
        content = body[16:] if self.version == OF15 else body[8:]
        self.groups[id] = body[2:3] + len(content).to_bytes(2, "big") + content

    def _meter_mod(self, body: bytes) -> None:
        command, id = number(body[:2]), number(body[4:8])
        if command == DELETE:
            self.meters.pop(id, None)
            self.flows = {key: flow for key, flow in self.flows.items() if id not in self.used(flow)[1]}
            return
        assert (command == MODIFY) == (id in self.meters), "a meter is added once, and modified when it is there"
        self.meters[id] = body[2:4] + body[8:]

    def used(self, flow: bytes) -> tuple[set[int], set[int]]:
        """Groups and meters that a flow uses."""
        done = instructions(flow[16:])
        groups = {step.id for step in done.actions if isinstance(step, ToGroup)}
        meters = {step.id for step in done.actions if isinstance(step, ToMeter)}
        return groups, meters | ({done.meter} if done.meter is not None else set())

    def outputs(self, id: int) -> int:
        """How many buckets a group has."""
        return len(list(buckets(self.groups[id], self.version < OF15)))
