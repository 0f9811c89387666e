"""What a hypervisor should do with packets of random worlds, by the naive oracle and a naive memory of connections."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from random import Random

from msgspec import structs

from pipelines import fields as f
from tests.switch.policy_frames import DISGUISES, FRAGMENT, REPLIES
from tests.switch.policy_switch import AWAY, HERE, GuardedWorld, somebody
from tests.unit.policies import random_packet
from tests.unit.policy_oracle import Decision, Packet, decide, groups_of
from topology.changes import Edit
from topology.graph import Topology
from topology.model import Port, SecurityGroupRule
from topology.policy import policy_of

SERVICES = {67, 68, 546, 547}
"""UDP ports of DHCP, which NovaNet answers and VMs do not."""
MULTICAST_LISTENERS = (130, 131, 132, 143)
WITH_ANSWERS = (f.TCP, f.UDP)
"""Protocols whose answers are told from requests by their ports."""


@dataclass(frozen=True)
class Case:
    """A packet of one port for another, at least one of which is here. Of ``packet``, VMs' ends only have names."""

    packet: Packet
    sender: str
    receiver: str
    ident: int
    """Tells connections apart."""
    disguise: str = "plain"
    answer: bool = False

    def answered(self) -> Case | None:
        """The answer; None where none can be told from what begins a connection."""
        packet, icmp = self.packet, self.packet.icmp
        if icmp is not None:
            kind = REPLIES.get((packet.protocol, icmp[0]))
            if kind is None:
                return None
            icmp = kind, 0
        elif packet.protocol not in WITH_ANSWERS:
            return None
        turned = replace(
            packet, source=packet.destination, destination=packet.source, icmp=icmp,
            source_address=packet.destination_address, destination_address=packet.source_address,
            source_port=packet.destination_port, destination_port=packet.source_port,
        )  # fmt: skip
        return Case(turned, self.receiver, self.sender, self.ident, answer=not self.answer)


def random_case(rng: Random, world: GuardedWorld, number: int) -> Case | None:
    """A packet that can begin a connection that h1 sees; None where luck made another.

    ``number`` makes its connection differ from all others.
    """
    vms = [id for id in world.topology.ports_on(HERE) if not id.startswith("outside-")]
    if not vms:
        return None
    vm = rng.choice(sorted(vms))
    end = rng.choice(("source", "destination"))
    packet = random_packet(rng, world, **{end: vm})
    ends = [packet.source, packet.destination]
    if ends[0] == ends[1] or any(id and world.topology.location(id) is None for id in ends):
        return None
    network = world.at(vm).network_id
    sender, receiver = (id or somebody(network, rng.choice((HERE, AWAY))) for id in ends)
    if packet.protocol == f.UDP and {packet.source_port, packet.destination_port} & SERVICES:
        return None
    if packet.protocol == f.ICMPV6 and packet.icmp is not None and packet.icmp[0] in MULTICAST_LISTENERS:
        return None
    if packet.source_port is not None:
        packet = replace(packet, source_port=1024 + number % 60000)
    return Case(packet, sender, receiver, number, rng.choice(DISGUISES[packet.family]))


@dataclass
class Began:
    """A connection that a side has let begin: in which direction, by what packet, and whether it stays when its rule goes."""

    direction: str
    packet: Packet
    kept: bool


class Sides:
    """The two sides of connections: what each port's groups say, and its own memory of those that it has let begin."""

    def __init__(self, world: GuardedWorld, *, tracks_sctp: bool) -> None:
        self._world, self._tracks_sctp = world, tracks_sctp
        self._known: dict[tuple[str, int], Began] = {}
        self.edited()

    def edited(self) -> None:
        """Rules have changed."""
        self._blind = [_blind(self._world.topology, protocols=later) for later in (False, True)]

    def delivered(self, case: Case, piece: int) -> tuple[bool, bool]:
        """Whether a piece of the packet leaves its sender's side, and then reaches the receiver.

        What happens elsewhere is not known: it comes from there, or goes there.
        """
        left = self._lets_pass(case, case.sender, "egress", piece)
        return left, left and self._lets_pass(case, case.receiver, "ingress", piece)

    def _lets_pass(self, case: Case, id: str, direction: str, piece: int) -> bool:
        topology, port = self._world.topology, self._world.at(id)
        if topology.location(id) != HERE or not filtered(self._world, port):
            return True
        if not stateful(self._world, port):
            return self._lets_pass_blindly(case, direction, piece)
        known = self._known.get((id, case.ident))
        began = known or Began(direction, case.packet, False)
        if known is None and not begins(case.packet):
            return False
        if began.kept:
            return True
        now = self._decide(began.packet, began.direction, case.disguise)
        if now.allowed:
            # of a later fragment, which conntrack sees last, nobody knows which rule allows it
            whole = not case.disguise.startswith("fragments")
            began.kept = whole and any(not topology.get("security-group-rule", rule).revoke for rule in now.rules)
            self._known[id, case.ident] = began
        return now.allowed

    def _decide(self, packet: Packet, direction: str, disguise: str) -> Decision:
        """What is decided of a connection. Where conntrack knows no ports of SCTP, those of fragments are unseen."""
        if packet.protocol == f.SCTP and not self._tracks_sctp and disguise.startswith("fragments"):
            return decide(self._blind[False], _unseen(packet, False), direction)
        return decide(self._world.topology, packet, direction)

    def _lets_pass_blindly(self, case: Case, direction: str, piece: int) -> bool:
        """Without connections, ports of fragments are not known, and of IPv6 not even the protocol of later ones."""
        now = decide(self._world.topology, case.packet, direction)
        if not case.disguise.startswith("fragments"):
            return now.allowed
        later = case.packet.family == 6 and piece != (case.disguise == "fragments backwards")
        allowed = decide(self._blind[later], _unseen(case.packet, later), direction).allowed
        assert now.allowed or not allowed, "a fragment would slip past a rule"
        return allowed


def begins(packet: Packet) -> bool:
    """Whether conntrack takes a packet for the first of a connection: of ICMP only requests with code 0 are."""
    return packet.icmp is None or ((packet.protocol, packet.icmp[0]) in REPLIES and packet.icmp[1] == 0)


def stateful(world: GuardedWorld, port: Port) -> bool:
    """Whether a port's groups know connections."""
    return not port.port_security_enabled or all(
        group.stateful for group in groups_of(world.topology, port) if group.tier == "tenant"
    )


def filtered(world: GuardedWorld, port: Port) -> bool:
    """Whether there is anything that is asked about a port's packets."""
    return port.identity is not None and policy_of(world.topology, port.identity).filters


def _blind(topology: Topology, *, protocols: bool) -> Topology:
    """Rules as they are for who cannot see ports, nor ``protocols``: denial is for all of them, and they allow none of them."""
    seen = deepcopy(topology)
    for id, rule in list(topology.all("security-group-rule").items()):
        rule: SecurityGroupRule
        blind = rule.port_range_min is not None or rule.port_range_max is not None or (protocols and rule.protocol)
        if blind and rule.action == "allow":
            seen.apply([Edit("security-group-rule", id, None)])
        elif blind:
            protocol = None if protocols else rule.protocol
            unlimited = structs.replace(rule, port_range_min=None, port_range_max=None, protocol=protocol)
            seen.apply([Edit("security-group-rule", id, unlimited)])
    return seen


def _unseen(packet: Packet, protocols: bool) -> Packet:
    return replace(packet, destination_port=None, icmp=None, protocol=FRAGMENT if protocols else packet.protocol)
