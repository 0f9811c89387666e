"""Security groups with real packets, through a real switch with real conntrack: thousands of random ones, and hostile ones."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from dataclasses import replace
from random import Random, randrange
from time import monotonic, sleep
from typing import Any

import pytest

from pipelines import fields as f
from pipelines.wire import OF13, OF15
from tests.switch.policy_frames import ACK, SYN, frames, geneve, mark, opened, seen
from tests.switch.policy_model import Case, Sides, random_case
from tests.switch.policy_switch import AWAY, AWAY_MAC, HERE, HERE_MAC, PHYSICAL, TUNNEL_IPS, GuardedWorld, PolicySwitch
from tests.switch.policy_switch import policy_switch as policy_switch
from tests.unit.policy_oracle import Packet
from topology.changes import Edit

SEED = int(os.environ.get("NOVANET_SEED", randrange(1 << 32)))
WORLDS = 10
"""For each chunk, of which one speaks one version of OpenFlow."""
CHUNKS = 6
PACKETS = 80
"""For each world."""
TOLD_APART = (f.TCP, f.UDP, f.ICMP, f.ICMPV6)
"""Protocols in which two connections can be between the same addresses."""


class Rounds:
    """Packets that are sent together, and what becomes of them."""

    def __init__(self, world: GuardedWorld, switch: PolicySwitch) -> None:
        self.world, self.switch, self.sides = world, switch, Sides(world, tracks_sctp=switch.tracks_sctp)
        self.fared: Counter[str] = Counter()
        self._number = 0

    def play(self, cases: list[tuple[Case, int]]) -> list[bool]:
        """Send packets, each with flags for TCP; AssertionError where one does not fare as it should. Which were delivered?"""
        expected: dict[int, tuple[Case, list[str]]] = {}
        sends: list[tuple[str, bytes]] = []
        done = []
        for case, flags in cases:
            self._number += 1
            made = self._frames(case, flags)
            fates = [self.sides.delivered(case, piece) for piece in range(len(made))]
            expected[self._number] = case, [self._place(case.receiver) for _, reached in fates if reached]
            sends += [(self._place(case.sender), frame) for frame in made]
            done.append(all(reached for _, reached in fates))
            self._count(case, fates)
        self.switch.send(sends)
        came = self._came()
        for number, (case, ports) in expected.items():
            found = came.get(number, [])
            told = f"NOVANET_SEED={SEED}: {case} should leave by {ports}, left by {found}"
            assert found == ports, told
        return done

    def _frames(self, case: Case, flags: int) -> list[bytes]:
        sender, receiver = self.world.at(case.sender), self.world.at(case.receiver)
        here = self.world.topology.location(case.sender) == HERE
        inside = sender.network_id == receiver.network_id
        macs = (
            sender.mac_address,
            (receiver if inside or not here else self.world.at(f"r-{sender.network_id}")).mac_address,
        )
        made = frames(case.packet, self._number, *map(f.mac, macs), case.disguise, flags, case.ident & 0xFFFF)
        if here:
            return made
        vni = self.world.topology.get("network", receiver.network_id).vni
        identity = sender.identity or 0
        ends = TUNNEL_IPS[AWAY], TUNNEL_IPS[HERE]
        return [geneve(frame, (AWAY_MAC, HERE_MAC), ends, vni, identity, receiver.port_key or 0) for frame in made]

    def _place(self, port: str) -> str:
        """The switch's port that a VM is behind."""
        vif = self.world.topology.get("vif", port)
        return f"vm{vif.ofport}" if vif.hypervisor_id == HERE else PHYSICAL

    def _came(self) -> dict[int, list[str]]:
        """Mark -> the ports by which its frames left."""
        came: defaultdict[int, list[str]] = defaultdict(list)
        for name, frame in self.switch.sent():
            tunnelled = opened(frame) if name == PHYSICAL else None
            sight = seen(tunnelled.frame if tunnelled else frame)
            assert sight is not None, frame.hex()
            came[sight.mark].append(name)
        return came

    def _count(self, case: Case, fates: list[tuple[bool, bool]]) -> None:
        way = "-".join("here" if self._place(end) != PHYSICAL else "away" for end in (case.sender, case.receiver))
        left, reached = (all(fate) for fate in zip(*fates, strict=True))
        self.fared[
            f"{way} {'passes' if reached else 'is denied by the receiver' if left else 'is denied by the sender'}"
        ] += 1
        self.fared[f"{case.disguise} IPv{case.packet.family}, {'passes' if reached else 'is denied'}"] += 1


