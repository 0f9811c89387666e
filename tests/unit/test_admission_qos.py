"""Admission of QoS policies and rules, of what they are attached to, and of what hypervisors' uplinks can promise."""

from __future__ import annotations

from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from topology import qos
from topology.admission import Allocator, Draft, Refused, Write, admit, consequences
from topology.changes import Edit
from topology.graph import Topology
from topology.model import Meters

from .test_admission import refusal
from .test_admission_routers import Routed

MBIT = 1000


class Shaped(Routed):
    """A hypervisor with an uplink of 100 Mbit/s that carries tunnels, and one of 1 Gbit/s for ``phys``."""

    def __init__(self) -> None:
        super().__init__()
        self.hypervisor = self.create(
            "hypervisor",
            name="hv1",
            bridge_mappings=[{"physical_network": "phys", "bridge": "br-ex"}],
            uplinks=[
                {"interface": "eth0", "bandwidth_kbps": 100 * MBIT},
                {"interface": "eth1", "bandwidth_kbps": 1000 * MBIT, "physical_network": "phys"},
            ],
        )
        self.bare = self.create("hypervisor", name="hv2")
        self.policy = self.create("qos-policy", name="gold")

    def rule(self, type: str = "bandwidth_limit", policy: Any = None, **fields: Any) -> Any:
        return self.create("qos-rule", qos_policy_id=(policy or self.policy).id, type=type, **fields)

    def guarantee(self, kbps: int, name: str = "") -> Any:
        """A policy that guarantees so much."""
        policy = self.create("qos-policy", name=name)
        self.rule("minimum_bandwidth", policy, min_kbps=kbps)
        return policy

    def vm(self, on: Any = None, network: Any = None, **fields: Any) -> Any:
        port = self.create("port", network_id=(network or self.blue).id, **fields)
        return self.place(port, on) if on is not None else port

    def place(self, port: Any, on: Any) -> Any:
        """The platform plugs a VM."""
        placed = replace(self.topology.get("port", port.id), host_id=on.id)
        self.topology.apply([Edit("port", port.id, placed)])
        return placed

    def left(self) -> int:
        return qos.guarantees(self.topology, self.hypervisor.id).uplinks[0].left_kbps


@pytest.fixture
def world() -> Shaped:
    return Shaped()


