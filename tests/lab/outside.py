"""A tenant's network behind a router with a way outside, and a host there."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, NamedTuple

from tests.lab.cloud import Cloud
from tools.lab import VM

PHYSICAL = "physnet1"
WORLD, WORLD6 = "203.0.113.1", "2001:db8:ffff::1"
"""The host outside, which is the default gateway there."""


class World(NamedTuple):
    """Hypervisors on a provider network with an outside host, and a tenant's network behind a router."""

    cloud: Cloud
    external: dict[str, Any]
    network: dict[str, Any]
    router: dict[str, Any]
    outside: Any
    vlan: int | None = None

    @property
    def gateway(self) -> dict[str, Any]:
        """The router's port outside."""
        query = f"network_id={self.external['id']}&router_id={self.router['id']}"
        return self.cloud.api.get(f"/v1/ports?{query}")["items"][0]

    @property
    def shown(self) -> dict[str, Any]:
        """The router, as the API shows it."""
        return self.cloud.api.get(f"/v1/routers/{self.router['id']}")

    def hypervisor_ids(self) -> list[str]:
        return [each["id"] for each in sorted(self.cloud.hypervisors(), key=lambda each: each["name"])]

    def order(self) -> list[int]:
        """Numbers of the hypervisors that may be the gateway, best first."""
        return list(map(self.hypervisor_ids().index, self.shown["gateway_order"]))

    def active(self) -> int:
        """Number of the hypervisor that is the gateway now."""
        return self.hypervisor_ids().index(self.shown["active_gateway"])

    def subnet(self, six: bool) -> dict[str, Any]:
        """The subnet outside, of an IP version."""
        return next(subnet for subnet in self.external["subnets"] if (":" in subnet["cidr"]) == six)

    def floating_ip(self, vm: VM | None = None, six: bool = False) -> dict[str, Any]:
        wanted: dict[str, Any] = {"floating_network_id": self.external["id"], "subnet_id": self.subnet(six)["id"]}
        if vm is not None:
            wanted["port_id"] = vm.port["id"]
        return self.cloud.api.post("/v1/floating-ips", wanted)

    def host(self, name: str, *addresses: str) -> Any:
        """A further host outside."""
        return self.cloud.lab.outside(name, *addresses, vlan=self.vlan)


def built(cloud: Cloud, vlan: int | None = None) -> World:
    """The world of a cloud that is wired to ``PHYSICAL``; ``vlan`` is that of the network outside."""
    cloud.groups = [cloud.open_group()]  # whoever is outside is to reach VMs
    segment = {} if vlan is None else {"segmentation_id": vlan}
    cidrs = "203.0.113.0/24", "2001:db8:ffff::/64"
    external = cloud.network(*cidrs, external=True, physical_network=PHYSICAL, **segment)
    network = cloud.network("10.10.0.0/24", "fd10::/64")
    router = cloud.router(network, external)
    outside = cloud.lab.outside("world", f"{WORLD}/24", f"{WORLD6}/64", vlan=vlan)
    return World(cloud, external, network, router, outside, vlan)


def address(port: dict[str, Any], six: bool = False) -> str:
    """A port's address of an IP version."""
    return next(fixed["ip_address"] for fixed in port["fixed_ips"] if (":" in fixed["ip_address"]) == six)


def reaches(host: Any, destination: str) -> bool:
    return host.ping(destination, count=2).lost == 0


def sources(frames: list[bytes], six: bool) -> set[str]:
    """The source addresses of echo requests."""
    found = set()
    for frame in frames:
        if not six and frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 8:
            found.add(str(ip_address(frame[26:30])))
        if six and frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 128:
            found.add(str(ip_address(frame[22:38])))
    return found


def announces(frame: bytes, text: str) -> bool:
    """Whether a frame is a gratuitous ARP or an unsolicited advertisement of an address."""
    raw = ip_address(text).packed
    if ":" in text:
        return frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 136 and frame[62:78] == raw
    return frame[12:14] == b"\x08\x06" and frame[28:32] == raw == frame[38:42]
