"""A network between hosts: one namespace with a Linux bridge, and a cable to each host."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tools.lab import frames, namespaces
from tools.lab.vm import INTERFACE, Host

BRIDGE = "br0"


class Lan:
    """A switch that hosts are plugged into; ``mtu`` is the largest IP packet that it carries, VLAN tags not counted.

    It is VLAN-unaware: tagged frames pass as they are. Its namespace is ``prefix`` + ``name``, a host's ``prefix`` + the
    host's name. ``number`` tells the MAC addresses of one LAN's hosts from another's.
    """

    def __init__(self, lab: str, prefix: str, name: str, mtu: int, directory: Path, number: int = 0) -> None:
        self.lab, self.prefix, self.mtu, self.directory = lab, prefix, mtu, directory
        self.namespace = f"{prefix}{name}"
        self.hosts: dict[str, Host] = {}
        """What ``add`` made, by name."""
        self._number = number
        self._cables: dict[str, str] = {}

    def build(self) -> None:
        """Make the switch, without any cable yet."""
        namespaces.ip([f"netns add {self.namespace}"])
        namespaces.sysctl(self.namespace, {"ipv6/conf/default/disable_ipv6": 1})
        namespaces.ip([f"link add {BRIDGE} type bridge mcast_snooping 0"], self.namespace)
        namespaces.ip([f"link set {BRIDGE} mtu {self.mtu} up"], self.namespace)

    def connect(self, hosts: Iterable[str], interface: str = INTERFACE) -> None:
        """A cable to each of these hosts, whose namespaces exist; their ends are called ``interface``."""
        cables = {host: f"c{len(self._cables) + n}" for n, host in enumerate(hosts)}
        namespaces.ip(
            f"link add {cable} mtu {self.mtu} netns {self.namespace} type veth"
            f" peer name {interface} mtu {self.mtu} netns {self.namespace_of(host)}"
            for host, cable in cables.items()
        )
        namespaces.ip([f"link set {cable} master {BRIDGE} up" for cable in cables.values()], self.namespace)
        self._cables |= cables

    def add(self, name: str, mac: str | None = None) -> Host:
        """A further host, connected; its interface is down until it is configured."""
        host = self._new(name, mac)
        self.connect([name])
        namespaces.ip([f"link set {INTERFACE} address {host.mac}"], host.namespace)
        return host

    def host(self, name: str, ip: str, prefixlen: int | None = None) -> Host:
        """A further host with an address: a foreign VTEP, a router, a collector."""
        host = self.add(name)
        host.configure([(ip, prefixlen or (64 if ":" in ip else 16))])
        return host

    def cut(self, host: str) -> None:
        """Pull the cable of a host."""
        namespaces.ip([f"link set {self._cables[host]} down"], self.namespace)

    def mend(self, host: str) -> None:
        """Plug it in again."""
        namespaces.ip([f"link set {self._cables[host]} up"], self.namespace)

    def sniff(self, host: str, accept: frames.Filter | None = None) -> frames.Sniffer:
        """Collect what a host sends into its cable, VLAN tags as they are on the wire."""
        return frames.Sniffer(self.namespace, self._cables[host], accept)

    def namespace_of(self, host: str) -> str:
        return f"{self.prefix}{host}"

    def _new(self, name: str, mac: str | None) -> Host:
        number = len(self.hosts) + 1
        mac = mac or f"02:6e:6e:{0xFF - self._number:02x}:{number >> 8:02x}:{number & 0xFF:02x}"
        host = Host(self.lab, name, self.namespace_of(name), mac, self.directory / name)
        namespaces.ip([f"netns add {host.namespace}"])
        self.hosts[name] = host
        return host