# --- policies and rules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "fields", "field", "words"),
    [
        ("bandwidth_limit", {"max_kbps": 0}, "max_kbps", ("64 to 400000000",)),
        ("bandwidth_limit", {"max_kbps": -5}, "max_kbps", ("-5", "64 to")),
        ("bandwidth_limit", {"max_kbps": 10**12}, "max_kbps", ("400000000",)),
        ("bandwidth_limit", {"max_kbps": 10**30}, "max_kbps", ()),
        ("bandwidth_limit", {}, "max_kbps", ("must be given",)),
        ("bandwidth_limit", {"max_kbps": 1000, "max_burst_kbps": 11}, "max_burst_kbps", ("one packet", "13")),
        ("bandwidth_limit", {"max_kbps": 1000, "max_burst_kbps": 0}, "max_burst_kbps", ("1 to",)),
        ("bandwidth_limit", {"max_kbps": 1000, "max_burst_kbps": 5000}, "max_burst_kbps", ("4 s", "4000")),
        ("bandwidth_limit", {"max_kbps": 1000, "max_pps": 5}, "max_pps", ("packet_rate_limit",)),
        ("packet_rate_limit", {"max_pps": 0}, "max_pps", ("admin_state_up",)),
        ("packet_rate_limit", {"max_pps": 10**9}, "max_pps", ()),
        ("packet_rate_limit", {"max_pps": 10, "max_burst_packets": 41}, "max_burst_packets", ("40",)),
        ("packet_rate_limit", {"max_kbps": 1000}, "max_kbps", ("bandwidth_limit",)),
        ("minimum_bandwidth", {"min_kbps": 0}, "min_kbps", ("64",)),
        ("minimum_bandwidth", {"min_kbps": 1000, "direction": "ingress"}, "direction", ("who send",)),
        ("dscp_marking", {"dscp_mark": 64}, "dscp_mark", ("6 bits",)),
        ("dscp_marking", {"dscp_mark": 1, "direction": "ingress"}, "direction", ("egress only",)),
        ("priority", {"priority": 8}, "priority", ("0 to 7",)),
        ("priority", {"priority": -1}, "priority", ("0 to 7",)),
        ("max_latency", {"max_latency_ms": 0}, "max_latency_ms", ("1 to 1000",)),
        ("bandwidth_limit", {"max_kbps": 1000, "shape": True}, "shape", ("ingress", "uplink")),
        ("packet_rate_limit", {"max_pps": 10, "shape": True, "direction": "ingress"}, "shape", ("bandwidth_limit",)),
        (
            "bandwidth_limit",
            {"max_kbps": 1000, "max_burst_kbps": 100, "shape": True, "direction": "ingress"},
            "max_burst_kbps",
            ("goes without shape",),
        ),
        ("speed", {"max_kbps": 1000}, "type", ("Invalid enum value",)),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(
    world: Shaped, type: str, fields: dict[str, Any], field: str, words: tuple[str, ...]
) -> None:
    with refusal(400, field, *words):
        world.rule(type, **fields)


def test_a_policy_has_one_rule_of_each_type_and_direction(world: Shaped) -> None:
    made = world.rule(max_kbps=64)
    assert (made.direction, made.max_burst_kbps) == ("egress", None)
    world.rule(max_kbps=400_000_000, direction="ingress", max_burst_kbps=1_600_000_000)
    world.rule("dscp_marking", dscp_mark=0)
    world.rule("priority", priority=7)
    with refusal(409, "type", "bandwidth_limit", made.id):
        world.rule(max_kbps=5000)
    for fields, field in (({"type": "priority"}, "type"), ({"direction": "ingress"}, "direction")):
        with refusal(400, field, "cannot be changed"):
            world.patch(made, **fields)
    assert world.patch(made, max_kbps=128).max_kbps == 128


def test_no_more_is_guaranteed_than_allowed(world: Shaped) -> None:
    most = world.rule(max_kbps=5000)
    with refusal(409, "min_kbps", "6000", "5000", most.id):
        world.rule("minimum_bandwidth", min_kbps=6000)
    least = world.rule("minimum_bandwidth", min_kbps=5000)
    with refusal(409, "max_kbps", "4999", "5000", least.id):
        world.patch(most, max_kbps=4999)
    assert world.rule(max_kbps=100, direction="ingress"), "the other direction is not limited by it"


def test_a_policy_goes_with_its_rules_and_not_while_it_is_used(world: Shaped) -> None:
    rule = world.rule(max_kbps=1000)
    port = world.vm(qos_policy_id=world.policy.id)
    with refusal(409, "", "in use by port", port.id):
        world.delete(world.policy)
    world.patch(port, qos_policy_id=None)
    world.delete(world.policy)
    assert world.topology.get("qos-rule", rule.id) is None


# --- who may do what ---------------------------------------------------------------------------------------------


def test_tenants_attach_what_is_theirs_or_shared_and_write_no_policies(world: Shaped) -> None:
    network = world.create("network", "us")
    port = world.create("port", "us", network_id=network.id)
    for kind, fields in (("qos-policy", {}), ("qos-rule", {"qos_policy_id": world.policy.id, "type": "priority"})):
        with refusal(403, "", "administrators"):
            world.create(kind, "us", **fields)
    with refusal(404, "qos_policy_id"):
        world.patch(port, "us", qos_policy_id=world.policy.id)
    own = world.create("qos-policy", project_id="us")
    rule = world.rule(max_kbps=1000, policy=own)
    assert rule.project_id == "us"
    with refusal(403, "", "administrators"):
        world.patch(rule, "us", max_kbps=9000)
    with refusal(403, "", "administrators"):
        world.delete(own, "us")
    assert world.patch(port, "us", qos_policy_id=own.id).qos_policy_id == own.id
    world.patch(world.policy, shared=True)
    assert world.patch(port, "us", qos_policy_id=world.policy.id).qos_policy_id == world.policy.id
    assert world.patch(network, "us", qos_policy_id=world.policy.id)
    assert world.patch(port, "us", qos_policy_id=None).qos_policy_id is None
    with refusal(404, "qos_policy_id"):
        world.create("port", "them", network_id=world.create("network", "them").id, qos_policy_id=own.id)


def test_what_an_administrator_attached_a_tenant_cannot_take_away(world: Shaped) -> None:
    network = world.create("network", "us")
    port = world.create("port", "us", network_id=network.id)
    own = world.create("qos-policy", project_id="us")
    world.patch(port, qos_policy_id=world.policy.id)
    for other in (None, own.id):
        with refusal(403, "qos_policy_id", "administrator"):
            world.patch(port, "us", qos_policy_id=other)
    kept = world.replace("port", port.id, "us", network_id=network.id, name="new")
    assert (kept.qos_policy_id, kept.name) == (world.policy.id, "new")
    same = world.replace("port", port.id, "us", network_id=network.id, qos_policy_id=world.policy.id)
    assert same.qos_policy_id == world.policy.id
    assert world.patch(port, qos_policy_id=None).qos_policy_id is None


def test_trust_and_uplinks_are_the_administrators(world: Shaped) -> None:
    port = world.create("port", "us", network_id=world.create("network", "us").id)
    with refusal(403, "trust_dscp", "administrators"):
        world.patch(port, "us", trust_dscp=True)
    assert world.patch(port, trust_dscp=True).trust_dscp
    assert world.replace("port", port.id, "us", network_id=port.network_id).trust_dscp, "kept when left out"
    with refusal(403, ""):
        world.patch(world.hypervisor, "us", uplinks=[])
    with refusal(400, "shaping", "set by NovaNet"):
        world.patch(world.hypervisor, shaping=[{"interface": "eth0"}])


def test_a_refusal_tells_a_tenant_nothing_of_others(world: Shaped) -> None:
    world.vm(world.hypervisor, project_id="them", name="secret", qos_policy_id=world.guarantee(90 * MBIT).id)
    network = world.create("network", "us")
    mine = world.place(world.create("port", "us", network_id=network.id), world.hypervisor)
    wish = world.guarantee(6 * MBIT)
    world.patch(wish, shared=True)
    try:
        world.patch(mine, "us", qos_policy_id=wish.id)
    except Refused as refused:
        assert refused.status == 409 and "secret" not in refused.detail and "hv1" not in refused.detail
        assert mine.id in refused.detail and world.hypervisor.id in refused.detail and "5000 are left" in refused.detail
    else:
        raise AssertionError("admitted")


# --- what has a policy -------------------------------------------------------------------------------------------


def test_of_a_routers_ports_its_gateway_has_one(world: Shaped) -> None:
    world.rule(max_kbps=1000)
    leg, gateway = world.join(world.blue), world.join(world.outside)
    with refusal(400, "qos_policy_id", "gateway"):
        world.patch(leg, qos_policy_id=world.policy.id)
    assert world.patch(gateway, qos_policy_id=world.policy.id).qos_policy_id == world.policy.id
    floating = world.create("floating-ip", floating_network_id=world.outside.id, qos_policy_id=world.policy.id)
    assert floating.qos_policy_id == world.policy.id
    for type, fields in (("priority", {"priority": 1}), ("minimum_bandwidth", {"min_kbps": 100})):
        with refusal(409, "type", "goes with VMs' ports"):
            world.rule(type, **fields)
    world.rule("dscp_marking", dscp_mark=46)
    other = world.guarantee(1000)
    for user in (gateway, floating):
        with refusal(409, "qos_policy_id", "minimum_bandwidth"):
            world.patch(user, qos_policy_id=other.id)


def test_a_burst_lets_the_largest_packet_pass(world: Shaped) -> None:
    world.patch(world.mesh, underlay_mtu=9100)
    jumbo = world.create("network", mtu=9000)
    rule = world.rule(max_kbps=1000, max_burst_kbps=50)
    world.vm(qos_policy_id=world.policy.id, network=world.create("network", mtu=1400))
    with refusal(409, "qos_policy_id", "9000", "73 kbit", "50"):
        world.patch(jumbo, qos_policy_id=world.policy.id)
    with refusal(409, "qos_policy_id", "73 kbit"):
        world.vm(network=jumbo, qos_policy_id=world.policy.id)
    world.patch(rule, max_burst_kbps=73)
    world.patch(jumbo, qos_policy_id=world.policy.id)
    with refusal(409, "max_burst_kbps", "9000"):
        world.patch(rule, max_burst_kbps=72)
    assert world.patch(rule, max_burst_kbps=None).max_burst_kbps is None


def test_a_network_keeps_an_mtu_that_its_policies_let_pass(world: Shaped) -> None:
    world.patch(world.mesh, underlay_mtu=9100)
    world.rule(max_kbps=1000, max_burst_kbps=50)
    network = world.create("network", mtu=1500)
    port = world.vm(network=network, qos_policy_id=world.policy.id)
    with refusal(409, "mtu", "72 kbit"):
        world.patch(network, mtu=8900)
    with refusal(409, "mtu", "73 kbit"):
        world.patch(network, mtu=None)
    world.patch(port, qos_policy_id=None)
    assert world.patch(network, mtu=8900).mtu == 8900


def test_an_underlay_keeps_an_mtu_that_policies_let_pass(world: Shaped) -> None:
    world.rule(max_kbps=1000, max_burst_kbps=50)
    world.vm(qos_policy_id=world.policy.id)
    with refusal(409, "underlay_mtu", "max_burst_kbps"):
        world.patch(world.mesh, underlay_mtu=9000)


# --- uplinks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uplinks", "field"),
    [
        ([{"interface": "eth0", "bandwidth_kbps": 0}], "uplinks[0].bandwidth_kbps"),
        ([{"interface": "eth0/1", "bandwidth_kbps": 5000}], "uplinks[0].interface"),
        ([{"interface": "a-name-of-16-chars", "bandwidth_kbps": 5000}], "uplinks[0].interface"),
        ([{"interface": "e", "bandwidth_kbps": 5000}, {"interface": "f", "bandwidth_kbps": 5000}], "uplinks[1].physical_network"),
        ([{"interface": "e", "bandwidth_kbps": 5000, "physical_network": "lan"}], "uplinks[0].physical_network"),
        (
            [
                {"interface": "e", "bandwidth_kbps": 5000},
                {"interface": "e", "bandwidth_kbps": 6000, "physical_network": "phys"},
            ],
            "uplinks[1].bandwidth_kbps",
        ),
    ],
)  # fmt: skip
def test_uplinks_that_make_no_sense_are_refused(world: Shaped, uplinks: list[Any], field: str) -> None:
    with refusal(400, field):
        world.patch(world.hypervisor, uplinks=uplinks)


