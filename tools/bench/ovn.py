"""OVN, the peer: brought up on a lab of its own, with its programs unpacked beside the system.

The packages are downloaded and unpacked, never installed, so that no service starts. The databases are reached over
Unix sockets, by every ovn-controller too: it shares the file system, and a Unix socket is not slower than TCP. The
probes that make OVN drop busy connections are off, and commands go to a running ``ovn-nbctl`` daemon, so that
OVN is not charged for starting a process.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tools.bench import debian, workload
from tools.bench.groups import IPV4, OPEN, Group, Rule
from tools.bench.workload import PortSpec
from tools.lab import jsonrpc, processes
from tools.lab.errors import LabError
from tools.lab.hypervisor import Hypervisor
from tools.lab.lab import Lab

PACKAGES = ("ovn-common", "ovn-central", "ovn-host")
BATCH = 250
"""Ports that one transaction makes."""
ALLOW, DROP = "1002", "1001"
"""Priorities of ACLs, as in OpenStack."""
NO_PROBE = "180000"
"""Milliseconds: longer than any computation here."""


def install() -> Path:
    """Directory of the unpacked packages (its ``usr/bin`` has the programs). Raises LabError when they cannot be had."""
    return debian.unpacked("OVN", PACKAGES, "usr/bin/ovn-controller")


class Ovn:
    """OVN's databases, northd and one ovn-controller a hypervisor of ``lab``, which must be up.

    They end with the lab, or by ``stop``.
    """

    name = "OVN"

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.root = install()
        self.directory = lab.directory / "ovn"
        self.daemons: dict[str, subprocess.Popen[Any]] = {}
        self._uuids: dict[str, str] = {}

    def __enter__(self) -> Ovn:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything and wait until every hypervisor is known."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in ("nb", "sb"):
            self._database(name)
        self.start_control()
        self._start_nbctl()
        self.nbctl("init")
        self.nbctl("set", "NB_Global", ".", f"options:northd_probe_interval={NO_PROBE}")
        for hypervisor in self.lab.hypervisors:
            self._controller(hypervisor)
        processes.until(self._complete, "all hypervisors known to OVN")
        self.sync()

    def start_control(self) -> None:
        """Start northd, for the first time or after ``load``."""
        databases = (f"--ovnnb-db={self._db('nb')}", f"--ovnsb-db={self._db('sb')}")
        self._daemon("northd", "ovn-northd", *databases, f"--unixctl={self.directory}/northd.ctl")

    def stop(self) -> None:
        """End what was started, controllers first."""
        if (self.directory / "nbctl.ctl").exists():
            jsonrpc.call(self.directory / "nbctl.ctl", "exit", [])
        for process in reversed(list(self.daemons.values())):
            processes.end(process)
        self.daemons.clear()

    def _complete(self) -> bool:
        for name, process in self.daemons.items():
            if process.poll() is not None:
                words = (self.directory / f"{name.replace(' ', '-')}.err").read_text()
                raise LabError(f"OVN's {name} ended ({process.returncode}): {words[-1000:]}")
        return len(self.chassis()) == len(self.lab.hypervisors)

    def _database(self, name: str) -> None:
        schema = self.root / f"usr/share/ovn/ovn-{name}.ovsschema"
        file = self.directory / f"{name}.db"
        processes.run([self.lab.programs.path("ovsdb-tool"), "create", str(file), str(schema)], lab=self.lab.run_id)
        socket = self.directory / f"{name}.sock"
        server = self.lab.programs.path("ovsdb-server")
        self._spawn(name, [server, str(file), f"--remote=punix:{socket}", f"--unixctl={self.directory}/{name}.ctl"])
        processes.until(lambda: jsonrpc.listens(socket), f"OVN's database {name}")

    def _start_nbctl(self) -> None:
        """The command as a daemon. It detaches itself; the lab's mark, or ``stop``, ends it."""
        control = self.directory / "nbctl.ctl"
        argv = [
            self._program("ovn-nbctl"),
            f"--db={self._db('nb')}",
            "--detach",
            f"--unixctl={control}",
            "-vsyslog:off",
        ]
        processes.run(argv, lab=self.lab.run_id)
        processes.until(control.exists, "the ovn-nbctl daemon")

    def _controller(self, hypervisor: Hypervisor) -> None:
        settings = {
            "ovn-remote": self._db("sb"),
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": hypervisor.tunnel_ip,
            "ovn-bridge-datapath-type": "netdev",
            "ovn-remote-probe-interval": NO_PROBE,
            "ovn-openflow-probe-interval": "60",
        }
        hypervisor.vsctl(
            "set", "open_vswitch", ".", *(f"external_ids:{key}={value}" for key, value in settings.items())
        )
        rundir = {"OVS_RUNDIR": str(hypervisor.directory)}
        self._daemon(
            f"ovn-controller {hypervisor.name}",
            "ovn-controller",
            hypervisor.ovsdb,
            namespace=hypervisor.namespace,
            env=rundir,
        )

    def _daemon(self, name: str, program: str, *arguments: str, **options: Any) -> None:
        """Start one of OVN's daemons as a child, so that it ends when this process does."""
        environment = {"OVN_RUNDIR": str(self.directory), **options.pop("env", {})}
        self._spawn(name, [self._program(program), *arguments], env=environment, **options)

    def _spawn(self, name: str, argv: Sequence[str], **options: Any) -> None:
        path = self.directory / f"{name.replace(' ', '-')}.log"
        logging = ("-vconsole:off", "-vsyslog:off", f"--log-file={path}")
        with path.with_suffix(".err").open("ab") as err:
            self.daemons[name] = processes.spawn(
                [*argv, *logging], lab=self.lab.run_id, stdout=err, stderr=subprocess.STDOUT, **options
            )

    # --- commands ------------------------------------------------------------------------------------------------

    def nbctl(self, *arguments: str) -> str:
        """Run an ``ovn-nbctl`` command in the daemon; raises LabError with its complaint."""
        return str(jsonrpc.call(self.directory / "nbctl.ctl", "run", list(arguments), timeout=900.0))

    def sync(self) -> None:
        """Wait until every ovn-controller has done what was asked until now, as confirmed by barriers."""
        self.nbctl("--wait=hv", "sync")

    def chassis(self) -> list[str]:
        """Names of the hypervisors that have announced themselves."""
        rows = self._transact(
            "sb", "OVN_Southbound", {"op": "select", "table": "Chassis", "where": [], "columns": ["name"]}
        )
        return [row["name"] for row in rows["rows"]]

    def ports_up(self) -> int:
        """How many logical ports OVN has reported as up, which it does when their flows are in place."""
        up = {"op": "select", "table": "Logical_Switch_Port", "where": [["up", "==", True]], "columns": ["_uuid"]}
        return len(self._transact("nb", "OVN_Northbound", up)["rows"])

    def add_networks(self, count: int = workload.NETWORKS) -> None:
        """Logical switches."""
        self.nbctl(*(word for n in range(count) for word in ("--", "ls-add", _switch(n))))

    def add_group(self, group: Group) -> None:
        """A port group with ACLs, as OpenStack's driver for OVN makes them of a security group; none of OPEN."""
        if group == OPEN:
            return
        self.nbctl("pg-add", group.name)
        for side, direction in ((f"outport == @{group.name}", "to-lport"), (f"inport == @{group.name}", "from-lport")):
            self.nbctl("acl-add", group.name, direction, DROP, f"{side} && ip", "drop")
        for rule in group.rules:
            self.nbctl("acl-add", group.name, *_acl(group, rule))

    def add_ports(self, ports: list[PortSpec], group: Group | None) -> None:
        """Ports with port security, in batches."""
        for start in range(0, len(ports), BATCH):
            self.nbctl(*(word for port in ports[start : start + BATCH] for word in _creation(port, group)))

    def add_port(self, port: PortSpec, group: Group | None) -> None:
        """One transaction of the database without any command in between."""
        addresses = f"{port.mac} {port.ip}"
        row = {"name": port.id, "addresses": addresses, "port_security": addresses}
        owners = [("Logical_Switch", _switch(port.network))]
        if group not in (None, OPEN):
            owners.append(("Port_Group", group.name))
        self._transact(
            "nb",
            "OVN_Northbound",
            {"op": "insert", "table": "Logical_Switch_Port", "uuid-name": "port", "row": row},
            *(
                {
                    "op": "mutate",
                    "table": table,
                    "where": [["name", "==", name]],
                    "mutations": [["ports", "insert", ["set", [["named-uuid", "port"]]]]],
                }
                for table, name in owners
            ),
        )

    def realise_port(self, port: PortSpec, group: Group | None) -> None:
        """``ovn-nbctl --wait=hv``."""
        self.nbctl("--wait=hv", *_creation(port, group))

    def join(self, port: PortSpec, group: Group) -> None:
        """``ovn-nbctl --wait=hv add Port_Group``."""
        self.nbctl("--wait=hv", "add", "Port_Group", group.name, "ports", self._uuid(port))

    def leave(self, port: PortSpec, group: Group) -> None:
        """``ovn-nbctl --wait=hv remove Port_Group``."""
        self.nbctl("--wait=hv", "remove", "Port_Group", group.name, "ports", self._uuid(port))

    def delete_port(self, port: PortSpec) -> None:
        """``ovn-nbctl --wait=hv lsp-del``."""
        self.nbctl("--wait=hv", "lsp-del", port.id)

    def wait_realised(self, count: int, timeout: float) -> None:
        """Wait until the ports are reported as up, and then for the barriers."""
        processes.until(lambda: self.ports_up() >= count, f"{count} ports of OVN's up", timeout, interval=0.05)
        self.sync()

    def load(self, ports: list[PortSpec], group: Group) -> None:
        """Without northd. Pausing it instead is no good: when resumed, it may sleep until its next probe."""
        processes.end(self.daemons.pop("northd"))
        self.add_networks()
        self.add_group(group)
        self.add_ports(ports, group)

    def processes(self) -> dict[str, int]:
        """The databases, northd, the controllers, and the switches."""
        return {name: daemon.pid for name, daemon in self.daemons.items()} | workload.switches(self.lab)

    def version(self) -> str:
        """OVN's version."""
        return processes.run([self._program("ovn-northd"), "--version"], lab=self.lab.run_id).stdout.split()[1]

    # --- how --------------------------------------------------------------------------------------------------------

    def _uuid(self, port: PortSpec) -> str:
        """How a port is named in a set; asked for once."""
        if port.id not in self._uuids:
            self._uuids[port.id] = self.nbctl("get", "Logical_Switch_Port", port.id, "_uuid").strip()
        return self._uuids[port.id]

    def _db(self, name: str) -> str:
        return f"unix:{self.directory}/{name}.sock"

    def _program(self, name: str) -> str:
        return str(self.root / "usr/bin" / name)

    def _transact(self, name: str, database: str, *operations: dict[str, Any]) -> dict[str, Any]:
        """Run operations in one transaction (RFC 7047) and return the last result; raises LabError when one failed."""
        results = jsonrpc.call(self.directory / f"{name}.sock", "transact", [database, *operations])
        for result in results:
            if result and "error" in result:
                raise LabError(f"OVN's database {name} refused: {result['error']}: {result.get('details', '')}")
        return dict(results[len(operations) - 1])


