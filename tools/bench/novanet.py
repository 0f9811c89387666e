"""NovaNet on a lab, asked through its REST interface as a VM platform asks it."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from tools.bench import workload
from tools.bench.groups import Group
from tools.bench.workload import PortSpec
from tools.lab import processes
from tools.lab.controller import ApiError, Controller
from tools.lab.errors import LabError
from tools.lab.lab import Lab

BULK = 1000
"""Objects in one request, the most that REST takes."""
POLL = 0.02
_SAMPLE = re.compile(r"(?P<name>\w+)(\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class NovaNet:
    """A controller for the hypervisors of ``lab``, which must be up. It ends with the lab, or by ``stop``."""

    name = "NovaNet"

    def __init__(self, lab: Lab, options: dict[str, Any] | None = None) -> None:
        self.lab = lab
        self.controller = Controller(lab, options=options)
        self._http: http.client.HTTPConnection | None = None

    def __enter__(self) -> NovaNet:
        self.controller.start()
        self.controller.wait_ready()
        self.lab.deploy(self.controller)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._http is not None:
            self._http.close()
        self.controller.terminate()

    # --- what is asked -------------------------------------------------------------------------------------------

    def add_networks(self, count: int = workload.NETWORKS) -> None:
        """Networks with a subnet each."""
        self.request("POST", "/v1/networks", [{"id": _network(n), "name": f"net{n}"} for n in range(count)])
        subnets = [{"id": _subnet(n), "network_id": _network(n), "cidr": workload.cidr(n)} for n in range(count)]
        self.request("POST", "/v1/subnets", subnets)

    def add_group(self, group: Group) -> None:
        """A security group, with a rule for each range of ports."""
        fields = {"id": group.id, "name": group.name, "stateful": group.stateful}
        self.request("POST", "/v1/security-groups", fields)
        self.request("POST", "/v1/security-group-rules", list(rules(group)))

    def add_ports(self, ports: list[PortSpec], group: Group | None) -> None:
        """In arrays of a thousand."""
        for start in range(0, len(ports), BULK):
            self.request("POST", "/v1/ports", [_fields(port, group) for port in ports[start : start + BULK]])

    def add_port(self, port: PortSpec, group: Group | None) -> None:
        """One request on the open connection."""
        self.request("POST", "/v1/ports", _fields(port, group))

    def realise_port(self, port: PortSpec, group: Group | None) -> None:
        """One request that returns when all hypervisors have confirmed by barrier."""
        self._realise("POST", "/v1/ports", _fields(port, group))

    def join(self, port: PortSpec, group: Group) -> None:
        """One request likewise."""
        self._realise("PATCH", f"/v1/ports/{port.id}", {"security_groups": [group.id]})

    def leave(self, port: PortSpec, group: Group) -> None:
        """One request likewise."""
        self._realise("PATCH", f"/v1/ports/{port.id}", {"security_groups": []})

    def _realise(self, method: str, path: str, body: dict[str, Any]) -> None:
        shown = self.request(method, f"{path}?wait=60", body)
        if shown["status"] != "ACTIVE":
            raise LabError(f"port {shown['id']} is {shown['status']}: {shown['status_reason']}")

    def delete_port(self, port: PortSpec) -> None:
        """One request."""
        self.request("DELETE", f"/v1/ports/{port.id}")

    def wait_realised(self, count: int, timeout: float) -> None:
        """Poll the census of statuses."""
        end = time.monotonic() + timeout
        while (census := self.census().get("port", {})).get("ACTIVE", 0) < count:
            if time.monotonic() > end:
                raise LabError(
                    f"{count} ports ACTIVE: not within {timeout:g} s; there are {census}\n{self.controller.tail()}"
                )
            time.sleep(POLL)

    def load(self, ports: list[PortSpec], group: Group) -> None:
        """While nothing is plugged; then the controller ends."""
        self.add_networks()
        self.add_group(group)
        self.add_ports(ports, group)
        self.controller.terminate()

    def start_control(self) -> None:
        """Start the controller again."""
        self.controller.start()
        self.controller.wait_ready()

    def census(self) -> dict[str, dict[str, int]]:
        """How many objects of each kind have which status."""
        return dict(self.request("GET", "/v1/status")["objects"])

    def wait_settled(self, timeout: float = 60.0) -> None:
        """Wait until every bridge has confirmed everything that was sent to it."""

        def settled() -> bool:
            shown = self.request("GET", "/v1/status")["hypervisors"]
            return all(entry["openflow"]["synced"] and not entry["openflow"]["pending"] for entry in shown)

        processes.until(settled, "all bridges confirm what they were sent", timeout, interval=POLL)

    def counter(self, name: str) -> float:
        """The sum of a metric's values; raises LabError when there is no such metric."""
        return sum(self.counts(name).values())

    def counts(self, name: str, label: str = "") -> dict[str, float]:
        """A metric's values by that label's; raises LabError when there is no such metric."""
        found: dict[str, float] = defaultdict(float)
        for line in str(self.request("GET", "/metrics")).splitlines():
            if match := _SAMPLE.fullmatch(line):
                if match["name"] == name:
                    labels = dict(_LABEL.findall(match["labels"] or ""))
                    found[labels.get(label, "")] += float(match["value"])
        if not found:
            raise LabError(f"there is no metric {name}")
        return found

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """A REST call on a connection that is kept; opened anew when the controller has closed it."""
        headers = {"Authorization": f"Bearer {self.controller.token}"}
        payload = None
        if body is not None:
            headers["Content-Type"], payload = "application/json", json.dumps(body)
        fresh = self._http is None
        if self._http is None:
            self._http = http.client.HTTPConnection("127.0.0.1", self.controller.port, timeout=300)
        try:
            self._http.request(method, path, payload, headers)
            answer = self._http.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self._http.close()
            self._http = None
            if fresh:
                raise
            return self.request(method, path, body)
        text = content.decode()
        parsed = json.loads(text) if text and "json" in answer.getheader("Content-Type", "") else text
        if answer.status >= 400:
            raise ApiError(
                f"{method} {path}", answer.status, parsed if isinstance(parsed, dict) else {"detail": parsed}
            )
        return parsed

    # --- what it consists of -------------------------------------------------------------------------------------

    def processes(self) -> dict[str, int]:
        """The controller, its store's server, and the switches."""
        if self.controller.process is None:
            raise LabError("the controller does not run")
        store = next(pid for pid in processes.marked(self.lab.run_id) if _is_store(pid, str(self.controller.state_dir)))
        return {"controller": self.controller.process.pid, "store": store} | workload.switches(self.lab)


