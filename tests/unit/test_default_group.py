"""The group ``default``: which ports get it, when it is made, and that writing again changes nothing."""

from __future__ import annotations

from random import Random
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from topology.admission import Allocator, Draft, Refused, Write, admit, consequences
from topology.changes import Edit
from topology.graph import Topology

from .test_admission import refusal
from .test_admission_security_groups import TIER_WEB, Grouped

EVERYTHING = {
    ("egress", "IPv4", None), ("egress", "IPv6", None), ("ingress", "IPv4", "own"), ("ingress", "IPv6", "own"),
}  # fmt: skip


class Defaults(Grouped):
    """Ports that say nothing of groups unless told."""

    def vm(self, project: str | None = None, **fields: Any) -> Any:
        return self.create("port", project, network_id=self.network.id, **fields)

    def default(self, project: str = "us") -> Any:
        """The project's group ``default``, or None."""
        return self.topology.get("security-group", self.topology.names.get(("security-group", project, "default"), ""))


@pytest.fixture
def world() -> Defaults:
    return Defaults()


def test_the_first_port_that_names_no_group_brings_it(world: Defaults) -> None:
    world.vm(security_groups=[world.web.id]), world.vm(security_groups=[]), world.vm(port_security_enabled=False)
    assert world.default() is None
    port = world.vm("us")
    default = world.default()
    assert port.security_groups == (default.id,) == world.identity(port).security_groups
    assert (default.name, default.project_id, default.tier, default.stateful) == ("default", "us", "tenant", True)
    assert UUID(default.id).version == 5
    rules = [world.topology.get("security-group-rule", id) for id in world.topology.rules_of(default.id)]
    peers = {None: None, default.id: "own"}
    assert {(rule.direction, rule.ethertype, peers[rule.remote_group_id]) for rule in rules} == EVERYTHING
    assert all(
        (rule.project_id, rule.action, rule.protocol, rule.revoke) == ("us", "allow", None, True) for rule in rules
    )
    assert len({rule.rule_key for rule in rules}) == len(rules) == 4
    assert world.vm().identity == port.identity and len(world.topology.all("security-group")) == 2
    assert world.vm(security_groups=None).identity == port.identity


def test_each_project_has_its_own(world: Defaults) -> None:
    one, two = world.vm(), world.vm(project_id="them")
    assert two.security_groups == (world.default("them").id,) != one.security_groups
    assert world.default("them").project_id == "them"
    free = world.create("network")
    assert world.create("port", network_id=free.id).security_groups == (world.default("").id,)


def test_a_port_that_labels_put_into_groups_has_it_as_well(world: Defaults) -> None:
    selecting = world.group(selector=TIER_WEB)
    port = world.vm(labels={"tier": "web"})
    assert world.topology.groups_of_identity(port.identity) == {selecting.id, world.default().id}
    world.group(selector=[{"key": "fast", "operator": "Exists"}], stateful=False)
    with refusal(409, "labels", world.default().id, "stateful"):
        world.vm(labels={"fast": "yes"})
    with refusal(409, "labels", "stateful"):
        world.patch(port, labels={"fast": "yes"})
    assert world.vm(labels={"fast": "yes"}, security_groups=[]).security_groups == ()


def test_a_default_that_is_still_to_be_made_must_agree_too(world: Defaults) -> None:
    world.group(selector=TIER_WEB, stateful=False)
    with refusal(409, "labels", "stateful"):
        world.vm(labels={"tier": "web"})
    assert world.default() is None


def test_writing_the_same_again_changes_nothing(world: Defaults) -> None:
    id = "00000000-0000-4000-8000-0000000000aa"
    fields = {"network_id": world.network.id, "name": "vm"}
    port = world.replace("port", id, "us", **fields)
    assert port.security_groups == (world.default().id,)
    before = dict(world.topology.all("security-group")), dict(world.topology.all("identity"))
    for given in ({}, {"security_groups": None}, {"security_groups": [world.default().id]}):
        assert world.replace("port", id, "us", **fields, **given) == port
    assert world.patch(port, name="vm") == port
    assert (dict(world.topology.all("security-group")), dict(world.topology.all("identity"))) == before


def test_groups_that_were_given_stay_when_nothing_is_said_of_them(world: Defaults) -> None:
    for groups in ([world.web.id], []):
        port = world.vm(security_groups=groups)
        assert world.replace("port", port.id, network_id=world.network.id) == port
        assert world.replace("port", port.id, network_id=world.network.id, security_groups=None) == port
        assert world.patch(port, description="x").security_groups == tuple(groups)
    assert world.default() is None


def test_a_patch_of_null_puts_it_back(world: Defaults) -> None:
    port = world.vm(security_groups=[world.web.id])
    port = world.patch(port, security_groups=None)
    assert port.security_groups == (world.default().id,)
    assert world.patch(port, security_groups=None) == port
    guard = world.admins()
    port = world.patch(port, security_groups=[guard.id])
    assert set(world.patch(port, "us", security_groups=None).security_groups) == {guard.id, world.default().id}


