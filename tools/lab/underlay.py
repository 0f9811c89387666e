"""The network between hypervisors: one namespace with a Linux bridge, and a cable to each host."""

from __future__ import annotations

from collections.abc import Iterable

from tools.lab import namespaces
from tools.lab.vm import INTERFACE, Host

BRIDGE = "br0"


class Underlay:
    """A switch that everything is plugged into; ``mtu`` is the largest IP packet that it carries."""

    def __init__(self, lab: str, prefix: str, mtu: int) -> None:
        self.lab, self.prefix, self.mtu = lab, prefix, mtu
        self.namespace = f"{prefix}ul"
        self.hosts: dict[str, Host] = {}
        """What ``host`` added, by IP address."""
        self._cables: dict[str, str] = {}

    def build(self, hosts: Iterable[str]) -> None:
        """Make the bridge, and a namespace with a cable for each host name, its end ``eth0``."""
        cables = {host: f"c{len(self._cables) + n}" for n, host in enumerate(hosts)}
        namespaces.ip([f"netns add {name}" for name in [self.namespace, *map(self.namespace_of, cables)]])
        namespaces.sysctl(self.namespace, {"ipv6/conf/default/disable_ipv6": 1})
        namespaces.ip(
            [
                f"link add {BRIDGE} netns {self.namespace} type bridge mcast_snooping 0",
                *(self._cable(host, cable) for host, cable in cables.items()),
            ]
        )
        self._plug(cables)
        namespaces.ip([f"link set {BRIDGE} mtu {self.mtu} up"], self.namespace)

    def host(self, name: str, ip: str, prefixlen: int | None = None) -> Host:
        """A further host beside the hypervisors: a foreign VTEP, a router, a collector."""
        cable = f"c{len(self._cables)}"
        mac = f"02:6e:6e:ff:{len(self._cables) >> 8:02x}:{len(self._cables) & 0xFF:02x}"
        host = Host(self.lab, name, self.namespace_of(name), mac)
        namespaces.ip([f"netns add {host.namespace}", self._cable(name, cable)])
        namespaces.ip([f"link set {INTERFACE} address {mac}"], host.namespace)
        self._plug({name: cable})
        host.configure([(ip, prefixlen or (64 if ":" in ip else 16))])
        self.hosts[ip] = host
        return host

    def cut(self, host: str) -> None:
        """Pull the cable of a host."""
        namespaces.ip([f"link set {self._cables[host]} down"], self.namespace)

    def mend(self, host: str) -> None:
        """Plug it in again."""
        namespaces.ip([f"link set {self._cables[host]} up"], self.namespace)

    def namespace_of(self, host: str) -> str:
        return f"{self.prefix}{host}"

    def _cable(self, host: str, cable: str) -> str:
        ends = (
            f"{cable} mtu {self.mtu} netns {self.namespace}",
            f"{INTERFACE} mtu {self.mtu} netns {self.namespace_of(host)}",
        )
        return f"link add {ends[0]} type veth peer name {ends[1]}"

    def _plug(self, cables: dict[str, str]) -> None:
        namespaces.ip([f"link set {cable} master {BRIDGE} up" for cable in cables.values()], self.namespace)
        self._cables |= cables