def random_cases(rng: Random, world: GuardedWorld) -> list[Case]:
    """Packets that begin connections, all different."""
    cases, taken = [], set()
    for number in range(1, 10 * PACKETS):
        case = random_case(rng, world, number)
        if case is None or len(cases) == PACKETS:
            continue
        packet = case.packet
        connection = packet.protocol, frozenset((packet.source_address, packet.destination_address))
        if packet.protocol in TOLD_APART or connection not in taken:
            taken.add(connection)
            cases.append(case)
    return cases


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_packets_fare_as_the_oracle_says(policy_switch: PolicySwitch, chunk: int) -> None:
    """Connections begin or do not, answers come back or do not, rules change, and the same packets come again."""
    rng, version = Random(f"{SEED} {chunk}"), (OF13, OF15)[chunk % 2]
    fared: Counter[str] = Counter()
    for _ in range(WORLDS):
        world = GuardedWorld(rng, ports=10, rules=30)
        policy_switch.load(world, version)
        rounds = Rounds(world, policy_switch)
        cases = random_cases(rng, world)
        began = rounds.play([(case, SYN) for case in cases])
        answers = [(case.answered(), SYN | ACK if met else ACK) for case, met in zip(cases, began, strict=True)]
        rounds.play([(case, flags) for case, flags in answers if case is not None])
        for _ in range(rng.randint(1, 6)):
            rng.choice((world.editor.change_rule_new, world.editor.change_rule_gone))()
        policy_switch.load(world, version, forget=False)
        rounds.sides.edited()
        rounds.play([(case, ACK) for case in cases])
        rounds.play([(case, ACK) for case, _ in answers if case is not None])
        fared += rounds.fared
    ways = [
        f"{way} {fate}" for way in ("here-here", "here-away", "away-here") for fate in ("passes", "is denied by the ")
    ]
    for way in (*ways, "fragments IPv4, ", "fragments backwards IPv6, ", "chain IPv6, passes", "chain IPv6, is denied"):
        assert sum(count for name, count in fared.items() if name.startswith(way)) > 5, (SEED, way, fared)


# --- one by one ----------------------------------------------------------------------------------------------------------


class Guarded:
    """VMs ``client`` and ``server`` on h1, in one network; the server is in a group without rules but those that tests give it."""

    def __init__(self, switch: PolicySwitch) -> None:
        self.switch, self.number = switch, 0
        self.came: set[int] = set()
        """The marks of all frames that have come out."""
        self.world = GuardedWorld(Random(0), ports=0, rules=1)
        for id in list(self.world.topology.all("security-group-rule")):
            self.world.apply(Edit("security-group-rule", id, None))
        self.world.group("guard")
        for number, (id, groups) in enumerate([("client", None), ("server", ("guard",))], 100):
            ips = f"10.1.0.{number}", f"fd00:1::{number}"
            self.world.port(id, "n1", on=HERE, ips=ips, security_groups=groups)
        self.load()

    def load(self, *, forget: bool = True) -> None:
        self.switch.load(self.world, OF13, forget=forget)

    def packet(self, sender: str, receiver: str, six: bool, **fields: Any) -> Packet:
        ends = [self.world.at(id).fixed_ips[six].ip_address for id in (sender, receiver)]
        return Packet(sender, receiver, 6 if six else 4, *ends, **fields)

    def put(self, packet: Packet, *, pieces: slice = slice(None), **fields: Any) -> list[bytes]:
        """Send a packet; the frames with its mark that came to its receiver."""
        self.number += 1
        sender, receiver = (self.world.at(id or "") for id in (packet.source, packet.destination))
        macs = f.mac(sender.mac_address), f.mac(receiver.mac_address)
        made = frames(packet, self.number, *macs, **fields)[pieces]
        self.switch.send((self._place(packet.source), frame) for frame in made)
        left = list(self.switch.sent())
        self.came |= {sight.mark for _, frame in left if (sight := seen(frame))}
        came = [(name, frame) for name, frame in left if frame.endswith(mark(self.number))]
        assert {name for name, _ in came} <= {self._place(packet.destination)}
        return [frame for _, frame in came]

    def held(self) -> int:
        """How many fragments conntrack holds."""
        return int(re.findall(r"num frag: (\d+)", self.switch.control.ask("dpctl/ipf-get-status"))[0])

    def _place(self, id: str | None) -> str:
        return f"vm{self.world.topology.get('vif', id or '').ofport}"


@pytest.fixture
def guarded(policy_switch: PolicySwitch) -> Guarded:
    return Guarded(policy_switch)


SIX = pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])