def test_one_interface_may_carry_all(world: Shaped) -> None:
    both = [{"interface": "bond0", "bandwidth_kbps": 50 * MBIT, "physical_network": wire} for wire in ("", "phys")]
    world.patch(world.hypervisor, uplinks=both)
    (account,) = qos.guarantees(world.topology, world.hypervisor.id).uplinks
    assert (account.interface, account.physical_networks) == ("bond0", ("", "phys"))
    with refusal(400, "uplinks[1].physical_network", "bridge_mappings"):
        world.patch(world.hypervisor, bridge_mappings=[])


# --- promises ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_guaranteed_is_refused_with_the_numbers(world: Shaped) -> None:
    first = world.vm(world.hypervisor, name="first")
    second = world.vm(world.hypervisor, name="second")
    world.patch(first, qos_policy_id=world.guarantee(60 * MBIT).id)
    assert world.left() == 35 * MBIT, "of 100 Mbit/s 5 stay for what has no guarantee"
    with refusal(
        409,
        "qos_policy_id",
        "eth0",
        "hv1",
        "100000",
        "5000 stay",
        "60000 port",
        "(first)",
        "35000 are left",
        "36000 are asked",
    ):
        world.patch(second, qos_policy_id=world.guarantee(36 * MBIT).id)
    world.patch(second, qos_policy_id=world.guarantee(35 * MBIT).id)
    assert world.left() == 0


