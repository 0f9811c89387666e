"""Admission of security groups, their rules, address groups, and the identities that ports get from them."""

from __future__ import annotations

import re
import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest

from topology.admission import Draft, Write, admit, consequences, security_groups
from topology.changes import Edit
from topology.graph import Topology
from topology.membership import identity_id, meets, selects
from topology.model import KINDS, Identity, LabelRequirement, SecurityGroup

from .test_admission import World, refusal

NOBODY = "aaaaaaaa-0000-4000-8000-000000000009"


class Grouped(World):
    """A network and a security group of one project."""

    def __init__(self) -> None:
        super().__init__()
        self.network = self.create("network", project_id="us")
        self.web = self.group(name="web")

    def group(self, project_id: str = "us", **fields: Any) -> Any:
        return self.create("security-group", project_id=project_id, **fields)

    def admins(self, **fields: Any) -> Any:
        return self.create("security-group", tier="admin", **fields)

    def rule(self, group: Any = None, **fields: Any) -> Any:
        fields = {"direction": "ingress", **fields}
        return self.create("security-group-rule", security_group_id=(group or self.web).id, **fields)

    def port(self, *groups: Any, **fields: Any) -> Any:
        ids = [group.id for group in groups]
        return self.create("port", network_id=self.network.id, security_groups=ids, **fields)

    def identity(self, port: Any) -> Identity:
        number = self.topology.get("port", port.id).identity
        found: Identity = self.topology.get("identity", self.topology.identities[number])
        return found


@pytest.fixture
def world() -> Grouped:
    return Grouped()


