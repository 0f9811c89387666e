"""Scenarios of the hypervisors part, each run in a process of its own: ``python -m … NAME DIRECTORY``."""

from __future__ import annotations

from tests.switch.hypervisor_world import CONTROLLER, MESH, World, ident  # first: it makes threads green

import eventlet  # isort: skip

from msgspec.structs import replace

from tests.switch.daemons import Ovs, wait_for
from topology.changes import Edit

PORT = ident(100)


def creates_the_bridge(world: World) -> None:
    ovs = world.ovs("h1")
    ovs.vsctl("add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=netdev")
    ovs.vsctl("add-port", "br-phy", "eth7", "--", "set", "interface", "eth7", "type=dummy", "mtu_request=9000")
    ovs.vsctl("set", "open", ".", "external_ids:system-id=h7", "ovs_version=3.2.1")
    h1 = world.add(7, ovs, underlay_interface="eth7", tunnel_ip="2001:db8::7")
    world.ready(h1)
    assert world.core.engine.expected == {h1: 0x4E4E000000000007}
    assert ovs.get("bridge", "br-int", "datapath_id") == "4e4e000000000007"
    assert ovs.get("bridge", "br-int", "datapath_type") == "netdev", "as the underlay's bridge"
    assert ovs.get("bridge", "br-int", "fail_mode") == "secure"
    assert ovs.get("bridge", "br-int", "protocols") == "[OpenFlow13, OpenFlow14, OpenFlow15]"
    assert ovs.get("bridge", "br-int", "other_config:disable-in-band") == "true"
    assert ovs.vsctl("get-controller", "br-int") == CONTROLLER
    assert ovs.get("controller", "br-int", "connection_mode") == "out-of-band"
    assert ovs.get("interface", "nn-tun0", "type") == "geneve"
    assert (
        ovs.get("interface", "nn-tun0", "options")
        == '{csum="true", dst_port="6081", key=flow, remote_ip=flow, tos=inherit}'
    )
    assert ovs.get("interface", "nn-tun0", "ofport") == "65000"
    wait_for(lambda: world.bridge(h1).underlay_mtu == 9000)
    bridge = world.bridge(h1)
    assert bridge.tunnel_ofport == 65000
    assert bridge.datapath_type == "netdev"
    assert bridge.ovs_version == "3.2.1"
    assert bridge.problems == ()
    assert ovs.vsctl("list-ports", "br-phy") == "eth7", "other bridges are left alone"
    state = world.state(h1)
    assert state["connected"] and state["repairs"] == 1 and state["system_id"] == "h7"
    assert state["controllers"] == {CONTROLLER: False}


def repairs_what_is_changed(world: World) -> None:
    ovs = world.ovs("h1")
    ovs.vsctl("add-br", "br-other", "--", "set-fail-mode", "br-other", "standalone")
    ovs.vsctl("set-controller", "br-other", "tcp:127.0.0.1:9")
    h1 = world.add(1, ovs)
    world.ready(h1)

    def healed(*command: str, by: str) -> None:
        repairs = world.state(h1)["repairs"]
        ovs.vsctl("--no-wait", *command)
        wait_for(lambda: world.state(h1)["repairs"] > repairs, f"repair after {command}")
        wait_for(lambda: whole(ovs), f"whole after {command}")
        assert world.log.having(f"repaired: {by}"), world.log.texts[-5:]

    healed("del-br", "br-int", by="bridge br-int is missing")
    wait_for(lambda: world.bridge(h1).tunnel_ofport == 65000)
    healed("del-controller", "br-int", by=f"controller {CONTROLLER} is missing")
    healed("set-controller", "br-int", "tcp:127.0.0.1:7", by="controller tcp:127.0.0.1:7 does not belong to br-int")
    healed("set-fail-mode", "br-int", "standalone", by="br-int: fail_mode is standalone instead of secure")
    healed("del-port", "nn-tun0", by="port nn-tun0 is missing")
    healed("set", "interface", "nn-tun0", "options:key=5", by="nn-tun0: options is")
    healed("clear", "bridge", "br-int", "other_config", by="br-int: other_config:datapath-id is empty")
    assert ovs.get("bridge", "br-other", "fail_mode") == "standalone"
    assert ovs.vsctl("get-controller", "br-other") == "tcp:127.0.0.1:9"


