"""What rules decided, over REST and by the command ``novanet``: counts and log entries, and who may see them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from novanet_apps.rest import openapi

from .rest_server import RestServer, problem
from .test_cli import Cli, cli, unique
from .test_cli_routers import json_of

__all__ = ["cli"]


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def made(rest: RestServer) -> dict[str, dict[str, Any]]:
    """A group of acme with two rules, one of the administrator's, a port of each project, and what switches counted."""
    made: dict[str, dict[str, Any]] = {"hypervisor": rest.make("/v1/hypervisors", name="hv1", tunnel_ip="192.168.50.1")}
    group = made["group"] = rest.make("/v1/security-groups", "acme", name="web", shared=False)
    for name, port in (("http", 80), ("https", 443)):
        made[name] = rest.make(
            "/v1/security-group-rules", "acme", name=name, security_group_id=group["id"], direction="ingress",
            protocol="tcp", port_range_min=port, port_range_max=port,
        )  # fmt: skip
    guard = made["guard"] = rest.make("/v1/security-groups", tier="admin", name="guard")
    made["deny"] = rest.make(
        "/v1/security-group-rules", security_group_id=guard["id"], direction="egress", action="deny", name="no mail"
    )
    for project in ("acme", "umbra"):
        network = rest.make("/v1/networks", project)
        named = {"security_groups": [group["id"]]} if project == "acme" else {}
        made[project] = rest.make("/v1/ports", project, name=f"vm-{project}", network_id=network["id"], **named)
    rest.evaluate(f"plug({made['acme']['id']!r}, {made['hypervisor']['id']!r})")
    rest.evaluate(f"decided({made['hypervisor']['id']!r}, {made['http']['id']!r}, 7, 700)")
    rest.evaluate(f"decided({made['hypervisor']['id']!r}, {made['https']['id']!r}, 2, 120)")
    log(rest, made, 1, "http")
    log(rest, made, 2, "deny", verdict="denied", direction="egress")
    log(rest, made, 3, "http", project_id="umbra", port_id=made["umbra"]["id"], port="vm-umbra")
    log(rest, made, 4, "https", peer_port_id=made["umbra"]["id"], peer_port="vm-umbra")
    return made


def log(rest: RestServer, made: dict[str, dict[str, Any]], id: int, rule: str, **more: Any) -> None:
    found = made[rule]
    group = made["guard" if rule == "deny" else "group"]
    entry = {
        "id": id, "time": "2026-01-01T00:00:00.000Z", "verdict": "allowed", "direction": "ingress",
        "security_group_rule_id": found["id"], "security_group_rule": found["name"],
        "security_group_id": group["id"], "security_group": group["name"], "port_id": made["acme"]["id"],
        "port": "vm-acme", "project_id": "acme", "hypervisor": "hv1", "ethertype": "IPv4", "protocol": "tcp",
        "source_ip": "10.0.0.1", "source_port": 5, "destination_ip": "10.0.0.2", "destination_port": 80,
        "icmp_type": None, "icmp_code": None, "peer_port_id": None, "peer_port": "",
    }  # fmt: skip
    rest.evaluate(f"logged(**{ ({**entry, **more})!r})")


def test_counts(rest: RestServer, made: dict[str, dict[str, Any]]) -> None:
    of_rule = rest("GET", f"/v1/security-group-rules/{made['http']['id']}/statistics", who="acme-reader").json()
    assert of_rule == {"security_group_rule_id": made["http"]["id"], "packets": 7, "bytes": 700}
    of_group = rest("GET", f"/v1/security-groups/{made['group']['id']}/statistics", who="acme").json()
    assert (of_group["security_group_id"], of_group["packets"], of_group["bytes"]) == (made["group"]["id"], 9, 820)
    assert {each["security_group_rule_id"]: each["packets"] for each in of_group["rules"]} == {
        made["http"]["id"]: 7,
        made["https"]["id"]: 2,
    }


@pytest.mark.parametrize(("kind", "name"), [("security-groups", "group"), ("security-group-rules", "http")])
def test_counts_are_for_the_owner(rest: RestServer, made: dict[str, dict[str, Any]], kind: str, name: str) -> None:
    path = f"/v1/{kind}/{made[name]['id']}/statistics"
    assert rest("GET", path, who="reader").status_code == 200
    problem(rest("GET", path, who="umbra"), 404)
    rest("PATCH", f"/v1/security-groups/{made['group']['id']}", {"shared": True})
    problem(rest("GET", path, who="umbra"), 404)
    problem(rest("GET", f"/v1/{kind}/nothing/statistics"), 404)
    problem(rest("POST", path, {}), 405)
    rest("PATCH", f"/v1/security-groups/{made['group']['id']}", {"shared": False})


