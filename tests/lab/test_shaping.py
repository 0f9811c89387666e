"""Guarantees, borrowing and priority on an uplink, with real packets, and what may happen to those who keep them.

The uplink of the first hypervisor is shaped, and VMs there send to VMs on the second one.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tools.lab.rates import Stream, rates

from .cloud import until
from .shaped import FRAME, UPLINK, Site, metric, namespaces_run, pings

RESERVE = 1000
TUNNEL = 66
"""Bytes: what Geneve adds to a frame."""
SECONDS = 4.0
OFF = 0.05


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site, site.agent:
        until("the uplink is shaped", lambda: site.shaping() == [{"interface": "eth0", "error": "", "port_id": ""}])
        yield site


def on_uplink(rate: float) -> float:
    """kbit/s of the uplink that frames of a VM at this rate take."""
    return rate * (FRAME + TUNNEL) / FRAME


def test_guarantees_hold_when_three_times_as_much_is_sent(site: Site) -> None:
    """Each gets at least what it was guaranteed, who was guaranteed nothing lives, and together they fill the uplink."""
    wanted = (10_000, 5000, None)
    pairs = [site.pair(site.policy(min_kbps=kbps) if kbps else None) for kbps in wanted]
    streams = [Stream(*pair, "udp", FRAME, offered=UPLINK) for pair in pairs]
    gets = [on_uplink(rate) for rate in rates(streams, SECONDS)]
    assert gets[0] >= wanted[0] * (1 - OFF) and gets[1] >= wanted[1] * (1 - OFF), gets
    assert gets[2] >= RESERVE * 3 / 8 * (1 - OFF), gets
    assert UPLINK * 0.9 <= sum(gets) <= UPLINK * (1 + OFF), gets
    site.forget(*pairs)


def test_what_nobody_uses_can_be_borrowed(site: Site) -> None:
    gold, other = site.pair(site.policy(min_kbps=10_000)), site.pair(None)
    [alone] = rates([Stream(*other, "udp", FRAME, offered=2 * UPLINK)], SECONDS)
    assert on_uplink(alone) >= UPLINK * (1 - 2 * OFF), "who was guaranteed nothing, while the others are silent"
    [alone] = rates([Stream(*gold, "udp", FRAME, offered=2 * UPLINK)], SECONDS)
    assert on_uplink(alone) >= UPLINK * (1 - 2 * OFF), "who was guaranteed half"
    site.forget(gold, other)


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_a_guarantee_holds_behind_a_router_too(site: Site, six: bool) -> None:
    """There the frames that leave have neither the VM's network nor its MAC address."""
    far = site.network("10.9.0.0/24", "fd09::/64")
    router = site.router(site.net, far)
    gold, (_, receiver) = site.pair(site.policy(min_kbps=10_000)), site.pair(None, far)
    try:
        before = site.sent(gold[0])
        gold[0].exec(["ping", "-c", "20", "-i", "0.02", "-s", "1000", receiver.ip6 if six else receiver.ip])
        until("counted in its class", lambda: site.sent(gold[0]) - before >= 20 * 1000)
    finally:
        for interface in router["interfaces"]:
            site.api.delete(f"/v1/ports/{interface['id']}")
        site.api.delete(f"/v1/routers/{router['id']}")
        site.forget(gold)


def test_the_first_is_not_kept_waiting_by_the_others(site: Site) -> None:
    """While others fill their queues, which takes tens of milliseconds to pass, no ping of the first class is lost or waits so long."""
    first, bulk, more = site.pair(site.policy(priority=7)), site.pair(None), site.pair(site.policy(min_kbps=5000))
    seen: dict[str, list[float]] = {}

    def ask() -> None:
        time.sleep(2)
        seen["first"], seen["bulk"] = pings(*first), pings(*bulk, count=20)

    asking = threading.Thread(target=ask)
    asking.start()
    rates([Stream(*pair, "udp", FRAME, offered=2 * UPLINK) for pair in (bulk, more)], 2 * SECONDS)
    asking.join()
    assert len(seen["first"]) == 100, "none is lost"
    assert sorted(seen["first"])[90] < 15 < min([1000, *seen["bulk"]])
    dropped = {"class": "others"}
    assert site.agent.metric("novanet_agent_uplink_dropped_total", **dropped) > 0
    assert site.agent.metric("novanet_agent_uplink_dropped_total", **{"class": first[0].port["id"]}) == 0
    site.forget(first, bulk, more)


