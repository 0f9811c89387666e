"""Admission: what every kind of write comes to, and what is refused, with which status and field."""

from __future__ import annotations

from itertools import count
from random import Random
from typing import Any

import pytest

from topology.admission import Allocator, Draft, Refused, Write, admit, consequences
from topology.admission.write import merge_patch
from topology.graph import Topology
from topology.model import AllocationPool, FixedIp, encode
from topology.mtu import max_mtu


class World:
    """A graph that writes are admitted to, one at a time."""

    def __init__(self) -> None:
        self.topology = Topology()
        self.allocator = Allocator(Random(7))
        self._ids = (f"00000000-0000-4000-8000-{n:012x}" for n in count(1))
        self.mesh = self.create("tunnel-mesh", name="default")

    def write(self, write: Write) -> Any:
        edit = admit(self.topology, write, self.allocator, next(self._ids))
        self.topology.apply([*consequences(self.topology, edit, self.allocator), edit])
        return edit.value

    def create(self, kind: str, project: str | None = None, **fields: Any) -> Any:
        return self.write(Write("create", kind, fields=fields, project=project))

    def replace(self, kind: str, id: str, project: str | None = None, **fields: Any) -> Any:
        return self.write(Write("replace", kind, id, fields, project=project))

    def patch(self, obj: Any, project: str | None = None, if_match: int | None = None, **fields: Any) -> Any:
        return self.write(Write("patch", obj.KIND, obj.id, fields, if_match, project))

    def delete(self, obj: Any, project: str | None = None, if_match: int | None = None) -> None:
        self.write(Write("delete", obj.KIND, obj.id, {}, if_match, project))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def network(world: World) -> Any:
    return world.create("network", name="blue")


@pytest.fixture
def subnet(world: World, network: Any) -> Any:
    return world.create("subnet", network_id=network.id, cidr="10.0.0.0/24")


def refusal(status: int, field: str, *words: str) -> Any:
    """The block must be refused like this, in words that contain these."""

    class Expect:
        def __enter__(self) -> None:
            pass

        def __exit__(self, kind: Any, problem: Any, trace: Any) -> bool:
            assert isinstance(problem, Refused), f"not refused: {problem!r}"
            assert (problem.status, problem.field) == (status, field), problem.args
            for word in words:
                assert word in problem.detail, problem.detail
            return True

    return Expect()


# --- fields ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"mtu": "1500"}, "mtu"),
        ({"mtu": 12}, "mtu"),
        ({"colour": "red"}, "colour"),
        ({"name": 5}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a\ud800"}, "name"),
        ({"description": "\x1b[2J"}, "description"),
        ({"project_id": "a b"}, "project_id"),
        ({"project_id": "a\n"}, "project_id"),
        ({"admin_state_up": "yes"}, "admin_state_up"),
        ({"vni": 0}, "vni"),
        ({"vni": 2**24}, "vni"),
        ({"revision_number": 3}, "revision_number"),
        ({"id": "no-uuid"}, "id"),
        ({"id": "AAAAAAAA-0000-4000-8000-000000000001"}, "id"),
        ({"id": "aaaaaaaa-0000-4000-8000-000000000001\n"}, "id"),
        ({"id": 7}, "id"),
    ],
)
def test_bad_field_is_named(world: World, fields: dict[str, Any], field: str) -> None:
    with refusal(400, field):
        world.create("network", **fields)


def test_nested_field_is_named_with_its_position(world: World, network: Any, subnet: Any) -> None:
    with refusal(400, "fixed_ips[1].colour", "no such field"):
        world.create("port", network_id=network.id, fixed_ips=[{"ip_address": "10.0.0.9"}, {"colour": "red"}])
    with refusal(400, "fixed_ips[0].ip_address"):
        world.create("port", network_id=network.id, fixed_ips=[{"ip_address": 5}])
    with refusal(400, "network_id", "must be given"):
        world.create("port")


def test_line_breaks_are_for_descriptions(world: World) -> None:
    assert world.create("network", description="a\nb").description == "a\nb"


def test_unknown_kind(world: World) -> None:
    with refusal(404, "", "there is no kind"):
        world.create("router-of-tomorrow")


