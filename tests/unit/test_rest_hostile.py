"""Bad input, slow clients and floods: each gets a clear answer or is closed, and everybody else is served."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from novanet_apps.rest import bodies
from novanet_apps.rest.problems import Problem

from .rest_server import RestServer, connect, everything, memory, problem, still_serves


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


def raw(rest: RestServer, request: bytes) -> tuple[int, dict[str, Any]]:
    """Status and problem that raw bytes are answered with, after which the server closes."""
    with connect(rest) as connection:
        connection.sendall(request)
        head, _, body = everything(connection).partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, head
    return int(head.split()[1]), json.loads(body)


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"name": "a",}', "line 1, column 14"),
        (b'{\n  "name": "a"\n  "mtu": 1}', "line 3, column 3"),
        (b'{"name": "\xc3\xa4", x}', "line 1, column 15"),
        (b'{"name": ', "line 1, column 10"),
        (b'{"name": "\xff"}', "not UTF-8"),
        (b"", "empty"),
        (b"{} {}", "trailing characters at line 1"),
        (b'{"mtu": NaN}', "line 1"),
        (b'{"name": "\\ud800"}', "not JSON"),
        (b"[" * 100_000, "nested deeper"),
        (b"[" * 34 + b"]" * 34, "nested deeper"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested deeper"),
        (b'"text"', "object"),
        (b"null", "object"),
        (b"7", "object"),
        (b'{"mtu": 1e999}', "not JSON"),
    ],
)
def test_malformed_json(rest: RestServer, body: bytes, told: str) -> None:
    answer = rest("POST", "/v1/networks", headers={"Content-Type": "application/json"}, data=body)
    assert told in problem(answer, 400)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"colour": "blue"}, "colour"),
        ({"name": 7}, "name"),
        ({"name": None}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": "a\u0000b"}, "name"),
        ({"mtu": "1500"}, "mtu"),
        ({"mtu": 1e30}, "mtu"),
        ({"mtu": 10**400}, "mtu"),
        ({"mtu": True}, "mtu"),
        ({"id": 7}, "id"),
        ({"id": "7"}, "id"),
        ({"id": "00000000-0000-4000-8000-00000000000A"}, "id"),
        ({"status": "ACTIVE"}, "status"),
        ({"revision_number": 9}, "revision_number"),
        ({"": 1}, ""),
    ],
)
def test_wrong_fields_are_named(rest: RestServer, fields: dict[str, Any], field: str) -> None:
    problem(rest("POST", "/v1/networks", fields), 400, field or None)


@given(st.binary())
def test_any_bytes_are_json_or_a_problem(body: bytes) -> None:
    try:
        bodies.parse(body)
    except Problem as found:
        assert found.status == 400 and found.detail


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
FIELDS = (
    "id", "name", "project_id", "description", "network_id", "cidr", "gateway_ip", "allocation_pools", "mtu", "vni", "fixed_ips",
    "mac_address", "allowed_address_pairs", "admin_state_up", "ovsdb", "tunnel_ip", "udp_port", "tunnel_type",
)  # fmt: skip
BODIES = VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["networks", "subnets", "ports", "hypervisors", "tunnel-meshes"]),
    st.sampled_from(["POST", "PUT", "PATCH"]),
    BODIES,
)
def test_any_json_is_taken_or_refused_with_reason(rest: RestServer, collection: str, method: str, body: Any) -> None:
    path = f"/v1/{collection}" + ("" if method == "POST" else "/00000000-0000-4000-8000-000000000001")
    data = json.dumps(body).encode()
    answer = rest(method, path, headers={"Content-Type": "application/json"}, data=data)
    if answer.status_code >= 300:
        assert 400 <= answer.status_code < 500, answer.text
        problem(answer, answer.status_code, answer.json().get("field"))
        assert f"status={answer.status_code}" in rest.logged()[-2000:]


@pytest.mark.parametrize(
    "path", ["/v1/%ff", "/v1/networks/%00", "/v1/networks/..%2f..", "/%", "/v1/networks/" + "a" * 4000]
)
def test_any_path(rest: RestServer, path: str) -> None:
    answer = rest("GET", path)
    assert answer.status_code in (400, 404)
    problem(answer, answer.status_code)


def test_a_query_that_is_not_text(rest: RestServer) -> None:
    problem(rest("GET", "/v1/networks?name=%ff"), 400)


# --- bodies ----------------------------------------------------------------------------------------------------------


def test_a_body_of_100_mb_is_refused_without_being_kept(rest: RestServer) -> None:
    still_serves(rest)
    before = memory(rest.pid)
    size = 100_000_000
    head = f"POST /v1/networks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {rest.tokens['admin']}\r\n"
    with connect(rest) as connection:
        connection.sendall((head + f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n").encode())
        sent = 0
        try:
            while sent < size:
                sent += connection.send(b" " * 65536)
        except OSError:
            pass  # the server has closed
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 413 ") and b"Connection: close" in answer
    assert memory(rest.pid) - before < 20_000_000
    still_serves(rest)


def test_a_chunked_body_is_bounded_as_well(rest: RestServer) -> None:
    before = memory(rest.pid)

    def chunks() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" " * 100_000

    headers = {"Content-Type": "application/json"}
    try:
        problem(rest("POST", "/v1/networks", headers=headers, data=chunks()), 413)
    except requests.ConnectionError:
        pass  # closed while it was still sending
    assert memory(rest.pid) - before < 20_000_000
    small = rest("POST", "/v1/networks", headers=headers, data=iter([b'{"na', b'me": "chunked"}']))
    assert small.status_code == 201 and small.json()["name"] == "chunked"


def test_a_body_that_is_not_wanted_is_not_read(rest: RestServer) -> None:
    for head in ("GET /v1/networks", "POST /v1/networks", "PUT /healthz"):
        request = f"{head} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
        with connect(rest) as connection:
            connection.sendall(request.encode())
            assert everything(connection).split()[1] in (b"401", b"405")


def test_expect_100_continue(rest: RestServer) -> None:
    head = f"POST /v1/networks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {rest.tokens['admin']}\r\nExpect: 100-continue\r\n"
    with connect(rest) as connection:
        connection.sendall((head + "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n").encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"{}")
        assert connection.recv(1000).startswith(b"HTTP/1.1 201 ")
    with connect(rest) as connection:
        connection.sendall((head + "Content-Type: application/json\r\nContent-Length: 100000000\r\n\r\n").encode())
        assert everything(connection).startswith(b"HTTP/1.1 413 "), "refused before it is sent"


def test_the_limit_can_be_set(tmp_path: Path) -> None:
    rest = RestServer(tmp_path / "state", max_body=1024)
    try:
        assert "1024 bytes" in problem(rest("POST", "/v1/networks", {"description": "x" * 1024}), 413)
        assert rest("POST", "/v1/networks", {"description": "x" * 900}).status_code == 201
    finally:
        rest.stop()


# --- HTTP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"GET / HTTP/x\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + (b"A: " + b"b" * 8000 + b"\r\n") * 20 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1_0\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno header\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"GET / HTTP/1.1\r\n\xc3\xa4: x\r\nContent-Length: 5\r\n\r\nhello", 400),
    ],
)
def test_what_is_not_http(rest: RestServer, request_: bytes, status: int) -> None:
    found, body = raw(rest, request_)
    assert found == body["status"] == status and body["detail"]


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-5\r\n", b"f" * 20000, b"5\r\nab", b""])
def test_chunks_that_are_none(rest: RestServer, chunk: bytes) -> None:
    head = f"POST /v1/networks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {rest.tokens['admin']}\r\n"
    with connect(rest) as connection:
        connection.sendall(
            head.encode() + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk
        )
        connection.shutdown(socket.SHUT_WR)
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    still_serves(rest)


def test_requests_on_one_connection(rest: RestServer) -> None:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {rest.tokens['admin']}"
        before = rest.evaluate("api.counters.accepted")
        for _ in range(20):
            assert session.get(rest.url + "/v1/networks", timeout=20).status_code == 200
            assert session.get(rest.url + "/v1/networks/nothing", timeout=20).status_code == 404
        assert rest.evaluate("api.counters.accepted") == before + 1
