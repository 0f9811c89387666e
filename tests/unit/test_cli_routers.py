"""Routers, floating IPs and what goes with them, by the command ``novanet``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tools.cli import errors

from .rest_server import ROOT, RestServer
from .test_cli import Cli, cli, unique

__all__ = ["cli"]


class World(NamedTuple):
    """Names of what there is for a test."""

    inside: str
    outside: str
    router: str
    vm: str
    addresses: str
    """Of the external network: the first 24 bits, a VLAN's own."""


VLANS = count(1)


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


@pytest.fixture
def world(rest: RestServer, cli: Cli) -> World:
    """A network with a VM's port, an external network, and a router that joins neither."""
    vlan = next(VLANS)
    names = World(unique("inside"), unique("outside"), unique("edge"), unique("vm"), f"198.18.{vlan}")
    inside = rest.make("/v1/networks", name=names.inside)
    rest.make("/v1/subnets", network_id=inside["id"], cidr="10.0.0.0/24", dns_nameservers=["10.0.0.3", "10.0.0.2"])
    rest.make("/v1/ports", network_id=inside["id"], name=names.vm, fixed_ips=[{"ip_address": "10.0.0.20"}])
    wire = ("--physical-network", "public", "--segmentation-id", str(vlan), "--external")
    assert cli("network", "create", "--name", names.outside, *wire).code == 0
    subnet = ("--cidr", f"{names.addresses}.0/24", "--no-enable-dhcp")
    assert cli("subnet", "create", "--network", names.outside, *subnet).code == 0
    assert cli("router", "create", "--name", names.router).code == 0
    return names


def json_of(cli: Cli, *arguments: str) -> Any:
    done = cli(*arguments, "-o", "json")
    assert done.code == 0, done.err
    return done.json


# --- interfaces and gateways -----------------------------------------------------------------------------------------


def test_a_router_joins_and_leaves_a_network(cli: Cli, world: World) -> None:
    port = json_of(cli, "router", "add-interface", world.router, world.inside, "--wait", "5")
    router = json_of(cli, "router", "show", world.router)
    assert port["router_id"] == router["id"] and port["fixed_ips"][0]["ip_address"] == "10.0.0.1"
    assert cli("router", "delete", world.router).code == errors.CONFLICT, "it has an interface"
    assert cli("router", "remove-interface", world.router, world.inside) == (0, "", "")
    assert cli("port", "show", port["id"]).code == errors.NOT_FOUND
    again = cli("router", "remove-interface", world.router, world.inside)
    assert again.code == errors.NOT_FOUND and f"has no interface in network {world.inside}" in again.err


def test_an_interface_with_an_address_of_its_own(cli: Cli, world: World) -> None:
    port = json_of(cli, "router", "add-interface", world.router, world.inside, "--fixed-ip", "10.0.0.9",
                   "--mac-address", "02:00:00:00:00:09", "--name", unique("leg"))  # fmt: skip
    assert (port["fixed_ips"][0]["ip_address"], port["mac_address"]) == ("10.0.0.9", "02:00:00:00:00:09")


def test_a_gateway_is_set_moved_and_cleared(cli: Cli, world: World, rest: RestServer) -> None:
    inner = cli("router", "set-gateway", world.router, world.inside)
    assert inner.code == errors.USAGE and "add-interface" in inner.err
    outer = cli("router", "add-interface", world.router, world.outside)
    assert outer.code == errors.USAGE and "set-gateway" in outer.err
    first = json_of(cli, "router", "set-gateway", world.router, world.outside)
    assert first["device_owner"] == "network:router_gateway"
    assert json_of(cli, "router", "set-gateway", world.router, world.outside)["id"] == first["id"], "it stays"
    moved = json_of(cli, "router", "set-gateway", world.router, world.outside, "--fixed-ip", f"{world.addresses}.9")
    assert (moved["id"], moved["fixed_ips"][0]["ip_address"]) == (first["id"], f"{world.addresses}.9")
    assert json_of(cli, "router", "show", world.router)["external_addresses"] == [f"{world.addresses}.9"]
    other = rest.make("/v1/networks", name=unique("other"), physical_network=unique("wire"), external=True)
    rest.make("/v1/subnets", network_id=other["id"], cidr="198.51.100.0/24")
    away = json_of(cli, "router", "set-gateway", world.router, other["id"])
    assert away["network_id"] == other["id"] and cli("port", "show", first["id"]).code == errors.NOT_FOUND
    assert cli("router", "clear-gateway", world.router).code == 0
    assert "has no gateway" in cli("router", "clear-gateway", world.router).err


