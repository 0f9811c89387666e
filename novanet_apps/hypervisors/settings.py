"""How the hypervisors part is told what to do: options, and addresses written as Open vSwitch writes them."""

from __future__ import annotations

import ipaddress
import os
from typing import Any, NamedTuple

import novanet_apps.options  # noqa: F401 (registers them)
from novanet_apps.compat import CONF
from novanet_apps.compat.errors import ConfigurationError
from novanet_apps.compat.openflow import Endpoint, parse_endpoint
from novanet_apps.compat.tls import make_server_context


class Settings(NamedTuple):
    """The values of the options, see ``options.HYPERVISORS``."""

    listen: tuple[Endpoint, ...] = ()
    controller_targets: tuple[str, ...] = ()
    probe_interval_ms: int = 5000
    tls_private_key: str = ""
    tls_certificate: str = ""
    tls_ca: str = ""

    @property
    def has_tls(self) -> bool:
        """Whether all that TLS needs is configured."""
        return bool(self.tls_private_key and self.tls_certificate and self.tls_ca)

    def server_context(self) -> Any:
        """TLS 1.3 with client certificates. Raises ConfigurationError."""
        if not self.has_tls:
            raise ConfigurationError("ovsdb_listen: pssl needs the options tls_private_key, tls_certificate and tls_ca")
        return make_server_context(self.tls_certificate, self.tls_private_key, self.tls_ca)


def from_options() -> Settings:
    """The settings as configured. Raises ConfigurationError."""
    targets = tuple(CONF.controller_target) or tuple(controller_targets(CONF.openflow_listen))
    return Settings(
        listen=tuple(parse_endpoint(text, "ovsdb_listen") for text in CONF.ovsdb_listen),
        controller_targets=targets,
        probe_interval_ms=int(CONF.ovsdb_probe_interval * 1000),
        tls_private_key=CONF.tls_private_key or "",
        tls_certificate=CONF.tls_certificate or "",
        tls_ca=CONF.tls_ca or "",
    )


def controller_targets(openflow_listen: list[str]) -> list[str]:
    """Where switches find a controller that listens so; empty where that cannot be told, as for 0.0.0.0."""
    targets = []
    for text in openflow_listen:
        endpoint = parse_endpoint(text)
        if endpoint.kind == "punix":
            targets.append(f"unix:{endpoint.host}")
        elif not ipaddress.ip_address(endpoint.host).is_unspecified and endpoint.port:
            host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
            targets.append(f"{'ssl' if endpoint.kind == 'pssl' else 'tcp'}:{host}:{endpoint.port}")
    return targets


def fill_in(target: str, *, ovsdb: str, bridge: str) -> str:
    """A controller target with its placeholders filled in.

    ``{rundir}`` is the directory of the hypervisor's OVSDB socket, ``{bridge}`` its integration bridge. Raises
    ValueError where there is no such directory.
    """
    if "{rundir}" in target and not ovsdb.startswith("unix:"):
        raise ValueError(f"controller_target {target}: {{rundir}} needs an ovsdb address unix:PATH, not {ovsdb}")
    return target.replace("{rundir}", os.path.dirname(ovsdb.removeprefix("unix:"))).replace("{bridge}", bridge)