def requirement(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


TIER_WEB = [requirement("tier", "In", "web")]


# --- groups ------------------------------------------------------------------------------------------------------


def test_a_group_begins_stateful_without_members_and_rules(world: Grouped) -> None:
    assert (world.web.stateful, world.web.selector, world.web.tier, world.web.shared) == (True, None, "tenant", False)
    assert not world.topology.rules_of(world.web.id)
    assert not world.topology.identities_of_group(world.web.id)


@pytest.mark.parametrize(
    ("selector", "field", "words"),
    [
        ([], "selector", "In or Exists"),
        ([requirement("tier", "NotIn", "web")], "selector", "ports without labels"),
        ([requirement("tier", "DoesNotExist")], "selector", "In or Exists"),
        ([requirement("tier", "In")], "selector[0].values", "at least one"),
        ([requirement("tier", "Exists", "web")], "selector[0].values", "takes no values"),
        ([requirement("tier", "Exists"), requirement("x", "Equals", "y")], "selector[1].operator", "Equals"),
        ([requirement("-tier", "Exists")], "selector[0].key", "regex"),
        ([requirement("tier", "In", "we b")], "selector[0].values[0]", "regex"),
        ([requirement("tier", "Exists")] * 17, "selector", "16"),
    ],
)
def test_a_selector_must_need_labels(world: Grouped, selector: list[Any], field: str, words: str) -> None:
    with refusal(400, field, words):
        world.group(selector=selector)


def test_a_selector_is_kept_in_one_form(world: Grouped) -> None:
    group = world.group(selector=[requirement("tier", "In", "web", "app", "web"), *TIER_WEB, *TIER_WEB])
    assert [each.values for each in group.selector] == [("app", "web"), ("web",)]


def test_tier_admin_is_the_administrators(world: Grouped) -> None:
    with refusal(403, "tier", "administrators"):
        world.create("security-group", project="us", tier="admin")
    with refusal(403, "priority", "administrators"):
        world.create("security-group", project="us", priority=5)
    with refusal(403, "shared", "administrators"):
        world.patch(world.web, project="us", shared=True)
    assert world.create("security-group", project="us", tier="tenant", priority=0, shared=False).tier == "tenant"
    with refusal(400, "project_id", "no project"):
        world.admins(project_id="us")
    with refusal(400, "stateful"):
        world.admins(stateful=False)
    with refusal(400, "shared"):
        world.admins(shared=True)
    with refusal(400, "priority", "tier admin"):
        world.group(priority=3)
    guard = world.admins(priority=7)
    with refusal(400, "tier", "for good"):
        world.patch(guard, tier="tenant")
    assert world.patch(guard, priority=1000).priority == 1000
    with refusal(404, "id"):
        world.patch(guard, project="us", name="mine")
    with refusal(400, "priority"):
        world.admins(priority=1001)


def test_groups_with_a_selector_are_limited(world: Grouped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security_groups, "SELECTORS_OF_PROJECT", 2)
    first = world.group(selector=TIER_WEB)
    world.group(selector=TIER_WEB)
    with refusal(409, "selector", "2 groups with a selector"):
        world.patch(world.web, selector=TIER_WEB)
    world.patch(first, selector=[requirement("tier", "Exists")])
    world.group(project_id="them", selector=TIER_WEB)
    world.patch(first, selector=None)
    world.patch(world.web, selector=TIER_WEB)


def test_a_group_in_use_stays_and_takes_its_rules_along(world: Grouped) -> None:
    other = world.group()
    own = world.rule(remote_group_id=world.web.id)
    foreign = world.rule(other, remote_group_id=world.web.id)
    with refusal(409, "", foreign.id, "delete those first"):
        world.delete(world.web)
    world.delete(foreign)
    port = world.port(world.web)
    with refusal(409, "", port.id):
        world.delete(world.web)
    world.patch(port, security_groups=[])
    world.delete(world.web)
    assert world.topology.get("security-group-rule", own.id) is None
    assert not world.topology.rules and not world.topology.rule_keys


# --- rules -------------------------------------------------------------------------------------------------------


def test_a_rule_has_the_project_of_its_group_and_a_key(world: Grouped) -> None:
    rule = world.rule()
    assert (rule.project_id, rule.ethertype, rule.action, rule.revoke, rule.log) == ("us", "IPv4", "allow", True, False)
    assert world.topology.rule_keys == {rule.rule_key: rule.id}
    mine = world.create("security-group-rule", "us", security_group_id=world.web.id, direction="egress")
    assert mine.rule_key not in (None, rule.rule_key)
    with refusal(400, "rule_key", "NovaNet"):
        world.rule(protocol="tcp", rule_key=7)
    with refusal(400, "project_id", "'us'"):
        world.rule(protocol="tcp", project_id="them")


@pytest.mark.parametrize(
    ("fields", "stored"),
    [
        ({}, {"ethertype": "IPv4", "protocol": None}),
        ({"remote_ip_prefix": "2001:DB8::/32"}, {"ethertype": "IPv6", "remote_ip_prefix": "2001:db8::/32"}),
        ({"remote_ip_prefix": "10.0.0.1"}, {"remote_ip_prefix": "10.0.0.1/32"}),
        ({"protocol": "TCP", "port_range_min": 80, "port_range_max": 80}, {"protocol": "tcp"}),
        ({"protocol": "6"}, {"protocol": "tcp"}),
        ({"protocol": "any"}, {"protocol": None}),
        ({"protocol": "icmp", "ethertype": "IPv6"}, {"protocol": "ipv6-icmp"}),
        ({"protocol": "icmpv6", "ethertype": "IPv6", "port_range_min": 128}, {"protocol": "ipv6-icmp"}),
        ({"protocol": "icmp", "port_range_min": 8, "port_range_max": 0}, {"port_range_max": 0}),
        ({"protocol": "253"}, {"protocol": "253"}),
        ({"protocol": "ipv6-encap"}, {"protocol": "ipv6-encap"}),
        ({"protocol": "sctp", "port_range_min": 1, "port_range_max": 65535}, {"protocol": "sctp"}),
    ],
)
def test_a_rule_is_kept_in_one_form(world: Grouped, fields: dict[str, Any], stored: dict[str, Any]) -> None:
    rule = world.rule(**fields)
    assert {name: getattr(rule, name) for name in stored} == stored
    again = world.replace("security-group-rule", rule.id, security_group_id=world.web.id, direction="ingress", **fields)
    assert again == rule


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"direction": "in"}, "direction", "in"),
        ({"ethertype": "ARP"}, "ethertype", "ARP"),
        ({"protocol": "256"}, "protocol", "0 to 255"),
        ({"protocol": "http"}, "protocol", "udp"),
        ({"protocol": "-1"}, "protocol", "no protocol"),
        ({"protocol": "ipv6-icmp"}, "protocol", "IPv6 only"),
        ({"protocol": "ipv6-frag", "ethertype": "IPv6"}, "protocol", "extension header"),
        ({"protocol": "0", "ethertype": "IPv6"}, "protocol", "extension header"),
        ({"port_range_min": 80, "port_range_max": 80}, "port_range_min", "every protocol"),
        ({"protocol": "gre", "port_range_max": 80}, "port_range_max", "gre"),
        ({"protocol": "udplite", "port_range_min": 1, "port_range_max": 2}, "port_range_min", "udplite"),
        ({"protocol": "tcp", "port_range_min": 80}, "port_range_max", "two ends"),
        ({"protocol": "tcp", "port_range_max": 80}, "port_range_min", "two ends"),
        ({"protocol": "tcp", "port_range_min": 0, "port_range_max": 80}, "port_range_min", "no port"),
        ({"protocol": "tcp", "port_range_min": 81, "port_range_max": 80}, "port_range_min", "81"),
        ({"protocol": "tcp", "port_range_min": 1, "port_range_max": 65536}, "port_range_max", "65535"),
        ({"protocol": "icmp", "port_range_max": 3}, "port_range_min", "ICMP type"),
        ({"protocol": "icmp", "port_range_min": 256}, "port_range_min", "ICMP type"),
        ({"protocol": "icmp", "port_range_min": 3, "port_range_max": 256}, "port_range_max", "ICMP code"),
        ({"remote_ip_prefix": "10.0.0.1/24"}, "remote_ip_prefix", "10.0.0.0/24"),
        ({"remote_ip_prefix": "10.0.0.0/8", "ethertype": "IPv6"}, "remote_ip_prefix", "IPv6"),
        ({"action": "deny"}, "action", "tier admin"),
        ({"action": "reject"}, "action", "reject"),
    ],
)
def test_rules_that_can_never_match_are_refused(world: Grouped, fields: dict[str, Any], field: str, words: str) -> None:
    with refusal(400, field, words):
        world.rule(**fields)


