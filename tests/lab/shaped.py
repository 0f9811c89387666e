"""A cloud of two hypervisors, of which the first one's agent shapes its uplink and its VMs' interfaces."""

from __future__ import annotations

import re
import subprocess
from itertools import count
from typing import Any

from tools.lab import VM, HostAgent, namespaces

from .cloud import Cloud, until

NAMES = count(1)
UPLINK = 20_000
"""kbit/s: so little that a busy machine has time for all of it."""
FRAME = 1400
"""Bytes of a frame of the tests."""


class Site(Cloud):
    """Two hypervisors, the first one's uplink shaped by its agent, and VMs by their policies."""

    def __init__(self, **options: Any) -> None:
        super().__init__(2, **options)

    def __enter__(self) -> Site:
        super().__enter__()
        self.here = next(each for each in self.hypervisors() if each["name"] == "hv1")
        self.agent = HostAgent(self.lab.hypervisors[0], self.controller)
        self.net = self.network("10.0.0.0/24", "fd00::/64")
        self.set_uplink()
        return self

    def set_uplink(self, *uplinks: dict[str, Any]) -> None:
        found = list(uplinks) or [{"interface": "eth0", "bandwidth_kbps": UPLINK}]
        self.api.patch(f"/v1/hypervisors/{self.here['id']}", {"uplinks": found})

    def policy(self, **rules: int) -> str:
        made = self.api.post("/v1/qos-policies", {"name": f"q{next(NAMES)}"})["id"]
        types = {"min_kbps": "minimum_bandwidth", "priority": "priority", "max_latency_ms": "max_latency"}
        for name, value in rules.items():
            self.api.post("/v1/qos-rules", {"qos_policy_id": made, "type": types[name], name: value})
        return str(made)

    def rule(self, policy: str, **fields: int) -> None:
        """Change the rule of a policy that has one."""
        [rule] = [each for each in self.api.get("/v1/qos-rules")["items"] if each["qos_policy_id"] == policy]
        self.api.patch(f"/v1/qos-rules/{rule['id']}", fields)

    def pair(self, policy: str | None, network: dict[str, Any] | None = None) -> tuple[VM, VM]:
        """A VM with a policy here, and one there."""
        groups = [self.open_group()]
        sender = self.vm(network or self.net, 0, security_groups=groups, qos_policy_id=policy)
        if policy is not None:
            until("a class", lambda: f'class="{sender.port["id"]}"' in self.agent.get("/metrics")[1])
        return sender, self.vm(network or self.net, 1, security_groups=groups)

    def forget(self, *pairs: tuple[VM, ...]) -> None:
        for vm in (vm for pair in pairs for vm in pair):
            next(each for each in self.lab.hypervisors if vm.port["id"] in each.vms).unplug(vm.port["id"])
            self.api.delete(f"/v1/ports/{vm.port['id']}")

    def classes(self, interface: str = "eth0") -> dict[str, dict[str, Any]]:
        """What Linux has, by handle: kbit/s of rate and ceil, prio, bytes sent, packets dropped."""
        text = namespaces_run(self, ["tc", "-s", "class", "show", "dev", interface])
        found = {}
        for handle, rest, sent, dropped in re.findall(
            r"class htb (\S+) (.*?)\n Sent (\d+) bytes \d+ pkt \(dropped (\d+)", text
        ):
            rate, ceil = re.search(r"rate (\S+)bit ceil (\S+)bit", rest).groups()  # type: ignore[union-attr]
            prio = re.search(r"prio (\d)", rest)
            found[handle] = {"rate": _kbit(rate), "ceil": _kbit(ceil), "prio": prio and int(prio[1]), "sent": int(sent), "dropped": int(dropped)}  # fmt: skip
        return found

    def shaping(self) -> list[dict[str, str]]:
        return list(self.api.get(f"/v1/hypervisors/{self.here['id']}")["shaping"])

    def sent(self, vm: VM) -> float:
        """Bytes that left by the class of a VM."""
        return self.agent.metric("novanet_agent_uplink_bytes_total", **{"class": vm.port["id"]})

    def changes(self, what: str) -> float:
        return self.agent.metric("novanet_agent_uplink_changes_total", what=what)


def namespaces_run(site: Site, command: list[str]) -> str:
    return namespaces.inside(
        site.lab.hypervisors[0].namespace, lambda: subprocess.run(command, capture_output=True, text=True).stdout
    )


def _kbit(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([KMG]?)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 0.001, "K": 1, "M": 1000, "G": 1_000_000}[unit]


def pings(sender: VM, receiver: VM, count: int = 100, dscp: int = 0) -> list[float]:
    """Round trips in milliseconds of those that came back."""
    shown = sender.exec(
        ["ping", "-Q", str(dscp << 2), "-c", str(count), "-i", "0.03", "-W", "1", str(receiver.ip)], check=False
    ).stdout
    return [float(time) for time in re.findall(r"time=([\d.]+)", shown)]


def metric(site: Site, name: str, **labels: str) -> float:
    """Of the agent, -1 while it does not answer."""
    try:
        return site.agent.metric(name, **labels)
    except OSError:
        return -1
