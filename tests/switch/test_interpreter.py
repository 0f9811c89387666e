"""The interpreter against Open vSwitch: thousands of random packets through compiled pipelines, by ``ofproto/trace``.

A trace of Open vSwitch is not a packet's way in three respects, which are made alike here: conntrack takes every packet
for the first of a connection, of ``check_pkt_larger`` both ways are gone, and it ends where a group of type select begins.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, NamedTuple

import pytest

from pipelines import fields as f
from pipelines import tables as t
from pipelines.flow import CONTROLLER, Nat
from pipelines.interpreter import SIZE, Connections, Interpreter, Outcome, Packet
from pipelines.interpreter.packets import PORTS, addresses, untracked
from pipelines.ledger import Ledger
from pipelines.wire import OF13, OF15
from pipelines.wire.decode import CheckLarger, Multipath, Track
from tests.switch.conftest import Switch
from tests.switch.random_packets import Everything, Random, tracked, words
from tests.switch.shapes import OPTION
from tests.switch.speaker import Speaker
from tests.unit.outside import TUNNEL, WIRE
from tools.lab import jsonrpc

SEED = int(os.environ.get("NOVANET_SEED", random.randrange(1 << 32)))
PACKETS = 400
"""For each hypervisor and version."""
HYPERVISORS = ("h1", "h2", "h3")


class AsTraced(Connections):
    """Conntrack as a trace has it: every packet is new, translations take their first address and port."""

    def track(self, packet: Packet, zone: int, step: Track) -> Packet:
        there = dict(packet)
        untracked(there)
        there |= {f.CT_STATE: f.CT_TRACKED | f.CT_NEW, f.CT_ZONE: zone}
        for nat in step.actions:
            if isinstance(nat, Nat) and nat.kind is not None:
                at = 0 if nat.kind == "src" else 1
                there[addresses(packet)[at]] = nat.first
                ports = PORTS.get(packet.get(f.IP_PROTO, 0))
                if nat.ports is not None and ports is not None:
                    there[ports[at]] = nat.ports[0]
        return there


class AsInjected(Interpreter):
    """A trace of a packet that is put into a later table does not go on where conntrack hands the packet on."""

    def _track(self, step: Track, packet: Packet, outcome: Outcome, depth: int) -> None:
        untracked(packet)


# --- traces --------------------------------------------------------------------------------------------------------------


class Traced(NamedTuple):
    """What a trace tells: ports, tunnel destinations, the packet at the end, and the text."""

    ports: Counter[int]
    tunnels: Counter[str]
    final: dict[str, str]
    tables: list[int]
    text: str


def read(text: str, in_port: int) -> Traced:
    lines = [line.strip() for line in text.splitlines()]
    ports: Counter[int] = Counter()
    tunnels: Counter[str] = Counter()
    towards = ""
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if found := re.match(r"(?:set_field|load):(\S+)->(?:tun_dst|NXM_NX_TUN_IPV4_DST\[\])", line):
            towards = str(_ip(found[1]))
        elif line == "IN_PORT":
            ports[in_port] += 1
        elif re.fullmatch(r"(CONTROLLER:\d+|controller\(.*\))", line):
            ports[CONTROLLER] += 1
        elif (found := re.fullmatch(r"output:(\d+)", line)) and "skipping output" not in after:
            ports[int(found[1])] += 1
            if int(found[1]) == TUNNEL:
                tunnels[towards] += 1
    last = re.findall(r"Final flow: (.*)", text)[-1]
    if last == "unchanged":
        last = re.findall(r"^Flow: (.*)", text, re.M)[-1]
    final = dict(item.partition("=")[::2] for item in last.split(","))
    return Traced(ports, tunnels, final, [int(number) for number in re.findall(r"^\s*(\d+)\. ", text, re.M)], text)


def _ip(text: str) -> Any:

    return ip_address(int(text, 16)) if text.startswith("0x") else ip_address(text)


def steps(outcome: Outcome) -> list[Any]:
    return [step for visit in outcome.visits if visit.hit is not None for step in visit.hit.done.actions]


class Bench:
    """A switch of its own, with the OpenFlow ports of the world."""

    def __init__(self, switch: Switch, version: int) -> None:
        self.switch, self.version = switch, version
        self.speaker = Speaker(switch, version)
        self.speaker.map_option(OPTION)

    def load(self, ledger: Ledger, kind: type[Interpreter] = Interpreter) -> Interpreter:
        """Have the switch do this and nothing else."""
        entries = [flow[:2] for flow in self.speaker.flows()]
        self.speaker.apply(ledger.difference(entries, self.speaker.groups(), self.speaker.meters()))
        snapshot = ledger.snapshot()
        return kind(snapshot.flows, snapshot.groups, snapshot.version)

    def trace(self, packet: Packet, in_port: int, table: int = 0) -> Traced:
        control = self.switch.directory / "vswitchd.ctl"
        if table == 0:
            text = jsonrpc.call(control, "ofproto/trace", [self.switch.bridge, words(packet, in_port)])
        else:
            on = f"resubmit(,{table})"
            text = jsonrpc.call(control, "ofproto/trace-packet-out", [self.switch.bridge, words(packet, in_port), on])
        return read(text, in_port)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    switch = Switch(tmp_path_factory.mktemp("ovs"))
    try:
        switch.start()
        more = {
            "wire": WIRE,
            "nowhere": 77,
            **{f"bfd{n}": 2000 + n for n in (1, 2, 3)},
            **{f"vm{n}": n for n in range(5, 30)},
        }
        switch.vsctl(
            *(
                word
                for name, number in more.items()
                for word in f"-- add-port br0 {name} -- set interface {name} type=dummy ofport_request={number}".split()
            ),
            *f"-- set interface tun0 ofport_request={TUNNEL}".split(),
        )
        switch.vsctl("del-port", "tun0")
        options = "options:remote_ip=flow options:key=flow"
        switch.vsctl(*f"add-port br0 tun1 -- set interface tun1 type=geneve {options} ofport_request={TUNNEL}".split())
        yield switch
    finally:
        switch.stop()


def compare(interpreter: Interpreter, bench: Bench, packet: Packet, in_port: int, table: int = 0) -> str:
    """Have both take a packet; AssertionError where they differ. Returns what it was good for."""
    traced = bench.trace(packet, in_port, table)
    interpreter.connections = AsTraced()
    small = interpreter.run(packet | {SIZE: 0}, in_port, table)
    done = steps(small)
    ports, tunnels = Counter(small.ports), Counter(_towards(small))
    told = f"{words(packet, in_port)}\n{traced.text}\n" + "\n".join(small.flows)
    measured = any(isinstance(step, CheckLarger) for step in done)
    if measured:  # both ways are traced
        large = interpreter.run(packet | {SIZE: 65535}, in_port, table)
        ports, tunnels = ports | Counter(large.ports), tunnels | Counter(_towards(large))
        assert not ports - traced.ports, told
        assert set(traced.ports) == set(ports), told
    else:
        assert traced.ports == ports, told
    assert set(tunnels) == set(traced.tunnels), told
    met = {visit.table for visit in small.visits}
    assert met <= set(traced.tables) | {table}, told
    if any(visit.groups for visit in small.visits) or measured or not small.visits:
        return "ports"
    _compare_fields(small.visits[-1].after or small.visits[-1].before, traced, told)
    return "hashed" if any(isinstance(step, Multipath) for step in done) else "fields"


def _towards(outcome: Outcome) -> list[str]:
    return [str(_ip(hex(sent.packet.get(f.TUN_DST, 0)))) for sent in outcome.sent if sent.port == TUNNEL]


def _compare_fields(packet: Packet, traced: Traced, told: str) -> None:
    """Registers, metadata and what the packet became."""
    for number in range(16):
        shown = int(traced.final.get(f"reg{number}", "0"), 16)
        assert shown == packet.get(f.register(number), 0), f"reg{number}\n{told}"
    assert int(traced.final.get("metadata", "0"), 16) == packet.get(f.METADATA, 0), told
    for name, field in (("dl_src", f.ETH_SRC), ("dl_dst", f.ETH_DST)):
        assert traced.final[name] == packet[field].to_bytes(6, "big").hex(":"), told
    for name, field in (
        ("nw_src", f.IPV4_SRC),
        ("nw_dst", f.IPV4_DST),
        ("ipv6_src", f.IPV6_SRC),
        ("ipv6_dst", f.IPV6_DST),
    ):
        if name in traced.final:
            assert int(_ip(traced.final[name])) == packet.get(field, 0), f"{name}\n{told}"
    if "nw_ttl" in traced.final:
        assert int(traced.final["nw_ttl"]) == packet[f.IP_TTL], told


VERSIONS = pytest.mark.parametrize("version", [OF13, OF15], ids=["OpenFlow13", "OpenFlow15"])


@VERSIONS
@pytest.mark.parametrize("hypervisor", HYPERVISORS)
def test_random_packets_fare_alike(running: Switch, version: int, hypervisor: str) -> None:
    world, bench = Everything(), Bench(running, version)
    ledger = world.ledger(hypervisor, version)
    interpreter = bench.load(ledger)
    packets = Random(world, hypervisor, SEED)
    good_for: Counter[str] = Counter()
    met: Counter[str] = Counter()
    for _ in range(PACKETS):
        packet, in_port = packets.packet()
        table = 0
        question = packet[f.ETH_TYPE] == f.ARP or packet.get(f.ICMPV6_TYPE) == 135
        if question and in_port not in (WIRE, TUNNEL, 77):  # its meter has let it through
            vif = next(
                v for v in world.topology.all("vif").values() if (v.hypervisor_id, v.ofport) == (hypervisor, in_port)
            )
            port = world.topology.get("port", vif.port_id)
            vni = world.topology.get("network", port.network_id).vni
            packet |= {f.IN_PORT_KEY: port.port_key, f.METADATA: vni}
            table = t.PORT_SECURITY.number
        good_for[compare(interpreter, bench, packet, in_port, table)] += 1
        met.update({t.PIPELINE[visit.table].name for visit in interpreter.run(packet, in_port, table).visits})
    assert good_for["fields"] > PACKETS / 3 and good_for["ports"] > PACKETS / 20, (SEED, good_for)
    assert {
        "port_security",
        "services",
        "router_local",
        "route",
        "neighbour",
        "l2_lookup",
        "tunnel_output",
    } <= met.keys()
    bench.speaker.close()


@VERSIONS
@pytest.mark.parametrize("hypervisor", HYPERVISORS)
def test_rules_of_security_groups_fare_alike(running: Switch, version: int, hypervisor: str) -> None:
    """Packets as they come to the policy tables: with identities, and with what conntrack knows of their connections."""
    world, bench = Everything(), Bench(running, version)
    world.guard()
    interpreter = bench.load(world.ledger(hypervisor, version), AsInjected)
    dice = random.Random(SEED)
    packets = Random(world, hypervisor, SEED)
    identities = [0, *world.topology.identities]
    passed = met = 0
    for _ in range(2 * PACKETS):
        packet, in_port = packets.packet()
        aimed = dice.random() < 0.2  # at the rule that is a conjunction everywhere
        while packet[f.ETH_TYPE] == f.ARP or in_port == TUNNEL or (aimed and packet[f.IP_PROTO] != f.TCP):
            packet, in_port = packets.packet()
        packet |= {
            f.LOCAL: dice.choice(identities),
            f.OTHER: dice.choice(identities),
            f.FLAGS: f.INWARD.mask | 0x4001 << 16,
        }
        if aimed or dice.random() < 0.8:
            packet |= tracked(packet, dice)
        if aimed:
            port = {name: world.topology.get("port", name).identity for name in ("b3", "a1")}
            packet |= {f.LOCAL: port["b3"], f.OTHER: port["a1"]}
        table = dice.choice((t.INGRESS_POLICY, t.EGRESS_POLICY, t.POLICY_STATE)).number
        compare(interpreter, bench, packet, in_port, table)
        visits = interpreter.run(packet, in_port, table).visits
        passed += goes_on(visits)
        met += sum(visit.hit is not None and visit.hit.conjunction is not None for visit in visits)
    assert passed > PACKETS / 20 and met > 5, (SEED, passed, met)
    bench.speaker.close()


def goes_on(visits: list[Any]) -> bool:
    """Whether a packet got as far as where a new connection is committed, or beyond."""
    return any(visit.table in (t.POLICY_DONE.number, t.POLICY_EXIT.number) for visit in visits)


@VERSIONS
def test_next_hops_are_those_that_the_switch_hashes(running: Switch, version: int) -> None:
    world, bench = Everything(), Bench(running, version)
    interpreter = bench.load(world.ledger("h1", version))
    vm = world.topology.get("port", "a1")
    slots = set()
    for number in range(60):
        six = number % 3 == 0
        packet = {
            f.ETH_SRC: f.mac(vm.mac_address), f.ETH_DST: world.mac("r-a"), f.ETH_TYPE: f.IPV6 if six else f.IPV4,
            (f.IPV6_SRC if six else f.IPV4_SRC): f.ip("fd00:a::11" if six else "10.0.0.11"),
            (f.IPV6_DST if six else f.IPV4_DST): f.ip(f"2001:db8:9::{number:x}" if six else f"192.0.2.{number}"),
            f.IP_TTL: 64, **({f.IP_PROTO: f.TCP, f.TCP_SRC: 5000 + number, f.TCP_DST: 80} if number % 2 else {f.IP_PROTO: 47}),
        }  # fmt: skip
        traced = bench.trace(packet, vm.port_key)
        [slot] = {int(found, 16) for found in re.findall(r"\breg13=(0x[0-9a-f]+)", traced.text)} or {0}
        hashed = [visit for visit in interpreter.run(packet, vm.port_key).visits if visit.table == t.ECMP.number]
        assert hashed[0].before.get(f.SLOT, 0) == slot, traced.text
        slots.add(slot)
    assert len(slots) > 20
    bench.speaker.close()


def test_failover_follows_the_ports(running: Switch) -> None:
    """A probe's port that goes down takes the gateway's bucket with it, in both."""
    world, bench = Everything(), Bench(running, OF13)
    interpreter = bench.load(world.ledger("h1", OF13))
    vm = world.topology.get("port", "a1")
    packet = {
        f.ETH_SRC: f.mac(vm.mac_address), f.ETH_DST: world.mac("r-a"), f.ETH_TYPE: f.IPV4, f.IPV4_SRC: f.ip("10.0.0.11"),
        f.IPV4_DST: f.ip("8.8.8.8"), f.IP_TTL: 64, f.IP_PROTO: f.TCP, f.TCP_SRC: 5000, f.TCP_DST: 80,
    }  # fmt: skip
    try:
        for down in (set(), {2002}, {2003}, {2002, 2003}):
            for port in (2002, 2003):
                state = "down" if port in down else "up"
                running.appctl("netdev-dummy/set-admin-state", f"bfd{port - 2000}", state)
            interpreter.down = down
            interpreter.connections = AsTraced()
            outcome = interpreter.run(packet | {SIZE: 100}, vm.port_key)
            traced = bench.trace(packet, vm.port_key)
            assert Counter(_towards(outcome)) == traced.tunnels, (down, traced.text)
    finally:
        for port in (2, 3):
            running.appctl("netdev-dummy/set-admin-state", f"bfd{port}", "up")
        bench.speaker.close()