def test_a_rule_has_one_kind_of_peer(world: Grouped) -> None:
    addresses = world.create("address-group", project_id="us", addresses=["10.0.0.0/8"])
    peers = {
        "remote_group_id": world.web.id, "remote_ip_prefix": "10.0.0.0/8", "remote_address_group_id": addresses.id,
    }  # fmt: skip
    for one, two in permutations(peers, 2):
        field = max(one, two, key=list(security_groups._PEERS).index)
        with refusal(400, field, "one kind of peer"):
            world.rule(**{one: peers[one], two: peers[two]})
    for name, value in peers.items():
        world.rule(**{name: value})
    with refusal(404, "remote_group_id"):
        world.rule(remote_group_id=NOBODY)
    with refusal(404, "remote_address_group_id"):
        world.rule(remote_address_group_id=NOBODY)
    with refusal(409, "", "in use"):
        world.delete(addresses)


def test_what_a_rule_says_is_fixed_and_said_once(world: Grouped) -> None:
    rule = world.rule(protocol="tcp", port_range_min=80, port_range_max=80)
    with refusal(409, "", rule.id, "the same"):
        world.rule(protocol="6", port_range_min=80, port_range_max=80, name="again")
    with refusal(400, "port_range_min", "for good"):
        world.patch(rule, port_range_min=79)
    with refusal(400, "direction", "for good"):
        world.patch(rule, direction="egress")
    with refusal(400, "security_group_id", "for good"):
        world.patch(rule, security_group_id=world.group().id)
    changed = world.patch(rule, name="http", description="x", log=True, revoke=False)
    assert (changed.log, changed.revoke, changed.rule_key) == (True, False, rule.rule_key)
    world.rule(world.group(), protocol="tcp", port_range_min=80, port_range_max=80)
    world.delete(rule)
    world.rule(protocol="tcp", port_range_min=80, port_range_max=80)


