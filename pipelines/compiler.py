"""Puts the features together: what an owner wants of one hypervisor's bridge.

An owner is ``(kind, id)``: ``("base", hypervisor)`` for what every bridge has, ``("peer", hypervisor)`` for a
tunnel, ``("network", id)`` and ``("port", id)``. Compiling an owner depends on nothing but the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from topology.graph import Topology

from . import (
    balancing,
    balancing_pools,
    gateways,
    health,
    multicast,
    nat,
    neighbours,
    overlay,
    policy,
    provider,
    punting,
    qos,
    routing,
    rulesets,
    services,
    switching,
)
from . import tables as t
from .flow import Flow, Rule
from .placement import Placed, placed

Owner = tuple[str, str]
Compile = Callable[[Topology, str, Any], Iterable[Rule]]
"""(graph, hypervisor, id of the owner) -> its rules there. Of a port it gets what ``placed`` found instead of the id."""


class Feature(NamedTuple):
    """A part of the pipeline: its name, as tables name it, and what it adds for each kind of owner."""

    name: str
    compilers: dict[str, Compile]


SWITCHING = Feature("switching", {"base": switching.base, "network": switching.network, "port": switching.port})
SERVICES = Feature("services", {"base": services.base, "network": services.network, "port": services.port})
PUNTING = Feature("punting", {"base": punting.base, "port": punting.port})
OVERLAY = Feature("overlay", {"base": overlay.base, "peer": overlay.peer, "network": overlay.network})
ROUTING = Feature("routing", {"base": routing.base, "port": routing.port, "router": routing.router})
GATEWAYS = Feature("gateways", {"base": gateways.base, "router": gateways.router})
NEIGHBOURS = Feature("neighbours", {"network": neighbours.network, "neighbour": neighbours.neighbour})
NAT = Feature("nat", {"base": nat.base, "router": nat.router, "floating-ip": nat.floating_ip})
MULTICAST = Feature(
    "multicast",
    {
        "base": multicast.base,
        "network": multicast.network,
        "port": multicast.port,
        "multicast-group": multicast.multicast_group,
    },
)
PROVIDER = Feature("provider", {"base": provider.base, "network": provider.network, "port": provider.port})
POLICY = Feature(
    "policy", {"base": policy.base, "port": policy.port, "router": policy.router, "policy": rulesets.policy}
)
HEALTH = Feature("health", {"base": health.base, "member": health.member})
BALANCING = Feature(
    "balancing",
    {
        "base": balancing.base,
        "port": policy.who,
        "load-balancer": balancing.load_balancer,
        "pool": balancing_pools.pool,
    },
)
QOS = Feature("qos", {"base": qos.base, "qos": qos.port, "router": qos.router, "floating-ip": qos.floating_ip})

FEATURES = (
    SWITCHING,
    SERVICES,
    ROUTING,
    GATEWAYS,
    NEIGHBOURS,
    NAT,
    PUNTING,
    OVERLAY,
    PROVIDER,
    MULTICAST,
    POLICY,
    HEALTH,
    BALANCING,
    QOS,
)


class Compiler:
    """Compiles owners with the features that are loaded."""

    def __init__(self, features: Iterable[Feature] = FEATURES) -> None:
        self.features = tuple(features)
        self.compiled: Counter[str] = Counter()
        """How often an owner of each kind was compiled."""
        self._misses = tuple(_misses())

    def compile(self, topology: Topology, hypervisor: str, owner: Owner) -> list[Rule]:
        """What the owner wants of the hypervisor's bridge; empty when it has no business there."""
        self.compiled[owner[0]] += 1
        return self.rules(topology, hypervisor, owner)

    def rules(self, topology: Topology, hypervisor: str, owner: Owner) -> list[Rule]:
        """The same for somebody who only wants to know."""
        kind, id = owner
        rules: list[Rule] = list(self._misses) if kind == "base" else []
        subject: str | Placed | None = placed(topology, hypervisor, id) if kind == "port" else id
        if subject is None:
            return rules
        for feature in self.features:
            compiler = feature.compilers.get(kind)
            if compiler is not None:
                rules += compiler(topology, hypervisor, subject)
        return rules


def _misses() -> Iterator[Flow]:
    """One flow a table for packets that no other flow wants: pass on, or drop and count."""
    for table in t.PIPELINE:
        goto = t.BY_NAME[table.otherwise].number if table.otherwise else None
        yield Flow(table.number, t.MISS, b"", goto=goto)
