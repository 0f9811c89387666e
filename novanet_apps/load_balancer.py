"""``ryu-manager novanet_apps.load_balancer``: layer-4 load balancing and health checks, on every hypervisor."""

from typing import Any

from novanet_apps.balancing_weights import SlotWeights
from novanet_apps.base import NovaNetApp
from novanet_apps.connections import Connections
from novanet_apps.draining import Draining
from novanet_apps.member_ends import MemberEnds
from pipelines.compiler import BALANCING, HEALTH
from pipelines.policy import balancing_zones


class LoadBalancer(NovaNetApp):
    """Brings its features of the pipeline, and ends what members drain."""

    FEATURES = (HEALTH, BALANCING)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connections = Connections(self.core, balancing_zones)
        self.draining = Draining(self.core)
        self.ends = MemberEnds(self.core)
        self.weights = SlotWeights(self.core)
