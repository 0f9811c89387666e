"""What every NovaNet app is: a Ryu app that shares the core and may bring features of the pipeline."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from novanet_apps.compat import app_manager
from novanet_apps.core import Core
from pipelines.compiler import Feature

OPENFLOW_HANDLER = "ryu.controller.ofp_handler"
"""Ryu's app that listens for switches; Ryu loads what a module's ``_REQUIRED_APP`` names."""


class NovaNetApp(app_manager.RyuApp):
    """Base of the apps; ``FEATURES`` are what the app adds to the pipeline."""

    OFP_VERSIONS: ClassVar[list[int]] = [4, 5, 6]
    _CONTEXTS: ClassVar[dict[str, type]] = {"core": Core}
    FEATURES: ClassVar[tuple[Feature, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        module = sys.modules[cls.__module__]
        module.__dict__.setdefault("_REQUIRED_APP", []).append(OPENFLOW_HANDLER)

    def __init__(self, *args: Any, core: Core, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.core = core
        for feature in self.FEATURES:
            core.use(feature)

    def start(self) -> Any:
        """Called by Ryu when every app is there."""
        thread = super().start()
        self.core.start()
        return thread