# --- routes ----------------------------------------------------------------------------------------------------------


def test_static_routes_are_added_and_removed(cli: Cli, world: World) -> None:
    cli("router", "add-interface", world.router, world.inside)

    def change(verb: str, destination: str, *nexthop: str) -> list[tuple[str, str]]:
        hop = ("--nexthop", *nexthop) if nexthop else ()
        routes = json_of(cli, "router", verb, world.router, "--destination", destination, *hop)["routes"]
        return [(route["destination"], route["nexthop"]) for route in routes]

    assert change("add-route", "172.16.0.0/12", "10.0.0.7") == [("172.16.0.0/12", "10.0.0.7")]
    assert len(change("add-route", "172.16.0.0/12", "10.0.0.8")) == 2, "two next hops share it"
    assert len(change("add-route", "172.16.0.0/12", "10.0.0.8")) == 2, "it is there already"
    assert len(change("add-route", "0.0.0.0/0", "10.0.0.7")) == 3
    assert change("remove-route", "172.16.0.0/12", "10.0.0.7") == [
        ("172.16.0.0/12", "10.0.0.8"),
        ("0.0.0.0/0", "10.0.0.7"),
    ]
    assert change("remove-route", "172.16.0.0/12") == [("0.0.0.0/0", "10.0.0.7")]
    none = cli("router", "remove-route", world.router, "--destination", "172.16.0.0/12")
    assert none.code == errors.NOT_FOUND and "172.16.0.0/12" in none.err
    far = cli("router", "add-route", world.router, "--destination", "172.16.0.0/12", "--nexthop", "192.0.2.1")
    assert far.code == errors.CONFLICT and "192.0.2.1" in far.err
    for option, value in (("--destination", "10.0.0.1/8"), ("--nexthop", "gateway")):
        given = {"--destination": "172.16.0.0/12", "--nexthop": "10.0.0.7", option: value}
        wrong = cli("router", "add-route", world.router, *(text for pair in given.items() for text in pair))
        assert wrong.code == errors.USAGE and option in wrong.err


def test_routes_added_at_the_same_time_are_all_there(cli: Cli, world: World, rest: RestServer) -> None:
    cli("router", "add-interface", world.router, world.inside)
    environment = os.environ | {"NOVANET_TOKEN": rest.tokens["admin"], "NOVANET_ENDPOINT": rest.url}
    command = [sys.executable, "-m", "tools.cli.main", "router", "add-route", world.router, "--nexthop", "10.0.0.7"]
    running = [
        subprocess.Popen([*command, "--destination", f"172.16.{n}.0/24"], env=environment, cwd=ROOT, stdout=subprocess.PIPE)
        for n in range(5)
    ]  # fmt: skip
    assert [process.communicate() and process.returncode for process in running] == [0] * 5
    routes = json_of(cli, "router", "show", world.router)["routes"]
    assert {route["destination"] for route in routes} == {f"172.16.{n}.0/24" for n in range(5)}


