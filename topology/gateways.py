"""The way outside: which hypervisors may be a router's gateway, in which order, and which router leads to a VM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Protocol

from .model import Hypervisor, LoadBalancer, Network, Port, Router

CHOSEN = 3
"""Hypervisors that NovaNet chooses for a router that names none."""


def wired(hypervisor: Hypervisor, network: Network) -> bool:
    """Whether the hypervisor has a mapping for the network's wire."""
    wire = network.physical_network
    return wire is not None and any(mapping.physical_network == wire for mapping in hypervisor.bridge_mappings)


def candidates(router: Router, network: Network, hypervisors: Mapping[str, Hypervisor]) -> tuple[str, ...]:
    """The hypervisors that may be the gateway, best first.

    Those that the router names by their priority; else a few of those that are wired to the network, by rendezvous
    hashing, so that routers spread over them and keep theirs when others come and go (Thaler and Ravishankar, 1998).
    """
    if router.gateway_hypervisors:
        named = sorted(router.gateway_hypervisors, key=lambda each: (-each.priority, each.hypervisor_id))
        ids: Iterable[str] = (each.hypervisor_id for each in named)
        return tuple(id for id in ids if id in hypervisors and wired(hypervisors[id], network))
    willing = (id for id, hypervisor in hypervisors.items() if hypervisor.gateway and wired(hypervisor, network))
    return tuple(sorted(willing, key=lambda id: _weight(router.id, id))[:CHOSEN])


class View(Protocol):
    """What knows objects, and how routers join networks: the graph, or a draft over it."""

    def get(self, kind: str, id: str) -> Any: ...
    def routed_by(self, network_id: str) -> list[Port]: ...
    def interfaces_of(self, router_id: str) -> list[Port]: ...


def router_between(view: View, port: Port, address: str | None, outside: str) -> str | None:
    """Id of the router by which an address of a VM is reached from a network outside; None when there is none.

    It has an interface in the address's subnet (in the port's network when the address is None), and its gateway in the
    network outside. Of several it is the one with the smallest port key.
    """
    subnet = next((fixed.subnet_id for fixed in port.fixed_ips or () if fixed.ip_address == address), None)
    for interface in view.routed_by(port.network_id):
        joined = {fixed.subnet_id for fixed in interface.fixed_ips or ()}
        if subnet in joined or subnet is None:
            ports = view.interfaces_of(interface.router_id or "")
            if any(other.network_id == outside for other in ports):
                return interface.router_id
    return None


def router_to_balancer(view: View, balancer: LoadBalancer, outside: str) -> str | None:
    """Id of the router by which a load balancer is reached from a network outside; None when there is none.

    It is the load balancer's own, or has an interface in its subnet, and has its gateway in the network outside. Of several it
    is the one with the smallest port key.
    """
    routers = [balancer.router_id]
    if balancer.router_id is None:
        joined = view.routed_by(balancer.vip_network_id or "")
        subnet = balancer.vip_subnet_id
        routers = [each.router_id for each in joined if subnet in {f.subnet_id for f in each.fixed_ips or ()}]
    for router in routers:
        if any(port.network_id == outside for port in view.interfaces_of(router or "")):
            return router
    return None


def _weight(router: str, hypervisor: str) -> bytes:
    return blake2b(f"{router}/{hypervisor}".encode(), digest_size=8).digest()