def whole(ovs: Ovs) -> bool:
    """Whether br-int is as it should be."""
    return (
        ovs.get("bridge", "br-int", "fail_mode") == "secure"
        and ovs.vsctl("get-controller", "br-int") == CONTROLLER
        and ovs.get("interface", "nn-tun0", "ofport_request") == "65000"
        and ovs.get("interface", "nn-tun0", "options") == '{dst_port="6081", key=flow, remote_ip=flow, tos=inherit}'
        and ovs.get("bridge", "br-int", "other_config:datapath-id") == "4e4e000000000001"
    )


def does_not_fight(world: World) -> None:
    ovs = world.ovs("h1")
    h1 = world.add(1, ovs)
    world.ready(h1)
    first = world.state(h1)["repairs"]
    for _ in range(40):
        ovs.vsctl("--no-wait", "set-fail-mode", "br-int", "standalone")
    made = world.state(h1)["repairs"] - first
    assert 3 <= made <= 8, f"{made} repairs for 40 changes"
    wait_for(lambda: any("somebody undid" in text for text in world.state(h1)["problems"]), str(world.state(h1)))
    ovs.vsctl("--no-wait", "del-controller", "br-int")
    wait_for(
        lambda: ovs.vsctl("get-controller", "br-int") == CONTROLLER, "what is wrong besides is repaired at once", 5
    )
    wait_for(lambda: ovs.get("bridge", "br-int", "fail_mode") == "secure", timeout=60)


def follows_the_mesh(world: World) -> None:
    ovs = world.ovs("h1")
    h1 = world.add(1, ovs)
    world.ready(h1)
    world.change("tunnel-mesh", MESH, tunnel_type="vxlan", udp_port=8472)
    wait_for(lambda: ovs.get("interface", "nn-tun0", "type") == "vxlan")
    assert ovs.get("interface", "nn-tun0", "options:dst_port") == "8472"
    wait_for(lambda: ovs.get("interface", "nn-tun0", "ofport") == "65000")
    world.change("hypervisor", h1, tunnel_ip=None)
    wait_for(lambda: "nn-tun0" not in ovs.vsctl("list-ports", "br-int"))
    wait_for(lambda: world.bridge(h1).tunnel_ofport is None)


def observes_interfaces(world: World) -> None:
    ovs = world.ovs("h1")
    h1 = world.add(1, ovs)
    world.ready(h1)
    with world.edits() as seen:
        ovs.freeze_vswitchd()
        ovs.vsctl("--no-wait", "add-port", "br-int", "tap0", "--", "set", "interface", "tap0", "type=dummy",
                  f"external_ids:iface-id={PORT}")  # fmt: skip
        wait_for(lambda: world.vif(PORT), "announced before vswitchd has opened it")
        assert world.vif(PORT).ofport is None
        ovs.thaw_vswitchd()
        wait_for(lambda: world.vif(PORT).ofport)
    vifs = [edit.value for edit in seen if edit.kind == "vif"]
    assert str(vifs[-1].ofport) == ovs.get("interface", "tap0", "ofport")
    assert (vifs[-1].interface, vifs[-1].hypervisor_id, vifs[-1].error) == ("tap0", h1, "")
    assert len(vifs) <= 3, vifs

    ovs.vsctl("set", "interface", "tap0", "mtu_request=1400")
    wait_for(lambda: world.vif(PORT).mtu == 1400)
    ovs.vsctl("remove", "interface", "tap0", "external_ids", "iface-id")
    wait_for(lambda: world.vif(PORT) is None)
    ovs.vsctl("set", "interface", "tap0", f"external_ids:iface-id={PORT}")
    wait_for(lambda: world.vif(PORT) is not None)
    ovs.vsctl("del-port", "br-int", "tap0")
    wait_for(lambda: world.vif(PORT) is None)

    ovs.vsctl("add-br", "br-else")
    ovs.plug("tap1", ident(101), "br-else")
    ovs.plug("tap2", ident(102))
    wait_for(lambda: world.vif(ident(102)))
    assert world.vif(ident(101)) is None, "on another bridge"
    ovs.vsctl("--no-wait", "add-port", "br-int", "gone0", "--", "set", "interface", "gone0", "type=nonsense",
              f"external_ids:iface-id={ident(103)}")  # fmt: skip
    wait_for(lambda: world.vif(ident(103)) and world.vif(ident(103)).error)
    assert world.vif(ident(103)).ofport is None
    assert world.state(h1)["interfaces"] == 2


