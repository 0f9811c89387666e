"""Who may do what over REST, and what stays secret."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from novanet_apps.compat.errors import ConfigurationError
from novanet_apps.rest.settings import Settings
from novanet_apps.tokens import Token, TokenError, TokenFile, digest

from .rest_server import RestServer, problem


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


# --- the door --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/v1/networks", "/v1/status", "/v1/events", "/v1/openapi.json", "/metrics", "/nowhere"]
)
def test_nothing_without_a_token(rest: RestServer, path: str) -> None:
    answer = rest("GET", path, who="none")
    problem(answer, 401)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header", ["Bearer nvn_wrong", "Bearer ", "Bearer", "Basic YWRtaW46YWRtaW4=", "Bearer \udcff\x7f"]
)
def test_wrong_tokens(rest: RestServer, header: str) -> None:
    answer = rest(
        "GET", "/v1/networks", who="none", headers={"Authorization": header.encode("utf-8", "surrogateescape")}
    )
    problem(answer, 401)


def test_the_scheme_is_not_case_sensitive(rest: RestServer) -> None:
    answer = rest("GET", "/v1/networks", who="none", headers={"Authorization": f"bearer {rest.tokens['admin']}"})
    assert answer.status_code == 200


def test_public_pages_have_no_data(rest: RestServer) -> None:
    network = rest.make("/v1/networks", name="confidential")
    for path in ("/", "/healthz"):
        answer = rest("GET", path, who="none")
        assert answer.status_code == 200
        assert network["id"] not in answer.text and "confidential" not in answer.text


def test_failures_are_logged_without_the_token_and_not_endlessly(rest: RestServer) -> None:
    for n in range(100):
        rest("GET", "/v1/networks", who="none", headers={"Authorization": f"Bearer nvn_guess{n}"})
    log = rest.logged()
    assert 1 <= log.count("authentication of a request from 127.0.0.1 failed") < 60
    assert "nvn_guess" not in log
    assert "novanet_rest_authentication_failures_total" in rest("GET", "/metrics").text


def test_tokens_are_never_logged(rest: RestServer) -> None:
    rest("GET", f"/v1/networks?token={rest.tokens['admin']}")
    log = rest.logged()
    assert not any(token in log for token in rest.tokens.values() if token)


def test_tokens_come_and_go_while_it_runs(rest: RestServer) -> None:
    book = TokenFile(rest.state_dir)
    rest.tokens["late"] = book.create("late", "reader")
    assert rest("GET", "/v1/networks", who="late").status_code == 200
    book.delete("late")
    problem(rest("GET", "/v1/networks", who="late"), 401)


def test_a_broken_token_file_changes_nothing(rest: RestServer) -> None:
    path = rest.state_dir / "tokens.json"
    good = path.read_bytes()
    path.write_text("[{")
    try:
        assert rest("GET", "/v1/networks").status_code == 200
        assert "tokens stay as they were" in rest.logged()
    finally:
        path.write_bytes(good)


# --- roles -----------------------------------------------------------------------------------------------------------


def test_readers_only_read(rest: RestServer) -> None:
    made = rest.make("/v1/networks", project_id="acme")
    path = f"/v1/networks/{made['id']}"
    for who in ("reader", "acme-reader"):
        assert rest("GET", path, who=who).json() == made
        for method, where in (("POST", "/v1/networks"), ("PUT", path), ("PATCH", path), ("DELETE", path)):
            assert "reader" in problem(rest(method, where, {}, who=who), 403)
    problem(rest("GET", path, who="umbra"), 404)


def test_tenants_see_their_own(rest: RestServer) -> None:
    mine = rest.make("/v1/networks", who="acme", name="mine")
    theirs = rest.make("/v1/networks", who="umbra", name="theirs")
    assert mine["project_id"] == "acme", "filled in"
    shown = {item["id"] for item in rest("GET", "/v1/networks", who="acme").json()["items"]}
    assert mine["id"] in shown and theirs["id"] not in shown
    path = f"/v1/networks/{theirs['id']}"
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        detail = problem(rest(method, path, {}, who="acme"), 404)
        assert "theirs" not in detail
    assert rest("GET", path).json() == theirs
    everything = {item["id"] for item in rest("GET", "/v1/networks?limit=1000").json()["items"]}
    assert {mine["id"], theirs["id"]} <= everything


def test_tenants_cannot_reach_into_other_projects(rest: RestServer) -> None:
    theirs = rest.make("/v1/networks", who="umbra")
    problem(rest("POST", "/v1/networks", {"project_id": "umbra"}, who="acme"), 403, "project_id")
    answer = rest("POST", "/v1/ports", {"network_id": theirs["id"]}, who="acme")
    assert answer.status_code in (400, 404, 409) and answer.json()["field"] == "network_id"
    mine = rest.make("/v1/networks", who="acme")
    assert rest("PATCH", f"/v1/networks/{mine['id']}", {"project_id": "umbra"}, who="acme").status_code in (400, 403)


def test_tenants_may_not_set_what_is_the_administrators(rest: RestServer) -> None:
    problem(rest("POST", "/v1/networks", {"vni": 4711}, who="acme"), 403, "vni")
    assert rest("POST", "/v1/networks", {"vni": 4711}).status_code == 201


def outside(rest: RestServer) -> tuple[dict[str, Any], dict[str, Any]]:
    """An external network and its subnet, nobody's."""
    wire = f"wire-{uuid4().hex[:6]}"
    network = rest.make("/v1/networks", external=True, physical_network=wire)
    return network, rest.make("/v1/subnets", network_id=network["id"], cidr="192.0.2.0/24")


