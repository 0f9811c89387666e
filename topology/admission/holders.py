"""Who has an address: ports, floating IPs and load balancers share those of a subnet, and MAC addresses of a network."""

from __future__ import annotations

from ..model import Subnet
from .context import Context
from .draft import View

_KINDS = ("port", "floating-ip", "load-balancer")


def kind_of(view: View, holder: str | None) -> str:
    """The kind of what has an address."""
    return next((kind for kind in _KINDS if holder is not None and view.get(kind, holder) is not None), _KINDS[0])


def check_free(context: Context, subnet: Subnet, address: str, field: str) -> None:
    """Nobody else has the address. Raises Refused(409)."""
    holder = context.view.addresses.get((subnet.id, address))
    context.holds(kind_of(context.view, holder), holder, f"{address} of subnet {subnet.id}", field)
