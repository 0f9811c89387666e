"""Takes a packet from hypervisor to hypervisor, through tunnels and over wires, until every copy has ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from pipelines import fields as f
from pipelines import tables as t
from pipelines.flow import CONTROLLER
from pipelines.interpreter import HEADERS, Outcome, Packet, Sent, Stop, Visit
from pipelines.punting import Reason
from pipelines.wire import describe
from topology.graph import Topology
from topology.model import Bridge, Hypervisor, Network, Vif

from . import policies
from .names import Names
from .report import End, Hop, Named, Step
from .switches import Switch, Switches, Unknown
from .words import PUNTED, Seen, Words

MOST = 64
"""Hypervisors that the copies of one packet come to before it counts as going round in circles."""
_LOOKUPS = (t.IDENTITY.number, t.SOURCE.number, t.DESTINATION.number)
_TUNNEL = (f.TUNNEL_ID, f.TUN_OPTION, f.TUN_SRC, f.TUN_DST, f.TUN_IPV6_SRC, f.TUN_IPV6_DST)


class Arrival(NamedTuple):
    """A packet at its end: a VM's port, or a wire."""

    hypervisor: str
    ofport: int
    packet: Packet
    port_id: str | None
    network: str | None
    """The provider network, where it is a wire."""
    host: bool = False
    """Whether it is for a host outside; else for another hypervisor on the wire, where it goes on."""


class _Coming(NamedTuple):
    hypervisor: str
    ofport: int
    packet: Packet
    arrives: str


class Walked(NamedTuple):
    """What became of a packet."""

    hops: list[Hop]
    arrivals: list[Arrival]
    ends: list[End]


