"""From a question to its trace: the next hop is asked for, the packet is sent, and answered if that was wished."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pipelines import fields as f
from pipelines import tables as t
from pipelines.addresses import addresses_of
from pipelines.compiler import Compiler
from pipelines.interpreter import HEADERS, Packet
from topology.graph import Topology
from topology.model import Port, Vif

from . import question as q
from .names import Names
from .question import Question, Sender, Unanswerable
from .report import ARRIVES, End, Leg, Trace, best
from .switches import Fetch, Pace, Switches
from .walk import Arrival, Walk, Walked

_BEFORE_SWITCHING = {table.name for table in t.PIPELINE if table.number < t.L2_LOOKUP.number}
"""Where a question is lost on its way to the others of its network."""
UNKNOWN_HOST = 0x024E56FFFFFD
"""Stands for the MAC address of a host on a wire that NovaNet does not know."""


def trace(
    topology: Topology,
    compiler: Compiler,
    fetch: Fetch,
    question: Question,
    names: Names | None = None,
    pace: Pace = iter,
    *,
    flows: bool = True,
) -> Trace:
    """The way of a VM's packet over all hypervisors.

    Raises Unanswerable when the question makes no sense, ``switches.Unknown`` when nothing is known of a hypervisor that
    the packet comes to, and ``NotInterpreted`` when a flow there does what the interpreter does not know.
    """
    return _Tracer(topology, compiler, fetch, names or Names(topology), pace, flows).trace(question)


class _Tracer:
    def __init__(
        self, topology: Topology, compiler: Compiler, fetch: Fetch, names: Names, pace: Pace, flows: bool
    ) -> None:
        self.topology, self.names = topology, names
        self._walk = Walk(topology, Switches(topology, compiler, fetch, pace), names, flows=flows)
        self._warnings: list[str] = []

    def trace(self, question: Question) -> Trace:
        port, vif = self._plugged(question.source)
        sender = Sender(self.topology, port, question.destination)
        legs: list[Leg] = []
        mac = self._resolve(sender, vif, legs)
        if mac is None:
            return self._report(legs)
        packet = q.request(question, sender, mac)
        arrives = f"from {self.names.say('port', port.id)}"
        if question.established:  # the first packet and its answer, which nobody is told about
            self._answer(self._walk.go(vif.hypervisor_id, vif.ofport or 0, packet, arrives), [])
            packet = q.following(packet)
        walked = self._walk.go(vif.hypervisor_id, vif.ofport or 0, packet, arrives)
        legs.append(self._leg("request", packet, walked, port.id))
        if question.reply and legs[-1].verdict in ("delivered", "left"):
            self._answer(walked, legs)
        return self._report(legs)

    def _plugged(self, id: str) -> tuple[Port, Vif]:
        port: Port | None = self.topology.get("port", id)
        if port is None:
            raise Unanswerable("source", f"there is no port {id}")
        if port.router_id is not None:
            raise Unanswerable("source", "is a router's interface; a trace begins at a VM's port")
        vif: Vif | None = self.topology.get("vif", id)
        if vif is None or vif.ofport is None:
            raise Unanswerable(
                "source", f"port {port.name or id} is not plugged: no hypervisor has an interface with this iface-id"
            )
        return port, vif

    # --- the next hop ----------------------------------------------------------------------------------------------

    def _resolve(self, sender: Sender, vif: Vif, legs: list[Leg]) -> int | None:
        """The MAC address that the VM sends to, asked for as it would; None when it gets none."""
        several = sender.several()
        if several is not None:
            return several
        hop = sender.next_hop()
        if hop is None:
            text = f"the VM has no route to {sender.to}: its subnet has no gateway"
            legs.append(Leg("resolve", f"to {sender.to}", "dropped", text, ()))
            return None
        packet = sender.question(hop)
        asks = f"from {self.names.say('port', sender.port.id)}"
        walked = self._walk.go(vif.hypervisor_id, vif.ofport or 0, packet, asks)
        for mac in self._told(sender, hop, walked.arrivals):
            text = f"{hop} is at {f.mac_text(mac)}"
            legs.append(Leg("resolve", q.describe(packet), "answered", text, tuple(walked.hops)))
            return mac
        worst = best(walked.ends)
        if worst is not None and worst.table in _BEFORE_SWITCHING:
            text = f"{hop} cannot be asked for: {worst.text}"
        else:
            text = f"nobody answers for {hop}"
        legs.append(Leg("resolve", q.describe(packet), "dropped", text, tuple(walked.hops)))
        return None

    def _told(self, sender: Sender, hop: str, arrivals: Iterable[Arrival]) -> Iterable[int]:
        """What those answer who got the question: a switch, a VM that has the address, or a host on a wire."""
        wired: list[Arrival] = []
        for arrival in arrivals:
            if arrival.port_id == sender.port.id:
                told = sender.told(arrival.packet, hop)
                if told is not None:
                    yield told
            elif arrival.port_id is not None:
                yield from _owns(self.topology.get("port", arrival.port_id), hop)
            else:
                wired.append(arrival)
        for arrival in wired:
            known = (self.topology.get("neighbour", id) for id in self.topology.neighbours_in(arrival.network or ""))
            yield from (f.mac(each.mac_address) for each in known if each is not None and each.ip_address == hop)
            self._warnings.append(
                f"{hop} is taken for a host on the wire that answers; NovaNet does not know its MAC address"
            )
            yield UNKNOWN_HOST

    # --- the answer ------------------------------------------------------------------------------------------------

    def _answer(self, walked: Walked, legs: list[Leg]) -> None:
        """Let the first who got the packet answer it."""
        arrival = next((each for each in walked.arrivals if each.port_id is not None or each.host), None)
        packet = q.answer(arrival.packet) if arrival is not None else None
        if arrival is None or packet is None:
            return
        back = {field: packet[field] for field in HEADERS if packet.get(field)}
        if arrival.port_id is None:
            again = self._walk.from_wire(arrival, back)
            legs.append(self._leg("reply", back, again, None))
            return
        seen = self.names.sees("port", arrival.port_id)
        shown = q.describe(back) if seen else "the answer, from a network of another project"
        found: list[Leg] = []
        try:
            port, vif = self._plugged(arrival.port_id)
            sender = Sender(self.topology, port, q.ip_text(back, "destination"))
        except Unanswerable as problem:
            legs.append(Leg("reply", shown, "dropped", f"there is no answer: {problem}", ()))
            return
        mac = self._resolve(sender, vif, found)
        if mac is None:
            text = found[-1].text if seen else "the other end does not know its next hop"
            legs.append(Leg("reply", shown, "dropped", text, found[-1].hops))
            return
        back[f.ETH_DST] = mac
        again = self._walk.go(vif.hypervisor_id, vif.ofport or 0, back, f"from {self.names.say('port', port.id)}")
        legs.append(msgspec.structs.replace(self._leg("reply", back, again, port.id), packet=shown))

    # --- in words --------------------------------------------------------------------------------------------------

    def _leg(self, name: str, packet: Packet, walked: Walked, sender: str | None) -> Leg:
        ends = list(walked.ends)
        if name == "request":
            ends = [_echoed(end, packet, walked, sender) for end in ends]
        told = best(ends) or End("dropped", "nothing is known of what became of it")
        return Leg(name, q.describe(packet), told.verdict, told.text, tuple(walked.hops))  # type: ignore[arg-type]

    def _report(self, legs: list[Leg]) -> Trace:
        last, text = legs[-1], legs[-1].text
        request = next((leg for leg in legs if leg.name == "request"), None)
        if last.name == "reply" and request is not None:
            text = f"{request.text}; the reply is {_passive(last)}"
        return Trace(last.verdict, text, tuple(legs), tuple(dict.fromkeys(self._warnings)))


def _passive(leg: Leg) -> str:
    return leg.text if leg.verdict in ARRIVES or leg.text.startswith("dropped") else f"{leg.verdict}: {leg.text}"


def _owns(port: Port | None, text: str) -> Iterable[int]:
    """The MAC address with which a VM answers for an address, if it may have it."""
    if port is None:
        return
    address = f.ip(text)
    for mac, prefixes in addresses_of(port).allowed.items():
        for first, mask in prefixes.v6 if ":" in text else prefixes.v4:
            if mask is None and first == address:
                yield mac


def _echoed(end: End, packet: Packet, walked: Walked, sender: str | None) -> End:
    """An echo request that came back to its sender as the reply has been answered on its way."""
    for arrival in walked.arrivals:
        for kind, number in ((f.ICMPV4_TYPE, f.ICMP), (f.ICMPV6_TYPE, f.ICMPV6)):
            asked = packet.get(f.IP_PROTO) == number and packet.get(kind) in (8, 128)
            if (
                asked
                and arrival.port_id == sender
                and arrival.packet.get(kind) in (0, 129)
                and end.verdict == "delivered"
            ):
                source = q.ip_text(arrival.packet, "source")
                return End("answered", f"answered by {source}: the echo reply is {end.text}", end.table, end.objects)
    return end
