"""How telemetry is configured, and whether that can be."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from novanet_apps.compat.errors import ConfigurationError

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>\d{1,5})\Z")

_NAMESPACE = re.compile(r"(?!\.)[\w.-]{1,255}\Z", re.ASCII)


@dataclass(frozen=True)
class Settings:
    """Checked when made: what cannot be raises ConfigurationError."""

    listen: tuple[str, ...]
    namespace: str
    """Network namespace of these addresses; the controller's own when empty."""
    exporters: tuple[str, ...]
    """Addresses and prefixes that may export, beside loopback and the hypervisors."""
    workers: int
    state_dir: Path
    clickhouse: str
    clickhouse_ca: str | None
    keep: tuple[int, int, int, int]
    spare: int
    """MiB."""
    forest: bool

    def __post_init__(self) -> None:
        for address in self.listen:
            found = _ADDRESS.match(address)
            try:
                ip_address((found["v6"] or found["v4"]) if found else "")
            except ValueError:
                found = None
            if found is None or not 0 < int(found["port"]) < 65536:
                raise ConfigurationError(
                    f"telemetry_listen={address!r} must be IP:PORT or [IPv6]:PORT, e.g. 127.0.0.1:6343"
                )
        if self.namespace and not _NAMESPACE.match(self.namespace):
            raise ConfigurationError(f"telemetry_namespace={self.namespace!r} must be a name that `ip netns` lists")
        for prefix in self.exporters:
            try:
                ip_network(prefix)
            except ValueError as problem:
                raise ConfigurationError(f"telemetry_exporters={prefix!r}: {problem}") from None
        if list(self.keep) != sorted(self.keep):
            raise ConfigurationError(
                "telemetry_keep_raw, _1m, _5m and _1h must not get less from one to the next: coarser rows are kept longer"
            )

    @classmethod
    def from_options(cls, conf: Any) -> Settings:
        """As configured (novanet_apps/options.py)."""
        from novanet_apps.intent.settings import StoreSettings

        return cls(
            listen=tuple(conf.telemetry_listen),
            namespace=conf.telemetry_namespace,
            exporters=tuple(conf.telemetry_exporters),
            workers=conf.telemetry_workers or max(1, min(4, (os.cpu_count() or 1) // 2)),
            state_dir=StoreSettings.from_options().state_dir / "telemetry",
            clickhouse=conf.telemetry_clickhouse,
            clickhouse_ca=conf.telemetry_clickhouse_ca,
            keep=(
                conf.telemetry_keep_raw, conf.telemetry_keep_1m, conf.telemetry_keep_5m, conf.telemetry_keep_1h,
            ),
            spare=conf.telemetry_spare_disk,
            forest=conf.telemetry_forest,
        )  # fmt: skip
