"""Traces over hypervisors: where a packet ends, by whom, and what is said of it to whom."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pipelines.compiler import Compiler
from pipelines.cookies import cookie
from pipelines.flow import Flow
from pipelines.ledger import Ledger, Snapshot
from pipelines.trace import Names, Question, Trace, Unanswerable, Unknown, trace
from pipelines.wire import OF13, OF15
from topology import scope
from topology.changes import Edit
from topology.model import AddressPair, HostRoute, Neighbour, PolicyRoute, StaticRoute

from .outside import WORLD, WORLD6, Outside


class World(Outside):
    """The routed world with a way outside, and traces in it; b3 is on h3, a2 on h2."""

    version = OF13

    def __init__(self, *wired: str, **mesh: object) -> None:
        super().__init__(*wired, **mesh)
        self.port("b3", "b", on="h3", ips=("10.0.1.13", "fd00:b::13"))
        self.port("a2", "a", on="h2", ips=("10.0.0.12", "fd00:a::12"))
        self.unknown: set[str] = set()
        self.taken: list[str] = []

    def snapshot(self, hypervisor: str) -> Snapshot | None:
        self.taken.append(hypervisor)
        if hypervisor in self.unknown:
            return None
        compiler, ledger = Compiler(), Ledger(self.version)
        for owner in dict.fromkeys(scope.owners_on(self.topology, hypervisor)):
            ledger.put(owner, compiler.compile(self.topology, hypervisor, owner), cookie(owner))
        return ledger.snapshot()

    def trace(self, source: str, destination: str, *, names: Names | None = None, **more: Any) -> Trace:
        question = Question(source=source, destination=destination, **more)
        found = trace(self.topology, Compiler(), self.snapshot, question, names)
        assert msgspec.json.decode(msgspec.json.encode(found), type=Trace) == found
        return found


def hypervisors(found: Trace, leg: str = "request") -> list[str]:
    [one] = [each for each in found.legs if each.name == leg]
    return [hop.hypervisor.name for hop in one.hops]


def tables(found: Trace, leg: str = "request") -> list[str]:
    [one] = [each for each in found.legs if each.name == leg]
    return [step.table for hop in one.hops for step in hop.steps]


def said(found: Trace, table: str, leg: str = "request") -> list[str]:
    [one] = [each for each in found.legs if each.name == leg]
    return [step.text for hop in one.hops for step in hop.steps if step.table == table]


SIX = pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])


@SIX
@pytest.mark.parametrize("version", [OF13, OF15])
@pytest.mark.parametrize("tunnel", ["geneve", "vxlan"])
def test_a_routed_packet_is_followed_through_the_tunnel_to_the_vm(six: bool, version: int, tunnel: str) -> None:
    world = World(tunnel_type=tunnel)
    world.version = version
    found = world.trace("a1", "fd00:b::12" if six else "10.0.1.12", protocol="tcp", destination_port=80)
    assert (found.verdict, found.text) == ("delivered", "delivered to port b2 on hypervisor h2")
    assert [leg.name for leg in found.legs] == ["resolve", "request"]
    assert (
        found.legs[0].text
        == f"{'fd00:a::1' if six else '10.0.0.1'} is at {world.topology.get('port', 'r-a').mac_address}"
    )
    assert hypervisors(found) == ["h1", "h2"]
    assert said(found, "route") == [
        f"route {'fd00:b::/64' if six else '10.0.1.0/24'} of router r: to {'fd00:b::12' if six else '10.0.1.12'} in network b"
    ]
    assert said(found, "tunnel_output") == ["into the tunnel to hypervisor h2, VNI 2"]
    assert said(found, "local_output") == ["handed to port b2"]
    [step] = [step for step in found.legs[1].hops[0].steps if step.table == "route"]
    assert [(each.kind, each.id) for each in step.objects] == [("router", "r")]
    assert "table=" in step.flow and "route" in step.flow
    [end] = found.legs[1].hops[1].ends
    assert (end.verdict, [each.id for each in end.objects]) == ("delivered", ["b2"])


@SIX
def test_neighbours_of_one_network_find_each_other(six: bool) -> None:
    world = World()
    found = world.trace("a1", "fd00:a::12" if six else "10.0.0.12")
    assert found.text == "delivered to port a2 on hypervisor h2"
    assert "router_admit" not in tables(found)
    assert found.legs[0].text.endswith(f"is at {world.topology.get('port', 'a2').mac_address}")


def test_an_address_that_a_vm_shares_is_answered_by_the_vm() -> None:
    world = World()
    world.edit("port", "a2", allowed_address_pairs=(AddressPair("10.0.0.200"),))
    found = world.trace("a1", "10.0.0.200")
    assert found.text == "delivered to port a2 on hypervisor h2"
    assert "flood" in tables(found, "resolve") or "tunnel_flood" in tables(found, "resolve")


@pytest.mark.parametrize(
    ("destination", "more", "verdict", "words"),
    [
        ("10.0.0.99", {}, "dropped", "nobody answers for 10.0.0.99"),
        ("10.0.1.99", {}, "refused", "ICMP host unreachable"),
        ("10.0.1.12", {"ttl": 1}, "refused", "ICMP time exceeded"),
        ("10.0.1.12", {"size": 9000}, "refused", "too large"),
        ("10.0.0.1", {"protocol": "udp", "destination_port": 9}, "refused", "ICMP port unreachable"),
        ("10.0.1.12", {"source_ip": "10.0.0.13"}, "dropped", "dropped in table port_security: source address is not the port's"),
        ("10.0.1.12", {"source_mac": "02:00:00:00:00:99"}, "dropped", "source address is not the port's"),
        ("169.254.1.1", {"source_ip": "10.0.0.11"}, "dropped", "nobody answers for 169.254.1.1"),
        ("169.254.169.253", {"protocol": "tcp", "destination_port": 53}, "dropped", "the resolver speaks DNS over UDP"),
        ("169.254.169.253", {"protocol": "udp", "destination_port": 53}, "answered", "resolver answers"),
        ("255.255.255.255", {"protocol": "udp", "destination_port": 67, "source_port": 68}, "answered", "DHCP"),
        ("255.255.255.255", {"protocol": "udp", "destination_port": 68, "source_port": 67}, "dropped", "a VM may not be a DHCP server"),
        ("10.0.0.1", {}, "answered", "answered by 10.0.0.1: the echo reply is delivered to port a1 on hypervisor h1"),
        ("fd00:b::1", {}, "answered", "answered by fd00:b::1"),
        ("fd00:a::1", {"icmp_type": 134}, "dropped", "router advertisement of somebody else"),
    ],
)  # fmt: skip
def test_what_ends_elsewhere(destination: str, more: dict[str, Any], verdict: str, words: str) -> None:
    world = World()
    found = world.trace("a1", destination, **more)
    assert found.verdict == verdict, found.text
    assert words in found.text


def test_a_vm_without_a_way_does_not_even_ask() -> None:
    world = World()
    world.edit("subnet", "a-4", gateway_ip=None)
    found = world.trace("a1", "10.0.1.12")
    assert (found.verdict, found.legs[0].hops) == ("dropped", ())
    assert "no gateway" in found.text


def test_a_route_that_dhcp_tells_is_taken() -> None:
    world = World()
    world.edit("subnet", "a-4", host_routes=(HostRoute("198.18.0.0/15", "10.0.0.12"),))
    found = world.trace("a1", "198.18.0.1")
    assert found.text == "delivered to port a2 on hypervisor h2"


# --- replies and connections ---------------------------------------------------------------------------------------


def test_the_reply_is_followed_back() -> None:
    world = World()
    found = world.trace("a1", "10.0.1.12", protocol="tcp", destination_port=80, reply=True)
    assert found.text == "delivered to port b2 on hypervisor h2; the reply is delivered to port a1 on hypervisor h1"
    assert hypervisors(found, "reply") == ["h2", "h1"]
    assert found.legs[-1].packet == "tcp 10.0.1.12:80 > 10.0.0.11:40000, 100 bytes"


@SIX
def test_source_nat_and_its_undoing(six: bool) -> None:
    world = World()
    found = world.trace("a1", "2001:db8::9" if six else "8.8.8.8", protocol="udp", destination_port=53, reply=True)
    assert [leg.verdict for leg in found.legs] == ["answered", "left", "delivered"]
    assert (
        f"left by the wire of physical network phys of hypervisor h2, to {WORLD6}, {WORLD} (02:77:00:00:00:01)"
        in found.text
    )
    assert hypervisors(found) == ["h1", "h2"] and hypervisors(found, "reply") == ["h2", "h1"]
    own = "fd00:a::11" if six else "10.0.0.11"
    outer = "2001:db8:1::10" if six else "203.0.113.10"
    assert said(found, "snat") == [f"source {own} becomes {outer}"]
    assert found.legs[-1].packet.startswith(f"udp {'[2001:db8::9]:53' if six else '8.8.8.8:53'} > ")
    assert found.text.endswith("the reply is delivered to port a1 on hypervisor h1")


def test_a_later_packet_of_a_connection() -> None:
    world = World()
    found = world.trace("a1", "8.8.8.8", protocol="tcp", destination_port=443, established=True, reply=True)
    assert [leg.verdict for leg in found.legs] == ["answered", "left", "delivered"]


def test_a_floating_ip_leaves_on_its_vms_own_hypervisor() -> None:
    world = World()
    mac = world.floating("203.0.113.77", "b3")
    found = world.trace("b3", "8.8.8.8", reply=True)
    assert hypervisors(found) == ["h3"] and hypervisors(found, "reply") == ["h3"]
    assert said(found, "snat") == ["source 10.0.1.13 becomes 203.0.113.77"]
    assert said(found, "router_nat", "reply") == ["floating IP 203.0.113.77 becomes 10.0.1.13"]
    assert mac


def test_from_a_floating_ip_to_another_over_the_wire() -> None:
    """The wire brings it to the hypervisor where the other one is."""
    world = World()
    world.port("b4", "b", on="h2", ips=("10.0.1.14", "fd00:b::14"))
    world.floating("203.0.113.77", "b3", "f3")
    mac = world.floating("203.0.113.78", "b4", "f4")
    known = {
        "id": "n9",
        "network_id": "ext",
        "ip_address": "203.0.113.78",
        "mac_address": mac.to_bytes(6, "big").hex(":"),
    }
    assert world.trace("b3", "203.0.113.78").verdict == "held"
    world.apply(Edit("neighbour", "n9", Neighbour(**known)))
    found = world.trace("b3", "203.0.113.78", reply=True)
    assert hypervisors(found) == ["h3", "h2"]
    assert found.legs[1].text == "delivered to port b4 on hypervisor h2"


# --- gateways --------------------------------------------------------------------------------------------------------


def test_a_gateway_that_is_dead_is_passed_over() -> None:
    world = World()
    for here in ("h1", "h3"):
        link = world.topology.get("link", f"{here}/h2")
        world.apply(Edit("link", f"{here}/h2", msgspec.structs.replace(link, up=False)))
    found = world.trace("a1", "8.8.8.8")
    assert hypervisors(found) == ["h1", "h3"]
    assert said(found, "gateway_redirect")[0] == "to the gateway of router r that is alive: hypervisor h3"


def test_no_gateway_at_all() -> None:
    world = World()
    world.edit("hypervisor", "h2", bridge_mappings=())
    world.edit("hypervisor", "h3", bridge_mappings=())
    found = world.trace("a1", "8.8.8.8")
    assert found.verdict in ("dropped", "refused") and "snat" not in tables(found)


def test_a_gateway_that_sees_nobody_lets_nothing_out() -> None:
    world = World()
    for there in ("h1", "h3"):
        link = world.topology.get("link", f"h2/{there}")
        world.apply(Edit("link", f"h2/{there}", msgspec.structs.replace(link, up=False)))
    found = world.trace("b2", "8.8.8.8")
    assert found.verdict == "dropped" and "no gateway that is alive" in found.text


# --- wires and copies --------------------------------------------------------------------------------------------------


class Wired(World):
    """Network v is a VLAN of the wire, with VMs on h2 and h3."""

    def __init__(self) -> None:
        super().__init__()
        self.network("v", 7, "10.0.7.0/24", physical_network="phys", segmentation_id=12)
        self.port("v2", "v", on="h2", ips=("10.0.7.12",))
        self.port("v3", "v", on="h3", ips=("10.0.7.13",))


def test_vms_on_a_wire_reach_each_other_over_it() -> None:
    found = Wired().trace("v2", "10.0.7.13", reply=True)
    assert found.text == "delivered to port v3 on hypervisor h3; the reply is delivered to port v2 on hypervisor h2"
    assert found.legs[1].hops[1].arrives == "from the wire of physical network phys"
    assert said(found, "provider_output") == ["onto the wire of physical network phys, VLAN 12"]


def test_a_host_on_the_wire_that_nobody_knows_is_believed_to_be_there() -> None:
    found = Wired().trace("v2", "10.0.7.99")
    assert found.verdict == "left"
    assert found.warnings == (
        "10.0.7.99 is taken for a host on the wire that answers; NovaNet does not know its MAC address",
    )


def test_copies_go_to_everybody() -> None:
    world = World()
    world.port("a3", "a", on="h3", ips=("10.0.0.13",))
    found = world.trace("a1", "239.1.1.1", protocol="udp", destination_port=9)
    assert found.verdict == "delivered"
    assert [hop.hypervisor.name for hop in found.legs[0].hops] == ["h1", "h2", "h3"]
    assert {end.text for hop in found.legs[0].hops for end in hop.ends if end.verdict == "delivered"} == {
        "delivered to port a2 on hypervisor h2", "delivered to port a3 on hypervisor h3",
    }  # fmt: skip


# --- policies of routers -----------------------------------------------------------------------------------------------


def test_a_policy_route_is_named_as_what_dropped_it() -> None:
    world = World()
    drop = PolicyRoute(priority=5, protocol="tcp", destination_port=25, action="drop")
    world.edit("router", "r", policy_routes=(drop,), routes=(StaticRoute("192.0.2.0/24", "10.0.1.12"),))
    found = world.trace("a1", "10.0.1.12", protocol="tcp", destination_port=25)
    [end] = found.legs[-1].hops[-1].ends
    assert (found.verdict, found.text) == ("dropped", "dropped in table policy_route: a policy route drops it")
    assert (end.table, [each.id for each in end.objects]) == ("policy_route", ["r"])
    assert world.trace("a1", "192.0.2.9").text == "delivered to port b2 on hypervisor h2", "the next hop gets it"


# --- security groups -------------------------------------------------------------------------------------------------


class Guarded(World):
    """b2 is a server that clients reach at port 80; a1 is a client, and an administrator forbids mail."""

    def __init__(self) -> None:
        super().__init__()
        self.group("servers", "b2", name="servers")
        self.group("clients", "a1", name="clients")
        self.group("house", tier="admin", priority=9, selector=(), name="house")
        tcp = {"protocol": "tcp", "port_range_min": 80, "port_range_max": 80}
        self.rule("servers", id="web", name="web", remote_group_id="clients", **tcp)
        self.rule("servers", id="office", remote_ip_prefix="10.0.0.12/32", protocol="udp")
        self.rule("clients", "egress", id="out", name="anywhere")
        mail = {"protocol": "tcp", "port_range_min": 25, "port_range_max": 25}
        self.rule("house", "egress", id="mail", name="no mail", action="deny", **mail)


def test_rules_that_allow_are_named() -> None:
    found = Guarded().trace("a1", "10.0.1.12", protocol="tcp", destination_port=80, reply=True)
    assert found.verdict == "delivered"
    assert said(found, "egress_policy") == ["allowed by rule anywhere (egress IPv4) of group clients"]
    allowed = "allowed by rule web (ingress IPv4 tcp 80 from group clients) of group servers"
    assert said(found, "ingress_policy") == [allowed]
    assert said(found, "ingress_policy", "reply") == [allowed], "the answer is judged by the rule of its connection"
    assert said(found, "policy_state", "reply") == 2 * ["of the answering side of a known connection"]
    [step] = [step for step in found.legs[1].hops[1].steps if step.table == "ingress_policy"]
    assert [(each.kind, each.id) for each in step.objects] == [
        ("security-group-rule", "web"),
        ("security-group", "servers"),
    ]


def test_a_rule_that_is_one_flow_is_named_as_well() -> None:
    found = Guarded().trace("a2", "10.0.1.12", protocol="udp", destination_port=9)
    assert said(found, "ingress_policy") == [
        "allowed by rule office (ingress IPv4 udp from 10.0.0.12/32) of group servers"
    ]


@pytest.mark.parametrize(
    ("source", "port", "text"),
    [
        ("a1", 25, "dropped by rule no mail (egress IPv4 tcp 25) of group house"),
        ("a1", 22, "dropped in table ingress_policy: no rule of the receiver's security groups allows it (servers)"),
        ("b1", 80, "dropped in table ingress_policy: no rule of the receiver's security groups allows it (servers)"),
    ],
)
def test_who_drops_is_named(source: str, port: int, text: str) -> None:
    found = Guarded().trace(source, "10.0.1.12", protocol="tcp", destination_port=port)
    assert (found.verdict, found.text) == ("dropped", text)
    [end] = found.legs[-1].hops[-1].ends
    expected = ["mail", "house"] if port == 25 else ["servers"]
    assert [each.id for each in end.objects] == expected


def test_who_is_in_no_group_is_told() -> None:
    world = Guarded()
    world.regroup("b2", security_groups=())
    found = world.trace("a1", "10.0.1.12", protocol="tcp", destination_port=80)
    text = "dropped in table ingress_policy: the receiver is in no security group of its project, so nothing allows it"
    assert (found.verdict, found.text) == ("dropped", text)
    assert "the sender is in no security group" in world.trace("b2", "10.0.0.11").text


@pytest.mark.parametrize("stateful", [True, False])
def test_logging_changes_no_verdict(stateful: bool) -> None:
    world = Guarded()
    for group in ("servers", "clients"):
        world.edit("security-group", group, stateful=stateful)
    before = [world.trace("a1", "10.0.1.12", protocol="tcp", destination_port=port) for port in (80, 25, 22)]
    for rule in ("web", "out", "mail"):
        world.edit("security-group-rule", rule, log=True)
    after = [world.trace("a1", "10.0.1.12", protocol="tcp", destination_port=port) for port in (80, 25, 22)]
    assert [(each.verdict, each.text) for each in before] == [(each.verdict, each.text) for each in after]
    assert [each.verdict for each in after] == ["delivered", "dropped", "dropped"]
    for table in ("egress_policy", "ingress_policy"):
        assert said(before[0], table) == said(after[0], table)


def test_an_answer_to_nothing_is_invalid() -> None:
    found = Guarded().trace("b2", "10.0.0.11", icmp_type=0)
    assert found.text == "dropped in table policy_state: connection is invalid"


def test_a_connection_goes_on_while_its_rule_is_there() -> None:
    world = Guarded()
    later = {"protocol": "tcp", "destination_port": 80, "established": True}
    assert said(world.trace("a1", "10.0.1.12", **later), "policy_state") == 2 * ["of a known connection"]
    world.apply(Edit("security-group-rule", "web", None))
    assert world.trace("a1", "10.0.1.12", **later).verdict == "dropped"


def test_rules_of_others_have_no_names() -> None:
    world = Guarded()
    for id in ("a1", "r-a", "r-b"):
        world.edit("port", id, project_id="mine")
    for kind, id in (("network", "a"), ("network", "b"), ("router", "r")):
        world.edit(kind, id, project_id="mine")
    names = Names(world.topology, lambda kind, obj: getattr(obj, "project_id", "") == "mine")
    found = world.trace("a1", "10.0.1.12", names=names, protocol="tcp", destination_port=25)
    assert found.text == "dropped by a rule of an administrator's group"
    assert "no mail" not in str(found) and "house" not in str(found)


# --- what cannot be traced ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "destination", "more", "field"),
    [
        ("nobody", "10.0.0.1", {}, "source"),
        ("r-a", "10.0.0.1", {}, "source"),
        ("away", "10.0.0.1", {}, "source"),
        ("a4", "fd00:a::1", {}, "destination"),
        ("a1", "10.0.1.12", {"protocol": "tcp"}, "destination_port"),
        ("a1", "10.0.1.12", {"source_ip": "fd00::1"}, "source_ip"),
    ],
)
def test_questions_that_make_no_sense(source: str, destination: str, more: dict[str, Any], field: str) -> None:
    world = World()
    world.port("away", "a", ips=("10.0.0.50",))
    world.port("a4", "a", on="h1", ips=("10.0.0.51",))
    with pytest.raises(Unanswerable) as refused:
        world.trace(source, destination, **more)
    assert refused.value.field == field


def test_a_hypervisor_of_which_nothing_is_known() -> None:
    world = World()
    world.unknown = {"h2"}
    with pytest.raises(Unknown) as refused:
        world.trace("a1", "10.0.1.12")
    assert refused.value.hypervisor == "h2"


def test_only_hypervisors_on_the_way_are_looked_at() -> None:
    world = World()
    world.trace("a1", "10.0.1.11", reply=True)
    assert world.taken == ["h1"]
    world.trace("a1", "10.0.1.12", reply=True)
    assert world.taken == ["h1", "h1", "h2"]


def test_many_flows_cost_no_more_than_their_shapes() -> None:
    """A look-up asks once for each shape of match that a table has, so thousands of ports change nothing."""
    world = World()
    snapshot = world.snapshot("h1")
    assert snapshot is not None

    class Counted(dict):  # type: ignore[type-arg]
        asked = 0

        def get(self, key: Any, default: Any = None) -> Any:
            Counted.asked += 1
            return super().get(key, default)

    def asked() -> int:
        flows = Counted(snapshot.flows)
        Counted.asked = 0
        fetch = lambda id: snapshot._replace(flows=flows)  # noqa: E731
        trace(world.topology, Compiler(), fetch, Question(source="a1", destination="10.0.1.11"))
        return Counted.asked

    before = asked()
    for number in range(200):
        world.port(f"x{number}", "b", on="h1", ips=(f"10.0.1.{20 + number}",))
    snapshot = world.snapshot("h1")
    assert snapshot is not None
    assert asked() <= before + 20


# --- who sees what -------------------------------------------------------------------------------------------------------


class Tenant(World):
    """a1 and what is around it are mine; network c behind router s, with the floating IP 203.0.113.99, is another's."""

    def __init__(self) -> None:
        super().__init__()
        self.network("c", 3, "10.9.0.0/24", project_id="theirs")
        self.router("s", "c", project_id="theirs")
        self.port("s-ext", "ext", ips=("203.0.113.60",), router_id="s", project_id="theirs")
        self.port("c1", "c", on="h2", ips=("10.9.0.5",), project_id="theirs", name="secret")
        self.floating("203.0.113.99", "c1")
        for kind, objects in (
            ("port", ("a1", "a2", "b1", "b2", "b3", "r-a", "r-b", "r-ext")),
            ("network", ("a", "b")),
            ("router", ("r",)),
        ):
            for id in objects:
                self.edit(kind, id, project_id="mine")
        self.edit("floating-ip", "f", project_id="theirs")
        host = {"id": "n9", "network_id": "ext", "ip_address": "203.0.113.99", "mac_address": "02:66:00:00:00:00"}
        self.apply(Edit("neighbour", "n9", Neighbour(**host)))

    def mine(self, destination: str, **more: Any) -> Trace:
        def visible(kind: str, obj: Any) -> bool:
            return getattr(obj, "project_id", "") == "mine" or getattr(obj, "external", False)

        names = Names(self.topology, visible)
        question = Question(source="a1", destination=destination, **more)
        return trace(self.topology, Compiler(), self.snapshot, question, names, flows=False)