def test_it_counts_by_the_uplink_that_carries_the_network(world: Shaped) -> None:
    lan = world.create("network", physical_network="phys")
    outside = world.vm(world.hypervisor, network=lan)
    world.patch(outside, qos_policy_id=world.guarantee(900 * MBIT).id)
    accounts = qos.guarantees(world.topology, world.hypervisor.id)
    assert [account.promised_kbps for account in accounts.uplinks] == [0, 900 * MBIT]


def test_a_hypervisor_without_uplinks_guarantees_nothing(world: Shaped) -> None:
    port = world.vm(world.bare)
    policy = world.guarantee(1000)
    with refusal(409, "qos_policy_id", "hv2", "no uplink for tunnels", "uplinks"):
        world.patch(port, qos_policy_id=policy.id)
    world.patch(world.bare, uplinks=[{"interface": "eth0", "bandwidth_kbps": 2000}])
    world.patch(port, qos_policy_id=policy.id)
    with refusal(409, "uplinks", "no uplink"):
        world.patch(world.bare, uplinks=[])


def test_a_network_promises_for_each_of_its_ports(world: Shaped) -> None:
    ports = [world.vm(world.hypervisor) for _ in range(3)]
    world.vm()
    policy = world.guarantee(40 * MBIT)
    with refusal(409, "qos_policy_id", "120000 are asked for", "95000 are left"):
        world.patch(world.blue, qos_policy_id=policy.id)
    world.patch(ports[0], qos_policy_id=world.policy.id)
    world.patch(world.blue, qos_policy_id=policy.id)
    assert world.left() == 15 * MBIT
    with refusal(409, "qos_policy_id", "40000 are asked for", "15000 are left"):
        world.patch(ports[0], qos_policy_id=None)