def test_denial_is_for_tier_admin(world: Grouped) -> None:
    guard = world.admins()
    deny = world.rule(guard, action="deny", remote_ip_prefix="192.0.2.0/24")
    allow = world.rule(guard, remote_ip_prefix="192.0.2.0/24")
    assert (deny.action, allow.action, deny.project_id) == ("deny", "allow", "")
    with refusal(404, "security_group_id"):
        world.create("security-group-rule", "us", security_group_id=guard.id, direction="ingress")


def test_rules_of_a_group_are_limited(world: Grouped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security_groups, "RULES_OF_GROUP", 2)
    first = world.rule()
    world.rule(protocol="tcp")
    with refusal(409, "security_group_id", "2 rules"):
        world.rule(protocol="udp")
    world.patch(first, log=True)
    world.rule(world.group(), protocol="udp")


def test_other_projects_groups_are_named_only_when_shared(world: Grouped) -> None:
    theirs = world.group("them")
    addresses = world.create("address-group", project_id="them", addresses=["10.0.0.0/8"])
    for field, group in (("remote_group_id", theirs), ("remote_address_group_id", addresses)):
        fields = {"security_group_id": world.web.id, "direction": "egress", field: group.id}
        with refusal(404, field):
            world.create("security-group-rule", "us", **fields)
        shared = world.patch(group, shared=True)
        rule = world.create("security-group-rule", "us", **fields)
        with refusal(409, "shared", "another project"):
            world.patch(shared, shared=False)
        with refusal(404, "id"):
            world.patch(shared, project="us", name="mine")
        world.delete(rule, project="us")
        world.patch(shared, shared=False)
    theirs = world.patch(theirs, shared=True)
    with refusal(403, "security_group_id", "somebody else's"):
        world.create("security-group-rule", "us", security_group_id=theirs.id, direction="ingress")


# --- address groups ----------------------------------------------------------------------------------------------


def test_addresses_are_prefixes_in_order(world: Grouped) -> None:
    group = world.create("address-group", addresses=["2001:DB8::/32", "10.0.0.7", "10.0.0.7/32"])
    assert group.addresses == ("10.0.0.7/32", "2001:db8::/32")
    with refusal(400, "addresses[1]", "10.0.0.0/24"):
        world.patch(group, addresses=["10.0.0.0/24", "10.0.0.1/24"])
    with refusal(400, "addresses", "4096"):
        world.patch(group, addresses=["10.0.0.0/24"] * 4097)


# --- ports and identities ----------------------------------------------------------------------------------------


def test_a_port_that_is_to_be_in_no_group_has_an_identity_too(world: Grouped) -> None:
    port, other = world.port(), world.port()
    assert (port.security_groups, port.labels) == ((), {}) and port.identity == other.identity is not None
    assert not world.topology.groups_of_identity(port.identity)


def test_only_a_port_that_no_group_is_asked_about_has_no_identity(world: Grouped) -> None:
    port = world.port(port_security_enabled=False)
    assert (port.security_groups, port.identity) == ((), None) and not world.topology.all("identity")
    router = world.create("router", project_id="us")
    world.create("subnet", network_id=world.network.id, cidr="10.0.0.0/24")
    interface = world.create("port", network_id=world.network.id, router_id=router.id)
    assert (interface.security_groups, interface.identity) == ((), None)


def test_without_port_security_ports_are_known_apart_and_to_administrators_groups_only(world: Grouped) -> None:
    guard = world.admins(selector=TIER_WEB)
    mine = world.group(selector=TIER_WEB, stateful=False)
    world.group(selector=[requirement("zone", "Exists")])
    labels = {"tier": "web"}
    secure, port = world.port(labels=labels), world.port(labels=labels, port_security_enabled=False)
    assert port.identity not in (None, secure.identity) and not world.identity(port).port_security_enabled
    assert world.topology.groups_of_identity(port.identity) == {guard.id}
    assert world.topology.identities_of_group(mine.id) == {secure.identity}
    assert world.port(labels={**labels, "zone": "a"}, port_security_enabled=False).identity, "no groups that must agree"
    with refusal(409, "labels", "stateful"):
        world.port(labels={**labels, "zone": "a"})
    other = world.admins()
    port = world.patch(port, security_groups=[other.id])
    assert world.topology.groups_of_identity(port.identity) == {guard.id, other.id}
    port = world.patch(port, project="us", security_groups=[])
    assert port.security_groups == (other.id,), "an administrator put it there"
    again = world.patch(port, port_security_enabled=True, security_groups=[])
    assert again.identity == secure.identity


