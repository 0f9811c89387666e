"""The host agent's parts: probers against real sockets, what results come to, and what ICMP tells."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from novanet_apps.host_agent import metrics, probers
from novanet_apps.host_agent.checks import SETTLING, Canary, Checker
from novanet_apps.host_agent.icmp import checksum
from novanet_apps.host_agent.judge import Judge
from novanet_apps.host_agent.probers import Failed
from novanet_apps.host_agent.targets import Codes, Target, target
from topology.health import endpoints
from topology.model import HealthMonitor, Member


class Local(Target):
    """A target on loopback."""

    @property
    def ends(self) -> tuple[str, str]:
        return ("127.0.0.1", "127.0.0.1") if self.version == 4 else ("::1", "::1")


def local(port: int, type: str = "TCP", **fields: Any) -> Target:
    usual = Local("m", 1, 4, port, None, 7, type, 0.05, 0.5, 2, 3, "www.example.com", "GET", "/health?x=1", "200")
    return usual._replace(**fields)


# --- rise and fall -----------------------------------------------------------------------------------------------


def expected(results: list[bool], rise: int, fall: int, health: str) -> str:
    """By looking back at the whole history: the last run that was long enough to say something decides."""
    run, last = 0, None
    for result in results:
        run = run + 1 if result == last else 1
        last = result
        if run >= (rise if result else fall):
            health = "up" if result else "down"
    return health


@given(
    st.lists(st.booleans(), max_size=60),
    st.integers(1, 10),
    st.integers(1, 10),
    st.sampled_from(["unknown", "up", "down"]),
)
def test_health_follows_runs_of_results(results: list[bool], rise: int, fall: int, health: Any) -> None:
    judge = Judge(rise, fall, health)
    for number, result in enumerate(results, 1):
        before = judge.health
        assert judge.judge(result) == (judge.health != before)
        assert judge.health == expected(results[:number], rise, fall, health)


# --- probers -----------------------------------------------------------------------------------------------------

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def server(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    tasks = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError):
            await serve(reader, writer)

    made = await asyncio.start_server(run, "127.0.0.1", 0, ssl=tls)
    yield made.sockets[0].getsockname()[1]
    made.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def says(answer: bytes, seen: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(asked)
        writer.write(answer)
        await writer.drain()
        writer.close()

    return serve


async def blurts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Not what TLS expects."""
    writer.write(b"220 mail.example.com ESMTP\r\n")
    await writer.drain()
    await reader.read(1)


def unused(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def failure(check: Awaitable[None]) -> str:
    """In words; empty when the member is well."""
    try:
        await check
    except Failed as failed:
        return str(failed)
    return ""


def test_tcp_connects() -> None:
    async def run() -> None:
        async with server(says(b"")) as port:
            assert await failure(probers.tcp(local(port))) == ""
        nobody = unused()
        assert await failure(probers.tcp(local(nobody))) == f"TCP port {nobody}: connection refused"

    asyncio.run(run())


def test_a_connection_is_reset_when_it_has_told_enough() -> None:
    """So that neither end keeps it, and the same source port serves again at once."""
    ended: list[BaseException] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionResetError as error:
            ended.append(error)

    async def run() -> None:
        own = unused()
        async with server(serve) as port:
            for _ in range(20):
                assert await failure(probers.tcp(local(port, source_port=own))) == ""
            await asyncio.sleep(0.1)
        assert len(ended) == 20

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "codes", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "200", ""),
        (b"HTTP/1.0 204\r\n\r\n", "200-204", ""),
        (b"HTTP/1.1 202 \r\n\r\n", "200,202", ""),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", "200", "HTTP status 302 instead of 200"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "200", "the answer is not HTTP/1.1"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "200", "the answer is not HTTP/1.1"),
        (b"", "200", "connection closed without an answer"),
        (b"HTTP/1.1 200", "200", ""),
    ],
)
def test_http_judges_the_status(answer: bytes, codes: str, why: str) -> None:
    async def run() -> None:
        async with server(says(answer)) as port:
            assert await failure(probers.http(local(port, "HTTP", expected=codes))) == why

    asyncio.run(run())


