"""``ryu-manager novanet_apps.telemetry``: collectors of sFlow, NetFlow and IPFIX, what is stored of them, and answers.

The app is made when Ryu looks for it: the processes it starts import this package, too, and need neither Ryu nor eventlet.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "Telemetry":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from novanet_apps.telemetry.app import Telemetry

    return Telemetry


def __dir__() -> list[str]:
    return ["Telemetry", "__name__"]
