"""Scenarios of the hypervisors part about queues of uplinks in Linux: the classes that vswitchd makes of the rows, and the agent's part."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from pyroute2 import netns

from novanet_apps.host_agent.bridge import LocalBridge
from novanet_apps.host_agent.queues import MAJOR as OPEN_VSWITCH
from novanet_apps.host_agent.queues import QueuedUplink
from novanet_apps.host_agent.shaping import Shaping as AgentShaping
from novanet_apps.host_agent.traffic_control import TrafficControl
from tests.switch.conftest import program
from tests.switch.daemons import Ovs, wait_for
from tests.switch.hypervisor_queues import DB1, FIRST, GOLD, NETWORK, UPLINK, WEB1, policy
from tests.switch.hypervisor_world import World, ident  # first: it makes threads green
from tests.switch.queue_rows import qos, rates, rows
from topology.changes import Edit
from topology.model import Network, Port, Shaping, Uplink, Vif
from topology.shaping import Shape, shapes


class Linux(Ovs):
    """A host with real interfaces, ``wire`` among them, in a network namespace; vswitchd has no dummies. Its kernel may lack Open
    vSwitch's datapath: bridges of that type are only rows then, and ``wire`` is on one of Open vSwitch's own."""

    SENDER = (
        "import socket, sys; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind((sys.argv[1], 0));"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, int(sys.argv[2]));"
        "[s.send(b'\\2' * 12 + b'\\x88\\xb5' + bytes(200)) for _ in range(10)]"
    )

    FLOOD = (
        "import socket, sys, time; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('wire', 0))\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, int(sys.argv[1]))\n"
        "while True:\n"
        "    try: s.send(b'\\2' * 12 + b'\\x88\\xb5' + bytes(1486))\n"
        "    except OSError: time.sleep(0.001)\n"
    )

    def __init__(self, directory: Path, system_id: str) -> None:
        self.namespace = f"nq{os.getpid()}"
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        for text in (
            "link add wire type veth peer name far",
            "link set wire up",
            "link set far up",
            "address add 192.0.2.1/24 dev wire",
            "neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev wire",
            "link add tunnel type vxlan id 7 local 192.0.2.1 remote 192.0.2.2 dstport 4789 dev wire",
            "link set tunnel up",
        ):
            subprocess.run(["ip", "-n", self.namespace, *text.split()], check=True)
        super().__init__(directory, system_id)

    def _start(self, name: str, *arguments: str) -> None:
        if name == "ovs-vswitchd":
            within = ["ip", "netns", "exec", self.namespace, program(name), *arguments[:2], "-vsyslog:off"]
            with (self.directory / f"{name}.log").open("ab") as output:
                self._running[name] = subprocess.Popen(within, env=self._env, stdout=output, stderr=output)
        else:
            super()._start(name, *arguments)

    def classes(self) -> dict[str, tuple[str, str, str, int]]:
        """Linux's classes of ``wire``, by handle: parent, rate and ceil as tc(8) prints them, and packets that left by it."""
        text = self._within("tc", "-s", "class", "show", "dev", "wire")
        found = re.findall(
            r"class htb (\S+) (root|parent \S+).*? rate (\S+) ceil (\S+) .*?\n Sent \d+ bytes (\d+) pkt", text
        )
        return {handle: (parent, rate, ceil, int(packets)) for handle, parent, rate, ceil, packets in found}

    def disciplines(self) -> list[str]:
        """The handles of what ``wire`` has for its queues."""
        return re.findall(r"qdisc \S+ (\S+) ", self._within("tc", "qdisc", "show", "dev", "wire"))

    def send(self, interface: str, queue: int) -> None:
        """Ten frames, as Open vSwitch's datapath in the kernel sends them: of class 1:(queue + 1)."""
        self._within(sys.executable, "-c", self.SENDER, interface, str(1 << 16 | queue + 1))

    @contextmanager
    def flooded(self, *queues: int) -> Iterator[None]:
        """Full frames leave by ``wire`` in these queues, more than it takes."""
        command = ["ip", "netns", "exec", self.namespace, sys.executable, "-c", self.FLOOD]
        senders = [subprocess.Popen([*command, str(1 << 16 | queue + 1)]) for queue in queues]
        try:
            yield
        finally:
            for each in senders:
                each.kill()
                each.wait()

    def sent(self) -> dict[str, int]:
        """Bytes that left by each class of ``wire``, by handle."""
        text = self._within("tc", "-s", "class", "show", "dev", "wire")
        return {handle: int(count) for handle, count in re.findall(r"class htb (\S+) .*?\n Sent (\d+) bytes", text)}

    def _within(self, *command: str) -> str:
        done = subprocess.run(["ip", "netns", "exec", self.namespace, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> None:
        super().stop()
        subprocess.run(["ip", "netns", "delete", self.namespace], check=True)


def on_linux(world: World, ovs: Linux, uplink: Uplink = UPLINK) -> str:
    """Hypervisor h1 there, with a VM that was promised something; where ``wire`` is not its uplink it has the uplink's queues, too."""
    for bridge, port in ("br-phy", "eth0"), ("br-own", "wire"):
        ovs.vsctl("--no-wait", "add-br", bridge, "--", "add-port", bridge, port)
    ovs.vsctl("--no-wait", "set", "bridge", "br-own", "datapath_type=netdev")
    h1 = world.add(1, ovs, uplinks=(uplink,))
    network = Edit("network", NETWORK, Network(id=NETWORK, vni=7))
    world.core.apply([network, *policy(GOLD, type="minimum_bandwidth", min_kbps=30_000)])
    port = Port(id=DB1, network_id=NETWORK, port_key=1, host_id=h1, qos_policy_id=GOLD)
    vif = Vif(port_id=DB1, hypervisor_id=h1, interface="v1", ofport=17, mtu=1500)
    world.core.apply([Edit("port", DB1, port), Edit("vif", DB1, vif)])
    if uplink is UPLINK:
        wait_for(lambda: rates(ovs).keys() == {0, 17})
        ovs.vsctl("--no-wait", "set", "port", "wire", f"qos={(qos(ovs) or {})['_uuid']}")
        wait_for(lambda: "1:12" in ovs.classes(), f"{ovs.classes()}")
    return h1


def makes_classes_in_linux(world: World) -> None:
    ovs = Linux(world.directory / "h1", "h1")
    world.switches.append(ovs)
    on_linux(world, ovs)
    found = ovs.classes()
    assert found["1:12"][:3] == ("parent 1:fffe", "30Mbit", "100Mbit")
    assert found["1:1"][:3] == ("parent 1:fffe", "3125Kbit", "100Mbit")
    assert found["1:fffe"][:3] == ("root", "100Mbit", "100Mbit")

    for number, interface in enumerate(("wire", "tunnel"), 1):
        ovs.send(interface, 17)
        assert ovs.classes()["1:12"][3] == 10 * number, f"queue 17 of what leaves by {interface}"
    world.change("qos-rule", GOLD.replace("8000", "9000"), min_kbps=50_000)
    wait_for(lambda: ovs.classes()["1:12"][1] == "50Mbit")
    assert ovs.classes()["1:12"][3] == 20, "the class was changed, not made anew"
    world.core.apply([Edit("port", DB1, None), Edit("vif", DB1, None)])
    wait_for(lambda: ovs.classes().keys() == {"1:1", "1:fffe"})
    before = ovs.classes()["1:1"][3]
    ovs.send("wire", 17)
    assert ovs.classes()["1:1"][3] - before >= 10, "what has no class goes with the others"


def keeps_guarantees_of_an_uplink_that_is_asked_for_too_much(world: World) -> None:
    ovs = Linux(world.directory / "h1", "h1")
    world.switches.append(ovs)
    h1 = on_linux(world, ovs)
    world.change("qos-rule", GOLD.replace("8000", "9000"), min_kbps=60_000)
    second = Port(id=WEB1, network_id=NETWORK, port_key=2, host_id=h1, qos_policy_id=FIRST)
    vif = Vif(port_id=WEB1, hypervisor_id=h1, interface="v2", ofport=18, mtu=1500)
    promise = policy(FIRST, type="minimum_bandwidth", min_kbps=20_000)
    world.core.apply([*promise, Edit("port", WEB1, second), Edit("vif", WEB1, vif)])
    wait_for(lambda: "1:13" in (found := ovs.classes()) and found["1:12"][1] == "60Mbit")
    with ovs.flooded(0, 17, 18):
        wait_for(lambda: ovs.sent()["1:fffe"] > 10_000_000)
        before = ovs.sent()
        wait_for(lambda: (ovs.sent()["1:fffe"] - before["1:fffe"]) > 30_000_000)
        after = ovs.sent()
    sent = {handle: after[handle] - before[handle] for handle in after}
    for handle, promised in (("1:12", 60), ("1:13", 20), ("1:1", 3.125)):
        assert sent[handle] >= 0.95 * promised / 100 * sent["1:fffe"], f"{handle} of {sent}"


def agents_set_the_lengths_of_queues(world: World) -> None:
    ovs = Linux(world.directory / "h1", "h1")
    world.switches.append(ovs)
    h1 = on_linux(world, ovs)
    local = watching(ovs, "eth0")
    wait_for(lambda: local.queued("eth0", "br-int") and local.classes("eth0") == {"others": 1, DB1: 18})
    assert not local.queued("wire", "br-int"), "Open vSwitch's own datapath honours no queues"
    with inside(ovs):
        uplink = QueuedUplink(TrafficControl(OPEN_VSWITCH), shape_of(world, h1), local.classes("eth0"))
        assert (uplink.make(), uplink.make()) == (2, 0)
        assert not uplink.settling
        long = uplink.read().queues[18].limit
        for edit in policy(GOLD, type="max_latency", max_latency_ms=40)[1:]:
            world.core.apply([edit._replace(id=ident(999), value=replace(edit.value, id=ident(999)))])
        uplink = QueuedUplink(uplink._control, shape_of(world, h1), uplink.numbers)
        assert uplink.make() == 1 and uplink.read().queues[18].limit == 30_000 * 40 // 8 < long
        world.change("qos-rule", GOLD.replace("8000", "9000"), min_kbps=50_000)
        wait_for(lambda: ovs.classes()["1:12"][1] == "50Mbit")
        assert uplink.read().queues[18].limit == 30_000 * 40 // 8, "vswitchd leaves them as they are"
    local.stop()


def agents_hand_over_to_open_vswitch_and_back(world: World) -> None:
    ovs = Linux(world.directory / "h1", "h1")
    world.switches.append(ovs)
    h1 = on_linux(world, ovs, replace(UPLINK, interface="wire"))
    local = watching(ovs, "wire")
    agent = Agent(world, h1, local)
    with inside(ovs):
        agent.shaping.start()
        wait_for(lambda: "4e4e:" in ovs.disciplines(), "the bridge of the uplink has Open vSwitch's own datapath")
        wait_for(lambda: agent.told() == (Shaping(interface="wire"),))
        assert (qos(ovs, "wire") or {})["type"] == "linux-noop"
        ovs.vsctl("--no-wait", "set", "bridge", "br-own", "datapath_type=system")
        wait_for(lambda: rates(ovs, "wire").keys() == {0, 17}, "the controller takes over")
        wait_for(lambda: "4e4e:" not in ovs.disciplines(), "and the agent gives back what it made")
        wait_for(lambda: "has not made its classes" in agent.told()[0].error, "this kernel lacks the datapath")
        ovs.vsctl("--no-wait", "set", "bridge", "br-own", "datapath_type=netdev")
        wait_for(lambda: "4e4e:" in ovs.disciplines())
        wait_for(lambda: agent.told() == (Shaping(interface="wire"),))
        assert (qos(ovs, "wire") or {})["type"] == "linux-noop" and not rows(ovs, "Queue")
    local.stop()


class Agent:
    """The agent's shaping, with the controller's graph for what it reads from the intent store."""

    def __init__(self, world: World, hypervisor_id: str, local: LocalBridge) -> None:
        self._world, self.hypervisor_id = world, hypervisor_id
        self.settled = True
        self.shaping = AgentShaping(lambda: View(self), local, lambda: "")  # type: ignore[arg-type, return-value]

    def transact(self, build: Any) -> None:
        """What it tells the store: only ever how its shaping is doing."""
        build(self, None)

    def add_op(self, operation: dict[str, Any]) -> None:
        told = tuple(msgspec.json.decode(operation["row"]["shaping"], type=tuple[Shaping, ...]))
        self._world.change("hypervisor", self.hypervisor_id, shaping=told)

    def told(self) -> tuple[Shaping, ...]:
        found: tuple[Shaping, ...] = self._world.topology.get("hypervisor", self.hypervisor_id).shaping
        return found


class View:
    """Of the intent store, as the agent has it."""

    def __init__(self, agent: Agent) -> None:
        self.hypervisor_id, self.session, self.shaping = agent.hypervisor_id, agent, self
        self.complete = True
        self._topology = agent._world.topology

    def __getattr__(self, name: str) -> Any:
        return getattr(self._topology, name)


def watching(ovs: Ovs, interface: str) -> LocalBridge:
    """The agent's view of Open vSwitch."""
    local = LocalBridge(ovs.socket, lambda: None)
    local.start()
    wait_for(lambda: local.session.synced)
    local.watch({interface, "wire"}, set())
    wait_for(lambda: local.session.settled)
    return local


@contextmanager
def inside(ovs: Linux) -> Iterator[None]:
    """This thread in the host's namespace."""
    with open("/proc/self/ns/net") as outside:
        netns.setns(ovs.namespace)
        try:
            yield
        finally:
            netns.setns(outside.fileno())


def shape_of(world: World, hypervisor_id: str) -> Shape:
    """What the uplink has to do, as if it were ``wire``."""
    return replace(shapes(world.topology, hypervisor_id)[0], interface="wire")


SCENARIOS = (
    makes_classes_in_linux,
    keeps_guarantees_of_an_uplink_that_is_asked_for_too_much,
    agents_set_the_lengths_of_queues,
    agents_hand_over_to_open_vswitch_and_back,
)
