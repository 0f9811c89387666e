"""How exactly limits are held: rates of real traffic, counted where it arrives, against what the policy says.

A limit on what a VM sends, and one on what it gets; TCP and UDP in frames of 64, 512 and 1400 bytes, to a VM on the same hypervisor and
to one on another. UDP is sent at one and a half times the limit. ``theirs`` is what the same traffic, UDP at 150 Mbit/s, gets without a limit: what
is below a limit there cannot reach it here. ``spread`` is the least and the most of the rounds, in parts of the limit.

Then guarantees and priority on an uplink (``qos_uplink``). ``NOVANET_BENCH_QOS=limits`` or ``uplink`` chooses one of the two.
"""

from __future__ import annotations

import os

from tools.bench import qos_uplink
from tools.bench.report import line
from tools.bench.samples import percentile
from tools.lab import VM, Controller, Lab, processes
from tools.lab.controller import Api
from tools.lab.rates import Stream, rates

ROUNDS = int(os.environ.get("NOVANET_BENCH_ROUNDS", "3"))
SECONDS = 4.0
LIMITS = (1000, 10_000, 100_000)
SIZES = (64, 512, 1400)
UNLIMITED = "unlimited"
PARTS = os.environ.get("NOVANET_BENCH_QOS", "limits,uplink").split(",")


class Site:
    """Two hypervisors; a VM that is limited, one beside it, and one on the other hypervisor. Nothing else keeps packets back."""

    def __init__(self, lab: Lab, api: Api) -> None:
        self.lab, self.api = lab, api
        self.network = api.post("/v1/networks", {"name": "qos"})["id"]
        api.post("/v1/subnets", {"network_id": self.network, "cidr": "10.0.0.0/24"})
        self.mtu = api.get(f"/v1/networks/{self.network}")["mtu"]
        self.port, self.limited = self.vm(0)
        (_, self.near), (_, self.far) = self.vm(0), self.vm(1)
        self.policy = api.post("/v1/qos-policies", {"name": "limit"})["id"]
        self.rules = {
            direction: api.post(
                "/v1/qos-rules",
                {
                    "qos_policy_id": self.policy,
                    "type": "bandwidth_limit",
                    "direction": direction,
                    "max_kbps": LIMITS[0],
                },
            )["id"]
            for direction in ("egress", "ingress")
        }

    def vm(self, hypervisor: int) -> tuple[str, VM]:
        """Id of a port, and its VM."""
        port = self.api.post("/v1/ports", {"network_id": self.network})
        address = port["fixed_ips"][0]["ip_address"]
        vm = self.lab.hypervisors[hypervisor].plug(port["id"], port["mac_address"], [(address, 24)], mtu=self.mtu)
        self._wait(port["id"])
        return port["id"], vm

    def _wait(self, port: str) -> None:
        processes.until(lambda: self.api.get(f"/v1/ports/{port}")["status"] == "ACTIVE", f"port {port} ACTIVE")

    def limit(self, kbps: int) -> None:
        """Both directions of the limited VM."""
        for rule in self.rules.values():
            self.api.patch(f"/v1/qos-rules/{rule}", {"max_kbps": kbps})
        self.api.patch(f"/v1/ports/{self.port}", {"qos_policy_id": self.policy})
        self._wait(self.port)

    def streams(self, kbps: int) -> dict[str, Stream]:
        """Each case's traffic."""
        found = {}
        for where, other in (("same hypervisor", self.near), ("other hypervisor", self.far)):
            for protocol in ("TCP", "UDP"):
                for size in SIZES:
                    for direction, ends in (("egress", (self.limited, other)), ("ingress", (other, self.limited))):
                        name = f"{protocol}, {size} bytes, {direction}, {where}"
                        found[name] = Stream(*ends, protocol.lower(), size, offered=kbps * 3 // 2)
        return found


def main() -> int:
    """A line for each case: the rate, and what there is without a limit."""
    with Lab(2) as lab, Controller(lab) as controller:
        controller.wait_ready()
        lab.deploy(controller)
        if "limits" in PARTS:
            _limits(Site(lab, controller.api))
        if "uplink" in PARTS:
            qos_uplink.run(lab, controller, ROUNDS)
    return 0


def _limits(site: Site) -> None:
    free = {name: _rate(stream) for name, stream in site.streams(LIMITS[-1]).items()}
    for kbps in LIMITS:
        site.limit(kbps)
        for name, stream in site.streams(kbps).items():
            ours = [_rate(stream) for _ in range(ROUNDS)]
            line(
                "qos_accuracy", f"{kbps // 1000} Mbit/s, {name}", percentile(ours, 50), UNLIMITED, free[name], "kbit/s",
                higher_is_better=False, spread=(min(ours) / kbps, max(ours) / kbps),
            )  # fmt: skip


def _rate(stream: Stream) -> float:
    [rate] = rates([stream], SECONDS)
    return rate