@SIX
def test_an_error_about_an_allowed_connection_passes_and_about_no_connection_does_not(
    guarded: Guarded, six: bool
) -> None:
    """The client has a group that lets it send only; a port unreachable comes back to it."""
    guarded.world.group("sends", "client")
    for family in ("IPv4", "IPv6"):
        guarded.world.rule("sends", "egress", ethertype=family, protocol="udp")
        guarded.world.rule("guard", "egress", ethertype=family)
        guarded.world.rule("guard", ethertype=family, protocol="udp", port_range_min=53, port_range_max=53)
    guarded.load()
    asked = guarded.packet("client", "server", six, protocol=f.UDP, source_port=4000, destination_port=53)
    [quoted] = guarded.put(asked)
    unreachable = guarded.packet("server", "client", six, protocol=58 if six else 1, icmp=(1, 4) if six else (3, 3))
    assert guarded.put(unreachable, quoted=quoted[14:])
    other = bytearray(quoted[14:])
    ports = 40 if six else 20
    other[ports : ports + 2] = (4001).to_bytes(2, "big")
    assert not guarded.put(unreachable, quoted=bytes(other))


@SIX
@pytest.mark.parametrize("keeps", [False, True], ids=["revoked", "kept"])
def test_a_rule_that_is_removed_cuts_its_connections_in_both_directions(
    guarded: Guarded, six: bool, keeps: bool
) -> None:
    guarded.world.rule("guard", id="r", ethertype="IPv6" if six else "IPv4", protocol="tcp", port_range_min=80,
                       port_range_max=80, revoke=not keeps)  # fmt: skip
    guarded.load()
    there = guarded.packet("client", "server", six, protocol=f.TCP, source_port=4000, destination_port=80)
    back = guarded.packet("server", "client", six, protocol=f.TCP, source_port=80, destination_port=4000)
    assert not guarded.put(back, flags=ACK), "a server begins nothing"
    assert guarded.put(there) and guarded.put(back, flags=SYN | ACK) and guarded.put(there, flags=ACK)
    guarded.world.apply(Edit("security-group-rule", "r", None))
    guarded.load(forget=False)
    assert bool(guarded.put(there, flags=ACK)) == keeps
    assert bool(guarded.put(back, flags=ACK)) == keeps
    assert not guarded.put(replace(there, source_port=4001)), "no new connection"


@SIX
@pytest.mark.parametrize("protocol", [f.TCP, f.UDP, f.SCTP], ids=["TCP", "UDP", "SCTP"])
@pytest.mark.parametrize("denies", [False, True], ids=["allow", "deny"])
def test_rules_for_ports_see_those_of_fragments(
    guarded: Guarded, policy_switch: PolicySwitch, six: bool, protocol: int, denies: bool
) -> None:
    """Those of SCTP as far as conntrack does; what it does not see, it does not let slip past a rule."""
    rule = {"ethertype": "IPv6" if six else "IPv4", "protocol": str(protocol)}
    if denies:
        guarded.world.group("admin", "server", tier="admin", priority=1)
        guarded.world.rule("admin", action="deny", port_range_min=54, port_range_max=54, **rule)
        guarded.world.rule("guard", **rule)
    else:
        guarded.world.rule("guard", port_range_min=53, port_range_max=53, **rule)
    guarded.load()
    pieces = 2 if protocol != f.SCTP or policy_switch.tracks_sctp else 0
    for number, disguise in enumerate(("plain", "fragments", "fragments backwards")):
        for port, come in ((53, pieces if number else 1), (54, 0)):
            ports = {"source_port": 4000 + number, "destination_port": port}
            packet = guarded.packet("client", "server", six, protocol=protocol, **ports)
            assert len(guarded.put(packet, disguise=disguise)) == come, (disguise, port)


def test_fragments_that_are_given_up_go_nowhere(guarded: Guarded) -> None:
    """Conntrack in user space hands out what it has held for too long together with any other packet."""
    for family in ("IPv4", "IPv6"):
        guarded.world.rule("guard", ethertype=family, protocol="udp")
    guarded.load()
    ports = {"source_port": 4000, "destination_port": 53}
    both = [guarded.packet("client", "server", six, protocol=f.UDP, **ports) for six in (False, True)]
    for packet in both:
        assert not guarded.put(packet, disguise="fragments", pieces=slice(1, None))
    abandoned, port, end = {guarded.number, guarded.number - 1}, 5000, monotonic() + 60
    assert guarded.held()
    while guarded.held():
        assert monotonic() < end, "conntrack never gives up"
        sleep(0.5)
        port += 1
        for packet in both:
            assert guarded.put(replace(packet, source_port=port))
    assert not abandoned & guarded.came
