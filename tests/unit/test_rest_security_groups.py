"""Security groups over REST: who sees and changes what, what is found by which filter, and what is shown with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .rest_server import RestServer, problem

WEB = {"key": "tier", "operator": "In", "values": ["web"]}


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def made(rest: RestServer) -> dict[str, dict[str, Any]]:
    """Groups of two projects, rules between them, and members, named and selected."""
    made: dict[str, dict[str, Any]] = {}
    network = made["network"] = rest.make("/v1/networks", "acme")
    made["named"] = rest.make("/v1/security-groups", "acme", name="named")
    made["selecting"] = rest.make("/v1/security-groups", "acme", selector=[WEB])
    made["shared"] = rest.make("/v1/security-groups", name="monitors", project_id="umbra", shared=True)
    made["guard"] = rest.make("/v1/security-groups", tier="admin", priority=9, selector=[WEB])
    made["addresses"] = rest.make("/v1/address-groups", "acme", addresses=["192.0.2.0/24"])
    for name, peer in (
        ("from-named", {"remote_group_id": made["named"]["id"]}),
        ("from-shared", {"remote_group_id": made["shared"]["id"]}),
        ("from-addresses", {"remote_address_group_id": made["addresses"]["id"]}),
    ):
        fields = {"security_group_id": made["selecting"]["id"], "direction": "ingress", **peer}
        made[name] = rest.make("/v1/security-group-rules", "acme", **fields)
    deny = {"security_group_id": made["guard"]["id"], "direction": "egress", "action": "deny", "protocol": "tcp"}
    made["deny"] = rest.make("/v1/security-group-rules", **deny, port_range_min=25, port_range_max=25)
    groups, labels = [made["named"]["id"]], {"tier": "web", "zone": "a"}
    made["both"] = rest.make("/v1/ports", "acme", network_id=network["id"], security_groups=groups, labels=labels)
    made["only-named"] = rest.make("/v1/ports", "acme", network_id=network["id"], security_groups=groups)
    made["only-labels"] = rest.make("/v1/ports", "acme", network_id=network["id"], labels={"zone": "a"})
    made["plain"] = rest.make("/v1/ports", "acme", network_id=network["id"])
    (made["default"],) = rest("GET", "/v1/security-groups?name=default", who="acme").json()["items"]
    return made


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("ports?security_groups={named}", ["both", "only-named"]),
        ("ports?security_groups={named}&labels=tier", ["both"]),
        ("ports?security_groups={selecting}", []),
        ("ports?labels=zone=a", ["both", "only-labels"]),
        ("ports?labels=zone=b", []),
        ("ports?labels=tier=web&labels=zone", ["both", "only-labels"]),
        ("ports?identity={identity}", ["both"]),
        ("security-group-rules?security_group_id={selecting}", ["from-named", "from-shared", "from-addresses"]),
        ("security-group-rules?remote_group_id={named}", ["from-named"]),
        ("security-group-rules?remote_address_group_id={addresses}", ["from-addresses"]),
        ("security-group-rules?action=deny", ["deny"]),
        ("security-groups?tier=admin", ["guard"]),
        ("security-groups?shared=true", ["shared"]),
        ("address-groups?addresses=192.0.2.0/24", ["addresses"]),
        ("address-groups?addresses=192.0.2.0/25", []),
    ],
)
def test_lists_are_filtered(rest: RestServer, made: dict[str, dict[str, Any]], query: str, names: list[str]) -> None:
    ids = {name: obj["id"] for name, obj in made.items()} | {"identity": made["both"]["identity"]}
    found = [item["id"] for item in rest("GET", "/v1/" + query.format(**ids)).json()["items"]]
    assert found == sorted(made[name]["id"] for name in names)


def test_what_is_shown_with_members(rest: RestServer, made: dict[str, dict[str, Any]]) -> None:
    both = rest("GET", f"/v1/ports/{made['both']['id']}", who="acme").json()
    assert both["applied_security_groups"] == sorted(made[name]["id"] for name in ("named", "selecting", "guard"))
    plain = rest("GET", f"/v1/ports/{made['plain']['id']}").json()
    assert plain["applied_security_groups"] == plain["security_groups"] == [made["default"]["id"]]
    for name, rules, ports in (("named", 0, 2), ("selecting", 3, 1), ("guard", 1, 1)):
        group = rest("GET", f"/v1/security-groups/{made[name]['id']}").json()
        assert (group["rule_count"], group["port_count"]) == (rules, ports), name
    path = f"/v1/identities?number={both['identity']}"
    (identity,) = rest("GET", path).json()["items"]
    assert (identity["labels"], identity["port_count"]) == ({"tier": "web", "zone": "a"}, 1)
    assert identity["applied_security_groups"] == both["applied_security_groups"]
    problem(rest("PATCH", f"/v1/ports/{both['id']}", {"applied_security_groups": []}), 400, "applied_security_groups")


def test_identities_are_only_read(rest: RestServer, made: dict[str, dict[str, Any]]) -> None:
    (identity,) = rest("GET", f"/v1/identities?number={made['both']['identity']}").json()["items"]
    path = f"/v1/identities/{identity['id']}"
    assert rest("GET", path).json() == identity
    for method, where, body in (
        ("POST", "/v1/identities", {"number": 7}), ("PUT", path, identity), ("PATCH", path, {"retired": True}),
        ("DELETE", path, None),
    ):  # fmt: skip
        answer = rest(method, where, body)
        assert "NovaNet alone" in problem(answer, 405) and answer.headers["Allow"] == "GET, HEAD, OPTIONS"
    problem(rest("GET", path, who="acme"), 403)


def test_labels_are_patched_one_by_one(rest: RestServer, made: dict[str, dict[str, Any]]) -> None:
    path = f"/v1/ports/{made['only-labels']['id']}"
    first = rest("PATCH", path, {"labels": {"team": "blue"}}, "acme").json()
    assert first["labels"] == {"zone": "a", "team": "blue"}
    back = rest("PATCH", path, {"labels": {"team": None}}, "acme").json()
    assert back["labels"] == {"zone": "a"} and back["identity"] == made["only-labels"]["identity"] != first["identity"]
    for labels, field in (({"a b": "x"}, "labels"), ({"x": "a b"}, "labels[...]"), ({"x": 5}, "labels[...]")):
        problem(rest("PATCH", path, {"labels": labels}, "acme"), 400, field)


def test_tenants_see_shared_groups_and_their_own(rest: RestServer, made: dict[str, dict[str, Any]]) -> None:
    def seen(who: str) -> set[str]:
        ids = {item["id"] for item in rest("GET", "/v1/security-groups", who=who).json()["items"]}
        return {name for name, obj in made.items() if obj["id"] in ids}

    assert seen("acme") == {"default", "named", "selecting", "shared"} and seen("umbra") == {"shared"}
    assert seen("acme-reader") == seen("acme")
    for method, body in (("PATCH", {"name": "mine"}), ("DELETE", None)):
        for name in ("shared", "guard"):
            answer = rest(method, f"/v1/security-groups/{made[name]['id']}", body, "acme")
            assert answer.status_code == 404
    body = {"security_group_id": made["shared"]["id"], "direction": "ingress"}
    problem(rest("POST", "/v1/security-group-rules", body, "acme"), 403, "security_group_id")
    body["security_group_id"] = made["guard"]["id"]
    problem(rest("POST", "/v1/security-group-rules", body, "acme"), 404, "security_group_id")
    problem(rest("POST", "/v1/security-groups", {"tier": "admin"}, "acme"), 403, "tier")


def test_a_group_goes_with_its_rules_and_not_while_it_is_named(rest: RestServer) -> None:
    group = rest.make("/v1/security-groups", "umbra")
    rules = [
        rest.make("/v1/security-group-rules", "umbra", security_group_id=group["id"], direction=direction)
        for direction in ("ingress", "egress")
    ]
    network = rest.make("/v1/networks", "umbra")
    port = rest.make("/v1/ports", "umbra", network_id=network["id"], security_groups=[group["id"]])
    path = f"/v1/security-groups/{group['id']}"
    assert port["id"] in problem(rest("DELETE", path, who="umbra"), 409)
    rest("PATCH", f"/v1/ports/{port['id']}", {"security_groups": []}, "umbra")
    assert rest("DELETE", path, who="umbra").status_code == 204
    for rule in rules:
        problem(rest("GET", f"/v1/security-group-rules/{rule['id']}"), 404)


def test_a_thousand_rules_in_one_request(rest: RestServer) -> None:
    group = rest.make("/v1/security-groups", "acme")
    rules = [
        {
            "security_group_id": group["id"],
            "direction": "ingress",
            "protocol": "tcp",
            "port_range_min": n,
            "port_range_max": n,
        }
        for n in range(1, 1001)
    ]
    assert rest("POST", "/v1/security-group-rules", rules, "acme").status_code == 201
    assert rest("GET", f"/v1/security-groups/{group['id']}").json()["rule_count"] == 1000
    again = rest("POST", "/v1/security-group-rules", [{**rules[0], "protocol": "udp"}, rules[999]], "acme")
    assert "says the same" in problem(again, 409, "[1]")
    assert rest("GET", f"/v1/security-groups/{group['id']}").json()["rule_count"] == 1000, "all or none"


def test_the_topology_has_groups_and_who_names_them(rest: RestServer, made: dict[str, dict[str, Any]]) -> None:
    graph = rest("GET", "/v1/topology").json()
    links = {(link["source"], link["relation"], link["target"]) for link in graph["links"]}
    rule, group = f"security-group-rule/{made['from-named']['id']}", f"security-group/{made['selecting']['id']}"
    assert {
        (f"port/{made['both']['id']}", "security_groups", f"security-group/{made['named']['id']}"),
        (rule, "security_group_id", group),
        (rule, "remote_group_id", f"security-group/{made['named']['id']}"),
    } <= links
