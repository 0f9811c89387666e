"""Scenarios of the hypervisors part that lead elsewhere: wires to physical networks, and probes of other hypervisors."""

from __future__ import annotations

from tests.switch.hypervisor_world import MESH, World, ident  # first: it makes threads green

import eventlet  # isort: skip

from msgspec.structs import replace

from novanet_apps.hypervisors.ports import probe_name
from tests.switch.daemons import Ovs, wait_for
from topology.changes import Edit
from topology.model import BridgeMapping, Link, Network, Port, Router, RouterGateway

ONE, TWO = BridgeMapping("physnet1", "br-ex"), BridgeMapping("physnet2", "br-lan")
INSIDE, OUTSIDE, ROUTER = ident(501), ident(502), ident(503)


def with_bridges(world: World, *names: str) -> Ovs:
    """A host with bridges of its operator."""
    ovs = world.ovs("h1")
    for name in names:
        ovs.vsctl("add-br", name, "--", "set-fail-mode", name, "standalone")
    return ovs


def wires(world: World, id: str) -> dict[str, int]:
    """Physical network -> OpenFlow port, as observed."""
    bridge = world.bridge(id)
    return dict(bridge.provider_ofports) if bridge is not None else {}


def ports(ovs: Ovs, bridge: str) -> list[str]:
    return sorted(ovs.vsctl("list-ports", bridge).split())


def wires_a_hypervisor(world: World) -> None:
    ovs = with_bridges(world, "br-ex", "br-lan")
    before = ovs.vsctl("--columns=name,fail_mode,external_ids,other_config,controller,protocols", "list", "bridge")
    h1 = world.add(1, ovs, bridge_mappings=(TWO, ONE))
    world.ready(h1)
    wait_for(lambda: wires(world, h1) == {"physnet1": 64000, "physnet2": 64001}, str(world.bridge(h1)))
    (there,) = ports(ovs, "br-ex")
    here = ovs.get("interface", there, "options:peer")
    assert here in ports(ovs, "br-int") and ovs.get("interface", here, "options:peer") == there
    assert ovs.get("interface", here, "type") == ovs.get("interface", there, "type") == "patch"
    assert ovs.get("port", there, "external_ids:novanet-owner") == h1
    after = ovs.vsctl("--columns=name,fail_mode,external_ids,other_config,controller,protocols", "list", "bridge")
    for block in before.split("\n\n"):
        assert block in after, "the operator's bridges are as they were"
    assert world.bridge(h1).problems == ()

    world.change("hypervisor", h1, bridge_mappings=(TWO,))
    wait_for(lambda: wires(world, h1) == {"physnet2": 64001}, "what stays keeps its number")
    assert ports(ovs, "br-ex") == []
    world.change("hypervisor", h1, bridge_mappings=(TWO, BridgeMapping("physnet3", "br-ex")))
    wait_for(lambda: wires(world, h1) == {"physnet2": 64001, "physnet3": 64000})
    world.change("hypervisor", h1, bridge_mappings=(BridgeMapping("physnet2", "br-ex"),))
    wait_for(lambda: ports(ovs, "br-lan") == [] and len(ports(ovs, "br-ex")) == 1, "the wire moves with its mapping")
    wait_for(lambda: wires(world, h1) == {"physnet2": 64001})
    assert not world.log.having("repaired"), "nobody broke anything"

    world.core.apply([Edit("hypervisor", h1, None)])
    wait_for(lambda: ports(ovs, "br-ex") == [] and "br-int" not in ovs.vsctl("list-br"), "nothing is left behind")
    assert ovs.vsctl("list-br").split() == ["br-ex", "br-lan"]


