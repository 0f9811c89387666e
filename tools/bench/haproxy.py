"""HAProxy, the peer: a middle box in a VM of its own, with a port on the overlay as any other, that relays TCP connections to members.

It is set up to do well: a thread for each processor, splicing where there is enough to splice, the acknowledgement that opens a connection
together with the request that follows it (``tcp-smart-connect``, ``tcp-smart-accept``), all ports of the box for its own connections, room for
all connections, and neither logs nor health checks.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tools.bench import debian
from tools.lab import processes
from tools.lab.errors import LabError
from tools.lab.vm import VM

PACKAGES = ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1")
PROGRAM = "usr/sbin/haproxy"
CONNECTIONS = 4000
"""At a time; descriptors for them have to be within the limit of the machine."""
SYSCTL = {
    "ipv4/ip_local_port_range": "1024 65535",
    "ipv4/tcp_max_syn_backlog": 16384,
    "core/somaxconn": 16384,
}  # fmt: skip
CONFIGURATION = """
global
    maxconn {connections}
    nbthread {threads}
    stats socket {socket} level admin
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option splice-auto
    option tcp-smart-accept
    option tcp-smart-connect
frontend vip
    bind :{port}
    maxconn {connections}
    default_backend pool
backend pool
    balance roundrobin
{servers}
"""


def start(vm: VM, directory: Path, port: int, members: Sequence[str]) -> subprocess.Popen[str]:
    """Relay what comes to a port of the VM to these members (``address:port``), in turn; it ends with the lab.

    Raises LabError when HAProxy cannot be had, or ends.
    """
    root = debian.unpacked("HAProxy", PACKAGES, PROGRAM)
    vm.sysctl(SYSCTL)
    socket, path = directory / f"{vm.name}.sock", directory / f"{vm.name}.cfg"
    servers = "\n".join(f"    server member{number} {member}" for number, member in enumerate(members, start=1))
    threads = len(os.sched_getaffinity(0))
    path.write_text(
        CONFIGURATION.format(connections=CONNECTIONS, threads=threads, port=port, servers=servers, socket=socket)
    )
    libraries = ":".join(str(found) for found in (root / "usr/lib").glob("*-linux-gnu"))
    box: subprocess.Popen[str] = vm.popen(
        [str(root / PROGRAM), "-db", "-f", str(path)],
        env={"LD_LIBRARY_PATH": libraries}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def ready() -> bool:
        if box.poll() is not None and box.stderr is not None:
            raise LabError(f"HAProxy ended ({box.returncode}): {box.stderr.read()}")
        return socket.exists()

    processes.until(ready, "HAProxy listens")
    return box