def warns_of_duplicates(world: World) -> None:
    ovs = world.ovs("h1")
    h1 = world.add(1, ovs)
    world.ready(h1)
    ovs.plug("first", PORT)
    wait_for(lambda: world.vif(PORT))
    ovs.plug("second", PORT)
    wait_for(lambda: world.bridge(h1).problems)
    assert "second" in world.bridge(h1).problems[0] and PORT in world.bridge(h1).problems[0]
    assert world.vif(PORT).interface == "first"
    ovs.vsctl("del-port", "first")
    wait_for(lambda: world.vif(PORT).interface == "second")
    wait_for(lambda: world.bridge(h1).problems == ())


def one_more_interface_costs_a_few_rows(world: World) -> None:
    ovs = world.ovs("h1")
    h1 = world.add(1, ovs)
    world.ready(h1)
    for start in range(0, 1000, 250):
        command = []
        for n in range(start, start + 250):
            command += (
                f"-- add-port br-int d{n} -- set interface d{n} type=dummy external_ids:iface-id={ident(n)}".split()
            )
        ovs.vsctl(*command[1:])
    wait_for(lambda: world.state(h1)["interfaces"] == 1000)
    wait_for(lambda: all((world.vif(ident(n)) or 0) and world.vif(ident(n)).ofport for n in range(1000)))
    world.settle(lambda: world.state(h1)["rows_handled"])
    handled, received, edits = world.state(h1)["rows_handled"], world.state(h1)["rows_received"], len(world.core.edits)
    ovs.plug("one-more", ident(5000))
    wait_for(lambda: world.vif(ident(5000)) and world.vif(ident(5000)).ofport)
    world.settle(lambda: world.state(h1)["rows_handled"])
    assert world.state(h1)["rows_handled"] - handled <= 10
    assert world.state(h1)["rows_received"] - received <= 10
    assert len(world.core.edits) - edits <= 4
    quiet = world.state(h1)["rows_received"]
    eventlet.sleep(6)  # vswitchd writes statistics every 5 s
    assert world.state(h1)["rows_received"] == quiet, "a hypervisor at rest sends nothing"


def survives_a_restart_of_its_server(world: World) -> None:
    ovs = world.ovs("h1")
    h1 = world.add(1, ovs)
    world.ready(h1)
    for n in range(5):
        ovs.plug(f"tap{n}", ident(n))
    wait_for(lambda: all(world.vif(ident(n)) and world.vif(ident(n)).ofport for n in range(5)))
    world.settle(lambda: len(world.core.edits))
    with world.edits() as seen:
        ovs.kill_server()
        wait_for(lambda: not world.state(h1)["connected"])
        assert world.vif(ident(0)), "observations stay"
        wait_for(lambda: any("no OVSDB connection" in text for text in world.bridge(h1).problems))
        ovs.start_server()
        wait_for(lambda: world.state(h1)["connected"])
        ovs.vsctl("del-port", "tap3")
        wait_for(lambda: world.vif(ident(3)) is None)
        world.settle(lambda: len(world.core.edits))
    vifs = [edit for edit in seen if edit.kind == "vif"]
    assert vifs == [Edit("vif", ident(3), None)], vifs
    assert world.bridge(h1).problems == ()


