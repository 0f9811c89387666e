"""The command ``novanet``, against a real REST server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from novanet_apps.intent.settings import default_state_dir as controllers_state_dir
from tools.cli import client, errors, tables
from tools.cli.main import main

from .rest_server import ROOT, RestServer


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


@pytest.fixture
def cli(rest: RestServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs the command with the administrator's token."""
    monkeypatch.setenv("NOVANET_ENDPOINT", rest.url)
    monkeypatch.setenv("NOVANET_TOKEN_FILE", str(rest.state_dir / "admin.token"))
    monkeypatch.delenv("NOVANET_TOKEN", raising=False)

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        try:
            code = main(list(arguments))
        except SystemExit as end:  # argparse
            code = int(str(end.code))
        return Result(code, *capsys.readouterr())

    return run


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid4().hex[:8]}"


# --- objects ---------------------------------------------------------------------------------------------------------


def test_from_a_network_to_a_port(cli: Cli) -> None:
    blue, subnet = unique("blue"), unique("sub")
    network = cli("network", "create", "--name", blue, "--mtu", "1400", "-o", "json").json
    assert network["name"] == blue and network["mtu"] == 1400
    made = cli("subnet", "create", "--name", subnet, "--network", blue, "--cidr", "10.1.0.0/24", "--gateway-ip", "none",
               "--allocation-pool", "start=10.1.0.10,end=10.1.0.19", "-o", "json").json  # fmt: skip
    assert made["network_id"] == network["id"] and made["gateway_ip"] is None
    assert made["allocation_pools"] == [{"start": "10.1.0.10", "end": "10.1.0.19"}]
    port = cli("port", "create", "--network", blue, "--fixed-ip", f"subnet={subnet}", "--no-port-security-enabled",
               "--allowed-address-pair", "10.9.0.0/24", "-o", "json").json  # fmt: skip
    assert port["fixed_ips"] == [{"subnet_id": made["id"], "ip_address": "10.1.0.10"}]
    assert port["port_security_enabled"] is False
    assert port["allowed_address_pairs"][0]["ip_address"] == "10.9.0.0/24"
    plain = cli("port", "create", "--network", network["id"], "--fixed-ip", "none", "-o", "json").json
    assert plain["fixed_ips"] == []


def test_tables_are_for_people(cli: Cli) -> None:
    name = unique("blue")
    created = cli("network", "create", "--name", name)
    assert created.code == 0 and ["name", name] in [line.split() for line in created.out.splitlines()]
    head, *rows = cli("network", "list", "--name", name).out.splitlines()
    columns = ["NAME", "ID", "STATUS", "VNI", "MTU", "EXTERNAL", "PHYSICAL NETWORK", "SEGMENTATION ID", "PROJECT ID"]
    assert re.split(" {2,}", head) == columns
    (row,) = rows
    assert row.startswith(name) and " ACTIVE " in row
    assert cli("network", "show", name).out == created.out


def test_lists_are_filtered_and_complete(cli: Cli, rest: RestServer) -> None:
    network = rest.make("/v1/networks", name=unique("n"))
    bodies = [{"network_id": network["id"], "admin_state_up": n % 2 == 0} for n in range(1000)]
    for _ in range(2):
        assert rest("POST", "/v1/ports", bodies).status_code == 201
    assert len(cli("port", "list", "--network", network["name"], "-o", "json").json) == 2000, "all pages"
    assert len(cli("port", "list", "--network", network["name"], "--admin-state-up", "true", "-o", "json").json) == 1000
    assert cli("port", "list", "--network", network["id"], "--status", "ERROR", "-o", "json").json == []


def test_set_and_unset(cli: Cli) -> None:
    name = unique("n")
    cli("network", "create", "--name", name, "--description", "old", "--mtu", "1400")
    changed = cli("network", "set", name, "--description", "new", "--unset", "mtu", "-o", "json").json
    assert changed["description"] == "new" and changed["mtu"] == 1434
    down = cli("network", "set", name, "--no-admin-state-up", "-o", "json").json
    assert down["admin_state_up"] is False
    nothing = cli("network", "set", name)
    assert nothing.code == errors.USAGE and "nothing to change" in nothing.err
    wrong = cli("network", "set", name, "--unset", "colour")
    assert wrong.code == errors.USAGE and "admin-state-up" in wrong.err


