"""The OpenFlow listener: mutual TLS 1.3, and what it does with those who mean it no good."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Switch
from .controller import COMMAND, ROOT, Controller, until
from .pki import Authority, Identity

HELLO = struct.pack(">BBHI", 4, 0, 8, 1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def client(authority: Authority) -> Identity:
    return authority.issue("switch")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Controller]:
    """A controller that listens for TLS on all addresses."""
    own = authority.issue("controller")
    running = Controller(
        tmp_path_factory.mktemp("secure"), "--openflow-listen", "pssl:0:0.0.0.0", "--openflow-handshake-timeout", "2",
        "--tls-certificate", own.certificate, "--tls-private-key", own.key, "--tls-ca", authority.certificate,
    )  # fmt: skip
    yield running
    running.stop()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """A controller that listens for TCP on the loopback."""
    running = Controller(
        tmp_path_factory.mktemp("plain"), "--openflow-listen", "ptcp:0", "--openflow-handshake-timeout", "3"
    )
    yield running
    running.stop()


def shake(port: int, context: ssl.SSLContext) -> str:
    """Connect with TLS, say HELLO, return the TLS version; raises when the other side ends it."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw, context.wrap_socket(raw) as connection:
        connection.sendall(HELLO)
        assert connection.recv(8)[1:2] == b"\0"
        connection.recv(8192)
        return connection.version() or ""


