"""Security groups over the wire of a provider network: whose a packet is that no tunnel tells the identity of."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines import fields as f
from pipelines import tables as t
from pipelines.compiler import Compiler
from pipelines.flow import Flow
from topology import scope
from topology.changes import Edit
from topology.model import AddressPair, FixedIp

from .outside import WIRE
from .test_trace import World, said

TUNNELS = pytest.mark.parametrize("tunnel", ["geneve", "vxlan"])
SIX = pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
VIRTUAL = "00:00:5e:00:01:07"
"""A MAC address of VRRP's."""


class Lan(World):
    """VLAN v, wired to h2 and h3 and not to h1, with a client c2 on h2 and a server s3 on h3: servers take clients only, and
    clients send to servers only. x2 is in no group, c1 a client behind a tunnel."""

    def __init__(self, tunnel: str = "geneve") -> None:
        super().__init__(tunnel_type=tunnel)
        self.network("v", 7, "10.0.7.0/24", "fd00:7::/64", physical_network="phys", segmentation_id=12)
        for name, number in (("c1", 11), ("c2", 12), ("s3", 13), ("x2", 14)):
            self.port(name, "v", on=f"h{2 if name == 'x2' else name[1]}", ips=(f"10.0.7.{number}", f"fd00:7::{number}"))
        self.group("servers", "s3", name="servers")
        self.group("clients", "c1", "c2", name="clients")
        for ethertype in ("IPv4", "IPv6"):
            self.rule("servers", ethertype=ethertype, remote_group_id="clients", id=f"in{ethertype}")
            self.rule("clients", "egress", ethertype=ethertype, remote_group_id="servers", id=f"out{ethertype}")

    def wired(self, mac: str, source: str, *, to: str = "s3", at: str = "h3") -> bool:
        """Whether a VM gets a frame that the wire brings, from these addresses."""
        port, six = self.topology.get("port", to), ":" in source
        destination = next(fixed.ip_address for fixed in port.fixed_ips if (":" in fixed.ip_address) == six)
        packet = {
            f.ETH_SRC: f.mac(mac), f.ETH_DST: f.mac(port.mac_address), f.VLAN_VID: 0x100C, f.IP_TTL: 64,
            f.ETH_TYPE: f.IPV6 if six else f.IPV4, f.IP_PROTO: f.UDP, f.UDP_SRC: 4000, f.UDP_DST: 9,
            (f.IPV6_SRC if six else f.IPV4_SRC): f.ip(source), (f.IPV6_DST if six else f.IPV4_DST): f.ip(destination),
        }  # fmt: skip
        return [sent.port for sent in self.switch(at).run(packet, WIRE).sent] == [port.port_key]

    def mac_of(self, port: str) -> str:
        return self.topology.get("port", port).mac_address

    def lookups(self, hypervisor: str, *owners: str) -> list[Flow]:
        """What ports elsewhere cost beside their identities."""
        rules = [rule for port in owners for rule in Compiler().compile(self.topology, hypervisor, ("port", port))]
        return [
            rule for rule in rules if isinstance(rule, Flow) and rule.table in (t.SOURCE.number, t.DESTINATION.number)
        ]


def address(number: int, six: bool) -> str:
    return f"fd00:7::{number}" if six else f"10.0.7.{number}"


@TUNNELS
@SIX
def test_group_rules_hold_over_the_wire_in_both_directions(tunnel: str, six: bool) -> None:
    lan = Lan(tunnel)
    found = lan.trace("c2", address(13, six), reply=True)
    assert found.text == "delivered to port s3 on hypervisor h3; the reply is delivered to port c2 on hypervisor h2"
    assert found.legs[1].hops[1].arrives == "from the wire of physical network phys"
    assert [text.split(" (")[0] for text in said(found, "egress_policy")] == [
        f"allowed by rule out{'IPv6' if six else 'IPv4'}"
    ]
    assert "allowed by rule in" in said(found, "ingress_policy")[0]
    assert lan.trace("c1", address(13, six), reply=True).text.startswith("delivered to port s3")
    stranger = lan.trace("x2", address(13, six))
    assert (
        stranger.text
        == "dropped in table ingress_policy: no rule of the receiver's security groups allows it (servers)"
    )
    assert "egress_policy" in lan.trace("c2", address(14, six)).text, "a client sends to servers only"
    assert "egress_policy" in lan.trace("s3", address(12, six)).text, "servers begin nothing"


