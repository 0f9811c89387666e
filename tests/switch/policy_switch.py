"""A switch that stands for hypervisor h1 of a world with security groups, whose VMs and peers are the test."""

from __future__ import annotations

import re
import struct
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import pytest

from pipelines.compiler import Compiler
from pipelines.cookies import cookie
from pipelines.ledger import Ledger
from tests.switch.conftest import DEADLINE, TUNNEL, TUNNEL_PORT, Switch
from tests.switch.shapes import OPTION
from tests.switch.speaker import Speaker
from tests.switch.unixctl import Unixctl
from tests.unit.policies import NETWORKS, PolicyWorld
from topology import scope
from topology.changes import Edit
from topology.model import Bridge, Port

VMS = 40
"""How many ports there are for VMs; their OpenFlow numbers are their port keys."""
PHYSICAL = "phy0"
HERE, AWAY = "h1", "h2"
TUNNEL_IPS = {HERE: "192.168.50.1", AWAY: "192.168.50.2"}
HERE_MAC, AWAY_MAC = (bytes.fromhex(f"02000000500{n}") for n in (1, 2))
_QUEUE = 64
"""Frames that a dummy port takes at once."""


class GuardedWorld(PolicyWorld):
    """A random world of security groups whose networks are joined by a router; ``somebody`` sends as if from outside."""

    def __init__(self, rng: Random, **sizes: int) -> None:
        super().__init__(rng, **sizes)
        self.router("r", *NETWORKS)
        for network in NETWORKS:
            for hypervisor in (HERE, AWAY):
                ips = tuple(
                    f"{prefix}{200 + int(hypervisor[1])}" for prefix in (f"10.{network[1]}.0.", f"fd00:{network[1]}::")
                )
                self.port(somebody(network, hypervisor), network, on=hypervisor, ips=ips, port_security_enabled=False)
        self.apply(Edit("bridge", HERE, Bridge(hypervisor_id=HERE, tunnel_ofport=TUNNEL_PORT)))

    def at(self, port: str) -> Port:
        found: Port = self.topology.get("port", port)
        return found

    def ledger(self, version: int) -> Ledger:
        """What the bridge of h1 is to have."""
        ledger, compiler = Ledger(version), Compiler()
        for owner in dict.fromkeys(scope.owners_on(self.topology, HERE)):
            ledger.put(owner, compiler.compile(self.topology, HERE, owner), cookie(owner))
        return ledger


def somebody(network: str, hypervisor: str) -> str:
    """The port without port security or identity that is any address, in a network on a hypervisor."""
    return f"outside-{network}-{hypervisor}"


