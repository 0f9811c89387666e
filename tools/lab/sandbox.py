"""A host's own files: /etc, /run and /var/lib that programs in it may write, while those of this machine stay as they are.

Each program gets a mount, a UTS and a process namespace of its own (unshare(1)); the directories are the host's, and
what one program writes (resolv.conf, leases) the next one reads. When the program ends, so does everything it started,
whatever it did to detach itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

OWN = ("resolv.conf", "hosts", "hostname", "dhcpcd.conf", "machine-id", "resolvconf", "dnsmasq.conf")
"""What a host does not take over from this machine's /etc."""
STATE = ("dhcp", "dhcpcd", "misc")
"""Directories below /var/lib that programs expect."""

# /etc consists of links into a read-only view of the real one, so that single files can be replaced and renamed.
_ENTER = """set -e
mount --bind /etc "$1/host-etc"
mount -o remount,bind,ro "$1/host-etc"
mount --bind "$1/etc" /etc
mount --bind "$1/run" /run
mount --bind "$1/lib" /var/lib
mount -t sysfs sysfs /sys
hostname "$2"
shift 2
exec "$@"
"""


def prepare(directory: Path, hostname: str) -> None:
    """Make the host's own files, unless they are there."""
    etc = directory / "etc"
    if etc.exists():
        return
    for path in (etc, directory / "host-etc", directory / "run", *(directory / "lib" / name for name in STATE)):
        path.mkdir(parents=True)
    for entry in Path("/etc").iterdir():
        if entry.name not in OWN:
            (etc / entry.name).symlink_to(directory / "host-etc" / entry.name)
    (etc / "resolv.conf").touch()
    (etc / "hostname").write_text(f"{hostname}\n")
    (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")


def command(directory: Path, hostname: str, argv: Sequence[str]) -> list[str]:
    """The command that runs ``argv`` with the files that ``prepare`` made."""
    unshare = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    return [*unshare, "sh", "-c", _ENTER, "sh", str(directory), hostname, *argv]
