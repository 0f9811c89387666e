"""Where the intent store is, and where its programs are."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

EMBEDDED = "embedded"
_USUAL = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"


class StoreError(Exception):
    """The intent store cannot work; the text says why and what to do."""


def default_state_dir() -> Path:
    """/var/lib/novanet for root, else below $XDG_STATE_HOME (XDG Base Directory Specification)."""
    if os.geteuid() == 0:
        return Path("/var/lib/novanet")
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "novanet"


@dataclass(frozen=True)
class StoreSettings:
    """What an operator may say about the store."""

    store: str = EMBEDDED
    """``embedded``, or OVSDB remotes separated by commas."""
    state_dir: Path = field(default_factory=default_state_dir)
    ovs_bindir: str = ""
    timeout: float = 15.0
    """Seconds that a write waits for the server."""

    @classmethod
    def from_options(cls) -> StoreSettings:
        """As configured (novanet_apps/options.py)."""
        import novanet_apps.options  # noqa: F401 (registers them)
        from novanet_apps.compat import CONF

        state_dir = Path(CONF.state_dir) if CONF.state_dir else default_state_dir()
        return cls(CONF.store, state_dir, CONF.ovs_bindir, CONF.store_timeout)

    def program(self, name: str) -> str:
        """The path of a program of Open vSwitch. Raises StoreError when it is not there."""
        chosen = self.ovs_bindir or os.environ.get("NOVANET_OVS_BINDIR", "")
        where = chosen or os.pathsep.join((os.environ.get("PATH", ""), _USUAL))
        found = shutil.which(name, path=where)
        if found is None:
            raise StoreError(
                f"{name} was not found in {where}: install Open vSwitch (Debian and Ubuntu: apt install"
                " openvswitch-switch), or set ovs_bindir to the directory it is in, or store to a server that runs"
            )
        return found