def test_client_may_choose_the_id_once(world: World) -> None:
    id = "aaaaaaaa-0000-4000-8000-000000000001"
    assert world.create("network", id=id).id == id
    with refusal(409, "id", "taken"):
        world.create("network", id=id)


def test_write_id_and_body_id_must_agree(world: World, network: Any) -> None:
    with refusal(400, "id"):
        world.write(Write("replace", "network", network.id, {"id": "aaaaaaaa-0000-4000-8000-000000000001"}))
    assert world.write(Write("replace", "network", network.id, {"id": network.id, "name": "blue"})) == network


# --- operations --------------------------------------------------------------------------------------------------


def test_revision_counts_real_changes(world: World, network: Any) -> None:
    assert network.revision_number == 1
    assert world.patch(network, name="blue").revision_number == 1
    assert world.patch(network, name="green").revision_number == 2


def test_if_match(world: World, network: Any) -> None:
    with refusal(412, "", "revision_number 1"):
        world.patch(network, if_match=5, name="x")
    with refusal(412, ""):
        world.delete(network, if_match=2)
    with refusal(412, "", "does not exist"):
        world.write(Write("replace", "network", "aaaaaaaa-0000-4000-8000-000000000001", {}, if_match=1))
    assert world.patch(network, if_match=1, name="x").name == "x"


def test_patch_null_restores_the_default(world: World) -> None:
    net = world.create("network", description="old", mtu=1400)
    patched = world.patch(net, description=None, mtu=None)
    assert (patched.description, patched.mtu) == ("", None)


def test_patch_or_delete_of_nothing(world: World) -> None:
    for op in ("patch", "delete"):
        with refusal(404, "id", "there is no network"):
            world.write(Write(op, "network", "aaaaaaaa-0000-4000-8000-000000000001"))  # type: ignore[arg-type]
        with refusal(404, "id"):
            world.write(Write(op, "network", "nonsense"))  # type: ignore[arg-type]


def test_replace_is_idempotent_and_keeps_what_was_allocated(world: World, network: Any, subnet: Any) -> None:
    id = "aaaaaaaa-0000-4000-8000-000000000002"
    body = {"network_id": network.id, "name": "web", "fixed_ips": [{"subnet_id": subnet.id}]}
    first = world.replace("port", id, **body)
    assert world.replace("port", id, **body) == first
    renamed = world.replace("port", id, network_id=network.id)
    assert (renamed.name, renamed.mac_address, renamed.fixed_ips) == ("", first.mac_address, first.fixed_ips)
    assert world.replace("network", network.id).vni == network.vni


def test_what_was_read_can_be_written_back(world: World, network: Any, subnet: Any) -> None:
    port = world.create("port", network_id=network.id)
    assert world.write(Write("replace", "port", port.id, encode(port))) == port
    with refusal(400, "port_key", "set by NovaNet"):
        world.patch(port, port_key=5)


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [1]}, {"a": [2, 3]}, {"a": [2, 3]}),
        ({"a": "b"}, ["c"], ["c"]),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_as_rfc_7386_appendix_a(target: Any, patch: Any, merged: Any) -> None:
    assert merge_patch(target, patch) == merged


# --- projects ----------------------------------------------------------------------------------------------------


def test_tenants_see_and_write_their_own_project_only(world: World) -> None:
    ours = world.create("network", "us", name="net")
    theirs = world.create("network", "them", name="net")
    assert (ours.project_id, theirs.project_id) == ("us", "them")
    with refusal(404, "id"):
        world.patch(theirs, "us", name="mine")
    with refusal(404, "id"):
        world.delete(theirs, "us")
    with refusal(409, "id", "taken"):
        world.replace("network", theirs.id, "us")
    with refusal(404, "network_id", theirs.id):
        world.create("subnet", "us", network_id=theirs.id, cidr="10.0.0.0/24")
    with refusal(404, "network_id"):
        world.create("port", "us", network_id=theirs.id)
    with refusal(403, "project_id"):
        world.create("network", "us", project_id="them")
    world.create("port", network_id=theirs.id, project_id="us")


