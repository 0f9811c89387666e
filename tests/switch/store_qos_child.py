"""Scenarios of quality of service in the intent store, each run in a process of its own as in the controller.

``python -m tests.switch.store_qos_child SCENARIO DIRECTORY`` prints what it saw as one line of JSON.
"""

from __future__ import annotations

from tests.switch.store_child import Controller, attempt, blue, together, until  # isort: skip  (patches the world first)

import json
import sys
from typing import Any

from topology import qos
from topology.model import Shaping

UPLINKS = [{"interface": "eth0", "bandwidth_kbps": 100_000}]


def fill(directory: str) -> Any:
    """One of everything, changed and partly deleted, and told how it is."""
    controller = Controller(directory)
    network, _ = blue(controller)
    host = controller.create("hypervisor", name="h1", uplinks=UPLINKS)
    policy, other = controller.create("qos-policy", name="gold", shared=True), controller.create("qos-policy")
    of = {"qos_policy_id": policy.id}
    limit = controller.create("qos-rule", **of, type="bandwidth_limit", max_kbps=1000, max_burst_kbps=500)
    controller.create("qos-rule", **of, type="bandwidth_limit", direction="ingress", max_kbps=2000)
    gone = controller.create("qos-rule", qos_policy_id=other.id, type="dscp_marking", dscp_mark=46)
    controller.one("patch", "qos-rule", limit.id, max_kbps=3000, max_burst_kbps=None)
    controller.one("patch", "network", network.id, qos_policy_id=policy.id)
    port = controller.create("port", network_id=network.id, qos_policy_id=policy.id, trust_dscp=True)
    refused = [
        attempt(lambda: controller.one("delete", "qos-policy", policy.id)),
        attempt(lambda: controller.create("qos-rule", **of, type="bandwidth_limit", max_kbps=1000)),
    ]
    controller.one("delete", "qos-policy", other.id)
    controller.store.record("hypervisor", host.id, shaping=(Shaping(interface="eth0", error="no such device"),))
    until(lambda: controller.topology.get("hypervisor", host.id).shaping)
    content = controller.content()
    controller.store.stop()
    return {"content": content, "refused": [each[0] for each in refused], "gone": gone.id, "port": port.id}


def race(directory: str) -> Any:
    """Two controllers promise the same bandwidth at the same time, on one server: to ports, and by changing a rule."""
    pair = (Controller(directory, seed=5), Controller(directory, f"unix:{directory}/run/intent.sock", seed=6))
    first, second = pair
    network, _ = blue(first)
    host = first.create("hypervisor", name="h1", uplinks=UPLINKS)
    policies = [first.create("qos-policy") for _ in range(2)]
    for policy in policies:
        first.create("qos-rule", qos_policy_id=policy.id, type="minimum_bandwidth", min_kbps=10_000)
    late = first.create("qos-policy")
    ports = [first.create("port", network_id=network.id) for _ in range(14)]
    for port in ports:
        first.store.bind(port.id, host.id)
    until(lambda: all(len(c.topology.ports_on(host.id)) == len(ports) for c in pair))
    attached = together(
        lambda c=c, port=port, policy=policy: c.one("patch", "port", port.id, qos_policy_id=policy.id)  # type: ignore[misc]
        for port, policy, c in zip(ports, policies * 7, pair * 7, strict=True)
    )
    until(lambda: first.content() == second.content())
    half = _left(pair)
    for port in ports:  # a policy without a rule costs nothing, and then its rule comes
        first.one("patch", "port", port.id, qos_policy_id=None)
    until(lambda: first.content() == second.content())
    rule = {"qos_policy_id": late.id, "type": "minimum_bandwidth", "min_kbps": 60_000}
    mixed = together(
        [
            lambda: first.create("qos-rule", **rule),
            *(
                lambda port=port: second.one("patch", "port", port.id, qos_policy_id=late.id)  # type: ignore[misc]
                for port in ports[:3]
            ),
        ]
    )
    until(lambda: first.content() == second.content())
    end = _left(pair)
    for controller in pair:
        controller.store.stop()
    return {
        "attached": [each[0] if isinstance(each, tuple) else "made" for each in attached],
        "half": half,
        "mixed": [each[0] if isinstance(each, tuple) else "made" for each in mixed],
        "end": end,
        "retries": sum(controller.store.counters["retries"] for controller in pair),
    }


def _left(pair: tuple[Controller, Controller]) -> list[int]:
    (host,) = pair[0].topology.all("hypervisor")
    return [qos.guarantees(controller.topology, host).uplinks[0].left_kbps for controller in pair]


if __name__ == "__main__":
    _, scenario, *arguments = sys.argv
    print(json.dumps(globals()[scenario](*arguments)), flush=True)