class PolicySwitch(Switch):
    """A switch with a port for each VM of a world, and a tunnel port whose packets go through a bridge of their own."""

    dummies = "system"

    def start(self) -> None:
        super().start()
        words = []
        for name in (*(f"vm{n}" for n in range(1, VMS + 1)), PHYSICAL):
            bridge = "br-phy" if name == PHYSICAL else self.bridge
            number = "" if name == PHYSICAL else f"ofport_request={name[2:]}"
            words += f"-- add-port {bridge} {name} -- set interface {name} type=dummy {number}".split()
            words.append(f"options:tx_pcap={self._pcap(name)}")
        numbered = [f"-- --if-exists del-port p{n}" for n in range(1, 5)]
        self.vsctl(*" ".join(numbered).split())
        physical = f"other_config:hwaddr={HERE_MAC.hex(':')} datapath_type=dummy fail_mode=standalone ".split()
        self.vsctl("add-br", "br-phy", "--", "set", "bridge", "br-phy", *physical, *words)
        self.vsctl("set", "open_vswitch", ".", "other_config:max-revalidator=10")
        self.control = Unixctl(self.directory / "vswitchd.ctl")
        self.control.ask("dpctl/ct-disable-tcp-seq-chk")  # which frames of tests do not care for
        self.control.ask("dpctl/ipf-set-max-nfrags", "5000")  # it holds what follows a denied first fragment
        self.control.ask("netdev-dummy/ip4addr", "br-phy", f"{TUNNEL_IPS[HERE]}/24")
        self.control.ask("ovs/route/add", "192.168.50.0/24", "br-phy")
        self.control.ask("tnl/neigh/set", "br-phy", TUNNEL_IPS[AWAY], AWAY_MAC.hex(":"))
        options = "options:remote_ip=flow options:key=flow"
        self.vsctl("del-port", TUNNEL)
        self.vsctl(
            *f"add-port br0 tun1 -- set interface tun1 type=geneve {options} ofport_request={TUNNEL_PORT}".split()
        )
        self._read: defaultdict[str, int] = defaultdict(lambda: 24)
        self._speakers: dict[int, Speaker] = {}

    @property
    def tracks_sctp(self) -> bool:
        """Whether its conntrack in user space knows ports of SCTP: from Open vSwitch 3.2 on."""
        major, minor = re.findall(r"(\d+)\.(\d+)", self.run("ovs-vswitchd", "--version"))[0]
        return (int(major), int(minor)) >= (3, 2)

    def stop(self) -> None:
        for speaker in self._speakers.values():
            speaker.close()
        self.control.close()
        super().stop()

    def _pcap(self, name: str) -> Path:
        return self.directory / f"{name}.pcap"

    def speaker(self, version: int) -> Speaker:
        """A connection that speaks a version; the Geneve option is mapped."""
        found = self._speakers.get(version)
        if found is None:
            found = self._speakers[version] = Speaker(self, version)
            found.map_option(OPTION)
        return found

    def load(self, world: GuardedWorld, version: int, *, forget: bool = True) -> None:
        """Do what the world wants of h1 and nothing else; ``forget`` the connections of before."""
        speaker = self.speaker(version)
        entries = [flow[:2] for flow in speaker.flows()]
        speaker.apply(world.ledger(version).difference(entries, speaker.groups(), speaker.meters()))
        self.control.ask("revalidator/wait")
        if forget:
            self.control.ask("dpctl/flush-conntrack")
            deque(self.sent(), 0)

    def send(self, frames: Iterable[tuple[str, bytes]]) -> None:
        """Have frames come in by ports, and wait until all of them have been dealt with."""
        waiting: defaultdict[str, list[str]] = defaultdict(list)
        for name, frame in frames:
            waiting[name].append(frame.hex())
            if len(waiting[name]) == _QUEUE:
                self._inject(waiting)
        self._inject(waiting)

    def _inject(self, waiting: defaultdict[str, list[str]]) -> None:
        before, count = self._received(), sum(map(len, waiting.values()))
        for name, texts in waiting.items():
            if texts:
                self.control.ask("netdev-dummy/receive", name, *texts)
        waiting.clear()
        end = time.monotonic() + DEADLINE
        while self._received() < before + count:
            assert time.monotonic() < end, "the switch does not take its packets"

    def _received(self) -> int:
        text = self.control.ask("dpif-netdev/pmd-stats-show")
        return sum(map(int, re.findall(r"(?:packets received|Rx packets): +(\d+)", text)))

    def sent(self) -> Iterator[tuple[str, bytes]]:
        """(port, frame) of all that has left since the last time, by port."""
        for name in (*(f"vm{n}" for n in range(1, VMS + 1)), PHYSICAL):
            with self._pcap(name).open("rb") as file:
                file.seek(self._read[name])
                while head := file.read(16):
                    yield name, file.read(struct.unpack("=8xI4x", head)[0])
                self._read[name] = file.tell()


@pytest.fixture(scope="session")
def policy_switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolicySwitch]:
    running = PolicySwitch(tmp_path_factory.mktemp("policy"))
    try:
        running.start()
        yield running
    finally:
        running.stop()
