"""``ryu-manager novanet_apps.all``: every app of NovaNet."""

from novanet_apps.base import NovaNetApp
from novanet_apps.compat import app_manager

for name in ("l2l3", "tunnel_mesh", "security_groups", "load_balancer", "qos", "telemetry", "rest"):
    app_manager.require_app(f"novanet_apps.{name}", api_style=False)


class All(NovaNetApp):
    """Brings nothing of its own."""
