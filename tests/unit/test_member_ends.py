"""Members that end: which packets of theirs the switch asks about, what it is told, and what it is to forget unasked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from novanet_apps.flow_engine.counters import Counters
from novanet_apps.flow_engine.forgetting import Forgetting
from novanet_apps.member_ends import MemberEnds
from novanet_apps.responders.lost_members import LostMembers
from pipelines import fields as f
from pipelines import tables as t
from pipelines.flow import Flow, match, output, resubmit, set_field
from pipelines.interpreter import Interpreter
from pipelines.packets import frames
from pipelines.punting import Reason
from pipelines.wire import OF13, OF15, Error, Tracked, Tuple, ct_flush
from topology.changes import Edit
from topology.model import HealthMonitor, Listener, LoadBalancer, Member, Pool

from .test_balancing import Balanced
from .test_load_balancing import flows
from .test_punts import IN_PORT, FakeCore, FakeEngine

VIP, CLIENT, MEMBER = "10.0.0.100", "10.0.0.11", "10.0.1.11"

# --- what the switch asks about ----------------------------------------------------------------------------------


def asked(world: Balanced, protocol: int, mark: int = 99, **more: int) -> str:
    """Why a packet of a known connection is punted from ``lb_forward``; empty when it is not."""
    rules: list[Any] = [flow for flow in flows(world, "h1") if flow.table == t.LB_FORWARD.number]
    rules += [Flow(t.PUNT.number, 1, match(f.PUNT(int(reason))), (output(int(reason)),)) for reason in Reason]
    packet = {
        f.ETH_TYPE: f.IPV4, f.IP_PROTO: protocol, f.BALANCER: 7, f.CT_MARK: mark, f.CT_NW_PROTO: protocol, f.CT_TP_DST: 80,
        f.CT_STATE: f.CT_TRACKED | f.CT_ESTABLISHED | f.CT_DNAT,
        **{getattr(f, name): value for name, value in more.items()},
    }  # fmt: skip
    ports = Interpreter.of(rules).run(packet, 1, t.LB_FORWARD.number).ports
    return Reason(ports[0]).name if ports else ""


@pytest.fixture
def world() -> Balanced:
    world = Balanced()
    world.listener("l", 80, default_pool_id="p")
    return world


def test_connections_of_nobody_are_asked_about(world: Balanced) -> None:
    assert asked(world, f.TCP, TCP_FLAGS=0x10) == "MEMBER_GONE"
    assert asked(world, f.TCP, TCP_FLAGS=0x02) == "ANOTHER_MEMBER"
    assert asked(world, f.UDP) == "ANOTHER_MEMBER"
    assert asked(world, f.UDP, IP_FRAG=1) == "ANOTHER_MEMBER"
    assert asked(world, f.UDP, IP_FRAG=3) == "", "a later fragment does not tell its connection"
    assert asked(world, f.ICMP) == ""
    assert asked(world, f.TCP, CT_STATE=f.CT_TRACKED | f.CT_REPLY) == "", "not a client's"


@pytest.mark.parametrize("fields", [{"admin_state_up": False}, {"weight": 0, "drain_until": 0}, {"health": "down"}])
def test_those_of_a_member_are_while_it_keeps_none(world: Balanced, fields: dict[str, Any]) -> None:
    world.apply(Edit("health-monitor", "h", HealthMonitor(id="h", pool_id="p", type="TCP", delay=5, timeout=5)))
    key, before = world.topology.get("member", "m1").member_key, world.topology.get("member", "m1")
    assert asked(world, f.TCP, key, NETWORK=1) == ""
    world.edit("member", "m1", **fields)
    assert asked(world, f.TCP, key, NETWORK=1) == "MEMBER_GONE"
    world.apply(Edit("member", "m1", before))
    assert asked(world, f.TCP, key, NETWORK=1) == ""


def test_a_pool_may_have_them_dropped_but_for_those_that_begin(world: Balanced) -> None:
    world.edit("pool", "p", on_member_down="drop")
    assert asked(world, f.TCP, TCP_FLAGS=0x10) == ""
    assert asked(world, f.TCP, TCP_FLAGS=0x10, CT_TP_DST=81) == "MEMBER_GONE", "another service"
    assert asked(world, f.TCP, TCP_FLAGS=0x10, BALANCER=8) == "MEMBER_GONE", "another load balancer"
    assert asked(world, f.TCP, TCP_FLAGS=0x02) == "ANOTHER_MEMBER"


def test_flows_are_as_their_table_declares(world: Balanced) -> None:
    world.edit("pool", "p", on_member_down="drop")
    for flow in flows(world, "h1"):
        t.check(flow)


# --- what it is told ---------------------------------------------------------------------------------------------


class Engine(FakeEngine):
    def __init__(self) -> None:
        super().__init__()
        self.forgotten: list[tuple[str, int | None, Tracked]] = []
        self.able = True

    def forget_connections(self, hypervisor: str, zone: int | None, match: Tracked) -> bool:
        self.forgotten.append((hypervisor, zone, match))
        return self.able


class Core(FakeCore):
    """The VM web (10.0.0.11) is a client of a load balancer in its network, whose only member is db (10.0.1.11)."""

    def __init__(self) -> None:
        super().__init__()
        fields = {"vip_network_id": "a", "vip_subnet_id": "a-4", "vip_address": VIP}
        self.apply(
            Edit("load-balancer", "lb", LoadBalancer(id="lb", balancer_key=7, **fields)),  # type: ignore[arg-type]
            Edit("pool", "p", Pool(id="p", loadbalancer_id="lb", pool_key=9, protocol="TCP")),
            Edit("listener", "l", Listener(id="l", loadbalancer_id="lb", protocol="TCP", protocol_port=80)),
            Edit("member", "m", Member(id="m", pool_id="p", address=MEMBER, subnet_id="b-4", member_key=33)),
        )
        self.engine: Engine = Engine()
        self.engine.on_packet_in(self.punts._take)
        LostMembers(self).start()  # type: ignore[arg-type]

    def lost(self, reason: Reason, segment: bytes, mark: int = 99, **registers: int) -> list[bytes]:
        """What is sent when the switch asks about a packet with this mark, translated to ``MEMBER``."""
        frame = frames.ethernet(0x020000009901, self.mac("web"), f.IPV4, segment)
        known = {"CT_ZONE": 0x8001, "CT_MARK": mark, "CT_NW_DST": f.ip(VIP), "CT_TP_DST": 80, "BALANCER": 7}
        return self.punt(reason, frame, **(known | registers))


def segment(flags: int) -> bytes:
    return frames.tcp(4, f.ip(CLIENT), f.ip(MEMBER), 1234, 8080, 100, 200, flags)


ITS = Tracked(4, f.TCP, Tuple(f.ip(CLIENT), f.ip(VIP), 1234, 80))


@pytest.fixture
def core() -> Core:
    return Core()


def test_a_connection_is_forgotten_and_both_ends_are_reset(core: Core) -> None:
    to_client, to_member = map(frames.read_tcp, core.lost(Reason.MEMBER_GONE, segment(0x18)))
    assert core.engine.forgotten == [("h1", 0x8001, ITS)]
    assert (to_client.ip.src, to_client.src_port, to_client.dst_port) == (f.ip(VIP), 80, 1234)
    assert (to_client.seq, to_client.flags) == (200, 0x04), "the number that the client waits for"
    assert (to_member.ip.src, to_member.ip.dst, to_member.dst_port) == (f.ip(CLIENT), f.ip(MEMBER), 8080)
    assert (to_member.seq, to_member.flags) == (100, 0x14), "the number that the member waits for"
    (_, _, back, in_port), (_, _, on, own) = core.engine.sent
    assert in_port == IN_PORT and back != on
    assert on == (resubmit(t.CLASSIFY.number),) and own == core.topology.get("vif", "web").ofport
    assert (to_member.ethernet.src, to_member.ethernet.dst) == (core.mac("web"), core.mac("r-a")), "it is routed"


def test_a_member_in_the_clients_network_is_told_directly(core: Core) -> None:
    core.port("beside", "a", on="h2", ips=("10.0.0.12",))
    found = core.lost(Reason.MEMBER_GONE, frames.tcp(4, f.ip(CLIENT), f.ip("10.0.0.12"), 1234, 8080, 100, 200, 0x10))
    assert frames.read_tcp(found[1]).ethernet.dst == core.mac("beside")


def test_the_clients_own_reset_is_handed_on_and_not_answered(core: Core) -> None:
    (to_member,) = map(frames.read_tcp, core.lost(Reason.MEMBER_GONE, segment(0x04)))
    assert to_member.ip.dst == f.ip(MEMBER) and core.engine.forgotten == [("h1", 0x8001, ITS)]


def test_nothing_is_done_to_connections_of_a_member_that_keeps_them(core: Core) -> None:
    for reason in (Reason.MEMBER_GONE, Reason.ANOTHER_MEMBER):
        assert core.lost(reason, segment(0x10), mark=33) == []
    assert core.engine.forgotten == []
    core.edit("member", "m", admin_state_up=False)
    assert len(core.lost(Reason.MEMBER_GONE, segment(0x10), mark=33)) == 2


def test_what_begins_begins_anew_as_it_was_sent(core: Core) -> None:
    (again,) = core.lost(Reason.ANOTHER_MEMBER, segment(0x02), ROUTER=1, FLAGS=0x80010000)
    assert core.engine.forgotten == [("h1", 0x8001, ITS)]
    _, frame, actions, in_port = core.engine.sent[-1]
    assert frame == again and in_port == IN_PORT
    assert actions[:2] == (set_field(f.IPV4_DST, f.ip(VIP)), set_field(f.TCP_DST, 80))
    known = {set_field(f.ROUTER, 1), set_field(f.FLAGS, 0x80010000), set_field(f.BALANCER, 7), set_field(f.NETWORK, 1)}
    assert known < set(actions) and actions[-1] == resubmit(t.LB_VIP.number)
    assert set_field(f.PUNT, int(Reason.ANOTHER_MEMBER)) not in actions


def test_datagrams_as_well(core: Core) -> None:
    datagram = frames.udp4(f.ip(CLIENT), f.ip(MEMBER), 1234, 8080, b"hello")
    core.lost(Reason.ANOTHER_MEMBER, datagram)
    assert core.engine.forgotten == [("h1", 0x8001, Tracked(4, f.UDP, Tuple(f.ip(CLIENT), f.ip(VIP), 1234, 80)))]
    assert core.engine.sent[-1][2][:2] == (set_field(f.IPV4_DST, f.ip(VIP)), set_field(f.UDP_DST, 80))


def test_a_switch_that_cannot_forget_is_not_asked_in_a_circle(core: Core) -> None:
    core.engine.able = False
    assert core.lost(Reason.ANOTHER_MEMBER, segment(0x02)) == []
    assert len(core.lost(Reason.MEMBER_GONE, segment(0x10))) == 2, "it can be reset all the same"


# --- what it is to forget unasked --------------------------------------------------------------------------------


class Ending:
    """A controller whose pools are UDP's; ``compile`` and ``confirm`` are what its other parts would do."""

    def __init__(self) -> None:
        self.world = Balanced()
        self.topology = self.world.topology
        self.world.edit("pool", "p", protocol="UDP")
        self.world.member("m2", MEMBER, "b-4")
        self.pending = False
        self.forgotten: list[tuple[str, int | None, Tracked]] = []
        self.engine = self.reconciler = self
        self.ends = MemberEnds(self)  # type: ignore[arg-type]
        self.compile()
        self.confirm()

    def on_compiled(self, kind: str, tell: Callable[[str, str], None]) -> None:
        assert kind == "pool"
        self._compiled = tell

    def on_confirmed(self, tell: Callable[[str], None]) -> None:
        self._confirmed = tell

    def awaits(self, hypervisor: str, owner: tuple[str, str]) -> bool:
        return self.pending

    def forget_connections(self, hypervisor: str, zone: int | None, match: Tracked) -> bool:
        self.forgotten.append((hypervisor, zone, match))
        return True

    def compile(self, *pools: str) -> None:
        self.pending = True
        for pool in pools or ("p",):
            self._compiled("h1", pool)

    def confirm(self) -> list[tuple[str, int | None, Tracked]]:
        self.pending = False
        self._confirmed("h1")
        found, self.forgotten = self.forgotten, []
        return found

    def after(self, *pools: str) -> list[tuple[str, int | None, Tracked]]:
        """What is forgotten once the switch has what is wanted now."""
        self.compile(*pools)
        self._confirmed("h1")
        assert self.forgotten == [], "a packet in between would be pinned to the member again"
        return self.confirm()