def test_http_asks_what_the_monitor_says() -> None:
    seen: list[bytes] = []

    async def run() -> None:
        async with server(says(b"HTTP/1.1 200 OK\r\n\r\n", seen)) as port:
            await probers.http(local(port, "HTTP", method="POST"))

    asyncio.run(run())
    lines = seen[0].decode().split("\r\n")
    assert lines[0] == "POST /health?x=1 HTTP/1.1" and lines[-2:] == ["", ""]
    assert {"Host: www.example.com", "Content-Length: 0", "Connection: close"} <= set(lines)


def test_a_name_with_lines_in_it_is_not_sent() -> None:
    with pytest.raises(Failed, match="not a host name"):
        probers.request(local(80, "HTTP", host="a\r\nX-Evil: 1"))


def test_an_endless_answer_is_cut_off() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < 100_000_000:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async def run() -> None:
        async with server(serve) as port:
            assert await failure(probers.http(local(port, "HTTP"))) == "the answer is not HTTP/1.1"

    asyncio.run(run())
    assert sent < 20_000_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Self-signed, for another name, and expired."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(days=9)).not_valid_after(now - timedelta(days=1)).sign(key, hashes.SHA256())
    )  # fmt: skip
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


def test_https_asks_by_name_and_takes_any_certificate(certificate: Path) -> None:
    names: list[Any] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _sock, name, _context: names.append(name)

    async def run() -> None:
        own = probers.tls_context()
        async with server(says(b"HTTP/1.1 200 OK\r\n\r\n"), context) as port:
            assert await failure(probers.https(local(port, "HTTPS"), own)) == ""
            assert await failure(probers.https(local(port, "HTTPS", host=f"127.0.0.1:{port}"), own)) == ""
            status = await failure(probers.https(local(port, "HTTPS", expected="201"), own))
            assert status == "HTTP status 200 instead of 201"
        assert names == ["www.example.com", None, "www.example.com"]
        async with server(blurts) as port:
            assert (await failure(probers.https(local(port, "HTTPS"), own))).startswith("TLS: ")

    asyncio.run(run())


def test_udp_is_well_unless_somebody_says_that_it_is_not() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            there = local(silent.getsockname()[1], "UDP-CONNECT", timeout=0.1)
            assert await failure(probers.udp(there, loop.create_future())) == ""
            refused = loop.create_future()
            loop.call_later(0.02, refused.set_exception, ConnectionRefusedError())
            assert "nobody listens" in await failure(probers.udp(there, refused))
        nobody = local(unused(socket.SOCK_DGRAM), "UDP-CONNECT")
        assert "nobody listens" in await failure(probers.udp(nobody, loop.create_future()))

    asyncio.run(run())


def test_an_error_of_this_host_is_not_the_members() -> None:
    async def run() -> None:
        with pytest.raises(OSError):  # no such address here
            await probers.tcp(Target(*local(80)[:2], 4, 80, *local(80)[4:]))

    asyncio.run(run())


# --- checks --------------------------------------------------------------------------------------------------------


class NoIcmp:
    """A switch that answers while ``good``, and members that never do."""

    def __init__(self) -> None:
        self.good = True

    async def ping_switch(self) -> None:
        if not self.good:
            raise OSError("no way")

    async def ping(self, target: Target) -> None:
        await asyncio.sleep(999)

    def close(self) -> None:
        """Nothing to close."""


@contextlib.asynccontextmanager
async def checker(at_once: int = 100) -> AsyncIterator[tuple[Checker, NoIcmp, list[Any]]]:
    heard: list[Any] = []
    icmp = NoIcmp()
    made = Checker(asyncio.get_running_loop(), lambda *each: heard.append(each), at_once, icmp)  # type: ignore[arg-type]
    yield made, icmp, heard
    made.close()
    await asyncio.sleep(0)