def test_ports_with_the_same_groups_and_labels_share_an_identity(world: Grouped) -> None:
    db = world.group()
    one, two = world.port(world.web, db), world.port(db, world.web)
    assert one.identity == two.identity is not None
    assert one.security_groups == tuple(sorted((world.web.id, db.id)))
    found = world.identity(one)
    assert (found.project_id, found.security_groups, found.labels) == ("us", one.security_groups, {})
    others = [
        world.port(world.web), world.port(world.web, labels={"a": "b"}), world.port(labels={"a": "b"}),
        world.port(labels={"a": ""}), world.create("port", network_id=world.network.id, labels={"a": "b"}, project_id="x"),
    ]  # fmt: skip
    assert len({port.identity for port in (one, *others)}) == 6
    assert world.topology.ports_with(one.identity) == {one.id, two.id}


def test_an_identity_follows_groups_and_labels(world: Grouped) -> None:
    port = world.port(labels={"tier": "web", "zone": "a"})
    first = port.identity
    port = world.patch(port, labels={"zone": None, "tier": "db"})
    assert port.labels == {"tier": "db"} and port.identity not in (None, first)
    port = world.patch(port, labels=None)
    assert port.identity not in (None, first) and world.identity(port).labels == {}
    port = world.patch(port, labels={"tier": "web", "zone": "a"})
    assert port.identity == first, "the one that is there is found again"
    assert world.patch(port, name="x").identity == first
    port = world.patch(port, labels=None, security_groups=[world.web.id])
    named = port.identity
    port = world.replace("port", port.id, network_id=world.network.id, labels={"tier": "web"})
    assert port.security_groups == (world.web.id,) and port.identity != named, "what is not said of groups stays"
    assert world.replace("port", port.id, network_id=world.network.id).identity == named


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"security_groups": [NOBODY]}, 404, "security_groups[0]"),
        ({"security_groups": ["web"]}, 400, "security_groups[0]"),
        ({"labels": {"bad key": "x"}}, 400, "labels"),
        ({"labels": {"x/y/z": "x"}}, 400, "labels"),
        ({"labels": {"tier\n": "x"}}, 400, "labels"),
        ({"labels": {"tier": "x\n"}}, 400, "labels.tier"),
        ({"labels": {"tier": "-x"}}, 400, "labels[...]"),
        ({"labels": {f"k{n}": "v" for n in range(65)}}, 400, "labels"),
        ({"identity": 5}, 400, "identity"),
    ],
)
def test_ports_with_groups_and_labels_that_cannot_be(
    world: Grouped, fields: dict[str, Any], status: int, field: str
) -> None:
    with refusal(status, field):
        world.create("port", network_id=world.network.id, **fields)


def test_a_group_is_named_once_and_only_by_vms_with_port_security(world: Grouped) -> None:
    with refusal(400, "security_groups", "twice"):
        world.port(world.web, world.web)
    with refusal(409, "security_groups", "port_security_enabled"):
        world.port(world.web, port_security_enabled=False)
    port = world.port(world.web)
    with refusal(409, "security_groups", "port_security_enabled"):
        world.patch(port, port_security_enabled=False)
    assert world.port(labels={"a": "b"}, port_security_enabled=False).identity
    router = world.create("router", project_id="us")
    world.create("subnet", network_id=world.network.id, cidr="10.0.0.0/24")
    with refusal(400, "security_groups", "router"):
        world.port(world.web, router_id=router.id)
    with refusal(400, "labels", "router"):
        world.port(labels={"a": "b"}, router_id=router.id)


def test_a_port_names_groups_of_its_project_and_shared_ones(world: Grouped) -> None:
    theirs = world.group("them")
    with refusal(404, "security_groups[0]"):
        world.create("port", "us", network_id=world.network.id, security_groups=[theirs.id])
    with refusal(409, "security_groups[0]", "not shared"):
        world.port(theirs)
    shared = world.patch(theirs, shared=True)
    port = world.create("port", "us", network_id=world.network.id, security_groups=[theirs.id])
    with refusal(409, "shared", port.id):
        world.patch(shared, shared=False)
    assert world.topology.identities_of_group(theirs.id) == {port.identity}