def test_tenants_may_not_set_what_is_the_administrators(world: World) -> None:
    with refusal(403, "vni"):
        world.create("network", "us", vni=5)
    with refusal(403, ""):
        world.create("hypervisor", "us", name="h")
    net = world.create("network", "us")
    assert world.patch(net, "us", vni=net.vni, name="same number is no harm").vni == net.vni


def test_administrators_objects_go_to_the_project_of_the_network(world: World) -> None:
    net = world.create("network", "us")
    sub = world.create("subnet", network_id=net.id, cidr="10.0.0.0/24")
    port = world.create("port", network_id=net.id)
    assert (sub.project_id, port.project_id) == ("us", "us")
    assert world.create("port", network_id=net.id, project_id="").project_id == ""


def test_refusals_do_not_tell_of_other_projects(world: World) -> None:
    net = world.create("network", "us")
    sub = world.create("subnet", network_id=net.id, cidr="10.0.0.0/24")
    secret = world.create("port", network_id=net.id, project_id="them", name="secret")
    with refusal(409, "fixed_ips[0].ip_address", "another project") as _:
        world.create("port", "us", network_id=net.id, fixed_ips=[{"ip_address": secret.fixed_ips[0].ip_address}])
    with refusal(409, "", "another project"):
        world.delete(sub, "us")


# --- names, references, deletion ---------------------------------------------------------------------------------


def test_names_are_unique_per_kind_and_project(world: World) -> None:
    first = world.create("network", "us", name="net")
    with refusal(409, "name", first.id):
        world.create("network", "us", name="net")
    other = world.create("network", "them", name="net")
    world.create("network", "us")
    world.create("network", "us")
    with refusal(409, "name"):
        world.patch(world.create("network", "us", name="other"), name="net")
    assert world.patch(other, name="net") == other


def test_unknown_references_are_named(world: World, network: Any) -> None:
    nowhere = "aaaaaaaa-0000-4000-8000-000000000009"
    with refusal(404, "network_id", nowhere):
        world.create("subnet", network_id=nowhere, cidr="10.0.0.0/24")
    with refusal(404, "network_id", nowhere):
        world.create("port", network_id=nowhere)
    with refusal(404, "fixed_ips[0].subnet_id", nowhere):
        world.create("port", network_id=network.id, fixed_ips=[{"subnet_id": nowhere}])


def test_what_is_in_use_cannot_be_deleted(world: World, network: Any, subnet: Any) -> None:
    ports = [world.create("port", network_id=network.id, name=f"web-{n}") for n in range(5)]
    with refusal(409, "", "port ", "(web-", "and 2 more"):
        world.delete(subnet)
    with refusal(409, "", "in use by"):
        world.delete(network)
    for port in ports:
        world.delete(port)
    world.delete(subnet)
    world.delete(network)
    assert not world.topology.all("network")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("subnet", "network_id", "other"),
        ("subnet", "cidr", "10.0.1.0/24"),
        ("subnet", "project_id", "them"),
        ("port", "network_id", "other"),
        ("network", "vni", 77),
        ("network", "project_id", "them"),
    ],
)
def test_immutable_fields(world: World, network: Any, subnet: Any, kind: str, field: str, value: Any) -> None:
    other = world.create("network")
    objects = {"network": network, "subnet": subnet, "port": world.create("port", network_id=network.id)}
    with refusal(400, field, "cannot be changed"):
        world.patch(objects[kind], **{field: other.id if value == "other" else value})


# --- networks and the mesh ---------------------------------------------------------------------------------------


def test_vni_is_allocated_or_chosen_but_one_networks_only(world: World) -> None:
    chosen = world.create("network", vni=100)
    with refusal(409, "vni", chosen.id):
        world.create("network", vni=100)
    found = {world.create("network").vni for _ in range(50)}
    assert len(found) == 50 and all(1 <= vni < 2**24 for vni in found)


