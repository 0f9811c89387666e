"""Multicast groups: who gets copies, who is believed to want them, and what makes that change."""

from __future__ import annotations

import random

import pytest

from novanet_apps.responders.membership import (
    CHANGES_A_SECOND,
    CHANGES_AT_ONCE,
    FORGET_AFTER,
    GROUPS_OF_NETWORK,
    GROUPS_OF_PORT,
    Membership,
    Memberships,
)
from pipelines import fields as f
from pipelines import multicast
from pipelines import tables as t
from pipelines.compiler import Compiler
from pipelines.flow import Flow
from pipelines.interpreter import Interpreter, Outcome
from pipelines.packets.multicast import Joined, Left, Queried
from pipelines.punting import Reason
from topology import scope
from topology.changes import Edit
from topology.model import MulticastGroup, TunnelMesh

from .test_scope import Follower, everything
from .world import World

VNI, TUNNEL, WIRE, CONTROLLER = 1, 1000, 900, 0xFFFFFFFD
GROUP, GROUP6 = "239.1.2.3", "ff05::7"
HYPERVISORS = ("h1", "h2", "h3")


class Switches(World):
    """A network with VMs a1, b1 on h1, a2, b2 on h2, a3, b3 on h3, and the switches of it all."""

    def __init__(self, mesh: dict | None = None, **network: object) -> None:
        super().__init__(**mesh or {})
        self.network("net", VNI, "10.0.0.0/16", "fd00::/64", **network)
        for number in (1, 2, 3):
            for name in ("a", "b"):
                last = number if name == "a" else 10 + number
                self.port(f"{name}{number}", "net", on=f"h{number}", ips=(f"10.0.0.{last}", f"fd00::{last}"))

    def listen(self, group: str, *ports: str) -> list:
        known = MulticastGroup(network_id="net", group=group, ports=frozenset(ports))
        return self.apply(Edit("multicast-group", f"net/{group}", known))

    def rules(self, hypervisor: str) -> list:
        compiler = Compiler()
        owners = dict.fromkeys(scope.owners_on(self.topology, hypervisor))
        return [rule for owner in owners for rule in compiler.compile(self.topology, hypervisor, owner)]

    def switch(self, hypervisor: str) -> Interpreter:
        return Interpreter.of(dict.fromkeys(self.rules(hypervisor)))

    def ofport(self, port: str) -> int:
        return self.topology.get("port", port).port_key

    def packet(self, sender: str, group: str, **more: int) -> dict[f.Field, int]:
        port = self.topology.get("port", sender)
        six = ":" in group
        source = next(f.ip(fixed.ip_address) for fixed in port.fixed_ips if (":" in fixed.ip_address) == six)
        to = 0x333300000000 | f.ip(group) & 0xFFFFFFFF if six else 0x01005E000000 | f.ip(group) & 0x7FFFFF
        return {
            f.ETH_SRC: f.mac(port.mac_address), f.ETH_DST: to, f.ETH_TYPE: f.IPV6 if six else f.IPV4, f.IP_PROTO: f.UDP,
            (f.IPV6_SRC if six else f.IPV4_SRC): source, (f.IPV6_DST if six else f.IPV4_DST): f.ip(group),
            **{getattr(f, name): value for name, value in more.items()},
        }  # fmt: skip

    def send(self, sender: str, group: str = GROUP, **more: int) -> Outcome:
        here = self.topology.location(sender)
        return self.switch(here).run(self.packet(sender, group, **more), self.ofport(sender))

    def arrive(self, hypervisor: str, sender: str, group: str = GROUP) -> list[int]:
        """Ports that a packet leaves by which comes through a tunnel, for several."""
        source = self.topology.get("hypervisor", self.topology.location(sender)).tunnel_ip
        packet = {**self.packet(sender, group), f.TUNNEL_ID: VNI, f.TUN_SRC: f.ip(source)}
        return self.switch(hypervisor).run(packet, TUNNEL).ports

    def ports(self, *names: str) -> list[int]:
        return sorted(self.ofport(name) for name in names)


def tunnelled(outcome: Outcome) -> list[int]:
    """Where copies are tunnelled to."""
    return sorted(packet[f.TUN_DST] for port, packet in outcome.sent if port == TUNNEL)


def delivered(outcome: Outcome) -> list[int]:
    """Ports of VMs that get copies."""
    return sorted(port for port in outcome.ports if port < 900)


def endpoint(number: int) -> int:
    return f.ip(f"192.168.50.{number}")


