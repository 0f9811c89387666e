"""Slow clients, half-open connections, floods and TLS: everybody else is served all the while."""

from __future__ import annotations

import asyncio
import resource
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .rest_server import RestServer, connect, everything, memory, still_serves

MANY = 10_000


@pytest.fixture(scope="module", autouse=True)
def many_files() -> Iterator[None]:
    """As ryu-manager does: as many files as the system allows, for us and the servers that we start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory, many_files: None) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


# --- slow ones and many ----------------------------------------------------------------------------------------------


@pytest.fixture
def hasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RestServer]:
    """A server with ten connections at most and no patience."""
    server = RestServer(tmp_path / "state", max_connections=10)
    server.evaluate(
        "[setattr(modules['novanet_apps.rest.server'], *it) for it in (('HEAD_TIME', 0.5), ('BODY_TIME', 0.5))]"
    )
    yield server
    server.stop()


def test_who_trickles_a_request_is_closed(hasty: RestServer) -> None:
    with connect(hasty) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError):
            for _ in range(200):
                connection.sendall(b"A")
                time.sleep(0.05)
    assert hasty.evaluate("api.counters.timeouts") >= 1


def test_who_trickles_a_body_is_told(hasty: RestServer) -> None:
    head = f"POST /v1/networks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {hasty.tokens['admin']}\r\n"
    with connect(hasty) as connection:
        connection.sendall((head + "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n ").encode())
        assert b"took more than" in everything(connection)


def test_idle_connections_make_room(hasty: RestServer) -> None:
    hasty.evaluate(
        "[setattr(modules['novanet_apps.rest.server'], *it) for it in (('HEAD_TIME', 600), ('EVICTABLE', 0.2))]"
    )
    idle = [connect(hasty) for _ in range(30)]
    try:
        still_serves(hasty)
        assert hasty.evaluate("api.counters.evicted") >= 1
        assert hasty.evaluate("api.counters.connections") <= 10
    finally:
        for connection in idle:
            connection.close()


def test_half_open_connections_do_not_block(rest: RestServer) -> None:
    idle = [connect(rest) for _ in range(300)]
    for connection in idle[::2]:
        connection.sendall(b"GET /v1/networks HTTP/1.1\r\nHost")
    try:
        still_serves(rest)
    finally:
        for connection in idle:
            connection.close()


def test_ten_thousand_requests_at_once(rest: RestServer) -> None:
    kinds = [
        (b"GET /v1/networks?limit=1 HTTP/1.1", b"", b"200"),
        (b"POST /v1/networks HTTP/1.1", b'{"project_id": "flood"}', b"201"),
        (b"POST /v1/networks HTTP/1.1", b'{"name": ', b"400"),
        (b"GET /v1/nothing HTTP/1.1", b"", b"404"),
    ]
    bearer = b"\r\nHost: x\r\nAuthorization: Bearer " + rest.tokens["admin"].encode()
    statuses: Counter[bytes] = Counter()

    async def one(n: int) -> None:
        line, body, _ = kinds[n % len(kinds)]
        reader, writer = await asyncio.open_connection("127.0.0.1", rest.port)
        length = b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(line + bearer + b"\r\nConnection: close" + length + body)
        answer = await reader.read()
        statuses[answer.split()[1] if answer else b"closed"] += 1
        writer.close()

    async def flood() -> None:
        await asyncio.gather(*(one(n) for n in range(MANY)))

    before = memory(rest.pid)
    asyncio.run(flood())
    assert statuses == Counter({status: MANY // len(kinds) for _, _, status in kinds})
    assert rest.evaluate("sum(net.project_id == 'flood' for net in core.topology.all('network').values())") == MANY // 4
    assert rest.evaluate("api.counters.connections") == 0
    assert memory(rest.pid) - before < 400_000_000
    still_serves(rest)


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def test_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    pem, key = certificate
    rest = RestServer(tmp_path / "state", certificate=pem, private_key=key)
    try:
        assert rest.url.startswith("https://")
        idle = [connect(rest) for _ in range(100)]
        for n in range(3):
            answer = rest("POST", "/v1/networks", {"name": f"n{n}"}, verify=str(pem))
            assert answer.status_code == 201
        with connect(rest) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert b"200" not in everything(plain)
        assert "no TLS with 127.0.0.1" in rest.logged()
        for connection in idle:
            connection.close()
        for version, works in (
            (ssl.TLSVersion.TLSv1_1, False),
            (ssl.TLSVersion.TLSv1_2, True),
            (ssl.TLSVersion.TLSv1_3, True),
        ):
            assert handshake(rest, version) is works
    finally:
        rest.stop()


def handshake(rest: RestServer, version: ssl.TLSVersion) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    try:
        with connect(rest) as connection, context.wrap_socket(connection):
            return True
    except OSError:
        return False
