"""A group of many members that many rules name: what the switches hold grows with rules and with identities, and a member
that joins costs one flow on each hypervisor that reaches it, whatever the number of rules.

NOVANET_SCALE_PORTS says how many members; `make test-scale` runs this with 10,000.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from itertools import count

import pytest

from pipelines import tables as t
from tests.scale.test_ports import TIMEOUT, work
from tools.bench import groups, workload
from tools.bench.novanet import NovaNet
from tools.bench.workload import HYPERVISORS, PortSpec
from tools.lab.lab import Lab

MEMBERS = int(os.environ.get("NOVANET_SCALE_PORTS", "1000"))
FEW, MANY = 10, 1000
"""Rules that name the group."""
GROUP = groups.MEMBERS
"""The group of the members."""
SERVICES = GROUP.rules[0].ports
SERVERS = "00000000-0000-4000-8000-000400000001"
"""The group that these rules are of. A port on each hypervisor is a member, and another one of no group."""
POLICY = (t.POLICY_ADMIT, t.INGRESS_POLICY, t.EGRESS_POLICY)
EXTRA = count(1)


@pytest.fixture(scope="module")
def novanet() -> Iterator[NovaNet]:
    """All members, in one network on all hypervisors but the last, where nobody is."""
    members = [workload.neighbour(number) for number in range(MEMBERS)]
    with Lab(HYPERVISORS + 1) as lab, NovaNet(lab, {"audit_interval": 0}) as novanet:
        workload.plug_dummies(lab, members)
        novanet.add_networks(1)
        novanet.add_group(GROUP)
        novanet.request("POST", "/v1/security-groups", {"id": SERVERS, "name": "servers"})
        novanet.add_ports(members, group=GROUP)
        novanet.wait_realised(MEMBERS, TIMEOUT)
        for number in range(HYPERVISORS):
            added(novanet, number)
            patch(novanet, added(novanet, number), security_groups=[SERVERS])
        yield novanet


def added(novanet: NovaNet, hypervisor: int) -> PortSpec:
    """A port that is a member of no group."""
    port = workload.extra(next(EXTRA), hypervisor)
    workload.plug_dummies(novanet.lab, [port])
    novanet.realise_port(port, None)
    return port


def patch(novanet: NovaNet, port: PortSpec, **fields: object) -> None:
    assert novanet.request("PATCH", f"/v1/ports/{port.id}?wait=60", fields)["status"] == "ACTIVE"


@pytest.fixture(scope="module", params=[FEW, MANY])
def rules(request: pytest.FixtureRequest, novanet: NovaNet) -> int:
    """So many rules of SERVERS name the group. First all tests run with few of them."""
    add_rules(novanet, request.param)
    return int(request.param)


def add_rules(novanet: NovaNet, wanted: int) -> None:
    there = novanet.request("GET", f"/v1/security-groups/{SERVERS}")["rule_count"]
    fields = {"security_group_id": SERVERS, "direction": "ingress", "protocol": "tcp", "remote_group_id": GROUP.id}
    numbers = range(1000 + there, 1000 + wanted)
    made = [fields | {"port_range_min": number, "port_range_max": number} for number in numbers]
    if made:
        novanet.request("POST", "/v1/security-group-rules", made)
    novanet.wait_settled()


def flows(novanet: NovaNet) -> list[set[str]]:
    """What each switch has, without what it counts."""
    return [set(hypervisor.dump_flows("br-int", "--no-stats")) for hypervisor in novanet.lab.hypervisors]


def policy_flows(novanet: NovaNet) -> list[int]:
    """How many flows each switch has in the tables of rules."""
    numbers = [f"table={table.number}" for table in POLICY]
    dumps = (hypervisor.dump_flows("br-int") for hypervisor in novanet.lab.hypervisors)
    return [sum(any(f" {number}, " in line for number in numbers) for line in dump) for dump in dumps]


def test_flows_grow_with_rules_and_identities_and_not_with_members(novanet: NovaNet, rules: int) -> None:
    *found, nobodys = policy_flows(novanet)
    identities = novanet.counter("novanet_identities")
    # a rule: its service, and its verdict; an identity: its admission by IP version, and a clause in each place
    for each in found:
        assert 2 * rules < each - nobodys <= 2 * (rules + len(SERVICES) + 1) + 6 * identities
    assert nobodys < 10, "nobody is there"


@pytest.mark.parametrize("home", range(HYPERVISORS))
def test_a_member_that_joins_is_one_flow_for_each_hypervisor(novanet: NovaNet, rules: int, home: int) -> None:
    port = added(novanet, home)
    before, then = work(novanet), flows(novanet)

    novanet.join(port, GROUP)
    done = work(novanet) - before
    assert done == Counter({"compiled port": HYPERVISORS, "flows_sent": HYPERVISORS}), "and no rule is looked at"
    assert [len(has - had) for has, had in zip(flows(novanet), then, strict=True)] == [1] * HYPERVISORS + [0]

    patch(novanet, port, security_groups=[SERVERS])
    moved = work(novanet) - before - done
    assert moved == done, "another group: the flow says another identity"

    novanet.leave(port, GROUP)
    left = work(novanet) - before - done - moved
    assert left == done, "of no group is an identity, too"
    assert flows(novanet) == then


def test_a_port_that_is_made_as_a_member_is_no_flow_more(novanet: NovaNet, rules: int) -> None:
    workload.plug_dummies(
        novanet.lab, [alone := workload.extra(next(EXTRA), 1), member := workload.extra(next(EXTRA), 1)]
    )
    start = work(novanet)
    novanet.realise_port(alone, None)
    plain = work(novanet) - start
    novanet.realise_port(member, group=GROUP)
    grouped = work(novanet) - start - plain
    for done in (plain, grouped):
        del done["groups_sent"]  # copies of broadcast: as many as it takes to hold the ports that are there
    assert grouped == plain, "of no group is an identity, too"


def test_a_rule_costs_the_same_with_many_members(novanet: NovaNet, rules: int) -> None:
    before, then = work(novanet), flows(novanet)
    fields = {"security_group_id": SERVERS, "direction": "ingress", "protocol": "udp", "remote_group_id": GROUP.id}
    rule = novanet.request("POST", "/v1/security-group-rules", fields)
    novanet.wait_settled()
    done = work(novanet) - before
    # its service, its verdict, and that it is about the servers and about each identity that is a member: all but that of no group
    cost = 2 + int(novanet.counter("novanet_identities")) - 1
    assert [len(has - had) for has, had in zip(flows(novanet), then, strict=True)] == [cost] * HYPERVISORS + [0]
    assert done["flows_sent"] == cost * HYPERVISORS
    assert done["compiled port"] == done["full_recomputes"] == done["resyncs"] == done["flows_deleted"] == 0
    novanet.request("DELETE", f"/v1/security-group-rules/{rule['id']}")
    novanet.wait_settled()
    assert flows(novanet) == then


def test_an_identity_costs_the_same_with_many_rules(novanet: NovaNet, rules: int) -> None:
    port = added(novanet, 0)
    then = flows(novanet)
    patch(novanet, port, security_groups=[GROUP.id], labels={"rules": str(rules)})
    novanet.wait_settled()
    # where it is, its own policy, too
    assert [len(has - had) for has, had in zip(flows(novanet), then, strict=True)] == [6, 2, 2, 0]
    assert novanet.counter("novanet_full_recomputes_total") == HYPERVISORS + 1
    assert novanet.counter("novanet_bundle_errors_total") == 0
