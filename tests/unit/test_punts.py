"""Packets that switches punt, and what the controller sends in return: OpenFlow messages in, frames out."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import dns.message
import dns.rdatatype
import eventlet
import pytest

from novanet_apps.compat import CONF
from novanet_apps.compat.errors import ConfigurationError
from novanet_apps.histogram import Histogram
from novanet_apps.punts import Punts, through
from novanet_apps.responders import addressing, forwarders, names, zones
from novanet_apps.responders.addressing import Addressing
from novanet_apps.responders.errors import IcmpErrors
from novanet_apps.responders.names import Names
from novanet_apps.rest.metrics import exposition
from pipelines import fields as f
from pipelines import punting, switching, tables
from pipelines.flow import (
    CONTROLLER,
    IN_PORT_RESERVED,
    Flow,
    Group,
    Meter,
    group,
    match,
    output,
    resubmit,
    set_bits,
    set_field,
)
from pipelines.packets import dhcp4, frames, icmp
from pipelines.placement import placed
from pipelines.punting import Reason
from pipelines.services import RESOLVER, RESOLVER6, SERVICE_MAC
from topology.changes import Edit
from topology.model import TunnelMesh
from topology.mtu import max_mtu, overhead

from .test_packets_dhcp4 import request
from .test_packets_dhcp6 import message
from .test_packets_ra import solicitation
from .world import World

IN_PORT = 7


class FakeEngine:
    """The flow engine's edge: gives packet-ins, and keeps packet-outs."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, tuple[bytes, ...], int]] = []
        self.take: Callable[[str, bytes], None] = lambda hypervisor, message: None

    def on_packet_in(self, take: Callable[[str, bytes], None]) -> None:
        self.take = take

    def packet_out(self, hypervisor: str, frame: bytes, actions: tuple[bytes, ...], in_port: int) -> bool:
        self.sent.append((hypervisor, frame, tuple(actions), in_port))
        return True


class FakeCore(World):
    """A graph that tells of its changes, and punts above a fake engine. Networks a and b are joined by router r."""

    def __init__(self, **mesh: object) -> None:
        self.listeners: list[Callable[[list[Any]], None]] = []
        super().__init__(**mesh)
        self.engine = FakeEngine()
        self.punts = Punts(self)  # type: ignore[arg-type]
        self.network("a", 1, "10.0.0.0/24", "fd00:a::/64")
        self.network("b", 2, "10.0.1.0/24", "fd00:b::/64")
        self.router("r", "a", "b")
        self.port("web", "a", on="h1", ips=("10.0.0.11", "fd00:a::11"), dns_name="web")
        self.port("db", "b", on="h2", ips=("10.0.1.11", "fd00:b::11"), dns_name="db")

    def apply(self, *edits: Edit) -> list[Any]:
        changes = super().apply(*edits)
        for tell in self.listeners:
            tell(changes)
        return changes

    def subscribe(self, tell: Callable[[list[Any]], None]) -> None:
        self.listeners.append(tell)

    def mac(self, port: str) -> int:
        return f.mac(self.topology.get("port", port).mac_address)

    def punt(self, reason: Reason, frame: bytes, port: str | None = "web", **registers: int) -> list[bytes]:
        """Have the switch punt a frame; the frames that were sent at once."""
        fields = {f.PUNT: int(reason), f.IN_PORT: IN_PORT, f.NETWORK: registers.pop("vni", 1)}
        if port is not None:
            fields[f.IN_PORT_KEY] = self.topology.get("port", port).port_key
        fields |= {getattr(f, name): value for name, value in registers.items()}
        before = len(self.engine.sent)
        self.engine.take("h1", packet_in(frame, fields))
        assert not self.punts.failed
        return [frame for _, frame, _, _ in self.engine.sent[before:]]


def packet_in(data: bytes, values: dict[f.Field, int]) -> bytes:
    """OFPT_PACKET_IN of OpenFlow 1.5 (section 7.4.1)."""
    tlvs = b"".join(field(value) for field, value in values.items())
    size = 4 + len(tlvs)
    match = struct.pack(">HH", 1, size) + tlvs + bytes(-size % 8)
    body = struct.pack(">IHBBQ", 0xFFFFFFFF, len(data), 1, tables.TO_CONTROLLER.number, 0) + match + bytes(2) + data
    return struct.pack(">BBHI", 6, 10, 8 + len(body), 0) + body


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> FakeCore:
    monkeypatch.setattr(addressing, "ADVERTISE_SOON", 0)
    return FakeCore()


def settle() -> None:
    """Let the greenlets run that are due."""
    for _ in range(5):
        eventlet.sleep(0)


# --- dispatch ----------------------------------------------------------------------------------------------------