M1 = ("h1", None, Tracked(4, f.UDP, Tuple(destination=f.ip(VIP)), Tuple(source=f.ip(CLIENT), source_port=80)))


@pytest.fixture
def ending() -> Ending:
    return Ending()


@pytest.mark.parametrize("fields", [{"admin_state_up": False}, {"weight": 0, "drain_until": 0}])
def test_flows_of_a_member_that_ends_are_forgotten_once_the_switch_knows(
    ending: Ending, fields: dict[str, Any]
) -> None:
    ending.world.edit("member", "m1", **fields)
    assert ending.after() == [M1]
    assert ending.after() == [], "once"


def test_so_are_those_of_one_that_is_removed_or_whose_vm_is(ending: Ending) -> None:
    ending.world.apply(Edit("member", "m1", None))
    assert ending.after() == [M1]
    ending.world.apply(Edit("port", "b1", None))
    [(_, _, its)] = ending.after()
    assert its.reply.source == f.ip(MEMBER)


def test_those_of_one_that_drains_or_whose_vm_moves_are_not(ending: Ending) -> None:
    ending.world.edit("member", "m1", weight=0)
    assert ending.after() == []
    ending.world.unplug("a1")
    assert ending.after() == []


def test_one_that_is_back_before_the_switch_knew_keeps_them(ending: Ending) -> None:
    ending.world.edit("member", "m1", admin_state_up=False)
    ending.compile()
    ending.world.edit("member", "m1", admin_state_up=True)
    assert ending.after() == []