both = pytest.mark.parametrize("group", [GROUP, GROUP6])
meshes = pytest.mark.parametrize("mesh", [{}, {"tunnel_type": "vxlan"}], ids=["geneve", "vxlan"])


# --- what switches do --------------------------------------------------------------------------------------------


@both
@meshes
def test_only_receivers_get_copies(mesh: dict, group: str) -> None:
    world = Switches(mesh)
    world.listen(group, "b1", "a2", "b2")
    outcome = world.send("a1", group)
    assert delivered(outcome) == world.ports("b1")
    assert tunnelled(outcome) == [endpoint(2)], "one for the other hypervisor that has receivers"
    [packet] = [packet for port, packet in outcome.sent if port == TUNNEL]
    assert packet.get(f.OUT_PORT_KEY, 0) == 0 and packet[f.TUNNEL_ID] == VNI
    assert sorted(world.arrive("h2", "a1", group)) == world.ports("a2", "b2")
    assert world.arrive("h3", "a1", group) == []


@both
def test_groups_that_nobody_joined_are_flooded(group: str) -> None:
    world = Switches()
    world.listen("239.9.9.9", "b1")
    outcome = world.send("a1", group)
    assert delivered(outcome) == world.ports("b1")
    assert tunnelled(outcome) == [endpoint(2), endpoint(3)]
    assert sorted(world.arrive("h2", "a1", group)) == world.ports("a2", "b2")


@pytest.mark.parametrize("group", ["224.0.0.251", "ff02::fb", "ff02::1:ff00:7"])
def test_groups_of_the_link_are_flooded_even_if_somebody_joined(group: str) -> None:
    world = Switches()
    world.listen(group, "a2")
    outcome = world.send("a1", group)
    assert delivered(outcome) == world.ports("b1") and tunnelled(outcome) == [endpoint(2), endpoint(3)]


def test_what_nobody_wants_any_more_goes_nowhere() -> None:
    world = Switches()
    world.listen(GROUP)
    assert world.send("a1").ports == []
    assert world.arrive("h2", "a1") == []


def test_a_receiver_that_sends_does_not_hear_itself() -> None:
    world = Switches()
    world.listen(GROUP, "a1", "b1")
    assert delivered(world.send("a1")) == world.ports("b1")


def test_the_same_group_in_another_network_is_another() -> None:
    world = Switches()
    world.network("other", 2, "10.1.0.0/16")
    world.port("x1", "other", on="h1", ips=("10.1.0.1",))
    world.port("y1", "other", on="h1", ips=("10.1.0.2",))
    world.listen(GROUP, "b1")
    assert delivered(world.send("x1")) == world.ports("y1")


def test_ports_that_are_down_or_gone_get_no_copies() -> None:
    world = Switches()
    world.listen(GROUP, "b1", "a2", "a3")
    world.edit("port", "b1", admin_state_up=False)
    world.unplug("a2")
    outcome = world.send("a1")
    assert delivered(outcome) == [] and tunnelled(outcome) == [endpoint(3)]


def test_a_receiver_that_moves_is_followed() -> None:
    world = Switches()
    world.listen(GROUP, "a2")
    world.plug("a2", "h3")
    assert tunnelled(world.send("a1")) == [endpoint(3)]
    assert world.arrive("h3", "a1") == world.ports("a2")


def test_more_receivers_than_a_flow_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multicast, "LARGEST", 2)
    world = Switches()
    world.listen(GROUP, "b1", "a2", "a3")
    outcome = world.send("a1")
    assert delivered(outcome) == world.ports("b1")
    assert tunnelled(outcome) == [endpoint(2), endpoint(3)], "all hypervisors, which deliver to receivers only"
    assert world.arrive("h2", "a1") == world.ports("a2")
    world.port("c1", "net", on="h1")
    world.listen(GROUP, "a1", "b1", "c1")
    assert delivered(world.send("a1")) == world.ports("b1", "c1")


# --- foreign endpoints and wires ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more, expected",
    [
        ({"external_vteps": ("192.0.2.9",)}, [f.ip("192.0.2.9"), endpoint(2)]),
        ({"multicast_group": "239.255.0.1"}, [f.ip("239.255.0.1")]),
    ],
    ids=["vteps", "group"],
)
def test_endpoints_that_are_not_ours_get_every_group(more: dict, expected: list[int]) -> None:
    world = Switches({"tunnel_type": "vxlan", **more})
    world.listen(GROUP, "a2")
    assert tunnelled(world.send("a1")) == sorted(expected)


def wired_world(*wired: str, vlan: int | None = None) -> Switches:
    world = Switches(physical_network="phys", segmentation_id=vlan)
    for hypervisor in wired:
        world.wire(hypervisor, "phys")
    return world


