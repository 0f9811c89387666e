"""The agent's namespace: without a name, it is the property of one thread and ends with the process.

One end of a veth pair is in it, the other is the agent's port on the integration bridge. It has no neighbours to look for (ARP is
off, and everything goes to one MAC address that is its own) and no addresses but those of ``topology.health``.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from pathlib import Path

from topology.health import AGENT_MAC, AGENT_PORT

CLONE_NEWNET = 0x40000000
INSIDE = "health0"
MTU = 1280
"""Bytes: what every network carries, IPv6 included (RFC 8200, section 5)."""
_HOP, _HOP6 = "100.64.2.1", "fd4e:4e:0:3::1"
"""Next hops that nobody has: all members are behind one neighbour, so that the kernel's table of those does not fill up."""
_SETUP = (
    "link set lo up",
    f"link set {INSIDE} address {AGENT_MAC} mtu {MTU} arp off up",
    "route replace local 100.64.0.0/24 dev lo",
    f"route replace 100.64.1.1/32 via {_HOP} dev {INSIDE} onlink src 100.64.0.0",
    f"route replace 10.0.0.0/8 via {_HOP} dev {INSIDE} onlink",
    "addr replace fd4e:4e:0:1::1/128 dev lo nodad",
    f"-6 route replace {_HOP6}/128 dev {INSIDE}",
    f"-6 route replace fd4e:4e:0:2::/64 via {_HOP6} dev {INSIDE} src fd4e:4e:0:1::1",
)
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17
_SETTINGS = {
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/default/disable_ipv6": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/router_solicitations": "0",
    "ipv6/conf/default/addr_gen_mode": "1",
    "ipv4/tcp_syn_retries": "3",
}
_LIBC = ctypes.CDLL(None, use_errno=True)


class NamespaceError(Exception):
    """The kernel refused; the text says what, and what to do."""


def enter_new() -> None:
    """Give the calling thread a network namespace of its own. Raises NamespaceError."""
    if _LIBC.unshare(CLONE_NEWNET):
        reason = os.strerror(ctypes.get_errno())
        raise NamespaceError(
            f"no network namespace can be made: {reason}; the agent needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN)"
        )
    for name, value in _SETTINGS.items():
        Path("/proc/sys/net", name).write_text(value)  # which is of the thread that writes


def connect() -> None:
    """Make the pair, its other end in the process's namespace; an older one that is left there goes. Raises NamespaceError."""
    outside = f"/proc/{os.getpid()}/ns/net"
    _run(["nsenter", f"--net={outside}", "ip", "link", "delete", AGENT_PORT], check=False)
    _run(["ip", "link", "delete", INSIDE], check=False)
    _ip(
        f"link add {INSIDE} type veth peer name {AGENT_PORT} netns {os.getpid()}",
        *_SETUP,
    )
    _no_checksum_offload(INSIDE)
    _run(["nsenter", f"--net={outside}", "ip", "link", "set", AGENT_PORT, "arp", "off", "mtu", str(MTU), "up"])


def disconnect() -> None:
    """Take the pair away."""
    _run(["ip", "link", "delete", INSIDE], check=False)


def _ip(*lines: str) -> None:
    for line in lines:
        _run(["ip", *line.split()])


def _run(command: list[str], check: bool = True) -> None:
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    except FileNotFoundError:
        raise NamespaceError(f"{command[0]} is missing: install iproute2 and util-linux") from None
    if check and done.returncode:
        raise NamespaceError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")


def _no_checksum_offload(interface: str) -> None:
    """Have checksums computed at once: Open vSwitch's userspace datapath passes on what was left to a network card."""
    command = array.array("B", struct.pack("II", _ETHTOOL_STXCSUM, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack("16sP", interface.encode(), command.buffer_info()[0]))
