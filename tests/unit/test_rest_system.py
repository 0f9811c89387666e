"""What REST tells about the whole: status, topology, metrics; and the dashboard."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import networkx
import pytest

from novanet_apps.rest import metrics
from novanet_apps.rest.counters import Counters
from novanet_apps.rest.dashboard import CONTENT_SECURITY_POLICY, PAGE
from topology.model import KINDS

from .rest_server import RestServer, problem


@pytest.fixture
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


def populate(rest: RestServer) -> dict[str, Any]:
    hypervisor = rest.make("/v1/hypervisors", name="hv1", tunnel_ip="192.0.2.1")
    network = rest.make("/v1/networks", name="blue")
    subnet = rest.make("/v1/subnets", network_id=network["id"], cidr="10.0.0.0/24")
    port = rest.make("/v1/ports", network_id=network["id"], name="web")
    rest.make("/v1/ports", network_id=network["id"], description="status=DOWN")
    rest.evaluate(f"plug({port['id']!r}, {hypervisor['id']!r})")
    return {"hypervisor": hypervisor, "network": network, "subnet": subnet, "port": port}


def test_status(rest: RestServer) -> None:
    made = populate(rest)
    status = rest("GET", "/v1/status").json()
    assert status["healthy"] is True
    assert status["store"]["ready"] is True and status["store"]["connected"] is True
    assert status["objects"]["port"] == {"ACTIVE": 1, "DOWN": 1}
    assert status["objects"].keys() == KINDS.keys()
    (hypervisor,) = status["hypervisors"]
    assert hypervisor["id"] == made["hypervisor"]["id"] and hypervisor["name"] == "hv1" and hypervisor["ports"] == 1
    assert hypervisor["ovsdb"] == {"connected": True, "ovs_version": "3.1.0"}
    assert hypervisor["openflow"] == {"connected": False, "error": "no OpenFlow connection"}


def test_what_is_wrong_makes_it_unhealthy(rest: RestServer) -> None:
    rest.evaluate("core.reconciler.noted.append('hv1: MTU 1400, expected 1500')")
    status = rest("GET", "/v1/status").json()
    assert status["healthy"] is False and status["warnings"] == ["hv1: MTU 1400, expected 1500"]
    rest.evaluate("core.reconciler.noted.clear()")
    assert rest("GET", "/v1/status").json()["healthy"] is True
    rest.make("/v1/networks", description="status=DEGRADED")
    assert rest("GET", "/v1/status").json()["healthy"] is False


def test_topology_is_a_graph(rest: RestServer) -> None:
    made = populate(rest)
    graph = networkx.node_link_graph(rest("GET", "/v1/topology").json(), name="key", edges="links")
    keys = {kind: f"{kind}/{obj['id']}" for kind, obj in made.items()}
    assert graph.nodes[keys["port"]] == {"kind": "port", "id": made["port"]["id"], "name": "web", "status": "ACTIVE"}
    links = {(source, target, data["relation"]) for source, target, data in graph.edges(data=True)}
    assert {
        (keys["subnet"], keys["network"], "network_id"),
        (keys["port"], keys["network"], "network_id"),
        (keys["port"], keys["subnet"], "fixed_ips"),
        (keys["port"], keys["hypervisor"], "located_on"),
    } <= links
    some = rest("GET", "/v1/topology?kind=network&kind=hypervisor").json()
    assert {node["kind"] for node in some["nodes"]} == {"network", "hypervisor"} and some["links"] == []
    problem(rest("GET", "/v1/topology?kind=planet"), 400, "kind")


def test_large_answers_leave_others_their_turn(rest: RestServer) -> None:
    for _ in range(5):
        assert rest("POST", "/v1/networks", [{}] * 1000).status_code == 201
    rest.evaluate("setattr(modules['novanet_apps.rest.views'], 'SLICE', -1)")  # every piece of work ends a slice
    rest.evaluate("lag.start()")
    turns = [0]

    def more_turns() -> int:
        turns.append(rest.evaluate("lag.turns"))
        return turns[-1] - turns[-2]

    assert len(rest("GET", "/v1/topology").json()["nodes"]) == 5001
    assert more_turns() >= 5001
    assert len(rest("GET", "/v1/networks?limit=1000&sort=name").json()["items"]) == 1000
    assert more_turns() >= 6000
    assert rest("GET", "/v1/networks?status=ERROR").json()["items"] == []
    assert more_turns() >= 5000
    assert rest("GET", "/v1/status").json()["objects"]["network"] == {"ACTIVE": 5000}
    assert more_turns() >= 5000


def test_to_count_objects_often_is_cheap(rest: RestServer) -> None:
    rest("POST", "/v1/networks", [{}] * 1000)
    rest("POST", "/v1/networks", [{}] * 1000)
    rest.evaluate("setattr(modules['novanet_apps.rest.views'], 'SLICE', 0.0001)")
    rest.evaluate("setattr(modules['novanet_apps.rest.views'], 'KEEP', 60.0)")
    rest("GET", "/metrics")
    before = rest.evaluate("core.reconciler.asked")
    rest("GET", "/metrics")
    assert rest.evaluate("core.reconciler.asked") == before, "the answer of a moment ago is good enough"


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics(rest: RestServer) -> None:
    rest.make("/v1/networks")
    rest("GET", "/v1/networks/nothing")
    answer = rest("GET", "/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    assert 'novanet_objects{kind="network",status="ACTIVE"} 1' in lines
    assert 'novanet_rest_requests_total{method="POST",status="201"} 1' in lines
    assert 'novanet_rest_requests_total{method="GET",status="404"} 1' in lines
    assert "novanet_played_total 3" in lines and "# TYPE novanet_played_total counter" in lines
    assert 'novanet_played{what="say \\"so\\"\\\\\\n"} 0.5' in lines
    for line in lines:
        assert re.fullmatch(
            r'# (HELP|TYPE) novanet_\w+ .+|novanet_\w+(\{(\w+="([^"\\]|\\.)*",?)+\})? [0-9.e+-]+', line
        ), line


def test_every_metric_is_explained() -> None:
    names = set()
    for name, (type_, help, _) in Counters().metrics().items():
        assert type_ in ("counter", "gauge") and help.endswith(".")
        assert name.startswith("novanet_rest_") and name.endswith("_total") == (type_ == "counter")
        names.add(name)
    page = metrics.page({"novanet_x_total": ("counter", "What x does.", 0)})
    assert "| `novanet_x_total` | counter | What x does. |" in page
    assert all(f"`{name}`" in page for name in names)


# --- dashboard -------------------------------------------------------------------------------------------------------


def test_the_dashboard_needs_nothing_from_elsewhere(rest: RestServer) -> None:
    answer = rest("GET", "/", who="none")
    assert answer.status_code == 200 and answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    page = answer.text
    assert not re.findall(r"(?:src|href)\s*=|url\(|@import|\son\w+\s*=|\sstyle\s*=", page)
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}, "a name, not an address"
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert (
            policy[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
        )


def test_the_dashboard_never_builds_html_from_data() -> None:
    assert not re.search(rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", PAGE)
    assert "unsafe" not in CONTENT_SECURITY_POLICY