def test_routes_as_options(cli: Cli, world: World) -> None:
    cli("router", "add-interface", world.router, world.inside)
    made = json_of(
        cli, "router", "set", world.router, "--route", "destination=172.16.0.0/12,nexthop=10.0.0.7",
        "--policy-route", "priority=10,source=10.0.0.0/25,protocol=tcp,destination-port=443,nexthop=10.0.0.7,nexthop=10.0.0.8",
        "--policy-route", "priority=5,action=drop,destination=192.0.2.0/24",
    )  # fmt: skip
    assert made["routes"] == [{"destination": "172.16.0.0/12", "nexthop": "10.0.0.7"}]
    first, second = made["policy_routes"]
    assert (first["priority"], first["destination_port"], first["nexthops"]) == (10, 443, ["10.0.0.7", "10.0.0.8"])
    assert (second["action"], second["nexthops"]) == ("drop", [])
    assert json_of(cli, "router", "set", world.router, "--policy-route", "none")["policy_routes"] == []
    wrong = cli("router", "set", world.router, "--route", "destination=172.16.0.0/12,via=10.0.0.7")
    assert wrong.code == errors.USAGE and "destination=…,nexthop=…" in wrong.err


def test_gateway_hypervisors_and_wires_as_options(cli: Cli, world: World) -> None:
    host = unique("hv")
    made = json_of(cli, "hypervisor", "create", "--name", host, "--bridge-mapping", "physical-network=public,bridge=br-ex",
                   "--no-gateway")  # fmt: skip
    assert made["bridge_mappings"] == [{"physical_network": "public", "bridge": "br-ex"}] and made["gateway"] is False
    router = json_of(cli, "router", "set", world.router, "--gateway-hypervisor", f"hypervisor={host},priority=20")
    assert router["gateway_hypervisors"] == [{"hypervisor_id": made["id"], "priority": 20}]


# --- floating IPs and port forwardings -------------------------------------------------------------------------------


@pytest.fixture
def routed(cli: Cli, world: World) -> World:
    assert cli("router", "add-interface", world.router, world.inside).code == 0
    assert cli("router", "set-gateway", world.router, world.outside).code == 0
    return world


def test_a_floating_ip_comes_and_goes(cli: Cli, routed: World) -> None:
    made = json_of(cli, "floating-ip", "create", "--floating-network", routed.outside, "--name", unique("fip"))
    vm = json_of(cli, "port", "show", routed.vm)
    attached = json_of(cli, "floating-ip", "attach", made["name"], routed.vm)
    assert (attached["port_id"], attached["fixed_ip_address"]) == (vm["id"], "10.0.0.20")
    assert attached["router_id"] == json_of(cli, "router", "show", routed.router)["id"]
    detached = json_of(cli, "floating-ip", "detach", made["id"])
    assert (detached["port_id"], detached["fixed_ip_address"]) == (None, None)
    wrong = cli("floating-ip", "attach", made["id"], routed.vm, "--fixed-ip", "10.0.0.99")
    assert wrong.code == errors.USAGE and "10.0.0.99" in wrong.err
    again = json_of(cli, "floating-ip", "attach", made["id"], routed.vm, "--fixed-ip", "10.0.0.20")
    assert again["fixed_ip_address"] == "10.0.0.20"


def test_floating_ips_are_named_by_their_addresses(cli: Cli, routed: World) -> None:
    address = json_of(cli, "floating-ip", "create", "--floating-network", routed.outside)["floating_ip_address"]
    forwarding = json_of(
        cli, "port-forwarding", "create", "--floating-ip", address, "--protocol", "tcp", "--external-port", "2222",
        "--internal-port-id", routed.vm, "--internal-port", "22",
    )  # fmt: skip
    assert (forwarding["internal_ip_address"], forwarding["internal_port"]) == ("10.0.0.20", 22)
    (line,) = cli("port-forwarding", "list", "--floating-ip", address).out.splitlines()[1:]
    assert line.split()[2:] == [forwarding["floating_ip_id"], "tcp", "2222", "10.0.0.20", "22"]
    taken = cli("floating-ip", "attach", address, routed.vm)
    assert taken.code == errors.CONFLICT and "port forwardings" in taken.err
    assert cli("port-forwarding", "delete", forwarding["id"]).code == 0
    assert cli("floating-ip", "delete", address).code == 0
    assert f"no floating-ip named '{address}'" in cli("floating-ip", "show", address).err


# --- services --------------------------------------------------------------------------------------------------------


