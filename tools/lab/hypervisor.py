"""A hypervisor: a namespace with its own ovsdb-server and ovs-vswitchd, ``br-phy`` on the underlay, and VMs.

``br-phy`` holds ``eth0`` and the tunnel endpoint's address, as a hypervisor's administrator sets it up. ``br-int`` is
NovaNet's to make.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterable
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import Any

from tools.lab import jsonrpc, namespaces, processes
from tools.lab.errors import LabError
from tools.lab.programs import Programs
from tools.lab.underlay import Underlay
from tools.lab.vm import INTERFACE, VM, Addresses

PHYSICAL = "br-phy"
INTEGRATION = "br-int"
CONTROLLER_SOCKET = "controller.sock"
OPENFLOW = "OpenFlow13,OpenFlow14,OpenFlow15"


class Hypervisor:
    """Made by ``Lab``. ``name`` is its ``external_ids:system-id`` too; ``tunnel_ip`` its address in the underlay."""

    def __init__(
        self, lab: str, name: str, directory: Path, programs: Programs, underlay: Underlay, tunnel_ip: str, mac: str
    ) -> None:
        self.lab, self.name, self.directory = lab, name, directory
        self.tunnel_ip, self.mac = tunnel_ip, mac
        self.namespace = underlay.namespace_of(name)
        self.vms: dict[str, VM] = {}
        self.neighbours: dict[str, str] = {}
        """IP -> MAC of the other tunnel endpoints, told to OVS whenever vswitchd starts."""
        self._underlay, self._programs = underlay, programs
        self._ovsdb: subprocess.Popen[Any] | None = None
        self._vswitchd: subprocess.Popen[Any] | None = None
        self._ports: dict[str, str] = {}
        self._groups: set[str] = set()
        self._numbers = count(1)
        self._env = {name: str(directory) for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")}

    def __repr__(self) -> str:
        return f"<Hypervisor {self.name} {self.tunnel_ip}>"

    @property
    def ovsdb(self) -> str:
        """Where its OVSDB server listens, as OVS writes it."""
        return f"unix:{self.directory / 'db.sock'}"

    # --- OVS's own tools -------------------------------------------------------------------------------------

    def vsctl(self, *arguments: str, check: bool = True, timeout: int = 20) -> str:
        """``ovs-vsctl``: what it printed, without the last newline. Raises LabError when it fails."""
        return self._tool("ovs-vsctl", f"--timeout={timeout}", f"--db={self.ovsdb}", *arguments, check=check)

    def ofctl(self, *arguments: str, check: bool = True, version: str = OPENFLOW) -> str:
        """``ovs-ofctl``; bridges by their names."""
        return self._tool("ovs-ofctl", "-O", version, *arguments, check=check)

    def appctl(self, *arguments: str) -> str:
        """A command of ovs-vswitchd's, as ``ovs-appctl`` would send it: ``appctl("ofproto/trace", "br-int", …)``."""
        result = jsonrpc.call(self.directory / "vswitchd.ctl", arguments[0], list(arguments[1:]))
        return str(result).rstrip("\n")

    def dump_flows(self, bridge: str = INTEGRATION, *arguments: str) -> list[str]:
        """The bridge's flows as ``ovs-ofctl dump-flows`` prints them, one a line."""
        return [line.strip() for line in self.ofctl("dump-flows", bridge, *arguments).splitlines() if "cookie=" in line]

    def transact(self, *operations: dict[str, Any]) -> list[dict[str, Any]]:
        """One transaction on the Open_vSwitch database (RFC 7047, section 5.2); vswitchd acts on it later.

        Raises LabError when it was not committed.
        """
        results = jsonrpc.call(self.directory / "db.sock", "transact", ["Open_vSwitch", *operations])
        for result in results:
            if result and result.get("error"):
                raise LabError(f"OVSDB of {self.name}: {result['error']}: {result.get('details', '')}")
        return list(results)

    def synchronise(self, timeout: float = 30.0) -> None:
        """Wait until vswitchd has done everything that the database asked for when this was called."""
        everything: dict[str, Any] = {"table": "Open_vSwitch", "where": []}
        bump = everything | {"op": "mutate", "mutations": [["next_cfg", "+=", 1]]}
        read = everything | {"op": "select", "columns": ["next_cfg", "cur_cfg"]}
        wanted = self.transact(bump, read)[1]["rows"][0]["next_cfg"]
        processes.until(
            lambda: self._check_running() and self.transact(read)[0]["rows"][0]["cur_cfg"] >= wanted,
            f"ovs-vswitchd of {self.name} applies its configuration", timeout,
        )  # fmt: skip

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
        vm = VM(self.lab, name, self._underlay.namespace_of(name), mac, port_id, interface, self.name)
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

    def add_bridge(self, name: str = INTEGRATION, *options: str) -> None:
        """A plain bridge, for labs without NovaNet: it switches like any learning switch."""
        self.vsctl("add-br", name, "--", "set", "bridge", name, "datapath_type=netdev", *options)

    # --- what can happen to a hypervisor -----------------------------------------------------------------------

    def start(self) -> None:
        """Start its daemons, for the first time or after ``stop``. The database keeps what it had."""
        first = self._ovsdb is None
        self.start_ovsdb()
        if first:
            self._configure()
        self.start_vswitchd()

    def stop(self) -> None:
        """Kill both daemons at once, as a crash of the host does. VMs stay, cut off."""
        self.kill_vswitchd()
        self.stop_ovsdb(signal.SIGKILL)

    def start_ovsdb(self) -> None:
        """Start ovsdb-server and wait until it listens."""
        socket = self.directory / "db.sock"
        socket.unlink(missing_ok=True)
        self._ovsdb = self._daemon(
            "ovsdb-server", str(self.directory / "conf.db"), f"--remote=punix:{socket}",
            "--remote=db:Open_vSwitch,Open_vSwitch,manager_options", f"--unixctl={self.directory / 'ovsdb-server.ctl'}",
            "--private-key=db:Open_vSwitch,SSL,private_key", "--certificate=db:Open_vSwitch,SSL,certificate",
            "--ca-cert=db:Open_vSwitch,SSL,ca_cert",
        )  # fmt: skip
        processes.until(
            lambda: self._check_running() and jsonrpc.listens(socket), f"ovsdb-server of {self.name} listens"
        )

    def stop_ovsdb(self, how: signal.Signals = signal.SIGTERM) -> None:
        processes.end(self._ovsdb, how)

    def start_vswitchd(self) -> None:
        """Start ovs-vswitchd, wait until it has built what the database says, and set up the tunnel endpoint."""
        (self.directory / "vswitchd.ctl").unlink(missing_ok=True)
        self._vswitchd = self._daemon(
            "ovs-vswitchd", self.ovsdb, f"--unixctl={self.directory / 'vswitchd.ctl'}",
            f"--pidfile={self.directory / 'ovs-vswitchd.pid'}", "--enable-dummy",
        )  # fmt: skip
        self.synchronise()
        self._address()
        self.prime(self.neighbours)
        for group in self._groups:
            self.join_group(group)

    def stop_vswitchd(self) -> None:
        """End ovs-vswitchd in order (SIGTERM)."""
        processes.end(self._vswitchd)

    def kill_vswitchd(self) -> None:
        """SIGKILL to ovs-vswitchd."""
        processes.end(self._vswitchd, signal.SIGKILL)

    def link_down(self) -> None:
        """Cut the hypervisor off the underlay."""
        self._underlay.cut(self.name)

    def link_up(self) -> None:
        self._underlay.mend(self.name)

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

    @property
    def vswitchd_pid(self) -> int:
        """Process id of ovs-vswitchd, for its memory and CPU in /proc."""
        return _pid(self._vswitchd)

    @property
    def ovsdb_pid(self) -> int:
        """Process id of ovsdb-server."""
        return _pid(self._ovsdb)

    @property
    def daemons(self) -> list[subprocess.Popen[Any]]:
        """Its running daemons: ovs-vswitchd, ovsdb-server."""
        return [d for d in (self._vswitchd, self._ovsdb) if d and d.poll() is None]

    def _tool(self, name: str, *arguments: str, check: bool) -> str:
        argv = [self._programs.path(name), *arguments]
        done = processes.run(argv, lab=self.lab, namespace=self.namespace, env=self._env, check=check)
        return (done.stdout if not done.returncode else done.stdout + done.stderr).rstrip("\n")

    def _daemon(self, name: str, *arguments: str) -> subprocess.Popen[Any]:
        log = self.directory / f"{name}.log"
        argv = [self._programs.path(name), *arguments, f"--log-file={log}", "-vconsole:emer", "-vsyslog:off"]
        with (self.directory / f"{name}.err").open("ab") as err:
            return processes.spawn(
                argv, lab=self.lab, namespace=self.namespace, env=self._env, stdout=err, stderr=subprocess.STDOUT
            )

    def _check_running(self) -> bool:
        for name, daemon in (("ovsdb-server", self._ovsdb), ("ovs-vswitchd", self._vswitchd)):
            if daemon and daemon.poll() not in (None, -signal.SIGKILL, -signal.SIGTERM, 0):
                logs = [self.directory / f"{name}.{suffix}" for suffix in ("log", "err")]
                words = "".join(path.read_text(errors="replace")[-1500:] for path in logs if path.exists())
                raise LabError(f"{name} of {self.name} ended ({daemon.returncode}): {words}")
        return True

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


def _pid(daemon: subprocess.Popen[Any] | None) -> int:
    if daemon is None or daemon.poll() is not None:
        raise LabError("the daemon does not run")
    return daemon.pid


def create_database(programs: Programs, path: Path) -> None:
    """An empty Open_vSwitch database; hypervisors copy it."""
    processes.run([programs.path("ovsdb-tool"), "create", str(path), str(programs.schema())])


def install_database(empty: Path, directory: Path) -> None:
    """Give a hypervisor's directory its database."""
    directory.mkdir(parents=True)
    shutil.copyfile(empty, directory / "conf.db")


def _interface(name: str, external_ids: dict[str, str], type: str = "") -> dict[str, Any]:
    return {"name": name, "type": type, "external_ids": ["map", [list(item) for item in external_ids.items()]]}


def _mutate_ports(bridge: str, mutator: str, ports: list[Any]) -> dict[str, Any]:
    where = [["name", "==", bridge]]
    return {"op": "mutate", "table": "Bridge", "where": where, "mutations": [["ports", mutator, ports]]}
