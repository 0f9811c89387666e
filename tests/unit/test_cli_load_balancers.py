"""Load balancers by the command ``novanet``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tools.cli import errors
from tools.cli.load_balancers import VERBS

from .rest_server import ROOT, RestServer
from .test_cli import Cli, cli, unique
from .test_cli_routers import json_of

__all__ = ["cli"]


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


class World:
    """A load balancer with a pool and a listener, and two VMs ``one`` and ``two`` that are plugged."""

    def __init__(self, cli: Cli, rest: RestServer) -> None:
        self.network = rest.make("/v1/networks", name=unique("net"))
        for cidr in ("10.0.0.0/24", "2001:db8:7::/64"):
            rest.make("/v1/subnets", network_id=self.network["id"], cidr=cidr)
        self.one, self.two = (self.vm(rest) for _ in range(2))
        self.lb, self.pool, self.listener = unique("lb"), unique("pool"), unique("http")
        json_of(cli, "lb", "create", "--name", self.lb, "--vip-network", self.network["name"])
        json_of(cli, "pool", "create", "--name", self.pool, "--loadbalancer", self.lb, "--protocol", "TCP")
        json_of(
            cli, "listener", "create", "--name", self.listener, "--loadbalancer", self.lb, "--protocol", "TCP",
            "--protocol-port", "8000", "--protocol-port-max", "8010", "--default-pool", self.pool,
        )  # fmt: skip

    def vm(self, rest: RestServer) -> dict[str, Any]:
        made = rest.make("/v1/ports", network_id=self.network["id"], name=unique("vm"))
        rest.evaluate(f"plug({made['id']!r}, 'h1')")
        return made


@pytest.fixture
def world(cli: Cli, rest: RestServer) -> World:
    return World(cli, rest)


def test_members_are_added_by_their_ports(cli: Cli, world: World) -> None:
    four, six = (fixed["ip_address"] for fixed in world.one["fixed_ips"])
    made = json_of(cli, "pool", "add-member", world.pool, world.one["name"], "--protocol-port", "80", "--weight", "3")
    assert (made["address"], made["protocol_port"], made["weight"]) == (four, 80, 3)
    by_address = json_of(cli, "pool", "add-member", world.pool, world.two["fixed_ips"][0]["ip_address"], "--backup")
    assert (by_address["port_id"], by_address["backup"]) == (world.two["id"], True)
    other = json_of(cli, "lb", "create", "--vip-network", world.network["name"], "--vip-address", "2001:db8:7::99")
    pool = json_of(cli, "pool", "create", "--loadbalancer", other["id"], "--protocol", "UDP")
    assert json_of(cli, "pool", "add-member", pool["id"], world.one["name"])["address"] == six
    twice = cli("pool", "add-member", world.pool, world.one["name"], "--protocol-port", "80")
    assert twice.code == errors.CONFLICT and made["id"] in twice.err
    assert cli("pool", "add-member", world.pool, "nobody").code == errors.NOT_FOUND


def test_affinity_is_set_and_taken_away(cli: Cli, world: World) -> None:
    persistence = "type=SOURCE_IP,persistence-timeout=600"
    made = json_of(cli, "pool", "set", world.pool, "--session-persistence", persistence)
    assert made["session_persistence"] == {"type": "SOURCE_IP", "persistence_timeout": 600}
    assert json_of(cli, "pool", "set", world.pool, "--session-persistence", "none")["session_persistence"] is None
    assert cli("pool", "set", world.pool, "--session-persistence", "SOURCE_IP").code == errors.USAGE
    assert cli("pool", "list", "--session-persistence", "x").code == errors.USAGE


def test_a_picture_shows_the_share_of_each_member(cli: Cli, world: World) -> None:
    for vm, weight in ((world.one, "3"), (world.two, "1")):
        arguments = "--protocol-port", "80", "--weight", weight, "--name", vm["name"]
        json_of(cli, "pool", "add-member", world.pool, vm["name"], *arguments)
    json_of(cli, "pool", "add-member", world.pool, "10.0.0.200", "--name", unique("nobody"))
    for shown in (cli("lb", "show", world.lb), cli("load-balancer", "status", world.lb)):
        assert shown.code == 0
        (listener,) = [line for line in shown.out.splitlines() if world.listener in line]
        assert "TCP 8000-8010" in listener and listener.endswith(f"to pool {world.pool}")
        lines = {
            vm["name"]: line for line in shown.out.splitlines() for vm in (world.one, world.two) if vm["name"] in line
        }
        assert "75.0%" in lines[world.one["name"]] and lines[world.one["name"]].count("▀") == 15
        assert "25.0%" in lines[world.two["name"]] and lines[world.two["name"]].count("▀") == 5
        assert any("10.0.0.200" in line and "ERROR" in line and "0.0%" in line for line in shown.out.splitlines())
    assert json_of(cli, "lb", "show", world.lb)["vip_address"]
    assert json_of(cli, "lb", "status", world.lb)["pools"][0]["members"]


def test_tables_tell_what_one_looks_for(cli: Cli, world: World) -> None:
    for noun, columns in (
        ("lb", "VIP ADDRESS"), ("listener", "PROTOCOL PORT"), ("pool", "LB ALGORITHM"), ("member", "OPERATING STATUS"),
        ("health-monitor", "TYPE"),
    ):  # fmt: skip
        assert columns in cli(noun, "list").out.splitlines()[0]
    (line,) = cli("listener", "list", "--loadbalancer", world.lb).out.splitlines()[1:]
    assert world.listener in line


def test_what_is_in_use_is_named(cli: Cli, world: World) -> None:
    refused = cli("lb", "delete", world.lb)
    assert refused.code == errors.CONFLICT and world.pool in refused.err and world.listener in refused.err


def test_verbs_are_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for kind, verbs in VERBS.items():
        for verb in verbs:
            assert f"novanet {kind} {verb.name}" in page