def test_the_outside_is_seen_by_everyone_and_changed_by_nobody(rest: RestServer) -> None:
    network, subnet = outside(rest)
    wire = rest.make("/v1/networks", physical_network=f"wire-{uuid4().hex[:6]}")
    for who in ("acme", "umbra", "acme-reader"):
        for collection, obj in (("networks", network), ("subnets", subnet)):
            assert rest("GET", f"/v1/{collection}/{obj['id']}", who=who).json() == obj
            listed = rest("GET", f"/v1/{collection}?limit=1000", who=who).json()["items"]
            assert obj in listed and wire["id"] not in {item["id"] for item in listed}
        graph = rest("GET", "/v1/topology", who=who).json()
        assert {network["id"], subnet["id"]} <= {node["id"] for node in graph["nodes"]}
    for collection, obj in (("networks", network), ("subnets", subnet)):
        path = f"/v1/{collection}/{obj['id']}"
        assert rest("PATCH", path, {"name": "mine"}, who="acme").status_code == 404
        assert rest("DELETE", path, who="acme").status_code == 404
        assert rest("PUT", path, obj, who="acme").status_code in (403, 409)
        assert rest("GET", path).json() == obj
    problem(
        rest("POST", "/v1/subnets", {"network_id": network["id"], "cidr": "10.6.0.0/16"}, who="acme"), 403, "network_id"
    )
    problem(rest("POST", "/v1/ports", {"network_id": network["id"]}, who="acme"), 403, "network_id")


def test_tenants_lead_outside_and_do_not_see_each_other_there(rest: RestServer) -> None:
    network, subnet = outside(rest)
    made = {}
    for who in ("acme", "umbra"):
        inside = rest.make("/v1/networks", who)
        rest.make("/v1/subnets", who, network_id=inside["id"], cidr="10.0.0.0/24")
        router = rest.make("/v1/routers", who)
        rest.make("/v1/ports", who, network_id=inside["id"], router_id=router["id"])
        gateway = rest.make("/v1/ports", who, network_id=network["id"], router_id=router["id"])
        vm = rest.make("/v1/ports", who, network_id=inside["id"])
        floating = rest.make(
            "/v1/floating-ips", who, floating_network_id=network["id"], subnet_id=subnet["id"], port_id=vm["id"]
        )
        assert floating["project_id"] == gateway["project_id"] == who
        assert floating["router_id"] == router["id"]
        made[who] = (gateway, floating)
    for who, other in (("acme", "umbra"), ("umbra", "acme")):
        for collection, mine, theirs in zip(("ports", "floating-ips"), made[who], made[other], strict=True):
            shown = {item["id"] for item in rest("GET", f"/v1/{collection}?limit=1000", who=who).json()["items"]}
            assert mine["id"] in shown and theirs["id"] not in shown
            assert rest("GET", f"/v1/{collection}/{theirs['id']}", who=who).status_code == 404
    taken = {"floating_network_id": network["id"], "floating_ip_address": made["umbra"][1]["floating_ip_address"]}
    assert "another project" in problem(rest("POST", "/v1/floating-ips", taken, who="acme"), 409, "floating_ip_address")


@pytest.mark.parametrize("collection", ["hypervisors", "neighbours", "tunnel-meshes"])
def test_hypervisors_and_mesh_are_the_administrators(rest: RestServer, collection: str) -> None:
    for who in ("acme", "acme-reader"):
        problem(rest("GET", f"/v1/{collection}", who=who), 403)
        problem(rest("GET", f"/v1/{collection}/{uuid4()}", who=who), 403)
    problem(rest("POST", f"/v1/{collection}", {}, who="acme"), 403)
    assert rest("GET", f"/v1/{collection}", who="reader").status_code == 200


def test_the_state_of_the_whole_is_told_in_parts(rest: RestServer) -> None:
    rest.make("/v1/hypervisors", name=f"hv-{uuid4().hex[:6]}")
    mine = rest.make("/v1/networks", who="acme")
    theirs = rest.make("/v1/networks", who="umbra")
    status = rest("GET", "/v1/status", who="acme").json()
    assert status["hypervisors"] == [] and "hypervisor" not in status["objects"]
    assert rest("GET", "/v1/status").json()["hypervisors"]
    graph = rest("GET", "/v1/topology", who="acme").json()
    ids = {node["id"] for node in graph["nodes"]}
    assert mine["id"] in ids and theirs["id"] not in ids
    assert not {node["kind"] for node in graph["nodes"]} & {"hypervisor", "neighbour", "tunnel-mesh"}
    problem(rest("GET", "/metrics", who="acme"), 403)
    assert rest("GET", "/metrics", who="reader").status_code == 200


