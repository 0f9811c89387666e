"""The provider network of a lab: the LAN outside, to which hypervisors have a second NIC, and hosts on it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tools.lab import namespaces
from tools.lab.lan import BRIDGE, Lan
from tools.lab.openvswitch import OpenVSwitch, install_database
from tools.lab.programs import Programs
from tools.lab.vm import INTERFACE, Host

NIC = "eth1"
"""A hypervisor's interface on the provider LAN."""
EXTERNAL = "br-ex"
"""The bridge of a hypervisor that holds it. It is the administrator's, not NovaNet's."""
ACCESS, TRUNK = "br-vlan", "trunk"


class Provider(Lan):
    """The LAN that hypervisors know as ``physical_network``.

    Hosts in a VLAN are behind a switch with a port for each of them (Linux needs a module for VLANs that not every kernel
    has; Open vSwitch does not): it is started for the first of them, and takes the tags off and puts them on.
    """

    def __init__(
        self, lab: str, prefix: str, physical_network: str, mtu: int, directory: Path, programs: Programs, empty: Path
    ) -> None:
        super().__init__(lab, prefix, "pv", mtu, directory / "outside", number=1)
        self.physical_network = physical_network
        self.access: OpenVSwitch | None = None
        """The switch of the hosts in VLANs."""
        self._files, self._programs, self._empty = directory / "access", programs, empty

    def outside(
        self, name: str, addresses: Iterable[str] = (), vlan: int | None = None, mac: str | None = None,
        routes: Iterable[str] = (),
    ) -> Host:  # fmt: skip
        """A host on the LAN, or in a VLAN of it; see ``Lab.outside``."""
        host = self.add(name, mac) if vlan is None else self._add_tagged(name, vlan, mac)
        pairs = [(ip, int(length)) for ip, _, length in (address.partition("/") for address in addresses)]
        host.configure(pairs)
        namespaces.ip((f"route add {route}" for route in routes), host.namespace)
        return host

    def _add_tagged(self, name: str, vlan: int, mac: str | None) -> Host:
        switch = self.access = self.access or self._start_access()
        host = self._new(name, mac)
        port = f"a{len(self.hosts)}"
        namespaces.ip(
            [
                f"link add {port} mtu {self.mtu} netns {self.namespace} type veth"
                f" peer name {INTERFACE} address {host.mac} mtu {self.mtu} netns {host.namespace}"
            ]
        )
        namespaces.ip([f"link set {port} arp off up"], self.namespace)
        switch.vsctl("add-port", ACCESS, port, f"tag={vlan}")
        return host

    def _start_access(self) -> OpenVSwitch:
        """A switch with a cable to the LAN that carries every VLAN."""
        install_database(self._empty, self._files)
        switch = OpenVSwitch(self.lab, "the provider LAN", self._files, self._programs, self.namespace)
        namespaces.ip([f"link add {TRUNK} mtu {self.mtu} type veth peer name {TRUNK}0 mtu {self.mtu}"], self.namespace)
        namespaces.ip([f"link set {TRUNK}0 master {BRIDGE} up", f"link set {TRUNK} arp off up"], self.namespace)
        switch.start()
        switch.add_bridge(ACCESS, "--", "add-port", ACCESS, TRUNK)
        return switch