def test_a_rule_promises_for_all_that_have_its_policy(world: Shaped) -> None:
    for _ in range(2):
        world.vm(world.hypervisor, qos_policy_id=world.policy.id)
    for port in world.topology.ports_on(world.hypervisor.id):
        world.patch(world.topology.get("port", port), qos_policy_id=world.policy.id)
    with refusal(409, "min_kbps", "96000 are asked"):
        world.rule("minimum_bandwidth", min_kbps=48 * MBIT)
    rule = world.rule("minimum_bandwidth", min_kbps=47 * MBIT)
    with refusal(409, "min_kbps", "hv1", "96000 are asked for"):
        world.patch(rule, min_kbps=48 * MBIT)
    world.patch(rule, min_kbps=1 * MBIT)
    assert world.left() == 93 * MBIT


def test_an_uplink_keeps_what_it_has_promised(world: Shaped) -> None:
    port = world.vm(world.hypervisor)
    world.patch(port, qos_policy_id=world.guarantee(50 * MBIT).id)
    smaller = [{"interface": "eth0", "bandwidth_kbps": 52 * MBIT}]
    with refusal(409, "uplinks", "52000", "50000"):
        world.patch(world.hypervisor, uplinks=smaller)
    assert world.patch(world.hypervisor, uplinks=[{"interface": "eth9", "bandwidth_kbps": 53 * MBIT}])