def test_a_bound_of_latency_keeps_the_queue_short(site: Site) -> None:
    """What would wait longer is dropped: nothing that arrives has waited much more than that."""
    voice, bulk = site.pair(site.policy(min_kbps=5000, max_latency_ms=20)), site.pair(None)
    kept = site.classes()
    assert [each for each in kept.values() if each["rate"] == 5000 and each["prio"] == 2]
    limits = json.loads(namespaces_run(site, ["tc", "-j", "qdisc", "show", "dev", "eth0"]))
    assert 5000 * 20 // 8 in [each["options"].get("limit") for each in limits]
    site.forget(voice, bulk)


def test_another_guarantee_changes_one_class_and_costs_no_packet(site: Site) -> None:
    policy, other = site.policy(min_kbps=4000), site.policy(min_kbps=3000)
    pairs = [site.pair(policy), site.pair(other)]
    before = {what: site.changes(what) for what in ("root", "class", "queue", "classifier")}
    kept = {handle: each["rate"] for handle, each in site.classes().items()}
    pinging = pairs[0][0].popen(
        ["ping", "-c", "150", "-i", "0.01", "-W", "1", str(pairs[0][1].ip)], stdout=-1, text=True
    )  # fmt: skip
    for kbps in (5000, 6000, 7000):
        site.rule(policy, min_kbps=kbps)
        until("the class has it", lambda kbps=kbps: kbps in [each["rate"] for each in site.classes().values()])  # type: ignore[misc]
    assert "150 received" in pinging.communicate()[0]
    after = {what: site.changes(what) for what in before}
    assert {what: after[what] - before[what] for what in before} == {"root": 0, "class": 3, "queue": 0, "classifier": 0}
    changed = {handle for handle, each in site.classes().items() if kept[handle] != each["rate"]}
    assert len(changed) == 1
    site.forget(*pairs)


def test_what_a_policy_gives_is_verified(site: Site) -> None:
    """Asked, in force, and measured: while too much is sent, while nothing is, and when it is not in force."""
    policy = site.policy(min_kbps=6000, priority=4)
    site.api.post("/v1/qos-rules", {"qos_policy_id": policy, "type": "bandwidth_limit", "max_kbps": 8000})
    gold, other = site.pair(policy), site.pair(None)
    path = f"/v1/ports/{gold[0].port['id']}/qos/verification"

    def checks(seconds: float) -> tuple[str, dict[str, dict[str, Any]]]:
        found = site.api.get(path, seconds=seconds)
        return found["verdict"], {check["rule"]: check for check in found["checks"]}

    verdict, idle = checks(1)
    assert verdict == "kept" or verdict == "idle"
    assert {rule: (check["asked"], check["in_force"]) for rule, check in idle.items()} == {
        "bandwidth_limit": (8000, 8000), "minimum_bandwidth": (6000, 6000), "priority": (4, 4),
    }  # fmt: skip
    assert idle["bandwidth_limit"]["verdict"] == idle["minimum_bandwidth"]["verdict"] == "idle"
    seen: list[tuple[str, dict[str, dict[str, Any]]]] = []

    def ask() -> None:
        time.sleep(2.5)
        seen.append(checks(3))

    asking = threading.Thread(target=ask)
    asking.start()
    streams = [Stream(*pair, "udp", FRAME, offered=2 * UPLINK) for pair in (gold, other)]
    rates(streams, 2 * SECONDS)
    asking.join()
    [(verdict, busy)] = seen
    assert verdict == "kept", busy
    assert busy["bandwidth_limit"]["verdict"] == "kept" and busy["bandwidth_limit"]["dropped_packets"] > 0
    assert 8000 * (1 - OFF) <= busy["bandwidth_limit"]["measured"] <= 8000 * (1 + OFF)
    assert busy["minimum_bandwidth"]["measured"] >= 6000 and busy["minimum_bandwidth"]["passed_packets"] > 0
    site.agent.terminate()
    handle = f"4e4e:{_handle(site, 6000)}"
    namespaces_run(
        site, ["tc", "class", "change", "dev", "eth0", "parent", "4e4e:1", "classid", handle, "htb", "rate", "3mbit"]
    )
    verdict, silent = checks(1)
    assert verdict == "broken" and "does not answer" in silent["minimum_bandwidth"]["detail"]
    site.agent.start()
    until("put right", lambda: checks(1)[0] != "broken")
    site.forget(gold, other)


def _handle(site: Site, rate: float) -> str:
    return next(handle for handle, each in site.classes().items() if each["rate"] == rate).split(":")[1]