def test_mtu_is_what_the_mesh_carries(world: World) -> None:
    limit = max_mtu(world.mesh, 4)
    assert limit == 1500 - 66
    assert world.create("network", mtu=limit).mtu == limit
    with refusal(409, "mtu", str(limit)):
        world.create("network", mtu=limit + 1)
    with refusal(409, "underlay_mtu", "MTU of 1434"):
        world.patch(world.mesh, underlay_mtu=1499)
    with refusal(409, "tunnel_ip", "MTU of 1434"):
        world.create("hypervisor", name="v6", tunnel_ip="2001:db8::1")
    mesh = world.patch(world.mesh, tunnel_type="vxlan")
    assert world.create("network", mtu=1450).mtu == max_mtu(mesh, 4)


def test_ipv6_needs_1280_bytes(world: World) -> None:
    small = world.create("network", mtu=1279)
    with refusal(409, "cidr", "1280"):
        world.create("subnet", network_id=small.id, cidr="2001:db8::/64")
    large = world.create("network", mtu=1280)
    world.create("subnet", network_id=large.id, cidr="2001:db8::/64")
    with refusal(409, "mtu", "1280"):
        world.patch(large, mtu=1279)


def test_there_is_one_mesh(world: World) -> None:
    with refusal(409, "", world.mesh.id):
        world.create("tunnel-mesh")
    with refusal(409, "", world.mesh.id):
        world.replace("tunnel-mesh", "aaaaaaaa-0000-4000-8000-000000000001")
    with refusal(409, "", "not deleted"):
        world.delete(world.mesh)


def test_multicast_goes_with_vxlan(world: World) -> None:
    with refusal(400, "multicast_group", "vxlan"):
        world.patch(world.mesh, multicast_group="239.1.1.1")
    with refusal(400, "external_vteps", "vxlan"):
        world.patch(world.mesh, external_vteps=["10.9.9.9"])
    with refusal(400, "multicast_group", "not a multicast address"):
        world.patch(world.mesh, tunnel_type="vxlan", multicast_group="10.1.1.1")
    with refusal(400, "external_vteps[1]", "unicast"):
        world.patch(world.mesh, tunnel_type="vxlan", external_vteps=["10.9.9.9", "239.1.1.1"])
    mesh = world.patch(
        world.mesh, tunnel_type="vxlan", multicast_group="FF05::1", external_vteps=["10.9.9.9", "10.1.1.1", "10.9.9.9"]
    )
    assert (mesh.multicast_group, mesh.external_vteps) == ("ff05::1", ("10.1.1.1", "10.9.9.9"))


def test_hypervisors(world: World) -> None:
    with refusal(400, "name", "system-id"):
        world.create("hypervisor")
    first = world.create("hypervisor", name="h1", tunnel_ip="2001:DB8:0::1", ovsdb="tcp:10.0.0.1:6640")
    assert first.tunnel_ip == "2001:db8::1" and 1 <= first.hypervisor_key < 2**16
    with refusal(409, "name"):
        world.create("hypervisor", name="h1")
    with refusal(409, "tunnel_ip", first.id):
        world.create("hypervisor", name="h2", tunnel_ip="2001:db8::1")
    with refusal(409, "ovsdb", first.id):
        world.create("hypervisor", name="h2", ovsdb="tcp:10.0.0.1:6640")
    with refusal(400, "ovsdb", "70000"):
        world.create("hypervisor", name="h2", ovsdb="tcp:10.0.0.1:70000")
    with refusal(400, "ovsdb"):
        world.create("hypervisor", name="h2", ovsdb="10.0.0.1")
    with refusal(400, "tunnel_ip", "unicast"):
        world.create("hypervisor", name="h2", tunnel_ip="224.0.0.1")
    with refusal(400, "project_id", "no project"):
        world.create("hypervisor", name="h2", project_id="us")
    assert world.patch(first, description="rack 4").hypervisor_key == first.hypervisor_key
    world.create("hypervisor", name="h2")


def test_numbers_run_out(world: World) -> None:
    full = dict.fromkeys(range(1, 2**16), "x")
    del full[40000]
    assert world.allocator.number(full, (1, 2**16 - 1), "hypervisor_key") == 40000
    full[40000] = "x"
    with refusal(409, "hypervisor_key", "65535"):
        world.allocator.number(full, (1, 2**16 - 1), "hypervisor_key")


