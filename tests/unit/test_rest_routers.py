"""Routers and ways from outside over REST: what is found by which filter, and what is shown with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .rest_server import RestServer, problem


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def made(rest: RestServer) -> dict[str, dict[str, Any]]:
    """A router with all that it may have, and as much again that is another's."""
    made: dict[str, dict[str, Any]] = {}
    made["outside"] = rest.make("/v1/networks", external=True, physical_network="wire")
    rest.make("/v1/subnets", network_id=made["outside"]["id"], cidr="192.0.2.0/24")
    for prefix in ("", "other-"):
        inside = made[f"{prefix}inside"] = rest.make("/v1/networks")
        made[f"{prefix}subnet"] = rest.make("/v1/subnets", network_id=inside["id"], cidr="10.0.0.0/24")
        router = made[f"{prefix}router"] = rest.make("/v1/routers")
        for name, network in (("leg", inside), ("way-out", made["outside"])):
            made[prefix + name] = rest.make("/v1/ports", network_id=network["id"], router_id=router["id"])
        vm = made[f"{prefix}vm"] = rest.make("/v1/ports", network_id=inside["id"])
        fields = {"floating_network_id": made["outside"]["id"]}
        made[f"{prefix}floating"] = rest.make("/v1/floating-ips", **fields, port_id=vm["id"])
        shared = made[f"{prefix}shared"] = rest.make("/v1/floating-ips", **fields)
        backend = made[f"{prefix}backend"] = rest.make("/v1/ports", network_id=inside["id"])
        forwarding = {"internal_port_id": backend["id"], "protocol": "tcp", "external_port": 80, "internal_port": 8080}
        made[f"{prefix}forwarding"] = rest.make("/v1/port-forwardings", floating_ip_id=shared["id"], **forwarding)
    host = {"network_id": made["outside"]["id"], "ip_address": "192.0.2.99", "mac_address": "02:00:00:00:00:01"}
    made["host"] = rest.make("/v1/neighbours", **host)
    return made


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("ports?router_id={router}", ["leg", "way-out"]),
        ("ports?router_id={router}&network_id={outside}", ["way-out"]),
        ("ports?router_id={router}&router_id={other-router}&device_owner=network:router_gateway", ["way-out", "other-way-out"]),
        ("ports?network_id={inside}", ["leg", "vm", "backend"]),
        ("floating-ips?port_id={vm}", ["floating"]),
        ("floating-ips?port_id={vm}&port_id={other-vm}", ["floating", "other-floating"]),
        ("floating-ips?port_id={leg}", []),
        ("port-forwardings?floating_ip_id={shared}", ["forwarding"]),
        ("port-forwardings?floating_ip_id={shared}&protocol=udp", []),
        ("port-forwardings?internal_port_id={other-backend}", ["other-forwarding"]),
        ("neighbours?network_id={outside}", ["host"]),
        ("neighbours?network_id={inside}", []),
        ("neighbours?learned=false", ["host"]),
        ("networks?external=true", ["outside"]),
        ("networks?physical_network=wire", ["outside"]),
    ],
)  # fmt: skip
def test_lists_are_filtered(rest: RestServer, made: dict[str, dict[str, Any]], query: str, names: list[str]) -> None:
    path = "/v1/" + query.format(**{name: obj["id"] for name, obj in made.items()})
    found = [item["id"] for item in rest("GET", path).json()["items"]]
    assert found == sorted(made[name]["id"] for name in names)
    paged, following = [], f"{path}&limit=1"
    while following:
        page = rest("GET", following).json()
        paged += [item["id"] for item in page["items"]]
        following = page["next"]
    assert paged == found


def test_what_is_shown_with_routers_and_floating_ips(rest: RestServer, made: dict[str, dict[str, Any]]) -> None:
    router = rest("GET", f"/v1/routers/{made['router']['id']}").json()
    assert router["external_addresses"] == [made["way-out"]["fixed_ips"][0]["ip_address"]]
    assert (router["gateway_order"], router["active_gateway"]) == ([], None)
    for name in ("floating", "shared"):
        shown = rest("GET", f"/v1/floating-ips/{made[name]['id']}").json()
        assert (shown["router_id"], shown["hypervisor"]) == (router["id"], None)
    problem(rest("PATCH", f"/v1/routers/{router['id']}", {"external_addresses": []}), 400, "external_addresses")


def test_the_topology_has_routers_and_ways_from_outside(rest: RestServer, made: dict[str, dict[str, Any]]) -> None:
    graph = rest("GET", "/v1/topology").json()
    links = {(link["source"], link["relation"], link["target"]) for link in graph["links"]}

    def key(name: str, kind: str) -> str:
        return f"{kind}/{made[name]['id']}"

    assert {
        (key("leg", "port"), "router_id", key("router", "router")),
        (key("floating", "floating-ip"), "floating_network_id", key("outside", "network")),
        (key("floating", "floating-ip"), "port_id", key("vm", "port")),
        (key("forwarding", "port-forwarding"), "floating_ip_id", key("shared", "floating-ip")),
        (key("forwarding", "port-forwarding"), "internal_port_id", key("backend", "port")),
        (key("host", "neighbour"), "network_id", key("outside", "network")),
    } <= links
    chosen = rest("GET", "/v1/topology?kind=router&kind=floating-ip").json()
    assert {node["kind"] for node in chosen["nodes"]} == {"router", "floating-ip"} and not chosen["links"]