class Walk:
    """Packets of one trace; what the switches learn of connections stays from one to the next."""

    def __init__(self, topology: Topology, switches: Switches, names: Names, *, flows: bool = True) -> None:
        self.topology, self.switches, self.names = topology, switches, names
        self._words = Words(topology, names)
        self._flows = flows

    def go(self, hypervisor: str, ofport: int, packet: Packet, arrives: str) -> Walked:
        """Send a packet into a hypervisor's bridge. Raises ``switches.Unknown`` and ``NotInterpreted``."""
        walked = Walked([], [], [])
        coming = deque([_Coming(hypervisor, ofport, packet, arrives)])
        while coming:
            one = coming.popleft()
            if len(walked.hops) == MOST:
                walked.ends.append(End("dropped", "it goes round in circles between hypervisors"))
                break
            switch = self.switches[one.hypervisor]
            outcome = switch.run(one.packet, one.ofport)
            ends: list[End] = []
            for sent in outcome.sent:
                for what in self._leaves(one.hypervisor, sent):
                    match what:
                        case _Coming():
                            coming.append(what)
                        case End():
                            ends.append(what)
                        case Arrival():
                            walked.arrivals.append(what)
            went_on = bool(outcome.sent) and not all(_is_note(sent) for sent in outcome.sent)
            if not went_on:
                ends.append(self._dropped(switch, outcome))
            steps = tuple(self._steps(switch, outcome))
            walked.hops.append(Hop(self.names.of("hypervisor", one.hypervisor), one.arrives, steps, tuple(ends)))
            walked.ends.extend(ends)
        return walked

    # --- steps -------------------------------------------------------------------------------------------------------

    def _steps(self, switch: Switch, outcome: Outcome) -> Iterator[Step]:
        visits = outcome.visits
        for visit, following in zip(visits, [*visits[1:], None], strict=True):
            then = following.before if following is not None else visit.after
            seen = Seen(visit, switch.owners(visit), then)
            if self._is_hidden(visit):
                continue
            text = self._words.step(seen)
            if text:
                hit = visit.hit
                flow = describe(hit.key, hit.body) if self._flows and hit is not None else ""
                yield Step(t.PIPELINE[visit.table].name, text, self._objects(seen), flow)

    def _objects(self, seen: Seen) -> tuple[Named, ...]:
        rule = policies.rule_of(self.topology, seen.visit)
        return self._words.objects(seen) if rule is None else policies.describe(self.names, rule)[1]

    def _is_hidden(self, visit: Visit) -> bool:
        """Whether what happens there is none of the asker's business: in a network or router of another project."""
        network = self.names.network_of(visit.before.get(f.NETWORK, 0) or visit.after.get(f.NETWORK, 0))
        if network is not None and not self.names.sees("network", network.id):
            return True
        router = self.names.router_of(visit.before.get(f.ROUTER, 0) or visit.after.get(f.ROUTER, 0))
        return router is not None and not self.names.sees("router", router)

    # --- drops -------------------------------------------------------------------------------------------------------

    def _dropped(self, switch: Switch, outcome: Outcome) -> End:
        """Why nothing came out: the last flow or table that let the packet end."""
        ended = [
            visit for visit in outcome.visits if policies.denies(visit) or (visit.stops and visit.table not in _LOOKUPS)
        ]
        if not ended:
            return End("dropped", "nothing came out of the switch")
        visit = ended[-1]
        table = t.PIPELINE[visit.table].name
        if self._is_hidden(visit):
            return End("dropped", "dropped in a network of another project", table)
        text, objects = self._why(switch, visit)
        return End("dropped", f"dropped {text}", table, objects)

    def _why(self, switch: Switch, visit: Visit) -> tuple[str, tuple[Named, ...]]:
        objects = self._words.objects(Seen(visit, switch.owners(visit), visit.after))
        stop = visit.stops[-1] if visit.stops else Stop.DROP
        if visit.table in policies.DIRECTIONS and stop in (Stop.MISS, Stop.DROP):
            rule = policies.rule_of(self.topology, visit)
            if rule is not None:
                text, objects = policies.describe(self.names, rule)
                return f"by {text}", objects
            text, objects = policies.default(self.names, self.topology, visit)
            return f"in table {t.PIPELINE[visit.table].name}: {text}", objects
        if stop is Stop.NOBODY:
            reason = "no gateway that is alive, as the probes (BFD) of this hypervisor see it"
        elif stop in (Stop.MISS, Stop.DROP):
            reason = switch.reason(visit) or "nobody wants it"
        else:
            reason = stop.value
        return f"in table {t.PIPELINE[visit.table].name}: {reason}", objects

    # --- what leaves a switch ----------------------------------------------------------------------------------------

    def _leaves(self, hypervisor: str, sent: Sent) -> Iterator[_Coming | End | Arrival]:
        bridge: Bridge | None = self.topology.get("bridge", hypervisor)
        if sent.port == CONTROLLER:
            yield from self._punted(sent.packet)
            return
        if bridge is not None and sent.port == bridge.tunnel_ofport:
            yield from self._tunnelled(hypervisor, sent.packet)
            return
        wires = {number: name for name, number in bridge.provider_ofports} if bridge is not None else {}
        if sent.port in wires:
            yield from self._onto_wire(hypervisor, sent, wires[sent.port])
            return
        port_id = self._plugged(hypervisor, sent)
        if port_id is None:
            yield End("dropped", f"sent to OpenFlow port {sent.port}, behind which there is no VM that NovaNet knows")
            return
        yield Arrival(hypervisor, sent.port, sent.packet, port_id, None)
        port, where = self.names.of("port", port_id), self._hypervisor(hypervisor)
        yield End("delivered", f"delivered to {self.names.say('port', port_id)} on {where}", "local_output", (port,))

    def _hypervisor(self, id: str) -> str:
        name = self.names.of("hypervisor", id).name
        return f"hypervisor {name}" if self.names.sees("hypervisor", id) else name

    def _plugged(self, hypervisor: str, sent: Sent) -> str | None:
        """Id of the VM's port behind an OpenFlow port."""
        likely = self.names.port_of(sent.packet.get(f.OUT_PORT_KEY, 0))
        candidates: list[str] = [*([likely] if likely is not None else []), *self.topology.ports_on(hypervisor)]
        for candidate in candidates:
            vif: Vif | None = self.topology.get("vif", candidate)
            if vif is not None and vif.hypervisor_id == hypervisor and vif.ofport == sent.port:
                return candidate
        return None

    def _punted(self, packet: Packet) -> Iterator[End]:
        number = packet.get(f.PUNT, 0)
        known = PUNTED.get(Reason(number)) if number in set(Reason) else None
        if known is not None:
            yield End(*known, "to_controller")

    def _tunnelled(self, hypervisor: str, packet: Packet) -> Iterator[_Coming | End]:
        """To the hypervisors behind a tunnel endpoint's address, or a multicast group of them."""
        own: Hypervisor | None = self.topology.get("hypervisor", hypervisor)
        if own is None or own.tunnel_ip is None:
            yield End("dropped", "its hypervisor has no tunnel endpoint any more")
            return
        six = ":" in own.tunnel_ip
        number = packet.get(f.TUN_IPV6_DST if six else f.TUN_DST, 0)
        address = str(IPv6Address(number) if six else IPv4Address(number))
        arriving = {field: packet[field] for field in (*HEADERS, f.TUNNEL_ID, f.TUN_OPTION) if packet.get(field)}
        arriving |= {(f.TUN_IPV6_SRC if six else f.TUN_SRC): f.ip(own.tunnel_ip)}
        mesh = self.topology.mesh
        if mesh is not None and mesh.multicast_group == address:
            peers = [id for id in self.topology.all("bridge") if id != hypervisor]
        else:
            peer = self.names.hypervisor_at(address)
            peers = [peer] if peer is not None else []
            if peer is None:
                shown = f"the tunnel endpoint {address}" if self._flows else "a tunnel endpoint"
                yield End("left", f"left to {shown}, which is not NovaNet's")
        for id in peers:
            bridge: Bridge | None = self.topology.get("bridge", id)
            if bridge is None:
                raise Unknown(id)
            if bridge.tunnel_ofport is None:
                yield End("dropped", f"{self._hypervisor(id)} has no tunnel port that NovaNet knows")
            else:
                yield _Coming(
                    id, bridge.tunnel_ofport, arriving, f"through the tunnel from {self._hypervisor(hypervisor)}"
                )

    # --- wires -------------------------------------------------------------------------------------------------------

    def _onto_wire(self, hypervisor: str, sent: Sent, physical: str) -> Iterator[_Coming | End | Arrival]:
        """To hypervisors on the same wire, as its switches would bring it there, and to hosts outside."""
        network = self.names.network_of(sent.packet.get(f.NETWORK, 0))
        mac = sent.packet.get(f.ETH_DST, 0)
        frame = {field: sent.packet[field] for field in HEADERS if sent.packet.get(field)}
        others = self._on_wire(network, mac) if network is not None else []
        for id in others:
            bridge: Bridge | None = self.topology.get("bridge", id)
            port = dict(bridge.provider_ofports).get(physical) if bridge is not None else None
            if id != hypervisor and port is not None:
                yield _Coming(id, port, frame, f"from the wire of physical network {physical}")
        if others and not mac & f.MULTICAST_BIT:
            if others == [hypervisor]:
                yield End(
                    "dropped", f"the wire of physical network {physical} brings nothing back to where it came from"
                )
            return
        yield Arrival(hypervisor, sent.port, sent.packet, None, network.id if network is not None else None, True)
        yield End("left", f"left by the wire of physical network {physical} of {self._hypervisor(hypervisor)}, to {self._host(network, mac)}")  # fmt: skip

    def from_wire(self, arrival: Arrival, packet: Packet) -> Walked:
        """Send a frame that a host outside sends, which the wire brings to whom it is for. Raises as ``go`` does."""
        network: Network | None = self.topology.get("network", arrival.network or "")
        physical = network.physical_network or "" if network is not None else ""
        at, port = arrival.hypervisor, arrival.ofport
        for id in self._on_wire(network, packet.get(f.ETH_DST, 0)) if network is not None else ():
            bridge: Bridge | None = self.topology.get("bridge", id)
            there = dict(bridge.provider_ofports).get(physical) if bridge is not None else None
            if there is not None:
                at, port = id, there
        return self.go(at, port, packet, f"from the wire of physical network {physical}")

    def _on_wire(self, network: Network, mac: int) -> list[str]:
        """Ids of the hypervisors to which a wire brings frames for a MAC address; none for a host outside."""
        wired = sorted(self.topology.wired_to(network.id))
        if mac & f.MULTICAST_BIT:
            return wired
        port = self.topology.get("port", self.topology.macs.get((network.id, f.mac_text(mac)), ""))
        if port is not None and port.router_id is not None:
            return list(self.active_gateway(port.router_id))
        if port is not None:
            here = self.topology.location(port.id)
            return [here] if here in wired and here is not None else []
        for floating in self.topology.all("floating-ip").values():
            if floating.floating_network_id == network.id and floating.mac_address == f.mac_text(mac):
                here = self.topology.location(floating.port_id or "")
                return [here] if here is not None else []
        return []

    def active_gateway(self, router_id: str) -> Iterator[str]:
        """The hypervisor that is a router's gateway now: the best that somebody's probe reaches."""
        for id in self.topology.gateways_of(router_id):
            probes = [link.up for link in self.topology.links_to(id) if link.settled]
            if not probes or any(probes):
                yield id
                return

    def _host(self, network: Network | None, mac: int) -> str:
        hosts: list[str] = []
        for id in self.topology.neighbours_in(network.id) if network is not None else ():
            neighbour = self.topology.get("neighbour", id)
            if neighbour is not None and f.mac(neighbour.mac_address) == mac and self.names.sees("neighbour", id):
                hosts.append(neighbour.ip_address)
        if hosts:
            return f"{', '.join(sorted(hosts))} ({f.mac_text(mac)})"
        return "everyone there" if mac & f.MULTICAST_BIT else f.mac_text(mac)


def _is_note(sent: Sent) -> bool:
    """Whether it is a copy for the controller that says nothing of the packet's fate."""
    number = sent.packet.get(f.PUNT, 0)
    return sent.port == CONTROLLER and (number not in set(Reason) or Reason(number) not in PUNTED)