def test_tcp_is_left_to_its_clients(ending: Ending) -> None:
    ending.world.edit("pool", "p", protocol="TCP")
    ending.after()
    ending.world.edit("member", "m1", admin_state_up=False)
    assert ending.after() == []


def test_where_flows_that_go_on_look_the_same_they_are_left_too(ending: Ending) -> None:
    world = ending.world
    world.pool("q", protocol="UDP")
    world.member("m3", CLIENT, "a-4", pool_id="q")
    ending.compile("q")
    world.edit("member", "m1", admin_state_up=False)
    assert ending.after("p", "q") == [], "the VM serves another port of the load balancer"
    world.edit("member", "m1", admin_state_up=True)
    ending.compile()
    world.edit("member", "m3", protocol_port=81)
    ending.compile("q")
    ending.confirm()
    world.edit("member", "m1", admin_state_up=False)
    assert ending.after("p", "q") == [M1]


def test_another_tenants_load_balancer_with_the_same_addresses(ending: Ending) -> None:
    world = ending.world
    world.network("theirs", 77, "10.0.0.0/24")
    world.port("their-vm", "theirs", on="h1", ips=(CLIENT,))
    world.balancer("other", vip_network_id="theirs", vip_subnet_id="theirs-4", vip_address=VIP)
    world.pool("q", "other", protocol="UDP")
    world.member("m3", CLIENT, "theirs-4", pool_id="q")
    world.edit("member", "m1", admin_state_up=False)
    assert ending.after() == []


