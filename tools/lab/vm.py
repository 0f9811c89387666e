"""Hosts: network namespaces with one interface. A VM is a host behind a hypervisor."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

from tools.lab import frames, namespaces, processes
from tools.lab.ping import BackgroundPing, PingResult, parse

Addresses = Iterable[tuple[str, int]]
"""(IP address, prefix length)"""
INTERFACE = "eth0"


class Host:
    """A namespace with ``eth0``. Commands are lists, or strings that are split as a shell would."""

    def __init__(self, lab: str, name: str, namespace: str, mac: str) -> None:
        self.lab, self.name, self.namespace, self.mac = lab, name, namespace, mac

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def configure(self, addresses: Addresses = (), gateways: Iterable[str] = ()) -> None:
        """Bring ``eth0`` up with these addresses and default routes; checksums are computed by the host itself.

        The userspace datapath passes packets on without finishing checksums that were left to a network card.
        """
        processes.run(["ethtool", "-K", INTERFACE, "tx", "off"], lab=self.lab, namespace=self.namespace)
        lines = ["link set lo up", f"link set {INTERFACE} up"]
        lines += [f"addr add {ip}/{length} dev {INTERFACE}{' nodad' if ':' in ip else ''}" for ip, length in addresses]
        lines += [f"route add default via {ip}" for ip in gateways]
        namespaces.ip(lines, self.namespace)

    def exec(
        self, command: str | Sequence[str], *, check: bool = True, timeout: float = 60.0, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Raises LabError when it fails (unless ``check`` is False) or takes too long."""
        return processes.run(
            _words(command), lab=self.lab, namespace=self.namespace, check=check, timeout=timeout, input=input
        )

    def popen(self, command: str | Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command; ``stdin``, ``stdout``, ``stderr``, ``env`` and ``text`` are as in ``subprocess.Popen``."""
        return processes.spawn(_words(command), lab=self.lab, namespace=self.namespace, **options)

    def ping(
        self,
        destination: str,
        count: int = 3,
        interval: float = 0.2,
        size: int | None = None,
        df: bool = False,
        timeout: float = 1.0,
    ) -> PingResult:
        """Ping ``count`` times every ``interval`` seconds and wait ``timeout`` seconds for the last reply.

        ``size`` is that of the ICMP payload in bytes; ``df`` forbids fragmentation, here and on the way.
        """
        command = ["ping", "-n", "-c", str(count), "-i", str(interval), "-W", str(timeout)]
        command += ["-s", str(size)] if size is not None else []
        command += ["-M", "do"] if df else []
        done = self.exec([*command, destination], check=False, timeout=60 + count * (interval + timeout))
        return parse(done.stdout + done.stderr)

    def background_ping(self, destination: str, interval: float = 0.01) -> BackgroundPing:
        """Ping every ``interval`` seconds until ``stop()``, which returns the exact count of what was lost."""
        return BackgroundPing(self.namespace, destination, interval)

    def send_frame(self, *ethernet: bytes) -> None:
        """Send Ethernet frames as they are, from the destination address to the end of the payload."""
        frames.send(self.namespace, INTERFACE, *ethernet)

    def sniff(self, accept: frames.Filter | None = None, outgoing: bool = False) -> frames.Sniffer:
        """Collect received frames, from now until ``stop()``."""
        return frames.Sniffer(self.namespace, INTERFACE, accept, outgoing)


class VM(Host):
    """A host whose interface is a hypervisor's OVS port ``interface`` with ``external_ids:iface-id`` = ``port_id``."""

    def __init__(
        self, lab: str, name: str, namespace: str, mac: str, port_id: str, interface: str, hypervisor: str
    ) -> None:
        super().__init__(lab, name, namespace, mac)
        self.port_id, self.interface, self.hypervisor = port_id, interface, hypervisor


def _words(command: str | Sequence[str]) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else list(command)