def test_dhcp_options_and_names(cli: Cli, world: World) -> None:
    port = json_of(
        cli, "port", "set", world.vm, "--dns-name", "WEB", "--extra-dhcp-opt", "opt-name=ntp-server,opt-value=192.0.2.1,192.0.2.2",
        "--extra-dhcp-opt", "opt-name=bootfile-url,opt-value=http://192.0.2.9/x?a=b,ip-version=6",
    )  # fmt: skip
    assert port["dns_name"] == "web"
    assert port["extra_dhcp_opts"] == [
        {"opt_name": "ntp-server", "opt_value": "192.0.2.1,192.0.2.2", "ip_version": 4},
        {"opt_name": "bootfile-url", "opt_value": "http://192.0.2.9/x?a=b", "ip_version": 6},
    ]
    wrong = cli("port", "set", world.vm, "--extra-dhcp-opt", "opt-name=mtu,opt-value=large")
    assert wrong.code == errors.USAGE and "extra_dhcp_opts[0]" in wrong.err
    number = cli("port", "set", world.vm, "--extra-dhcp-opt", "opt-name=mtu,opt-value=1400,ip-version=five")
    assert number.code == errors.USAGE and "must be a number" in number.err


def test_subnets_with_routes_and_name_servers(cli: Cli, world: World) -> None:
    made = json_of(
        cli, "subnet", "create", "--network", world.inside, "--cidr", "10.7.0.0/24", "--dns-nameserver", "10.7.0.9",
        "--dns-nameserver", "10.7.0.8", "--host-route", "destination=172.16.0.0/12,nexthop=10.7.0.7",
    )  # fmt: skip
    assert made["dns_nameservers"] == ["10.7.0.9", "10.7.0.8"], "the order is kept"
    assert made["host_routes"] == [{"destination": "172.16.0.0/12", "nexthop": "10.7.0.7"}]
    six = json_of(
        cli, "subnet", "create", "--network", world.inside, "--cidr", "fd00:7::/64", "--ipv6-address-mode", "slaac"
    )
    assert six["ipv6_address_mode"] == "slaac"


def test_neighbours_are_set_by_the_administrator(cli: Cli, world: World) -> None:
    made = json_of(cli, "neighbour", "create", "--network", world.outside, "--ip-address", "203.0.113.1",
                   "--mac-address", "02:00:00:00:00:01")  # fmt: skip
    assert made["learned"] is False
    (line,) = cli("neighbour", "list", "--network", world.outside).out.splitlines()[1:]
    assert line.split()[-3:] == ["203.0.113.1", "02:00:00:00:00:01", "no"]


# --- the whole -------------------------------------------------------------------------------------------------------


def test_the_topology_shows_routers(cli: Cli, routed: World) -> None:
    cli("floating-ip", "create", "--floating-network", routed.outside, "--name", unique("fip"))
    lines = cli("topology").out.splitlines()
    start = lines.index(f"router {routed.router} [ACTIVE]")
    ports = lines[start + 1 : start + 3]
    assert all(line[:9] in ("├── port ", "└── port ") for line in ports)
    assert {line.rpartition(" in network ")[2] for line in ports} == {routed.inside, routed.outside}
    start = lines.index(f"network {routed.outside} [ACTIVE]")
    assert any(line.startswith(("├── floating-ip fip-", "└── floating-ip fip-")) for line in lines[start : start + 4])


def test_tables_tell_what_one_looks_for(cli: Cli, routed: World) -> None:
    listed = {noun: cli(noun, "list").out.splitlines() for noun in ("router", "floating-ip", "network", "port")}
    assert "EXTERNAL ADDRESSES" in listed["router"][0] and "ACTIVE GATEWAY" in listed["router"][0]
    assert "FLOATING IP ADDRESS" in listed["floating-ip"][0]
    assert any(" yes " in line and " public " in line for line in listed["network"] if line.startswith(routed.outside))
    assert any("network:router_gateway" in line for line in listed["port"])


def test_every_verb_is_documented() -> None:
    from tools.cli.routers import VERBS

    page = Path(ROOT / "docs" / "cli.md").read_text()
    for kind, verbs in VERBS.items():
        assert all(f"novanet {kind} {verb.name}" in page for verb in verbs)
