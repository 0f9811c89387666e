"""The OpenAPI document is valid, complete, and true to what is answered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema_rs
import pytest
import schemathesis

from novanet_apps.rest import openapi
from novanet_apps.rest.api import Api
from novanet_apps.rest.settings import Settings
from novanet_apps.tokens import TokenFile
from topology.model import KINDS, traits

from .rest_server import RestServer

DOCUMENT = openapi.document()
SCHEMAS = DOCUMENT["components"]["schemas"]


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


def everything(value: Any) -> Iterator[dict[str, Any]]:
    """Every object within a document."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from everything(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from everything(inner)


def validator(schema: dict[str, Any]) -> Any:
    """Of values against a schema of the document."""
    return jsonschema_rs.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def test_it_is_a_valid_document() -> None:
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) == sum(1 for item in DOCUMENT["paths"].values() for method in item if method != "parameters")
    assert DOCUMENT["openapi"].startswith("3.1.")
    for name in SCHEMAS:
        jsonschema_rs.meta.validate(SCHEMAS[name])


def test_references_lead_somewhere() -> None:
    for found in everything(DOCUMENT):
        if "$ref" in found:
            target: Any = DOCUMENT
            for part in found["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            assert target


def test_operations_have_names_of_their_own() -> None:
    names = [found["operationId"] for found in everything(DOCUMENT["paths"]) if "operationId" in found]
    assert len(names) == len(set(names)) and {"createNetwork", "patchPort", "listSubnet", "events"} <= set(names)


def test_what_is_served_is_described(tmp_path: Path) -> None:
    core: Any = SimpleNamespace(subscribe=lambda tell: None)
    routes = Api(core, Settings(), TokenFile(tmp_path)).routes
    served = set()
    for route in routes:
        for cls in KINDS.values() if "{collection}" in route.path else (None,):
            path = route.path.replace("{collection}", cls.COLLECTION) if cls else route.path
            methods = ["get"] if cls is not None and cls.DERIVED else [method.lower() for method in route.handlers]
            served |= {(path, method) for method in methods}
    described = {
        (path, method) for path, item in DOCUMENT["paths"].items() for method in item if method != "parameters"
    }
    assert described == served - {("/", "get")}


@pytest.mark.parametrize("cls", KINDS.values(), ids=lambda cls: cls.KIND)
def test_requests_have_no_fields_that_novanet_sets(cls: Any) -> None:
    read_only = {name for name, trait in traits(cls).items() if "read_only" in trait} | {"status", "status_reason"}
    if cls.DERIVED:
        assert read_only <= set(SCHEMAS[cls.__name__]["required"]) and f"{cls.__name__}Create" not in SCHEMAS
        return
    shown, creation, update = (SCHEMAS[cls.__name__ + end] for end in ("", "Create", "Update"))
    assert read_only <= shown["properties"].keys() == set(shown["required"])
    for schema in (creation, update):
        assert not read_only & schema["properties"].keys()
        assert schema["additionalProperties"] is False
    assert "id" in creation["properties"] and "id" not in creation.get("required", ())
    assert "id" not in update["properties"] and "required" not in update


def outside(rest: RestServer, inside: str) -> dict[str, dict[str, Any]]:
    """A router with all that it may have, and what leads to a VM behind it."""
    wire = rest.make("/v1/networks", physical_network="wire", segmentation_id=7, external=True)
    rest.make("/v1/subnets", network_id=wire["id"], cidr="203.0.113.0/24")
    router = rest.make("/v1/routers")
    for network in (inside, wire["id"]):
        rest.make("/v1/ports", network_id=network, router_id=router["id"])
    vm = rest.make(
        "/v1/ports", network_id=inside, dns_name="web", extra_dhcp_opts=[{"opt_name": "mtu", "opt_value": "1400"}]
    )
    routes = {
        "routes": [{"destination": "172.16.0.0/12", "nexthop": "10.0.0.99"}],
        "policy_routes": [{"priority": 1, "protocol": "tcp", "destination_port": 80, "nexthops": ["10.0.0.99"]}],
    }
    floating = rest.make("/v1/floating-ips", floating_network_id=wire["id"])
    made = {
        "Router": rest("PATCH", f"/v1/routers/{router['id']}", routes).json(),
        "FloatingIp": rest.make("/v1/floating-ips", floating_network_id=wire["id"], port_id=vm["id"]),
        "Neighbour": rest.make(
            "/v1/neighbours", network_id=wire["id"], ip_address="203.0.113.1", mac_address="02:00:00:00:00:01"
        ),
    }
    other = rest.make("/v1/ports", network_id=inside)
    forwarding = {"protocol": "udp", "external_port": 53, "internal_port_id": other["id"], "internal_port": 5353}
    return made | {"PortForwarding": rest.make("/v1/port-forwardings", floating_ip_id=floating["id"], **forwarding)}


def security_groups(rest: RestServer, network: str) -> dict[str, dict[str, Any]]:
    """A group that selects, a rule of it with a peer, and the identity of a port that both groups have as a member."""
    selector = [{"key": "tier", "operator": "In", "values": ["web"]}, {"key": "old", "operator": "DoesNotExist"}]
    group = rest.make("/v1/security-groups", selector=selector)
    rule = {"direction": "ingress", "protocol": "tcp", "port_range_min": 80, "port_range_max": 80}
    addresses = rest.make("/v1/address-groups", addresses=["10.0.0.0/8", "2001:db8::/32"])
    member = rest.make("/v1/ports", network_id=network, security_groups=[group["id"]], labels={"tier": "web"})
    validator({"$ref": "#/components/schemas/Port"}).validate(member)
    return {
        "SecurityGroup": rest("GET", f"/v1/security-groups/{group['id']}").json(),
        "SecurityGroupRule": rest.make(
            "/v1/security-group-rules", security_group_id=group["id"], remote_address_group_id=addresses["id"], **rule
        ),
        "AddressGroup": addresses,
        "Identity": rest("GET", f"/v1/identities?number={member['identity']}").json()["items"][0],
    }


def load_balancer(rest: RestServer, network: str, vm: str) -> dict[str, dict[str, Any]]:
    """One with all its parts, before the VM that has this address."""
    balancer = rest.make("/v1/load-balancers", vip_network_id=network)
    of = {"loadbalancer_id": balancer["id"], "protocol": "TCP"}
    pool = rest.make("/v1/pools", **of, session_persistence={"type": "SOURCE_IP"})
    made = {
        "Listener": rest.make("/v1/listeners", **of, protocol_port=80, default_pool_id=pool["id"]),
        "Member": rest.make("/v1/members", pool_id=pool["id"], address=vm, protocol_port=8080),
        "HealthMonitor": rest.make("/v1/health-monitors", pool_id=pool["id"], type="HTTP"),
    }
    return made | {
        "LoadBalancer": rest("GET", f"/v1/load-balancers/{balancer['id']}").json(),
        "Pool": rest("GET", f"/v1/pools/{pool['id']}").json(),
        "BalancerStatus": rest("GET", f"/v1/load-balancers/{balancer['id']}/status").json(),
    }


def quality_of_service(rest: RestServer, network: str) -> dict[str, dict[str, Any]]:
    """A policy with a rule, a port that has it, and what comes of that."""
    policy = rest.make("/v1/qos-policies")
    rule = rest.make("/v1/qos-rules", qos_policy_id=policy["id"], type="bandwidth_limit", max_kbps=1000)
    port = rest.make("/v1/ports", network_id=network, qos_policy_id=policy["id"])
    uplinks = [{"interface": "eth0", "bandwidth_kbps": 10_000}]
    hypervisor = rest.make("/v1/hypervisors", name="shaped", uplinks=uplinks)
    validator({"$ref": "#/components/schemas/Hypervisor"}).validate(hypervisor)
    return {
        "QosPolicy": rest("GET", f"/v1/qos-policies/{policy['id']}").json(),
        "QosRule": rule,
        "EffectiveQos": rest("GET", f"/v1/ports/{port['id']}/qos").json(),
        "HypervisorBandwidth": rest("GET", f"/v1/hypervisors/{hypervisor['id']}/bandwidth").json(),
    }


def test_what_is_shown_fits(rest: RestServer) -> None:
    network = rest.make("/v1/networks", name="blue")
    hypervisor = rest.make("/v1/hypervisors", name="hv1")
    made = {
        "Network": network,
        "Subnet": rest.make("/v1/subnets", network_id=network["id"], cidr="10.0.0.0/24"),
        "Port": (port := rest.make("/v1/ports", network_id=network["id"])),
        "Hypervisor": hypervisor,
        **outside(rest, network["id"]),
        **security_groups(rest, network["id"]),
        **load_balancer(rest, network["id"], port["fixed_ips"][0]["ip_address"]),
        **quality_of_service(rest, network["id"]),
        "FlowExporter": rest.make("/v1/flow-exporters", type="sflow", targets=["192.0.2.1:6343"], sampling=100),
        "Capture": rest.make("/v1/captures", port_id=port["id"], protocol="tcp"),
        "TunnelMesh": rest("GET", "/v1/tunnel-meshes").json()["items"][0],
        "NetworkList": rest("GET", "/v1/networks").json(),
        "SystemStatus": rest("GET", "/v1/status").json(),
        "Topology": rest("GET", "/v1/topology").json(),
        "Problem": rest("POST", "/v1/networks", {"mtu": 1}).json(),
    }
    assert made.keys() >= {cls.__name__ for cls in KINDS.values()}
    for name, value in made.items():
        validator({"$ref": f"#/components/schemas/{name}"}).validate(value)


def test_schemas_refuse_what_the_server_refuses(rest: RestServer) -> None:
    creation = validator({"$ref": "#/components/schemas/NetworkCreate"})
    for body in ({"mtu": 1}, {"colour": 1}, {"name": None}, {"revision_number": 1}, {"id": "x"}, {"vni": "7"}):
        assert not creation.is_valid(body)
        assert rest("POST", "/v1/networks", body).status_code == 400
    for body in ({}, {"name": "x", "mtu": 1400}, {"vni": None, "mtu": None}):
        assert creation.is_valid(body)
        assert rest("POST", "/v1/networks", body).status_code == 201
    assert validator({"$ref": "#/components/schemas/NetworkUpdate"}).is_valid({"name": None, "mtu": None})


def test_errors_that_are_answered_are_described() -> None:
    statuses = {int(status) for status in DOCUMENT["components"]["responses"]}
    source = "".join(path.read_text() for path in Path(openapi.__file__).parent.glob("*.py"))
    raised = {int(status) for status in re.findall(r"(?:Problem|send_error)\((\d{3})", source)}
    assert {400, 401, 404, 413, 414, 431} <= raised
    assert raised - statuses == {500, 501}


def test_it_can_be_had_with_any_token(rest: RestServer) -> None:
    for who in ("admin", "acme", "acme-reader"):
        assert rest("GET", "/v1/openapi.json", who=who).json() == json.loads(json.dumps(DOCUMENT))
