"""Changes of a pool never pass through an empty or half table: whoever connects meanwhile is served, by a member."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.scale.crowds import Client, Server

from .balancing import Balancer
from .cloud import Cloud, until

MEMBERS = 4
STEPS = 12
WAVE = 300
"""Connections that are opened at once, again and again until all changes are made."""
TABLES = ("lb_state", "lb_affinity", "lb_select", "lb_dnat", "lb_forward")


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud(2, options={"bundle_size": 500}) as cloud:  # so that large tables go out in many bundles
        yield cloud


def dropped(cloud: Cloud) -> dict[str, float]:
    """Packets that load balancing dropped, by table and reason."""
    lines = cloud.api.get("/metrics").splitlines()
    found = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("novanet_drops_total{")
    }
    return {name: count for name, count in found.items() if any(f'"{table}"' in name for table in TABLES)}


def test_connections_are_served_at_every_moment(cloud: Cloud) -> None:
    """Sizes and algorithms that have nothing in common, weights, and members that come and go."""
    network = cloud.network("10.1.0.0/24")
    with ExitStack() as stack:
        balancer = Balancer(cloud, vip_network_id=network["id"])
        servers = [Server(cloud.vm(network, number % 2), f"m{number}") for number in range(MEMBERS)]
        for server in servers:
            stack.callback(server.end)
        pool = balancer.serve(80, *(server.vm for server in servers[:-1]))
        clients = [Client(cloud.vm(network, number), balancer.vip, 80) for number in range(2)]
        for client in clients:
            stack.callback(client.end)
        before, failed, names, waves = dropped(cloud), 0, Counter[str](), 0
        changing = threading.Thread(target=_change, args=(balancer, pool, servers[-1].vm.ip))
        changing.start()
        while changing.is_alive() or not waves:
            for client in clients:
                client.say(f"open {WAVE}")
            for client in clients:
                said = client.hear()
                failed += said["failed"]
                names += Counter(said["names"])
            waves += 1
        assert failed == 0 and names.total() == 2 * WAVE * waves and waves >= 3
        assert set(names) <= {server.name for server in servers} and len(names) == MEMBERS
        time.sleep(2)  # counters of switches come late
        assert dropped(cloud) == before


def _change(balancer: Balancer, pool: dict[str, Any], spare: str) -> None:
    sizes = itertools.cycle((16381, 251, 65521, 1021, 1427))
    algorithms = itertools.cycle(("round_robin", "maglev", "consistent_hashing", "weighted_round_robin"))
    api, extra = balancer.api, None
    for step in range(STEPS):
        match step % 4:
            case 0:
                api.patch(f"/v1/pools/{pool['id']}", {"table_size": next(sizes)})
            case 1:
                api.patch(f"/v1/pools/{pool['id']}", {"table_size": next(sizes), "lb_algorithm": next(algorithms)})
            case 2:
                api.patch(f"/v1/members/{pool['members'][0]['id']}", {"weight": 1 + step})
            case _ if extra is None:
                extra = balancer.member(pool, spare)
            case _:  # it drains: what it has goes on
                weight = api.get(f"/v1/members/{extra['id']}")["weight"]
                api.patch(f"/v1/members/{extra['id']}", {"weight": 1 - weight})
        until("settled", lambda: api.get(f"/v1/pools/{pool['id']}")["status"] == "ACTIVE", timeout=60)