# --- subnets -----------------------------------------------------------------------------------------------------


def test_subnet_defaults(world: World, network: Any) -> None:
    four = world.create("subnet", network_id=network.id, cidr="10.0.0.0/24")
    six = world.create("subnet", network_id=network.id, cidr="2001:DB8:0:0::/64")
    assert (four.ip_version, four.gateway_ip) == (4, "10.0.0.1")
    assert (six.cidr, six.ip_version, six.gateway_ip) == ("2001:db8::/64", 6, "2001:db8::1")
    assert world.create("subnet", network_id=network.id, cidr="10.0.1.0/24", gateway_ip=None).gateway_ip is None
    assert world.create("subnet", network_id=network.id, cidr="10.0.2.0/31").gateway_ip == "10.0.2.0"
    assert world.create("subnet", network_id=network.id, cidr="10.0.2.2/32").gateway_ip is None
    assert world.patch(four, gateway_ip=None).gateway_ip is None
    assert world.patch(four, name="still none").gateway_ip is None


@pytest.mark.parametrize(
    ("fields", "field", "word"),
    [
        ({"cidr": "10.0.0.5/24"}, "cidr", "10.0.0.0/24"),
        ({"cidr": "10.0.0.0/33"}, "cidr", "not an IPv4"),
        ({"cidr": "10.0.0.0/255.255.255.0"}, "cidr", "10.0.0.0/24"),
        ({"cidr": "fe80::%1/64"}, "cidr", ""),
        ({"cidr": "224.0.0.0/8"}, "cidr", "overlaps 224"),
        ({"cidr": "0.0.0.0/0"}, "cidr", "overlaps"),
        ({"cidr": "ff02::/64"}, "cidr", "overlaps"),
        ({"cidr": "10.0.0.0/24", "ip_version": 6}, "ip_version", "IPv4"),
        ({"cidr": "10.0.0.0/24", "gateway_ip": "10.0.1.1"}, "gateway_ip", "outside"),
        ({"cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.255"}, "gateway_ip", "no host address"),
        ({"cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.01"}, "gateway_ip", "not an IPv4"),
        ({"cidr": "10.0.0.0/24", "gateway_ip": "fe80::1%eth0"}, "gateway_ip", "scope"),
        (
            {"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.9", "end": "10.0.1.9"}]},
            "allocation_pools[0].end",
            "outside",
        ),
        (
            {"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.9", "end": "10.0.0.8"}]},
            "allocation_pools[0]",
            "after its end",
        ),
        (
            {
                "cidr": "10.0.0.0/24",
                "allocation_pools": [
                    {"start": "10.0.0.5", "end": "10.0.0.9"},
                    {"start": "10.0.0.9", "end": "10.0.0.20"},
                ],
            },
            "allocation_pools[1]",
            "overlaps",
        ),
    ],
)
def test_bad_subnets(world: World, network: Any, fields: dict[str, Any], field: str, word: str) -> None:
    with refusal(400, field, word):
        world.create("subnet", network_id=network.id, **fields)


def test_subnets_of_a_network_do_not_overlap(world: World, network: Any, subnet: Any) -> None:
    with refusal(409, "cidr", "10.0.0.0/24", subnet.id):
        world.create("subnet", network_id=network.id, cidr="10.0.0.128/25")
    world.create("subnet", network_id=network.id, cidr="10.0.1.0/24")
    world.create("subnet", network_id=world.create("network").id, cidr="10.0.0.0/24")


def test_link_local_gateway_of_ipv6(world: World, network: Any) -> None:
    assert (
        world.create("subnet", network_id=network.id, cidr="2001:db8::/64", gateway_ip="FE80::1").gateway_ip
        == "fe80::1"
    )


# --- ports -------------------------------------------------------------------------------------------------------


