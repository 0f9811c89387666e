"""Least connections with real ones: agents count what is open, and new connections go to members that have fewer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from novanet_apps.host_agent.conntrack import Userspace
from tools.lab import VM, HostAgent
from topology.relief import UNIT

from .balancing import Balancer, ask, server
from .cloud import Cloud, until

HOLDER = r"""
import json, socket, sys
host, port, count, wanted, names = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], []
held = []
while len(held) < count:
    client = socket.create_connection((host, port), timeout=5)
    name = client.makefile().readline().split()[0]
    if wanted in ("", name):
        held.append(client)
        names.append(name)
    else:
        client.close()
print(json.dumps(names), flush=True)
sys.stdin.read()
"""


class Held:
    """Connections of a VM that stay open until ``close``: so many, with any member or with one."""

    def __init__(self, vm: VM, host: str, port: int, count: int, member: str = "") -> None:
        argv = [sys.executable, "-c", HOLDER, host, str(port), str(count), member]
        self._process = vm.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.members = Counter(json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Site:
    """A client and a member on either hypervisor, and an agent on both."""

    def __init__(self, cloud: Cloud, stack: ExitStack) -> None:
        self.cloud = cloud
        self.network = cloud.network("10.1.0.0/24", "fd01::/64")
        self.clients = [cloud.vm(self.network, 0), cloud.vm(self.network, 1)]
        self.near, self.far = cloud.vm(self.network, 0), cloud.vm(self.network, 1)
        for name in ("near", "far"):
            stack.enter_context(server(getattr(self, name), name, tcp=[8080], udp=[8080]))
        self.agents = [HostAgent(each, cloud.controller) for each in cloud.lab.hypervisors]
        for agent in self.agents:
            stack.callback(agent.terminate)
            agent.start()

    def connections(self) -> list[int]:
        """What the agents have counted; nothing while one of them is not there yet."""
        try:
            return [int(agent.metric("novanet_agent_connections")) for agent in self.agents]
        except OSError:
            return []

    def counts(self, *expected: int) -> None:
        until(f"agents count {expected}", lambda: self.connections() == list(expected), 30)

    def counted_again(self) -> None:
        """Until every agent has counted twice from now on: the second time it has begun later."""
        name = "novanet_agent_connection_counts_total"
        before = [agent.metric(name) for agent in self.agents]

        def again() -> bool:
            return all(agent.metric(name) >= was + 2 for agent, was in zip(self.agents, before, strict=True))

        until("agents count", again, 40)


class Shares:
    """A load balancer with a pool of both members, and how its slots are dealt."""

    def __init__(self, site: Site, six: bool = False, protocol: str = "TCP", **weights: int) -> None:
        [subnet] = [each for each in site.network["subnets"] if each["ip_version"] == (6 if six else 4)]
        self.site, self.api = site, site.cloud.api
        self.balancer = Balancer(site.cloud, vip_subnet_id=subnet["id"])
        self.pool = self.balancer.serve(
            80, site.near, site.far, six=six, protocol=protocol, lb_algorithm="least_connections"
        )
        self.members: dict[str, dict[str, Any]] = dict(zip(("near", "far"), self.pool["members"], strict=True))
        for name, weight in weights.items():
            self.balancer.change(self.members[name], weight=weight)

    @property
    def vip(self) -> str:
        return str(self.balancer.vip)

    def slot_weight(self, name: str) -> int:
        member = self.api.get(f"/v1/members/{self.members[name]['id']}")
        return int(member["slot_weight"] or UNIT * member["weight"])

    def prefers(self, name: str, other: str) -> bool:
        """Whether a member has more slots for its weight than the other, and the switches know it."""
        one, two = (self.api.get(f"/v1/members/{self.members[each]['id']}") for each in (name, other))
        return self.slot_weight(name) * two["weight"] > 1.1 * self.slot_weight(other) * one["weight"]

    def settled(self) -> None:
        self.balancer.wait(pools=[self.pool], members=list(self.members.values()))

    def asked(self, client: VM, count: int = 400) -> Counter[str]:
        """Who answers so many short connections: of twice the share there is 1.3 times as much at least, but for one in 100,000 tries."""
        return Counter(answer.split()[0] for answer in ask(client, self.vip, 80, count=count))

    def delete(self) -> None:
        """All but the load balancer, whose address nobody else is to have: clients remember its MAC address."""
        for collection in ("listeners", "members", "pools"):
            for each in self.api.get(f"/v1/{collection}", limit=1000)["items"]:
                if self.balancer.id == each.get("loadbalancer_id") or self.pool["id"] == each.get("pool_id"):
                    self.api.delete(f"/v1/{collection}/{each['id']}")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Cloud(2) as cloud, ExitStack() as stack:
        yield Site(cloud, stack)


@pytest.fixture(autouse=True)
def logs(site: Site) -> Iterator[None]:
    yield
    for agent in site.agents:
        print(f"--- {agent.log}\n{agent.tail()}")


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_new_connections_go_to_the_member_that_has_fewer(site: Site, six: bool) -> None:
    shares = Shares(site, six=six)
    site.counts(0, 0)
    first, second = site.clients
    assert min(shares.asked(first).values()) >= 150, "200 each, less five sigma"
    with Held(first, shares.vip, 80, 30, "near"), Held(second, shares.vip, 80, 20, "near"):
        site.counts(30, 20)
        until("far gets more", lambda: shares.prefers("far", "near"), 30)
        shares.settled()
        for client in site.clients:
            found = shares.asked(client)
            assert found["far"] > 1.3 * found["near"], found
        site.counts(30, 20)
    site.counts(0, 0)
    shares.delete()
    until("nothing is counted", lambda: not site.cloud.api.get("/v1/pools")["items"])


def test_shares_follow_to_the_other_member(site: Site) -> None:
    shares = Shares(site)
    client = site.clients[0]
    with Held(client, shares.vip, 80, 30, "near"):
        until("far gets more", lambda: shares.prefers("far", "near"), 30)
    site.counts(0, 0)
    before = shares.slot_weight("near")
    with Held(client, shares.vip, 80, 60, "far"):
        until("near gets more than it did", lambda: shares.slot_weight("near") > 1.1 * before, 30)
        with Held(client, shares.vip, 80, 180, "far"):
            site.counts(240, 0)
            until("near gets more than far", lambda: shares.prefers("near", "far"), 30)
            shares.settled()
            found = shares.asked(client)
            assert found["near"] > 1.2 * found["far"], found
    shares.delete()


def test_weights_are_honoured(site: Site) -> None:
    """Three times the weight: three times the connections are as they should be, and as many are too many for the other."""
    shares = Shares(site, near=1, far=3)
    client = site.clients[1]
    with Held(client, shares.vip, 80, 15, "near"), Held(client, shares.vip, 80, 45, "far"):
        site.counts(0, 60)
        site.counted_again()
        before = shares.slot_weight("near"), shares.slot_weight("far")
        assert 0.7 < before[1] / (3 * before[0]) < 1.4, before
        with Held(client, shares.vip, 80, 60, "near"):
            site.counts(0, 120)
            until("far gets more", lambda: shares.prefers("far", "near"), 30)
    shares.delete()


def test_datagrams_count_as_long_as_they_are_tracked(site: Site) -> None:
    shares = Shares(site, protocol="UDP")
    client = site.clients[0]
    answers = ask(client, shares.vip, 80, count=10, kind="udp")
    assert len(answers) == 10
    site.counts(10, 0)
    shares.delete()
    site.counts(0, 0)


def test_many_connections_are_counted_zone_by_zone(site: Site) -> None:
    """vswitchd is not asked for everything at once when it has more than ``Userspace.FEW``, those of policies included."""
    shares = Shares(site, protocol="UDP")
    for client in site.clients:
        ask(client, shares.vip, 80, count=1800, kind="udp", size=1)
    for hypervisor in site.cloud.lab.hypervisors:
        assert int(hypervisor.appctl("dpctl/ct-get-nconns")) > Userspace.FEW
    until("all are counted", lambda: min(site.connections(), default=0) > 1700, 30)
    assert max(site.connections()) <= 1800
    shares.delete()


def test_agents_and_the_controller_may_restart(site: Site) -> None:
    shares = Shares(site)
    first, second = site.clients
    with Held(first, shares.vip, 80, 40, "near"):
        until("far gets more", lambda: shares.prefers("far", "near"), 30)
        shares.settled()
        before = shares.slot_weight("near"), shares.slot_weight("far")
        site.agents[0].kill()
        site.cloud.kill_and_start_controller()
        site.agents[0].start()
        site.counts(40, 0)
        site.counted_again()
        assert (shares.slot_weight("near"), shares.slot_weight("far")) == before, "nothing is new"
        found = shares.asked(second)
        assert found["far"] > 1.3 * found["near"], found
        with Held(second, shares.vip, 80, 120, "far"):
            site.counts(40, 120)
            until("near gets more", lambda: shares.slot_weight("near") > 1.1 * before[0], 30)
    shares.delete()


def test_without_such_a_pool_nothing_is_read(site: Site) -> None:
    site.cloud.api.get("/v1/pools")
    name = "novanet_agent_connection_counts_total"
    until("agents know", lambda: site.connections() == [0, 0])
    before = [agent.metric(name) for agent in site.agents]
    balancer = Balancer(site.cloud, vip_network_id=site.network["id"])
    balancer.serve(81, site.near, site.far)
    with Held(site.clients[0], balancer.vip, 81, 5):
        other = Shares(site)
        site.counts(0, 0)
        site.counted_again()
        assert site.connections() == [0, 0], "another pool's"
        other.delete()
    assert all(agent.metric(name) > was for agent, was in zip(site.agents, before, strict=True))