def moves_with_a_live_migration(world: World) -> None:
    one, two = world.ovs("h1"), world.ovs("h2")
    h1, h2 = world.add(1, one), world.add(2, two)
    world.ready(h1, h2)
    one.plug("tap", PORT)
    wait_for(lambda: world.vif(PORT) and world.vif(PORT).hypervisor_id == h1)
    two.plug("tap", PORT)
    wait_for(lambda: world.vif(PORT).hypervisor_id == h2 and world.vif(PORT).ofport)
    one.vsctl("del-port", "tap")
    world.settle(lambda: len(world.core.edits))
    assert world.vif(PORT).hypervisor_id == h2, "what is unplugged behind a migration does not count"
    one.plug("tap", PORT)
    wait_for(lambda: world.vif(PORT).hypervisor_id == h1)
    one.vsctl("del-port", "tap")
    wait_for(lambda: world.vif(PORT) and world.vif(PORT).hypervisor_id == h2)


def leaves_nothing_behind(world: World) -> None:
    one, two = world.ovs("h1"), world.ovs("h2")
    two.vsctl("add-br", "br-int")
    h1, h2 = world.add(1, one), world.add(2, two)
    world.ready(h1, h2)
    two.plug("tap", PORT)
    wait_for(lambda: world.vif(PORT))
    world.core.apply([Edit("hypervisor", h1, None), Edit("hypervisor", h2, None)])
    wait_for(lambda: one.vsctl("list-br") == "", "the bridge made here is removed")
    wait_for(lambda: two.vsctl("list-ports", "br-int") == "tap", "a bridge that was there stays, without our port")
    assert two.vsctl("get-controller", "br-int") == ""
    wait_for(lambda: world.vif(PORT) is None and world.bridge(h1) is None and world.bridge(h2) is None)
    assert world.state(h1) == {"connected": False, "error": "no such hypervisor"}


def changes_its_address(world: World) -> None:
    one, two = world.ovs("h1"), world.ovs("h2")
    two.vsctl("set", "open", ".", "external_ids:system-id=h1")
    h1 = world.add(1, one)
    world.ready(h1)
    one.plug("a", ident(100))
    one.plug("b", ident(101))
    wait_for(lambda: world.vif(ident(100)) and world.vif(ident(101)))
    two.vsctl("add-br", "br-int")
    two.plug("b", ident(101))
    world.change("hypervisor", h1, ovsdb=two.socket)
    wait_for(lambda: world.vif(ident(100)) is None)
    assert world.vif(ident(101)).hypervisor_id == h1
    wait_for(lambda: world.state(h1)["address"] == two.socket and world.state(h1)["connected"])


def leaves_the_wrong_host_alone(world: World) -> None:
    ovs = world.ovs("somebody-else")
    h1 = world.add(1, ovs)
    wait_for(lambda: world.bridge(h1))
    assert "somebody-else" in world.bridge(h1).problems[0]
    assert not world.state(h1)["connected"]
    eventlet.sleep(0.5)
    assert ovs.vsctl("list-br") == ""
    ovs.vsctl("set", "open", ".", "external_ids:system-id=h1")
    world.ready(h1)
    assert world.state(h1)["connected"]


def takes_over_a_bridge(world: World) -> None:
    ovs = world.ovs("h1")
    ovs.vsctl(
        "add-br", "br-int", "--", "set", "bridge", "br-int", "other_config:mac-aging-time=77", "external_ids:who=me"
    )
    ovs.plug("tap", PORT)
    h1 = world.add(1, ovs)
    world.ready(h1)
    wait_for(lambda: world.vif(PORT))
    assert ovs.get("bridge", "br-int", "other_config:mac-aging-time") == "77"
    assert ovs.get("bridge", "br-int", "external_ids:who") == "me"
    assert whole(ovs)
    hypervisor = world.topology.get("hypervisor", h1)
    world.core.apply([Edit("hypervisor", h1, replace(hypervisor, datapath_type="netdev"))])
    wait_for(lambda: ovs.get("bridge", "br-int", "datapath_type") == "netdev")


SCENARIOS = (
    creates_the_bridge, repairs_what_is_changed, does_not_fight, follows_the_mesh, observes_interfaces, warns_of_duplicates,
    one_more_interface_costs_a_few_rows, survives_a_restart_of_its_server, moves_with_a_live_migration, leaves_nothing_behind,
    changes_its_address, leaves_the_wrong_host_alone, takes_over_a_bridge,
)  # fmt: skip
