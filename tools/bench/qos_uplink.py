"""How well guarantees hold on an uplink, and how long packets of the first class wait there; a part of ``qos_accuracy``.

One hypervisor has an uplink of 50 Mbit/s, of which half is guaranteed to one VM and a quarter to another; a third VM has no policy, and a
fourth the highest priority. All send to VMs on another hypervisor. Rates are of the uplink: tunnel headers count.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tools.bench.report import line
from tools.bench.samples import percentile
from tools.lab import VM, Controller, HostAgent, Lab, processes
from tools.lab.rates import WARM_UP, Stream, rates

UPLINK = 50_000
GUARANTEES = {"half": 25_000, "quarter": 12_500}
FRAME, TUNNEL = 1400, 66
"""Bytes: of the VMs' frames, and what Geneve adds."""
SECONDS = 6.0
PINGS, INTERVAL = 500, 0.01


class Uplink:
    """The VMs, by name, each with one that it sends to."""

    def __init__(self, lab: Lab, controller: Controller) -> None:
        self.lab, self.api = lab, controller.api
        self.network = self.api.post("/v1/networks", {"name": "uplink"})["id"]
        self.api.post("/v1/subnets", {"network_id": self.network, "cidr": "10.7.0.0/24"})
        self.mtu = self.api.get(f"/v1/networks/{self.network}")["mtu"]
        self.hypervisor = next(each for each in self.api.get("/v1/hypervisors")["items"] if each["name"] == "hv1")["id"]
        self.policies = {name: self._policy("minimum_bandwidth", min_kbps=kbps) for name, kbps in GUARANTEES.items()}
        self.policies["first"] = self._policy("priority", priority=7)

    @contextmanager
    def shaped(self, controller: Controller) -> Iterator[dict[str, tuple[VM, VM]]]:
        """The pairs, while an agent keeps the uplink."""
        uplinks = [{"interface": "eth0", "bandwidth_kbps": UPLINK}]
        self.api.patch(f"/v1/hypervisors/{self.hypervisor}", {"uplinks": uplinks})
        with HostAgent(self.lab.hypervisors[0], controller) as agent:
            pairs = {name: self._pair(self.policies.get(name)) for name in ("half", "quarter", "others", "first")}

            def ready() -> bool:
                try:
                    return agent.get("/metrics")[1].count("novanet_agent_uplink_bytes_total{") == 3 + len(self.policies)
                except OSError:
                    return False

            processes.until(ready, "classes on the uplink")
            yield pairs

    def _policy(self, type: str, **fields: int) -> str:
        made = self.api.post("/v1/qos-policies", {"name": f"{type}-{fields}"})["id"]
        self.api.post("/v1/qos-rules", {"qos_policy_id": made, "type": type, **fields})
        return str(made)

    def _pair(self, policy: str | None) -> tuple[VM, VM]:
        return self._vm(0, policy), self._vm(1, None)

    def _vm(self, hypervisor: int, policy: str | None) -> VM:
        port = self.api.post("/v1/ports", {"network_id": self.network, "qos_policy_id": policy})
        address = port["fixed_ips"][0]["ip_address"]
        vm = self.lab.hypervisors[hypervisor].plug(port["id"], port["mac_address"], [(address, 24)], mtu=self.mtu)
        return vm


def run(lab: Lab, controller: Controller, rounds: int) -> None:
    """Print a line for each case."""
    uplink = Uplink(lab, controller)
    with uplink.shaped(controller) as pairs:
        for protocol in ("udp", "tcp"):
            _guarantees(pairs, protocol, rounds)
        _spare(pairs, rounds)
        for protocol in ("udp", "tcp"):
            _waiting(pairs, protocol, rounds)


def _guarantees(pairs: dict[str, tuple[VM, VM]], protocol: str, rounds: int) -> None:
    """All at once, UDP three times what the uplink has."""
    names = (*GUARANTEES, "others")
    seen = [_rates([Stream(*pairs[name], protocol, FRAME, offered=UPLINK) for name in names]) for _ in range(rounds)]
    for number, name in enumerate(names):
        ours = [each[number] for each in seen]
        wanted = GUARANTEES.get(name)
        line(
            "qos_accuracy", f"uplink, {protocol.upper()} at 3 times, {name}", percentile(ours, 50),
            "guarantee" if wanted else None, wanted, "kbit/s", higher_is_better=True,
            spread=(min(ours) / wanted, max(ours) / wanted) if wanted else None,
        )  # fmt: skip
    sums = [sum(each) for each in seen]
    line(
        "qos_accuracy", f"uplink, {protocol.upper()} at 3 times, all together", percentile(sums, 50), "uplink", UPLINK,
        "kbit/s", higher_is_better=True, spread=(min(sums) / UPLINK, max(sums) / UPLINK),
    )  # fmt: skip


def _spare(pairs: dict[str, tuple[VM, VM]], rounds: int) -> None:
    """One alone may have everything."""
    for name in ("quarter", "others"):
        ours = [_rates([Stream(*pairs[name], "udp", FRAME, offered=2 * UPLINK)])[0] for _ in range(rounds)]
        line(
            "qos_accuracy", f"uplink, UDP, {name} alone", percentile(ours, 50), "uplink", UPLINK, "kbit/s",
            higher_is_better=True, spread=(min(ours) / UPLINK, max(ours) / UPLINK),
        )  # fmt: skip


def _waiting(pairs: dict[str, tuple[VM, VM]], protocol: str, rounds: int) -> None:
    """Round trips of the first class, at rest and while the others fill the uplink, in turns."""
    idle: list[list[float]] = []
    busy: list[list[float]] = []
    for _ in range(rounds):
        idle.append(_pings(*pairs["first"]))
        streams = [Stream(*pairs[name], protocol, FRAME, offered=UPLINK) for name in (*GUARANTEES, "others")]
        found: list[list[float]] = []
        asking = threading.Timer(WARM_UP, lambda found=found: found.append(_pings(*pairs["first"])))
        asking.start()
        rates(streams, PINGS * INTERVAL + 2)
        asking.join()
        busy += found
    lost = sum(PINGS - len(each) for each in busy)
    for share in (50, 99):
        ours, theirs = ([percentile(each, share) for each in some] for some in (busy, idle))
        line(
            "qos_accuracy", f"uplink filled with {protocol.upper()}, ping of the first class, p{share}", percentile(ours, 50),
            "idle", percentile(theirs, 50), "ms", higher_is_better=False,
            spread=(min(ours) / percentile(theirs, 50), max(ours) / percentile(theirs, 50)),
        )  # fmt: skip
    line(
        "qos_accuracy", f"uplink filled with {protocol.upper()}, pings of the first class that were lost", lost, None, None,
        "packets", higher_is_better=False,
    )  # fmt: skip


def _rates(streams: list[Stream]) -> list[float]:
    return [rate * (FRAME + TUNNEL) / FRAME for rate in rates(streams, SECONDS)]


def _pings(sender: VM, receiver: VM) -> list[float]:
    """Round trips in milliseconds."""
    address = next(each.split("/")[0] for each in receiver.addresses() if ":" not in each)
    command = ["ping", "-c", str(PINGS), "-i", str(INTERVAL), "-W", "1", address]
    return [float(each) for each in re.findall(r"time=([\d.]+)", sender.exec(command, check=False).stdout)]
