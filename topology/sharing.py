"""What everyone may see and use, whosever it is."""

from __future__ import annotations

from typing import Any, Protocol

from .model import AddressGroup, Network, Object, SecurityGroup, Subnet


class Objects(Protocol):
    """What knows objects: the graph, or a draft over it."""

    def get(self, kind: str, id: str) -> Any: ...


def is_common(view: Objects, obj: Object) -> bool:
    """Whether an object is a network outside, a subnet of one, or a shared group."""
    if isinstance(obj, SecurityGroup | AddressGroup):
        return obj.shared
    network = view.get("network", obj.network_id) if isinstance(obj, Subnet) else obj
    return isinstance(network, Network) and network.external
