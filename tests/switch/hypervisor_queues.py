"""Scenarios of the hypervisors part about queues of uplinks: where the kernel's datapath honours them, Open vSwitch shapes."""

from __future__ import annotations

from tests.switch.hypervisor_world import World, ident  # first: it makes threads green

import eventlet  # isort: skip

from typing import Any

from tests.switch.daemons import Ovs, wait_for
from tests.switch.queue_rows import MEGABIT, qos, rates, rows
from topology.changes import Edit
from topology.model import Network, Port, QosPolicy, QosRule, Uplink
from topology.qos_status import awaited, unkept

UPLINK = Uplink(interface="eth0", bandwidth_kbps=100_000)
NETWORK, GOLD, FIRST = ident(900), ident(901), ident(902)
DB1, WEB1 = ident(911), ident(912)


def system(world: World) -> tuple[str, Ovs]:
    """Hypervisor h1 with the kernel's datapath, whose uplink is a port of the operator's bridge; what it promises is known."""
    ovs = world.ovs("h1")
    ovs.vsctl("add-br", "br-phy", "--", "add-port", "br-phy", "eth0", "--", "set", "interface", "eth0", "type=dummy")
    h1 = world.add(1, ovs, uplinks=(UPLINK,))
    world.core.apply([
        Edit("network", NETWORK, Network(id=NETWORK, vni=7)),
        *policy(GOLD, type="minimum_bandwidth", min_kbps=30_000),
        *policy(FIRST, type="priority", priority=7),
    ])  # fmt: skip
    return h1, ovs


def policy(id: str, **rule: Any) -> list[Edit]:
    rule_id = id.replace("8000", "9000")
    return [
        Edit("qos-policy", id, QosPolicy(id=id)),
        Edit("qos-rule", rule_id, QosRule(id=rule_id, qos_policy_id=id, **rule)),
    ]


def plug(world: World, ovs: Ovs, port_id: str, policy_id: str, hypervisor: str, key: int) -> int:
    """A VM; returns its OpenFlow port."""
    port = Port(id=port_id, network_id=NETWORK, port_key=key, host_id=hypervisor, qos_policy_id=policy_id)
    world.core.apply([Edit("port", port_id, port)])
    ovs.plug(f"v{key}", port_id)
    wait_for(lambda: (vif := world.vif(port_id)) is not None and vif.ofport)
    return int(world.vif(port_id).ofport)  # type: ignore[union-attr, arg-type]


def left_behind(ovs: Ovs) -> int:
    return len(rows(ovs, "QoS")) + len(rows(ovs, "Queue"))


def shapes_an_uplink_and_undoes_it(world: World) -> None:
    h1, ovs = system(world)
    world.ready(h1)
    wait_for(lambda: qos(ovs), "an uplink is shaped whether or not somebody was promised anything")
    found = qos(ovs) or {}
    assert (found["type"], found["other_config"]) == ("linux-htb", {"max-rate": str(100 * MEGABIT)})
    assert rates(ovs) == {0: (3.125, 100, 7)}, "of the reserve, 5 Mbit/s, five eighths"
    assert world.bridge(h1).queueing == ("eth0",)  # type: ignore[union-attr]

    db1 = plug(world, ovs, DB1, GOLD, h1, 1)
    web1 = plug(world, ovs, WEB1, FIRST, h1, 2)
    wait_for(lambda: rates(ovs).keys() == {0, db1, web1})
    assert rates(ovs)[db1] == (30, 100, 7) and rates(ovs)[web1][1:] == (100, 0)
    assert 0 < rates(ovs)[web1][0] < 1.875, "a part of what is reserved"
    wait_for(lambda: not awaited(world.topology, DB1) and not awaited(world.topology, WEB1))
    assert world.bridge(h1).queues == tuple(("eth0", number) for number in sorted((0, db1, web1)))  # type: ignore[union-attr]
    assert not list(unkept(world.topology, "port", DB1)), "no agent is needed"

    before = {number: row["_uuid"] for number, row in (qos(ovs) or {})["queues"].items()}
    world.change("qos-rule", GOLD.replace("8000", "9000"), min_kbps=50_000)
    wait_for(lambda: rates(ovs)[db1] == (50, 100, 7))
    assert {number: row["_uuid"] for number, row in (qos(ovs) or {})["queues"].items()} == before, "one row was changed"
    ovs.vsctl("del-port", "v2")
    wait_for(lambda: rates(ovs).keys() == {0, db1})
    assert len(rows(ovs, "Queue")) == 2, "no row is left behind"
    world.change("hypervisor", h1, uplinks=())
    wait_for(lambda: left_behind(ovs) == 0)
    assert qos(ovs) is None and world.bridge(h1).queueing == ()  # type: ignore[union-attr]
    assert not world.log.having("repaired"), "nobody broke anything"

    world.change("hypervisor", h1, uplinks=(UPLINK,))
    wait_for(lambda: rates(ovs).keys() == {0, db1})
    world.core.apply([Edit("hypervisor", h1, None)])
    wait_for(lambda: left_behind(ovs) == 0, "a hypervisor that goes takes its queues along")


