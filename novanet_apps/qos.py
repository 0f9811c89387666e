"""``ryu-manager novanet_apps.qos``: limits, guarantees and DSCP of ports, floating IPs and gateways, on every hypervisor."""

from typing import Any

from novanet_apps.base import NovaNetApp
from novanet_apps.meters import MeterWatch
from pipelines.compiler import QOS


class Qos(NovaNetApp):
    """Brings the feature ``qos``; without it nothing is limited, and no DSCP is changed."""

    FEATURES = (QOS,)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.meters = MeterWatch(self.core)