def test_a_wire_gets_one_copy_and_serves_who_is_on_it() -> None:
    world = wired_world("h1", "h2")
    world.listen(GROUP, "b1", "a2", "a3")
    outcome = world.send("a1")
    assert delivered(outcome) == world.ports("b1") and outcome.ports.count(WIRE) == 1
    assert tunnelled(outcome) == [endpoint(3)], "h2 is on the wire"
    wire = {**world.packet("a1", GROUP), f.ETH_SRC: 0x020000AA0001}
    assert world.switch("h2").run(wire, WIRE).ports == world.ports("a2"), "nor does it leave again"
    world.listen(GROUP)
    assert world.send("a1").ports == [WIRE], "there may be receivers outside"
    assert world.switch("h2").run(wire, WIRE).ports == []


REPORTS = {
    "igmp": ("224.0.0.22", {"IP_PROTO": 2}),
    "igmp of a VM without an address": ("224.0.0.22", {"IP_PROTO": 2, "IPV4_SRC": 0}),
    **{f"icmpv6 {kind}": ("ff02::16", {"IP_PROTO": 58, "ICMPV6_TYPE": kind}) for kind in (130, 131, 132, 143)},
}
reports = pytest.mark.parametrize("group, fields", REPORTS.values(), ids=REPORTS)


@reports
def test_reports_go_to_the_controller_only(group: str, fields: dict) -> None:
    outcome = Switches().send("a1", group, **fields)
    [(port, packet)] = outcome.sent
    assert (port, packet[f.PUNT]) == (CONTROLLER, Reason.MULTICAST_MEMBERSHIP)


@reports
def test_a_wire_hears_reports_too(group: str, fields: dict) -> None:
    assert wired_world("h1").send("a1", group, **fields).ports == [WIRE, CONTROLLER]


def test_a_report_in_the_name_of_somebody_else_goes_nowhere() -> None:
    world = Switches()
    assert world.send("a1", "224.0.0.22", IP_PROTO=2, IPV4_SRC=f.ip("10.0.0.2")).ports == []
    assert world.send("a1", "224.0.0.22", IP_PROTO=2, IPV4_SRC=0, ETH_SRC=0x020000000099).ports == []


def test_every_flow_is_as_its_table_declares() -> None:
    for world in (Switches(), wired_world("h1", "h2", vlan=5), Switches({"tunnel_type": "vxlan"})):
        world.listen(GROUP, "b1", "a2")
        world.listen(GROUP6, "a3")
        for hypervisor in HYPERVISORS:
            found = [rule for rule in world.rules(hypervisor) if isinstance(rule, Flow)]
            for flow in found:
                t.check(flow)
            assert sum(flow.table == t.MULTICAST.number for flow in found) == 5, "two for each group, and the miss"


# --- what has to be compiled anew --------------------------------------------------------------------------------


def change(world: Switches, rng: random.Random, number: int) -> list:
    """One random edit of what multicast groups depend on."""
    topology = world.topology
    port = rng.choice(list(topology.all("port")))
    hypervisor = rng.choice(HYPERVISORS)
    match rng.randrange(10):
        case 0 | 1 | 2:
            group, ports = rng.choice([GROUP, GROUP6]), topology.ports_of("net")
            return world.listen(group, *(id for id in ports if rng.random() < 0.4))
        case 3:
            return world.apply(Edit("multicast-group", f"net/{GROUP}", None))
        case 4:
            return world.plug(port, hypervisor, rng.choice([None, 500 + number]))
        case 5:
            return world.unplug(port)
        case 6:
            return world.edit("port", port, admin_state_up=rng.random() < 0.6)
        case 7:  # what the store does once it has seen where a port is
            return world.edit("port", port, host_id=topology.location(port))
        case 8:
            return world.wire(hypervisor, *(["phys"] if rng.random() < 0.6 else []))
    if rng.random() < 0.3:
        return world.edit("network", "net", admin_state_up=rng.random() < 0.7)
    if rng.random() < 0.5:
        kind = rng.choice(["geneve", "vxlan"])
        vteps = ("192.0.2.9",) if kind == "vxlan" else ()
        mesh = TunnelMesh(id="mesh", tunnel_type=kind, external_vteps=vteps)
        return world.apply(Edit("tunnel-mesh", "mesh", mesh))
    if rng.random() < 0.5 and len(topology.all("port")) > 3:
        return world.apply(Edit("vif", port, None), Edit("port", port, None))
    return world.edit("bridge", hypervisor, tunnel_ofport=rng.choice([None, 1000, 1001]))