def test_ports_that_go_take_their_classes_with_them(site: Site) -> None:
    until("nobody's left", lambda: len(site.classes()) == 4)
    pair = site.pair(site.policy(min_kbps=4000))
    until("a class", lambda: len(site.classes()) == 5)
    site.api.patch(f"/v1/ports/{pair[0].port['id']}", {"qos_policy_id": None})
    until("gone with the policy", lambda: len(site.classes()) == 4)
    site.api.patch(f"/v1/ports/{pair[0].port['id']}", {"qos_policy_id": site.policy(priority=3)})
    until("a class", lambda: len(site.classes()) == 5)
    site.forget(pair)
    until("gone with the port", lambda: len(site.classes()) == 4)


def test_an_agent_that_dies_leaves_everything_and_the_next_changes_nothing(site: Site) -> None:
    """But for what has changed meanwhile, and what somebody else has broken."""
    policy = site.policy(min_kbps=4000)
    pairs = [site.pair(policy), site.pair(site.policy(priority=5))]
    until("classes", lambda: len(site.classes()) == 6)
    before = site.classes()
    pinging = pairs[0][0].popen(
        ["ping", "-c", "300", "-i", "0.01", "-W", "1", str(pairs[0][1].ip)], stdout=-1, text=True
    )
    site.agent.kill()
    assert site.classes().keys() == before.keys()
    site.agent.start()
    until("it looks after it", lambda: metric(site, "novanet_agent_uplink_shaped") == 1)
    assert "300 received" in pinging.communicate()[0]
    assert metric(site, "novanet_agent_uplink_changes_total") == 0
    assert site.classes().keys() == before.keys()
    site.agent.terminate()
    assert site.classes().keys() == before.keys(), "who ends in peace leaves it, too"
    site.rule(policy, min_kbps=4500)
    site.agent.start()
    until("what has changed", lambda: 4500 in [each["rate"] for each in site.classes().values()])
    assert metric(site, "novanet_agent_uplink_changes_total") == 1
    namespaces_run(site, ["tc", "qdisc", "del", "dev", "eth0", "root"])
    assert not site.classes()
    until("made anew", lambda: len(site.classes()) == 6)
    site.forget(*pairs)


def test_open_vswitch_that_restarts_and_reconfigures_leaves_it_alone(site: Site) -> None:
    pair = site.pair(site.policy(min_kbps=4000))
    hypervisor = site.lab.hypervisors[0]
    before = site.classes().keys()
    roots = site.changes("root")
    hypervisor.vsctl("set", "Bridge", "br-phy", "other_config:flow-eviction-threshold=20000")
    hypervisor.stop_vswitchd()
    hypervisor.start_vswitchd()
    until("packets again", lambda: len(pings(*pair, count=2)) == 2)
    assert site.classes().keys() == before and site.changes("root") == roots
    sent = site.sent(pair[0])
    assert len(pings(*pair, count=20)) == 20
    until("in its class", lambda: site.sent(pair[0]) > sent)
    site.forget(pair)


def test_ports_are_degraded_until_their_uplink_is_shaped(site: Site) -> None:
    policy = site.policy(min_kbps=4000)
    groups = [site.open_group()]
    wrong = {"interface": "eth9", "bandwidth_kbps": UPLINK}
    site.set_uplink(wrong)
    until("told", lambda: [each["interface"] for each in site.shaping()] == ["eth9"])
    assert "no interface eth9" in site.shaping()[0]["error"]
    assert not site.classes(), "eth0 is no uplink any more"
    port = site.port(site.net, security_groups=groups, qos_policy_id=policy)
    site.lab.hypervisors[0].plug(port["id"], port["mac_address"])
    seen = until("degraded", lambda: _status(site, port["id"], "DEGRADED"))
    assert "eth9" in str(seen["status_reason"])
    site.set_uplink()
    until("active", lambda: _status(site, port["id"], "ACTIVE"))
    until("its class", lambda: len(site.classes()) == 5)
    site.lab.hypervisors[0].unplug(port["id"])
    site.api.delete(f"/v1/ports/{port['id']}")


def _status(site: Site, port: str, status: str) -> dict[str, Any] | None:
    shown = site.api.get(f"/v1/ports/{port}")
    return shown if shown["status"] == status else None


def test_what_somebody_else_has_shaped_is_left_to_them(site: Site) -> None:
    site.agent.terminate()
    namespaces_run(site, ["tc", "qdisc", "replace", "dev", "eth0", "root", "handle", "77:", "bfifo", "limit", "99999"])
    site.agent.start()
    until("told", lambda: [each for each in site.shaping() if "somebody else (bfifo 77:)" in each["error"]])
    assert "77:" in namespaces_run(site, ["tc", "qdisc", "show", "dev", "eth0"])
    namespaces_run(site, ["tc", "qdisc", "del", "dev", "eth0", "root"])
    until(
        "shaped",
        lambda: site.shaping() == [{"interface": "eth0", "error": "", "port_id": ""}] and len(site.classes()) == 4,
    )


