"""Security groups with real packets, through a real switch with real conntrack: thousands of random ones, and hostile ones."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from random import Random, randrange

import pytest

from pipelines import fields as f
from pipelines.wire import OF13, OF15
from tests.switch.policy_frames import ACK, SYN, frames, geneve, opened, seen
from tests.switch.policy_model import Case, Sides, random_case
from tests.switch.policy_switch import AWAY_MAC, HERE, HERE_MAC, PHYSICAL, TUNNEL_IPS, AWAY, GuardedWorld, PolicySwitch
from tests.switch.policy_switch import policy_switch as policy_switch

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
        self.world, self.switch, self.sides = world, switch, Sides(world, switch.knows_sctp)
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
        macs = sender.mac_address, (receiver if inside or not here else self.world.at(f"r-{sender.network_id}")).mac_address
        made = frames(case.packet, self._number, *map(f.mac, macs), case.disguise, flags, case.ident & 0xFFFF)
        if here:
            return made
        vni = self.world.topology.get("network", receiver.network_id).vni
        identity = sender.identity or 0 if sender.port_security_enabled else 0
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
        self.fared[f"{way} {'passes' if reached else 'is denied by the receiver' if left else 'is denied by the sender'}"] += 1
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
    print(fared)
