"""Connections of a load balancer while its members come, drain and die, and while no controller lives.

NOVANET_SCALE_PORTS says how many: ten times that. `make test-scale` runs this with 100,000.
"""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.lab.balancing import Balancer
from tests.lab.cloud import Cloud

from .crowds import Client, Server, check, open_more

CONNECTIONS = 10 * int(os.environ.get("NOVANET_SCALE_PORTS", "1000"))
STEPS, CLIENTS, MEMBERS, FIRST = 20, 8, 14, 8
EACH = CONNECTIONS // STEPS // CLIENTS
TABLE = 16381
WEIGHTS = (1, 1, 1, 2, 3)
SIGMAS = 5.5
"""How far a share may be off, of some 200 that are looked at: chance alone exceeds it in one run of 100,000."""


class Site:
    """Clients and members on three hypervisors, in one network; each member is in the pool, drained, dead, or has yet to come."""

    def __init__(self, cloud: Cloud, stack: ExitStack) -> None:
        self.cloud, self.chance = cloud, random.Random(5)
        self.network = cloud.network("10.1.0.0/16")
        self.balancer = Balancer(cloud, vip_network_id=self.network["id"])
        self.pool = self.balancer.pool(table_size=TABLE, drain_timeout=3600)
        self.balancer.listener(80, self.pool)
        self.waiting = [Server(cloud.vm(self.network, n % 3), f"m{n}") for n in range(MEMBERS)]
        self.members: dict[str, dict[str, Any]] = {}
        self.servers = {server.name: server for server in self.waiting}
        for server in self.waiting:
            stack.callback(server.end)
        self.weights: dict[str, int] = {}
        """Of members that get connections."""
        self.drained: set[str] = set()
        for _ in range(FIRST):
            self.add()
        self.settle()
        vms = [cloud.vm(self.network, n % 3) for n in range(CLIENTS // 2)]
        self.clients = [Client(vm, self.balancer.vip, 80) for vm in vms * 2]
        for client in self.clients:
            stack.callback(client.end)

    @property
    def living(self) -> set[str]:
        return set(self.weights) | self.drained

    def settle(self) -> None:
        self.cloud.wait_active("pools", self.pool["id"])

    def add(self) -> str:
        server, weight = self.waiting.pop(0), self.chance.choice(WEIGHTS)
        self.members[server.name] = self.balancer.member(self.pool, server.vm.ip or "", weight=weight)
        self.weights[server.name] = weight
        return f"{server.name} comes with weight {weight}"

    def drain(self) -> str:
        name = self.chance.choice(sorted(self.weights))
        self.balancer.api.patch(f"/v1/members/{self.members[name]['id']}", {"weight": 0})
        del self.weights[name]
        self.drained.add(name)
        return f"{name} drains"

    def kill(self) -> str:
        name = self.chance.choice(sorted(self.living))
        self.servers[name].end()
        vm = self.servers[name].vm
        next(each for each in self.cloud.lab.hypervisors if vm.port["id"] in each.vms).unplug(vm.port["id"])
        self.balancer.api.delete(f"/v1/members/{self.members[name]['id']}")
        self.weights.pop(name, None)
        self.drained.discard(name)
        return f"{name} dies"

    def reweigh(self) -> str:
        name = self.chance.choice(sorted(self.weights))
        self.weights[name] = weight = self.chance.choice(WEIGHTS)
        self.balancer.api.patch(f"/v1/members/{self.members[name]['id']}", {"weight": weight})
        return f"{name} has weight {weight} now"

    def change(self) -> str:
        """Something at random; there are always some to serve."""
        choices = (
            [self.reweigh] + [self.add] * 2 * bool(self.waiting) + [self.drain, self.kill] * (len(self.weights) > 4)
        )
        return self.chance.choice(choices)()

    def off(self, names: Counter[str]) -> dict[str, float]:
        """By how many standard deviations each member's share of new connections is off its weight."""
        total, whole = sum(names.values()), sum(self.weights.values())
        found = {}
        for name, weight in self.weights.items():
            share = weight / whole
            found[name] = (names[name] - total * share) / math.sqrt(total * share * (1 - share))
        return found


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Cloud(3) as cloud, ExitStack() as stack:
        yield Site(cloud, stack)


def test_no_connection_to_a_living_member_breaks(site: Site) -> None:
    """Changes at random between waves of new connections; for a third of them no controller is there, and nothing changes."""
    opened, gone = 0, range(STEPS // 3, 2 * STEPS // 3)
    off: list[float] = []
    for step in range(STEPS):
        if step == gone.start:
            site.cloud.controller.kill()
            what = "the controller is killed"
        elif step == gone.stop:
            site.cloud.controller.start()
            site.cloud.controller.wait_ready()
            what = "the controller is back"
        elif step in gone or not step:
            what = "nothing happens"
        else:
            what = site.change()
        if step not in gone:
            site.settle()
        names, failed = open_more(site.clients, EACH)
        opened += sum(names.values())
        print(f"{opened} connections: {what}; {dict(sorted(names.items()))}, {failed} failed", flush=True)
        assert failed == 0, what
        assert set(names) <= set(site.weights), what
        off += site.off(names).values()
    intact, broken, why = check(site.clients)
    print(f"intact {dict(intact)}, broken {dict(broken)}: {dict(why)}; living {sorted(site.living)}", flush=True)
    assert {name: count for name, count in broken.items() if name in site.living} == {}
    assert opened == STEPS * EACH * CLIENTS == sum(intact.values()) + sum(broken.values())
    worst, beyond = max(map(abs, off)), sum(abs(each) > 3 for each in off)
    print(
        f"{opened} connections, {sum(intact.values())} intact, {len(off)} shares, {beyond} beyond 3 sigma, worst {worst:.1f}"
    )
    assert worst < SIGMAS and beyond <= max(3, len(off) // 40)
