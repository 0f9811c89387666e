"""``ryu-manager novanet_apps.l2l3``: switching, routing, NAT, and what VMs ask of their network, on every hypervisor."""

from typing import Any

from novanet_apps import responders
from novanet_apps.base import NovaNetApp
from pipelines.compiler import GATEWAYS, MULTICAST, NAT, NEIGHBOURS, PROVIDER, PUNTING, ROUTING, SERVICES, SWITCHING


class L2L3(NovaNetApp):
    """Brings its features of the pipeline, and the responders."""

    FEATURES = (SWITCHING, SERVICES, ROUTING, GATEWAYS, NEIGHBOURS, NAT, PROVIDER, MULTICAST, PUNTING)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        responders.start(self.core)
