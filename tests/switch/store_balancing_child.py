"""Scenarios of load balancers in the intent store, each run in a process of its own as in the controller.

``python -m tests.switch.store_balancing_child SCENARIO DIRECTORY`` prints what it saw as one line of JSON.
"""

from __future__ import annotations

from tests.switch.store_child import Controller, attempt, blue, together, until  # isort: skip  (patches the world first)

import json
import sys
from typing import Any


def fill(directory: str) -> Any:
    """One of everything, changed and partly deleted, and told how it is."""
    controller = Controller(directory)
    network, subnet = blue(controller)
    outside = controller.create("network", external=True, physical_network="wire")
    controller.create("subnet", network_id=outside.id, cidr="192.0.2.0/24")
    router = controller.create("router")
    for each in (network, outside):
        controller.create("port", network_id=each.id, router_id=router.id)
    balancer = controller.create("load-balancer", name="shop", vip_subnet_id=subnet.id)
    on_router = [
        controller.create("load-balancer", router_id=router.id, vip_address=f"10.96.0.{last}") for last in (1, 2)
    ]
    of = {"loadbalancer_id": balancer.id, "protocol": "TCP"}
    persistence = {"type": "SOURCE_IP", "persistence_timeout": 60}
    pool = controller.create("pool", **of, lb_algorithm="round_robin", session_persistence=persistence)
    other = controller.create("pool", **of)
    listener = controller.create("listener", **of, protocol_port=80, protocol_port_max=90, default_pool_id=pool.id)
    controller.create("listener", **of, protocol_port=443)
    members = [controller.create("member", pool_id=pool.id, address=f"10.0.0.{n}", weight=n) for n in (50, 51, 52)]
    controller.create("member", pool_id=other.id, address="10.0.0.50")
    controller.create("health-monitor", pool_id=pool.id, type="HTTP", url_path="/up")
    controller.create("health-monitor", pool_id=other.id, type="PING")
    floating = controller.create("floating-ip", floating_network_id=outside.id, loadbalancer_id=balancer.id)
    lost = controller.create("floating-ip", floating_network_id=outside.id, loadbalancer_id=on_router[0].id)
    controller.one("patch", "pool", pool.id, table_size=251, session_persistence={"persistence_timeout": 9})
    refused = [
        attempt(lambda: controller.one("delete", "load-balancer", balancer.id)),
        attempt(lambda: controller.one("delete", "pool", pool.id)),
        attempt(lambda: controller.one("delete", "subnet", subnet.id)),
        attempt(lambda: controller.one("delete", "router", router.id)),
        attempt(lambda: controller.create("listener", **of, protocol_port=85)),
        attempt(
            lambda: controller.create("port", network_id=network.id, fixed_ips=[{"ip_address": balancer.vip_address}])
        ),
    ]
    controller.one("delete", "pool", other.id)
    controller.one("delete", "load-balancer", on_router[0].id)
    controller.store.record("member", members[0].id, health="up")
    controller.store.record("member", members[0].id, health="down", health_detail="connection refused", slot_weight=7)
    controller.one("patch", "member", members[1].id, weight=0)
    controller.store.record("member", members[1].id, drain_until=1234)
    until(lambda: controller.topology.get("member", members[1].id).drain_until == 1234)
    until(lambda: controller.topology.get("member", members[0].id).health == "down")
    revisions = [controller.topology.get("member", member.id).revision_number for member in members]
    renamed = controller.one("patch", "member", members[0].id, name="still there")
    content = controller.content()
    controller.store.stop()
    return {
        "content": content,
        "refused": [refusal[0] for refusal in refused],
        "revisions": revisions,
        "kept": [renamed.health, renamed.health_detail, renamed.slot_weight],
        "leads": [content["floating-ip"][each.id]["loadbalancer_id"] for each in (floating, lost)],
        "ids": [balancer.id, pool.id, listener.id],
    }


def race(directory: str) -> Any:
    """Two controllers that make the same guesses write at the same time, on one server."""
    pair = (Controller(directory, seed=5), Controller(directory, f"unix:{directory}/run/intent.sock", seed=5))
    first, second = pair
    network, _ = blue(first)
    until(lambda: second.topology.get("network", network.id))
    balancers = together(
        lambda c=c: c.create("load-balancer", vip_network_id=network.id)  # type: ignore[misc]
        for _ in range(10)
        for c in pair
    )
    until(lambda: all(second.topology.get("load-balancer", each.id) for each in balancers))
    listeners = []
    for balancer in balancers:  # 80 to 90 and 85 to 95 of one load balancer
        of = {"loadbalancer_id": balancer.id, "protocol": "TCP"}
        listeners += together(
            lambda c=c, n=n, of=of: c.create("listener", **of, protocol_port=80 + n, protocol_port_max=90 + n)  # type: ignore[misc]
            for c, n in zip(pair, (0, 5), strict=True)
        )
    until(lambda: first.content() == second.content())
    for controller in pair:
        controller.store.stop()
    return {
        "addresses": [balancer.vip_address for balancer in balancers],
        "keys": [balancer.balancer_key for balancer in balancers],
        "listeners": [each[0] if isinstance(each, tuple) else "made" for each in listeners],
        "retries": sum(controller.store.counters["retries"] for controller in pair),
    }


if __name__ == "__main__":
    _, scenario, *arguments = sys.argv
    print(json.dumps(globals()[scenario](*arguments)), flush=True)