@TUNNELS
@SIX
def test_only_both_addresses_of_a_port_tell_who_it_is(tunnel: str, six: bool) -> None:
    lan = Lan(tunnel)
    client, stranger, host = lan.mac_of("c2"), lan.mac_of("x2"), "02:77:00:00:00:99"
    assert lan.wired(client, address(12, six))
    for mac, source in (
        (client, address(14, six)), (client, address(99, six)), (stranger, address(12, six)), (host, address(12, six)),
        (client, address(13, six)), (lan.mac_of("c1"), address(11, six)),
    ):  # fmt: skip
        assert not lan.wired(mac, source), f"{source} from {mac}"


@TUNNELS
def test_a_link_local_address_and_allowed_pairs_are_the_ports_own(tunnel: str) -> None:
    lan = Lan(tunnel)
    lan.edit("port", "c2", allowed_address_pairs=(AddressPair("10.0.7.128/25"), AddressPair("10.0.7.50", VIRTUAL)))
    own = lan.mac_of("c2")
    assert lan.wired(own, "10.0.7.200") and lan.wired(VIRTUAL, "10.0.7.50") and lan.wired(own, "10.0.7.12")
    assert not lan.wired(own, "10.0.7.50") and not lan.wired(VIRTUAL, "10.0.7.12") and not lan.wired(own, "10.0.7.100")
    assert lan.wired(own, "fe80::ff:fe00:" + ":".join([own[12:].replace(":", "")]))


@TUNNELS
def test_a_shared_mac_address_tells_an_identity_that_all_have(tunnel: str) -> None:
    """VRRP between ports of one kind; and a port that claims another's address, which profits nobody."""
    lan = Lan(tunnel)
    pair = (AddressPair("10.0.7.50", VIRTUAL),)
    lan.port("d2", "v", on="h2", ips=("10.0.7.22",), security_groups=("clients",), allowed_address_pairs=pair)
    lan.edit("port", "c2", allowed_address_pairs=pair)
    assert lan.wired(VIRTUAL, "10.0.7.50") and lan.wired(lan.mac_of("c2"), "10.0.7.12")
    changes = lan.edit("port", "x2", allowed_address_pairs=(
        AddressPair("10.0.7.60", VIRTUAL), AddressPair("10.0.7.0/24", lan.mac_of("c2")),
    ))  # fmt: skip
    dirty = set(scope.dirty(lan.topology, changes))
    assert {("h3", ("port", port)) for port in ("c2", "d2", "x2")} <= dirty
    assert not lan.wired(VIRTUAL, "10.0.7.50") and not lan.wired(lan.mac_of("c2"), "10.0.7.12")
    assert lan.wired(lan.mac_of("d2"), "10.0.7.22"), "which nobody else may send from"


@TUNNELS
def test_without_port_security_nobody_is_known_from_the_wire(tunnel: str) -> None:
    lan = Lan(tunnel)
    assert lan.wired(lan.mac_of("c2"), "10.0.7.12")
    lan.edit("port", "c2", port_security_enabled=False)
    assert not [flow for flow in lan.lookups("h3", "c2") if flow.table == t.DESTINATION.number]
    assert not lan.wired(lan.mac_of("c2"), "10.0.7.12")


def test_a_port_costs_as_many_flows_as_it_has_addresses_and_only_on_the_wire() -> None:
    lan = Lan()
    assert len(lan.lookups("h3", "c2")) == 4, "IPv4, IPv6, link-local, and as a destination"
    for number in range(20):
        lan.rule(
            "servers", remote_group_id="clients", protocol="tcp", port_range_min=number + 1, port_range_max=number + 1
        )
    assert len(lan.lookups("h3", "c2")) == 4, "whatever the number of rules"
    for hypervisor, port in (("h3", "c1"), ("h1", "c2"), ("h2", "c2")):
        assert not lan.lookups(hypervisor, port), "it is not wired, or has the port"
    lan.interface("r", "v")
    lan.unplug("s3")
    assert lan.topology.reachers_of("v").keys() >= {"h3"} and not lan.lookups("h3", "c2"), (
        "it has no VMs of the network"
    )