def _is_store(pid: int, state_dir: str) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
        words = cmdline.read().decode().split("\0")
    return "ovsdb-server" in words[0] and any(state_dir in word for word in words[1:])


def _network(number: int) -> str:
    return f"00000000-0000-4000-8000-0002{number:08x}"


def _subnet(number: int) -> str:
    return f"00000000-0000-4000-8000-0003{number:08x}"


def rules(group: Group) -> Iterator[dict[str, Any]]:
    """What REST is asked to make of a group's rules: one for each range of ports."""
    for rule in group.rules:
        fields = {
            "security_group_id": group.id, "direction": rule.direction, "ethertype": rule.ethertype, "protocol": rule.protocol,
            "remote_ip_prefix": rule.prefix, "remote_group_id": group.id if rule.members else None,
        }  # fmt: skip
        for low, high in rule.ports:
            yield fields | {"port_range_min": low, "port_range_max": high}
        if not rule.ports:
            yield fields


def _fields(port: PortSpec, group: Group | None) -> dict[str, Any]:
    return {
        "id": port.id,
        "network_id": _network(port.network),
        "mac_address": port.mac,
        "fixed_ips": [{"subnet_id": _subnet(port.network), "ip_address": port.ip}],
        "security_groups": [] if group is None else [group.id],
    }