def test_a_tenant_neither_takes_nor_leaves_groups_of_tier_admin(world: Grouped) -> None:
    guard = world.admins()
    port = world.create("port", "us", network_id=world.network.id, security_groups=[])
    with refusal(404, "security_groups[0]"):
        world.patch(port, project="us", security_groups=[guard.id])
    port = world.patch(port, security_groups=[guard.id])
    port = world.patch(port, project="us", security_groups=[world.web.id])
    assert set(port.security_groups) == {guard.id, world.web.id}
    port = world.replace("port", port.id, "us", network_id=world.network.id, security_groups=[])
    assert port.security_groups == (guard.id,) and world.identity(port).security_groups == (guard.id,)
    assert world.patch(port, security_groups=[]).security_groups == ()


def test_statefulness_agrees_among_the_groups_of_a_port(world: Grouped) -> None:
    fast = world.group(stateful=False)
    with refusal(409, "security_groups", world.web.id, fast.id, "stateful"):
        world.port(world.web, fast)
    selecting = world.group(selector=TIER_WEB, stateful=False)
    with refusal(409, "security_groups", selecting.id):
        world.port(world.web, labels={"tier": "web"})
    port = world.port(fast, labels={"tier": "web"})
    with refusal(409, "stateful", port.id):
        world.patch(selecting, stateful=True)
    with refusal(409, "selector", port.id):
        world.patch(world.web, selector=[requirement("tier", "Exists")])
    with refusal(409, "selector", port.id):
        world.group(selector=[requirement("tier", "Exists")])
    world.admins(selector=[requirement("tier", "Exists")])
    world.group("them", selector=[requirement("tier", "Exists")])
    world.delete(port)
    world.patch(selecting, stateful=True), world.patch(fast, stateful=True)
    world.port(world.web, fast, labels={"tier": "web"})


def test_an_identity_is_one_wherever_it_is_made(world: Grouped) -> None:
    """Two controllers make the same row, so that one of them fails and finds the other's."""
    port = world.port(world.web, labels={"b": "2", "a": "1"})
    assert world.identity(port).id == identity_id("us", [world.web.id], {"a": "1", "b": "2"})
    assert world.identity(port).id[14] == "8"


def test_the_identity_comes_with_the_port_in_one_batch(world: Grouped) -> None:
    fields = {"network_id": world.network.id, "security_groups": [world.web.id]}
    draft = Draft(world.topology)
    kinds = []
    for number in (7, 8):
        id = f"00000000-0000-4000-8000-00000000010{number}"
        edit = admit(draft, Write("create", "port", fields=fields), world.allocator, id)
        for each in (*consequences(draft, edit, world.allocator), edit):
            kinds.append(each.kind)
            draft.stage(each)
    assert kinds == ["identity", "port", "port"]
    (number,) = draft.identities
    assert set(draft.ports_with(number)) == {edit.id for edit in draft.edits if edit.kind == "port"}


def test_exhaustion_is_told(world: Grouped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security_groups, "IDENTITY", (1, 2))
    one, two = world.port(labels={"n": "1"}), world.port(labels={"n": "2"})
    assert {one.identity, two.identity} == {1, 2}
    with refusal(409, "identity", "all numbers from 1 to 2 are taken"):
        world.port(labels={"n": "3"})
    world.port(labels={"n": "2"})
    monkeypatch.setattr(security_groups, "RULE_KEY", (1, 1))
    world.rule()
    with refusal(409, "rule_key", "taken"):
        world.rule(protocol="tcp")


def test_identities_of_a_project_are_limited(world: Grouped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security_groups, "IDENTITIES_OF_PROJECT", 2)
    world.port(labels={"n": "1"}), world.port(labels={"n": "2"})
    with refusal(409, "labels", "'us'", "2 different sets"):
        world.port(labels={"n": "3"})
    world.port(labels={"n": "2"})
    world.create("port", network_id=world.network.id, labels={"n": "3"}, project_id="x")


# --- collecting identities ---------------------------------------------------------------------------------------


