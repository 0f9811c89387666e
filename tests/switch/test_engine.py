"""The flow engine against a real vswitchd: every version of OpenFlow, differences, restarts, drift."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines import fields as f
from pipelines.cookies import learned_cookie
from pipelines.flow import Bucket, Flow, Group, Meter, copy, group, match, output, set_bits, set_field
from pipelines.tables import LB_AFFINITY

from .bridges import ALL_VERSIONS, OWNER, TABLE, Bridges, EngineController, flow, flows
from .controller import until

Start = Callable[..., EngineController]


@pytest.fixture(scope="module")
def bridges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridges]:
    running = Bridges(tmp_path_factory.mktemp("ovs"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def start(bridges: Bridges, tmp_path: Path) -> Iterator[Start]:
    """Starts controllers, which end with the test."""
    started: list[EngineController] = []

    def begin(*options: str, instead_of: EngineController | None = None) -> EngineController:
        socket = instead_of.socket if instead_of else None
        started.append(EngineController(tmp_path, bridges.directory, *options, socket=socket))
        return started[-1]

    yield begin
    for controller in started:
        controller.stop(signal.SIGKILL)


@pytest.fixture
def controller(start: Start) -> EngineController:
    return start()


@pytest.fixture
def bridge(bridges: Bridges, controller: EngineController) -> Iterator[str]:
    """A bridge that is empty and in sync with the controller."""
    bridges.add("br", controller)
    controller.call("complete", "br")
    controller.synced("br")
    yield "br"
    bridges.remove("br")


EVERYTHING = [
    flow(1),
    Flow(
        TABLE,
        90,
        match(f.ETH_TYPE(f.IPV6)),
        (copy(f.IN_PORT_KEY, f.OUT_PORT_KEY), set_bits(f.FROM_TUNNEL, 1)),
        TABLE + 1,
    ),
    Flow(TABLE, 80, match(f.IN_PORT(1)), (group(7),), meter=9),
    Flow(
        TABLE, 70, match(f.TUN_SRC(0x0A000001)), (set_field(f.TUN_OPTION, 0x0000000500000006), output(1)), metadata=77
    ),
    Flow(TABLE + 1, 0, b""),
    Group(7, "all", (Bucket((output(1),)), Bucket((output(2),)))),
    Meter(9, 1000, 100),
]


@pytest.mark.parametrize(
    ("protocols", "version"),
    [
        ("OpenFlow13", "1.3"),
        ("OpenFlow14", "1.4"),
        ("OpenFlow15", "1.5"),
        (ALL_VERSIONS, "1.5"),
        ("OpenFlow10,OpenFlow13", "1.3"),
    ],
)
def test_each_version(bridges: Bridges, start: Start, protocols: str, version: str) -> None:
    """Whatever there is goes in, is read back as it was sent by the next controller, and goes out again."""
    controller = start()
    bridges.add("each", controller, protocols)
    try:
        controller.call("put", "each", {OWNER: EVERYTHING})
        controller.call("complete", "each")
        assert controller.synced("each")["version"] == version
        assert controller.call("error", "each", OWNER) == ""
        assert bridges.count("each") == 5
        assert "group_id=7" in bridges.ofctl("dump-groups", "each", version=protocols.split(",")[-1])
        assert "meter=9" in bridges.ofctl("dump-meters", "each", version=protocols.split(",")[-1])

        controller.stop(signal.SIGKILL)
        second = start(instead_of=controller)
        second.call("expect", "each", bridges.dpid("each"))
        second.call("put", "each", {OWNER: EVERYTHING})
        second.call("complete", "each")
        second.synced("each")
        counters = second.counters()
        sent = {name: counters[name] for name in ("flows_sent", "flows_deleted", "groups_sent", "meters_sent")}
        assert sent == {"flows_sent": 0, "flows_deleted": 0, "groups_sent": 0, "meters_sent": 0}

        second.call("put", "each", {OWNER: []})
        second.settled("each", OWNER)
        assert bridges.count("each") == 0
        assert second.counters()["flows_deleted"] == 5
    finally:
        bridges.remove("each")


def test_openflow_10_only_is_said(bridges: Bridges, controller: EngineController) -> None:
    bridges.add("old", controller, "OpenFlow10")
    try:
        state = until(
            lambda: (s := controller.call("state", "old")) and "OpenFlow" in s["error"] and s, "the refusal is known"
        )
        assert not state["connected"]
        assert "OpenFlow 1.0 only" in state["error"]
        assert "OpenFlow13" in state["error"]
        assert "speaks OpenFlow 1.0 only" in controller.log
    finally:
        bridges.remove("old")


def test_change_of_version_asks_for_everything_again(bridges: Bridges, controller: EngineController) -> None:
    bridges.add("change", controller, "OpenFlow13")
    try:
        controller.call("put", "change", {OWNER: EVERYTHING})
        controller.call("complete", "change")
        assert controller.synced("change")["version"] == "1.3"
        bridges.vsctl("set", "bridge", "change", "protocols=OpenFlow15")
        until(lambda: controller.call("get", "recompile") == ["change"], "the engine asks for the rules again")
        controller.call("put", "change", {OWNER: EVERYTHING})
        controller.call("complete", "change")
        assert controller.synced("change")["version"] == "1.5"
        assert bridges.count("change") == 5
    finally:
        bridges.remove("change")


def test_nothing_is_touched_before_complete(bridges: Bridges, controller: EngineController) -> None:
    bridges.add("early", controller)
    try:
        until(lambda: controller.call("state", "early")["connected"], "the bridge is connected")
        bridges.ofctl("add-flow", "early", "table=3,priority=7,actions=drop")
        controller.call("put", "early", {OWNER: flows(3)})
        assert controller.call("pending", "early", OWNER)
        assert bridges.count("early") == 1
        controller.call("complete", "early")
        controller.settled("early", OWNER)
        assert not controller.call("pending", "early", OWNER)
        assert bridges.count("early") == 3
    finally:
        bridges.remove("early")


def test_unknown_switch_is_left_alone(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    name = "stranger"
    bridges.add(name, controller)
    try:
        controller.call("forget", name)
        bridges.ofctl("add-flow", name, "table=3,priority=7,actions=drop")
        until(lambda: controller.call("unknown"), "it is reported")
        assert [found["dpid"] for found in controller.call("unknown")] == [f"{bridges.dpid(name):016x}"]
        controller.call("put", bridge, {OWNER: flows(1)})
        controller.settled(bridge, OWNER)
        assert bridges.count(name) == 1
    finally:
        bridges.remove(name)


def test_only_what_differs_is_sent(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    controller.call("put", bridge, {OWNER: flows(100)})
    controller.settled(bridge, OWNER)
    before = controller.counters()
    controller.call("put", bridge, {OWNER: flows(99, 1)})
    controller.settled(bridge, OWNER)
    controller.call("put", bridge, {OWNER: [*flows(98, 2), flow(1, register=9)]})
    controller.settled(bridge, OWNER)
    after = controller.counters()
    assert after["flows_deleted"] - before["flows_deleted"] == 1
    assert after["flows_sent"] - before["flows_sent"] == 1
    assert after["resyncs"] == before["resyncs"]
    assert bridges.count(bridge) == 99


def test_owners_share_and_take_over(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    one, two = ("port", "1"), ("port", "2")
    controller.call("put", bridge, {one: flows(5), two: flows(5)})
    controller.settled(bridge, one, two)
    controller.call("put", bridge, {one: []})
    controller.settled(bridge, one)
    assert bridges.count(bridge) == 5
    controller.call("put", bridge, {one: [flow(3, register=1)], two: [flow(4)]})
    controller.settled(bridge, one, two)
    assert controller.call("error", bridge, one) == controller.call("error", bridge, two) == ""
    assert bridges.count(bridge) == 2


def test_a_batch_is_atomic(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    """A bundle that the switch refuses changes nothing of what it had."""
    good, bad = ("port", "good"), ("port", "bad")
    controller.call("put", bridge, {bad: flows(10)})
    controller.settled(bridge, bad)
    before = controller.counters()
    missing_group = Flow(TABLE, 5, match(f.IN_PORT(3)), (group(4711),))
    controller.call("put", bridge, {bad: [*flows(10, 50), missing_group], good: flows(10, 100)})
    controller.settled(bridge, good, bad)
    until(lambda: controller.call("error", bridge, bad), "the error is known")
    controller.synced(bridge)
    text = controller.call("error", bridge, bad)
    assert "no such group" in text
    assert "in_port=3" in text
    assert controller.call("error", bridge, good) == ""
    assert controller.counters()["bundle_errors"] == before["bundle_errors"] + 1
    assert set(bridges.flows(bridge)) == {
        f"{TABLE},priority=100,ip,metadata=0x1,nw_dst=10.0.0.{n}" for n in range(100, 110)
    }

    controller.call("put", bridge, {bad: flows(10)})
    controller.settled(bridge, bad)
    assert controller.call("error", bridge, bad) == ""
    assert bridges.count(bridge) == 20


def test_refused_in_the_first_comparison_is_tried_again(bridges: Bridges, start: Start) -> None:
    """An owner that a switch refused as soon as it connected works once another owner's group is there."""
    good, early, provider = ("port", "good"), ("port", "early"), ("network", "1")
    controller = start("--audit-interval", "0.3")
    bridges.add("first", controller)
    try:
        needs_group = Flow(TABLE, 5, match(f.IN_PORT(3)), (group(4711),))
        controller.call("put", "first", {early: [*flows(10), needs_group], good: flows(10, 100)})
        controller.call("complete", "first")
        until(lambda: controller.call("error", "first", early), "the error is known")
        controller.settled("first", good)
        assert controller.counters()["flows_sent"] >= 10
        controller.call("put", "first", {provider: [Group(4711, "all", (Bucket((output(1),)),))]})
        until(lambda: not controller.call("error", "first", early), "it is tried again")
        controller.settled("first", early, provider)
        assert bridges.count("first") == 21
    finally:
        bridges.remove("first")