def says_which_bridge_is_missing(world: World) -> None:
    ovs = with_bridges(world)
    h1 = world.add(1, ovs, bridge_mappings=(ONE,))
    world.ready(h1)
    assert len(world.bridge(h1).problems) == 1
    assert "bridge br-ex of physical network physnet1 is missing" in world.bridge(h1).problems[0]
    assert wires(world, h1) == {} and ports(ovs, "br-int") == ["nn-tun0"], "NovaNet makes no bridge for the operator"
    ovs.vsctl("add-br", "br-ex")
    wait_for(lambda: wires(world, h1) == {"physnet1": 64000} and world.bridge(h1).problems == ())
    ovs.vsctl("del-br", "br-ex")
    wait_for(lambda: wires(world, h1) == {} and world.bridge(h1).problems)
    wait_for(lambda: ports(ovs, "br-int") == ["nn-tun0"], "no dead end stays")
    world.change("hypervisor", h1, bridge_mappings=(BridgeMapping("physnet1", "br-int"),))
    wait_for(lambda: "integration bridge" in "".join(world.bridge(h1).problems))
    ovs.vsctl("add-br", "br-ex", "--", "set", "bridge", "br-ex", "datapath_type=netdev")
    world.change("hypervisor", h1, bridge_mappings=(ONE,))
    wait_for(
        lambda: "br-ex of physical network physnet1 has datapath_type netdev" in "".join(world.bridge(h1).problems)
    )


def repairs_a_wire(world: World) -> None:
    ovs = with_bridges(world, "br-ex", "br-lan")
    h1 = world.add(1, ovs, bridge_mappings=(ONE,))
    world.ready(h1)
    wait_for(lambda: wires(world, h1) == {"physnet1": 64000})
    (there,) = ports(ovs, "br-ex")
    here = ovs.get("interface", there, "options:peer")

    def healed(*command: str) -> None:
        repairs = world.state(h1)["repairs"]
        ovs.vsctl("--no-wait", *command)
        wait_for(lambda: world.state(h1)["repairs"] > repairs, f"repair after {command}")
        wait_for(lambda: wires(world, h1) == {"physnet1": 64000}, f"whole after {command}")
        assert ports(ovs, "br-ex") == [there] and here in ports(ovs, "br-int")
        assert ovs.get("interface", here, "options:peer") == there
        assert world.log.having("repaired:"), world.log.texts[-5:]

    healed("del-port", here)
    healed("del-port", there)
    healed("set", "interface", here, "options:peer=nobody")
    healed("set", "interface", there, "type=internal")
    healed("del-port", there, "--", "add-port", "br-lan", there, "--", "set", "port", there,
           f"external_ids:novanet-owner={h1}")  # fmt: skip
    ovs.vsctl("--no-wait", "del-port", there, "--", "add-port", "br-lan", there)
    wait_for(lambda: f"a port named {there} is on another bridge" in "".join(world.bridge(h1).problems))
    assert wires(world, h1) == {} and ports(ovs, "br-lan") == [there], "it is somebody else's"


def realm(world: World, *gateways: str) -> None:
    """A network inside, one outside, and a router between them with these gateways."""
    world.core.apply(
        [
            Edit("network", INSIDE, Network(id=INSIDE, vni=1)),
            Edit("network", OUTSIDE, Network(id=OUTSIDE, vni=2, external=True, physical_network="physnet1")),
            Edit("router", ROUTER, router(*gateways)),
            Edit("port", ident(601), Port(id=ident(601), network_id=INSIDE, router_id=ROUTER, port_key=1)),
            Edit("port", ident(602), Port(id=ident(602), network_id=OUTSIDE, router_id=ROUTER, port_key=2)),
        ]
    )


def router(*gateways: str) -> Router:
    named = tuple(RouterGateway(id, priority=10 - n) for n, id in enumerate(gateways))
    return Router(id=ROUTER, router_key=1, gateway_hypervisors=named)


def vm(world: World, number: int, on: str | None) -> None:
    """A VM's port of the network inside, known to the store to be there."""
    port = Port(id=ident(number), network_id=INSIDE, port_key=number, host_id=on)
    world.core.apply([Edit("port", port.id, port)])


def links(world: World) -> dict[str, Link]:
    """The probes of the graph by their ids."""
    return dict(world.topology.all("link"))