@pytest.mark.parametrize("physical", [None, "phys"])
@pytest.mark.parametrize("seed", range(12))
def test_following_changes_leads_where_compiling_everything_leads(seed: int, physical: str | None) -> None:
    world, rng = Switches(physical_network=physical), random.Random(seed)
    follower = Follower(world)
    for number in range(120):
        changes = [edit for _ in range(rng.choice([1, 1, 3])) for edit in change(world, rng, number)]
        follower.follow(changes)
        now = everything(world)
        for key in follower.state.keys() | now.keys():
            assert follower.state.get(key) == now.get(key), f"{key} after step {number}: {changes}"


def test_a_vm_compiles_the_groups_that_it_wants_and_no_others() -> None:
    world = Switches()
    for number in range(20):
        world.listen(f"239.1.1.{number}", "a1")
    world.listen(GROUP, "a2")
    assert recompiled(world, world.port("new", "net", on="h1")) == set()
    assert recompiled(world, world.plug("new", "h3")) == set()
    assert recompiled(world, world.plug("a2", "h3")) == {(h, f"net/{GROUP}") for h in HYPERVISORS}


def recompiled(world: World, changes: list) -> set:
    return {(h, id) for h, (kind, id) in scope.dirty(world.topology, changes) if kind == "multicast-group"}


# --- memberships -------------------------------------------------------------------------------------------------


class Members:
    """Memberships of a world, with a clock of our own."""

    def __init__(self) -> None:
        self.world = Switches()
        self.members, self.now = Memberships(self.world.topology), 1000.0

    def report(self, port: str, *events: object) -> int:
        """Returns how many groups changed."""
        edits = self.members.take(self.world.topology.get("port", port), events, self.now)
        self.world.apply(*edits)
        return len(edits)

    def join(self, port: str, *groups: str) -> int:
        return self.report(port, *(Joined(f.ip(group)) for group in groups))

    def leave(self, port: str, *groups: str) -> int:
        return self.report(port, *(Left(f.ip(group)) for group in groups))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.world.apply(*self.members.expire(self.now))

    def of(self, group: str = GROUP) -> set[str] | None:
        known = self.world.topology.get("multicast-group", f"net/{group}")
        return set(known.ports) if known is not None else None


def many(number: int, start: int = 0) -> list[str]:
    return [f"239.7.{n >> 8}.{n & 255}" for n in range(start, start + number)]


def test_who_joins_is_known_until_he_leaves() -> None:
    members = Members()
    assert members.of() is None
    assert members.join("a1", GROUP, GROUP6) == 2
    assert members.join("a2", GROUP) == 1
    assert (members.of(), members.of(GROUP6)) == ({"a1", "a2"}, {"a1"})
    assert members.leave("a1", GROUP) == 1
    assert members.of() == {"a2"}
    assert members.leave("a2", GROUP) == 1
    assert members.of() == set(), "known, and nobody wants it"
    assert members.leave("a2", GROUP) == 0 and members.leave("a3", "239.0.0.9") == 0


def test_one_message_may_say_several_things_of_a_group() -> None:
    members = Members()
    members.report("a1", Joined(f.ip(GROUP)), Left(f.ip(GROUP)), Joined(f.ip(GROUP6)), Queried(0, 0, 4))
    assert (members.of(), members.of(GROUP6)) == (set(), {"a1"})
    members.report("a1", Left(f.ip(GROUP6)), Joined(f.ip(GROUP6)))
    assert members.of(GROUP6) == {"a1"}


def test_a_report_that_says_nothing_new_changes_nothing() -> None:
    members = Members()
    members.join("a1", GROUP)
    assert members.join("a1", GROUP) == 0
    assert members.join("a1", "224.0.0.251", "ff02::fb", "ff02::1:ff00:1") == 0, "these are flooded anyway"


def test_memberships_end_when_nobody_prolongs_them() -> None:
    members = Members()
    members.join("a1", GROUP)
    members.join("a2", GROUP)
    members.wait(FORGET_AFTER - 1)
    members.join("a2", GROUP)
    members.wait(2)
    assert members.of() == {"a2"}
    members.wait(FORGET_AFTER)
    assert members.of() == set()


def test_who_is_gone_wants_nothing() -> None:
    members = Members()
    members.join("a1", GROUP, GROUP6)
    members.join("a2", GROUP)
    members.world.apply(*members.members.forget_port("a1"))
    assert (members.of(), members.of(GROUP6)) == ({"a2"}, set())
    members.world.apply(*members.members.forget_network("net"))
    assert members.of() is None and members.of(GROUP6) is None
    members.wait(FORGET_AFTER + 1)
    assert not members.world.topology.all("multicast-group")