def test_delete(cli: Cli) -> None:
    names = [unique("n") for _ in range(3)]
    for name in names:
        cli("network", "create", "--name", name)
    assert cli("network", "delete", *names) == Result(0, "", "")
    assert all(cli("network", "show", name).code == errors.NOT_FOUND for name in names)


def test_hypervisors_and_the_mesh(cli: Cli) -> None:
    name = unique("hv")
    made = cli("hypervisor", "create", "--name", name, "--ovsdb", "tcp:192.0.2.1:6640", "--tunnel-ip", "192.0.2.1")
    assert made.code == 0 and "192.0.2.1" in made.out
    assert cli("tunnel-mesh", "set", "default", "--underlay-mtu", "9000", "-o", "json").json["underlay_mtu"] == 9000
    assert cli("tunnel-mesh", "set", "default", "--unset", "underlay-mtu", "-o", "json").json["underlay_mtu"] == 1500
    assert cli("tunnel-mesh", "create").code == errors.USAGE, "there is exactly one"


def test_many_from_a_file(cli: Cli, tmp_path: Path, rest: RestServer) -> None:
    network = rest.make("/v1/networks", name=unique("n"))
    file = tmp_path / "ports.json"
    file.write_text(json.dumps([{"name": f"p{n}"} for n in range(1500)]))
    made = cli("port", "create", "--network", network["name"], "--json", str(file), "-o", "json")
    assert made.code == 0 and [port["name"] for port in made.json] == [f"p{n}" for n in range(1500)]
    assert made.err.splitlines() == ["1000 of 1500", "1500 of 1500"]
    file.write_text(json.dumps({"name": "single"}))
    assert (
        cli("port", "create", "--network", network["id"], "--json", str(file), "-o", "json").json[0]["name"] == "single"
    )


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '["a"]', "[" * 100_000])
def test_files_that_do_not_fit(cli: Cli, tmp_path: Path, content: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(content)
    failed = cli("network", "create", "--json", str(file))
    assert failed.code == errors.USAGE and str(file) in failed.err
    assert cli("network", "create", "--json", str(tmp_path / "none")).code == errors.USAGE


def test_wait(cli: Cli) -> None:
    late = cli("network", "create", "--description", "status=BUILD", "--wait", "0.1")
    assert late.code == errors.NOT_REALISED and "is BUILD: it is BUILD" in late.err
    good = cli("network", "create", "--description", "status=BUILD for 0.1", "--wait", "20", "-o", "json")
    assert good.code == 0 and good.json["status"] == "ACTIVE"


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_exit_codes(cli: Cli, rest: RestServer) -> None:
    name = unique("n")
    network = rest.make("/v1/networks", name=name)
    rest.make("/v1/subnets", network_id=network["id"], cidr="10.0.0.0/24")
    for arguments, code, told in (
        (("network", "create", "--name", name), errors.CONFLICT, "name: "),
        (("network", "delete", name), errors.CONFLICT, "in use by subnet"),
        (("network", "show", "nowhere"), errors.NOT_FOUND, "no network named 'nowhere'"),
        (("network", "show", str(uuid4())), errors.NOT_FOUND, "there is no network"),
        (("port", "create", "--network", "nowhere"), errors.NOT_FOUND, "no network named 'nowhere'"),
        (("port", "create"), errors.USAGE, "network_id: "),
        (("network", "create", "--mtu", "9"), errors.USAGE, "mtu: "),
        (("network", "create", "--mtu", "big"), errors.USAGE, "--mtu must be a number"),
        (("network", "create", "--colour", "blue"), errors.USAGE, "--colour"),
        (("port", "create", "--network", name, "--fixed-ip", "planet=x"), errors.USAGE, "--fixed-ip must be like"),
        (("planet", "list"), errors.USAGE, "planet"),
        ((), errors.USAGE, "COMMAND"),
    ):
        failed = cli(*arguments)
        assert failed.code == code, failed
        assert told in failed.err and "Traceback" not in failed.err and failed.out == ""


def test_a_name_that_several_have(cli: Cli, rest: RestServer) -> None:
    name = unique("twin")
    twins = [rest.make("/v1/networks", who=who, name=name) for who in ("acme", "umbra")]
    failed = cli("network", "delete", name)
    assert failed.code == errors.CONFLICT and all(twin["id"] in failed.err for twin in twins)
    assert cli("network", "delete", twins[0]["id"]).code == 0


def test_tokens_are_found_and_missed(
    cli: Cli, rest: RestServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOVANET_TOKEN", rest.tokens["reader"])
    assert cli("network", "list").code == 0
    refused = cli("network", "create")
    assert refused.code == errors.UNAUTHORIZED and "reader" in refused.err, (
        "NOVANET_TOKEN goes before NOVANET_TOKEN_FILE"
    )
    assert cli("network", "create", "--token-file", str(rest.state_dir / "admin.token")).code == 0
    monkeypatch.setenv("NOVANET_TOKEN", "nvn_wrong")
    wrong = cli("network", "list")
    assert wrong.code == errors.UNAUTHORIZED and "the one in NOVANET_TOKEN was refused" in wrong.err
    assert "nvn_wrong" not in wrong.err
    monkeypatch.setenv("NOVANET_TOKEN", "a\nb")
    assert cli("network", "list").code == errors.UNAUTHORIZED
    monkeypatch.delenv("NOVANET_TOKEN")
    missing = cli("network", "list", "--token-file", str(tmp_path / "none"))
    assert missing.code == errors.UNAUTHORIZED and str(tmp_path / "none") in missing.err
    monkeypatch.delenv("NOVANET_TOKEN_FILE")
    monkeypatch.setattr(client, "default_state_dir", lambda: tmp_path)
    none = cli("network", "list")
    assert none.code == errors.UNAUTHORIZED and "--token-file" in none.err and str(tmp_path) in none.err


def test_a_controller_that_is_not_there(cli: Cli, rest: RestServer) -> None:
    away = cli("status", "--endpoint", "http://127.0.0.1:1")
    assert away.code == errors.UNREACHABLE and "127.0.0.1:1 does not answer: Connection refused" in away.err
    assert cli("status", "--endpoint", rest.url.replace("http:", "https:")).code == errors.UNREACHABLE
    assert cli("status", "--endpoint", "here").code == errors.USAGE


def test_the_controllers_state_is_where_the_controller_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for uid, base in ((0, None), (1000, "/tmp/x"), (1000, None)):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        monkeypatch.setenv("XDG_STATE_HOME", base) if base else monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        assert client.default_state_dir() == controllers_state_dir()


# --- the whole -------------------------------------------------------------------------------------------------------


def test_status(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rest = RestServer(tmp_path / "state")
    monkeypatch.setenv("NOVANET_ENDPOINT", rest.url)
    monkeypatch.setenv("NOVANET_TOKEN_FILE", str(rest.state_dir / "admin.token"))
    try:
        rest.make("/v1/hypervisors", name="hv1", tunnel_ip="192.0.2.1")
        assert main(["status"]) == 0
        out = capsys.readouterr().out
        assert "healthy; intent store connected" in out
        assert ["hv1", "ACTIVE", "connected", "away", "0", "192.0.2.1"] in [line.split() for line in out.splitlines()]
        rest.make("/v1/networks", name="blue", description="status=DEGRADED")
        rest.evaluate("core.reconciler.noted.append('hv1: its MTU is 1400')")
        assert main(["status"]) == 1
        out = capsys.readouterr().out
        assert "network blue is DEGRADED: it is DEGRADED" in out and "warning: hv1: its MTU is 1400" in out
        assert main(["status", "-o", "json"]) == 1
        assert json.loads(capsys.readouterr().out)["healthy"] is False
    finally:
        rest.stop()


def test_topology(cli: Cli, rest: RestServer) -> None:
    network = rest.make("/v1/networks", name=unique("blue"))
    hypervisor = rest.make("/v1/hypervisors", name=unique("hv"))
    rest.make("/v1/subnets", network_id=network["id"], cidr="10.0.0.0/24", name="four")
    port = rest.make("/v1/ports", network_id=network["id"], name="web")
    rest.make("/v1/ports", network_id=network["id"], name="db")
    rest.evaluate(f"plug({port['id']!r}, {hypervisor['id']!r})")
    lines = cli("topology").out.splitlines()
    start = lines.index(f"network {network['name']} [ACTIVE]")
    assert lines[start + 1 : start + 4] == [
        "├── subnet four [ACTIVE]",
        "├── port db [ACTIVE]",
        f"└── port web [ACTIVE] on {hypervisor['name']}",
    ]
    assert network["id"] in {node["id"] for node in cli("topology", "-o", "json").json["nodes"]}


def test_events(rest: RestServer) -> None:
    environment = os.environ | {"NOVANET_TOKEN": rest.tokens["admin"], "NOVANET_ENDPOINT": rest.url}
    command = [sys.executable, "-m", "tools.cli.main", "events", "--kind", "network"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as follower:
        try:
            assert follower.stdout is not None
            assert follower.stdout.readline().startswith("following")
            name = unique("n")
            rest.make("/v1/networks", name=name)
            assert follower.stdout.readline() == f"created  network {name} ACTIVE\n"
        finally:
            follower.terminate()


def test_tokens(cli: Cli, rest: RestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    where = ("--state-dir", str(rest.state_dir))
    made = cli("token", "create", "robot", "--role", "tenant", "--project", "acme", *where)
    assert made.code == 0 and made.out.count("\n") == 1
    monkeypatch.setenv("NOVANET_TOKEN", made.out.strip())
    assert cli("network", "create", "-o", "json").json["project_id"] == "acme"
    assert {"name": "robot", "role": "tenant", "project_id": "acme"} in cli("token", "list", "-o", "json", *where).json
    listed = cli("token", "list", *where).out
    assert "robot" in listed and made.out.strip() not in listed
    assert cli("token", "create", "robot", "--role", "admin", *where).code == errors.FAILED
    assert cli("token", "create", "x", "--role", "tenant", *where).code == errors.FAILED
    assert cli("token", "delete", "robot", *where).code == 0
    assert cli("network", "list").code == errors.UNAUTHORIZED
    assert cli("token", "delete", "robot", *where).code == errors.FAILED


def test_tls(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    rest = RestServer(tmp_path / "state", certificate=certificate, private_key=key)
    monkeypatch.setenv("NOVANET_ENDPOINT", rest.url)
    monkeypatch.setenv("NOVANET_TOKEN_FILE", str(rest.state_dir / "admin.token"))
    try:
        assert main(["network", "list", "--cacert", str(certificate)]) == 0
        assert main(["network", "list"]) == errors.UNREACHABLE
        assert "--cacert" in capsys.readouterr().err
        assert main(["network", "list", "--cacert", str(tmp_path / "none")]) == errors.USAGE
    finally:
        rest.stop()


# --- how it is made --------------------------------------------------------------------------------------------------


def test_it_starts_without_what_it_does_not_need() -> None:
    program = "import sys, tools.cli.main; tools.cli.main.parser(); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    loaded = {name.split(".")[0] for name in out.split()}
    assert not loaded & {"ryu", "eventlet", "oslo_config", "ovs", "networkx", "numpy", "webob"}


def test_every_exit_code_is_explained(cli: Cli) -> None:
    help = cli("--help")
    assert help.code == 0
    assert all(f"  {code}  {text}" in help.out for code, text in errors.EXIT_CODES.items())


def test_terminals_are_not_driven_by_names() -> None:
    assert tables.text("a\x1b[2Jb\n") == "a\\x1b[2Jb\\n"
    assert tables.text("grün") == "grün"


def test_a_reader_that_has_enough(rest: RestServer) -> None:
    environment = os.environ | {"NOVANET_TOKEN": rest.tokens["admin"], "NOVANET_ENDPOINT": rest.url}
    command = f"{sys.executable} -m tools.cli.main topology -o json | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert ended.stderr == "" and ended.stdout == "{\n" and ended.returncode == 0


def test_the_documentation_has_every_exit_code() -> None:
    page = (ROOT / "docs" / "cli.md").read_text().replace("`--wait`", "--wait")
    assert all(f"| {code} | {text} |" in page for code, text in errors.EXIT_CODES.items())
