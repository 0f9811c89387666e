"""Many members, checked by three agents: every check is made, each in its time, and nobody is called down who is up.

NOVANET_SCALE_MEMBERS says how many, every 5 s; `make bench NAME=health_checks` measures 10,000.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tools.bench.health_checks import FIRST_PORT, Farm
from tools.lab.openvswitch import INTEGRATION

MEMBERS = int(os.environ.get("NOVANET_SCALE_MEMBERS", "2000"))
ROUNDS = 4


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    with Farm(MEMBERS) as made:
        made.wait_up()
        yield made


def test_every_member_is_checked_every_time(farm: Farm) -> None:
    before = farm.checks()
    time.sleep(ROUNDS * farm.delay)
    done = farm.checks() - before
    assert done["bad"] == done["inconclusive"] == 0
    assert abs(done["good"] - ROUNDS * MEMBERS) < 0.1 * ROUNDS * MEMBERS
    assert farm.healths() == {"up": MEMBERS, "down": 0, "unknown": 0}


def test_flows_are_where_members_are(farm: Farm) -> None:
    """Three for each member on its own hypervisor (its answers, the way there, and who has the load balancer's address), none elsewhere."""
    found = [
        sum(f"tp_src={port}," in flow for flow in hypervisor.dump_flows(INTEGRATION) for port in (FIRST_PORT,))
        for hypervisor in farm.lab.hypervisors
    ]
    assert sum(found) == 192 and len(set(found)) == 1, "one for each address with the first port"


def test_a_member_more_is_one_owner_more(farm: Farm) -> None:
    def compiled() -> float:
        text = farm.controller.api.get("/metrics")
        lines = [each for each in text.splitlines() if each.startswith('novanet_owners_compiled_total{owner="member"}')]
        return sum(float(each.split()[-1]) for each in lines)

    before = compiled()
    api = farm.controller.api
    pool = api.get("/v1/pools", limit=1)["items"][0]
    made = api.post("/v1/members", {"pool_id": pool["id"], "address": "10.0.1.1", "protocol_port": 7999})
    shared = -(-MEMBERS // 192) + 1
    farm.controller.wait_status(f"/v1/members/{made['id']}")
    assert 1 <= compiled() - before <= shared, "those with the same address are told apart by their order"
    api.delete(f"/v1/members/{made['id']}")