def retire(world: Grouped, identity: Identity) -> Any:
    return world.write(Write("patch", "identity", identity.id, {"retired": True}, system=True))


def test_nobody_but_novanet_writes_identities(world: Grouped) -> None:
    identity = world.identity(world.port(world.web))
    for write in (
        Write("create", "identity", fields={"number": 4}),
        Write("patch", "identity", identity.id, {"name": "x"}),
        Write("delete", "identity", identity.id),
    ):
        with refusal(403, "", "NovaNet alone"):
            world.write(write)
    with refusal(403, "", "administrators"):
        world.write(Write("delete", "identity", identity.id, project="us"))


def test_an_identity_is_retired_and_deleted_only_without_ports(world: Grouped) -> None:
    port = world.port(world.web)
    identity = world.identity(port)
    with refusal(409, "", port.id):
        retire(world, identity)
    with refusal(409, "", port.id):
        world.write(Write("delete", "identity", identity.id, system=True))
    world.delete(port)
    assert world.topology.identities_of_group(world.web.id) == {identity.number}, "it lingers as a member"
    retire(world, identity)
    assert not world.topology.identities_of_group(world.web.id)
    world.write(Write("delete", "identity", identity.id, system=True))
    assert not world.topology.identities and not world.topology.all("identity")


def test_a_port_takes_its_identity_out_of_retirement(world: Grouped) -> None:
    port = world.port(world.web)
    identity = world.identity(port)
    world.delete(port)
    retire(world, identity)
    again = world.port(world.web)
    assert again.identity == identity.number and not world.identity(again).retired
    assert world.identity(again).revision_number == 3
    assert world.topology.identities_of_group(world.web.id) == {identity.number}


def test_a_group_may_go_while_its_identity_lingers(world: Grouped) -> None:
    port = world.port(world.web)
    number = port.identity
    world.delete(port)
    world.delete(world.web)
    assert world.topology.groups_of_identity(number) == set()
    again = world.create("security-group", id=world.web.id, project_id="us")
    assert world.topology.identities_of_group(again.id) == {number}


# --- the graph ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "values", "missing", "web", "db"),
    [
        ("In", ("web", "app"), False, True, False),
        ("NotIn", ("web", "app"), True, False, True),
        ("Exists", (), False, True, True),
        ("DoesNotExist", (), True, False, False),
    ],
)
def test_requirements_are_kubernetes(operator: Any, values: Any, missing: bool, web: bool, db: bool) -> None:
    requirement = LabelRequirement("tier", operator, values)
    found = [meets(labels, requirement) for labels in ({}, {"tier": "web"}, {"tier": "db"})]
    assert found == [missing, web, db]


def test_selectors_choose_among_the_groups_project_and_admins_among_all() -> None:
    selector = (LabelRequirement("tier", "Exists"),)
    group = SecurityGroup(id=NOBODY, project_id="us", selector=selector)
    admins = SecurityGroup(id=NOBODY, tier="admin", selector=selector)
    assert selects(group, "us", {"tier": "x"}) and not selects(group, "them", {"tier": "x"})
    assert selects(admins, "us", {"tier": "x"}) and not selects(admins, "us", {})
    assert not selects(SecurityGroup(id=NOBODY, project_id="us"), "us", {"tier": "x"})


def test_members_follow_selectors_labels_and_locations(world: Grouped) -> None:
    topology = world.topology
    here, there = (world.create("hypervisor", name=name) for name in ("here", "there"))
    chosen = world.group(selector=TIER_WEB)
    one = world.port(world.web, labels={"tier": "web"})
    two = world.port(labels={"tier": "db"})

    def locate(port: Any, hypervisor: Any) -> list[Any]:
        stored = topology.get("port", port.id)
        moved = KINDS["port"](**{name: getattr(stored, name) for name in stored.__struct_fields__} | {
            "host_id": hypervisor.id if hypervisor else None
        })  # fmt: skip
        return [change for change in topology.apply([Edit("port", port.id, moved)]) if change.kind == "resident"]

    assert topology.identities_of_group(chosen.id) == {one.identity}
    assert topology.groups_of_identity(one.identity) == {chosen.id, world.web.id}
    assert [change[1:] for change in locate(one, here)] == [(here.id, None, one.identity)]
    assert [change[1:] for change in locate(one, there)] == [
        (here.id, one.identity, None), (there.id, None, one.identity),
    ]  # fmt: skip
    locate(two, here)
    assert topology.members_here(here.id, two.identity) and not topology.members_here(here.id, one.identity)
    assert dict(topology.hypervisors_of_group(chosen.id)) == {there.id: 1}
    world.patch(topology.get("port", two.id), labels={"tier": "web"})
    assert dict(topology.hypervisors_of_group(chosen.id)) == {there.id: 1, here.id: 1}
    assert dict(topology.hypervisors_of_group(world.web.id)) == {there.id: 1}
    world.patch(chosen, selector=None)
    assert not topology.hypervisors_of_group(chosen.id) and not topology.identities_of_group(chosen.id)


