"""The schema that follows from the models, and objects on their way to rows and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from topology.changes import Edit
from topology.membership import identity_id
from topology.migration import ADDED, between
from topology.migration import operations as migrate
from topology.model import (
    KINDS,
    RECORDED,
    RULE_MATCH,
    AddressGroup,
    AddressPair,
    AllocationPool,
    BridgeMapping,
    FixedIp,
    FloatingIp,
    HealthMonitor,
    HostRoute,
    Hypervisor,
    Identity,
    LabelRequirement,
    Listener,
    LoadBalancer,
    Member,
    Neighbour,
    Network,
    PolicyRoute,
    Pool,
    Port,
    PortForwarding,
    Router,
    RouterGateway,
    SecurityGroup,
    SecurityGroupRule,
    SessionPersistence,
    StaticRoute,
    Subnet,
    TunnelMesh,
    traits,
)
from topology.schema import (
    ADDRESS,
    KIND_OF,
    LOAD,
    NOT_READ,
    Step,
    apply_order,
    claim_operations,
    columns,
    decode,
    name_key,
    operations,
    record_operations,
    schema,
    table,
)

OLD = Path(__file__).parents[1] / "switch" / "intent-1.0.0.ovsschema"
A, B, C = (f"{c * 8}-0000-4000-8000-000000000000" for c in "abc")
NETWORK = Network(id=A, name="net", project_id="us", revision_number=1, vni=7)
SUBNET = Subnet(
    id=B, network_id=A, cidr="10.0.0.0/24", ip_version=4, allocation_pools=(AllocationPool("10.0.0.2", "10.0.0.9"),),
    dns_nameservers=("10.0.0.9", "10.0.0.5"), host_routes=(HostRoute("10.9.0.0/16", "10.0.0.7"),), enable_dhcp=False,
)  # fmt: skip
PORT = Port(
    id=C, network_id=A, revision_number=3, mac_address="02:00:00:00:00:01", port_key=9, admin_state_up=False,
    fixed_ips=(FixedIp(B, "10.0.0.9"), FixedIp(B, "10.0.0.2")), allowed_address_pairs=(AddressPair("10.9.0.0/16"),),
    security_groups=(),
)  # fmt: skip
HYPERVISOR = Hypervisor(
    id=A, name="h1", tunnel_ip="10.0.0.1", hypervisor_key=5, revision_number=1, gateway=False,
    bridge_mappings=(BridgeMapping("lab", "br-ex"),),
)  # fmt: skip
WIRE = Network(
    id=B, vni=8, revision_number=1, external=True, physical_network="lab", segmentation_id=7, dns_domain="x.org"
)
ROUTER = Router(
    id=A, router_key=9, revision_number=1, routes=(StaticRoute("10.9.0.0/16", "10.0.0.7"),), enable_snat=False,
    policy_routes=(PolicyRoute(priority=3, source="10.0.0.0/24", nexthops=("10.0.0.7", "10.0.0.6")),),
    gateway_hypervisors=(RouterGateway(B, 20),),
)  # fmt: skip
INTERFACE = Port(
    id=C, network_id=B, router_id=A, revision_number=1, mac_address="02:00:00:00:00:02", port_key=10,
    fixed_ips=(FixedIp(B, "10.0.0.1"),), device_owner="network:router_interface", device_id=A,
    security_groups=(),
)  # fmt: skip
FLOATING = FloatingIp(
    id=A, floating_network_id=B, subnet_id=B, floating_ip_address="192.0.2.9", mac_address="02:00:00:00:00:03", port_id=C,
    fixed_ip_address="10.0.0.9", revision_number=1,
)  # fmt: skip
FORWARDING = PortForwarding(
    id=A, floating_ip_id=B, protocol="udp", external_port=53, internal_port_id=C, internal_ip_address="10.0.0.9",
    internal_port=5353, revision_number=1,
)  # fmt: skip
NEIGHBOUR = Neighbour(
    id=A, network_id=B, ip_address="192.0.2.1", mac_address="02:00:00:00:00:04", learned=True, revision_number=1
)
MESH = TunnelMesh(id=B, tunnel_type="vxlan", external_vteps=("10.1.1.1", "10.2.2.2"), revision_number=2)
GROUP = SecurityGroup(
    id=A, name="web", project_id="us", revision_number=1, stateful=False,
    selector=(LabelRequirement("tier", "In", ("app", "web")), LabelRequirement("x.org/zone", "Exists")),
)  # fmt: skip
NAMED = SecurityGroup(id=B, tier="admin", priority=7, revision_number=1)
RULE = SecurityGroupRule(
    id=C, security_group_id=A, direction="ingress", ethertype="IPv4", protocol="tcp", port_range_min=80, port_range_max=81,
    remote_group_id=B, log=True, revoke=False, rule_key=2**32 - 1, revision_number=1,
)  # fmt: skip
ANYTHING = SecurityGroupRule(
    id=C, security_group_id=A, direction="egress", ethertype="IPv6", remote_address_group_id=B, rule_key=1,
    action="deny", revision_number=1,
)  # fmt: skip
ADDRESSES = AddressGroup(id=B, addresses=("10.0.0.0/8", "2001:db8::/32"), shared=True, revision_number=1)
IDENTITY = Identity(
    id=identity_id("us", [A, B], {"tier": "web", "empty": ""}), project_id="us", number=2**32 - 1, security_groups=(A, B),
    labels={"tier": "web", "empty": ""}, revision_number=1,
)  # fmt: skip
BALANCER = LoadBalancer(
    id=A, vip_network_id=B, vip_subnet_id=C, vip_address="10.0.0.9", vip_mac_address="02:00:00:00:00:05", balancer_key=2**32 - 1,
    revision_number=1,
)  # fmt: skip
ON_ROUTER = LoadBalancer(
    id=B,
    router_id=A,
    vip_address="2001:db8::1",
    vip_mac_address="02:00:00:00:00:06",
    balancer_key=1,
    admin_state_up=False,
)
POOL = Pool(
    id=A, loadbalancer_id=B, protocol="UDP", lb_algorithm="round_robin", table_size=251, pool_key=3, on_member_down="drop",
    session_persistence=SessionPersistence(type="SOURCE_IP", persistence_timeout=9), revision_number=1,
)  # fmt: skip
LISTENER = Listener(
    id=A,
    loadbalancer_id=B,
    protocol="TCP",
    protocol_port=80,
    protocol_port_max=81,
    default_pool_id=C,
    revision_number=1,
)
BACKEND = Member(
    id=A, pool_id=B, subnet_id=C, address="10.0.0.9", protocol_port=80, weight=0, backup=True, member_key=2**32 - 1,
    health="down", health_detail="refused", drain_until=0, slot_weight=7, revision_number=1,
)  # fmt: skip
MONITOR = HealthMonitor(
    id=A, pool_id=B, type="HTTP", http_method="GET", url_path="/up", expected_codes="200-204", revision_number=1
)
MEMBER = replace(PORT, project_id="us", security_groups=(A, B), labels={"tier": "web", "empty": ""}, identity=2**32 - 1)


def test_every_kind_has_a_table_and_every_field_a_column() -> None:
    tables = schema()["tables"]
    assert set(tables) == {table(kind) for kind in KINDS} | {ADDRESS, LOAD}
    for kind, cls in KINDS.items():
        assert KIND_OF[table(kind)] == kind
        hidden = set(tables[table(kind)]["columns"]) - set(cls.__struct_fields__)
        of_its_own = {"floating-ip": {"address"}, "load-balancer": {"address"}, "hypervisor": {"loads"}}.get(
            kind, set()
        )
        assert hidden == {"name_key"} | of_its_own and hidden <= NOT_READ
        assert set(tables[table(kind)]["columns"]) - hidden == set(cls.__struct_fields__) - {"id"}
        assert tables[table(kind)]["isRoot"] is True


def test_references_are_strong_but_where_a_port_was_last_seen() -> None:
    tables = schema()["tables"]
    network = {"type": "uuid", "refTable": "Network", "refType": "strong"}
    for name in ("Subnet", "Port"):
        assert tables[name]["columns"]["network_id"]["type"]["key"] == network
    assert tables["Port"]["columns"]["host_id"]["type"]["key"]["refType"] == "weak"
    assert tables[ADDRESS]["columns"]["subnet"]["type"]["key"] == {
        "type": "uuid",
        "refTable": "Subnet",
        "refType": "strong",
    }
    assert "isRoot" not in tables[ADDRESS]
    groups = {"type": "uuid", "refTable": "Security_Group", "refType": "strong"}
    assert tables["Port"]["columns"]["security_groups"]["type"] == {"key": groups, "min": 0, "max": "unlimited"}
    assert tables["Identity"]["columns"]["security_groups"]["type"]["key"] == {"type": "string"}, "it outlives groups"


def test_what_must_be_unique_is_indexed() -> None:
    tables = schema()["tables"]
    assert tables["Network"]["indexes"] == [["name_key"], ["vni"]]
    assert tables["Port"]["indexes"] == [["name_key"], ["port_key"], ["network_id", "mac_address"]]
    assert tables["Hypervisor"]["indexes"] == [["name_key"], ["hypervisor_key"]]
    assert tables[ADDRESS]["indexes"] == [["subnet", "ip_address"]]
    assert tables["Tunnel_Mesh"]["maxRows"] == 1
    assert tables["Router"]["indexes"] == [["name_key"], ["router_key"]]
    assert tables["Floating_Ip"]["indexes"][1:] == [
        ["subnet_id", "floating_ip_address"],
        ["floating_network_id", "mac_address"],
    ]
    assert tables["Port_Forwarding"]["indexes"][1:] == [["floating_ip_id", "protocol", "external_port"]]
    assert tables["Neighbour"]["indexes"][1:] == [["network_id", "ip_address"]]
    assert tables["Identity"]["indexes"][1:] == [["number"]]
    assert tables["Security_Group_Rule"]["indexes"][1:] == [["rule_key"], [*RULE_MATCH]]
    assert tables["Load_Balancer"]["indexes"][2:] == [
        ["vip_subnet_id", "router_id", "vip_address"],
        ["vip_network_id", "vip_mac_address"],
    ]
    assert tables["Listener"]["indexes"][1:] == [["loadbalancer_id", "protocol", "protocol_port"]]
    assert tables["Member"]["indexes"][1:] == [["member_key"], ["pool_id", "address", "protocol_port"]]
    assert tables["Health_Monitor"]["indexes"][1:] == [["pool_id"]]


def test_a_floating_ip_can_lose_what_it_leads_to() -> None:
    columns_ = schema()["tables"]["Floating_Ip"]["columns"]
    assert columns_["loadbalancer_id"]["type"]["key"] == {
        "type": "uuid",
        "refTable": "Load_Balancer",
        "refType": "weak",
    }
    assert columns_["port_id"]["type"]["key"] == {"type": "uuid", "refTable": "Port", "refType": "weak"}
    assert columns_["floating_network_id"]["type"]["key"]["refType"] == "strong"


def test_immutable_fields_are_so_in_the_server_too() -> None:
    columns_ = schema()["tables"]["Subnet"]["columns"]
    assert {name for name, column in columns_.items() if column.get("mutable") is False} == {
        name for name, trait in traits(Subnet).items() if "immutable" in trait
    }


def test_several_metas_of_a_field_merge() -> None:
    assert traits(Port)["host_id"] == {"read_only": True, "ref": "hypervisor", "weak": True}
    assert traits(Subnet)["network_id"] == {"ref": "network", "immutable": True}


def cells(operations: list[dict[str, Any]], id: str) -> dict[str, Any]:
    """The row that operations insert, as the feed would read it back."""
    named = {op["uuid-name"]: op["row"] for op in operations if "uuid-name" in op}
    (found,) = [op for op in operations if op["op"] == "insert" and op.get("uuid") == id]
    read: dict[str, Any] = {}
    for name, column in columns(KIND_OF[found["table"]]).items():
        value = found["row"].get(name)
        if column.form == "addresses":
            rows = [named[name] for _, name in value[1]] if value else []
            value = [(row["position"], row["subnet"][1], row["ip_address"]) for row in reversed(rows)]
        elif column.form == "strings":
            value = value[1] if value else []
        elif column.form == "references":
            value = [id for _, id in reversed(value[1])] if value else []
        elif column.form == "map":
            value = dict(value[1]) if value else {}
        elif value is None:
            value = None if column.optional else {"string": "", "json": "", "integer": 0, "boolean": False}[column.form]
        elif isinstance(value, list):
            value = value[1] or None
        read[name] = value
    return read


@pytest.mark.parametrize(
    "obj",
    [
        NETWORK,
        WIRE,
        SUBNET,
        ROUTER,
        PORT,
        INTERFACE,
        FLOATING,
        FORWARDING,
        NEIGHBOUR,
        HYPERVISOR,
        MESH,
        GROUP,
        NAMED,
        RULE,
        ANYTHING,
        ADDRESSES,
        IDENTITY,
        MEMBER,
        BALANCER,
        ON_ROUTER,
        POOL,
        replace(POOL, session_persistence=None),
        LISTENER,
        BACKEND,
        MONITOR,
    ],
    ids=lambda obj: obj.KIND,
)
def test_an_object_comes_back_from_its_row(obj: Any) -> None:
    inserted = operations([Step(Edit(obj.KIND, obj.id, obj), None)])
    assert decode(obj.KIND, obj.id, cells(inserted, obj.id)) == obj


def test_an_update_writes_what_changed_and_waits_for_the_revision() -> None:
    new = replace(PORT, name="web", revision_number=4)
    wait, update = operations([Step(Edit("port", C, new), PORT)])
    assert (wait["op"], wait["rows"], wait["timeout"]) == ("wait", [{"revision_number": 3}], 0)
    assert update["row"] == {"name": "web", "revision_number": 4, "name_key": "/web"}


def test_changed_addresses_are_new_rows() -> None:
    new = replace(PORT, fixed_ips=(FixedIp(B, "10.0.0.5"),), revision_number=4)
    _, insert, update = operations([Step(Edit("port", C, new), PORT)])
    assert insert["row"] == {"subnet": ["uuid", B], "ip_address": "10.0.0.5", "position": 0}
    assert update["row"]["fixed_ips"] == ["set", [["named-uuid", insert["uuid-name"]]]]


def test_a_new_subnet_waits_for_the_others_of_its_network() -> None:
    wait, _ = operations([Step(Edit("subnet", B, SUBNET), None, frozenset({"10.2.0.0/24", "10.1.0.0/24"}))])
    assert wait["where"] == [["network_id", "==", ["uuid", A]]]
    assert wait["rows"] == [{"cidr": "10.1.0.0/24"}, {"cidr": "10.2.0.0/24"}]


def test_a_hypervisors_endpoint_waits_until_nobody_has_it() -> None:
    wait, _ = operations([Step(Edit("hypervisor", A, replace(HYPERVISOR, bridge_mappings=())), None)])
    assert (wait["where"], wait["rows"]) == ([["tunnel_ip", "==", "10.0.0.1"]], [])


def test_a_floating_ip_holds_its_address_among_those_of_ports() -> None:
    address, row = operations([Step(Edit("floating-ip", A, FLOATING), None)])
    assert address["row"] == {"subnet": ["uuid", B], "ip_address": "192.0.2.9", "position": 0}
    assert row["row"]["address"] == ["set", [["named-uuid", address["uuid-name"]]]]
    detached = replace(FLOATING, port_id=None, fixed_ip_address=None, revision_number=2)
    _, update = operations([Step(Edit("floating-ip", A, detached), FLOATING)])
    assert update["row"] == {"port_id": ["set", []], "fixed_ip_address": ["set", []], "revision_number": 2}


def test_a_wire_waits_until_nobody_has_it() -> None:
    wait, _ = operations([Step(Edit("network", B, WIRE), None)])
    assert wait["where"] == [["physical_network", "==", "lab"], ["segmentation_id", "==", ["set", [7]]]]
    assert wait["rows"] == []
    flat, _ = operations([Step(Edit("network", B, replace(WIRE, segmentation_id=None)), None)])
    assert flat["where"][1] == ["segmentation_id", "==", ["set", []]]
    assert [op["op"] for op in operations([Step(Edit("network", A, NETWORK), None)])] == ["insert"]


def test_a_host_name_waits_until_nobody_has_it() -> None:
    named = replace(PORT, dns_name="web", revision_number=4)
    _, wait, _ = operations([Step(Edit("port", C, named), PORT)])
    assert wait["where"] == [["network_id", "==", ["uuid", A]], ["dns_name", "==", "web"]] and wait["rows"] == []
    same = replace(named, description="new", revision_number=5)
    assert [op["op"] for op in operations([Step(Edit("port", C, same), named)])] == ["wait", "update"]


def test_a_port_waits_for_its_identity_and_the_identitys_end_for_its_ports() -> None:
    wait, insert, *_ = operations([Step(Edit("port", C, replace(MEMBER, fixed_ips=())), None)])
    assert (wait["table"], wait["where"]) == ("Identity", [["_uuid", "==", ["uuid", IDENTITY.id]]])
    assert (wait["columns"], wait["rows"]) == (["number", "retired"], [{"number": 2**32 - 1, "retired": False}])
    assert insert["table"] == "Port"
    renamed = replace(MEMBER, name="x", revision_number=4)
    assert [op["op"] for op in operations([Step(Edit("port", C, renamed), MEMBER)])] == ["wait", "update"]
    relabelled = replace(MEMBER, labels={}, security_groups=(), identity=None, revision_number=4)
    assert [op["op"] for op in operations([Step(Edit("port", C, relabelled), MEMBER)])] == ["wait", "update"]
    retired = replace(IDENTITY, retired=True, revision_number=2)
    for old, new in ((IDENTITY, retired), (retired, None)):
        _, wait, _ = operations([Step(Edit("identity", IDENTITY.id, new), old)])
        assert (wait["table"], wait["where"], wait["rows"]) == ("Port", [["identity", "==", 2**32 - 1]], [])
    back = replace(IDENTITY, revision_number=3)
    assert [op["op"] for op in operations([Step(Edit("identity", IDENTITY.id, back), retired)])] == ["wait", "update"]


def test_interfaces_and_routes_wait_for_the_interfaces_they_were_computed_from() -> None:
    where = [["router_id", "==", ["uuid", A]]]
    wait, *_ = operations([Step(Edit("port", C, INTERFACE), None, frozenset({B}))])
    assert (wait["table"], wait["where"], wait["rows"]) == ("Port", where, [{"_uuid": ["uuid", B]}])
    _, wait, _ = operations([Step(Edit("port", C, None), INTERFACE, frozenset({B, C}))])
    assert wait["rows"] == [{"_uuid": ["uuid", B]}, {"_uuid": ["uuid", C]}]
    rerouted = replace(ROUTER, routes=(), revision_number=2)
    _, wait, _ = operations([Step(Edit("router", A, rerouted), ROUTER, frozenset({C}))])
    assert (wait["where"], wait["rows"]) == (where, [{"_uuid": ["uuid", C]}])
    renamed = replace(ROUTER, name="other", revision_number=2)
    assert [op["op"] for op in operations([Step(Edit("router", A, renamed), ROUTER)])] == ["wait", "update"]


def test_what_was_added_is_known_to_the_conversion() -> None:
    """Fields of kinds that version 1.0.0 had, whose default is not what OVSDB fills in."""
    tables = json.loads(OLD.read_text())["tables"]
    needed = {
        kind: {
            field.name
            for field in msgspec.structs.fields(cls)
            if field.name not in ("id", *tables[table(kind)]["columns"])
            and field.default not in (None, "", (), False, 0, msgspec.NODEFAULT)
        }
        for kind, cls in KINDS.items()
        if table(kind) in tables
    }
    assert {kind: {*names} for kind, names in ADDED[1, 1, 0].items()} == {k: v for k, v in needed.items() if v}
    assert not any("mutable" in c for t in between("1.0.0")["tables"].values() for c in t["columns"].values())
    assert list(migrate((1, 1, 0))) == list(migrate((1, 2, 0))), (
        "1.2.0 added nothing to older kinds whose default is not OVSDB's"
    )
    (identities,) = migrate((1, 2, 0))
    assert (identities["table"], identities["row"]) == ("Identity", {"port_security_enabled": True})
    assert list(migrate((1, 3, 0))) == []


def test_a_load_balancer_in_a_network_holds_its_address_among_those_of_ports() -> None:
    address, row = operations([Step(Edit("load-balancer", A, BALANCER), None)])
    assert address["row"] == {"subnet": ["uuid", C], "ip_address": "10.0.0.9", "position": 0}
    assert row["row"]["address"] == ["set", [["named-uuid", address["uuid-name"]]]]
    assert [op["op"] for op in operations([Step(Edit("load-balancer", B, ON_ROUTER), None)])] == ["insert"]


def test_a_new_listener_waits_for_the_others_of_its_load_balancer() -> None:
    wait, _ = operations([Step(Edit("listener", A, LISTENER), None, frozenset({C}))])
    assert (wait["table"], wait["where"]) == ("Listener", [["loadbalancer_id", "==", ["uuid", B]]])
    assert wait["rows"] == [{"_uuid": ["uuid", C]}]
    renamed = replace(LISTENER, name="web", revision_number=2)
    assert [op["op"] for op in operations([Step(Edit("listener", A, renamed), LISTENER)])] == ["wait", "update"]


def test_how_things_are_is_recorded_without_a_revision() -> None:
    (up,) = record_operations(
        "member", {A: {"health": "up", "health_detail": "", "drain_until": None, "slot_weight": 5}}
    )
    assert (up["op"], up["table"], up["where"]) == ("update", "Member", [["_uuid", "==", ["uuid", A]]])
    assert up["row"] == {"health": "up", "health_detail": "", "drain_until": ["set", []], "slot_weight": 5}
    for kind, field in (("member", "weight"), ("member", "revision_number"), ("port", "name")):
        with pytest.raises(ValueError, match=field):
            record_operations(kind, {A: {field: 1}})
    for kind, names in RECORDED.items():
        for name in names:
            assert traits(KINDS[kind])[name]["read_only"]


def test_a_claim_waits_for_what_was_seen_and_counts_it_up() -> None:
    wait, up = claim_operations({("hypervisor", A): 4})
    assert (wait["op"], wait["where"], wait["rows"]) == ("wait", [["_uuid", "==", ["uuid", A]]], [{"promises": 4}])
    assert (up["op"], up["table"], up["where"]) == ("update", "Hypervisor", wait["where"])
    assert up["row"] == {"promises": 5}


def test_delete_waits_and_recording_does_not() -> None:
    wait, delete = operations([Step(Edit("port", C, None), PORT)])
    assert wait["op"] == "wait" and delete == {"op": "delete", "table": "Port", "where": [["_uuid", "==", ["uuid", C]]]}
    here, nowhere = record_operations("port", {C: {"host_id": A}, B: {"host_id": None}})
    assert (here["row"], nowhere["row"]) == ({"host_id": ["uuid", A]}, {"host_id": ["set", []]})


def test_a_subnet_takes_its_addresses_along() -> None:
    _, addresses, subnet = operations([Step(Edit("subnet", B, None), SUBNET)])
    assert addresses == {"op": "delete", "table": ADDRESS, "where": [["subnet", "==", ["uuid", B]]]}
    assert subnet["table"] == "Subnet"


def test_names_collide_within_a_project_only() -> None:
    assert name_key(NETWORK) == "us/net"
    assert name_key(replace(NETWORK, name="")) == A
    assert (
        len({name_key(replace(NETWORK, project_id=p, name=n)) for p, n in (("a", "b/c"), ("", "a/b"), ("a", "b"))}) == 3
    )


def test_edits_are_applied_with_references_pointing_at_something() -> None:
    edits = [Edit("network", A, None), Edit("port", C, PORT), Edit("port", B, None), Edit("network", B, NETWORK)]
    assert [(e.kind, e.id) for e in apply_order(edits)] == [("network", B), ("port", C), ("port", B), ("network", A)]
