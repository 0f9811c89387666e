"""What policies mean for ports, floating IPs and gateways, what uplinks have promised, and what is told of it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from topology import qos
from topology.changes import Edit
from topology.model import BridgeMapping, FloatingIp, QosPolicy, QosRule, Shaping, Uplink, Vif
from topology.qos import Guarantee, Limit
from topology.qos_status import awaited, shaper, touched, unkept

from .world import World


class Limited(World):
    """VMs ``vm1`` and ``vm2`` on h1 in network ``a``, a router ``r`` to ``ext`` with a floating IP for each of them."""

    def __init__(self) -> None:
        super().__init__(2)
        self.network("a", 1, "10.0.0.0/24")
        self.network("ext", 2, "203.0.113.0/24", external=True, physical_network="phys")
        self.wire("h1", "phys")
        self.router("r")
        self.interface("r", "a", "10.0.0.1")
        self.interface("r", "ext", "203.0.113.1")
        for n in (1, 2):
            self.port(f"vm{n}", "a", on="h1", ips=(f"10.0.0.1{n}",))
            floating = FloatingIp(
                id=f"f{n}", floating_network_id="ext", subnet_id="ext-4", floating_ip_address=f"203.0.113.1{n}",
                port_id=f"vm{n}", fixed_ip_address=f"10.0.0.1{n}", mac_address=f"02:00:00:00:77:0{n}",
            )  # fmt: skip
            self.apply(Edit("floating-ip", floating.id, floating))

    def policy(self, id: str, *rules: dict[str, Any]) -> str:
        self.apply(Edit("qos-policy", id, QosPolicy(id=id)))
        for number, rule in enumerate(rules):
            made = QosRule(id=f"{id}-{number}", qos_policy_id=id, **rule)
            self.apply(Edit("qos-rule", made.id, made))
        return id

    def put(self, kind: str, id: str, **fields: Any) -> None:
        self.apply(Edit(kind, id, replace(self.topology.get(kind, id), **fields)))

    def about(self, port: str) -> list[str]:
        return list(unkept(self.topology, "port", port))


@pytest.fixture
def world() -> Limited:
    return Limited()


EVERYTHING = (
    {"type": "bandwidth_limit", "max_kbps": 10_000},
    {"type": "bandwidth_limit", "direction": "ingress", "max_kbps": 20_000, "max_burst_kbps": 500},
    {"type": "packet_rate_limit", "max_pps": 2000},
    {"type": "packet_rate_limit", "direction": "ingress", "max_pps": 3000, "max_burst_packets": 7},
    {"type": "minimum_bandwidth", "min_kbps": 5000},
    {"type": "dscp_marking", "dscp_mark": 0},
    {"type": "priority", "priority": 6},
    {"type": "max_latency", "max_latency_ms": 20},
)


def test_every_rule_of_a_policy_holds(world: Limited) -> None:
    world.put("port", "vm1", qos_policy_id=world.policy("all", *EVERYTHING), trust_dscp=True)
    found = qos.of_port(world.topology, "vm1")
    assert (found.policy_id, found.source, found.trusted, found.meters) == ("all", "port", True, 4)
    assert found.ingress == Limit(20_000, 500, 3000, 7)
    assert (found.egress.kbps, found.egress.pps) == (10_000, 2000)
    assert (found.dscp, found.priority, found.max_latency_ms, found.min_kbps) == (0, 6, 20, 5000)


def test_a_burst_is_chosen_that_lets_tcp_and_large_packets_pass(world: Limited) -> None:
    world.put("port", "vm1", qos_policy_id=world.policy("all", *EVERYTHING))
    egress = qos.of_port(world.topology, "vm1").egress
    assert egress.burst_kbit >= 10_000 // 10 and egress.burst_packets >= 1
    assert qos.burst_kbit(64, None) * 1000 >= (9000 + 18) * 8
    assert qos.burst_kbit(64, 13) == 13
    assert qos.burst_floor(1500) == 13


def test_without_a_policy_nothing_is_limited_and_dscp_is_cleared(world: Limited) -> None:
    found = qos.of_port(world.topology, "vm1")
    assert found == qos.NOTHING and not found.trusted and not found.meters
    assert qos.of_port(world.topology, "nobody") == qos.NOTHING
    assert qos.of_floating_ip(world.topology, "f1") is None and qos.of_gateway(world.topology, "r-ext") is None


def test_the_most_specific_policy_wins_as_a_whole(world: Limited) -> None:
    world.put("network", "a", qos_policy_id=world.policy("wide", {"type": "bandwidth_limit", "max_kbps": 1000}))
    world.put("port", "vm2", qos_policy_id=world.policy("own", {"type": "priority", "priority": 1}))
    of_one, of_two = (qos.of_port(world.topology, f"vm{n}") for n in (1, 2))
    assert (of_one.source, of_one.egress.kbps) == ("network", 1000)
    assert (of_two.source, of_two.egress.kbps, of_two.priority) == ("port", None, 1)
    assert qos.of_port(world.topology, "r-a") == qos.NOTHING, "a network's policy is not for routers"


def test_floating_ips_without_a_policy_have_that_of_the_gateway(world: Limited) -> None:
    world.put("port", "r-ext", qos_policy_id=world.policy("way-out", {"type": "bandwidth_limit", "max_kbps": 1000}))
    world.put("floating-ip", "f2", qos_policy_id=world.policy("own"))
    gateway, one, two = (
        qos.of_gateway(world.topology, "r-ext"), qos.of_floating_ip(world.topology, "f1"), qos.of_floating_ip(world.topology, "f2"),
    )  # fmt: skip
    assert gateway is not None and one is not None and two is not None
    assert (gateway.source, gateway.egress.kbps) == ("gateway", 1000) == (one.source, one.egress.kbps)
    assert (two.source, two.egress.kbps) == ("floating-ip", None)
    assert gateway.trusted and one.trusted and two.trusted, "what passes was looked at where it came from"
    assert qos.of_port(world.topology, "r-ext") == gateway
    assert qos.of_port(world.topology, "vm1") == qos.NOTHING, "it is another leg of the way"


def uplinks(*found: tuple[str, int, str]) -> tuple[Uplink, ...]:
    return tuple(Uplink(interface=name, bandwidth_kbps=kbps, physical_network=wire) for name, kbps, wire in found)


def test_promises_are_summed_by_the_uplink_that_carries_the_network(world: Limited) -> None:
    world.network("lan", 3, "10.0.3.0/24", physical_network="phys", segmentation_id=7)
    world.put("hypervisor", "h1", bridge_mappings=(BridgeMapping("phys", "br-ex"),))
    world.put("hypervisor", "h1", uplinks=uplinks(("eth0", 100_000, ""), ("eth1", 10_000, "phys")))
    promise = world.policy("promise", {"type": "minimum_bandwidth", "min_kbps": 9000})
    world.put("network", "a", qos_policy_id=promise)
    world.put("network", "lan", qos_policy_id=promise)
    world.port("wired", "lan", on="h1", ips=("10.0.3.5",))
    world.port("elsewhere", "a", on="h2", ips=("10.0.0.99",))
    accounts = qos.guarantees(world.topology, "h1")
    tunnels, wire = accounts.uplinks
    assert tunnels.guarantees == (Guarantee("vm1", 9000), Guarantee("vm2", 9000))
    assert (tunnels.reserve_kbps, tunnels.promised_kbps, tunnels.left_kbps) == (5000, 18_000, 77_000)
    assert (wire.guarantees, wire.reserve_kbps, wire.left_kbps) == ((Guarantee("wired", 9000),), 1000, 0)
    assert accounts.of("phys") == wire and accounts.of("other") is None
    assert qos.guarantees(world.topology, "h2").without == (Guarantee("elsewhere", 9000),)
    world.put("hypervisor", "h1", uplinks=uplinks(("bond0", 100_000, ""), ("bond0", 100_000, "phys")))
    (both,) = qos.guarantees(world.topology, "h1").uplinks
    assert both.promised_kbps == 27_000 and both.physical_networks == ("", "phys")


def test_more_promised_than_there_is_is_shared_out(world: Limited) -> None:
    world.put("hypervisor", "h1", uplinks=uplinks(("eth0", 100_000, "")))
    world.put("port", "vm1", qos_policy_id=world.policy("much", {"type": "minimum_bandwidth", "min_kbps": 95_000}))
    world.put("port", "vm2", qos_policy_id=world.policy("more", {"type": "minimum_bandwidth", "min_kbps": 95_000}))
    (account,) = qos.guarantees(world.topology, "h1").uplinks
    assert account.left_kbps == -95_000 and account.granted(95_000) == 47_500


def test_it_is_told_why_a_guarantee_is_not_kept(world: Limited) -> None:
    world.put("port", "vm1", qos_policy_id=world.policy("promise", {"type": "minimum_bandwidth", "min_kbps": 60_000}))
    assert world.about("vm2") == []
    (text,) = world.about("vm1")
    assert "min_kbps" in text and "h1 has no uplink for tunnels" in text
    world.put("hypervisor", "h1", uplinks=uplinks(("eth0", 100_000, "")))
    (text,) = world.about("vm1")
    assert "not shaped" in text and "novanet-host-agent" in text
    world.put("hypervisor", "h1", shaping=(Shaping(interface="eth0", error="no such device"),))
    (text,) = world.about("vm1")
    assert "uplink eth0 of hypervisor h1" in text and "no such device" in text
    assert list(unkept(world.topology, "hypervisor", "h1")) == ["uplink eth0 is not shaped: no such device"]
    world.put("hypervisor", "h1", shaping=(Shaping(interface="eth0"),))
    assert world.about("vm1") == [] == list(unkept(world.topology, "hypervisor", "h1"))
    world.put("port", "vm2", qos_policy_id="promise")
    (text,) = world.about("vm1")
    assert "of 60000 kbit/s" in text and "gets 47500" in text and "95000" in text and "120000" in text


def test_it_is_told_why_an_interface_is_not_shaped(world: Limited) -> None:
    rule = {"type": "bandwidth_limit", "direction": "ingress", "max_kbps": 1000, "shape": True}
    world.put("port", "vm1", qos_policy_id=world.policy("shaped", rule))
    (text,) = world.about("vm1")
    assert "no effect yet" in text and "novanet-host-agent" in text and "h1" in text
    world.apply(Edit("vif", "vm1", Vif(port_id="vm1", hypervisor_id="h1", interface="tap1", ofport=1)))
    told = Shaping(interface="tap1", port_id="vm1", error="no such thing")
    world.put("hypervisor", "h1", shaping=(told,))
    (text,) = world.about("vm1")
    assert (
        "interface tap1" in text and "no such thing" in text and list(unkept(world.topology, "hypervisor", "h1")) == []
    )
    world.put("hypervisor", "h1", shaping=(replace(told, error=""),))
    assert world.about("vm1") == [] == world.about("vm2")
    world.put("hypervisor", "h1", shaping=(replace(told, interface="stale"), replace(told, error="")))
    assert world.about("vm1") == [], "of two interfaces the one that is used counts"


def test_what_has_no_interface_of_its_own_has_none_that_is_shaped(world: Limited) -> None:
    rule = {"type": "bandwidth_limit", "direction": "ingress", "max_kbps": 1000, "shape": True}
    policy = world.policy("shaped", rule)
    world.put("network", "a", qos_policy_id=policy)
    world.put("floating-ip", "f1", qos_policy_id=policy)
    found = qos.of_floating_ip(world.topology, "f1")
    assert found is not None and found.ingress == Limit(1000, 400) and not found.ingress.shaped
    assert qos.of_port(world.topology, "vm1").ingress.shaped, "by its network's policy"


def test_what_open_vswitch_shapes_needs_no_agent_but_for_the_length_of_queues(world: Limited) -> None:
    world.put("port", "vm1", qos_policy_id=world.policy("promise", {"type": "minimum_bandwidth", "min_kbps": 60_000}))
    late = {"type": "max_latency", "max_latency_ms": 20}
    world.put("port", "vm2", qos_policy_id=world.policy("soon", {"type": "priority", "priority": 7}, late))
    world.put("hypervisor", "h1", uplinks=uplinks(("eth0", 100_000, "")))
    world.put("bridge", "h1", queueing=("eth0",))
    assert world.about("vm1") == [] and awaited(world.topology, "vm1")
    (text,) = world.about("vm2")
    assert text.startswith("max_latency_ms of its policy has no effect yet") and "novanet-host-agent" in text
    ofport = world.topology.get("vif", "vm1").ofport
    hypervisor = world.topology.get("hypervisor", "h1")
    assert shaper(world.topology, hypervisor, "eth0") == ("ovsdb", False, "")
    world.put("bridge", "h1", queues=(("eth0", 0), ("eth0", ofport)))
    assert not awaited(world.topology, "vm1") and awaited(world.topology, "vm2")
    assert shaper(world.topology, hypervisor, "eth0") == ("ovsdb", True, "")
    world.put("hypervisor", "h1", shaping=(Shaping(interface="eth0"),))
    assert world.about("vm2") == []

    world.put("bridge", "h1", queues=(), problems=("uplink eth0 is shaped by somebody else (linux-sfq)",))
    (text,) = world.about("vm2")
    assert text.startswith(
        "priority, max_latency_ms of its policy has no effect: hypervisor h1: uplink eth0 is shaped by"
    )
    assert not awaited(world.topology, "vm2"), "it is not a matter of time"
    assert shaper(world.topology, hypervisor, "eth0").error == "uplink eth0 is shaped by somebody else (linux-sfq)"
    world.put("bridge", "h1", problems=())
    world.plug("vm1", "h1", 62_000)
    (text,) = world.about("vm1")
    assert "its OpenFlow port is 62000" in text and not awaited(world.topology, "vm1")
    world.put("bridge", "h1", queueing=())
    assert shaper(world.topology, world.topology.get("hypervisor", "h1"), "eth0") == ("agent", True, "")
    assert not awaited(world.topology, "vm1") and world.about("vm1") == []


def test_whose_status_another_queue_may_change(world: Limited) -> None:
    bridge = world.topology.get("bridge", "h1")
    for name, value in (("queueing", ("eth0",)), ("queues", (("eth0", 3),)), ("problems", ("uplink eth0 is …",))):
        (change,) = world.apply(Edit("bridge", "h1", replace(bridge, **{name: value})))
        assert set(touched(world.topology, change)) >= {"vm1", "vm2"}
        world.apply(Edit("bridge", "h1", bridge))
    (change,) = world.apply(Edit("bridge", "h1", replace(bridge, ovs_version="9")))
    assert list(touched(world.topology, change)) == []


def test_whose_status_may_be_another(world: Limited) -> None:
    world.put("port", "vm1", qos_policy_id=world.policy("promise", {"type": "minimum_bandwidth", "min_kbps": 60_000}))
    world.put("port", "vm2", qos_policy_id=world.policy("limit", {"type": "bandwidth_limit", "max_kbps": 1000}))

    def after(*edits: Edit) -> set[str]:
        return {id for change in world.apply(*edits) for id in touched(world.topology, change)}

    host = replace(world.topology.get("hypervisor", "h1"), uplinks=uplinks(("eth0", 100_000, "")))
    assert after(Edit("hypervisor", "h1", host)) == {"vm1", "vm2"}
    assert after(Edit("hypervisor", "h1", replace(host, promises=1))) == {"vm1", "vm2"}
    assert after(Edit("hypervisor", "h1", replace(host, promises=1, name="renamed"))) == set()
    rule = world.topology.get("qos-rule", "promise-0")
    assert after(Edit("qos-rule", rule.id, replace(rule, min_kbps=70_000))) == {"vm1"}
    assert {id for change in world.plug("vm2", "h2") for id in touched(world.topology, change)} == set()
    assert {id for change in world.plug("vm1", "h2") for id in touched(world.topology, change)} == {"vm1", "vm2"}


def test_a_limit_needs_no_uplink(world: Limited) -> None:
    world.put("port", "vm1", qos_policy_id=world.policy("most", {"type": "bandwidth_limit", "max_kbps": 1000}))
    assert world.about("vm1") == []
    world.put("port", "vm1", qos_policy_id=world.policy("first", {"type": "priority", "priority": 7}))
    (text,) = world.about("vm1")
    assert text.startswith("priority of its policy has no effect")