def test_a_member_that_joins_changes_no_membership(world: Grouped) -> None:
    """Ports come and go without a walk through members or rules: nothing about the group changes."""
    world.port(world.web)
    edit = admit(
        world.topology,
        Write("create", "port", fields={"network_id": world.network.id, "security_groups": [world.web.id]}),
        world.allocator,
        NOBODY,
    )
    changes = world.topology.apply([*consequences(world.topology, edit, world.allocator), edit])
    assert [change.kind for change in changes] == ["port"]


def test_a_join_costs_the_same_whatever_the_number_of_members(world: Grouped) -> None:
    """Counted in calls of functions, Python's and built-in ones; numbers and addresses are drawn, so a few may differ."""

    def calls_of_a_join() -> int:
        counted = 0

        def count_call(frame: Any, event: str, argument: Any) -> None:
            nonlocal counted
            counted += event in ("call", "c_call")

        sys.setprofile(count_call)
        try:
            world.port(world.web)
        finally:
            sys.setprofile(None)
        return counted

    selecting = [world.group(selector=TIER_WEB) for _ in range(3)]
    world.rule(remote_group_id=world.web.id), world.rule(selecting[0], remote_group_id=world.web.id)
    world.port(world.web)
    first = calls_of_a_join()
    for _ in range(300):
        world.port(world.web)
    assert calls_of_a_join() <= first + 10


def test_the_order_of_edits_does_not_matter(world: Grouped) -> None:
    host = world.create("hypervisor", name="here")
    selecting = world.group(selector=TIER_WEB)
    port = world.port(world.web, labels={"tier": "web"})
    located = KINDS["port"](
        **{name: getattr(port, name) for name in port.__struct_fields__} | {"host_id": host.id},
    )
    edits = [
        Edit(kind, id, located if kind == "port" else obj)
        for kind in ("security-group", "identity", "port")
        for id, obj in world.topology.all(kind).items()
    ]
    for order in permutations(edits):
        topology = Topology()
        topology.apply(order)
        for group in (world.web, selecting):
            assert topology.identities_of_group(group.id) == {port.identity}
            assert dict(topology.hypervisors_of_group(group.id)) == {host.id: 1}
        topology.apply(Edit(edit.kind, edit.id, None) for edit in order)
        empty = topology._membership
        left = {name: value for name, value in vars(empty).items() if value}
        assert not left, left


def test_the_documented_limits_are_the_real_ones() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security-groups.md").read_text()
    rows = [line for line in page[page.index("## Limits") :].splitlines() if line.startswith("|")]
    told = {int(number) for row in rows for number in re.findall(r"\b\d+\b", row)}
    limits = set()
    for kind, name, field in (
        ("port", "Port", "security_groups"), ("port", "Port", "labels"), ("address-group", "AddressGroup", "addresses"),
    ):  # fmt: skip
        about = msgspec.json.schema(KINDS[kind])["$defs"][name]["properties"][field]
        about = next((choice for choice in about.get("anyOf", ()) if choice["type"] == "array"), about)
        limits.add(about.get("maxItems") or about["maxProperties"])
    limits |= {
        security_groups.RULES_OF_GROUP,
        security_groups.SELECTORS_OF_PROJECT,
        security_groups.IDENTITIES_OF_PROJECT,
    }
    assert told == limits | {16, 64}
