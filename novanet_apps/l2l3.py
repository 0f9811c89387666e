"""``ryu-manager novanet_apps.l2l3``: switching, anti-spoofing and address resolution on every hypervisor."""

from novanet_apps.base import NovaNetApp
from pipelines.compiler import SERVICES, SWITCHING


class L2L3(NovaNetApp):
    """Brings the features ``switching`` and ``services``."""

    FEATURES = (SWITCHING, SERVICES)
