"""``ryu-manager novanet_apps.security_groups``: stateful security groups by identity, on every hypervisor."""

from typing import Any

from novanet_apps.base import NovaNetApp
from novanet_apps.connections import Connections
from pipelines.compiler import POLICY
from pipelines.policy import zone


class SecurityGroups(NovaNetApp):
    """Brings the feature ``policy``; without it everything passes."""

    FEATURES = (POLICY,)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connections = Connections(self.core, lambda ofport: (zone(ofport),))
