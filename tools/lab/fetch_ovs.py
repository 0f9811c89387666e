"""Another version of Open vSwitch beside the installed one: ``python -m tools.lab.fetch_ovs SUITE DIRECTORY``.

Takes Open vSwitch and every shared library that it needs, the C library included, from another Debian suite (trixie
has 3.5, forky 4.0), unpacks them into DIRECTORY/root, and writes programs that run with those libraries to
DIRECTORY/bin. Name that in NOVANET_OVS_BINDIR. The system's own packages and apt's settings are not touched; apt checks
signatures and hashes as ever.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = ("openvswitch-switch", "openvswitch-common")
PROGRAMS = (
    "ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovs-ofctl", "ovs-appctl", "ovs-dpctl", "ovsdb-client", "ovsdb-tool",
)  # fmt: skip


class FetchError(RuntimeError):
    """What could not be fetched, and why."""


def fetch(suite: str, directory: Path, mirror: str | None = None) -> str:
    """Fill ``directory``, which appears whole or not at all; returns the version. Raises FetchError."""
    directory = directory.absolute()
    if (directory / "bin" / PROGRAMS[0]).exists():
        return _version(directory / "bin" / PROGRAMS[0])
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fetch-") as scratch:
        Path(scratch).chmod(0o755)
        apt = _Apt(Path(scratch) / "apt", suite, mirror or _mirror())
        made = Path(scratch) / "made"
        made.mkdir()
        for archive in apt.download(PACKAGES):
            _run("dpkg-deb", "-x", str(archive), str(made / "root"))
        _write_programs(made, directory)
        shutil.rmtree(directory, ignore_errors=True)
        made.rename(directory)
    return _version(directory / "bin" / PROGRAMS[0])


class _Apt:
    """apt with a state of its own: nothing counts as installed, and ``suite`` is all there is."""

    def __init__(self, state: Path, suite: str, mirror: str) -> None:
        self.cache = state / "cache"
        for part in (state / "lists" / "partial", self.cache / "archives" / "partial"):
            part.mkdir(parents=True)
        (state / "status").touch()
        (state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n")
        settings = {
            "Dir::State": state, "Dir::State::lists": state / "lists", "Dir::State::status": state / "status",
            "Dir::Cache": self.cache, "Dir::Etc::sourcelist": state / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null", "APT::Install-Recommends": "false", "Acquire::Languages": "none",
            "APT::Sandbox::User": "root", "Debug::NoLocking": "true",
        }  # fmt: skip
        self.options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]

    def download(self, packages: tuple[str, ...]) -> list[Path]:
        """Archives of the packages and of the libraries that they need, however indirectly."""
        self._get("update")
        planned = self._get("install", "--yes", "--print-uris", *packages)
        names = {line.split()[1].partition("_")[0] for line in planned.splitlines() if line.startswith("'")}
        needed = sorted(name for name in names if name in packages or (name.startswith("lib") and name != "libc-bin"))
        self._get("download", *needed, cwd=self.cache)
        return sorted(self.cache.glob("*.deb"))

    def _get(self, *arguments: str, cwd: Path | None = None) -> str:
        return _run("apt-get", *self.options, "-q", *arguments, cwd=cwd)


def _mirror() -> str:
    """The Debian mirror that this machine uses already."""
    targets = _run(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(SUITE)", "Created-By: Packages", "Origin: Debian"
    )
    for line in targets.splitlines():
        uri, suite = line.split()
        if "security" not in suite:
            return uri.rstrip("/")
    raise FetchError("apt knows no Debian mirror here: run `apt-get update` first, or name one with --mirror")


def _write_programs(made: Path, directory: Path) -> None:
    """Scripts that start the programs with the libraries beside them; ``directory`` is where ``made`` will be."""
    root = made / "root"
    loader = next(
        iter(sorted(root.glob("usr/lib*/**/ld-linux*.so.*")) + sorted(root.glob("lib*/ld-linux*.so.*"))), None
    )
    if loader is None:
        raise FetchError("the suite's C library has no dynamic loader")
    folders = sorted({path.parent for place in ("lib", "usr/lib") for path in root.glob(f"{place}/*-linux-gnu*/*.so*")})
    (made / "bin").mkdir()

    def final(path: Path) -> str:
        return str(directory / path.relative_to(made))

    for name in PROGRAMS:
        found = [path for path in root.rglob(name) if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]
        if not found:
            raise FetchError(f"{name} is not in {' or '.join(PACKAGES)}")
        missing = _run(str(loader), "--library-path", ":".join(map(str, folders)), "--list", str(found[0]))
        if "not found" in missing:
            raise FetchError(f"{name} lacks libraries: {missing}")
        start = [final(loader), "--argv0", name, "--library-path", ":".join(map(final, folders)), final(found[0])]
        script = made / "bin" / name
        script.write_text(
            f"#!/bin/sh\nexport OVS_PKGDATADIR={shlex.quote(final(root / 'usr/share/openvswitch'))}\n"
            f'exec {shlex.join(start)} "$@"\n'
        )
        script.chmod(0o755)


def _version(program: Path) -> str:
    return _run(str(program), "--version").splitlines()[0]


def _run(*command: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    except FileNotFoundError:
        raise FetchError(f"{command[0]} is missing: this needs Debian's apt and dpkg") from None
    if done.returncode:
        raise FetchError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.lab.fetch_ovs", description=__doc__.partition("\n")[0])
    parser.add_argument("suite", help="trixie (Open vSwitch 3.5), forky (4.0) or another Debian suite")
    parser.add_argument("directory", type=Path, help="where to; its bin/ is for NOVANET_OVS_BINDIR")
    parser.add_argument("--mirror", help="Debian mirror; default: the one that apt uses here")
    options = parser.parse_args()
    try:
        print(fetch(options.suite, options.directory, options.mirror), f"in {options.directory}/bin")
    except FetchError as error:
        print(f"fetch_ovs: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