def test_a_punt_goes_to_who_is_there_for_its_reason(core: FakeCore) -> None:
    seen: list[Any] = []
    core.punts.on(Reason.DNS, seen.append)
    core.punt(Reason.DNS, b"frame", ROUTER=5)
    core.punt(Reason.DHCPV4, b"nobody answers")
    (punt,) = seen
    assert (punt.hypervisor_id, punt.reason, punt.frame) == ("h1", Reason.DNS, b"frame")
    assert (punt.in_port, punt.vni, punt.router_key) == (IN_PORT, 1, 5)
    assert punt.port_key == core.topology.get("port", "web").port_key
    assert core.punts.received == {"DNS": 1}


def test_an_answer_that_fails_harms_no_other(core: FakeCore, caplog: pytest.LogCaptureFixture) -> None:
    def fail(punt: Any) -> None:
        raise RuntimeError("broken")

    core.punts.on(Reason.DNS, fail)
    core.engine.take("h1", packet_in(b"x", {f.PUNT: int(Reason.DNS)}))
    assert core.punts.failed == {"DNS": 1}
    assert "hypervisor h1 (DNS)" in caplog.text


@pytest.mark.parametrize("message", [b"", b"\6\x0a\0\x10" + bytes(12), packet_in(b"x", {})[:-4], packet_in(b"x", {})])
def test_what_cannot_be_read_or_has_no_reason_is_counted(core: FakeCore, message: bytes) -> None:
    core.engine.take("h1", message)
    assert core.punts.unreadable == 1


def test_how_long_answers_take_is_counted_by_reason(core: FakeCore) -> None:
    core.punts.on(Reason.DNS, lambda punt: None)
    for _ in range(3):
        core.punt(Reason.DNS, b"x")
    times = core.punts.times["DNS"]
    assert sum(times.counts) == 3
    assert 0 < times.seconds < 3


def test_a_histogram_reads_as_prometheus_writes_it() -> None:
    times = Histogram()
    for seconds in (10e-6, 20e-6, 160e-6, 2.0):
        times.observe(seconds)
    text = exposition({"novanet_x": ("histogram", "Help.", [({"reason": "dns"}, times)])}).decode()
    lines = text.splitlines()
    assert lines[:2] == ["# HELP novanet_x Help.", "# TYPE novanet_x histogram"]
    values = dict(line.rsplit(" ", 1) for line in lines[2:])
    bounds = ("2e-05", "0.00015", "0.0002", "1", "+Inf")
    found = [values[f'novanet_x_bucket{{reason="dns",le="{bound}"}}'] for bound in bounds]
    assert found == ["2", "2", "3", "3", "4"]
    assert values['novanet_x_count{reason="dns"}'] == "4"
    assert float(values['novanet_x_sum{reason="dns"}']) == pytest.approx(2.00019)


def test_a_reply_goes_back_out_of_the_port_and_others_through_tables(core: FakeCore) -> None:
    def answer(punt: Any) -> None:
        core.punts.reply(punt, b"reply")
        core.punts.route(punt, b"routed")

    core.punts.on(Reason.DNS, answer)
    core.punt(Reason.DNS, b"x", ROUTER=5)
    back, routed = core.engine.sent
    assert back == ("h1", b"reply", (output(IN_PORT_RESERVED),), IN_PORT)
    expected = (
        set_field(f.NETWORK, 1),
        set_bits(f.EXEMPT, 1),
        set_field(f.ROUTER, 5),
        resubmit(tables.ROUTER_NAT.number),
    )
    assert routed == ("h1", b"routed", expected, CONTROLLER)


# --- DHCP and router advertisements ------------------------------------------------------------------------------


@pytest.fixture
def addressed(core: FakeCore) -> FakeCore:
    Addressing(core).start()  # type: ignore[arg-type]
    return core


def discover(core: FakeCore, port: str = "web", **fields: Any) -> dict[int, bytes] | None:
    """The options that a port's client is offered."""
    text = core.topology.get("port", port).mac_address
    vni = core.topology.get("network", core.topology.get("port", port).network_id).vni
    sent = core.punt(Reason.DHCPV4, request(dhcp4.DISCOVER, mac=text, **fields), port, vni=vni)
    if not sent:
        return None
    options = frames.read_udp(sent[0]).payload[240:]
    return dhcp4._options(bytes(240) + options)


def packed(*texts: str) -> bytes:
    return b"".join(ip_address(text).packed for text in texts)


def test_dhcp_is_answered_for_the_port_that_asks(addressed: FakeCore) -> None:
    for port, router in (("web", "10.0.0.1"), ("db", "10.0.1.1")):
        told = discover(addressed, port)
        assert told is not None and told[3] == packed(router)
    assert addressed.engine.sent[-1][2:] == ((output(IN_PORT_RESERVED),), IN_PORT)


def test_a_client_that_lies_about_its_mac_address_is_not_answered(addressed: FakeCore) -> None:
    frame = request(dhcp4.DISCOVER, mac="02:00:00:00:00:99")
    assert addressed.punt(Reason.DHCPV4, frame) == []


