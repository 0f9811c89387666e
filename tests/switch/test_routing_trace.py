"""What a real switch does with the flows of routers: ``ofproto/trace`` says, packet by packet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

import pytest

from pipelines import tables as t
from pipelines import wire
from pipelines.addresses import link_local
from pipelines.compiler import Compiler
from pipelines.cookies import cookie
from pipelines.ledger import Ledger
from pipelines.punting import Reason
from tests.switch.conftest import Switch
from tests.switch.speaker import Speaker
from tests.switch.test_readback import speaker as speaker
from tests.unit.world import Routed
from topology import scope
from topology.changes import Edit
from topology.model import Bridge, PolicyRoute, StaticRoute

TUNNEL_PORT = 100
A1, B1, B3 = 1, 2, 3
"""OpenFlow ports of VMs on h1."""


class Trace(NamedTuple):
    """Where a packet left, with the fields that it had then, and why it was punted."""

    ports: list[int]
    final: dict[str, str]
    datapath: str
    punted: Reason | None
    text: str


class Bench(Routed):
    """The routed world, on a real switch that stands for h1."""

    def __init__(self, switch: Switch, speaker: Speaker) -> None:
        super().__init__()
        self.port("b3", "b", on="h1", ips=("10.0.1.13", "fd00:b::13"))
        self.plug("a1", "h1", A1)
        self.plug("b1", "h1", B1)
        self.plug("b3", "h1", B3)
        self.apply(Edit("bridge", "h1", Bridge(hypervisor_id="h1", tunnel_ofport=TUNNEL_PORT)))
        self._switch, self._speaker, self._ledger = switch, speaker, Ledger(speaker.version)

    def load(self) -> Ledger:
        """Have the switch do what the world wants of h1."""
        compiler = Compiler()
        for owner in dict.fromkeys(scope.owners_on(self.topology, "h1")):
            self._speaker.apply(self._ledger.put(owner, compiler.compile(self.topology, "h1", owner), cookie(owner)))
        return self._ledger

    def trace(
        self, sender: str, destination: str, more: str = "", *, to: str = "r-a", source: str = "", metered: bool = False
    ) -> Trace:
        """A packet of a VM to the MAC address of an interface; ``more`` begins with the protocol (``icmp,icmp_type=8``).

        A ``metered`` one is a question that its meter has let through: a trace ends where the datapath begins anew.
        """
        port = self.topology.get("port", sender)
        six = ":" in destination
        own = next(fixed.ip_address for fixed in port.fixed_ips if (":" in fixed.ip_address) == six)
        address = "ipv6" if six else "nw"
        protocol, _, rest = (more or ("udp6" if six else "udp")).partition(",")
        flow = (
            f"in_port={self.topology.get('vif', sender).ofport},{protocol},dl_src={port.mac_address},"
            f"dl_dst={self.topology.get('port', to).mac_address},{address}_src={source or own},{address}_dst={destination}"
        )
        flow += f",{rest}" if rest else ""
        flow += "" if "nw_ttl" in rest else ",nw_ttl=64"
        if metered:
            network = self.topology.get("network", port.network_id)
            flow += f",reg1={port.port_key},metadata={network.vni}"
            on = f"resubmit(,{t.PORT_SECURITY.number})"
            return self._read(self._switch.appctl("ofproto/trace-packet-out", self._switch.bridge, flow, on))
        return self._read(self._switch.appctl("ofproto/trace", self._switch.bridge, flow))

    @staticmethod
    def _read(text: str) -> Trace:
        lines = [line.strip() for line in text.splitlines()]
        ports = [
            int(found[1])
            for line, after in zip(lines, [*lines[1:], ""], strict=True)
            if (found := re.fullmatch(r"output:(\d+)", line)) and "skipping output" not in after
        ]
        final = re.search(r"Final flow: (.*)", text)
        fields = dict(item.partition("=")[::2] for item in final[1].split(",")) if final else {}
        asked = [int(found[1], 0) for found in re.finditer(r"(?:set_field|load):(\w+)->(?:reg0|NXM_NX_REG0\[\])", text)]
        punted = Reason(asked[-1]) if "CONTROLLER" in text and asked else None
        return Trace(ports, fields, re.findall(r"Datapath actions: (.*)", text)[-1], punted, text)


@pytest.fixture
def bench(switch: Switch, speaker: Speaker) -> Iterator[Bench]:
    yield Bench(switch, speaker)


@pytest.mark.parametrize("tunnel_type", ["geneve", "vxlan"])
def test_what_routers_want_reads_back(bench: Bench, speaker: Speaker, tunnel_type: str) -> None:
    bench.edit("tunnel-mesh", "mesh", tunnel_type=tunnel_type)
    bench.edit("network", "b", mtu=1300)
    policies = (
        PolicyRoute(priority=1, source="10.0.0.0/24", nexthops=("10.0.1.11", "10.0.1.12")),
        PolicyRoute(priority=2, protocol="tcp", destination_port=25, action="drop"),
    )
    routes = (StaticRoute("2001:db8::/32", "fd00:b::11"), StaticRoute("2001:db8::/32", "fd00:b::13"))
    bench.edit("router", "r", policy_routes=policies, routes=routes)
    ledger = bench.load()
    left = ledger.difference([flow[:2] for flow in speaker.flows()], speaker.groups(), speaker.meters())
    assert not left, [wire.describe(key, body) for key, body in left.flows.items()]


@pytest.mark.parametrize("destination", ["10.0.1.11", "fd00:b::11"])
def test_a_packet_is_routed(bench: Bench, destination: str) -> None:
    bench.load()
    done = bench.trace("a1", destination)
    assert done.ports == [B1], done.text
    assert done.final["nw_ttl"] == "63"
    assert done.final["dl_src"] == bench.topology.get("port", "r-b").mac_address
    assert done.final["dl_dst"] == bench.topology.get("port", "b1").mac_address


def test_a_packet_is_routed_back_out_of_the_port_that_it_came_from(bench: Bench) -> None:
    bench.load()
    done = bench.trace("a1", "10.0.0.11")
    assert done.ports == [A1], done.text
    assert "drop" not in done.datapath


@pytest.mark.parametrize("destination", ["10.0.1.12", "fd00:b::12"])
def test_a_packet_for_another_hypervisor_goes_into_the_tunnel(bench: Bench, destination: str) -> None:
    bench.load()
    done = bench.trace("a1", destination)
    assert done.ports == [TUNNEL_PORT], done.text
    assert (done.final["nw_ttl"], done.final["metadata"], done.final["tun_dst"]) == ("63", "0x2", "192.168.50.2")


@pytest.mark.parametrize(
    ("destination", "packet", "answer"),
    [
        ("10.0.0.1", "icmp,icmp_type=8,icmp_code=0", "icmp_type=0"),
        ("10.0.1.1", "icmp,icmp_type=8,icmp_code=0,nw_ttl=1", "icmp_type=0"),
        ("fd00:a::1", "icmp6,icmpv6_type=128,icmpv6_code=0", "icmp_type=129"),
        ("fd00:b::1", "icmp6,icmpv6_type=128,icmpv6_code=0,nw_ttl=1", "icmp_type=129"),
    ],
)
def test_the_routers_addresses_answer_ping(bench: Bench, destination: str, packet: str, answer: str) -> None:
    bench.load()
    done = bench.trace("a1", destination, packet)
    assert done.ports == [A1], done.text
    six = ":" in destination
    assert done.final["ipv6_src" if six else "nw_src"] == destination
    assert done.final["ipv6_dst" if six else "nw_dst"] == ("fd00:a::11" if six else "10.0.0.11")
    assert done.final["dl_dst"] == bench.topology.get("port", "a1").mac_address
    assert (done.final["icmp_type"], done.final["nw_ttl"]) == (answer.partition("=")[2], "64")


def test_the_link_local_address_answers_ping(bench: Bench) -> None:
    bench.load()
    near, mine = (str(ip_address(link_local(bench.mac(port)))) for port in ("r-a", "a1"))
    done = bench.trace("a1", near, "icmp6,icmpv6_type=128,icmpv6_code=0", source=mine)
    assert done.ports == [A1], done.text
    assert (done.final["icmp_type"], done.final["ipv6_src"], done.final["ipv6_dst"]) == ("129", near, mine)


def test_a_router_advertises_itself_as_one(bench: Bench) -> None:
    bench.load()
    mac = bench.topology.get("port", "a1").mac_address
    more = f"icmp6,icmpv6_type=135,icmpv6_code=0,nd_target=fd00:a::1,nd_sll={mac},nw_ttl=255"
    done = bench.trace("a1", "ff02::1:ff00:1", more, metered=True)
    assert "IN_PORT" in done.text
    assert done.final["icmp_type"] == "136"
    assert "nd_ext(nd_reserved=0xe0000000,nd_options_type=2)" in done.datapath
    assert done.final["nd_tll"] == bench.topology.get("port", "r-a").mac_address


@pytest.mark.parametrize(
    ("destination", "packet", "reason"),
    [
        ("10.0.1.11", "udp,nw_ttl=1", Reason.TTL_EXCEEDED),
        ("fd00:b::11", "udp6,nw_ttl=1", Reason.TTL_EXCEEDED),
        ("192.0.2.1", "udp", Reason.NO_ROUTE),
        ("2001:db8::1", "udp6", Reason.NO_ROUTE),
        ("10.0.1.99", "udp", Reason.HOST_UNREACHABLE),
        ("fd00:b::99", "udp6", Reason.HOST_UNREACHABLE),
        ("10.0.1.1", "udp,udp_dst=33434", Reason.PORT_UNREACHABLE),
        ("fd00:b::1", "udp6,udp_dst=33434,nw_ttl=1", Reason.PORT_UNREACHABLE),
    ],
)
def test_what_cannot_be_is_handed_to_the_controller(
    bench: Bench, destination: str, packet: str, reason: Reason
) -> None:
    bench.load()
    done = bench.trace("a1", destination, packet)
    assert (done.ports, done.punted) == ([], reason), done.text


def test_flows_are_spread_and_taking_a_next_hop_away_moves_its_own_only(bench: Bench) -> None:
    def hops() -> list[int]:
        ports = [bench.trace("a1", "192.0.2.7", f"udp,udp_src={1000 + n},udp_dst=53").ports for n in range(40)]
        assert all(len(each) == 1 for each in ports)
        return [each[0] for each in ports]

    both = tuple(StaticRoute("192.0.2.0/24", hop) for hop in ("10.0.1.11", "10.0.1.12", "10.0.1.13"))
    bench.edit("router", "r", routes=both)
    bench.load()
    before = hops()
    assert set(before) == {B1, B3, TUNNEL_PORT}
    bench.edit("router", "r", routes=both[:2])
    bench.load()
    after = hops()
    assert set(after) == {B1, TUNNEL_PORT}
    assert all(one == other for one, other in zip(before, after, strict=True) if one != B3)


def test_a_packet_that_does_not_fit_the_next_network_is_told(bench: Bench) -> None:
    bench.edit("network", "b", mtu=1000)
    bench.load()
    done = bench.trace("a1", "10.0.1.11")
    [size] = re.findall(r"check_pkt_len\(size=(\d+)", done.datapath)
    assert size == "1014"
    assert f"set_field:{int(Reason.TOO_BIG):#x}->reg0" in done.text.replace("load:", "set_field:").replace(
        "NXM_NX_REG0[]", "reg0"
    ), done.text
    assert "check_pkt_len" not in bench.trace("b1", "10.0.0.11", to="r-b").datapath


def test_a_chain_of_routers(bench: Bench) -> None:
    bench.network("x", 8, "10.0.8.0/24")
    bench.network("y", 9, "10.0.9.0/24")
    bench.interface("r", "x", "10.0.8.1")
    bench.router("s", "y")
    bench.interface("s", "x", "10.0.8.2")
    bench.port("y1", "y", ips=("10.0.9.11",))
    bench.plug("y1", "h1", 4)
    bench.edit("router", "r", routes=(StaticRoute("10.0.9.0/24", "10.0.8.2"),))
    bench.load()
    done = bench.trace("a1", "10.0.9.11")
    assert (done.ports, done.final["nw_ttl"]) == ([4], "62"), done.text
    assert bench.trace("a1", "10.0.9.11", "udp,nw_ttl=2").punted == Reason.TTL_EXCEEDED


def test_policies_and_what_is_never_routed(bench: Bench) -> None:
    drop = PolicyRoute(priority=1, protocol="tcp", destination_port=25, action="drop")
    other = PolicyRoute(priority=2, source="10.0.0.0/24", protocol="udp", destination_port=53, nexthops=("10.0.1.13",))
    bench.edit("router", "r", policy_routes=(drop, other), routes=(StaticRoute("0.0.0.0/0", "10.0.1.13"),))
    bench.load()
    assert bench.trace("a1", "10.0.1.11", "tcp,tcp_dst=25").datapath == "drop"
    assert bench.trace("a1", "10.0.1.11", "tcp,tcp_dst=80").ports == [B1]
    assert bench.trace("a1", "10.0.1.11", "udp,udp_dst=53").ports == [B3]
    assert bench.trace("a1", "169.254.1.1", "tcp").datapath == "drop"
    assert bench.trace("a1", "224.0.0.9", "udp").datapath == "drop"


def test_every_table_that_routers_use_is_met(bench: Bench) -> None:
    bench.load()
    met = {int(number) for number in re.findall(r"^\s*(\d+)\. ", bench.trace("a1", "10.0.1.11").text, re.M)}
    walk = (t.ROUTER_ADMIT, t.ROUTER_NAT, t.ROUTER_LOCAL, t.POLICY_ROUTE, t.ROUTE, t.SNAT, t.NEIGHBOUR, t.L2_LOOKUP)
    assert met >= {table.number for table in walk}
