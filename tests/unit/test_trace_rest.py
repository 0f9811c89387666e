"""Traces over REST and by the command ``novanet trace``: who may ask what, and how it reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tools.cli import errors

from .rest_server import RestServer, problem
from .test_cli import Cli, cli
from .test_openapi import validator

__all__ = ["cli"]


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def made(rest: RestServer) -> dict[str, dict[str, Any]]:
    """acme's networks blue and green with a router between them: web on hv1, db on hv2; umbra's VM on hv1; hv3 is unknown."""
    made: dict[str, dict[str, Any]] = {}
    for number in (1, 2, 3):
        name = f"hv{number}"
        made[name] = rest.make("/v1/hypervisors", name=name, tunnel_ip=f"192.0.2.{number}")
        if number < 3:
            rest.evaluate(f"bridge({made[name]['id']!r})")
    router = made["edge"] = rest.make("/v1/routers", "acme", name="edge")
    for name, cidr in (("blue", "10.0.0.0/24"), ("green", "10.0.1.0/24")):
        network = made[name] = rest.make("/v1/networks", "acme", name=name)
        rest.make("/v1/subnets", "acme", network_id=network["id"], cidr=cidr)
        rest.make("/v1/ports", "acme", network_id=network["id"], router_id=router["id"])
    for name, network, hypervisor, fields in (
        ("web", "blue", "hv1", {}), ("db", "green", "hv2", {"dns_name": "database", "device_id": "vm-7"}),
        ("far", "green", "hv3", {}), ("idle", "blue", None, {}), ("twin", "blue", None, {"device_id": "both"}),
        ("other-twin", "blue", None, {"device_id": "both"}),
    ):  # fmt: skip
        made[name] = rest.make("/v1/ports", "acme", network_id=made[network]["id"], name=name, **fields)
        if hypervisor is not None:
            rest.evaluate(f"plug({made[name]['id']!r}, {made[hypervisor]['id']!r})")
    made["dark"] = rest.make("/v1/networks", "umbra", name="dark")
    rest.make("/v1/subnets", "umbra", network_id=made["dark"]["id"], cidr="10.0.0.0/24")
    made["umbra"] = rest.make("/v1/ports", "umbra", network_id=made["dark"]["id"], name="umbra")
    rest.evaluate(f"plug({made['umbra']['id']!r}, {made['hv1']['id']!r})")
    return made


def ask(rest: RestServer, who: str = "admin", **fields: Any) -> Any:
    return rest("POST", "/v1/traces", fields, who)


def test_a_trace_is_what_its_schema_says(rest: RestServer, made: dict[str, dict[str, Any]]) -> None:
    answer = ask(rest, source="web", destination="db", protocol="tcp", destination_port=5432, reply=True)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["verdict"] == "delivered"
    assert found["text"].startswith("delivered to port db on hypervisor hv2; the reply is delivered to port web")
    validator({"$ref": "#/components/schemas/Trace"}).validate(found)
    steps = [step for leg in found["legs"] for hop in leg["hops"] for step in hop["steps"]]
    assert {"kind": "router", "id": made["edge"]["id"], "name": "edge"} in [
        each for step in steps for each in step["objects"]
    ]
    assert all(step["flow"].startswith("cookie=") for step in steps)
    assert [warning for warning in found["warnings"] if "hv1 is not connected" in warning]


@pytest.mark.parametrize("who", ["acme", "acme-reader", "reader"])
@pytest.mark.parametrize("name", ["id", "db", "database", "vm-7", "10.0.1."])
def test_ports_go_by_several_names_and_readers_may_trace(
    rest: RestServer, made: dict[str, dict[str, Any]], who: str, name: str
) -> None:
    address = made["db"]["fixed_ips"][0]["ip_address"]
    destination = {"id": made["db"]["id"], "10.0.1.": address}.get(name, name)
    found = ask(rest, who, source="web", destination=destination).json()
    assert found["text"].startswith("delivered to port db on hypervisor"), found


def test_a_tenant_is_not_told_of_hypervisors_and_flows(rest: RestServer, made: dict[str, dict[str, Any]]) -> None:
    answer = ask(rest, "acme", source="web", destination="db")
    for hidden in (made["hv1"]["id"], made["hv2"]["id"], "hv1", "hv2", "cookie=", "192.0.2."):
        assert hidden not in answer.text
    assert answer.json()["text"] == "delivered to port db on hypervisor 2"


def test_nothing_is_made(rest: RestServer, made: dict[str, dict[str, Any]]) -> None:
    before = rest.evaluate("len(core.topology.all('port'))"), rest("GET", "/v1/status").json()["objects"]
    ask(rest, source="web", destination="10.0.1.77")
    assert (rest.evaluate("len(core.topology.all('port'))"), rest("GET", "/v1/status").json()["objects"]) == before
    assert rest("GET", "/v1/traces").status_code == 405


@pytest.mark.parametrize(
    ("fields", "who", "status", "field", "words"),
    [
        ({"destination": "db"}, "admin", 400, None, "source"),
        ({"source": "web", "destination": "db", "colour": 1}, "admin", 400, None, "colour"),
        ({"source": "web", "destination": "db", "size": 1}, "admin", 400, "size", ">= 28"),
        ({"source": "web", "destination": "db", "source_ip": "x"}, "admin", 400, "source_ip", "no IP address"),
        ({"source": "web", "destination": "db", "protocol": "tcp"}, "admin", 409, "destination_port", "needs a port"),
        ({"source": "nobody", "destination": "db"}, "admin", 404, "source", "there is no port 'nobody'"),
        ({"source": "web", "destination": "nobody"}, "admin", 404, "destination", "no port or floating IP"),
        ({"source": "umbra", "destination": "10.0.0.1"}, "acme", 404, "source", "there is no port"),
        ({"source": "web", "destination": "umbra"}, "acme", 404, "destination", "no port or floating IP"),
        ({"source": "idle", "destination": "web"}, "acme", 409, "source", "not plugged"),
        ({"source": "both", "destination": "web"}, "acme", 409, "source", "give the id"),
        ({"source": "web", "destination": "far"}, "acme", 409, None, "hypervisor 2 has not been connected"),
        ({"source": "web", "destination": "far"}, "admin", 409, None, "hypervisor hv3 has not been connected"),
        ({"source": "web", "destination": "db", "ip_version": 6}, "admin", 409, "destination", "no address of an IP version"),
        ({"source": "web", "destination": "2001:db8::1"}, "admin", 409, "destination", "no IPv6 address"),
        ([], "admin", 400, None, "object"),
    ],
)  # fmt: skip
def test_what_cannot_be_traced(
    rest: RestServer, made: dict[str, dict[str, Any]], fields: Any, who: str, status: int, field: str | None, words: str
) -> None:
    assert words in problem(rest("POST", "/v1/traces", fields, who), status, field)


def test_a_token_is_needed(rest: RestServer) -> None:
    problem(ask(rest, "none", source="web", destination="db"), 401)
    assert rest("POST", "/v1/networks", {}, "reader").status_code == 403, "a reader still cannot write"


# --- the command -------------------------------------------------------------------------------------------------------


def test_the_command_tells_the_way(cli: Cli, made: dict[str, dict[str, Any]]) -> None:
    done = cli("trace", "web", "db", "tcp/5432")
    assert done.code == errors.OK, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("resolve: ARP request for 10.0.0.1: 10.0.0.1 is at ")
    assert (
        "  hypervisor hv1, from port web" in lines
        and "  hypervisor hv2, through the tunnel from hypervisor hv1" in lines
    )
    assert any(line.split() == ["local_output", "handed", "to", "port", "db"] for line in lines)
    assert lines[-1] == "delivered to port db on hypervisor hv2"
    assert "cookie=" not in done.out and "cookie=" in cli("trace", "web", "db", "--flows").out


def test_the_exit_code_tells_what_became_of_it(cli: Cli, made: dict[str, dict[str, Any]]) -> None:
    assert cli("trace", "web", "10.0.0.1").code == errors.OK
    spoofed = cli("trace", "web", "db", "--source-ip", "10.0.0.200")
    assert spoofed.code == errors.DROPPED and spoofed.out.endswith("source address is not the port's\n")
    assert cli("trace", "web", "10.0.1.99").code == errors.DROPPED
    assert cli("trace", "web", "nobody").code == errors.NOT_FOUND
    assert cli("trace", "idle", "web").code == errors.CONFLICT


def test_options_become_fields(cli: Cli, made: dict[str, dict[str, Any]]) -> None:
    done = cli("trace", "web", "db", "udp/53", "--source-port", "5353", "--size", "9000", "-o", "json")
    assert done.code == errors.DROPPED and done.json["verdict"] == "refused"
    assert done.json["legs"][-1]["packet"].startswith("udp 10.0.0.") and ":5353 > " in done.json["legs"][-1]["packet"]
    assert cli("trace", "web", "db", "icmp/13", "-o", "json").json["legs"][-1]["packet"].startswith("icmp type 13")
    assert cli("trace", "web", "db", "--ttl", "1", "-4").code == errors.DROPPED
    replied = cli("trace", "web", "db", "--reply", "--established", "-o", "json").json
    assert [leg["name"] for leg in replied["legs"]] == ["resolve", "request", "reply"]


@pytest.mark.parametrize("packet", ["tcp", "tcp/http", "gre/1", "icmp/", "udp/70000"])
def test_packets_that_cannot_be(cli: Cli, made: dict[str, dict[str, Any]], packet: str) -> None:
    assert cli("trace", "web", "db", packet).code == errors.USAGE