# --- how it is asked to ------------------------------------------------------------------------------------------


class Session:
    """Keeps what is sent, and what takes a refusal."""

    version = OF15

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def expect(self, answer: Callable[[Any], None]) -> int:
        self.refuse = answer
        return 0x80000001

    def send(self, data: bytes) -> None:
        self.sent.append(data)


def test_a_switch_that_refuses_is_asked_no_more_and_complained_of_once(caplog: pytest.LogCaptureFixture) -> None:
    session, counters = Session(), Counters()
    forgetting = Forgetting(session, counters, "h1")  # type: ignore[arg-type]
    assert forgetting.forget(5, ITS) and session.sent == [ct_flush(OF15, 0x80000001, 5, ITS)]
    assert forgetting.forget(6, ITS) and counters.connections_flushed == 2
    refusal = Error(1, 3, 0, "OFPBRC_BAD_EXPERIMENTER_TYPE", "unknown", b"")
    with caplog.at_level(logging.WARNING):
        session.refuse(refusal)
        session.refuse(refusal)
    assert counters.flushes_refused == 2
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["hypervisor h1"]
    assert not forgetting.forget(5, ITS) and len(session.sent) == 2
    assert forgetting.forget(5, None) and len(session.sent) == 3, "whole zones every switch can forget"
    with pytest.raises(ValueError, match="what to forget"):
        forgetting.forget(None, None)


def test_the_message_that_makes_a_switch_forget() -> None:
    message = bytes.fromhex(
        "04040070 00000007 00002320 00000020 11 00000000000000"
        "0000 0028 00000000  0001 0014 00000000000000000000ffff0a010009 00000000  0003 0008 0035 0000"
        "0001 0028 00000000  0000 0014 00000000000000000000ffff0a010003 00000000  0002 0008 1f90 0000"
        "0002 0008 0005 0000"
    )
    vip, member = Tuple(destination=0x0A010009, destination_port=53), Tuple(source=0x0A010003, source_port=8080)
    assert ct_flush(OF13, 7, 5, Tracked(4, f.UDP, vip, member)) == message