def _switch(network: int) -> str:
    return f"net{network}"


def _acl(group: Group, rule: Rule) -> tuple[str, str, str, str]:
    """Direction, priority, match and verdict of the ACL that a rule is in OVN."""
    version = "ip4" if rule.ethertype == IPV4 else "ip6"
    side, direction, peer = ("outport", "to-lport", "src") if rule.direction == "ingress" else ("inport", "from-lport", "dst")  # fmt: skip
    terms = [f"{side} == @{group.name}", version]
    if rule.members:
        terms.append(f"{version}.{peer} == ${group.name}_{version}")
    if rule.prefix:
        terms.append(f"{version}.{peer} == {rule.prefix}")
    if rule.protocol == "icmp":
        terms.append("icmp4")
    elif rule.protocol and all(low == high for low, high in rule.ports):
        terms.append(f"{rule.protocol}.dst == {{{', '.join(str(low) for low, _ in rule.ports)}}}")
    elif rule.protocol:
        ((low, high),) = rule.ports
        terms.append(f"{rule.protocol}.dst >= {low} && {rule.protocol}.dst <= {high}")
    return direction, ALLOW, " && ".join(terms), "allow-related"


def _creation(port: PortSpec, group: Group | None) -> Iterator[str]:
    """The words of an ovn-nbctl command that makes a port."""
    addresses = f'"{port.mac} {port.ip}"'
    yield from ("--", f"--id=@{port.id}", "create", "Logical_Switch_Port", f"name={port.id}")
    yield from (f"addresses={addresses}", f"port_security={addresses}")
    yield from ("--", "add", "Logical_Switch", _switch(port.network), "ports", f"@{port.id}")
    if group not in (None, OPEN):
        yield from ("--", "add", "Port_Group", group.name, "ports", f"@{port.id}")
