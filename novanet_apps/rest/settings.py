"""How the REST interface is configured, and whether that is safe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from novanet_apps.compat import CONF, make_server_context
from novanet_apps.compat.errors import ConfigurationError

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>\d{1,5})\Z")


@dataclass(frozen=True)
class Settings:
    """Checked when made: what is not safe raises ConfigurationError."""

    listen: str = "127.0.0.1:8080"
    certificate: str | None = None
    private_key: str | None = None
    auth: Literal["bearer", "none"] = "bearer"
    max_body: int = 4 << 20
    max_connections: int = 16384
    state_dir: Path = Path("/var/lib/novanet")

    def __post_init__(self) -> None:
        host, _ = self.address
        loopback = ip_address(host).is_loopback
        if bool(self.certificate) != bool(self.private_key):
            raise ConfigurationError("rest_certificate and rest_private_key belong together: set both, or neither")
        if not loopback and not self.certificate:
            raise ConfigurationError(
                f"rest_listen={self.listen} is not a loopback address: off loopback REST needs TLS; set rest_certificate"
                " and rest_private_key, or listen on 127.0.0.1"
            )
        if not loopback and self.auth == "none":
            raise ConfigurationError(
                f"rest_listen={self.listen} is not a loopback address: off loopback everybody could change networks; set"
                " rest_auth=bearer, or listen on 127.0.0.1"
            )

    @classmethod
    def from_options(cls) -> Settings:
        """As configured (novanet_apps/options.py)."""
        import novanet_apps.options  # noqa: F401  registers them
        from novanet_apps.intent.settings import StoreSettings

        return cls(
            listen=CONF.rest_listen,
            certificate=CONF.rest_certificate,
            private_key=CONF.rest_private_key,
            auth=CONF.rest_auth,
            max_body=CONF.rest_max_body,
            max_connections=CONF.rest_max_connections,
            state_dir=StoreSettings.from_options().state_dir,
        )

    @property
    def address(self) -> tuple[str, int]:
        """IP address and port; port 0 lets the system choose."""
        found = _ADDRESS.match(self.listen)
        try:
            host = str(ip_address((found["v6"] or found["v4"]) if found else ""))
        except ValueError:
            found = None
        if found is None or int(found["port"]) > 65535:
            raise ConfigurationError(f"rest_listen={self.listen!r} must be IP:PORT or [IPv6]:PORT, e.g. 127.0.0.1:8080")
        return host, int(found["port"])

    def tls(self) -> Any:
        """The TLS context (1.2 or later), or None for plain HTTP. Raises ConfigurationError."""
        if not self.certificate or not self.private_key:
            return None
        from eventlet.green import ssl

        return make_server_context(self.certificate, self.private_key, minimum=ssl.TLSVersion.TLSv1_2)