def test_malformed_flow_harms_only_its_owner(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    good, bad = ("port", "good"), ("port", "bad")
    no_ethertype = Flow(TABLE, 100, match(f.IPV4_DST(1)), (), TABLE + 1)
    controller.call("put", bridge, {bad: [no_ethertype, flow(1)], good: flows(10, 100)})
    until(lambda: controller.call("error", bridge, bad), "the error is known")
    controller.settled(bridge, good)
    controller.synced(bridge)
    assert controller.call("error", bridge, good) == ""
    assert bridges.count(bridge) == 10


def test_rule_that_cannot_be_encoded(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    good, bad = ("port", "good"), ("port", "bad")
    controller.call("put", bridge, {bad: [Flow(5, 70000, b"")], good: flows(3)})
    controller.settled(bridge, good)
    assert "cannot be written in OpenFlow" in controller.call("error", bridge, bad)
    assert bridges.count(bridge) == 3


def test_owners_that_contradict_each_other(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    """The one that came first keeps what it has; the other succeeds once the first gives way."""
    first, second = ("port", "1"), ("port", "2")
    controller.call("put", bridge, {first: [flow(1, register=1)]})
    controller.settled(bridge, first)
    controller.call("put", bridge, {second: [flow(1, register=2)]})
    until(lambda: controller.call("error", bridge, second), "the contradiction is reported")
    controller.call("put", bridge, {first: [], second: [flow(1, register=2)]})
    controller.settled(bridge, first, second)
    assert controller.call("error", bridge, second) == ""
    assert "set_field:0x2->reg2" in next(iter(bridges.flows(bridge).values()))["actions"]


def test_large_load_in_several_bundles(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    """One large owner and many small ones; the loop is free meanwhile and every other owner is served."""
    controller.call("put", bridge, {("large", "1"): flows(20000)})
    controller.call("put", bridge, {("small", str(n)): flows(10, 30000 + 10 * n) for n in range(500)})
    controller.settled(bridge, ("large", "1"), *[("small", str(n)) for n in range(500)])
    assert bridges.count(bridge) == 25000
    assert controller.counters()["bundles"] >= 5
    assert controller.counters()["bundle_errors"] == 0


def test_restart_of_the_controller_loses_nothing(bridges: Bridges, start: Start) -> None:
    """kill -9, start: the bridge is read, nothing is sent, flows keep their counters and packets."""
    first = start()
    bridges.add("keep", first)
    try:
        first.call("put", "keep", {OWNER: [*flows(2000), Flow(TABLE + 1, 1, b"", (output(1),))]})
        first.call("complete", "keep")
        first.settled("keep", OWNER)
        bridges.vsctl("add-port", "keep", "k1", "--", "set", "interface", "k1", "type=dummy", "ofport_request=1")
        until(lambda: "k1" in bridges.appctl("dpif/show"), "the port is there")
        packet = "in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x0800),ipv4(src=1.1.1.1,dst=10.0.0.7,proto=6,tos=0,ttl=64,frag=no)"
        bridges.ofctl("add-flow", "keep", "table=0,priority=1,actions=set_field:1->metadata,resubmit(,5)")
        for _ in range(3):
            bridges.appctl("netdev-dummy/receive", "k1", packet)
        match_text = f"{TABLE},priority=100,ip,metadata=0x1,nw_dst=10.0.0.7"
        until(lambda: bridges.flows("keep")[match_text]["n_packets"] == "3", "the packets are counted")
        first.stop(signal.SIGKILL)
        bridges.ofctl("del-flows", "keep", "table=0")

        second = start(instead_of=first)
        second.call("expect", "keep", bridges.dpid("keep"))
        second.call("put", "keep", {OWNER: [*flows(2000), Flow(TABLE + 1, 1, b"", (output(1),))]})
        second.call("complete", "keep")
        second.settled("keep", OWNER)
        counters = second.counters()
        assert (counters["flows_sent"], counters["flows_deleted"], counters["bundles"]) == (0, 0, 0)
        assert counters["resyncs"] == 1
        assert bridges.flows("keep")[match_text]["n_packets"] == "3"
    finally:
        bridges.remove("keep")


def test_restart_of_vswitchd_restores_everything(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    controller.call("put", bridge, {OWNER: EVERYTHING})
    controller.settled(bridge, OWNER)
    bridges.kill()
    until(lambda: not controller.call("state", bridge)["connected"], "the loss is seen")
    controller.call("put", bridge, {("port", "new"): flows(3, 500)})
    assert controller.call("pending", bridge, ("port", "new"))
    bridges.start_again()
    controller.synced(bridge)
    assert bridges.count(bridge) == 8
    assert "group_id=7" in bridges.ofctl("dump-groups", bridge, version="OpenFlow15")
    assert "meter=9" in bridges.ofctl("dump-meters", bridge, version="OpenFlow15")
    assert "0xfff1" in bridges.ofctl("dump-tlv-map", bridge, version="OpenFlow15").lower()


def test_what_others_delete_and_add_is_healed(bridges: Bridges, start: Start) -> None:
    controller = start("--audit-interval", "0.3")
    bridges.add("heal", controller)
    try:
        controller.call("put", "heal", {OWNER: EVERYTHING})
        controller.call("complete", "heal")
        controller.synced("heal")
        until(lambda: controller.counters()["audits"] >= 2, "audits happen")
        assert controller.counters()["drift_repaired"] == 0
        bridges.ofctl("del-flows", "heal")
        until(lambda: bridges.count("heal") == 5, "deleted flows come back")
        assert controller.counters()["drift_repaired"] >= 5
        bridges.ofctl("add-flow", "heal", "table=9,priority=9,actions=drop")
        bridges.ofctl("mod-flows", "heal", f"table={TABLE + 1},actions=normal")
        bridges.ofctl("del-groups", "heal", version="OpenFlow15")
        until(
            lambda: (
                bridges.count("heal") == 5
                and bridges.flows("heal")[f"{TABLE + 1},priority=0"]["actions"] == "drop"
                and "group_id=7" in bridges.ofctl("dump-groups", "heal", version="OpenFlow15")
            ),
            "additions and modifications are undone",
        )
        assert controller.counters()["resyncs"] == 1
        assert "were not as they had been set" in controller.log
    finally:
        bridges.remove("heal")


def test_what_the_switch_has_learned_is_left_to_it_only_where_it_learns(bridges: Bridges, start: Start) -> None:
    """Neither an audit nor the next controller takes it away; the same cookie elsewhere is as foreign as any other."""
    controller = start("--audit-interval", "0.3")
    bridges.add("learned", controller)
    learned = f"cookie={learned_cookie(7):#x}"

    def tables() -> list[str]:
        lines = bridges.ofctl("dump-flows", "learned", f"{learned}/-1").splitlines()
        return sorted(line.split("table=")[1].split(",")[0] for line in lines if "table=" in line)

    try:
        controller.call("put", "learned", {OWNER: EVERYTHING})
        controller.call("complete", "learned")
        controller.synced("learned")
        for table in (LB_AFFINITY.number, LB_AFFINITY.number + 1):
            bridges.ofctl("add-flow", "learned", f"{learned},table={table},priority=9,actions=drop")
        until(lambda: tables() == [str(LB_AFFINITY.number)], "what is elsewhere goes")
        audits = controller.counters()["audits"]
        until(lambda: controller.counters()["audits"] > audits + 2, "audits go on")
        assert controller.counters()["drift_repaired"] == 1 and tables() == [str(LB_AFFINITY.number)]
        controller.stop(signal.SIGKILL)
        second = start(instead_of=controller)
        second.call("expect", "learned", bridges.dpid("learned"))
        second.call("put", "learned", {OWNER: EVERYTHING})
        second.call("complete", "learned")
        second.synced("learned")
        assert second.counters()["flows_deleted"] == 0 and tables() == [str(LB_AFFINITY.number)]
    finally:
        bridges.remove("learned")


def test_role_with_an_older_term_stays_silent(bridges: Bridges, start: Start) -> None:
    """A controller whose term is over sends nothing; a newer term takes over."""
    winner, loser = start(), start()
    bridges.add("role", winner)
    try:
        winner.call("fence", "role", 1 << 60)
        winner.call("put", "role", {OWNER: flows(4)})
        winner.call("complete", "role")
        winner.synced("role")
        dpid = bridges.dpid("role")
        loser.call("expect", "role", dpid)
        loser.call("put", "role", {OWNER: flows(9, 100)})
        loser.call("complete", "role")
        bridges.vsctl("set-controller", "role", f"unix:{winner.socket}", f"unix:{loser.socket}")
        until(lambda: "newer term" in loser.call("state", "role")["error"], "the loser knows")
        assert bridges.count("role") == 4
        assert loser.counters()["bundles"] == 0

        loser.call("fence", "role", (1 << 60) + 1)
        loser.settled("role", OWNER)
        assert bridges.count("role") == 9
        winner.call("put", "role", {OWNER: flows(5)})
        until(
            lambda: "taken the bridge over" in winner.call("state", "role")["error"], "the former winner falls silent"
        )
        assert bridges.count("role") == 9
    finally:
        bridges.remove("role")


def test_ordinary_apps_get_their_messages(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    """Packet-ins and replies to an app's own requests come the Ryu way; the engine's own replies do not."""
    controller.call("put", bridge, {OWNER: flows(50)})
    controller.settled(bridge, OWNER)
    assert controller.call("get", "seen") == []
    dpid = bridges.dpid(bridge)
    controller.call("send", dpid, "OFPDescStatsRequest", 0)
    until(lambda: controller.call("get", "seen") == ["OFPDescStatsReply"], "the reply arrives")
    bridges.ofctl(
        "packet-out", bridge, "in_port=LOCAL packet=" + "02" * 12 + "9999" + "00" * 46 + " actions=controller"
    )
    until(lambda: controller.call("get", "seen") == ["OFPDescStatsReply", "OFPPacketIn"], "the packet-in arrives")
    assert controller.call("get", "punts") == [bridge]


def test_sigterm_ends_in_good_order(bridges: Bridges, controller: EngineController, bridge: str) -> None:
    controller.call("put", bridge, {OWNER: flows(3)})
    controller.settled(bridge, OWNER)
    assert controller.stop(signal.SIGTERM) == 0
    assert "Traceback" not in controller.log
    assert not controller.socket.exists()
    assert bridges.count(bridge) == 3