def test_a_tenant_sees_its_own_way_and_no_names_of_hypervisors() -> None:
    found = Tenant().mine("10.0.1.12")
    assert found.text == "delivered to port b2 on hypervisor 2"
    assert said(found, "tunnel_output") == ["into the tunnel to hypervisor 2, VNI 2"]
    text = msgspec.json.encode(found).decode()
    assert '"h1"' not in text and '"h2"' not in text and "192.168.50" not in text
    assert not any(step.flow for leg in found.legs for hop in leg.hops for step in hop.steps)


def test_a_tenant_sees_nothing_of_what_happens_in_another_project() -> None:
    world = Tenant()
    assert world.trace("a1", "203.0.113.99").text == "delivered to port secret on hypervisor h2"
    found = world.mine("203.0.113.99", reply=True)
    assert found.verdict == "delivered"
    text = msgspec.json.encode(found).decode()
    for hidden in ("10.9.0", "secret", '"c1"', '"s"', "network c", "router s"):
        assert hidden not in text, hidden


def test_a_drop_in_another_project_is_not_explained() -> None:
    world = Tenant()
    world.edit("router", "s", policy_routes=(PolicyRoute(priority=5, action="drop"),))
    assert "policy route" in world.trace("a1", "203.0.113.99").text
    found = world.mine("203.0.113.99")
    assert (found.verdict, found.text) == ("dropped", "dropped in a network of another project")


def test_reasons_are_those_that_flows_declare() -> None:
    """Every flow that drops on purpose says why, so that a trace can."""
    world = World()
    for hypervisor in ("h1", "h2", "h3"):
        for owner in dict.fromkeys(scope.owners_on(world.topology, hypervisor)):
            for rule in Compiler().compile(world.topology, hypervisor, owner):
                if isinstance(rule, Flow) and not rule.actions and rule.goto is None and rule.priority:
                    assert rule.reason, rule