def watches_gateways(world: World) -> None:
    first, second = world.ovs("h1"), world.ovs("h2")
    h1 = world.add(1, first, bridge_mappings=(ONE,))
    h2, h3 = world.add(0x2A, second, name="h2"), world.add(3, tunnel_ip="2001:db8::3")
    world.ready(h1, h2)
    realm(world, h1)
    eventlet.sleep(0.2)
    assert not links(world), "nobody uses the gateway yet"
    vm(world, 700, h2)
    wait_for(lambda: len(links(world)) == 2 and all(link.ofport for link in links(world).values()))
    expected = Link(hypervisor_id=h1, peer_id=h2, ofport=61000, up=False, settled=False)
    assert links(world)[f"{h1}/{h2}"] == expected
    assert links(world)[f"{h2}/{h1}"] == replace(expected, hypervisor_id=h2, peer_id=h1)
    wait_for(lambda: links(world)[f"{h1}/{h2}"] == replace(expected, settled=True), "it had its time")
    name = probe_name(0x2A)
    assert name == "nn-bfd-2a"
    assert first.get("interface", name, "type") == "geneve"
    assert first.get("interface", name, "options") == '{dst_port="6081", remote_ip="192.0.2.42", tos=inherit}'
    bfd = '{check_tnl_key="true", enable="true", min_rx="100", min_tx="100", mult="3", oam="true"}'
    assert first.get("interface", name, "bfd") == bfd
    vm(world, 701, h3)
    wait_for(lambda: f"{h1}/{h3}" in links(world))
    assert 'csum="true"' in first.get("interface", probe_name(3), "options"), "UDP over IPv6"
    assert f"{h2}/{h3}" not in links(world), "neither is a gateway"

    world.change("tunnel-mesh", MESH, tunnel_type="vxlan", bfd_interval=250, bfd_multiplier=5)
    wait_for(lambda: first.get("interface", name, "type") == "vxlan")
    assert first.get("interface", name, "bfd:min_tx") == "250" and first.get("interface", name, "bfd:mult") == "5"
    first.vsctl("--no-wait", "del-port", name)
    wait_for(lambda: world.log.having(f"repaired: port {name} is missing"))
    wait_for(lambda: links(world)[f"{h1}/{h2}"].ofport == 61000)

    vm(world, 700, None)
    wait_for(lambda: set(links(world)) == {f"{h1}/{h3}"}, str(links(world)))
    wait_for(lambda: name not in ports(first, "br-int") and probe_name(1) not in ports(second, "br-int"))
    vm(world, 700, h2)
    wait_for(lambda: len(links(world)) == 3 and all(link.ofport for link in links(world).values()))
    assert links(world)[f"{h1}/{h3}"].ofport == 61001, "the others keep their numbers"
    world.core.apply([Edit("hypervisor", h1, None)])
    wait_for(lambda: links(world) == {}, str(links(world)))
    wait_for(lambda: ports(second, "br-int") == ["nn-tun0"])


def keeps_probes_until_the_intent_is_known(world: World) -> None:
    ovs, other = world.ovs("h1"), world.ovs("h2")
    h1, h2 = world.add(1, ovs, bridge_mappings=(ONE,)), world.add(2, other)
    world.ready(h1, h2)
    realm(world, h1)
    vm(world, 700, h2)
    wait_for(lambda: len(links(world)) == 2)
    world.hypervisors.stop()
    intent = {
        kind: dict(world.topology.all(kind)) for kind in ("tunnel-mesh", "hypervisor", "network", "router", "port")
    }

    after = world.another()
    for kind in ("tunnel-mesh", "hypervisor"):
        after.core.apply([Edit(kind, id, obj) for id, obj in intent[kind].items()])
    after.hypervisors.start()
    after.ready(h1, h2)
    after.core.apply([Edit("port", ident(601), intent["port"][ident(601)])])
    after.settle(lambda: len(after.core.edits))
    assert probe_name(2) in ports(ovs, "br-int"), "what a restarted controller does not know yet it does not remove"
    for kind in ("network", "router", "port"):
        after.core.apply([Edit(kind, id, obj) for id, obj in intent[kind].items()])
    after.hypervisors.complete()
    wait_for(lambda: len(links(after)) == 2)
    assert after.state(h1)["repairs"] == after.state(h2)["repairs"] == 0, "nothing was touched"
    after.hypervisors.stop()


SCENARIOS = (
    wires_a_hypervisor, says_which_bridge_is_missing, repairs_a_wire, watches_gateways,
    keeps_probes_until_the_intent_is_known,
)  # fmt: skip
