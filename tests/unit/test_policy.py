"""Policies: the first rule that matches decides as a naive reading of ports, groups and rules does."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topology.changes import Edit
from topology.model import LabelRequirement
from topology.policy import (
    ANYONE,
    DIRECTIONS,
    Connection,
    Group,
    Policy,
    Prefixes,
    Verdict,
    members,
    policies,
    policy_of,
    relevant_peers,
    verdict,
)

from .policies import PolicyWorld, random_packet
from .policy_oracle import Packet, decide, passes
from .world import World


def judged(world: World, packet: Packet, direction: str) -> Verdict | None:
    """What the policy of the port at one end says; None where it has none."""
    ends = [packet.source, packet.destination]
    here, there = ends if direction == "egress" else reversed(ends)
    number = known_as(world, here)
    if not number:
        return None
    connection = Connection(
        direction=direction, family=packet.family, protocol=packet.protocol, identity=known_as(world, there),
        address=packet.destination_address if direction == "egress" else packet.source_address,
        port=packet.destination_port, icmp=packet.icmp,
    )  # fmt: skip
    return verdict(world.topology, policy_of(world.topology, number), connection)


def known_as(world: World, port: str | None) -> int:
    """The identity by which others know a port; 0 for none."""
    found = world.topology.get("port", port) if port else None
    return found.identity or 0 if found is not None else 0


def check(world: World, packet: Packet) -> str:
    """The policies agree with the oracle; returns how the receiver's, or else the sender's, decided."""
    found = {direction: judged(world, packet, direction) for direction in DIRECTIONS}
    for direction, ours in found.items():
        expected = decide(world.topology, packet, direction)
        if ours is None:
            assert expected.allowed and not expected.rules
            continue
        assert ours.allowed == expected.allowed, (direction, packet)
        if ours.rule is None:
            assert not expected.rules
            continue
        assert ours.rule.rule_id in expected.rules
        asked = [world.topology.get("security-group-rule", id) for id in expected.rules]
        assert ours.rule.revoke == all(rule.revoke for rule in asked), "a rule that keeps connections decides first"
        alike = [rule for rule in asked if rule.revoke == ours.rule.revoke]
        assert ours.rule.log == any(rule.log for rule in alike), "and then one that logs"
    assert all(ours is None or ours.allowed for ours in found.values()) == passes(world.topology, packet)
    last = found["ingress" if packet.destination else "egress"]
    if last is None:
        return "no policy"
    return f"{'allowed' if last.allowed else 'denied'} by {'no rule' if last.rule is None else last.rule.tier}"


WORLDS, PACKETS, CHUNKS = 100, 20, 20


@pytest.mark.parametrize("seed", range(CHUNKS))
def test_policies_decide_as_the_oracle_does(seed: int) -> None:
    rng, seen = Random(seed), Counter[str]()
    for _ in range(WORLDS):
        world = PolicyWorld(rng)
        seen.update(check(world, random_packet(rng, world)) for _ in range(PACKETS))
    outcomes = (
        "allowed by admin",
        "denied by admin",
        "allowed by tenant",
        "denied by no rule",
        "allowed by no rule",
    )
    for outcome in outcomes:
        assert seen[outcome] > WORLDS * PACKETS / 50, f"too few are {outcome}: {seen}"
    assert seen["no policy"], "nor is anybody asked without port security, labels and groups"


@pytest.mark.parametrize("seed", range(10))
def test_policies_follow_edits(seed: int) -> None:
    """Groups change, labels change, identities come, retire and go: every policy is what a fresh look says."""
    rng = Random(f"edits {seed}")
    world = PolicyWorld(rng)
    for _ in range(150):
        world.editor.edit()
        if any(port.router_id is None for port in world.topology.all("port").values()):
            for _ in range(4):
                check(world, random_packet(rng, world))


@given(st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_policies_decide_as_the_oracle_does_and_failures_shrink(rng: Random) -> None:
    world = PolicyWorld(rng, ports=3, rules=4)
    for _ in range(3):
        check(world, random_packet(rng, world))


# --- what is in a policy -----------------------------------------------------------------------------------------


@pytest.fixture
def world() -> World:
    """VMs web and db, neither in a group."""
    world = World(2)
    world.network("a", 1, "10.0.0.0/24", "fd00::/64")
    world.port("web", "a", on="h1", project_id="blue")
    world.port("db", "a", on="h2", project_id="blue")
    return world


def number_of(world: World, port: str) -> int:
    return world.topology.get("port", port).identity


def policy(world: World, port: str):
    return policy_of(world.topology, number_of(world, port))


def test_who_is_in_a_tenants_group_is_denied_what_no_rule_allows(world: World) -> None:
    world.group("g", "web", project_id="blue")
    found = policy(world, "web")
    assert (found.ingress, found.egress, found.open) == ((), (), ())
    assert found.filters and found.stateful


@pytest.mark.parametrize("fields", [{"security_groups": ()}, {"labels": {"tier": "web"}}])
def test_who_is_in_no_group_is_denied_everything(world: World, fields: dict[str, Any]) -> None:
    world.regroup("web", **fields)
    found = policy(world, "web")
    assert (found.ingress, found.egress, found.open, found.stateful) == ((), (), (), True) and found.filters


def test_an_administrators_group_alone_allows_by_rules_only(world: World) -> None:
    world.group("all", "web", tier="admin", priority=5)
    assert policy(world, "web").open == ()
    world.rule("all", "egress", action="deny", protocol="tcp", port_range_min=25, port_range_max=25)
    found = policy(world, "web")
    assert found.open == () and found.filters
    (rule,) = found.egress
    assert (rule.tier, rule.priority, rule.action, rule.protocol, rule.ports) == ("admin", 5, "deny", 6, (25, 25))


def test_without_port_security_administrators_alone_are_asked(world: World) -> None:
    """A tenant's groups neither close such a port nor open it, and it is nobody's peer."""
    everyone = (LabelRequirement("tier", "Exists"),)
    world.group("guard", tier="admin", priority=5, selector=everyone)
    world.group("mine", "db", project_id="blue", selector=everyone)
    world.rule("mine", remote_group_id="mine")
    world.regroup("web", labels={"tier": "web"}, port_security_enabled=False)
    found = policy(world, "web")
    assert found.open == DIRECTIONS and not found.filters
    world.rule("guard", action="deny", protocol="tcp")
    found = policy(world, "web")
    assert [rule.action for rule in found.ingress] == ["deny"] and found.open == DIRECTIONS and found.stateful
    insecure, secure = number_of(world, "web"), number_of(world, "db")
    assert members(world.topology, "mine") == {secure} and members(world.topology, "guard") == set()
    assert world.topology.identities_of_group("guard") == {insecure}, "its rules apply there"
    world.regroup("web", port_security_enabled=True)
    assert number_of(world, "web") != insecure and policy(world, "web").open == ()
    assert members(world.topology, "mine") == {secure, number_of(world, "web")}


def test_the_order_of_rules(world: World) -> None:
    """Priority, then denial, then the administrator's before the tenant's, then what keeps connections."""
    world.group("low", "web", tier="admin", priority=1)
    world.group("high", "web", tier="admin", priority=1000)
    world.group("t1", "web", project_id="blue")
    world.group("t2", "web", project_id="blue")
    world.rule("t1", id="tenant")
    world.rule("low", id="low allow")
    world.rule("low", id="low deny", action="deny", protocol="udp")
    world.rule("high", id="high allow", protocol="tcp")
    world.rule("t2", id="tenant keeps", revoke=False)
    world.rule("high", id="high deny", action="deny", protocol="icmp")
    expected = ["high deny", "high allow", "low deny", "low allow", "tenant keeps", "tenant"]
    assert [rule.rule_id for rule in policy(world, "web").ingress] == expected
    assert {rule.priority for rule in policy(world, "web").ingress if rule.tier == "tenant"} == {0}


@pytest.mark.parametrize(
    "fields, protocol, ports, icmp",
    [
        ({}, None, None, None),
        ({"protocol": "tcp"}, 6, None, None),
        ({"protocol": "17", "port_range_min": 53, "port_range_max": 53}, 17, (53, 53), None),
        ({"protocol": "sctp", "port_range_min": 1, "port_range_max": 65535}, 132, (1, 65535), None),
        ({"protocol": "tcp", "port_range_min": 0, "port_range_max": 65535}, 6, None, None),
        ({"protocol": "udp", "port_range_max": 99}, 17, (0, 99), None),
        ({"protocol": "udp", "port_range_min": 99}, 17, (99, 65535), None),
        ({"protocol": "icmp"}, 1, None, None),
        ({"protocol": "icmp", "port_range_min": 8}, 1, None, (8, None)),
        ({"protocol": "icmp", "port_range_min": 3, "port_range_max": 4}, 1, None, (3, 4)),
        ({"protocol": "icmp", "ethertype": "IPv6", "port_range_min": 128}, 58, None, (128, None)),
        ({"protocol": "icmpv6", "ethertype": "IPv6", "port_range_min": 1, "port_range_max": 0}, 58, None, (1, 0)),
        ({"protocol": "esp"}, 50, None, None),
        ({"protocol": "any"}, None, None, None),
    ],
)
def test_services_are_normalised(world: World, fields, protocol, ports, icmp) -> None:
    world.group("g", "web", project_id="blue")
    world.rule("g", **fields)
    (rule,) = policy(world, "web").ingress
    assert (rule.protocol, rule.ports, rule.icmp) == (protocol, ports, icmp)
    assert rule.family == (6 if fields.get("ethertype") == "IPv6" else 4)


def test_peers_are_normalised(world: World) -> None:
    world.group("g", "web", project_id="blue")
    world.address_group("some", "10.0.0.0/25", "10.0.0.128/25", "192.0.2.1/32", "2001:db8::/32")
    world.address_group("all", "0.0.0.0/0", "10.0.0.0/8")
    world.address_group("none")
    for fields in (
        {}, {"remote_group_id": "g"}, {"remote_ip_prefix": "10.1.0.0/16"}, {"remote_ip_prefix": "0.0.0.0/0"},
        {"remote_address_group_id": "some"}, {"remote_address_group_id": "some", "ethertype": "IPv6"},
        {"remote_address_group_id": "all"}, {"remote_address_group_id": "all", "ethertype": "IPv6"},
        {"remote_address_group_id": "none"},
    ):  # fmt: skip
        world.rule("g", **fields)
    assert [(rule.family, rule.peer) for rule in policy(world, "web").ingress] == [
        (4, ANYONE), (4, Group("g")), (4, Prefixes(("10.1.0.0/16",))), (4, ANYONE),
        (4, Prefixes(("10.0.0.0/24", "192.0.2.1/32"))), (6, Prefixes(("2001:db8::/32",))), (4, ANYONE),
    ]  # fmt: skip


def test_what_a_rule_says_beside_its_match(world: World) -> None:
    world.group("g", "web", project_id="blue")
    world.rule("g", "egress", id="r", log=True, revoke=False)
    (rule,) = policy(world, "web").egress
    assert (rule.rule_id, rule.group_id, rule.key, rule.log, rule.revoke) == ("r", "g", 1, True, False)
    assert rule.direction == "egress" and policy(world, "web").rules("egress") == (rule,)


def test_identities_share_their_rules(world: World) -> None:
    world.group("g", "web", "db", project_id="blue")
    world.regroup("db", labels={"tier": "db"})
    world.rule("g")
    web, db = policies(world.topology, [number_of(world, "web"), number_of(world, "db")])
    assert web.number != db.number and web.ingress[0] is db.ingress[0]


def test_an_unknown_identity_may_nothing(world: World) -> None:
    assert policy_of(world.topology, 77).open == () and policy_of(world.topology, 77).filters
    world.regroup("web", labels={"tier": "web"})
    number = number_of(world, "web")
    assert policy_of(world.topology, number) == Policy(number, True, (), (), ())
    world.edit("identity", world.topology.identities[number], retired=True)
    assert policy_of(world.topology, number).open == ()
    world.regroup("web", labels={"tier": "web"}, port_security_enabled=False)
    number = number_of(world, "web")
    assert policy_of(world.topology, number).open == DIRECTIONS
    world.edit("identity", world.topology.identities[number], retired=True)
    assert policy_of(world.topology, number).open == ()


def test_a_stateless_group_has_no_replies(world: World) -> None:
    world.group("g", "web", project_id="blue", stateful=False)
    world.group("admin", "web", tier="admin")
    assert not policy(world, "web").stateful


def test_members_and_relevant_peers(world: World) -> None:
    """Peers are those whom rules name that apply on the hypervisor."""
    selector = (LabelRequirement("tier", "In", ("db",)),)
    world.group("web", "web", project_id="blue")
    world.group("db", project_id="blue", selector=selector)
    world.regroup("db", labels={"tier": "db"})
    web, db = number_of(world, "web"), number_of(world, "db")
    assert members(world.topology, "web") == {web} and members(world.topology, "db") == {db}
    assert relevant_peers(world.topology, "h1") == set()
    world.rule("web", remote_group_id="db")
    assert relevant_peers(world.topology, "h1") == {db} and relevant_peers(world.topology, "h2") == set()
    world.apply(Edit("port", "db", None))
    assert relevant_peers(world.topology, "h1") == {db}, "until the identity is collected"
