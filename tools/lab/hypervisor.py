"""A hypervisor: a namespace with an Open vSwitch of its own, ``br-phy`` on the underlay, and VMs.

``br-phy`` holds ``eth0`` and the tunnel endpoint's address, and ``br-ex`` the NIC on the provider LAN where there is one,
as a hypervisor's administrator sets them up. ``br-int`` is NovaNet's to make.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import Any

from tools.lab import namespaces
from tools.lab.errors import LabError
from tools.lab.lan import Lan
from tools.lab.openvswitch import INTEGRATION, OpenVSwitch
from tools.lab.programs import Programs
from tools.lab.provider import EXTERNAL, NIC, Provider
from tools.lab.vm import INTERFACE, VM, Addresses

PHYSICAL = "br-phy"
CONTROLLER_SOCKET = "controller.sock"


class Hypervisor(OpenVSwitch):
    """Made by ``Lab``. ``name`` is its ``external_ids:system-id`` too; ``tunnel_ip`` its address in the underlay."""

    def __init__(
        self, lab: str, number: int, directory: Path, programs: Programs, underlay: Lan, tunnel_ip: str,
        provider: Provider | None,
    ) -> None:  # fmt: skip
        name = f"hv{number}"
        super().__init__(lab, name, directory / name, programs, underlay.namespace_of(name))
        self.tunnel_ip = tunnel_ip
        self.mac = f"02:6e:6e:00:{number >> 8:02x}:{number & 0xFF:02x}"
        self.external_mac = f"02:6e:6e:01:{number >> 8:02x}:{number & 0xFF:02x}"
        """MAC address of ``br-ex``."""
        self.provider = provider
        """The LAN that its second NIC is on; None when it has no second NIC."""
        self.vms: dict[str, VM] = {}
        self.neighbours: dict[str, str] = {}
        """IP -> MAC of the other tunnel endpoints, told to OVS whenever vswitchd starts."""
        self._underlay, self._hosts = underlay, directory / "vms"
        self._lans: dict[str, Lan] = {INTERFACE: underlay} | ({NIC: provider} if provider else {})
        self._ports: dict[str, str] = {}
        self._groups: set[str] = set()
        self._numbers = count(1)
        self._dead = False

    def __repr__(self) -> str:
        return f"<Hypervisor {self.name} {self.tunnel_ip}>"

    @property
    def bridge_mappings(self) -> list[dict[str, str]]:
        """What it is wired to, as REST has it."""
        return [{"physical_network": self.provider.physical_network, "bridge": EXTERNAL}] if self.provider else []

    # --- VMs -------------------------------------------------------------------------------------------------

    def plug(
        self,
        port_id: str,
        mac: str,
        ips: Addresses = (),
        mtu: int = 1400,
        name: str | None = None,
        gateways: Iterable[str] = (),
        bridge: str = INTEGRATION,
    ) -> VM:
        """Start a VM and plug it in, as a VM platform does; returns once OVSDB has its interface."""
        vm = self.prepare(port_id, mac, ips, mtu, name, gateways)
        self.attach(vm, bridge)
        return vm

    def prepare(
        self,
        port_id: str,
        mac: str,
        ips: Addresses = (),
        mtu: int = 1400,
        name: str | None = None,
        gateways: Iterable[str] = (),
    ) -> VM:
        """Start a VM without plugging it in: its tap device exists, OVS does not know of it yet (see ``attach``)."""
        interface = f"vm{next(self._numbers)}"
        name = name or f"{self.name}-{interface}"
        namespace = self._underlay.namespace_of(name)
        vm = VM(self.lab, name, namespace, mac, self._hosts / name, port_id, interface, self.name)
        ends = (
            f"{interface} mtu {mtu} netns {self.namespace}",
            f"{INTERFACE} address {mac} mtu {mtu} netns {vm.namespace}",
        )
        namespaces.ip([f"netns add {vm.namespace}", f"link add {ends[0]} type veth peer name {ends[1]}"])
        namespaces.ip([f"link set {interface} arp off up"], self.namespace)
        vm.configure(ips, gateways)
        self.vms[port_id] = vm
        return vm

    def attach(self, vm: VM, bridge: str = INTEGRATION) -> None:
        """Add a prepared VM's interface to the bridge, in one OVSDB transaction."""
        ids = {"iface-id": vm.port_id, "attached-mac": vm.mac, "iface-status": "active", "vm-id": vm.name}
        self._add_ports(bridge, {vm.port_id: _interface(vm.interface, ids)})

    def plug_dummy(self, port_ids: Iterable[str], bridge: str = INTEGRATION, batch: int = 500) -> None:
        """Plug ports that no VM is behind, for scale: OVS's ``dummy`` devices. ``batch`` of them a transaction."""
        waiting = list(port_ids)
        for start in range(0, len(waiting), batch):
            some = {
                port_id: _interface(f"d{next(self._numbers)}", {"iface-id": port_id}, "dummy")
                for port_id in waiting[start : start + batch]
            }
            self._add_ports(bridge, some)

    def unplug(self, *port_ids: str, bridge: str = INTEGRATION) -> None:
        """Take ports away, and the VMs behind them."""
        uuids = [["uuid", self._ports.pop(port_id)] for port_id in port_ids if port_id in self._ports]
        self.transact(_mutate_ports(bridge, "delete", ["set", uuids]))
        vms = [self.vms.pop(port_id) for port_id in port_ids if port_id in self.vms]
        namespaces.delete(vm.namespace for vm in vms)

    # --- what can happen to a hypervisor -----------------------------------------------------------------------

    def start(self) -> None:
        """Start its daemons, for the first time or after ``stop`` or ``kill``. The database keeps what it had."""
        super().start()
        if self._dead:
            self._dead = False
            for interface in self._lans:
                self.link_up(interface)

    def kill(self) -> None:
        """Take the host away at once, as a power cut does: its cables are dead, and then its daemons. VMs stay, cut off."""
        self._dead = True
        for interface in self._lans:
            self.link_down(interface)
        self.stop()

    def start_vswitchd(self) -> None:
        """Start ovs-vswitchd, wait until it has built what the database says, and set up the tunnel endpoint."""
        super().start_vswitchd()
        self._address()
        self.prime(self.neighbours)
        for group in self._groups:
            self.join_group(group)

    def link_down(self, interface: str = INTERFACE) -> None:
        """Cut the hypervisor off the underlay, or off the provider LAN (``eth1``)."""
        self._lans[interface].cut(self.name)

    def link_up(self, interface: str = INTERFACE) -> None:
        self._lans[interface].mend(self.name)

    def prime(self, neighbours: dict[str, str]) -> None:
        """Tell OVS other endpoints' MAC addresses, so that the first tunnelled packet need not wait for ARP."""
        self.neighbours |= neighbours
        for ip, mac in neighbours.items():
            self.appctl("tnl/neigh/set", PHYSICAL, ip, mac)

    def join_group(self, group: str) -> None:
        """Let tunnels send to a multicast group of the underlay and receive from it, as an administrator has to.

        The userspace datapath knows no multicast: it resolves a route's next hop and accepts tunnel packets to its own
        address. So the group gets a next hop that stands for its MAC address (RFC 1112, RFC 2464), and br-phy turns what
        comes for the group into what comes for this endpoint.
        """
        self._groups.add(group)
        address = ip_address(group)
        if address.version == 6:
            hop, mac = "fd50::ffff", b"\x33\x33" + address.packed[-4:]
            fields, target = f"udp6,ipv6_dst={group}", "ipv6_dst"
        else:
            hop, mac = "192.168.255.254", b"\x01\x00\x5e" + bytes([address.packed[1] & 0x7F]) + address.packed[2:]
            fields, target = f"udp,nw_dst={group}", "ip_dst"
        namespaces.ip([f"route replace {group} via {hop} dev {PHYSICAL}"], self.namespace)
        self.appctl("tnl/neigh/set", PHYSICAL, hop, mac.hex(":"))
        actions = f"set_field:{self.mac}->eth_dst,set_field:{self.tunnel_ip}->{target},LOCAL"
        self.ofctl("add-flow", PHYSICAL, f"priority=10,in_port={INTERFACE},{fields},actions={actions}")

    def listen_for(self, controller: Path) -> None:
        """Let OVS reach a controller's Unix socket; OVS connects to sockets below its own run directory only."""
        link = self.directory / CONTROLLER_SOCKET
        link.unlink(missing_ok=True)
        link.symlink_to(controller)

    # --- inside ------------------------------------------------------------------------------------------------

    def _configure(self) -> None:
        """Who the hypervisor is, and its connection to the underlay."""
        self.vsctl(
            "--no-wait", "init",
            "--", "set", "Open_vSwitch", ".", f"external_ids:system-id={self.name}", f"external_ids:hostname={self.name}",
            f"ovs_version={self._programs.version}",
            "--", "add-br", PHYSICAL,
            # A MAC of its own: with eth0's, the kernel would answer tunnel packets that it sees on eth0, too.
            "--", "set", "Bridge", PHYSICAL, "datapath_type=netdev", f'other_config:hwaddr="{self.mac}"',
            "--", "set", "Interface", PHYSICAL, f"mtu_request={self._underlay.mtu}",
            "--", "add-port", PHYSICAL, INTERFACE,
            *(self._external(self.provider) if self.provider else ()),
        )  # fmt: skip

    def _external(self, provider: Provider) -> Iterable[str]:
        """The bridge with the NIC on the provider LAN, which switches like any learning switch."""
        return (
            "--", "add-br", EXTERNAL,
            "--", "set", "Bridge", EXTERNAL, "datapath_type=netdev", f'other_config:hwaddr="{self.external_mac}"',
            "--", "set", "Interface", EXTERNAL, f"mtu_request={provider.mtu}",
            "--", "add-port", EXTERNAL, NIC,
        )  # fmt: skip

    def _address(self) -> None:
        """The tunnel endpoint's address: br-phy is a new device whenever vswitchd starts."""
        lines = [f"link set {PHYSICAL} up"]
        if ":" in self.tunnel_ip:
            namespaces.sysctl(self.namespace, {f"ipv6/conf/{PHYSICAL}/disable_ipv6": 0})
            lines.append(f"addr replace {self.tunnel_ip}/64 dev {PHYSICAL} nodad")
        else:
            lines.append(f"addr replace {self.tunnel_ip}/16 dev {PHYSICAL}")
        namespaces.ip(lines, self.namespace)

    def _add_ports(self, bridge: str, interfaces: dict[str, dict[str, Any]]) -> None:
        operations: list[dict[str, Any]] = []
        names = []
        for number, row in enumerate(interfaces.values()):
            port = {"name": row["name"], "interfaces": ["named-uuid", f"i{number}"]}
            operations.append({"op": "insert", "table": "Port", "uuid-name": f"p{number}", "row": port})
            operations.append({"op": "insert", "table": "Interface", "uuid-name": f"i{number}", "row": row})
            names.append(["named-uuid", f"p{number}"])
        *inserted, changed = self.transact(*operations, _mutate_ports(bridge, "insert", ["set", names]))
        if not changed["count"]:
            raise LabError(f"{self.name} has no bridge {bridge}: does NovaNet know this hypervisor (lab.deploy)?")
        for port_id, result in zip(interfaces, inserted[::2], strict=True):
            self._ports[port_id] = result["uuid"][1]


def _interface(name: str, external_ids: dict[str, str], type: str = "") -> dict[str, Any]:
    return {"name": name, "type": type, "external_ids": ["map", [list(item) for item in external_ids.items()]]}


def _mutate_ports(bridge: str, mutator: str, ports: list[Any]) -> dict[str, Any]:
    where = [["name", "==", bridge]]
    return {"op": "mutate", "table": "Bridge", "where": where, "mutations": [["ports", mutator, ports]]}