def test_the_log_as_the_administrator_sees_it(rest: RestServer, made: dict[str, dict[str, Any]]) -> None:
    found = rest("GET", "/v1/security-group-logs").json()
    assert [entry["id"] for entry in found["items"]] == [4, 3, 2, 1] and found["next"] is None
    assert {entry["hypervisor"] for entry in found["items"]} == {"hv1"}
    assert found["items"][2]["security_group_rule"] == "no mail"
    document = openapi.document()
    schema = {**document["components"]["schemas"]["LogEntryList"], "components": document["components"]}
    jsonschema_rs.Draft202012Validator(schema).validate(found)


def test_the_log_as_a_tenant_sees_it(rest: RestServer, made: dict[str, dict[str, Any]]) -> None:
    found = rest("GET", "/v1/security-group-logs", who="acme").json()["items"]
    assert [entry["id"] for entry in found] == [4, 2, 1]
    assert {entry["hypervisor"] for entry in found} == {""}
    by_other, denied, plain = found
    assert (by_other["peer_port_id"], by_other["peer_port"]) == (None, "")
    assert denied["verdict"] == "denied" and (denied["security_group_rule"], denied["security_group"]) == ("", "")
    assert denied["security_group_rule_id"] is denied["security_group_id"] is None
    assert (plain["security_group_rule"], plain["security_group"]) == ("http", "web")
    assert not rest("GET", f"/v1/security-group-logs?security_group_id={made['guard']['id']}", who="acme").json()[
        "items"
    ]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("security_group_rule_id={http}", [3, 1]),
        ("security_group_rule_id={http}&security_group_rule_id={https}", [4, 3, 1]),
        ("security_group_id={guard}", [2]),
        ("port_id={umbra}", [3]),
        ("verdict=denied", [2]),
        ("verdict=allowed&port_id={acme}", [4, 1]),
        ("limit=2", [4, 3]),
        ("limit=2&marker=3", [2, 1]),
    ],
)
def test_what_the_log_is_asked(rest: RestServer, made: dict[str, dict[str, Any]], query: str, ids: list[int]) -> None:
    text = query.format(**{name: each["id"] for name, each in made.items()})
    assert [entry["id"] for entry in rest("GET", f"/v1/security-group-logs?{text}").json()["items"]] == ids


def test_pages_of_the_log(rest: RestServer, made: dict[str, dict[str, Any]]) -> None:
    path, seen = "/v1/security-group-logs?limit=1&verdict=allowed", []
    while path:
        page = rest("GET", path).json()
        seen += [entry["id"] for entry in page["items"]]
        path = page["next"]
    assert seen == [4, 3, 1]


@pytest.mark.parametrize(
    ("query", "field"),
    [("verdict=maybe", "verdict"), ("limit=0", "limit"), ("limit=x", "limit"), ("marker=-1", "marker"), ("a=1", "a")],
)
def test_what_the_log_refuses(rest: RestServer, query: str, field: str) -> None:
    problem(rest("GET", f"/v1/security-group-logs?{query}"), 400, field)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_shows_counts(cli: Cli, made: dict[str, dict[str, Any]]) -> None:
    assert json_of(cli, "security-group-rule", "statistics", made["http"]["id"])["packets"] == 7
    assert json_of(cli, "security-group", "statistics", "web")["bytes"] == 820
    head, *lines = cli("security-group", "statistics", "web").out.splitlines()
    assert head.split()[-2:] == ["PACKETS", "BYTES"]
    assert sorted(line.split()[-2:] for line in lines) == [["2", "120"], ["7", "700"]]
    assert cli("security-group", "statistics", unique("none")).code != 0


def test_the_command_shows_the_log(cli: Cli, made: dict[str, dict[str, Any]]) -> None:
    found = json_of(cli, "security-group-log", "--rule", "http", "--rule", made["https"]["id"], "--port", "vm-acme")
    assert [entry["id"] for entry in found] == [4, 1]
    assert [entry["id"] for entry in json_of(cli, "security-group-log", "--limit", "2")] == [4, 3]
    shown = cli("security-group-log", "--security-group", "guard", "--verdict", "denied").out.splitlines()
    assert len(shown) == 2 and shown[0].startswith("TIME") and shown[1].split()[1:3] == ["denied", "egress"]
    assert "10.0.0.1:5" in shown[1] and "10.0.0.2:80" in shown[1]