def test_port_gets_a_mac_a_key_and_an_address_of_each_version(world: World, network: Any, subnet: Any) -> None:
    six = world.create("subnet", network_id=network.id, cidr="2001:db8::/64")
    world.create("subnet", network_id=network.id, cidr="10.0.9.0/24")
    first, second = (world.create("port", network_id=network.id) for _ in range(2))
    assert first.fixed_ips == (FixedIp(subnet.id, "10.0.0.2"), FixedIp(six.id, "2001:db8::2"))
    assert second.fixed_ips[0].ip_address == "10.0.0.3"
    assert first.mac_address.startswith("02:4e:56:") and first.mac_address != second.mac_address
    assert first.port_key != second.port_key
    assert world.create("port", network_id=network.id, fixed_ips=[]).fixed_ips == ()
    assert world.create("port", network_id=world.create("network").id).fixed_ips == ()


def test_addresses_that_were_asked_for(world: World, network: Any, subnet: Any) -> None:
    port = world.create("port", network_id=network.id, fixed_ips=[{"subnet_id": subnet.id}, {"ip_address": "10.0.0.2"}])
    assert [f.ip_address for f in port.fixed_ips] == ["10.0.0.3", "10.0.0.2"]
    with refusal(409, "fixed_ips[0].ip_address", port.id):
        world.create("port", network_id=network.id, fixed_ips=[{"ip_address": "10.0.0.2"}])
    with refusal(400, "fixed_ips[0].ip_address", "no subnet"):
        world.create("port", network_id=network.id, fixed_ips=[{"ip_address": "10.1.0.2"}])
    with refusal(400, "fixed_ips[0].ip_address", "outside"):
        world.create("port", network_id=network.id, fixed_ips=[{"subnet_id": subnet.id, "ip_address": "10.1.0.2"}])
    with refusal(400, "fixed_ips[0].ip_address", "no host address"):
        world.create("port", network_id=network.id, fixed_ips=[{"ip_address": "10.0.0.255"}])
    with refusal(400, "fixed_ips[1]", "twice"):
        world.create("port", network_id=network.id, fixed_ips=[{"ip_address": "10.0.0.7"}, {"ip_address": "10.0.0.7"}])
    with refusal(400, "fixed_ips[0]", "subnet_id or an ip_address"):
        world.create("port", network_id=network.id, fixed_ips=[{}])
    foreign = world.create("subnet", network_id=world.create("network").id, cidr="10.5.0.0/24")
    with refusal(400, "fixed_ips[0].subnet_id", "not in the port's network"):
        world.create("port", network_id=network.id, fixed_ips=[{"subnet_id": foreign.id}])


def test_mac_addresses(world: World, network: Any) -> None:
    port = world.create("port", network_id=network.id, mac_address="02:00:00:AA:BB:CC")
    assert port.mac_address == "02:00:00:aa:bb:cc"
    with refusal(409, "mac_address", port.id):
        world.create("port", network_id=network.id, mac_address="02:00:00:aa:bb:cc")
    world.create("port", network_id=world.create("network").id, mac_address="02:00:00:aa:bb:cc")
    for bad, word in (("01:00:5e:00:00:01", "multicast"), ("00:00:00:00:00:00", "no host")):
        with refusal(400, "mac_address", word):
            world.create("port", network_id=network.id, mac_address=bad)
    with refusal(400, "mac_address"):
        world.create("port", network_id=network.id, mac_address="02:00:00:aa:bb:cc\n")


def test_allowed_address_pairs(world: World, network: Any) -> None:
    pairs = [{"ip_address": "10.9.0.0/16"}, {"ip_address": "10.0.0.9/32", "mac_address": "02:00:00:00:00:AA"}]
    port = world.create("port", network_id=network.id, allowed_address_pairs=pairs)
    assert [(p.ip_address, p.mac_address) for p in port.allowed_address_pairs] == [
        ("10.9.0.0/16", None),
        ("10.0.0.9", "02:00:00:00:00:aa"),
    ]
    for bad, field in (
        ([{"ip_address": "10.9.0.1/16"}], "allowed_address_pairs[0].ip_address"),
        ([{"ip_address": "host"}], "allowed_address_pairs[0].ip_address"),
        ([{"ip_address": "10.0.0.9", "mac_address": "03:00:00:00:00:01"}], "allowed_address_pairs[0].mac_address"),
        ([{"ip_address": "10.0.0.9"}, {"ip_address": "10.0.0.9/32"}], "allowed_address_pairs[1]"),
    ):
        with refusal(400, field):
            world.create("port", network_id=network.id, allowed_address_pairs=bad)