def test_without_uplinks_nothing_of_it_is_left(site: Site) -> None:
    assert site.classes()
    site.api.patch(f"/v1/hypervisors/{site.here['id']}", {"uplinks": []})
    until("gone", lambda: not site.classes() and site.shaping() == [])
    site.set_uplink()
    until("there again", lambda: len(site.classes()) == 4)


@pytest.mark.parametrize(
    "options", [{"mesh": {"tunnel_type": "vxlan"}}, {"ipv6_underlay": True}], ids=["VXLAN", "IPv6 underlay"]
)
def test_ports_are_told_apart_in_other_tunnels(options: dict[str, Any]) -> None:
    with Site(**options) as site, site.agent:
        pair, other = site.pair(site.policy(min_kbps=4000)), site.pair(None)
        until("classes", lambda: len(site.classes()) == 5)
        for vm, there in (pair, other):
            vm.exec(["ping", "-c", "20", "-i", "0.02", "-s", "1000", str(there.ip)])
        until("counted in its class", lambda: 20 * 1000 <= site.sent(pair[0]) <= 30 * 1200)
        others = site.agent.metric("novanet_agent_uplink_bytes_total", **{"class": "others"})
        assert others >= 20 * 1000


def test_vswitchd_has_room_for_all_queues(site: Site) -> None:
    """Else a full queue of one class takes the room of all others in the socket by which it sends."""
    site.lab.hypervisors[0].stop_vswitchd()
    site.lab.hypervisors[0].start_vswitchd()
    queues = json.loads(namespaces_run(site, ["tc", "-j", "qdisc", "show", "dev", "eth0"]))
    wanted = sum(each["options"].get("limit", 0) for each in queues)

    def rooms() -> list[int]:
        pid = site.lab.hypervisors[0].vswitchd_pid
        shown = namespaces_run(site, ["ss", "--packet", "--numeric", "--memory", "--processes", "--no-header"])
        return [int(re.findall(r",tb(\d+)", line)[0]) for line in shown.splitlines() if f"pid={pid}," in line]

    until("room", lambda: rooms() and min(rooms()) >= wanted)
    assert wanted > 0


def test_what_open_vswitch_is_told_to_shape_is_left_to_it(site: Site) -> None:
    vsctl = site.lab.hypervisors[0].vsctl
    until("ours", lambda: "linux-noop" in vsctl("list", "qos"))
    vsctl(
        "set",
        "port",
        "eth0",
        "qos=@q",
        "--",
        "--id=@q",
        "create",
        "qos",
        "type=linux-htb",
        "other-config:max-rate=9000000",
    )
    until("told", lambda: [each for each in site.shaping() if "Open vSwitch shapes its port eth0" in each["error"]])
    until(
        "one row, and it is theirs",
        lambda: vsctl("--columns=type", "list", "qos").split() == ["type", ":", "linux-htb"],
    )
    vsctl("clear", "port", "eth0", "qos", "--", "--all", "destroy", "qos")
    until(
        "shaped",
        lambda: site.shaping() == [{"interface": "eth0", "error": "", "port_id": ""}] and len(site.classes()) == 4,
    )


def test_a_provider_networks_ports_have_classes_on_their_wire() -> None:
    """On a VLAN: what they send without a tunnel is told by VLAN and MAC address."""
    with Site(provider=True) as site, site.agent:
        wire = {"interface": "eth1", "bandwidth_kbps": UPLINK, "physical_network": "physnet1"}
        site.set_uplink({"interface": "eth0", "bandwidth_kbps": UPLINK}, wire)
        network = site.network("10.5.0.0/24", physical_network="physnet1", segmentation_id=42)
        pair, other = site.pair(site.policy(min_kbps=4000), network), site.pair(None, network)
        until("classes", lambda: (len(site.classes("eth1")), len(site.classes("eth0"))) == (5, 4))
        for vm, there in (pair, other):
            vm.exec(["ping", "-c", "20", "-i", "0.02", "-s", "1000", str(there.ip)])
        until("counted in its class", lambda: 20 * 1000 <= site.sent(pair[0]) <= 30 * 1200)
        assert (
            site.agent.metric("novanet_agent_uplink_bytes_total", interface="eth1", **{"class": "others"}) >= 20 * 1000
        )
        assert site.shaping() == [
            {"interface": "eth0", "error": "", "port_id": ""},
            {"interface": "eth1", "error": "", "port_id": ""},
        ]
