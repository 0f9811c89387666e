"""Thousands of meters on one switch: changed under traffic, used again, and restored.

NOVANET_SCALE_PORTS says how many; `make test-scale` runs this with 10,000.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.cloud import Cloud, until
from tools.lab import VM, Hypervisor

METERS = int(os.environ.get("NOVANET_SCALE_PORTS", "1000"))
PORTS = METERS // 2
"""Each has a meter for each direction."""
LATER = 300.0
"""Seconds that 10,000 of something may take at most."""


class Crowd:
    """A network whose policy limits every port in it, and two VMs there that speak with each other."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud, self.api = cloud, cloud.api
        self.policy = self.api.post("/v1/qos-policies", {"name": "crowd"})["id"]
        self.rules = {
            direction: self.api.post(
                "/v1/qos-rules",
                {"qos_policy_id": self.policy, "type": "bandwidth_limit", "direction": direction, "max_kbps": 5000},
            )["id"]
            for direction in ("egress", "ingress")
        }
        self.network = cloud.network("10.0.0.0/16", qos_policy_id=self.policy)
        self.one, self.other = (cloud.vm(self.network, 0) for _ in range(2))
        self.ports = [cloud.port(self.network)["id"] for _ in range(PORTS)]
        self.hypervisor.plug_dummy(self.ports)
        self.wait({5000}, METERS + 4)

    @property
    def hypervisor(self) -> Hypervisor:
        return self.cloud.lab.hypervisors[0]

    def meters(self) -> dict[int, int]:
        """Rates of the switch's meters for limits, by number."""
        found, number = {}, 0
        for line in self.hypervisor.ofctl("dump-meters", "br-int").splitlines():
            if "meter=" in line:
                text = line.split("meter=")[1].split()[0]
                number = int(text) if text.isdigit() else 0
            elif "rate=" in line and number >= 1 << 24:
                found[number] = int(line.split("rate=")[1].split()[0])
        return found

    def wait(self, rates: set[int], count: int) -> None:
        """Until the switch has so many meters, all of these rates."""

        def there() -> bool:
            found = self.meters()
            return len(found) == count and set(found.values()) == rates

        until(f"{count} meters of {rates}", there, timeout=LATER, interval=0.5)


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    with Cloud(1) as cloud:
        yield Crowd(cloud)


def lost(one: VM, other: VM, change: Any) -> int:
    """Pings of a hundred a second that were lost while something changed."""
    pings = one.background_ping(other.ip or "")
    try:
        until("pings", lambda: pings.so_far().received > 20)
        change()
        seen = pings.so_far().received
        until("pings afterwards", lambda: pings.so_far().received > seen + 50)
    finally:
        result = pings.stop()
    return int(result.lost)


def test_changed_under_traffic_without_loss(crowd: Crowd) -> None:
    """Each keeps its number, and gets another rate; nothing else is touched."""
    before = crowd.meters()
    deleted = crowd.cloud.counter("novanet_flows_deleted_total")

    def change() -> None:
        for rule, kbps in zip(crowd.rules.values(), (7000, 7000), strict=True):
            crowd.api.patch(f"/v1/qos-rules/{rule}", {"max_kbps": kbps})
        crowd.wait({7000}, METERS + 4)

    assert lost(crowd.one, crowd.other, change) == 0
    assert set(crowd.meters()) == set(before)
    assert crowd.cloud.counter("novanet_flows_deleted_total") == deleted


def test_meters_go_and_come_under_traffic(crowd: Crowd) -> None:
    """A network without a policy, and with it again: numbers are those of the ports, so they are the same."""
    before = crowd.meters()

    def change() -> None:
        crowd.api.patch(f"/v1/networks/{crowd.network['id']}", {"qos_policy_id": None})
        crowd.wait(set(), 0)
        crowd.api.patch(f"/v1/networks/{crowd.network['id']}", {"qos_policy_id": crowd.policy})
        crowd.wait({7000}, METERS + 4)

    assert lost(crowd.one, crowd.other, change) == 0
    assert crowd.meters() == before


def test_numbers_are_used_again(crowd: Crowd) -> None:
    """Ports that go give theirs back, and those that come have meters. (In user space a switch stands still while it adds ports.)"""
    some = crowd.ports[: PORTS // 4]
    crowd.hypervisor.unplug(*some)
    crowd.wait({7000}, METERS + 4 - 2 * len(some))
    crowd.hypervisor.plug_dummy(some)
    crowd.wait({7000}, METERS + 4)


def test_restored_after_a_restart(crowd: Crowd) -> None:
    before = crowd.meters()
    crowd.hypervisor.stop_vswitchd()
    crowd.hypervisor.start_vswitchd()
    until("restored", lambda: crowd.meters() == before, timeout=LATER, interval=0.5)
    until("they speak again", lambda: crowd.one.ping(crowd.other.ip or "", count=1).lost == 0, timeout=60)
