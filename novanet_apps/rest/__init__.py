"""``ryu-manager novanet_apps.rest``: the REST interface, its events, metrics and dashboard."""

from __future__ import annotations

import logging
from typing import Any

from novanet_apps.base import NovaNetApp
from novanet_apps.compat.errors import ConfigurationError
from novanet_apps.tokens import TokenError, TokenFile

from .api import Api
from .server import Server
from .settings import Settings

LOG = logging.getLogger(__name__)


class Rest(NovaNetApp):
    """Serves the intent store and the state of the whole to platforms, people and Prometheus."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = Settings.from_options()
        tokens = TokenFile(settings.state_dir)
        if settings.auth == "bearer":
            open_tokens(tokens)
        else:
            LOG.warning("rest_auth=none: whoever can reach %s may do everything", settings.listen)
        self.api = Api(self.core, settings, tokens)
        self.server = Server(self.api, settings.address, settings.tls(), self.api.counters, settings.max_connections)

    def start(self) -> Any:
        """Called by Ryu when every app is there."""
        thread = super().start()
        self.server.start()
        LOG.info("REST and dashboard at %s", self.server.url)
        return thread

    def close(self) -> None:
        """Called by Ryu when it ends."""
        self.api.events.close()
        self.server.stop()


def open_tokens(tokens: TokenFile) -> None:
    """Make the first token if there is none; read them. Raises ConfigurationError."""
    try:
        path = tokens.bootstrap()
        tokens.refresh()
    except TokenError as problem:
        raise ConfigurationError(f"REST tokens: {problem}") from None
    if path is not None:
        LOG.info("the first administrator's credential was made; it is in %s", path)