async def until(condition: Callable[[], Any], timeout: float = 10.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def test_members_go_up_and_down_and_are_told_of_once() -> None:
    async def run() -> None:
        async with checker() as (made, _, heard):
            async with server(says(b"")) as port:
                made.change({"m": (local(port), "unknown")})
                await until(lambda: heard)
                assert heard == [("m", "up", "")]
            await until(lambda: len(heard) == 2)
            assert heard[1] == ("m", "down", f"TCP port {port}: connection refused")
            bad = made.counters["TCP", "bad"]
            await until(lambda: made.counters["TCP", "bad"] > bad + 3)
            assert len(heard) == 2 and made.healths() == {"down": 1}
            made.change({"m": None})
            await asyncio.sleep(0.02)
            count = made.counters.total()
            await asyncio.sleep(0.15)
            assert made.counters.total() == count and not made.healths()

    asyncio.run(run())


def test_a_check_that_changes_goes_on_from_the_health_that_was() -> None:
    async def run() -> None:
        async with checker() as (made, _, heard):
            made.change({"m": (local(unused(), fall=1), "up")})
            await until(lambda: heard)
            made.change({"m": (local(unused(), fall=2), "up")})
            assert made.healths() == {"down": 1}

    asyncio.run(run())


def test_silence_counts_only_while_the_switch_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("novanet_apps.host_agent.checks.CANARY_INTERVAL", 0.01)
    monkeypatch.setattr("novanet_apps.host_agent.checks.SETTLING", 0.1)

    async def run() -> None:
        async with checker() as (made, icmp, heard):
            icmp.good = False
            made.change({"m": (local(0, "PING", timeout=0.05, fall=1), "up")})
            await until(lambda: made.counters["PING", "inconclusive"] > 5)
            assert not heard and not made.canary.good
            icmp.good = True
            await until(lambda: heard)
            assert heard == [("m", "down", "no answer within 0.05 s")]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("good_since", "answered", "began", "vouches"),
    [
        (0, 9, 8, True),
        (0, 7.9, 8, False),  # it has not answered since the check began
        (8 - SETTLING + 0.1, 9, 8, False),  # it was away shortly before
        (float("inf"), 9, 8, False),  # it does not answer
    ],
)
def test_whose_fault_silence_is(good_since: float, answered: float, began: float, vouches: bool) -> None:
    canary = Canary(lambda: None)  # type: ignore[arg-type,return-value]
    canary.good_since, canary.answered = good_since, answered
    assert canary.vouches(began) == vouches


def test_no_more_checks_at_a_time_than_allowed() -> None:
    most = now = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    async def run() -> None:
        async with checker(at_once=3) as (made, _, heard), server(serve) as port:
            made.change({f"m{n}": (local(port, "HTTP", member_id=f"m{n}", key=n), "unknown") for n in range(20)})
            await until(lambda: len(heard) == 20)

    asyncio.run(run())
    assert most <= 4, "a connection may still be closing while the next one is accepted"


def test_what_was_missed_is_not_made_up_for() -> None:
    async def run() -> None:
        async with checker() as (made, _, _heard), server(says(b"")) as port:
            made.change({"m": (local(port, delay=0.2), "up")})
            await until(lambda: made.counters.total() == 1)
            first = made._running["m"].next
            time.sleep(1.05)  # the host stood still
            await asyncio.sleep(0.02)
            count = made.counters.total()
            assert count <= 2
            await until(lambda: made.counters.total() == count + 1)
            places = (made._running["m"].next - first) / 0.2
            assert abs(places - round(places)) < 0.01, "it has kept its place in the interval"

    asyncio.run(run())


