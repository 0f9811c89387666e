"""Rules of security groups as flows: the verdicts of the naive oracle without a switch, and how many flows there are."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from pipelines import fields as f
from pipelines.compiler import Compiler
from pipelines.flow import Flow
from pipelines.interpreter import SIZE, Interpreter
from pipelines.interpreter import Packet as Headers
from pipelines.interpreter.packets import PORTS
from pipelines.wire import OF13
from tests.switch.conftest import TUNNEL_PORT
from tests.switch.policy_model import Case, Sides, begins, random_case
from tests.switch.policy_switch import AWAY, HERE, TUNNEL_IPS, GuardedWorld

from .world import World

CHUNKS, WORLDS, PACKETS = 6, 6, 90
TOLD_APART = (f.TCP, f.UDP, f.SCTP, f.ICMP, f.ICMPV6)


def headers(world: GuardedWorld, case: Case) -> tuple[Headers, int]:
    """A packet as it comes to h1, and by which port."""
    packet, six = case.packet, case.packet.family == 6
    sender, receiver = world.at(case.sender), world.at(case.receiver)
    here = world.topology.location(case.sender) == HERE
    routed = here and sender.network_id != receiver.network_id
    target = world.at(f"r-{sender.network_id}") if routed else receiver
    found: Headers = {
        f.ETH_SRC: f.mac(sender.mac_address), f.ETH_DST: f.mac(target.mac_address), f.ETH_TYPE: f.IPV6 if six else f.IPV4,
        f.IP_PROTO: packet.protocol, f.IP_TTL: 64, SIZE: 100,
        (f.IPV6_SRC if six else f.IPV4_SRC): f.ip(packet.source_address),
        (f.IPV6_DST if six else f.IPV4_DST): f.ip(packet.destination_address),
    }  # fmt: skip
    if packet.protocol in PORTS:
        found |= dict(zip(PORTS[packet.protocol], (packet.source_port or 0, packet.destination_port or 0), strict=True))
    elif packet.icmp is not None:
        fields = (f.ICMPV6_TYPE, f.ICMPV6_CODE) if six else (f.ICMPV4_TYPE, f.ICMPV4_CODE)
        found |= dict(zip(fields, packet.icmp, strict=True))
    if here:
        return found, world.topology.get("vif", case.sender).ofport
    identity = sender.identity or 0
    vni = world.topology.get("network", receiver.network_id).vni
    option = {
        f.TUN_SRC: f.ip(TUNNEL_IPS[AWAY]),
        f.TUNNEL_ID: vni,
        f.TUN_OPTION: identity << 32 | (receiver.port_key or 0),
    }
    return found | option, TUNNEL_PORT


def interpreter(world: GuardedWorld) -> Interpreter:
    """h1. Which of several rules that decide alike has a packet is left open."""
    wanted = world.ledger(OF13).snapshot()
    return Interpreter(wanted.flows, wanted.groups, wanted.version, strict=False)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_packets_and_their_answers_fare_as_the_oracle_says(chunk: int) -> None:
    rng, fared = Random(f"rulesets {chunk}"), Counter[bool]()
    for _ in range(WORLDS):
        world = GuardedWorld(rng, ports=10, rules=30)
        switch, sides = interpreter(world), Sides(world, tracks_sctp=True)
        cases = [random_case(rng, world, number) for number in range(1, PACKETS)]
        asked = [
            case for case in cases if case is not None and case.packet.protocol in TOLD_APART and begins(case.packet)
        ]
        pairs: set[tuple[int, frozenset[str]]] = set()
        for first in asked:
            between = first.packet.protocol, frozenset((first.packet.source_address, first.packet.destination_address))
            if between[0] in (f.ICMP, f.ICMPV6) and between in pairs:
                continue  # the interpreter does not tell the echo request of one from that of the other
            pairs.add(between)
            for case in (first, first.answered()):
                if case is None or case.disguise.startswith("fragments"):
                    continue
                packet, in_port = headers(world, case)
                delivered = sides.delivered(case, 0)[1]
                vif = world.topology.get("vif", case.receiver)
                out = [vif.ofport if vif.hypervisor_id == HERE else TUNNEL_PORT] if delivered else []
                ports = [port for port in switch.run(packet, in_port).ports if port < 0xFFFFFF00]
                assert ports == out, case
                fared[delivered] += 1
    assert fared[True] > 40 and fared[False] > 40, fared


def flows(world: World, hypervisor: str = "h1") -> set[bytes]:
    """Keys of the flows of a hypervisor's rules."""
    rules = Compiler().compile(world.topology, hypervisor, ("policy", hypervisor))
    return {rule.key for rule in rules if isinstance(rule, Flow)}


def crowd(members: int, identities: int, rules: int) -> World:
    """A group whose members are on h2, with these many identities, and a group on h1 with these many rules about them."""
    world = World(2)
    world.network("a", 1, "10.0.0.0/16")
    world.group("members")
    world.group("servers")
    for number in range(rules):
        world.rule("servers", protocol="tcp", port_range_min=1000 + number, port_range_max=1000 + number,
                   remote_group_id="members")  # fmt: skip
    world.port("server", "a", on="h1", security_groups=("servers",))
    for number in range(members):
        labels = {"role": f"r{number % identities}"}
        world.port(f"m{number}", "a", on="h2", security_groups=("members",), labels=labels)
    return world


def test_flows_do_not_grow_with_members() -> None:
    assert flows(crowd(20, 4, 10)) == flows(crowd(200, 4, 10))


def test_flows_grow_with_rules_and_with_identities_not_with_their_product() -> None:
    few, rules, identities, both = (
        len(flows(crowd(40, identities, rules))) for identities, rules in ((2, 10), (2, 110), (40, 10), (40, 110))
    )
    assert identities - few == 38, "one flow for each identity, whatever the number of rules"
    assert rules - few == 200, "a clause and a conclusion for each rule"
    assert both - few == (rules - few) + (identities - few)


def test_a_member_that_joins_changes_one_flow_of_the_rules_at_most() -> None:
    world = crowd(40, 4, 100)
    before = flows(world)
    world.port("old", "a", on="h2", security_groups=("members",), labels={"role": "r1"})
    assert flows(world) == before
    world.port("new", "a", on="h2", security_groups=("members",), labels={"role": "other"})
    assert len(flows(world) ^ before) == 1


def test_rules_that_are_alike_are_one_flow_which_the_first_has() -> None:
    world = World(1)
    world.network("a", 1, "10.0.0.0/16")
    for group in ("one", "two"):
        world.group(group)
        world.rule(group, protocol="tcp", port_range_min=80, port_range_max=80)
        world.rule(group, remote_group_id="one")
        world.rule(group)
    world.port("vm", "a", on="h1", security_groups=("one", "two"))
    compiled = Compiler().compile(world.topology, "h1", ("policy", "h1"))
    keys = [rule.key for rule in compiled if isinstance(rule, Flow)]
    assert len(keys) == len(set(keys))
