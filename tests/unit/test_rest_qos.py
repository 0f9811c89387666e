"""Quality of service over REST and by the command ``novanet``: who may do what, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tools.cli import errors

from .rest_server import RestServer, problem
from .test_cli import Cli, cli, unique
from .test_cli_routers import json_of

__all__ = ["cli"]


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


class World:
    """A VM ``vm`` of project acme on hypervisor ``h1``, which has an uplink of 100 Mbit/s."""

    def __init__(self, rest: RestServer) -> None:
        self.rest = rest
        self.hypervisor = rest("GET", "/v1/hypervisors?name=h1").json()["items"]
        uplinks = [{"interface": "eth0", "bandwidth_kbps": 100_000}]
        if self.hypervisor:
            self.hypervisor = rest("PATCH", f"/v1/hypervisors/{self.hypervisor[0]['id']}", {"uplinks": uplinks}).json()
        else:
            self.hypervisor = rest.make("/v1/hypervisors", name="h1", uplinks=uplinks)
        self.network = rest.make("/v1/networks", "acme", name=unique("net"))
        self.vm = rest.make("/v1/ports", "acme", network_id=self.network["id"], name=unique("vm"))
        self.place(self.vm)

    def place(self, port: dict[str, Any]) -> None:
        self.rest.evaluate(f"plug({port['id']!r}, {self.hypervisor['id']!r})")

    def policy(self, name: str = "", **fields: Any) -> dict[str, Any]:
        return self.rest.make("/v1/qos-policies", name=name or unique("policy"), **fields)

    def rule(self, policy: dict[str, Any], type: str, **fields: Any) -> dict[str, Any]:
        return self.rest.make("/v1/qos-rules", qos_policy_id=policy["id"], type=type, **fields)

    def attach(self, policy: dict[str, Any] | None, who: str = "admin", kind: str = "ports", id: str = "") -> Any:
        body = {"qos_policy_id": policy and policy["id"]}
        return self.rest("PATCH", f"/v1/{kind}/{id or self.vm['id']}", body, who)


@pytest.fixture
def world(rest: RestServer) -> Iterator[World]:
    made = World(rest)
    yield made
    rest("DELETE", f"/v1/ports/{made.vm['id']}")


def test_policies_are_the_administrators_and_shared_ones_everybodys(rest: RestServer, world: World) -> None:
    mine = world.policy(project_id="acme", name=unique("mine"))
    shared, hidden = world.policy(shared=True), world.policy()
    rules = [world.rule(each, "priority", priority=3) for each in (mine, shared, hidden)]
    seen = {each["id"] for each in rest("GET", "/v1/qos-policies?limit=1000", who="acme").json()["items"]}
    assert {mine["id"], shared["id"]} <= seen and hidden["id"] not in seen
    listed = {each["id"] for each in rest("GET", "/v1/qos-rules?limit=1000", who="acme").json()["items"]}
    assert {rules[0]["id"], rules[1]["id"]} <= listed and rules[2]["id"] not in listed
    assert mine["id"] not in {each["id"] for each in rest("GET", "/v1/qos-policies", who="umbra").json()["items"]}
    for method, path, body in (
        ("POST", "/v1/qos-policies", {}),
        ("PATCH", f"/v1/qos-policies/{mine['id']}", {"name": "x"}),
        ("DELETE", f"/v1/qos-rules/{rules[0]['id']}", None),
        ("POST", "/v1/qos-rules", {"qos_policy_id": mine["id"], "type": "max_latency", "max_latency_ms": 5}),
    ):
        answer = rest(method, path, body, "acme")
        problem(answer, 403)
    assert world.attach(mine, "acme").status_code == 200
    assert world.attach(shared, "acme").status_code == 200
    assert world.attach(hidden, "acme").status_code == 404
    assert rest("GET", f"/v1/qos-policies/{mine['id']}").json()["rules"] == [rules[0]["id"]]
    found = rest("GET", f"/v1/qos-rules?qos_policy_id={shared['id']}").json()["items"]
    assert [each["id"] for each in found] == [rules[1]["id"]]


def test_a_tenant_opens_no_trust_boundary(rest: RestServer, world: World) -> None:
    answer = rest("PATCH", f"/v1/ports/{world.vm['id']}", {"trust_dscp": True}, "acme")
    problem(answer, 403, "trust_dscp")


def test_what_is_left_of_an_uplink(rest: RestServer, world: World) -> None:
    policy = world.policy()
    world.rule(policy, "minimum_bandwidth", min_kbps=60_000)
    assert world.attach(policy).status_code == 200
    path = f"/v1/hypervisors/{world.hypervisor['id']}/bandwidth"
    found = rest("GET", path).json()
    (uplink,) = found["uplinks"]
    assert (uplink["reserve_kbps"], uplink["guaranteed_kbps"], uplink["left_kbps"]) == (5000, 60_000, 35_000)
    (guarantee,) = uplink["guarantees"]
    assert (guarantee["port_id"], guarantee["min_kbps"], guarantee["granted_kbps"]) == (world.vm["id"], 60_000, 60_000)
    assert (uplink["shaper"], uplink["error"]) == ("agent", "")
    assert (uplink["physical_networks"], uplink["shaped"], found["max_meters"]) == ([""], False, None)
    other = rest.make("/v1/ports", network_id=world.network["id"])
    world.place(other)
    refused = world.attach(policy, id=other["id"])
    assert "35000 are left" in problem(refused, 409, "qos_policy_id")
    rest("DELETE", f"/v1/ports/{other['id']}")
    assert rest("GET", path, who="acme").status_code == 404
    assert rest("GET", f"{path}?x=1").status_code == 400
    assert rest("GET", "/v1/hypervisors/nowhere/bandwidth").status_code == 404
    assert rest("POST", path, {}).status_code == 405


def test_what_holds_for_a_port_and_where_it_comes_from(rest: RestServer, world: World) -> None:
    path = f"/v1/ports/{world.vm['id']}/qos"
    assert rest("GET", path).json()["source"] == ""
    policy = world.policy(name=unique("gold"))
    world.rule(policy, "bandwidth_limit", max_kbps=5000)
    world.rule(policy, "minimum_bandwidth", min_kbps=2000)
    assert world.attach(policy, kind="networks", id=world.network["id"]).status_code == 200
    found = rest("GET", path).json()
    assert (found["qos_policy_id"], found["qos_policy_name"], found["source"]) == (
        policy["id"],
        policy["name"],
        "network",
    )
    assert found["egress"]["max_kbps"] == 5000 and found["egress"]["max_burst_kbps"] >= 500
    assert found["ingress"] == dict.fromkeys(found["ingress"]) | {"shape": False}
    assert (found["min_kbps"], found["granted_kbps"], found["uplink"]) == (2000, 2000, "eth0")
    theirs = rest("GET", path, who="acme").json()
    assert theirs["egress"] == found["egress"] and theirs["qos_policy_name"] == "", "the policy is not theirs to see"
    assert rest("GET", path, who="umbra").status_code == 404
    shown = rest("GET", f"/v1/ports/{world.vm['id']}").json()
    assert (shown["qos_policy_id"], shown["qos_network_policy_id"]) == (None, policy["id"])


def test_what_holds_for_a_floating_ip(rest: RestServer, world: World) -> None:
    outside = rest.make("/v1/networks", external=True, physical_network=unique("wire"))
    rest.make("/v1/subnets", network_id=outside["id"], cidr="203.0.113.0/24")
    policy = world.policy()
    world.rule(policy, "packet_rate_limit", max_pps=500, direction="ingress")
    floating = rest.make("/v1/floating-ips", floating_network_id=outside["id"], qos_policy_id=policy["id"])
    found = rest("GET", f"/v1/floating-ips/{floating['id']}/qos").json()
    assert (found["source"], found["ingress"]["max_pps"], found["trust_dscp"]) == ("floating-ip", 500, True)
    other = rest.make("/v1/floating-ips", floating_network_id=outside["id"])
    assert rest("GET", f"/v1/floating-ips/{other['id']}/qos").json()["qos_policy_id"] is None


def test_bad_rules_are_refused_by_name(rest: RestServer, world: World) -> None:
    policy = world.policy()
    for fields, field in (
        ({"type": "bandwidth_limit", "max_kbps": 0}, "max_kbps"),
        ({"type": "bandwidth_limit", "max_kbps": -1}, "max_kbps"),
        ({"type": "bandwidth_limit", "max_kbps": 10**15}, "max_kbps"),
        ({"type": "bandwidth_limit", "max_kbps": 1000, "max_burst_kbps": 2}, "max_burst_kbps"),
        ({"type": "bandwidth_limit", "max_kbps": 1.5}, "max_kbps"),
        ({"type": "bandwidth_limit", "max_kbps": "many"}, "max_kbps"),
        ({"type": "packet_rate_limit", "max_pps": 0}, "max_pps"),
        ({"type": "packet_rate_limit", "max_pps": 10, "max_burst_packets": -1}, "max_burst_packets"),
        ({"type": "minimum_bandwidth", "min_kbps": -1}, "min_kbps"),
        ({"type": "minimum_bandwidth", "min_kbps": 10**12}, "min_kbps"),
        ({"type": "priority", "priority": 9}, "priority"),
        ({"type": "max_latency", "max_latency_ms": 0}, "max_latency_ms"),
    ):
        answer = rest("POST", "/v1/qos-rules", {"qos_policy_id": policy["id"], **fields})
        problem(answer, 400, field)


def test_more_than_the_uplink_has_is_not_guaranteed(rest: RestServer, world: World) -> None:
    policy = world.policy()
    world.rule(policy, "minimum_bandwidth", min_kbps=95_001)
    found = problem(world.attach(policy), 409, "qos_policy_id")
    assert "95000 are left" in found and "95001 are asked for" in found


def test_verifying_is_the_administrators_and_needs_something_to_verify(rest: RestServer, world: World) -> None:
    path = f"/v1/ports/{world.vm['id']}/qos/verification"
    problem(rest("GET", path, who="acme"), 403)
    assert "qos_policy_id" in problem(rest("GET", path), 409)
    problem(rest("GET", f"{path}?seconds=0"), 400, "seconds")
    problem(rest("GET", f"{path}?seconds=900"), 400, "seconds")
    problem(rest("GET", f"/v1/ports/{world.network['id']}/qos/verification"), 404)


def test_an_agent_that_does_not_answer_is_said(rest: RestServer, world: World) -> None:
    policy = world.policy()
    world.rule(policy, "minimum_bandwidth", min_kbps=3000)
    world.rule(policy, "priority", priority=6)
    assert world.attach(policy).status_code == 200
    found = rest("GET", f"/v1/ports/{world.vm['id']}/qos/verification?seconds=1").json()
    assert (found["verdict"], found["hypervisor_name"], found["seconds"]) == ("broken", "h1", 1.0)
    assert [(check["rule"], check["asked"], check["in_force"]) for check in found["checks"]] == [
        ("minimum_bandwidth", 3000, None), ("priority", 6, None),
    ]  # fmt: skip
    assert all("does novanet-host-agent run there?" in check["detail"] for check in found["checks"])


def test_verifying_by_the_command(cli: Cli, world: World) -> None:
    policy = world.policy()
    world.rule(policy, "minimum_bandwidth", min_kbps=3000)
    world.attach(policy)
    shown = cli("qos", "verify", world.vm["name"], "--seconds", "1")
    assert shown.code == errors.NOT_REALISED and "broken, on hypervisor h1, in 1 seconds" in shown.out
    (line,) = [line for line in shown.out.splitlines() if line.startswith("minimum_bandwidth")]
    assert line.split()[1:4] == ["egress", "3000", "-"]
    refused = cli("qos", "verify", "nobody")
    assert refused.code == errors.NOT_FOUND


# --- the command -------------------------------------------------------------------------------------------------


def test_policies_by_the_command(cli: Cli, world: World) -> None:
    name = unique("gold")
    json_of(cli, "qos", "policy", "create", "--name", name, "--shared")
    rule = json_of(
        cli, "qos", "rule", "create", "--qos-policy", name, "--type", "bandwidth_limit", "--max-kbps", "10000",
        "--direction", "ingress",
    )  # fmt: skip
    assert (rule["max_kbps"], rule["direction"]) == (10_000, "ingress")
    assert json_of(cli, "qos-rule", "show", rule["id"]) == json_of(cli, "qos", "rule", "show", rule["id"])
    assert name in cli("qos", "policy", "list").out and "MAX KBPS" in cli("qos", "rule", "list").out
    json_of(cli, "port", "set", world.vm["name"], "--qos-policy", name)
    shown = cli("port", "qos", world.vm["name"])
    assert shown.code == 0 and name in shown.out
    (line,) = [line for line in shown.out.splitlines() if line.startswith("ingress_max_kbps")]
    assert line.split()[-1] == "10000"
    assert json_of(cli, "port", "qos", world.vm["name"])["source"] == "port"
    refused = cli("qos", "policy", "delete", name)
    assert refused.code == errors.CONFLICT and "in use by port" in refused.err
    json_of(cli, "port", "set", world.vm["name"], "--qos-policy", "none")
    assert cli("qos", "policy", "delete", name).code == 0
    assert cli("qos", "rule", "create", "--qos-policy", name, "--type", "priority").code == errors.NOT_FOUND


def test_the_bandwidth_of_a_hypervisor_by_the_command(cli: Cli, world: World) -> None:
    policy = world.policy()
    world.rule(policy, "minimum_bandwidth", min_kbps=60_000)
    json_of(cli, "port", "set", world.vm["name"], "--qos-policy", policy["name"])
    shown = cli("hypervisor", "bandwidth", "h1")
    assert shown.code == 0
    (line,) = [line for line in shown.out.splitlines() if line.startswith("eth0")]
    assert line.split() == ["eth0", "tunnels", "100000", "5000", "60000", "35000", "no"]
    (line,) = [line for line in shown.out.splitlines() if line.startswith(world.vm["name"])]
    assert line.split() == [world.vm["name"], "acme", "eth0", "60000", "60000"]
    assert json_of(cli, "hypervisor", "bandwidth", "h1")["uplinks"][0]["left_kbps"] == 35_000
    made = json_of(cli, "hypervisor", "set", "h1", "--uplink", "interface=eth7,bandwidth-kbps=90000")
    assert made["uplinks"] == [{"interface": "eth7", "bandwidth_kbps": 90_000, "physical_network": ""}]
    refused = cli("hypervisor", "set", "h1", "--no-uplink")
    assert refused.code == errors.CONFLICT and "no uplink for tunnels" in refused.err
