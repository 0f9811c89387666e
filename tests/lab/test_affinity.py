"""Clients that stay with the member that had their first connection, as long as it is there: remembered by the switch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pipelines import tables as t
from tools.lab import VM

from .balancing import Balancer, ask, names, server
from .cloud import Cloud, until

MEMBERS = ("m1", "m2", "m3", "m4")
TIMEOUT = 3
BOTH = pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
KINDS = pytest.mark.parametrize("kind", ["tcp", "udp"])


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud(2, options={"audit_interval": 1}) as cloud:
        yield cloud


class Site:
    """Members on both hypervisors, and clients on both, in one network."""

    def __init__(self, cloud: Cloud, stack: ExitStack) -> None:
        self.cloud = cloud
        self.network = cloud.network("10.1.0.0/24", "fd01::/64")
        self.members = [cloud.vm(self.network, number % 2) for number in range(4)]
        self.clients = [cloud.vm(self.network, number % 2) for number in range(6)]
        for name, vm in zip(MEMBERS, self.members, strict=True):
            stack.enter_context(server(vm, name, tcp=[8080], udp=[8080]))

    def service(self, kind: str, six: bool, **pool: Any) -> tuple[Balancer, dict[str, Any]]:
        """A load balancer, and its only pool, whose clients stay."""
        [subnet] = [each for each in self.network["subnets"] if (each["ip_version"] == 6) == six]
        balancer = Balancer(self.cloud, vip_subnet_id=subnet["id"])
        stays = {"type": "SOURCE_IP", "persistence_timeout": 3600} | pool.pop("stays", {})
        return balancer, balancer.serve(
            80, *self.members, protocol=kind.upper(), six=six, session_persistence=stays, **pool
        )


@pytest.fixture(scope="module")
def site(cloud: Cloud) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(cloud, stack)


def whose(client: VM, balancer: Balancer, kind: str = "tcp", count: int = 8) -> str:
    """The one member that all of a client's connections come to."""
    found = names(
        ask(client, balancer.vip, 80, count=count, kind=kind), (client.ip6 if ":" in balancer.vip else client.ip) or ""
    )
    assert len(found) == 1, found
    return next(iter(found))


def remembered(cloud: Cloud) -> list[str]:
    """The flows that switches have learned."""
    return [
        flow for each in cloud.lab.hypervisors for flow in each.dump_flows() if f" table={t.LB_AFFINITY.number}," in flow
        and "priority=0" not in flow
    ]  # fmt: skip


@BOTH
@KINDS
def test_a_client_stays_and_clients_are_spread(site: Site, kind: str, six: bool) -> None:
    balancer, pool = site.service(kind, six)
    found = {client: whose(client, balancer, kind) for client in site.clients}
    assert len(set(found.values())) > 1
    # another table altogether: those who are known stay
    site.cloud.api.patch(f"/v1/pools/{pool['id']}", {"table_size": 509, "lb_algorithm": "round_robin"})
    site.cloud.wait_active("pools", pool["id"])
    assert {client: whose(client, balancer, kind) for client in site.clients} == found
    # a member that comes takes nobody who is known, one that goes lets its own go, and only these
    [gone] = [member for member, name in zip(pool["members"], MEMBERS, strict=True) if name == found[site.clients[0]]]
    site.cloud.api.delete(f"/v1/members/{gone['id']}")
    balancer.wait(pools=[pool])
    after = {client: whose(client, balancer, kind) for client in site.clients}
    for client, member in found.items():
        assert (after[client] == member) == (member != found[site.clients[0]])


def test_hypervisors_agree_without_having_learned(site: Site) -> None:
    """The hash is of the addresses alone: a client that moves to another hypervisor finds its member there."""
    balancer, _ = site.service("tcp", False)
    client = site.clients[0]
    before = whose(client, balancer)
    site.cloud.lab.hypervisors[0].unplug(client.port["id"])
    moved = site.cloud.plug(site.network, client.port, 1)
    site.clients[0] = moved
    assert whose(moved, balancer) == before


def test_a_member_that_is_down_or_drains_lets_its_clients_go(site: Site) -> None:
    balancer, pool = site.service("tcp", False)
    client = site.clients[1]
    first = whose(client, balancer)
    [its] = [member for member, name in zip(pool["members"], MEMBERS, strict=True) if name == first]
    balancer.change(its, weight=0)
    second = whose(client, balancer)
    assert second != first
    balancer.change(its, weight=1)
    assert whose(client, balancer) == second, "it was let go, and has stayed with the other since"
    [its] = [member for member, name in zip(pool["members"], MEMBERS, strict=True) if name == second]
    balancer.change(its, admin_state_up=False)
    until("nothing is remembered of it", lambda: not [flow for flow in remembered(site.cloud) if _of(flow, its)])
    assert whose(client, balancer) != second


def _of(flow: str, member: dict[str, Any]) -> bool:
    return f"cookie=0x4c01{member['member_key']:012x}" in flow


def test_who_does_not_come_back_is_forgotten(site: Site) -> None:
    balancer, pool = site.service("tcp", False, stays={"persistence_timeout": TIMEOUT})
    keys = [member["member_key"] for member in pool["members"]]
    for client in site.clients:
        whose(client, balancer)

    def known() -> list[str]:
        return [flow for flow in remembered(site.cloud) if any(_of(flow, {"member_key": key}) for key in keys)]

    assert len(known()) == len(site.clients)
    until("all are forgotten", lambda: not known(), timeout=TIMEOUT + 20)


def test_what_was_learned_is_nobody_s_to_repair(site: Site) -> None:
    """Neither an audit nor a new controller takes learned flows for a mistake, and no learned flow is lost by them."""
    balancer, _ = site.service("tcp", False)
    found = {client: whose(client, balancer) for client in site.clients}
    learned, repaired = len(remembered(site.cloud)), site.cloud.counter("novanet_drift_repaired_total")
    audits = site.cloud.counter("novanet_audits_total")
    until("audits", lambda: site.cloud.counter("novanet_audits_total") > audits + 4)
    assert site.cloud.counter("novanet_drift_repaired_total") == repaired
    site.cloud.kill_and_start_controller(0.2)
    time.sleep(0.5)
    assert len(remembered(site.cloud)) == learned
    assert {client: whose(client, balancer) for client in site.clients} == found