def test_nobody_may_send_from_another_ports_mac_address(world: World, network: Any) -> None:
    one, other = (world.create("port", network_id=network.id) for _ in range(2))
    theirs = [{"ip_address": "10.9.0.9", "mac_address": other.mac_address.upper()}]
    for project in (None, ""):
        with refusal(409, "allowed_address_pairs[0].mac_address", other.id):
            world.patch(one, project, allowed_address_pairs=theirs)
        with refusal(409, "allowed_address_pairs[0].mac_address", other.id):
            world.create("port", project, network_id=network.id, allowed_address_pairs=theirs)
    own = [{"ip_address": "10.9.0.9", "mac_address": one.mac_address}]
    assert world.patch(one, allowed_address_pairs=own).allowed_address_pairs[0].mac_address == one.mac_address
    elsewhere = world.create("network")
    assert world.create("port", network_id=elsewhere.id, allowed_address_pairs=theirs).allowed_address_pairs
    virtual = [{"ip_address": "10.9.0.9", "mac_address": "00:00:5e:00:01:07"}]
    for port in (one, other):
        assert world.patch(port, allowed_address_pairs=virtual).allowed_address_pairs, "VRRP's is nobody's own"


def test_in_networks_of_others_ports_have_port_security(world: World) -> None:
    """An administrator has given a tenant a port in the network of another one."""
    network = world.create("network", project_id="owner")
    port = world.create("port", network_id=network.id, project_id="guest")
    with refusal(403, "port_security_enabled", "networks of others"):
        world.patch(port, "guest", port_security_enabled=False, security_groups=[])
    assert not world.patch(port, port_security_enabled=False, security_groups=[]).port_security_enabled
    assert world.patch(port, "guest", name="x").name == "x", "as an administrator has left it"
    assert not world.create("port", "owner", network_id=network.id, port_security_enabled=False).port_security_enabled


# --- allocation --------------------------------------------------------------------------------------------------


def test_a_subnet_runs_out_and_comes_back(world: World, network: Any) -> None:
    small = world.create("subnet", network_id=network.id, cidr="10.0.0.0/29")
    ports = [world.create("port", network_id=network.id) for _ in range(5)]
    assert {p.fixed_ips[0].ip_address for p in ports} == {f"10.0.0.{n}" for n in range(2, 7)}
    with refusal(409, "fixed_ips", small.id, "10.0.0.0/29"):
        world.create("port", network_id=network.id)
    with refusal(409, "fixed_ips[0]", small.id):
        world.create("port", network_id=network.id, fixed_ips=[{"subnet_id": small.id}])
    world.delete(ports[2])
    assert world.create("port", network_id=network.id).fixed_ips == ports[2].fixed_ips
    more = world.create("subnet", network_id=network.id, cidr="10.0.1.0/29")
    assert world.create("port", network_id=network.id).fixed_ips[0].subnet_id == more.id


def test_a_freed_address_does_not_come_back_at_once(world: World, network: Any, subnet: Any) -> None:
    first = world.create("port", network_id=network.id)
    world.delete(first)
    assert world.create("port", network_id=network.id).fixed_ips != first.fixed_ips


def test_pools_are_all_there_is_to_allocate(world: World, network: Any) -> None:
    pools = [{"start": "10.0.0.20", "end": "10.0.0.21"}, {"start": "10.0.0.9", "end": "10.0.0.11"}]
    sub = world.create(
        "subnet", network_id=network.id, cidr="10.0.0.0/24", gateway_ip="10.0.0.10", allocation_pools=pools
    )
    assert sub.allocation_pools[0] == AllocationPool("10.0.0.20", "10.0.0.21")
    found = [world.create("port", network_id=network.id).fixed_ips[0].ip_address for _ in range(4)]
    assert sorted(found) == ["10.0.0.11", "10.0.0.20", "10.0.0.21", "10.0.0.9"]
    with refusal(409, "fixed_ips"):
        world.create("port", network_id=network.id)
    world.create("port", network_id=network.id, fixed_ips=[{"ip_address": "10.0.0.200"}])


