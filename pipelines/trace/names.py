"""Names of objects, and what may be said about them to whom."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from topology.graph import Topology
from topology.model import FloatingIp, Network, Port, Subnet

from .report import Named

Visible = Callable[[str, Any], bool]
"""(kind, object) -> whether the asker may see it."""


def everything(kind: str, obj: Any) -> bool:
    """An administrator sees all there is."""
    return True


class Names:
    """What objects are called towards somebody who sees only some of them; a hypervisor is then one of several.

    For one trace: it does not notice hypervisors and routers that come later.
    """

    def __init__(self, topology: Topology, visible: Visible = everything) -> None:
        self.topology, self._visible = topology, visible
        self._hypervisors: dict[str, int] = {}

    def sees(self, kind: str, id: str) -> bool:
        """Whether the object is there and the asker may see it."""
        obj = self.topology.get(kind, id)
        return obj is not None and self._visible(kind, obj)

    def of(self, kind: str, id: str) -> Named:
        """The object."""
        return Named(kind, id if self.sees(kind, id) else "", self._name(kind, id))

    def say(self, kind: str, id: str) -> str:
        """The object in a sentence: ``port web``; an interface as its router's."""
        obj = self.topology.get(kind, id)
        if not self.sees(kind, id):
            return self._name(kind, id)
        if isinstance(obj, Port) and obj.router_id is not None:
            return f"{self.say('router', obj.router_id)}'s interface in {self.say('network', obj.network_id)}"
        return f"{kind.replace('-', ' ').replace('floating ip', 'floating IP')} {self._name(kind, id)}"

    def _name(self, kind: str, id: str) -> str:
        obj = self.topology.get(kind, id)
        if kind == "hypervisor" and not self.sees(kind, id):
            return f"hypervisor {self._hypervisors.setdefault(id, len(self._hypervisors) + 1)}"
        if obj is None:
            return id
        if not self._visible(kind, obj):
            return f"a {kind} of another project"
        match obj:
            case FloatingIp(floating_ip_address=str(address)):
                return address
            case Subnet(name="", cidr=cidr):
                return cidr
            case Port(name="", dns_name=dns, device_id=device) if dns or device:
                return dns or device
        return str(getattr(obj, "name", "") or id)

    # --- by the numbers that stand in packets --------------------------------------------------------------------

    def port_of(self, key: int) -> str | None:
        """Id of the port with a key."""
        return self.topology.port_keys.get(key)

    def network_of(self, vni: int) -> Network | None:
        """The network with a VNI."""
        found: Network | None = self.topology.get("network", self.topology.vnis.get(vni, ""))
        return found

    def hypervisor_at(self, address: str) -> str | None:
        """Id of the hypervisor with a tunnel endpoint."""
        return self._endpoints.get(address)

    def router_of(self, key: int) -> str | None:
        """Id of the router with a key."""
        return self._routers.get(key)

    @cached_property
    def _endpoints(self) -> dict[str | None, str]:
        return {obj.tunnel_ip: id for id, obj in self.topology.all("hypervisor").items()}

    @cached_property
    def _routers(self) -> dict[int | None, str]:
        return {obj.router_key: id for id, obj in self.topology.all("router").items()}
