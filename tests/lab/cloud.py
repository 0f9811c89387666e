"""A lab with a controller, and the few verbs that tests speak: a network, a VM in it, wait."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tools.lab import VM, Controller, Hypervisor, Lab
from tools.lab.lab import UNCONFIGURED_MTU

T = TypeVar("T")


def until(what: str, condition: Callable[[], T], timeout: float = 20.0, interval: float = 0.05) -> T:
    """Poll until the condition holds and return it; AssertionError that says what did not come true."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"{what}: not within {timeout} s (last: {value!r})"
        time.sleep(interval)


def flows(hypervisor: Hypervisor) -> list[str]:
    """The flows of br-int, sorted, without what changes by itself."""
    return sorted(
        re.sub(r"(duration|n_packets|n_bytes|idle_age|hard_age)=[^,]*, ", "", flow) for flow in hypervisor.dump_flows()
    )


class Cloud:
    """Hypervisors, a controller, and what was asked of it over REST."""

    def __init__(
        self,
        hypervisors: int = 3,
        *,
        mesh: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        telemetry: bool = False,
        **lab: Any,
    ) -> None:
        self.lab = Lab(hypervisors, **lab)
        self.options, self.telemetry = options, telemetry
        self.mesh = mesh or {}
        self._names = itertools.count(1)
        self.groups: list[str] | None = None
        """Security groups of ports for which none are given; None leaves it to NovaNet, whose group `default` lets VMs
        reach each other and everyone, and nobody else reach them."""
        self._open: str | None = None

    def __enter__(self) -> Cloud:
        self.lab.__enter__()
        try:
            self.controller = Controller(self.lab, options=self.options, telemetry=self.telemetry)
            self.controller.start()
            self.controller.wait_ready()
            self.api = self.controller.api
            if self.mesh:
                mesh = self.api.get("/v1/tunnel-meshes")["items"][0]
                self.api.patch(f"/v1/tunnel-meshes/{mesh['id']}", self.mesh)
            self.lab.deploy(self.controller)
            for hypervisor in self.hypervisors():
                self.wait_active("hypervisors", hypervisor["id"])
        except BaseException:
            if hasattr(self, "controller"):
                print(self.controller.tail(80))
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if hasattr(self, "controller"):
                self.controller.terminate()
        finally:
            self.lab.__exit__(None, None, None)

    def kill_and_start_controller(self, pause: float = 1.0) -> None:
        """kill -9, and another one after ``pause`` seconds; until all hypervisors are active again."""
        self.controller.kill()
        time.sleep(pause)
        self.controller.start()
        self.controller.wait_ready()
        for hypervisor in self.hypervisors():
            self.wait_active("hypervisors", hypervisor["id"])

    def hypervisors(self) -> list[dict[str, Any]]:
        return self.api.get("/v1/hypervisors")["items"]

    def network(self, *cidrs: str, **fields: Any) -> dict[str, Any]:
        """A network with a subnet for each cidr; the subnets stand under ``subnets``."""
        network = self.api.post("/v1/networks", {"name": f"net{next(self._names)}", **fields})
        network["subnets"] = [
            self.api.post("/v1/subnets", {"network_id": network["id"], "cidr": cidr}) for cidr in cidrs
        ]
        return network

    def port(self, network: dict[str, Any], *ips: str, **fields: Any) -> dict[str, Any]:
        """A port; with an address from every subnet of the network unless ``ips`` are given."""
        fixed = [{"ip_address": ip} for ip in ips] or [{"subnet_id": subnet["id"]} for subnet in network["subnets"]]
        if self.groups is not None and fields.get("port_security_enabled", True):
            fields = {"security_groups": self.groups, **fields}
        return self.api.post("/v1/ports", {"network_id": network["id"], "fixed_ips": fixed, **fields})

    def open_group(self) -> str:
        """Id of a group that lets its members send to everyone, and everyone reach them, outside too."""
        if self._open is None:
            self._open = self.api.post("/v1/security-groups", {"name": "open"})["id"]
            for direction in ("ingress", "egress"):
                for ethertype in ("IPv4", "IPv6"):
                    rule = {"security_group_id": self._open, "direction": direction, "ethertype": ethertype}
                    self.api.post("/v1/security-group-rules", rule)
        return self._open

    def router(self, *networks: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """A router with an interface in each network, at the subnets' gateway addresses; they stand under ``interfaces``."""
        router = self.api.post("/v1/routers", {"name": f"router{next(self._names)}", **fields})
        router["interfaces"] = [
            self.api.post("/v1/ports", {"network_id": network["id"], "router_id": router["id"]}) for network in networks
        ]
        return router

    def vm(self, network: dict[str, Any], hypervisor: int, *ips: str, configure: bool = True, **fields: Any) -> VM:
        """A VM with a port of the network, plugged and ready; ``vm.port`` is the port, ``vm.ip`` its first address.

        It has the port's addresses and default routes; without ``configure`` it has to ask for them.
        """
        port = self.port(network, *ips, **fields)
        return self.plug(network, port, hypervisor, configure)

    def plug(self, network: dict[str, Any], port: dict[str, Any], hypervisor: int, configure: bool = True) -> VM:
        """The VM of a port; without ``configure`` it has no address and no route yet, and an MTU of 1500."""
        taken = {fixed["subnet_id"] for fixed in port["fixed_ips"]}
        subnets = [subnet for subnet in network["subnets"] if subnet["id"] in taken]
        lengths = {subnet["id"]: int(subnet["cidr"].split("/")[1]) for subnet in subnets}
        addresses = [(fixed["ip_address"], lengths[fixed["subnet_id"]]) for fixed in port["fixed_ips"]]
        gateways = {subnet["ip_version"]: subnet["gateway_ip"] for subnet in subnets if subnet["gateway_ip"]}.values()
        mtu = self.api.get(f"/v1/networks/{network['id']}")["mtu"]
        mac, where = port["mac_address"], self.lab.hypervisors[hypervisor]
        if configure:
            vm = where.plug(port["id"], mac, addresses, mtu=mtu, gateways=gateways)
        else:
            vm = where.plug(port["id"], mac, mtu=UNCONFIGURED_MTU)
        vm.port = port
        vm.ip = next((ip for ip, _ in addresses if ":" not in ip), None)
        vm.ip6 = next((ip for ip, _ in addresses if ":" in ip), None)
        self.wait_active("ports", port["id"])
        return vm

    def store_process(self) -> int | None:
        """Process id of the controller's embedded store server."""
        controller = self.controller.process.pid
        for child in Path(f"/proc/{controller}/task/{controller}/children").read_text().split():
            try:
                if b"intent.db" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
            except OSError:
                continue  # it ended in between
        return None

    def wait_active(self, collection: str, id: str) -> dict[str, Any]:
        def active() -> dict[str, Any] | None:
            shown = self.api.get(f"/v1/{collection}/{id}")
            return shown if shown["status"] == "ACTIVE" else None

        return until(f"{collection} {id} ACTIVE", active)

    def counter(self, name: str) -> float:
        """The sum of a metric's values at /metrics."""
        text = self.api.get("/metrics")
        values = [float(line.split()[-1]) for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
        assert values, f"no metric {name}"
        return sum(values)
