"""Load balancers over REST: what is found by which filter, who sees what, and how they are said to be doing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .rest_server import RestServer, problem

Made = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


@pytest.fixture
def made(rest: RestServer) -> Made:
    """A load balancer of a project with two members, of which ``down`` has no VM, and one on a router."""
    network = rest.make("/v1/networks", "acme")
    made = {
        "network": network,
        "subnet": rest.make("/v1/subnets", "acme", network_id=network["id"], cidr="10.0.0.0/24"),
    }
    router = made["router"] = rest.make("/v1/routers", "acme")
    rest.make("/v1/ports", "acme", network_id=network["id"], router_id=router["id"])
    vm = made["vm"] = rest.make("/v1/ports", "acme", network_id=network["id"])
    lb = made["lb"] = rest.make("/v1/load-balancers", "acme", vip_network_id=network["id"], description="web")
    made["on-router"] = rest.make("/v1/load-balancers", "acme", router_id=router["id"], vip_address="10.96.0.1")
    of = {"loadbalancer_id": lb["id"], "protocol": "TCP"}
    pool = made["pool"] = rest.make("/v1/pools", "acme", **of)
    made["spare"] = rest.make("/v1/pools", "acme", **of)
    made["http"] = rest.make("/v1/listeners", "acme", **of, protocol_port=80, default_pool_id=pool["id"])
    made["closed"] = rest.make("/v1/listeners", "acme", **of, protocol_port=443)
    address = vm["fixed_ips"][0]["ip_address"]
    made["up"] = rest.make("/v1/members", "acme", pool_id=pool["id"], address=address, protocol_port=8080, weight=3)
    made["down"] = rest.make("/v1/members", "acme", pool_id=pool["id"], address="10.0.0.99", protocol_port=8080)
    return made


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("load-balancers?vip_network_id={network}", ["lb"]),
        ("load-balancers?router_id={router}", ["on-router"]),
        ("load-balancers?vip_address=10.96.0.1&router_id={router}", ["on-router"]),
        ("pools?loadbalancer_id={lb}", ["pool", "spare"]),
        ("listeners?loadbalancer_id={lb}", ["http", "closed"]),
        ("listeners?default_pool_id={pool}", ["http"]),
        ("listeners?loadbalancer_id={lb}&protocol_port=443", ["closed"]),
        ("members?pool_id={pool}", ["up", "down"]),
        ("members?pool_id={pool}&weight=3", ["up"]),
        ("members?pool_id={spare}", []),
        ("health-monitors?pool_id={pool}", []),
        ("floating-ips?loadbalancer_id={lb}", []),
    ],
)
def test_lists_are_filtered(rest: RestServer, made: Made, query: str, names: list[str]) -> None:
    ids = {name: obj["id"] for name, obj in made.items()}
    found = [item["id"] for item in rest("GET", "/v1/" + query.format(**ids)).json()["items"]]
    assert found == sorted(made[name]["id"] for name in names)


def test_what_is_shown_with_a_load_balancer(rest: RestServer, made: Made) -> None:
    shown = rest("GET", f"/v1/load-balancers/{made['lb']['id']}", who="acme").json()
    assert shown["pools"] == sorted(made[name]["id"] for name in ("pool", "spare"))
    assert shown["listeners"] == sorted(made[name]["id"] for name in ("http", "closed"))
    assert (shown["status"], shown["provisioning_status"], shown["floating_ips"]) == ("ACTIVE", "ACTIVE", [])
    pool = rest("GET", f"/v1/pools/{made['pool']['id']}").json()
    assert pool["members"] == sorted(made[name]["id"] for name in ("up", "down"))
    assert (pool["listeners"], pool["healthmonitor_id"]) == ([made["http"]["id"]], None)
    assert rest("GET", f"/v1/members/{made['up']['id']}").json()["port_id"] == made["vm"]["id"]
    assert rest("GET", f"/v1/members/{made['down']['id']}").json()["port_id"] is None


def plug(rest: RestServer, port: dict[str, Any]) -> None:
    rest.evaluate(f"plug({port['id']!r}, 'h1')")


def operating(rest: RestServer, made: Made, *names: str) -> list[str]:
    kinds = {"lb": "load-balancers", "pool": "pools", "spare": "pools", "http": "listeners", "closed": "listeners"}
    paths = (f"/v1/{kinds.get(name, 'members')}/{made[name]['id']}" for name in names)
    return [rest("GET", path).json()["operating_status"] for path in paths]


def test_how_it_is_doing(rest: RestServer, made: Made) -> None:
    everything = "lb", "http", "closed", "pool", "spare", "up", "down"
    assert operating(rest, made, *everything) == ["ERROR", "ERROR", "OFFLINE", "ERROR", "OFFLINE", "ERROR", "ERROR"]
    plug(rest, made["vm"])
    assert operating(rest, made, *everything) == [
        "DEGRADED", "DEGRADED", "OFFLINE", "DEGRADED", "OFFLINE", "NO_MONITOR", "ERROR",
    ]  # fmt: skip
    rest("DELETE", f"/v1/members/{made['down']['id']}")
    rest.make("/v1/health-monitors", pool_id=made["pool"]["id"], type="TCP")
    assert operating(rest, made, "lb", "http", "pool", "up") == ["ONLINE"] * 4
    rest("PATCH", f"/v1/members/{made['up']['id']}", {"weight": 0})
    assert operating(rest, made, "pool", "up") == ["ERROR", "DRAINING"]
    rest("PATCH", f"/v1/members/{made['up']['id']}", {"weight": 1, "admin_state_up": False})
    assert operating(rest, made, "lb", "up") == ["ERROR", "OFFLINE"]
    rest("PATCH", f"/v1/load-balancers/{made['lb']['id']}", {"admin_state_up": False})
    assert operating(rest, made, "lb", "pool", "up") == ["OFFLINE"] * 3


def test_the_tree(rest: RestServer, made: Made) -> None:
    plug(rest, made["vm"])
    other = rest.make("/v1/ports", network_id=made["network"]["id"])
    plug(rest, other)
    second = {"pool_id": made["pool"]["id"], "address": other["fixed_ips"][0]["ip_address"], "protocol_port": 8080}
    rest.make("/v1/members", **second, name="second")
    tree = rest("GET", f"/v1/load-balancers/{made['lb']['id']}/status", who="acme").json()
    shown = {name: tree[name] for name in ("id", "vip_address", "operating_status")}
    assert shown == {"id": made["lb"]["id"], "vip_address": made["lb"]["vip_address"], "operating_status": "DEGRADED"}
    assert [(each["protocol_port"], each["pool_id"]) for each in tree["listeners"]] == [
        (80, made["pool"]["id"]),
        (443, None),
    ]
    (pool,) = [each for each in tree["pools"] if each["id"] == made["pool"]["id"]]
    shares = {each["id"] if not each["name"] else each["name"]: each["share"] for each in pool["members"]}
    assert shares == {made["up"]["id"]: 0.75, made["down"]["id"]: 0.0, "second": 0.25}
    assert pool["health_monitor"] is None


def test_others_do_not_see_it(rest: RestServer, made: Made) -> None:
    for path in (f"/v1/load-balancers/{made['lb']['id']}/status", f"/v1/members/{made['up']['id']}"):
        assert rest("GET", path, who="umbra").status_code == 404
    gone = "/v1/load-balancers/aaaaaaaa-0000-4000-8000-000000000001/status"
    assert rest("GET", gone).status_code == 404
    assert rest("GET", f"/v1/load-balancers/{made['lb']['id']}/status?x=1").status_code == 400


def test_what_is_in_use_is_named(rest: RestServer, made: Made) -> None:
    for name, kinds in (("lb", ["listener", "pool"]), ("pool", ["listener"])):
        path = "load-balancers" if name == "lb" else "pools"
        told = problem(rest("DELETE", f"/v1/{path}/{made[name]['id']}"), 409)
        assert all(kind in told for kind in kinds), told
