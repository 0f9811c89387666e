"""Security groups by the command ``novanet``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tools.cli import errors
from tools.cli.fields import requirement
from tools.cli.security_groups import VERBS

from .rest_server import ROOT, RestServer
from .test_cli import Cli, cli, unique
from .test_cli_routers import json_of

__all__ = ["cli"]


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


@pytest.fixture
def group(cli: Cli) -> str:
    name = unique("web")
    assert cli("security-group", "create", "--name", name).code == 0
    return name


@pytest.fixture
def port(cli: Cli, rest: RestServer) -> str:
    network, name = rest.make("/v1/networks"), unique("vm")
    assert cli("port", "create", "--name", name, "--network", network["id"]).code == 0
    return name


def test_rules_are_added_shown_and_deleted(cli: Cli, group: str, rest: RestServer) -> None:
    rule = json_of(
        cli, "security-group", "add-rule", group, "--direction", "ingress", "--protocol", "tcp", "--port", "80"
    )
    assert (rule["port_range_min"], rule["port_range_max"], rule["action"], rule["revoke"]) == (80, 80, "allow", True)
    other = json_of(
        cli, "security-group", "add-rule", group, "--direction", "egress", "--protocol", "udp", "--port", "8000:8080",
        "--remote-group", group, "--no-revoke", "--log",
    )  # fmt: skip
    assert (other["port_range_max"], other["remote_group_id"]) == (8080, rule["security_group_id"])
    assert (other["revoke"], other["log"]) == (False, True)
    lines = cli("security-group-rule", "list", "--security-group", group).out.splitlines()
    assert "REMOTE IP PREFIX" in lines[0] and len(lines) == 3
    assert json_of(cli, "security-group", "show", group)["rule_count"] == 2
    assert json_of(cli, "security-group-rule", "set", rule["id"], "--log")["log"] is True
    assert cli("security-group-rule", "delete", rule["id"]).code == 0
    assert json_of(cli, "security-group", "show", group)["rule_count"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "http"], "like 80 or 8000:8080"),
        (["--port", "80", "--port-range-min", "80"], "both ends"),
        (["--port", "80", "--protocol", "gre"], "gre"),
        (["--protocol", "tcp", "--port", "90:80"], "90 is more"),
    ],
)
def test_rules_that_cannot_be(cli: Cli, group: str, options: list[str], words: str) -> None:
    done = cli("security-group", "add-rule", group, "--direction", "ingress", *options)
    assert done.code == errors.USAGE and words in done.err


def test_address_groups(cli: Cli, group: str) -> None:
    name = unique("office")
    made = json_of(cli, "address-group", "create", "--name", name, "--address", "192.0.2.0/24", "--address", "10.0.0.7")
    assert made["addresses"] == ["10.0.0.7/32", "192.0.2.0/24"]
    rule = ["add-rule", group, "--direction", "ingress", "--remote-address-group", name]
    assert json_of(cli, "security-group", *rule)["remote_address_group_id"] == made["id"]
    assert [item["id"] for item in json_of(cli, "address-group", "list", "--address", "192.0.2.0/24")] == [made["id"]]
    assert json_of(cli, "address-group", "set", name, "--no-address")["addresses"] == []
    assert cli("address-group", "delete", name).code == errors.CONFLICT


def test_groups_of_a_port_are_set_added_and_removed(cli: Cli, group: str, port: str) -> None:
    other = unique("db")
    ids = [
        json_of(cli, "security-group", "show", group)["id"],
        json_of(cli, "security-group", "create", "--name", other)["id"],
    ]

    def groups(*arguments: str) -> list[str]:
        found: list[str] = json_of(cli, "port", *arguments)["security_groups"]
        return found

    assert groups("set", port, "--security-group", group) == [ids[0]]
    assert groups("add-security-group", port, other) == sorted(ids)
    assert groups("add-security-group", port, other) == sorted(ids), "it stays"
    assert [item["name"] for item in json_of(cli, "port", "list", "--security-group", other)] == [port]
    assert groups("remove-security-group", port, group) == [ids[1]]
    gone = cli("port", "remove-security-group", port, group)
    assert gone.code == errors.NOT_FOUND and group in gone.err
    assert groups("set", port, "--no-security-group") == []
    assert groups("set", port, "--security-group", group, "--security-group", other) == sorted(ids)
    default = json_of(cli, "security-group", "show", "default")["id"]
    assert groups("set", port, "--unset", "security-group") == [default]


def test_a_new_port_has_the_default_group_or_none(cli: Cli, rest: RestServer) -> None:
    network = rest.make("/v1/networks", project_id=unique("us"))
    create = "port", "create", "--network", network["id"]
    port = json_of(cli, *create)
    (default,) = json_of(cli, "security-group", "list", "--name", "default", "--project", network["project_id"])
    assert port["security_groups"] == [default["id"]] and default["rule_count"] == 4
    for nothing in (["--no-security-group"], ["--security-group", "none"]):
        assert json_of(cli, *create, *nothing)["security_groups"] == []
    assert json_of(cli, *create, "--no-port-security-enabled")["security_groups"] == []
    assert json_of(cli, "security-group", "show", default["id"])["port_count"] == 1


def test_labels_of_a_port_are_set_and_taken_away(cli: Cli, port: str) -> None:
    def labels(*arguments: str) -> dict[str, str]:
        found: dict[str, str] = json_of(cli, "port", "set", port, *arguments)["labels"]
        return found

    assert labels("--label", "tier=web", "--label", "example.com/zone=a") == {"tier": "web", "example.com/zone": "a"}
    assert labels("--label", "tier=db", "--no-label", "example.com/zone") == {"tier": "db"}
    assert [item["name"] for item in json_of(cli, "port", "list", "--label", "tier=db")] == [port]
    (identity,) = json_of(cli, "identity", "list", "--label", "tier=db")
    assert json_of(cli, "identity", "show", str(identity["number"])) == identity
    assert labels("--unset", "label") == {}
    wrong = cli("port", "set", port, "--label", "web")
    assert wrong.code == errors.USAGE and "tier=web" in wrong.err


def test_selectors_are_written_as_for_kubectl(cli: Cli, group: str, rest: RestServer) -> None:
    options = ["--selector", "tier in (web, app)", "--selector", "!legacy"]
    assert json_of(cli, "security-group", "set", group, *options)["selector"] == [
        {"key": "tier", "operator": "In", "values": ["app", "web"]},
        {"key": "legacy", "operator": "DoesNotExist", "values": []},
    ]
    made = rest.make("/v1/ports", network_id=rest.make("/v1/networks")["id"], labels={"tier": "app"})
    assert json_of(cli, "security-group", "show", group)["id"] in made["applied_security_groups"]
    assert json_of(cli, "security-group", "set", group, "--no-selector")["selector"] is None
    assert cli("security-group", "set", group, "--selector", "tier web").code == errors.USAGE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tier=web", ("tier", "In", ["web"])),
        ("tier==web", ("tier", "In", ["web"])),
        ("tier!=web", ("tier", "NotIn", ["web"])),
        ("tier notin (web,db)", ("tier", "NotIn", ["web", "db"])),
        (" tier  in (web) ", ("tier", "In", ["web"])),
        ("x.org/tier", ("x.org/tier", "Exists", None)),
        ("!tier", ("tier", "DoesNotExist", None)),
    ],
)
def test_a_requirement(text: str, expected: tuple[Any, ...]) -> None:
    found: dict[str, Any] = requirement(text)
    assert (found["key"], found["operator"], found.get("values")) == expected


def test_identities_are_only_looked_at(cli: Cli) -> None:
    assert cli("identity", "list").code == 0
    for verb in ("create", "set", "delete"):
        assert cli("identity", verb).code == errors.USAGE


def test_every_verb_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for kind, verbs in VERBS.items():
        assert all(f"novanet {kind} {verb.name}" in page for verb in verbs)
