"""When a hypervisor's policy is dirty: whenever what any back end reads of it changes, and not when a member joins."""

from __future__ import annotations

from random import Random

import pytest

from topology import scope
from topology.changes import Change, Edit
from topology.model import LabelRequirement, SecurityGroup
from topology.policy import Group, members, policies

from .policies import PolicyWorld
from .world import World

HYPERVISORS = ("h1", "h2", "h3")


def view(world: World, hypervisor: str) -> object:
    """All that there is to enforce on a hypervisor: its identities' policies, and who their peers are."""
    topology = world.topology
    found = list(policies(topology, sorted(topology.residents(hypervisor))))
    peers = {
        rule.peer.id for policy in found for rule in policy.ingress + policy.egress if isinstance(rule.peer, Group)
    }
    return found, {peer: frozenset(members(topology, peer)) for peer in peers}


def dirty_policies(world: World, changes: list[Change]) -> set[str]:
    """The hypervisors whose policy is dirty."""
    return {here for here, (kind, _) in scope.dirty(world.topology, changes) if kind == "policy"}


@pytest.mark.parametrize("seed", range(40))
def test_a_policy_is_dirty_whenever_it_changes(seed: int) -> None:
    rng = Random(f"dirty {seed}")
    world = PolicyWorld(rng, hypervisors=len(HYPERVISORS))
    before = {hypervisor: view(world, hypervisor) for hypervisor in HYPERVISORS}
    for step in range(150):
        changes = [change for _ in range(rng.choice([1, 1, 1, 2, 5])) for change in world.editor.edit()]
        now = {hypervisor: view(world, hypervisor) for hypervisor in HYPERVISORS}
        changed = {hypervisor for hypervisor in HYPERVISORS if now[hypervisor] != before[hypervisor]}
        assert changed <= dirty_policies(world, changes), f"after step {step}: {changes}"
        before = now


def test_most_of_what_is_dirty_has_changed() -> None:
    """Compiling what does not change is no error, but should be rare."""
    dirty = changed = 0
    for seed in range(20):
        world = PolicyWorld(Random(f"generous {seed}"), hypervisors=len(HYPERVISORS))
        for _ in range(100):
            before = {hypervisor: view(world, hypervisor) for hypervisor in HYPERVISORS}
            found = dirty_policies(world, world.editor.edit())
            dirty += len(found)
            changed += sum(before[hypervisor] != view(world, hypervisor) for hypervisor in HYPERVISORS)
    assert changed > 500 and changed > 0.6 * dirty


# --- what a member costs -----------------------------------------------------------------------------------------

MEMBERS, RULES = 10_000, 1_000


@pytest.fixture(scope="module")
def crowd() -> World:
    """A group of 10,000 ports on three hypervisors, that 1,000 rules of the group itself and of nine others name."""
    world = World(3)
    world.network("a", 1, "10.0.0.0/16")
    names = ["crowd", *(f"g{number}" for number in range(1, 10))]
    for name in names:
        world.apply(Edit("security-group", name, SecurityGroup(id=name, project_id="blue")))
    for number in range(RULES):
        port = 1 + number // len(names)
        group = names[number % len(names)]
        world.rule(group, protocol="tcp", port_range_min=port, port_range_max=port, remote_group_id="crowd")
    for number, hypervisor in enumerate(HYPERVISORS * 3):
        world.port(f"user{number}", "a", on=hypervisor, project_id="blue", security_groups=(names[1 + number],))
    for number in range(MEMBERS):
        world.port(f"p{number}", "a", on=HYPERVISORS[number % 3], project_id="blue", security_groups=("crowd",))
    for hypervisor in HYPERVISORS:
        world.port(f"alone-{hypervisor}", "a", on=hypervisor, project_id="blue", security_groups=())
    return world


def dirty(world: World, changes: list[Change]) -> dict[str, list[tuple[str, str]]]:
    """By hypervisor, the owners that have to do with security groups: ports and policies."""
    found = {
        (here, owner) for here, owner in scope.dirty(world.topology, changes) if owner[0] not in ("network", "qos")
    }
    return {hypervisor: sorted(owner for here, owner in found if here == hypervisor) for hypervisor in HYPERVISORS}


def test_a_member_that_joins_or_leaves_is_one_port_on_each_hypervisor(crowd: World) -> None:
    """Whether it is made and plugged, moved, given the group, or deprived of it; no rule is looked at."""
    only = {hypervisor: [("port", "new")] for hypervisor in HYPERVISORS}
    fields = {"project_id": "blue", "security_groups": ("crowd",)}
    assert dirty(crowd, crowd.port("new", "a", **fields)) == {here: [] for here in HYPERVISORS}
    assert dirty(crowd, crowd.plug("new", "h2")) == only
    assert dirty(crowd, crowd.plug("new", "h3")) == only
    assert dirty(crowd, crowd.regroup("new", security_groups=())) == only
    assert dirty(crowd, crowd.regroup("new", security_groups=("crowd",))) == only
    assert dirty(crowd, crowd.unplug("new")) == only
    assert dirty(crowd, crowd.apply(Edit("port", "new", None))) == only