def test_port_security_goes_with_it(world: Defaults) -> None:
    port = world.vm()
    with refusal(409, "security_groups", "port_security_enabled", "[]"):
        world.patch(port, port_security_enabled=False)
    port = world.patch(port, port_security_enabled=False, security_groups=[])
    assert (port.security_groups, port.identity) == ((), None)
    port = world.patch(port, port_security_enabled=True)
    assert port.security_groups == (world.default().id,) and port.identity
    fields = {"network_id": world.network.id, "port_security_enabled": False}
    for _ in range(2):
        assert world.replace("port", port.id, **fields).security_groups == ()
    with refusal(409, "security_groups", "port_security_enabled"):
        world.replace("port", port.id, **fields, security_groups=[world.web.id])
    assert world.replace("port", port.id, network_id=world.network.id).security_groups == (world.default().id,)
    assert world.patch(port, port_security_enabled=True, security_groups=[]).security_groups == ()


def test_a_port_of_before_stays_open_until_its_groups_are_written(world: Defaults) -> None:
    """As databases have them that were written when ports without groups were open."""
    port = world.vm(security_groups=[])
    old = replace(port, identity=None)

    def before() -> Any:
        world.topology.apply([Edit("port", port.id, old)])
        return old

    assert world.patch(before(), name="x").identity is None
    assert world.replace("port", before().id, network_id=world.network.id).identity is None
    assert world.default() is None
    assert world.patch(before(), security_groups=[]).identity == port.identity
    assert world.patch(before(), security_groups=None).security_groups == (world.default().id,)
    assert world.patch(before(), labels={"tier": "web"}).security_groups == (world.default().id,)


def test_tenants_edit_it_and_it_is_made_again_when_it_was_deleted(world: Defaults) -> None:
    port = world.vm()
    default = world.default()
    rules = world.topology.rules_of(default.id)
    first = world.topology.get("security-group-rule", min(rules))
    world.delete(first, project="us")
    world.rule(default, protocol="tcp", port_range_min=22, port_range_max=22)
    assert world.patch(default, "us", description="mine").description == "mine"
    world.vm()
    assert len(world.topology.rules_of(default.id)) == 4, "what a project made of it stays"
    with refusal(409, "", "in use"):
        world.delete(default, project="us")
    for each in list(world.topology.all("port").values()):
        world.delete(each)
    world.delete(world.default(), project="us")
    assert world.default() is None and not world.topology.rules
    again = world.vm()
    assert again.security_groups == (default.id,) and again.identity == port.identity
    assert len(world.topology.rules_of(default.id)) == 4


def test_a_group_that_a_project_has_called_default_serves(world: Defaults) -> None:
    own = world.group(name="default")
    assert world.vm().security_groups == (own.id,) and not world.topology.rules_of(own.id)


def test_one_that_is_called_otherwise_is_the_default_no_longer(world: Defaults) -> None:
    port = world.vm()
    renamed = world.patch(world.default(), "us", name="old default")
    fresh = world.vm()
    assert world.default().id not in (renamed.id, None) and fresh.security_groups == (world.default().id,)
    assert world.topology.get("port", port.id).security_groups == (renamed.id,)
    assert len(world.topology.rules_of(world.default().id)) == 4


def test_nobody_can_keep_its_id_from_a_project_or_slip_a_group_under_it(world: Defaults) -> None:
    """Another project that makes a group, and rules, with the ids that follow from the project's name."""
    other = Defaults()
    other.vm()
    taken = other.default()
    world.group("them", id=taken.id, name="trap")
    trap = world.topology.get("security-group", taken.id)
    rule = world.rule(trap, id=min(other.topology.rules_of(taken.id)), protocol="tcp")
    port = world.vm()
    assert port.security_groups == (world.default().id,) != (taken.id,)
    assert world.default().project_id == "us" and len(world.topology.rules_of(world.default().id)) == 4
    assert world.topology.get("security-group-rule", rule.id) == rule


def test_the_name_is_not_for_groups_of_tier_admin(world: Defaults) -> None:
    with refusal(400, "name", "tenants'"):
        world.admins(name="default")
    guard = world.admins()
    with refusal(400, "name", "tenants'"):
        world.patch(guard, name="default")


def test_it_comes_with_the_ports_of_one_batch_in_an_order_that_can_be_stored(world: Defaults) -> None:
    draft, kinds = Draft(world.topology), []
    for number in (7, 8):
        id = f"00000000-0000-4000-8000-00000000010{number}"
        edit = admit(draft, Write("create", "port", fields={"network_id": world.network.id}), world.allocator, id)
        for each in (*consequences(draft, edit, world.allocator), edit):
            kinds.append(each.kind)
            draft.stage(each)
    assert kinds == ["security-group", *["security-group-rule"] * 4, "identity", "port", "port"]


def test_whoever_makes_it_makes_the_same(world: Defaults) -> None:
    """Of two controllers that race one fails, at the row's id, and finds the other's on its next attempt."""
    made = []
    for seed in (1, 2):
        view, allocator = Topology(), Allocator(Random(seed))
        for write in (
            Write("create", "network", world.network.id, {"project_id": "us"}),
            Write("create", "port", "00000000-0000-4000-8000-0000000000ab", {"network_id": world.network.id}),
        ):
            edit = admit(view, write, allocator, "")
            view.apply([*consequences(view, edit, allocator), edit])
        made.append({kind: set(view.all(kind)) for kind in ("security-group", "security-group-rule", "identity")})
    assert made[0] == made[1]


def test_what_is_refused_makes_nothing(world: Defaults) -> None:
    with refusal(404, "network_id"):
        world.create("port", network_id="00000000-0000-4000-8000-0000000000ac")
    with pytest.raises(Refused):
        world.vm(mac_address="01:00:00:00:00:01")
    assert world.default() is None