def test_an_unknown_port_is_not_answered(addressed: FakeCore) -> None:
    frame = request(dhcp4.DISCOVER, mac=addressed.topology.get("port", "web").mac_address)
    assert addressed.punt(Reason.DHCPV4, frame, port=None, IN_PORT_KEY=4711) == []


def test_renewal_by_unicast_and_refusal_of_a_foreign_address(addressed: FakeCore) -> None:
    mac = addressed.topology.get("port", "web").mac_address
    renewal = request(dhcp4.REQUEST, mac=mac, ip_src="10.0.0.11", ip_dst="10.0.0.1", ciaddr="10.0.0.11")
    (reply,) = addressed.punt(Reason.DHCPV4, renewal)
    assert frames.read_udp(reply).payload[242] == dhcp4.ACK
    foreign = request(dhcp4.REQUEST, (50, packed("10.0.0.77")), mac=mac)
    (reply,) = addressed.punt(Reason.DHCPV4, foreign)
    assert frames.read_udp(reply).payload[242] == dhcp4.NAK


RESOLVERS = packed("169.254.169.253")
CHANGES: dict[str, tuple[Callable[[FakeCore], Any], int, bytes | None]] = {
    "subnet": (lambda core: core.edit("subnet", "a-4", dns_nameservers=("192.0.2.53",)), 6, packed("192.0.2.53")),
    "network": (lambda core: core.edit("network", "a", dns_domain="example.test"), 15, b"example.test"),
    "port": (lambda core: core.edit("port", "web", dns_name="www"), 12, b"www"),
    "router": (lambda core: core.apply(Edit("port", "r-a", None)), 54, packed("169.254.169.254")),
    "mesh": (
        lambda core: core.apply(Edit("tunnel-mesh", "mesh", TunnelMesh(id="mesh", underlay_mtu=9000))),
        26, (9000 - overhead("geneve", 4)).to_bytes(2, "big"),
    ),
    "underlay": (
        lambda core: core.edit("hypervisor", "h3", tunnel_ip="fd50::3"), 26, (1500 - overhead("geneve", 6)).to_bytes(2, "big")
    ),
    "dhcp off": (lambda core: core.edit("subnet", "a-4", enable_dhcp=False), 6, None),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_is_told_from_then_on(addressed: FakeCore, change: str) -> None:
    edit, code, expected = CHANGES[change]
    before = discover(addressed)
    assert before is not None and before[code] != expected
    edit(addressed)
    after = discover(addressed)
    assert (after and after[code]) == expected


def test_a_vm_that_comes_to_have_the_gateway_address_is_told_to_the_others(addressed: FakeCore) -> None:
    addressed.apply(Edit("port", "r-a", None))
    servers = []
    for edit in (
        lambda: None,
        lambda: addressed.port("vm", "a", ips=("10.0.0.1",)),
        lambda: addressed.edit("port", "vm", fixed_ips=()),
    ):
        edit()
        told = discover(addressed)
        servers.append(told and told[54])
    assert servers == [packed(server) for server in ("169.254.169.254", "10.0.0.1", "169.254.169.254")]


def test_answers_are_prepared_once_and_kept_while_others_change(
    addressed: FakeCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    plan, prepare = addressing._MADE[Reason.DHCPV4]
    counted = lambda topology, port: (made.append(port.id), plan(topology, port))[1]  # noqa: E731
    monkeypatch.setitem(addressing._MADE, Reason.DHCPV4, (counted, prepare))
    for _ in range(3):
        discover(addressed)
        discover(addressed, "db")
    assert made == ["web", "db"]
    addressed.port("new", "a", on="h1", ips=("10.0.0.12",))
    addressed.edit("subnet", "b-4", dns_nameservers=("192.0.2.53",))
    addressed.edit("port", "new", dns_name="x")
    discover(addressed)
    discover(addressed, "db")
    assert made == ["web", "db", "db"]


def test_dhcpv6_is_answered(addressed: FakeCore) -> None:
    duid = (1, b"\0\3\0\1" + bytes(6))
    frame = message(1, duid, (3, bytes(12)))
    (reply,) = addressed.punt(Reason.DHCPV6, frame)
    assert packed("fd00:a::11") in reply
    addressed.edit("subnet", "a-6", ipv6_address_mode="slaac")
    assert addressed.punt(Reason.DHCPV6, frame) == []


def test_a_solicitation_is_answered_in_the_routers_name(addressed: FakeCore) -> None:
    (reply,) = addressed.punt(Reason.ROUTER_SOLICITATION, solicitation())
    told = frames.read_icmp(reply)
    assert (told.type, told.ethernet.src) == (134, addressed.mac("r-a"))
    addressed.edit("router", "r", admin_state_up=False)
    (reply,) = addressed.punt(Reason.ROUTER_SOLICITATION, solicitation())
    assert frames.read_icmp(reply).ethernet.src == SERVICE_MAC


def advertised(core: FakeCore) -> list[tuple[str, int, int]]:
    """(hypervisor, source MAC, lifetime) of every advertisement sent to all VMs of network a; then they are forgotten."""
    here_only = through(tables.FLOOD, 1, (set_bits(f.FROM_TUNNEL, 1),))
    told = [
        (hypervisor, frames.read_icmp(frame))
        for hypervisor, frame, actions, _ in core.engine.sent
        if actions == here_only
    ]
    core.engine.sent.clear()
    return [(where, each.ethernet.src, int.from_bytes(each.body[2:4], "big")) for where, each in told]


def test_hosts_hear_of_a_new_router_and_of_the_old_ones_end(addressed: FakeCore) -> None:
    addressed.port("far", "a", on="h3", ips=("10.0.0.13",))
    old = addressed.mac("r-a")
    addressed.edit("subnet", "a-6", dns_nameservers=("2001:db8::53",))
    settle()
    assert sorted(advertised(addressed)) == [("h1", old, 1800), ("h3", old, 1800)]
    addressed.apply(Edit("port", "r-a", None))
    settle()
    told = advertised(addressed)
    assert [(each[1], each[2]) for each in told if each[0] == "h1"] == [(SERVICE_MAC, 0), (old, 0)]
    addressed.interface("r", "a")
    settle()
    assert ("h1", addressed.mac("r-a"), 1800) in advertised(addressed)


def test_several_changes_are_told_once(addressed: FakeCore) -> None:
    for n in range(5):
        addressed.edit("subnet", "a-6", dns_nameservers=(f"2001:db8::{n + 1}",))
    settle()
    assert len(advertised(addressed)) == 1


def test_hosts_are_told_again_and_again(addressed: FakeCore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addressing, "ADVERTISE_EVERY", 0.01)
    eventlet.sleep(0)
    told: set[str] = set()
    with eventlet.Timeout(5):
        Addressing(addressed).start()  # type: ignore[arg-type]
        while len(addressed.engine.sent) < 6:
            eventlet.sleep(0.01)
    told = {hypervisor for hypervisor, *_ in addressed.engine.sent}
    assert told == {"h1", "h2"}, "each network where it has VMs"


# --- names -------------------------------------------------------------------------------------------------------


@pytest.fixture
def named(core: FakeCore) -> FakeCore:
    Names(core).start()  # type: ignore[arg-type]
    return core


def ask(core: FakeCore, name: str, kind: str = "A", *, port: str = "web", version: int = 4, **options: Any) -> Any:
    """The response to a query, None when there is none yet."""
    query = dns.message.make_query(name, kind, **options)
    sent = core.punt(Reason.DNS, asking(query.to_wire(), core.mac(port), version), port, vni=_vni(core, port))
    return response(sent[0]) if sent else None


def asking(payload: bytes, mac: int, version: int = 4) -> bytes:
    if version == 4:
        packet = frames.udp4(f.ip("10.0.0.11"), RESOLVER, 4242, 53, payload)
        return frames.ethernet(SERVICE_MAC, mac, f.IPV4, packet)
    packet = frames.udp6(f.ip("fd00:a::11"), RESOLVER6, 4242, 53, payload)
    return frames.ethernet(SERVICE_MAC, mac, f.IPV6, packet)


def _vni(core: FakeCore, port: str) -> int:
    return core.topology.get("network", core.topology.get("port", port).network_id).vni


def response(frame: bytes) -> Any:
    datagram = frames.read_udp(frame)
    assert (datagram.src_port, datagram.dst_port) == (53, 4242)
    assert datagram.ip.src in (RESOLVER, RESOLVER6)
    return dns.message.from_wire(datagram.payload)


def said(answer: Any) -> tuple[str, list[str]]:
    """Response code and data."""
    texts = sorted(item.to_text() for rrset in answer.answer for item in rrset)
    return dns.rcode.to_text(answer.rcode()), texts


def test_names_of_the_own_network_in_both_directions(named: FakeCore) -> None:
    assert said(ask(named, "web.internal")) == ("NOERROR", ["10.0.0.11"])
    assert said(ask(named, "web", "AAAA", version=6)) == ("NOERROR", ["fd00:a::11"])
    assert said(ask(named, "11.0.0.10.in-addr.arpa", "PTR")) == ("NOERROR", ["web.internal."])
    assert said(ask(named, "host-10-0-0-12.internal"))[0] == "NXDOMAIN"
    assert said(ask(named, "www.example.org"))[0] == "REFUSED"


def test_names_of_networks_that_a_router_joins(named: FakeCore) -> None:
    assert said(ask(named, "db.internal")) == ("NOERROR", ["10.0.1.11"])
    assert said(ask(named, "web.internal", port="db")) == ("NOERROR", ["10.0.0.11"])
    named.edit("network", "b", dns_domain="data.test")
    assert said(ask(named, "db.data.test")) == ("NOERROR", ["10.0.1.11"])
    assert said(ask(named, "nobody.data.test"))[0] == "NXDOMAIN"
    assert said(ask(named, "db.internal"))[0] == "NXDOMAIN"
    assert said(ask(named, "11.1.0.10.in-addr.arpa", "PTR")) == ("NOERROR", ["db.data.test."])


def test_the_own_network_comes_first(named: FakeCore) -> None:
    named.port("web2", "b", ips=("10.0.1.12",), dns_name="web")
    assert said(ask(named, "web.internal"))[1] == ["10.0.0.11"]
    assert said(ask(named, "web.internal", port="db"))[1] == ["10.0.1.12"]


def test_networks_that_no_router_joins_know_nothing_of_each_other(named: FakeCore) -> None:
    assert said(ask(named, "db.internal"))[1]
    named.apply(Edit("port", "r-b", None))
    assert said(ask(named, "db.internal"))[0] == "NXDOMAIN"


def test_zones_follow_ports_networks_and_subnets(named: FakeCore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(ask(named, "web.internal"))[1] == ["10.0.0.11"]
    monkeypatch.setattr(zones.dns, "Zone", None)  # no zone is made anew for what follows
    named.edit("port", "web", dns_name="www")
    assert said(ask(named, "www.internal"))[1] == ["10.0.0.11"]
    assert said(ask(named, "11.0.0.10.in-addr.arpa", "PTR"))[1] == ["www.internal."]
    named.port("more", "a", ips=("10.0.0.12",))
    assert said(ask(named, "host-10-0-0-12.internal"))[1] == ["10.0.0.12"]
    named.edit("port", "more", fixed_ips=())
    named.apply(Edit("vif", "web", None), Edit("port", "web", None))
    monkeypatch.undo()
    for gone in ("www.internal", "web.internal", "host-10-0-0-12.internal"):
        assert said(ask(named, gone, port="db"))[0] == "NXDOMAIN", gone
    assert said(ask(named, "1.0.9.10.in-addr.arpa", "PTR", port="db"))[0] == "REFUSED"
    named.subnet("b-4b", "b", "10.9.0.0/24")
    assert said(ask(named, "1.0.9.10.in-addr.arpa", "PTR", port="db"))[0] == "NXDOMAIN"


def test_a_router_has_no_name(named: FakeCore) -> None:
    assert said(ask(named, "1.0.0.10.in-addr.arpa", "PTR"))[0] == "NXDOMAIN"


def test_a_name_that_cannot_be_is_left_out_and_the_others_stay(
    named: FakeCore, caplog: pytest.LogCaptureFixture
) -> None:
    domain = ".".join(["d" * 60] * 4)
    named.edit("network", "a", dns_domain=domain)
    named.port("long", "a", ips=("10.0.0.14",), dns_name="h" * 60)
    assert said(ask(named, f"web.{domain}"))[1] == ["10.0.0.11"]
    assert "port long cannot be found by name" in caplog.text


def test_a_large_zone_is_filled_in_slices_and_the_question_answered_then(
    named: FakeCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zones, "SLICE", 0)
    monkeypatch.setattr(zones, "LOOK_EVERY", 4)
    for n in range(20, 40):
        named.port(f"p{n}", "a", ips=(f"10.0.0.{n}",), dns_name=f"vm{n}")
    assert ask(named, "vm39.internal") is None
    assert ask(named, "vm20.internal") is None
    named.edit("port", "p39", dns_name="renamed")
    named.apply(Edit("port", "p38", None))
    eventlet.sleep(0.05)
    answers = [response(frame) for _, frame, _, _ in named.engine.sent]
    told = {answer.question[0].name.to_text(): said(answer) for answer in answers}
    assert (told["vm39.internal."][0], told["vm20.internal."]) == ("NXDOMAIN", ("NOERROR", ["10.0.0.20"]))
    assert said(ask(named, "renamed.internal"))[1] == ["10.0.0.39"]
    assert said(ask(named, "vm38.internal"))[0] == "NXDOMAIN"


def test_a_zone_forgotten_while_it_is_filled_is_made_anew(named: FakeCore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zones, "SLICE", 0)
    monkeypatch.setattr(zones, "LOOK_EVERY", 4)
    for n in range(20, 40):
        named.port(f"p{n}", "a", ips=(f"10.0.0.{n}",), dns_name=f"vm{n}")
    assert ask(named, "vm39.example.test") is None
    eventlet.sleep(0)
    named.edit("network", "a", dns_domain="example.test")
    eventlet.sleep(0.05)
    assert said(response(named.engine.sent[-1][1])) == ("NOERROR", ["10.0.0.39"])


@pytest.mark.parametrize("payload", [b"", b"\0" * 11, b"\0\0\x80\0" + bytes(8)])
def test_what_is_no_query_is_not_answered(named: FakeCore, payload: bytes) -> None:
    assert named.punt(Reason.DNS, asking(payload, named.mac("web"))) == []


# --- asking elsewhere --------------------------------------------------------------------------------------------


class Upstream(threading.Thread):
    """A DNS server on loopback that answers every A query with 192.0.2.80, after as many lies as it is told to tell."""

    def __init__(self, host: str = "127.0.0.1", lies: bool = False) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        port = self.socket.getsockname()[1]
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.lies, self.asked = lies, list[Any]()
        self.start()

    def run(self) -> None:
        while True:
            payload, client = self.socket.recvfrom(4096)
            if not payload:
                return
            query = dns.message.from_wire(payload)
            self.asked.append(query)
            made = dns.message.make_response(query, recursion_available=True)
            made.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.80"))
            if self.lies:
                made.id ^= 1
                self.socket.sendto(made.to_wire(), client)
                made.id ^= 1
            self.socket.sendto(made.to_wire(), client)

    def stop(self) -> None:
        self.socket.sendto(b"", self.socket.getsockname())
        self.join()
        self.socket.close()


@pytest.fixture(params=["127.0.0.1", "::1"])
def upstream(request: pytest.FixtureRequest) -> Iterator[Upstream]:
    server = Upstream(request.param, lies=True)
    yield server
    server.stop()


def forwarding(core: FakeCore, monkeypatch: pytest.MonkeyPatch, *servers: str) -> FakeCore:
    monkeypatch.setattr(forwarders, "PATIENCE", 0.2)
    monkeypatch.setattr(names, "CONF", type("Conf", (), {"dns_forwarders": list(servers)}))
    Names(core).start()  # type: ignore[arg-type]
    return core


def later(core: FakeCore, answers: int = 1) -> list[Any]:
    """The responses that were sent, once there are so many."""
    with eventlet.Timeout(5):
        while len(core.engine.sent) < answers:
            eventlet.sleep(0.005)
    return [response(frame) for _, frame, _, _ in core.engine.sent]


def test_forwarding_is_off_by_default() -> None:
    assert CONF.dns_forwarders == []


def test_foreign_names_are_asked_of_the_forwarder(
    core: FakeCore, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwarding(core, monkeypatch, upstream.name)
    assert said(ask(core, "web.internal"))[1] == ["10.0.0.11"]
    assert said(ask(core, "nobody.internal"))[0] == "NXDOMAIN"
    core.engine.sent.clear()
    assert ask(core, "WWW.example.org", id=77) is None
    (answer,) = later(core)
    assert (answer.id, said(answer)) == (77, ("NOERROR", ["192.0.2.80"]))
    assert answer.flags & dns.flags.RA
    (query,) = upstream.asked
    assert query.question[0].name.to_text() == "WWW.example.org."


def test_a_forwarder_is_told_the_question_only_and_how_much_fits(
    core: FakeCore, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwarding(core, monkeypatch, upstream.name)
    cookie = dns.edns.GenericOption(10, b"12345678")
    ask(core, "www.example.org", use_edns=0, payload=4096, want_dnssec=True, options=[cookie])
    later(core)
    (query,) = upstream.asked
    assert (query.payload, query.options, bool(query.ednsflags & dns.flags.DO)) == (1232, (), True)


def test_the_next_forwarder_is_asked_when_one_is_silent(
    core: FakeCore, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        forwarding(core, monkeypatch, f"127.0.0.1:{silent.getsockname()[1]}", upstream.name)
        ask(core, "www.example.org")
        assert said(later(core)[0]) == ("NOERROR", ["192.0.2.80"])


def test_when_no_forwarder_answers_the_vm_is_told(core: FakeCore, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        forwarding(core, monkeypatch, f"127.0.0.1:{silent.getsockname()[1]}")
        ask(core, "www.example.org")
        assert said(later(core)[0])[0] == "SERVFAIL"


def test_one_vm_cannot_take_all_that_may_be_asked_at_a_time(core: FakeCore, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        forwarding(core, monkeypatch, f"127.0.0.1:{silent.getsockname()[1]}")
        waiting = [ask(core, f"n{n}.example.org") for n in range(forwarders.AT_ONCE_FOR_ONE)]
        assert waiting == [None] * forwarders.AT_ONCE_FOR_ONE
        assert said(ask(core, "more.example.org"))[0] == "SERVFAIL"
        assert core.punts.refused == {"DNS": 1}
        assert ask(core, "www.example.org", port="db") is None
        later(core, forwarders.AT_ONCE_FOR_ONE + 2)
        assert ask(core, "again.example.org") is None


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.53", "192.0.2.53", 53),
        ("192.0.2.53:5353", "192.0.2.53", 5353),
        ("2001:db8::53", "2001:db8::53", 53),
        ("[2001:db8::53]", "2001:db8::53", 53),
        ("[2001:db8::53]:5353", "2001:db8::53", 5353),
    ],
)
def test_forwarders_are_written_so(text: str, address: str, port: int) -> None:
    assert forwarders.parse_server(text) == (address, port)


@pytest.mark.parametrize(
    "text",
    ["", "dns.example", "192.0.2.53:0", "192.0.2.53:65536", "192.0.2.53:", "[192.0.2.53]:53", "[::1", "::1]:53",
     "0.0.0.0", "ff02::1", "1.2.3", "192.0.2.53:53:53"],
)  # fmt: skip
def test_other_texts_are_no_forwarder(text: str) -> None:
    with pytest.raises(ConfigurationError, match="dns_forwarders"):
        forwarders.Forwarders([text])


# --- ICMP errors -------------------------------------------------------------------------------------------------

OUTSIDE, OUTSIDE6 = f.ip("192.0.2.1"), f.ip("2001:db8::1")
MAC, ROUTER_MAC = 0x020000000011, 0x020000000099


@pytest.fixture
def erring(core: FakeCore) -> FakeCore:
    IcmpErrors(core).start()  # type: ignore[arg-type]
    return core


def datagram(version: int = 4, size: int = 20) -> bytes:
    if version == 4:
        return frames.ethernet(ROUTER_MAC, MAC, f.IPV4, frames.udp4(f.ip("10.0.0.11"), OUTSIDE, 1, 2, bytes(size)))
    return frames.ethernet(ROUTER_MAC, MAC, f.IPV6, frames.udp6(f.ip("fd00:a::11"), OUTSIDE6, 1, 2, bytes(size)))


ERRORS = [
    (Reason.TTL_EXCEEDED, 4, (11, 0), "10.0.0.1"),
    (Reason.TTL_EXCEEDED, 6, (3, 0), "fd00:a::1"),
    (Reason.NO_ROUTE, 4, (3, 0), "10.0.0.1"),
    (Reason.NO_ROUTE, 6, (1, 0), "fd00:a::1"),
    (Reason.HOST_UNREACHABLE, 4, (3, 1), "10.0.0.1"),
    (Reason.HOST_UNREACHABLE, 6, (1, 3), "fd00:a::1"),
    (Reason.PORT_UNREACHABLE, 4, (3, 3), "192.0.2.1"),
    (Reason.PORT_UNREACHABLE, 6, (1, 4), "2001:db8::1"),
    (Reason.TOO_BIG, 4, (3, 4), "10.0.0.1"),
    (Reason.TOO_BIG, 6, (2, 0), "fd00:a::1"),
]


@pytest.mark.parametrize(("reason", "version", "kind", "source"), ERRORS)
def test_a_router_says_why_a_packet_does_not_go_on(
    erring: FakeCore, reason: Reason, version: int, kind: tuple[int, int], source: str
) -> None:
    key = erring.topology.get("router", "r").router_key
    (reply,) = erring.punt(reason, datagram(version), ROUTER=key)
    error = frames.read_icmp(reply)
    assert (error.type, error.code, error.ip.src) == (*kind, f.ip(source))
    assert error.ip.dst == f.ip("10.0.0.11" if version == 4 else "fd00:a::11")
    assert error.body[4:] == datagram(version)[14:]
    assert erring.engine.sent[-1][2][-1] == resubmit(tables.ROUTER_NAT.number)


def test_the_source_is_the_routers_address_where_the_packet_was(erring: FakeCore) -> None:
    key = erring.topology.get("router", "r").router_key
    (reply,) = erring.punt(Reason.TTL_EXCEEDED, datagram(), ROUTER=key, vni=2)
    assert frames.read_icmp(reply).ip.src == f.ip("10.0.1.1")


def test_tcp_to_the_router_is_reset(erring: FakeCore) -> None:
    segment = frames.tcp(4, f.ip("10.0.0.11"), f.ip("10.0.0.1"), 1234, 80, 100, 0, 2)
    frame = frames.ethernet(erring.mac("r-a"), MAC, f.IPV4, segment)
    key = erring.topology.get("router", "r").router_key
    (reply,) = erring.punt(Reason.PORT_UNREACHABLE, frame, ROUTER=key)
    packet = frames.read_ip(frames.read_ethernet(reply))
    assert (packet.protocol, packet.src, packet.payload[13]) == (f.TCP, f.ip("10.0.0.1"), 0x14)
    again = frames.ethernet(erring.mac("r-a"), MAC, f.IPV4, segment[:33] + b"\4" + segment[34:])
    assert erring.punt(Reason.PORT_UNREACHABLE, again, ROUTER=key) == [], "a reset is not answered"


def mtu_of(frame: bytes) -> int:
    error = frames.read_icmp(frame)
    return int.from_bytes(error.body[:4], "big")


@pytest.mark.parametrize("version", [4, 6])
def test_where_nobody_routes_the_destination_itself_names_the_tunnels_mtu(erring: FakeCore, version: int) -> None:
    (reply,) = erring.punt(Reason.TOO_BIG, datagram(version, 1450), PEER=2)
    error = frames.read_icmp(reply)
    assert error.ip.src == (OUTSIDE if version == 4 else OUTSIDE6)
    assert (error.ethernet.src, error.ethernet.dst) == (ROUTER_MAC, MAC)
    assert mtu_of(reply) == max_mtu(erring.topology.mesh, 4)
    assert erring.engine.sent[-1][2:] == ((output(IN_PORT_RESERVED),), IN_PORT)


def test_a_host_on_the_wire_is_told_there(erring: FakeCore) -> None:
    erring.punt(Reason.TOO_BIG, datagram(4, 1450), port=None, FLAGS=f.FROM_PROVIDER.mask, PEER=2)
    assert erring.engine.sent[-1][2] == through(tables.PROVIDER_OUTPUT, 1)


def test_the_mtu_is_that_of_the_network_or_of_the_tunnel_on_the_way(erring: FakeCore) -> None:
    key = erring.topology.get("router", "r").router_key
    erring.edit("network", "b", mtu=1300)
    (reply,) = erring.punt(Reason.TOO_BIG, datagram(4, 1450), ROUTER=key, vni=2)
    assert mtu_of(reply) == 1300
    (reply,) = erring.punt(Reason.TOO_BIG, datagram(4, 1450), ROUTER=key, vni=2, PEER=2)
    assert mtu_of(reply) == max_mtu(erring.topology.mesh, 4)


@pytest.mark.parametrize("reason", [Reason.NO_ROUTE, Reason.TOO_BIG])
@pytest.mark.parametrize("version", [4, 6])
def test_errors_are_not_answered_with_errors(erring: FakeCore, reason: Reason, version: int) -> None:
    key = erring.topology.get("router", "r").router_key
    offence = icmp.unreachable(
        datagram(version), icmp.Unreachable.HOST, ROUTER_MAC, OUTSIDE if version == 4 else OUTSIDE6
    )
    assert offence is not None
    assert erring.punt(reason, offence, ROUTER=key) == []


def test_what_is_no_ip_is_not_answered(erring: FakeCore) -> None:
    key = erring.topology.get("router", "r").router_key
    for frame in (b"", bytes(14), datagram()[:20], frames.ethernet(1, 2, f.ARP, bytes(28))):
        assert erring.punt(Reason.TTL_EXCEEDED, frame, ROUTER=key) == []


# --- what a VM may cost ------------------------------------------------------------------------------------------


def test_punts_and_questions_of_each_vm_have_meters_of_their_own() -> None:
    world = World()
    world.network("a", 1)
    world.port("one", "a", on="h1")
    world.port("two", "a", on="h1")
    world.port("far", "a", on="h2")
    seen = {port: placed(world.topology, "h1", port) for port in ("one", "two", "far")}
    rules = [rule for port in seen.values() for rule in punting.port(world.topology, "h1", port)]
    meters = {rule.id: rule for rule in rules if isinstance(rule, Meter)}
    flows = [rule for rule in rules if isinstance(rule, Flow)]
    numbers = [world.topology.get("vif", port).ofport for port in ("one", "two")]
    assert set(meters) == {*numbers, *(punting.QUESTION_METERS | number for number in numbers)}
    for port, number in zip(("one", "two"), numbers, strict=True):
        key = world.topology.get("port", port).port_key
        (punted,) = (flow for flow in flows if flow.table == tables.PUNT.number and flow.meter == number)
        assert punted.match == match(f.IN_PORT_KEY(key))
        asked = [flow for flow in flows if flow.meter == punting.QUESTION_METERS | number]
        assert {flow.table for flow in asked} == {tables.CLASSIFY.number}
        assert {flow.match for flow in asked} == {match(f.IN_PORT(number), f.ASKS(1))}
        (ordinary,) = (
            rule for rule in switching.port(world.topology, "h1", seen[port]) if rule.table == tables.CLASSIFY.number
        )
        assert all(flow.priority > ordinary.priority for flow in asked)
        assert {flow.actions for flow in asked} == {
            (set_field(f.IN_PORT_KEY, key), set_field(f.NETWORK, 1), group(punting.BEGIN_ANEW))
        }


def test_a_question_that_its_meter_lets_through_goes_on_as_any_packet_of_the_port() -> None:
    (anew,) = (rule for rule in punting.base(World().topology, "h1", "h1") if isinstance(rule, Group))
    (bucket,) = anew.buckets
    assert (anew.id, anew.kind, bucket.weight) == (punting.BEGIN_ANEW, "select", 1), "nothing goes to a weight of 0"
    assert bucket.actions == (resubmit(tables.LIMIT.number),)