def test_a_port_that_joins_or_leaves_changes_one_flow() -> None:
    lan = Lan()

    def flows() -> set[Any]:
        return set(Compiler().compile(lan.topology, "h3", ("port", "x2")))

    lan.regroup("x2", labels={"a": "b"})
    before = flows()
    lan.regroup("x2", security_groups=("clients",))
    changed = {flow.key for flow in before ^ flows()}
    assert len(changed) == 1
    assert lan.wired(lan.mac_of("x2"), "10.0.7.14")


def test_hypervisors_that_get_a_wire_or_their_first_vm_learn_who_is_there() -> None:
    lan = Lan()
    owner = ("port", "c2")
    for changes in (lan.wire("h1", "phys"), lan.unplug("s3"), lan.plug("s3", "h3")):
        assert {hypervisor for hypervisor, each in scope.dirty(lan.topology, changes) if each == owner}
    assert len(lan.lookups("h1", "c2")) == 4 and len(lan.lookups("h3", "c2")) == 4
    lan.wire("h2")
    assert not lan.lookups("h1", "c2") and not lan.lookups("h3", "c2")


@TUNNELS
@SIX
def test_a_routed_packet_from_outside_is_nobodys(tunnel: str, six: bool) -> None:
    """What the wire brings for a floating IP with the source address of a VM, and what a router there sends on."""
    lan = Lan(tunnel)
    inside, source = ("fd00:b::12", "fd00:b::13") if six else ("10.0.1.12", "10.0.1.13")
    lan.group("inner", "b2", "b3", name="inner")
    lan.rule("inner", ethertype="IPv6" if six else "IPv4", remote_group_id="inner")
    for ethertype in ("IPv4", "IPv6"):
        lan.rule("inner", "egress", ethertype=ethertype)
    assert lan.trace("b3", inside).verdict == "delivered"
    for target in (lan.outer_mac, lan.floating("203.0.113.50", "b2")):
        for destination in (inside, *(() if six else ("203.0.113.50",))):
            left = lan.from_outside("h2", target, source, destination, IP_PROTO=f.UDP, UDP_DST=9)
            assert lan.key("b2") not in [each.port for each in left]


def test_behind_a_router_a_shared_address_tells_an_identity_that_all_have() -> None:
    """VXLAN; a virtual address of two VMs, each with its own MAC address."""
    lan = Lan("vxlan")
    pair = (AddressPair("10.0.0.50"),)
    for name in ("e2", "g2"):
        lan.port(
            name,
            "a",
            on="h2",
            security_groups=("clients",),
            ips=(f"10.0.0.6{name[0] == 'e':d}",),
            allowed_address_pairs=pair,
        )
    lan.port("s1", "b", on="h1", security_groups=("servers",), ips=("10.0.1.60",))

    def passes() -> bool:
        left = lan.from_vm("e2", "10.0.1.60", IPV4_SRC=f.ip("10.0.0.50"), IP_PROTO=f.UDP, UDP_DST=9)
        return [each.port for each in left] == [lan.key("s1")]

    assert passes()
    changes = lan.regroup("g2", labels={"other": "kind"})
    assert {("h1", ("port", port)) for port in ("e2", "g2")} <= set(scope.dirty(lan.topology, changes))
    assert not passes()
    lan.edit("port", "e2", allowed_address_pairs=())
    changes = lan.edit("port", "e2", fixed_ips=(FixedIp("a-4", "10.0.0.50"),))
    assert ("h1", ("port", "g2")) in set(scope.dirty(lan.topology, changes))
    assert not passes()


def test_edits_and_their_reversal_leave_the_index_as_it_was() -> None:
    lan = Lan()
    pairs = (AddressPair("10.0.7.50", VIRTUAL), AddressPair("10.0.7.51", VIRTUAL))
    for port in ("c2", "x2"):
        lan.edit("port", port, allowed_address_pairs=pairs)
    assert lan.topology.senders("v", VIRTUAL) == {"c2", "x2"}
    lan.edit("port", "c2", allowed_address_pairs=pairs[:1])
    lan.apply(Edit("port", "x2", None))
    assert lan.topology.senders("v", VIRTUAL) == {"c2"}
    assert lan.topology.senders("v", lan.mac_of("c2")) == {"c2"}
    lan.edit("port", "c2", allowed_address_pairs=())
    assert not lan.topology.senders("v", VIRTUAL)
