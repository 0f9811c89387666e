"""What everyone may see and use, whosever it is."""

from __future__ import annotations

from typing import Any, Protocol

from .model import AddressGroup, Network, Object, QosPolicy, QosRule, SecurityGroup, Subnet


class Objects(Protocol):
    """What knows objects: the graph, or a draft over it."""

    def get(self, kind: str, id: str) -> Any: ...


def is_common(view: Objects, obj: Object) -> bool:
    """Whether an object is a network outside, a subnet of one, a shared group, or a shared policy or rule of one."""
    if isinstance(obj, QosRule):
        obj = view.get("qos-policy", obj.qos_policy_id)
    if isinstance(obj, SecurityGroup | AddressGroup | QosPolicy):
        return obj.shared
    network = view.get("network", obj.network_id) if isinstance(obj, Subnet) else obj
    return isinstance(network, Network) and network.external