# --- the token file --------------------------------------------------------------------------------------------------


def test_the_first_start_makes_an_administrator(tmp_path: Path) -> None:
    book = TokenFile(tmp_path / "deep" / "state")
    path = book.bootstrap()
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(book.path.stat().st_mode) == 0o600
    secret = path.read_text().strip()
    book.refresh()
    token = book.find(secret)
    assert token is not None and token.role == "admin"
    assert secret not in book.path.read_text()
    assert len(secret) >= 43, "256 bits"
    assert book.bootstrap() is None and path.read_text().strip() == secret


def test_a_first_start_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    (tmp_path / "admin.token").write_text("nvn_never-registered\n")
    book = TokenFile(tmp_path)
    path = book.bootstrap()
    assert path is not None and book.refresh()
    assert book.find(path.read_text().strip()) is not None


def test_tokens_by_name(tmp_path: Path) -> None:
    book = TokenFile(tmp_path)
    secret = book.create("ci", "tenant", "acme")
    book.create("grafana", "reader")
    assert [(token.name, token.role, token.project_id) for token in book.read()] == [
        ("ci", "tenant", "acme"), ("grafana", "reader", None),
    ]  # fmt: skip
    with pytest.raises(TokenError, match="already"):
        book.create("ci", "admin")
    assert book.refresh() and not book.refresh(), "it is read again only when it changed"
    token = book.find(secret)
    assert token == Token(name="ci", role="tenant", project_id="acme", sha256=digest(secret)) and book.holds(token)
    book.delete("ci")
    assert book.refresh() and book.find(secret) is None and not book.holds(token)
    with pytest.raises(TokenError, match="no token named ci"):
        book.delete("ci")


@pytest.mark.parametrize(
    ("name", "role", "project", "wrong"),
    [
        ("x", "tenant", None, "project_id"), ("x", "admin", "acme", "project_id"), ("x", "king", None, "king"),
        ("", "admin", None, "name"), ("a b", "admin", None, "name"), ("x\n", "admin", None, "name"),
    ],
)  # fmt: skip
def test_tokens_that_cannot_be(tmp_path: Path, name: str, role: str, project: str | None, wrong: str) -> None:
    with pytest.raises(TokenError, match=wrong):
        TokenFile(tmp_path).create(name, role, project)


def test_a_token_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    book = TokenFile(tmp_path)
    book.create("a", "admin")
    book.path.write_text('[{"name": "a", "role": "emperor"}]')
    with pytest.raises(TokenError, match=r"tokens\.json.*emperor"):
        book.refresh()


# --- without authentication, and off loopback ------------------------------------------------------------------------


def test_without_authentication_names_that_resolve_to_us_are_refused(tmp_path: Path) -> None:
    rest = RestServer(tmp_path / "state", auth="none")
    try:
        assert rest("POST", "/v1/networks", {}, who="none").status_code == 201
        assert rest("GET", "/v1/networks", headers={"Host": f"localhost:{rest.port}"}).status_code == 200
        problem(rest("GET", "/v1/networks", headers={"Host": "rebound.example"}), 403)
        problem(rest("GET", "/v1/networks", headers={"Host": f"rebound.example:{rest.port}"}), 403)
        assert not (rest.state_dir / "tokens.json").exists()
    finally:
        rest.stop()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"listen": "0.0.0.0:8080"}, "TLS"),
        ({"listen": "192.0.2.1:8080"}, "TLS"),
        ({"listen": "[::]:8080"}, "TLS"),
        ({"listen": "192.0.2.1:8080", "certificate": "c", "private_key": "k", "auth": "none"}, "rest_auth=bearer"),
        ({"certificate": "c"}, "belong together"),
        ({"private_key": "k"}, "belong together"),
        ({"listen": "localhost:8080"}, "IP:PORT"),
        ({"listen": "127.0.0.1"}, "IP:PORT"),
        ({"listen": "127.0.0.1:65536"}, "IP:PORT"),
        ({"listen": "127.0.0.1:"}, "IP:PORT"),
        ({"listen": "::1:8080"}, "IP:PORT"),
    ],
)
def test_what_is_not_safe_is_refused(options: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        Settings(**options)  # type: ignore[arg-type]


def test_addresses() -> None:
    assert Settings(listen="[::1]:80").address == ("::1", 80)
    assert Settings(listen="192.0.2.1:443", certificate="c", private_key="k").address == ("192.0.2.1", 443)
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        Settings(certificate="/nonexistent/c.pem", private_key="/nonexistent/k.pem").tls()


def test_an_address_in_use_is_named(rest: RestServer, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=f"rest_listen=127.0.0.1:{rest.port} cannot be had"):
        RestServer(tmp_path / "state", listen=f"127.0.0.1:{rest.port}")