def puts_right_what_others_change(world: World) -> None:
    h1, ovs = system(world)
    world.ready(h1)
    db1 = plug(world, ovs, DB1, GOLD, h1, 1)
    wait_for(lambda: db1 in rates(ovs))
    uuid = (qos(ovs) or {})["queues"][db1]["_uuid"]
    breaks: list[tuple[str, ...]] = [
        ("set", "Queue", uuid, f"other_config:min-rate={MEGABIT}"),
        ("set", "Queue", uuid, "other_config:dscp=3"),
        ("clear", "Port", "eth0", "qos"),
        ("set", "QoS", (qos(ovs) or {})["_uuid"], "type=linux-hfsc"),
        ("remove", "QoS", (qos(ovs) or {})["_uuid"], "queues", str(db1)),
        (
            "--id=@q",
            "create",
            "Queue",
            "external_ids:whose=theirs",
            "--",
            "add",
            "QoS",
            (qos(ovs) or {})["_uuid"],
            "queues",
            "77=@q",
        ),
    ]
    for each in breaks:
        ovs.vsctl(*each)
        wait_for(lambda: _as_made(ovs, db1), f"{each}: {qos(ovs)}")
    wait_for(lambda: not awaited(world.topology, DB1))
    assert len(rows(ovs, "QoS")) == 1
    kept = [row for row in rows(ovs, "Queue") if "novanet-owner" in row["external_ids"]]
    assert len(kept) == 2, "what somebody else made is theirs to delete, what NovaNet made is not left behind"

    ovs.vsctl("add-port", "br-phy", "eth9", "--", "set", "port", "eth9", f"qos={(qos(ovs) or {})['_uuid']}")
    world.change("hypervisor", h1, uplinks=())
    wait_for(lambda: not rows(ovs, "QoS"), "though somebody had it for another port")
    assert qos(ovs, "eth9") is None


def _as_made(ovs: Ovs, number: int) -> bool:
    found = qos(ovs)
    return (
        found is not None
        and found["type"] == "linux-htb"
        and rates(ovs).keys() == {0, number}
        and rates(ovs)[number] == (30, 100, 7)
        and "dscp" not in found["queues"][number]["other_config"]
    )


def leaves_what_others_shape(world: World) -> None:
    h1, ovs = system(world)
    ovs.vsctl("--id=@q", "create", "QoS", "type=linux-sfq", "--", "set", "port", "eth0", "qos=@q")
    world.ready(h1)
    db1 = plug(world, ovs, DB1, GOLD, h1, 1)
    wait_for(lambda: world.bridge(h1).problems)  # type: ignore[union-attr]
    eventlet.sleep(0.3)
    assert (qos(ovs) or {})["type"] == "linux-sfq"
    [why] = unkept(world.topology, "port", DB1)
    assert "uplink eth0 is shaped by somebody else (linux-sfq)" in why and "ovs-vsctl clear port eth0 qos" in why
    assert not awaited(world.topology, DB1), "it is not a matter of time"
    ovs.vsctl("clear", "port", "eth0", "qos")
    wait_for(lambda: db1 in rates(ovs) and not awaited(world.topology, DB1))
    assert world.bridge(h1).problems == () and not list(unkept(world.topology, "port", DB1))  # type: ignore[union-attr]


def takes_over_from_the_agent_and_gives_back(world: World) -> None:
    h1, ovs = system(world)
    ovs.vsctl(
        "--id=@q", "create", "QoS", "type=linux-noop", "external_ids:novanet-agent=shaping",
        "--", "set", "port", "eth0", "qos=@q",
    )  # fmt: skip
    world.ready(h1)
    wait_for(lambda: rates(ovs).keys() == {0})
    wait_for(lambda: len(rows(ovs, "QoS")) == 1, "the agent's row goes")
    ovs.vsctl("set", "bridge", "br-phy", "datapath_type=netdev")
    wait_for(lambda: left_behind(ovs) == 0, "queues have no effect there: the agent shapes")
    wait_for(lambda: world.bridge(h1).queueing == ())  # type: ignore[union-attr]
    ovs.vsctl("set", "bridge", "br-phy", "datapath_type=system")
    wait_for(lambda: rates(ovs).keys() == {0})
    ovs.vsctl("del-port", "eth0")
    wait_for(lambda: left_behind(ovs) == 0, "an uplink that is Linux' own is the agent's")
    ovs.vsctl("add-bond", "br-phy", "bond0", "eth0", "eth1")
    eventlet.sleep(0.3)
    assert left_behind(ovs) == 0, "so is one of several in a bond"


def keeps_queues_until_the_intent_is_known(world: World) -> None:
    h1, ovs = system(world)
    world.ready(h1)
    db1 = plug(world, ovs, DB1, GOLD, h1, 1)
    wait_for(lambda: db1 in rates(ovs))
    before = qos(ovs)
    world.hypervisors.stop()

    after = world.another()
    for kind in ("tunnel-mesh", "hypervisor"):
        after.core.apply([Edit(kind, id, obj) for id, obj in world.topology.all(kind).items()])
    after.hypervisors.start()
    after.ready(h1)
    after.settle(lambda: len(after.core.edits))
    assert qos(ovs) == before, "what a restarted controller does not know yet it does not end"
    for kind in ("network", "qos-policy", "qos-rule", "port"):
        after.core.apply([Edit(kind, id, obj) for id, obj in world.topology.all(kind).items()])
    after.hypervisors.complete()
    wait_for(lambda: after.bridge(h1).queues == (("eth0", 0), ("eth0", db1)))  # type: ignore[union-attr]
    assert qos(ovs) == before and after.state(h1)["repairs"] == 0, "nothing was touched"
    after.hypervisors.stop()


SCENARIOS = (
    shapes_an_uplink_and_undoes_it,
    puts_right_what_others_change,
    leaves_what_others_shape,
    takes_over_from_the_agent_and_gives_back,
    keeps_queues_until_the_intent_is_known,
)