def test_a_member_of_a_new_kind_is_told_to_whoever_names_it(crowd: World) -> None:
    """The first port with a set of groups and labels makes an identity, which is a new peer for all rules that name the group."""
    fields = {"project_id": "blue", "security_groups": ("crowd",), "labels": {"tier": "web"}}
    everywhere = {hypervisor: [("policy", hypervisor)] for hypervisor in HYPERVISORS}
    assert dirty(crowd, crowd.port("odd", "a", **fields)) == everywhere
    found = dirty(crowd, crowd.plug("odd", "h1"))
    assert found == {"h1": [("policy", "h1"), ("port", "odd")], "h2": [("port", "odd")], "h3": [("port", "odd")]}
    crowd.port("odder", "a", **fields)
    assert dirty(crowd, crowd.plug("odder", "h1")) == {here: [("port", "odder")] for here in HYPERVISORS}, (
        "it has company"
    )
    crowd.apply(Edit("port", "odder", None), Edit("port", "odd", None))


# --- what else is dirty, and what is not -------------------------------------------------------------------------


@pytest.fixture
def world() -> World:
    """web (group web, h1) may be reached by group db (port db, h2); port other (h3) is in neither."""
    world = World(3)
    world.network("a", 1)
    for number, name in enumerate(("web", "db", "other"), 1):
        world.port(name, "a", on=f"h{number}", project_id="blue")
    world.group("web", "web", project_id="blue")
    world.group("db", "db", project_id="blue")
    world.address_group("outside", "192.0.2.0/24")
    world.rule("web", id="from-db", remote_group_id="db")
    world.rule("web", id="from-outside", remote_address_group_id="outside")
    return world


@pytest.mark.parametrize(
    "edit, where",
    [
        (lambda world: world.rule("web", protocol="tcp"), {"h1"}),
        (lambda world: world.rule("db"), {"h2"}),
        (lambda world: world.edit("security-group-rule", "from-db", log=True), {"h1"}),
        (lambda world: world.edit("security-group-rule", "from-db", name="x"), set()),
        (lambda world: world.apply(Edit("security-group-rule", "from-db", None)), {"h1"}),
        (lambda world: world.edit("address-group", "outside", addresses=()), {"h1"}),
        (lambda world: world.edit("address-group", "outside", description="x"), set()),
        (lambda world: world.edit("security-group", "web", stateful=False), {"h1"}),
        (lambda world: world.edit("security-group", "db", name="databases", shared=True), set()),
        (lambda world: world.regroup("other", labels={"tier": "db"}), {"h3"}),
        (lambda world: world.regroup("other", security_groups=("db",)), {"h3"}),
        (lambda world: world.regroup("other", security_groups=("db",), labels={"tier": "db"}), {"h1", "h3"}),
        (lambda world: world.edit("port", "web", port_security_enabled=False), set()),
        (lambda world: world.plug("db", "h3"), {"h2", "h3"}),
        (lambda world: world.group("lonely", project_id="blue"), set()),
        (lambda world: world.rule("db", remote_group_id="web"), {"h2"}),
    ],
)  # fmt: skip
def test_what_makes_policies_dirty(world: World, edit, where: set[str]) -> None:
    assert dirty_policies(world, edit(world)) == where


def test_a_selector_is_told_to_its_members_and_to_whoever_names_the_group(world: World) -> None:
    world.regroup("other", labels={"tier": "db"})
    selector = (LabelRequirement("tier", "In", ("db",)),)
    assert dirty_policies(world, world.edit("security-group", "db", selector=selector)) == {"h1", "h3"}
    assert dirty_policies(world, world.edit("security-group", "db", selector=None)) == {"h1", "h3"}


def test_an_identity_that_is_unknown_or_retired_is_told_to_where_its_ports_are(world: World) -> None:
    world.regroup("other", labels={"tier": "db"})
    number = world.topology.get("port", "other").identity
    id = world.topology.identities[number]
    known = world.topology.get("identity", id)
    assert dirty_policies(world, world.edit("identity", id, revision_number=7)) == set()
    assert dirty_policies(world, world.edit("identity", id, retired=True)) == {"h3"}
    assert dirty_policies(world, world.edit("identity", id, retired=False)) == {"h3"}
    assert dirty_policies(world, world.apply(Edit("identity", id, None))) == {"h3"}
    assert dirty_policies(world, world.apply(Edit("identity", id, known))) == {"h3"}


def test_where_objects_are_realised(world: World) -> None:
    """What the status of groups, rules and ports waits for."""
    policy = {here: (here, ("policy", here)) for here in HYPERVISORS}

    def concerned(kind: str, id: str) -> set:
        return set(scope.concerned(world.topology, kind, id))

    def ports(id: str) -> set:
        return {(here, ("port", id)) for here in HYPERVISORS}

    assert concerned("security-group", "web") == {policy["h1"]}
    assert concerned("security-group", "db") == {policy["h1"], policy["h2"]}
    assert concerned("security-group-rule", "from-db") == {policy["h1"]}
    assert concerned("address-group", "outside") == {policy["h1"]}
    assert concerned("security-group-rule", "gone") == set()
    assert concerned("port", "web") == {*ports("web"), ("h1", ("qos", "web")), *policy.values()}
    assert concerned("port", "other") == {*ports("other"), ("h3", ("qos", "other"))}
    identity = world.topology.identities[world.topology.get("port", "web").identity]
    assert concerned("identity", identity) == set(policy.values()), "nobody may know it when its number is used again"
