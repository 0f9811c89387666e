"""Who may export: UDP cannot be authenticated, so by address. Loopback, and what a file says."""

from __future__ import annotations

import logging
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

LOG = logging.getLogger(__name__)
_LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_REMEMBERED = 10_000


class Allowed:
    """Addresses and prefixes from a file, one a line; ``read`` again when it has changed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._networks: list[IPv4Network | IPv6Network] = []
        self._known: dict[str, bool] = {}
        self.read()

    def read(self) -> None:
        """Take what the file says now; what is no address in it is left out, and said."""
        self._known.clear()
        self._networks = list(_LOOPBACK)
        lines = self._path.read_text().split() if self._path is not None and self._path.exists() else []
        for line in lines:
            try:
                self._networks.append(ip_network(line, strict=False))
            except ValueError as problem:
                LOG.error("%s: %s", self._path, problem)

    def __contains__(self, sender: str) -> bool:
        found = self._known.get(sender)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            address = ip_address(sender)
            found = self._known[sender] = any(address in network for network in self._networks)
        return found