def test_what_is_over_already_may_get_better_not_worse(world: Shaped) -> None:
    """A VM that the platform plugs is not refused."""
    policy = world.guarantee(60 * MBIT)
    rule = world.topology.get("qos-rule", next(iter(world.topology.qos_rules_of(policy.id))))
    for _ in range(2):
        world.place(world.vm(qos_policy_id=policy.id), world.hypervisor)
    assert world.left() == -25 * MBIT
    account = qos.guarantees(world.topology, world.hypervisor.id).uplinks[0]
    assert account.granted(60 * MBIT) == 47_500
    with refusal(409, "min_kbps"):
        world.patch(rule, min_kbps=61 * MBIT)
    world.patch(rule, min_kbps=55 * MBIT)
    with refusal(409, "uplinks"):
        world.patch(world.hypervisor, uplinks=[{"interface": "eth0", "bandwidth_kbps": 90 * MBIT}])
    world.patch(world.hypervisor, uplinks=[{"interface": "eth0", "bandwidth_kbps": 110 * MBIT}])


def test_a_switch_with_too_few_meters_is_named(world: Shaped) -> None:
    port = world.vm(world.hypervisor)
    world.rule(max_kbps=1000)
    world.rule("packet_rate_limit", max_pps=1000)
    meters = Meters(hypervisor_id=world.hypervisor.id, max_meters=10, in_use=9)
    world.topology.apply([Edit("meters", meters.hypervisor_id, meters)])
    with refusal(409, "qos_policy_id", "hv1", "10 meters", "1 are left", "2 are needed"):
        world.patch(port, qos_policy_id=world.policy.id)
    world.topology.apply([Edit("meters", meters.hypervisor_id, replace(meters, max_meters=0))])
    with refusal(409, "qos_policy_id", "hv1", "no meters"):
        world.patch(port, qos_policy_id=world.policy.id)
    world.topology.apply([Edit("meters", meters.hypervisor_id, replace(meters, in_use=8))])
    world.patch(port, qos_policy_id=world.policy.id)
    with refusal(409, "max_kbps", "hv1"):
        world.topology.apply([Edit("meters", meters.hypervisor_id, replace(meters, in_use=10))])
        world.rule(max_kbps=1000, direction="ingress")


# --- by any order of operations ----------------------------------------------------------------------------------

IDS = [str(UUID(int=n, version=4)) for n in range(1, 5)]
id_ = st.sampled_from(IDS)
policy_ = st.none() | id_
kbps = st.sampled_from([64, 1000, 2000, 3000, 5000, 9000])


def write(op: str, kind: str, id: Any, **fields: Any) -> Any:
    return st.builds(lambda id, fields: Write(op, kind, id, fields), id, st.fixed_dictionaries(fields))


uplink = st.fixed_dictionaries(
    {"interface": st.sampled_from(["eth0", "eth1"]), "bandwidth_kbps": st.sampled_from([5000, 10_000, 12_000])},
    optional={"physical_network": st.just("phys")},
)
OPERATIONS = st.one_of(
    write("patch", "port", id_, qos_policy_id=policy_),
    write("patch", "port", id_, qos_policy_id=policy_),
    write("patch", "network", id_, qos_policy_id=policy_),
    write("create", "qos-rule", id_, qos_policy_id=id_, type=st.just("minimum_bandwidth"), min_kbps=kbps),
    write("create", "qos-rule", st.none(), qos_policy_id=id_, type=st.just("bandwidth_limit"), max_kbps=kbps),
    write("patch", "qos-rule", id_, min_kbps=kbps),
    write("delete", "qos-rule", id_),
    write("delete", "qos-policy", id_),
    write("create", "qos-policy", id_),
    write("delete", "port", id_),
    write("create", "port", id_, network_id=st.sampled_from(IDS[:2]), qos_policy_id=policy_),
    write("patch", "hypervisor", id_, uplinks=st.lists(uplink, max_size=2)),
    st.tuples(id_, st.sampled_from(IDS[:2])),
)
"""Writes, and VMs that are plugged by the platform: (port, hypervisor)."""


