"""Hosts: network namespaces with one interface. A VM is a host behind a hypervisor."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tools.lab import clients, dhcp, frames, namespaces, processes, sandbox
from tools.lab.ping import BackgroundPing, PingResult, parse

Addresses = Iterable[tuple[str, int]]
"""(IP address, prefix length)"""
INTERFACE = "eth0"


class Host:
    """A namespace with ``eth0``. Commands are lists, or strings that are split as a shell would.

    With ``private`` they have an /etc (a resolv.conf above all), /run and /var/lib that are this host's, kept below
    ``directory``, and its host name.
    """

    interface_name = INTERFACE

    def __init__(self, lab: str, name: str, namespace: str, mac: str, directory: Path) -> None:
        self.lab, self.name, self.namespace, self.mac, self.directory = lab, name, namespace, mac, directory

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def configure(self, addresses: Addresses = (), gateways: Iterable[str] = ()) -> None:
        """Bring ``eth0`` up with these addresses and default routes; checksums are computed by the host itself.

        The userspace datapath passes packets on without finishing checksums that were left to a network card. Router
        advertisements are not listened to (``accept_ra`` changes that), whatever else stands in the network.
        """
        self.sysctl({f"ipv6/conf/{INTERFACE}/accept_ra": 0})
        processes.run(["ethtool", "-K", INTERFACE, "tx", "off"], lab=self.lab, namespace=self.namespace)
        lines = ["link set lo up", f"link set {INTERFACE} up"]
        lines += [f"addr add {ip}/{length} dev {INTERFACE}{' nodad' if ':' in ip else ''}" for ip, length in addresses]
        lines += [f"route add default via {ip}" for ip in gateways]
        namespaces.ip(lines, self.namespace)

    def exec(
        self, command: str | Sequence[str], *, check: bool = True, timeout: float = 60.0, input: str | None = None,
        private: bool = False,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command to its end. Raises LabError when it fails (unless ``check`` is False) or takes too long."""
        argv = self._argv(command, private)
        return processes.run(argv, lab=self.lab, namespace=self.namespace, check=check, timeout=timeout, input=input)

    def popen(self, command: str | Sequence[str], *, private: bool = False, **options: Any) -> subprocess.Popen[Any]:
        """Start a command; ``stdin``, ``stdout``, ``stderr``, ``env`` and ``text`` are as in ``subprocess.Popen``."""
        return processes.spawn(self._argv(command, private), lab=self.lab, namespace=self.namespace, **options)

    def sysctl(self, settings: dict[str, object]) -> None:
        """Set network parameters: ``{"ipv4/ip_forward": 1}``."""
        namespaces.sysctl(self.namespace, settings)

    # --- packets -----------------------------------------------------------------------------------------------

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

    def traceroute(self, destination: str, *options: str) -> list[str]:
        """The hops to a destination, ``*`` for one that did not answer (and what it said in words: ``10.0.0.1 !N``)."""
        argv = ["traceroute", "-n", "-q", "1", "-w", "1", "-N", "1", *options, destination]
        return clients.hops(self.exec(argv, check=False).stdout)

    def send_frame(self, *ethernet: bytes) -> None:
        """Send Ethernet frames as they are, from the destination address to the end of the payload."""
        frames.send(self.namespace, INTERFACE, *ethernet)

    def sniff(self, accept: frames.Filter | None = None, outgoing: bool = False) -> frames.Sniffer:
        """Collect received frames, from now until ``stop()``."""
        return frames.Sniffer(self.namespace, INTERFACE, accept, outgoing)

    # --- a host that configures itself -----------------------------------------------------------------------------

    def accept_ra(self) -> None:
        """Listen to router advertisements from now on, solicit one, and form addresses as they say (SLAAC)."""
        wanted = {"accept_ra": 1, "router_solicitation_delay": 0, "router_solicitation_interval": 1}
        self.sysctl({f"ipv6/conf/{INTERFACE}/{name}": value for name, value in wanted.items()})
        # The kernel solicits when the interface gets a link-local address, and only then (RFC 4861, section 6.3.7).
        own = list(self.addresses("link"))
        namespaces.ip(
            [f"addr {verb} {address} dev {INTERFACE} scope link" for address in own for verb in ("del", "add")],
            self.namespace,
        )

    def wait_link_local(self) -> None:
        """Wait until it has a link-local address that nobody else has."""
        processes.until(
            lambda: any(not address.tentative for address in self.addresses("link").values()),
            f"link-local address of {self.name}", interval=0.05,
        )  # fmt: skip

    def dhclient(self, version: int = 4, *options: str, timeout: float = 30.0) -> dhcp.Lease:
        """Run ISC's client, and return what it was given; it goes on running. ``-S`` asks for no address (version 6)."""
        self._prepare()
        return dhcp.dhclient(self, version, options, timeout)

    def udhcpc(self, *options: str, timeout: float = 30.0) -> dhcp.Lease:
        """Run BusyBox's client, and return what it was given; it goes on running."""
        self._prepare()
        return dhcp.udhcpc(self, options, timeout)

    def dhcpcd(
        self, version: int | None = None, *options: str, wait: Sequence[str] | None = None, timeout: float = 30.0
    ) -> dhcp.Lease:
        """Run dhcpcd, for both IP versions unless told, and return what it was given; it goes on running.

        It waits for DHCP's answers, or for one of the events ``wait`` (``("ROUTERADVERT",)`` where there is SLAAC alone).
        """
        self._prepare()
        return dhcp.dhcpcd(self, version, wait, options, timeout)

    def dig(self, name: str, type: str = "A", server: str | None = None, *options: str) -> clients.Answers:
        """Ask a DNS server, one of resolv.conf unless told. Raises LabError when none answers."""
        argv = ["dig", "+tries=2", "+time=2", "+noall", "+comments", "+answer", *options]
        done = self.exec([*argv, *([f"@{server}"] if server else []), name, type], private=True, check=False)
        return clients.answers(done.stdout + done.stderr)

    def rdisc6(self, timeout: float = 2.0) -> list[clients.RouterAdvertisement]:
        """Solicit router advertisements and return those that come within ``timeout`` seconds."""
        self.wait_link_local()
        argv = ["rdisc6", "-m", "-r", "1", "-w", str(round(timeout * 1000)), INTERFACE]
        return clients.router_advertisements(self.exec(argv, check=False).stdout)

    def resolv_conf(self) -> str:
        """The host's own resolv.conf, as its clients have left it."""
        self._prepare()
        return (self.directory / "etc" / "resolv.conf").read_text()

    def addresses(self, scope: str = "global") -> dict[str, clients.Address]:
        """What ``eth0`` has, by ``address/length``; ``scope`` is ``global`` or ``link``."""
        return clients.addresses(self.exec(["ip", "-j", "address", "show", "dev", INTERFACE]).stdout, scope)

    def routes(self) -> list[clients.Route]:
        """Its routes of both IP versions: ``Route("default", "10.0.0.1")``."""
        return clients.routes(*(self.exec(["ip", version, "-j", "route"]).stdout for version in ("-4", "-6")))

    def mtu(self) -> int:
        """The MTU of ``eth0``."""
        shown = self.exec(["ip", "-o", "link", "show", "dev", INTERFACE]).stdout.split()
        return int(shown[shown.index("mtu") + 1])

    def path_mtu(self, destination: str) -> int | None:
        """The MTU that it has learned for a destination (RFC 1191, RFC 8201); None when it has not."""
        words = self.exec(["ip", "route", "get", destination]).stdout.split()
        return int(words[words.index("mtu") + 1]) if "mtu" in words else None

    # --- inside ------------------------------------------------------------------------------------------------

    def _argv(self, command: str | Sequence[str], private: bool) -> list[str]:
        argv = shlex.split(command) if isinstance(command, str) else list(command)
        if not private:
            return argv
        self._prepare()
        return sandbox.command(self.directory, self.name, argv)

    def _prepare(self) -> None:
        sandbox.prepare(self.directory, self.name)


class VM(Host):
    """A host whose interface is a hypervisor's OVS port ``interface`` with ``external_ids:iface-id`` = ``port_id``."""

    def __init__(
        self, lab: str, name: str, namespace: str, mac: str, directory: Path, port_id: str, interface: str, hypervisor: str
    ) -> None:  # fmt: skip
        super().__init__(lab, name, namespace, mac, directory)
        self.port_id, self.interface, self.hypervisor = port_id, interface, hypervisor