def context_of(
    authority: Authority, client: Identity | None, maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(authority.certificate)
    context.maximum_version = maximum
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    return context


def test_many_bridges_at_once_over_tls(
    switch: Switch, secure: Controller, authority: Authority, client: Identity
) -> None:
    names = [f"tls{n}" for n in range(5)]
    dpids = {name: 0x4E4E000000000100 + n for n, name in enumerate(names)}
    switch.vsctl("set-ssl", client.key, client.certificate, authority.certificate)
    try:
        words = [
            word
            for name in names
            for word in (
                f"-- add-br {name} -- set bridge {name} datapath_type=dummy fail_mode=secure "
                f"other-config:datapath-id={dpids[name]:016x} -- set-controller {name} ssl:127.0.0.1:{secure.port}"
            ).split()
        ]
        for name in names:
            secure.call("expect", name, dpids[name])
        switch.vsctl(*words[1:])
        for name in names:
            until(lambda name=name: secure.call("state", name)["connected"], f"{name} connected")
        assert secure.call("unknown") == []
    finally:
        switch.vsctl(*[word for name in names for word in f"-- --if-exists del-br {name}".split()][1:], "--", "del-ssl")


def test_tls_version(secure: Controller, authority: Authority, client: Identity) -> None:
    assert shake(secure.port, context_of(authority, client)) == "TLSv1.3"
    with pytest.raises(OSError):
        shake(secure.port, context_of(authority, client, ssl.TLSVersion.TLSv1_2))


def test_client_certificate_is_required(secure: Controller, authority: Authority) -> None:
    with pytest.raises((OSError, AssertionError)):
        shake(secure.port, context_of(authority, None))
    until(
        lambda: "peer did not return a certificate" in secure.log.lower().replace("_", " "), "the refusal is in the log"
    )


def test_certificate_of_a_stranger_is_refused(secure: Controller, authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "other").issue("stranger")
    with pytest.raises((OSError, AssertionError)):
        shake(secure.port, context_of(authority, stranger))


def test_plain_text_on_the_tls_port(secure: Controller, authority: Authority, client: Identity) -> None:
    with socket.create_connection(("127.0.0.1", secure.port), timeout=20) as connection:
        connection.sendall(HELLO)
        assert closed(connection)
    assert shake(secure.port, context_of(authority, client)) == "TLSv1.3"


def test_handshakes_that_are_never_finished(secure: Controller, authority: Authority, client: Identity) -> None:
    """They do not keep others out, and are closed when their time is over."""
    idle = [socket.create_connection(("127.0.0.1", secure.port), timeout=20) for _ in range(50)]
    assert shake(secure.port, context_of(authority, client)) == "TLSv1.3"
    for connection in idle:
        assert closed(connection)
        connection.close()


# --- without TLS -------------------------------------------------------------------------------------------------


def closed(connection: socket.socket) -> bool:
    """Whether the other side closes the connection (within the socket's timeout)."""
    try:
        while connection.recv(8192):
            pass
    except ConnectionResetError:
        pass
    return True


def switch_answers(port: int, dpid: int = 0x77) -> socket.socket:
    """Play a switch up to the end of the handshake; returns its connection."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    stream = connection.makefile("rb")
    connection.sendall(HELLO)
    while True:
        version, kind, length, xid = struct.unpack(">BBHI", stream.read(8))
        stream.read(length - 8)
        if kind == 5:
            connection.sendall(struct.pack(">BBHIQIBBxxII", version, 6, 32, xid, dpid, 0, 254, 0, 0, 0))
        if kind == 18:
            connection.sendall(struct.pack(">BBHIHHI", version, 19, 16, xid, 13, 0, 0))
            return connection


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 64,
        b"\xff" * 70000,
        struct.pack(">BBHI", 4, 0, 3, 1),
        struct.pack(">BBHI", 4, 14, 65535, 1) + b"x" * 65527,
        struct.pack(">BBHIHH", 4, 0, 12, 1, 1, 0),
    ],
    ids=["http", "zeros", "ones", "short length", "flow-mod before hello", "hello element without length"],
)
def test_garbage_is_closed_with_one_line(plain: Controller, garbage: bytes) -> None:
    before = len(plain.log.splitlines())
    with socket.create_connection(("127.0.0.1", plain.port), timeout=20) as connection:
        connection.sendall(garbage)
        assert closed(connection)
    until(lambda: len(plain.log.splitlines()) > before, "a log line")
    switch_answers(plain.port).close()
    lines = plain.log.splitlines()[before:]
    assert sum("refused" in line for line in lines) == 1, lines
    assert not any("Traceback" in line for line in lines)


def test_garbage_of_an_established_switch_ends_only_that_one(plain: Controller) -> None:
    bad = switch_answers(plain.port, 0x77)
    good = switch_answers(plain.port, 0x78)
    until(lambda: len(plain.call("unknown")) == 2, "both switches are connected")
    bad.sendall(struct.pack(">BBHI", 9, 99, 8, 5))
    assert closed(bad)
    until(lambda: [found["dpid"] for found in plain.call("unknown")] == [f"{0x78:016x}"], "only the bad one is gone")
    good.sendall(struct.pack(">BBHI", 4, 2, 8, 0x1234))
    assert good.recv(8)[1] == 3
    bad.close()
    good.close()


def test_two_hundred_idle_connections(plain: Controller) -> None:
    """Nobody waits for them; each is closed after the handshake's time; the log does not fill."""
    before = len(plain.log.splitlines())
    errors = plain.counters()["connection_errors"]
    idle = [socket.create_connection(("127.0.0.1", plain.port), timeout=20) for _ in range(200)]
    switch_answers(plain.port).close()
    for connection in idle:
        assert closed(connection)
        connection.close()
    until(lambda: plain.counters()["connection_errors"] >= errors + 200, "all are counted")
    assert len(plain.log.splitlines()) - before < 60


def test_slow_hello_byte_by_byte(plain: Controller) -> None:
    """A half-open connection may trickle, but not for ever."""
    with socket.create_connection(("127.0.0.1", plain.port), timeout=20) as connection:
        connection.sendall(HELLO[:5])
        time.sleep(0.1)
        switch_answers(plain.port).close()
        assert closed(connection)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--openflow-listen", "ptcp:6653:0.0.0.0"], "plain TCP would let anyone"),
        (["--openflow-listen", "ptcp:6653:[2001:db8::1]"], "plain TCP would let anyone"),
        (["--openflow-listen", "tcp:127.0.0.1:6653"], "is not an endpoint"),
        (["--openflow-listen", "pssl:6653:0.0.0.0"], "it needs tls_certificate and tls_private_key and tls_ca"),
        (
            [
                "--openflow-listen",
                "pssl:0",
                "--tls-certificate",
                "/nonexistent",
                "--tls-private-key",
                "/nonexistent",
                "--tls-ca",
                "/x",
            ],
            "cannot be loaded",
        ),
        (["--ofp-tcp-listen-port", "6653"], "openflow_listen"),
    ],
)
def test_bad_endpoints_are_refused(options: list[str], complaint: str) -> None:
    done = subprocess.run([*COMMAND, *options], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_port_in_use(plain: Controller) -> None:
    done = subprocess.run(
        [*COMMAND, "--openflow-listen", f"ptcp:{plain.port}"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "cannot listen for OpenFlow" in done.stderr
    assert "Traceback" not in done.stderr
