"""Which hypervisors may be a router's gateway to the outside, in the order in which they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b

from .model import Hypervisor, Network, Router

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


def _weight(router: str, hypervisor: str) -> bytes:
    return blake2b(f"{router}/{hypervisor}".encode(), digest_size=8).digest()