def test_checks_are_spread_over_the_interval() -> None:
    """And the same member always has the same place, so that a restart makes no wave."""

    async def run() -> None:
        async with checker() as (made, _, _heard):
            made.change({f"m{n}": (local(1, member_id=f"m{n}", key=n * 7919, delay=1000.0), "up") for n in range(1000)})
            now = asyncio.get_running_loop().time()
            times = sorted(running.next - now for running in made._running.values())
            quarters = [sum(low <= each < low + 250 for each in times) for low in (0, 250, 500, 750)]
            assert all(200 < each < 300 for each in quarters), quarters

    asyncio.run(run())


# --- targets, addresses and messages -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [("200", [200], [199, 201]), ("200,202", [200, 202], [201]), ("200-204", [200, 203, 204], [205])],
)
def test_expected_codes(text: str, good: list[int], bad: list[int]) -> None:
    codes = Codes.parse(text)
    assert all(map(codes.allow, good)) and not any(map(codes.allow, bad))


def test_what_http_calls_a_member() -> None:
    def host(address: str, port: int, type: str = "HTTP", **fields: Any) -> str:
        monitor = HealthMonitor(id="h", pool_id="p", type=type, **fields)
        made = target(Member(id="m", pool_id="p", address=address, protocol_port=port, member_key=5), monitor, 9, [5])
        assert made is not None
        return made.host

    assert host("10.0.0.1", 80) == "10.0.0.1" and host("10.0.0.1", 8080) == "10.0.0.1:8080"
    assert host("10.0.0.1", 443, "HTTPS") == "10.0.0.1" and host("fd00::1", 81) == "[fd00::1]:81"
    assert host("10.0.0.1", 81, domain_name="www.example.com") == "www.example.com"


@given(st.binary(min_size=8, max_size=64).filter(lambda data: len(data) % 2 == 0))
def test_checksum(data: bytes) -> None:
    zeroed = data[:2] + b"\0\0" + data[4:]
    whole = zeroed[:2] + checksum(zeroed).to_bytes(2, "big") + zeroed[4:]
    assert checksum(whole) in (0, 0xFFFF)


@pytest.mark.parametrize("version", [4, 6])
def test_an_error_finds_its_check(version: int) -> None:
    """By the port that it comes from and the source port in what it returns; anything else is nobody's."""
    from novanet_apps.host_agent.icmp import UNREACHABLE, Icmp

    ends = endpoints(version, 7)
    udp = struct.pack("!HHHH", 385, 53, 8, 0)
    ip = bytes([0x45]) + bytes(8) + b"\x11" + bytes(10) if version == 4 else bytes(6) + b"\x11" + bytes(33)

    async def run() -> None:
        icmp = Icmp.__new__(Icmp)
        icmp._loop, icmp._udp, icmp._echoes = asyncio.get_running_loop(), {}, {}
        mine = icmp.expect(local(53, version=version, source_port=385, port_key=7))
        other = icmp.expect(local(53, version=version, source_port=386, port_key=7))
        head = bytes([UNREACHABLE[version], 3]) + bytes(6)
        for cut in range(len(ip) + 3):
            icmp._take(version, head + (ip + udp)[:cut], ends.source, ends.target)
        icmp._take(version, head + ip.replace(b"\x11", b"\x06") + udp, ends.source, ends.target)
        icmp._take(version, head + ip + udp, endpoints(version, 8).source, endpoints(version, 8).target)
        assert not mine.done()
        icmp._take(version, head + ip + udp, ends.source, ends.target)
        assert isinstance(mine.exception(), ConnectionRefusedError) and not other.done()

    asyncio.run(run())


def test_metrics_are_what_they_are_said_to_be() -> None:
    text = metrics.text({"novanet_agent_members": [({"health": "up"}, 3)], "novanet_agent_path_up": [({}, True)]})
    assert 'novanet_agent_members{health="up"} 3\n' in text and "\nnovanet_agent_path_up 1\n" in text
    assert text.count("# TYPE") == len(metrics.METRICS)
