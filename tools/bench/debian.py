"""Programs of peers, from Debian's packages: downloaded once and unpacked, never installed, so that no service starts."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tools.lab.errors import LabError

CACHE_VARIABLE = "NOVANET_BENCH_CACHE"


def needed(package: str) -> tuple[str, ...]:
    """A package and those that it needs and that are not installed."""
    try:
        told = subprocess.run(
            ["apt-get", "--simulate", "--no-install-recommends", "install", package], capture_output=True, text=True
        ).stdout
    except FileNotFoundError:
        told = ""
    return tuple(dict.fromkeys([package, *re.findall(r"^Inst (\S+)", told, re.MULTILINE)]))


def libraries(root: Path) -> dict[str, str]:
    """The environment in which unpacked programs find unpacked libraries."""
    return {"LD_LIBRARY_PATH": ":".join(str(found) for found in (root / "usr/lib").glob("*-linux-gnu"))}


def unpacked(peer: str, packages: Sequence[str], program: str) -> Path:
    """Directory of unpacked packages, in which ``program`` is; they are kept below ``$NOVANET_BENCH_CACHE``.

    Raises LabError when they cannot be had.
    """
    cache = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "novanet") / peer.lower()
    root = cache / "root"
    if (root / program).exists():
        return root
    cache.mkdir(parents=True, exist_ok=True)
    try:
        if not all(list(cache.glob(f"{package}_*.deb")) for package in packages):
            _run(["apt-get", "download", *packages], cache)
        for package in packages:
            _run(["dpkg-deb", "-x", _newest(cache, package), str(root)], cache)
    except FileNotFoundError as error:
        raise LabError(
            f"{peer}, the peer of this benchmark, cannot be unpacked: {error.filename} is missing (Debian or Ubuntu needed)"
        ) from None
    except subprocess.CalledProcessError as error:
        raise LabError(
            f"{peer}, the peer of this benchmark, cannot be had: `{' '.join(error.cmd)}` failed: {error.stderr.strip()}\n"
            f"run `apt-get update` first, or put the .deb files of {', '.join(packages)} into {cache}"
        ) from None
    return root


def _run(argv: list[str], directory: Path) -> None:
    subprocess.run(argv, cwd=directory, check=True, capture_output=True, text=True)


def _newest(cache: Path, package: str) -> str:
    return str(max(cache.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime))
