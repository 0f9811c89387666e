"""``ryu-manager novanet_apps.tunnel_mesh``: Geneve or VXLAN tunnels between all hypervisors that share networks."""

from novanet_apps.base import NovaNetApp
from pipelines.compiler import OVERLAY


class TunnelMesh(NovaNetApp):
    """Brings the feature ``overlay``."""

    FEATURES = (OVERLAY,)