class CountingDict(dict[Any, Any]):
    """Counts how often somebody looks."""

    looks = 0

    def __contains__(self, key: object) -> bool:
        self.looks += 1
        return super().__contains__(key)


@pytest.mark.parametrize("cidr", ["10.0.0.0/8", "2001:db8::/64", "2001:db8::/32"])
def test_allocation_looks_at_few_addresses_however_large_the_subnet(world: World, network: Any, cidr: str) -> None:
    world.create("subnet", network_id=network.id, cidr=cidr)
    taken = world.topology.addresses = CountingDict()
    for _ in range(500):
        world.create("port", network_id=network.id)
    assert len(taken) == 500 and taken.looks <= 1000
    world.allocator = Allocator(Random(1))
    taken.looks = 0
    world.create("port", network_id=network.id)
    assert taken.looks <= 502


def test_scattered_allocators_do_not_follow_each_other(world: World, network: Any) -> None:
    world.create("subnet", network_id=network.id, cidr="10.0.0.0/8")
    found = []
    for seed in (1, 2):
        allocator = Allocator(Random(seed))
        allocator.scatter()
        edit = admit(world.topology, Write("create", "port", fields={"network_id": network.id}), allocator, network.id)
        found.append(edit.value.fixed_ips)
    assert found[0] != found[1]


# --- drafts ------------------------------------------------------------------------------------------------------


def test_a_draft_sees_what_was_staged_and_leaves_the_graph_alone(world: World, network: Any, subnet: Any) -> None:
    draft = Draft(world.topology)
    ids = (f"bbbbbbbb-0000-4000-8000-{n:012x}" for n in count(1))

    def stage(view: Draft, write: Write) -> Any:
        edit = admit(view, write, world.allocator, next(ids))
        view.stage(edit)
        return edit.value

    net = stage(draft, Write("create", "network", fields={"name": "fresh", "vni": 9}))
    sub = stage(draft, Write("create", "subnet", fields={"network_id": net.id, "cidr": "10.0.0.0/30"}))
    inner = Draft(draft)
    port = stage(inner, Write("create", "port", fields={"network_id": net.id}))
    assert port.fixed_ips == (FixedIp(sub.id, "10.0.0.2"),)
    with refusal(409, "fixed_ips", sub.id):
        stage(inner, Write("create", "port", fields={"network_id": net.id}))
    with refusal(409, "", port.id):
        stage(inner, Write("delete", "subnet", sub.id))
    with refusal(409, "vni"):
        stage(inner, Write("create", "network", fields={"vni": 9}))
    with refusal(409, "name"):
        stage(inner, Write("create", "network", fields={"name": "fresh"}))
    with refusal(409, "cidr"):
        stage(inner, Write("create", "subnet", fields={"network_id": net.id, "cidr": "10.0.0.0/24"}))
    stage(inner, Write("delete", "port", port.id))
    stage(inner, Write("delete", "subnet", sub.id))
    stage(inner, Write("delete", "network", net.id))
    assert inner.get("network", net.id) is None and net.id not in inner.all("network")
    assert draft.get("network", net.id) == net and net.id in draft.all("network")
    stage(draft, Write("delete", "subnet", sub.id))
    assert list(world.topology.all("network")) == [network.id]


def test_a_draft_frees_what_was_deleted(world: World, network: Any, subnet: Any) -> None:
    port = world.create("port", network_id=network.id, mac_address="02:00:00:00:00:01", name="web")
    draft = Draft(world.topology)
    draft.stage(admit(draft, Write("delete", "port", port.id), world.allocator, ""))
    fields = {"network_id": network.id, "mac_address": port.mac_address, "name": "web"}
    fields["fixed_ips"] = [{"ip_address": port.fixed_ips[0].ip_address}]
    again = admit(draft, Write("create", "port", fields=fields), world.allocator, network.id).value
    assert again.fixed_ips == port.fixed_ips
    draft.stage(admit(draft, Write("delete", "subnet", subnet.id), world.allocator, ""))
    assert draft.mesh == world.mesh
