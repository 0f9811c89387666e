"""Where the Open vSwitch programs of a lab are: the installed ones, or another version's directory of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cached_property
from pathlib import Path

from tools.lab.errors import LabError

BINDIR_VARIABLE = "NOVANET_OVS_BINDIR"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHARE = Path("share/openvswitch/vswitch.ovsschema")


class Programs:
    """The programs in ``bindir``; when None, in the directory that NOVANET_OVS_BINDIR names, else the installed ones."""

    def __init__(self, bindir: Path | str | None = None) -> None:
        chosen = bindir or os.environ.get(BINDIR_VARIABLE)
        self.bindir = Path(chosen).absolute() if chosen else None

    def path(self, name: str) -> str:
        """Path of a program; raises LabError when it is missing."""
        search = str(self.bindir) if self.bindir else f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
        if found := shutil.which(name, path=search):
            return found
        where = (
            f"in {self.bindir} ({BINDIR_VARIABLE})" if self.bindir else "on this machine: install openvswitch-switch"
        )
        raise LabError(f"there is no {name} {where}")

    @cached_property
    def version(self) -> str:
        """The version of ovs-vswitchd, such as ``3.1.0``."""
        said = subprocess.run(
            [self.path("ovs-vswitchd"), "--version"], capture_output=True, text=True, check=True
        ).stdout
        return said.splitlines()[0].split()[-1]

    def schema(self) -> Path:
        """The database schema that goes with the programs; raises LabError when it is missing."""
        near = (
            [self.bindir.parent, self.bindir.parent / "root" / "usr"]
            if self.bindir
            else [Path("/usr/local"), Path("/usr")]
        )
        for place in near:
            if (place / SHARE).exists():
                return place / SHARE
        raise LabError(f"there is no {SHARE} below {' or '.join(map(str, near))}: install openvswitch-common")