def test_a_port_may_have_so_many_groups(caplog: pytest.LogCaptureFixture) -> None:
    members = Members()
    members.join("a1", *many(GROUPS_OF_PORT - 1))
    members.join("a1", *many(3, start=GROUPS_OF_PORT - 1))
    assert len(members.world.topology.wanted_by("a1")) == GROUPS_OF_PORT
    assert members.members.refused == 2
    members.join("a1", *many(2, start=600))
    assert members.members.refused == 4
    assert len([record for record in caplog.records if "a1 joins too many" in record.message]) == 1
    assert members.join("a2", *many(3)) == 3, "others may"
    members.leave("a1", *many(1))
    assert members.join("a1", GROUP) == 1


def test_a_network_may_have_so_many_groups_and_forgets_unwanted_ones_first() -> None:
    members = Members()
    ports = ("a1", "b1", "a2", "b2", "a3")
    for number, port in enumerate(ports[:4]):
        members.join(port, *many(GROUPS_OF_NETWORK // 4, start=number * GROUPS_OF_NETWORK // 4))
    assert members.join("a3", GROUP) == 0 and members.members.refused == 1
    assert members.join("a3", many(1)[0]) == 1, "one that is known already"
    members.leave("b1", *many(1, start=GROUPS_OF_NETWORK // 4))
    assert members.join("a3", GROUP) == 2
    assert members.of() == {"a3"} and members.of(many(1, start=GROUPS_OF_NETWORK // 4)[0]) is None
    assert len(members.world.topology.all("multicast-group")) == GROUPS_OF_NETWORK


def test_who_joins_and_leaves_all_the_time_is_slowed_down() -> None:
    members = Members()
    changes = 0
    for _ in range(CHANGES_AT_ONCE):
        changes += members.join("a1", GROUP) + members.leave("a1", GROUP)
    assert changes == CHANGES_AT_ONCE
    members.now += 2.0
    changes = sum(members.join("a1", GROUP) + members.leave("a1", GROUP) for _ in range(100))
    assert changes == 2 * CHANGES_A_SECOND
    assert members.join("a2", GROUP) == 1, "nobody else is"


# --- the responder -----------------------------------------------------------------------------------------------


def test_queries_reach_the_vms_of_one_hypervisor_and_no_wire() -> None:
    """What ``Membership`` injects, run through the tables."""
    world = wired_world("h1", "h2")
    world.listen(GROUP, "a1")
    sent = _asked(world, lambda responder: responder._ask_network("net", 0.0))
    assert {hypervisor for hypervisor, _ in sent} == set(HYPERVISORS) and len(sent) == 6
    for hypervisor, actions in sent:
        number = hypervisor[1]
        assert _outputs(world, hypervisor, actions) == world.ports(f"a{number}", f"b{number}")


def test_a_port_is_asked_alone() -> None:
    world = Switches()
    sent = _asked(world, lambda responder: responder._ask_port("a2"))
    assert [_outputs(world, hypervisor, actions) for hypervisor, actions in sent] == 2 * [world.ports("a2")]
    assert {hypervisor for hypervisor, _ in sent} == {"h2"}


def test_networks_without_known_groups_are_not_asked() -> None:
    world = Switches()
    responder_asked = _asked(
        world, lambda responder: (responder._due.update(net=0.0), responder._ask_network("net", 0.0))
    )
    assert not responder_asked


class _Recorder:
    """Stands for the switches: keeps what is injected."""

    def __init__(self, world: World) -> None:
        self.topology, self.punts, self.sent = world.topology, self, []

    def inject(self, hypervisor: str, frame: bytes, actions: tuple) -> None:
        self.sent.append((hypervisor, actions))


def _asked(world: World, ask) -> list:
    recorder = _Recorder(world)
    ask(Membership(recorder))
    return recorder.sent


def _outputs(world: Switches, hypervisor: str, actions: tuple) -> list[int]:
    """Ports that a packet leaves by when the controller has a switch do this."""
    in_table_0 = Flow(0, 1000, b"", actions)
    rules = [rule for rule in world.rules(hypervisor) if not (isinstance(rule, Flow) and rule.table == 0)]
    outcome = Interpreter.of([in_table_0, *dict.fromkeys(rules)]).run({f.ETH_TYPE: f.IPV4}, CONTROLLER)
    return sorted(outcome.ports)