def shortage(topology: Topology, hypervisor: str) -> tuple[int, set[str]]:
    """How much is promised beyond what there is, and to whom by uplinks that are not there. Counted anew from the objects."""
    host = topology.get("hypervisor", hypervisor)
    by = {uplink.physical_network: uplink.interface for uplink in host.uplinks}
    room = {each.interface: each.bandwidth_kbps - max(each.bandwidth_kbps // 20, 1000) for each in host.uplinks}
    without = set()
    for port in topology.all("port").values():
        network = topology.get("network", port.network_id)
        policy = port.qos_policy_id or network.qos_policy_id
        rules = [rule for rule in topology.all("qos-rule").values() if rule.qos_policy_id == policy]
        for rule in rules if port.host_id == hypervisor else ():
            if rule.type == "minimum_bandwidth":
                interface = by.get(network.physical_network or "")
                if interface is None:
                    without.add(port.id)
                else:
                    room[interface] -= rule.min_kbps
    return sum(min(left, 0) for left in room.values()), without


def prepared() -> tuple[Topology, Allocator]:
    topology, allocator = Topology(), Allocator(Random(1))
    mapping = [{"physical_network": "phys", "bridge": "br-ex"}]
    uplinks = [{"interface": "eth0", "bandwidth_kbps": 10_000}]
    first = [
        Write("create", "tunnel-mesh", None, {}),
        *(Write("create", "qos-policy", id) for id in IDS[:3]),
        Write("create", "qos-rule", IDS[0], {"qos_policy_id": IDS[0], "type": "minimum_bandwidth", "min_kbps": 3000}),
        Write("create", "network", IDS[0], {}),
        Write("create", "network", IDS[1], {"physical_network": "phys"}),
        *(
            Write("create", "hypervisor", id, {"name": id[-2:], "uplinks": uplinks, "bridge_mappings": mapping})
            for id in IDS[:2]
        ),
        *(Write("create", "port", id, {"network_id": IDS[n % 2]}) for n, id in enumerate(IDS)),
    ]
    for each in first:
        perform(topology, allocator, [each])
    return topology, allocator


def perform(topology: Topology, allocator: Allocator, batch: list[Any]) -> None:
    draft = Draft(topology)
    for number, each in enumerate(batch):
        fresh = str(UUID(int=1000 + len(topology.all("qos-rule")) * 50 + number, version=4))
        edit = admit(draft, each, allocator, fresh)
        for edits in (*consequences(draft, edit, allocator), edit):
            draft.stage(edits)
    topology.apply(draft.edits)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(OPERATIONS, min_size=1, max_size=3), max_size=20))
def test_no_order_of_operations_promises_more_than_there_is(batches: list[list[Any]]) -> None:
    topology, allocator = prepared()
    for batch in batches:
        if any(isinstance(each, Write) for each in batch):
            before = {id: shortage(topology, id) for id in IDS[:2]}
            try:
                perform(topology, allocator, [each for each in batch if isinstance(each, Write)])
            except Refused as refused:
                assert 400 <= refused.status < 500 and refused.detail
            for id in IDS[:2]:
                (was, had), (short, without) = before[id], shortage(topology, id)
                assert short >= was, "what is over gets no worse, and what is not over stays so"
                assert without <= had
        else:
            for port, hypervisor in batch:
                found = topology.get("port", port)
                if found is not None:
                    topology.apply([Edit("port", port, replace(found, host_id=hypervisor))])
        for id in IDS[:2]:
            accounts = qos.guarantees(topology, id)
            assert sum(min(each.left_kbps, 0) for each in accounts.uplinks) == shortage(topology, id)[0]
            for account in accounts.uplinks:
                granted = sum(account.granted(each.min_kbps) for each in account.guarantees)
                assert granted <= account.available_kbps
